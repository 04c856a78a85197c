"""Supports from what is labelled already: a COCO file, or a folder of photos and masks."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from prmagic.io.images import IMAGE_SUFFIXES, MAX_PIXELS, load_image
from prmagic.io.shapes import Shape, ShapeError, read_json, united
from prmagic.names import nearest
from prmagic.types import Support

MANY = 50  # more supports take long enough to be asked for
MASK = "_mask"
SHOWN = 30  # category names in a message: LVIS has 1203

Something = TypeVar("Something")


def supports_from_coco(
    file: Path, category: str, limit: int | None = None, images: Path | None = None, max_pixels: int = MAX_PIXELS
) -> list[Support]:
    """Take supports from a COCO file: the photos in which something of a category is marked.

    The mask of a photo unites all its annotations of the category. Crowds ("iscrowd": 1) are left out, with a warning,
    unless the category has nothing else: CVAT writes every brush mask as a crowd.

    Args:
        file: Annotations of objects, as polygons or run-length codes.
        category: Its name.
        limit: Take only the first photos, in the file's order.
        images: The folder of the photos, if they are not beside the file.
        max_pixels: Larger photos are refused.

    Returns:
        One support per photo.

    Raises:
        ValueError: The file is not COCO's, has no such category, or one of its masks cannot be drawn; photos are
            missing or of another size; or there are more than 50 photos and no limit.
    """
    entries, wanted = _annotated(file, category)
    marked = _first(list(wanted.items()), limit, f"{file} has {category!r} in")
    folder = file.parent if images is None else images
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name the one with the photos with --support-images")
    photos = {number: _photo(folder, str(entries[number]["file_name"])) for number, _ in marked}
    if absent := [photo for photo in photos.values() if not photo.is_file()]:
        raise ValueError(
            f"{len(absent)} of {len(photos)} photos of {category!r} are not there, such as {absent[0]}: "
            "name the folder that they are in with --support-images"
        )
    return [_support(photos[number], entries[number], shapes, category, file, max_pixels) for number, shapes in marked]


def _support(
    photo: Path, entry: Mapping[str, Any], shapes: Sequence[Shape], category: str, file: Path, max_pixels: int
) -> Support:
    """Read a photo and draw its annotations."""
    image = load_image(photo, max_pixels)
    height, width = image.shape[:2]
    if (entry.get("height", height), entry.get("width", width)) != (height, width):
        raise ValueError(
            f"{photo} has {width} × {height} pixels when it is upright, but {file.name} says "
            f"{entry.get('width')} × {entry.get('height')}: its masks belong to another version of the photo"
        )
    try:
        mask = united(shapes, height, width)
    except ShapeError as error:
        raise ValueError(f"{file}: an annotation of {category!r} in {photo.name} cannot be used: {error}") from None
    if not mask.any():
        raise ValueError(f"the masks of {category!r} in {photo} cover no pixel: take them out of {file.name}")
    return Support(image, mask)


def _photo(folder: Path, name: str) -> Path:
    """The file of that name; Windows tools write backslashes between folders."""
    as_written = folder / name
    return as_written if as_written.is_file() else folder / name.replace("\\", "/")


def supports_from_folder(folder: Path, limit: int | None = None, mask_value: int | None = None) -> list[Support]:
    """Take supports from a folder: images/a.jpg with masks/a.png, or a.jpg beside a_mask.png or a.png.

    Photos without mask and masks without photo are left out, with a warning that names them.

    Args:
        folder: Holds images/ and masks/, or photos and masks side by side.
        limit: Take only the first photos, by name.
        mask_value: The masks are label maps, and this is the object.

    Returns:
        One support per pair.

    Raises:
        ValueError: There are no pairs, a name could be paired in two ways, or there are more than 50 and no limit.
    """
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
    images, categories, annotations = _lists(file)
    named: dict[str, set[Any]] = defaultdict(set)
    for entry in categories:
        named[str(_value(file, "categories", entry, "name"))].add(_value(file, "categories", entry, "id"))
    if not category:
        raise ValueError(f"say which category of {file} to learn, with --category: {_known(category, named)}")
    if category not in named:
        raise ValueError(f"{file} has no category {category!r}: {_known(category, named)}")
    entries = {_value(file, "images", entry, "id"): entry for entry in images}
    _check_ids(file, annotations, "category_id", set().union(*named.values()), "categories")
    own = [entry for entry in annotations if entry["category_id"] in named[category]]
    _check_ids(file, own, "image_id", entries, "images")

    masks: dict[Any, list[Any]] = {number: [] for number in entries}
    for entry in _without_crowds(file, category, [entry for entry in own if entry.get("segmentation")]):
        masks[entry["image_id"]].append(entry["segmentation"])
    marked = {number: shapes for number, shapes in masks.items() if shapes}
    if not marked:
        kinds = "all of them without a mask" if own else "none"
        raise ValueError(f"{file} has {len(own)} annotation(s) of {category!r}, {kinds}: nothing to learn from")
    for number in marked:
        _value(file, "images", entries[number], "file_name")
    return entries, marked


def _lists(file: Path) -> Iterator[list[dict[str, Any]]]:
    """Images, categories and annotations, each a list of objects."""
    content = read_json(file)
    wrong = f"{file} is not a file of COCO's annotations of objects"
    if not isinstance(content, dict):
        raise ValueError(f"{wrong}: it holds no object with images, categories and annotations")
    for name in ("images", "categories", "annotations"):
        entries = content.get(name)
        if entries is None:
            raise ValueError(f"{wrong}: it has no {name!r}")
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{wrong}: its {name!r} are not a list of objects")
        yield entries


def _value(file: Path, entries: str, entry: Mapping[str, Any], name: str) -> Any:
    value = entry.get(name)
    if not isinstance(value, (str, int)):
        told = "has no" if value is None else "has something strange as"
        raise ValueError(f"{file} is not a file of COCO's annotations of objects: one of its {entries} {told} {name!r}")
    return value


def _check_ids(
    file: Path, annotations: Sequence[Mapping[str, Any]], name: str, known: Collection[Any], of: str
) -> None:
    for entry in annotations:
        number = _value(file, "annotations", entry, name)
        if number not in known:
            kinds = {type(each) for each in known}
            told = (
                f" (ids are {'numbers' if int in kinds else 'text'} there)"
                if kinds and type(number) not in kinds
                else ""
            )
            which = f"annotation {entry['id']}" if isinstance(entry.get("id"), (int, str)) else "an annotation"
            raise ValueError(
                f"{file}: {which} names {name.removesuffix('_id')} {number!r}, which is not among the {of}{told}"
            )


def _without_crowds(file: Path, category: str, annotations: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Without the crowds, if there is anything else."""
    objects = [entry for entry in annotations if not entry.get("iscrowd")]
    crowds = len(annotations) - len(objects)
    if crowds and not objects:
        warnings.warn(
            f"{file.name}: all {crowds} mask(s) of {category!r} are marked as crowds, as CVAT's brush does; they are "
            "taken as the object",
            UserWarning, stacklevel=4,
        )  # fmt: skip
        return annotations
    if crowds:
        warnings.warn(
            f'{file.name}: left out {crowds} crowd(s) of {category!r} ("iscrowd": 1)', UserWarning, stacklevel=4
        )
    return objects


def _known(category: str, named: Iterable[str]) -> str:
    names = sorted(named)
    if not names:
        return "it has none at all"
    return f"{nearest(category, names)}it has {', '.join(names[:SHOWN])}" + (
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
