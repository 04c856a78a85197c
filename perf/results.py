"""The report: what was measured, beside the floor and the priced calls of the published code, and against the bars."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, field, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from cells import SETUPS, Cell
from published import SOURCE, Calls, Units, price, published_calls

FILE, PREVIOUS, REPORT = "results.jsonl", "results.previous.jsonl", "RESULTS.md"
TITLES = {
    "embedded": "Embedded: SAM and encoder at 256 pixels, trained",
    "vit-b": "SAM ViT-B at 1024 pixels and DINOv2 ViT-B/14 at 518, random weights",
    "vit-h": "SAM ViT-H at 1024 pixels and DINOv2 ViT-L/14 at 518, random weights",
}

# The order of a query; what else a version of the library tells apart comes behind.
STAGES = ("encode", "tokens", "match", "decode", "score", "gradient", "select")

# The points of plain PerSAM-F hardly move with the shift, so that its six candidates are one; drawn points differ.
PERSAM = {"persam-f": "PerSAM-F", "persam-f-points": "PerSAM-F with points drawn anew"}
REST = "all but its encodes and distinct forward decodes"
LEGEND = """\
Seconds are medians over the rounds of a cell, in which floor, support, query and unit costs take turns. *floor*: one
encode of the query, by SAM and, for Matcher, by DINOv2. *support*: making the reference. *further*: a query whose
reference is at hand. *first*: support and query. *published*: the calls of the published code, below, at the prices of
the same cell; it encodes the support anew for every query. Peak memory is the process's, with the model and the making
of the reference, in the first round, before the unit costs. With several labels or queries all is per photo. The load
of the last minute, before each round and after the last, counts the run's own threads; what is above is other work.
"""

RANDOM = """\
The weights are random (seed 0). Masks are neither empty nor full (*areas*), so that PerSAM-F's cascade and Matcher's
scoring run; but they reach from border to border, so that Matcher's suppression leaves one mask a step to score.
"""

Record = dict[str, Any]


@dataclass
class Results:
    """What a results.jsonl holds; of a cell that is in it twice, the later."""

    about: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    masks: dict[str, Any] | None = None

    def get(self, *args: Any, **kwargs: Any) -> Figures | None:
        """The figures of Cell(*args, **kwargs), if it was measured."""
        record = self.records.get(Cell(*args, **kwargs).name)
        return None if record is None else Figures(record)


@dataclass(frozen=True)
class Bar:
    """One of the promises: what it is about, what was found, what is allowed; met is None where nothing was found."""

    number: int
    about: str
    found: str
    bar: str
    met: bool | None


class Figures:
    """One cell's medians, and what follows from them. Seconds, per photo."""

    def __init__(self, record: Record):
        self.record = record
        self.cell = Cell(**record["cell"])
        self.framework = SETUPS[self.cell.setup].framework
        self.query: float = median(record["query"])
        self.support: float = median(record["support"])
        self.sam: float = median(record["floor_sam"])
        self.encoder: float = median(record["floor_encoder"]) if record["floor_encoder"] else 0.0
        self.stages: dict[str, float] = {stage: median(spent) for stage, spent in record["stages"].items()}
        self.decode_in_batch: float = median(record["decode_in_batch"] or record["decode"])

    @property
    def floor(self) -> float:
        """One encode by each model."""
        return self.sam + self.encoder

    @property
    def least_floor(self) -> float:
        record = self.record
        return float(min(record["floor_sam"]) + min(record["floor_encoder"], default=0.0))

    @property
    def units(self) -> Units:
        return Units(self.sam, self.encoder, median(self.record["decode"]), median(self.record["gradient_decode"]))

    @property
    def calls(self) -> Calls | None:
        """Of the published code, for one label; it is not PR-MaGIC's without refinement."""
        return published_calls(self.framework, self.cell.steps, self.record["subsets"]) if self.cell.steps else None

    @property
    def published(self) -> float | None:
        """Seconds of one photo with all labels, each label's support encoded anew as the published code does."""
        return None if self.calls is None else price(self.calls, self.units) * self.cell.labels

    @property
    def published_one_by_one(self) -> float | None:
        """The same, were its decodes with a graph made one prompt set at a time, which needs less memory and time."""
        if self.calls is None or not self.record.get("gradient_decode_alone"):
            return None
        units = replace(self.units, gradient_decode=median(self.record["gradient_decode_alone"]))
        return price(self.calls, units) * self.cell.labels

    @property
    def cheapest_decode(self) -> float:
        """Forward only, per set, alone or in the library's batches: a large batch does not excuse a slow one."""
        return min(self.decode_in_batch, self.units.decode)

    @property
    def decodes(self) -> float:
        """The forward-only decodes of the distinct prompt sets, at the cheapest price."""
        return float(self.record["distinct_prompts"]) * self.cheapest_decode

    @property
    def rest(self) -> float:
        """What is left of a query without its own encodes and the decodes in batches.

        These are priced, but at no more than the whole stage took, lest a slow moment hide what is left."""
        decodes = float(self.record["distinct_prompts"]) * self.decode_in_batch
        encodes = self.stages.get("encode", 0.0) + self.stages.get("tokens", 0.0)
        return self.query - encodes - min(decodes, self.stages.get("decode", decodes))


