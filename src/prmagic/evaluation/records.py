"""A run's folder as arrays: everything a report needs, without the data set and without the models.

run.json says what was run, episodes.jsonl has a line per episode and seed, and masks.jsonl, which may be absent, the
masks of each.
"""

from __future__ import annotations

import json
import math
from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmagic.datasets.base import Item
from prmagic.io.records import RUN
from prmagic.io.shapes import decode
from prmagic.metrics import Areas, Values, empty_areas
from prmagic.names import why
from prmagic.types import BoolArray

EPISODES, MASKS = "episodes.jsonl", "masks.jsonl"

Integers = NDArray[np.int64]
Key = tuple[int, str]  # seed and id: one line of episodes.jsonl


@dataclass(frozen=True)
class About:
    """What was run, from run.json; docs/benchmarks/README.md describes that file.

    Attributes:
        size: Side in pixels to which photos were squashed; None for their own size.
        limit: Most episodes of a fold; None for all.
        manifests: SHA-256 of the episodes, by seed.
        episodes: How many there are to be, by seed.
        classes: How many there are, by fold.
    """

    benchmark: str
    title: str
    settings: Mapping[str, Any]
    model: str
    shots: int
    size: int | None
    seeds: tuple[int, ...]
    folds: tuple[int, ...]
    sampling: str
    limit: int | None
    manifests: Mapping[int, str]
    episodes: Mapping[int, int]
    classes: Mapping[int, int]
    selector_name: str
    data: str
    dataset_options: Mapping[str, Any]

    @property
    def framework(self) -> str:
        """Its name, such as "persam-f"."""
        return str(self.settings["framework"])

    @property
    def preset(self) -> str:
        """Its name, such as "paper"."""
        return str(self.settings["preset"])

    @property
    def selector(self) -> str:
        """What chose T during the run."""
        return self.selector_name


@dataclass(frozen=True, eq=False)
class Records:
    """A run's n episodes (each once per seed), sorted by seed, fold and id, with C candidates each.

    The first `steps` candidates are those of the steps t = 0 … T, and the rest the masks beside them. An episode with
    fewer steps repeats its last one; what it lacks of the rest is empty.

    Attributes:
        seeds: (n,); so are folds and chosen, the candidate that the run chose.
        class_names: Sorted.
        classes: Positions in class_names (n,).
        areas: (n, C, 4), see `prmagic.metrics`; of an episode that failed those of an empty mask.
        steps: T + 1.
        places: Which mask of its line each candidate is (n, C); −1 for one that is not there, or repeated.
        pixels: How many are scored (n,); 0 where an episode failed before that was known.
        objects: How many of them are the object's (n,).
        scores: By selector (n, C); -inf where there is none.
        predicted_iou: SAM's own estimate (n, C); nan where there is none.
        empty_supports: Whether a support's mask is empty (n,).
        failures: Why, by row.
        distinct: Equal for rows with the same class, query and supports, which several seeds may have in common (n,).
        queries: Equal for rows with the same query photo and object (n,).
        seconds: By stage, the mean over the episodes that did not fail; so are counts.
        offsets: Where each line of episodes.jsonl begins (n,).
    """

    folder: Path
    about: About
    seeds: Integers
    folds: Integers
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    classes: Integers
    areas: Areas
    steps: int
    places: Integers
    pixels: Integers
    objects: Integers
    chosen: Integers
    scores: Mapping[str, Values]
    predicted_iou: Values
    empty_supports: BoolArray
    failures: Mapping[int, str]
    distinct: Integers
    queries: Integers
    seconds: Mapping[str, float]
    counts: Mapping[str, float]
    offsets: Integers

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def failed(self) -> BoolArray:
        """(n,)."""
        failed = np.zeros(len(self), np.bool_)
        failed[list(self.failures)] = True
        return failed

    @cached_property
    def predicted(self) -> Integers:
        """Pixels of each candidate's mask (n, C), of those that are scored."""
        size: Integers = self.pixels[:, None] - self.areas[..., 0] + self.areas[..., 2] - self.objects[:, None]
        return size

    @cached_property
    def classes_run(self) -> dict[int, int]:
        """By fold: how many classes have an episode here, which is fewer than there are in a limited run."""
        pairs = set(zip(self.folds.tolist(), self.classes.tolist(), strict=True))
        return {fold: sum(of == fold for of, _ in pairs) for fold in self.about.classes}

    @cached_property
    def missing(self) -> dict[int, int]:
        """How many episodes are not there yet, by seed."""
        return {seed: count - int((self.seeds == seed).sum()) for seed, count in self.about.episodes.items()}

    @property
    def complete(self) -> bool:
        """Whether the run came to its end."""
        return not any(self.missing.values())

    def line(self, row: int) -> dict[str, Any]:
        """All that episodes.jsonl says of one row."""
        with (self.folder / EPISODES).open("rb") as file:
            file.seek(int(self.offsets[row]))
            entry: dict[str, Any] = json.loads(file.readline())
        return entry


