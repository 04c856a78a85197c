"""What the page's canvases show: small copies of photos, and layers that lie on them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image
from scipy import ndimage

from prmagic import pictures
from prmagic.types import BoolArray, ByteArray, FloatArray, Prompts

LONGEST = 2048  # side of what the page shows of a photo, in pixels: it can be zoomed in
THUMB = 320  # the same in a gallery


def small(picture: Image.Image, longest: int) -> Image.Image:
    """A copy of at most so many pixels a side."""
    copy = picture.copy()
    copy.thumbnail((longest, longest), reducing_gap=2.0)
    return copy


def view(
    url: str, size: tuple[int, int], *, mask: BoolArray | None = None, prompts: Prompts | None = None,
    description: str = "", key: str = "",
) -> dict[str, Any]:  # fmt: skip
    """What a canvas of the page shows (canvas.js).

    Args:
        url: Of the photo.
        size: Its (height, width).
        mask: (H, W), tinted.
        prompts: Points and a box.
        description: For those who cannot see it.
        key: Tells pictures apart; the page sends it back.
    """
    points: list[list[float]] = []
    box = None
    if prompts is not None:
        labels = prompts.labels.tolist()
        places = prompts.points.astype(float).round(1).tolist()
        points = [[x, y, label] for (x, y), label in zip(places, labels, strict=True)]
        box = None if prompts.box is None else [round(side, 1) for side in prompts.box]
    layer = None if mask is None or not mask.any() else tint(mask)
    empty = mask is not None and layer is None
    return {
        "url": url, "height": size[0], "width": size[1], "mask": layer, "points": points, "box": box,
        "description": description, "empty": empty, "key": key,
    }  # fmt: skip


def tint(mask: BoolArray) -> str:
    """(H, W) → a picture to lay over the photo: the inside tinted, its border drawn, the rest transparent.

    The border is a white line in a black one, which shows on things of any colour."""
    height, width = mask.shape
    scale = min(1.0, LONGEST / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    inside = np.asarray(pictures.mask_image(mask).resize(size, Image.Resampling.BILINEAR)) >= 128
    line = 1 + round(max(size) / 700)
    within = ndimage.binary_erosion(inside, iterations=line, border_value=1)
    core = ndimage.binary_erosion(within, iterations=line, border_value=1)
    picture = Image.fromarray(inside.astype(np.uint8) + (inside & ~core) + (inside & ~within))
    picture.putpalette([0, 0, 0, *pictures.RED, *pictures.WHITE, 0, 0, 0])
    return data_url(picture, "PNG", transparency=bytes([0, round(255 * pictures.OPACITY), 255, 255]))


def heat(similarity: FloatArray) -> str:
    """(h, w) cosines in colour, from their minimum to their maximum, as a picture."""
    low, high = float(similarity.min()), float(similarity.max())
    coloured = colormaps[pictures.MAP]((similarity - low) / max(high - low, 1e-12), bytes=True)[..., :3]
    return data_url(small(Image.fromarray(coloured), LONGEST // 4), "JPEG", quality=85)


def thumbnail(image: ByteArray, mask: BoolArray, instances: Sequence[BoolArray] | None = None) -> Image.Image:
    """(H, W, 3) with its mask (H, W) on it, for a gallery; instances: the masks of single things in its place."""
    picture = small(Image.fromarray(image), THUMB)

    def reduced(mask: BoolArray) -> BoolArray:
        return np.asarray(pictures.mask_image(mask).resize(picture.size, Image.Resampling.BILINEAR)) >= 128

    if instances is not None:
        return pictures.overlay_instances(np.asarray(picture), [reduced(each) for each in instances])
    return pictures.overlay(np.asarray(picture), reduced(mask))


def data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    """The picture as text that a browser shows."""
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"
