"""Label Studio's tasks, with what was found as predictions for people to correct."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from prmagic._version import __version__
from prmagic.io.formats.base import Labelled, Options, palette, to_json
from prmagic.io.polygons import outlines
from prmagic.types import BoolArray


def files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """The labelling interface, and a task for each photo."""
    kind = "PolygonLabels" if options.polygons else "BrushLabels"
    yield "interface.xml", _interface(kind, labels).encode()
    yield "tasks.json", to_json([_task(kind, photo, labels, options) for photo in photos])


def brush(mask: BoolArray) -> bytes:
    """(H, W) bool → the code of Label Studio's brush: its pixels' RGBA, 255 or 0 each, packed as thi.ng/rle-pack does.

    Bits: 32 for the number of bytes, 5 and four times 4 for the sizes that follow, all less 1; then for each run a 1, 2
    for which of the four sizes its length has, its length less 1, and its byte.
    """
    pixels = mask.ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=~pixels[:1]))
    lengths = 4 * np.diff(starts, append=pixels.size)
    sizes = (4, 8, 12, 16)
    words = [f"{4 * pixels.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if pixels[start] else "00000000"
        while length > 0:
            run = min(length, 1 << sizes[-1])
            which = next(i for i, size in enumerate(sizes) if run <= 1 << size)
            words.append(f"1{which:02b}{run - 1:0{sizes[which]}b}{value}")
            length -= run
    bits = "".join(words)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def _interface(kind: str, labels: Sequence[str]) -> str:
    """The project's labelling interface, in Label Studio's XML."""
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in palette(len(labels) + 1)[1:]]
    choices = "".join(
        f"    <Label value={quoteattr(label)} background={quoteattr(colour)}/>\n"
        for label, colour in zip(labels, colours, strict=True)
    )
    return (
        '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
        f'  <{kind} name="label" toName="image">\n{choices}  </{kind}>\n</View>\n'
    )


def _task(kind: str, photo: Labelled, labels: Sequence[str], options: Options) -> dict[str, Any]:
    height, width = photo.shape
    values: list[dict[str, Any]] = []
    for position, mask in photo.found(labels):
        value: dict[str, Any] = {kind.lower(): [labels[position]]}
        if options.polygons:
            percent = [100 * part / (width, height) for part in outlines(mask, options.tolerance)]
            values += [{**value, "points": part.round(6).tolist(), "closed": True} for part in percent]
        else:
            values.append({**value, "format": "rle", "rle": list(brush(mask))})
    common = {
        "from_name": "label", "to_name": "image", "type": kind.lower(), "original_width": width,
        "original_height": height, "image_rotation": 0,
    }  # fmt: skip
    result = [{"id": str(number), **common, "value": value} for number, value in enumerate(values, start=1)]
    prediction = {"model_version": f"prmagic {__version__}", "result": result}
    return {
        "data": {"image": options.image_url + quote(photo.name)},
        "predictions": [prediction],
    }
