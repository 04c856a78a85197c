"""PerSAM and PerSAM-F (arXiv 2305.03048) as prompters, one-shot and few-shot.

A target feature of the support, its cosine with every position of the query, the peak of that map as a point, and SAM
asked three times: the point; the point with the box and the logits of the first answer; and once more.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from prmagic.backbones.promptable import PIXEL_MEAN, PIXEL_STD, Embedding, Frame, Promptable
from prmagic.flow import Flow
from prmagic.frameworks.base import (
    Example,
    Framework,
    Query,
    Reference,
    bounding_box,
    cover,
    masked_means,
    to_mask,
    working_size,
)
from prmagic.frameworks.mask_weights import fit_mixture, fit_published
from prmagic.types import BoolArray, Candidate, FloatArray, Prompts


@dataclass(frozen=True)
class PerSamSettings:
    """The first two are choices; the others say which behaviour of the published code to repeat (method, §2)."""

    points: int = 5  # the peak and 2 · ⌊points / 2⌋ random positions near it; the paper has 5 for objects, 3 for parts
    quantiles: tuple[float, float] | None = None  # of the map, above which half of the extra points each are drawn
    swap_extra_points: bool = False  # x and y exchanged
    keep_first_box: bool = False  # the last stage keeps the first stage's box instead of taking the second's
    score_first_stage: bool = False  # eq. (4) looks at the first stage's mask, not at the returned one
    published_maps: bool = False  # padding takes part in eq. (4)'s mean, in similarity maps and in d; a support mask
    # too thin for any cell stands for all cells
    published_fit: bool = False  # 1000 steps of AdamW for the mask weights


class _Best(NamedTuple):
    logits: Tensor  # (s, s)
    channel: int
    predicted_iou: float


class PerSam(Framework):
    """PerSAM: one positive and one negative point, target-guided attention, target-semantic prompting.

    transformers' decoder adds the similarity to the attention's logits before its one soft-max, where the published
    PerSAM adds it after a soft-max and takes a second one; results differ from its."""

    name = "persam"
    flow = Flow(objective="foreground", rho=0.1, clip=None)  # chosen on dev classes, as the selector: docs/studies.md
    selector = "cycle-recall"

    def __init__(self, sam: Promptable, settings: PerSamSettings | None = None):
        super().__init__(sam)
        self.options = settings or PerSamSettings()
        self.pool_padding = self.options.published_maps

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `PerSamSettings`."""
        return asdict(self.options)

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """The target and the descriptors depend on nothing else."""
        return {"published_maps": self.options.published_maps}

    def encode_support(self, examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """tensors: target (C,) unit vector, prototypes (K, C), objects (m, C), patches (n, C), shares (n,), …"""
        return self.learn(self.encode_queries([example.image for example in examples]), examples, rng)

    def learn(self, queries: Sequence[Query], examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """See `encode_support`."""
        return self.reference(self._learn(queries, examples), examples)

    def sample_prompts(self, query: Query, reference: Reference, shift: Tensor, rng: torch.Generator) -> Prompts:
        """The arg-max of the similarity map as object, the arg-min as background."""
        similarity = self.similarity(query.embedding, reference.tensors["target"], shift)
        peaks = np.array([_peak(similarity), _peak(-similarity)], np.float32)
        return Prompts(
            to_photo(peaks, similarity.shape, query.embedding.frame), np.array([1, 0]), similarity=similarity
        )

    def decode(self, query: Query, reference: Reference, prompts: Prompts) -> Candidate:
        """See `decode_all`."""
        return self.decode_all(query, [reference], [prompts])[0]

    def decode_all(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[Candidate]:
        """The first stage; then twice more the same points, with the box and the logits of the stage before."""
        frame = query.embedding.frame
        first = self._first_stage(query, references, prompts)
        second = [
            replace(each, box=self._box(logits, frame), mask_logits=logits)
            for each, logits in zip(prompts, first, strict=True)
        ]
        found = self._best(query, second)
        third = [
            replace(
                each,
                mask_logits=best.logits,
                box=each.box if self.options.keep_first_box else self._box(best.logits, frame),
            )
            for each, best in zip(second, found, strict=True)
        ]
        scored = [to_mask(logits, frame) if self.options.score_first_stage else None for logits in first]
        return [
            Candidate(to_mask(best.logits, frame), each, best.predicted_iou, best.logits, best.channel, mask)
            for each, best, mask in zip(third, self._best(query, third), scored, strict=True)
        ]

    def _first_stage(
        self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]
    ) -> Iterable[Tensor]:
        """Logits (s, s), one mask each under its target's guidance."""
        return [self._guided(query, *each) for each in zip(references, prompts, strict=True)]

    def _guided(self, query: Query, reference: Reference, prompts: Prompts) -> Tensor:
        target = reference.tensors["target"].to(self.sam.device)
        cosine = cosine_map(query.embedding.features, target)
        rows, columns = cosine.shape if self.options.published_maps else query.embedding.frame.cells
        seen = cosine[:rows, :columns]
        guide = ((cosine - seen.mean()) / seen.std().clamp(min=1e-6)).sigmoid().view(1, 1, 1, -1)
        return self.sam.decode(
            query.embedding, [prompts], multimask=False, attention_similarity=guide,
            target_embedding=target.view(1, 1, 1, -1),
        ).logits[0, 0]  # fmt: skip

    def logit(self, query: Query, reference: Reference, candidate: Candidate, embedding: Embedding) -> Tensor:
        """See `logits`."""
        return self.logits(query, [reference], [candidate], [embedding])[0]

    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """The sum of the last stage's low-resolution logits over the photo."""
        return [maps[0].sum() for maps in self.logit_maps(query, references, candidates, embeddings)]

    def logit_maps(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[list[Tensor]]:  # fmt: skip
        """The last stage's low-resolution logits over the photo."""
        decoded = self.sam.decode(embeddings, [candidate.prompts for candidate in candidates]).logits
        maps = [answers[candidate.channel] for answers, candidate in zip(decoded, candidates, strict=True)]
        if not self.options.published_maps:
            maps = [query.embedding.frame.over_photo(each) for each in maps]
        return [[each[None]] for each in maps]

    def similarity(self, embedding: Embedding, target: Tensor, shift: Tensor | float = 0.0) -> FloatArray:
        """Cosine of the target with every position of z₀ + shift, over the photo at its working size: (h, w)."""
        cosine = cosine_map(embedding.features + shift, target.to(self.sam.device))
        frame = embedding.frame
        if not self.options.published_maps:
            # The last cells of the photo are repeated into the padding, or interpolation would mix the padding in.
            rows, columns = frame.cells
            spare = (0, cosine.shape[1] - columns, 0, cosine.shape[0] - rows)
            cosine = F.pad(cosine[None, None, :rows, :columns], spare, mode="replicate")[0, 0]
        enlarged = F.interpolate(cosine[None, None], scale_factor=4, mode="bilinear", align_corners=False)[0, 0]
        upscaled: FloatArray = frame.upscale(enlarged, self._working_size(frame)).cpu().numpy()
        return upscaled

    def _learn(self, queries: Sequence[Query], examples: Sequence[Example]) -> dict[str, Tensor]:
        """The target, and what candidates and results are compared with."""
        embeddings = [query.embedding for query in queries]
        every_cell = self.options.published_maps
        under = torch.cat([_under_mask(e, z, every_cell) for e, z in zip(examples, embeddings, strict=True)])
        objects = F.normalize(under, dim=1)
        return {
            "target": self._target(under), "prototypes": _prototypes(examples, embeddings), "objects": objects,
            **self._patches_and_shares(queries, examples),
        }  # fmt: skip

    def _target(self, features: Tensor) -> Tensor:
        """(N, C), under the masks of all supports together → (C,)."""
        return F.normalize(features.mean(0), dim=0)

    def _working_size(self, frame: Frame) -> tuple[int, int]:
        return frame.photo if self.options.published_maps else working_size(frame.photo)

    def _box(self, logits: Tensor, frame: Frame) -> tuple[float, float, float, float] | None:
        """Around the object, in photo pixels; found at the working size, because nothing else is needed of the mask."""
        size = self._working_size(frame)
        box = bounding_box((frame.upscale(logits, size) > 0).cpu().numpy())
        if box is None:
            return None
        (x0, y0), (x1, y1) = to_photo(np.array(box, np.float32).reshape(2, 2), size, frame).tolist()
        return x0, y0, x1, y1

    def _best(self, query: Query, prompts: Sequence[Prompts]) -> list[_Best]:
        """Of SAM's three answers to each."""
        decoded = self.sam.decode(query.embedding, prompts)
        channels = decoded.predicted_iou.argmax(1).tolist()
        return [
            _Best(logits[channel], channel, float(iou[channel]))
            for logits, iou, channel in zip(decoded.logits, decoded.predicted_iou, channels, strict=True)
        ]


class PerSamF(PerSam):
    """PerSAM-F: positive points only; SAM's three masks of the first stage mixed by weights fitted on the support."""

    name = "persam-f"

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """The mask weights depend on how they are fitted, and on the support's own points."""
        options = self.options
        sampling = (options.points, options.quantiles, options.swap_extra_points) if options.quantiles else "peak"
        return {**super().reference_settings, "published_fit": options.published_fit, "support_points": sampling}

    def encode_support(self, examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """As PerSAM's, and mask_weights (3,) that sum to 1."""
        return super().encode_support(examples, rng)

    def learn(self, queries: Sequence[Query], examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """See `encode_support`; the mask weights are fitted here."""
        embeddings = [query.embedding for query in queries]
        learnt = self._learn(queries, examples)
        logits, truths = [], []
        for example, embedding in zip(examples, embeddings, strict=True):
            prompts = self._points(self.similarity(embedding, learnt["target"]), embedding.frame, rng)
            low = self.sam.decode(embedding, [prompts]).logits[0]
            size = self._working_size(embedding.frame)
            logits.append(embedding.frame.upscale(low, size).cpu())
            truths.append((_resize_bytes(example.mask, size) > 127).float())
        fit = fit_published if self.options.published_fit else fit_mixture
        return self.reference({**learnt, "mask_weights": fit(logits, truths)}, examples)

    def sample_prompts(self, query: Query, reference: Reference, shift: Tensor, rng: torch.Generator) -> Prompts:
        """The arg-max of the similarity map and, on request, random positions near it; all labelled object."""
        similarity = self.similarity(query.embedding, reference.tensors["target"], shift)
        return self._points(similarity, query.embedding.frame, rng)

    def _first_stage(
        self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]
    ) -> Iterable[Tensor]:
        """Logits (s, s), the weighted mixture of SAM's three masks each."""
        masks = self.sam.decode(query.embedding, prompts).logits
        weights = [reference.tensors["mask_weights"].to(masks) for reference in references]
        return [torch.einsum("m,mhw->hw", *each) for each in zip(weights, masks, strict=True)]

    def _target(self, features: Tensor) -> Tensor:
        return F.normalize(features.mean(0) / 2 + features.amax(0) / 2, dim=0)

    def _points(self, similarity: FloatArray, frame: Frame, rng: torch.Generator) -> Prompts:
        points = sample_points(
            similarity, self.options.points // 2, self.options.quantiles or (), rng, self.options.swap_extra_points
        )
        return Prompts(to_photo(points, similarity.shape, frame), np.ones(len(points), np.int64), similarity=similarity)


def sample_points(
    similarity: FloatArray, per_quantile: int, quantiles: Sequence[float], rng: torch.Generator, swap: bool = False
) -> FloatArray:
    """(N, 2) x, y: the arg-max of (h, w), then `per_quantile` random positions at or above each quantile of the map.

    `swap` repeats the published mistake: rows written as x and columns as y, also in the bookkeeping of what is taken,
    so that a position can be drawn twice (it counts once) and can lie outside of a map that is not square."""
    width = similarity.shape[1]
    points = [_peak(similarity)]
    for quantile in quantiles:
        taken = {y * width + x for x, y in points}
        near = np.flatnonzero(similarity >= np.quantile(similarity, quantile))
        free = [index for index in near.tolist() if index not in taken]
        for pick in torch.randperm(len(free), generator=rng)[:per_quantile].tolist():
            row, column = divmod(free[pick], width)
            point = (row, column) if swap else (column, row)
            if point not in points:
                points.append(point)
    return np.array(points, np.float32)


def cosine_map(features: Tensor, target: Tensor) -> Tensor:
    """(1, C, h, w) and a unit vector (C,) → (h, w) cosines."""
    return torch.einsum("chw,c->hw", F.normalize(features[0], dim=0), target)


def feature_mask(mask: BoolArray, frame: Frame, grid: tuple[int, int]) -> Tensor:
    """(H, W) bool → (h, w) bool, the cells under the mask, by the published rule.

    The mask goes through the image's pre-processing as if it were its red channel, and is interpolated to the cells; a
    cell counts above zero, which is about 48.5 % covered."""
    height, width = frame.resized
    red = (_resize_bytes(mask, (height, width)) - PIXEL_MEAN[0]) / PIXEL_STD[0]
    padded = F.pad(red, (0, frame.input_size - width, 0, frame.input_size - height))
    return F.interpolate(padded[None, None], grid, mode="bilinear", align_corners=False)[0, 0] > 0


def to_photo(points: FloatArray, size: tuple[int, ...], frame: Frame) -> FloatArray:
    """Pixel centres x, y of a map of `size` → photo pixels."""
    scale = np.array([frame.photo[1] / size[1], frame.photo[0] / size[0]], np.float32)
    return ((points + 0.5) * scale - 0.5).astype(np.float32)


def _prototypes(examples: Sequence[Example], embeddings: Sequence[Embedding]) -> Tensor:
    """(K, C) unit vectors: each support's mean feature under its mask."""
    each = zip(examples, embeddings, strict=True)
    return torch.cat([masked_means(z.photo_features[0], cover(e.mask, z.frame)[None]) for e, z in each])


def _under_mask(example: Example, embedding: Embedding, every_cell: bool) -> Tensor:
    """(n, C): the features under a mask. One too thin for any cell gives those that it covers most, or all of them."""
    features = embedding.features[0].flatten(1).T
    grid = (embedding.features.shape[2], embedding.features.shape[3])
    inside = feature_mask(example.mask, embedding.frame, grid).flatten().to(features.device)
    if inside.any():
        return features[inside]
    if every_cell:
        return features
    covered = F.adaptive_avg_pool2d(torch.from_numpy(example.mask)[None].float(), embedding.frame.cells)[0]
    most = (covered == covered.max()).flatten().to(features.device)
    return embedding.photo_features[0].flatten(1).T[most]


def _resize_bytes(mask: BoolArray, size: tuple[int, int]) -> Tensor:
    """(H, W) bool → (h, w) float 0 … 255, bilinear."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return torch.from_numpy(np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))).float()


def _peak(similarity: FloatArray) -> tuple[int, int]:
    row, column = np.unravel_index(int(similarity.argmax()), similarity.shape)
    return int(column), int(row)
