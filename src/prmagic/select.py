"""Eq. (4): which candidate to return. A selector scores candidates; the highest score wins, ties go to the earlier."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.evaluation.metrics import areas, episode_miou, foreground_iou
from prmagic.frameworks.base import Example, Framework, Query, Reference, ReferenceMismatch
from prmagic.types import BoolArray, Candidate

# Its attribute `reads`, if it has one, names the reference's tensors that it needs.
Selector = Callable[[Framework, Query, Reference, Sequence[Candidate]], list[float]]

# Of the selectors in docs/studies.md.
SHARPNESS = 0.05  # cycle: of a support patch's vote, in cosines
TEMPERATURE = 0.1  # consensus: how much more a candidate with a better score counts; left open there
WORSE_BY = 0.1  # veto: predicted IoU below candidate 0's
STEADY = 0.9  # veto: least IoU of the masks at logits above +1 and −1
SAME = 0.98  # guard: IoU with candidate 0 above which a proposal is no change


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


@dataclass(frozen=True)
class Cycle:
    """Patch votes: would the mask, as an example, find the supports' masks again?

    Support patch i votes b_i = σ(v_i / 0.05), v_i its best cosine with the query's patches inside of the mask (more
    than half covered) minus the best outside; the score is Σ min(b, y) / Σ max(b, y), y the share of each patch that
    the support's mask covers. A mask too thin for any patch stands for those that it covers most. Empty masks score
    -inf."""

    reads: ClassVar[tuple[str, ...]] = ("shares",)

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in 0 … 1 or -inf."""
        supports, tokens = framework.support_patches(reference), framework.patches(query)
        cosines = torch.cat([patches.to(tokens) for patches, _ in supports]) @ tokens.T
        truth = torch.cat([shares for _, shares in supports]).to(tokens)

        def score(share: Tensor) -> float:
            inside = share > 0.5 if (share > 0.5).any() else share == share.max()
            votes = ((_best(cosines[:, inside]) - _best(cosines[:, ~inside])) / SHARPNESS).sigmoid()
            return float(torch.minimum(votes, truth).sum() / torch.maximum(votes, truth).sum())

        return _of_shares(framework, query, candidates, score)


@dataclass(frozen=True)
class Recall:
    """How much of what looks like the supports' objects the mask holds, and how much else.

    P is GF-SAM's map of the query's patches: the product of the mean and the largest cosine with the supports'
    foreground, brought to 0 … 1; the score is the harmonic mean of precision and recall of the mask in it. Empty masks
    score -inf."""

    reads: ClassVar[tuple[str, ...]] = ("shares",)

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in 0 … 1 or -inf."""
        tokens = framework.patches(query)
        means, largest = [], []
        for patches, shares in framework.support_patches(reference):
            weight = shares.to(tokens)
            weighted = weight[:, None] * (patches.to(tokens) @ tokens.T)
            means.append(weighted.mean(0) / (weight.mean() + 1e-7))
            largest.append(weighted.amax(0))
        alike = torch.stack(means).mean(0) * torch.stack(largest).mean(0)
        alike = (alike - alike.min()) / (alike.max() - alike.min() + 1e-6)

        def score(share: Tensor) -> float:
            held = float(share @ alike)
            precision, recall = held / float(share.sum()), held / max(float(alike.sum()), 1e-12)
            return 2 * precision * recall / (precision + recall) if held > 0 else 0.0

        return _of_shares(framework, query, candidates, score)


@dataclass(frozen=True)
class CycleRecall:
    """The geometric mean of `Cycle` and `Recall`: one found instance of several closes the cycle, too."""

    reads: ClassVar[tuple[str, ...]] = ("shares",)

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in 0 … 1 or -inf."""
        both = (judge(framework, query, reference, candidates) for judge in (Cycle(), Recall()))
        return [-math.inf if c == -math.inf else math.sqrt(c * f) for c, f in zip(*both, strict=True)]


