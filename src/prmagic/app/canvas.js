// The photo with its layers, and the tools that change them. Runs once for each canvas of the page, as the body of a
// function of Gradio's (element, trigger, props, watch). Strings and numbers only are sent: the server draws the masks.
const canvas = element.querySelector("canvas");
const context = canvas.getContext("2d");
const port = canvas.parentElement; // scrolls where the photo is larger
const hint = element.querySelector(".pm-hint");
const buttons = [...element.querySelectorAll("[data-tool]")];
const size = element.querySelector("input[type=range]");
const editable = buttons.length > 0;
const LONGEST = 2048; // of the canvas, in its own pixels
const MOST_ZOOM = 8;
const OBJECT = "#00c853", BACKGROUND = "#e31a1c", CURSOR = "#0072b2";
const HINTS = {
    add: "Click on the object. With the keyboard: arrow keys move the cross, Enter clicks.",
    remove: "Click on what is not part of it.",
    box: "Drag a box around the object, or press Enter at two corners.",
    brush: "Paint the object. With the keyboard: Enter puts the brush down and lifts it.",
    erase: "Wipe away what is too much.",
};
const shown = { photo: null, mask: null };
let tool = "add";
let path = null; // what is being drawn: corners in pixels of the photo
let cursor = null; // of the keyboard
let scaled = 1; // how far the photo is zoomed in

const view = () => props.value || {};
const scale = () => canvas.width / view().width; // canvas pixels for each of the photo's
const dot = () => (canvas.width / Math.max(1, canvas.clientWidth)) * 6; // 6 pixels of the screen

function picture(source) {
    return new Promise((done) => {
        if (!source) return done(null);
        const image = new Image();
        image.onload = () => done(image);
        image.onerror = () => done(null);
        image.src = source;
    });
}

let latest = 0;
async function load() {
    const mine = ++latest, now = view();
    const [photo, mask] = await Promise.all([
        shown.url === now.url ? shown.photo : picture(now.url), picture(now.mask)]);
    if (mine !== latest) return; // a newer one is on its way
    const before = shown.url;
    Object.assign(shown, { url: now.url, photo, mask });
    path = null;
    element.classList.toggle("pm-empty", !photo);
    if (photo) {
        if (now.url !== before) zoom(1 / scaled);
        const longest = Math.max(now.width, now.height);
        canvas.width = Math.max(8, Math.round((LONGEST * now.width) / longest));
        canvas.height = Math.max(8, Math.round((LONGEST * now.height) / longest));
        element.style.setProperty("--ratio", String(now.width / now.height));
    }
    canvas.setAttribute("aria-label", (now.description || "No photo yet.") + (editable ? " " + HINTS[tool] : ""));
    draw();
    element.dataset.shown = String(Number(element.dataset.shown || 0) + 1);
}

function draw() {
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!shown.photo) return;
    const now = view();
    context.drawImage(shown.photo, 0, 0, canvas.width, canvas.height);
    if (shown.mask) context.drawImage(shown.mask, 0, 0, canvas.width, canvas.height);
    if (now.box) rectangle(now.box, "#ffffff");
    for (const [x, y, inside] of now.points || []) marker(x, y, inside, (now.points.length > 12 ? 0.6 : 1) * dot());
    if (now.empty && !editable) note("nothing found");
    if (path && tool === "box") rectangle([...path[0], ...path[path.length - 1]], CURSOR);
    if (path && (tool === "brush" || tool === "erase")) stroke();
    if (cursor && document.activeElement === canvas) cross();
}

const toCanvas = ([x, y]) => [(x + 0.5) * scale(), (y + 0.5) * scale()];

