"""Label Studio's words: its labelling interface, its annotations as supports, masks as its predictions."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np

from prmagic.io.formats.label_studio import regions, unbrush
from prmagic.io.polygons import TOLERANCE, without_specks
from prmagic.io.shapes import decode
from prmagic.reference import Example
from prmagic.segmenter import Segmenter
from prmagic.serve.errors import RequestError
from prmagic.serve.inputs import PhotoFile, boxed, decoded_photo
from prmagic.types import BoolArray, ByteArray

log = logging.getLogger(__name__)

KINDS = ("brushlabels", "polygonlabels", "rectanglelabels")  # the first that has a label is the one to predict with
LONGEST_CONFIG = 1_000_000


@dataclass(frozen=True)
class Control:
    """A tag that marks regions; kind: in `KINDS`."""

    kind: str
    name: str
    to_name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Interface:
    """What can be marked, and in which field of a task the photo is."""

    field: str
    controls: tuple[Control, ...]

    @classmethod
    def parse(cls, config: str) -> Interface:
        """Read a labelling interface.

        Raises:
            RequestError: It is none, or nothing in it marks regions of an image.
        """
        if len(config) > LONGEST_CONFIG or "<!" in config.replace("<!--", ""):
            raise RequestError("the labelling interface is too long, or declares entities")
        try:
            tags = list(ElementTree.fromstring(config).iter())
        except ElementTree.ParseError:
            raise RequestError("the labelling interface is no XML") from None
        images = {tag.get("name", ""): tag.get("value", "") for tag in tags if tag.tag == "Image"}
        found = [
            Control(tag.tag.lower(), tag.get("name", ""), tag.get("toName", ""), _labels(tag))
            for tag in tags
            if isinstance(tag.tag, str) and tag.tag.lower() in KINDS and tag.get("toName") in images
        ]
        if not found:
            raise RequestError(
                "the labelling interface needs BrushLabels, PolygonLabels or RectangleLabels for an Image"
            )
        image = found[0].to_name
        controls = sorted((each for each in found if each.to_name == image), key=lambda each: KINDS.index(each.kind))
        return cls(images[image].lstrip("$"), tuple(controls))

    @property
    def labels(self) -> list[str]:
        """All, in the interface's order, each once."""
        return list(dict.fromkeys(label for control in self.controls for label in control.labels))

    def control(self, label: str) -> Control:
        """The one to predict a label with."""
        return next(control for control in self.controls if label in control.labels)


def _labels(tag: ElementTree.Element) -> tuple[str, ...]:
    found = (child.get("alias") or child.get("value") for child in tag.iter("Label"))
    return tuple(label for label in found if label)


def marked_labels(results: Sequence[Mapping[str, Any]], interface: Interface) -> dict[str, list[Mapping[str, Any]]]:
    """The regions of an annotation by label."""
    known = {control.name: control for control in interface.controls}
    found: dict[str, list[Mapping[str, Any]]] = {}
    for region in results:
        control = known.get(str(region.get("from_name")))
        if control is None or region.get("type") != control.kind:
            continue
        for label in region.get("value", {}).get(control.kind, []):
            if label in control.labels:
                found.setdefault(label, []).append(region)
    return found


@dataclass(frozen=True, eq=False)
class Annotated:
    """The regions of one label in one photo, as a support; where: for messages."""

    where: str
    photo: bytes
    regions: Sequence[Mapping[str, Any]]

    def example(self, segmenter: Segmenter) -> Example:
        """Decode it; RequestError if no region can be used."""
        image = decoded_photo(PhotoFile(self.where, self.photo), segmenter.max_pixels)
        mask = np.zeros(image.shape[:2], bool)
        for region in self.regions:
            try:
                mask |= _mask_of(region, image, segmenter)
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                log.warning("%s: a region is left out: %s", self.where, error)
        if not mask.any():
            raise RequestError(f"{self.where}: no region can be used")
        return Example(image, mask)


def _mask_of(region: Mapping[str, Any], image: ByteArray, segmenter: Segmenter) -> BoolArray:
    height, width = image.shape[:2]
    told = region.get("original_width"), region.get("original_height")
    if region.get("image_rotation", 0) % 360:
        raise ValueError("it was drawn on a turned photo: turn the photo back in Label Studio")
    if told != (width, height):
        raise ValueError(f"it is for a photo of {told[0]} × {told[1]} pixels, and this one has {width} × {height}")
    value = region["value"]
    if region["type"] == "brushlabels":
        return unbrush(value["rle"], height, width)
    if region["type"] == "polygonlabels":
        corners = np.array(value["points"], np.float64) * (width / 100, height / 100)
        return decode([corners.ravel().tolist()], (height, width))
    corners = _corners(value) * (width / 100, height / 100)
    (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
    return boxed(image, (x0, y0, x1, y1), segmenter)


def _corners(value: Mapping[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(4, 2) of a rectangle, which turns around its first corner; in per cent."""
    x, y, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
    turn = math.radians(float(value.get("rotation", 0)))
    across, down = np.array([math.cos(turn), math.sin(turn)]), np.array([-math.sin(turn), math.cos(turn)])
    start = np.array([x, y])
    corners = np.array([start, start + width * across, start + width * across + height * down, start + height * down])
    if not np.isfinite(corners).all():
        raise ValueError("a rectangle has no finite corners")
    return corners


def predicted(
    label: str, mask: BoolArray, score: float | None, interface: Interface, first: int
) -> list[dict[str, Any]]:
    """A mask as regions of a prediction; first: the number of the first."""
    control = interface.control(label)
    cleaned = mask if control.kind == "brushlabels" else without_specks(mask)
    if not cleaned.any():
        return []
    found = regions(control.kind, label, cleaned, TOLERANCE, (control.name, control.to_name))
    return [{"id": f"prmagic{number}", "score": score, **region} for number, region in enumerate(found, start=first)]
