"""What is remembered of a thing in a video, and where in a picture it is by that.

A memory is patches with the share of each that a mask covers: those of the examples, and of the latest frames. A patch
of a picture looks for the patches most like it, inside the masks and outside, and takes on their shares. So do
space-time memory networks (arXiv 1904.00607); here nothing is trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from prmagic.backbones.tokens import Tokens
from prmagic.frameworks.maps import edges
from prmagic.reference import Reference
from prmagic.types import BoolArray

# Chosen on the dev classes with the embedded models:
TEMPERATURE = 0.07  # of the soft-max over cosines
ALIKE = 5  # patches that a patch takes its share from
STRAY = 1.0  # how far the thing may be from its last mask: a standard deviation, as a share of that's longer side
REACH = 0.2  # how far a thing moves between frames: a standard deviation, as a share of the window's longer side


class Window(NamedTuple):
    """A part of a frame: x0, y0, x1, y1 in its pixels."""

    x0: int
    y0: int
    x1: int
    y1: int

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.y1 - self.y0, self.x1 - self.x0

    def cut(self, picture: BoolArray) -> BoolArray:
        """That part of (H, W)."""
        return picture[self.y0 : self.y1, self.x0 : self.x1]


@dataclass(frozen=True, eq=False)
class Remembered:
    """Patches (N, C), the share of each under the mask (N,), and their middles in the frame's pixels, x and y (N, 2);
    None for an example, which may be of another picture."""

    vectors: Tensor
    shares: Tensor
    places: Tensor | None = None

    @classmethod
    def of_frame(cls, tokens: Tokens, mask: BoolArray) -> Remembered:
        """A frame and its mask (H, W)."""
        height, width = mask.shape
        return cls(tokens.vectors, tokens.cover([mask])[0], places(tokens, Window(0, 0, width, height)))

    @classmethod
    def of_examples(cls, reference: Reference) -> list[Remembered]:
        """One for each support."""
        return [cls(support.vectors, support.shares) for support in reference.supports]


def places(tokens: Tokens, window: Window) -> Tensor:
    """The middles of the patches of a part of a frame, x and y in the frame's pixels, (N, 2)."""
    rows, columns = tokens.grid
    frame, device = tokens.frame, tokens.vectors.device
    down, across = (rows, columns) if frame is None else (side / frame.patch for side in frame.resized)
    y = window.y0 + (torch.arange(rows, device=device) + 0.5) * window.size[0] / down
    x = window.x0 + (torch.arange(columns, device=device) + 0.5) * window.size[1] / across
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)


def likelihood(tokens: Tokens, window: Window, memory: Sequence[Remembered], last: BoolArray) -> Tensor:
    """How likely each pixel of a part of a frame is the thing's: (h, w) of the window's size, 0 … 1.

    Args:
        tokens: Of that part.
        window: Where it is in the frame.
        memory: Examples, and frames before; a patch of these speaks for what is near to it only.
        last: The thing in the frame before, (H, W); far from it what is like an example is not the thing.
    """
    here, reach = places(tokens, window), REACH * max(window.size)
    astray = _astray(here, last)
    alike, shares = [], []
    for each in memory:
        likeness = tokens.vectors @ each.vectors.to(tokens.vectors).T / TEMPERATURE
        if each.places is not None:
            likeness = likeness - (torch.cdist(here, each.places.to(here)) / reach) ** 2 / 2
        else:
            likeness = likeness - astray[:, None] * each.shares.to(tokens.vectors)
        alike.append(likeness)
        shares.append(each.shares.to(tokens.vectors))
    highest, index = torch.cat(alike, 1).topk(min(ALIKE, sum(map(len, shares))), 1)
    values = (highest.softmax(1) * torch.cat(shares)[index]).sum(1)
    return tokens.to_photo(values, window.size).clamp(0, 1)


def _astray(places: Tensor, last: BoolArray) -> Tensor:
    """(N,): half the squared distance of places from the last mask, in standard deviations."""
    x0, y0, x1, y1 = edges(last)
    distance = ndimage.distance_transform_edt(~last)
    columns, rows = places.long().cpu().numpy().T  # beyond the frame is padding
    nearest = distance[rows.clip(max=last.shape[0] - 1), columns.clip(max=last.shape[1] - 1)]
    far = torch.from_numpy(nearest.astype(np.float32)).to(places)
    return (far / (STRAY * max(x1 - x0, y1 - y0))) ** 2 / 2
