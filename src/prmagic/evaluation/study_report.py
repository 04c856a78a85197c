"""What the records of `prmagic study run` say, in tables with intervals; `study_figures.py` draws it.

Intervals resample classes, then the queries of each drawn class; the seeds of one query stay together, because they
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
from numpy.typing import NDArray
from scipy.stats import linregress

from prmagic.evaluation.metrics import (
    Areas,
    Values,
    class_miou,
    empty_areas,
    episode_miou,
    foreground_background_iou,
    full_areas,
)
from prmagic.evaluation.run import selector_name
from prmagic.evaluation.study import DERIVED, RECORDS
from prmagic.evaluation.tables import Block, Heading, Table
from prmagic.names import hint
from prmagic.resumable import RUN
from prmagic.select import SAME, Fusion, choose, consensus, fused, guarded, vetoed

DRAWS = 2000  # of the bootstrap
FUSED = tuple(selector_name(judge) for judge in Fusion.judges)
POINT = 1.0  # of episode-mIoU: an episode that loses more is degraded
LEAST_GAP = 0.1  # points between B and O, of which a share can be told
FIT = 0.9  # R² from which on a decay counts as exponential
# What these go around unless something else is named. They are always worked out from the other scores.
AROUND = {"guard": "guard separation", "veto": "veto cycle-recall", "consensus": "consensus cycle-recall"}
SELECTED = {"flows": ("full",), "selectors": ("resample", "full")}  # where all selectors are compared
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


@dataclass(frozen=True, eq=False)
class Study:
    """lines: by setting its records, all of the same episodes in the same order; left_out: episodes without all,
    those that were not begun included."""

    folder: Path
    run: Mapping[str, Any]
    lines: Mapping[str, Sequence[Mapping[str, Any]]]
    left_out: int

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{self.run['study']}: {self.run['settings']['framework']}, {self.run['model']}"

    @cached_property
    def classes(self) -> list[str]:
        """Of its episodes."""
        return [line["class"] for line in next(iter(self.lines.values()))]

    @cached_property
    def clusters(self) -> Clusters:
        """Of its episodes."""
        return Clusters(self.classes, [line["episode"] for line in next(iter(self.lines.values()))])

    @cached_property
    def episodes(self) -> dict[tuple[int, str], int]:
        """Where each is in the lines, by seed and name."""
        lines = next(iter(self.lines.values()))
        return {(line["seed"], line["episode"]): place for place, line in enumerate(lines)}

    def only(self, episodes: Sequence[tuple[int, str]]) -> Study:
        """These, in this order."""
        places = [self.episodes[each] for each in episodes]
        return replace(self, lines={name: [lines[at] for at in places] for name, lines in self.lines.items()})

    def areas(self, setting: str) -> list[Areas]:
        """Of each episode (candidates, 4)."""
        return [np.array(line["areas"], np.int64) for line in self.lines[setting]]

    def picked(self, setting: str, scores: Sequence[Sequence[float]]) -> Areas:
        """(n, 4): of the candidates with the highest scores."""
        each = zip(self.areas(setting), scores, strict=True)
        return np.stack([found[choose(values)] for found, values in each])

    def scores(self, setting: str, selector: str, end: int | None = None) -> list[list[float]]:
        """A recorded selector's, fusion's, or those of "guard X", "veto X" or "consensus X" around one of these.

        end: of the first so many candidates, as if the flow had ended there."""
        wrapper, _, inner = AROUND.get(selector, selector).rpartition(" ")
        found = []
        for line in self.lines[setting]:
            known = {name: values[:end] for name, values in line["scores"].items()}
            needed = {*FUSED} if inner == "fusion" else {inner}
            missing = (needed | {"cycle", "separation"} if wrapper == "guard" else needed) - set(known)
            if missing or wrapper not in ("", "guard", "veto", "consensus"):
                raise ValueError(
                    f"{self.folder} has no scores {selector!r}: {hint(selector, known)}, or one of them behind guard, "
                    "veto or consensus"
                )
            scores = fused([_lowest(known[name]) for name in FUSED]) if inner == "fusion" else _lowest(known[inner])
            if wrapper == "guard":
                signals = _lowest(known["cycle"]), _lowest(known["separation"])
                scores = guarded(scores, *signals, line["overlap"][0][:end])
            elif wrapper == "veto":
                scores = vetoed(scores, _lowest(line["predicted_iou"][:end]), line["stability"][:end])
            elif wrapper == "consensus":
                scores = consensus(scores, [row[:end] for row in line["overlap"][:end]])
            found.append(scores)
        return found


class Clusters:
    """Which episodes belong together: classes, and in them queries."""

    def __init__(self, classes: Sequence[str], queries: Sequence[str]):
        keys = sorted(set(zip(classes, queries, strict=True)))
        position = {key: index for index, key in enumerate(keys)}
        self.of = np.array([position[key] for key in zip(classes, queries, strict=True)])
        names = sorted({name for name, _ in keys})
        self.members = [[i for i, (name, _) in enumerate(keys) if name == each] for each in names]

    def resampled(self, values: Values, draws: int = DRAWS) -> Values:
        """Sums of values (n, k) over drawn classes and, in each, drawn queries: (draws, classes, k)."""
        rng = np.random.default_rng(0)
        sums = np.zeros((self.of.max() + 1, values.shape[1]))
        np.add.at(sums, self.of, values)
        count = len(self.members)
        drawn = rng.integers(count, size=(draws, count))
        found = np.empty((draws, count, values.shape[1]))
        for chosen, members in enumerate(self.members):
            places = np.nonzero(drawn == chosen)
            queries = rng.integers(len(members), size=(len(places[0]), len(members)))
            found[places] = sums[np.array(members)[queries]].sum(1)
        return found

    def interval(self, values: Values, statistic: Statistic) -> tuple[float, float]:
        """95 % of a statistic of (draws, classes, k) → (draws,)."""
        low, high = np.percentile(statistic(self.resampled(values)), [2.5, 97.5])
        return float(low), float(high)

    def gain(self, metric: Metric, better: Areas, than: Areas) -> tuple[float, float, float]:
        """By how much one set of masks (n, 4) is better than another, and the interval of that."""
        columns = np.concatenate([metric.columns(better), metric.columns(than)], 1)
        half = columns.shape[1] // 2

        def difference(sums: Values) -> Values:
            return metric.of_sums(sums[..., :half]) - metric.of_sums(sums[..., half:])

        sums = np.zeros((len(self.members), 2 * half))
        classes = {cluster: number for number, members in enumerate(self.members) for cluster in members}
        np.add.at(sums, [classes[cluster] for cluster in self.of.tolist()], columns)
        return float(difference(sums)), *self.interval(columns, difference)


@dataclass(frozen=True)
class Rate:
    """‖∇d‖ ≈ a exp(−λ t): λ per step, and the R² of the straight line through its logarithm."""

    rate: float
    r2: float


def fit_rate(norms: Sequence[float | None]) -> Rate | None:
    """Of the norms at steps 0, 1, …; None for fewer than three above 0, or for such that do not change.

    Near the maximum of a concave d both ‖z − z*‖ and ‖∇d‖ fall like exp(−λ t), so that Proposition 1's λ can be read
    off the gradient without knowing where the maximum is."""
    steps, values = (
        np.array([(step, norm) for step, norm in enumerate(norms) if norm and norm < math.inf]).reshape(-1, 2).T
    )
    if len(values) < 3 or np.ptp(values) == 0:
        return None
    line = linregress(steps, np.log(values))
    return Rate(-float(line.slope), float(line.rvalue) ** 2)


def read(folder: Path) -> Study:
    """ValueError for a folder that `prmagic study run` did not write, that is damaged, or has no whole episode yet."""
    unfinished = ValueError(f"{folder} has no episode with all of its settings yet: let `prmagic study run` go on")
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"{folder} is no folder of `prmagic study run`: {error.filename} is missing") from None
    except ValueError:
        raise ValueError(f"{folder / RUN} is damaged: it is no JSON") from None
    if not isinstance(run, dict) or "study" not in run:
        raise ValueError(f"{folder / RUN} is not of a study: `prmagic report` reads the runs of `prmagic evaluate`")
    if missing := {"settings", "flows", "seeds", "selector_name", "model", "manifests"} - {
        name for name, value in run.items() if value is not None
    }:
        raise ValueError(f"{folder / RUN} is damaged: it has no {', '.join(sorted(missing))}")
    if not (folder / RECORDS).exists():
        raise unfinished
    content = (folder / RECORDS).read_bytes()
    by_episode: dict[tuple[int, str], dict[str, Any]] = {}
    # The last line may still be being written.
    for number, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), 1):
        try:
            record = json.loads(line)
            record["class"]
            by_episode.setdefault((record["seed"], record["episode"]), {})[record["setting"]] = record
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{folder / RECORDS}, line {number}, is damaged: the same `prmagic study run` drops it and goes on"
            ) from None
    names = list(run["flows"])
    whole = [
        found for _, found in sorted(by_episode.items())
        if set(found) == set(names) and not any("failed" in record for record in found.values())
    ]  # fmt: skip
    if not whole:
        raise unfinished
    lines = {name: [found[name] for found in whole] for name in names}
    planned = sum(run.get("episodes", {}).values()) or len(by_episode)  # older runs do not say
    return Study(folder, run, lines, planned - len(whole))


def together(studies: Sequence[Study]) -> list[Study]:
    """Runs that differ in nothing but their seeds, which several processes can share, are one study.

    ValueError if two of them have a seed in common."""
    groups: dict[str, list[Study]] = {}
    for study in studies:
        alike = {name: value for name, value in study.run.items() if name not in ("seeds", "manifests", "episodes")}
        groups.setdefault(json.dumps(alike, sort_keys=True), []).append(study)
    return [_joined(group) for group in groups.values()]


def _joined(group: Sequence[Study]) -> Study:
    first, *others = group
    if not others:
        return first
    seeds = [seed for study in group for seed in study.run["seeds"]]
    if len(set(seeds)) < len(seeds):
        names = ", ".join(str(study.folder) for study in group)
        raise ValueError(
            f"{names} are runs of one study with a seed in common, which would count twice: name one of them"
        )
    lines = {setting: [line for study in group for line in study.lines[setting]] for setting in first.lines}
    manifests = {seed: digest for study in group for seed, digest in study.run["manifests"].items()}
    return Study(
        first.folder,
        {**first.run, "seeds": seeds, "manifests": manifests},
        lines,
        sum(study.left_out for study in group),
    )


def document(study: Study, selector: str | None = None) -> list[Block]:
    """All that a study has to tell. selector: which one T is, by default the run's own."""
    selector = selector or study.run["selector_name"]
    first = next(iter(study.lines.values()))
    classes = study.classes
    pixels, objects = [line["pixels"] for line in first], [line["object"] for line in first]
    floors = [
        f"{name} {100 * episode_miou(found).mean():.2f} and {100 * class_miou(found, classes):.2f}"
        for name, found in (("empty", empty_areas(pixels, objects)), ("full", full_areas(pixels, objects)))
    ]
    intervals = f"in brackets, of {DRAWS} resamplings of classes, then queries"
    return [
        Heading(study.title),
        f"{len(first)} episodes of {len(set(classes))} classes, seeds {', '.join(map(str, study.run['seeds']))}; "
        f"{study.left_out} left out because they failed or are unfinished. "
        f"Masks of nothing and of the whole photo score (episode-mIoU and class-mIoU): {'; '.join(floors)}. "
        f"T by {selector}; 95 % intervals {intervals}.",
        _settings_table(study, selector),
        _pooled_table(study, selector),
        *_against(study, selector),
        *(
            _selectors_table(study, setting)
            for setting in study.lines
            if setting in SELECTED.get(study.run["study"], ())
        ),
        "What the flow did, medians over episodes: d at the first and the last step, the shift in parts of the "
        "embedding's own root mean square, how far the points moved in all; and λ of ‖∇d‖ ≈ a exp(−λ t), per step, "
        f"with the quartiles, and the share of episodes in which it decays (λ > 0) with R² ≥ {FIT}.",
        _path_table(study),
    ]


