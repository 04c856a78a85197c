"""Matcher (arXiv 2305.13310) as a prompter, one-shot and few-shot.

DINOv2's patches of the support are matched with the query's, there and back; the matched patches' centres prompt SAM in
many small subsets; the masks that come back are scored by how well their patches can be moved onto the support's; the
best are united.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Embedding, Frame, Promptable
from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Preset, Query
from prmagic.frameworks.maps import on_patches
from prmagic.frameworks.matcher.options import MatcherOptions
from prmagic.frameworks.matcher.proposals import Proposals, Proposer, SubsetPrompts, taken
from prmagic.frameworks.matcher.steps import (
    ALL_SUBSETS,
    DoubleArray,
    Pairs,
    better_half,
    box_around,
    cluster_centers,
    earth_movers_distance,
    match,
    patches_of,
    subsets,
    suppress,
    under,
)
from prmagic.reference import Example, Reference
from prmagic.types import BoolArray, Candidate, FloatArray, Other, Prompts

REMEMBERED_REFERENCES = 8  # of which a query keeps the similarities, seven megabytes a shot at 37 × 37 patches
EMD_BATCH = 32  # masks whose cost matrices are held at once
OTHERS = 10  # best masks that a selector can choose from beside the union, each by itself and in unions
EPSILON = 1e-6  # keeps a score of zero apart from none, as published


@dataclass(eq=False)
class _Unshifted:
    """What the flow does not change, of one query and one reference.

    similarity (K, N, N) without a shift; foreground (K, N) bool; pairs: what these give; emd: scores by the patches of
    a mask."""

    similarity: FloatArray
    foreground: BoolArray
    pairs: Pairs | None = None
    emd: dict[bytes, float] = field(default_factory=dict)


class Solved(threading.local):
    """How many were solved, in each thread by itself, as a model's calls are counted."""

    assignments = 0
    emd_solves = 0


