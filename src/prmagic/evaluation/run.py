"""Episodes in, records out: the work of `prmagic evaluate`. What the records say is the business of `report.py`."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from prmagic.ahead import ahead
from prmagic.datasets import open_dataset
from prmagic.datasets.base import Dataset, DatasetError, Episode, Item, Photo, Sampling, manifest_digest, squash
from prmagic.evaluation.metrics import areas
from prmagic.evaluation.records import EPISODES, MASKS
from prmagic.export import rle
from prmagic.frameworks import Example, Matcher, PerSam, Reference
from prmagic.frameworks.base import Framework
from prmagic.resumable import RecordFolder, append_line
from prmagic.segmenter import Encoded, Segmenter, load
from prmagic.select import EXTRAS, SELECTORS, Selector, reads
from prmagic.types import BoolArray, Segmentation

PUBLISHED_SEED = 42
SQUARE = 14  # pixels, of the stand-in for empty supports (benchmarks, §1.3)


@dataclass(frozen=True)
class Job:
    """An episode, and the seed on which all of its random draws depend."""

    seed: int
    episode: Episode

    @property
    def supports(self) -> tuple[Any, ...]:
        """What a reference is made from."""
        return self.seed, self.episode.category, self.episode.supports


@dataclass(frozen=True, eq=False)
class Outcome:
    """record: a line of episodes.jsonl; masks: a line of masks.jsonl, None where there are none."""

    record: dict[str, Any]
    masks: dict[str, Any] | None


@dataclass(frozen=True, eq=False)
class _Loaded:
    """Photos, or sentences on why they cannot be used; supports: None where the job before has the same."""

    job: Job
    query: Photo | str
    supports: tuple[Photo, ...] | str | None
    waited: float = 0.0  # seconds that nothing else was done meanwhile


@dataclass(frozen=True, eq=False)
class _Learnt:
    """A reference, or why there is none; and the areas of its supports' masks in pixels."""

    key: tuple[Any, ...]
    reference: Reference | str
    pixels: list[int]