def _settings_table(study: Study, selector: str) -> Table:
    rows = [
        [setting, *_per_episode(study, *chosen(study, setting, selector)), f"{_distinct(study, setting):.1f}"]
        for setting in study.lines
    ]
    return Table(["setting", *PER_EPISODE, "distinct masks"], rows, 1)


def _pooled_table(study: Study, selector: str) -> Table:
    rows = []
    for setting in study.lines:
        b, t, o = chosen(study, setting, selector)
        both = [f"{100 * foreground_background_iou(each):.2f}" for each in (b, t, o)]
        rows.append([setting, *_per_class(study, b, t, o), *both, _gain(study, "FB-IoU", t, b)])
    return Table(["setting", *PER_CLASS, "B, FB-IoU", "T", "O", "T − B"], rows, 1)


PER_EPISODE = ("B, episode-mIoU", "T", "O", "T − B", "gap closed", f"worse by > {POINT:g}")
PER_CLASS = ("B, class-mIoU", "T", "O", "T − B")


def chosen(study: Study, setting: str, selector: str) -> tuple[Areas, Areas, Areas]:
    """Of the masks B, T and O, (n, 4) each."""
    b, o = _unaided(study, setting)
    return b, study.picked(setting, study.scores(setting, selector)), o


def _unaided(study: Study, setting: str) -> tuple[Areas, Areas]:
    """Of the masks B and O, which no selector has a say in."""
    candidates = study.areas(setting)
    b, o = ([each[at(each)] for each in candidates] for at in (lambda _: 0, best))
    return np.stack(b), np.stack(o)


