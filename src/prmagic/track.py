"""Things through the frames of a video: what a frame gives helps with the next ones.

In each frame the framework answers as for a photo. The memory says where in the frame the thing is: the examples, and
the latest confident answers (`memory.py`). There the frame is looked at again through a window, in which the thing is
larger than in the whole frame. SAM is asked in the window, and the memory and SAM together decide on each pixel. After
a frame in which nothing was found, the whole frame is open again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from prmagic.frameworks.base import Query
from prmagic.frameworks.maps import bounding_box, cleaned
from prmagic.io.images import load_image
from prmagic.labels import best_first
from prmagic.memory import Remembered, Window, likelihood
from prmagic.numbering import Numbering
from prmagic.presence import presence
from prmagic.reference import Reference
from prmagic.result import Segmentation
from prmagic.select import best
from prmagic.types import BoolArray, ByteArray, Candidate, ImageLike, Instance, Prompts

if TYPE_CHECKING:
    from prmagic.segmenter import Encoded, Segmenter

Number = TypeVar("Number", int, float)

MEMORY = 1  # answers that are kept, unless told otherwise
# Chosen on the dev classes with the embedded models:
CONFIDENT = 0.9  # share of the mean score so far from which on an answer joins the memory
LOST = 0.5  # share of it below which the thing counts as lost: the next frame is searched as a whole
SPREAD = 3.0  # half a window's side, in standard deviations of the mask's pixels along it
SMALLEST = 0.05  # half a window's side at least, as a share of the frame's longer side
SPECKS = 0.2  # pieces smaller than this share of the largest one are not what a window is around
CERTAIN = 6.0  # largest logit of SAM that counts
WHOLE, CLOSE = 1.0, 2.0  # weight of SAM's logits beside the memory's: over the whole frame, in the window


class Tracks:
    """What has been seen of each label up to now.

    Args:
        segmenter: Finds things in a single frame.
        references: What to follow, by label.
        memory: How many of the latest confident answers are remembered, beside the examples.
        instances: Find one mask per thing, in each frame by itself; a thing keeps its number from frame to frame.
    """

    def __init__(
        self, segmenter: Segmenter, references: Mapping[str, Reference], memory: int = MEMORY, instances: bool = False
    ):
        if memory < 0:
            raise ValueError(f"memory is how many answers are kept, 0 or more; got {memory}")
        for reference in references.values():
            segmenter.check(reference)
        self._segmenter = segmenter
        self._tracks = {label: _Track(segmenter, label, each, memory) for label, each in references.items()}
        self._numbering = Numbering() if instances else None

    def follow(self, frames: Iterable[ImageLike]) -> Iterator[Segmentation]:
        """One result per frame and label, as soon as it is there; the frames are named 000000, 000001, …"""
        for number, frame in enumerate(frames):
            yield from self.find(f"{number:06d}", load_image(frame, self._segmenter.max_pixels))

    def find(self, name: str, image: ByteArray) -> list[Segmentation]:
        """The next frame (H, W, 3) uint8: one result per label; a pixel of several has the one with the best score."""
        (encoded,) = self._segmenter.encode([image])
        things = self._numbering is not None
        results = best_first([track.find(name, encoded, things) for track in self._tracks.values()])
        for position, result in enumerate(results):
            if self._numbering is not None and result.instances is not None:
                numbered = self._numbering.numbered(result.label, encoded.query, result.instances)
                results[position] = result = replace(result, instances=numbered)
            self._remember(result.label, encoded.query, result.mask, result.score, result.instances or ())
        return results

    def remember(
        self, label: str, image: ByteArray, mask: BoolArray, score: float, instances: Sequence[Instance] = ()
    ) -> None:
        """What `find` gave for a frame: after all frames up to here the tracks are as if they had found it."""
        self._remember(label, Query(image, self._segmenter.framework), mask, score, instances)

    def _remember(self, label: str, query: Query, mask: BoolArray, score: float, instances: Sequence[Instance]) -> None:
        self._tracks[label].remember(query, mask, score)
        if self._numbering is not None:
            self._numbering.remember(label, query, instances)


class _Track:
    """One label. last: the mask of the frame before, None if it is lost; scores: of all frames with a mask."""

    def __init__(self, segmenter: Segmenter, label: str, reference: Reference, memory: int):
        self.segmenter, self.label, self.reference, self.memory = segmenter, label, reference, memory
        self.examples = Remembered.of_examples(reference)
        self.answers: list[_Answer] = []
        self.scores: list[float] = []
        self.last: BoolArray | None = None

    def remember(self, query: Query, mask: BoolArray, score: float) -> None:
        self.last = None
        if not mask.any():
            return
        mean = sum(self.scores) / len(self.scores) if self.scores else -1.0
        self.scores.append(score)
        if score < LOST * mean:
            return
        self.last = mask
        if self.memory and score >= self._least(mean):
            self.answers = [*self.answers, _Answer(query, mask)][-self.memory :]

    def find(self, name: str, encoded: Encoded, things: bool) -> Segmentation:
        """In a frame; things: one mask per thing, each frame by itself."""
        framework, query = self.segmenter.framework, encoded.query
        answer = self.segmenter.segment_encoded(name, self.label, encoded, self.reference, instances=things)
        if things or self.last is None:
            return answer
        before = self.segmenter.spent()
        own = answer.candidates[answer.chosen]
        with framework.stopwatch("track"), torch.no_grad():
            memory = [*self.examples, *(each.remembered for each in self.answers)]
            height, width = own.mask.shape
            likely = likelihood(query.tokens, Window(0, 0, width, height), memory, self.last)
            coarse = cleaned((_logit(likely) + WHOLE * _certain(own, query) > 0).numpy(force=True), SPECKS)
            found = [(own, float(_agreement(torch.from_numpy(own.mask).to(likely), likely)))]
            if coarse.any():
                found.append(self._close(query, window_around(coarse), memory))
        candidates, scores = zip(*found, strict=True)
        chosen = best(scores)
        seconds, counts = self.segmenter.since(before)
        return replace(
            answer, candidates=candidates, scores=scores, chosen=chosen,
            score=presence(query, self.reference, candidates[chosen].mask),
            seconds=_sum([answer.seconds, seconds]), counts=_sum([answer.counts, counts]),
        )  # fmt: skip

    def _close(self, frame: Query, window: Window, memory: Sequence[Remembered]) -> tuple[Candidate, float]:
        """The thing as seen through a window, in the whole frame; and how far it agrees with the memory."""
        assert self.last is not None
        framework, size = self.segmenter.framework, frame.image.shape[:2]
        query = frame
        if window.size != size:
            cut = frame.image[window.y0 : window.y1, window.x0 : window.x1]
            (query,) = framework.encode_queries([np.ascontiguousarray(cut)])
        likely = likelihood(query.tokens, window, memory, self.last)
        prompts = prompts_for(likely.numpy(force=True))
        decoded = framework.sam.decode(query.embedding, [prompts])
        logits = query.embedding.frame.upscale(decoded.logits[0]).clamp(-CERTAIN, CERTAIN)
        fit = torch.stack([_agreement((each > 0).float(), likely) for each in logits])
        channel = int((fit * decoded.predicted_iou[0].clamp(0.01, 1).sqrt()).argmax())
        inside = _logit(likely) + CLOSE * logits[channel] > 0
        mask = np.zeros(size, bool)
        window.cut(mask)[:] = inside.numpy(force=True)
        candidate = Candidate(
            mask, moved(prompts, window), float(decoded.predicted_iou[0][channel]), None, channel
        )  # fmt: skip
        return candidate, float(_agreement(inside.float(), likely)) if mask.any() else -math.inf

    def _least(self, mean: float) -> float:
        known = self.segmenter.min_score
        return CONFIDENT * mean if known is None else known


class _Answer:
    """A frame and its mask, as it is remembered; worked out when that is needed first, and then without the frame."""

    def __init__(self, query: Query, mask: BoolArray):
        self._query: Query | None = query
        self._mask = mask
        self._remembered: Remembered | None = None

    @property
    def remembered(self) -> Remembered:
        if self._remembered is None:
            assert self._query is not None
            self._remembered = Remembered.of_frame(self._query.tokens, self._mask)
            self._query = None
        return self._remembered


def window_around(mask: BoolArray) -> Window:
    """Where to look closely at a mask (H, W) that is not empty. Thin pieces that reach far count by their pixels."""
    sides = []
    least = SMALLEST * max(mask.shape)
    for places, size in zip(np.nonzero(mask), mask.shape, strict=True):
        middle, half = places.mean() + 0.5, max(SPREAD * places.std(), least)
        sides.append((max(0, math.floor(middle - half)), min(size, math.ceil(middle + half))))
    (y0, y1), (x0, x1) = sides
    return Window(x0, y0, x1, y1)


def prompts_for(likely: np.ndarray) -> Prompts:
    """The place deepest inside where the thing is likely (h, w), and the box around it; else the likeliest place."""
    inside = likely > 0.5
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1] if inside.any() else likely
    y, x = np.unravel_index(int(depth.argmax()), likely.shape)
    return Prompts(np.array([[x, y]], np.float32), np.ones(1, np.int64), bounding_box(inside))


def moved(prompts: Prompts, window: Window) -> Prompts:
    """From pixels of a window to those of the frame."""
    corner = (window.x0, window.y0)
    box = prompts.box
    if box is not None:
        box = box[0] + corner[0], box[1] + corner[1], box[2] + corner[0], box[3] + corner[1]
    return replace(prompts, points=prompts.points + np.array(corner, np.float32), box=box)


def _certain(candidate: Candidate, query: Query) -> Tensor:
    """A candidate's logits over the frame, (H, W), within ± CERTAIN."""
    if candidate.logits is None:
        return (torch.from_numpy(candidate.mask).to(query.tokens.vectors) * 2 - 1) * CERTAIN
    logits = query.embedding.frame.upscale(candidate.logits.to(query.tokens.vectors))
    return logits.clamp(-CERTAIN, CERTAIN)


def _logit(likely: Tensor) -> Tensor:
    return likely.clamp(0.01, 0.99).logit()


def _agreement(mask: Tensor, likely: Tensor) -> Tensor:
    """IoU of a mask of 0 and 1 with likelihoods, both (h, w)."""
    return torch.minimum(mask, likely).sum() / torch.maximum(mask, likely).sum().clamp(min=1e-6)


def _sum(several: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """By name."""
    total: dict[str, Number] = {}
    for each in several:
        for name, value in each.items():
            total[name] = total.get(name, 0) + value
    return total
