() => {
    // Gradio takes the answers to all events from one stream, which its server ends when none is left to answer. What
    // is sent while that end is on its way counts as sent on the old stream, and nobody fetches its answer: a click
    // that does nothing. So Gradio gets a stream without an end, and the server is listened to anew while answers are
    // missing.
    const ask = window.fetch.bind(window);
    const stream = { request: null, out: null, listens: false, missing: 0 };
    const encoder = new TextEncoder();

    async function listen() {
        if (stream.listens || !stream.out) return;
        stream.listens = true;
        try {
            while (stream.missing > 0) {
                const response = await ask(stream.request.clone());
                if (!response.ok) throw new Error("no answers: " + response.status);
                let text = "";
                for (const reader = response.body.pipeThrough(new TextDecoderStream()).getReader(); ; ) {
                    const { done, value } = await reader.read();
                    if (done) break;
                    const messages = (text + value).split("\n\n");
                    text = messages.pop();
                    messages.forEach(pass);
                }
            }
        } catch (error) {
            stream.out?.error(error); // Gradio says that the connection is lost
            stream.out = null;
            stream.missing = 0;
        }
        stream.listens = false;
    }

    function pass(message) {
        const { msg } = JSON.parse(message.replace(/^data: /, ""));
        if (msg === "close_stream") return;
        if (msg === "process_completed") stream.missing -= 1;
        if (!stream.out) return; // Gradio wants no more
        if (msg === "unexpected_error") stream.missing = 0; // the server knows nothing of what was sent
        stream.out.enqueue(encoder.encode(message + "\n\n"));
    }

    window.fetch = async (resource, options) => {
        const path = new URL(resource.url || resource, location.href).pathname;
        if (path.endsWith("/queue/data")) {
            stream.request = new Request(resource, options);
            const body = new ReadableStream({
                start: (out) => { stream.out = out; },
                cancel: () => { stream.out = null; },
            });
            listen();
            return new Response(body, { headers: { "content-type": "text/event-stream" } });
        }
        const response = await ask(resource, options);
        if (path.endsWith("/queue/join") && response.ok) {
            stream.missing += 1;
            listen();
        }
        return response;
    };

    // Gradio makes what a tab holds when it is first opened, and a moment later sets all of it to its beginning: what was
    // put in there meanwhile would be lost. So all of them are opened once at the start, the one that is open now last.
    const tabs = [...document.querySelectorAll("button[role=tab]")];
    const open = tabs.filter((tab) => tab.getAttribute("aria-selected") === "true");
    for (const tab of [...tabs.filter((tab) => !open.includes(tab)), ...open]) tab.click();

    document.addEventListener("click", ({ target }) => {
        const title = target.closest(".pm-fold");
        if (!title) return;
        const opens = title.getAttribute("aria-expanded") === "false";
        title.setAttribute("aria-expanded", opens);
        if (opens) document.getElementById(title.getAttribute("aria-controls")).scrollIntoView({ block: "nearest" });
    });

    // Gradio calls every place for files the same; screen readers should hear which it is.
    const name = () => {
        for (const button of document.querySelectorAll(".block > button.upload-container, .block > * > button.upload-container")) {
            const label = button.closest(".block").querySelector("[data-testid=block-label]");
            if (label) button.setAttribute("aria-label", label.textContent.trim() + ": choose files, or drop them here");
        }
    };
    new MutationObserver(name).observe(document.body, { childList: true, subtree: true });
    name();
    // A visit ends with its tab, and what was not downloaded goes with it.
    window.addEventListener("beforeunload", (event) => {
        if (document.querySelector("#examples li, #gallery li")) event.preventDefault();
    });

    // For the tests: all is there and listens, two frames after the tabs were opened.
    requestAnimationFrame(() => requestAnimationFrame(() => { document.body.dataset.ready = ""; }));
}
