"""Indexed PNGs in PASCAL VOC's layout, which CVAT and many trainers read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from prmagic.io.formats.base import Labelled, Options, palette
from prmagic.types import BoolArray, ByteArray


def files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """For each photo one 8-bit picture with a palette: 0 is the background, then the labels count from 1.

    A photo with instances has another, in SegmentationObject, in which these count from 1. Where masks overlap the
    smaller one is on top, as a whole would hide its part.
    """
    if len(labels) > 255:
        raise ValueError(f"{len(labels)} labels are more than the 255 that an 8-bit mask can tell apart")
    for label in labels:
        if label == "background" or label.startswith("#") or set(label) & set(":\r\n"):
            raise ValueError(f"label {label!r} cannot be used in labelmap.txt: run it with another name")
    colours = palette(len(labels) + 1)
    lines = (
        f"{label}:{red},{green},{blue}::\n"
        for label, (red, green, blue) in zip(["background", *labels], colours.tolist(), strict=True)
    )
    yield "labelmap.txt", ("# label:color_rgb:parts:actions\n" + "".join(lines)).encode()
    names = []
    for photo in photos:
        names.append(photo.stem)
        found = list(photo.found(labels))
        masks = [mask for _, mask, _ in found]
        classes = [position + 1 for position, _, _ in found]
        yield f"SegmentationClass/{photo.stem}.png", _picture(photo.shape, masks, classes)
        if photo.instances:
            if len(found) > 255:
                raise ValueError(f"{photo.name} has {len(found)} instances, and an 8-bit mask can tell 255 apart")
            numbers = range(1, len(found) + 1)
            yield f"SegmentationObject/{photo.stem}.png", _picture(photo.shape, masks, numbers)
    yield "ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in names).encode()


def _picture(shape: tuple[int, int], masks: Sequence[BoolArray], values: Sequence[int]) -> bytes:
    """A PNG of this (height, width), the smallest mask on top."""
    pixels: ByteArray = np.zeros(shape, np.uint8)
    for mask, value in sorted(zip(masks, values, strict=True), key=lambda entry: -int(entry[0].sum())):
        pixels[mask] = value
    picture = Image.fromarray(pixels)
    picture.putpalette(palette(256).tobytes())
    content = io.BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
