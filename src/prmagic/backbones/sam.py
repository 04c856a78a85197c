"""SAM as a differentiable promptable model: an adapter over transformers' `SamModel`.

A photo's longest side is resized to the model's input, the rest is padded at the right and the bottom. Agreement with
the published implementation on the same weights is tested stage by stage (`docs/parity.md`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import SamModel

from prmagic.backbones.promptable import FLOAT, Frame, Promptable, normalised
from prmagic.backbones.sam_decoder import decode_masks
from prmagic.types import ByteArray


class Sam(Promptable):
    """A frozen SAM."""

    model_classes = (SamModel,)

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu", dtype: torch.dtype = FLOAT):
        super().__init__(model, name, device, dtype)
        for layer in self.model.mask_decoder.transformer.layers:
            for norm in (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3, layer.layer_norm4):
                norm.eps = 1e-5  # the published decoder's; transformers' configurations say 1e-6

    def frame(self, photo: tuple[int, int]) -> Frame:
        """Where a photo of this (height, width) lies in the model's input."""
        scale = self.input_size / max(photo)
        height, width = (max(1, int(side * scale + 0.5)) for side in photo)
        return Frame(photo, (height, width), self.input_size, self.patch)

    def preprocess(self, image: ByteArray) -> Tensor:
        """(H, W, 3) uint8 → (3, S, S) float32: resized, normalised, then padded with zeros."""
        height, width = self.frame(image.shape[:2]).resized
        pixels = normalised(image, (height, width))
        return F.pad(pixels, (0, self.input_size - width, 0, self.input_size - height))

    def _features(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.model.vision_encoder(pixels).last_hidden_state.float(), ()

    def _answer(
        self,
        features: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        details: Sequence[Tensor],
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        return decode_masks(self.model.mask_decoder, features, position, sparse, dense, **options)
