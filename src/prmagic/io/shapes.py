"""Masks as COCO's annotation files hold them, checked before any is drawn.

pycocotools trusts its input: coordinates far outside the photo, or counts that do not add up, end the process. So every
reader of files goes through `decode`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from prmagic.types import BoolArray

Shape: TypeAlias = list[Any] | dict[str, Any] | npt.NDArray[Any]
"""Polygons [[x, y, x, y, …], …], a run-length code {"size": [height, width], "counts": …}, or rows of 0 and 1."""

LARGEST = 1 << 28  # pixels of a code whose photo's size is not known
LONGEST = 5_000_000  # pixels along the outlines of a shape; pycocotools takes a hundred bytes for each


class ShapeError(ValueError):
    """A shape that cannot be drawn; the message says why."""


class SizeMismatch(ShapeError):
    """A shape of a photo of another size; `size` is the shape's (height, width)."""

    def __init__(self, size: tuple[int, int], expected: tuple[int, int]):
        super().__init__(f"it is for a photo of {size[1]} × {size[0]} pixels, not of {expected[1]} × {expected[0]}")
        self.size = size


def read_json(file: Path) -> Any:
    """Read a JSON file in UTF-8 or UTF-16, with or without a byte order mark.

    Raises:
        ValueError: It is not JSON.
        OSError: It cannot be read.
    """
    content = file.read_bytes()
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError(f"{file} is not a JSON file that can be read: its brackets are nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"{file} is not a JSON file ({error})") from None


def united(shapes: Iterable[Shape], height: int, width: int) -> BoolArray:
    """Draw several shapes on one photo.

    Returns:
        (height, width) bool, True where any of them is.

    Raises:
        ShapeError: One cannot be drawn, or belongs to a photo of another size.
    """
    mask = np.zeros((height, width), bool)
    for shape in shapes:
        mask |= decode(shape, (height, width))
    return mask


def decode(shape: Shape, size: tuple[int, int] | None = None) -> BoolArray:
    """Draw one shape.

    Args:
        shape: Polygons, a run-length code, or rows of 0 and 1.
        size: (height, width) of its photo; None takes the size that a code or rows have themselves.

    Returns:
        (height, width) bool.

    Raises:
        ShapeError: The shape is damaged, too large, or belongs to a photo of another size.
    """
    if isinstance(shape, dict):
        return _from_code(shape, size)
    if isinstance(shape, np.ndarray):
        shape = shape.tolist()
    if not isinstance(shape, (list, tuple)):
        raise ShapeError(f"a segmentation is a list of polygons or a run-length code, not {_kind(shape)}")
    if _is_grid(shape):
        grid = np.array(shape, bool)
        _check_size(grid.shape[0], grid.shape[1], size)
        return grid
    if size is None:
        raise ShapeError("the size of the photo is not known, and polygons do not tell it")
    return _from_polygons(shape, *size)


def check_code(code: Any, size: tuple[int, int] | None = None) -> None:
    """Check a run-length code without drawing it.

    Args:
        code: What should be one.
        size: (height, width) of its photo, if it is known.

    Raises:
        ShapeError: It is damaged, or belongs to a photo of another size.
    """
    if not isinstance(code, dict):
        raise ShapeError(f"a run-length code is an object, not {_kind(code)}")
    _runs(code, size)


def _from_code(code: dict[str, Any], size: tuple[int, int] | None) -> BoolArray:
    runs, height, width = _runs(code, size)
    values = np.arange(len(runs)) % 2 == 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def _runs(code: dict[str, Any], size: tuple[int, int] | None) -> tuple[npt.NDArray[np.int64], int, int]:
    """The lengths of the runs, background first, down the columns; height and width."""
    try:
        height, width = (int(side) for side in code["size"])
        counts = code["counts"]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise ShapeError('a run-length code needs "size": [height, width] and "counts"') from None
    _check_size(height, width, size)
    runs = _listed(counts) if isinstance(counts, (list, tuple)) else _unpacked(counts)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ShapeError(f"the run-length code is damaged: its counts do not add up to {width} × {height} pixels")
    return runs, height, width


def _check_size(height: int, width: int, size: tuple[int, int] | None) -> None:
    if size is not None and (height, width) != size:
        raise SizeMismatch((height, width), size)
    if height < 1 or width < 1 or height * width > LARGEST:
        raise ShapeError(f"a size of {width} × {height} pixels cannot be right")


def _listed(counts: Sequence[Any]) -> npt.NDArray[np.int64]:
    """Uncompressed counts."""
    whole = all(isinstance(count, (int, float)) and 0 <= count <= LARGEST and count == int(count) for count in counts)
    if not whole:
        raise ShapeError("the run-length code is damaged: its counts are whole numbers from 0")
    return np.array(counts, np.int64)


def _unpacked(counts: Any) -> npt.NDArray[np.int64]:
    """COCO's compressed counts: six bits a character from "0" on; the fourth and later ones are differences."""
    damaged = ShapeError("the run-length code is damaged: its counts cannot be read")
    try:
        text = counts.encode("ascii") if isinstance(counts, str) else bytes(memoryview(counts))
    except (TypeError, UnicodeEncodeError):
        raise damaged from None
    digits = np.frombuffer(text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((digits & 32) == 0)
    if not len(digits) or digits.min() < 0 or digits.max() > 63 or not len(ends) or ends[-1] != len(digits) - 1:
        raise damaged
    starts = np.concatenate([[0], ends[:-1] + 1])
    lengths = ends - starts + 1
    if lengths.max() > 7:  # 35 bits
        raise damaged
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    runs = np.add.reduceat((digits & 31) << (5 * place), starts)
    runs -= np.where(digits[ends] & 16, np.int64(1) << (5 * lengths), 0)
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def _is_grid(rows: Sequence[Any]) -> bool:
    """Whether they are rows of 0 and 1. Two polygons with all corners at 0 or 1 would look the same: there are none."""
    return (
        len(rows) > 1
        and all(isinstance(row, (list, tuple)) for row in rows)
        and len({len(row) for row in rows}) == 1
        and all(not isinstance(value, (list, tuple)) and value in (0, 1) for row in rows for value in row)
        and len(rows[0]) > 0
    )


def _from_polygons(shape: Sequence[Any], height: int, width: int) -> BoolArray:
    polygons = [_corners(polygon) for polygon in _separate(shape)]
    codes = []
    length = 0.0
    for corners in polygons:
        if len(corners) < 3:  # covers nothing
            continue
        _check_corners(corners, height, width)
        length += float(np.abs(corners - np.roll(corners, 1, axis=0)).max(axis=1).sum())
        if length > LONGEST:
            raise ShapeError(f"its outlines are more than {LONGEST:,} pixels long, too much for a photo")
        codes += coco_mask.frPyObjects([corners.ravel().tolist()], height, width)
    if not codes:
        return np.zeros((height, width), bool)
    return np.asarray(coco_mask.decode(coco_mask.merge(codes)), bool)


def _separate(shape: Sequence[Any]) -> Sequence[Any]:
    """The polygons of a list of them, also of a list that is one polygon: numbers, or pairs of numbers."""
    if any(map(_is_number, shape)):
        return [shape]
    pairs = all(isinstance(corner, (list, tuple)) and len(corner) == 2 for corner in shape)
    return [shape] if pairs and len(shape) > 2 and all(_is_number(corner[0]) for corner in shape) else shape


def _corners(polygon: Any) -> npt.NDArray[np.float64]:
    """(N, 2) of x, y, x, y, …, or of a list of pairs."""
    if not isinstance(polygon, (list, tuple)):
        raise ShapeError(f"a polygon is a list of numbers x, y, x, y, …, not {_kind(polygon)}")
    flat = list(polygon)
    if flat and all(isinstance(corner, (list, tuple)) and len(corner) == 2 for corner in flat):
        flat = [number for corner in flat for number in corner]
    if not all(map(_is_number, flat)):
        raise ShapeError("a polygon is a list of numbers x, y, x, y, …, and one of its entries is not a number")
    if len(flat) % 2:
        raise ShapeError(f"a polygon has {len(flat)} numbers: an even count is needed, x and y of each corner")
    try:
        return np.array(flat, np.float64).reshape(-1, 2)
    except OverflowError:
        raise ShapeError("a polygon has a number beyond all photos") from None


def _check_corners(corners: npt.NDArray[np.float64], height: int, width: int) -> None:
    if not np.isfinite(corners).all():
        raise ShapeError("a polygon has a corner that is no number (NaN or infinite)")
    sides = np.array([width, height])
    if (corners < -sides).any() or (corners > 2 * sides).any():
        x, y = corners[np.argmax(np.abs(corners / sides).max(axis=1))]
        raise ShapeError(f"a polygon has a corner at {x:g}, {y:g}, far outside its photo of {width} × {height} pixels")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _kind(value: Any) -> str:
    kinds = {str: "text", bool: "true or false", type(None): "null", int: "a number", float: "a number"}
    return kinds.get(type(value), type(value).__name__)
