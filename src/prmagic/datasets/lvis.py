"""LVIS-92i: ten folds of 92 everyday classes with few photos each. docs/benchmarks/lvis.md names the files.

    LVIS/
      coco/train2017/*.jpg   coco/val2017/*.jpg    COCO's photos
      lvis_val.pkl                                 the published benchmark
      lvis_v1_val.json                             LVIS's own release, read where the pickle is missing

From the release follow folds by the same rule, but not the paper's episodes: the order of the pickle's photos is not
known, nor whether small objects were left out of it.
"""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from prmagic.datasets.annotations import coco_path, count_photos, laid_out, union
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

EPISODES = 2300  # of a fold
PUBLISHED_CLASSES = {1: 92, 5: 68}  # of a fold, by shots, from the published logs

Annotations: TypeAlias = dict[str, dict[str, list[Shape]]]
"""category → photo → its annotations; the order of both counts."""


class Lvis(Dataset):
    """A category is the number of an LVIS class, such as "12"; its mask joins all its objects in a photo.

    Each class needs more photos than shots, so with more shots there are fewer classes. Those left after the folds are
    evenly filled belong to none, as in the published benchmark.
    """

    name = "lvis"
    title = "LVIS-92i"
    folds = 10
    source = (
        "lvis.zip, named in datasets/README.md of github.com/aim-uofa/Matcher (or lvis_v1_val.json from "
        "lvisdataset.org), beside train2017.zip and val2017.zip of cocodataset.org in coco/"
    )

    def classes(self, fold: int, shots: int) -> list[str]:
        """Every tenth of those with enough photos."""
        require_fold(self, fold)
        enough = [category for category, photos in self._annotations.items() if len(photos) > shots]
        return enough[fold : len(enough) // self.folds * self.folds : self.folds]

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """2300 of a fold, the classes in turn. With "default" the shots of an episode differ."""
        classes = self.classes(fold, shots)
        if not classes:
            raise DatasetError(
                f"{self._file} has fewer than {self.folds} classes with more than {shots} photo(s), which do not make "
                f"{self.folds} folds: fetch it anew. {self.source}"
            )
        draws = RandomChoices(seed, without_repeats=sampling == "default")
        episodes = []
        for number in range(EPISODES):
            class_id = number % len(classes)
            photos = list(self._annotations[classes[class_id]])
            query = draws.one(photos)
            supports = tuple(Item(photo) for photo in draws.supports(photos, query, shots))
            episodes.append(Episode(numbered(fold, number), fold, class_id, classes[class_id], Item(query), supports))
        return episodes

    def photo(self, item: Item, category: str) -> Photo:
        """The whole photo, and all objects of the class in it."""
        shapes = self._annotations.get(category, {}).get(item.image)
        if shapes is None:
            raise DatasetError(
                f"{self._file} has no class {category} in {item.image}: the episodes were drawn from other annotations"
            )
        image = self.read_image(item.image)
        return Photo(image, union(shapes, image, str(self.root / item.image)))

    def check(self) -> Inventory:
        """The annotations, and every photo that an episode may have."""
        try:
            folds = {fold: self.classes(fold, 1) for fold in range(self.folds)}
        except DatasetError as error:
            return Inventory(missing=[str(error)])
        drawn = [photo for classes in folds.values() for category in classes for photo in self._annotations[category]]
        listed = sum(len(photos) > 0 for photos in self._annotations.values())
        found, missing = count_photos(self.root, drawn)
        if not drawn:
            missing.append(f"{self._file}: not even {self.folds} classes with two photos. {self.source}")
        return Inventory(
            found=[f"{self._file}: {listed} classes", *found],
            missing=missing,
            notes=self._oddities(),
            classes={fold: len(classes) for fold, classes in folds.items()},
            episodes={fold: EPISODES if classes else 0 for fold, classes in folds.items()},
        )

    def _oddities(self) -> list[str]:
        notes = []
        if self._file == self._released:
            notes.append(
                f"read from {self._released.name}, LVIS's own release, as {self._published.name} is not there: photos "
                "of a class by id (the order of the pickle is not known), nothing left out (whether the pickle leaves "
                "small objects out is not known). The episodes are not those of the paper"
            )
        elif self._released.is_file():
            notes.append(f"{self._released.name} is not read, as {self._published.name} is there")
        for shots, published in PUBLISHED_CLASSES.items():
            classes = len(self.classes(0, shots))
            if classes != published:
                notes.append(f"{classes} classes a fold for {shots} shot(s); the paper's benchmark has {published}")
        return notes

    @property
    def _published(self) -> Path:
        return self.root / "lvis_val.pkl"

    @property
    def _released(self) -> Path:
        return self.root / "lvis_v1_val.json"

    @cached_property
    def _file(self) -> Path:
        for file in (self._published, self._released):
            if file.is_file():
                return file
        raise DatasetError(f"{self._published} is missing, and {self._released.name} too. {self.source}")

    @cached_property
    def _annotations(self) -> Annotations:
        with laid_out(self._file, self.source):
            return _of_pickle(self._file) if self._file == self._published else _of_release(self._file)


def _of_pickle(file: Path) -> Annotations:
    return {
        str(category): {
            coco_path(photo): [annotation["segmentation"] for annotation in entry["annotations"]]
            for photo, entry in photos.items()
        }
        for category, photos in load_pickle(file).items()
    }


def _of_release(file: Path) -> Annotations:
    content = read_json(file)
    photos = {image["id"]: coco_path(image["coco_url"]) for image in content["images"]}
    annotations: Annotations = {str(number): {} for number in sorted(entry["id"] for entry in content["categories"])}
    for annotation in sorted(content["annotations"], key=lambda annotation: (annotation["image_id"], annotation["id"])):
        of_class = annotations[str(annotation["category_id"])]
        of_class.setdefault(photos[annotation["image_id"]], []).append(annotation["segmentation"])
    return annotations