class Matcher(Framework):
    """Matcher; the encoder's tokens are matched, and judge eq. (4)."""

    name = "matcher"
    Options = MatcherOptions
    presets: ClassVar[Mapping[str, Preset]] = {
        "default": Preset(flow=Flow(mode="spread"), selector="judge")  # chosen on the dev classes
    }
    uses_encoder = True
    keeps_masks_in_bfloat16 = True

    def __init__(self, sam: Promptable, options: MatcherOptions | None = None, encoder: Dino | None = None):
        if encoder is None:
            raise ValueError("Matcher compares the tokens of an encoder: give it one, such as Dino.load('embedded')")
        super().__init__(sam, options, encoder)
        self.options: MatcherOptions
        self._proposer = Proposer(sam, self.options)
        self._solved = Solved()

    @property
    def counts(self) -> dict[str, int]:
        """Also linear assignments and earth mover's distances."""
        solved = {"assignments": self._solved.assignments, "emd_solves": self._solved.emd_solves}
        return {**super().counts, **solved}

    def encode_support(
        self, examples: Sequence[Example], queries: Sequence[Query], rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Nothing beside the tokens."""
        return {}

    def sample_prompts(
        self, query: Query, references: Sequence[Reference], shifts: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> list[Prompts]:
        """Match, cluster, and form subsets."""
        return [self._sample(query, *each) for each in zip(references, shifts, rngs, strict=True)]

    def decode(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[Candidate]:
        """Every subset's mask; those that pass, by score; the best of them united."""
        return [self._decode(query, *each) for each in zip(references, prompts, strict=True)]

    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """The united masks' low-resolution logits: those of SAM's single masks, then those of its three."""
        return [self._logits(*each) for each in zip(candidates, embeddings, strict=True)]

    def _sample(self, query: Query, reference: Reference, shift: Tensor, rng: torch.Generator) -> SubsetPrompts:
        options, grid = self.options, query.tokens.grid
        known = self._unshifted(query, reference)
        similarity, pairs = self._matched(query, reference, known, shift)
        # The published order, that of Python's set of small integers: the random draws below depend on it.
        matched = self._middles(np.array(list(set(pairs.query.tolist()))), query)
        points = matched
        if options.centers is not None:
            points = self.placed(cluster_centers(matched, options.centers, rng)).astype(np.float32)
        box = box_around(matched) if options.box else None
        # Drawn only where needed: the published code's k-means has the generator to itself.
        seed = int(torch.randint(2**62, (), generator=rng)) if len(points) > ALL_SUBSETS else 0
        sets = subsets(points, options.subset_sizes, options.random_subsets, random.Random(seed))
        foreground = known.foreground.ravel()
        return SubsetPrompts(
            points,
            np.ones(len(points), np.int64),
            box,
            similarity=similarity.reshape(len(foreground), -1)[foreground].max(0).reshape(grid),
            subsets=tuple(Prompts(chosen, np.ones(len(chosen), np.int64), box) for chosen in sets),
            matched=matched,
            moved=self.scored_by(similarity),
        )

    def _decode(self, query: Query, reference: Reference, prompts: Prompts) -> Candidate:
        assert isinstance(prompts, SubsetPrompts)
        found = self._proposer.ask(query, reference, prompts.subsets)
        predicted = np.concatenate([each.predicted_iou for each in found])
        boxes = np.concatenate([each.boxes for each in found])
        visible = np.flatnonzero(boxes[:, 0] >= 0)
        others: list[Other] = []
        if len(visible):
            kept = visible[suppress(boxes[visible], predicted[visible], self.options.box_nms)]
            apart = taken(found, kept.tolist())
            with self.stopwatch("score"):
                best, order = self._best(query, reference, prompts, apart)
            chosen, others = apart[best], _others(apart[order[:OTHERS]], prompts)
        else:
            chosen = taken(found, [int(predicted.argmax())])
        mask: BoolArray = query.embedding.frame.inside(chosen.logits).numpy(force=True)
        shown = Prompts(prompts.points, prompts.labels, prompts.box, similarity=prompts.similarity)
        return Candidate(
            mask, shown, float(chosen.predicted_iou.mean()), chosen.logits.amax(0), parts=chosen.parts,
            others=tuple(others),
        )  # fmt: skip

    def _logits(self, candidate: Candidate, embedding: Embedding) -> Tensor:
        found = []
        for single in (True, False):
            parts = [part for part in candidate.parts if (part.channel is None) == single]
            if parts:
                decoded = self.sam.decode(embedding, [part.prompts for part in parts], multimask=not single).logits
                logits = decoded[range(len(parts)), [part.channel or 0 for part in parts]]
                found.append(self.over_photo(logits, embedding.frame))
        return torch.cat(found)

    def _unshifted(self, query: Query, reference: Reference) -> _Unshifted:
        known: dict[Reference, _Unshifted] = query.memo.setdefault("unshifted", {})
        if reference not in known:
            for oldest in list(known)[: max(0, len(known) + 1 - REMEMBERED_REFERENCES)]:
                del known[oldest]
            supports = self._support_tokens(query, reference)
            foreground = torch.stack([each.shares for each in reference.supports]).cpu().numpy() > 0
            known[reference] = _Unshifted((supports @ query.tokens.vectors.T).cpu().numpy(), foreground)
        return known[reference]

    def _support_tokens(self, query: Query, reference: Reference) -> Tensor:
        """(K, N, C), on the query's device."""
        return torch.stack([each.vectors for each in reference.supports]).to(query.tokens.vectors)

    def _matched(
        self, query: Query, reference: Reference, known: _Unshifted, shift: Tensor
    ) -> tuple[FloatArray, Pairs]:
        """Cosines (K, N, N) of all support patches with all query patches after the shift, and the pairs they give."""
        if not shift.any():
            known.pairs = known.pairs or self._match(known.similarity, known.foreground)
            return known.similarity, known.pairs
        # The shift moves the first channels alone, see `shifted_tokens`: what they add is all that is new.
        supports = self._support_tokens(query, reference)
        moved = on_patches(shift, query.embedding, query.tokens.grid)[:, : supports.shape[2]]
        added = supports[..., : moved.shape[1]].flatten(0, 1) @ moved.T
        similarity: FloatArray = added.cpu().numpy().reshape(known.similarity.shape)
        similarity += known.similarity
        return similarity, self._match(similarity, known.foreground)

    def _match(self, similarity: FloatArray, foreground: BoolArray) -> Pairs:
        with self.stopwatch("match"):
            each = [match(*shot) for shot in zip(*self.shots(similarity, foreground), strict=True)]
            self._solved.assignments += 2 * len(each)
            halves = [better_half(shot) for shot in each]
            return Pairs(
                np.concatenate([shot.support for shot in halves]),
                np.concatenate([shot.query for shot in halves]),
                np.concatenate([shot.similarity for shot in halves]),
            )

    def _middles(self, patches: FloatArray, query: Query) -> FloatArray:
        """(n, 2) x, y: the middles of the patches with these indices, in the photo's pixels."""
        (rows, columns), (height, width) = query.tokens.grid, query.image.shape[:2]
        x = (patches % columns + 0.5) * (width / columns)
        y = (patches // columns + 0.5) * (height / rows)
        return np.stack([x, y], axis=1).astype(np.float32)

    def _best(
        self, query: Query, reference: Reference, prompts: SubsetPrompts, found: Proposals
    ) -> tuple[list[int], list[int]]:
        """Indices of the proposals to unite, the best first; and of all, by the same score."""
        if len(found.parts) == 1:  # whatever its score
            return [0], [0]
        options, frame = self.options, query.embedding.frame
        masks = frame.upscale_many(found.logits, self._proposer.size(frame)) > 0
        emd, purity, coverage = self._measures(query, reference, prompts, masks)
        score = options.alpha * emd + options.beta * purity * coverage**options.exponent
        keep = np.ones(len(score), bool)
        for value, least in (
            (coverage, options.min_coverage), (emd, options.min_emd), (purity, options.min_purity)
        ):  # fmt: skip
            keep &= value >= min(least, value[keep].max())
        ranked = self.ranked(score)
        order = [index for index in ranked if keep[index]]
        few_shot = len(reference.supports) > 1 and options.merge_few_shot is not None
        most = options.merge_few_shot if few_shot else options.merge
        if options.score_filter is None:
            least = options.min_relative_score * score[order[0]]
            return [order[0], *(index for index in order[1:most] if score[index] > least)], ranked
        farthest, excess = options.score_filter
        distance = 1 - score[order]
        near = distance < farthest
        near[0] = True
        near &= (distance - distance[0]) / max(distance[-1], EPSILON) < excess
        return [index for index, good in zip(order, near, strict=True) if good][:most], ranked

    def _measures(
        self, query: Query, reference: Reference, prompts: SubsetPrompts, masks: Tensor
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Of masks (n, h, w), (n,) each: 1 − earth mover's distance; matched points inside ÷ patches covered, and ÷ all
        matched points."""
        patches = patches_of(masks, query.tokens.grid)
        inside = under(prompts.matched, masks.cpu().numpy(), query.image.shape[:2]).sum(1)
        emd = self._emd(self._unshifted(query, reference), prompts.moved, patches)
        return emd, inside / patches.sum(1) + EPSILON, inside / len(prompts.matched) + EPSILON

    def _emd(self, known: _Unshifted, moved: FloatArray | None, patches: BoolArray) -> FloatArray:
        """1 − earth mover's distance between the supports' foreground and each set of patches (n, N); the mean of
        the shots. Equal sets are solved once, and once for all steps where the flow does not move what is scored."""
        similarity, solved = (known.similarity, known.emd) if moved is None else (moved, {})
        keys = [np.packbits(row).tobytes() for row in patches]
        new = {key: row for key, row in zip(keys, patches, strict=True) if key not in solved}
        shots = zip(*self.shots(similarity, known.foreground), strict=True)
        costs = [(1 - shot[inside]) / 2 for shot, inside in shots]
        waiting = list(new.items())
        for start in range(0, len(waiting), EMD_BATCH):
            batch = waiting[start : start + EMD_BATCH]
            distances = earth_movers_distance([cost[:, row] for _, row in batch for cost in costs])
            self._solved.emd_solves += len(distances)
            for (key, _), each in zip(batch, np.reshape(distances, (len(batch), len(costs))), strict=True):
                solved[key] = 1 - float(each.mean())
        return np.array([solved[key] for key in keys])

    # published.py overrides these with what the published code does:

    def shots(self, similarity: FloatArray, foreground: BoolArray) -> tuple[FloatArray, BoolArray]:
        """(K, N, N), (K, N) → what is matched and scored by itself: each shot, so that one with few matches loses none
        to the others."""
        return similarity, foreground

    def placed(self, centers: DoubleArray) -> DoubleArray:
        """(n, 2) centres → points."""
        return centers

    def scored_by(self, similarity: FloatArray) -> FloatArray | None:
        """The similarity (K, N, N) after the shift, if masks are scored by it; None: by that before any shift."""
        return None

    def over_photo(self, logits: Tensor, frame: Frame) -> Tensor:
        """(n, s, s) → the part of the logits that d sums up."""
        return frame.over_photo(logits)

    def ranked(self, score: FloatArray) -> list[int]:
        """Indices by score, the best first; the first of equals first."""
        return torch.sort(torch.from_numpy(1 - score), stable=True).indices.tolist()


def _others(found: Proposals, prompts: Prompts) -> list[Other]:
    """Each of these proposals by itself, and the first k of them united, for every k; the best first."""
    shown = Prompts(prompts.points, prompts.labels, prompts.box)
    single = [
        Other(logits, shown, float(predicted), part.channel or 0, (part,))
        for logits, predicted, part in zip(found.logits, found.predicted_iou, found.parts, strict=True)
    ]
    unions = found.logits.cummax(0).values
    united = [
        Other(unions[k - 1], shown, float(found.predicted_iou[:k].mean()), parts=found.parts[:k])
        for k in range(2, len(single) + 1)
    ]
    return single + united
