"""Indexed PNGs in PASCAL VOC's layout, which CVAT and many trainers read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from PIL import Image

from prmagic.io.formats.base import Labelled, Options, palette
from prmagic.types import ByteArray


def files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """For each photo one 8-bit picture with a palette: 0 is the background, then the labels count from 1.

    Where masks overlap the smaller one is on top, as a whole would hide its part.
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
        classes: ByteArray = np.zeros(photo.shape, np.uint8)
        for position, mask in sorted(photo.found(labels), key=lambda entry: -int(entry[1].sum())):
            classes[mask] = position + 1
        picture = Image.fromarray(classes)
        picture.putpalette(colours.tobytes())
        content = io.BytesIO()
        picture.save(content, "PNG")
        names.append(photo.stem)
        yield f"SegmentationClass/{photo.stem}.png", content.getvalue()
    yield "ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in names).encode()
