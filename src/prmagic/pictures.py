"""Pictures out of arrays: masks, and overlays on the photo."""

from __future__ import annotations

import io
import os
import re
import uuid
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
OPACITY = 0.45  # of the tint inside a mask
UNFINISHED = re.compile(r"\.[0-9a-f]{32}\.tmp")  # the name of a file that is being written
MAP = "viridis"  # the colours of similarity maps


def mask_image(mask: BoolArray) -> Image.Image:
    """(H, W) bool → a grey picture, 255 on the object and 0 elsewhere."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


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
    if not mask.any():
        _note(picture, "nothing found")
        return picture
    tint = [round((1 - OPACITY) * value + OPACITY * channel) for channel in color for value in range(256)]
    picture.paste(picture.point(tint), mask=Image.fromarray(mask))
    width = 1 + round(max(mask.shape) / 500)
    for shade, line in ((color, width), (WHITE, width // 2)):
        if line:
            core = ndimage.binary_erosion(mask, iterations=line, border_value=1)  # no line where the photo ends
            picture.paste(shade, mask=Image.fromarray(mask & ~core))
            mask = core
    return picture


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
