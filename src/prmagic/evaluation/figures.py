"""Figures of one run: the curve over the steps, B against T, the gains, and the worst and best episodes as pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from PIL import Image, ImageOps

from prmagic.datasets import Dataset, Item, Photo, open_dataset
from prmagic.datasets.base import squash
from prmagic.evaluation.records import read_masks, support_items
from prmagic.evaluation.summary import EPISODE_MIOU, FLOORS, Summary
from prmagic.metrics import foreground_iou
from prmagic.pictures import overlay, save_image
from prmagic.strips import CHOSEN, FONT, GREY, INK, PALE, drawable
from prmagic.types import BoolArray

DPI = 200  # sharp in print at the width of a column
GAIN, LOSS = CHOSEN, "#d55e00"  # blue and vermilion, from Okabe and Ito's palette
MARKS: dict[str, dict[str, Any]] = {
    "T": {"marker": "D", "color": CHOSEN, "markersize": 7},
    "O": {"marker": "*", "color": "#009e73", "markersize": 12},
}
BIN = 2  # points, of the histogram
SIDE = 420  # of a photo in a strip, in pixels


def write_figures(summary: Summary, folder: Path) -> None:
    """Draw steps.png, scatter.png and gains.png into the folder, which is made."""
    about = summary.records.about
    title = f"{about.framework} on {about.title}, {about.shots}-shot"
    title += ", limited" * (about.limit is not None) + ", unfinished" * (not summary.records.complete)
    for name, draw in (("steps", _steps), ("scatter", _scatter), ("gains", _gains)):
        figure = Figure(figsize=(4.8, 3.8), dpi=DPI, layout="constrained", facecolor="white")
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(drawable(title), fontsize=10, color=INK, loc="left", parse_math=False)
        draw(axes, summary)
        save_image(rendered(figure), folder / f"{name}.png")


def write_strips(summary: Summary, folder: Path, count: int, data: Path | None = None) -> None:
    """Draw regressions.png and rescues.png: the episodes that T makes worst, and those that it makes best.

    Args:
        summary: Of the run.
        folder: Where the pictures go; one without an episode is left out.
        count: Most episodes in a picture.
        data: Where the data set lies, if not where run.json says.

    Raises:
        ValueError: If the run kept no masks, or the data cannot be read.
    """
    records = summary.records
    about = records.about
    extremes = {"regressions": _extremes(summary, 1, count), "rescues": _extremes(summary, -1, count)}
    keys = {row: (int(records.seeds[row]), records.ids[row]) for rows in extremes.values() for row in rows}
    if not keys:
        return
    masks = read_masks(records.folder, set(keys.values()))
    dataset = open_dataset(about.benchmark, about.data if data is None else data, **about.dataset_options)
    for name, rows in extremes.items():
        strips = [_strip(summary, row, dataset, masks[keys[row]]) for row in rows if keys[row] in masks]
        if strips:
            save_image(_page(strips), folder / f"{name}.png")


def _steps(axes: Axes, summary: Summary) -> None:
    values = summary.values[EPISODE_MIOU]
    last = summary.records.steps - 1
    curve = [values[f"t = {step}"].mean for step in range(last + 1)]
    axes.plot(range(last + 1), curve, color=INK, marker="o", markersize=5, linewidth=1.5)
    places: dict[str, float] = {"T": last + 1, "O": last + 2}
    for line, x in places.items():
        axes.plot(x, values[line].mean, linestyle="none", **MARKS[line])
    for x, y in [*enumerate(curve), *((x, values[line].mean) for line, x in places.items())]:
        axes.annotate(f"{y:.1f}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8, color=INK)
    for floor in FLOORS:
        axes.axhline(values[floor].mean, color=GREY, linewidth=1, linestyle=":")
        text = f"{floor} {values[floor].mean:.1f}"
        axes.annotate(text, (last + 2, values[floor].mean), (0, 3), textcoords="offset points", ha="right",
                      fontsize=8, color=GREY)  # fmt: skip
    axes.set_xticks([*range(last + 1), *places.values()], ["0 (B)", *map(str, range(1, last + 1)), *places])
    axes.margins(y=0.12)
    _name(axes, "t, refinement steps; T: chosen, O: oracle", f"{EPISODE_MIOU}, %")


def _scatter(axes: Axes, summary: Summary) -> None:
    b, gains = summary.episodes[:, 0], summary.gains
    size, alpha = max(1.5, min(5, 150 / math.sqrt(len(b)))), max(0.08, min(0.7, 20 / math.sqrt(len(b))))
    axes.plot((0, 100), (0, 100), color=PALE, linewidth=1, zorder=0)
    for kept, color in ((gains == 0, GREY), (gains > 0, GAIN), (gains < 0, LOSS)):
        axes.plot(b[kept], (b + gains)[kept], ".", color=color, alpha=alpha, markersize=size, markeredgewidth=0)
    for x, y, kept, said, color in (
        (0.03, 0.97, gains > 0, "better", GAIN), (0.97, 0.03, gains < 0, "worse", LOSS),
    ):  # fmt: skip
        axes.text(x, y, f"{said}: {100 * kept.mean():.1f} %", color=color, transform=axes.transAxes, fontsize=9,
                  ha="left" if x < 0.5 else "right", va="top" if y > 0.5 else "bottom")  # fmt: skip
    axes.set(xlim=(0, 100), ylim=(0, 100), aspect="equal")
    _name(axes, f"B: {EPISODE_MIOU}, %", f"T: {EPISODE_MIOU}, %")


def _gains(axes: Axes, summary: Summary) -> None:
    changed = summary.gains[summary.gains != 0]
    edge = BIN * max(1, math.ceil(np.abs(changed).max(initial=0) / BIN))
    for sign, color in ((-1, LOSS), (1, GAIN)):
        bins = sorted(sign * left for left in range(0, edge + BIN, BIN))
        axes.hist(changed[sign * changed > 0], bins, color=color, edgecolor="white", linewidth=0.3)
    if len(changed):
        axes.set_yscale("log")  # most episodes hardly change: the rare large ones would not be seen
        axes.set_ylim(bottom=0.7)  # a single episode is to be seen, too
        axes.yaxis.set_major_formatter(LogFormatter())  # 10, not 10¹
        axes.yaxis.set_minor_formatter(LogFormatter())
    mean = float(summary.gains.mean())
    axes.axvline(mean, color=INK, linewidth=1, linestyle="--")
    unchanged = 100 * (1 - len(changed) / len(summary.gains))
    axes.set_xlim(-edge, edge)
    note = f"mean {mean:+.2f} (dashed); unchanged and not drawn: {unchanged:.1f} %".replace("-", "−")
    _name(axes, f"T − B in points of {EPISODE_MIOU}\n{note}", f"episodes, in bins of {BIN} points")


def _name(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.tick_params(which="both", labelsize=8, colors=INK)  # a log scale labels its minor ticks, too


@dataclass(frozen=True, eq=False)
class _Strip:
    """One episode: a title, and pictures with a caption each."""

    title: str
    panels: list[tuple[str, Image.Image]]


def _extremes(summary: Summary, sign: int, count: int) -> list[int]:
    """The rows with the smallest sign · gain below 0, smallest first; of an episode that seeds repeat only one."""
    found: dict[int, int] = {}
    for row in np.argsort(sign * summary.gains, kind="stable"):
        if len(found) == count or sign * summary.gains[row] >= 0:
            break
        found.setdefault(int(summary.records.distinct[row]), int(row))
    return list(found.values())


def _strip(summary: Summary, row: int, dataset: Dataset, masks: list[BoolArray]) -> _Strip:
    records, entry, chosen = summary.records, summary.records.line(row), int(summary.chosen[row])

    def load(item: Item) -> Photo:
        photo = dataset.photo(item, entry["class"])
        return photo if records.about.size is None else squash(photo, records.about.size)

    def iou(step: int) -> str:
        return f"foreground IoU {100 * foreground_iou(records.areas[row, step]):.1f}"

    query = load(Item(entry["query"], entry["query_instance"]))
    if masks[0].shape != query.mask.shape:
        raise ValueError(
            f"{entry['query']} in {dataset.root} has {query.mask.shape} pixels, but its recorded masks have "
            f"{masks[0].shape}: this is not the data of the run"
        )
    supports = support_items(entry)
    first = load(supports[0])
    b, t = summary.episodes[row, 0], summary.episodes[row, chosen]
    named = f"t = {chosen}" if chosen < records.steps else "another mask of SAM"
    return _Strip(
        f"{entry['class']}: {EPISODE_MIOU} {b:.1f} → {t:.1f}  (seed {entry['seed']}, episode {entry['episode']})",
        [
            ("support" if len(supports) == 1 else f"support 1 of {len(supports)}", _masked(first, first.mask)),
            (f"baseline\n{iou(0)}", _masked(query, masks[0])),
            (f"refined, {named}\n{iou(chosen)}", _masked(query, masks[records.places[row, chosen]])),
            ("ground truth", _masked(query, query.mask)),
        ],
    )


def _masked(photo: Photo, mask: BoolArray) -> Image.Image:
    return ImageOps.contain(overlay(photo.image, mask), (SIDE, SIDE))


def _page(strips: list[_Strip]) -> Image.Image:
    """The strips below each other."""
    inches, panels = SIDE / DPI, len(strips[0].panels)
    heights = [max(picture.height / DPI for _, picture in strip.panels) + 0.75 for strip in strips]
    size = (panels * (inches + 0.1), sum(heights))
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor="white")
    parts = figure.subfigures(len(strips), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, strip in zip(parts, strips, strict=True):
        part.suptitle(drawable(strip.title), x=0.01, ha="left", fontsize=9, color=INK, family=FONT, parse_math=False)
        for axes, (caption, picture) in zip(part.subplots(1, panels), strip.panels, strict=True):
            axes.imshow(picture)
            axes.set(xticks=[], yticks=[], anchor="N")
            axes.spines[:].set_color(PALE)
            axes.set_xlabel(caption, fontsize=8, color=GREY)
    return rendered(figure)


def rendered(figure: Figure) -> Image.Image:
    """As an image, whatever the platform's own backend is."""
    canvas: Any = FigureCanvasAgg(figure)  # its methods have no types
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
