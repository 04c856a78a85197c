"""Patch features in the form in which frameworks and selectors compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.types import BoolArray

if TYPE_CHECKING:
    from prmagic.backbones.promptable import Frame


@dataclass(frozen=True, eq=False)
class Tokens:
    """The patches of one photo, row by row.

    Args:
        vectors: (N, C) unit vectors.
        grid: Rows and columns, N in all.
        frame: How the photo lies in the model's padded input; None where the photo fills the grid.
    """

    vectors: Tensor
    grid: tuple[int, int]
    frame: Frame | None = None

    def cover(self, masks: Sequence[BoolArray]) -> Tensor:
        """Which share of each patch each mask covers: masks (H, W) bool of the photo's size → (M, N)."""
        each = [torch.from_numpy(mask)[None, None].float() for mask in masks]
        covered = torch.cat([self._cover(mask) for mask in each]) if each else torch.empty(0, *self.grid)
        return covered.flatten(1).to(self.vectors)

    def cover_logits(self, logits: Tensor, frame: Frame) -> Tensor:
        """The same of masks as SAM gives them: logits (M, s, s) over its input, in which the photo lies so → (M, N).

        Nothing is enlarged to the photo's size, so that many masks cost little."""
        return self.cover_low(frame.over_photo(logits) > 0, frame, logits.shape[-1])

    def cover_low(self, seen: Tensor, frame: Frame, side: int) -> Tensor:
        """The same of masks (M, h, w) bool over the photo, parts of maps of `side` positions → (M, N)."""
        masks = seen.float()[:, None]
        if self.frame is None:
            return F.interpolate(masks, self.grid, mode="area").flatten(1).to(self.vectors)
        each = side * frame.patch // frame.input_size
        height, width = (side * each for side in self.grid)
        spare = (0, max(0, width - masks.shape[-1]), 0, max(0, height - masks.shape[-2]))
        return F.avg_pool2d(F.pad(masks, spare)[..., :height, :width], each).flatten(1).to(self.vectors)

    def to_photo(self, values: Tensor, photo: tuple[int, int]) -> Tensor:
        """One value per patch (N,) → bilinear over a photo of (height, width)."""
        cells = values.view(1, 1, *self.grid)
        if self.frame is None:
            return F.interpolate(cells, photo, mode="bilinear", align_corners=False)[0, 0]
        side = self.frame.input_size // self.frame.patch
        spare = (0, side - self.grid[1], 0, side - self.grid[0])
        return self.frame.upscale(F.pad(cells, spare, mode="replicate")[0, 0], photo)

    def _cover(self, mask: Tensor) -> Tensor:
        """(1, 1, H, W) → (1, rows, columns)."""
        if self.frame is None:
            return F.interpolate(mask, self.grid, mode="area")[0]
        resized = mask
        if mask.shape[2:] != self.frame.resized:
            resized = F.interpolate(mask, self.frame.resized, mode="area")
        rows, columns = self.frame.cells
        patch = self.frame.patch
        spare = (0, columns * patch - self.frame.resized[1], 0, rows * patch - self.frame.resized[0])
        return F.avg_pool2d(F.pad(resized, spare), patch)[0]