function marker(x, y, inside, radius) {
    const [cx, cy] = toCanvas([x, y]);
    context.lineWidth = radius / 3;
    context.strokeStyle = "white";
    context.fillStyle = inside ? OBJECT : BACKGROUND;
    context.beginPath();
    if (inside) context.arc(cx, cy, radius, 0, 2 * Math.PI);
    else context.rect(cx - radius * 0.85, cy - radius * 0.85, radius * 1.7, radius * 1.7);
    context.fill();
    context.stroke();
    context.beginPath(); // a sign as well, for those who see no difference in colour
    context.moveTo(cx - radius / 2, cy);
    context.lineTo(cx + radius / 2, cy);
    if (inside) {
        context.moveTo(cx, cy - radius / 2);
        context.lineTo(cx, cy + radius / 2);
    }
    context.stroke();
}

function rectangle([x0, y0, x1, y1], colour) {
    const [left, top] = toCanvas([x0, y0]), [right, bottom] = toCanvas([x1, y1]);
    for (const [style, dash] of [["#1a1a1a", []], [colour, [dot(), dot()]]]) {
        context.setLineDash(dash);
        context.strokeStyle = style;
        context.lineWidth = dot() / 3;
        context.strokeRect(left, top, right - left, bottom - top);
    }
    context.setLineDash([]);
}

function stroke() {
    context.strokeStyle = context.fillStyle = tool === "brush" ? "rgba(227, 26, 28, 0.6)" : "rgba(255, 255, 255, 0.7)";
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = width() * scale();
    context.beginPath();
    path.map(toCanvas).forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.lineTo(...toCanvas(path[path.length - 1]));
    context.stroke();
}

function cross() {
    const [x, y] = toCanvas(cursor), arm = 3 * dot();
    for (const [style, line] of [["white", dot() / 1.5], [CURSOR, dot() / 3]]) {
        context.strokeStyle = style;
        context.lineWidth = line;
        context.beginPath();
        context.moveTo(x - arm, y);
        context.lineTo(x + arm, y);
        context.moveTo(x, y - arm);
        context.lineTo(x, y + arm);
        context.stroke();
    }
}

function note(text) {
    const height = 4 * dot();
    context.font = height * 0.6 + "px system-ui, sans-serif";
    const length = context.measureText(text).width + height;
    context.fillStyle = "rgba(0, 0, 0, 0.65)";
    context.fillRect(height / 2, canvas.height - 1.5 * height, length, height);
    context.fillStyle = "white";
    context.textBaseline = "middle";
    context.fillText(text, height, canvas.height - height);
}

// Of the brush, in pixels of the photo; the slider is in hundredths of the longest side that is seen.
const width = () => (Number(size.value) / 100 / scaled) * Math.max(view().width, view().height);

function place(event) {
    const area = canvas.getBoundingClientRect();
    const at = (part, whole, pixels) => Math.round(((part / whole) * pixels - 0.5) * 100) / 100;
    return [at(event.clientX - area.left, area.width, view().width), at(event.clientY - area.top, area.height, view().height)];
}

// The place of the window at (x, y) stays where it is.
function zoom(by, x, y) {
    const area = port.getBoundingClientRect(), before = scaled;
    const [dx, dy] = x === undefined ? [area.width / 2, area.height / 2] : [x - area.left, y - area.top];
    scaled = Math.min(MOST_ZOOM, Math.max(1, scaled * by));
    element.style.setProperty("--zoom", String(scaled));
    element.classList.toggle("pm-zoomed", scaled > 1);
    port.scrollLeft = ((port.scrollLeft + dx) * scaled) / before - dx;
    port.scrollTop = ((port.scrollTop + dy) * scaled) / before - dy;
    draw();
}

// A zoomed photo is moved with the mouse where that edits nothing; a finger moves it anyway.
function move(event) {
    if (editable || !event.buttons || event.pointerType === "touch") return;
    port.scrollLeft -= event.movementX;
    port.scrollTop -= event.movementY;
}

// Scroll to what the keyboard does.
function follow() {
    const [x, y] = toCanvas(cursor).map((at) => (at / canvas.width) * canvas.clientWidth);
    const near = (at, from, length) => Math.min(Math.max(from, at - 0.9 * length), at - 0.1 * length);
    port.scrollLeft = near(x, port.scrollLeft, port.clientWidth);
    port.scrollTop = near(y, port.scrollTop, port.clientHeight);
}

