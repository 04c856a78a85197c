"""Eq. (4) of the paper: which candidate to return. A selector scores candidates; the highest score wins.

A selector is any function `(framework, query, reference, candidates) -> list[float]`, one score per candidate, higher
is better, -inf for a candidate that may not win. Three attributes are optional: `prepare(framework, examples)` gives
tensors that a reference keeps for it, and `reads` names them; `widened`, called in its place, also returns the
candidates, with more of SAM's masks behind them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prmagic.frameworks.base import Framework, Query
from prmagic.frameworks.maps import to_later_mask
from prmagic.reference import Example, Reference, ReferenceMismatch
from prmagic.types import BoolArray, ByteArray, Candidate
from prmagic.votes import cycle_scores, distinct, pooled_shares, recall_scores, standardised, thinned

Selector = Callable[[Framework, Query, Reference, Sequence[Candidate]], list[float]]

SAME = 0.98  # IoU above which two masks count as one


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
    supports = torch.cat([support.vectors.to(tokens) for support in reference.supports])
    truth = torch.cat([support.shares for support in reference.supports]).to(tokens)
    return _of_shares(query, candidates, partial(cycle_scores, tokens @ supports.T, truth))


def recall(framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]) -> list[float]:
    """How much of what looks like the supports' objects the mask holds, and how much else. In 0 … 1, or -inf.

    P is GF-SAM's map of the query's patches: the product of the mean and the largest cosine with the supports'
    foreground, brought to 0 … 1; the score is the harmonic mean of precision and recall of the mask in it."""
    return _of_shares(query, candidates, partial(recall_scores, query, reference))


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


@dataclass(frozen=True)
class Judge:
    """Looks at all masks that SAM gave, not only at one per step: z(cycle-recall) + 0.7 z(predicted IoU), and 0.3 more
    for candidate 0. A mask whose cycle-recall is below `Framework.margin` times candidate 0's cannot beat it.

    z(x) is x minus the mean over all masks of the photo, in their standard deviations: so it depends on no model's
    scale.

    Args:
        quality: Weight of SAM's predicted IoU.
        first: What the framework's own answer is given in advance.
        kept: How many of the other masks become candidates of a result.
    """

    quality: float = 0.7
    first: float = 0.3
    kept: int = 6

    def __call__(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> list[float]:
        """One score per candidate, in standard deviations, or -inf for an empty mask."""
        covered = [
            query.tokens.cover([each.mask])
            if each.logits is None
            else query.tokens.cover_logits(each.logits[None].to(query.tokens.vectors), query.embedding.frame)
            for each in candidates
        ]
        empty, predicted = [each.empty for each in candidates], [each.predicted_iou for each in candidates]
        return self._scores(framework, query, reference, torch.cat(covered), predicted, empty)

    def widened(
        self, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[float]]:
        """The candidates and the best of what SAM gave beside them, with their scores; nearly equal masks once."""
        others = [(index, other) for index, each in enumerate(candidates) for other in each.others]
        others.sort(key=lambda each: (each[0], -each[1].predicted_iou))
        own_logits = [each.logits for each in candidates if each.logits is not None]
        if len(own_logits) < len(candidates) or not others:
            return list(candidates), self(framework, query, reference, candidates)
        frame, own = query.embedding.frame, len(candidates)
        masks = torch.stack(
            [frame.over_photo(each) > 0 for each in (*own_logits, *(each.logits for _, each in others))]
        )
        kept = [*range(own), *distinct(masks, own, SAME)]
        others = [others[index - own] for index in kept[own:]]
        predicted = [each.predicted_iou for each in candidates] + [other.predicted_iou for _, other in others]
        covered = query.tokens.cover_low(masks[kept], frame, own_logits[0].shape[-1])
        empty = [each.empty for each in candidates] + [False] * len(others)
        scores = self._scores(framework, query, reference, covered, predicted, empty)
        best_others = sorted(range(len(others)), key=lambda index: -scores[own + index])[: self.kept]
        further = []
        for index in sorted(each for each in best_others if scores[own + each] > -math.inf):
            at, other = others[index]
            shown = replace(other.prompts, similarity=candidates[at].prompts.similarity)
            mask = to_later_mask(other.logits, frame)
            candidate = Candidate(
                mask, shown, other.predicted_iou, other.logits, other.channel, step=candidates[at].step,
                parts=other.parts, beside=True,
            )  # fmt: skip
            if not candidate.empty:  # a speck at low resolution may be gone at the photo's size
                further.append((candidate, scores[own + index]))
        return [*candidates, *(each for each, _ in further)], [*scores[:own], *(score for _, score in further)]

    def _scores(
        self, framework: Framework, query: Query, reference: Reference, covered: Tensor,
        predicted_iou: Sequence[float], empty: Sequence[bool],
    ) -> list[float]:  # fmt: skip
        scores = torch.full((len(covered),), -math.inf)
        seen = [index for index, any_patch in enumerate(covered.any(1).tolist()) if any_patch and not empty[index]]
        if seen:
            cycles = cycle_scores(*thinned(query, reference), pooled_shares(covered[seen], query.tokens.grid))
            recalls = recall_scores(query, reference, covered[seen])
            both = [math.sqrt(cycle * recall) for cycle, recall in zip(cycles, recalls, strict=True)]
            quality = standardised([predicted_iou[index] for index in seen])
            scores[seen] = standardised(both) + self.quality * quality
            scores[0] += self.first
            if seen[0] == 0:  # of equals the first is chosen
                weak = [index for index, alike in zip(seen, both, strict=True) if alike < framework.margin * both[0]]
                scores[weak] = scores[weak].clamp(max=scores[0])
        return scores.tolist()


SELECTORS: Mapping[str, Selector] = {
    "judge": Judge(), "reencode": Reencode(), "cycle-recall": cycle_recall, "guard": guard,
}  # fmt: skip


def selector_name(selector: Selector) -> str:
    """As in SELECTORS for one of those; otherwise the function's or the class's own name."""
    if isinstance(selector, Reencode | Judge):
        return "judge" if isinstance(selector, Judge) else "reencode"
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


def judged(
    selector: Selector, framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
) -> tuple[Sequence[Candidate], list[float]]:
    """What a result chooses from, and its scores: the candidates, and more masks of SAM where the selector wants them.

    A candidate that is alone gets nan."""
    widened: Any = getattr(selector, "widened", None)
    if widened is not None:
        candidates, scores = widened(framework, query, reference, candidates)
    elif len(candidates) > 1:
        scores = selector(framework, query, reference, candidates)
    if len(candidates) == 1:
        return candidates, [math.nan]
    if len(scores) != len(candidates) or any(math.isnan(score) for score in scores):
        raise ValueError(
            f"the selector {selector_name(selector)} must give a number for each of {len(candidates)} "
            f"candidates; got {list(scores)}"
        )
    return candidates, scores


def best(scores: Sequence[float]) -> int:
    """The index of the highest score; the first of equals, and 0 when nothing may win."""
    return max(range(len(scores)), key=lambda index: (scores[index], -index))


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


def _of_shares(
    query: Query, candidates: Sequence[Candidate], scores: Callable[[Tensor], Sequence[float]]
) -> list[float]:
    """A function of the shares (n, N) of the query's patches that n masks cover."""
    return _of_distinct([candidate.mask for candidate in candidates], lambda masks: scores(query.tokens.cover(masks)))
