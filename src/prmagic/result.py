"""The answer for one query and one label."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from math import nan
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from prmagic import pictures
from prmagic.io.formats import Labelled, Options, instance_record, recorded_instance, rle, unrle
from prmagic.io.formats.coco import coco
from prmagic.types import BoolArray, ByteArray, Candidate, Instance

if TYPE_CHECKING:
    from supervision import Detections

SHOWN = 1024  # longest side of the picture in a notebook, in pixels


class _Answer(ABC):
    """What can be done with a mask, however it is kept."""

    query: str
    label: str

    @property
    @abstractmethod
    def instances(self) -> tuple[Instance, ...] | None:
        """One mask, box and score per thing; None: not asked for."""

    @property
    @abstractmethod
    def mask(self) -> BoolArray:
        """(H, W) bool, at the photo's own size; empty if the thing was not found."""

    @property
    def numbers(self) -> list[int] | None:
        """Of the instances in a video, in their order; None in a photo, or where these were not asked for."""
        numbers = [each.number for each in self.instances or () if each.number is not None]
        return numbers or None

    @property
    def found(self) -> bool:
        """Whether there is anything in the mask."""
        return bool(self.mask.any())

    def to_pil(self) -> Image.Image:
        """The mask as a grey picture of the photo's size, 255 on the object and 0 elsewhere."""
        return pictures.mask_image(self.mask)

    def to_coco(self, polygons: bool = False) -> dict[str, Any]:
        """A data set of one photo in COCO's format, as `json.dump` takes it.

        Args:
            polygons: Outlines in place of a run-length code.

        Returns:
            A dictionary with one annotation, or one for each instance, which has the presence score in "score". Without
            annotation if nothing was found.
        """
        instances = {} if self.instances is None else {self.label: self.instances}
        photo = Labelled(self.query, {self.label: self.mask}, instances=instances)
        return coco([photo], [self.label], Options(polygons))


@dataclass(frozen=True, eq=False)
class SlimSegmentation(_Answer):
    """A result without the photo and the candidates: some kilobytes. `Segmentation.slim` makes it.

    Args:
        query: The photo's name.
        label: What was looked for.
        seed: On which all random draws depended.
        rle: The mask as COCO's run-length code.
        scores: One per candidate.
        chosen: The index of the candidate that won.
        score: How alike what the mask covers is to the examples.
        predicted_iou: SAM's estimate.
        instance_records: Of `instances`, with their masks as run-length codes.
    """

    query: str
    label: str
    seed: int
    rle: Mapping[str, Any]
    scores: tuple[float, ...]
    chosen: int
    score: float
    predicted_iou: float
    instance_records: tuple[Mapping[str, Any], ...] | None = None

    @property
    def mask(self) -> BoolArray:
        """(H, W) bool, at the photo's own size; empty if the thing was not found."""
        return unrle(self.rle)

    @property
    def instances(self) -> tuple[Instance, ...] | None:
        """One mask, box and score per thing; None: not asked for."""
        return None if self.instance_records is None else tuple(map(recorded_instance, self.instance_records))