def read_run(folder: Path) -> Records:
    """Read the records of a run, finished or not.

    A line that was cut short is passed over, and of two lines of one seed and episode the first counts.

    Raises:
        ValueError: If the folder has no records, or they are damaged.
    """
    about, path = _read_about(folder), folder / EPISODES
    if not path.is_file():
        raise ValueError(f"{folder} has no {EPISODES}: the run has not finished an episode yet")
    columns = _Columns()
    for number, start, entry in _entries(path):
        try:
            columns.add(start, entry)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            why = f"it has no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{path}, line {number} is no record of an episode of this run: {why}") from error
    if not columns.keys:
        raise ValueError(f"{path} has no whole line: the run has not finished an episode yet")
    return columns.records(folder, about)


def support_items(entry: Mapping[str, Any]) -> list[Item]:
    """The support photos of a line of episodes.jsonl."""
    return [Item(*support) for support in zip(entry["supports"], entry["support_instances"], strict=True)]


def read_masks(folder: Path, wanted: Collection[Key]) -> dict[Key, list[BoolArray]]:
    """Read the masks (H, W) of all candidates of a few episodes.

    Args:
        folder: Of a run.
        wanted: Seed and id of each episode; those that masks.jsonl lacks are left out.

    Raises:
        ValueError: If the run kept no masks, or one of them is damaged.
    """
    path = folder / MASKS
    if not path.is_file():
        raise ValueError(f"the run kept no masks ({path} is missing)")
    spelt = [json.dumps(id, ensure_ascii=False).encode() for _, id in wanted]
    found: dict[Key, list[BoolArray]] = {}
    with path.open("rb") as file:
        for line in file:
            if not any(id in line for id in spelt):  # masks are long, and few of them wanted: most need no parsing
                continue
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            key = (entry["seed"], entry["episode"])
            if key in wanted and key not in found:
                distinct = [decode(rle) for rle in entry["masks"]]
                found[key] = [distinct[index] for index in entry["candidates"]]
    return found


def _read_about(folder: Path) -> About:
    path = folder / RUN
    if not path.is_file():
        raise ValueError(f"{folder} has no {RUN}: name a folder that `prmagic evaluate --out` wrote")
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        about = About(
            benchmark=run["benchmark"],
            title=run["title"],
            settings=run["settings"],
            model=run["model"],
            shots=run["shots"],
            size=run["size"],
            seeds=tuple(run["seeds"]),
            folds=tuple(run["folds"]),
            sampling=run["sampling"],
            limit=run["limit"],
            manifests=_by_number(run["manifests"]),
            episodes=_by_number(run["episodes"]),
            classes=_by_number(run["classes"]),
            selector_name=run.get("selector_name", run["settings"]["selector"]),
            data=run["data"],
            dataset_options=run["dataset_options"],
        )
        _ = about.framework, about.preset, about.selector
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} was not written by `prmagic evaluate`, or it is damaged ({why(error)})") from error
    return about


def _by_number(fields: Mapping[str, Any]) -> dict[int, Any]:
    """JSON's keys are strings."""
    return {int(key): value for key, value in fields.items()}


def _entries(path: Path) -> Iterator[tuple[int, int, Any]]:
    """The number of each whole line, where it begins, and what it says."""
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.endswith(b"\n"):
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):  # a crash cut it short, and the run went on behind it
                    pass
                else:
                    yield number, start, entry
            start += len(line)


