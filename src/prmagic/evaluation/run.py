"""Episodes in, records out: the work of `prmagic evaluate`. `summary.py` says what the records mean."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from prmagic.ahead import ahead
from prmagic.datasets import open_dataset
from prmagic.datasets.base import Dataset, DatasetError, Item, Photo, squash
from prmagic.evaluation.benchmark_settings import published_supports
from prmagic.evaluation.folder import Outcome
from prmagic.evaluation.jobs import Job, by_supports
from prmagic.io.formats import rle
from prmagic.loading import load
from prmagic.metrics import areas
from prmagic.reference import Example, Reference
from prmagic.result import Segmentation
from prmagic.segmenter import Encoded, Segmenter
from prmagic.select import SELECTORS, Selector, lacking, selector_name
from prmagic.types import BoolArray

FREE_SELECTORS = ("cycle-recall", "guard")  # they compare features that are there; reencode encodes every mask anew


@dataclass(frozen=True, eq=False)
class _Loaded:
    """Photos, or why they cannot be used; supports: None where the job before has the same."""

    job: Job
    query: Photo | str
    supports: tuple[Photo, ...] | str | None
    waited: float = 0.0  # seconds during which nothing else was done


@dataclass(frozen=True, eq=False)
class _Encoded:
    """A support set's reference, or why there is none; and the pixels of its masks."""

    key: tuple[Any, ...]
    reference: Reference | str
    pixels: list[int]


class Evaluator:
    """A data set and a segmenter: jobs → outcomes, the same ones in any process."""

    def __init__(
        self, dataset: Dataset, segmenter: Segmenter, size: int | None = None, published: bool = False,
        keep_masks: bool = True, prefetch: int = 2, batch_size: int = 1, all_scores: bool = False,
    ):  # fmt: skip
        """Make an evaluator.

        Args:
            dataset: Where photos and masks come from.
            segmenter: What finds the masks.
            size: Side in pixels to which photos and masks are squashed; None for their own size.
            published: Use empty support masks as the published code does; otherwise they are left out.
            keep_masks: Whether outcomes hold the candidates' masks.
            prefetch: Threads that read photos ahead; 0 reads each one when its turn has come.
            batch_size: Queries encoded together on a GPU; a CPU takes one.
            all_scores: Record the scores of all selectors, even of those that encode masks anew.
        """
        self.dataset, self.segmenter = dataset, segmenter
        self.size, self.published, self.keep_masks, self.prefetch = size, published, keep_masks, prefetch
        self.batch_size = batch_size if segmenter.together else 1
        self.recorded = recorded_selectors(segmenter.selector, all_scores)
        self._supports: _Encoded | None = None

    def run(self, jobs: Iterable[Job]) -> Iterator[Outcome]:
        """Work the jobs off, grouped by their supports, so that each set of supports is encoded once.

        Args:
            jobs: In any order.

        Yields:
            One outcome per job, in the order of `by_supports`. An episode that cannot be segmented has "failed" in
            its record.

        Raises:
            DatasetError: If a job's files are missing or damaged.
        """
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
        before = [self._supports.key if self._supports else None, *(job.supports for job in jobs)]
        new = [job.supports != known for job, known in zip(jobs, before, strict=False)]
        if not self.prefetch:
            for job, is_new in zip(jobs, new, strict=True):
                started = time.perf_counter()
                yield _waited(self._load(job, is_new), started)
            return
        with ThreadPoolExecutor(self.prefetch) as readers:
            todo = iter(zip(jobs, new, strict=True))
            coming: deque[Future[_Loaded]] = deque()
            try:
                for job, is_new in islice(todo, self.prefetch + self.batch_size):
                    coming.append(readers.submit(self._load, job, is_new))
                while coming:
                    started = time.perf_counter()
                    loaded = _waited(coming.popleft().result(), started)
                    for job, is_new in islice(todo, 1):
                        coming.append(readers.submit(self._load, job, is_new))
                    yield loaded
            finally:
                readers.shutdown(cancel_futures=True)

    def _load(self, job: Job, with_supports: bool) -> _Loaded:
        episode = job.episode
        query = self._photos([episode.query], episode.category)
        supports = self._photos(episode.supports, episode.category) if with_supports else None
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
            self._supports = self._encode_supports(loaded.job, loaded.supports)
            seconds["support"] = time.perf_counter() - started
        assert self._supports is not None  # the first job's supports are always loaded
        record = {**_described(loaded.job, loaded.query), "support_pixels": self._supports.pixels}
        reference = self._supports.reference
        try:
            if isinstance(loaded.query, str) or encoded is None:
                raise ValueError(loaded.query)
            if isinstance(reference, str):
                raise ValueError(reference)
            episode = loaded.job.episode
            result = self.segmenter.segment_encoded(episode.id, episode.category, encoded, reference, episode.id)
        except ValueError as error:
            return Outcome({**record, "failed": str(error), "seconds": _rounded(seconds)}, None)
        scores = self._scores(result, encoded, reference)
        record |= _measured(result, loaded.query, scores, {**seconds, **result.seconds})
        return Outcome(record, _masks(loaded.job, result) if self.keep_masks else None)

    def _encode_supports(self, job: Job, photos: tuple[Photo, ...] | str) -> _Encoded:
        if isinstance(photos, str):
            return _Encoded(job.supports, photos, [])
        pixels = [int(photo.mask.sum()) for photo in photos]
        examples = [Example(photo.image, photo.mask) for photo in photos]
        if self.published:
            examples = published_supports(self.segmenter.framework.name, examples)
        else:
            examples = [example for example in examples if example.mask.any()]
        try:
            if not examples:
                raise ValueError("the masks of all its supports are empty")
            others = [selector for selector in self.recorded.values() if selector is not self.segmenter.selector]
            reference = self.segmenter.encode_examples(examples, others)
            return _Encoded(job.supports, reference, pixels)
        except ValueError as error:
            return _Encoded(job.supports, str(error), pixels)

    def _scores(self, result: Segmentation, encoded: Encoded, reference: Reference) -> dict[str, list[float]]:
        """By selector: the run's own and the others that are recorded."""
        scores = {selector_name(self.segmenter.selector): list(result.scores)}
        for name, selector in self.recorded.items():
            if name not in scores and not lacking(selector, reference):
                alone = len(result.candidates) == 1
                arguments = self.segmenter.framework, encoded.query, reference, result.candidates
                scores[name] = [math.nan] if alone else selector(*arguments)
        return scores


