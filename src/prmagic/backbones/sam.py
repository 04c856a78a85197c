"""SAM as a differentiable promptable model: an adapter over transformers' `SamModel`.

Three frames meet here. Photo pixels are what users see. Model pixels are the photo with its longest side resized to the
model's input, padded at the right and the bottom. Cells are positions of the embedding. A `Frame` maps between them.
Agreement with the published implementation on the same weights is tested stage by stage (`docs/parity.md`).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from transformers import SamModel

from prmagic.backbones.checkpoints import fingerprint, load_pretrained
from prmagic.types import ByteArray, Prompts

# SAM's input statistics, RGB in 0 … 255.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
# Photos on a GPU, and prompt sets anywhere, that go through the model in one call; more only cost memory.
ENCODE_BATCH = 16
DECODE_BATCH = 64
FLOAT = torch.float32


@dataclass(frozen=True)
class Frame:
    """How one photo lies in the model's input. Sizes are (height, width)."""

    photo: tuple[int, int]  # pixels of the photo
    resized: tuple[int, int]  # pixels of the resized photo in the model's input; beyond them is padding
    input_size: int  # the model's square input
    patch: int  # input pixels per cell

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of the embedding that hold some of the photo; the others see only padding."""
        height, width = self.resized
        return math.ceil(height / self.patch), math.ceil(width / self.patch)

    def to_model(self, points: Tensor) -> Tensor:
        """(..., 2) x, y in photo pixels → model pixels."""
        height, width = self.photo
        scale = torch.tensor([self.resized[1] / width, self.resized[0] / height], device=points.device)
        return points * scale

    def over_photo(self, maps: Tensor) -> Tensor:
        """Maps (..., s, s) over the whole input, such as low-resolution logits → (..., h, w), without the padding."""
        height, width = (max(round(side * maps.shape[-1] / self.input_size), 1) for side in self.resized)
        return maps[..., :height, :width]

    def upscale(self, maps: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Maps (..., h, w) over the whole input (logits, similarities) → (..., H, W) over the photo.

        SAM's own rule: bilinear to the model's input, the padding cut away, bilinear to the photo (or to `size`)."""
        batch = maps.shape[:-2]
        flat = maps.reshape(1, -1, *maps.shape[-2:])
        flat = F.interpolate(flat, (self.input_size, self.input_size), mode="bilinear", align_corners=False)
        flat = flat[..., : self.resized[0], : self.resized[1]]
        flat = F.interpolate(flat, size or self.photo, mode="bilinear", align_corners=False)
        return flat.reshape(*batch, *flat.shape[-2:])


@dataclass(frozen=True, eq=False)
class Embedding:
    """features (1, C, h, w) float32 of one photo, padding included; frame tells which cells hold the photo."""

    features: Tensor
    frame: Frame

    def moved_to(self, features: Tensor) -> Embedding:
        """The same photo with other features; with a graph behind them, `Sam.decode` keeps it."""
        return Embedding(features, self.frame)

    @property
    def photo_features(self) -> Tensor:
        """(1, C, rows, columns) without the cells that see only padding."""
        rows, columns = self.frame.cells
        return self.features[..., :rows, :columns]


@dataclass(frozen=True, eq=False)
class Decoded:
    """Row i answers prompt set i: logits (N, M, s, s) at low resolution, predicted IoU (N, M)."""

    logits: Tensor
    predicted_iou: Tensor


