"""The published draws, written down once more, and pictures of a few pixels."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from prmagic.datasets.base import Dataset


def choice(generator, sequence):
    """A draw as published."""
    return generator.choice(sequence, 1, replace=False)[0]


def reject_equal(generator, sequence, query, shots):
    """Supports as published: they may repeat, but are not the query."""
    supports = []
    while len(supports) < shots:
        drawn = choice(generator, sequence)
        if drawn != query:
            supports.append(drawn)
    return supports


def drawn(episodes):
    return [(e.class_id, e.query.image, [support.image for support in e.supports]) for e in episodes]


def numbers(episodes):
    """COCO's image numbers, FSS's numbers in a class."""

    def number(item):
        return int(item.image.rpartition(".")[0].replace("/", "_").rpartition("_")[2])

    return [(e.class_id, number(e.query), [number(support) for support in e.supports]) for e in episodes]


def picture(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(file)


def empty(file):
    """A file that no decoder would take."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def real(make: type[Dataset], variable: str) -> Dataset:
    if variable not in os.environ:
        pytest.skip(f"needs the published lists of {make.title}: let {variable} name the folder with them")
    return make(os.environ[variable])
