"""Eq. (4) of the paper: which candidate to return. A selector scores candidates; the highest score wins.

A selector is any function `(framework, query, reference, candidates) -> list[float]`, one score per candidate, higher
is better, -inf for a candidate that may not win. Two attributes are optional: `prepare(framework, examples)` gives
tensors that a reference keeps for it, and `reads` names them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prmagic.frameworks.base import Framework, Query
from prmagic.reference import Example, Reference, ReferenceMismatch
from prmagic.types import BoolArray, ByteArray, Candidate

Selector = Callable[[Framework, Query, Reference, Sequence[Candidate]], list[float]]

SHARPNESS = 0.05  # cycle: of a support patch's vote, in cosines
SAME = 0.98  # guard: IoU with candidate 0 above which a proposal is no change


@dataclass(frozen=True)
class Reencode:
    """The paper's eq. (4): s_t = cos(E(I_s ⊙ m_s), E(I_q ⊙ m_t)), the mean over the supports.

    E is the encoder that the framework compares with. Distinct masks are encoded once, in one batch; empty ones score
    -inf. published: an empty mask is scored by the unmasked photo instead, only the first support is looked at, and
    the mean includes the padding."""

    published: bool = False

    @property
    def reads(self) -> tuple[str]:
        """What a reference keeps for it; with and without padding it is not the same."""
        return ("padded_descriptors" if self.published else "descriptors",)

    def prepare(self, framework: Framework, examples: Sequence[Example]) -> dict[str, Tensor]:
        """Descriptors (K, C): of each support with all outside its mask black."""
        pairs = [(example.image, example.mask) for example in examples]
        return {self.reads[0]: self._describe(framework, pairs)}

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in -1 … 1 or -inf."""
        masks = [candidate.mask if candidate.scored_mask is None else candidate.scored_mask for candidate in candidates]
        if self.published:
            masks = [mask if mask.any() else np.ones_like(mask) for mask in masks]
        supports = reference.tensors[self.reads[0]][: 1 if self.published else None]

        def scores(distinct: Sequence[BoolArray]) -> list[float]:
            vectors = self._describe(framework, [(query.image, mask) for mask in distinct])
            found: list[float] = (vectors @ supports.to(vectors).T).mean(1).tolist()
            return found

        return _of_distinct(masks, scores)

    def _describe(self, framework: Framework, pairs: Sequence[tuple[ByteArray, BoolArray]]) -> Tensor:
        black = (np.where(mask[..., None], image, np.uint8(0)) for image, mask in pairs)
        return framework.comparer.describe(black, padding=self.published)


def cycle_recall(
    framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
) -> list[float]:
    """The geometric mean of `cycle` and `recall`: one found instance of several closes the cycle, too."""
    both = (judge(framework, query, reference, candidates) for judge in (cycle, recall))
    return [-math.inf if c == -math.inf else math.sqrt(c * r) for c, r in zip(*both, strict=True)]


def guard(framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]) -> list[float]:
    """The scores of `separation`, if neither it nor `cycle` prefers candidate 0 to its best; else only candidate 0 may
    win. A best that is nearly candidate 0's mask counts as no change."""
    separated = separation(framework, query, reference, candidates)
    closed = cycle(framework, query, reference, candidates)
    return guarded(separated, closed, _overlap_with_first(candidates))


def cycle(framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]) -> list[float]:
    """Patch votes: would the mask, as an example, find the supports' masks again? In 0 … 1, or -inf for empty masks.

    Support patch i votes b_i = σ(v_i / 0.05), v_i its best cosine with the query's patches inside of the mask (more
    than half covered) minus the best outside; the score is Σ min(b, y) / Σ max(b, y), y the share of each patch that
    the support's mask covers. A mask too thin for any patch stands for those that it covers most."""
    tokens = query.tokens.vectors
    cosines = torch.cat([support.vectors.to(tokens) for support in reference.supports]) @ tokens.T
    truth = torch.cat([support.shares for support in reference.supports]).to(tokens)

    def score(share: Tensor) -> float:
        inside = share > 0.5 if (share > 0.5).any() else share == share.max()
        votes = ((_best_cosine(cosines[:, inside]) - _best_cosine(cosines[:, ~inside])) / SHARPNESS).sigmoid()
        return float(torch.minimum(votes, truth).sum() / torch.maximum(votes, truth).sum())

    return _of_shares(query, candidates, score)


