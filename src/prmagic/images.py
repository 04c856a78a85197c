"""Any image or mask a user may hold, as one checked array: RGB bytes for images, booleans for masks."""

# The tests in os.path, unlike Path's, answer False for names that no file can have.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113

from __future__ import annotations

import difflib
import io
import os
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image.Image | np.ndarray | torch.Tensor
MaskLike: TypeAlias = ImageLike
Array: TypeAlias = NDArray[Any]

MAX_PIXELS = 64_000_000
IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif"})

# What undoes each EXIF orientation. PIL's exif_transpose also rewrites the EXIF block, which fails on odd tags.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PostScript would run as a program, and PIL decodes an icon on opening, before anyone can check its size.
_REFUSED_FORMATS = {"EPS", "ICO"}
_FLOAT_NOISE = 1e-3  # a quarter of an 8-bit step: rounding in the caller's arithmetic, not a wrong scale
_pil_limit_lock = threading.Lock()


class ImageError(ValueError):
    """An image or mask that cannot be used; the message tells which one, why, and what to do."""


def load_image(image: ImageLike, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Read an image as a new (H, W, 3) uint8 array, upright as its EXIF orientation asks.

    image: path, encoded bytes, PIL image, array or tensor. Files with several frames give the first.
    Arrays are (H, W), (H, W, C) or (C, H, W) with C = 1, 3 or 4, where an ambiguous shape reads as (H, W, C) for
    an array and (C, H, W) for a tensor. Values are uint8, bool, uint16 (the full range becomes 0-255) or float in 0-1.
    Grey is repeated into three channels. Alpha is dropped: the stored colours stay as they are.
    """
    name = describe(image)
    if isinstance(image, (np.ndarray, torch.Tensor)):
        pixels = _channels_last(image, name, max_pixels, leading=(1, 3, 4))
    else:
        pixels = _rgb_or_deep(_decode(image, max_pixels), name)
    rgb = _eight_bit(pixels[..., :3], name)
    return np.array(np.broadcast_to(rgb, (*rgb.shape[:2], 3)), dtype=np.uint8, order="C")


def load_mask(
    mask: MaskLike, size: tuple[int, int] | None = None, value: int | None = None, max_pixels: int = MAX_PIXELS
) -> NDArray[np.bool_]:
    """Read a mask as a new (H, W) bool array, True on the object.

    mask: as for `load_image`; arrays are (H, W), (H, W, 1), (1, H, W) or colour (H, W, 3 or 4). Every nonzero pixel is
    object: in a palette file every index but 0, in a colour mask every pixel that is not black. Alpha is ignored.
    size: (height, width) the mask must have, that of its image.
    value: take only the pixels with this label.
    """
    name = describe(mask)
    if isinstance(mask, (np.ndarray, torch.Tensor)):
        labels = _channels_last(mask, name, max_pixels, leading=(1,))[..., :3]
    else:
        labels = _stored_labels(_decode(mask, max_pixels))
    height, width, _ = labels.shape
    if size is not None and (height, width) != tuple(size):
        expected = _by(size[1], size[0])
        raise ImageError(f"mask {name} is {_by(width, height)}, its image {expected}: a mask needs its image's size")
    if labels.dtype.kind not in "buif":
        raise ImageError(f"mask {name} has dtype {labels.dtype}; expected bool, integers or floats")
    if not np.isfinite(labels).all():
        raise ImageError(f"mask {name} has NaN or infinite values: mark the object with 1 and the rest with 0")

    inside: NDArray[np.bool_] = (labels != 0).any(axis=2) if value is None else _with_label(labels, value, name)
    if not inside.any():
        raise ImageError(f"mask {name} is empty: mark at least one object pixel")
    if inside.all():
        warnings.warn(f"mask {name} covers its whole image: is the background really 0?", UserWarning, stacklevel=2)
    return inside


def describe(image: object) -> str:
    """Name an image briefly for messages: its file name, or what kind of object it is."""
    if isinstance(image, (str, os.PathLike)):
        return Path(image).name or str(image)
    if isinstance(image, bytes):
        return f"{len(image)} bytes"
    if isinstance(image, Image.Image):
        return f"a PIL image of {_by(*image.size)}"
    if isinstance(image, (np.ndarray, torch.Tensor)):
        return f"{'an array' if isinstance(image, np.ndarray) else 'a tensor'} of shape {tuple(image.shape)}"
    return f"an object of type {type(image).__name__}"


def find_images(paths: Sequence[str | Path]) -> list[tuple[Path, Path]]:
    """List the image files behind files, folders and glob patterns, each with a relative name for its outputs.

    A folder is searched recursively for IMAGE_SUFFIXES, and so are the matches of a pattern, which may use `**`, unless
    it matches nothing of the kind. Both skip hidden files and do not follow links to folders. Each file comes once.
    Names stay distinct when their suffix is replaced, never climb with `..`, and are relative to the folder, or to the
    part of the pattern before its first wildcard.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if not str(path):
            raise ImageError("the name of a photo or folder is empty: is a variable unset?")
        for file, base in _expand(Path(path)):
            found.setdefault(file.resolve(), (file, base))
    files = [file for file, _ in found.values()]
    return list(zip(files, _distinct_names(list(found.values())), strict=True))


def _decode(image: str | os.PathLike[str] | bytes | Image.Image, max_pixels: int) -> Image.Image:
    """Return the upright first frame, in memory; the size is checked before any pixel is decoded."""
    name = describe(image)
    if isinstance(image, (str, os.PathLike)):
        name = str(image)  # the full path, as a folder of folders may hold the same file name twice
        _check_file(Path(image))
    elif not isinstance(image, (bytes, Image.Image)):
        raise ImageError(f"cannot read {name}: pass a path, bytes, a PIL image, a NumPy array or a torch tensor")
    elif image == b"":
        raise ImageError("the image data is empty (0 bytes)")
    try:
        if isinstance(image, Image.Image):
            return _loaded(image, name, max_pixels)
        with _pil_limit(None):  # our own check follows, with a message that tells the size
            Image.init()  # fills Image.ID
            formats = [known for known in Image.ID if known not in _REFUSED_FORMATS]
            opened = Image.open(io.BytesIO(image) if isinstance(image, bytes) else image, formats=formats)
        with opened:
            return _loaded(opened, name, max_pixels)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{name} is not an image of a kind that can be read: save it as PNG or JPEG") from None
    except Exception as error:  # on broken data PIL's decoders raise nearly anything, from OSError to SyntaxError
        raise ImageError(f"{name} cannot be read, it may be damaged or cut short: {error}") from error


def _loaded(picture: Image.Image, name: str, max_pixels: int) -> Image.Image:
    _check_size(*picture.size, name, max_pixels)
    with _pil_limit(max_pixels):  # for what only now comes up: TIFF tiles, the image within an icon
        picture.load()
    turn = _TURNS.get(picture.getexif().get(ExifTags.Base.Orientation, 1))
    return picture if turn is None else picture.transpose(turn)


@contextmanager
def _pil_limit(max_pixels: int | None) -> Iterator[None]:
    """Put our pixel limit in place of PIL's, which is global: hence the lock, and back to the old value at once."""
    with _pil_limit_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = max_pixels
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _check_file(path: Path) -> None:
    if os.path.isdir(path):
        raise ImageError(f"{path} is a folder: name one image file in it")
    if not os.path.exists(path):
        raise ImageError(f"{path} does not exist{_nearest(path)}")
    if not path.is_file():
        raise ImageError(f"{path} is a pipe or device: save the image to a file first")
    if path.stat().st_size == 0:
        raise ImageError(f"{path} is empty (0 bytes)")


def _check_size(width: int, height: int, name: str, max_pixels: int) -> None:
    if width * height == 0:
        raise ImageError(f"{name} has no pixels")
    if width * height > max_pixels:
        raise ImageError(
            f"{name} is {_by(width, height)} = {width * height:,} pixels, the limit is {max_pixels:,}: "
            "make it smaller, or raise the limit with max_pixels= or --max-pixels"
        )


def _nearest(path: Path) -> str:
    """Guess which existing file was meant, as the end of an error message."""
    if not os.path.isdir(path.parent):
        return f": there is no folder {path.parent}"
    try:  # a link to nowhere is in its folder, but no help
        entries = [entry for entry in sorted(path.parent.iterdir()) if entry.exists()]
    except OSError:
        return ""
    names = {entry.name.lower(): entry for entry in entries}
    close = difflib.get_close_matches(path.name.lower(), names, n=1)
    return f": did you mean {names[close[0]]}?" if close else ""


def _channels_last(image: Array | torch.Tensor, name: str, max_pixels: int, leading: tuple[int, ...]) -> Array:
    """View an array or tensor as (H, W, C); `leading` are the channel counts allowed on the first axis."""
    pixels = _as_array(image, name)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3:
        allowed = {0: leading, 2: (1, 3, 4)}
        order = (0, 2) if isinstance(image, torch.Tensor) else (2, 0)
        axis = next((axis for axis in order if pixels.shape[axis] in allowed[axis]), None)
        pixels = pixels if axis is None else np.moveaxis(pixels, axis, 2)
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4):
        counts = " or ".join(str(count) for count in leading)
        raise ImageError(f"{name}: expected (H, W), (H, W, 1 or 3 or 4) or ({counts}, H, W); select one of a batch")
    _check_size(pixels.shape[1], pixels.shape[0], name, max_pixels)
    return pixels


