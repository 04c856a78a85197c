"""From the records of runs to the paper's table, a table per run, and every number in long form.

B is the framework's own result (candidate 0), T the chosen candidate, O the best one of each episode by its
episode-mIoU, the earlier of equals. A metric is computed by fold and seed, averaged over the folds and then over the
seeds (benchmarks, §10.4); an episode that failed counts as an empty mask. Everything is in percent.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from prmagic.evaluation import offline
from prmagic.evaluation.metrics import (
    Areas,
    Values,
    class_miou,
    empty_areas,
    episode_miou,
    foreground_background_iou,
    foreground_iou,
    full_areas,
    interval,
)
from prmagic.evaluation.published import SOURCES, published
from prmagic.evaluation.records import Integers, Records, read_run
from prmagic.evaluation.tables import Block, Bold, Bullets, Heading, Table, latex, markdown
from prmagic.types import BoolArray

EPISODE_MIOU, CLASS_MIOU = "episode-mIoU", "class-mIoU"
METRICS = (EPISODE_MIOU, CLASS_MIOU, "FB-IoU", "episode foreground IoU")
LINES = ("B", "T", "O")
FLOORS = ("empty mask", "full mask")
LIMITED, UNFINISHED = "†", "‡"
LISTED = 20  # failed episodes that are named in a table; JSON has them all


@dataclass(frozen=True)
class Value:
    """A metric in percent. over_folds, over_seeds: sample standard deviations, nan for one fold or seed."""

    mean: float
    over_folds: float
    over_seeds: float


@dataclass(frozen=True, eq=False)
class Summary:
    """One run in numbers. name: its folder, as the user wrote it; selector: what chose T; chosen (n,): T's index.

    values: by metric and quantity, which are B, T, O, "t = 0" …, and the floors "empty mask" and "full mask".
    without_failed: B, T, O as episode-mIoU of the episodes that did not fail, which is what the published code
    averages; empty unless a `paper` preset was run."""

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
    def distinct_gains(self) -> Values:
        """The same for each distinct episode (m,): seeds that repeat one are averaged, for they are not independent."""
        distinct = self.records.distinct
        gains: Values = np.bincount(distinct, self.gains) / np.bincount(distinct)
        return gains

    @cached_property
    def interval(self) -> tuple[float, float]:
        """95 % bootstrap interval of the mean of `distinct_gains`, in points."""
        return interval(self.distinct_gains)

    @property
    def gap_closed(self) -> float:
        """(T − B) / (O − B) of the episode-mIoU in percent; nan where the oracle gains nothing."""
        b, t, o = (self.values[EPISODE_MIOU][line].mean for line in LINES)
        return 100 * (t - b) / (o - b) if o > b else math.nan

    def worse(self, points: float = 0) -> float:
        """The percentage of rows that T makes worse by more than so many points."""
        return 100 * float((self.gains < -points).mean())

    @property
    def mark(self) -> str:
        """Behind the run's numbers, where they are not those of the whole benchmark."""
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
    """All numbers of a run. selector: another one than the run's, as in `offline.choose`; ValueError if unknown."""
    chosen = records.chosen if selector is None else offline.choose(records, selector)
    best = offline.choose(records, "oracle")
    steps = records.areas.shape[1]
    found = {
        "B": records.areas[:, 0],
        "T": _of(records.areas, chosen),
        "O": _of(records.areas, best),
        **{f"t = {step}": records.areas[:, step] for step in range(steps)},
        "empty mask": empty_areas(records.pixels, records.objects),
        "full mask": full_areas(records.pixels, records.objects),
    }
    everything = np.ones(len(records), np.bool_)
    measured = {quantity: _measure(records, areas, everything) for quantity, areas in found.items()}
    spared: dict[str, float] = {}
    if records.about.preset.startswith("paper") and not records.failed.all():
        spared = {line: _measure(records, found[line], ~records.failed)[EPISODE_MIOU].mean for line in LINES}
    return Summary(
        name=str(records.folder),
        records=records,
        selector=records.about.selector if selector is None else selector,
        chosen=chosen,
        values={metric: {quantity: values[metric] for quantity, values in measured.items()} for metric in METRICS},
        without_failed=spared,
    )