def all_stages(cells: Sequence[Figures]) -> list[str]:
    """Those of any cell, in order."""
    found = dict.fromkeys(stage for cell in cells for stage in cell.stages)
    return [*(stage for stage in STAGES if stage in found), *(stage for stage in found if stage not in STAGES)]


def read(out: Path) -> Results:
    """What is in the folder, if anything."""
    found, path = Results(), out / FILE
    for line in path.read_text().splitlines() if path.exists() else []:
        entry = json.loads(line)
        if "about" in entry:
            found = Results(entry["about"], masks=found.masks)
        found.masks = entry.get("masks", found.masks)
        if record := entry.get("record"):
            found.records[record["name"]] = record
            found.failed.pop(record["name"], None)
        if name := entry.get("failed"):
            found.failed[name] = entry["reason"]
    return found


def append(out: Path, entry: dict[str, Any]) -> None:
    """One more line."""
    with (out / FILE).open("a") as file:
        file.write(json.dumps(entry) + "\n")


def write(found: Results, out: Path) -> None:
    """RESULTS.md and the figures."""
    from figures import draw

    drawn = draw(found, out / "figures")
    (out / REPORT).write_text("\n".join(_report(found, drawn)) + "\n")


def line(record: Record) -> str:
    """For people who wait."""
    cell = Figures(record)
    load = f"load {min(record['load']):.1f} to {max(record['load']):.1f}"
    return f"{cell.query:.2f} s a query, {cell.query / cell.floor:.2f} × the floor, {load}"


def masks_line(masks: dict[str, Any]) -> str:
    return (
        f"{masks['identical']} of {masks['candidates']} candidates have identical masks; {masks['pixels']} of "
        f"{masks['of']} pixels differ, in the worst candidate {masks['worst']:.3%}; prompts are at most "
        f"{masks['prompts']:.3g} pixels apart, scores {masks['scores']:.3g}"
    )


def bars(found: Results, size: str = "vit-b") -> list[Bar]:
    """Issue by issue, from the cells of one size."""
    return [*_floor_bars(found, size), *_matcher_bars(found, size), *_published_bars(found, size),
            *_memory_bars(found, size), _masks_bar(found)]  # fmt: skip


def _floor_bars(found: Results, size: str) -> list[Bar]:
    bars: list[Bar] = []
    for (setup, about), selector in product(PERSAM.items(), ("pooled", "reencode")):
        cell = found.get(size, setup, selector)
        encodes = 0.0 if cell is None or selector == "pooled" else float(cell.record["distinct_candidates"])
        for what, most in (("reference at hand", 1.35), ("with its support", 2.5)):
            seconds = None if cell is None else cell.query + (cell.support if most == 2.5 else 0)
            floor = None if cell is None else cell.floor
            allowed = f"{most} ×" + (f" + {encodes:g} re-encodes" if encodes else "")
            name = f"{about}, T = 5, {selector}, {what} ÷ one encode"
            bars.append(_ratio_bar(1, name, seconds, floor, most + encodes, allowed))
    return bars


