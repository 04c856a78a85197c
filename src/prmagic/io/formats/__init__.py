"""What labelling tools import, made from masks: one module per format (`docs/labelling-tools.md`)."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import PurePosixPath, PureWindowsPath

from prmagic.io.formats import coco, coco_video, label_studio, masks, yolo
from prmagic.io.formats.base import (
    LOCAL_FILES,
    Format,
    Labelled,
    Options,
    instance_record,
    no_file,
    recorded_instance,
    rle,
    unrle,
)
from prmagic.io.polygons import SPECK, TOLERANCE, without_specks
from prmagic.names import lookup
from prmagic.types import BoolArray

__all__ = [
    "FORMATS", "LOCAL_FILES", "Format", "Labelled", "Options", "exported", "instance_record", "photo_names",
    "recorded_instance", "rle", "unrle",
]  # fmt: skip

FORMATS = {
    "coco": Format(coco.files, "images", polygons=True),
    "yolo-seg": Format(yolo.files, "images", polygons=None, by_stem=True, specks=False),
    "label-studio": Format(label_studio.files, "images", polygons=True, image_url=True, specks=False),
    "masks": Format(masks.files, "JPEGImages", polygons=False, by_stem=True),
    "coco-video": Format(coco_video.files, "JPEGImages", polygons=False, video=True),
}

WRITTEN = (".png", ".txt")  # suffixes of what is written by stem
LINE_ENDS = re.compile(r"[\r\n]")


def exported(
    photos: Iterable[Labelled],
    labels: Sequence[str],
    to: str = "coco",
    *,
    polygons: bool = False,
    tolerance: float | None = None,
    image_url: str | None = None,
    min_area: int | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Turn masks into the files that a labelling tool imports.

    Args:
        photos: The photos with their masks, each name once.
        labels: All classes, in the order of their ids.
        to: A name in `FORMATS`.
        polygons: Write outlines instead of exact pixels, where the format has both.
        tolerance: How far an outline may depart from the mask, in pixels; 1 unless given.
        image_url: What Label Studio puts before a photo's name to find it.
        min_area: Leave out connected parts of fewer pixels. Unless given, yolo-seg, and label-studio with polygons,
            leave out those of less than 16 pixels or 0.1 % of the object, and the others nothing. Each instance is an
            object. A warning counts them.

    Yields:
        The path of each file, with / between folders, and its content.

    Raises:
        ValueError: An option has no effect on the format, or the format cannot hold a name or label.
    """
    kind = lookup("format", to, FORMATS)
    if polygons and not kind.polygons:
        hint = "always polygons" if kind.polygons is None else "always pixels"
        raise ValueError(f"{to} takes no choice of polygons: it is {hint}")
    if tolerance is not None and kind.polygons is not None and not polygons:
        raise ValueError("a tolerance is for polygons" + (": ask for these too" if kind.polygons else ""))
    if image_url is not None and not kind.image_url:
        raise ValueError(f"{to} holds no addresses of photos: the image URL is for label-studio")
    if min_area is not None and min_area < 0:
        raise ValueError(f"the smallest area is {min_area}; it is a number of pixels, 0 or more")
    if len(set(labels)) < len(labels):
        raise ValueError(f"a label is there twice: {', '.join(labels)}")
    options = Options(polygons, TOLERANCE if tolerance is None else tolerance, image_url or LOCAL_FILES)
    specks = kind.specks or not (polygons or kind.polygons is None)
    return kind.files(_without_specks(_each_once(photos, labels, kind), specks, min_area), labels, options)


def photo_names(names: Iterable[str], to: str) -> dict[str, str]:
    """What photos are called in an export: their own name, or another where a format could not tell two apart.

    Args:
        names: The photos' names, in the order in which `exported` gets them.
        to: A name in `FORMATS`.

    Returns:
        The name in the export by the photo's own.
    """
    if not lookup("format", to, FORMATS).by_stem:
        return {name: name for name in names}
    stems = _Stems()
    return {name: stems(name) + PurePosixPath(name).suffix for name in names}


