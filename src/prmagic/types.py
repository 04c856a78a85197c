"""The data that travels between the parts: supports, prompts, candidates.

Coordinates are (x, y) in pixels of the photo they belong to, whatever size a model works at.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]
ImageLike: TypeAlias = Union[str, "os.PathLike[str]", bytes, "Image", np.ndarray, "Tensor"]
MaskLike: TypeAlias = ImageLike


@dataclass(frozen=True, eq=False)
class Support:
    """An example: a photo and the mask of the wanted thing in it.

    Args:
        image: Path, encoded bytes, PIL image, array or tensor.
        mask: The same, of the photo's size. Nonzero is the object.
        mask_value: The mask is a label map, and this value is the object.

    Examples:
        >>> prmagic.Support("cat.jpg", "cat_mask.png")
    """

    image: ImageLike
    mask: MaskLike
    mask_value: int | None = None


@dataclass(frozen=True, eq=False)
class Prompts:
    """What SAM's decoder is asked.

    Args:
        points: (N, 2) x, y in pixels of the photo.
        labels: (N,) 1 for object, 0 for background.
        box: x0, y0, x1, y1 in pixels of the photo.
        mask_logits: (s, s) low-resolution logits of an earlier answer, on the decoder's device.
        similarity: (h, w) float32 cosines that the points were drawn from, at most 1024 pixels a side.
    """

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
    def key(self) -> Hashable:
        """Equal for prompts that the same photo answers with the same mask."""
        logits = None if self.mask_logits is None else self.mask_logits.cpu().numpy().tobytes()
        return self.points.tobytes(), self.labels.tobytes(), self.box, logits


@dataclass(frozen=True, eq=False)
class Part:
    """One of several masks that make a candidate.

    Args:
        prompts: What SAM was asked.
        channel: Which of SAM's three answers it is, 0 … 2, or None for its single answer.
    """

    prompts: Prompts
    channel: int | None


@dataclass(frozen=True, eq=False)
class Other:
    """A mask that the same calls of SAM gave beside a candidate's own, at low resolution.

    Args:
        logits: (s, s) low-resolution logits; with several parts, their maximum.
        prompts: What SAM was asked.
        predicted_iou: SAM's own estimate; with several parts, their mean.
        channel: Which of SAM's masks it is.
        parts: The masks whose union it is, where there are several.
    """

    logits: Tensor
    prompts: Prompts
    predicted_iou: float
    channel: int = 0
    parts: tuple[Part, ...] = ()


class LaterMask(ABC):
    """A mask that is made when it is first looked at. A `Candidate` takes it in place of its mask."""

    @abstractmethod
    def made(self) -> BoolArray:
        """The mask, (H, W) bool; made once."""

    @abstractmethod
    def empty(self) -> bool:
        """Whether it has no pixel; cheaper than to make it."""

    @abstractmethod
    def compact(self) -> LaterMask:
        """Itself, holding no more memory than it needs."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One answer. Candidate 0 is the framework's own; candidate t comes after t steps of the flow.

    Args:
        mask: (H, W) bool at the photo's size; or a `LaterMask`, which is made when `mask` is first read.
        prompts: The prompts that decoded it. With several parts, what their points were drawn from.
        predicted_iou: SAM's own estimate; with several parts, their mean.
        logits: (s, s) low-resolution logits; with several parts, their maximum.
        channel: Which of SAM's masks it is.
        scored_mask: What eq. (4) looks at, if not the mask itself (the published PerSAM-F).
        step: t.
        parts: The masks whose union it is, where there are several (Matcher, GF-SAM).
        others: What SAM answered beside it, for a selector that also looks at these.
        beside: Whether it is one of those others itself, and not the framework's own answer at this step.
    """

    mask: BoolArray
    prompts: Prompts
    predicted_iou: float
    logits: Tensor | None = None
    channel: int = 0
    scored_mask: BoolArray | None = None
    step: int = 0
    parts: tuple[Part, ...] = ()
    others: tuple[Other, ...] = ()
    beside: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.mask, LaterMask):
            vars(self)["_later"] = vars(self).pop("mask")

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:  # only for what is missing: a mask that was not made yet
            if name != "mask" or "_later" not in vars(self):
                raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}", name=name, obj=self)
            return vars(self).setdefault("mask", vars(self)["_later"].made())

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def changed(self, **changes: Any) -> Candidate:
        """The same with other fields. Unlike `dataclasses.replace` it makes no mask that was not made yet."""
        kept = {field.name: vars(self).get(field.name, vars(self).get("_later")) for field in fields(self)}
        return type(self)(**{**kept, **changes})

    @property
    def empty(self) -> bool:
        """Whether the mask has no pixel."""
        return not self.mask.any() if self.later is None else self.later.empty()

    @property
    def later(self) -> LaterMask | None:
        """The mask, if it was not made yet."""
        return None if "mask" in vars(self) else vars(self)["_later"]

    @property
    def title(self) -> str:
        """What it is called in pictures and tables."""
        return f"t = {self.step}" + ", another mask" * self.beside


@dataclass(frozen=True, eq=False)
class Instance:
    """One thing in a photo.

    Args:
        mask: (H, W) bool at the photo's size; no other instance of the photo has a pixel of it.
        box: x0, y0, x1, y1 in photo pixels: the outer edges of the outermost pixels.
        score: How alike what the mask covers is to the examples, −1 … 1 (`prmagic.presence`).
        predicted_iou: SAM's own estimate for the mask.
        step: After how many steps of the flow it was found first.
        number: In a video, which thing it is: from 1, the same in all frames. None in a photo.
    """

    mask: BoolArray
    box: tuple[float, float, float, float]
    score: float
    predicted_iou: float
    step: int = 0
    number: int | None = None
