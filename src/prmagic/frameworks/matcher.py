"""Matcher (arXiv 2305.13310) as a prompter, one-shot and few-shot.

DINOv2's patches of the support are matched with the query's, there and back; the matched patches' centres prompt SAM in
many small subsets; the masks that come back are scored by how well their patches can be moved onto the support's; the
best are united.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Embedding, Promptable
from prmagic.frameworks.base import (
    Example,
    Framework,
    Query,
    Reference,
    bounding_box,
    masked_means,
    to_mask,
    working_size,
)
from prmagic.frameworks.bridges import BRIDGES, BridgeName
from prmagic.frameworks.matching import (
    ALL_SUBSETS,
    Pairs,
    better_half,
    cluster_centers,
    earth_movers_distance,
    match,
    patches_of,
    subsets,
    suppress,
)
from prmagic.names import lookup
from prmagic.types import BoolArray, ByteArray, Candidate, FloatArray, Part, Prompts

DENSE_PREDICTED_IOU, DENSE_STABILITY = 0.88, 0.95  # what a mask of the dense grid must reach
EMD_BATCH = 32  # masks whose cost matrices are held at once
REMEMBERED = 1024  # prompt sets of a query whose masks are kept for later steps, a quarter of a megabyte each
EPSILON = 1e-6  # keeps a score of zero apart from none, as published


@dataclass(frozen=True)
class MatcherSettings:
    """The names of the published flags are in brackets. What the defaults are worth: docs/measurements.md."""

    centers: int | None = 4  # prompt with so many k-means centres of the matched points; None: with the points
    subset_sizes: tuple[int, int] = (1, 4)  # points per prompt, or all of them if fewer (sample-range)
    random_subsets: int = 30  # of each size, where there are more than 8 points (max_sample_iterations)
    box: bool = False  # add the box around all matched points to each prompt (use_box)
    channels: tuple[int, ...] | None = None  # which of SAM's three masks to take; None: its single one (output_layer)
    dense_grid: int = 0  # points a side of a grid that adds masks independent of the matching (use_dense_mask)
    min_predicted_iou: float = 0.0  # of a mask (iou_filter)
    min_stability: float = 0.0  # IoU of a mask at logits > 1 and > −1 (sel_stability_score_thresh)
    box_nms: float = 0.65  # IoU of boxes above which the worse mask goes; 1 keeps all (box_nms_thresh)
    alpha: float = 1.0  # score = alpha · emd + beta · purity · coverage ^ exponent
    beta: float = 0.0
    exponent: float = 0.0
    min_coverage: float = 0.0  # masks below these go, unless all are (coverage_filter, emd_filter, purity_filter)
    min_emd: float = 0.0
    min_purity: float = 0.0
    score_filter: tuple[float, float] | None = (0.33, 0.1)  # largest 1 − score, and largest excess over the best one's
    min_relative_score: float = 0.0  # without score_filter: of the best score (topk_scores_threshold)
    merge: int = 5  # most masks to unite (num_merging_mask)
    merge_few_shot: int | None = None  # the same with several supports
    compare_at: int = 256  # longest side, pixels, at which masks are compared and scored; the published photos' is 518
    bridge: BridgeName = "pad"  # how SAM's shift reaches the tokens
    shots_together: bool = False  # all supports are matched and scored as if they were one photo, as published
    published: bool = False  # centres cut to whole pixels, d summed at the photo's size, scores from moved tokens

    def __post_init__(self) -> None:
        lookup("bridge", self.bridge, {name: name for name in BRIDGES})
        sizes, channels = self.subset_sizes, self.channels
        needed = {
            "centers": (self.centers is None or self.centers >= 1, "at least 1, or None for all matched points"),
            "subset_sizes": (
                len(sizes) == 2 and 1 <= sizes[0] <= sizes[1],
                "a smallest and a largest number of points",
            ),
            "random_subsets": (self.random_subsets >= 1, "at least 1"),
            "channels": (
                channels is None or (len(channels) > 0 and set(channels) <= {0, 1, 2}),
                "some of 0, 1 and 2, or None for SAM's single mask",
            ),
            "dense_grid": (self.dense_grid >= 0, "points a side, or 0 for none"),
            "alpha": (math.isfinite(self.alpha), "a finite number"),
            "beta": (math.isfinite(self.beta), "a finite number"),
            "exponent": (math.isfinite(self.exponent), "a finite number"),
            "score_filter": (self.score_filter is None or min(self.score_filter) > 0, "two numbers above 0, or None"),
            "merge": (self.merge >= 1, "at least 1"),
            "merge_few_shot": (self.merge_few_shot is None or self.merge_few_shot >= 1, "at least 1, or None"),
            "compare_at": (self.compare_at >= 1, "a number of pixels"),
        }
        for name, (right, allowed) in needed.items():
            if not right:
                raise ValueError(f"Matcher's {name} cannot be {getattr(self, name)}: it must be {allowed}")


@dataclass(frozen=True, eq=False)
class MatcherQuery(Query):
    """tokens (N, C): unit vectors of the patches."""

    tokens: Tensor


@dataclass(eq=False)
class _Unmoved:
    """Of one query and its latest reference, what the flow does not change.

    similarity (K, N, N) before any shift, and the pairs that it gives; emd: scores by the patches of a mask; answers:
    SAM's by what it was asked."""

    reference: Reference
    similarity: FloatArray
    pairs: Pairs | None = None
    emd: dict[bytes, float] = field(default_factory=dict)
    answers: dict[Hashable, Proposals] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SubsetPrompts(Prompts):
    """points: what the subsets are drawn from; subsets: what SAM is asked; matched (M, 2): all matched points.

    moved (K, N, N): similarities after the shift, where masks are scored by them."""

    subsets: tuple[Prompts, ...] = ()
    matched: FloatArray = field(default_factory=lambda: np.empty((0, 2), np.float32))
    moved: FloatArray | None = None

    @property
    def asked(self) -> Hashable:
        """The subsets, and what their masks are scored by."""
        moved = None if self.moved is None else hashlib.sha256(self.moved.tobytes()).digest()
        return tuple(subset.asked for subset in self.subsets), self.matched.tobytes(), moved