@dataclass(frozen=True)
class FullCycle:
    """The roles swapped: the query with the mask is the example, and the plain framework looks in the supports.

    The score is the mean IoU of what it finds there with the supports' own masks. It encodes the supports once more
    for all queries, and costs as many decodes per distinct mask and support as the plain framework does per photo."""

    reads: ClassVar[tuple[str, ...]] = ("photos",)

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in 0 … 1 or -inf."""
        supports = framework.supports(reference)

        def score(mask: BoolArray) -> float:
            rng = torch.Generator().manual_seed(0)
            learnt = framework.learn([query], [Example(query.image, mask)], rng)
            ious = []
            for support, truth in supports:
                prompts = framework.sample_prompts(support, learnt, torch.zeros_like(support.embedding.features), rng)
                found = framework.decode(support, learnt, prompts).mask
                ious.append(float(foreground_iou(areas(found, truth))))
            return sum(ious) / len(ious)

        masks = {np.packbits(c.mask).tobytes(): c.mask for c in candidates if c.mask.any()}
        scores = {key: score(mask) for key, mask in masks.items()}
        return [scores.get(np.packbits(c.mask).tobytes(), -math.inf) for c in candidates]


@dataclass(frozen=True)
class Separation:
    """SAM's probability σ(logit), its mean inside of the mask minus that outside; empty masks score -inf.

    What the guard goes by and, with the cycle, its test."""

    reads: ClassVar[tuple[str, ...]] = ()

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in 0 … 1 or -inf."""
        return [self._score(query, candidate) for candidate in candidates]

    def _score(self, query: Query, candidate: Candidate) -> float:
        if candidate.logits is None or not candidate.mask.any():
            return -math.inf
        logits = query.embedding.frame.over_photo(candidate.logits)
        inside, probability = logits > 0, logits.sigmoid()
        means = [float(part.mean()) if len(part) else 0.0 for part in (probability[inside], probability[~inside])]
        return means[0] - means[1]


@dataclass(frozen=True)
class _AroundAnother:
    """A selector that starts from the scores of another, `judge`."""

    judge: Selector = CycleRecall()

    @property
    def reads(self) -> tuple[str, ...]:
        """What its judge does."""
        return reads(self.judge)


@dataclass(frozen=True)
class Consensus(_AroundAnother):
    """The centre of the good candidates: the mean IoU with all, weighted by exp(score of `judge` / 0.1)."""

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in 0 … 1 or -inf."""
        return consensus(self.judge(framework, query, reference, candidates), overlaps(candidates))


@dataclass(frozen=True)
class Veto(_AroundAnother):
    """The scores of `judge`, -inf for candidates of which SAM itself is not sure."""

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate; all -inf, and so candidate 0, if none passes."""
        scores = self.judge(framework, query, reference, candidates)
        return vetoed(scores, [c.predicted_iou for c in candidates], [stability(query, c) for c in candidates])


@dataclass(frozen=True)
class Guard:
    """What `judge` proposes, if neither `Cycle` nor `Separation` prefers candidate 0; else candidate 0."""

    judge: Selector = Separation()

    @property
    def reads(self) -> tuple[str, ...]:
        """What its judge does, and the cycle."""
        return tuple(dict.fromkeys((*reads(self.judge), *Cycle.reads)))

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """The judge's scores if its proposal is accepted; otherwise all but candidate 0's are -inf."""
        asked = (framework, query, reference, candidates)
        return guarded(self.judge(*asked), Cycle()(*asked), Separation()(*asked), overlaps(candidates)[0])


