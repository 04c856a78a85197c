"""How a mask comes about by hand: clicks and boxes, which SAM answers, with strokes of a brush on top.

A marking is a list of edits, so that each can be undone. Coordinates are pixels of the photo, (0, 0) the centre of the
top left one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from prmagic.types import BoolArray, Prompts

MAX_EDITS = 500
MAX_CORNERS = 5000  # of one stroke


@dataclass(frozen=True)
class Point:
    """A click: on the object, or on what is not part of it."""

    x: float
    y: float
    inside: bool


@dataclass(frozen=True)
class Box:
    """Around the object; x0 < x1, y0 < y1. The last one counts."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True)
class Stroke:
    """Of a round brush, or of the eraser, through (x, y) corners; width in pixels."""

    corners: tuple[tuple[float, float], ...]
    width: float
    erase: bool


Edit: TypeAlias = Point | Box | Stroke
Answer: TypeAlias = tuple[BoolArray, Tensor]  # a mask (H, W) and SAM's low-resolution logits of it
Ask: TypeAlias = Callable[[Prompts], Answer]


@dataclass(frozen=True)
class Marking:
    """Edits of one photo, and the mask (height, width) that they give. Frozen: `edited` gives the next one.

    start: the mask to begin with, an uploaded one or a candidate; logits: SAM's (s, s) for it, if they are known, which
    go along with the first clicks."""

    size: tuple[int, int]
    start: BoolArray | None = None
    logits: Tensor | None = None
    edits: tuple[Edit, ...] = ()
    answer: BoolArray | None = field(default=None, repr=False)  # SAM's to all clicks; None before the first

    @property
    def mask(self) -> BoolArray:
        """(H, W) bool; the strokes lie on top of SAM's answer, or of the start."""
        below = self.start if self.answer is None else self.answer
        strokes = [edit for edit in self.edits if isinstance(edit, Stroke)]
        if below is None:
            below = np.zeros(self.size, bool)
        return painted(below, strokes) if strokes else below

    @property
    def prompts(self) -> Prompts | None:
        """What SAM is asked; None without a click."""
        points = [edit for edit in self.edits if isinstance(edit, Point)]
        boxes = [edit for edit in self.edits if isinstance(edit, Box)]
        if not points and not boxes:
            return None
        xy = np.array([(point.x, point.y) for point in points], np.float32).reshape(-1, 2)
        labels = np.array([point.inside for point in points], np.int64)
        box = (boxes[-1].x0, boxes[-1].y0, boxes[-1].x1, boxes[-1].y1) if boxes else None
        return Prompts(xy, labels, box, self.logits)

    def edited(self, edit: Edit, ask: Ask) -> Marking:
        """With one more edit."""
        if len(self.edits) >= MAX_EDITS:
            raise ValueError(f"{MAX_EDITS} edits are the limit for one photo: clear them, or upload a mask")
        return replace(self, edits=(*self.edits, edit))._answered(isinstance(edit, Stroke), ask)

    def undone(self, ask: Ask) -> Marking:
        """Without the last edit."""
        if not self.edits:
            return self
        return replace(self, edits=self.edits[:-1])._answered(isinstance(self.edits[-1], Stroke), ask)

    def cleared(self) -> Marking:
        """Without any edit; the start stays."""
        return replace(self, edits=(), answer=None)

    def _answered(self, only_painted: bool, ask: Ask) -> Marking:
        if only_painted:
            return self
        prompts = self.prompts
        return replace(self, answer=None if prompts is None else ask(prompts)[0])


def painted(mask: BoolArray, strokes: list[Stroke]) -> BoolArray:
    """The mask (H, W) with strokes on it, in order."""
    picture = Image.fromarray(mask.astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for stroke in strokes:
        value, radius = int(not stroke.erase), stroke.width / 2
        if len(stroke.corners) > 1:
            draw.line(stroke.corners, fill=value, width=max(1, round(stroke.width)), joint="curve")
        for x, y in stroke.corners:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=value)
    return np.asarray(picture).astype(bool)


def read_edit(sent: Mapping[str, Any], size: tuple[int, int]) -> Edit:
    """What the page sent, checked: {"tool": …, "points": [[x, y], …], "width": pixels}; size: the photo's (H, W).

    Raises ValueError for anything else, as anyone can send anything."""
    try:
        tool: Literal["add", "remove", "box", "brush", "erase"] = sent["tool"]
        corners = [(float(x), float(y)) for x, y in sent["points"]]
        width = float(sent.get("width", 1))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"the page sent an edit that cannot be read: {error}") from None
    if not 1 <= len(corners) <= MAX_CORNERS or not all(map(math.isfinite, [width, *np.ravel(corners)])):
        raise ValueError(f"an edit needs 1 to {MAX_CORNERS} points, all of them numbers")
    low, high = np.array([-0.5, -0.5]), np.array([size[1] - 0.5, size[0] - 0.5])
    corners = [(float(x), float(y)) for x, y in np.clip(corners, low, high)]
    if tool in ("add", "remove"):
        return Point(*corners[0], inside=tool == "add")
    if tool == "box":
        (x0, x1), (y0, y1) = (sorted((corners[0][axis], corners[-1][axis])) for axis in (0, 1))
        if x1 - x0 < 1 or y1 - y0 < 1:
            raise ValueError("a box needs two corners: drag from one to the other")
        return Box(x0, y0, x1, y1)
    if tool in ("brush", "erase"):
        return Stroke(tuple(corners), min(max(width, 1.0), 2.0 * max(size)), erase=tool == "erase")
    raise ValueError(f"unknown tool {tool!r}")
