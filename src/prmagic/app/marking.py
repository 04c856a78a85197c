"""Masks made by hand: SAM answers clicks and boxes, and strokes of a brush lie on top.

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

from prmagic.app.packed import PackedMask
from prmagic.types import BoolArray, Prompts

MAX_EDITS = 500
MAX_CORNERS = 5000  # of one stroke
MAX_ALL_CORNERS = 50_000  # of one marking
MAX_PAINTED = 50  # times the square of the photo's longer side: strokes are drawn again for every picture


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

    @property
    def area(self) -> float:
        """About how many pixels it paints, those that it paints again too."""
        steps = np.diff(np.array(self.corners), axis=0)
        return float((np.hypot(*steps.T).sum() + len(self.corners) * self.width) * self.width)


Edit: TypeAlias = Point | Box | Stroke
Ask: TypeAlias = Callable[[Prompts], BoolArray]  # SAM's mask (H, W) for prompts


@dataclass(frozen=True)
class Marking:
    """Edits of one photo, and the mask (height, width) that they give. Frozen: `edited` gives the next one.

    Args:
        size: (height, width) of the photo.
        start: The mask to begin with, an uploaded one or a candidate.
        logits: SAM's (s, s) for the start, where they are known; SAM gets them with the first clicks.
        edits: In the order in which they were made.
        answer: SAM's to all clicks and the box; None before the first.
    """

    size: tuple[int, int]
    start: PackedMask | None = None
    logits: Tensor | None = None
    edits: tuple[Edit, ...] = ()
    answer: PackedMask | None = field(default=None, repr=False)

    @property
    def mask(self) -> BoolArray:
        """(H, W) bool; the strokes lie on top of SAM's answer, or of the start."""
        packed = self.start if self.answer is None else self.answer
        below = np.zeros(self.size, bool) if packed is None else packed.array
        strokes = [edit for edit in self.edits if isinstance(edit, Stroke)]
        return painted(below, strokes) if strokes else below

    @property
    def prompts(self) -> Prompts | None:
        """The clicks and the last box; None without any."""
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
        if isinstance(edit, Stroke):
            self._check_strokes([*(known for known in self.edits if isinstance(known, Stroke)), edit])
        return replace(self, edits=(*self.edits, edit))._answered(isinstance(edit, Stroke), ask)

    def undone(self, ask: Ask) -> Marking:
        """Without the last edit."""
        if not self.edits:
            return self
        return replace(self, edits=self.edits[:-1])._answered(isinstance(self.edits[-1], Stroke), ask)

    def cleared(self) -> Marking:
        """Without any edit; the start stays."""
        return replace(self, edits=(), answer=None)

    def _check_strokes(self, strokes: list[Stroke]) -> None:
        corners = sum(len(stroke.corners) for stroke in strokes)
        area = sum(stroke.area for stroke in strokes)
        if corners > MAX_ALL_CORNERS or area > MAX_PAINTED * max(self.size) ** 2:
            raise ValueError("too much is painted over and over: clear it, or upload a mask")

    def _answered(self, only_painted: bool, ask: Ask) -> Marking:
        if only_painted:
            return self
        prompts = self.prompts
        return replace(self, answer=None if prompts is None else PackedMask.of(ask(prompts)))


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


def _thinned(corners: list[tuple[float, float]], least: float) -> list[tuple[float, float]]:
    """The corners of a path without those that are nearer to the one before than that; the last one stays."""
    kept = corners[:1]
    for corner in corners[1:]:
        if math.dist(corner, kept[-1]) >= least:
            kept.append(corner)
    return kept if kept[-1] == corners[-1] else [*kept, corners[-1]]


def read_edit(sent: Mapping[str, Any], size: tuple[int, int]) -> Edit:
    """Check and read what the page sent.

    Args:
        sent: {"tool": …, "points": [[x, y], …], "width": pixels}.
        size: The photo's (H, W).

    Raises:
        ValueError: It is something else. Anyone can send anything.
    """
    try:
        tool: Literal["add", "remove", "box", "brush", "erase"] = sent["tool"]
        corners = [(float(x), float(y)) for x, y in sent["points"]]
        width = float(sent.get("width", 1))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise ValueError("the page sent an edit that cannot be read") from None
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
        width = min(max(width, 1.0), 2.0 * max(size))
        return Stroke(tuple(_thinned(corners, width / 4)), width, erase=tool == "erase")
    raise ValueError("the page sent an edit with an unknown tool")
