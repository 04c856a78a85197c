"""The page's layout, and what happens on each event. Needs Gradio; imported by `server` only."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import gradio as gr

from prmagic.app import html, results
from prmagic.app.engine import Photo, Settings
from prmagic.app.marking import Marking
from prmagic.app.pictures import heat, view
from prmagic.app.visitor import LookedAt, Progress, Visitor
from prmagic.app.visitors import Visitors
from prmagic.flow import FLOW_MODES
from prmagic.frameworks import FRAMEWORKS
from prmagic.frameworks.bridges import BRIDGES
from prmagic.presets import EXTRA_POINTS, PRESETS
from prmagic.segmenter import DEFAULT_LABEL
from prmagic.select import SELECTORS
from prmagic.types import Candidate

Told: TypeAlias = tuple[str, list[str]] | str | None  # what happened, and what went wrong
Do = TypeVar("Do", bound=Callable[..., Any])
Kind = TypeVar("Kind", int, float)

HERE = Path(__file__).parent
CANVAS = (HERE / "canvas.js").read_text(encoding="utf-8")
PRESSED = """
element.addEventListener("click", (event) => {
    const button = event.target.closest("[data-event]");
    if (!button) return;
    if (button.dataset.event === "remove") trigger("remove", { key: button.dataset.key });
    else trigger("pick", { key: button.dataset.key });
});
"""
MOST_STEPS = 20
EVERY = 0.3  # seconds between two pictures of a run's progress
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# What changes the same part of the page goes one after the other, so that the answer that comes last shows how things
# are. For that, visitors wait for each other's answers in that part (Gradio cannot tell them apart here); most of these
# wait for the model anyway, which answers one at a time. A run, which is long, and what stops it stay outside.
EXAMPLE: dict[str, Any] = QUIET | {"concurrency_id": "example", "concurrency_limit": 1}
PHOTOS: dict[str, Any] = QUIET | {"concurrency_id": "photos", "concurrency_limit": 1}
LOOK: dict[str, Any] = QUIET | {"concurrency_id": "look", "concurrency_limit": 1}
EACH: dict[str, Any] = {"trigger_mode": "multiple"}  # no edit or press is dropped while one is on its way
LATEST: dict[str, Any] = {"trigger_mode": "always_last"}  # moving a control quickly asks for the last position only


def _upload(label: str, **options: Any) -> Any:
    """A place to drop files; its events get each (file, name that the visitor knows it by)."""
    place = gr.File(label=label, **options)
    place.preprocess = _named  # on the object, as Gradio writes a .pyi file beside each class derived from its own
    return place


def _uploaded(place: Any, do: Callable[..., Any], asked: Sequence[Any], shown: Sequence[Any], **options: Any) -> None:
    """What is done with uploads; then the place is ready for the next ones, without asking the server."""
    place.upload(do, asked, shown, **options).then(None, None, place, js="() => null", **QUIET)


def _named(payload: Any) -> list[tuple[Path, str]]:
    files = [] if payload is None else getattr(payload, "root", None) or [payload]
    return [(Path(file.path), file.orig_name or Path(file.path).name) for file in files]


def build(visitors: Visitors) -> Any:
    """The whole page."""
    with gr.Blocks(title="prmagic", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        sam = visitors.engine.check(visitors.settings).framework.sam.name
        _html("header", html.header(sam))
        with gr.Tabs(selected="example", overflow_behavior="wrap") as tabs:
            with gr.Tab("1 Example", id="example"):
                _example(visitors)
            with gr.Tab("2 Photos", id="photos") as photos_tab:
                gallery = _photos(visitors, photos_tab)
            with gr.Tab("3 Steps", id="look") as look_tab:
                _look(visitors, look_tab, gallery, tabs)
            with gr.Tab("4 Results", id="results") as results_tab:
                _results(visitors, results_tab)

        def left(request: gr.Request) -> None:
            visitors.leave(str(request.session_hash))

        page.unload(left)
    page.queue(max_size=100, default_concurrency_limit=8)
    return page


def _canvas(name: str, blank: str, *, tools: bool = False, caption: str = "") -> Any:
    return gr.HTML(
        html_template=html.canvas(blank, tools=tools, caption=caption), js_on_load=CANVAS, apply_default_css=False,
        elem_id=name, elem_classes="pm",
    )  # fmt: skip


def _html(name: str, value: str = "", *, pressed: bool = False) -> Any:
    script = PRESSED if pressed else None
    return gr.HTML(value, js_on_load=script, apply_default_css=False, elem_id=name, elem_classes="pm")


@contextmanager
def _folded(title: str, name: str) -> Iterator[None]:
    """A part that a press on its title opens.

    Gradio's accordion makes what it holds when it is first opened, and a moment later sets all of it to its
    beginning: what was put in there meanwhile would be lost."""
    _html(f"{name}-title", html.fold(title, name))
    with gr.Column(elem_id=name, elem_classes="pm-folded"):
        yield


def _answers(visitors: Visitors, show: Callable[[Visitor], tuple[Any, ...]]) -> Callable[[Do], Do]:
    """Turns "do this for a visitor" into an event's function: it is done, and then shown with a line on how it went.

    What is wrong with the visitor's input is told in that line; so is what a broken model raises."""

    def wrap(do: Do) -> Do:
        def event(request: gr.Request, *rest: Any) -> tuple[Any, ...]:
            visitor, text, problems = None, "", []
            try:
                visitor = visitors.of(str(request.session_hash))
                told = do(visitor, *rest)
                text, problems = (told, []) if isinstance(told, str) else told or ("", [])
            except (ValueError, RuntimeError, MemoryError, OSError) as error:
                problems = [str(error) or type(error).__name__]
            if visitor is None:
                raise gr.Error(problems[0])
            return (*show(visitor), html.said(text, problems))

        # Gradio looks at the parameters: what it passes itself, it tells by their types.
        _, *rest = inspect.signature(do, eval_str=True).parameters.values()
        first = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
        event.__signature__ = inspect.Signature([first, *rest])  # type: ignore[attr-defined]
        event.__annotations__ = {each.name: each.annotation for each in (first, *rest)}
        return cast(Do, event)

    return wrap


