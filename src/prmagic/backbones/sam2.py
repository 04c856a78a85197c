"""SAM 2 and 2.1 (arXiv 2408.00714) on single photos, EdgeTAM, and SAM 3's tracker, which all have SAM 2's decoder.

A photo is squashed to the square input, so that there is no padding. The embedding that the flow moves is the lowest of
three resolutions; the two higher ones go into the decoder's upscaling, and stay at z₀. As published, the embedding of a
single photo has a learned constant added, which stands for a memory without any frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import EdgeTamModel, Sam2Model, Sam3TrackerModel

from prmagic.backbones.promptable import PIXEL_MEAN, PIXEL_STD, Frame, Promptable
from prmagic.types import ByteArray


@dataclass(frozen=True)
class SquashedFrame(Frame):
    """The photo fills the whole input, whatever its proportions."""

    def upscale(self, maps: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Maps (..., h, w) over the whole input → (..., H, W) over the photo: SAM 2's rule, bilinear in one go."""
        flat = maps.reshape(1, -1, *maps.shape[-2:])
        flat = F.interpolate(flat, size or self.photo, mode="bilinear", align_corners=False)
        return flat.reshape(*maps.shape[:-2], *flat.shape[-2:])

    def _way(self, side: int, resized: int, size: int) -> tuple[int, int, int, int]:
        return side, side, side, size


class Sam2(Promptable):
    """A frozen SAM 2, SAM 2.1 or EdgeTAM.

    Asked for a single mask, the model takes the best of its three instead where the single one is not stable: that is
    in its configuration (`dynamic_multimask_via_stability`), and stays as it is."""

    model_classes: ClassVar[tuple[Any, ...]] = (Sam2Model, EdgeTamModel)
    mask_prompt_limit = 32.0  # what the published predictor gives back never exceeds it
    mean: ClassVar[tuple[float, float, float]] = PIXEL_MEAN
    std: ClassVar[tuple[float, float, float]] = PIXEL_STD

    def frame(self, photo: tuple[int, int]) -> Frame:
        """Where a photo of this (height, width) lies in the model's input: everywhere."""
        return SquashedFrame(photo, (self.input_size, self.input_size), self.input_size, self.patch)

    def preprocess(self, image: ByteArray) -> Tensor:
        """(H, W, 3) uint8 → (3, S, S) float32: squashed, in bytes like transformers' processor, then normalised.

        (The published code does not round after resizing: a difference of at most one grey level.)"""
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
        squashed = F.interpolate(pixels, (self.input_size, self.input_size), mode="bilinear", antialias=True)[0]
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return (squashed - mean) / std

    def _features(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        # From high to low. SAM 3 has a fourth level, which its tracker does not use; transformers adds the constant to
        # the last one there is, and so to none that SAM 3 uses, where the published code has the third.
        high, middle, low = (level.float() for level in self.model.vision_encoder(pixels).fpn_hidden_states[:3])
        decoder = self.model.mask_decoder
        no_memory = self.model.no_memory_embedding.view(1, -1, 1, 1)
        return low + no_memory, (decoder.conv_s0(high), decoder.conv_s1(middle))

    def _answer(
        self,
        features: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        details: Sequence[Tensor],
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        masks, iou, _, _ = self.model.mask_decoder(
            features.expand(len(sparse), -1, -1, -1),
            position,
            sparse,
            dense,
            high_resolution_features=list(details),
            **options,
        )
        return masks, iou


class Sam3Tracker(Sam2):
    """The promptable part of SAM 3, frozen; its detector, which finds things by name, is not used."""

    model_classes = (Sam3TrackerModel,)
    mean = std = (127.5, 127.5, 127.5)
