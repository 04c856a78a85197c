"""What all formats share: masks with labels, options, and a few encodings. Knows arrays and plain data only."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from prmagic.io.polygons import TOLERANCE
from prmagic.io.shapes import decode
from prmagic.types import BoolArray, ByteArray, Instance

NUMBERS = ("score", "predicted_iou")  # of an instance
LOCAL_FILES = "/data/local-files/?d=images/"  # where Label Studio serves images/ of a folder of its own machine


@dataclass(frozen=True, eq=False)
class Labelled:
    """The masks of one photo.

    Attributes:
        name: The photo's file, with / between folders.
        masks: (H, W) bool by label; an empty mask is a label that was not found.
        stem: What its files are called in formats that know photos by their name without the suffix; `exported` sees
            to it that no two photos have the same.
        instances: By label, one mask per thing; only of labels whose things are to be told apart.
    """

    name: str
    masks: Mapping[str, BoolArray]
    stem: str = ""
    instances: Mapping[str, Sequence[Instance]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        things = (each.mask for several in self.instances.values() for each in several)
        shapes = {mask.shape for mask in (*self.masks.values(), *things)}
        if len(shapes) != 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"the masks of {self.name} must be (H, W), all of the photo's size; got {sorted(shapes)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the photo."""
        height, width = next(iter(self.masks.values())).shape
        return height, width

    def found(self, labels: Sequence[str]) -> Iterator[tuple[int, BoolArray, Instance | None]]:
        """Give what becomes an annotation each, without empty masks.

        Args:
            labels: Their order is that of the annotations.

        Yields:
            The label's position, the mask, and the instance whose mask it is; None for the whole mask of a label.
        """
        for position, label in enumerate(labels):
            if label in self.instances:
                yield from ((position, each.mask, each) for each in self.instances[label] if each.mask.any())
            elif label in self.masks and self.masks[label].any():
                yield position, self.masks[label], None


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
        specks: Whether tiny connected parts stay in outlines; where each becomes an object of its own, they do not.
        video: Whether it holds videos, and no photos.
    """

    files: Callable[[Iterable[Labelled], Sequence[str], Options], Iterator[tuple[str, bytes]]]
    photos: str
    polygons: bool | None
    image_url: bool = False
    by_stem: bool = False
    specks: bool = True
    video: bool = False


def rle(mask: BoolArray) -> dict[str, Any]:
    """(H, W) bool → COCO's run-length encoding: {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def unrle(code: Mapping[str, Any]) -> BoolArray:
    """What `rle` made → (H, W) bool."""
    return np.asarray(coco_mask.decode(dict(code)), bool)


def instance_record(instance: Instance) -> dict[str, Any]:
    """As JSON holds it: the mask as a run-length code, null for a number that is not finite."""
    return {
        "box": list(instance.box), "score": finite(instance.score), "predicted_iou": finite(instance.predicted_iou),
        "step": instance.step, "mask": rle(instance.mask),
        **({} if instance.number is None else {"number": instance.number}),
    }  # fmt: skip


def recorded_instance(record: Mapping[str, Any]) -> Instance:
    """What `instance_record` made → the instance; ValueError, TypeError or KeyError for anything else."""
    x0, y0, x1, y1 = map(float, record["box"])
    score, predicted_iou = (math.nan if record[name] is None else float(record[name]) for name in NUMBERS)
    number = int(record["number"]) if "number" in record else None
    return Instance(decode(record["mask"]), (x0, y0, x1, y1), score, predicted_iou, int(record["step"]), number)


def no_file(folder: str, suffixes: Sequence[str]) -> str:
    """A folder's name with a _ where it ends like a file that may be written beside it: dir.png → dir.png_."""
    return f"{folder}_" if folder.casefold().endswith(tuple(suffixes)) else folder


def finite(value: float) -> float | None:
    """JSON has neither nan nor infinity."""
    return value if math.isfinite(value) else None


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