# --- 1: examples ---


def _example(visitors: Visitors) -> None:
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            photos = _upload(
                "Photos of what you look for", file_count="multiple", file_types=["image"], height=170,
                elem_id="example-photos",
            )  # fmt: skip
            drafts = _html("drafts", pressed=True)
            examples = _html("examples", pressed=True)
            saved = _html("references")
            with _folded("Files: a mask, a saved reference", "example-files"):
                mask = _upload(
                    "Mask of the photo shown", file_types=["image"], height=150,
                    elem_id="mask-file",
                )  # fmt: skip
                reference = _upload(
                    "A saved reference (.safetensors)", file_types=[".safetensors"], height=150,
                    elem_id="reference-file",
                )  # fmt: skip
        with gr.Column(scale=5, min_width=320):
            status = _html("example-said")
            canvas = _canvas("canvas", "Upload a photo of what you look for; then mark it here.", tools=True)
            with gr.Row():
                label = gr.Textbox(label="Name of the thing", value=DEFAULT_LABEL, max_length=80, elem_id="label")
                add = gr.Button(
                    "Add as example", variant="primary", min_width=140, elem_id="add-example", elem_classes="pm-end"
                )

    def show(visitor: Visitor) -> tuple[Any, ...]:
        return (
            _draft_view(visitor), html.drafts(visitor), html.examples(visitor),
            html.links((f"Save {name}", html.reference_url(visitor, name)) for name in visitor.sources),
        )  # fmt: skip

    answers = _answers(visitors, show)
    shown = [canvas, drafts, examples, saved, status]

    @answers
    def upload(visitor: Visitor, files: Any) -> Told:
        problems = visitor.add_drafts(files)
        return "Click on the object, or choose another tool." if visitor.draft else "", problems

    @answers
    def pick(visitor: Visitor, event: gr.EventData) -> Told:
        visitor.current = max(0, min(int(event.key), len(visitor.drafts) - 1))
        return None

    @answers
    def add_example(visitor: Visitor, name: str) -> Told:
        visitor.add_example(name)
        return "Added. Add more examples, or go on with your photos in part 2."

    @answers
    def remove(visitor: Visitor, event: gr.EventData) -> Told:
        if str(event.key).isdecimal():
            visitor.remove_example(int(event.key))
        else:
            visitor.remove_reference(str(event.key).removeprefix("saved:"))
        return None

    @answers
    def start_from(visitor: Visitor, files: Any) -> Told:
        for file in files:
            visitor.start_from(file)
        return "This is the mask now; you can change it."

    @answers
    def load(visitor: Visitor, files: Any, name: str) -> Told:
        labels = [visitor.add_reference(file, "" if name == DEFAULT_LABEL else name) for file in files]
        return f"Loaded {', '.join(labels)}."

    @_answers(visitors, lambda visitor: (_draft_view(visitor),))
    def edit(visitor: Visitor, event: gr.EventData) -> Told:
        visitor.edit(event._data)
        return None

    _uploaded(photos, upload, [photos], shown, **EXAMPLE)
    _uploaded(mask, start_from, [mask], shown, **EXAMPLE)
    _uploaded(reference, load, [reference, label], shown, **EXAMPLE)
    drafts.pick(pick, None, shown, **EXAMPLE | EACH)
    examples.remove(remove, None, shown, **EXAMPLE)
    canvas.edit(edit, None, [canvas, status], **EXAMPLE | EACH)
    gr.on([add.click, label.submit], add_example, label, shown, **EXAMPLE)


