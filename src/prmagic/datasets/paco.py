"""PACO-Part: parts of everyday objects, each in a crop of its object. docs/benchmarks/paco.md names the files.

    PACO-Part/
      coco/train2017/*.jpg   coco/val2017/*.jpg              COCO's photos
      paco/paco_part_train.pkl   paco/paco_part_val.pkl      the published benchmark
      paco/annotations/paco_lvis_v1_val.json                 PACO's own release, read where both pickles are missing

The pickles have 448 part classes, the release has 456; which eight were left out is not known, nor in which order the
pickles list classes, photos and objects. From the release all 456 are taken in ascending order of their ids. So its
classes, folds and episodes are not those of the paper, but of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from prmagic.datasets.annotations import coco_path, count_photos, decode_alone, laid_out, union
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
from prmagic.datasets.pickles import load_pickle
from prmagic.io.shapes import Shape, read_json

EPISODES = 2500  # of a fold
CLASSES = 448  # of all folds, before those with too few photos are left out
PUBLISHED_CLASSES = (79, 82, 66, 76)  # of the folds, for one shot, from the published logs


@dataclass
class ObjectPart:
    """One part of one object, maybe in pieces.

    Attributes:
        box: x, y, width, height of the object in pixels.
        shapes: The pieces.
    """

    box: tuple[float, float, float, float]
    shapes: list[Shape] = field(default_factory=list)

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of the object's crop."""
        x, y, width, height = self.box
        return slice(int(y), int(y + height)), slice(int(x), int(x + width))

    @property
    def cropped_away(self) -> bool:
        """Whether the crop has no pixel, as that of a box less than one pixel wide may."""
        return any(side.start >= side.stop for side in self.window)

    def visible(self, name: str) -> bool:
        """Whether the crop shows any of it."""
        rows, columns = self.window
        return not self.cropped_away and any(
            decode_alone(shape, (rows.stop, columns.stop), name)[rows, columns].any() for shape in self.shapes
        )


Parts: TypeAlias = dict[str, dict[str, dict[int, ObjectPart]]]
"""category → photo → object → its part of that category; the order of all three counts."""