class Evaluator:
    """A data set and a segmenter: jobs → outcomes, the same ones in any process.

    size: the side in pixels to which photos and masks are squashed, None for their own size. published: empty support
    masks are used as the published code uses them; otherwise they are left out. prefetch: threads that read photos
    ahead; 0 reads each one when its turn has come. batch_size: queries encoded together on a GPU; a CPU takes one.
    all_scores: see `judges`."""

    def __init__(
        self, dataset: Dataset, segmenter: Segmenter, size: int | None = None, published: bool = False,
        keep_masks: bool = True, prefetch: int = 2, batch_size: int = 1, all_scores: bool = False,
    ):  # fmt: skip
        self.dataset, self.segmenter = dataset, segmenter
        self.size, self.published, self.keep_masks, self.prefetch = size, published, keep_masks, prefetch
        self.batch_size = batch_size if segmenter.together else 1
        self.judges = judges(segmenter.selector, all_scores)
        self._learnt: _Learnt | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """One outcome per job, in the order of `by_supports`, so that each set of supports is encoded once.

        An episode that cannot be segmented has "failed" in its record; DatasetError if its files are not there."""
        batches = self._encoded(self._read_ahead(by_supports(jobs)))
        for batch in ahead(batches) if self.segmenter.together else batches:
            for loaded, encoded in batch:
                yield self._outcome(loaded, encoded)

    def _encoded(self, waiting: Iterator[_Loaded]) -> Iterator[list[tuple[_Loaded, Encoded | None]]]:
        while batch := list(islice(waiting, self.batch_size)):
            images = [loaded.query.image for loaded in batch if isinstance(loaded.query, Photo)]
            encoded = iter(self.segmenter.encode(images) if images else [])
            yield [(loaded, next(encoded) if isinstance(loaded.query, Photo) else None) for loaded in batch]

    def _read_ahead(self, jobs: Sequence[Job]) -> Iterator[_Loaded]:
        before = [self._learnt.key if self._learnt else None, *(job.supports for job in jobs)]
        new = [job.supports != known for job, known in zip(jobs, before, strict=False)]
        if not self.prefetch:
            for job, learn in zip(jobs, new, strict=True):
                started = time.perf_counter()
                yield _waited(self._load(job, learn), started)
            return
        with ThreadPoolExecutor(self.prefetch) as readers:
            todo = iter(zip(jobs, new, strict=True))
            ahead: deque[Future[_Loaded]] = deque()
            try:
                for job, learn in islice(todo, self.prefetch + self.batch_size):
                    ahead.append(readers.submit(self._load, job, learn))
                while ahead:
                    started = time.perf_counter()
                    loaded = _waited(ahead.popleft().result(), started)
                    for job, learn in islice(todo, 1):
                        ahead.append(readers.submit(self._load, job, learn))
                    yield loaded
            finally:
                readers.shutdown(cancel_futures=True)

    def _load(self, job: Job, learn: bool) -> _Loaded:
        episode = job.episode
        query = self._photos([episode.query], episode.category)
        supports = self._photos(episode.supports, episode.category) if learn else None
        return _Loaded(job, query if isinstance(query, str) else query[0], supports)

    def _photos(self, items: Sequence[Item], category: str) -> tuple[Photo, ...] | str:
        try:
            return tuple(self._photo(item, category) for item in items)
        except DatasetError:
            raise
        except ValueError as error:  # such as a crop without pixels
            return str(error)

    def _photo(self, item: Item, category: str) -> Photo:
        photo = self.dataset.photo(item, category)
        return photo if self.size is None else squash(photo, self.size)

    def _outcome(self, loaded: _Loaded, encoded: Encoded | None) -> Outcome:
        self.segmenter.seed = loaded.job.seed
        seconds = {"wait": loaded.waited}
        if loaded.supports is not None:
            started = time.perf_counter()
            self._learnt = self._learn(loaded.job, loaded.supports)
            seconds["support"] = time.perf_counter() - started
        assert self._learnt is not None  # the first job's supports are always loaded
        record = {**_described(loaded.job, loaded.query), "support_pixels": self._learnt.pixels}
        reference = self._learnt.reference
        try:
            if isinstance(loaded.query, str) or encoded is None:
                raise ValueError(loaded.query)
            if isinstance(reference, str):
                raise ValueError(reference)
            episode = loaded.job.episode
            result = self.segmenter.segment_encoded(episode.id, episode.category, encoded, reference)
        except ValueError as error:
            return Outcome({**record, "failed": str(error), "seconds": _rounded(seconds)}, None)
        scores = self._scores(result, encoded, reference)
        record |= _measured(result, loaded.query, scores, {**seconds, **result.seconds})
        return Outcome(record, _masks(loaded.job, result) if self.keep_masks else None)

    def _learn(self, job: Job, photos: tuple[Photo, ...] | str) -> _Learnt:
        if isinstance(photos, str):
            return _Learnt(job.supports, photos, [])
        pixels = [int(photo.mask.sum()) for photo in photos]
        examples = [Example(photo.image, photo.mask) for photo in photos]
        if self.published:
            examples = _repaired(self.segmenter.framework, examples)
        else:
            examples = [example for example in examples if example.mask.any()]
        try:
            if not examples:
                raise ValueError("the masks of all its supports are empty")
            read = {name for judge in self.judges.values() for name in reads(judge)}
            return _Learnt(job.supports, self.segmenter.encode_examples(examples, read), pixels)
        except ValueError as error:
            return _Learnt(job.supports, str(error), pixels)

    def _scores(self, result: Segmentation, encoded: Encoded, reference: Reference) -> dict[str, list[float]]:
        """Of the run's own selector, and of the others that can judge this framework's references."""
        scores = {selector_name(self.segmenter.selector): list(result.scores)}
        if len(result.candidates) > 1:
            for name, judge in self.judges.items():
                if name not in scores and not set(reads(judge)) - set(reference.tensors):
                    scores[name] = judge(self.segmenter.framework, encoded.query, reference, result.candidates)
        return scores


