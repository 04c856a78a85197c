"""What all formats share: masks with labels, options, and a few encodings. Knows arrays and plain data only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from prmagic.io.polygons import TOLERANCE
from prmagic.types import BoolArray, ByteArray

LOCAL_FILES = "/data/local-files/?d=images/"  # where Label Studio serves images/ of a folder of its own machine


@dataclass(frozen=True, eq=False)
class Labelled:
    """The masks of one photo.

    Attributes:
        name: The photo's file, with / between folders.
        masks: (H, W) bool by label; an empty mask is a label that was not found.
        stem: What its files are called in formats that know photos by their name without the suffix; `exported` sees
            to it that no two photos have the same.
    """

    name: str
    masks: Mapping[str, BoolArray]
    stem: str = ""

    def __post_init__(self) -> None:
        shapes = {mask.shape for mask in self.masks.values()}
        if len(shapes) != 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"the masks of {self.name} must be (H, W), all of the photo's size; got {sorted(shapes)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the photo."""
        height, width = next(iter(self.masks.values())).shape
        return height, width

    def found(self, labels: Sequence[str]) -> Iterator[tuple[int, BoolArray]]:
        """Give the masks that are not empty, each with its label's position in `labels`, in that order."""
        for position, label in enumerate(labels):
            if label in self.masks and self.masks[label].any():
                yield position, self.masks[label]


@dataclass(frozen=True)
class Options:
    """How masks are written.

    Attributes:
        polygons: As outlines instead of exact pixels.
        tolerance: How far an outline may depart from the mask, in pixels.
        image_url: What Label Studio puts before a photo's name to find it.
    """

    polygons: bool = False
    tolerance: float = TOLERANCE
    image_url: str = LOCAL_FILES


@dataclass(frozen=True)
class Format:
    """What a tool imports.

    Attributes:
        files: From photos, labels and options to the path and content of each file.
        photos: The folder in which the tool looks for the photos themselves.
        polygons: Whether it has outlines: False never, True if asked for, None always.
        image_url: Whether its files hold addresses of the photos.
        by_stem: Whether it knows photos by their name without the suffix.
        smallest: How many pixels a connected part must have, unless another number is given.
    """

    files: Callable[[Iterable[Labelled], Sequence[str], Options], Iterator[tuple[str, bytes]]]
    photos: str
    polygons: bool | None
    image_url: bool = False
    by_stem: bool = False
    smallest: int = 0


def rle(mask: BoolArray) -> dict[str, Any]:
    """(H, W) bool → COCO's run-length encoding: {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def unrle(code: Mapping[str, Any]) -> BoolArray:
    """What `rle` made → (H, W) bool."""
    return np.asarray(coco_mask.decode(dict(code)), bool)


def palette(colours: int) -> ByteArray:
    """PASCAL VOC's colours, (N, 3): the bits of a class's number, three by three, from the highest bit of a channel."""
    table: ByteArray = np.zeros((colours, 3), np.uint8)
    for number in range(colours):
        for bit in range(8):
            for channel in range(3):
                table[number, channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return table


def to_json(content: Any) -> bytes:
    """UTF-8, with letters beyond ASCII as they are."""
    return json.dumps(content, ensure_ascii=False).encode()