def best(found: Areas) -> int:
    """Which of the candidates (k, 4) the oracle takes."""
    return int(episode_miou(found).argmax())


def _per_episode(study: Study, b: Areas, t: Areas, o: Areas) -> list[str]:
    means = [100 * episode_miou(found) for found in (b, t, o)]
    gains, gap = means[1] - means[0], (means[2] - means[0]).mean()
    return [
        *(f"{each.mean():.2f}" for each in means),
        _gain(study, "episode-mIoU", t, b),
        _minus(f"{100 * gains.mean() / gap:.0f} %") if gap >= LEAST_GAP else "–",
        f"{100 * (gains < -POINT).mean():.1f} %",
    ]


def _per_class(study: Study, b: Areas, t: Areas, o: Areas) -> list[str]:
    pooled = [f"{100 * class_miou(found, study.classes):.2f}" for found in (b, t, o)]
    return [*pooled, _gain(study, "class-mIoU", t, b)]


def _gain(study: Study, metric: str, better: Areas, than: Areas) -> str:
    """In points, with its interval."""
    value, low, high = (100 * each for each in study.clusters.gain(METRICS[metric], better, than))
    return _minus(f"{value:+.2f} [{low:+.2f}, {high:+.2f}]")


def _against(study: Study, selector: str) -> Iterator[Block]:
    """T of the full flow minus T of every other one with as many candidates."""
    if "full" not in study.lines or len(study.lines) == 1:
        return
    scores = {setting: study.scores(setting, selector) for setting in study.lines}
    full = study.picked("full", scores["full"])
    rows = []
    for setting in study.lines:
        if setting != "full" and len(scores[setting][0]) == len(scores["full"][0]):
            other = study.picked(setting, scores[setting])
            rows.append([setting, *(_gain(study, metric, full, other) for metric in METRICS)])
    if rows:
        yield Table(["T of full minus T of", *METRICS], rows, 1)


