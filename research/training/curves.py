"""Draw what was measured on the dev classes during training: `python research/training/curves.py LOG.jsonl OUT.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Curves = dict[tuple[str, str], list[tuple[int, float]]]  # by run and measure: step over all stages, value


def curves(records: list[dict[str, Any]]) -> Curves:
    """Of logs behind each other, whose records have a key "run" if they are of several runs. What a resumed run did
    again counts once, as it was done last."""
    done = {(each.get("run", ""), each.get("stage", 0), each["step"]): each for each in records}
    lengths: dict[tuple[str, int], int] = {}
    for run, stage, step in done:
        lengths[run, stage] = max(step, lengths.get((run, stage), 0))
    found: Curves = {}
    for (run, stage, step), record in sorted(done.items()):
        before = sum(length for (other, earlier), length in lengths.items() if other == run and earlier < stage)
        for name, value in record.get("dev", {}).items():
            found.setdefault((run, name), []).append((before + step, value))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("log", type=Path, help="a run's log.jsonl, or several behind each other with a key run")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    found = curves([json.loads(line) for line in arguments.log.read_text().splitlines()])
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    runs = list(dict.fromkeys(run for run, _ in found))
    styles = {run: ("-", "--", ":", "-.")[place % 4] for place, run in enumerate(runs)}
    colours = {name: f"C{place}" for place, name in enumerate(dict.fromkeys(name for _, name in found))}
    for (run, name), points in found.items():
        label = f"{name}, {run}" if run else name
        axes.plot(*zip(*points, strict=True), styles[run], color=colours[name], marker=".", label=label)
    axes.set_xlabel("step, over all stages")
    axes.legend(frameon=False, fontsize="small", ncols=len(styles))
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
