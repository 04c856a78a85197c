"""The numbers of a run, from its records.

B is the framework's own result (candidate 0), T the chosen candidate, O the best one of each episode by its
episode-mIoU, the earlier of equals. A metric is computed by fold and seed, averaged over the folds and then over the
seeds; an episode that failed counts as an empty mask. Everything is in percent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from prmagic.evaluation.records import Integers, Records, read_run
from prmagic.evaluation.reselect import reselect
from prmagic.metrics import (
    Areas,
    Clusters,
    Values,
    class_miou,
    empty_areas,
    episode_miou,
    foreground_background_iou,
    foreground_iou,
    full_areas,
)
from prmagic.types import BoolArray

EPISODE_MIOU, CLASS_MIOU = "episode-mIoU", "class-mIoU"
METRICS = (EPISODE_MIOU, CLASS_MIOU, "FB-IoU", "episode foreground IoU")
LINES = ("B", "T", "O")
FLOORS = ("empty mask", "full mask")
LIMITED, UNFINISHED = "†", "‡"
POINT = 1.0  # of episode-mIoU: an episode that loses more is clearly worse


@dataclass(frozen=True)
class Value:
    """A metric in percent.

    Attributes:
        mean: Over folds and seeds.
        over_folds: Sample standard deviation over the folds, each averaged over the seeds; nan for one fold.
        over_seeds: The same over the seeds.
    """

    mean: float
    over_folds: float
    over_seeds: float


@dataclass(frozen=True)
class Estimate:
    """A mean over all episodes and its 95 % interval; see `Clusters`."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Summary:
    """One run in numbers.

    Attributes:
        name: The run's folder, as the user wrote it.
        records: What it is computed from.
        selector: What chose T.
        chosen: T's index (n,).
        values: By metric and quantity, which are B, T, O, "t = 0" …, and the floors "empty mask" and "full mask".
        without_failed: B, T, O as episode-mIoU of the episodes that did not fail, which is what the published code
            averages; empty unless preset `paper` was run.
    """

    name: str
    records: Records
    selector: str
    chosen: Integers
    values: Mapping[str, Mapping[str, Value]]
    without_failed: Mapping[str, float]

    @cached_property
    def episodes(self) -> Values:
        """Each candidate's episode-mIoU, in percent (n, C)."""
        return 100 * episode_miou(self.records.areas)

    @cached_property
    def gains(self) -> Values:
        """T − B of each row (n,), in points of episode-mIoU."""
        gains: Values = _of(self.episodes, self.chosen) - self.episodes[:, 0]
        return gains

    @cached_property
    def clusters(self) -> Clusters:
        """Which rows belong together: classes, and inside a class those of one query."""
        return Clusters(self.records.classes.tolist(), self.records.queries.tolist())

    @cached_property
    def gain(self) -> Estimate:
        """T − B in points of episode-mIoU, the mean of all rows."""
        return self._estimate(self.gains)

    def worse(self, points: float = 0) -> Estimate:
        """The percentage of rows that T makes worse by more than so many points of episode-mIoU."""
        return self._estimate(np.where(self.gains < -points, 100.0, 0.0))

    def _estimate(self, values: Values) -> Estimate:
        return Estimate(float(values.mean()), *self.clusters.mean_interval(values))

    @property
    def gap_closed(self) -> float:
        """(T − B) / (O − B) of the episode-mIoU in percent; nan where the oracle gains nothing."""
        b, t, o = (self.values[EPISODE_MIOU][line].mean for line in LINES)
        return 100 * (t - b) / (o - b) if o > b else math.nan

    @property
    def mark(self) -> str:
        """A mark for numbers that are not those of the whole benchmark."""
        return LIMITED * (self.records.about.limit is not None) + UNFINISHED * (not self.records.complete)

    @property
    def tallies(self) -> dict[str, int]:
        """How many episodes, counted once per seed: found, missing, failed, and those with something empty."""
        records, fine = self.records, ~self.records.failed
        return {
            "expected": sum(records.about.episodes.values()),
            "found": len(records),
            "missing": sum(records.missing.values()),
            "distinct": int(records.distinct.max()) + 1,
            "failed": len(records.failures),
            "empty ground truth": int(((records.objects == 0) & (records.pixels > 0)).sum()),
            "empty support": int(records.empty_supports.sum()),
            "empty prediction, B": int((fine & (records.predicted[:, 0] == 0)).sum()),
            "empty prediction, T": int((fine & (_of(records.predicted, self.chosen) == 0)).sum()),
        }


def summarise(records: Records, selector: str | None = None) -> Summary:
    """Compute all numbers of a run.

    Args:
        records: Of the run.
        selector: Chooses T anew, see `reselect`; None for the run's own choice.

    Raises:
        ValueError: For a selector that is not known.
    """
    chosen = records.chosen if selector is None else reselect(records, selector)
    found = {
        "B": records.areas[:, 0],
        "T": _of(records.areas, chosen),
        "O": _of(records.areas, reselect(records, "oracle")),
        **{f"t = {step}": records.areas[:, step] for step in range(records.steps)},
        "empty mask": empty_areas(records.pixels, records.objects),
        "full mask": full_areas(records.pixels, records.objects),
    }
    everything = np.ones(len(records), np.bool_)
    measured = {quantity: _measure(records, areas, everything) for quantity, areas in found.items()}
    without_failed: dict[str, float] = {}
    if records.about.preset.startswith("paper") and not records.failed.all():
        fine = ~records.failed
        without_failed = {line: _measure(records, found[line], fine)[EPISODE_MIOU].mean for line in LINES}
    return Summary(
        name=str(records.folder),
        records=records,
        selector=records.about.selector if selector is None else selector,
        chosen=chosen,
        values={metric: {quantity: values[metric] for quantity, values in measured.items()} for metric in METRICS},
        without_failed=without_failed,
    )


def summaries(folders: Sequence[Path], selector: str | None = None) -> list[Summary]:
    """Summarise run folders; ValueError if one cannot be read, or is named twice."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is named twice: name each folder once")
    return [summarise(read_run(folder), selector) for folder in folders]


def _measure(records: Records, areas: Areas, kept: BoolArray) -> dict[str, Value]:
    """Every metric of masks with these areas (n, 4), of the rows that are kept (n,)."""
    about = records.about
    seeds, folds = np.unique(records.seeds[kept]), np.unique(records.folds[kept])
    cells = np.full((len(METRICS), len(seeds), len(folds)), np.nan)
    whole = about.limit is None and records.complete  # else a class may have had no chance to be drawn
    for i, seed in enumerate(seeds):
        for j, fold in enumerate(folds):
            rows = kept & (records.seeds == seed) & (records.folds == fold)
            if rows.any():
                found = areas[rows]
                cells[:, i, j] = (
                    episode_miou(found).mean(),
                    class_miou(found, records.classes[rows], about.classes.get(int(fold)) if whole else None),
                    foreground_background_iou(found),
                    foreground_iou(found).mean(),
                )
    cells *= 100
    by_seed, by_fold = np.nanmean(cells, 2), np.nanmean(cells, 1)
    return {
        metric: Value(float(by_seed[m].mean()), _deviation(by_fold[m]), _deviation(by_seed[m]))
        for m, metric in enumerate(METRICS)
    }


def _deviation(values: Values) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _of(candidates: Any, chosen: Integers) -> Any:
    """The chosen entry of each row: (n, C, …) and (n,) → (n, …)."""
    return candidates[np.arange(len(chosen)), chosen]
