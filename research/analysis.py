"""What the records of a study say: tables with intervals.

Intervals resample classes, then the queries of each drawn class. The seeds of one query stay together, because they
see the same photo.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import linregress

from prmagic.evaluation.tables import Block, Heading, Table
from prmagic.io.records import RUN
from prmagic.metrics import (
    Areas,
    Clusters,
    Values,
    class_miou,
    empty_areas,
    episode_miou,
    foreground_background_iou,
    full_areas,
)
from prmagic.names import hint
from prmagic.select import best
from runner import RECORDS

POINT = 1.0  # of episode-mIoU: an episode that loses more is worse
LEAST_GAP = 0.1  # points between B and O, of which a share can be told
FIT = 0.9  # R² from which on a decay counts as exponential
Statistic = Callable[[Values], Values]


@dataclass(frozen=True)
class Metric:
    """A mean over episodes, or a ratio of sums over them, so that it can be had of any resampling.

    columns: of masks (n, 4) what is summed, (n, k); of_sums: of such sums by class (…, classes, k) the metric, (…)."""

    columns: Callable[[Areas], Values]
    of_sums: Statistic


METRICS = {
    "episode-mIoU": Metric(
        lambda found: np.stack([episode_miou(found), np.ones(len(found))], 1),
        lambda sums: sums[..., 0].sum(-1) / sums[..., 1].sum(-1),
    ),
    "class-mIoU": Metric(lambda found: found[:, 2:].astype(float), lambda sums: _ratio(sums).mean(-1)),
    "FB-IoU": Metric(
        lambda found: found.astype(float),
        lambda sums: (_ratio(sums[..., :2].sum(-2)) + _ratio(sums[..., 2:].sum(-2))) / 2,
    ),
}


def _ratio(sums: Values) -> Values:
    share: Values = sums[..., 0] / np.maximum(sums[..., 1], 1)
    return share


def gain(clusters: Clusters, metric: Metric, better: Areas, than: Areas) -> tuple[float, float, float]:
    """By how much one set of masks (n, 4) is better than another, and the 95 % interval of that."""
    columns = np.concatenate([metric.columns(better), metric.columns(than)], 1)
    half = columns.shape[1] // 2

    def difference(sums: Values) -> Values:
        found: Values = metric.of_sums(sums[..., :half]) - metric.of_sums(sums[..., half:])
        return found

    sums = np.zeros((len(clusters.members), 2 * half))
    classes = {cluster: number for number, members in enumerate(clusters.members) for cluster in members}
    np.add.at(sums, [classes[cluster] for cluster in clusters.of.tolist()], columns)
    return float(difference(sums)), *clusters.interval(columns, difference)


@dataclass(frozen=True, eq=False)
class Records:
    """The records of a study.

    lines: by setting its records, all of the same episodes in the same order; left_out: episodes that failed or lack a
    setting."""

    folder: Path
    run: Mapping[str, Any]
    lines: Mapping[str, Sequence[Mapping[str, Any]]]
    left_out: int

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{self.run['study']}: {self.run['settings']['framework']}, {self.run['model']}"

    @cached_property
    def first(self) -> Sequence[Mapping[str, Any]]:
        """The first setting's lines, for what all settings share."""
        return next(iter(self.lines.values()))

    @cached_property
    def classes(self) -> list[str]:
        """Of its episodes."""
        return [line["class"] for line in self.first]

    @cached_property
    def clusters(self) -> Clusters:
        """Of its episodes."""
        return Clusters(self.classes, [line["episode"] for line in self.first])

    @cached_property
    def episodes(self) -> dict[tuple[int, str], int]:
        """Where each is in the lines, by seed and name."""
        return {(line["seed"], line["episode"]): place for place, line in enumerate(self.first)}

    def only(self, episodes: Sequence[tuple[int, str]]) -> Records:
        """These, in this order."""
        places = [self.episodes[each] for each in episodes]
        return replace(self, lines={name: [lines[at] for at in places] for name, lines in self.lines.items()})

    def masks(self, setting: str, selector: str) -> tuple[Areas, Areas, Areas]:
        """B, T and O: (n, 4) each."""
        areas = [np.array(line["areas"], np.int64) for line in self.lines[setting]]
        picks = [best(scores) for scores in self.scores(setting, selector)]
        oracle = [int(episode_miou(each).argmax()) for each in areas]
        return (
            np.stack([each[0] for each in areas]),
            np.stack([each[at] for each, at in zip(areas, picks, strict=True)]),
            np.stack([each[at] for each, at in zip(areas, oracle, strict=True)]),
        )

    def scores(self, setting: str, selector: str) -> list[list[float]]:
        """A selector's, as they were recorded."""
        known = self.lines[setting][0]["scores"]
        if selector not in known:
            raise ValueError(f"{self.folder} has no scores {selector!r}: {hint(selector, known)}")
        return [
            [-math.inf if score is None else score for score in line["scores"][selector]]
            for line in self.lines[setting]
        ]