@dataclass(frozen=True, eq=False)
class Proposals:
    """n masks: what decoded each, low-resolution logits (n, s, s), predicted IoU (n,), masks (n, h, w) to compare."""

    parts: tuple[Part, ...]
    logits: Tensor
    predicted_iou: FloatArray
    masks: Tensor

    def __getitem__(self, index: Any) -> Proposals:
        if isinstance(index, slice):  # of these there are many, and none of their masks need be copied
            return Proposals(self.parts[index], self.logits[index], self.predicted_iou[index], self.masks[index])
        kept = np.arange(len(self.parts))[index]
        rows = torch.from_numpy(kept).to(self.logits.device)
        parts = tuple(self.parts[i] for i in kept)
        return Proposals(parts, self.logits[rows], self.predicted_iou[kept], self.masks[rows])


class Matcher(Framework):
    """Matcher; `encoder` gives the tokens that are matched, and judges eq. (4)."""

    name = "matcher"
    selector = "guard"

    def __init__(self, sam: Promptable, encoder: Dino, settings: MatcherSettings | None = None):
        super().__init__(sam)
        self.encoder = encoder
        self.options = settings or MatcherSettings()
        self.bridge = BRIDGES[self.options.bridge]
        self._solved = Counter({"assignments": 0, "emd_solves": 0})
        self._unmoved: WeakKeyDictionary[MatcherQuery, _Unmoved] = WeakKeyDictionary()
        self._dense: WeakKeyDictionary[MatcherQuery, Proposals] = WeakKeyDictionary()

    @property
    def settings(self) -> Mapping[str, Any]:
        """See `MatcherSettings`."""
        return {**asdict(self.options), "encoder_input": self.encoder.input_size}

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """A reference holds the supports' tokens, and what the bridge keeps."""
        return {"bridge": self.options.bridge, "encoder_input": self.encoder.input_size}

    @property
    def models(self) -> tuple[Promptable | Dino, ...]:
        """SAM and the encoder."""
        return self.sam, self.encoder

    @property
    def counts(self) -> dict[str, int]:
        """Beside SAM's: photos that the encoder has seen, linear assignments, earth mover's distances."""
        return {**super().counts, "encoder_encodes": self.encoder.ran.encodes, **self._solved}

    def encode_queries(self, images: Sequence[ByteArray]) -> list[Query]:
        """Each photo once through SAM and once through the encoder."""
        with self.stopwatch("encode"):
            embeddings = self.sam.encode(images)
        return [MatcherQuery(*each) for each in zip(images, embeddings, self._tokens(images), strict=True)]

    def encode_support(self, examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """tensors: tokens (K, N, C) unit vectors, foreground (K, N) bool, shares (K, N), and what the bridge keeps."""
        images = [example.image for example in examples]
        embeddings = [] if self.options.bridge == "pad" else self.sam.encode(images)
        return self._learn(self._tokens(images), embeddings, examples)

    def learn(self, queries: Sequence[Query], examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """See `encode_support`."""
        ours = [_ours(query) for query in queries]
        return self._learn(torch.stack([q.tokens for q in ours]), [q.embedding for q in ours], examples)

    def _learn(self, tokens: Tensor, embeddings: Sequence[Embedding], examples: Sequence[Example]) -> Reference:
        grid = self.encoder.grid
        inside = np.stack([patches_of(torch.from_numpy(example.mask), grid) for example in examples])
        foreground = torch.from_numpy(inside)
        kept = self.bridge.fit(embeddings, tokens, foreground, grid)
        prototypes = torch.cat([self._means(t, [example.mask]) for t, example in zip(tokens, examples, strict=True)])
        shares = self._covered([example.mask for example in examples]).flatten(1)
        found = {"tokens": tokens, "foreground": foreground, "shares": shares, "prototypes": prototypes, **kept}
        return self.reference(found, examples)

    def sample_prompts(self, query: Query, reference: Reference, shift: Tensor, rng: torch.Generator) -> Prompts:
        """Match, cluster, and form subsets."""
        query = _ours(query)
        similarity = self._similarity(query, reference, shift)
        pairs = self._pairs(query, reference, similarity, moved=bool(shift.any()))
        # The published order, that of Python's set of small integers: the random draws below depend on it.
        matched = self._centers_of(np.array(list(set(pairs.query.tolist()))), query)
        points = matched
        if self.options.centers is not None:
            points = cluster_centers(matched, self.options.centers, rng)
            points = np.trunc(points) if self.options.published else points
        points = points.astype(np.float32)
        box = _box_around(matched) if self.options.box else None
        # Drawn only where needed: the published code's k-means has the generator to itself.
        seed = int(torch.randint(2**62, (), generator=rng)) if len(points) > ALL_SUBSETS else 0
        sets = subsets(points, self.options.subset_sizes, self.options.random_subsets, random.Random(seed))
        foreground = reference.tensors["foreground"].flatten().numpy()
        return SubsetPrompts(
            points,
            np.ones(len(points), np.int64),
            box,
            similarity=similarity.reshape(len(foreground), -1)[foreground].max(0).reshape(self.encoder.grid),
            subsets=tuple(Prompts(chosen, np.ones(len(chosen), np.int64), box) for chosen in sets),
            matched=matched,
            moved=similarity if self.options.published else None,
        )

    def decode(self, query: Query, reference: Reference, prompts: Prompts) -> Candidate:
        """Every subset's mask; those that pass, by score; the best of them united."""
        query = _ours(query)
        assert isinstance(prompts, SubsetPrompts)
        found = _joined(self._answers(query, reference, prompts.subsets))
        if self.options.dense_grid:
            found = _joined([found, self._dense_masks(query)])
        if not found.parts:  # better a doubtful mask than none
            found = _joined(list(self._propose(query, prompts.subsets, self.options.channels)))
        visible = found.masks.flatten(1).any(1).cpu().numpy()
        if not visible.any():
            chosen = found[[int(found.predicted_iou.argmax())]]
        else:
            found = found[visible]
            boxes = np.array([bounding_box(mask) for mask in found.masks.cpu().numpy()], np.float32)
            found = found[suppress(boxes, found.predicted_iou, self.options.box_nms)]
            with self.stopwatch("score"):
                chosen = found[self._best(query, reference, prompts, found)]
        mask = np.any([to_mask(logits, query.embedding.frame) for logits in chosen.logits], axis=0)
        shown = Prompts(prompts.points, prompts.labels, prompts.box, similarity=prompts.similarity)
        return Candidate(mask, shown, float(chosen.predicted_iou.mean()), chosen.logits.amax(0), parts=chosen.parts)

    def logit(self, query: Query, reference: Reference, candidate: Candidate, embedding: Embedding) -> Tensor:
        """The sum of the united masks' low-resolution logits over the photo.

        Published: of those at the photo's size, or at 518 pixels, the size of all published photos, if that is less."""
        total = torch.zeros((), device=embedding.features.device)
        for maps in self._maps(candidate, embedding):
            total = total + maps.sum()
        return total

    def logit_maps(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[list[Tensor]]:  # fmt: skip
        """Of the united masks of each candidate."""
        return [self._maps(*each) for each in zip(candidates, embeddings, strict=True)]

    def _maps(self, candidate: Candidate, embedding: Embedding) -> list[Tensor]:
        """The united masks' logits (n, h, w), those of SAM's single mask and those of its three."""
        found = []
        for single in (True, False):
            parts = [part for part in candidate.parts if (part.channel is None) == single]
            if parts:
                decoded = self.sam.decode(embedding, [part.prompts for part in parts], multimask=not single).logits
                logits = decoded[range(len(parts)), [part.channel or 0 for part in parts]]
                frame = embedding.frame
                if self.options.published:
                    logits = frame.upscale(logits, working_size(frame.photo, self.options.compare_at))
                else:
                    logits = frame.over_photo(logits)
                found.append(logits)
        return found

    def describe(self, images: Sequence[ByteArray], masks: Sequence[BoolArray]) -> Tensor:
        """E in eq. (4): (N, C) unit vectors, the mean token before the final norm, all outside the mask black."""
        black = (np.where(mask[..., None], image, np.uint8(0)) for image, mask in zip(images, masks, strict=True))
        return F.normalize(torch.stack([tokens.before_norm.mean(0) for tokens in self.encoder.encode(black)]), dim=1)

    def pooled(self, query: Query, masks: Sequence[BoolArray]) -> Tensor:
        """The mean of the encoder's tokens under each mask: (N, C) unit vectors."""
        return self._means(_ours(query).tokens, masks)

    def patches(self, query: Query) -> Tensor:
        """The encoder's tokens."""
        return _ours(query).tokens

    def shares(self, query: Query, masks: Sequence[BoolArray]) -> Tensor:
        """(M, N), of the encoder's patches."""
        return self._covered(masks).flatten(1).to(_ours(query).tokens)

    def support_patches(self, reference: Reference) -> list[tuple[Tensor, Tensor]]:
        """The tokens that the reference holds anyway."""
        return list(zip(reference.tensors["tokens"], reference.tensors["shares"], strict=True))

    def object_patches(self, reference: Reference) -> Tensor | None:
        """Those of the tokens that are foreground."""
        return reference.tensors["tokens"][reference.tensors["foreground"]]

    def _means(self, tokens: Tensor, masks: Sequence[BoolArray]) -> Tensor:
        return masked_means(tokens.T.unflatten(1, self.encoder.grid), self._covered(masks))

    def _covered(self, masks: Sequence[BoolArray]) -> Tensor:
        """(M, rows, columns): which share of each patch each mask covers."""
        grid = self.encoder.grid
        return torch.cat([F.interpolate(torch.from_numpy(m)[None, None].float(), grid, mode="area")[0] for m in masks])

    def _tokens(self, images: Sequence[ByteArray]) -> Tensor:
        """(K, N, C) unit vectors."""
        with self.stopwatch("tokens"):
            return F.normalize(torch.stack([tokens.before_norm for tokens in self.encoder.encode(images)]), dim=-1)

    def _before_any_shift(self, query: MatcherQuery, reference: Reference) -> _Unmoved:
        found = self._unmoved.get(query)
        if found is None or found.reference is not reference:
            supports = reference.tensors["tokens"].to(query.tokens)
            found = self._unmoved[query] = _Unmoved(reference, (supports @ query.tokens.T).cpu().numpy())
        return found

    def _similarity(self, query: MatcherQuery, reference: Reference, shift: Tensor) -> FloatArray:
        """(K, N, N): cosines of all support patches with all query patches after the shift."""
        if not shift.any():
            return self._before_any_shift(query, reference).similarity
        supports = reference.tensors["tokens"].to(query.tokens)
        moved = self.bridge.reach(
            reference.tensors, supports.flatten(0, 1), query.tokens, query.embedding, shift, self.encoder.grid
        )
        similarity: FloatArray = moved.view(*supports.shape[:2], -1).cpu().numpy()
        return similarity

    def _pairs(self, query: MatcherQuery, reference: Reference, similarity: FloatArray, moved: bool) -> Pairs:
        """Of the similarity after the shift; what has not moved is matched once."""
        foreground = reference.tensors["foreground"].numpy()
        if moved:
            return self._match(similarity, foreground)
        known = self._before_any_shift(query, reference)
        if known.pairs is None:
            known.pairs = self._match(similarity, foreground)
        return known.pairs

    def _match(self, similarity: FloatArray, foreground: BoolArray) -> Pairs:
        """All shots as one photo, or each shot by itself, so that one with few matches loses none to the others."""
        with self.stopwatch("match"):
            if self.options.shots_together:
                similarity, foreground = similarity.reshape(1, -1, similarity.shape[2]), foreground.reshape(1, -1)
            each = [match(*shot) for shot in zip(similarity, foreground, strict=True)]
            self._solved["assignments"] += 2 * len(each)
            halves = [better_half(shot) for shot in each]
            return Pairs(
                np.concatenate([shot.support for shot in halves]),
                np.concatenate([shot.query for shot in halves]),
                np.concatenate([shot.similarity for shot in halves]),
            )

    def _centers_of(self, patches: FloatArray, query: Query) -> FloatArray:
        """(n, 2) x, y: the middles of the patches with these indices, in the photo's pixels."""
        (rows, columns), (height, width) = self.encoder.grid, query.image.shape[:2]
        x = (patches % columns + 0.5) * (width / columns)
        y = (patches // columns + 0.5) * (height / rows)
        return np.stack([x, y], axis=1).astype(np.float32)

    def _answers(self, query: MatcherQuery, reference: Reference, subsets: Sequence[Prompts]) -> list[Proposals]:
        """The masks of each subset that pass. One that was asked at an earlier step is not asked again."""
        known = self._before_any_shift(query, reference).answers
        new = {subset.asked: subset for subset in subsets if subset.asked not in known}
        known |= zip(new, self._propose(query, list(new.values()), self.options.channels, self._passes), strict=True)
        found = [known[subset.asked] for subset in subsets]
        for oldest in list(known)[: max(0, len(known) - REMEMBERED)]:
            del known[oldest]
        return found

    def _propose(
        self, query: MatcherQuery, prompts: Sequence[Prompts], channels: tuple[int, ...] | None, passes: Any = None
    ) -> Iterator[Proposals]:
        """The masks of each prompt set, decoded in batches; only what passes (predicted IoU, stability)."""
        frame = query.embedding.frame
        size = working_size(frame.photo, self.options.compare_at)
        at_once = self.sam.decode_batch
        for start in range(0, len(prompts), at_once):
            batch = prompts[start : start + at_once]
            decoded = self.sam.decode(query.embedding, batch, multimask=channels is not None)
            taken = list(channels or (0,))
            logits, predicted = decoded.logits[:, taken].flatten(0, 1), decoded.predicted_iou[:, taken].flatten()
            enlarged = frame.upscale_many(logits, size)
            names = channels or (None,)
            parts = tuple(Part(prompt, channel) for prompt in batch for channel in names)
            found = Proposals(parts, logits, predicted.cpu().numpy(), enlarged > 0)
            good = np.ones(len(parts), bool) if passes is None else passes(found.predicted_iou, enlarged)
            for first in range(0, len(parts), len(names)):
                rows = slice(first, first + len(names))
                yield found[rows] if good[rows].all() else found[rows][good[rows]]

    def _passes(self, predicted_iou: FloatArray, logits: Tensor) -> BoolArray:
        kept = np.ones(len(predicted_iou), bool)
        if self.options.min_predicted_iou:
            kept &= predicted_iou > self.options.min_predicted_iou
        if self.options.min_stability:
            kept &= _stability(logits) > self.options.min_stability
        return kept

    def _dense_masks(self, query: MatcherQuery) -> Proposals:
        """The good masks of a grid of single points; the same at every step."""
        if query not in self._dense:
            side, (height, width) = self.options.dense_grid, query.image.shape[:2]
            middles = (np.arange(side) + 0.5) / side
            grid = np.stack(np.meshgrid(middles * width, middles * height), -1).reshape(-1, 1, 2).astype(np.float32)
            prompts = [Prompts(point, np.ones(1, np.int64)) for point in grid]

            def passes(predicted_iou: FloatArray, logits: Tensor) -> BoolArray:
                return (predicted_iou > DENSE_PREDICTED_IOU) & (_stability(logits) >= DENSE_STABILITY)

            self._dense[query] = _joined(list(self._propose(query, prompts, None, passes)))
        return self._dense[query]

    def _best(self, query: MatcherQuery, reference: Reference, prompts: SubsetPrompts, found: Proposals) -> list[int]:
        """Indices of the proposals to unite, the best first."""
        options = self.options
        emd, purity, coverage = self._measures(query, reference, prompts, found)
        score = options.alpha * emd + options.beta * purity * coverage**options.exponent
        keep = np.ones(len(score), bool)
        for value, least in (
            (coverage, options.min_coverage), (emd, options.min_emd), (purity, options.min_purity)
        ):  # fmt: skip
            keep &= value >= min(least, value[keep].max())
        # Among equals the published code takes what an unstable sort puts first.
        ranked = torch.sort(torch.from_numpy(1 - score), stable=not options.published).indices.tolist()
        order = [index for index in ranked if keep[index]]
        few_shot = len(reference.tensors["tokens"]) > 1 and options.merge_few_shot is not None
        most = options.merge_few_shot if few_shot else options.merge
        if options.score_filter is None:
            least = options.min_relative_score * score[order[0]]
            return [order[0], *(index for index in order[1:most] if score[index] > least)]
        farthest, excess = options.score_filter
        distance = 1 - score[order]
        near = distance < farthest
        near[0] = True
        near &= (distance - distance[0]) / max(distance[-1], EPSILON) < excess
        return [index for index, good in zip(order, near, strict=True) if good][:most]

    def _measures(
        self, query: MatcherQuery, reference: Reference, prompts: SubsetPrompts, found: Proposals
    ) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(n,) each: 1 − earth mover's distance; matched points inside ÷ patches covered, and ÷ all matched points."""
        patches = patches_of(found.masks, self.encoder.grid)
        inside = _under(prompts.matched, found.masks.cpu().numpy(), query.image.shape[:2]).sum(1)
        emd = self._emd(query, reference, prompts.moved, patches)
        return emd, inside / patches.sum(1) + EPSILON, inside / len(prompts.matched) + EPSILON

    def _emd(
        self, query: MatcherQuery, reference: Reference, moved: FloatArray | None, patches: BoolArray
    ) -> FloatArray:
        """1 − earth mover's distance between the supports' foreground and each set of patches (n, N); the mean of
        the shots. Equal sets are solved once, and once for all steps where the flow does not move what is scored."""
        known = self._before_any_shift(query, reference)
        similarity = known.similarity if moved is None else moved
        solved = known.emd if moved is None else {}
        keys = [np.packbits(row).tobytes() for row in patches]
        new = {key: row for key, row in zip(keys, patches, strict=True) if key not in solved}
        foreground = reference.tensors["foreground"].numpy()
        if self.options.shots_together:
            similarity, foreground = similarity.reshape(1, -1, similarity.shape[2]), foreground.reshape(1, -1)
        costs = [(1 - shot[inside]) / 2 for shot, inside in zip(similarity, foreground, strict=True)]
        waiting = list(new.items())
        for start in range(0, len(waiting), EMD_BATCH):
            batch = waiting[start : start + EMD_BATCH]
            distances = earth_movers_distance([cost[:, row] for _, row in batch for cost in costs])
            self._solved["emd_solves"] += len(distances)
            for (key, _), each in zip(batch, np.reshape(distances, (len(batch), len(costs))), strict=True):
                solved[key] = 1 - float(each.mean())
        return np.array([solved[key] for key in keys])


def _ours(query: Query) -> MatcherQuery:
    if not isinstance(query, MatcherQuery):
        raise TypeError("Matcher segments queries that Matcher.encode_queries made")
    return query


def _joined(batches: Sequence[Proposals]) -> Proposals:
    return Proposals(
        tuple(part for batch in batches for part in batch.parts),
        torch.cat([batch.logits for batch in batches]),
        np.concatenate([batch.predicted_iou for batch in batches]),
        torch.cat([batch.masks for batch in batches]),
    )


def _stability(logits: Tensor) -> FloatArray:
    """(n,): IoU of the masks at logits > 1 and > −1; 0 where both are empty."""
    inner, outer = ((logits > offset).flatten(1).sum(1) for offset in (1.0, -1.0))
    stability: FloatArray = (inner / outer.clamp(min=1)).cpu().numpy()
    return stability


def _under(points: FloatArray, masks: BoolArray, photo: tuple[int, ...]) -> BoolArray:
    """Which masks (n, h, w) cover which points (m, 2) of a photo of (height, width): (n, m)."""
    height, width = masks.shape[1:]
    columns = (points[:, 0] * width / photo[1]).astype(int).clip(0, width - 1)
    rows = (points[:, 1] * height / photo[0]).astype(int).clip(0, height - 1)
    return masks[:, rows, columns]


def _box_around(points: FloatArray) -> tuple[float, float, float, float]:
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return x0, y0, x1, y1