class Sam:
    """A frozen SAM: `encode` photos, `decode` prompts.

    The image encoder runs in `dtype`; prompts and masks are decoded in float32, as are all gradients."""

    def __init__(self, model: SamModel, name: str, device: str | torch.device = "cpu", dtype: torch.dtype = FLOAT):
        self.name = name
        self.device = torch.device(device)
        self.dtype = dtype
        self.fingerprint = fingerprint(model)
        self.model = model.eval().requires_grad_(False).float().to(self.device)
        for layer in self.model.mask_decoder.transformer.layers:
            for norm in (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3, layer.layer_norm4):
                norm.eps = 1e-5  # the published decoder's; transformers' configurations say 1e-6
        self.model.vision_encoder.to(self.dtype)
        vision = model.config.vision_config
        self.input_size, self.patch = int(vision.image_size), int(vision.patch_size)
        with torch.no_grad():
            self._position = self.model.get_image_wide_positional_embeddings()
        self.encodes = 0
        self.decodes = 0
        self.gradient_decodes = 0  # those of the decodes that had a graph

    @classmethod
    def load(cls, name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = FLOAT) -> Sam:
        """From a hub id like facebook/sam-vit-huge, a folder in Hugging Face format, an original file or "embedded".

        Raises CheckpointError, which says what to do, for a checkpoint that is missing, broken or of another kind."""
        return cls(load_pretrained("sam", (SamModel,), name), str(name), device, dtype)

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

    @torch.no_grad()
    def encode(self, images: Iterable[ByteArray]) -> list[Embedding]:
        """Photos (H, W, 3) uint8 of any sizes → one embedding each.

        On a CPU one at a time: a larger batch is no faster there, and its results differ in the last bits."""
        size = 1 if self.device.type == "cpu" else ENCODE_BATCH
        embeddings: list[Embedding] = []
        waiting = iter(images)
        while batch := list(islice(waiting, size)):
            pixels = torch.stack([self.preprocess(image) for image in batch]).to(self.device, self.dtype)
            features = self.model.vision_encoder(pixels).last_hidden_state.float()
            embeddings += [
                Embedding(row[None], self.frame(image.shape[:2])) for row, image in zip(features, batch, strict=True)
            ]
        self.encodes += len(embeddings)
        return embeddings

    def decode(
        self,
        embeddings: Embedding | Sequence[Embedding],
        prompts: Sequence[Prompts],
        *,
        multimask: bool = True,
        attention_similarity: Tensor | None = None,
        target_embedding: Tensor | None = None,
    ) -> Decoded:
        """Answer every prompt set, on one embedding for all or on one each; M = 3 masks, or 1 without `multimask`.

        Differentiable with respect to the embeddings' features where those require a gradient; no graph otherwise.
        attention_similarity (1, 1, 1, h·w) is added to the decoder's token-to-image attention logits, target_embedding
        (1, 1, 1, C) to its tokens (PerSAM, arXiv 2305.03048)."""
        each = [embeddings] * len(prompts) if isinstance(embeddings, Embedding) else list(embeddings)
        if len(each) != len(prompts):
            raise ValueError(f"{len(each)} embeddings for {len(prompts)} prompt sets; give one, or one for each set")
        # A padded token still takes part in the attention, so only prompt sets of one shape share a call.
        groups: dict[tuple[int, bool], list[int]] = defaultdict(list)
        for index, prompt in enumerate(prompts):
            groups[len(prompt.points), prompt.box is not None].append(index)
        logits: dict[int, Tensor] = {}
        ious: dict[int, Tensor] = {}
        graph = torch.is_grad_enabled() and any(e.features.requires_grad for e in each)
        with torch.set_grad_enabled(graph):
            for group in groups.values():
                for start in range(0, len(group), DECODE_BATCH):
                    rows = group[start : start + DECODE_BATCH]
                    sparse, dense = self._embed([each[i] for i in rows], [prompts[i] for i in rows])
                    # One prompt set per batch row: transformers' decoder would answer all K × K pairs otherwise.
                    masks, iou = self.model.mask_decoder(
                        torch.cat([each[i].features for i in rows]),
                        self._position.expand(len(rows), -1, -1, -1),
                        sparse,
                        dense,
                        multimask_output=multimask,
                        attention_similarity=attention_similarity,
                        target_embedding=target_embedding,
                    )
                    logits |= dict(zip(rows, masks[:, 0], strict=True))
                    ious |= dict(zip(rows, iou[:, 0], strict=True))
        self.decodes += len(prompts)
        self.gradient_decodes += len(prompts) if graph else 0
        order = range(len(prompts))
        return Decoded(torch.stack([logits[i] for i in order]), torch.stack([ious[i] for i in order]))

    def _embed(self, embeddings: list[Embedding], prompts: list[Prompts]) -> tuple[Tensor, Tensor]:
        """Prompt sets of one shape → tokens (N, 1, n, C) and dense embeddings (N, C, h, w)."""
        encoder = self.model.prompt_encoder
        points = labels = boxes = None
        if len(prompts[0].points):
            xy = [
                e.frame.to_model(torch.from_numpy(p.points).float()) for e, p in zip(embeddings, prompts, strict=True)
            ]
            points = torch.stack(xy)[:, None].to(self.device)
            labels = torch.stack([torch.from_numpy(p.labels) for p in prompts])[:, None].to(self.device)
        if prompts[0].box is not None:
            corners = torch.tensor([p.box for p in prompts], dtype=torch.float32).view(-1, 2, 2)
            boxes = torch.stack([e.frame.to_model(c) for e, c in zip(embeddings, corners, strict=True)])
            boxes = boxes.view(-1, 1, 4).to(self.device)
        sparse, no_mask = encoder(points, labels, boxes, None)
        dense = [
            no_mask[:1] if p.mask_logits is None else encoder.mask_embed(p.mask_logits.to(self.device)[None, None])
            for p in prompts
        ]
        return sparse, torch.cat(dense)


def normalised(image: ByteArray, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 → (3, h, w) float32 at `size`, bilinear, by ImageNet's statistics."""
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return (torch.from_numpy(np.array(resized)).permute(2, 0, 1) - mean) / std