def recall(framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]) -> list[float]:
    """How much of what looks like the supports' objects the mask holds, and how much else. In 0 … 1, or -inf.

    P is GF-SAM's map of the query's patches: the product of the mean and the largest cosine with the supports'
    foreground, brought to 0 … 1; the score is the harmonic mean of precision and recall of the mask in it."""
    tokens = query.tokens.vectors
    means, largest = [], []
    for support in reference.supports:
        weight = support.shares.to(tokens)
        weighted = weight[:, None] * (support.vectors.to(tokens) @ tokens.T)
        means.append(weighted.mean(0) / (weight.mean() + 1e-7))
        largest.append(weighted.amax(0))
    alike = torch.stack(means).mean(0) * torch.stack(largest).mean(0)
    alike = (alike - alike.min()) / (alike.max() - alike.min() + 1e-6)

    def score(share: Tensor) -> float:
        held = float(share @ alike)
        precision, recalled = held / float(share.sum()), held / max(float(alike.sum()), 1e-12)
        return 2 * precision * recalled / (precision + recalled) if held > 0 else 0.0

    return _of_shares(query, candidates, score)


def separation(
    framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
) -> list[float]:
    """SAM's probability σ(logit), its mean inside of the mask minus that outside; empty masks score -inf."""

    def score(candidate: Candidate) -> float:
        if candidate.logits is None or not candidate.mask.any():
            return -math.inf
        logits = query.embedding.frame.over_photo(candidate.logits.to(query.embedding.features.device))
        inside, probability = logits > 0, logits.sigmoid()
        means = [float(part.mean()) if len(part) else 0.0 for part in (probability[inside], probability[~inside])]
        return means[0] - means[1]

    return [score(candidate) for candidate in candidates]


def guarded(scores: Sequence[float], cycle: Sequence[float], overlap: Sequence[float]) -> list[float]:
    """The scores if the best candidate passes, else -inf for all but candidate 0; overlap: IoU with candidate 0."""
    proposed = best(scores)
    passes = cycle[proposed] >= cycle[0] and scores[proposed] >= scores[0] and overlap[proposed] <= SAME
    return list(scores) if proposed == 0 or passes else [scores[0], *[-math.inf] * (len(scores) - 1)]


SELECTORS: Mapping[str, Selector] = {"reencode": Reencode(), "cycle-recall": cycle_recall, "guard": guard}


def selector_name(selector: Selector) -> str:
    """As in SELECTORS for one of those; otherwise the function's or the class's own name."""
    if isinstance(selector, Reencode):
        return "reencode"
    known = {id(each): name for name, each in SELECTORS.items()}
    return known.get(id(selector)) or str(getattr(selector, "__name__", type(selector).__name__))


def prepared(selectors: Sequence[Selector], framework: Framework, examples: Sequence[Example]) -> dict[str, Tensor]:
    """What these selectors keep of the supports, by name."""
    kept: dict[str, Tensor] = {}
    for selector in selectors:
        prepare: Any = getattr(selector, "prepare", None)
        if prepare is not None:
            kept |= prepare(framework, examples)
    return kept


def lacking(selector: Selector, reference: Reference) -> list[str]:
    """Which of the tensors that the selector reads the reference does not hold."""
    return [name for name in getattr(selector, "reads", ()) if name not in reference.tensors]


def require(selector: Selector, reference: Reference) -> None:
    """Raise ReferenceMismatch if the reference does not hold what the selector reads."""
    for name in lacking(selector, reference):
        raise ReferenceMismatch(
            f"the selector {selector_name(selector)} needs {name} of the supports, which this reference does not hold: "
            "choose the selector that it was made for, or make it anew with this one from the support photos"
        )


def best(scores: Sequence[float]) -> int:
    """The index of the highest score; the first of equals, and 0 when nothing may win."""
    return max(range(len(scores)), key=lambda index: (scores[index], -index))


def _best_cosine(cosines: Tensor) -> Tensor:
    """(m, n) → (m,): the largest of each row; of none, -inf."""
    return cosines.amax(1) if cosines.shape[1] else cosines.new_full((len(cosines),), -math.inf)


def _overlap_with_first(candidates: Sequence[Candidate]) -> list[float]:
    """IoU of every mask with candidate 0's; two empty ones are the same."""
    first = candidates[0].mask
    either = [int((first | candidate.mask).sum()) for candidate in candidates]
    both = [int((first & candidate.mask).sum()) for candidate in candidates]
    return [shared / union if union else 1.0 for shared, union in zip(both, either, strict=True)]


def _of_distinct(masks: Sequence[BoolArray], scores: Callable[[Sequence[BoolArray]], Sequence[float]]) -> list[float]:
    """A function of masks, asked once for all distinct ones; empty ones score -inf."""
    distinct = {np.packbits(mask).tobytes(): mask for mask in masks if mask.any()}
    if not distinct:
        return [-math.inf] * len(masks)
    found = dict(zip(distinct, scores(list(distinct.values())), strict=True))
    return [found.get(np.packbits(mask).tobytes(), -math.inf) for mask in masks]


def _of_shares(query: Query, candidates: Sequence[Candidate], score: Callable[[Tensor], float]) -> list[float]:
    """A function of the share of each of the query's patches that a mask covers."""
    return _of_distinct(
        [candidate.mask for candidate in candidates],
        lambda distinct: [score(share) for share in query.tokens.cover(distinct)],
    )