@dataclass(frozen=True, eq=False)
class Segmentation(_Answer):
    """The answer for one query and one label, with every candidate that led to it.

    Args:
        query: The photo's name.
        label: What was looked for.
        seed: On which all random draws depended.
        image: The photo, (H, W, 3) uint8.
        candidates: Candidate 0 is what the framework alone says; candidate t comes after t steps. The last ones may be
            masks that SAM gave beside those (`others`).
        scores: One per candidate, higher is better; -inf for a candidate that may not win (an empty mask), nan where
            there was nothing to choose from.
        chosen: The index of the candidate that won.
        score: How alike what it covers is to the examples, −1 … 1 (`prmagic.presence`); nan for an empty mask. Of
            instances the highest.
        min_score: With a lower score the thing counts as not found; None: no score is too low.
        excluded: (H, W) bool, pixels that belong to another label; None: no pixel does.
        instances: One mask, box and score per thing, the highest score first; None: not asked for.
        seconds: What the time went into, by stage.
        counts: How often the encoder and the decoder ran.

    Examples:
        >>> result = segmenter.segment("photo.jpg", cat)
        >>> result.mask, result.score, result.found
    """

    query: str
    label: str
    seed: int
    image: ByteArray
    candidates: tuple[Candidate, ...]
    scores: tuple[float, ...]
    chosen: int
    score: float = nan
    min_score: float | None = None
    excluded: BoolArray | None = None
    instances: tuple[Instance, ...] | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def mask(self) -> BoolArray:
        """(H, W) bool, at the photo's own size; empty if the thing was not found. The union of the instances, where
        these were asked for."""
        mask = self.candidates[self.chosen].mask
        if self.instances is not None:
            union = np.zeros_like(mask)
            for instance in self.instances:
                union |= instance.mask
            return union
        if self.rejected:
            return np.zeros_like(mask)
        return mask if self.excluded is None else mask & ~self.excluded

    @property
    def others(self) -> int:
        """How many of the candidates, the last ones, are masks that SAM gave beside those of the steps."""
        return sum(candidate.beside for candidate in self.candidates)

    @property
    def rejected(self) -> bool:
        """Whether the chosen candidate's mask does not count, because the score is too low."""
        return self.instances is None and self.min_score is not None and self.score < self.min_score

    @property
    def predicted_iou(self) -> float:
        """SAM's estimate for the chosen mask; its head is not confined to 0 … 1. Of instances that of the first; nan if
        there are none."""
        if self.instances is not None:
            return self.instances[0].predicted_iou if self.instances else nan
        return self.candidates[self.chosen].predicted_iou

    def overlay(self) -> Image.Image:
        """The photo with the mask as a tint and a contour; with instances, each in a colour, with a number."""
        if self.instances is not None:
            return pictures.overlay_instances(self.image, [each.mask for each in self.instances], self.numbers)
        return pictures.overlay(self.image, self.mask)

    def slim(self) -> SlimSegmentation:
        """The same without the photo and the candidates, for keeping many."""
        things = None if self.instances is None else tuple(map(instance_record, self.instances))
        return SlimSegmentation(
            self.query, self.label, self.seed, rle(self.mask), self.scores, self.chosen, self.score, self.predicted_iou,
            things,
        )  # fmt: skip

    def _repr_png_(self) -> bytes:
        """What a notebook shows: the photo with the mask, at most 1024 pixels a side."""
        picture = self.overlay()
        picture.thumbnail((SHOWN, SHOWN))
        with BytesIO() as file:
            picture.save(file, "PNG")
            return file.getvalue()

    def to_supervision(self, class_id: int = 0) -> Detections:
        """As `supervision.Detections`: one detection with mask, box and label, or one for each instance, or none.

        The confidence is SAM's predicted IoU; `data["score"]` has the presence scores. A box is x0, y0, x1, y1 through
        the centres of the outermost pixels, as supervision's own boxes of masks are.

        Raises:
            ImportError: If the package is missing; the message says what to install.
        """
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError("to_supervision needs a package: pip install 'prmagic[supervision]'") from error
        if not self.found:
            return Detections.empty()
        found = [(self.mask, self.predicted_iou, self.score)]
        if self.instances is not None:
            found = [(each.mask, each.predicted_iou, each.score) for each in self.instances]
        masks, predicted, scores = (list(column) for column in zip(*found, strict=True))
        boxes = [(*np.argwhere(mask).min(0)[::-1], *np.argwhere(mask).max(0)[::-1]) for mask in masks]
        return Detections(
            xyxy=np.array(boxes, np.float32),
            mask=np.array(masks),
            confidence=np.array(predicted, np.float32) if np.isfinite(predicted).all() else None,
            class_id=np.full(len(masks), class_id),
            data={"class_name": np.array([self.label] * len(masks)), "score": np.array(scores, np.float32)},
        )
