"""The benchmarks, and a user's own data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prmagic.datasets.base import Dataset, DatasetError, Episode, Inventory, Item, Photo, RandomChoices
from prmagic.datasets.coco import Coco
from prmagic.datasets.dis5k import Dis5k
from prmagic.datasets.fss import Fss
from prmagic.datasets.lvis import Lvis
from prmagic.datasets.own import Own
from prmagic.datasets.paco import Paco
from prmagic.datasets.pascal import Pascal
from prmagic.datasets.pascal_part import PascalPart
from prmagic.datasets.perseg import PerSeg
from prmagic.names import lookup

DATASETS: dict[str, type[Dataset]] = {
    kind.name: kind for kind in (Fss, Coco, Lvis, Paco, PascalPart, Dis5k, Pascal, PerSeg, Own)
}


def open_dataset(name: str, root: str | Path, **options: Any) -> Dataset:
    """The benchmark of that name in the folder `root`; options are the data set's own (`own` has split and classes).

    Raises ValueError for a name that is not known, DatasetError for a folder that is not there."""
    return lookup("benchmark", name, DATASETS)(root, **options)


__all__ = [
    "DATASETS",
    "Dataset",
    "DatasetError",
    "Episode",
    "Inventory",
    "Item",
    "Photo",
    "RandomChoices",
    "open_dataset",
]  # fmt: skip