class _Stems:
    """Names without their suffix, each given once: a of a.jpg, and then a_png of a.png.

    No folder is called like a file beside it (dir.png/a.jpg gives dir.png_/a), and no name ends a line of a list."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def __call__(self, name: str) -> str:
        path = PurePosixPath(name)
        *folders, last = name[: len(name) - len(path.suffix)].split("/")
        plain = LINE_ENDS.sub("_", "/".join([*(no_file(folder, WRITTEN) for folder in folders), last]))
        stem, attempt = plain, 1
        while stem.casefold() in self._taken:
            stem = f"{plain}_{path.suffix[1:]}" if attempt == 1 and path.suffix else f"{plain}_{attempt}"
            attempt += 1
        self._taken.add(stem.casefold())
        return stem


def _each_once(photos: Iterable[Labelled], labels: Sequence[str], kind: Format) -> Iterator[Labelled]:
    """Check the names, and give each photo its stem."""
    names: set[str] = set()
    stems = _Stems()
    for photo in photos:
        _check_name(photo.name)
        if photo.name in names:
            raise ValueError(f"two photos are called {photo.name}: a photo can be there only once")
        if unknown := (photo.masks.keys() | photo.instances.keys()) - set(labels):
            raise ValueError(f"{photo.name} has masks of {', '.join(sorted(unknown))}, which are not among the labels")
        names.add(photo.name)
        stem = stems(photo.name)
        suffix = PurePosixPath(photo.name).suffix
        if kind.by_stem and stem + suffix != photo.name:
            _tell(f"{photo.name!r} has a name that this format cannot hold: here it is called {stem + suffix}")
        yield replace(photo, stem=stem)


def _check_name(name: str) -> None:
    path = PureWindowsPath(name)
    elsewhere = path.root or (os.name == "nt" and path.drive)  # a:b.jpg is a name on other systems
    text = "\0" not in name and not any("\ud800" <= letter <= "\udfff" for letter in name)
    if not path.parts or ".." in path.parts or elsewhere or not text or not PurePosixPath(name).name:
        raise ValueError(f"{name!r} cannot be the name of a photo: a file below the export's folder is named by it")


def _without_specks(photos: Iterable[Labelled], specks: bool, min_area: int | None) -> Iterator[Labelled]:
    left_out = touched = emptied = 0
    for photo in photos:
        masks = {label: _cleaned(mask, specks, min_area) for label, mask in photo.masks.items()}
        instances = {
            label: [replace(each, mask=_cleaned(each.mask, specks, min_area)) for each in several]
            for label, several in photo.instances.items()
        }
        cleaned = replace(photo, masks=masks, instances=instances)
        before, after = _areas(photo), _areas(cleaned)
        left_out += before.total() - after.total()
        touched += before.total() > after.total()
        emptied += len(before) > len(after)
        yield cleaned
    if touched:
        limit = f"{min_area} pixels" if min_area is not None else f"{SPECK} pixels or 0.1 % of the object"
        only = f"; in {emptied} of them nothing else was found" if emptied else ""
        _tell(
            f"left out specks of less than {limit}, {left_out} pixels in {touched} photo(s){only}. "
            "--min-area 0 (min_area=0) keeps them"
        )


def _areas(photo: Labelled) -> Counter[int]:
    """Pixels by label, without labels that were not found."""
    areas: Counter[int] = Counter()
    for position, mask, _ in photo.found(list(photo.masks)):
        areas[position] += int(mask.sum())
    return areas


def _cleaned(mask: BoolArray, specks: bool, min_area: int | None) -> BoolArray:
    if min_area is None:
        return mask if specks else without_specks(mask)
    return without_specks(mask, min_area)


def _tell(text: str) -> None:
    warnings.warn(text, UserWarning, stacklevel=2)