@dataclass(frozen=True)
class Fusion:
    """Reciprocal ranks: Σ 1 / (T + rank) over `judges`, whose scores need no common scale for it."""

    judges: tuple[Selector, ...] = (Cycle(), Recall(), Separation(), PredictedIou())

    @property
    def reads(self) -> tuple[str, ...]:
        """What its judges do."""
        return tuple(dict.fromkeys(name for judge in self.judges for name in reads(judge)))

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, above 0 or -inf."""
        return fused([judge(framework, query, reference, candidates) for judge in self.judges])


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


def overlaps(candidates: Sequence[Candidate]) -> list[list[float]]:
    """IoU of every two masks; two empty ones are the same."""
    flat = torch.from_numpy(np.stack([candidate.mask.ravel() for candidate in candidates])).float()
    shared = flat @ flat.T
    sizes = shared.diagonal()
    union = sizes[:, None] + sizes - shared
    found: list[list[float]] = torch.where(union > 0, shared / union.clamp(min=1), 1.0).tolist()
    return found


def stability(query: Query, candidate: Candidate) -> float:
    """IoU of the masks at logits above +1 and above −1; 1 where there are no logits to judge by."""
    if candidate.logits is None:
        return 1.0
    logits = query.embedding.frame.over_photo(candidate.logits)
    return float((logits > 1).sum() / (logits > -1).sum().clamp(min=1))


def consensus(scores: Sequence[float], overlap: Sequence[Sequence[float]]) -> list[float]:
    """Σ_u π_u IoU(M_t, M_u) with π ∝ exp(score / 0.1); -inf stays."""
    if max(scores) == -math.inf:
        return list(scores)
    weights = F.softmax(torch.tensor(scores, dtype=torch.float64) / TEMPERATURE, dim=0)
    agreed = (torch.tensor(overlap, dtype=torch.float64) @ weights).tolist()
    return [-math.inf if score == -math.inf else each for score, each in zip(scores, agreed, strict=True)]


def fused(judged: Sequence[Sequence[float]]) -> list[float]:
    """Σ_k 1 / (T + rank of score k) of T + 1 candidates: the best has rank 1, equal ones share one; -inf stays."""
    ranks = [[1 + sum(other > score for other in scores) for score in scores] for scores in judged]
    steps = len(judged[0]) - 1
    return [
        -math.inf if -math.inf in scores else sum(1 / (steps + rank) for rank in ranked)
        for scores, ranked in zip(zip(*judged, strict=True), zip(*ranks, strict=True), strict=True)
    ]


def vetoed(scores: Sequence[float], predicted_iou: Sequence[float], steady: Sequence[float]) -> list[float]:
    """-inf where the predicted IoU is more than 0.1 below candidate 0's, or the stability below 0.9."""
    least = predicted_iou[0] - WORSE_BY
    judged = zip(scores, predicted_iou, steady, strict=True)
    return [score if iou >= least and sure >= STEADY else -math.inf for score, iou, sure in judged]


def guarded(
    scores: Sequence[float], cycle: Sequence[float], separation: Sequence[float], overlap: Sequence[float]
) -> list[float]:
    """The scores if the best candidate passes, else -inf for all but candidate 0; overlap: IoU with candidate 0."""
    best = choose(scores)
    passes = cycle[best] >= cycle[0] and separation[best] >= separation[0] and overlap[best] <= SAME
    return list(scores) if best == 0 or passes else [scores[0], *[-math.inf] * (len(scores) - 1)]


SELECTORS: dict[str, Selector] = {
    "reencode": Reencode(),
    "pooled": Pooled(),
    "predicted-iou": PredictedIou(),
    "separation": Separation(),
    "cycle": Cycle(),
    "recall": Recall(),
    "cycle-recall": CycleRecall(),
    "full-cycle": FullCycle(),
    "fusion": Fusion(),
    "consensus": Consensus(),
    "veto": Veto(),
    "guard": Guard(),
}
# What costs an encode of each support, or much memory: references hold it only for selectors that read it, unless their
# framework keeps it anyway.
EXTRAS = ("descriptors", "shares", "photos")


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


def _best(cosines: Tensor) -> Tensor:
    """(m, n) → (m,): the largest of each row; of none, -inf."""
    return cosines.amax(1) if cosines.shape[1] else cosines.new_full((len(cosines),), -math.inf)


def _of_shares(
    framework: Framework, query: Query, candidates: Sequence[Candidate], score: Callable[[Tensor], float]
) -> list[float]:
    """A function of the share of each patch that a mask covers, called once for equal masks; -inf for empty ones."""
    masks = {np.packbits(c.mask).tobytes(): c.mask for c in candidates if c.mask.any()}
    if not masks:
        return [-math.inf] * len(candidates)
    found = dict(zip(masks, map(score, framework.shares(query, list(masks.values()))), strict=True))
    return [found.get(np.packbits(c.mask).tobytes(), -math.inf) for c in candidates]