def _matcher_bars(found: Results, size: str) -> list[Bar]:
    bars: list[Bar] = []
    for selector in ("pooled", "reencode"):
        cell = found.get(size, "matcher-8", selector)
        about = f"Matcher, 8 centres, T = 5, {selector}"
        if cell is None:
            bars.append(Bar(2, about, "not measured", "1.5 × + distinct decodes", None))
            continue
        extra = cell.encoder * cell.record["distinct_candidates"] if selector == "reencode" else 0.0
        most = 1.5 * cell.floor + cell.decodes + extra
        allowed = (
            f"{most:.2f} s = 1.5 × {cell.floor:.2f} + {cell.record['distinct_prompts']:g} × {cell.cheapest_decode:.3f}"
        )
        allowed += f" + re-encodes {extra:.2f}" if extra else ""
        bars.append(Bar(2, f"{about}, one query", f"{cell.query:.2f} s", allowed, cell.query <= most))
        share = (cell.rest - extra) / cell.query
        bars.append(Bar(2, f"{about}, {REST}", f"{share:.0%}", "20 %", share <= 0.2))
        # Random weights' masks all reach from border to border, so that suppression leaves one of them to score.
        trained, solves = found.get("embedded", "matcher-8", selector), cell.record["counts"].get("emd_solves", 0)
        if trained is not None and solves and size != "embedded":
            more = max(trained.record["counts"]["emd_solves"] - solves, 0)
            added = more * cell.stages.get("score", 0.0) / solves
            share = (cell.rest - extra + added) / (cell.query + added)
            wider = f"{about}, the same with {more:g} more masks scored, as many as with the embedded model"
            bars.append(Bar(2, wider, f"{share:.0%}", "20 %", share <= 0.2))
    return bars


def _published_bars(found: Results, size: str) -> list[Bar]:
    promised = (
        ("persam-f", "PerSAM-F, support included", True, 6.0),
        ("persam-f", "PerSAM-F, further queries", False, 10.0),
        ("persam-f-points", "PerSAM-F with points drawn anew, support included", True, 6.0),
        ("persam-f-points", "PerSAM-F with points drawn anew, further queries", False, 10.0),
        ("matcher-8", "Matcher, 8 centres, support included", True, 5.0),
        ("matcher-5", "Matcher, 5 centres, support included", True, 3.0),
    )
    bars: list[Bar] = []
    for setup, about, with_support, least in promised:
        for selector in ("pooled", "reencode"):
            cell = found.get(size, setup, selector)
            name = f"{about}, {selector}: priced published calls ÷ ours"
            if cell is None or cell.published is None:
                bars.append(Bar(3, name, "not measured", f"{least:g} ×", None))
                continue
            ours = cell.query + (cell.support if with_support else 0)
            ratio = cell.published / ours
            # The bars are promised for the selector that encodes nothing; the other stands beside it.
            met = ratio >= least if selector == "pooled" else None
            bars.append(
                Bar(3, name, f"{ratio:.2f} ×", f"{least:g} ×" if met is not None else "none, for comparison", met)
            )
            if cell.published_one_by_one is not None:
                ratio = cell.published_one_by_one / ours
                bars.append(Bar(3, f"{name}, were its graphs made one by one", f"{ratio:.2f} ×", "none", None))
    return bars


def _memory_bars(found: Results, size: str) -> list[Bar]:
    bars: list[Bar] = []
    for setup in ("persam-f", "matcher-8", "matcher-5"):
        plain = found.get(size, setup, "pooled", steps=0)
        for selector in ("pooled", "reencode"):
            refined = found.get(size, setup, selector)
            peaks = [None if cell is None else cell.record["peak_bytes"] / 1e9 for cell in (refined, plain)]
            about = f"{setup}, {selector}: peak memory in GB, T = 5 ÷ T = 0"
            bars.append(_ratio_bar(4, about, peaks[0], peaks[1], 1.3, "1.3 ×"))
    return bars