def summaries(folders: Sequence[Path], selector: str | None = None) -> list[Summary]:
    """Of each run folder. ValueError if one cannot be read, or is named twice."""
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


def rows(summary: Summary) -> Iterator[dict[str, Any]]:
    """Every number of a run with its metric, its quantity and its unit; None for what is not defined."""
    about = summary.records.about
    head = {
        "run": summary.name,
        "benchmark": about.benchmark,
        "title": about.title,
        "framework": about.framework,
        "shots": about.shots,
        "preset": about.preset,
        "sampling": about.sampling,
        "size": about.size,
        "limit": about.limit,
        "complete": summary.records.complete,
        "selector": summary.selector,
    }

    def row(metric: str, quantity: str, unit: str, value: float, *more: float) -> dict[str, Any]:
        folds, seeds, low, high = (*more, *[math.nan] * (4 - len(more)))
        numbers = {"value": value, "std_over_folds": folds, "std_over_seeds": seeds, "low": low, "high": high}
        finite = {key: number if math.isfinite(number) else None for key, number in numbers.items()}
        return {**head, "metric": metric, "quantity": quantity, "unit": unit, **finite}

    for metric, values in summary.values.items():
        for quantity, value in values.items():
            yield row(metric, quantity, "%", value.mean, value.over_folds, value.over_seeds)
        for line in LINES:
            known = published(metric, line, about.framework, about.shots, about.benchmark)
            if known is not None:
                yield row(metric, f"{line}, published", "%", float(known))
    for line, mean in summary.without_failed.items():
        yield row(EPISODE_MIOU, f"{line}, without failed episodes", "%", mean)
    mean = float(summary.distinct_gains.mean())
    yield row(EPISODE_MIOU, "T - B, distinct episodes", "points", mean, math.nan, math.nan, *summary.interval)
    yield row(EPISODE_MIOU, "share of the oracle gap closed", "%", summary.gap_closed)
    yield row(EPISODE_MIOU, "share of episodes made worse", "%", summary.worse())
    yield row(EPISODE_MIOU, "share of episodes made worse by more than a point", "%", summary.worse(1))
    for what, count in summary.tallies.items():
        yield row("episodes", what, "episodes", count)
    for fold, count in about.classes.items():
        yield row("classes", f"fold {fold}", "classes", count)
    for stage, seconds in summary.records.seconds.items():
        yield row("time per episode", stage, "s", seconds)
    for what, mean in summary.records.counts.items():
        yield row("count per episode", what, "1", mean)


