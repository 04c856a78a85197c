"""`prmagic report`: the numbers of runs as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prmagic.evaluation.document import document, failed_episodes
from prmagic.evaluation.published_numbers import published_number
from prmagic.evaluation.summary import EPISODE_MIOU, LINES, POINT, Estimate, Summary
from prmagic.evaluation.tables import latex, markdown


def rows(summary: Summary) -> Iterator[dict[str, Any]]:
    """Every number of a run with its metric, its quantity and its unit; None for what is not defined."""
    head = _head(summary)
    for metric, quantity, unit, numbers in _numbers(summary):
        finite = {name: number if math.isfinite(number) else None for name, number in numbers.items()}
        yield {**head, "metric": metric, "quantity": quantity, "unit": unit, **finite}


def as_csv(runs: Sequence[Summary]) -> str:
    """A row per run, metric and quantity, with a header."""
    table = [row for run in runs for row in rows(run)]
    text = io.StringIO()
    writer = csv.DictWriter(text, table[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_json(runs: Sequence[Summary]) -> str:
    """{"runs": what was run and which episodes failed, "rows": the rows of the CSV}."""
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
                for seed, id, category, why in failed_episodes(run.records)
            ],
        }
        for run in runs
    ]
    table = [row for run in runs for row in rows(run)]
    return json.dumps({"runs": described, "rows": table}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def as_markdown(runs: Sequence[Summary]) -> str:
    """The paper's table for each of the two metrics, what was run, and a table per run."""
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


def _head(summary: Summary) -> dict[str, Any]:
    about = summary.records.about
    return {
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


def _numbers(summary: Summary) -> Iterator[tuple[str, str, str, dict[str, float]]]:
    """Metric, quantity, unit, and the columns of numbers."""
    about = summary.records.about

    def columns(value: float, folds: float = math.nan, seeds: float = math.nan, low: float = math.nan,
                high: float = math.nan) -> dict[str, float]:  # fmt: skip
        return {"value": value, "std_over_folds": folds, "std_over_seeds": seeds, "low": low, "high": high}

    def with_interval(estimate: Estimate) -> dict[str, float]:
        return columns(estimate.mean, low=estimate.low, high=estimate.high)

    for metric, values in summary.values.items():
        for quantity, value in values.items():
            yield metric, quantity, "%", columns(value.mean, value.over_folds, value.over_seeds)
        for line in LINES:
            known = published_number(metric, line, about.framework, about.shots, about.benchmark)
            if known is not None:
                yield metric, f"{line}, published", "%", columns(float(known))
    for line, mean in summary.without_failed.items():
        yield EPISODE_MIOU, f"{line}, without failed episodes", "%", columns(mean)
    yield EPISODE_MIOU, "T - B, all episodes", "points", with_interval(summary.gain)
    yield EPISODE_MIOU, "share of the oracle gap closed", "%", columns(summary.gap_closed)
    yield EPISODE_MIOU, "share of episodes made worse", "%", with_interval(summary.worse())
    yield EPISODE_MIOU, "share of episodes made worse by more than a point", "%", with_interval(summary.worse(POINT))
    for what, count in summary.tallies.items():
        yield "episodes", what, "episodes", columns(count)
    for fold, count in about.classes.items():
        run = summary.records.classes_run[fold]
        yield "classes", f"fold {fold}", "classes", columns(run)
        if run < count:
            yield "classes", f"fold {fold}, in all", "classes", columns(count)
    for stage, seconds in summary.records.seconds.items():
        yield "time per episode", stage, "s", columns(seconds)
    for what, mean in summary.records.counts.items():
        yield "count per episode", what, "1", columns(mean)