def _masks_bar(found: Results) -> Bar:
    if found.masks is None:
        return Bar(5, "masks before and after", "not compared", "identical", None)
    return Bar(5, "masks before and after", masks_line(found.masks), "identical", found.masks["pixels"] == 0)


def _ratio_bar(number: int, about: str, value: float | None, base: float | None, most: float, allowed: str) -> Bar:
    if value is None or base is None:
        return Bar(number, about, "not measured", allowed, None)
    return Bar(number, about, f"{value:.2f} ÷ {base:.2f} = {value / base:.2f} ×", allowed, value / base <= most)


def _report(found: Results, drawn: Sequence[str]) -> Iterable[str]:
    about = found.about
    records = list(found.records.values())
    yield "# Speed and memory\n"
    yield "Written by `make perf`, that is `python perf/compare.py`; the raw numbers are in `results.jsonl`.\n"
    if not records:
        yield "Nothing has been measured yet."
        return
    dates = sorted(record["when"] for record in records)
    loads = [load for record in records for load in record["load"]]
    yield (
        f"{about['cpu']}, {about['cores']} cores, {about['ram_gb']} GB, {about['system']}; Python {about['python']}, "
        f"PyTorch {about['torch']} with {about['threads']} threads; prmagic {about['prmagic']}, code {about['code']}; "
        f"{dates[0]} to {dates[-1]}; load {min(loads):.1f} to {max(loads):.1f}.\n"
    )
    yield LEGEND
    yield from _bar_table(found)
    yield from _calls_table(found)
    for size, title in TITLES.items():
        of_size = [Figures(record) for record in records if record["cell"]["size"] == size]
        if of_size:
            yield f"\n## {title}\n"
            if size != "embedded":
                yield RANDOM
            yield from _unit_table(of_size)
            for setup in SETUPS:
                some = sorted((c for c in of_size if c.cell.setup == setup), key=_order)
                if some:
                    yield from _tables(setup, some)
    if drawn:
        yield "\n## Figures\n"
        yield from (f"![{name}](figures/{name}.png)\n" for name in drawn)
    if found.failed:
        yield "\n## Failed\n"
        yield from (f"- `{name}`: {reason}" for name, reason in found.failed.items())


def _bar_table(found: Results) -> Iterable[str]:
    yield "## Bars\n"
    yield "Of the ViT-B cells in float32, one label, one query.\n"
    yield "| | | found | bar | met |\n|---|---|---|---|---|"
    said = {True: "yes", False: "**no**", None: ""}
    yield from (f"| {b.number} | {b.about} | {b.found} | {b.bar} | {said[b.met]} |" for b in bars(found))


def _calls_table(found: Results) -> Iterable[str]:
    yield "\n## The published code's calls\n"
    yield SOURCE
    rows = {
        (cell.framework, cell.cell.steps, cell.record["subsets"]): cell.calls
        for cell in map(Figures, found.records.values())
        if cell.calls is not None
    }
    head = ["", "T", "subsets a step", "SAM encodes", "DINOv2 encodes", "decodes", "with graph and backward"]
    yield from _table(
        head,
        (
            [framework, str(steps), str(subsets or ""), *(str(amount) for amount in astuple(calls))]
            for (framework, steps, subsets), calls in sorted(rows.items())
        ),
    )