def read(folder: Path) -> Records:
    """ValueError for a folder that is no study's, that is damaged, or has no whole episode yet."""
    unfinished = ValueError(f"{folder} has no episode with all of its settings yet: let `study.py run` go on")
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is no folder of `study.py run`: {error.filename} is missing") from None
    except ValueError:
        raise ValueError(f"{folder / RUN} is damaged: it is no JSON") from None
    if not isinstance(run, dict) or "study" not in run:
        raise ValueError(f"{folder / RUN} is not of a study: `prmagic report` reads the runs of `prmagic evaluate`")
    if not (folder / RECORDS).exists():
        raise unfinished
    content = (folder / RECORDS).read_bytes()
    by_episode: dict[tuple[int, str], dict[str, Any]] = {}
    # The last line may still be being written.
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            by_episode.setdefault((record["seed"], record["episode"]), {})[record["setting"]] = record
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{folder / RECORDS}, line {number}, is damaged: the same `study.py run` drops it and goes on"
            ) from None
    names = list(run["flows"])
    whole = [
        found for _, found in sorted(by_episode.items())
        if set(found) == set(names) and not any("failed" in record for record in found.values())
    ]  # fmt: skip
    if not whole:
        raise unfinished
    lines = {name: [found[name] for found in whole] for name in names}
    return Records(folder, run, lines, sum(run["episodes"].values()) - len(whole))


def together(studies: Sequence[Records]) -> list[Records]:
    """Runs that differ in nothing but their seeds become one study; ValueError if two have a seed in common."""
    groups: dict[str, list[Records]] = {}
    for study in studies:
        alike = {name: value for name, value in study.run.items() if name not in ("seeds", "manifests", "episodes")}
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(study)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Records]) -> Records:
    first = group[0]
    seeds = [seed for study in group for seed in study.run["seeds"]]
    if len(set(seeds)) < len(seeds):
        names = ", ".join(str(study.folder) for study in group)
        raise ValueError(f"{names} have a seed in common, which would count twice: name one of them")
    lines = {setting: [line for study in group for line in study.lines[setting]] for setting in first.lines}
    return Records(first.folder, {**first.run, "seeds": seeds}, lines, sum(study.left_out for study in group))


def document(study: Records, selector: str | None = None) -> list[Block]:
    """All that a study has to tell. selector: which one T is, by default the run's own."""
    selector = selector or study.run["selector"]
    pixels, objects = [line["pixels"] for line in study.first], [line["object"] for line in study.first]
    floors = "; ".join(
        f"{name} {100 * episode_miou(found).mean():.2f} and {100 * class_miou(found, study.classes):.2f}"
        for name, found in (("empty", empty_areas(pixels, objects)), ("full", full_areas(pixels, objects)))
    )
    rows = {setting: study.masks(setting, selector) for setting in study.lines}
    blocks: list[Block] = [
        Heading(study.title),
        f"{len(study.first)} episodes of {len(set(study.classes))} classes, seeds "
        f"{', '.join(map(str, study.run['seeds']))}; {study.left_out} left out because they failed or are unfinished. "
        f"Masks of nothing and of the whole photo score (episode-mIoU and class-mIoU): {floors}. "
        f"T by {selector}; 95 % intervals in brackets.",
        _metrics_table("setting", study, rows),
        *_full_against_others(study, rows),
    ]
    if "full" in study.lines:
        judged = {name: study.masks("full", name) for name in study.lines["full"][0]["scores"]}
        blocks.append(_metrics_table("selector, full flow", study, judged))
    return [
        *blocks,
        "What the flow did, medians over episodes: d at the first and the last step; the shift as a share of the "
        "embedding's root mean square; how far the points moved in all; how many masks differ; λ of ‖∇d‖ ≈ a exp(−λ t) "
        f"with its quartiles, and the share of episodes in which it decays (λ > 0) with R² ≥ {FIT}.",
        _path_table(study),
    ]


def _metrics_table(name: str, study: Records, rows: Mapping[str, tuple[Areas, Areas, Areas]]) -> Table:
    header = [name, "B, episode-mIoU", "T", "O", "T − B", "gap closed", f"worse by > {POINT:g}"]
    header += [f"{column}, {metric}" for metric in ("class-mIoU", "FB-IoU") for column in ("B", "T", "O", "T − B")]
    return Table(header, [[row, *_figures(study, *masks)] for row, masks in rows.items()], 1)


def _figures(study: Records, b: Areas, t: Areas, o: Areas) -> list[str]:
    means = [100 * episode_miou(found) for found in (b, t, o)]
    gains, gap = means[1] - means[0], (means[2] - means[0]).mean()
    found = [
        *(f"{each.mean():.2f}" for each in means),
        _gain(study, "episode-mIoU", t, b),
        _minus(f"{100 * gains.mean() / gap:.0f} %") if gap >= LEAST_GAP else "–",
        f"{100 * (gains < -POINT).mean():.1f} %",
    ]
    found += [f"{100 * class_miou(each, study.classes):.2f}" for each in (b, t, o)]
    found.append(_gain(study, "class-mIoU", t, b))
    found += [f"{100 * foreground_background_iou(each):.2f}" for each in (b, t, o)]
    return [*found, _gain(study, "FB-IoU", t, b)]


