"""Studies of the flow: several settings on the same episodes, with what the flow did at every step (`prmagic study`).

A photo is encoded once for all settings, a prompt set is decoded once, and every selector judges all candidates at
once. What the records say is the business of `study_report.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prmagic.datasets.base import Dataset, DatasetError, Episode, Photo, squash
from prmagic.evaluation.metrics import areas
from prmagic.evaluation.run import Job, by_supports, selector_name
from prmagic.flow import FLOW_MODES, Flow, rms
from prmagic.frameworks import Example, Query, Reference
from prmagic.names import lookup
from prmagic.refine import Search, discriminator, refine
from prmagic.resumable import RecordFolder
from prmagic.segmenter import Segmenter
from prmagic.select import SELECTORS, Selector, overlaps, reads, stability
from prmagic.types import Candidate, FloatArray

RECORDS = "steps.jsonl"
RHO = 0.03  # where a study needs one relative step
# Those that follow from other candidates' scores are worked out from the records.
DERIVED = ("fusion", "consensus", "veto", "guard")


def _flows(base: Flow) -> dict[str, Flow]:
    return {mode: base.in_mode(mode) for mode in FLOW_MODES[::-1]}


def _eta(base: Flow) -> dict[str, Flow]:
    sizes, modes = (1e-4, 1e-3, 1e-2, 1e-1, 1.0), ("full", "noise")
    flows = _flows(base.published)
    return {f"{mode}, η = {eta:g}": replace(flows[mode], eta=eta) for eta in sizes for mode in modes}


def _gamma(base: Flow) -> dict[str, Flow]:
    return {f"γ = {gamma:g}": replace(base.published, gamma=gamma) for gamma in (0.0, 0.01, 0.1, 1.0)}


def _steps(base: Flow) -> dict[str, Flow]:
    return {mode: flow for mode, flow in _flows(base).items() if mode in ("resample", "noise", "full")}


def _clip(base: Flow) -> dict[str, Flow]:
    clips = {"clip 0.1": 0.1, "no clip": None}
    flows = {mode: flow for mode, flow in _flows(base.published).items() if mode in ("drift", "full")}
    return {f"{mode}, {name}": replace(flow, clip=clip) for mode, flow in flows.items() for name, clip in clips.items()}


def _objective(base: Flow) -> dict[str, Flow]:
    steps = {"published step": base.published} | {f"ρ = {rho}": _relative(base, rho) for rho in (RHO, 0.1)}
    objectives = ("sum", "foreground", "margin")
    return {f"{each}, {name}": replace(flow, objective=each) for name, flow in steps.items() for each in objectives}


def _scaling(base: Flow) -> dict[str, Flow]:
    published = _flows(base.published)
    found = {
        "noise": published["noise"], "drift, published": published["drift"], "full, published": published["full"]
    }  # fmt: skip
    for rho in (0.01, 0.03, 0.1, 0.3):
        relative = _flows(_relative(base, rho))
        found |= {f"{mode}, ρ = {rho}": relative[mode] for mode in ("drift", "full")}
    return found


def _origin(base: Flow) -> dict[str, Flow]:
    steps = {"published step": base.published, f"ρ = {RHO}": _relative(base, RHO)}
    places = {"at z_t": False, "at z₀": True}
    return {
        f"{place}, {name}": replace(flow, gradient_at_origin=origin)
        for name, flow in steps.items() for place, origin in places.items()
    }  # fmt: skip


def _relative(base: Flow, rho: float) -> Flow:
    return replace(base.published, rho=rho, clip=None)


def _selectors(base: Flow) -> dict[str, Flow]:
    flows = _flows(base)
    return {mode: flows[mode] for mode in ("resample", "full")}


def _particles(base: Flow) -> dict[str, Flow]:
    """Several short paths beside one; and beside each what comes of as many candidates without drift."""
    short = replace(base, steps=math.ceil(base.steps / 2))
    found = {"full": base}
    for count in (4, 8):
        found |= {
            f"{mode}, {count} particles": replace(flow, particles=count)
            for mode, flow in _flows(short).items()
            if mode in ("full", "noise")
        }
        found[f"resample, T = {count * short.steps}"] = replace(base.in_mode("resample"), steps=count * short.steps)
    return found


# What each compares, from the flow that the preset and the options give.
STUDIES: dict[str, Callable[[Flow], dict[str, Flow]]] = {
    "flows": _flows, "eta": _eta, "gamma": _gamma, "steps": _steps, "clip": _clip, "objective": _objective,
    "scaling": _scaling, "origin": _origin, "selectors": _selectors, "particles": _particles,
}  # fmt: skip
FROM_DEFAULT = ("flows", "steps", "selectors", "particles")  # the others start from the published d and step
STEPS = {"steps": 20}  # T, unless another is asked for; elsewhere the preset's


def settings(study: str, base: Flow) -> dict[str, Flow]:
    """The flows of a named study, by what tells them apart; ValueError for a name that is none."""
    return lookup("study", study, STUDIES)(base)


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


@dataclass(frozen=True, eq=False)
class _Path:
    """What one flow did: candidates; of its first particle shifts G_t and, for all but t = 0, the ∇d that led there."""

    candidates: list[Candidate]
    shifts: list[Tensor]
    gradients: list[Tensor | None]


class Student:
    """A data set, a segmenter and flows: jobs → records.

    all_scores: also those of selectors that encode candidates anew or look into the supports again; the segmenter's
    own are always recorded. size: the side in pixels to which photos and masks are squashed, None for their own."""

    def __init__(
        self, dataset: Dataset, segmenter: Segmenter, flows: Mapping[str, Flow], all_scores: bool = False,
        size: int | None = None,
    ):  # fmt: skip
        self.dataset, self.segmenter, self.flows, self.size = dataset, segmenter, flows, size
        self.judges: dict[str, Selector] = {
            name: judge for name, judge in SELECTORS.items()
            if name not in DERIVED and (all_scores or not {"descriptors", "photos"} & set(reads(judge)))
        }  # fmt: skip
        self.own = selector_name(segmenter.selector)
        if self.own in set(SELECTORS) - set(DERIVED):
            self.judges[self.own] = segmenter.selector  # however it is configured
        self._learnt: tuple[tuple[Any, ...], Reference] | None = None

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
        if self.size is not None:
            photo, supports = squash(photo, self.size), tuple(squash(each, self.size) for each in supports)
        reference = self._reference(job, supports)
        query = self.segmenter.encode([photo.image])[0].query
        answers: dict[Hashable, Candidate] = {}
        paths = {name: self._follow(job.episode.id, query, reference, self.flows[name], answers) for name in names}
        scores = self._scores(query, reference, {name: path.candidates for name, path in paths.items()})
        return {
            name: {**self._described(query, reference, self.flows[name], path, photo), "scores": scores[name]}
            for name, path in paths.items()
        }

    def _reference(self, job: Job, supports: Sequence[Photo]) -> Reference:
        if self._learnt is None or self._learnt[0] != job.supports:
            examples = [Example(photo.image, photo.mask) for photo in supports]
            read = {name for judge in (*self.judges.values(), self.segmenter.selector) for name in reads(judge)}
            self._learnt = job.supports, self.segmenter.encode_examples(examples, read)
        return self._learnt[1]

    def _follow(
        self, name: str, query: Query, reference: Reference, flow: Flow, answers: dict[Hashable, Candidate]
    ) -> _Path:
        search = self.segmenter.search(name, reference)
        search.answers = answers
        shifts: list[Tensor] = []
        gradients: list[Tensor | None] = []

        def watch(particle: Search, gradient: Tensor | None) -> None:
            if particle is search:
                shifts.append(search.shift)
                gradients.append(gradient)

        refine(self.segmenter.framework, query, [search], flow, watch)
        return _Path(search.candidates, shifts, gradients[1:])

    def _scores(
        self, query: Query, reference: Reference, by_setting: Mapping[str, Sequence[Candidate]]
    ) -> dict[str, dict[str, list[float | None]]]:
        """By setting and selector. All candidates are judged at once, because many masks come more than once; but what
        compares candidates with each other, as the guard does, judges each setting's by themselves."""
        together = [candidate for candidates in by_setting.values() for candidate in candidates]
        with torch.no_grad():
            judged = {
                name: iter(judge(self.segmenter.framework, query, reference, together))
                for name, judge in self.judges.items()
            }
            if self.own not in judged:
                judge = self.segmenter.selector
                each = (judge(self.segmenter.framework, query, reference, some) for some in by_setting.values())
                judged[self.own] = chain.from_iterable(list(each))
        return {
            setting: {name: [_finite(next(scores)) for _ in candidates] for name, scores in judged.items()}
            for setting, candidates in by_setting.items()
        }

    def _described(self, query: Query, reference: Reference, flow: Flow, path: _Path, photo: Photo) -> dict[str, Any]:
        z0, count = query.embedding.features, len(path.shifts)
        followed = path.candidates[:count]
        with torch.no_grad():
            d = discriminator(
                self.segmenter.framework, query, [reference] * count, followed,
                [z0 + shift for shift in path.shifts], flow.objective,
            )  # fmt: skip
        overlap = overlaps(path.candidates)
        points = [candidate.prompts.points for candidate in followed]
        truth, ignore = photo.mask, photo.ignore
        return {
            "pixels": truth.size if ignore is None else int((~ignore).sum()),
            "object": int(truth.sum() if ignore is None else truth[~ignore].sum()),
            "areas": [areas(candidate.mask, truth, ignore).tolist() for candidate in path.candidates],
            "predicted_iou": [_finite(candidate.predicted_iou) for candidate in path.candidates],
            "stability": [round(stability(query, candidate), 4) for candidate in path.candidates],
            "overlap": [[round(value, 4) for value in row] for row in overlap],
            "d": [float(each) for each in d],
            "shift_rms": [float(rms(shift) / rms(z0)) for shift in path.shifts],  # of the embedding's own
            "gradient_norm": [None if each is None else _finite(float(each.norm())) for each in path.gradients],
            "moved": [0.0, *(moved(*pair) for pair in pairwise(points))],
        }


def moved(before: FloatArray, after: FloatArray) -> float:
    """Pixels between two sets of points (n, 2) and (m, 2): each one's to the nearest of the other set, the mean."""
    if not len(before) or not len(after):
        return 0.0
    distances = np.linalg.norm(before[:, None].astype(float) - after[None].astype(float), axis=2)
    return float((distances.min(0).mean() + distances.min(1).mean()) / 2)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