def _draft_view(visitor: Visitor) -> dict[str, Any] | None:
    if (draft := visitor.draft) is None:
        return None
    return _marking_view(visitor, draft.photo, draft.marking)


def _marking_view(visitor: Visitor, photo: Photo, marking: Marking) -> dict[str, Any]:
    mask = marking.mask
    said = f"{photo.name}, {100 * mask.mean():.0f} % of it marked."
    return view(visitor.preview(photo), marking.size, mask=mask, prompts=marking.prompts, said=said)


# --- 2: photos ---


def _photos(visitors: Visitors, tab: Any) -> Any:
    """Returns the gallery."""
    with gr.Row():
        with gr.Column(scale=2, min_width=260):
            photos = _upload("Photos to search", file_count="multiple", file_types=["image"], height=170,
                elem_id="query-photos",
            )  # fmt: skip
            with gr.Group(visible=visitors.root is not None):
                folder = gr.Textbox(
                    label="Or a folder on the server, below its root", placeholder="holiday/2024", elem_id="folder"
                )
                add_folder = gr.Button("Add the folder", elem_id="add-folder")
            start = gr.Button("Find it in all photos", variant="primary", elem_id="start")
            with gr.Row():
                stop = gr.Button("Stop", min_width=80, elem_id="stop")
                clear = gr.Button("Remove all", min_width=80, elem_id="clear-photos")
            used = _html("settings-used")
        with gr.Column(scale=5, min_width=320):
            status = _html("photos-said")
            bar = _html("progress")
            gallery = _html("gallery", html.blank("The photos appear here, with what was found."), pressed=True)

    def show(visitor: Visitor) -> tuple[Any, ...]:
        return html.gallery(visitor), html.used(visitor)

    answers = _answers(visitors, show)
    shown = [gallery, used, status]

    @answers
    def upload(visitor: Visitor, files: Any) -> Told:
        return _counted(visitor, visitor.add_photos(files))

    @answers
    def name_folder(visitor: Visitor, name: str) -> Told:
        return _counted(visitor, visitor.add_folder(name))

    @answers
    def remove_all(visitor: Visitor) -> Told:
        visitor.clear_photos()
        return "All photos are removed."

    @answers
    def halt(visitor: Visitor) -> Told:
        visitor.stopped = True
        return None

    @answers
    def refresh(visitor: Visitor) -> Told:
        return None

    def run(request: gr.Request) -> Iterator[tuple[Any, ...]]:
        visitor, at, last = visitors.of(str(request.session_hash)), Progress(0, 0), 0.0
        try:
            for at in visitor.run():
                if time.monotonic() - last > EVERY:
                    last = time.monotonic()
                    yield html.progress(at), *show(visitor), html.said()
        except (ValueError, RuntimeError, MemoryError, OSError) as error:
            yield "", *show(visitor), html.said(problems=[str(error) or type(error).__name__])
            return
        nothing = sum(not kept.found for kept in visitor.results.values())
        done = (
            f"Done: {html.counted(len(visitor.results), 'result')}"
            if at.done == at.wanted
            else f"Stopped after {at.done}"
        )
        text = f"{done}{f', nothing found in {nothing}' if nothing else ''}. Press a picture to see how it came about."
        yield html.progress(at), *show(visitor), html.said(text, at.problems)

    _uploaded(photos, upload, [photos], shown, **PHOTOS)
    gr.on([add_folder.click, folder.submit], name_folder, folder, shown, **PHOTOS)
    clear.click(remove_all, None, shown, **PHOTOS).then(lambda: "", None, bar, **QUIET)
    stop.click(halt, None, shown, **QUIET)
    tab.select(refresh, None, shown, **PHOTOS)
    start.click(run, None, [bar, *shown], concurrency_id="runs", concurrency_limit=4, **QUIET)
    return gallery