class EvaluationFolder(RecordFolder):
    """run.json, episodes.jsonl and masks.jsonl."""

    records = EPISODES
    others = (MASKS,)
    key = ("seed", "episode")
    value = "fold"
    mark = "benchmark"

    def add(self, outcome: Outcome) -> None:
        """The masks first: once the record is there, the episode is done."""
        if outcome.masks is not None:
            append_line(self.folder / MASKS, outcome.masks)
        self.append(outcome.record)

    def failed(self) -> int:
        """How many of the episodes could not be segmented."""
        path = self.folder / EPISODES
        if not path.exists():
            return 0
        with path.open(encoding="utf-8") as lines:
            return sum("failed" in json.loads(line) for line in lines)

    def finish(self) -> None:
        """Bring the lines into the order of seeds and episodes, whatever order they came in, each once."""
        for name in (EPISODES, MASKS):
            if (self.folder / name).exists():
                _sort_lines(self.folder / name, self.key)

    def clear(self) -> None:
        """Delete all records and masks."""
        (self.folder / MASKS).unlink(missing_ok=True)
        super().clear()

    def _read(self) -> dict[tuple[Any, ...], Any]:
        _drop_cut_line(self.folder / MASKS)
        return super()._read()


def draw(
    dataset: Dataset, folds: Sequence[int], shots: int, seeds: Sequence[int], sampling: Sampling, limit: int | None,
    framework: type[Framework],
) -> dict[int, list[Episode]]:  # fmt: skip
    """Episodes by seed; limit: at most so many of each fold.

    The published PerSAM runs have the same episodes for every seed (Q2), and so has `paper` with PerSAM."""
    same = sampling == "paper" and issubclass(framework, PerSam)
    drawn: dict[int, list[Episode]] = {}
    for seed in seeds:
        source = PUBLISHED_SEED if same else seed
        drawn[seed] = [episode for fold in folds for episode in dataset.episodes(fold, shots, source, sampling)[:limit]]
    return drawn


def waiting_jobs(folder: EvaluationFolder, episodes: Mapping[int, Sequence[Episode]]) -> list[Job]:
    """Those of which there is no record yet."""
    return [
        Job(seed, episode) for seed, drawn in episodes.items() for episode in drawn
        if (seed, episode.id) not in folder.done
    ]  # fmt: skip


def digests(episodes: Mapping[int, Sequence[Episode]]) -> dict[str, str]:
    """The manifests' SHA-256, by seed."""
    return {str(seed): manifest_digest(drawn) for seed, drawn in episodes.items()}


