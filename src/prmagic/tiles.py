"""Where the tiles of a large photo lie, and when a photo is looked at in tiles."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prmagic import checks
from prmagic.frameworks.maps import edges
from prmagic.reference import Example, Reference

OFF, AUTO = "off", "auto"
EXTENTS = "extents"  # what a reference keeps for `auto`
LARGEST = 64  # tiles along a photo's longer side that users may ask for
MOST = 16  # that `auto` takes
OVERLAP = 0.25  # of a tile's side, with its neighbour
SMALL = 1 / 8  # of the model's input: an object below it is small
AROUND = 4  # sides of a small object that the crop around it has


@dataclass(frozen=True)
class Tile:
    """A part of a photo, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Rows and columns of the photo."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


def meeting(first: Tile, second: Tile) -> Tile | None:
    """What both cover."""
    top, left = max(first.top, second.top), max(first.left, second.left)
    bottom = min(first.top + first.height, second.top + second.height)
    right = min(first.left + first.width, second.left + second.width)
    return Tile(top, left, bottom - top, right - left) if bottom > top and right > left else None


def hull(first: Tile, second: Tile) -> Tile:
    """The smallest rectangle around both."""
    top, left = min(first.top, second.top), min(first.left, second.left)
    bottom = max(first.top + first.height, second.top + second.height)
    right = max(first.left + first.width, second.left + second.width)
    return Tile(top, left, bottom - top, right - left)


def centred(thing: Tile, side: float, photo: tuple[int, ...]) -> Tile:
    """A square of this side around a thing, moved into the photo, and no larger than it."""
    ends = ((thing.top, thing.height, photo[0]), (thing.left, thing.width, photo[1]))
    lengths = [min(math.ceil(side), size) for *_, size in ends]
    starts = [
        round(min(max(low + span / 2 - length / 2, 0), size - length))
        for (low, span, size), length in zip(ends, lengths, strict=True)
    ]
    return Tile(starts[0], starts[1], lengths[0], lengths[1])


def checked(tiles: Any) -> str | int:
    """The words off and auto, or the number of tiles along a photo's longer side; ValueError for anything else."""
    if isinstance(tiles, str) and tiles in (OFF, AUTO):
        return tiles
    try:
        count = checks.whole("tiles", int(tiles) if isinstance(tiles, str) and tiles.isdecimal() else tiles)
    except ValueError:
        told = f"tiles is auto, off, or how many lie along a photo's longer side, not {checks.shown(tiles)}"
        raise ValueError(told) from None
    if not 2 <= count <= LARGEST:
        raise ValueError(f"tiles along a photo's longer side are 2 to {LARGEST}, not {count}; off does without")
    return count


def grid(photo: tuple[int, ...], count: int) -> list[Tile]:
    """Square tiles that cover a photo of (height, width), `count` along its longer side; neighbours overlap."""
    side = math.ceil(max(photo) / (count - (count - 1) * OVERLAP))
    starts = []
    for length in photo:
        steps = max(0, math.ceil((length - side) / (side * (1 - OVERLAP)) - 1e-9))
        starts.append([round(step * (length - side) / steps) if steps else 0 for step in range(steps + 1)])
    height, width = min(side, photo[0]), min(side, photo[1])
    return [Tile(top, left, height, width) for top in starts[0] for left in starts[1]]


def pyramid(photo: tuple[int, ...], count: int) -> list[Tile]:
    """The whole photo, then tiles of half the size each time, at last `count` along the longer side."""
    counts = [count]
    while counts[0] > 3:
        counts.insert(0, math.ceil(counts[0] / 2))
    return [Tile(0, 0, photo[0], photo[1]), *(tile for each in counts for tile in grid(photo, each))]


def tile_count(tiles: str | int, photo: tuple[int, ...], references: Iterable[Reference], input_size: int) -> int:
    """How many tiles lie along the photo's longer side; 1: it is only looked at as a whole.

    `auto` takes things to be as large in pixels as the examples'. Where they would be smaller than an eighth of the
    model's input, tiles are as large as the example's photo, or the crop of it, but no smaller than half of the input.
    A reference that does not say how large its example was counts as one of the input's size."""
    if tiles == OFF:
        return 1
    longer = max(photo)
    if isinstance(tiles, int):
        return min(tiles, longer)
    counts = [1]
    for reference in references:
        known = reference.tensors.get(EXTENTS)
        pairs = [[SMALL * input_size, float(input_size)]] if known is None else known.tolist()
        counts += [round(longer / support) for thing, support in pairs if thing < SMALL * longer]
    return max(1, min(max(counts), MOST, 2 * longer // input_size))


def around(example: Example, input_size: int) -> Example:
    """A small object of a support that is larger than the model's input, in a crop around it; else the same."""
    height, width = example.mask.shape
    x0, y0, x1, y1 = edges(example.mask)
    longer, side = max(height, width), max(x1 - x0, y1 - y0)
    if longer <= input_size or side >= SMALL * longer:
        return example
    thing = Tile(int(y0), int(x0), int(y1 - y0), int(x1 - x0))
    place = centred(thing, max(AROUND * side, input_size / 2), (height, width)).place
    return Example(np.ascontiguousarray(example.image[place]), np.ascontiguousarray(example.mask[place]))


def extents(examples: Iterable[Example]) -> dict[str, torch.Tensor]:
    """What `auto` reads of a reference, (K, 2): the longer sides of each support's object, and of the support."""
    boxes = [(edges(example.mask), max(example.mask.shape)) for example in examples]
    sides = [[max(x1 - x0, y1 - y0), float(longer)] for (x0, y0, x1, y1), longer in boxes]
    return {EXTENTS: torch.tensor(sides)}
