"""PerSeg: forty single objects; photo 00 of each is the reference for all its others. See docs/benchmarks/perseg.md."""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePosixPath

from prmagic.datasets.base import (
    Dataset,
    DatasetError,
    Episode,
    Inventory,
    Item,
    Photo,
    Sampling,
    numbered,
    require_fold,
)

REFERENCE = "00"
PUBLISHED_CLASSES = 40


class PerSeg(Dataset):
    """Classes are the objects, sorted; class ids are their positions. Nothing is drawn: the episodes are fixed.

    The reference is the photo whose stem is 00. The published code takes every photo with 00 anywhere in its path.
    """

    name = "perseg"
    title = "PerSeg"
    published = False
    source = "PerSeg is named at https://github.com/ZrrSkywalker/Personalize-SAM, under Preparation."

    def classes(self, fold: int, shots: int) -> list[str]:
        """DatasetError for more than one shot."""
        require_fold(self, fold)
        if shots != 1:
            raise DatasetError(f"PerSeg has one reference per object, photo 00: {shots} shots cannot be drawn, take 1")
        return list(self._photos)

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """One for every photo but the references, whatever the seed; `default` only."""
        if sampling == "paper":
            raise DatasetError("nobody published episodes of PerSeg for PR-MaGIC: take the sampling `default`")
        pairs = []
        for class_id, category in enumerate(self.classes(fold, shots)):
            stems = self._photos[category]
            if REFERENCE not in stems:
                raise DatasetError(
                    f"{self.root / _image(category, REFERENCE)} is missing: the reference. {self.source}"
                )
            pairs += [(class_id, category, stem) for stem in stems if stem != REFERENCE]
        return [
            Episode(
                numbered(fold, number),
                fold,
                class_id,
                category,
                Item(_image(category, stem)),
                (Item(_image(category, REFERENCE)),),
            )
            for number, (class_id, category, stem) in enumerate(pairs)
        ]

    def photo(self, item: Item, category: str) -> Photo:
        """The mask is where the grey value of the coloured PNG is above 0."""
        image = self.read_image(item.image)
        mask_path = _mask(category, PurePosixPath(item.image).stem)
        grey = self.read_grey(mask_path, image.shape[:2])
        return Photo(image, grey > 0)

    def check(self) -> Inventory:
        """Every object has its reference, every photo its mask."""
        try:
            photos = self._photos
        except DatasetError as error:
            return Inventory(missing=[str(error)])
        missing, notes = [], []
        for category, stems in photos.items():
            masks = {file.stem for file in (self.root / "Annotations" / category).glob("*.png")}
            missing += [str(self.root / _mask(category, stem)) for stem in stems if stem not in masks]
            if REFERENCE not in stems:
                missing.append(f"{self.root / _image(category, REFERENCE)}, the reference of {category}")
            elif len(stems) == 1:
                notes.append(f"{category} has a reference, but no photo to segment")
        if len(photos) != PUBLISHED_CLASSES:
            notes.append(f"{len(photos)} objects, the published set has {PUBLISHED_CLASSES}")
        count = sum(map(len, photos.values()))
        return Inventory(
            [f"{count} photos of {len(photos)} objects"],
            missing,
            notes,
            classes={0: len(photos)},
            episodes={0: sum(stem != REFERENCE for stems in photos.values() for stem in stems)},
        )

    @cached_property
    def _photos(self) -> dict[str, list[str]]:
        """The stems of each object's photos, both sorted."""
        folder = self.root / "Images"
        found = sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []
        photos = {entry.name: sorted(file.stem for file in entry.glob("*.jpg")) for entry in found}
        if not any(photos.values()):
            raise DatasetError(f"{folder} holds no photos <object>/*.jpg. {self.source}")
        return {category: stems for category, stems in photos.items() if stems}


def _image(category: str, stem: str) -> str:
    return f"Images/{category}/{stem}.jpg"


def _mask(category: str, stem: str) -> str:
    return f"Annotations/{category}/{stem}.png"