def by_supports(jobs: Iterable[Job]) -> list[Job]:
    """Jobs with the same supports side by side, otherwise in their order."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.supports, []).append(job)
    return [job for group in groups.values() for job in group]


def selector_name(selector: Selector) -> str:
    """As in SELECTORS for one of those, however it is configured; otherwise its own."""
    known = {type(each): name for name, each in SELECTORS.items()}
    return known.get(type(selector)) or str(getattr(selector, "__name__", type(selector).__name__))


def judges(own: Selector, all_scores: bool) -> dict[str, Selector]:
    """Whose scores are recorded, by name: its own, those that any reference will do for, and, on request, all."""
    others = {name: judge for name, judge in SELECTORS.items() if all_scores or not set(reads(judge)) & set(EXTRAS)}
    return {**others, selector_name(own): own}


def _repaired(framework: Framework, examples: list[Example]) -> list[Example]:
    """Without any mask, the published Matcher takes the middle of each support for the object; PerSAM, every cell."""
    if not isinstance(framework, Matcher) or any(example.mask.any() for example in examples):
        return examples
    repaired = []
    for example in examples:
        height, width = example.mask.shape
        top, left = (height - SQUARE) // 2, (width - SQUARE) // 2
        mask = np.zeros_like(example.mask)
        mask[max(top, 0) : top + SQUARE, max(left, 0) : left + SQUARE] = True
        repaired.append(Example(example.image, mask))
    return repaired


def _described(job: Job, query: Photo | str) -> dict[str, Any]:
    episode = job.episode
    scored = np.zeros(0, bool)
    if isinstance(query, Photo):
        scored = query.mask if query.ignore is None else query.mask[~query.ignore]
    return {
        "seed": job.seed,
        "fold": episode.fold,
        "episode": episode.id,
        "class": episode.category,
        "query": episode.query.image,
        "query_instance": episode.query.instance,
        "supports": [item.image for item in episode.supports],
        "support_instances": [item.instance for item in episode.supports],
        "pixels": scored.size,
        "object": int(scored.sum()),
    }


def _measured(
    result: Segmentation, query: Photo, scores: Mapping[str, Sequence[float]], seconds: Mapping[str, float]
) -> dict[str, Any]:
    return {
        "areas": [areas(candidate.mask, query.mask, query.ignore).tolist() for candidate in result.candidates],
        "predicted_iou": _finite([candidate.predicted_iou for candidate in result.candidates]),
        "scores": {name: _finite(values) for name, values in scores.items()},
        "chosen": result.chosen,
        "counts": dict(result.counts),
        "seconds": _rounded(seconds),
    }


def _masks(job: Job, result: Segmentation) -> dict[str, Any]:
    distinct: dict[bytes, tuple[int, BoolArray]] = {}
    order = []
    for candidate in result.candidates:
        number, _ = distinct.setdefault(np.packbits(candidate.mask).tobytes(), (len(distinct), candidate.mask))
        order.append(number)
    masks = [rle(mask) for _, mask in distinct.values()]
    return {"seed": job.seed, "episode": job.episode.id, "masks": masks, "candidates": order}


def _finite(values: Sequence[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(spent, 4) for stage, spent in seconds.items()}


def _waited(loaded: _Loaded, since: float) -> _Loaded:
    return replace(loaded, waited=time.perf_counter() - since)


def _drop_cut_line(path: Path) -> None:
    """What a crash left of a last line would spoil the next one."""
    if path.exists():
        content_end = 0
        with path.open("rb+") as file:
            for line in file:
                content_end += len(line) if line.endswith(b"\n") else 0
            if content_end < path.stat().st_size:
                file.truncate(content_end)


def _sort_lines(path: Path, key: Sequence[str]) -> None:
    """By the values of these fields, without holding the lines themselves; lines cut short are dropped."""
    places: dict[tuple[Any, ...], tuple[int, int]] = {}
    with path.open("rb") as file:
        start = 0
        for line in file:
            if line.endswith(b"\n"):
                fields = json.loads(line)
                places.setdefault(tuple(fields[name] for name in key), (start, len(line)))
            start += len(line)
        if list(places) == sorted(places) and sum(length for _, length in places.values()) == start:
            return
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as ordered:
            for begin, length in (places[name] for name in sorted(places)):
                file.seek(begin)
                ordered.write(file.read(length))
    temporary.replace(path)


@dataclass(frozen=True)
class Plan:
    """All that a process needs to become an evaluator: plain values, so that it can be sent to other machines.

    load: the arguments of `prmagic.load`. threads: of torch, on which the last bits of results depend."""

    benchmark: str
    data: str
    dataset_options: dict[str, Any]
    load: dict[str, Any]
    size: int | None
    keep_masks: bool
    prefetch: int
    batch_size: int
    threads: int
    all_scores: bool

    def build(self) -> Evaluator:
        """Open the data set and load the models."""
        torch.set_num_threads(self.threads)
        dataset = open_dataset(self.benchmark, self.data, **self.dataset_options)
        published = self.load["preset"].startswith("paper")
        return Evaluator(
            dataset, load(**self.load), self.size, published, self.keep_masks, self.prefetch, self.batch_size,
            self.all_scores,
        )  # fmt: skip

    def work(self) -> Callable[[Sequence[Job]], list[Outcome]]:
        """For a worker elsewhere: what turns some jobs into outcomes."""
        evaluator = self.build()
        return lambda jobs: list(evaluator.run(jobs))


def in_chunks(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """For workers: at most so many jobs each, and only such that have the same supports."""
    chunks: list[list[Job]] = []
    for job in by_supports(jobs):
        if chunks and chunks[-1][0].supports == job.supports and len(chunks[-1]) < most:
            chunks[-1].append(job)
        else:
            chunks.append([job])
    return chunks
