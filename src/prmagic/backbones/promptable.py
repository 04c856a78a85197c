"""What a promptable model is: photos in, embeddings out; prompts in, masks out, differentiable in the embedding.

Three frames meet here. Photo pixels are what users see. Model pixels are the photo as it lies in the model's input.
Cells are positions of the embedding. A `Frame` maps between them. Frameworks and flow need not know which model it is.
"""

from __future__ import annotations

import math
import threading
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from prmagic.backbones.batches import in_batches, moved
from prmagic.backbones.checkpoints import fingerprint, load_pretrained
from prmagic.backbones.enlarging import ROUNDING, Tiles, ends, linear, outer_pixels, outermost, positive, tiles
from prmagic.backbones.runtimes import TORCH, Run
from prmagic.backbones.tokens import Tokens
from prmagic.types import ByteArray, Prompts

# ImageNet's statistics, RGB in 0 … 255, which SAM, SAM 2 and DINO share.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
# Photos and prompt sets that go through the model in one call on a GPU; more only cost memory.
ENCODE_BATCH = 16
DECODE_BATCH = 64
CPU_CACHE = 4 << 20  # bytes of embeddings that a CPU should have in hand: more at once was up to twice slower
FLOAT = torch.float32

Adapter = TypeVar("Adapter", bound="Promptable")


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
        flat = maps.reshape(1, -1, *maps.shape[-2:])
        flat = F.interpolate(flat, (self.input_size, self.input_size), mode="bilinear", align_corners=False)
        flat = flat[..., : self.resized[0], : self.resized[1]]
        if (size or self.photo) != self.resized:
            flat = F.interpolate(flat, size or self.photo, mode="bilinear", align_corners=False)
        return flat.reshape(*maps.shape[:-2], *flat.shape[-2:])

    def inside(self, logits: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Where any of the masks with logits (n, s, s) is, over the photo (or at `size`): (H, W) bool.

        The same as `upscale` and > 0, and where the logits' sign does not change, without enlarging them."""
        height, width = size or self.photo
        if logits.device.type != "cpu":
            found = logits.new_zeros(height, width, dtype=torch.bool)
            for each in logits:  # one at a time: many at a large photo's size do not fit into memory
                found |= self.upscale(each, size) > 0
            return found
        found, unclear = positive(logits, *self._tiles(logits, (height, width)))
        found = found[:height, :width]
        for index in unclear:
            found |= self.upscale(logits[index], size) > 0
        return found

    def empty(self, logits: Tensor) -> bool:
        """Whether `inside` of one mask with logits (s, s) has no pixel of the photo."""
        seen = self.over_photo(logits)
        lowest, highest = logits.aminmax()
        if logits.device.type == "cpu" and highest > 0:
            row, column = divmod(int(seen.argmax()), seen.shape[1])
            down, across = (
                ends(*self._way(logits.shape[-1], *each)) for each in zip(self.resized, self.photo, strict=True)
            )
            if down.used[row] and across.used[column]:  # where its largest value counts most, there is a pixel
                rows, columns = down.weights[row].argmax()[None], across.weights[column].argmax()[None]
                value = down.weights[:, rows].T @ logits @ across.weights[:, columns]
                if value > ROUNDING * max(highest, -lowest):
                    return False
        return not bool(self.inside(logits[None]).any())

    def boxes(self, logits: Tensor, size: tuple[int, int], exact: bool = False) -> Tensor:
        """Around the masks that `upscale_many` of logits (n, s, s) to a small size and > 0 give.

        Args:
            logits: At low resolution.
            size: (height, width) of the masks.
            exact: Around those that `inside` gives, which differ by rounding.

        Returns:
            (n, 4) x0, y0, x1, y1 of the outermost pixels, -1 for an empty mask, int64 on the CPU.
        """
        down, across = (ends(*self._way(logits.shape[-1], *each)) for each in zip(self.resized, size, strict=True))
        if logits.device.type != "cpu":
            return outermost(self._small(logits, size, exact))
        top, bottom, certain = outer_pixels(logits, down, across)
        left, right, sure = outer_pixels(logits.mT, across, down)
        found = torch.stack([left, top, right, bottom], 1)
        unsure = ~(certain & sure)
        if unsure.any():  # the empty ones, too
            found[unsure] = outermost(self._small(logits[unsure], size, exact))
        return found

    def _small(self, logits: Tensor, size: tuple[int, int], exact: bool) -> Tensor:
        """(n, s, s) → (n, h, w) bool."""
        if exact:
            return torch.stack([self.inside(each[None], size) for each in logits])
        return self.upscale_many(logits, size) > 0

    def upscale_many(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """`upscale` of many maps to a small size, where the way over the model's input would take most of the time.

        As one matrix for the rows and one for the columns, which is the same up to rounding."""
        rows, columns = (
            linear(*self._way(maps.shape[-1], *each)).to(maps) for each in zip(self.resized, size, strict=True)
        )
        return rows.T @ (maps @ columns)

    def upscale_part(self, maps: Tensor, rows: slice, columns: slice) -> Tensor:
        """`upscale` of maps (..., s, s), only these rows and columns of the photo; the same up to rounding."""
        down, across = (
            linear(*self._way(maps.shape[-1], resized, size))[:, part].to(maps)
            for resized, size, part in zip(self.resized, self.photo, (rows, columns), strict=True)
        )
        return down.T @ (maps @ across)

    def _tiles(self, maps: Tensor, size: tuple[int, int]) -> tuple[Tiles, Tiles]:
        down, across = (tiles(*self._way(maps.shape[-1], *each)) for each in zip(self.resized, size, strict=True))
        return down, across

    def _way(self, side: int, resized: int, size: int) -> tuple[int, int, int, int]:
        """Along one side: of the maps, of the model's input, what of that holds the photo, and of the photo."""
        return side, self.input_size, resized, size


@dataclass(frozen=True, eq=False)
class Embedding:
    """features (1, C, h, w) float32 of one photo, padding included; frame tells which cells hold the photo.

    details: what the decoder reads beside them, each (1, …): SAM 2's higher resolutions, SAM-HQ's early layer. The flow
    moves the features and leaves the details as the photo made them."""

    features: Tensor
    frame: Frame
    details: tuple[Tensor, ...] = ()

    def moved_to(self, features: Tensor) -> Embedding:
        """The same photo with other features; with a graph behind them, `Promptable.decode` keeps it."""
        return Embedding(features, self.frame, self.details)

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


class CallCounts(threading.local):
    """How often a model was called, in each thread by itself: photos, prompt sets, and prompt sets with a graph."""

    encodes = 0
    decodes = 0
    gradient_decodes = 0


class Promptable(ABC):
    """A frozen promptable model: `encode` photos, `decode` prompts.

    The image encoder runs in `dtype`; prompts and masks are decoded in float32, as are all gradients. An adapter says
    where a photo lies in the input, how it gets there, and what the decoder reads beside the embedding."""

    model_classes: ClassVar[tuple[Any, ...]]  # transformers'
    mask_prompt_limit: ClassVar[float] = math.inf  # logits that are given back as a prompt are clamped to ± this

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu", dtype: torch.dtype = FLOAT):
        self.name = name
        self.device = torch.device(device)
        self.dtype = dtype
        self.runtime = TORCH
        self.run: Run = self.outputs  # `runtimes.place` puts another in its place
        self.fingerprint = fingerprint(model)
        self.model = model.eval().requires_grad_(False).float().to(self.device)
        self.model.vision_encoder.to(self.dtype)
        self.input_size = int(model.prompt_encoder.input_image_size)
        self.patch = self.input_size // int(model.prompt_encoder.image_embedding_size[0])
        with torch.no_grad():
            self._position = self.model.get_image_wide_positional_embeddings()
        self.decode_batch = DECODE_BATCH
        if self.device.type == "cpu":
            self.decode_batch = max(2, CPU_CACHE // (self._position.numel() * self._position.element_size()))
        self.calls = CallCounts()

    @classmethod
    def load(
        cls: type[Adapter], name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = FLOAT
    ) -> Adapter:
        """From a hub id, a folder in Hugging Face format, or "embedded", if the model is of this adapter's kind.

        `load_promptable` takes any kind. Raises CheckpointError, which says what to do, for a checkpoint that is
        missing, broken or of another kind."""
        return cls(load_pretrained("sam", cls.model_classes, name), str(name), device, dtype)

    @abstractmethod
    def frame(self, photo: tuple[int, int]) -> Frame:
        """Where a photo of this (height, width) lies in the model's input."""

    @abstractmethod
    def preprocess(self, image: ByteArray) -> Tensor:
        """(H, W, 3) uint8 → (3, S, S) float32, the model's input."""

    @property
    def network(self) -> torch.nn.Module:
        """The image encoder, without what else `outputs` uses."""
        encoder: torch.nn.Module = self.model.vision_encoder
        return encoder

    def outputs(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Inputs (N, 3, S, S) float32 → features (N, C, h, w), then the details, each (N, …), in float32."""
        features, details = self._features(moved(pixels, self.device, self.dtype))
        return features, *details

    @abstractmethod
    def _features(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Inputs (N, 3, S, S) in `dtype` → features (N, C, h, w) and details, each (N, …), in float32."""

    @abstractmethod
    def _answer(
        self,
        features: Tensor,
        position: Tensor,
        sparse: Tensor,
        dense: Tensor,
        details: Sequence[Tensor],
        **options: Any,
    ) -> tuple[Tensor, Tensor]:
        """The decoder's masks (N, 1, M, s, s) and predicted IoU (N, 1, M) for N prompt sets of one shape.

        features and dense: (N, C, h, w), or (1, C, h, w) where they are the same for all sets; position (1, C, h, w);
        sparse (N, 1, n, C)."""

    @torch.no_grad()
    def encode(self, images: Iterable[ByteArray]) -> list[Embedding]:
        """Photos (H, W, 3) uint8 of any sizes → one embedding each.

        On a CPU one at a time: a larger batch is no faster there, and its results differ in the last bits."""
        embeddings = in_batches(images, 1 if self.device.type == "cpu" else ENCODE_BATCH, self._encoded)
        self.calls.encodes += len(embeddings)
        return embeddings

    def _encoded(self, images: Sequence[ByteArray]) -> list[Embedding]:
        features, *details = self.run(torch.stack([self.preprocess(image) for image in images]))
        return [
            Embedding(row[None], self.frame(image.shape[:2]), tuple(level[i : i + 1] for level in details))
            for i, (row, image) in enumerate(zip(features, images, strict=True))
        ]

    def tokens(self, embedding: Embedding) -> Tokens:
        """The photo's own cells as unit vectors."""
        vectors = F.normalize(embedding.photo_features[0].flatten(1).T, dim=1)
        return Tokens(vectors, embedding.frame.cells, embedding.frame)

    def describe(self, images: Iterable[ByteArray], padding: bool = False) -> Tensor:
        """E in eq. (4): (N, C) unit vectors, the mean feature of each photo; padding: the published code's mean."""
        maps = [each.features if padding else each.photo_features for each in self.encode(images)]
        return F.normalize(torch.cat([each.mean((2, 3)) for each in maps]), dim=1)

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
                for start in range(0, len(group), self.decode_batch):
                    rows = group[start : start + self.decode_batch]
                    sparse, dense = self._embed([each[i] for i in rows], [prompts[i] for i in rows])
                    # One prompt set per batch row: transformers' decoder would answer all K × K pairs otherwise.
                    masks, iou = self._answer(
                        _together([each[i].features for i in rows]),
                        self._position,
                        sparse,
                        dense,
                        _stacked([each[i].details for i in rows]),
                        multimask_output=multimask,
                        attention_similarity=attention_similarity,
                        target_embedding=target_embedding,
                    )
                    logits |= dict(zip(rows, masks[:, 0], strict=True))
                    ious |= dict(zip(rows, iou[:, 0], strict=True))
        self.calls.decodes += len(prompts)
        self.calls.gradient_decodes += len(prompts) if graph else 0
        order = range(len(prompts))
        return Decoded(torch.stack([logits[i] for i in order]), torch.stack([ious[i] for i in order]))

    def _embed(self, embeddings: list[Embedding], prompts: list[Prompts]) -> tuple[Tensor, Tensor]:
        """Prompt sets of one shape → tokens (N, 1, n, C) and dense embeddings (N or 1, C, h, w)."""
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
        limit = self.mask_prompt_limit
        no_mask = no_mask[:1]
        dense = [
            no_mask
            if p.mask_logits is None
            else encoder.mask_embed(p.mask_logits.to(self.device).clamp(-limit, limit)[None, None])
            for p in prompts
        ]
        return sparse, _together(dense)


def normalised(image: ByteArray, size: tuple[int, int]) -> Tensor:
    """(H, W, 3) uint8 → (3, h, w) float32 at `size`, bilinear, by ImageNet's statistics."""
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return (torch.from_numpy(np.array(resized)).permute(2, 0, 1) - mean) / std


def _together(maps: Sequence[Tensor]) -> Tensor:
    """N maps (1, C, h, w) → (N, C, h, w), or (1, C, h, w) if all are one."""
    return maps[0] if all(each is maps[0] for each in maps) else torch.cat(list(maps))


def _stacked(details: Sequence[tuple[Tensor, ...]]) -> list[Tensor]:
    """The details of N embeddings, each (N, …); of one photo N times (1, …), which the decoders broadcast."""
    if all(each is details[0] for each in details):
        return list(details[0])
    return [torch.cat(level) for level in zip(*details, strict=True)]
