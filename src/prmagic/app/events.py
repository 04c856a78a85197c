"""What an event of the page may send: every value is checked against the kind of its control, before Gradio sees it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from prmagic.app.marking import MAX_CORNERS

SESSION = re.compile(r"[A-Za-z0-9_-]{4,64}")
MAX_TEXT = 1000  # characters
MAX_UPLOADS = 1000
BIGGEST = 2.0**53  # above it a number of a browser is not exact
EDITS, PRESSES = "edit", ("pick", "remove")  # events of our own controls


class WrongEvent(ValueError):
    """An event that the page does not send. The message never repeats what was sent."""


@dataclass(frozen=True)
class Event:
    """An event that was checked.

    Args:
        session: Of the tab.
        number: Gradio's, of the function that answers it.
        values: Of the function's inputs; files are [key, name].
        data: What our own controls tell.
        trigger: Gradio's number of the control.
        uploads: The keys of all files.
    """

    session: str
    number: int
    values: list[Any]
    data: dict[str, Any] | None
    trigger: int | None
    uploads: list[str]

    @property
    def body(self) -> dict[str, Any]:
        """As Gradio takes it."""
        return {
            "session_hash": self.session, "fn_index": self.number, "data": self.values, "event_data": self.data,
            "trigger_id": self.trigger,
        }  # fmt: skip


def read_event(sent: Any, page: gr.Blocks) -> Event:
    """Check what a browser sent to the queue.

    Raises:
        WrongEvent: It is nothing that the page sends.
    """
    if not isinstance(sent, Mapping):
        raise WrongEvent("An event must be a JSON object.")
    session, number, values = sent.get("session_hash"), sent.get("fn_index"), sent.get("data")
    if not isinstance(session, str) or not SESSION.fullmatch(session):
        raise WrongEvent("The event names no session.")
    function = page.fns.get(number) if type(number) is int else None
    if type(number) is not int or function is None or function.fn is None:
        raise WrongEvent("There is no such event.")
    if not isinstance(values, list) or len(values) != len(function.inputs):
        raise WrongEvent(f"The event has {len(function.inputs)} inputs.")
    read = []
    for position, (control, value) in enumerate(zip(function.inputs, values, strict=True), 1):
        try:
            read.append(_reader(control)(value))
        except WrongEvent as error:
            raise WrongEvent(f"Input {position} of the event {error}.") from None
    files = [file for control, value in zip(function.inputs, read, strict=True) if _is_file(control) for file in value]
    trigger = sent.get("trigger_id")
    known = [block for block, _ in function.targets]
    return Event(
        session, number, read, _read_data(sent.get("event_data"), {name for _, name in function.targets}),
        trigger if type(trigger) is int and trigger in known else None, [key for key, _ in files],
    )  # fmt: skip


def _is_file(control: Any) -> bool:
    return isinstance(control, gr.File)


def _reader(control: Any) -> Callable[[Any], Any]:
    """What reads the value of a control."""
    readers: Sequence[tuple[type, Callable[[Any], Any]]] = (
        (gr.File, _files),
        (gr.State, _nothing),
        (gr.Textbox, _text),
        (gr.Dropdown, _text),
        (gr.Slider, _number),
        (gr.Number, _number),
        (gr.Checkbox, _flag),
        (gr.HTML, _view_key),
    )
    for kind, reader in readers:
        if isinstance(control, kind):
            return reader
    raise TypeError(f"no value of a {type(control).__name__} can be checked")


def _nothing(value: Any) -> None:
    """The server has it."""
    if isinstance(value, (Mapping, list, str)):
        raise WrongEvent("must be empty")


def _text(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_TEXT):
        raise WrongEvent("must be a text")
    return value


def _flag(value: Any) -> bool:
    if value is not None and not isinstance(value, bool):
        raise WrongEvent("must be true or false")
    return bool(value)


def _number(value: Any) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongEvent("must be a number")
    if not abs(value) <= BIGGEST:  # nor if it is nan
        raise WrongEvent("must be a finite number")
    return value


def _files(value: Any) -> list[list[str]]:
    """Gradio's description of uploaded files → [key, name] of each."""
    several = [] if value is None else value if isinstance(value, list) else [value]
    if len(several) > MAX_UPLOADS:
        raise WrongEvent("has too many files")
    found = []
    for one in several:
        key, name = (one.get("path"), one.get("orig_name")) if isinstance(one, Mapping) else (None, None)
        if not isinstance(key, str) or not isinstance(name, str | None) or len(key) > MAX_TEXT:
            raise WrongEvent("must be uploaded files")
        found.append([key, (name or "file")[: 2 * MAX_TEXT]])
    return found


def _view_key(value: Any) -> str | None:
    """What a picture shows, by its key (`canvas.view`)."""
    if value is None:
        return None
    key = value.get("key") if isinstance(value, Mapping) else value
    if not isinstance(key, str) or len(key) > MAX_TEXT:
        raise WrongEvent("must be a picture of the page")
    return key


def _read_data(sent: Any, names: set[str]) -> dict[str, Any] | None:
    """What our own controls tell; Gradio's own events need nothing."""
    if names.isdisjoint({EDITS, *PRESSES}):
        return None
    if not isinstance(sent, Mapping):
        raise WrongEvent("The event lacks its data.")
    if EDITS not in names:
        key = sent.get("key")
        if not isinstance(key, str) or len(key) > 2 * MAX_TEXT:
            raise WrongEvent("The event lacks its key.")
        return {"key": key}
    tool, points, width = sent.get("tool"), sent.get("points", []), sent.get("width", 1)
    if not isinstance(tool, str) or len(tool) > MAX_TEXT or not _is_number(width) or not _are_points(points):
        raise WrongEvent("The event is no edit.")
    return {"tool": tool, "points": points, "width": width}


def _are_points(points: Any) -> bool:
    return (
        isinstance(points, list)
        and len(points) <= MAX_CORNERS
        and all(isinstance(point, list) and len(point) == 2 and all(map(_is_number, point)) for point in points)
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= BIGGEST
