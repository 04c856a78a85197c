"""Figures of what the records of `prmagic study run` say."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from prmagic.evaluation.figures import DPI, rendered
from prmagic.evaluation.metrics import Areas, Values
from prmagic.evaluation.study_report import METRICS, Study, best, chosen, rates
from prmagic.flow import TINY
from prmagic.viz import CHOSEN, GREY, INK, save_image

# As many as the study `scaling` has settings.
COLORS = (
    INK, GREY, CHOSEN, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f00", "#5e3c99"
)  # fmt: skip


def write_figures(study: Study, folder: Path, selector: str | None = None) -> list[str]:
    """gains.png, steps.png, path.png and, where a gradient was taken three times, rates.png, into the folder.

    Returns the names of those that there are, without .png."""
    selector = selector or study.run["selector_name"]
    several = {setting: lines for setting, lines in study.lines.items() if len(lines[0]["d"]) > 1}
    colors = {setting: COLORS[index % len(COLORS)] for index, setting in enumerate(several)}
    figure, (axes,) = _figure(1)
    _gains(axes, study, several, selector)
    save_image(rendered(figure), folder / "gains.png")
    if not several:
        return ["gains"]
    # The candidates of several particles stand one particle behind another, not in the order of their steps.
    lone = [setting for setting in several if study.run["flows"][setting]["particles"] == 1]
    figure, panels = _figure(6)
    for kind, row in (("T", panels[:3]), ("O", panels[3:])):
        for setting in lone:
            baseline, *masks = _prefixes(study, setting, selector, kind)
            for axes, metric in zip(row, METRICS.values(), strict=True):
                gains = [100 * np.array(study.clusters.gain(metric, each, baseline)) for each in (baseline, *masks)]
                value, low, high = np.transpose(gains)
                axes.plot(value, color=colors[setting], label=setting, linewidth=1.2)
                axes.fill_between(range(len(value)), low, high, color=colors[setting], alpha=0.07, linewidth=0)
        for axes, name in zip(row, METRICS, strict=True):
            _name(axes, "candidates beside B", f"{kind} − B, points of {name}")
    panels[-1].legend(fontsize=6, frameon=False)
    save_image(rendered(figure), folder / "steps.png")
    figure, panels = _figure(4)
    curves: dict[str, Callable[[Mapping[str, Any]], Values]] = {
        "d − d at t = 0": lambda line: np.array(line["d"]) - line["d"][0],
        "‖∇d‖, of that at t = 0": lambda line: _of_first(np.array(line["gradient_norm"], float)),
        "rms(G_t) / rms(z₀)": lambda line: np.array(line["shift_rms"]),
        "movement of the points, pixels": lambda line: np.cumsum(line["moved"]),
    }
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        for setting, lines in several.items():
            taken = np.stack([curve(line) for line in lines])
            if not np.isnan(taken).any():
                axes.plot(np.median(taken, 0), color=colors[setting], label=setting, linewidth=1.2)
        _name(axes, "step t", f"{name}, median")
    panels[0].set_yscale("symlog", linthresh=1)  # objectives differ in scale by orders
    panels[2].legend(fontsize=6, frameon=False)
    save_image(rendered(figure), folder / "path.png")
    fitted = {setting: found for setting in several if (found := rates(study, setting))}
    if not fitted:
        return ["gains", "steps", "path"]
    figure, panels = _figure(2)
    for setting, found in fitted.items():
        shares = np.arange(1, len(found) + 1) / len(found)
        for axes, values in zip(panels, ([f.rate for f in found], [f.r2 for f in found]), strict=True):
            axes.step(np.sort(values), shares, color=colors[setting], label=setting, linewidth=1.2, where="post")
    panels[0].axvline(0, color=GREY, linewidth=1, linestyle=":")
    _name(panels[0], "λ per step", "share of episodes below")
    _name(panels[1], "R² of the exponential", "share of episodes below")
    panels[1].legend(fontsize=6, frameon=False)
    save_image(rendered(figure), folder / "rates.png")
    return ["gains", "steps", "path", "rates"]


def _gains(axes: Axes, study: Study, settings: Mapping[str, Any], selector: str) -> None:
    """T − B of each setting with its interval, and O − B as a mark."""
    metric = METRICS["episode-mIoU"]
    for place, setting in enumerate(settings):
        b, t, o = chosen(study, setting, selector)
        value, low, high = (100 * each for each in study.clusters.gain(metric, t, b))
        axes.plot([low, high], [place, place], color=CHOSEN, linewidth=1.5)
        axes.plot(value, place, "D", color=CHOSEN, markersize=5, label="T" if not place else None)
        best_gain = 100 * study.clusters.gain(metric, o, b)[0]
        axes.plot(best_gain, place, "*", color="#009e73", markersize=9, label="O" if not place else None)
    axes.axvline(0, color=GREY, linewidth=1, linestyle=":")
    axes.set_yticks(range(len(settings)), list(settings))
    axes.invert_yaxis()
    if settings:
        axes.legend(fontsize=7, frameon=False)
    _name(axes, "minus B, points of episode-mIoU", "")


def _prefixes(study: Study, setting: str, selector: str, kind: str) -> Iterator[Areas]:
    """The masks (n, 4) that would be T, or O, if the flow had ended after 0, 1, … steps."""
    candidates = study.areas(setting)
    for end in range(1, len(candidates[0]) + 1):
        if kind == "O":
            yield np.stack([each[best(each[:end])] for each in candidates])
        else:
            yield study.picked(setting, study.scores(setting, selector, end))


def _of_first(values: Values) -> Values:
    return values / max(float(values[0]), TINY)


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    rows, columns = (2, panels // 2) if panels > 2 else (1, panels)
    figure = Figure(figsize=(4.8 * columns, 3.6 * rows), dpi=DPI, layout="constrained", facecolor="white")
    axes: list[Axes] = list(figure.subplots(rows, columns, squeeze=False).ravel())
    for each in axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _name(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(labelsize=7, colors=INK)
