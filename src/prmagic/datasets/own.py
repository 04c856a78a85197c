"""A user's own photos and masks as a benchmark: every photo is a query once, its supports are other photos."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prmagic.datasets.base import (
    Dataset,
    DatasetError,
    Episode,
    Inventory,
    Item,
    Photo,
    RandomChoices,
    Sampling,
    numbered,
    require_fold,
)
from prmagic.io.images import IMAGE_SUFFIXES, ImageError, load_image, load_mask
from prmagic.names import hint, why
from prmagic.types import BoolArray

INDEX = "index.jsonl"
OBJECTS = "instances.jsonl"
FIELDS: dict[str, Any] = {  # of a line, and what each may be; all but the first two may be left out
    "image": str,
    "mask": str,
    "mask_value": int | None,
    "class": str | None,
    "split": str | None,
}


@dataclass(frozen=True)
class _Entry:
    """A photo with a mask.

    Attributes:
        item: The photo.
        mask: Its mask's path below the folder.
        value: The object's label in the mask; None for all that is not zero.
        category: Its class; None to skip it.
        split: Its split, if it names one.
    """

    item: Item
    mask: str
    value: int | None
    category: str | None
    split: str | None


class Own(Dataset):
    """A folder in one of two layouts.

    With index.jsonl: lines {"image": path, "mask": path, "mask_value": int, "class": str, "split": str}, paths relative
    to the folder. Without mask_value the object is where the mask is not zero; lines without class are skipped.
    Item.instance is the line's number, from 0: a photo may have several lines.
    Without: <class>/images/* and <class>/masks/*, paired by file name without ending. Item.instance is None.

    split: take only these lines; None for "test" if there is such a line, else all. classes: take only these.

    Every line or pair is a query once, classes sorted, photos in the file's order; supports come from other photos of
    the class, never twice the same. A class needs shots + 1 photos, or it is left out. Class ids are positions.
    """

    name = "own"
    title = "own data"
    published = False
    source = (
        f'Own data is a folder with {INDEX}, of lines {{"image": "a.jpg", "mask": "a.png", "class": "cat"}}, or with '
        "<class>/images and <class>/masks, where a photo and its mask have the same name."
    )

    def __init__(self, root: str | Path, split: str | None = None, classes: Collection[str] | None = None):
        super().__init__(root)
        self._split = split
        self._only = classes

    def classes(self, fold: int, shots: int) -> list[str]:
        """Those with at least shots + 1 photos; DatasetError if there are none."""
        require_fold(self, fold)
        large = [category for category, photos in self._photos.items() if len(photos) > shots]
        if not large:
            raise DatasetError(
                f"{self.root}: no class has {shots + 1} photos with masks, a query and {shots} support(s); found "
                + ", ".join(f"{category} with {len(photos)}" for category, photos in self._photos.items())
            )
        return large

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """One for every line or pair; `default` only."""
        if sampling == "paper":
            raise DatasetError("nobody published episodes of your own data: take the sampling `default`")
        draws = RandomChoices(seed, without_repeats=True)
        episodes: list[Episode] = []
        for class_id, category in enumerate(self.classes(fold, shots)):
            photos = self._photos[category]
            for query in (item for items in photos.values() for item in items):
                drawn = draws.supports(list(photos), query.image, shots)
                supports = tuple(draws.one(photos[image]) for image in drawn)
                episodes.append(Episode(numbered(fold, len(episodes)), fold, class_id, category, query, supports))
        return episodes

    def photo(self, item: Item, category: str) -> Photo:
        """Upright, as its EXIF orientation asks, in any format. An empty mask is a mistake in the data."""
        entry = self._by_item.get((category, item))
        if entry is None:
            raise DatasetError(
                f"{self.root} has no photo {item.image} of {category}"
                + ("" if item.instance is None else f" in line {item.instance + 1} of {INDEX}")
                + ": was the manifest made with other data?"
            )
        file = self.root / item.image
        try:
            image = load_image(file)
            file = self.root / entry.mask
            return Photo(image, load_mask(file, image.shape[:2], entry.value))
        except ImageError as error:
            line = "" if item.instance is None else f", line {item.instance + 1} of {INDEX}"
            raise DatasetError(f"{error} ({file}{line})") from error

    def has_objects(self, image: str, category: str) -> bool:
        """Whether instances.jsonl names single objects of a class in a photo. DatasetError without that file."""
        return (image, category) in self._objects

    def objects(self, image: str, category: str) -> list[BoolArray]:
        """The single objects of a class in a photo, (H, W) bool each; none if instances.jsonl names none.

        A line of that file is like one of index.jsonl. Its split does not count.

        Raises:
            DatasetError: The file, or a mask that it names, is missing or damaged.
        """
        entries = self._objects.get((image, category), ())
        photo = self.root / image
        try:
            size = load_image(photo).shape[:2] if entries else (0, 0)
        except ImageError as error:
            raise DatasetError(f"{error} ({photo})") from error
        masks = []
        for entry in entries:
            file = self.root / entry.mask
            try:
                masks.append(load_mask(file, size, entry.value))
            except ImageError as error:
                line = (entry.item.instance or 0) + 1
                raise DatasetError(f"{error} ({file}, line {line} of {OBJECTS})") from error
        return masks

    @cached_property
    def _objects(self) -> dict[tuple[str, str], list[_Entry]]:
        """By photo and class."""
        if not (self.root / OBJECTS).is_file():
            raise DatasetError(f"{self.root} has no {OBJECTS}, with a line for each single object as in {INDEX}")
        objects: dict[tuple[str, str], list[_Entry]] = {}
        for entry in self._read_index(OBJECTS):
            if entry.category is not None:
                objects.setdefault((entry.item.image, entry.category), []).append(entry)
        return objects

    def check(self) -> Inventory:
        """Every photo has its mask and every line its files; which classes and lines are left out."""
        missing, notes = [], []
        try:
            if not self._indexed:
                missing += self._unpaired()
            photos = self._photos
            if self._indexed:
                missing += self._absent()
        except DatasetError as error:
            return Inventory(missing=[*missing, str(error)])
        if skipped := sum(entry.category is None for entry in self._entries):
            notes.append(f"{skipped} lines of {INDEX} have no class, and are skipped")
        if small := [category for category, images in photos.items() if len(images) < 2]:
            notes.append(f"{len(small)} classes have one photo only, and are left out: {', '.join(small)}")
        if not len(photos) > len(small):
            missing.append("a class with two photos at least: a query and its support")
        items = {category: sum(map(len, images.values())) for category, images in photos.items()}
        split = "" if self._chosen_split is None else f' of split "{self._chosen_split}"'
        return Inventory(
            [f"{sum(items.values())} masks{split} in {len(photos)} classes"],
            missing,
            notes,
            classes={0: len(photos) - len(small)},
            episodes={0: sum(count for category, count in items.items() if category not in small)},
        )

    @property
    def _indexed(self) -> bool:
        return (self.root / INDEX).is_file()

    @cached_property
    def _entries(self) -> list[_Entry]:
        entries = self._read_index(INDEX) if self._indexed else self._read_folders()
        if all(entry.category is None for entry in entries):
            raise DatasetError(f"{self.root} holds no photo with mask and class. {self.source}")
        for entry in entries:
            _check_text(entry.item.image, entry.mask, entry.category or "")
        return entries

    @cached_property
    def _by_item(self) -> dict[tuple[str | None, Item], _Entry]:
        return {(entry.category, entry.item): entry for entry in self._entries}

    @cached_property
    def _chosen_split(self) -> str | None:
        splits = sorted({entry.split for entry in self._entries if entry.split is not None and entry.category})
        if self._split is None:
            return "test" if "test" in splits else None
        if self._split not in splits:
            known = hint(self._split, splits) if splits else "it names no splits"
            raise DatasetError(f"{self.root} has no split {self._split!r}: {known}")
        return self._split

    @cached_property
    def _photos(self) -> dict[str, dict[str, list[Item]]]:
        """The chosen classes, sorted; of each its photos, and of each photo its items."""
        photos: dict[str, dict[str, list[Item]]] = {}
        for entry in self._entries:
            if entry.category is not None and self._chosen_split in (None, entry.split):
                photos.setdefault(entry.category, {}).setdefault(entry.item.image, []).append(entry.item)
        chosen = sorted(photos if self._only is None else set(self._only))
        for category in chosen:
            if category not in photos:
                raise DatasetError(f"{self.root} has no class {category!r}: {hint(category, sorted(photos))}")
        if not chosen:
            raise DatasetError(f"none of the classes of {self.root} is chosen: {hint('', sorted(photos))}")
        return {category: photos[category] for category in chosen}

    def _read_index(self, name: str) -> list[_Entry]:
        file = self.root / name
        try:
            lines = file.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, ValueError) as error:
            raise DatasetError(f"{file} cannot be read as UTF-8 text ({why(error)})") from error
        entries = []
        for number, line in enumerate(lines):
            try:
                entries += [_entry(number, line)] if line.strip() else []
            except RecursionError as error:
                raise DatasetError(f"{file}, line {number + 1}: its brackets are nested too deeply") from error
            except ValueError as error:
                raise DatasetError(f"{file}, line {number + 1}: {error}. {self.source}") from error
        return entries

    def _read_folders(self) -> list[_Entry]:
        return [
            _Entry(Item(f"{category}/images/{image}"), f"{category}/masks/{masks[stem]}", None, category, None)
            for category, (images, masks) in self._folders.items()
            for stem, image in images.items()
            if stem in masks
        ]

    @cached_property
    def _folders(self) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
        """Of each class the photos and the masks, {stem: name}."""
        return {
            folder.name: (_by_stem(folder / "images"), _by_stem(folder / "masks"))
            for folder in sorted(self.root.iterdir())
            if (folder / "images").is_dir() and not folder.name.startswith(".")
        }

    def _unpaired(self) -> list[str]:
        missing = []
        for category, (images, masks) in self._folders.items():
            for there, partners, kind in ((images, masks, "masks"), (masks, images, "images")):
                folder = self.root / category / kind
                missing += [f"{folder}/{stem}.*, for {there[stem]}" for stem in there if stem not in partners]
        return missing

    def _absent(self) -> list[str]:
        """The files that lines of the chosen classes and split name, but that are not there."""
        chosen = [
            self._by_item[category, item]
            for category, photos in self._photos.items()
            for items in photos.values()
            for item in items
        ]
        named = {self.root / path for entry in chosen for path in (entry.item.image, entry.mask)}
        there = {file for folder in {file.parent for file in named} for file in _files(folder)}
        return [str(file) for file in sorted(named - there)]


def _entry(number: int, line: str) -> _Entry:
    """A line of index.jsonl; ValueError that says what is wrong with it."""
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("not an object in braces")
    if wrong := [key for key, kind in FIELDS.items() if not isinstance(fields.get(key), kind)]:
        raise ValueError(" and ".join(f'"{key}" is {json.dumps(fields.get(key))}' for key in wrong))
    item = Item(fields["image"], number)
    return _Entry(item, fields["mask"], fields.get("mask_value"), fields.get("class"), fields.get("split"))


def _check_text(*names: str) -> None:
    """DatasetError for a name that is no text, which the records could not hold."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise DatasetError(f"{name!r} cannot be written in UTF-8: rename it") from None


def _by_stem(folder: Path) -> dict[str, str]:
    """The images in a folder, {stem: name}, sorted; DatasetError for two with the same stem."""
    names: dict[str, str] = {}
    for file in sorted(_files(folder)):
        if file.suffix.lower() not in IMAGE_SUFFIXES or file.name.startswith("."):
            continue
        if file.stem in names:
            raise DatasetError(f"{folder}: {names[file.stem]} and {file.name} have the same name: keep one of them")
        names[file.stem] = file.name
    return names


def _files(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()
