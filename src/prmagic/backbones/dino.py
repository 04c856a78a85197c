"""DINOv2 and DINOv3 as dense encoders: an adapter over transformers' models that gives the tokens of the patches.

A photo is squashed to the encoder's input, so that every photo has the same grid of patches, and a patch covers the
same share of its width and height wherever the photo's own proportions.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel

from prmagic.backbones.batches import in_batches, moved
from prmagic.backbones.checkpoints import fingerprint, load_pretrained
from prmagic.backbones.promptable import ENCODE_BATCH, FLOAT, normalised
from prmagic.backbones.runtimes import TORCH, Run
from prmagic.backbones.tokens import Tokens
from prmagic.types import ByteArray

# A DINOv3 has no positions of its own to be faithful to; Matcher's grid of 37 patches a side is what the field uses.
PATCHES_PER_SIDE = 37


@dataclass(frozen=True, eq=False)
class PatchTokens:
    """The patches of one photo in row-major order, float32: before the final norm (N, C) and after it (N, C)."""

    before_norm: Tensor
    after_norm: Tensor


class DinoCalls(threading.local):
    """Of each thread by itself: how many photos it encoded, and the tokens before the norm of the last ones."""

    encodes = 0
    before_norm = torch.empty(0)


class Dino:
    """A frozen encoder; runs in `dtype`, returns float32."""

    def __init__(
        self,
        model: Any,
        name: str,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = FLOAT,
        input_size: int | tuple[int, int] | None = None,
    ):
        """input_size: (height, width) in pixels, or one number for a square; multiples of the patch, else ValueError.

        By default what the model was trained at, and 37 patches a side for DINOv3, which has no such size."""
        self.name = name
        self.device = torch.device(device)
        self.dtype = dtype
        self.runtime = TORCH
        self.run: Run = self.outputs  # `runtimes.place` puts another in its place
        self.fingerprint = fingerprint(model)
        self.patch = int(model.config.patch_size)
        self.model = model.eval().requires_grad_(False).to(self.device, self.dtype)
        # What comes before the patches: the class token, and register tokens where the model has them.
        self._leading = 1 + int(getattr(model.config, "num_register_tokens", 0))
        if input_size is None:
            rotary = isinstance(model, DINOv3ViTModel)
            input_size = PATCHES_PER_SIDE * self.patch if rotary else int(model.config.image_size)
        height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
        if height < 1 or width < 1 or height % self.patch or width % self.patch:
            raise ValueError(
                f"the encoder's input must be a multiple of its patch, {self.patch} pixels; got {height} × {width}"
            )
        self.input_size = (height, width)
        self.grid = (height // self.patch, width // self.patch)
        self.calls = DinoCalls()
        norm = model.norm if isinstance(model, DINOv3ViTModel) else model.layernorm
        norm.register_forward_pre_hook(self._keep)

    def _keep(self, norm: torch.nn.Module, inputs: tuple[Tensor]) -> None:
        self.calls.before_norm = inputs[0]

    @classmethod
    def load(
        cls,
        name: str | Path,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = FLOAT,
        input_size: int | tuple[int, int] | None = None,
    ) -> Dino:
        """From a hub id like facebook/dinov2-large, a folder in Hugging Face format, an original file or "embedded".

        DINOv2, with or without registers, and DINOv3 (ViT; not its own files). Raises CheckpointError, which says what
        to do, for a checkpoint that is missing, broken or of another kind."""
        classes = (Dinov2Model, Dinov2WithRegistersModel, DINOv3ViTModel)
        return cls(load_pretrained("encoder", classes, name), str(name), device, dtype, input_size)

    def preprocess(self, image: ByteArray) -> Tensor:
        """(H, W, 3) uint8 → (3, h, w) float32 at the input size, normalised."""
        return normalised(image, self.input_size)

    @property
    def network(self) -> torch.nn.Module:
        """All of the model."""
        model: torch.nn.Module = self.model
        return model

    def outputs(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Inputs (N, 3, h, w) float32 → the patches before and after the final norm, each (N, n, C) float32."""
        normed = self.model(moved(pixels, self.device, self.dtype)).last_hidden_state
        return tuple(states[:, self._leading :].float() for states in (self.calls.before_norm, normed))

    @torch.no_grad()
    def encode(self, images: Iterable[ByteArray]) -> list[PatchTokens]:
        """Photos (H, W, 3) uint8 of any sizes → the tokens of each.

        On a CPU one at a time: a larger batch is no faster there, and its results differ in the last bits."""
        tokens = in_batches(images, 1 if self.device.type == "cpu" else ENCODE_BATCH, self._encoded)
        self.calls.encodes += len(tokens)
        return tokens

    def _encoded(self, images: Sequence[ByteArray]) -> list[PatchTokens]:
        before, after = self.run(torch.stack([self.preprocess(image) for image in images]))
        return [PatchTokens(*pair) for pair in zip(before, after, strict=True)]

    def tokens(self, images: Iterable[ByteArray]) -> list[Tokens]:
        """The patches of each photo before the final norm, as unit vectors."""
        return [Tokens(F.normalize(each.before_norm, dim=-1), self.grid) for each in self.encode(images)]

    def describe(self, images: Iterable[ByteArray], padding: bool = False) -> Tensor:
        """E in eq. (4): (N, C) unit vectors, the mean token of each photo before the final norm, without padding."""
        return F.normalize(torch.stack([each.before_norm.mean(0) for each in self.encode(images)]), dim=1)
