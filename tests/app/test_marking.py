"""Masks made by hand, and the layers that show them."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from prmagic.app.canvas import tint
from prmagic.app.marking import Box, Marking, Point, Stroke, read_edit
from prmagic.app.packed import PackedMask
from prmagic.pictures import OPACITY, RED


class Asked:
    """Stands for SAM: answers with a square around the last point, and counts."""

    def __init__(self) -> None:
        self.prompts: list[Any] = []

    def __call__(self, prompts):
        self.prompts.append(prompts)
        mask = np.zeros((40, 60), bool)
        x, y = prompts.points[-1].astype(int) if len(prompts.points) else (20, 20)
        mask[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6] = True
        return mask


def test_clicks_are_asked_together_and_strokes_lie_on_top():
    ask = Asked()
    marking = Marking((40, 60)).edited(Point(10, 10, True), ask).edited(Stroke(((30, 30), (40, 30)), 4, False), ask)
    assert len(ask.prompts) == 1  # painting asks nothing
    marking = marking.edited(Point(20, 12, False), ask).edited(Box(2, 2, 30, 30), ask)
    asked = ask.prompts[-1]
    assert asked.points.tolist() == [[10, 10], [20, 12]]
    assert asked.labels.tolist() == [1, 0]
    assert asked.box == (2, 2, 30, 30)
    assert marking.mask[30, 35]  # the stroke is still there
    assert not marking.edited(Stroke(((0, 30), (59, 30)), 6, True), ask).mask[30, 35]


def test_undo_goes_back_edit_by_edit_to_the_start():
    ask, start = Asked(), np.zeros((40, 60), bool)
    start[:5] = True
    marking = Marking((40, 60), PackedMask.of(start), torch.ones(8, 8))
    clicked = marking.edited(Point(10, 20, True), ask)
    assert (ask.prompts[0].mask_logits == 1).all()  # SAM corrects what there was
    painted = clicked.edited(Stroke(((50, 35),), 3, False), ask)
    assert (painted.undone(ask).mask == clicked.mask).all()
    assert (painted.undone(ask).undone(ask).mask == start).all()
    assert (painted.cleared().mask == start).all()
    assert marking.undone(ask) is marking


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"tool": "add"},
        {"tool": "add", "points": []},
        {"tool": "add", "points": [[1, float("nan")]]},
        {"tool": "add", "points": "12"},
        {"tool": "box", "points": [[5, 5]]},
        {"tool": "brush", "points": [[1, 1]] * 6000},
        {"tool": "launch", "points": [[1, 1]]},
        {"tool": "brush", "points": [[1, 1]], "width": None},
        {"tool": "brush", "points": [[1, 1]], "width": 10**400},
        {"tool": ["add"], "points": [[1, 1]]},
        [],
        None,
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(sent):
    with pytest.raises(ValueError, match=r"edit|box|tool"):
        read_edit(sent, (40, 60))


def test_nobody_can_let_the_server_paint_for_long():
    marking, ask = Marking((3000, 4000)), Asked()
    wild = [[0, 0], [4000, 3000]] * 2500
    stroke = read_edit({"tool": "brush", "points": wild, "width": 8000}, marking.size)
    with pytest.raises(ValueError, match="over and over"):
        marking.edited(stroke, ask)
    for _ in range(150):  # as people paint, from side to side
        line = [[10 * i, 900] for i in range(400)]
        marking = marking.edited(read_edit({"tool": "brush", "points": line, "width": 200}, marking.size), ask)
    near = read_edit({"tool": "brush", "points": [[i / 10, 5] for i in range(5000)], "width": 100}, marking.size)
    assert len(near.corners) < 30
    assert near.corners[-1] == (499.9, 5)


def test_edits_stay_within_the_photo():
    assert read_edit({"tool": "add", "points": [[-9, 1e9]]}, (40, 60)) == Point(-0.5, 39.5, True)
    assert read_edit({"tool": "box", "points": [[50, 30], [10, 5]]}, (40, 60)) == Box(10, 5, 50, 30)
    assert read_edit({"tool": "erase", "points": [[1, 1]], "width": 1e9}, (40, 60)).width == 120


def test_a_layer_is_transparent_outside_of_the_mask():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    layer = Image.open(io.BytesIO(base64.b64decode(tint(mask).partition(",")[2]))).convert("RGBA")
    alpha = np.asarray(layer)[..., 3]
    assert ((alpha > 0) == mask).all()
    assert 0 < alpha[20, 35] < 255


def test_the_border_of_a_layer_shows_on_any_colour():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    layer = np.asarray(Image.open(io.BytesIO(base64.b64decode(tint(mask).partition(",")[2]))).convert("RGBA"))
    assert layer[20, 20:23].tolist() == [[0, 0, 0, 255], [255, 255, 255, 255], [*RED, round(255 * OPACITY)]]
