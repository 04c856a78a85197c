"""GF-SAM (arXiv 2410.06964) as a prompter, one-shot and few-shot.

An encoder's patches that are more like the support's object than like its background become single points; SAM gives a
mask for each; masks that cover each other's points form clusters; two gates choose which masks are united. Without a
shift these are the published steps; with one, it moves the points, and the gates look at the photo as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Embedding, Frame, Promptable
from prmagic.backbones.tokens import Tokens
from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Preset, Query
from prmagic.frameworks.gfsam.steps import (
    SMALL,
    Alignment,
    IntArray,
    align,
    choose_points,
    clusters,
    merged,
    middle_shares,
    overshooting_gate,
    point_pixels,
    point_scores,
    positive_gate,
    sampled,
    widest,
)
from prmagic.frameworks.maps import cleaned, shifted_tokens
from prmagic.options import option
from prmagic.reference import Example, Reference
from prmagic.types import BoolArray, ByteArray, Candidate, Other, Part, Prompts

SUREST = 8  # single masks that a selector can choose from beside the unions
ENLARGED = 8  # masks that are brought to the photo's size together
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
        answers = self._ask(query, prompts)
        return [self._decode(query, *each) for each in zip(references, prompts, answers, strict=True)]

    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """The low-resolution logits of the united masks, or of the `flow_masks` that cover most."""
        return [self._logits(*each) for each in zip(candidates, embeddings, strict=True)]

    def _alignment(self, query: Query, reference: Reference, shift: Tensor | None = None) -> Alignment:
        """Of the query's tokens, after the shift if there is one; without one, worked out once."""
        known: dict[Reference, Alignment] = query.memo.setdefault("alignment", {})
        moved = shift is not None and bool(shift.any())
        if not moved and reference in known:
            return known[reference]
        with self.stopwatch("align"):
            tokens = query.tokens.vectors
            if shift is not None and moved:
                tokens = F.normalize(shifted_tokens(query.tokens, shift, query.embedding), dim=1)
            supports = [support.vectors.to(tokens) for support in reference.supports]
            found = align(tokens, supports, [weight.to(tokens) for weight in self.weights(reference)])
        if not moved:
            known[reference] = found
        return found

    def _ask(self, query: Query, prompts: Sequence[Prompts]) -> list[list[Answer]]:
        """SAM's masks for each set of points. What was asked of this query before is not asked again."""
        known: dict[int, Answer] = query.memo.setdefault("points", {})
        asked: list[list[int]] = []
        new: dict[int, Prompts] = {}
        for each in prompts:
            assert isinstance(each, PointPrompts)
            asked.append(each.patches.tolist())
            new |= {patch: one for patch, one in zip(asked[-1], singles(each), strict=True) if patch not in known}
        if new:
            decoded = self.sam.decode(query.embedding, list(new.values()), multimask=False)
            logits, ious = decoded.logits[:, 0], decoded.predicted_iou[:, 0].tolist()
            points, middles = sampled(logits, query.embedding.frame, query.tokens.grid, self.point_at)
            known |= zip(new, map(Answer, logits, ious, points, middles), strict=True)
        answers = [[known[patch] for patch in patches] for patches in asked]
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
        logits = torch.stack([answers[index].logits for index in kept])
        predicted_iou = float(np.mean([answers[index].predicted_iou for index in kept]))
        mask = union(logits, query.embedding.frame)
        if self.options.clean is not None:
            mask = cleaned(mask, self.options.clean)
        others = _others(kept, labels, answers, asked)
        return Candidate(mask, prompts, predicted_iou, logits.amax(0), parts=parts, others=tuple(others))

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


def _others(kept: Sequence[int], labels: IntArray, answers: Sequence[Answer], asked: Sequence[Prompts]) -> list[Other]:
    """Every cluster of masks united, what the gates keep of each, all masks united, and the surest single ones."""
    sure = sorted(range(len(answers)), key=lambda index: -answers[index].predicted_iou)[:SUREST]
    groups: list[list[int]] = [np.flatnonzero(labels == label).tolist() for label in range(labels.max() + 1)]
    groups += [
        [index for index in kept if labels[index] == label] for label in dict.fromkeys(labels[list(kept)].tolist())
    ]
    groups += [list(range(len(answers))), *([index] for index in sure)]
    points = Prompts(np.concatenate([each.points for each in asked]), np.ones(len(asked), np.int64))
    return [
        Other(
            torch.stack([answers[index].logits for index in group]).amax(0),
            points,
            float(np.mean([answers[index].predicted_iou for index in group])),
            parts=tuple(Part(asked[index], None) for index in group),
        )
        for group in {tuple(sorted(group)): group for group in groups}.values()
    ]


def singles(prompts: Prompts) -> list[Prompts]:
    """Each point by itself."""
    return [Prompts(point[None], np.ones(1, np.int64)) for point in prompts.points]


def union(logits: Tensor, frame: Frame) -> BoolArray:
    """(n, s, s) → (H, W) bool at the photo's size: where any of the masks is."""
    found = torch.zeros(frame.photo, dtype=torch.bool, device=logits.device)
    for some in logits.split(ENLARGED):
        found |= (frame.upscale(some) > 0).any(0)
    mask: BoolArray = found.cpu().numpy()
    return mask
