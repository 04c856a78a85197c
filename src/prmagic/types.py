"""The data that travels between the parts: supports, prompts, candidates, results.

Coordinates are (x, y) in pixels of the photo they belong to, whatever size a model works at.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from prmagic.images import ImageLike, MaskLike

if TYPE_CHECKING:
    from supervision import Detections

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Support:
    """An example: a photo and the mask of the wanted thing in it.

    mask: nonzero is the object; `mask_value` picks one label of a label map instead."""

    image: ImageLike
    mask: MaskLike
    mask_value: int | None = None


@dataclass(frozen=True, eq=False)
class Prompts:
    """What SAM's decoder is asked: points (N, 2) x, y; labels (N,) 1 = object, 0 = background; box x0, y0, x1, y1.

    mask_logits: (s, s) low-resolution logits of an earlier answer, on the decoder's device.
    similarity: (h, w) float32, the cosines that the points were drawn from, at a working size of at most 1024."""

    points: FloatArray
    labels: npt.NDArray[np.int64]
    box: tuple[float, float, float, float] | None = None
    mask_logits: Tensor | None = None
    similarity: FloatArray | None = None

    def __post_init__(self) -> None:
        n = len(self.points)
        if n == 0 and self.box is None:
            raise ValueError("prompts need at least one point, or a box")
        if self.points.shape != (n, 2):
            raise ValueError(f"points must have shape (N, 2), x and y; got {self.points.shape}")
        if self.labels.shape != (n,):
            raise ValueError(f"labels must have shape ({n},), one per point; got {self.labels.shape}")

    @property
    def asked(self) -> Hashable:
        """Equal for prompts that the same photo answers with the same mask."""
        logits = None if self.mask_logits is None else self.mask_logits.cpu().numpy().tobytes()
        return self.points.tobytes(), self.labels.tobytes(), self.box, logits


@dataclass(frozen=True, eq=False)
class Part:
    """One of several masks that make a candidate: what was asked, and which of SAM's three answers it is (0 … 2), or
    None for its single answer."""

    prompts: Prompts
    channel: int | None


@dataclass(frozen=True, eq=False)
class Candidate:
    """One answer: candidate 0 is the framework's own, candidate t the one after t steps of the flow (of its first
    particle; those of further ones are numbered on).

    mask (H, W) bool at the photo's size; `prompts` those that decoded it; predicted_iou SAM's own estimate;
    logits (s, s) its low-resolution logits; channel: which of SAM's masks it is. scored_mask: what eq. (4) looks at if
    not the mask itself (the published PerSAM-F scores its first stage and returns its third).
    parts: the masks whose union it is, where there are several (Matcher); then `prompts` are what their points were
    drawn from, predicted_iou is their mean and `logits` their maximum."""

    mask: BoolArray
    prompts: Prompts
    predicted_iou: float
    logits: Tensor | None = None
    channel: int = 0
    scored_mask: BoolArray | None = None
    step: int = 0
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The answer for one query and one label, with every candidate that led to it.

    image: the photo, (H, W, 3) uint8. scores: one per candidate, higher is better; -inf for a candidate that may not
    win (an empty mask), nan where there was nothing to choose from.
    score: how alike what the chosen candidate covers is to the examples, −1 … 1, see `prmagic.presence`; nan for an
    empty mask, and for frameworks without such a score. Below min_score it counts as not found; None: all count.
    seconds: what the time went into, by stage; counts: how often the encoder and the decoder ran."""

    query: str
    label: str
    seed: int
    image: ByteArray
    candidates: tuple[Candidate, ...]
    scores: tuple[float, ...]
    chosen: int
    score: float = nan
    min_score: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    @property
    def mask(self) -> BoolArray:
        """(H, W) bool, at the photo's own size; empty if the thing was not found."""
        mask = self.candidates[self.chosen].mask
        return np.zeros_like(mask) if self.rejected else mask

    @property
    def rejected(self) -> bool:
        """Whether the chosen candidate's mask does not count, because the score is too low."""
        return self.min_score is not None and self.score < self.min_score

    @property
    def found(self) -> bool:
        """Whether there is anything in the mask."""
        return bool(self.mask.any())

    @property
    def predicted_iou(self) -> float:
        """SAM's estimate for the chosen mask; its head is not confined to 0 … 1."""
        return self.candidates[self.chosen].predicted_iou

    def to_pil(self) -> Image.Image:
        """The mask as a grey picture of the photo's size, 255 on the object and 0 elsewhere."""
        from prmagic.viz import mask_image

        return mask_image(self.mask)

    def overlay(self) -> Image.Image:
        """The photo with the mask as a tint and a contour."""
        from prmagic.viz import overlay

        return overlay(self.image, self.mask)

    def to_coco(self, polygons: bool = False) -> dict[str, Any]:
        """A data set of one photo in COCO's format, as `json.dump` takes it; without annotation if nothing was found.

        polygons: outlines in place of a run-length code. Several results make one data set with `prmagic.export.coco`.
        """
        from prmagic.export import Options, coco, labelled

        return coco(labelled([self]), [self.label], Options(polygons))

    def to_supervision(self, class_id: int = 0) -> Detections:
        """As `supervision.Detections`: one with mask, box, label and SAM's predicted IoU as its confidence, or none.

        The box is x0, y0, x1, y1 through the centres of the outermost pixels, as supervision's own boxes of masks are.
        ImportError that says what to install where the package is missing."""
        try:
            from supervision import Detections
        except ImportError as error:
            raise ImportError("to_supervision needs a package: pip install 'prmagic[supervision]'") from error
        if not self.found:
            return Detections.empty()
        rows, columns = np.nonzero(self.mask)
        return Detections(
            xyxy=np.array([[columns.min(), rows.min(), columns.max(), rows.max()]], np.float32),
            mask=self.mask[None],
            confidence=np.array([self.predicted_iou], np.float32) if isfinite(self.predicted_iou) else None,
            class_id=np.array([class_id]),
            data={"class_name": np.array([self.label])},
        )
