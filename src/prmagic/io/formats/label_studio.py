"""Label Studio's tasks, with what was found as predictions for people to correct."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from prmagic._version import __version__
from prmagic.io.formats.base import Labelled, Options, finite, palette, to_json
from prmagic.io.polygons import Points, outlines
from prmagic.types import BoolArray, ByteArray, Instance


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


def unbrush(code: Sequence[int], height: int, width: int) -> BoolArray:
    """The code of Label Studio's brush → (height, width) bool: where its alpha is not 0.

    Raises:
        ValueError: The code is damaged, or of a picture of another size.
    """
    bits = np.unpackbits(np.asarray(code, np.uint8))

    def number(start: int, length: int) -> int:
        if start + length > len(bits):
            raise ValueError("the brush's code is cut short")
        return int("".join(map(str, bits[start : start + length])), 2)

    total, word = number(0, 32), number(32, 5) + 1
    sizes = [number(37 + 4 * i, 4) + 1 for i in range(4)]
    if total != 4 * height * width or word != 8:
        raise ValueError(f"the brush's code is not of a picture of {width} × {height} pixels")
    values: ByteArray = np.zeros(total, np.uint8)
    filled, at = 0, 53
    while filled < total:
        size = sizes[number(at + 1, 2)]
        run, repeated = number(at + 3, size) + 1, number(at, 1)
        at += 3 + size
        words = 1 if repeated else run
        if at + 8 * words > len(bits) or filled + run > total:
            raise ValueError("the brush's code is damaged")
        values[filled : filled + run] = np.packbits(bits[at : at + 8 * words])
        filled, at = filled + run, at + 8 * words
    return values.reshape(height, width, 4)[..., 3] > 0


def regions(
    kind: str,
    label: str,
    mask: BoolArray,
    tolerance: float,
    place: tuple[str, str] = ("label", "image"),
    instance: Instance | None = None,
) -> list[dict[str, Any]]:
    """A mask as regions of an annotation, without ids.

    Args:
        kind: "brushlabels", "polygonlabels" or "rectanglelabels".
        label: The region's.
        mask: (H, W), True on the object.
        tolerance: How far an outline may depart from the mask, in pixels.
        place: The names of the interface's tags: of the labels, and of the image.
        instance: Whose mask it is: one outline with its score; None: one for each connected part, without.
    """
    height, width = mask.shape
    values: list[dict[str, Any]]
    if kind == "brushlabels":
        values = [{"format": "rle", "rle": list(brush(mask))}]
    else:
        percent = [100 * part / (width, height) for part in outlines(mask, tolerance, joined=instance is not None)]
        if kind == "polygonlabels":
            values = [{"points": part.round(6).tolist(), "closed": True} for part in percent]
        else:
            values = [_rectangle(part) for part in percent]
    score = {} if instance is None else {"score": finite(instance.score)}
    common = {
        "from_name": place[0], "to_name": place[1], "type": kind, "original_width": width,
        "original_height": height, "image_rotation": 0,
    }  # fmt: skip
    return [{**score, **common, "value": {kind: [label], **value}} for value in values]


def _rectangle(outline: Points) -> dict[str, float]:
    (x0, y0), (x1, y1) = outline.min(axis=0).round(6).tolist(), outline.max(axis=0).round(6).tolist()
    return {"x": x0, "y": y0, "width": x1 - x0, "height": y1 - y0, "rotation": 0}


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
    found = [
        region
        for position, mask, instance in photo.found(labels)
        for region in regions(kind.lower(), labels[position], mask, options.tolerance, instance=instance)
    ]
    result = [{"id": str(number), **region} for number, region in enumerate(found, start=1)]
    prediction = {"model_version": f"prmagic {__version__}", "result": result}
    return {
        "data": {"image": options.image_url + quote(photo.name)},
        "predictions": [prediction],
    }
