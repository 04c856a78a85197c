"""Which thing is which, from frame to frame of a video.

Each thing of a frame is compared with each that has a number: by the IoU of its mask with the last one, if that was in
the frame before, plus how alike the two look. The assignment with the largest sum wins (Kuhn, 1955). What reaches no
number gets a new one; what is not seen keeps its number for when it comes back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from prmagic.frameworks.base import Query
from prmagic.types import BoolArray, FloatArray, Instance

# Of the things of DAVIS, seen again in a later frame, 95 % are more alike than this, and of two things 10 %:
SAME = 0.9  # IoU and likeness together, from which on it is the same thing
SHADES = 8  # of each colour channel


class _Sight:
    """A thing in a frame. What it looks like is worked out when that is needed first, so that frames that are only
    remembered need not be encoded."""

    def __init__(self, query: Query, mask: BoolArray):
        self.mask: BoolArray | None = mask
        self.area = int(mask.sum())
        self._query: Query | None = query
        self._look: Tensor | None = None

    @property
    def look(self) -> Tensor:
        """A unit vector, to one half what the model sees, and to the other the colours.

        What the model sees: the mean of the patches under the mask minus that of all patches. Colours: the roots of
        the shares of each channel's shades, whose product is the Bhattacharyya coefficient."""
        if self._look is None:
            assert self._query is not None and self.mask is not None
            tokens = self._query.tokens
            with torch.no_grad():
                (cover,) = tokens.cover([self.mask])
                inside = (cover @ tokens.vectors) / cover.sum().clamp(min=1e-6)
                features = F.normalize(inside - tokens.vectors.mean(0), dim=0).cpu()
            shades = self._query.image[self.mask] // (256 // SHADES)
            shares = np.stack([np.bincount(channel, minlength=SHADES) for channel in shades.T]) / shades.size
            colours = torch.from_numpy(np.sqrt(shares).astype(np.float32)).flatten()
            self._look = torch.cat([features, colours]) / math.sqrt(2)
            self._query = None
        return self._look

    def settle(self) -> None:
        """Keep nothing of the frame but the look."""
        _ = self.look
        self.mask = None


@dataclass(eq=False)
class _Thing:
    """What has been seen of a number: the last time, and the time when it was largest."""

    label: str
    last: _Sight
    largest: _Sight
    lost: bool = False


class Numbering:
    """The things of one video, up to now."""

    def __init__(self) -> None:
        self._things: dict[int, _Thing] = {}

    def numbered(self, label: str, query: Query, instances: Sequence[Instance]) -> tuple[Instance, ...]:
        """The things of a label in the next frame, with their numbers. `remember` has to be told of them."""
        known = [number for number, thing in self._things.items() if thing.label == label]
        alike = self._alike(known, query, instances)
        numbers: dict[int, int] = {}
        for row, column in zip(*linear_sum_assignment(-np.where(alike >= SAME, alike, 0.0)), strict=True):
            if alike[row, column] >= SAME:
                numbers[int(column)] = known[row]
        new = max(self._things, default=0)
        found = []
        for column, instance in enumerate(instances):
            if column not in numbers:
                new += 1
            found.append(replace(instance, number=numbers.get(column, new)))
        return tuple(found)

    def remember(self, label: str, query: Query, instances: Sequence[Instance]) -> None:
        """The numbered things of a label in a frame, all of them."""
        here = {each.number: _Sight(query, each.mask) for each in instances if each.number is not None}
        for number, thing in self._things.items():
            if thing.label == label and number not in here:
                thing.lost = True
                thing.last.settle()
        for number, sight in here.items():
            known = self._things.get(number)
            if known is None:
                self._things[number] = _Thing(label, sight, sight)
                continue
            if sight.area >= known.largest.area:
                known.largest = sight
            elif known.largest is known.last:
                known.largest.settle()
            known.last, known.lost = sight, False

    def _alike(self, known: Sequence[int], query: Query, instances: Sequence[Instance]) -> FloatArray:
        """(numbers, instances): IoU with the mask of the frame before, plus the cosine with what is more alike: the
        last sight, or the largest."""
        if not known or not instances:
            return np.zeros((len(known), len(instances)), np.float32)
        things = [self._things[number] for number in known]
        looks = torch.stack([_Sight(query, each.mask).look for each in instances])
        last = torch.stack([thing.last.look for thing in things]) @ looks.T
        largest = torch.stack([thing.largest.look for thing in things]) @ looks.T
        found: FloatArray = torch.maximum(last, largest).numpy()
        before = [None if thing.lost else thing.last.mask for thing in things]
        return found + _ious(before, [each.mask for each in instances])


def _ious(first: Sequence[BoolArray | None], second: Sequence[BoolArray]) -> FloatArray:
    """(n, m) of masks with masks; no two of the same sequence share a pixel. 0 for None."""
    maps = []
    for masks in (first, second):
        labels = np.zeros(second[0].shape, np.int64)
        for number, mask in enumerate(masks, start=1):
            if mask is not None:
                labels[mask] = number
        maps.append(labels)
    rows, columns = len(first) + 1, len(second) + 1
    table = np.bincount((maps[0] * columns + maps[1]).ravel(), minlength=rows * columns).reshape(rows, columns)
    shared = table[1:, 1:]
    union = table.sum(1)[1:, None] + table.sum(0)[None, 1:] - shared
    ious: FloatArray = (shared / np.maximum(union, 1)).astype(np.float32)
    return ious
