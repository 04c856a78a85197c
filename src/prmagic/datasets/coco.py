"""COCO-20i, the 80 classes of COCO 2014 in four folds of 20, and what PASCAL-5i shares with it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import cache
from pathlib import Path, PurePosixPath

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
from prmagic.datasets.files import absent_files, gaps, unlike_published
from prmagic.datasets.pickles import load_pickle
from prmagic.names import hint

EPISODES = 1000  # of each fold

CLASSES = """
person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag,
tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard,
tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot,
hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv, laptop, mouse, remote, keyboard,
cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase, scissors, teddy bear, hair drier,
toothbrush
"""


class LabelMaps(Dataset):
    """Four folds, each with a list of photos and their class; masks are label maps.

    Attributes:
        categories: Of all folds, by class number; a class's label is its number plus 1.
        boundary: A label that is not scored; None for none.
        split: Where the lists are.
        entries: How many each published list has.
    """

    folds = 4
    categories: Sequence[str]
    boundary: int | None = None
    split: str
    entries: Sequence[int]

    def __init__(self, root: str | Path):
        super().__init__(root)
        self.pairs = cache(self.read_pairs)

    @abstractmethod
    def class_ids(self, fold: int) -> range:
        """The class numbers of a fold."""

    @abstractmethod
    def read_pairs(self, fold: int) -> list[tuple[str, int]]:
        """Each entry of a fold's list, in its order: the photo below the folder, and the class number."""

    @abstractmethod
    def label_map(self, photo: str) -> str:
        """Where a photo's label map lies below the folder."""

    def classes(self, fold: int, shots: int) -> list[str]:
        """In the order of their numbers; the same for any number of shots."""
        require_fold(self, fold)
        return [self.categories[class_id] for class_id in self.class_ids(fold)]

    def photos(self, fold: int) -> dict[int, list[str]]:
        """The photos of each class, in the order of the list."""
        photos: dict[int, list[str]] = {}
        for photo, class_id in self.pairs(fold):
            photos.setdefault(class_id, []).append(photo)
        return photos

    def episode(self, fold: int, number: int, class_id: int, query: str, supports: Sequence[str]) -> Episode:
        """The fold's episode of that number, from 0."""
        category = self.categories[class_id]
        return Episode(numbered(fold, number), fold, class_id, category, Item(query), tuple(map(Item, supports)))

    def photo(self, item: Item, category: str) -> Photo:
        """The mask may be empty: a pixel has one label, and objects of other classes may cover all of one."""
        if category not in self.categories:
            raise DatasetError(f"{self.title} has no class {category!r}: {hint(category, self.categories)}")
        file = self.label_map(item.image)
        image, labels = self.read_image(item.image), self.read_labels(file)
        if image.shape[:2] != labels.shape:
            raise DatasetError(
                f"{self.root / item.image} has {image.shape[:2]} rows and columns, but its label map "
                f"{self.root / file} {labels.shape}: they do not belong together, fetch both anew. {self.source}"
            )
        ignore = None if self.boundary is None else labels == self.boundary
        return Photo(image, labels == self.categories.index(category) + 1, ignore)

    def check(self) -> Inventory:
        """Look for the lists of the folds, and for the photos and label maps of those that are there."""
        splits = [self.split.format(fold) for fold in range(self.folds)]
        no_splits = absent_files(self.root, splits)
        missing, notes = gaps(self.root, no_splits), []
        pairs: dict[int, list[tuple[str, int]]] = {}
        for fold, split in enumerate(splits):
            if split in no_splits:
                continue
            try:
                pairs[fold] = self.pairs(fold)
                notes += unlike_published(split, len(pairs[fold]), self.entries[fold], "photos")
            except DatasetError as error:
                missing.append(str(error))
        photos = sorted({photo for listed in pairs.values() for photo, _ in listed})
        no_photos, no_maps = absent_files(self.root, photos), absent_files(self.root, map(self.label_map, photos))
        return Inventory(
            found=[
                f"{len(pairs)} of {self.folds} lists of photos",
                f"{len(photos) - len(no_photos)} of the {len(photos)} photos that they name",
                f"{len(photos) - len(no_maps)} of their {len(photos)} label maps",
            ],
            missing=missing + gaps(self.root, no_photos + no_maps),
            notes=notes,
            classes={fold: len(self.class_ids(fold)) for fold in pairs},
            episodes=dict.fromkeys(pairs, EPISODES),
        )


class Coco(LabelMaps):
    """A thousand episodes a fold: a class, a query of it and supports, all drawn."""

    name = "coco"
    title = "COCO-20i"
    categories = CLASSES.replace("\n", " ").strip().split(", ")
    split = "splits/val/fold{}.pkl"
    entries = (35783, 17912, 14563, 14315)
    source = (
        "It needs val2014/, the photos of COCO 2014, annotations/val2014/, the label maps that datasets/README.md of "
        "github.com/aim-uofa/Matcher links to, and splits/val/fold0.pkl … fold3.pkl, from datasets/COCO2014 there."
    )

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """A thousand; no class is more likely than another. With "default" the supports of an episode differ."""
        require_fold(self, fold)
        photos = self.photos(fold)
        draws = RandomChoices(seed, without_repeats=sampling == "default")
        episodes = []
        for number in range(EPISODES):
            class_id = draws.one(self.class_ids(fold))
            query = draws.one(photos[class_id])
            supports = draws.supports(photos[class_id], query, shots)
            episodes.append(self.episode(fold, number, class_id, query, supports))
        return episodes

    def class_ids(self, fold: int) -> range:
        """Every fourth."""
        return range(fold, len(self.categories), self.folds)

    def read_pairs(self, fold: int) -> list[tuple[str, int]]:
        """From a pickle {class number: [photo, …]} in which each class of the fold has photos."""
        file = self.root / self.split.format(fold)
        lists = load_pickle(file)
        pairs = []
        for class_id in self.class_ids(fold):
            photos = lists.get(class_id) if isinstance(lists, dict) else None
            if not (isinstance(photos, list) and photos and all(str(photo).endswith(".jpg") for photo in photos)):
                raise DatasetError(
                    f"{file} lists no photos of class {class_id}, {self.categories[class_id]}, so it is not the list "
                    f"of fold {fold}: fetch it anew. {self.source}"
                )
            pairs += [(photo, class_id) for photo in photos]
        return pairs

    def label_map(self, photo: str) -> str:
        """annotations/val2014/….png for val2014/….jpg."""
        return str("annotations" / PurePosixPath(photo).with_suffix(".png"))
