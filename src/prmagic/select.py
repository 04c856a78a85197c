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
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.frameworks.base import Framework, Query
from prmagic.reference import Example, Reference, ReferenceMismatch
from prmagic.types import BoolArray, ByteArray, Candidate

Selector = Callable[[Framework, Query, Reference, Sequence[Candidate]], list[float]]

SHARPNESS = 0.05  # cycle: of a support patch's vote, in cosines
SAME = 0.98  # IoU above which two masks count as one
PATCHES = 32  # judge: how many patches of a photo are compared, along a side
TINY = 1e-6  # so that equal values are not divided by 0


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
    score = _cycle_score(tokens @ supports.T, truth)
    return _of_shares(query, candidates, score)


def recall(framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]) -> list[float]:
    """How much of what looks like the supports' objects the mask holds, and how much else. In 0 … 1, or -inf.

    P is GF-SAM's map of the query's patches: the product of the mean and the largest cosine with the supports'
    foreground, brought to 0 … 1; the score is the harmonic mean of precision and recall of the mask in it."""
    return _of_shares(query, candidates, _recall_score(query, reference))


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
        empty = [not each.mask.any() for each in candidates]
        predicted = [each.predicted_iou for each in candidates]
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
        frame = query.embedding.frame
        logits = torch.stack([*own_logits, *(other.logits for _, other in others)])
        own = len(candidates)
        distinct = [*range(own), *_distinct(frame.over_photo(logits) > 0, own)]
        others = [others[index - own] for index in distinct[own:]]
        predicted = [each.predicted_iou for each in candidates] + [other.predicted_iou for _, other in others]
        covered = query.tokens.cover_logits(logits[distinct], frame)
        empty = [not each.mask.any() for each in candidates] + [False] * len(others)
        scores = self._scores(framework, query, reference, covered, predicted, empty)
        best_others = sorted(range(len(others)), key=lambda index: -scores[own + index])[: self.kept]
        further = []
        for index in sorted(each for each in best_others if scores[own + each] > -math.inf):
            at, other = others[index]
            mask: BoolArray = frame.inside(other.logits[None]).numpy(force=True)
            shown = replace(other.prompts, similarity=candidates[at].prompts.similarity)
            candidate = Candidate(
                mask, shown, other.predicted_iou, other.logits, other.channel, step=candidates[at].step,
                parts=other.parts, beside=True,
            )  # fmt: skip
            if mask.any():  # a speck at low resolution may be gone at the photo's size
                further.append((candidate, scores[own + index]))
        return [*candidates, *(each for each, _ in further)], [*scores[:own], *(score for _, score in further)]

    def _scores(
        self, framework: Framework, query: Query, reference: Reference, covered: Tensor,
        predicted_iou: Sequence[float], empty: Sequence[bool],
    ) -> list[float]:  # fmt: skip
        cycles, recalls = _cycle_score(*_thinned(query, reference)), _recall_score(query, reference)
        share, grid = covered.view(-1, *query.tokens.grid), query.tokens.grid
        pooled = F.avg_pool2d(share, _stride(grid), ceil_mode=True).flatten(1)
        seen = [index for index, row in enumerate(covered) if row.any() and not empty[index]]
        scores = torch.full((len(covered),), -math.inf)
        if seen:
            both = torch.tensor([math.sqrt(cycles(pooled[index]) * recalls(covered[index])) for index in seen])
            scores[seen] = _z(both) + self.quality * _z(torch.tensor([predicted_iou[index] for index in seen]))
            scores[0] += self.first
            if seen[0] == 0:  # of equals the first is chosen
                weak = torch.tensor(seen)[both < framework.margin * both[0]]
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