@dataclass(frozen=True)
class Plan:
    """All that a process needs to become an evaluator: plain values, so that it can be sent to other machines.

    Attributes:
        benchmark: Its name.
        data: The folder of its files.
        dataset_options: See `open_dataset`.
        load: The arguments of `prmagic.load`.
        size: See `Evaluator`; so are keep_masks, prefetch, batch_size and all_scores.
        threads: Of torch; the last bits of results depend on them.
    """

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
        published = self.load["preset"] == "paper"
        return Evaluator(
            dataset, load(**self.load), self.size, published, self.keep_masks, self.prefetch, self.batch_size,
            self.all_scores,
        )  # fmt: skip

    def work(self) -> Callable[[Sequence[Job]], list[Outcome]]:
        """For a worker elsewhere: a function that turns some jobs into outcomes."""
        evaluator = self.build()
        return lambda jobs: list(evaluator.run(jobs))


def recorded_selectors(own: Selector, all_scores: bool) -> dict[str, Selector]:
    """Whose scores are recorded, by name: the run's own, those that cost nothing, and, on request, all."""
    others = {name: each for name, each in SELECTORS.items() if all_scores or name in FREE_SELECTORS}
    return {**others, selector_name(own): own}


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
        "others": result.others,
        "areas": [areas(candidate.mask, query.mask, query.ignore).tolist() for candidate in result.candidates],
        "predicted_iou": _finite([candidate.predicted_iou for candidate in result.candidates]),
        "scores": {name: _finite(values) for name, values in scores.items()},
        "chosen": result.chosen,
        "counts": dict(result.counts),
        "seconds": _rounded(seconds),
    }


def _masks(job: Job, result: Segmentation) -> dict[str, Any]:
    """Each distinct mask once."""
    distinct: dict[bytes, tuple[int, BoolArray]] = {}
    order = []
    for candidate in result.candidates:
        number, _ = distinct.setdefault(np.packbits(candidate.mask).tobytes(), (len(distinct), candidate.mask))
        order.append(number)
    masks = [rle(mask) for _, mask in distinct.values()]
    return {"seed": job.seed, "episode": job.episode.id, "masks": masks, "candidates": order}


def _finite(values: Sequence[float]) -> list[float | None]:
    """JSON has no infinities."""
    return [value if math.isfinite(value) else None for value in values]


def _rounded(seconds: Mapping[str, float]) -> dict[str, float]:
    return {stage: round(spent, 4) for stage, spent in seconds.items()}


def _waited(loaded: _Loaded, since: float) -> _Loaded:
    return replace(loaded, waited=time.perf_counter() - since)
