"""Masks as people have them, as booleans: label maps, cut-outs, soft and lossy masks."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prmagic.checks import whole
from prmagic.io.reading import (
    MAX_PIXELS,
    Array,
    ImageError,
    by,
    channels_last,
    decode,
    describe,
    is_array,
    is_deep,
    to_rgb,
)
from prmagic.types import MaskLike

VOIDS = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
VOID_COLOUR = (224, 224, 192)  # PASCAL VOC's
FEW = 16  # colours of a drawn mask; photos have more
SHOWN = 20  # labels in a message


def load_mask(
    mask: MaskLike, size: tuple[int, int] | None = None, value: int | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]:
    """Read a mask.

    Every label but 0 is object: in a palette file every index, in a colour mask every colour that is not black. A label
    255 beside others is void, and no object. In a cut-out (RGBA) the opaque pixels are the object. Soft masks (0 … 1 as
    floats, 0 … 255 as greys) and lossy files count from half of their range on. A warning tells what was decided.

    Args:
        mask: As for `load_image`; arrays are (H, W), (H, W, 1), (1, H, W) or colour (H, W, 3 or 4).
        size: (height, width) that the mask must have, that of its image.
        value: Take only the pixels with this label.
        max_pixels: Larger masks are refused before they are decoded.

    Returns:
        A new (H, W) bool array, True on the object.

    Raises:
        ImageError: It cannot be read, has another size, or marks nothing.
    """
    name = describe(mask)
    value = None if value is None else whole("the mask value", value)
    if is_array(mask):
        channels = channels_last(mask, name, max_pixels, leading=(1,))
        labels, alpha = channels[..., :3], channels[..., 3] if channels.shape[2] == 4 else None
        lossy = False
    else:
        decoded = decode(mask, max_pixels, exact=True)
        alpha, lossy = _alpha(decoded.picture), decoded.lossy
        labels = _stored_labels(decoded.picture) if decoded.whole is None else decoded.whole
    _check(labels, size, name)
    if value is not None:
        inside = _with_label(labels, value, lossy, name)
    else:
        inside = _object(_one_channel(labels), alpha, lossy, name)
    if not inside.any():
        raise ImageError(f"mask {name} is empty: mark at least one object pixel")
    if inside.all():
        _tell(f"mask {name} covers its whole image: is the background really 0?", depth=3)
    return inside


def _check(labels: Array, size: tuple[int, int] | None, name: str) -> None:
    height, width = labels.shape[:2]
    if size is not None and (height, width) != tuple(size):
        turned = (width, height) == tuple(size)
        raise ImageError(
            f"mask {name} is {by(width, height)}, its image {by(size[1], size[0])}: a mask needs its image's size"
            + (". An EXIF orientation turns the image: draw the mask on the upright one" if turned else "")
        )
    if labels.dtype.kind not in "buif":
        raise ImageError(f"mask {name} has dtype {labels.dtype}; expected bool, integers or floats")
    if not np.isfinite(labels).all():
        raise ImageError(f"mask {name} has NaN or infinite values: mark the object with 1 and the rest with 0")


def _object(labels: Array, alpha: Array | None, lossy: bool, name: str) -> NDArray[np.bool_]:
    """The object of (H, W) labels or (H, W, 3) colours."""
    if alpha is not None and alpha.min() < alpha.max():
        return _cut_out(labels, alpha, name)
    if labels.ndim == 3:
        return _of_colours(labels, lossy, name)
    if labels.dtype.kind == "f" and (labels != np.rint(labels)).any():
        return _of_shares(labels, name)
    if labels.dtype == np.uint8 and (lossy or _is_soft(labels)):
        return _upper_half(labels, "lossy" if lossy else "soft", name)
    return _of_labels(labels, name)


def _of_labels(labels: Array, name: str) -> NDArray[np.bool_]:
    found = _distinct(labels)
    found = found[found != 0]
    inside: NDArray[np.bool_] = labels != 0
    void = VOIDS.get(labels.dtype)
    if len(found) > 1:
        others = found[found != void]
        told = f"mask {name} holds the labels {_listed(found)}: "
        if len(others) < len(found):
            told += f"{void} is void, and no object. "
            inside &= labels != void
        if len(others) > 1:
            told += "All others are the object. " if len(others) < len(found) else "all are the object. "
            told += "Pick one with --mask-value (mask_value=)"
        _tell(told.rstrip(". "))
    return inside


def _of_colours(colours: Array, lossy: bool, name: str) -> NDArray[np.bool_]:
    brightest = colours.max(axis=2)
    found = _distinct(colours)
    if colours.dtype == np.uint8 and (lossy or (len(found) > FEW and _is_soft(brightest))):
        if (np.abs(brightest.astype(int) - 128) < 64).mean() > 0.3:
            raise ImageError(f"mask {name} looks like a photo: a mask has the object in white and the rest in black")
        return _upper_half(brightest, "lossy" if lossy else "soft", name)
    found = found[found.any(axis=1)]
    inside: NDArray[np.bool_] = brightest != 0
    if len(found) > 1:
        void = (colours == VOID_COLOUR).all(axis=2)
        told = f"mask {name} holds {len(found)} colours beside black: all are the object"
        if void.any():
            told += ", but the void's (224, 224, 192)"
            inside &= ~void
        _tell(f"{told}. For one of several, pass a label map and its value")
    return inside


def _of_shares(labels: Array, name: str) -> NDArray[np.bool_]:
    """Floats with fractions, such as probabilities."""
    low, high = labels.min(), labels.max()
    if low < 0 or high > 255:
        raise ImageError(
            f"mask {name} has float values from {low:.4g} to {high:.4g}: pass shares from 0 to 1, or true and false"
        )
    half = 0.5 if high <= 1 else 127.5
    _tell(f"mask {name} is soft, with values up to {high:.4g}: from {half} on it is the object")
    return np.asarray(labels >= half)


def _upper_half(labels: Array, kind: str, name: str) -> NDArray[np.bool_]:
    """Greys, of which the brighter half is the object; a mask of 0 and 1 that was saved as JPEG is dark altogether."""
    highest = int(labels.max())
    half = 128 if highest >= 192 else (highest + 1) // 2
    if len(_distinct(labels)) > 2:
        _tell(f"mask {name} is {kind}, with values up to {highest}: from {half} on it is the object")
    return np.asarray(labels >= max(half, 1))


def _is_soft(labels: Array) -> bool:
    """Whether uint8 values are shades between 0 and 255, and not labels.

    Shades come in many values, and differ from pixel to pixel; a label fills an area.
    """
    if labels.max() < 128 or len(_distinct(labels)) < 5:
        return False
    signed = labels.astype(np.int16)
    between = (signed > 0) & (signed < 255)
    if not between.any():
        return False
    step = np.abs(np.diff(signed, axis=1))
    left, right = np.pad(step, ((0, 0), (1, 0))), np.pad(step, ((0, 0), (0, 1)))
    alone = (between & (left > 0) & (right > 0)).sum() / between.sum()
    gentle = (between & (left > 0) & (left <= 8)).sum() / between.sum()
    return bool(alone > 0.5 or gentle > 0.15)


def _cut_out(labels: Array, alpha: Array, name: str) -> NDArray[np.bool_]:
    """The opaque pixels; an error where the colours are a mask of their own that says something else."""
    opaque: NDArray[np.bool_] = alpha >= (alpha.max() if alpha.dtype.kind == "f" else 255) / 2
    marked = np.asarray(labels.astype(bool) if labels.ndim == 2 else labels.astype(bool).any(axis=2))
    drawn = len(_distinct(labels)) <= FEW
    if not drawn or not marked.any() or marked.all():
        return opaque
    if (marked & ~opaque).any():
        raise ImageError(
            f"mask {name} has colours and a transparency that say different things: save it without transparency, or "
            "the object opaque and the rest transparent"
        )
    return marked


def _stored_labels(picture: Image.Image) -> Array:
    """Give (H, W, 1) numbers as stored, with palette indices as they are, or (H, W, 3) colours."""
    if is_deep(picture) or picture.mode in ("1", "L", "P"):
        return np.asarray(picture)[..., None]
    if picture.mode in ("LA", "La", "PA"):
        return np.asarray(picture.getchannel(0))[..., None]
    return to_rgb(picture)


def _alpha(picture: Image.Image) -> Array | None:
    """(H, W) bytes, None for pictures without transparency."""
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        return np.asarray(picture.getchannel(len(picture.getbands()) - 1))
    if "transparency" in picture.info and picture.mode in ("1", "L", "P", "RGB"):
        return np.asarray(picture.convert("RGBA").getchannel(3))
    return None


def _one_channel(labels: Array) -> Array:
    """(H, W) where the colours are greys, else (H, W, 3)."""
    return labels[..., 0] if (labels == labels[..., :1]).all() else labels


def _with_label(labels: Array, value: int, lossy: bool, name: str) -> NDArray[np.bool_]:
    if lossy:
        raise ImageError(
            f"mask {name} has no labels, as its format changes values: leave the mask value out, or save it as PNG"
        )
    single = _one_channel(labels)
    if single.ndim == 3:
        raise ImageError(f"mask {name} has colours, so no label {value}: leave value out, or pass a label map")
    inside: NDArray[np.bool_] = single == value
    if not inside.any():
        raise ImageError(f"mask {name} has no label {value}: choose one of {_listed(_distinct(single))}")
    return inside


def _distinct(labels: Array) -> Array:
    """(N,) values of (H, W) labels, or (N, 3) of (H, W, 3) colours, in order."""
    if labels.ndim == 2:
        if labels.dtype == np.uint8:  # without sorting them all
            return np.flatnonzero(np.bincount(labels.ravel(), minlength=256)).astype(np.uint8)
        return np.unique(labels)
    if labels.dtype != np.uint8:
        return np.unique(labels.reshape(-1, 3), axis=0)
    red, green, blue = (labels[..., i].astype(np.uint32) for i in range(3))
    codes = np.flatnonzero(np.bincount((red << 16 | green << 8 | blue).ravel(), minlength=1 << 24))
    return np.stack([codes >> 16, codes >> 8 & 255, codes & 255], axis=1).astype(np.uint8)


def _listed(labels: Array) -> str:
    present = [f"{label:.10g}" for label in labels.astype(float)]
    return ", ".join(present[:SHOWN]) + (", ..." if len(present) > SHOWN else "")


def _tell(text: str, depth: int = 5) -> None:
    """Warn the caller of `load_mask`, so many calls above."""
    warnings.warn(text, UserWarning, stacklevel=depth)
