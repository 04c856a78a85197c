"""GF-SAM (arXiv 2410.06964) as a prompter, one-shot and few-shot.

An encoder's patches that are more like the support's object than like its background become single points; SAM gives a
mask for each; masks that cover each other's points form clusters; two gates choose which masks are united. Without a
shift these are the published steps; with one, it moves the points, and the gates look at the photo as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Embedding, Promptable
from prmagic.backbones.tokens import Tokens
from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Preset, Query
from prmagic.frameworks.gfsam.steps import (
    SMALL,
    Alignment,
    IntArray,
    Shot,
    align,
    align_moved,
    choose_points,
    clusters,
    decided,
    merged,
    middle_shares,
    overshooting_gate,
    point_pixels,
    point_scores,
    positive_gate,
    sampled,
    widest,
)
from prmagic.frameworks.maps import largest, object_cosines, on_patches, shifted_tokens, to_later_union
from prmagic.options import option
from prmagic.reference import Example, Reference
from prmagic.types import BoolArray, ByteArray, Candidate, Other, Part, Prompts

REMEMBERED_REFERENCES = 8  # of which a query keeps the cosines
REMEMBERED_UNIONS = 8  # masks of a query that are kept for later steps, at the photo's size
SUREST = 8  # single masks that a selector can choose from beside the unions
REMEMBERED = 1024  # points of a query whose masks are kept for later steps


@dataclass(frozen=True)
class GfSamOptions:
    """What can be chosen."""

    channel_scaling: bool = option(True, "Divide each channel of a photo's tokens by its norm over the photo")
    flow_masks: int | None = option(
        8, "How many of the united masks d looks at, those that together cover most; none: at all of them"
    )
    clean: float | None = option(
        0.05, "Remove holes and pieces below this share of the mask's largest piece; none: leave them"
    )
    encoder_size: int | None = option(
        None, "Side of the encoder's input in pixels, a multiple of its patch; none: what it was trained at"
    )

    def __post_init__(self) -> None:
        for name, unit in (("flow_masks", "masks"), ("encoder_size", "pixels")):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"GF-SAM's {name} cannot be {value}: it must be a number of {unit}, or none")
        if self.clean is not None and not 0 < self.clean < 1:
            raise ValueError(f"GF-SAM's clean cannot be {self.clean}: it must lie between 0 and 1, or be none")


@dataclass(frozen=True, eq=False)
class PointPrompts(Prompts):
    """Points that SAM is asked one by one; there may be none. patches (n,): the query's patches that they stand for."""

    patches: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        """An empty set is allowed."""
        if self.points.shape != (len(self.patches), 2) or self.labels.shape != self.patches.shape:
            raise ValueError("there must be one point and one label for each patch")


class Answer(NamedTuple):
    """SAM's mask for a point, and which patches it covers.

    logits (s, s); predicted_iou; points (N,) bool: at the pixels that stand for the patches as points; middles (4, N)
    bool: at the four pixels around the patches' middles."""

    logits: Tensor
    predicted_iou: float
    points: BoolArray
    middles: BoolArray


