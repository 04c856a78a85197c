"""SAM's masks for Matcher's prompts: which were asked, what came back, and what passes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prmagic.backbones.promptable import Frame, Promptable
from prmagic.frameworks.base import Query
from prmagic.frameworks.maps import working_size
from prmagic.frameworks.matcher.options import MatcherOptions
from prmagic.reference import Reference
from prmagic.types import BoolArray, FloatArray, Part, Prompts

DENSE_PREDICTED_IOU, DENSE_STABILITY = 0.88, 0.95  # what a mask of the dense grid must reach
AT_ONCE = 32  # prompt sets decoded and enlarged together: SAM's decoder takes those of one shape in one call
REMEMBERED = 1024  # prompt sets of a query whose masks are kept for later steps, a quarter of a megabyte each

Passes = Callable[[FloatArray, Callable[[], FloatArray]], BoolArray]  # of predicted IoU and stability


@dataclass(frozen=True, eq=False)
class SubsetPrompts(Prompts):
    """points: what the subsets are drawn from; subsets: what SAM is asked; matched (M, 2): all matched points.

    moved (K, N, N): similarities after the shift, where masks are scored by them."""

    subsets: tuple[Prompts, ...] = ()
    matched: FloatArray = field(default_factory=lambda: np.empty((0, 2), np.float32))
    moved: FloatArray | None = None

    @property
    def key(self) -> Hashable:
        """The subsets, and what their masks are scored by."""
        moved = None if self.moved is None else hashlib.sha256(self.moved.tobytes()).digest()
        return tuple(subset.key for subset in self.subsets), self.matched.tobytes(), moved


@dataclass(frozen=True, eq=False)
class Proposals:
    """n masks: what decoded each, low-resolution logits (n, s, s), predicted IoU (n,), and boxes (n, 4) at the size at
    which they are compared, -1 for an empty mask."""

    parts: tuple[Part, ...]
    logits: Tensor
    predicted_iou: FloatArray
    boxes: FloatArray

    def __getitem__(self, index: Any) -> Proposals:
        if isinstance(index, slice):  # of these there are many, and none of their logits need be copied
            return Proposals(self.parts[index], self.logits[index], self.predicted_iou[index], self.boxes[index])
        kept = np.arange(len(self.parts))[index]
        rows = torch.from_numpy(kept).to(self.logits.device)
        parts = tuple(self.parts[i] for i in kept)
        return Proposals(parts, self.logits[rows], self.predicted_iou[kept], self.boxes[kept])


class Proposer:
    """Asks SAM. What was asked of a query for the same reference at an earlier step is not asked again."""

    def __init__(self, sam: Promptable, options: MatcherOptions):
        self.sam, self.options = sam, options

    def ask(self, query: Query, reference: Reference, subsets: Sequence[Prompts]) -> list[Proposals]:
        """The masks of all subsets and of the dense grid that pass; if none does, those of all subsets.

        Not joined, because only a few of them will be looked at."""
        # Not with other references: decoded among other prompts, masks differ by rounding.
        known = query.memo.setdefault("proposals", {})
        keys = [(reference, subset.key) for subset in subsets]
        new = {key: subset for key, subset in zip(keys, subsets, strict=True) if key not in known}
        known |= zip(new, self._propose(query, list(new.values()), self.options.channels, self._passes), strict=True)
        found = [known[key] for key in keys]
        for oldest in list(known)[: max(0, len(known) - REMEMBERED)]:
            del known[oldest]
        if self.options.dense_grid:
            found.append(self._dense(query))
        if any(each.parts for each in found):
            return found
        return list(self._propose(query, subsets, self.options.channels))  # better a doubtful mask than none

    def size(self, frame: Frame) -> tuple[int, int]:
        """(height, width) at which masks are compared."""
        return working_size(frame.photo, self.options.compare_at)

    def _propose(
        self, query: Query, prompts: Sequence[Prompts], channels: tuple[int, ...] | None, passes: Passes | None = None
    ) -> Iterator[Proposals]:
        """The masks of each prompt set, decoded in batches; only what passes."""
        frame = query.embedding.frame
        size = self.size(frame)
        at_once = max(AT_ONCE, self.sam.decode_batch)
        for start in range(0, len(prompts), at_once):
            batch = prompts[start : start + at_once]
            decoded = self.sam.decode(query.embedding, batch, multimask=channels is not None)
            taken = list(channels or (0,))
            logits, predicted = decoded.logits[:, taken].flatten(0, 1), decoded.predicted_iou[:, taken].flatten()
            names = channels or (None,)
            parts = tuple(Part(prompt, channel) for prompt in batch for channel in names)
            boxes = frame.boxes(logits, size).numpy().astype(np.float32)
            found = Proposals(parts, logits, predicted.cpu().numpy(), boxes)
            stability = partial(_stability, frame, logits, size)
            good = np.ones(len(parts), bool) if passes is None else passes(found.predicted_iou, stability)
            for first in range(0, len(parts), len(names)):
                rows = slice(first, first + len(names))
                yield found[rows] if good[rows].all() else found[rows][good[rows]]

    def _passes(self, predicted_iou: FloatArray, stability: Callable[[], FloatArray]) -> BoolArray:
        kept = np.ones(len(predicted_iou), bool)
        if self.options.min_predicted_iou:
            kept &= predicted_iou > self.options.min_predicted_iou
        if self.options.min_stability:
            kept &= stability() > self.options.min_stability
        return kept

    def _dense(self, query: Query) -> Proposals:
        """The good masks of a grid of single points; the same at every step."""
        if "dense" not in query.memo:
            side, (height, width) = self.options.dense_grid, query.image.shape[:2]
            middles = (np.arange(side) + 0.5) / side
            grid = np.stack(np.meshgrid(middles * width, middles * height), -1).reshape(-1, 1, 2).astype(np.float32)
            prompts = [Prompts(point, np.ones(1, np.int64)) for point in grid]

            def passes(predicted_iou: FloatArray, stability: Callable[[], FloatArray]) -> BoolArray:
                return (predicted_iou > DENSE_PREDICTED_IOU) & (stability() >= DENSE_STABILITY)

            query.memo["dense"] = joined(list(self._propose(query, prompts, None, passes)))
        dense: Proposals = query.memo["dense"]
        return dense


def joined(batches: Sequence[Proposals]) -> Proposals:
    """All of them, one after another."""
    return taken(batches, range(sum(len(each.parts) for each in batches)))


def taken(batches: Sequence[Proposals], indices: Sequence[int]) -> Proposals:
    """Those with these indices among all of them, without copying the others."""
    places = [(batch, row) for batch in batches for row in range(len(batch.parts))]
    chosen = [places[index] for index in indices]
    if not chosen:
        return batches[0][:0]
    return Proposals(
        tuple(batch.parts[row] for batch, row in chosen),
        torch.stack([batch.logits[row] for batch, row in chosen]),
        np.array([batch.predicted_iou[row] for batch, row in chosen]),
        np.stack([batch.boxes[row] for batch, row in chosen]),
    )


def _stability(frame: Frame, logits: Tensor, size: tuple[int, int]) -> FloatArray:
    """(n,): IoU of the masks at logits > 1 and > −1; 0 where both are empty."""
    enlarged = frame.upscale_many(logits, size)
    inner, outer = ((enlarged > offset).flatten(1).sum(1) for offset in (1.0, -1.0))
    stability: FloatArray = (inner / outer.clamp(min=1)).cpu().numpy()
    return stability
