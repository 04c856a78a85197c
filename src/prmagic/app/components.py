"""The page's building blocks: places for files, canvases, HTML, folds, and events that do something for a visitor."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import gradio as gr

from prmagic.app import html
from prmagic.app.uploads import Uploads
from prmagic.app.visitor import Visitor
from prmagic.app.visitors import Visitors

Outcome: TypeAlias = tuple[str, list[str]] | str | None  # what happened, and what went wrong
Do = TypeVar("Do", bound=Callable[..., Any])

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
# `events` has checked the values. Gradio would check them against what it believes that the browser shows, and repeat
# them in its messages.
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "preprocess": False}
# What changes the same part of the page goes one after the other, so that the answer that comes last shows how things
# are. For that, visitors wait for each other's answers in that part (Gradio cannot tell them apart here); most of these
# wait for the model anyway, which answers one at a time. A run, which is long, and what stops it stay outside.
EXAMPLE: dict[str, Any] = QUIET | {"concurrency_id": "example", "concurrency_limit": 1}
PHOTOS: dict[str, Any] = QUIET | {"concurrency_id": "photos", "concurrency_limit": 1}
STEPS: dict[str, Any] = QUIET | {"concurrency_id": "steps", "concurrency_limit": 1}
EACH: dict[str, Any] = {"trigger_mode": "multiple"}  # no edit or press is dropped while one is on its way
LATEST: dict[str, Any] = {"trigger_mode": "always_last"}  # moving a control quickly asks for the last position only

LOG = logging.getLogger("prmagic.app")


@dataclass(frozen=True)
class Site:
    """What the page is made of and for: all visitors, and the files on their way in."""

    visitors: Visitors
    uploads: Uploads


def upload_place(site: Site, label: str, **options: Any) -> Any:
    """A place to drop files; its events get a list of `Upload`."""
    place = gr.File(label=label, **options)
    # On the object, as Gradio writes a .pyi file beside each class derived from its own. The gate gives [key, name] in
    # place of Gradio's description of a file, so that Gradio itself never touches a path that a visitor names.
    place.data_model = None
    place.api_info = dict  # which Gradio would make of the data model
    place.preprocess = lambda named: site.uploads.use(tuple(pair) for pair in named or ())
    return place


def on_upload(place: Any, do: Callable[..., Any], inputs: Sequence[Any], shown: Sequence[Any], **options: Any) -> None:
    """What is done with uploads; then the place is ready for the next ones, without asking the server."""
    place.upload(do, inputs, shown, **options | {"preprocess": True}).then(None, None, place, js="() => null", **QUIET)


def canvas(name: str, blank: str, *, tools: bool = False, caption: str = "") -> Any:
    """A photo with layers, and tools to edit its mask if wanted (canvas.js)."""
    return gr.HTML(
        html_template=html.canvas(blank, tools=tools, caption=caption), js_on_load=CANVAS, apply_default_css=False,
        elem_id=name, elem_classes="pm",
    )  # fmt: skip


def html_place(name: str, value: str = "", *, pressed: bool = False) -> Any:
    """A place for HTML; pressed: its buttons make events."""
    script = PRESSED if pressed else None
    return gr.HTML(value, js_on_load=script, apply_default_css=False, elem_id=name, elem_classes="pm")


@contextmanager
def fold(title: str, name: str) -> Iterator[None]:
    """A part that a press on its title opens.

    Gradio's accordion makes what it holds when it is first opened, and a moment later sets all of it to its beginning:
    what was put in there meanwhile would be lost."""
    html_place(f"{name}-title", html.fold(title, name))
    with gr.Column(elem_id=name, elem_classes="pm-folded"):
        yield


def answers(site: Site, show: Callable[[Visitor], tuple[Any, ...]]) -> Callable[[Do], Do]:
    """Turn "do this for a visitor" into an event's function: it is done, and then shown with a line on how it went.

    That line also names what is wrong with the visitor's input.
    """

    def wrap(do: Do) -> Do:
        def event(request: gr.Request, *rest: Any) -> tuple[Any, ...]:
            visitor = visitor_of(site, request)
            problems: list[str] = []
            text = ""
            try:
                outcome = do(visitor, *rest)
                text, problems = (outcome, []) if isinstance(outcome, str) else outcome or ("", [])
            except Exception as error:  # whatever it is, the page goes on
                problems = [in_words(error, visitor)]
            return (*show(visitor), html.message(text, problems))

        # Gradio looks at the parameters: what it passes itself, it tells by their types.
        _, *rest = inspect.signature(do, eval_str=True).parameters.values()
        first = inspect.Parameter("request", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=gr.Request)
        event.__signature__ = inspect.Signature([first, *rest])  # type: ignore[attr-defined]
        event.__annotations__ = {each.name: each.annotation for each in (first, *rest)}
        return cast(Do, event)

    return wrap


def visitor_of(site: Site, request: gr.Request) -> Visitor:
    """Who sent the event."""
    try:
        return site.visitors.of(str(request.session_hash))
    except ValueError as error:
        raise gr.Error(html.sentence(str(error)), print_exception=False) from None


def in_words(error: Exception, visitor: Visitor) -> str:
    """The message for a visitor. Only messages that were written for people are shown, without the server's folders."""
    if isinstance(error, ValueError) and type(error).__module__.startswith(("builtins", "prmagic")):
        message, workspace, models = str(error), visitor.workspace, visitor.workspace.engine.models
        for folder in (workspace.folder, workspace.root, models.sam, models.encoder):
            if folder is not None and Path(folder).is_absolute():
                message = message.replace(str(folder), Path(folder).name)
        return message
    LOG.error("an event failed", exc_info=error)
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__:
        return "there is not enough memory for this photo: try a smaller one"
    return "this failed on the server, whose log says why"
