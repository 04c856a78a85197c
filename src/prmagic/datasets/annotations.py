"""What the benchmarks on COCO's photos share: annotation files, drawn masks, and where the photos lie."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from pycocotools import mask as coco_mask

from prmagic.datasets.base import DatasetError
from prmagic.types import BoolArray, ByteArray

Segmentation: TypeAlias = list[Any] | dict[str, Any]
"""Polygons [[x, y, x, y, …], …], a run-length code {"size": [height, width], "counts": …}, or rows of 0 and 1."""


def union(segmentations: Iterable[Segmentation], image: ByteArray, name: str) -> BoolArray:
    """Where any of them is, (H, W) bool, on an image (H, W, 3); DatasetError, which says `name`, if they do not fit."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width), bool)
    for segmentation in segmentations:
        drawn = decode(segmentation, height, width, name)
        if drawn.shape != mask.shape:
            raise DatasetError(
                f"{name} has {width} × {height} pixels, but its annotation {drawn.shape[1]} × {drawn.shape[0]}: "
                "the photo is not the one that was annotated, fetch it anew"
            )
        mask |= drawn
    return mask


def decode(segmentation: Segmentation, height: int, width: int, name: str) -> BoolArray:
    """As a bool mask: polygons on (height, width), the other two forms in the size they have themselves.

    name: what it is the annotation of, for the DatasetError if it is damaged."""
    try:
        if isinstance(segmentation, dict):
            # A list of counts is the uncompressed form, which decode does not take.
            listed = isinstance(segmentation["counts"], list)
            code = coco_mask.frPyObjects(segmentation, height, width) if listed else segmentation
            return np.asarray(coco_mask.decode(code), bool)
        if _is_grid(segmentation):
            return np.array(segmentation, bool)
        polygons = [polygon for polygon in segmentation if len(polygon) >= 6]  # fewer than three corners cover nothing
        if not polygons:
            return np.zeros((height, width), bool)
        return np.asarray(coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width))), bool)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise DatasetError(f"an annotation of {name} is damaged ({error}): fetch the annotations anew") from error


def _is_grid(rows: Sequence[Sequence[float]]) -> bool:
    # Two or more polygons of equally many corners, all within the first pixel, would look the same: there are none.
    return len(rows) > 1 and len({len(row) for row in rows}) == 1 and all(max(row, default=0) <= 1 for row in rows)


def coco_path(address: str) -> str:
    """Where a photo lies below a data set's folder: only the last folder and the name of its address count."""
    return "/".join(["coco", *address.split("/")[-2:]])


@contextmanager
def laid_out(file: Path, source: str) -> Iterator[None]:
    """DatasetError for whatever goes wrong while the content of a file is taken apart."""
    try:
        yield
    except DatasetError:
        raise
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        what = f"nothing under {error}" if isinstance(error, KeyError) else str(error)
        raise DatasetError(
            f"{file} does not hold the annotations it should ({what}): fetch it anew. {source}"
        ) from error


def read_json(file: Path) -> Any:
    """The content of a JSON file."""
    with file.open(encoding="utf-8") as stream:
        return json.load(stream)


def count_photos(root: Path, paths: Iterable[str]) -> tuple[list[str], list[str]]:
    """Sentences on the photos that are there and on those that are missing, folder by folder, one listing of each."""
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