def _gain(study: Records, metric: str, better: Areas, than: Areas) -> str:
    """In points, with its interval."""
    value, low, high = (100 * each for each in gain(study.clusters, METRICS[metric], better, than))
    return _minus(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")


def _full_against_others(study: Records, rows: Mapping[str, tuple[Areas, Areas, Areas]]) -> Iterator[Block]:
    if "full" not in rows:
        return
    others = [
        [setting, *(_gain(study, metric, rows["full"][1], masks[1]) for metric in METRICS)]
        for setting, masks in rows.items() if setting != "full"
    ]  # fmt: skip
    yield Table(["T of full minus T of", *METRICS], others, 1)


def paired(studies: Sequence[Records], setting: str, selector: str | None = None) -> list[Block]:
    """T and O of every setting of these studies minus those of the first that has this one, on shared episodes.

    ValueError if none has that setting, or if another one's models, settings, shots or data differ."""
    base = next((study for study in studies if setting in study.lines), None)
    if base is None:
        known = [name for study in studies for name in study.lines]
        raise ValueError(f"no run has the setting {setting!r}: {hint(setting, known)}")
    rows = []
    for study in studies:
        for what in ("model", "settings", "shots", "dataset_options"):
            if study.run.get(what) != base.run.get(what):
                raise ValueError(
                    f"{study.folder} and {base.folder} cannot be compared episode by episode: their {what} differ"
                )
        shared = sorted(study.episodes.keys() & base.episodes.keys())
        if not shared:
            raise ValueError(f"{study.folder} and {base.folder} have no episode in common")
        ours, theirs = study.only(shared), base.only(shared)
        for one, other in zip(ours.first, theirs.first, strict=True):
            if (one["class"], one["query"]) != (other["class"], other["query"]):
                raise ValueError(
                    f"{study.folder} and {base.folder} are not of the same data: episode {one['episode']} is of "
                    f"{one['query']} ({one['class']}) in one and of {other['query']} ({other['class']}) in the other"
                )
        _, *than = theirs.masks(setting, selector or base.run["selector"])
        for name in study.lines:
            if (study, name) != (base, setting):
                _, *better = ours.masks(name, selector or study.run["selector"])
                gains = [_gain(ours, metric, *pair) for pair in zip(better, than, strict=True) for metric in METRICS]
                rows.append([f"{name}, in {study.folder}", str(len(shared)), *gains])
    header = [f"{kind} − that of {setting}, {metric}" for kind in "TO" for metric in METRICS]
    heading = Heading(f"Against {setting} in {base.folder}: {base.title}")
    return [heading, Table(["setting", "episodes", *header], rows, 1)]


@dataclass(frozen=True)
class Rate:
    """‖∇d‖ ≈ a exp(−λ t): λ per step, and the R² of the straight line through its logarithm."""

    rate: float
    r2: float


def fit_rate(norms: Sequence[float | None]) -> Rate | None:
    """Of the norms at steps 0, 1, …; None for fewer than three above 0, or for such that do not change.

    Near the maximum of a concave d both ‖z − z*‖ and ‖∇d‖ fall like exp(−λ t), so that Proposition 1's λ can be read
    off the gradient without knowing where the maximum is."""
    known = [(step, norm) for step, norm in enumerate(norms) if norm and norm < math.inf]
    steps, values = np.array(known).reshape(-1, 2).T
    if len(values) < 3 or np.ptp(values) == 0:
        return None
    line = linregress(steps, np.log(values))
    return Rate(-float(line.slope), float(line.rvalue) ** 2)


def _path_table(study: Records) -> Table:
    rows = []
    for setting, lines in study.lines.items():
        if len(lines[0]["d"]) == 1:
            continue
        fitted = [rate for line in lines if (rate := fit_rate(line["gradient_norm"])) is not None]
        row = [f"{np.median([line['d'][at] for line in lines]):.4g}" for at in (0, -1)]
        row.append(f"{100 * np.mean([line['d'][-1] > line['d'][0] for line in lines]):.0f} %")
        row.append(f"{np.median([line['shift_rms'][-1] for line in lines]):.3g}")
        row.append(f"{np.median([sum(line['moved']) for line in lines]):.1f}")
        row.append(f"{np.mean([line['distinct'] for line in lines]):.1f}")
        # Where steps have a length of their own, ‖∇d‖ does not say how near the maximum is.
        if fitted and study.run["flows"][setting]["rho"] is None:
            low, middle, high = np.percentile([each.rate for each in fitted], [25, 50, 75])
            held = np.mean([each.rate > 0 and each.r2 >= FIT for each in fitted])
            row += [f"{middle:.3g} [{low:.3g}, {high:.3g}]", f"{100 * held:.0f} %"]
        else:
            row += ["–", "–"]
        rows.append([setting, *map(_minus, row)])
    header = ["setting", "d at t = 0", "d at T", "d rises", "rms of G_T", "points, pixels", "distinct masks", "λ"]
    return Table([*header, "exponential"], rows, 1)


def _minus(number: str) -> str:
    return number.replace("-", "−")