def _unit_table(of_size: Sequence[Figures]) -> Iterable[str]:
    """Unit costs over all float32 cells of the size, so that their spread is seen."""
    usual = [c for c in of_size if c.cell.dtype == "float32"]
    rows = {
        "SAM encode": [x for c in usual for x in c.record["floor_sam"]],
        "DINOv2 encode": [x for c in usual for x in c.record["floor_encoder"]],
    }
    for framework, what in (("persam-f", "three masks"), ("matcher", "one mask")):
        some = [c.record for c in usual if c.framework == framework]
        for kind, title in (
            ("decode", f"decode of one prompt set alone, {what}"),
            ("decode_in_batch", "decode per prompt set, in the library's batches"),
            ("gradient_decode_alone", f"decode with graph and backward pass alone, {what}"),
            ("gradient_decode", f"decode with graph and backward pass, as the published code batches them, {what}"),
        ):
            rows[f"{framework}: {title}"] = [x for record in some for x in record.get(kind, [])]
    yield "| unit cost, seconds | median | least | most | times |\n|---|---|---|---|---|"
    for title, values in rows.items():
        if values:
            yield f"| {title} | {median(values):.4g} | {min(values):.4g} | {max(values):.4g} | {len(values)} |"


def _tables(setup: str, some: Sequence[Figures]) -> Iterable[str]:
    subsets = max(cell.record["subsets"] for cell in some)
    yield f"\n### {setup}\n"
    if subsets:
        yield f"Preset {SETUPS[setup].preset}, {subsets} subsets a step.\n"
    settings = ["selector", "T", "labels", "queries"]
    seconds = [
        "floor", "support", "further", "÷ floor", "least ÷ least", "first", "÷ floor", "published", "÷ further",
        "÷ first", "peak GB", "load",
    ]  # fmt: skip
    yield from _table([*settings, *seconds], ([*_settings(cell), *_seconds(cell)] for cell in some))
    stages = all_stages(some)
    counts = list(dict.fromkeys(kind for cell in some for kind in cell.record["counts"]))
    kinds = [kind.replace("_", " ") for kind in counts]
    done = [*(f"{stage}, s" for stage in stages), "other, s", *kinds, "distinct prompt sets", "distinct masks", "areas"]
    yield ""
    yield from _table([*settings, *done], ([*_settings(cell), *_done(cell, stages, counts)] for cell in some))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield "| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)


def _settings(cell: Figures) -> list[str]:
    c = cell.cell
    extra = [c.dtype] if c.dtype != "float32" else []
    selector = c.selector if c.steps else "none"
    return [", ".join([selector, *extra]), str(c.steps), str(c.labels), str(c.queries)]


def _seconds(cell: Figures) -> list[str]:
    record, first = cell.record, cell.support + cell.query
    least = min(record["query"]) / cell.least_floor
    shown = [f"{cell.floor:.3g}", f"{cell.support:.3g}", f"{cell.query:.3g}", f"{cell.query / cell.floor:.2f}"]
    alone = cell.cell.labels == cell.cell.queries == 1
    shown += [f"{least:.2f}", *([f"{first:.3g}", f"{first / cell.floor:.2f}"] if alone else ["", ""])]
    if cell.published is None:
        shown += ["", "", ""]
    else:
        ratio = f"{cell.published / first:.2f}" if alone else ""
        shown += [f"{cell.published:.4g}", f"{cell.published / cell.query:.2f}", ratio]
    return [*shown, f"{record['peak_bytes'] / 1e9:.2f}", f"{min(record['load']):.1f}–{max(record['load']):.1f}"]


def _done(cell: Figures, stages: Sequence[str], counts: Sequence[str]) -> list[str]:
    record, other = cell.record, cell.query - sum(cell.stages.values())
    least, most = record["areas"]
    seconds = [cell.stages.get(stage, 0.0) for stage in stages]
    amounts = [record["counts"].get(kind, 0) for kind in counts]
    distinct = [record["distinct_prompts"], record["distinct_candidates"]]
    return [
        *(f"{spent:.3g}" for spent in [*seconds, max(other, 0)]),
        *(f"{amount:.4g}" for amount in [*amounts, *distinct]),
        f"{least:.0%}–{most:.0%}",
    ]


def _order(cell: Figures) -> tuple[Any, ...]:
    c = cell.cell
    return (c.dtype != "float32", c.labels, c.queries, c.selector, c.steps)
