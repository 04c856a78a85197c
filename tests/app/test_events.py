"""Every value that an event may bring, against values of other kinds."""

from __future__ import annotations

import asyncio

import gradio as gr
import pytest

from prmagic.app.components import Site
from prmagic.app.events import WrongEvent, read_event
from prmagic.app.page import build
from prmagic.app.settings import Settings
from prmagic.app.uploads import Uploads
from prmagic.app.visitors import Visitors

SECRET = "/etc/passwd"
FILE = {"path": SECRET, "orig_name": "x", "meta": {"_type": "gradio.FileData"}}
# What is of none of the kinds: text, number, file, or a picture's key.
NEVER = [True, [], [1], [[]], {}, {"a": [SECRET]}, {"value": FILE}, {"__type__": "update", "value": SECRET}]


@pytest.fixture(scope="module")
def page(engine, tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    visitors = Visitors(engine, folder / "visitors", Settings(), grace=60)
    yield build(Site(visitors, Uploads(folder / "uploads", 1000)))
    visitors._closed.set()  # the engine is shared
    asyncio.get_event_loop_policy().get_event_loop().close()  # Gradio makes one


def inputs(page, kind):
    """(number of the event, its inputs, position) of all inputs of a kind of control."""
    for number, function in page.fns.items():
        if function.fn is not None:
            for position, control in enumerate(function.inputs):
                if isinstance(control, kind):
                    yield number, function.inputs, position


def send(page, number, values, data=None):
    """A checked event."""
    return read_event(
        {"session_hash": "a1b2c3d4", "fn_index": number, "data": values, "event_data": data or {"key": "x"}}, page
    )


def refused(page, kind, values):
    tried = 0
    for number, controls, position in inputs(page, kind):
        for value in values:
            sent = [None] * len(controls)
            sent[position] = value
            with pytest.raises(WrongEvent) as error:
                send(page, number, sent)
            assert SECRET not in str(error.value)
            tried += 1
    assert tried


@pytest.mark.parametrize("kind", [gr.Textbox, gr.Dropdown])
def test_texts(page, kind):
    refused(page, kind, [*NEVER, 1, 1.5, FILE, [FILE], "x" * 100_000])


@pytest.mark.parametrize("kind", [gr.Slider, gr.Number])
def test_numbers(page, kind):
    refused(page, kind, [*NEVER, "1", "nan", FILE, [FILE], 1e300, -(10**400), float("nan"), float("inf")])


def test_pictures(page):
    refused(page, gr.HTML, [*NEVER, 1, FILE, [FILE], {"key": FILE}])
    for number, controls, position in inputs(page, gr.HTML):
        sent = [None] * len(controls)
        sent[position] = {"key": "abc", "url": FILE}
        assert send(page, number, sent).values[position] == "abc"  # nothing else is read


def test_states(page):
    refused(page, gr.State, [FILE, [FILE], SECRET, {}])


def test_files(page):
    wrong = [True, 1, "x", SECRET, {}, {"path": 1}, {"path": SECRET, "orig_name": 3}, [1], [[FILE]], [FILE] * 2000]
    refused(page, gr.File, wrong)
    for number, controls, position in inputs(page, gr.File):
        sent = [None] * len(controls)
        sent[position] = [FILE]
        event = send(page, number, sent)
        assert event.uploads == [SECRET]  # which the gate asks for
        assert event.values[position] == [[SECRET, "x"]]  # nothing that Gradio takes for a file


@pytest.mark.parametrize("key", [None, 1, ["x"], FILE, "x" * 10_000])
def test_keys_of_what_is_pressed(page, key):
    pressed = [number for number, function in page.fns.items() if {name for _, name in function.targets} & {"pick"}]
    assert len(pressed) == 2
    for number in pressed:
        with pytest.raises(WrongEvent):
            send(page, number, [], {"key": key})


@pytest.mark.parametrize(
    "data",
    [
        {"tool": FILE}, {"tool": "add", "points": FILE}, {"tool": "add", "points": [[1]]},
        {"tool": "add", "points": [1]},
        {"tool": "add", "points": [[1, "2"]]}, {"tool": "add", "points": [[1, float("nan")]]}, {"points": [[1, 1]]},
        {"tool": "brush", "points": [[1, 1]] * 5001}, {"tool": "brush", "points": [[1, 1]], "width": 10**400},
    ],
)  # fmt: skip
def test_edits(page, data):
    edits = [number for number, function in page.fns.items() if {name for _, name in function.targets} & {"edit"}]
    assert len(edits) == 2
    for number in edits:
        with pytest.raises(WrongEvent):
            send(page, number, [], data)
        assert send(page, number, [], {"tool": "undo", "more": FILE}).data == {"tool": "undo", "points": [], "width": 1}


@pytest.mark.parametrize(
    "change",
    [
        {"session_hash": None}, {"session_hash": "../../x"}, {"session_hash": "a" * 100}, {"session_hash": "é" * 8},
        {"fn_index": None}, {"fn_index": -1}, {"fn_index": True}, {"fn_index": 10**30}, {"fn_index": "0"},
        {"data": None},
        {"data": {}}, {"data": [1, 2, 3]},
    ],
)  # fmt: skip
def test_the_frame_of_an_event(page, change):
    stop = next(number for number, function in page.fns.items() if function.fn and not function.inputs)
    sent = {"session_hash": "a1b2c3d4", "fn_index": stop, "data": [], "event_data": {"key": "x"}}
    assert (
        read_event({**sent, "trigger_id": 10**9, "batched": True, "simple_format": True}, page).body["trigger_id"]
        is None
    )
    with pytest.raises(WrongEvent):
        read_event({**sent, **change}, page)


def test_every_input_has_a_check(page):
    for number, function in page.fns.items():
        if function.fn is not None:
            data = {"tool": "undo", "key": "x"}
            assert send(page, number, [None] * len(function.inputs), data).number == number


def test_flags(page):
    refused(page, gr.Checkbox, [1, 0, "true", FILE, [FILE], {}])
    for number, controls, position in inputs(page, gr.Checkbox):
        sent = [None] * len(controls)
        sent[position] = True
        assert send(page, number, sent).values[position] is True
