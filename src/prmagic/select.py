"""Eq. (4): which candidate to return. A selector scores candidates; the highest score wins, ties go to the earlier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from prmagic.evaluation.metrics import areas, episode_miou
from prmagic.frameworks.base import Framework, Query, Reference, ReferenceMismatch
from prmagic.types import BoolArray, Candidate

# Its attribute `reads`, if it has one, names the reference's tensors that it needs.
Selector = Callable[[Framework, Query, Reference, Sequence[Candidate]], list[float]]


@dataclass(frozen=True)
class Reencode:
    """The paper's: s_t = cos(E(I_s ⊙ m_s), E(I_q ⊙ m_t)), the mean over the supports, with E the framework's encoder.

    Distinct masks are encoded once, in one batch; empty ones score -inf. published: an empty mask is scored by the
    unmasked photo instead, and only the first support is looked at."""

    published: bool = False
    reads: ClassVar[tuple[str, ...]] = ("descriptors",)

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in -1 … 1 or -inf."""
        masks: dict[bytes, BoolArray] = {}
        keys = []
        for candidate in candidates:
            mask = candidate.mask if candidate.scored_mask is None else candidate.scored_mask
            if self.published and not mask.any():
                mask = np.ones_like(mask)
            keys.append(np.packbits(mask).tobytes())
            if mask.any():
                masks.setdefault(keys[-1], mask)
        if not masks:
            return [-math.inf] * len(candidates)
        supports = reference.tensors["descriptors"]
        vectors = framework.describe([query.image] * len(masks), list(masks.values()))
        cosines = vectors @ (supports[:1] if self.published else supports).to(vectors).T
        scores = dict(zip(masks, cosines.mean(1).tolist(), strict=True))
        return [scores.get(key, -math.inf) for key in keys]


@dataclass(frozen=True)
class Pooled:
    """The mean cosine between the query's own features under the mask and the supports' under theirs.

    Nothing is encoded anew, and nothing is painted black. Masks that are empty or cover more than `largest` of the
    photo score -inf. For frameworks whose references have `prototypes`."""

    largest: float = 0.95
    reads: ClassVar[tuple[str, ...]] = ("prototypes",)

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in -1 … 1 or -inf."""
        prototypes = reference.tensors["prototypes"]
        masks = {np.packbits(candidate.mask).tobytes(): candidate.mask for candidate in candidates}
        usable = {key: mask for key, mask in masks.items() if 0 < mask.mean() <= self.largest}
        if not usable:
            return [-math.inf] * len(candidates)
        means = framework.pooled(query, list(usable.values()))
        scores = dict(zip(usable, (means @ prototypes.to(means).T).mean(1).tolist(), strict=True))
        return [scores.get(np.packbits(candidate.mask).tobytes(), -math.inf) for candidate in candidates]


@dataclass(frozen=True)
class PredictedIou:
    """SAM's own estimate of each mask's quality; empty masks score -inf. A cheap control for eq. (4)."""

    reads: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate."""
        return [c.predicted_iou if c.mask.any() else -math.inf for c in candidates]


@dataclass(frozen=True, eq=False)
class Oracle:
    """The best candidate by the truth (H, W) bool, t = 0 included: what a perfect selector would reach."""

    truth: BoolArray
    reads: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """Each candidate's episode-mIoU."""
        return [float(episode_miou(areas(candidate.mask, self.truth))) for candidate in candidates]


SELECTORS: dict[str, Selector] = {"reencode": Reencode(), "pooled": Pooled(), "predicted-iou": PredictedIou()}


def reads(selector: Selector) -> tuple[str, ...]:
    """The reference's tensors that it needs; one that does not say gets what the paper's reads."""
    named: tuple[str, ...] = getattr(selector, "reads", Reencode.reads)
    return named


def require(selector: Selector, reference: Reference) -> None:
    """Raise ReferenceMismatch if the reference does not hold what the selector reads."""
    for name in reads(selector):
        if name not in reference.tensors:
            raise ReferenceMismatch(
                f"the selector {selector} needs {name} of the supports, which this reference does not hold: choose the "
                "selector that it was made for, or make it anew with this one from the support photos"
            )


def choose(scores: Sequence[float]) -> int:
    """The index of the highest score; the first of equals, and 0 when nothing may win."""
    return max(range(len(scores)), key=lambda index: (scores[index], -index))
