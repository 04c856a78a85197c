"""SAM-HQ (arXiv 2306.01567): SAM with one more output token, whose mask is added to each of SAM's.

Photos, prompts and geometry are SAM's. The added mask is decoded from the embedding and from the output of the
encoder's first layer with global attention; that output is a detail: it stays at z₀ while the flow moves the embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import SamHQModel

from prmagic.backbones.promptable import FLOAT
from prmagic.backbones.sam import Sam


class SamHQ(Sam):
    """A frozen SAM-HQ. Its three masks come in SAM's own order.

    transformers sorts them by predicted IoU; a channel would then be another mask at another step of the flow, and
    another one for each photo, for which PerSAM-F has fitted no weights."""

    model_classes = (SamHQModel,)

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu", dtype: torch.dtype = FLOAT):
        super().__init__(model, name, device, dtype)
        self._predicted = torch.empty(0)
        self.model.mask_decoder.iou_prediction_head.register_forward_hook(self._keep)

    def _keep(self, head: torch.nn.Module, inputs: tuple[Tensor], predicted: Tensor) -> None:
        self._predicted = predicted

    def _features(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        output = self.model.vision_encoder(pixels)
        return output.last_hidden_state.float(), (output.intermediate_embeddings[0].float(),)

    def _answer(
        self,
        features: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        details: Sequence[Tensor],
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        masks, iou = self.model.mask_decoder(
            features.expand(len(sparse), -1, -1, -1),
            position,
            sparse,
            dense,
            hq_token_only=False,
            intermediate_embeddings=list(details),
            **options,
        )
        predicted, self._predicted = self._predicted[:, :, 1:], torch.empty(0)  # nothing of the graph is kept
        if not options["multimask_output"]:
            return masks, iou
        rank = predicted.argsort(dim=2, descending=True).argsort(dim=2)
        return masks.gather(2, rank[..., None, None].expand_as(masks)), predicted
