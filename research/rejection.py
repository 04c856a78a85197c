"""How well a result's score tells photos with the thing from photos without it.

Each episode is run twice: on its own query, and on a photo of another class that holds nothing of its class. Other
signals that could be the score are recorded and judged beside it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

import controls
from prmagic import Reference, Segmentation, Segmenter
from prmagic.datasets.base import Dataset, DatasetError, Episode
from prmagic.evaluation.jobs import Job, by_supports
from prmagic.evaluation.tables import Block, Table
from prmagic.frameworks.base import Framework, Query
from prmagic.io.records import RecordFolder
from prmagic.metrics import Values, areas, foreground_iou
from prmagic.presence import presence
from prmagic.reference import Example
from prmagic.select import SELECTORS, Selector

RIGHT = 0.5  # foreground IoU from which a mask counts as right
SHARES = (0.01, 0.05, 0.1, 0.2, 0.3)  # of the photos with the thing, rejected
DRAWS = 2000
SCORE = "score"
JUDGES: dict[str, Selector] = {
    "pooled": controls.pooled, "predicted-iou": controls.predicted_iou, "cycle-recall": SELECTORS["cycle-recall"],
}  # fmt: skip
SIGNALS = (SCORE, *JUDGES, "similarity peak", "object anywhere", "background anywhere")


class RejectionFolder(RecordFolder):
    """run.json and scores.jsonl, two lines per seed and episode."""

    records = "scores.jsonl"
    others = ()
    key = ("seed", "episode", "present")
    value = "class"
    mark = "rejection"


def signals(framework: Framework, query: Query, reference: Reference, result: Segmentation) -> dict[str, float]:
    """What might tell whether the thing is there; nan or -inf where it cannot be said.

    Of the chosen mask, if it is not empty: the score, and what selectors say of it. Of the photo: the peak of the
    similarity map; how well the examples' objects are found anywhere; and, as a control, how well what lies around them
    is (patches covered at most half as much as any), which speaks of the place and not of the thing."""
    chosen = result.candidates[result.chosen]
    said = {SCORE: presence(query, reference, chosen.mask)}
    said |= {name: judge(framework, query, reference, [chosen])[0] for name, judge in JUDGES.items()}
    if not chosen.mask.any():
        said = dict.fromkeys(said, math.nan)
    similarity, tokens = result.candidates[0].prompts.similarity, query.tokens.vectors
    around = torch.cat([each.vectors[each.shares <= each.shares.max() / 2] for each in reference.supports]).to(tokens)
    return said | {
        "similarity peak": math.nan if similarity is None else float(similarity.max()),
        "object anywhere": presence(query, reference, np.ones_like(chosen.mask)),
        "background anywhere": float((around @ tokens.T).amax(1).mean()) if len(around) else math.nan,
    }


@dataclass(frozen=True)
class Pair:
    """An episode, and another one whose query has nothing of its class."""

    job: Job
    absent: Episode


def pairs(episodes: Sequence[Episode], wanted: Sequence[Episode], seed: int) -> list[Pair]:
    """One for each wanted episode; `episodes` are all, which say what is in which photo.

    The class of the other photo is drawn first, then the photo. DatasetError if a class is in every photo."""
    photos: dict[str, set[str]] = {}
    by_class: dict[str, list[Episode]] = {}
    for episode in episodes:
        photos.setdefault(episode.category, set()).add(episode.query.image)
        by_class.setdefault(episode.category, []).append(episode)
    free: dict[str, list[list[Episode]]] = {}
    for category in {episode.category for episode in wanted}:
        without = ([e for e in listed if e.query.image not in photos[category]] for listed in by_class.values())
        free[category] = [listed for listed in without if listed]
    found = []
    for number, episode in enumerate(wanted):
        rng, others = np.random.default_rng((seed, number)), free[episode.category]
        if not others:
            raise DatasetError(f"every photo has something of the class {episode.category}: a second class is needed")
        listed = others[rng.integers(len(others))]
        found.append(Pair(Job(seed, episode), listed[rng.integers(len(listed))]))
    return found


def run_pairs(
    dataset: Dataset, segmenter: Segmenter, wanted: Iterable[Pair], done: Callable[[Job, bool], bool]
) -> Iterator[dict[str, Any]]:
    """A record of each query, with and without the thing, that is not done."""
    absent = {pair.job: pair.absent for pair in wanted}
    known: tuple[tuple[Any, ...], Reference] | None = None
    for job in by_supports(absent):
        if done(job, True) and done(job, False):
            continue
        segmenter.seed, episode = job.seed, job.episode
        photo, supports = dataset.load(episode)
        if known is None or known[0] != job.supports:
            examples = [Example(each.image, each.mask) for each in supports]
            known = job.supports, segmenter.encode_examples(examples, [segmenter.selector])
        other = dataset.photo(absent[job].query, absent[job].category)
        for present, query, source in ((True, photo, episode), (False, other, absent[job])):
            if done(job, present):
                continue
            encoded = segmenter.encode([query.image])[0]
            result = segmenter.segment_encoded(source.id, episode.category, encoded, known[1], draw_key=source.id)
            mask = result.candidates[result.chosen].mask
            with torch.no_grad():
                said = signals(segmenter.framework, encoded.query, known[1], result)
            yield {
                "seed": job.seed, "episode": episode.id, "class": episode.category, "present": present,
                "photo": source.query.image, "area": int(mask.sum()),
                "signals": {name: value if math.isfinite(value) else None for name, value in said.items()},
                "iou": float(foreground_iou(areas(mask, query.mask, query.ignore))) if present else None,
            }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Scores:
    """Of photos with and without the thing, in pairs; right: whether the mask of the one with it is."""

    classes: Sequence[str]
    present: Values
    absent: Values
    right: NDArray[np.bool_]

    @classmethod
    def read(cls, folder: RejectionFolder, signal: str = SCORE) -> Scores:
        """Of all pairs in the folder; what cannot be said, as of an empty mask, counts as −1, less than all else."""
        by_episode: dict[tuple[int, str], dict[bool, dict[str, Any]]] = {}
        for line in (folder.folder / folder.records).read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            by_episode.setdefault((record["seed"], record["episode"]), {})[record["present"]] = record
        whole = [pair for pair in by_episode.values() if len(pair) == 2]

        def scores(present: bool) -> Values:
            said = [pair[present]["signals"][signal] for pair in whole]
            return np.array([-1.0 if value is None else value for value in said])

        right = np.array([pair[True]["iou"] >= RIGHT for pair in whole])
        return cls([pair[True]["class"] for pair in whole], scores(True), scores(False), right)

    def auc(self, rows: NDArray[np.bool_] | None = None) -> float:
        """Of the photos with the thing (of these rows) against all without it."""
        return auc(self.present if rows is None else self.present[rows], self.absent)

    def interval(self) -> tuple[float, float]:
        """95 % of the AUC: classes are drawn with replacement, then pairs of each drawn class."""
        rng, classes = np.random.default_rng(0), np.array(self.classes)
        members = [np.flatnonzero(classes == name) for name in sorted(set(self.classes))]
        found = []
        for _ in range(DRAWS):
            drawn = [members[i] for i in rng.integers(len(members), size=len(members))]
            rows = np.concatenate([rng.choice(each, len(each)) for each in drawn])
            found.append(auc(self.present[rows], self.absent[rows]))
        low, high = np.percentile(found, [2.5, 97.5])
        return float(low), float(high)

    def within(self) -> float:
        """The mean over classes of the AUC among the pairs of that class alone."""
        classes = np.array(self.classes)
        return float(
            np.mean([auc(self.present[classes == c], self.absent[classes == c]) for c in sorted(set(self.classes))])
        )


def auc(positive: Values, negative: Values) -> float:
    """The chance that a positive one is higher than a negative one; ties count half. nan if there are none."""
    if not len(positive) or not len(negative):
        return float("nan")
    ranks = rankdata(np.concatenate([positive, negative]))[: len(positive)]
    return float((ranks.sum() - len(positive) * (len(positive) + 1) / 2) / (len(positive) * len(negative)))


def tables(by_signal: Mapping[str, Scores], min_score: float | None) -> list[Block]:
    """The AUC of each signal, and what operating points of the score would reject: the segmenter's own, and those that
    reject given shares."""
    scores = by_signal[SCORE]
    lines = [
        f"{len(scores.present)} photos with the thing, as many without it, {len(set(scores.classes))} classes. "
        f"A mask is right from an IoU of {RIGHT}: {scores.right.mean():.0%} of those with the thing are.",
    ]
    told = []
    for name, each in by_signal.items():
        low, high = each.interval()
        told.append(
            [name, f"{each.auc():.3f} [{low:.3f}, {high:.3f}]", f"{each.within():.3f}", f"{each.auc(each.right):.3f}"]
        )
    compared = Table(
        ["signal", "ROC-AUC", "mean within a class", "right masks against photos without the thing"], told, 1
    )
    points = {f"{share:.0%} rejected": float(np.quantile(scores.present, share)) for share in SHARES}
    if min_score is not None:
        points = {"the least score in use": min_score, **points}
    rows = [
        [
            name, f"{least:.4f}", f"{(scores.present < least).mean():.1%}",
            f"{(scores.present[scores.right] < least).mean():.1%}" if scores.right.any() else "",
            f"{(scores.absent < least).mean():.1%}",
        ]
        for name, least in points.items()
    ]  # fmt: skip
    header = ["operating point", "least score", "rejected with the thing", "of right masks", "without the thing"]
    return [*lines, compared, Table(header, rows, 1)]
