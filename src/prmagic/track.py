"""Things through the frames of a video: what a frame gives helps with the next ones.

In each frame the framework is asked with the first reference, and with one of the latest confident answers (the
memory). SAM is asked once more for each, at the place near the last mask that is most like the examples, and with its
box. Of all these masks that one wins which SAM is sure of, which is like the first examples, and which lies on the last
mask. After a frame in which nothing was found, the whole frame is open again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from prmagic.frameworks.base import Query
from prmagic.frameworks.maps import edges, to_mask
from prmagic.io.images import load_image
from prmagic.labels import best_first
from prmagic.presence import presence
from prmagic.reference import Example, Reference
from prmagic.result import Segmentation
from prmagic.select import best
from prmagic.types import BoolArray, ByteArray, Candidate, FloatArray, ImageLike, Prompts

if TYPE_CHECKING:
    from prmagic.segmenter import Encoded, Segmenter

Number = TypeVar("Number", int, float)

# Chosen on the dev classes with the embedded models:
NEARNESS = 0.5  # standard deviation of the weight around the last mask, as a share of its longer side
GROWN = 0.1  # by how much of its longer side the last box grows on every side
CONFIDENT = 0.9  # share of the mean score so far from which on an answer joins the memory
LOST = 0.5  # share of it below which the thing counts as lost: the next frame is searched as a whole


class Tracks:
    """What has been seen of each label up to now.

    Args:
        segmenter: Finds things in a single frame.
        references: What to follow, by label.
        memory: How many of the latest confident answers are examples, too; 0: none.
    """

    def __init__(self, segmenter: Segmenter, references: Mapping[str, Reference], memory: int = 0):
        if memory < 0:
            raise ValueError(f"memory is how many answers are kept, 0 or more; got {memory}")
        for reference in references.values():
            segmenter.check(reference)
        self._segmenter = segmenter
        self._tracks = {label: _Track(segmenter, label, each, memory) for label, each in references.items()}

    def follow(self, frames: Iterable[ImageLike]) -> Iterator[Segmentation]:
        """One result per frame and label, as soon as it is there; the frames are named 000000, 000001, …"""
        for number, frame in enumerate(frames):
            yield from self.find(f"{number:06d}", load_image(frame, self._segmenter.max_pixels))

    def find(self, name: str, image: ByteArray) -> list[Segmentation]:
        """The next frame (H, W, 3) uint8: one result per label; a pixel of several has the one with the best score."""
        (encoded,) = self._segmenter.encode([image])
        results = best_first([track.find(name, encoded) for track in self._tracks.values()])
        for result in results:
            self.remember(result.label, image, result.mask, result.score)
        return results

    def remember(self, label: str, image: ByteArray, mask: BoolArray, score: float) -> None:
        """What `find` gave for a frame: after all frames up to here the tracks are as if they had found it."""
        self._tracks[label].remember(image, mask, score)


class _Track:
    """One label. last: the mask of the frame before, None if it is lost; scores: of all frames with a mask."""

    def __init__(self, segmenter: Segmenter, label: str, reference: Reference, memory: int):
        self.segmenter, self.label, self.reference, self.memory = segmenter, label, reference, memory
        self.examples: list[Example] = []
        self.scores: list[float] = []
        self.last: BoolArray | None = None
        self._learnt: Reference | None = None

    def remember(self, image: ByteArray, mask: BoolArray, score: float) -> None:
        self.last = None
        if not mask.any():
            return
        mean = sum(self.scores) / len(self.scores) if self.scores else -1.0
        self.scores.append(score)
        if score < LOST * mean:
            return
        self.last = mask
        if self.memory and score >= self._least(mean):
            self.examples = [*self.examples, Example(image, mask)][-self.memory :]
            self._learnt = None

    def find(self, name: str, encoded: Encoded) -> Segmentation:
        query = encoded.query
        asked = [self.segmenter.segment_encoded(name, self.label, encoded, each) for each in self._references()]
        candidates = [answer.candidates[answer.chosen] for answer in asked]
        if self.last is not None:
            candidates += [near for each in candidates for near in self._near(query, each.prompts.similarity)]
        scores = [self._rank(query, candidate) for candidate in candidates]
        chosen = best(scores)
        return replace(
            asked[0], candidates=tuple(candidates), scores=tuple(scores), chosen=chosen,
            score=presence(query, self.reference, candidates[chosen].mask),
            seconds=_sum(each.seconds for each in asked), counts=_sum(each.counts for each in asked),
        )  # fmt: skip

    def _least(self, mean: float) -> float:
        known = self.segmenter.min_score
        return CONFIDENT * mean if known is None else known

    def _references(self) -> list[Reference]:
        if not self.examples:
            return [self.reference]
        if self._learnt is None:
            self._learnt = self.segmenter.encode_examples(self.examples, label=self.label)
        return [self.reference, self._learnt]

    def _near(self, query: Query, similarity: FloatArray | None) -> list[Candidate]:
        """SAM's three masks for the likest place near the last mask, and its box."""
        assert self.last is not None
        framework, frame = self.segmenter.framework, query.embedding.frame
        if similarity is None:
            return []
        prompts = near_prompts(similarity, self.last)
        with framework.stopwatch("track"), torch.no_grad():
            decoded = framework.sam.decode(query.embedding, [prompts])
            each = zip(decoded.logits[0], decoded.predicted_iou[0].tolist(), strict=True)
            return [
                Candidate(to_mask(logits, frame), prompts, iou, logits, channel)
                for channel, (logits, iou) in enumerate(each)
            ]

    def _rank(self, query: Query, candidate: Candidate) -> float:
        """Predicted IoU · likeness with the first examples · √IoU with the last mask."""
        if not candidate.mask.any():
            return -math.inf
        likeness = presence(query, self.reference, candidate.mask)
        if self.last is None:
            return likeness
        shared = int((self.last & candidate.mask).sum()) / int((self.last | candidate.mask).sum())
        sure = candidate.predicted_iou if math.isfinite(candidate.predicted_iou) else 0.0
        return min(1.0, max(0.0, sure)) * max(0.0, likeness) * math.sqrt(shared)


def _sum(several: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """By name."""
    total: dict[str, Number] = {}
    for each in several:
        for name, value in each.items():
            total[name] = total.get(name, 0) + value
    return total


def near_prompts(similarity: FloatArray, last: BoolArray) -> Prompts:
    """The peak of a similarity map (h, w), weighted by nearness to the last mask (H, W), and the mask's box, grown."""
    height, width = last.shape
    x0, y0, x1, y1 = edges(last)
    side = max(x1 - x0, y1 - y0)
    distance = ndimage.distance_transform_edt(~last)
    near = Image.fromarray(np.exp(-((distance / (NEARNESS * side)) ** 2) / 2).astype(np.float32))
    weights = np.asarray(near.resize(similarity.shape[::-1]))
    low, high = float(similarity.min()), float(similarity.max())
    weighted = (similarity - low) / max(high - low, 1e-6) * weights
    row, column = np.unravel_index(int(weighted.argmax()), weighted.shape)
    point = ((column + 0.5) * width / weights.shape[1] - 0.5, (row + 0.5) * height / weights.shape[0] - 0.5)
    grown = GROWN * side
    box = (
        max(0.0, x0 - grown),
        max(0.0, y0 - grown),
        min(width - 1.0, x1 - 1 + grown),
        min(height - 1.0, y1 - 1 + grown),
    )
    return Prompts(np.array([point], np.float32), np.ones(1, np.int64), box, similarity=similarity)