class GfSam(Framework):
    """GF-SAM; the encoder's tokens are compared, and SAM is asked for one point at a time."""

    name = "gf-sam"
    margin = 1.05  # chosen on the dev classes
    Options = GfSamOptions
    presets: ClassVar[Mapping[str, Preset]] = {"default": Preset(flow=Flow(mode="spread"), selector="judge")}
    uses_encoder = True
    point_at: ClassVar[float] = 0.5  # where in its patch a point lies, along both sides

    def __init__(self, sam: Promptable, options: GfSamOptions | None = None, encoder: Dino | None = None):
        if encoder is None:
            raise ValueError("GF-SAM compares the tokens of an encoder: give it one, such as Dino.load('embedded')")
        super().__init__(sam, options, encoder)
        self.options: GfSamOptions

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """The tokens that a reference holds are scaled or not."""
        return {"channel_scaling": self.options.channel_scaling}

    def encoder_tokens(self, images: Sequence[ByteArray]) -> list[Tokens]:
        """The encoder's; channels that are large all over the photo tell little of it, and scaling takes that away."""
        assert self.encoder is not None
        if not self.options.channel_scaling:
            return super().encoder_tokens(images)
        with self.stopwatch("tokens"):
            scaled = [F.normalize(each.before_norm, dim=0) for each in self.encoder.encode(images)]
            return [Tokens(F.normalize(each, dim=1), self.encoder.grid) for each in scaled]

    def encode_support(
        self, examples: Sequence[Example], queries: Sequence[Query], rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Nothing beside the tokens."""
        return {}

    def sample_prompts(
        self, query: Query, references: Sequence[Reference], shifts: Sequence[Tensor], rngs: Sequence[torch.Generator]
    ) -> list[Prompts]:
        """Patches that are more like the object than like the background, at most 128; nothing is drawn at random."""
        found: list[Prompts] = []
        for reference, shift in zip(references, shifts, strict=True):
            scores = point_scores(self._alignment(query, reference, shift))
            rows, columns = grid = query.tokens.grid
            patches = choose_points(scores, grid)
            (height, width), photo = query.embedding.frame.resized, query.image.shape
            x = point_pixels(width, columns, self.point_at)[patches % columns] * (photo[1] / width)
            y = point_pixels(height, rows, self.point_at)[patches // columns] * (photo[0] / height)
            points = np.stack([x, y], 1).astype(np.float32)
            similarity = scores.reshape(grid)
            found.append(PointPrompts(points, np.ones(len(points), np.int64), similarity=similarity, patches=patches))
        return found

    def decode(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[Candidate]:
        """Every point's mask, clusters of them, and the union of those that pass both gates."""
        answers = self._ask(query, references, prompts)
        return [self._decode(query, *each) for each in zip(references, prompts, answers, strict=True)]

    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """The low-resolution logits of the united masks, or of the `flow_masks` that cover most."""
        return [self._logits(*each) for each in zip(candidates, embeddings, strict=True)]

    def _alignment(self, query: Query, reference: Reference, shift: Tensor | None = None) -> Alignment:
        """Of the query's tokens, after the shift if there is one; without one, worked out once."""
        tokens = query.tokens.vectors
        known: dict[Reference, tuple[list[Shot], Alignment]] = query.memo.setdefault("alignment", {})
        with self.stopwatch("align"):
            if reference not in known:
                for oldest in list(known)[: max(0, len(known) + 1 - REMEMBERED_REFERENCES)]:
                    del known[oldest]
                known[reference] = self._compared(tokens, reference, object_cosines(query, reference))
            shots, still = known[reference]
            if shift is None or not shift.any():
                return still
            moved = on_patches(shift, query.embedding, query.tokens.grid)[:, : tokens.shape[1]]
            found = align_moved(shots, tokens, moved)
            if decided(found):
                return found
            tokens = F.normalize(shifted_tokens(query.tokens, shift, query.embedding), dim=1)
            return self._compared(tokens, reference)[1]

    def _compared(
        self, tokens: Tensor, reference: Reference, cosines: Sequence[Tensor] = ()
    ) -> tuple[list[Shot], Alignment]:
        """(N, C) unit vectors with each support; cosines: with the patches that the supports' masks touch, if known."""
        shots = []
        for support, weight, known in zip_longest(reference.supports, self.weights(reference), cosines):
            fits = known is not None and torch.equal(weight > 0, support.shares > 0)
            shots.append(Shot.of(tokens, support.vectors.to(tokens), weight.to(tokens), known if fits else None))
        return shots, align(shots)

    def _ask(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[list[Answer]]:
        """SAM's masks for each set of points. What was asked for this reference before is not asked again.

        Answers of an earlier call for another reference are not taken: decoded among other points, they differ by
        rounding."""
        known: dict[tuple[Reference, int], Answer] = query.memo.setdefault("points", {})
        asked: list[list[tuple[Reference, int]]] = []
        new: dict[int, Prompts] = {}
        for reference, each in zip(references, prompts, strict=True):
            assert isinstance(each, PointPrompts)
            asked.append([(reference, patch) for patch in each.patches.tolist()])
            new |= {place[1]: one for place, one in zip(asked[-1], singles(each), strict=True) if place not in known}
        if new:
            decoded = self.sam.decode(query.embedding, list(new.values()), multimask=False)
            logits, ious = decoded.logits[:, 0], decoded.predicted_iou[:, 0].tolist()
            points, middles = sampled(logits, query.embedding.frame, query.tokens.grid, self.point_at)
            found = dict(zip(new, map(Answer, logits, ious, points, middles), strict=True))
            known |= {place: found[place[1]] for places in asked for place in places if place not in known}
        answers = [[known[place] for place in places] for places in asked]
        for oldest in list(known)[: max(0, len(known) - REMEMBERED)]:
            del known[oldest]
        return answers

    def _decode(self, query: Query, reference: Reference, prompts: Prompts, answers: Sequence[Answer]) -> Candidate:
        assert isinstance(prompts, PointPrompts)
        if not answers:
            return Candidate(np.zeros(query.image.shape[:2], bool), prompts, 0.0)
        with self.stopwatch("gates"):
            kept, labels = self._gates(query, reference, prompts.patches, answers)
        asked = singles(prompts)
        parts = tuple(Part(asked[index], None) for index in kept)
        predicted_iou = float(np.mean([answers[index].predicted_iou for index in kept]))
        mask = self._union(query, (reference, frozenset(prompts.patches[kept].tolist())), [answers[i] for i in kept])
        logits, others = _others(kept, labels, answers, asked)
        return Candidate(mask, prompts, predicted_iou, logits, parts=parts, others=others)

    def _union(self, query: Query, points: tuple[Reference, frozenset[int]], answers: Sequence[Answer]) -> Any:
        """(H, W): where any of the masks of these points is, small holes and pieces aside. The next step may have the
        same."""
        known: dict[tuple[Reference, frozenset[int]], Any] = query.memo.setdefault("unions", {})
        if points not in known:
            for oldest in list(known)[: max(0, len(known) + 1 - REMEMBERED_UNIONS)]:
                del known[oldest]
            known[points] = to_later_union([each.logits for each in answers], query.embedding.frame, self.options.clean)
        return known[points]

    def _gates(
        self, query: Query, reference: Reference, patches: IntArray, answers: Sequence[Answer]
    ) -> tuple[list[int], IntArray]:
        """Indices of the masks to unite, first those that d looks at; and of which cluster each mask is."""
        grid, frame = query.tokens.grid, query.embedding.frame
        shares = middle_shares(frame.resized, grid)
        middles = np.stack([answer.middles for answer in answers])
        labels = clusters(np.stack([answer.points[patches] for answer in answers]))
        unions = np.stack([middles[labels == label].any(0) for label in range(labels.max() + 1)])
        tokens = query.tokens.vectors
        covered = torch.from_numpy((unions * shares).sum(1)).to(tokens)
        means = covered @ tokens / len(tokens) / (covered.mean(1, keepdim=True) + SMALL)
        likeness = (means @ tokens[torch.from_numpy(patches).to(tokens.device)].T).cpu().numpy()
        positive, growth = positive_gate((middles * shares).sum(1), labels, self._alignment(query, reference))
        places = np.stack([patches // grid[1], patches % grid[1]], 1)
        kept = merged(positive, overshooting_gate(likeness, places, labels), growth)
        first = widest(middles[kept].reshape(len(kept), -1), self.options.flow_masks or 0)
        return [kept[index] for index in first] + [index for at, index in enumerate(kept) if at not in first], labels

    def _logits(self, candidate: Candidate, embedding: Embedding) -> Tensor:
        if not candidate.parts:  # nothing was found, and nothing can be improved
            return embedding.features.sum().mul(0).view(1, 1, 1)
        parts = candidate.parts[: self.options.flow_masks]
        decoded = self.sam.decode(embedding, [part.prompts for part in parts], multimask=False)
        return embedding.frame.over_photo(decoded.logits[:, 0])

    # What the published code does otherwise, see published.py:

    def weights(self, reference: Reference) -> list[Tensor]:
        """Of each support, how much each patch (N,) belongs to the object: the share that its mask covers."""
        return [support.shares for support in reference.supports]


def _others(
    kept: Sequence[int], labels: IntArray, answers: Sequence[Answer], asked: Sequence[Prompts]
) -> tuple[Tensor, tuple[Other, ...]]:
    """The logits of all that the gates keep united; and every cluster of masks united, what the gates keep of each, all
    masks united, and the surest single ones."""
    sure = sorted(range(len(answers)), key=lambda index: -answers[index].predicted_iou)[:SUREST]
    groups: list[list[int]] = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    passed = [
        [index for index in kept if labels[index] == label] for label in dict.fromkeys(labels[list(kept)].tolist())
    ]
    united = {key: largest([answers[index].logits for index in key]) for key in map(_key, groups + passed)}
    whole = {_key(range(len(answers))): largest([united[_key(group)] for group in groups])}
    single = {(index,): answers[index].logits for index in sure}
    groups += [*passed, list(range(len(answers))), *([index] for index in sure)]
    points = Prompts(np.concatenate([each.points for each in asked]), np.ones(len(asked), np.int64))
    others = tuple(
        Other(
            (united | whole | single)[key],
            points,
            float(np.mean([answers[index].predicted_iou for index in group])),
            parts=tuple(Part(asked[index], None) for index in group),
        )
        for key, group in {_key(group): group for group in groups}.items()
    )
    return largest([united[_key(group)] for group in passed]), others


def _key(group: Iterable[int]) -> tuple[int, ...]:
    return tuple(sorted(group))


def singles(prompts: Prompts) -> list[Prompts]:
    """Each point by itself."""
    return [Prompts(point[None], np.ones(1, np.int64)) for point in prompts.points]