def _cycle_score(cosines: Tensor, truth: Tensor) -> Callable[[Tensor], float]:
    """`cycle` as a function of the share of each query patch that a mask covers; cosines (query, support) patches."""
    highest, where = cosines.max(0)

    def score(share: Tensor) -> float:
        inside = share > 0.5 if (share > 0.5).any() else share == share.max()
        outside, taken = highest.clone(), inside[where]
        outside[taken] = _best_cosine(cosines[:, taken][~inside])
        votes = ((_best_cosine(cosines[inside]) - outside) / SHARPNESS).sigmoid()
        return float(torch.minimum(votes, truth).sum() / torch.maximum(votes, truth).sum())

    return score


def _recall_score(query: Query, reference: Reference) -> Callable[[Tensor], float]:
    """`recall` as a function of the share of each query patch that a mask covers."""
    tokens = query.tokens.vectors
    means, largest = [], []
    for support in reference.supports:
        weight, vectors = support.shares.to(tokens), support.vectors.to(tokens)
        means.append((weight @ vectors) @ tokens.T / len(weight) / (weight.mean() + 1e-7))
        largest.append(_largest(weight, vectors, tokens))
    alike = torch.stack(means).mean(0) * torch.stack(largest).mean(0)
    alike = (alike - alike.min()) / (alike.max() - alike.min() + 1e-6)

    def score(share: Tensor) -> float:
        held = float(share @ alike)
        precision, recalled = held / float(share.sum()), held / max(float(alike.sum()), 1e-12)
        return 2 * precision * recalled / (precision + recalled) if held > 0 else 0.0

    return score


def _largest(weight: Tensor, vectors: Tensor, tokens: Tensor) -> Tensor:
    """(N,): the largest weight · cosine of each token with the vectors, of which those without weight give 0."""
    seen = weight > 0
    weighted = weight[seen, None] * (vectors[seen] @ tokens.T)
    nothing = weighted.new_zeros(1 - int(seen.all()), len(tokens))
    return torch.cat([weighted, nothing]).amax(0)


def _stride(grid: tuple[int, int]) -> int:
    """Every how many patches along a side are compared, so that there are at most 32 × 32."""
    return math.ceil(max(grid) / PATCHES)


def _thinned(query: Query, reference: Reference) -> tuple[Tensor, Tensor]:
    """Cosines of the query's with the supports' patches and the supports' shares, for `_cycle_score`: the query's
    patches pooled, of the supports' every n-th, so that many masks cost little with large models, too."""
    (rows, columns), tokens = query.tokens.grid, query.tokens.vectors
    maps = tokens.T.reshape(1, -1, rows, columns)
    pooled = F.normalize(F.avg_pool2d(maps, _stride((rows, columns)), ceil_mode=True)[0].flatten(1).T, dim=1)
    vectors, shares = [], []
    for support in reference.supports:
        every = math.ceil(len(support.vectors) / PATCHES**2)
        if not support.shares[::every].any():  # the object lies between them
            every = 1
        vectors.append(support.vectors[::every].to(tokens))
        shares.append(support.shares[::every].to(tokens))
    return pooled @ torch.cat(vectors).T, torch.cat(shares)


def _distinct(masks: Tensor, own: int) -> list[int]:
    """Indices from `own` on of masks (n, h, w) that are not empty, and not nearly one of those before."""
    flat = masks.flatten(1).float()
    both, sizes = flat @ flat.T, flat.sum(1)
    alike = (both > SAME * (sizes[:, None] + sizes - both)).cpu()
    kept = list(range(own))
    for index in range(own, len(flat)):
        if sizes[index] > 0 and not alike[index, kept].any():
            kept.append(index)
    return kept[own:]


def _z(values: Tensor) -> Tensor:
    """In standard deviations from the mean; 0 where all are the same, and for what is not known."""
    known = values[values.isfinite()]
    if not len(known):
        return torch.zeros_like(values)
    spread = (values - known.mean()) / (known.std(correction=0) + TINY)
    return spread.nan_to_num(0.0, 0.0, 0.0)


def _best_cosine(cosines: Tensor) -> Tensor:
    """(n, m) → (m,): the largest of each column; of none, -inf."""
    return cosines.amax(0) if len(cosines) else cosines.new_full((cosines.shape[1],), -math.inf)


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
