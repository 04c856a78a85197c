"""Supports out of what people have labelled already: a COCO file, or a folder of photos and masks."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prmagic.datasets.annotations import read_json, union
from prmagic.images import IMAGE_SUFFIXES, MAX_PIXELS, load_image
from prmagic.names import hint
from prmagic.types import Support

MANY = 50  # more supports take long enough to be asked for
MASK = "_mask"
SHOWN = 30  # category names in a message: LVIS has 1203

Something = TypeVar("Something")


def supports_from_coco(
    file: Path, category: str, limit: int | None = None, images: Path | None = None, max_pixels: int = MAX_PIXELS
) -> list[Support]:
    """The first `limit` photos, in the file's order, in which something of the category is marked.

    The mask of a photo unites all its annotations of the category (polygons or run-length codes); crowds
    ("iscrowd": 1) are left out. images: where the photos are, if not beside the file. Raises ValueError for a file that
    is not COCO's, a category that is not there, photos that are missing or of another size, and for more than 50
    photos without a limit."""
    entries, wanted = _annotated(file, category)
    marked = _first(list(wanted.items()), limit, f"{file} has {category!r} in")
    folder = file.parent if images is None else images
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name the one with the photos with --support-images")
    photos = {number: folder / str(entries[number]["file_name"]) for number, _ in marked}
    if absent := [photo for photo in photos.values() if not photo.is_file()]:
        raise ValueError(
            f"{len(absent)} of {len(photos)} photos of {category!r} are not there, such as {absent[0]}: "
            "name the folder that they are in with --support-images"
        )
    supports = []
    for number, shapes in marked:
        photo, entry = photos[number], entries[number]
        image = load_image(photo, max_pixels)
        height, width = image.shape[:2]
        if (entry.get("height", height), entry.get("width", width)) != (height, width):
            raise ValueError(
                f"{photo} has {width} × {height} pixels when it is upright, but {file.name} says "
                f"{entry.get('width')} × {entry.get('height')}: its masks belong to another version of the photo"
            )
        mask = union(shapes, image, str(photo))
        if not mask.any():
            raise ValueError(f"the masks of {category!r} in {photo} cover no pixel: take them out of {file.name}")
        supports.append(Support(image, mask))
    return supports


def supports_from_folder(folder: Path, limit: int | None = None, mask_value: int | None = None) -> list[Support]:
    """The first `limit` photos, by name, that have a mask: images/a.jpg with masks/a.png, or a.jpg beside a_mask.png or
    a.png.

    Photos without mask and masks without photo are left out, with a warning that names them. mask_value: the masks are
    label maps, and this is the object. Raises ValueError for a folder without pairs, for names that could be paired in
    two ways, and for more than 50 pairs without a limit."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder: --support-dir takes one with photos and masks")
    apart = [(folder / name).is_dir() for name in ("images", "masks")]
    if any(apart) and not all(apart):
        there, absent = ("images", "masks") if apart[0] else ("masks", "images")
        raise ValueError(f"{folder} has {there}/ but no {absent}/ beside it")
    pairs, alone = _apart(folder) if all(apart) else _side_by_side(folder)
    if not pairs:
        classes = sorted(entry.name for entry in folder.iterdir() if (entry / "images").is_dir())
        advice = f"; its folder {classes[0]} has an images/: name that one" if classes else ""
        raise ValueError(
            f"{folder} has no photo with a mask of the same name, as images/a.jpg with masks/a.png, or a.jpg with "
            f"a_mask.png or a.png{advice}"
        )
    if alone:
        listed = ", ".join(file.name for file in alone[:5]) + (", …" if len(alone) > 5 else "")
        warnings.warn(f"{folder}: left out, as they have no partner: {listed}", UserWarning, stacklevel=2)
    return [Support(photo, mask, mask_value) for photo, mask in _first(pairs, limit, f"{folder} has")]


def _first(found: Sequence[Something], limit: int | None, source: str) -> Sequence[Something]:
    if limit is None and len(found) > MANY:
        raise ValueError(f"{source} {len(found)} photos: say from how many to learn with --limit, such as --limit 5")
    return found[:limit]


def _annotated(file: Path, category: str) -> tuple[dict[Any, dict[str, Any]], dict[Any, list[Any]]]:
    """The file's images by id, and the masks of the category by image id, in the order of the images."""
    try:
        content = read_json(file)
    except ValueError as error:
        raise ValueError(f"{file} is not a JSON file ({error})") from None
    try:
        named: dict[str, set[Any]] = defaultdict(set)
        for entry in content["categories"]:
            named[entry["name"]].add(entry["id"])
        if not category:
            raise ValueError(f"say which category of {file} to learn, with --category: {_known(category, named)}")
        if category not in named:
            raise ValueError(f"{file} has no category {category!r}: {_known(category, named)}")
        entries = {entry["id"]: entry for entry in content["images"]}
        masks: dict[Any, list[Any]] = {number: [] for number in entries}
        annotations = [entry for entry in content["annotations"] if entry["category_id"] in named[category]]
        for entry in annotations:
            if entry.get("segmentation") and not entry.get("iscrowd"):
                masks[entry["image_id"]].append(entry["segmentation"])
        for number, shapes in masks.items():
            if shapes and "file_name" not in entries[number]:
                raise KeyError("file_name")
    except (KeyError, TypeError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{file} is not a file of COCO's annotations of objects: {what}") from None
    marked = {number: shapes for number, shapes in masks.items() if shapes}
    if not marked:
        kinds = "all of crowds or without mask" if annotations else "none"
        raise ValueError(f"{file} has {len(annotations)} annotation(s) of {category!r}, {kinds}: nothing to learn from")
    return entries, marked


def _known(category: str, named: Iterable[str]) -> str:
    names = sorted(named)
    if not names:
        return "it has none at all"
    near = hint(category, names).partition("Known: ")[0]
    return f"{near}it has {', '.join(names[:SHOWN])}" + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )


def _apart(folder: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """Pairs (photo, mask) of images/ and masks/, and the files without partner."""
    photos, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    groups = {stem: (files, masks.pop(stem, []) + masks.pop(stem + MASK, [])) for stem, files in photos.items()}
    pairs, alone = _paired(groups)
    return pairs, alone + [file for files in masks.values() for file in files]


def _side_by_side(folder: Path) -> tuple[list[tuple[Path, Path]], list[Path]]:
    """The same, of one folder."""
    files = _by_stem(folder)
    groups = {}
    for stem, same in files.items():
        if not (stem.endswith(MASK) and stem.removesuffix(MASK) in files):
            masks = files.get(stem + MASK, [])
            photos = same if masks else [file for file in same if file.suffix.lower() != ".png"] or same
            groups[stem] = photos, masks or [file for file in same if file not in photos]
    return _paired(groups)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = defaultdict(list)
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith(".") and file.is_file():
            found[file.stem].append(file)
    return dict(found)


def _paired(groups: Mapping[str, tuple[list[Path], list[Path]]]) -> tuple[list[tuple[Path, Path]], list[Path]]:
    pairs, alone = [], []
    for photos, masks in groups.values():
        if len(photos) > 1 or len(masks) > 1:
            listed = ", ".join(str(file) for file in photos + masks)
            raise ValueError(f"it is not clear which is the photo and which its mask: {listed}; keep one of each")
        if photos and masks:
            pairs.append((photos[0], masks[0]))
        else:
            alone += photos + masks
    return pairs, alone
