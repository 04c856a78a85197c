"""Which constants of the selector `judge` suit some labelled photos and models, and what they gain on other classes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from prmagic import Segmenter
from prmagic.datasets.base import Dataset, Episode
from prmagic.evaluation.tables import Block, Table
from prmagic.metrics import areas, episode_miou
from prmagic.reference import Example
from prmagic.refine import refine
from prmagic.select import Judge, best, judged

JUDGES = [Judge(quality, first) for quality, first in product((0.0, 0.3, 0.5, 0.7, 1.0, 1.4), (0.0, 0.3, 0.6))]


@dataclass(frozen=True)
class Tried:
    """An episode's class, the episode-mIoU of the framework alone, and that of each judge's choice, in percent."""

    category: str
    alone: float
    chosen: NDArray[np.float64]


def try_judges(dataset: Dataset, segmenter: Segmenter, episodes: Sequence[Episode], seed: int) -> Iterator[Tried]:
    """Every judge on the candidates of every episode; a photo is encoded and decoded once for all."""
    framework = segmenter.framework
    segmenter.seed = seed
    for episode in episodes:
        photo, supports = dataset.load(episode)
        reference = segmenter.encode_examples([Example(support.image, support.mask) for support in supports])
        query = segmenter.encode([photo.image])[0].query
        (path,) = refine(framework, query, [reference], segmenter.flow, [segmenter.draws(episode.id)])
        found = []
        for judge in JUDGES:
            candidates, scores = judged(judge, framework, query, reference, path)
            found.append(areas(candidates[best(scores)].mask, photo.mask, photo.ignore))
        alone = areas(path[0].mask, photo.mask, photo.ignore)
        every = 100 * episode_miou(np.array([alone, *found]))
        yield Tried(episode.category, float(every[0]), every[1:])


def table(tried: Sequence[Tried]) -> list[Block]:
    """The gain of each judge, and that of choosing one on all other classes."""
    gains = np.array([each.chosen - each.alone for each in tried])
    classes = np.array([each.category for each in tried])
    order = np.argsort(-gains.mean(0), kind="stable")
    rows = [
        [f"{JUDGES[at].quality:g}", f"{JUDGES[at].first:g}", f"{gains[:, at].mean():+.2f}",
         f"{100 * (gains[:, at] < -1).mean():.0f} %"]
        for at in order
    ]  # fmt: skip
    elsewhere = []
    for category in np.unique(classes):
        others = classes != category
        if others.any():
            elsewhere += gains[~others, int(gains[others].mean(0).argmax())].tolist()
    blocks: list[Block] = [
        Table(["quality", "first", "gain in episode-mIoU", "worse by > 1"], rows, 2),
        "Take the first row as `prmagic.load(selector=Judge(quality=…, first=…))`, with Judge from prmagic.select.",
    ]
    if elsewhere:
        blocks.append(f"Chosen on all classes but one, and judged on that one: {np.mean(elsewhere):+.2f}.")
    return blocks
