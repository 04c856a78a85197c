"""PASCAL-5i: the 20 classes of PASCAL VOC 2012 in four folds of five; see docs/benchmarks/pascal.md."""

from __future__ import annotations

from pathlib import PurePosixPath

from prmagic.datasets.base import DatasetError, Episode, RandomChoices, Sampling, require_fold
from prmagic.datasets.coco import EPISODES, LabelMaps

CLASSES = """
aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, motorbike, person,
pottedplant, sheep, sofa, train, tvmonitor
"""


class Pascal(LabelMaps):
    """A thousand episodes a fold: the queries in the order of its list, again and again, with drawn supports.

    The boundary of objects belongs to none, and is not scored.
    """

    name = "pascal"
    title = "PASCAL-5i"
    categories = CLASSES.replace("\n", " ").strip().split(", ")
    boundary = 255
    split = "splits/val/fold{}.txt"
    entries = (346, 451, 725, 346)
    source = (
        "It needs JPEGImages/ of VOCtrainval_11-May-2012.tar, SegmentationClassAug/, which datasets/README.md of "
        "github.com/ANDYZAQ/GF-SAM links to, and splits/val/fold0.txt … fold3.txt, from matcher/data/splits/pascal of "
        "the same repository."
    )

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """A thousand, the same queries for any seed. With "default" the supports of an episode differ."""
        require_fold(self, fold)
        pairs, photos = self.pairs(fold), self.photos(fold)
        draws = RandomChoices(seed, without_repeats=sampling == "default")
        episodes = []
        for number in range(EPISODES):
            query, class_id = pairs[number % len(pairs)]
            supports = draws.supports(photos[class_id], query, shots)
            episodes.append(self.episode(fold, number, class_id, query, supports))
        return episodes

    def class_ids(self, fold: int) -> range:
        """Five in a row."""
        return range(5 * fold, 5 * fold + 5)

    def read_pairs(self, fold: int) -> list[tuple[str, int]]:
        """From lines such as 2007_000033__01: a photo's name and its class, counted from 1."""
        file, class_ids = self.split.format(fold), self.class_ids(fold)
        pairs = []
        for line in self.read_text(file).split():
            photo, _, number = line.rpartition("__")
            if not (photo and number.isdecimal() and int(number) - 1 in class_ids):
                raise DatasetError(
                    f"{self.root / file} has the line {line!r}, where fold {fold} has a photo and one of the classes "
                    f"{class_ids[0] + 1} to {class_ids[-1] + 1}, such as 2007_000033__{class_ids[0] + 1:02d}: fetch it "
                    f"anew. {self.source}"
                )
            pairs.append((f"JPEGImages/{photo}.jpg", int(number) - 1))
        if not pairs:
            raise DatasetError(f"{self.root / file} is empty: fetch it anew. {self.source}")
        return pairs

    def label_map(self, photo: str) -> str:
        """SegmentationClassAug/….png for JPEGImages/….jpg."""
        return f"SegmentationClassAug/{PurePosixPath(photo).stem}.png"
