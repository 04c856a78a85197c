"""What the benchmarks on COCO's photos share: annotation files, drawn masks, and where the photos lie."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prmagic.datasets.base import DatasetError
from prmagic.io.shapes import Shape, ShapeError, decode, united
from prmagic.types import BoolArray, ByteArray

LARGEST_SIDE = 20_000  # pixels, of a photo whose size is not known


def union(shapes: Iterable[Shape], image: ByteArray, name: str) -> BoolArray:
    """Draw the annotations of a photo.

    Args:
        shapes: Polygons or run-length codes.
        image: The photo (H, W, 3).
        name: The photo's, for the error message.

    Returns:
        Where any of them is (H, W).

    Raises:
        DatasetError: If one is damaged, or made for a photo of another size.
    """
    with _of(name):
        return united(shapes, *image.shape[:2])


def decode_alone(shape: Shape, least: tuple[int, int], name: str) -> BoolArray:
    """Draw one annotation of a photo whose size is not known, and which is not read to learn it.

    Args:
        shape: A run-length code, which has its size, or polygons, which are drawn as far as their last corner.
        least: Least (height, width) of the mask of polygons.
        name: The photo's, for the error message.

    Returns:
        The mask, which may be smaller than the photo.

    Raises:
        DatasetError: If the annotation is damaged.
    """
    with _of(name):
        return decode(shape, None if isinstance(shape, dict) else _enclosing(shape, least))


def _enclosing(shape: Any, least: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that hold all corners; numbers beyond all photos are left for `decode` to refuse."""
    height, width = least
    for polygon in shape if isinstance(shape, list) else ():
        numbers = [number for number in polygon if isinstance(number, (int, float)) and abs(number) < LARGEST_SIDE]
        if isinstance(polygon, list) and len(numbers) == len(polygon):
            height = max([height, *(int(y) + 1 for y in polygon[1::2])])
            width = max([width, *(int(x) + 1 for x in polygon[::2])])
    return height, width


@contextmanager
def _of(name: str) -> Iterator[None]:
    try:
        yield
    except ShapeError as error:
        raise DatasetError(
            f"an annotation of {name} cannot be used: {error}. Fetch the photos and the annotations anew"
        ) from error


def coco_path(address: str) -> str:
    """Where a photo lies below a data set's folder: only the last folder and the name of its address count."""
    return "/".join(["coco", *address.split("/")[-2:]])


@contextmanager
def laid_out(file: Path, source: str) -> Iterator[None]:
    """Raise DatasetError for whatever goes wrong while the content of a file is taken apart."""
    try:
        yield
    except DatasetError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        what = f"nothing under {error}" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            f"{file} does not hold the annotations it should ({what}): fetch it anew. {source}"
        ) from error


def count_photos(root: Path, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Look for photos, folder by folder, with one listing of each.

    Args:
        root: A data set's folder.
        paths: Photos below it.

    Returns:
        Sentences on what is there, and on what is missing.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for path in paths:
        folder, _, name = path.rpartition("/")
        folders[folder].add(name)
    found, missing = [], []
    for folder, names in sorted(folders.items()):
        place = root / folder
        absent = sorted(names.difference(entry.name for entry in place.iterdir()) if place.is_dir() else names)
        found.append(f"{place}: {len(names) - len(absent)} of {len(names)} photos")
        if absent:
            archive = f"COCO's {place.name}.zip has them"
            missing.append(f"{place}: {len(absent)} of {len(names)} photos, such as {absent[0]}. {archive}")
    return found, missing