function send(points) {
    if (tool === "add" || tool === "remove") { // at once; the mask comes when the server has it
        marker(...points[0], tool === "add", dot());
    }
    trigger("edit", { tool, points, width: size ? width() : 1 });
}

function finish() {
    const points = path;
    if (!points) return;
    if (tool === "box" && points.length < 2) return (path = null);
    send(points);
    if (tool === "box" || tool === "add" || tool === "remove") path = null; // a stroke stays until the answer comes
}

function choose(name) {
    tool = name;
    path = null;
    buttons.forEach((button) => {
        const on = button.dataset.tool === name;
        button.setAttribute("aria-checked", String(on));
        button.tabIndex = on ? 0 : -1;
    });
    const paints = name === "brush" || name === "erase";
    element.classList.toggle("pm-paints", paints);
    canvas.style.touchAction = paints || name === "box" ? "none" : "manipulation";
    hint.textContent = HINTS[name];
    canvas.setAttribute("aria-label", (view().description || "No photo yet.") + " " + HINTS[name]);
    draw();
}

if (editable) {
    buttons.forEach((button) => button.addEventListener("click", () => choose(button.dataset.tool)));
    element.querySelector("[role=radiogroup]").addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = (buttons.findIndex((button) => button.dataset.tool === tool) + step + buttons.length) % buttons.length;
        choose(buttons[next].dataset.tool);
        buttons[next].focus();
    });
    for (const button of element.querySelectorAll("[data-do]")) {
        button.addEventListener("click", () => trigger("edit", { tool: button.dataset.do }));
    }
    canvas.addEventListener("pointerdown", (event) => {
        if (!shown.photo || event.button) return;
        cursor = null;
        path = [place(event)];
        if (tool !== "add" && tool !== "remove") canvas.setPointerCapture(event.pointerId);
        draw();
    });
    canvas.addEventListener("pointermove", (event) => {
        if (!path || !event.buttons || tool === "add" || tool === "remove") return;
        const at = place(event);
        path = tool === "box" ? [path[0], at] : [...path, at];
        draw();
    });
    canvas.addEventListener("pointerup", () => finish());
    canvas.addEventListener("pointercancel", () => { path = null; draw(); });
    canvas.addEventListener("focus", () => draw());
    canvas.addEventListener("blur", () => draw());
    canvas.addEventListener("keydown", (event) => {
        if (!shown.photo) return;
        const step = Math.max(view().width, view().height) / (event.shiftKey ? 200 : 40);
        const to = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
        const drags = tool === "box" || tool === "brush" || tool === "erase";
        if (!to && event.key !== "Enter" && event.key !== " " && event.key !== "Escape") return;
        event.preventDefault();
        cursor = cursor || [view().width / 2, view().height / 2];
        if (to) {
            cursor = [
                Math.min(view().width - 1, Math.max(0, cursor[0] + to[0] * step)),
                Math.min(view().height - 1, Math.max(0, cursor[1] + to[1] * step))];
            if (path && drags) path = tool === "box" ? [path[0], cursor] : [...path, cursor];
            follow();
        } else if (event.key === "Escape") path = null;
        else if (!drags) send([cursor]);
        else if (path) finish();
        else path = [cursor];
        draw();
    });
    size.addEventListener("input", () => draw());
    choose(tool);
}
for (const button of element.querySelectorAll("[data-zoom]")) {
    button.addEventListener("click", () => zoom(Number(button.dataset.zoom)));
}
canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return; // the page or the photo scrolls; two fingers of a touchpad count as Ctrl
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), event.clientX, event.clientY);
}, { passive: false });
canvas.addEventListener("pointermove", move);
watch("value", load);
new ResizeObserver(draw).observe(canvas); // points and lines have the screen's size, and a hidden canvas has none
load();
