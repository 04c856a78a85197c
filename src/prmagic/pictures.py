"""Pictures out of arrays: masks, and overlays on the photo."""

from __future__ import annotations

import io
import os
import re
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from prmagic.types import BoolArray, ByteArray

Color = tuple[int, int, int]

RED: Color = (227, 26, 28)
WHITE: Color = (255, 255, 255)
# Of instances, or labels in a video; neighbours in the list differ in hue and lightness, for colour-blind eyes, too.
COLORS: tuple[Color, ...] = (
    RED, (0, 114, 178), (240, 228, 66), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (106, 61, 154),
    (178, 223, 138), (255, 187, 120), (23, 190, 207), (140, 86, 75),
)  # fmt: skip
OPACITY = 0.45  # of the tint inside a mask
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")  # the name of a file that is being written
MAP = "viridis"  # the colours of similarity maps


def mask_image(mask: BoolArray) -> Image.Image:
    """(H, W) bool → a grey picture, 255 on the object and 0 elsewhere."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def number_image(masks: Sequence[BoolArray], numbers: Sequence[int], size: tuple[int, int]) -> Image.Image:
    """Things of a video's frame as a label map of (height, width): each pixel is its thing's number, 0 is none.

    Up to 255 it is a PNG of indexed colours, those of `overlay_instances`; beyond, one of 16 bits."""
    labels = np.zeros(size, np.uint16)
    for mask, number in zip(masks, numbers, strict=True):
        labels[mask] = number
    if labels.max() > 255:
        return Image.fromarray(labels)
    picture = Image.fromarray(labels.astype(np.uint8), "P")
    colours = [(0, 0, 0), *(COLORS[number % len(COLORS)] for number in range(255))]
    picture.putpalette([channel for colour in colours for channel in colour])
    return picture


def overlay(image: ByteArray, mask: BoolArray, color: Color = RED) -> Image.Image:
    """Draw a mask on its photo, as a tint and a contour. An empty mask gives the photo with a note.

    The contour lies inside the mask, a line of `color` around a thinner white one. Pixels outside the mask stay.

    Args:
        image: The photo, (H, W, 3).
        mask: (H, W), True on the object.
        color: Of the tint and the line.

    Returns:
        An RGB picture of the photo's size.

    Raises:
        ValueError: Photo and mask have different sizes.
    """
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape} does not fit a photo of shape {image.shape}")
    picture = Image.fromarray(image)
    if mask.any():
        _draw_mask(picture, mask, color)
    else:
        _note(picture, "nothing found")
    return picture


def overlay_instances(
    image: ByteArray, masks: Sequence[BoolArray], numbers: Sequence[int] | None = None
) -> Image.Image:
    """Draw several things on their photo: a colour and a number each, and how many there are.

    Args:
        image: The photo, (H, W, 3).
        masks: (H, W) each, True on the thing.
        numbers: Of each, from 1; a number has the same colour in every picture. None: in their order.

    Returns:
        An RGB picture of the photo's size.

    Raises:
        ValueError: Photo and masks have different sizes.
    """
    for mask in masks:
        if mask.shape != image.shape[:2]:
            raise ValueError(f"a mask of shape {mask.shape} does not fit a photo of shape {image.shape}")
    picture = Image.fromarray(image)
    numbers = range(1, len(masks) + 1) if numbers is None else numbers
    for number, mask in zip(numbers, masks, strict=True):
        if mask.any():
            _draw_mask(picture, mask, COLORS[(number - 1) % len(COLORS)])
    for number, mask in zip(numbers, masks, strict=True):
        if mask.any():
            _write_number(picture, mask, number)
    _note(picture, f"{len(masks)} found" if masks else "nothing found")
    return picture


def _draw_mask(picture: Image.Image, mask: BoolArray, color: Color) -> None:
    """A tint and a contour. Only the mask's box is touched, as there may be many."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    place = (int(left), int(top))
    width = 1 + round(max(mask.shape) / 500)
    mask = mask[top : rows[-1] + 2, left : columns[-1] + 2]
    part = picture.crop((*place, place[0] + mask.shape[1], place[1] + mask.shape[0]))
    tint = [round((1 - OPACITY) * value + OPACITY * channel) for channel in color for value in range(256)]
    part.paste(part.point(tint), mask=Image.fromarray(mask))
    for shade, line in ((color, width), (WHITE, width // 2)):
        if line:
            core = ndimage.binary_erosion(mask, iterations=line, border_value=1)  # no line where the photo ends
            part.paste(shade, mask=Image.fromarray(mask & ~core))
            mask = core
    picture.paste(part, place)


def _write_number(picture: Image.Image, mask: BoolArray, number: int) -> None:
    """White on black, where the mask is broadest, and wholly in the picture."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    part = np.pad(mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    y, x = np.unravel_index(ndimage.distance_transform_edt(part).argmax(), part.shape)
    size = max(11, min(picture.size) // 28)
    font, draw = ImageFont.load_default(size), ImageDraw.Draw(picture)
    half = draw.textlength(str(number), font) / 2 + size / 4, size * 0.65
    middle = (columns[0] + x - 0.5, rows[0] + y - 0.5)
    x0, y0 = (
        round(min(max(at, reach), max(side - 1 - reach, reach)))
        for at, reach, side in zip(middle, half, picture.size, strict=True)
    )
    draw.rounded_rectangle((x0 - half[0], y0 - half[1], x0 + half[0], y0 + half[1]), size / 4, fill=(0, 0, 0))
    draw.text((x0, y0), str(number), fill=WHITE, font=font, anchor="mm")


def save_image(picture: Image.Image, path: Path) -> None:
    """Write a .png or .jpg and the folders above it. A reader of `path` sees the old file or the whole new one.

    The file is on the disk when this returns.

    Args:
        picture: JPEG takes any mode; what it cannot hold is converted to RGB.
        path: Its suffix decides the format.

    Raises:
        ValueError: The suffix is another one.
        OSError: The file cannot be written.
    """
    options: dict[str, dict[str, Any]] = {
        ".png": {"format": "PNG"},
        ".jpg": {"format": "JPEG", "quality": 92, "subsampling": 0},  # halved colour resolution smears red lines
    }
    suffix = path.suffix.lower().replace("jpeg", "jpg")
    if suffix not in options:
        raise ValueError(f"cannot save {path.name!r}: its name must end in .png, .jpg or .jpeg")
    if suffix == ".jpg" and picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    content = io.BytesIO()
    picture.save(content, **options[suffix])
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full disk names none
        raise
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def _note(picture: Image.Image, text: str) -> None:
    """Write a line into the lower left corner, if it fits."""
    size = max(11, min(picture.size) // 24)
    font, pad = ImageFont.load_default(size), size // 2
    draw = ImageDraw.Draw(picture, "RGBA")
    width = draw.textlength(text, font)
    top = picture.height - size - 3 * pad
    if width + 4 * pad > picture.width or top < 0:
        return
    draw.rectangle((pad, top, 3 * pad + width, picture.height - pad), fill=(0, 0, 0, 150))
    draw.text((2 * pad, (top + picture.height - pad) / 2), text, fill=WHITE, font=font, anchor="lm")
