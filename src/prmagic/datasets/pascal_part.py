"""PASCAL-Part: a part, such as an ear, in a crop of its object. See docs/benchmarks/pascal-part.md."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

from prmagic.datasets.annotations import decode_alone, laid_out, union
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

SUPER_CLASSES = ("animals", "indoor", "person", "vehicles")
PUBLISHED_CLASSES = (31, 4, 5, 16)
MOST_EPISODES = 2500
SKIPPED = "aeroplane+TAIL"  # by name, in the published matcher/data/pascal_part.py
INDEX = "all_obj_part_to_image.json"
PHOTOS = "JPEGImages"
ANNOTATIONS = "Annotations_Part_json_merged_part_classes"
BOX = ("xmin", "ymin", "xmax", "ymax")

Annotated: TypeAlias = dict[str, Any]
"""An object of an annotation: name; bndbox {xmin, …}; parts [{name, mask: [run-length codes]}, …]."""
Candidates: TypeAlias = dict[str, dict[int, bool]]
"""photo → number of each object of the class's kind in it → whether it may be drawn for the part."""


@dataclass(frozen=True)
class PartClass:
    """A class of the benchmark: a part of a kind of object, and the photos that the index lists for it."""

    kind: str
    name: str
    train: Sequence[str]
    val: Sequence[str]

    @property
    def category(self) -> str:
        """Such as cow+EAR."""
        return f"{self.kind}+{self.name}"


