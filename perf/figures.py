"""Scaling curves as small pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cells import Cell
from results import Figures, Results, all_stages

SCALED = ("persam-f", "matcher", "matcher-5", "matcher-8")
STACKED = {"persam": ("persam-f", "persam-f-points"), "matcher": ("matcher-5", "matcher-8")}
SELECTORS = ("pooled", "reencode")
STYLES = {"pooled": "-", "reencode": "--"}


def draw(found: Results, folder: Path) -> list[str]:
    """The pictures for which there are at least two points; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    usual = [Figures(r) for r in found.records.values()]
    usual = [f for f in usual if f.cell.dtype == "float32"]
    names: list[str] = []
    for size in ("embedded", "vit-b"):
        cells = [f for f in usual if f.cell.size == size]
        scaled: dict[str, tuple[str, Callable[[Cell], int], dict[str, int]]] = {
            "steps": ("T", lambda c: c.steps, {"labels": 1, "queries": 1}),
            "labels": ("labels", lambda c: c.labels, {"steps": 5, "queries": 1}),
            "queries": ("queries in one stream", lambda c: c.queries, {"steps": 5, "labels": 1}),
        }
        for kind, (axis, value, fixed) in scaled.items():
            lines: dict[str, list[tuple[float, float]]] = {}
            for f in cells:
                if f.cell.setup in SCALED and all(getattr(f.cell, name) == at for name, at in fixed.items()):
                    for selector in SELECTORS if not f.cell.steps else (f.cell.selector,):
                        point = (value(f.cell), f.query / f.floor)
                        lines.setdefault(f"{f.cell.setup}, {selector}", []).append(point)
            names += _lines(folder, f"{size}-{kind}", axis, lines)
        subsets = [
            (f.record["subsets"], f.query / f.floor)
            for f in cells
            if f.cell.setup.removeprefix("matcher-").isdigit()
            and f.cell == Cell(size, f.cell.setup, rounds=f.cell.rounds)
        ]
        names += _lines(folder, f"{size}-subsets", "subsets a step", {"matcher, T = 5, pooled": subsets})
        single = [f for f in cells if f.cell.labels == f.cell.queries == 1]
        for framework, setups in STACKED.items():
            names += _stages(folder, f"{size}-stages-{framework}", setups, single)
    return names


def _lines(folder: Path, name: str, axis: str, lines: dict[str, list[tuple[float, float]]]) -> list[str]:
    lines = {label: sorted(points) for label, points in lines.items() if len({x for x, _ in points}) > 1}
    if not lines:
        return []
    figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
    for label, points in lines.items():
        style = STYLES.get(label.rpartition(", ")[2], "-")
        axes.plot(*zip(*points, strict=True), style, marker="o", markersize=3, label=label)
    _finish(axes, axis, "one query ÷ floor")
    axes.axhline(1, color="grey", linewidth=0.8)
    return _save(figure, folder, name)


def _stages(folder: Path, name: str, setups: Sequence[str], cells: list[Figures]) -> list[str]:
    """Stacked seconds of the plain and the refined query beside the floor."""
    settings = (("pooled", 0), ("pooled", 5), ("reencode", 5))
    wanted = [(setup, *each) for setup in setups for each in settings]
    shown = [f for w in wanted for f in cells if (f.cell.setup, f.cell.selector, f.cell.steps) == w]
    if len(shown) < 2:
        return []
    stages = all_stages(shown)
    figure, axes = plt.subplots(figsize=(6, 3.2), layout="constrained")
    labels = [f"{f.cell.setup}\nT = {f.cell.steps}" + (f"\n{f.cell.selector}" if f.cell.steps else "") for f in shown]
    bottom = [0.0] * len(shown)
    for number, stage in enumerate(stages):
        heights = [f.stages.get(stage, 0.0) for f in shown]
        axes.bar(labels, heights, bottom=bottom, label=stage, color=plt.get_cmap("tab10")(number), width=0.6)
        bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
    for place, f in enumerate(shown):
        axes.hlines(f.floor, place - 0.4, place + 0.4, colors="black", label="" if place else "floor")
    axes.tick_params(axis="x", labelsize=7)
    _finish(axes, "", "seconds a query")
    return _save(figure, folder, name)


def _finish(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=7, frameon=False)


def _save(figure: Figure, folder: Path, name: str) -> list[str]:
    figure.suptitle(name, fontsize=9)
    figure.savefig(folder / f"{name}.png", dpi=80)
    plt.close(figure)
    return [name]