def paired(studies: Sequence[Study], setting: str, selector: str | None = None) -> list[Block]:
    """T and O of every setting of these studies minus those of the first that has this one, on shared episodes.

    ValueError if none has that setting, or if another one's models, settings, shots or data differ."""
    base = next((study for study in studies if setting in study.lines), None)
    if base is None:
        known = [name for study in studies for name in study.lines]
        raise ValueError(f"no run has the setting {setting!r}: {hint(setting, known)}")
    lone = len({study.run["study"] for study in studies}) == len(studies)
    rows = []
    for study in studies:
        for what in ("model", "settings", "shots", "size", "dataset_options"):
            if study.run.get(what) != base.run.get(what):
                raise ValueError(
                    f"{study.folder} and {base.folder} cannot be compared episode by episode: their {what} differ"
                )
        shared = sorted(study.episodes.keys() & base.episodes.keys())
        if not shared:
            raise ValueError(f"{study.folder} and {base.folder} have no episode in common")
        ours, theirs = study.only(shared), base.only(shared)
        for one, other in zip(*(next(iter(each.lines.values())) for each in (ours, theirs)), strict=True):
            if (one["class"], one["query"]) != (other["class"], other["query"]):
                raise ValueError(
                    f"{study.folder} and {base.folder} are not of the same data: episode {one['episode']} is of "
                    f"{one['query']} ({one['class']}) in one and of {other['query']} ({other['class']}) in the other"
                )
        _, *than = chosen(theirs, setting, selector or base.run["selector_name"])
        for name in study.lines:
            if (study, name) != (base, setting):
                _, *better = chosen(ours, name, selector or study.run["selector_name"])
                gains = [_gain(ours, metric, *pair) for pair in zip(better, than, strict=True) for metric in METRICS]
                title = study.run["study"] if lone else f"{study.run['study']} in {study.folder}"
                rows.append([f"{title}: {name}", str(len(shared)), *gains])
    header = [f"{kind} − that of {setting}, {metric}" for kind in "TO" for metric in METRICS]
    place = "" if lone else f", in {base.folder}"
    return [Heading(f"Against {setting} of {base.title}{place}"), Table(["setting", "episodes", *header], rows, 1)]