def as_csv(runs: Sequence[Summary]) -> str:
    """Long form, with a header."""
    table = [row for run in runs for row in rows(run)]
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_json(runs: Sequence[Summary]) -> str:
    """{"runs": what was run and which episodes failed, "rows": the long form}."""
    described = [
        {
            "run": run.name,
            "model": run.records.about.model,
            "settings": run.records.about.settings,
            "seeds": run.records.about.seeds,
            "folds": run.records.about.folds,
            "manifests": run.records.about.manifests,
            "failed": [
                {"seed": seed, "episode": id, "class": category, "why": why}
                for seed, id, category, why in _failures(run.records)
            ],
        }
        for run in runs
    ]
    table = [row for run in runs for row in rows(run)]
    return json.dumps({"runs": described, "rows": table}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(runs: Sequence[Summary]) -> str:
    """The paper's table for each of its two metrics, what was run, and a table per run."""
    return markdown(document(runs))


def as_latex(runs: Sequence[Summary]) -> str:
    r"""The same, for \input; no packages are needed."""
    return latex(document(runs))


FORMATS: dict[str, Callable[[Sequence[Summary]], str]] = {
    "md": as_markdown,
    "csv": as_csv,
    "latex": as_latex,
    "json": as_json,
}


def document(runs: Sequence[Summary]) -> list[Block]:
    """All of it, to be printed in one format or the other."""
    blocks: list[Block] = []
    for metric in (EPISODE_MIOU, CLASS_MIOU):
        blocks += [Heading(f"{metric}, %"), _paper_table(runs, metric)]
        if any(_published(run, metric, line) for run in runs for line in LINES):
            blocks.append(f"{SOURCES[metric]}.")
    blocks.append(Bullets(list(_legend(runs))))
    blocks += [Heading("Runs"), _settings_table(runs)]
    for run in runs:
        blocks += _details(run)
    return blocks


def _paper_table(runs: Sequence[Summary], metric: str) -> Table:
    """Frameworks and shots down, benchmarks across; runs that would share a cell get rows of their own."""
    titles = {run.records.about.benchmark: run.records.about.title for run in runs}
    cells = [(run.records.about.framework, run.records.about.shots, run.records.about.benchmark) for run in runs]
    labels = [run.name if cells.count(cell) > 1 else "" for run, cell in zip(runs, cells, strict=True)]
    groups: dict[tuple[str, int, str], dict[str, Summary]] = {}
    for run, (framework, shots, benchmark), label in zip(runs, cells, labels, strict=True):
        groups.setdefault((framework, shots, label), {})[benchmark] = run
    named = any(labels)
    table: list[list[str]] = []
    for (framework, shots, label), row in groups.items():
        head = [framework, f"{shots}-shot", *[label] * named]
        for line in LINES:
            table.append([*head, line, *(_cell(row[key], metric, line) if key in row else "" for key in titles)])
            known = [_published(row[key], metric, line) if key in row else "" for key in titles]
            if any(known):
                table.append([*head, f"{line}, published", *known])
    columns = [f"{title}, {metric}" for title in titles.values()]
    return Table(("framework", "shots", *["run"] * named, "", *columns), table, 3 + named)


def _cell(run: Summary, metric: str, line: str) -> str:
    values = run.values[metric]
    text = f"{values[line].mean:.2f}{run.mark}"
    return Bold(text) if line == "T" and values["T"].mean > values["B"].mean else text


def _published(run: Summary, metric: str, line: str) -> str:
    about = run.records.about
    return published(metric, line, about.framework, about.shots, about.benchmark) or ""


def _legend(runs: Sequence[Summary]) -> Iterator[str]:
    yield (
        "B: the framework's own result; T: the chosen candidate, bold where it beats B; O: the best candidate of each "
        "episode, chosen by its true episode-mIoU."
    )
    yield (
        "Means over the episodes of a fold (class-mIoU: over its classes), then over folds, then over seeds. Failed "
        "episodes count as empty masks."
    )
    if any(LIMITED in run.mark for run in runs):
        yield f"{LIMITED} A limited run: only the first episodes of each fold, so not the benchmark's number."
    if any(UNFINISHED in run.mark for run in runs):
        yield f"{UNFINISHED} The run is not finished: the number is that of the episodes so far."


def _settings_table(runs: Sequence[Summary]) -> Table:
    header = (
        "run", "benchmark", "framework", "shots", "preset", "T chosen by", "episodes", "size", "limit", "folds",
        "seeds", "manifest",
    )  # fmt: skip
    table = []
    for run in runs:
        about = run.records.about
        manifests = {seed: digest[:12] for seed, digest in about.manifests.items()}
        if len(set(manifests.values())) > 1:
            manifest = ", ".join(f"{digest} (seed {seed})" for seed, digest in manifests.items())
        else:
            manifest = "".join(set(manifests.values()))
        table.append(
            [
                run.name, about.title, about.framework, str(about.shots), about.preset, run.selector, about.sampling,
                "the photos'" if about.size is None else f"{about.size} × {about.size}",
                "none" if about.limit is None else str(about.limit), _ranges(about.folds), _ranges(about.seeds),
                manifest,
            ]
        )  # fmt: skip
    return Table(header, table, len(header))


def _details(run: Summary) -> list[Block]:
    about, quantities = run.records.about, list(run.values[EPISODE_MIOU])
    spread = any(math.isfinite(d) for v in run.values[EPISODE_MIOU].values() for d in (v.over_folds, v.over_seeds))
    table = [
        [quantity, *(_with_spread(run.values[metric][quantity], spread) for metric in METRICS)]
        for quantity in quantities
    ]
    explained = "In brackets: the standard deviation over folds / over seeds. " * spread
    blocks: list[Block] = [
        Heading(f"{run.name}: {about.framework} on {about.title}, {about.shots}-shot{run.mark and ' ' + run.mark}"),
        Table(("", *(f"{metric}, %" for metric in METRICS)), table, 1),
        f"{explained}Floors: a mask that is empty, or the whole photo, in each of the same episodes.",
        Bullets(list(_facts(run))),
    ]
    failures = list(_failures(run.records))
    if failures:
        listed = [[str(seed), *rest] for seed, *rest in failures[:LISTED]]
        blocks.append(Table(("seed", "failed episode", "class", "why"), listed, 4))
        if len(failures) > LISTED:
            blocks.append(f"… and {len(failures) - LISTED} more; the json format lists them all.")
    return blocks


def _with_spread(value: Value, shown: bool) -> str:
    spread = " / ".join(f"{d:.2f}" if math.isfinite(d) else "–" for d in (value.over_folds, value.over_seeds))
    return f"{value.mean:.2f} (± {spread})" if shown else f"{value.mean:.2f}"


def _facts(run: Summary) -> Iterator[str]:
    """All that is no metric of a quantity, as sentences."""
    records, tallies = run.records, run.tallies
    settings = records.about.settings
    flow = ", ".join(f"{name} {value}" for name, value in settings.get("flow", {}).items())
    yield f"Model: {records.about.model}. Flow: {flow}. T chosen by {run.selector}."
    seeds = len(np.unique(records.seeds))
    found = f"Episodes: {tallies['found']} of {tallies['expected']}, {tallies['distinct']} of them distinct"
    yield f"{found} ({seeds} seeds)." if seeds > 1 else f"{found}."
    classes = ", ".join(f"{count} in fold {fold}" for fold, count in records.about.classes.items())
    yield f"Classes: {classes}."
    if tallies["missing"]:
        missing = ", ".join(f"{count} of seed {seed}" for seed, count in records.missing.items() if count)
        yield f"The run is not finished: {tallies['missing']} episodes are missing ({missing})."
    yield (
        f"Failed: {tallies['failed']}. Empty ground truths: {tallies['empty ground truth']}. Empty supports: "
        f"{tallies['empty support']}. Empty predictions: B {tallies['empty prediction, B']}, "
        f"T {tallies['empty prediction, T']}."
    )
    low, high = run.interval
    yield (
        f"T − B in episode-mIoU, mean of the distinct episodes: {_signed(float(run.distinct_gains.mean()))} points, "
        f"95 % bootstrap interval {_signed(low)} to {_signed(high)}."
    )
    if math.isfinite(run.gap_closed):
        yield f"Share of the oracle gap closed in episode-mIoU, (T − B) / (O − B): {_minus(f'{run.gap_closed:.1f}')} %."
    yield (
        f"Episodes whose episode-mIoU T makes worse: {run.worse():.1f} %; by more than one point: {run.worse(1):.1f} %."
    )
    if run.without_failed:
        values = ", ".join(f"{line} {mean:.2f}" for line, mean in run.without_failed.items())
        yield f"Without the failed episodes, as the published code for PerSAM averages, episode-mIoU: {values}."
    if records.seconds:
        stages = ", ".join(f"{stage} {seconds:.3g}" for stage, seconds in records.seconds.items())
        yield f"Seconds per episode: {stages}; together {sum(records.seconds.values()):.3g}."
    if records.counts:
        yield f"Per episode: {', '.join(f'{mean:.4g} {what}' for what, mean in records.counts.items())}."


def _failures(records: Records) -> Iterator[tuple[int, str, str, str]]:
    """Seed, episode, class and reason of each that failed."""
    for row, why in records.failures.items():
        yield int(records.seeds[row]), records.ids[row], records.class_names[records.classes[row]], why


def _signed(value: float) -> str:
    return _minus(f"{value:+.2f}")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _ranges(numbers: Sequence[int]) -> str:
    """(0, 1, 2, 5) → "0–2, 5"."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0][1]}–{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)
