"""DIS5K: thin and intricate objects in large photos; supports come from Train, queries from Test."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
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
from prmagic.names import why

PUBLISHED_CLASSES = 210
CLASS = re.compile(r"([0-9]+)-([0-9]+)")  # group and category: 22-15
NAME = re.compile(r"([0-9]+)#[^#]*#([0-9]+)#[^#]*#.+")  # of a file in the release: 1#Accessories#1#Bag#photo


class Dis5k(Dataset):
    """Classes are the folders {group}-{category} that have photos in Train and in Test, sorted as text.

    With "paper" there are as many episodes as test photos, each with a class, a test photo and train photos at random,
    so that small classes weigh more and photos may repeat. With "default" every test photo is a query once, and its
    supports are different train photos. The published code demands the same classes in both parts; here those of one
    part are left out.
    """

    name = "dis5k"
    title = "DIS5K"
    source = "DIS5K 1.0 is named at https://github.com/xuebinqin/DIS; `prmagic datasets prepare dis5k` arranges it."

    def classes(self, fold: int, shots: int) -> list[str]:
        """The same for any number of shots."""
        require_fold(self, fold)
        classes = sorted(category for category in self._train.keys() & self._test.keys())
        if not classes:
            raise DatasetError(f"{self.root}: no class has photos in both Train/im and Test/im. {self.source}")
        return classes

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """As many as there are test photos of these classes."""
        classes = self.classes(fold, shots)
        class_ids = {category: _class_id(category) for category in classes}
        queries = [(category, photo) for category in classes for photo in self._test[category]]
        draws = RandomChoices(seed, without_repeats=sampling == "default")
        episodes = []
        for number, (category, query) in enumerate(queries):
            if sampling == "paper":
                category = draws.one(classes)
                query = draws.one(self._test[category])
            supports = draws.supports(self._train[category], query, shots)
            episodes.append(
                Episode(
                    numbered(fold, number),
                    fold,
                    class_ids[category],
                    category,
                    Item(query),
                    tuple(Item(support) for support in supports),
                )
            )
        return episodes

    def photo(self, item: Item, category: str) -> Photo:
        """The mask is where the grey value is at least 128; of its path only the folder im becomes gt."""
        image = self.read_image(item.image)
        path = PurePosixPath(item.image)
        mask_path = PurePosixPath(*("gt" if part == "im" else part for part in path.parent.parts), f"{path.stem}.png")
        grey = self.read_grey(str(mask_path), image.shape[:2])
        return Photo(image, grey >= 128)

    def check(self) -> Inventory:
        """Every photo of both parts has its mask; which classes and folders are left out."""
        found, missing, notes = [], [], []
        photos: dict[str, dict[str, list[str]]] = {"Train": {}, "Test": {}}
        for part in photos:
            try:
                photos[part] = self._train if part == "Train" else self._test
            except DatasetError as error:
                missing.append(str(error))
                continue
            count = sum(map(len, photos[part].values()))
            found.append(f"{part}: {count} photos in {len(photos[part])} classes")
            without = [
                PurePosixPath(photo).stem
                for category in photos[part]
                for photo in self._without_mask(part, category, photos[part][category])
            ]
            if without:
                named = ", ".join(f"{stem}.png" for stem in without[:3])
                missing.append(f"{len(without)} of {count} masks in {self.root / part / 'gt'}, such as {named}")
            if odd := [folder.name for folder in _folders(self.root / part / "im") if not CLASS.fullmatch(folder.name)]:
                notes.append(f"{part}/im: {', '.join(odd[:3])} is no class ({{group}}-{{category}}), and is left out")
        classes = photos["Train"].keys() & photos["Test"].keys()
        if classes:
            for part in photos:
                if dropped := sorted(photos[part].keys() - classes):
                    notes.append(f"{len(dropped)} classes have photos in {part} only: {', '.join(dropped)} left out")
            if len(classes) != PUBLISHED_CLASSES:
                notes.append(f"{len(classes)} classes, the published set has {PUBLISHED_CLASSES}")
        else:
            missing.append(f"{self.root}: no class has photos in both Train/im and Test/im")
        return Inventory(
            found,
            missing,
            notes,
            classes={0: len(classes)},
            episodes={0: sum(len(photos["Test"][category]) for category in classes)},
        )

    @cached_property
    def _train(self) -> dict[str, list[str]]:
        return self._photos("Train")

    @cached_property
    def _test(self) -> dict[str, list[str]]:
        return self._photos("Test")

    def _photos(self, part: str) -> dict[str, list[str]]:
        """The photos of each class that has any, sorted: the published order of files is not known to be another."""
        folder = self.root / part / "im"
        if not folder.is_dir():
            raise DatasetError(f"{folder} is missing. {self.source}")
        photos = {
            category.name: sorted(f"{part}/im/{category.name}/{file.name}" for file in category.glob("*.jpg"))
            for category in _folders(folder)
            if CLASS.fullmatch(category.name)
        }
        return {category: files for category, files in photos.items() if files}

    def _without_mask(self, part: str, category: str, photos: Sequence[str]) -> list[str]:
        masks = {file.stem for file in (self.root / part / "gt" / category).glob("*.png")}
        return [photo for photo in photos if PurePosixPath(photo).stem not in masks]


def prepare(
    train: Sequence[Path],
    test: Sequence[Path],
    out: Path,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> tuple[int, int]:
    """Arrange folders of the official release by class, into Train|Test/{im,gt}/{group}-{category}/.

    Files keep their names. They are linked, or copied where that cannot be; what is there already stays as it is.

    Args:
        train: Folders with im/ and gt/, such as DIS-TR.
        test: The same for the queries, such as DIS-TE1 to DIS-TE4.
        out: Where the arranged data goes.
        progress: Wraps the list of files.

    Returns:
        The numbers of photos in train and test.

    Raises:
        DatasetError: Before anything is written, if a file's name has not the form `1#Accessories#1#Bag#photo`, or a
            photo has no mask.
    """
    arranged = [_arranged(folders, out / part) for part, folders in (("Train", train), ("Test", test))]
    for target, source in progress([pair for files in arranged for pair in files.items()]):
        _place(source, target)
    return len(arranged[0]) // 2, len(arranged[1]) // 2


def _arranged(folders: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Where each photo and mask of the folders goes: {target: source}."""
    arranged: dict[Path, Path] = {}
    for folder in folders:
        photos = sorted((folder / "im").glob("*.jpg"))
        if not photos:
            raise DatasetError(f"{folder} has no im/*.jpg: name folders of the release, such as DIS-TR. {Dis5k.source}")
        masks = {file.stem: file for file in (folder / "gt").glob("*.png")}
        if odd := [photo.name for photo in photos if not NAME.fullmatch(photo.stem)]:
            raise DatasetError(
                f"{len(odd)} of {len(photos)} photos in {folder / 'im'}, such as {odd[0]}, are not named like "
                "1#Accessories#1#Bag#photo.jpg, which tells their class: take the files as released"
            )
        if without := [photo.stem for photo in photos if photo.stem not in masks]:
            raise DatasetError(
                f"{len(without)} of {len(photos)} photos in {folder / 'im'} have no mask: {folder / 'gt'} lacks, for "
                f"one, {without[0]}.png"
            )
        for photo in photos:
            for kind, source in (("im", photo), ("gt", masks[photo.stem])):
                target = out / kind / _category(photo.stem) / source.name
                if target in arranged:
                    raise DatasetError(f"{arranged[target]} and {source} would both become {target}: leave one out")
                arranged[target] = source
    return arranged


def _place(source: Path, target: Path) -> None:
    """Link source to target, or copy it; a copy that is cut short never bears the target's name."""
    if target.exists():
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError:  # another disk, or one without links
            unfinished = target.with_name(target.name + ".part")
            shutil.copyfile(source, unfinished)
            unfinished.replace(target)
    except OSError as error:
        raise DatasetError(f"{source} cannot be put at {target}: {why(error)}") from error


def _category(stem: str) -> str:
    group, _, category, *_ = stem.split("#")
    return f"{group}-{category}"


def _class_id(category: str) -> int:
    """The published number: group, two zeros, category."""
    group, number = category.split("-")
    return int(f"{group}00{number}")


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())