def _selectors_table(study: Study, setting: str) -> Table:
    """Every selector on the same candidates; beside a guard, its proposals let through at random, as many of them."""
    recorded = [name for name in study.lines[setting][0]["scores"] if name not in DERIVED]
    derived = ["fusion", AROUND["consensus"], AROUND["veto"]]
    derived += [f"guard {name}" for name in (*recorded, "fusion")]
    b, o = _unaided(study, setting)
    rows = []
    for name in (*recorded, *derived):
        scores = study.scores(setting, name)
        control = [""] * 4
        if name.startswith("guard "):
            control = _random_fallback(study, setting, scores, study.scores(setting, name.removeprefix("guard ")))
        t = study.picked(setting, scores)
        rows.append([name, *_per_episode(study, b, t, o), *_per_class(study, b, t, o), *control])
    header = [
        f"selector, {setting}",
        *PER_EPISODE,
        *PER_CLASS,
        "rejected",
        "random: T − B",
        f"random: worse by > {POINT:g}",
        "guard − random",
    ]
    return Table(header, rows, 1)


def _random_fallback(
    study: Study, setting: str, scores: Sequence[Sequence[float]], proposals: Sequence[Sequence[float]]
) -> list[str]:
    """Which share of the proposals that change something the guard rejects, and what to expect if as many of them,
    drawn at random, had been: T − B, degraded episodes, and how much more the guard gains. What changes nothing
    is rejected by both."""
    overlap = [line["overlap"][0] for line in study.lines[setting]]
    proposed = np.array([same[choose(each)] <= SAME for same, each in zip(overlap, proposals, strict=True)])
    rejected = proposed & np.array([choose(each) == 0 for each in scores])
    kept = 1 - rejected.sum() / max(1, proposed.sum())
    baseline = np.stack([each[0] for each in study.areas(setting)])
    gains, guarded_gains = (
        100 * (episode_miou(study.picked(setting, each)) - episode_miou(baseline)) for each in (proposals, scores)
    )
    changes = proposed * gains
    columns = np.stack([guarded_gains, changes, proposed, rejected, np.ones(len(gains))], 1)

    def more(sums: Values) -> Values:
        guard, random, proposals, thrown, episodes = np.moveaxis(sums.sum(-2), -1, 0)
        found: Values = (guard - (1 - thrown / np.maximum(proposals, 1)) * random) / episodes
        return found

    low, high = study.clusters.interval(columns, more)
    return [
        f"{100 * (1 - kept):.0f} %" if proposed.any() else "–",
        _minus(f"{kept * changes.mean():+.2f}"),
        f"{100 * kept * (changes < -POINT).mean():.1f} %",
        _minus(f"{float(more(columns)):+.2f} [{low:+.2f}, {high:+.2f}]"),
    ]


def _path_table(study: Study) -> Table:
    rows = []
    for setting, lines in study.lines.items():
        if len(lines[0]["d"]) == 1:
            continue
        found = rates(study, setting)
        decays = [each.rate for each in found]
        row = [f"{np.median([line['d'][at] for line in lines]):.4g}" for at in (0, -1)]
        row.append(f"{100 * np.mean([line['d'][-1] > line['d'][0] for line in lines]):.0f} %")
        row.append(f"{np.median([line['shift_rms'][-1] for line in lines]):.3g}")
        row.append(f"{np.median([sum(line['moved']) for line in lines]):.1f}")
        if found:
            low, middle, high = np.percentile(decays, [25, 50, 75])
            held = np.mean([each.rate > 0 and each.r2 >= FIT for each in found])
            row += [f"{middle:.3g} [{low:.3g}, {high:.3g}]", f"{100 * held:.0f} %"]
        else:
            row += ["–", "–"]
        rows.append([setting, *map(_minus, row)])
    return Table(
        ["setting", "d at t = 0", "d at T", "d rises", "rms of G_T", "points, pixels", "λ", "exponential"], rows, 1
    )


def rates(study: Study, setting: str) -> list[Rate]:
    """Of the episodes in which there is one to fit; of none where the steps have a length of their own or the gradient
    is always taken at z₀: there ‖∇d‖ says nothing of how near the maximum is."""
    flow = study.run["flows"][setting]
    if flow["rho"] is not None or flow["gradient_at_origin"]:
        return []
    fitted = (fit_rate(line["gradient_norm"]) for line in study.lines[setting])
    return [rate for rate in fitted if rate is not None]


def _distinct(study: Study, setting: str) -> float:
    """How many of the candidates differ; masks that overlap to four digits count as one."""
    return float(np.mean([_groups(np.array(line["overlap"])) for line in study.lines[setting]]))


def _groups(overlap: NDArray[np.float64]) -> int:
    return sum(not (overlap[index, :index] == 1).any() for index in range(len(overlap)))


def _lowest(scores: Sequence[float | None]) -> list[float]:
    return [-math.inf if score is None else score for score in scores]


def _minus(number: str) -> str:
    return number.replace("-", "−")
