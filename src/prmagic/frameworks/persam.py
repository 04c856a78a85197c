"""PerSAM and PerSAM-F (arXiv 2305.03048) as prompters, one-shot and few-shot.

A target feature of the support, its cosine with every position of the query, the peak of that map as a point, and SAM
asked three times: the point; the point with the box and the logits of the first answer; and once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.backbones.promptable import PIXEL_MEAN, PIXEL_STD, Embedding, Frame
from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Preset, Query
from prmagic.frameworks.maps import (
    cosine_map,
    peak,
    quick_cosine_map,
    resize_mask,
    stands_out,
    to_later_mask,
    to_photo,
    working_size,
)
from prmagic.frameworks.mask_weights import fit_mixture
from prmagic.options import option
from prmagic.reference import Example, Reference
from prmagic.types import BoolArray, Candidate, FloatArray, Other, Prompts

# Where PerSAM-F's points beside the peak come from: above which quantiles of the similarity map.
QUANTILES: dict[str, tuple[float, ...]] = {
    "none": (),
    "0.99/0.90": (0.99, 0.90),
    "0.99999/0.9999": (0.99999, 0.9999),
}
DEFAULT = Preset(flow=Flow(mode="spread"), selector="judge")  # chosen on the dev classes
APART = 0.1  # of the similarity map's longer side: how far the flow `spread` keeps from what it has asked

Cosines = Callable[[Tensor, Tensor], Tensor]
Box = tuple[float, float, float, float]


class PerSam(Framework):
    """PerSAM: one positive and one negative point, target-guided attention, target-semantic prompting.

    transformers' decoder adds the similarity to the attention's logits before its one soft-max. The published PerSAM
    adds it after a soft-max and takes a second one, so its results differ."""

    name = "persam"
    presets: ClassVar[Mapping[str, Preset]] = {"default": DEFAULT}

    def encode_support(
        self, examples: Sequence[Example], queries: Sequence[Query], rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Target (C,): a unit vector, from the features under the masks of all supports together."""
        each = zip(examples, queries, strict=True)
        under = torch.cat([self.under_mask(example, query.embedding) for example, query in each])
        return {"target": self.target(under)}

    def sample_prompts(
        self, query: Query, references: Sequence[Reference], shifts: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> list[Prompts]:
        """The arg-max of the similarity map as object, the arg-min as background."""
        found = []
        for reference, shift in zip(references, shifts, strict=True):
            similarity = self.peaked(query.embedding, reference.tensors["target"], shift, (1, -1))
            points = np.array([peak(similarity), peak(-similarity)], np.float32)
            placed = to_photo(points, similarity.shape, query.embedding.frame)
            found.append(Prompts(placed, np.array([1, 0]), similarity=similarity))
        return found

    def decode(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[Candidate]:
        """The first stage; then twice more the same points, with the box and the logits of the stage before."""
        frame = query.embedding.frame
        first, beside = zip(*self.first_stage(query, references, prompts), strict=True)
        second = [
            replace(each, box=box, mask_logits=logits)
            for each, box, logits in zip(prompts, self.boxes(first, frame), first, strict=True)
        ]
        found = [answers[0].logits for answers in self._answers(query, second)]
        third = [
            replace(each, mask_logits=logits, box=box)
            for each, logits, box in zip(second, found, self.third_boxes(second, found, frame), strict=True)
        ]
        return [
            Candidate(
                to_later_mask(best.logits, frame), best.prompts, best.predicted_iou, best.logits, best.channel,
                self.scored_mask(logits, frame), others=(*others, *rest),
            )
            for (best, *rest), logits, others in zip(self._answers(query, third), first, beside, strict=True)
        ]  # fmt: skip

    def next_prompts(self, query: Query, reference: Reference, earlier: Sequence[Prompts]) -> Prompts | None:
        """The highest place of the similarity map that is more than a tenth of its longer side from those before."""
        first, frame = earlier[0], query.embedding.frame
        assert first.similarity is not None
        # The map without what lies near to all of them but the last, which that map gave.
        known: dict[int, FloatArray] = query.memo.setdefault("apart", {})
        left = known.get(id(first.similarity)) if len(earlier) > 1 else None
        new = earlier if left is None else earlier[-1:]
        left = known[id(first.similarity)] = first.similarity.copy() if left is None else left
        place = peak_apart(left, [each.points[0] for each in new], frame)
        if place is None:
            return None
        asked = np.concatenate([place[None], first.points[first.labels == 0]])
        return Prompts(asked, np.array([1] + [0] * (len(asked) - 1)), similarity=first.similarity)

    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """The last stage's low-resolution logits."""
        decoded = self.sam.decode(embeddings, [candidate.prompts for candidate in candidates]).logits
        maps = [answers[candidate.channel] for answers, candidate in zip(decoded, candidates, strict=True)]
        return [self.over_photo(each, query.embedding.frame)[None] for each in maps]

    def similarity(
        self, embedding: Embedding, target: Tensor, shift: Tensor | float = 0.0, cosines: Cosines = cosine_map
    ) -> FloatArray:
        """Cosine of the target with every position of z₀ + shift, over the photo at its working size: (h, w)."""
        frame = embedding.frame
        cosine = self.padded(cosines(embedding.features + shift, target.to(self.sam.device)), frame)
        enlarged = F.interpolate(cosine[None, None], scale_factor=4, mode="bilinear", align_corners=False)[0, 0]
        upscaled: FloatArray = frame.upscale(enlarged, self.working_size(frame)).cpu().numpy()
        return upscaled

    def peaked(self, embedding: Embedding, target: Tensor, shift: Tensor, signs: Sequence[int]) -> FloatArray:
        """`similarity` up to rounding, as long as that cannot move the peaks of ± the map that are asked for."""
        quick = self.similarity(embedding, target, shift, quick_cosine_map)
        if all(stands_out(sign * quick) for sign in signs):
            return quick
        return self.similarity(embedding, target, shift)

    def target(self, features: Tensor) -> Tensor:
        """(n, C) under the masks → (C,)."""
        return F.normalize(features.mean(0), dim=0)

    def first_stage(
        self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]
    ) -> Iterable[tuple[Tensor, Sequence[Other]]]:
        """Logits (s, s), one mask each, guided by its target; and what SAM answered beside it, here nothing."""
        for reference, each in zip(references, prompts, strict=True):
            target = reference.tensors["target"].to(self.sam.device)
            cosine = cosine_map(query.embedding.features, target)
            seen = self.seen(cosine, query.embedding.frame)
            guide = ((cosine - seen.mean()) / seen.std().clamp(min=1e-6)).sigmoid().view(1, 1, 1, -1)
            decoded = self.sam.decode(
                query.embedding, [each], multimask=False, attention_similarity=guide,
                target_embedding=target.view(1, 1, 1, -1),
            )  # fmt: skip
            yield decoded.logits[0, 0], ()

    def boxes(self, logits: Sequence[Tensor], frame: Frame) -> list[Box | None]:
        """Around the objects, in photo pixels; found at the working size, because nothing else is needed of the masks.

        None for an empty mask."""
        size = self.working_size(frame)
        found: list[Box | None] = []
        for box in frame.boxes(torch.stack(list(logits)), size, exact=True).numpy():
            (x0, y0), (x1, y1) = to_photo(box.astype(np.float32).reshape(2, 2), size, frame).tolist()
            found.append(None if box[0] < 0 else (x0, y0, x1, y1))
        return found

    # published.py overrides these with what the published code does:

    def under_mask(self, example: Example, embedding: Embedding) -> Tensor:
        """(n, C): the features under a mask. One too thin for any cell gives those that it covers most."""
        inside = feature_mask(example.mask, embedding)
        if inside.any():
            return embedding.features[0].flatten(1).T[inside]
        covered = F.adaptive_avg_pool2d(torch.from_numpy(example.mask)[None].float(), embedding.frame.cells)[0]
        most = (covered == covered.max()).flatten().to(inside.device)
        return embedding.photo_features[0].flatten(1).T[most]

    def padded(self, cosine: Tensor, frame: Frame) -> Tensor:
        """The photo's last cells repeated into the padding, or interpolation would mix the padding in: (h, w)."""
        rows, columns = frame.cells
        spare = (0, cosine.shape[1] - columns, 0, cosine.shape[0] - rows)
        return F.pad(cosine[None, None, :rows, :columns], spare, mode="replicate")[0, 0]

    def seen(self, cosine: Tensor, frame: Frame) -> Tensor:
        """(h, w) → the cells that hold the photo."""
        rows, columns = frame.cells
        return cosine[:rows, :columns]

    def over_photo(self, logits: Tensor, frame: Frame) -> Tensor:
        """(s, s) → the part of the low-resolution logits that d sums up."""
        return frame.over_photo(logits)

    def working_size(self, frame: Frame) -> tuple[int, int]:
        """(height, width) of similarity maps."""
        return working_size(frame.photo)

    def third_boxes(self, second: Sequence[Prompts], logits: Sequence[Tensor], frame: Frame) -> list[Box | None]:
        """The last stage's boxes: those of the second stage's masks."""
        return self.boxes(logits, frame)

    def scored_mask(self, first: Tensor, frame: Frame) -> BoolArray | None:
        """What eq. (4) looks at instead of the candidate's mask; None: the mask itself."""
        return None

    def _answers(self, query: Query, prompts: Sequence[Prompts]) -> list[list[Other]]:
        """SAM's three answers to each, the one that it thinks best first."""
        decoded = self.sam.decode(query.embedding, prompts)
        return [answers(*each) for each in zip(decoded.logits, decoded.predicted_iou, prompts, strict=True)]


@dataclass(frozen=True)
class PerSamFOptions:
    """PerSAM-F's settings."""

    points: int = option(5, "The peak and 2 · ⌊points / 2⌋ extra points; the paper has 5 for objects, 3 for parts")
    extra_points: str = option(
        "none", "Above which quantiles of the similarity map the extra points are drawn", tuple(QUANTILES)
    )

    def __post_init__(self) -> None:
        if self.points < 1:
            raise ValueError(f"points must be 1 or more; got {self.points}")
        if self.extra_points not in QUANTILES:
            raise ValueError(f"unknown extra_points {self.extra_points!r}; choose one of: {', '.join(QUANTILES)}")


class PerSamF(PerSam):
    """PerSAM-F: positive points only; SAM's three masks of the first stage mixed by weights fitted on the support."""

    name = "persam-f"
    margin = 1.2  # chosen on the dev classes
    Options = PerSamFOptions
    swap_points = False  # the published mistake
    fit = staticmethod(fit_mixture)

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """The mask weights depend on the support's own points."""
        extra = self.options.extra_points
        return {**super().reference_settings, "extra_points": extra} | (
            {} if extra == "none" else {"points": self.options.points}
        )

    def encode_support(
        self, examples: Sequence[Example], queries: Sequence[Query], rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """PerSAM's target, and mask_weights (3,) that sum to 1."""
        learnt = super().encode_support(examples, queries, rng)
        logits, truths = [], []
        for example, query in zip(examples, queries, strict=True):
            frame = query.embedding.frame
            prompts = self._points(self.similarity(query.embedding, learnt["target"]), frame, rng)
            low = self.sam.decode(query.embedding, [prompts]).logits[0]
            size = self.working_size(frame)
            logits.append(frame.upscale(low, size).cpu())
            truths.append((resize_mask(example.mask, size) > 127).float())
        return {**learnt, "mask_weights": self.fit(logits, truths)}

    def sample_prompts(
        self, query: Query, references: Sequence[Reference], shifts: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> list[Prompts]:
        """The arg-max of the similarity map and, on request, random positions near it; all labelled object."""
        found = []
        for reference, shift, rng in zip(references, shifts, rngs, strict=True):
            target = reference.tensors["target"]
            if self.options.extra_points == "none":
                similarity = self.peaked(query.embedding, target, shift, (1,))
            else:
                similarity = self.similarity(query.embedding, target, shift)
            found.append(self._points(similarity, query.embedding.frame, rng))
        return found

    def first_stage(
        self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]
    ) -> Iterable[tuple[Tensor, Sequence[Other]]]:
        """Logits (s, s), the weighted mixture of SAM's three masks each; and the three."""
        decoded = self.sam.decode(query.embedding, prompts)
        for reference, masks, iou, each in zip(references, decoded.logits, decoded.predicted_iou, prompts, strict=True):
            weights = reference.tensors["mask_weights"].to(masks)
            yield torch.einsum("m,mhw->hw", weights, masks), answers(masks, iou, each)

    def target(self, features: Tensor) -> Tensor:
        """(n, C) under the masks → (C,): half the mean, half the maximum."""
        return F.normalize(features.mean(0) / 2 + features.amax(0) / 2, dim=0)

    def _points(self, similarity: FloatArray, frame: Frame, rng: torch.Generator) -> Prompts:
        quantiles = QUANTILES[self.options.extra_points]
        points = sample_points(similarity, self.options.points // 2, quantiles, rng, self.swap_points)
        return Prompts(to_photo(points, similarity.shape, frame), np.ones(len(points), np.int64), similarity=similarity)


def sample_points(
    similarity: FloatArray, per_quantile: int, quantiles: Sequence[float], rng: torch.Generator, swap: bool = False
) -> FloatArray:
    """The peak of a similarity map and random positions near it.

    Args:
        similarity: (h, w).
        per_quantile: How many positions to draw above each quantile.
        quantiles: Of the map, in 0 … 1.
        rng: Draws the positions.
        swap: Repeat the published mistake: rows written as x and columns as y, also in the bookkeeping of what is
            taken, so that a position can be drawn twice (it counts once) and can lie outside of the map.

    Returns:
        (N, 2) x, y in pixels of the map.
    """
    width = similarity.shape[1]
    points = [peak(similarity)]
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


def answers(logits: Tensor, predicted_iou: Tensor, prompts: Prompts) -> list[Other]:
    """SAM's answers to one prompt set, logits (M, s, s), the one that it thinks best first; the first of equals."""
    order = predicted_iou.argsort(descending=True, stable=True).tolist()
    return [Other(logits[channel], prompts, float(predicted_iou[channel]), channel) for channel in order]


def peak_apart(similarity: FloatArray, points: Sequence[FloatArray], frame: Frame) -> FloatArray | None:
    """The highest place of a similarity map (h, w) over the photo that is more than `APART` of the map's longer side
    away from these points (x, y in the photo); (2,) x, y in the photo, or None if there is none.

    What is nearer becomes -inf in the map."""
    left, (height, width) = similarity, similarity.shape
    radius = APART * max(height, width)
    for point in points:
        x, y = (point + 0.5) * (width / frame.photo[1], height / frame.photo[0]) - 0.5
        rows = slice(max(0, math.ceil(y - radius)), max(0, math.floor(y + radius) + 1))
        columns = slice(max(0, math.ceil(x - radius)), max(0, math.floor(x + radius) + 1))
        ys, xs = np.ogrid[rows.start : min(rows.stop, height), columns.start : min(columns.stop, width)]
        left[rows, columns][(xs - x) ** 2 + (ys - y) ** 2 <= radius**2] = -np.inf
    place = peak(left)
    if left[place[1], place[0]] == -np.inf:
        return None
    photo: FloatArray = to_photo(np.array([place], np.float32), similarity.shape, frame)[0]
    return photo


def feature_mask(mask: BoolArray, embedding: Embedding) -> Tensor:
    """(H, W) bool → (h · w,) bool, the cells under the mask, by the published rule.

    The mask goes through the image's pre-processing as if it were its red channel, and is interpolated to the cells; a
    cell counts above zero, which is about 48.5 % covered."""
    frame, grid = embedding.frame, (embedding.features.shape[2], embedding.features.shape[3])
    height, width = frame.resized
    red = (resize_mask(mask, (height, width)) - PIXEL_MEAN[0]) / PIXEL_STD[0]
    padded = F.pad(red, (0, frame.input_size - width, 0, frame.input_size - height))
    over = F.interpolate(padded[None, None], grid, mode="bilinear", align_corners=False)[0, 0] > 0
    return over.flatten().to(embedding.features.device)