class Paco(Dataset):
    """A category is the number of a part of a kind of object; an item's instance is the object's number.

    The same part of another object in the crop counts as background. Each class needs more photos than shots, so with
    more shots there are fewer classes.
    """

    name = "paco"
    title = "PACO-Part"
    folds = 4
    source = (
        "paco.zip, named in datasets/README.md of github.com/aim-uofa/Matcher (or paco_lvis_v1.zip of "
        "github.com/facebookresearch/paco), beside train2017.zip and val2017.zip of cocodataset.org in coco/"
    )

    def classes(self, fold: int, shots: int) -> list[str]:
        """Every fourth, if it has enough photos."""
        require_fold(self, fold)
        order = self._order
        candidates = order[fold : len(order) // self.folds * self.folds : self.folds]
        return [category for category in candidates if len(self._parts.get(category, ())) > shots]

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """2500 of a fold.

        With "default" the shots of an episode are of different photos, and only parts that show in their object's crop
        are drawn. With "paper" a query may have no pixel of its class.
        """
        classes = self.classes(fold, shots)
        objects = {category: self._objects(category, sampling) for category in classes}
        drawn = [category for category in classes if len(objects[category]) > shots]
        if not drawn:
            raise DatasetError(
                f"{self._file} has no class in fold {fold} with more than {shots} photo(s): fetch it anew. "
                f"{self.source}"
            )
        draws = RandomChoices(seed, without_repeats=sampling == "default")
        episodes = []
        for number in range(EPISODES):
            category = draws.one(drawn)
            of_class = objects[category]
            photos = list(of_class)
            query = draws.one(photos)
            items = [Item(query, draws.one(of_class[query]))]
            taken = {query}
            while len(items) <= shots:
                photo = draws.one(photos)
                if photo not in taken:
                    items.append(Item(photo, draws.one(of_class[photo])))
                    if sampling == "default":
                        taken.add(photo)
            class_id = classes.index(category)
            episodes.append(Episode(numbered(fold, number), fold, class_id, category, items[0], tuple(items[1:])))
        return episodes

    def photo(self, item: Item, category: str) -> Photo:
        """The object's crop and its part. ValueError if its box holds no pixel, which `default` never draws."""
        objects = self._parts.get(category, {}).get(item.image, {})
        if item.instance is None or item.instance not in objects:
            raise DatasetError(
                f"{self._file} has no part {category} of an object {item.instance} in {item.image}: the episodes were "
                "drawn from other annotations"
            )
        part = objects[item.instance]
        image = self.read_image(item.image)
        mask = union(part.shapes, image, str(self.root / item.image))[part.window]
        if not mask.size:
            raise ValueError(
                f"the box {list(part.box)} of object {item.instance} in {item.image} holds no whole pixel of it: "
                "there is nothing to segment"
            )
        return Photo(image[part.window], mask)

    def check(self) -> Inventory:
        """The annotations, and every photo that an episode may have."""
        try:
            folds = {fold: self.classes(fold, 1) for fold in range(self.folds)}
        except DatasetError as error:
            return Inventory(missing=[str(error)])
        drawn = [photo for classes in folds.values() for category in classes for photo in self._parts[category]]
        found, missing = count_photos(self.root, drawn)
        missing += [f"{self._file}: no part with two photos in fold {fold}" for fold in folds if not folds[fold]]
        return Inventory(
            found=[f"{self._file}: {len(self._order)} part classes", *found],
            missing=missing,
            notes=self._oddities(folds),
            classes={fold: len(classes) for fold, classes in folds.items()},
            episodes={fold: EPISODES if classes else 0 for fold, classes in folds.items()},
        )

    def _oddities(self, folds: dict[int, list[str]]) -> list[str]:
        notes = []
        if self._file == self._released:
            notes.append(
                f"read from {self._released.name}, PACO's own release, as the pickles are not there: "
                f"{len(self._order)} part classes by id, where the pickles have {CLASSES} (which are left out, whether "
                "small parts are too, and their order is not known). Classes, folds and episodes are not those of the "
                "paper"
            )
        elif self._released.is_file():
            notes.append(f"{self._released.name} is not read, as the pickles are there")
        classes = tuple(len(categories) for categories in folds.values())
        if classes != PUBLISHED_CLASSES:
            counts = [", ".join(map(str, numbers)) for numbers in (classes, PUBLISHED_CLASSES)]
            notes.append(f"{counts[0]} classes in the folds for one shot; the paper's benchmark has {counts[1]}")
        empty = sum(
            part.cropped_away
            for photos in self._parts.values()
            for objects in photos.values()
            for part in objects.values()
        )
        if empty:
            notes.append(f"{empty} part(s) of objects whose box holds no whole pixel: only sampling paper draws them")
        return notes

    def _objects(self, category: str, sampling: Sampling) -> dict[str, list[int]]:
        # A fold's choices for one class: photo → objects.
        photos = {
            photo: [
                number
                for number, part in objects.items()
                if sampling == "paper" or part.visible(f"object {number} in {photo}")
            ]
            for photo, objects in self._parts[category].items()
        }
        return {photo: numbers for photo, numbers in photos.items() if numbers}

    @property
    def _published(self) -> tuple[Path, Path]:
        return self.root / "paco/paco_part_train.pkl", self.root / "paco/paco_part_val.pkl"

    @property
    def _released(self) -> Path:
        return self.root / "paco/annotations/paco_lvis_v1_val.json"

    @cached_property
    def _file(self) -> Path:
        absent = [file for file in self._published if not file.is_file()]
        if not absent:
            return self._published[1]
        # One pickle alone is a mistake to report, not a reason to run another benchmark.
        if len(absent) == 2 and self._released.is_file():
            return self._released
        raise DatasetError(
            f"{' and '.join(map(str, absent))} missing; where both are, {self._released} does instead. {self.source}"
        )

    @cached_property
    def _order(self) -> list[str]:
        # The part classes in the order that defines the folds.
        if self._file == self._released:
            return list(self._parts)
        train, _ = self._published
        with laid_out(train, self.source):
            order = [str(category) for category in load_pickle(train)["cid2img"]]
        if len(order) != CLASSES:
            raise DatasetError(f"{train} has {len(order)} part classes, not {CLASSES}: fetch it anew. {self.source}")
        return order

    @cached_property
    def _parts(self) -> Parts:
        with laid_out(self._file, self.source):
            return _of_release(self._file) if self._file == self._released else _of_pickle(self._file)


def _of_pickle(file: Path) -> Parts:
    content = load_pickle(file)
    parts: Parts = {}
    for category, entries in content["cid2img"].items():
        photos = parts[str(category)] = {}
        # A photo is listed once for each of its annotations.
        for number, address in {number: address for entry in entries for number, address in entry.items()}.items():
            of_class = [entry for entry in content["img2anno"][number] if entry["category_id"] == category]
            if not of_class:
                raise DatasetError(f"{file} lists {address} for part {category}, but has none of it there")
            photos[coco_path(address)] = _by_object((entry, entry["obj_bbox"]) for entry in of_class)
    return parts


def _of_release(file: Path) -> Parts:
    content = read_json(file)
    photos = {image["id"]: coco_path(image["file_name"]) for image in content["images"]}
    boxes = {entry["id"]: entry["bbox"] for entry in content["annotations"]}
    numbers = sorted(entry["id"] for entry in content["categories"] if entry["supercategory"] == "PART")
    parts: Parts = {str(number): {} for number in numbers}
    of_photo: dict[tuple[int, int], list[Any]] = {}
    for entry in sorted(content["annotations"], key=lambda entry: (entry["image_id"], entry["id"])):
        if str(entry["category_id"]) in parts:
            of_photo.setdefault((entry["category_id"], entry["image_id"]), []).append(entry)
    for (category, image), entries in of_photo.items():
        parts[str(category)][photos[image]] = _by_object((entry, boxes[entry["obj_ann_id"]]) for entry in entries)
    return parts


def _by_object(entries: Iterable[tuple[Any, Any]]) -> dict[int, ObjectPart]:
    # Of one class in one photo, each with its object's box. The box of an object's first annotation counts.
    parts: dict[int, ObjectPart] = {}
    for entry, box in entries:
        x, y, width, height = box
        part = parts.setdefault(int(entry["obj_ann_id"]), ObjectPart((x, y, width, height)))
        part.shapes.append(entry["segmentation"])
    return parts
