"""Results as they are kept: masks as run-length codes, and no photo, so that a result takes a few megabytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from torch import Tensor

from prmagic.io.formats import instance_record, recorded_instance, rle, unrle
from prmagic.io.formats.base import finite
from prmagic.io.runs import record
from prmagic.result import Segmentation
from prmagic.types import BoolArray, Candidate, FloatArray, Instance, Prompts


@dataclass(frozen=True, eq=False)
class PackedMask:
    """A mask (H, W) as COCO's run-length code."""

    code: Mapping[str, Any]

    @classmethod
    def of(cls, mask: BoolArray) -> PackedMask:
        """Pack a mask."""
        return cls(rle(mask))

    @property
    def array(self) -> BoolArray:
        """(H, W) bool, unpacked anew each time."""
        return unrle(self.code)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W)."""
        height, width = self.code["size"]
        return height, width

    @cached_property
    def area(self) -> int:
        """In pixels."""
        return int(coco_mask.area(dict(self.code)))

    @property
    def share(self) -> float:
        """Of the photo."""
        return self.area / max(1, self.shape[0] * self.shape[1])


@dataclass(frozen=True, eq=False)
class PackedCandidate:
    """A candidate as the page shows it."""

    step: int
    mask: PackedMask
    prompts: Prompts
    similarity: FloatArray | None
    logits: Tensor | None
    predicted_iou: float
    beside: bool

    @property
    def title(self) -> str:
        """What the page calls it."""
        return f"another mask of step {self.step}" if self.beside else f"step {self.step}"


@dataclass(frozen=True, eq=False)
class PackedResult:
    """A `Segmentation` as the page keeps it. record: its line of results.jsonl."""

    record: Mapping[str, Any]
    candidates: tuple[PackedCandidate, ...]
    scores: tuple[float, ...]
    score: float
    min_score: float | None
    rejected: bool

    @classmethod
    def of(cls, result: Segmentation, sha256: str) -> PackedResult:
        """Pack a result; sha256: of its photo's file."""
        line = record(result, sha256)
        codes = [PackedMask(entry["rle"]) for entry in line["candidates"]]
        candidates = tuple(map(_packed, result.candidates, codes))
        return cls(line, candidates, result.scores, result.score, result.min_score, result.rejected)

    @property
    def query(self) -> str:
        """The photo's name."""
        return str(self.record["query"])

    @property
    def label(self) -> str:
        """What was looked for."""
        return str(self.record["label"])

    @property
    def chosen(self) -> int:
        """The index of the candidate that won."""
        return int(self.record["chosen"])

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) of the photo."""
        return self.record["height"], self.record["width"]

    @property
    def mask(self) -> PackedMask:
        """The answer: that of the candidate that won, or empty if it does not count."""
        return PackedMask(self.record["rle"])

    def answered(self, mask: BoolArray) -> PackedResult:
        """The same with another answer, a part of its own."""
        packed = PackedMask.of(mask)
        return replace(self, record={**self.record, "rle": packed.code, "found": packed.area > 0})

    @property
    def instances(self) -> tuple[Instance, ...]:
        """One mask, box and score per thing; none where they were not asked for."""
        return tuple(map(recorded_instance, self.record.get("instances", ())))

    def with_instances(self, things: Sequence[Instance]) -> PackedResult:
        """The same with fewer or smaller things."""
        mask = np.zeros(self.shape, bool)
        for thing in things:
            mask |= thing.mask
        best = max((thing.score for thing in things), default=math.nan)
        changed = {"instances": [instance_record(each) for each in things], "score": finite(best)}
        return replace(self, record={**self.answered(mask).record, **changed})

    @property
    def bytes(self) -> int:
        """About how much memory it takes."""
        total = 0
        for candidate in self.candidates:
            logits = candidate.logits
            total += len(candidate.mask.code["counts"]) + 64 * len(candidate.prompts.points)
            total += 0 if candidate.similarity is None else candidate.similarity.nbytes
            total += 0 if logits is None else logits.nbytes
        return total


def _packed(candidate: Candidate, code: PackedMask) -> PackedCandidate:
    prompts = candidate.prompts
    shown = replace(prompts, similarity=None, mask_logits=None)
    return PackedCandidate(
        candidate.step, code, shown, prompts.similarity, candidate.logits, candidate.predicted_iou, candidate.beside
    )  # fmt: skip