class _Columns:
    """Collects lines in arrays: as dictionaries, 100 000 episodes would take gigabytes."""

    def __init__(self) -> None:
        self.keys: dict[Key, int] = {}  # and the row
        self.folds, self.classes, self.distinct, self.queries, self.offsets = (array("q") for _ in range(5))
        self.pixels, self.objects, self.empty_supports = (array("q") for _ in range(3))
        self.class_names: dict[str, int] = {}
        self.episodes: dict[tuple[Any, ...], int] = {}
        self.query_photos: dict[tuple[Any, ...], int] = {}
        self.failures: dict[int, str] = {}
        # Of episodes that did not fail alone:
        self.rows, self.areas, self.chosen, self.predicted_iou = array("q"), array("q"), array("q"), array("d")
        self.scores: dict[str, array[float]] = {}
        self.own, self.others = array("q"), array("q")  # candidates of the steps, and the rest
        self.seconds: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()

    def add(self, start: int, entry: Mapping[str, Any]) -> None:
        """One line, unless its episode is there already."""
        key, row = (entry["seed"], entry["episode"]), len(self.keys)
        if key in self.keys:
            return
        if not isinstance(entry["class"], str):
            raise ValueError(f"its class is {entry['class']!r}")
        if entry.get("failed") is not None:
            self.failures[row] = str(entry["failed"])
        else:
            self._add_candidates(row, entry)
        self.keys[key] = row
        self.offsets.append(start)
        self.folds.append(entry["fold"])
        self.classes.append(self.class_names.setdefault(entry["class"], len(self.class_names)))
        # An episode may fail before its photos could be read.
        self.pixels.append(entry.get("pixels") or 0)
        self.objects.append(entry.get("object") or 0)
        self.empty_supports.append(0 in (entry.get("support_pixels") or ()))
        query = (entry["query"], entry["query_instance"])
        self.queries.append(self.query_photos.setdefault(query, len(self.query_photos)))
        episode = (entry["fold"], entry["class"], *query, *support_items(entry))
        self.distinct.append(self.episodes.setdefault(episode, len(self.episodes)))

    def _add_candidates(self, row: int, entry: Mapping[str, Any]) -> None:
        areas, scores, predicted = entry["areas"], entry["scores"], entry["predicted_iou"]
        others = entry.get("others", 0)
        self.scores = self.scores or {name: array("d") for name in scores}
        lengths = {len(areas), len(predicted), *map(len, scores.values())}
        if lengths != {len(areas)} or {*map(len, areas)} != {4} or not 0 <= entry["chosen"] < len(areas):
            raise ValueError(f"it has {len(areas)} candidates, but not a score and a predicted IoU for each")
        if isinstance(others, bool) or not isinstance(others, int) or not 0 <= others < len(areas):
            raise ValueError(f"its others are {others!r}")
        if scores.keys() != self.scores.keys():
            raise ValueError(f"other lines have the scores {', '.join(self.scores)}")
        self.rows.append(row)
        self.own.append(len(areas) - others)
        self.others.append(others)
        self.chosen.append(entry["chosen"])
        for found in areas:
            self.areas.extend(found)
        self.predicted_iou.extend(math.nan if value is None else value for value in predicted)
        for name, values in scores.items():
            self.scores[name].extend(-math.inf if value is None else value for value in values)
        self.seconds.update(entry["seconds"])
        self.counts.update(entry["counts"])

    def records(self, folder: Path, about: About) -> Records:
        """All that was added, in an order that does not depend on the lines'.

        Workers finish in any order; the same records must give the same report to the last digit."""
        seeds, ids = np.array([seed for seed, _ in self.keys], np.int64), [id for _, id in self.keys]
        order = np.array(sorted(range(len(ids)), key=lambda row: (seeds[row], self.folds[row], ids[row])))
        place = np.argsort(order)
        done, own, others = (np.array(column, np.int64) for column in (self.rows, self.own, self.others))
        pixels, objects = np.array(self.pixels), np.array(self.objects)
        steps, most = max([1, *self.own]), max([0, *self.others])
        # Where each candidate is in its line, −1 for none; and the same with the last step repeated.
        column, beside = np.arange(steps), np.arange(most)
        rest = np.where(beside < others[:, None], own[:, None] + beside, -1)
        line = np.concatenate([np.where(column < own[:, None], column, -1), rest], 1)
        repeated = np.concatenate([np.minimum(column, own[:, None] - 1), rest], 1)
        first = np.cumsum(own + others) - own - others
        places = np.full((len(ids), steps + most), -1)
        places[done] = line
        areas = np.repeat(empty_areas(pixels, objects)[:, None], steps + most, 1)
        flat = np.array(self.areas, np.int64).reshape(-1, 4)
        areas[done] = np.where((repeated >= 0)[..., None], flat[first[:, None] + repeated], areas[done])
        chosen, picked = np.zeros(len(ids), np.int64), np.array(self.chosen, np.int64)
        chosen[done] = np.where(picked < own, picked, steps + picked - own)
        class_names = sorted(self.class_names)
        class_places = np.argsort([self.class_names[name] for name in class_names])
        renumbered: dict[int, int] = {}

        def spread(column: array[float], elsewhere: float) -> Values:
            values = np.full((len(ids), steps + most), elsewhere)
            values[place[done]] = np.where(line >= 0, np.array(column)[first[:, None] + line], elsewhere)
            return values

        return Records(
            folder=folder,
            about=about,
            seeds=seeds[order],
            folds=np.array(self.folds)[order],
            ids=tuple(ids[row] for row in order),
            class_names=tuple(class_names),
            classes=class_places[np.array(self.classes)[order]],
            areas=areas[order],
            steps=steps,
            places=places[order],
            pixels=pixels[order],
            objects=objects[order],
            chosen=chosen[order],
            scores={name: spread(column, -math.inf) for name, column in self.scores.items()},
            predicted_iou=spread(self.predicted_iou, math.nan),
            empty_supports=np.array(self.empty_supports)[order].astype(np.bool_),
            failures={int(place[row]): why for row, why in sorted(self.failures.items(), key=lambda f: place[f[0]])},
            distinct=np.array([renumbered.setdefault(self.distinct[row], len(renumbered)) for row in order]),
            seconds={stage: spent / len(done) for stage, spent in self.seconds.items()},
            counts={what: count / len(done) for what, count in self.counts.items()},
            queries=np.array(self.queries)[order],
            offsets=np.array(self.offsets)[order],
        )
