"""Several flows on the same episodes, with what each did at every step.

A photo is encoded once for all settings. What the records say is the business of `analysis.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

import controls
from prmagic import Flow, Reference, Segmenter
from prmagic.datasets.base import Dataset, DatasetError, Episode, Photo
from prmagic.evaluation.jobs import Job, by_supports
from prmagic.flow import OBJECTIVES, rms
from prmagic.frameworks.base import Query
from prmagic.io.records import RecordFolder
from prmagic.metrics import areas
from prmagic.reference import Example
from prmagic.refine import refine
from prmagic.select import SELECTORS, Selector, judged, selector_name
from prmagic.types import Candidate, FloatArray

RECORDS = "steps.jsonl"
COSTLY = ("reencode",)  # encodes each candidate


def limited(episodes: Sequence[Episode], per_class: int | None, seed: int) -> list[Episode]:
    """At most so many of each class, drawn from the seed and the class's place alone; in their order."""
    if per_class is None:
        return list(episodes)
    by_class: dict[int, list[int]] = {}
    for index, episode in enumerate(episodes):
        by_class.setdefault(episode.class_id, []).append(index)
    kept = [
        rows[pick] for class_id, rows in by_class.items()
        for pick in np.random.default_rng((seed, class_id)).permutation(len(rows))[:per_class]
    ]  # fmt: skip
    return [episodes[index] for index in sorted(kept)]


class StudyFolder(RecordFolder):
    """run.json and steps.jsonl, a line per seed, episode and setting."""

    records = RECORDS
    others = ()
    key = ("seed", "episode", "setting")
    value = "class"
    mark = "study"

    def failures(self) -> int:
        """How many of the records say that their episode failed."""
        path = self.folder / RECORDS
        return sum("failed" in json.loads(line) for line in path.read_bytes().splitlines()) if path.exists() else 0


class Runner:
    """A data set, a segmenter and flows: jobs → records.

    Args:
        dataset: Where the episodes are from.
        segmenter: Its selector's scores are always recorded, beside those of cheap ones.
        flows: What is compared, by name.
        all_scores: Also those of selectors that encode candidates anew.
    """

    def __init__(self, dataset: Dataset, segmenter: Segmenter, flows: Mapping[str, Flow], all_scores: bool = False):
        self.dataset, self.segmenter, self.flows = dataset, segmenter, flows
        self.selector = selector_name(segmenter.selector)
        self.judges: dict[str, Selector] = {"pooled": controls.pooled, "predicted-iou": controls.predicted_iou}
        self.judges |= {name: judge for name, judge in SELECTORS.items() if all_scores or name not in COSTLY}
        self.judges[self.selector] = segmenter.selector
        self._reference: tuple[tuple[Any, ...], Reference] | None = None

    def run(self, jobs: Iterable[Job], done: Callable[[Job, str], bool]) -> Iterator[dict[str, Any]]:
        """A record for each job and each setting that is not done; an episode that cannot be used has "failed".

        DatasetError if files are not there."""
        for job in by_supports(jobs):
            waiting = [name for name in self.flows if not done(job, name)]
            if not waiting:
                continue
            try:
                found = self._episode(job, waiting)
            except DatasetError:
                raise
            except ValueError as error:
                found = {name: {"failed": str(error)} for name in waiting}
            episode = job.episode
            about = {"seed": job.seed, "episode": episode.id, "class": episode.category, "query": episode.query.image}
            yield from ({**about, "setting": name, **record} for name, record in found.items())

    def _episode(self, job: Job, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        self.segmenter.seed = job.seed
        photo, supports = self.dataset.load(job.episode)
        reference = self._encode_supports(job, supports)
        query = self.segmenter.encode([photo.image])[0].query
        return {name: self._follow(job.episode.id, query, reference, self.flows[name], photo) for name in names}

    def _encode_supports(self, job: Job, supports: Sequence[Photo]) -> Reference:
        if self._reference is None or self._reference[0] != job.supports:
            examples = [Example(photo.image, photo.mask) for photo in supports]
            reference = self.segmenter.encode_examples(examples, list(self.judges.values()))
            self._reference = job.supports, reference
        return self._reference[1]

    def _follow(self, name: str, query: Query, reference: Reference, flow: Flow, photo: Photo) -> dict[str, Any]:
        framework = self.segmenter.framework
        shifts: list[Tensor] = []
        gradients: list[Tensor | None] = []

        def watch(_: int, moved_to: Sequence[Tensor], followed: Sequence[Tensor | None]) -> None:
            shifts.extend(moved_to)
            gradients.extend(followed)

        (steps,) = refine(framework, query, [reference], flow, [self.segmenter.draws(name)], watch)
        z0, points = query.embedding.features, [candidate.prompts.points for candidate in steps]
        if flow.mode == "spread":  # nothing moves
            shifts, gradients = [torch.zeros_like(z0) for _ in steps], [None for _ in steps]
        with torch.no_grad():
            candidates, own = judged(self.segmenter.selector, framework, query, reference, steps)
            scores = {each: judge(framework, query, reference, candidates) for each, judge in self.judges.items()}
            scores[self.selector] = own if len(candidates) > 1 else [0.0]
            d = self._d(query, reference, steps, shifts, flow.objective)
        truth, ignore = photo.mask, photo.ignore
        return {
            "pixels": truth.size if ignore is None else int((~ignore).sum()),
            "object": int(truth.sum() if ignore is None else truth[~ignore].sum()),
            "areas": [areas(candidate.mask, truth, ignore).tolist() for candidate in candidates],
            "scores": {each: [_finite(value) for value in values] for each, values in scores.items()},
            "distinct": len({candidate.mask.tobytes() for candidate in candidates}),
            "d": d,
            "shift_rms": [float(rms(shift) / rms(z0)) for shift in shifts],  # of the embedding's own
            "gradient_norm": [None if each is None else _finite(float(each.norm())) for each in gradients[1:]],
            "moved": [0.0, *(moved(*pair) for pair in pairwise(points))],
        }

    def _d(
        self, query: Query, reference: Reference, candidates: Sequence[Candidate], shifts: Sequence[Tensor], name: str
    ) -> list[float]:
        """The discriminator of each step's candidate at that step's z_t."""
        embeddings = [query.embedding.moved_to(query.embedding.features + shift) for shift in shifts]
        logits = self.segmenter.framework.logits(query, [reference] * len(candidates), candidates, embeddings)
        return [float(OBJECTIVES[name](each)) for each in logits]


def moved(before: FloatArray, after: FloatArray) -> float:
    """Pixels between two sets of points (n, 2) and (m, 2): each one's to the nearest of the other set, the mean."""
    if not len(before) or not len(after):
        return 0.0
    distances = np.linalg.norm(before[:, None].astype(float) - after[None].astype(float), axis=2)
    return float((distances.min(0).mean() + distances.min(1).mean()) / 2)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