class PascalPart(Dataset):
    """Folds are super-classes, classes are "object+PART" in the index's order, class ids positions in the fold.

    The root is the folder that holds VOCdevkit/, or VOC2010 itself. Item.instance is the number of the object in the
    "object" list of the photo's annotation.

    Both samplings take the class by the episode's number, query and supports from the val list, never a photo twice.
    "paper" draws every object whose part has a mask, even an empty one; "default" only those whose part shows in their
    crop. Too few photos for that are an error, where the published code would not end.
    """

    name = "pascal-part"
    title = "PASCAL-Part"
    folds = len(SUPER_CLASSES)
    source = (
        "It needs VOC 2010 (VOCtrainval_03-May-2010.tar) and pascal.zip: "
        "https://github.com/aim-uofa/Matcher, datasets/README.md, names both."
    )

    def __init__(self, root: str | Path):
        super().__init__(root)
        inside = any((self.root / name).exists() for name in (INDEX, PHOTOS, ANNOTATIONS))
        self._voc = PurePosixPath("" if inside else "VOCdevkit/VOC2010")
        self._drawable: dict[tuple[int, Sampling], list[Candidates]] = {}

    def classes(self, fold: int, shots: int) -> list[str]:
        """The same for any number of shots."""
        return [part.category for part in self._parts(fold)]

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """At most 2500, or as many as the val lists of the super-class are long, with those of the skipped classes."""
        parts = self._parts(fold)
        candidates = self._candidates(fold, sampling)
        for part, photos in zip(parts, candidates, strict=True):
            usable = sum(any(objects.values()) for objects in photos.values())
            if usable < shots + 1:
                raise DatasetError(
                    f"{part.category}: {usable} of {len(photos)} val photos show it, but an episode with {shots} "
                    f"support(s) needs {shots + 1}: draw fewer shots, or fetch the annotations anew. {self.source}"
                )
        draws = RandomChoices(seed, without_repeats=True)
        episodes = []
        for number in range(self._length(fold)):
            class_id = number % len(parts)
            drawn: dict[str, int] = {}
            while len(drawn) <= shots:
                photo, instance = _draw(draws, parts[class_id].val, candidates[class_id], drawn)
                drawn[photo] = instance
            query, *supports = (Item(self._photo_path(photo), instance) for photo, instance in drawn.items())
            category = parts[class_id].category
            episodes.append(Episode(numbered(fold, number), fold, class_id, category, query, tuple(supports)))
        return episodes

    def photo(self, item: Item, category: str) -> Photo:
        """Cropped to the object's box: rows ymin … ymax, columns xmin … xmax, as 0-based half-open ranges.

        The box is read by its keys' names, while the published code takes them in the file's order. That is the same
        for files with the usual order, and `check` notes others.

        Raises:
            DatasetError: If a file is missing or damaged.
            ValueError: For a box without area, which only "paper" draws: the episode fails, but no file is damaged.
        """
        name = PurePosixPath(item.image).stem  # not its folder: the manifest may come from the other kind of root
        image = self.read_image(self._photo_path(name))
        file = self.root / self._annotation_path(name)
        kind, _, part = category.partition("+")
        with laid_out(file, self.source):
            annotated = dict(enumerate(self._annotation(name))).get(-1 if item.instance is None else item.instance)
            masks = _masks(annotated, part) if annotated and annotated["name"] == kind else []
            if annotated is None or not masks:
                raise DatasetError(f"{file}: object {item.instance} has no {category}: the episodes are of other data")
            window = _window(annotated)
        mask = union(masks, image, str(self.root / self._photo_path(name)))[window]
        if not mask.size:
            raise ValueError(f"{file}: the box of object {item.instance} has no area: there is nothing to segment")
        return Photo(image[window], mask)

    def check(self) -> Inventory:
        """The val photos and their annotations; of the annotations themselves, the first of every class."""
        places = {self.root / self._voc / PHOTOS: ".jpg", self.root / self._voc / ANNOTATIONS: ".json"}
        try:
            parts = {fold: self._parts(fold) for fold in range(self.folds)}
        except DatasetError as error:
            return Inventory(missing=[str(error), *(f"{place} is missing" for place in places if not place.is_dir())])
        listed = {photo for fold in parts for part in parts[fold] for photo in part.val}
        found, missing, notes = [], [], []
        for place, suffix in places.items():
            absent = sorted(listed - {file.stem for file in place.glob(f"*{suffix}")})
            found.append(f"{place}: {len(listed) - len(absent)} of {len(listed)} files")
            if absent:
                missing.append(
                    f"{place}: {len(absent)} of {len(listed)} files, such as {absent[0]}{suffix}. {self.source}"
                )
        firsts = {part.val[0] for fold in parts for part in parts[fold]}
        odd = []
        for photo in sorted(firsts.difference(absent)):  # those without annotation
            try:
                with laid_out(self.root / self._annotation_path(photo), self.source):
                    odd += [photo for annotated in self._annotation(photo) if tuple(annotated["bndbox"]) != BOX]
            except DatasetError as error:
                missing.append(str(error))
        if odd:
            notes.append(
                f"{odd[0]}.json does not give boxes in the order {', '.join(BOX)}, on which the paper's code counts: "
                "it crops elsewhere"
            )
        counts = tuple(len(parts[fold]) for fold in parts)
        if counts != PUBLISHED_CLASSES:
            notes.append(f"{', '.join(map(str, counts))} classes in the folds; the paper's benchmark has 31, 4, 5, 16")
        return Inventory(
            found,
            missing,
            notes,
            classes=dict(enumerate(counts)),
            episodes={fold: self._length(fold) for fold in parts},
        )

    @cached_property
    def _index(self) -> list[list[PartClass]]:
        """Every part of every super-class, the skipped ones too."""
        path = str(self._voc / INDEX)
        with laid_out(self.root / path, self.source):
            content = json.loads(self.read_text(path))
            return [
                [
                    PartClass(kind, name, list(lists["train"]), list(lists["val"]))
                    for kind, entry in content[super_class]["object"].items()
                    for name, lists in entry["part"].items()
                ]
                for super_class in SUPER_CLASSES
            ]

    def _parts(self, fold: int) -> list[PartClass]:
        require_fold(self, fold)
        parts = [part for part in self._index[fold] if part.train and part.val and part.category != SKIPPED]
        if not parts:
            raise DatasetError(
                f"{self.root / self._voc / INDEX} lists no photos of fold {fold}, {SUPER_CLASSES[fold]}: "
                f"fetch it anew. {self.source}"
            )
        return parts

    def _length(self, fold: int) -> int:
        return min(MOST_EPISODES, sum(len(part.val) for part in self._index[fold]))

    def _candidates(self, fold: int, sampling: Sampling) -> list[Candidates]:
        """For each class of the fold; kept, as all annotations of the fold have to be read for it."""
        if (fold, sampling) not in self._drawable:
            parts = self._parts(fold)
            listed = dict.fromkeys(photo for part in parts for photo in part.val)
            annotations = {photo: self._annotation(photo) for photo in listed}
            self._drawable[fold, sampling] = [
                {photo: self._objects(photo, annotations[photo], part, sampling) for photo in part.val}
                for part in parts
            ]
        return self._drawable[fold, sampling]

    def _objects(self, photo: str, annotation: list[Annotated], part: PartClass, sampling: Sampling) -> dict[int, bool]:
        name = str(self.root / self._photo_path(photo))
        objects = {}
        with laid_out(self.root / self._annotation_path(photo), self.source):
            for number, annotated in enumerate(annotation):
                if annotated["name"] == part.kind:
                    masks = _masks(annotated, part.name)
                    objects[number] = bool(masks) and (sampling == "paper" or _shows(masks, annotated, name))
        return objects

    def _annotation(self, photo: str) -> list[Annotated]:
        path = self._annotation_path(photo)
        with laid_out(self.root / path, self.source):
            return list(json.loads(self.read_text(path))["object"])

    def _photo_path(self, photo: str) -> str:
        return str(self._voc / PHOTOS / f"{photo}.jpg")

    def _annotation_path(self, photo: str) -> str:
        return str(self._voc / ANNOTATIONS / f"{photo}.json")


def _draw(
    draws: RandomChoices, photos: Sequence[str], candidates: Candidates, taken: Collection[str]
) -> tuple[str, int]:
    """A photo that is not taken, then an object in it; both anew while either does not suit.

    It ends, as the candidates were counted before.
    """
    while True:
        photo = draws.one(photos)
        if photo in taken or not candidates[photo]:
            continue
        number = draws.one(list(candidates[photo]))
        if candidates[photo][number]:
            return photo, number


def _masks(annotated: Annotated, part: str) -> list[dict[str, Any]]:
    """The run-length codes of an object's part; none if it lacks the part."""
    return [mask for entry in annotated["parts"] if entry["name"] == part for mask in entry["mask"]]


def _window(annotated: Annotated) -> tuple[slice, slice]:
    left, top, right, bottom = (max(int(float(annotated["bndbox"][edge])), 0) for edge in BOX)
    return slice(top, bottom), slice(left, right)


def _shows(masks: list[dict[str, Any]], annotated: Annotated, name: str) -> bool:
    """Whether the object's crop has a pixel of the part."""
    window = _window(annotated)
    return any(decode_alone(mask, (0, 0), name)[window].any() for mask in masks)
