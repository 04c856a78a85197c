"""FSS-1000: a thousand classes of ten small photos, of which 240 are the test classes; see docs/benchmarks/fss.md."""

from __future__ import annotations

from functools import cached_property
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

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

SPLIT = "splits/test.txt"
TEST_CLASSES = 240
FIRST_TEST_CLASS = 760  # after 520 classes to train on and 240 to validate on


class Fss(Dataset):
    """Every photo of every test class is a query once; supports are other photos of its class."""

    name = "fss"
    title = "FSS-1000"
    source = (
        "It needs data/<class>/1.jpg … 10.jpg and 1.png … 10.png, the archive that datasets/README.md of "
        f"github.com/aim-uofa/Matcher links to, and {SPLIT}, from datasets/FSS-1000 there."
    )

    @cached_property
    def _names(self) -> list[str]:
        # Stripping admits the published file's CRLF, and keeps the last class if no line end follows it.
        names = sorted(filter(None, map(str.strip, self.read_text(SPLIT).splitlines())))
        if not names:
            raise DatasetError(f"{self.root / SPLIT} names no class: fetch it anew. {self.source}")
        return names

    def classes(self, fold: int, shots: int) -> list[str]:
        """The test classes, sorted; the same for any number of shots."""
        require_fold(self, fold)
        return list(self._names)

    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """Ten episodes a class. They follow from the class names alone, as each class has the photos 1 to 10.

        With "default" the supports of an episode differ.
        """
        require_fold(self, fold)
        draws = RandomChoices(seed, without_repeats=sampling == "default")
        episodes: list[Episode] = []
        for class_id, name in enumerate(self._names, start=FIRST_TEST_CLASS):
            photos = _photos(name)
            for query in sorted(photos):  # as strings: 1, 10, 2, 3, …
                supports = tuple(map(Item, draws.supports(photos, query, shots)))
                episodes.append(Episode(numbered(fold, len(episodes)), fold, class_id, name, Item(query), supports))
        return episodes

    def photo(self, item: Item, category: str) -> Photo:
        """The object is where the mask's grey value is at least 128.

        A few masks of the release are larger than their photo; they are brought to its size by the nearest rule.
        """
        image = self.read_image(item.image)
        grey = Image.fromarray(self.read_image(_mask(item.image))).convert("L")
        mask = np.asarray(grey) >= 128
        height, width = image.shape[:2]
        rows = np.arange(height) * mask.shape[0] // height
        columns = np.arange(width) * mask.shape[1] // width
        return Photo(image, mask[np.ix_(rows, columns)])

    def check(self) -> Inventory:
        """Look for the list of test classes, and for ten photos and ten masks of each."""
        missing = gaps(self.root, absent_files(self.root, [SPLIT]))
        if missing:
            return Inventory(missing=missing)
        try:
            names = self._names
        except DatasetError as error:
            return Inventory(missing=[str(error)])
        photos = [photo for name in names for photo in _photos(name)]
        masks = [_mask(photo) for photo in photos]
        no_photos, no_masks = absent_files(self.root, photos), absent_files(self.root, masks)
        return Inventory(
            found=[
                f"{len(photos) - len(no_photos)} of {len(photos)} photos of {len(names)} test classes",
                f"{len(masks) - len(no_masks)} of {len(masks)} masks",
            ],
            missing=gaps(self.root, no_photos + no_masks),
            notes=unlike_published(SPLIT, len(names), TEST_CLASSES, "classes"),
            classes={0: len(names)},
            episodes={0: len(photos)},
        )


def _photos(name: str) -> list[str]:
    return [f"data/{name}/{number}.jpg" for number in range(1, 11)]


def _mask(photo: str) -> str:
    return str(PurePosixPath(photo).with_suffix(".png"))
