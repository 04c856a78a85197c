"""What is measured: one cell is one setting, in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product


@dataclass(frozen=True)
class Setup:
    """A framework with its settings; centers replaces the preset's, in subsets of 4 to 6 as in the published runs."""

    framework: str
    preset: str = "default"
    extra_points: str | None = None
    centers: int | None = None


SETUPS = {
    "persam-f": Setup("persam-f"),
    "persam-f-points": Setup("persam-f", extra_points="0.99/0.90"),
    "persam-f-paper": Setup("persam-f", "paper"),
    "matcher": Setup("matcher"),
    **{f"matcher-{n}": Setup("matcher", centers=n) for n in (4, 5, 6, 7, 8)},
    "matcher-8-paper": Setup("matcher", "paper"),
}


_SELECTED = (("pooled", 5), ("pooled", 0), ("reencode", 5))


@dataclass(frozen=True)
class Cell:
    """One support for each of `labels` labels, `queries` photos in one stream, T = steps."""

    size: str
    setup: str
    selector: str = "pooled"
    steps: int = 5
    labels: int = 1
    queries: int = 1
    dtype: str = "float32"
    rounds: int = 1

    @property
    def name(self) -> str:
        """Tells all but the rounds: vit-b/persam-f/pooled/T5/L1/Q1/float32."""
        parts = [self.size, self.setup, self.selector, f"T{self.steps}", f"L{self.labels}", f"Q{self.queries}"]
        return "/".join([*parts, self.dtype])


def quick() -> list[Cell]:
    """A few embedded cells, in less than a minute on free cores."""
    first = Cell("embedded", "persam-f")
    return [first, replace(first, steps=0), replace(first, selector="reencode"), replace(first, setup="matcher-5")]


def plan() -> list[Cell]:
    """Everything, the most useful first."""
    blocks = (_bars("vit-b"), _bars("embedded"), _scaling("vit-b"), _vit_h(), _embedded(), _variants())
    cells = [replace(cell, rounds=_rounds(cell)) for block in blocks for cell in block]
    return list(dict.fromkeys(cells))


def _rounds(cell: Cell) -> int:
    alone = cell.labels == cell.queries == 1
    if cell.size == "embedded":
        return 5 if alone else 2
    return 3 if cell.size == "vit-b" and alone and cell.steps <= 5 else 1


def _bars(size: str) -> list[Cell]:
    """What the bars need: refined beside plain, and the paper's selector beside the cheap one."""
    return [
        Cell(size, setup, selector, steps)
        for setup in ("persam-f", "matcher-8", "matcher-5", "persam-f-points")
        for selector, steps in _SELECTED
    ]


def _scaling(size: str) -> list[Cell]:
    """One thing at a time. Streams of 16 are Matcher's with 15 subsets: 154 take very long."""
    both, selectors = ("persam-f", "matcher-8"), ("pooled", "reencode")
    centers = [Cell(size, f"matcher-{n}") for n in (4, 6, 7)]
    default = [Cell(size, "matcher", selector, steps) for selector, steps in _SELECTED]
    steps = [Cell(size, setup, selector, t) for setup, selector, t in product(both, selectors, (1, 10))]
    labels = [Cell(size, setup, selector, t, labels=5) for setup, (selector, t) in product(both, _SELECTED)]
    paper = [Cell(size, setup, "reencode") for setup in ("persam-f-paper", "matcher-8-paper")]
    queries = [Cell(size, *each, queries=16) for each in product(("persam-f", "matcher"), selectors)]
    return [*centers, *default, *steps, *labels, *paper, *queries]


def _embedded() -> list[Cell]:
    """Every T with every number of labels and queries, where that is quick."""
    crossed = product(("persam-f", "matcher-5"), ("pooled", "reencode"), (0, 1, 5, 10), (1, 5), (1, 16))
    # Without candidates there is nothing to select.
    return [*_scaling("embedded"), *(Cell("embedded", *each) for each in crossed if each[2] or each[1] == "pooled")]


def _vit_h() -> list[Cell]:
    return [Cell("vit-h", setup, *each) for setup, each in product(("persam-f", "matcher-8"), _SELECTED)]


def _variants() -> list[Cell]:
    """Half precision."""
    return [
        Cell(size, setup, dtype="bfloat16") for size, setup in product(("vit-b", "embedded"), ("persam-f", "matcher-8"))
    ]
