"""The report as headings, tables and sentences, to be printed as Markdown or LaTeX."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from prmagic.evaluation.published_numbers import SOURCES, published_number
from prmagic.evaluation.records import Records
from prmagic.evaluation.summary import (
    CLASS_MIOU,
    EPISODE_MIOU,
    LIMITED,
    LINES,
    METRICS,
    POINT,
    UNFINISHED,
    Estimate,
    Summary,
    Value,
)
from prmagic.evaluation.tables import Block, Bold, Bullets, Heading, Table
from prmagic.flow import USED

LISTED = 20  # failed episodes that are named in a table; JSON has them all


def document(runs: Sequence[Summary]) -> list[Block]:
    """The paper's table for each of the two metrics, what was run, and a table per run."""
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


def failed_episodes(records: Records) -> Iterator[tuple[int, str, str, str]]:
    """Seed, episode, class and reason of each that failed."""
    for row, why in records.failures.items():
        yield int(records.seeds[row]), records.ids[row], records.class_names[records.classes[row]], why


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
    return published_number(metric, line, about.framework, about.shots, about.benchmark) or ""


def _legend(runs: Sequence[Summary]) -> Iterator[str]:
    yield (
        "B: the framework's own result. T: the chosen candidate, bold where it beats B. O: the best candidate of each "
        "episode, chosen by its true episode-mIoU."
    )
    yield (
        "Means over the episodes of a fold (class-mIoU: over its classes), then over folds, then over seeds. Failed "
        "episodes count as empty masks."
    )
    yield (
        "Intervals are 95 % bootstrap intervals. They resample the classes, and then the queries of each drawn class, "
        "with all supports and seeds of a query together."
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
        table.append(
            [
                run.name, about.title, about.framework, str(about.shots), about.preset, run.selector, about.sampling,
                "the photos'" if about.size is None else f"{about.size} × {about.size}",
                "none" if about.limit is None else str(about.limit), _ranges(about.folds), _ranges(about.seeds),
                _manifest(run),
            ]
        )  # fmt: skip
    return Table(header, table, len(header))


def _manifest(run: Summary) -> str:
    """The first digits of the manifests' SHA-256, once if all seeds have the same."""
    manifests = {seed: digest[:12] for seed, digest in run.records.about.manifests.items()}
    if len(set(manifests.values())) > 1:
        return ", ".join(f"{digest} (seed {seed})" for seed, digest in manifests.items())
    return "".join(set(manifests.values()))


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
        Bullets([*_counted(run), *_compared(run), *_spent(run)]),
    ]
    failures = list(failed_episodes(run.records))
    if failures:
        listed = [[str(seed), *rest] for seed, *rest in failures[:LISTED]]
        blocks.append(Table(("seed", "failed episode", "class", "why"), listed, 4))
        if len(failures) > LISTED:
            blocks.append(f"… and {len(failures) - LISTED} more; the json format lists them all.")
    return blocks


def _with_spread(value: Value, shown: bool) -> str:
    spread = " / ".join(f"{d:.2f}" if math.isfinite(d) else "–" for d in (value.over_folds, value.over_seeds))
    return f"{value.mean:.2f} (± {spread})" if shown else f"{value.mean:.2f}"


def _counted(run: Summary) -> Iterator[str]:
    """Sentences on what was run, and how many episodes there are."""
    records, tallies = run.records, run.tallies
    yield f"Model: {records.about.model}. Flow: {_flow(records.about.settings)}. T chosen by {run.selector}."
    seeds = len(np.unique(records.seeds))
    found = f"Episodes: {tallies['found']} of {tallies['expected']}, {tallies['distinct']} of them distinct"
    yield f"{found} ({seeds} seeds)." if seeds > 1 else f"{found}."
    classes = ", ".join(
        f"{run} in fold {fold}" if run == count else f"{run} of the {count} in fold {fold}"
        for (fold, count), run in zip(records.about.classes.items(), records.classes_run.values(), strict=True)
    )
    yield f"Classes: {classes}."
    if tallies["missing"]:
        missing = ", ".join(f"{count} of seed {seed}" for seed, count in records.missing.items() if count)
        yield f"The run is not finished: {tallies['missing']} episodes are missing ({missing})."
    yield (
        f"Failed: {tallies['failed']}. Empty ground truths: {tallies['empty ground truth']}. Empty supports: "
        f"{tallies['empty support']}. Empty predictions: B {tallies['empty prediction, B']}, "
        f"T {tallies['empty prediction, T']}."
    )


def _flow(settings: Mapping[str, Any]) -> str:
    """The mode, and the fields that it looks at; of a flow that is not known here, all that run.json says."""
    said = dict(settings.get("flow", {}))
    mode = str(said.get("mode"))
    if mode not in USED:
        return ", ".join(f"{name} {value}" for name, value in said.items())
    used = [f"{name} {said[name]}" for name in USED[mode] if said.get(name) is not None]
    return ", ".join([mode, *used])


def _compared(run: Summary) -> Iterator[str]:
    """Sentences on T beside B and O, in episode-mIoU."""
    gain = run.gain
    yield (
        f"T − B in episode-mIoU, mean of all episodes: {_signed(gain.mean)} points, 95 % interval "
        f"{_signed(gain.low)} to {_signed(gain.high)}."
    )
    if math.isfinite(run.gap_closed):
        yield f"Share of the oracle gap closed in episode-mIoU, (T − B) / (O − B): {_minus(f'{run.gap_closed:.1f}')} %."
    yield (
        f"Episodes that T makes worse in episode-mIoU: {_share(run.worse())}; by more than a point: "
        f"{_share(run.worse(POINT))}."
    )
    if run.without_failed:
        values = ", ".join(f"{line} {mean:.2f}" for line, mean in run.without_failed.items())
        yield f"Without the failed episodes, as the published code for PerSAM averages, episode-mIoU: {values}."


def _spent(run: Summary) -> Iterator[str]:
    """Sentences on time and work."""
    records = run.records
    if records.seconds:
        stages = ", ".join(f"{stage} {seconds:.3g}" for stage, seconds in records.seconds.items())
        yield f"Seconds per episode: {stages}; together {sum(records.seconds.values()):.3g}."
    if records.counts:
        yield f"Per episode: {', '.join(f'{mean:.4g} {what}' for what, mean in records.counts.items())}."


def _share(estimate: Estimate) -> str:
    return f"{estimate.mean:.1f} % (95 % interval {estimate.low:.1f} to {estimate.high:.1f} %)"


def _signed(value: float) -> str:
    return _minus(f"{value:+.2f}")


def _minus(number: str) -> str:
    return number.replace("-", "−")


def _ranges(numbers: Sequence[int]) -> str:
    """(0, 1, 2, 5) → "0–2, 5"."""
    runs = [list(run) for _, run in groupby(enumerate(sorted(numbers)), lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0][1]}–{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)
