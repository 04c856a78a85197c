"""Any image or mask a user may hold, as one checked array: RGB bytes for images, booleans for masks."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from prmagic.io.finding import IMAGE_SUFFIXES, find_images
from prmagic.io.masks import load_mask
from prmagic.io.reading import (
    MAX_PIXELS,
    Array,
    ImageError,
    channels_last,
    decode,
    describe,
    is_array,
    is_deep,
    to_rgb,
)
from prmagic.types import ImageLike

__all__ = [
    "IMAGE_SUFFIXES", "MAX_PIXELS", "ImageError", "describe", "find_images", "load_image",
    "load_mask",
]  # fmt: skip

_FLOAT_NOISE = 1e-3  # a quarter of an 8-bit step: rounding in the caller's arithmetic, not a wrong scale
_WHITES = (255, 1023, 4095, 16383, 65535)  # 8, 10, 12, 14 and 16 bits
_NEARLY_BLACK = 8


def load_image(image: ImageLike, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an image as RGB bytes, upright as its EXIF orientation asks.

    Grey is repeated into three channels. Alpha is dropped: the stored colours stay as they are. Files with more than 8
    bits are brought to 0 … 255 by what they say of their range, or else by their highest value, with a warning.

    Args:
        image: A path, encoded bytes, PIL image, array or tensor. Files with several frames give the first. Arrays are
            (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4; an ambiguous shape reads as (H, W, C) for an array and
            as (C, H, W) for a tensor. Their values are uint8, bool, uint16 (0 … 65535) or float (0 … 1).
        max_pixels: Larger images are refused before they are decoded.

    Returns:
        A new (H, W, 3) uint8 array.

    Raises:
        ImageError: It cannot be read, is too large, or has other values.
    """
    name = describe(image)
    if is_array(image):
        pixels = channels_last(image, name, max_pixels, leading=(1, 3, 4))[..., :3]
        rgb, deep = _eight_bit(pixels, name), pixels.dtype.itemsize > 1
    else:
        decoded = decode(image, max_pixels)
        picture = decoded.picture
        stored = np.asarray(picture)[..., None] if is_deep(picture) else decoded.whole
        deep = stored is not None or decoded.deep
        rgb = to_rgb(picture) if stored is None else _scaled(stored, decoded.white, name)
    whole = np.array(np.broadcast_to(rgb, (*rgb.shape[:2], 3)), dtype=np.uint8, order="C")
    if deep:
        _tell_if_flat(whole, name)
    return whole


def _scaled(pixels: Array, white: int | None, name: str) -> Array:
    """Bring the values of a file to 0 … 255; a warning tells how, unless they fill their type or are shares of 1."""
    low, high = pixels.min(), pixels.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ImageError(f"{name} has NaN or infinite values: replace them first")
    shares = pixels.dtype.kind == "f"
    if shares and low >= -_FLOAT_NOISE and high <= 1 + _FLOAT_NOISE:
        return np.asarray(np.rint(pixels.clip(0, 1) * 255))
    if white is None:
        white = next((bound for bound in _WHITES if high <= bound), None)
    elif high > white:
        white = None
    if low < 0 or white is None or (shares and 4 * high < white):
        _tell(f"{name} has values from {low:g} to {high:g}: they are stretched to the full range")
        return np.asarray(np.rint((pixels - np.float64(low)) * (255 / max(float(high) - float(low), 1e-12))))
    if white != _WHITES[-1]:
        _tell(f"{name} has values up to {high:g}: {white} is taken as white")
    return np.asarray(np.rint(pixels * (255 / white)))


def _tell_if_flat(rgb: NDArray[np.uint8], name: str) -> None:
    sample = rgb[:: max(1, rgb.shape[0] // 256), :: max(1, rgb.shape[1] // 256)]
    dark, light = np.percentile(sample, [1, 99])
    if light < _NEARLY_BLACK or dark > 255 - _NEARLY_BLACK:
        _tell(f"{name} comes out nearly {'black' if light < _NEARLY_BLACK else 'white'}: is its range as expected?")


def _tell(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=4)


def _eight_bit(pixels: Array, name: str) -> Array:
    """Scale to whole values of 0 to 255, in whichever dtype that leaves."""
    scaled = pixels
    if pixels.dtype == np.bool_:
        scaled = pixels.astype(np.uint8) * 255
    elif np.issubdtype(pixels.dtype, np.uint16):  # in either byte order
        scaled = (pixels.astype(np.uint32) + 128) // 257  # 65535 = 255 * 257
    elif np.issubdtype(pixels.dtype, np.floating):
        low, high = pixels.min(), pixels.max()  # NaN if any value is
        if not (low >= -_FLOAT_NOISE and high <= 1 + _FLOAT_NOISE):
            raise ImageError(
                f"{name} has float values from {low:.4g} to {high:.4g}; expected 0 to 1 without NaN: "
                "scale them, or pass 0 to 255 as uint8"
            )
        scaled = np.rint(pixels * 255)
    elif pixels.dtype != np.uint8:
        raise ImageError(f"{name} has dtype {pixels.dtype}; expected uint8, uint16, bool, or float from 0 to 1")
    return scaled