def _counted(visitor: Visitor, problems: list[str]) -> Told:
    return f"Ready: {html.counted(len(visitor.photos), 'photo')}.", problems


# --- 3: step by step ---


def _look(visitors: Visitors, tab: Any, gallery: Any, tabs: Any) -> None:
    defaults = _defaults(visitors, visitors.settings.framework)
    with gr.Row():
        photo = gr.Dropdown([], label="Photo", elem_id="photo", scale=3)
        label = gr.Dropdown([], label="What", elem_id="class", scale=2)
        before = gr.Button("← Previous", min_width=90, scale=1, elem_id="previous", elem_classes="pm-end")
        after = gr.Button("Next →", min_width=90, scale=1, elem_id="next", elem_classes="pm-end")
    status = _html("look-said")
    step = gr.Slider(
        0, defaults["steps"], 0, step=1, label="Step t: 0 is the framework alone, each further one follows the flow",
        elem_id="step", buttons=[],
    )  # fmt: skip
    with gr.Row():
        with gr.Column(min_width=260):
            baseline = _canvas("baseline", "Choose a photo.", caption="Baseline, t = 0")
        with gr.Column(min_width=260):
            picture = _canvas("picture", "Choose a photo.", caption="This step")
        with gr.Column(min_width=260):
            similarity = _canvas("similarity", "No map.", caption="Similarity with the example")
    with gr.Row():
        keep = gr.Button("Keep this step", variant="primary", min_width=120, elem_id="keep")
        automatic = gr.Button("Back to the automatic choice", min_width=120, elem_id="automatic")
    kept = _html("kept")
    with gr.Row():
        with gr.Column(min_width=300):
            table = _html("steps")
        with gr.Column(min_width=300), gr.Accordion("Other settings", elem_id="settings"):
            controls = _controls(visitors, defaults)
            everywhere = gr.Button("Use these for all photos", elem_id="everywhere")
    with _folded("Correct this step by hand", "correct"):
        correction = _canvas("correction", "Choose a photo.", tools=True)
        keep_correction = gr.Button("Keep the correction", variant="primary", elem_id="keep-correction")

    def show(visitor: Visitor) -> tuple[Any, ...]:
        """All but what is chosen."""
        if (at := visitor.looked_at) is None:
            return None, None, None, "", "", None
        return (*_step_view(visitor, at), html.kept(visitor, at), _marking_view(visitor, at.photo, at.marking))

    shown = [baseline, picture, similarity, table, kept, correction, status]

    def choices(visitor: Visitor, *asked: Any) -> tuple[Any, ...]:
        """The controls are set only where they are not as asked: meanwhile they may have been moved on."""
        at, names, labels = visitor.looked_at, list(visitor.photos), list(visitor.sources)
        now = (at.photo.name, at.result.label, at.step) if at else (None, None, asked[2])
        photo, label, step = ({} if value == was else {"value": value} for value, was in zip(now, asked, strict=True))
        most = {"maximum": max(1, len(at.result.candidates) - 1)} if at else {}
        return (
            gr.Dropdown(choices=names, **photo),
            gr.Dropdown(choices=labels, **label),
            gr.Slider(**most, **step),
            *show(visitor),
        )

    def look(request: gr.Request, name: str | None, what: str | None, step: int, *chosen: Any) -> Any:
        """What all controls say together."""

        @_answers(visitors, lambda visitor: choices(visitor, name, what, step))
        def answer(visitor: Visitor) -> Told:
            names, labels = list(visitor.photos), list(visitor.sources)
            if not names or not labels:
                visitor.looked_at = None
                return "Make an example in part 1 and add photos in part 2; then see here how each mask comes about."
            before, settings = visitor.looked_at, _settings(visitors, chosen)
            visitor.look(name if name in names else names[0], what if what in labels else labels[0], settings)
            if visitor.looked_at is before:
                visitor.go_to(int(step))
            return None

        return answer(request)

    def move(request: gr.Request, name: str | None, by: int) -> Any:
        names = list(visitors.of(str(request.session_hash)).photos)
        return names[(names.index(name) + by) % len(names)] if name in names else gr.skip()

    def go_to_seen(visitor: Visitor, seen: dict[str, Any] | None, step: int) -> None:
        """Another photo, step or setting may have been on its way when the button was pressed."""
        if (at := visitor.looked_at) is not None:
            asked = at.result.candidates[min(int(step), len(at.result.candidates) - 1)]
            if seen != _candidate_view(visitor, at, asked):
                raise ValueError("the picture was changing when you pressed: look at it now, and press again")
        visitor.go_to(int(step))

    @_answers(visitors, show)
    def keep_step(visitor: Visitor, seen: dict[str, Any] | None, step: int) -> Told:
        go_to_seen(visitor, seen, step)
        visitor.keep_step()
        return "Kept."

    @_answers(visitors, show)
    def keep_corrected(visitor: Visitor) -> Told:
        visitor.keep_correction()
        return "Kept."

    @_answers(visitors, show)
    def back(visitor: Visitor, seen: dict[str, Any] | None, step: int) -> Told:
        go_to_seen(visitor, seen, step)
        visitor.keep_automatic()
        return "The automatic choice is in the results again."

    @_answers(visitors, lambda visitor: (show(visitor)[-1],))
    def edit(visitor: Visitor, event: gr.EventData) -> Told:
        visitor.correct(event._data)
        return None

    @_answers(visitors, lambda visitor: ())
    def use_everywhere(visitor: Visitor, *chosen: Any) -> Told:
        visitor.settings = _settings(visitors, chosen)
        return "Part 2 uses these settings now: press “Find it in all photos” there."

    def opened(request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        visitor = visitors.of(str(request.session_hash))
        name, what = html.from_key(str(event.key))
        return (
            gr.Tabs(selected="look"),
            gr.Dropdown(choices=list(visitor.photos), value=name if name in visitor.photos else None),
            gr.Dropdown(choices=list(visitor.sources), value=what if what in visitor.sources else None),
        )

    # A single event for all of them, so that the last that is asked says what all of them are.
    moved = [tab.select, photo.change, label.change, step.input]
    framework, *others = controls.values()
    for control in others:
        # Not at each digit of a number, nor at each place that a slider passes.
        done = [control.submit, control.blur] if isinstance(control, gr.Number | gr.Textbox) else [control.input]
        moved += [control.release] if isinstance(control, gr.Slider) else done
    other_framework = gr.State(0)
    gr.on(
        [*moved, other_framework.change], look, [photo, label, step, *controls.values()], [photo, label, step, *shown],
        show_progress_on=[table], **LOOK | LATEST | {"show_progress": "minimal"},
    )  # fmt: skip

    def of_framework(name: str, number: int) -> list[Any]:
        """Each has defaults, and some controls, of its own."""
        shown_for = {"extra_points": "persam-f", "bridge": "matcher", "centers": "matcher"}
        return [number + 1] + [
            type(controls[which])(value=value, visible=shown_for.get(which, name) == name)
            for which, value in _defaults(visitors, name).items()
            if which != "framework"
        ]

    framework.input(of_framework, [framework, other_framework], [other_framework, *others], **QUIET | LATEST)
    gallery.pick(opened, None, [tabs, photo, label], **LOOK | EACH)
    for button, by in ((before, -1), (after, 1)):
        button.click(move, [photo, gr.State(by)], photo, **LOOK)
    keep.click(keep_step, [picture, step], shown, **LOOK | EACH)
    automatic.click(back, [picture, step], shown, **LOOK | EACH)
    keep_correction.click(keep_corrected, None, shown, **LOOK)
    correction.edit(edit, None, [correction, status], **LOOK | EACH)
    everywhere.click(use_everywhere, list(controls.values()), status, **LOOK)


def _step_view(visitor: Visitor, at: LookedAt) -> tuple[Any, ...]:
    """The baseline, the step that is looked at, its similarity map, and the table."""
    result, chosen = at.result, at.result.candidates[at.step]
    heated, similarity = None, chosen.prompts.similarity
    if similarity is not None:
        said = f"Similarity with the example, {similarity.min():.2f} to {similarity.max():.2f}."
        heated = view(heat(similarity), result.mask.shape, prompts=chosen.prompts, said=said)
    pictures = (_candidate_view(visitor, at, candidate) for candidate in (result.candidates[0], chosen))
    return (*pictures, heated, html.steps(result, at.step))


def _candidate_view(visitor: Visitor, at: LookedAt, candidate: Candidate) -> dict[str, Any]:
    said = f"{at.photo.name}, step {candidate.step}: {100 * candidate.mask.mean():.0f} % of it found."
    url = visitor.preview(at.photo)
    return view(url, candidate.mask.shape, mask=candidate.mask, prompts=candidate.prompts, said=said)


def _defaults(visitors: Visitors, framework: str) -> dict[str, Any]:
    """What the preset and the options at the start stand for with this framework, as the controls show it."""
    settings, preset = replace(visitors.settings, framework=framework), PRESETS[visitors.settings.preset]
    segmenter = visitors.engine.check(settings)
    quantiles = preset.persam.quantiles if preset.persam else None
    return {
        "framework": framework,
        "flow": segmenter.flow.mode,
        "steps": segmenter.flow.steps,
        "eta": "" if segmenter.flow.rho is not None else f"{segmenter.flow.eta:g}",
        "gamma": segmenter.flow.gamma,
        "selector": next((name for name, known in SELECTORS.items() if known == segmenter.selector), "reencode"),
        "extra_points": next(name for name, known in EXTRA_POINTS.items() if known == quantiles),
        "bridge": preset.matcher.bridge,
        "centers": "" if preset.matcher.centers is None else str(preset.matcher.centers),
        "min_score": -1.0 if segmenter.min_score is None else segmenter.min_score,
        "seed": settings.seed,
    }


def _controls(visitors: Visitors, defaults: dict[str, Any]) -> dict[str, Any]:
    own_only = PRESETS[visitors.settings.preset].persam is None
    frameworks = ["matcher"] if own_only else list(FRAMEWORKS)
    framework = defaults["framework"]
    with gr.Row():
        controls = {
            "framework": gr.Dropdown(frameworks, value=framework, label="Framework", min_width=170),
            "flow": gr.Dropdown(list(FLOW_MODES), value=defaults["flow"], label="Flow", min_width=170),
            "steps": gr.Slider(0, MOST_STEPS, defaults["steps"], step=1, label="Steps T", min_width=170, buttons=[]),
            # Texts, because an empty number is shown as 0.
            "eta": gr.Textbox(
                defaults["eta"], label="Step size η", placeholder="framework's own", max_lines=1, min_width=170
            ),
            "gamma": gr.Number(defaults["gamma"], label="Entropy weight γ", minimum=0, min_width=170),
            "selector": gr.Dropdown(list(SELECTORS), value=defaults["selector"], label="Selector", min_width=170),
            "extra_points": gr.Dropdown(
                list(EXTRA_POINTS), value=defaults["extra_points"], label="Extra points above", min_width=170,
                visible=framework == "persam-f",
            ),
            "bridge": gr.Dropdown(
                list(BRIDGES), value=defaults["bridge"], label="Bridge", min_width=170, visible=framework == "matcher"
            ),
            "centers": gr.Textbox(
                defaults["centers"], label="Places to prompt with", placeholder="all matched points", max_lines=1,
                min_width=170, visible=framework == "matcher",
            ),
            "min_score": gr.Number(
                defaults["min_score"], label="Least score of what counts as found", minimum=-1, maximum=1, step=0.001,
                min_width=170,
            ),
            "seed": gr.Number(defaults["seed"], label="Seed", precision=0, min_width=170),
        }  # fmt: skip
    for name, control in controls.items():
        control.elem_id = f"set-{name.replace('_', '-')}"
    return controls


def _settings(visitors: Visitors, chosen: Sequence[Any]) -> Settings:
    """Of the controls' values, those that were changed; the others stay the preset's."""
    defaults = _defaults(visitors, chosen[0])
    values = dict(zip(defaults, chosen, strict=True))
    for name, kind, shown in (("eta", float, "η"), ("centers", int, "the number of places")):
        values[name], defaults[name] = (_read(text, kind, shown) for text in (values[name], defaults[name]))
    words = {
        "eta": "η", "gamma": "γ", "steps": "T", "centers": "the number of places", "min_score": "the least score",
        "seed": "the seed",
    }  # fmt: skip
    for name, shown in words.items():
        if values[name] is None and defaults[name] is not None:
            raise ValueError(f"{shown} must be a number")
    values["steps"], values["seed"] = int(values["steps"]), int(values["seed"])
    if not 0 <= values["steps"] <= MOST_STEPS:
        raise ValueError(f"T must be from 0 to {MOST_STEPS}")
    if values["framework"] != "persam-f":
        values["extra_points"] = defaults["extra_points"]
    if values["framework"] != "matcher":
        values |= {name: defaults[name] for name in ("bridge", "centers")}
    changed = {name: value for name, value in values.items() if name == "framework" or value != defaults[name]}
    return replace(visitors.settings, **changed)


def _read(text: str, kind: Callable[[str], Kind], shown: str) -> Kind | None:
    """What a field with a number says; None if it is empty."""
    try:
        return kind(text) if text.strip() else None
    except ValueError:
        raise ValueError(f"{shown} must be a number, not {text!r}") from None


# --- 4: results ---


def _results(visitors: Visitors, tab: Any) -> None:
    status = _html("results-said")
    download = _html("download")
    table = _html("scores")
    with gr.Accordion("The same without this page", open=True, elem_id="again"):
        command = _html("command")
        python = _html("python")

    def show(visitor: Visitor) -> tuple[Any, ...]:
        if not visitor.results:
            return "", "", "", ""
        url = f"visitors/{visitor.token}/results.zip"
        return (
            html.links([("Download all: masks, overlays, COCO, table", url)], main=True),
            html.scores(results.rows(visitor)),
            html.code(results.command(visitor), "Command line"),
            html.code(results.python(visitor), "Python"),
        )

    @_answers(visitors, show)
    def refresh(visitor: Visitor) -> Told:
        return None if visitor.results else "Nothing yet: the results of part 2 appear here."

    tab.select(refresh, None, [download, table, command, python, status], **QUIET)