def _as_array(image: Array | torch.Tensor, name: str) -> Array:
    if isinstance(image, np.ndarray):
        return np.asarray(image)
    try:
        tensor = image.detach().cpu()
        # NumPy has no bfloat16 and no 8-bit floats
        return (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    except (RuntimeError, TypeError) as error:
        raise ImageError(f"{name} cannot become an array, pass a plain dense tensor: {error}") from error


def _rgb_or_deep(picture: Image.Image, name: str) -> Array:
    """Give (H, W, 3) bytes, or (H, W, 1) in the stored depth where 8 bits would clip it."""
    if not _is_deep(picture):
        return _rgb(picture)
    pixels = np.asarray(picture)[..., None]
    if picture.mode != "I":
        return pixels
    # mode I has 32 bits in memory, 16 in the files it comes from
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ImageError(f"{name} has values from {pixels.min()} to {pixels.max()}; expected 16 bits, 0 to 65535")
    return pixels.astype(np.uint16)


def _stored_labels(picture: Image.Image) -> Array:
    """Give (H, W, 1) numbers as stored, with palette indices as they are, or (H, W, 3) colours."""
    if _is_deep(picture) or picture.mode in ("1", "L", "P"):
        return np.asarray(picture)[..., None]
    if picture.mode in ("LA", "La", "PA"):
        return np.asarray(picture.getchannel(0))[..., None]
    return _rgb(picture)


def _is_deep(picture: Image.Image) -> bool:
    return picture.mode in ("I", "F") or picture.mode.startswith("I;16")


def _rgb(picture: Image.Image) -> Array:
    if picture.mode in ("RGBa", "La"):  # colours multiplied by alpha, which only this undoes
        picture = picture.convert(picture.mode.upper())
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


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


def _with_label(labels: Array, value: int, name: str) -> NDArray[np.bool_]:
    if (labels != labels[..., :1]).any():
        raise ImageError(f"mask {name} has colours, so no label {value}: leave value out, or pass a label map")
    inside: NDArray[np.bool_] = labels[..., 0] == value
    if not inside.any():
        present = [f"{label:.10g}" for label in np.unique(labels).astype(float)]
        listed = ", ".join(present[:20]) + (", ..." if len(present) > 20 else "")
        raise ImageError(f"mask {name} has no label {value}: choose one of {listed}")
    return inside


def _by(width: int, height: int) -> str:
    return f"{width} \u00d7 {height}"


def _expand(path: Path) -> list[tuple[Path, Path]]:
    """List (file, folder its name is relative to) for one file, folder or pattern."""
    if os.path.isfile(path):
        return [(path, path.parent)]
    if os.path.isdir(path):
        base, files = path, [file for file in _visible_files(path, "**/*") if file.suffix.lower() in IMAGE_SUFFIXES]
        problem = f"{path} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
    elif any(mark in str(path) for mark in "*?["):
        start = next(i for i, part in enumerate(path.parts) if any(mark in part for mark in "*?["))
        base, pattern = Path(*path.parts[:start]), str(Path(*path.parts[start:]))
        # a last ** matches folders only, before Python 3.13
        matches = _visible_files(base, f"{pattern}/*" if path.name == "**" else pattern)
        files = [file for file in matches if file.suffix.lower() in IMAGE_SUFFIXES] or matches
        problem = f"no file matches {path}" + ("" if base.is_dir() else f": there is no folder {base}")
    else:
        raise ImageError(f"{path} does not exist{_nearest(path)}")
    if not files:
        raise ImageError(problem)
    return [(file, base) for file in files]


def _visible_files(folder: Path, pattern: str) -> list[Path]:
    # Path.glob, unlike glob.glob, does not follow links in **, so loops end
    try:
        files = [file for file in folder.glob(pattern) if os.path.isfile(file)]
    except ValueError as error:
        raise ImageError(f"{folder / pattern} is not a pattern: {error}") from error
    return sorted(file for file in files if not any(part[0] == "." for part in file.relative_to(folder).parts))


def _distinct_names(found: list[tuple[Path, Path]]) -> list[Path]:
    """Name each (file, base) relative to its base, and further only where two would share an output file."""
    files = [Path(os.path.abspath(file)) for file, _ in found]
    depths = [len(file.relative_to(os.path.abspath(base)).parts) for file, (_, base) in zip(files, found, strict=True)]
    while True:  # one more parent folder for every name that occurs twice
        names = [Path(*file.parts[-depth:]) for file, depth in zip(files, depths, strict=True)]
        count = Counter(names)
        deeper = [
            min(depth + (count[name] > 1), len(file.parts) - 1)
            for file, depth, name in zip(files, depths, names, strict=True)
        ]
        if deeper == depths:
            break
        depths = deeper

    stems = Counter(map(_output_key, names))
    taken: set[str] = set()
    for i, name in enumerate(names):
        if stems[_output_key(name)] > 1 and name.suffix:
            name = names[i] = name.with_stem(f"{name.stem}_{name.suffix[1:]}")
        attempt = 1
        while _output_key(names[i]) in taken:  # rare: x.jpg and x.png beside a file already called x_jpg.jpg
            attempt += 1
            names[i] = name.with_stem(f"{name.stem}_{attempt}")
        taken.add(_output_key(names[i]))
    return names


def _output_key(name: Path) -> str:
    """Tell which names give the same output file, also where the file system ignores case."""
    return str(name.with_suffix("")).casefold()
