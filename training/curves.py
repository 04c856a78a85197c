"""Draw what was measured on the dev classes during training: `python training/curves.py LOG.jsonl OUT.png`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("log", type=Path, help="a run's log.jsonl, or several behind each other with a key run")
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    records = [json.loads(line) for line in arguments.log.read_text().splitlines()]
    figure = Figure(figsize=(7, 4), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots()
    done = 0  # steps of earlier stages
    points: dict[str, list[tuple[int, float]]] = {}
    for record, following in zip(records, [*records[1:], None], strict=True):
        for name, value in record.get("dev", {}).items():
            points.setdefault(name, []).append((done + record["step"], value))
        if following is not None and following["step"] < record["step"]:
            done += record["step"]
            axes.axvline(done, color="#999999", linewidth=1, linestyle=":")
    for name, found in points.items():
        axes.plot(*zip(*found, strict=True), marker=".", label=name)
    axes.set_xlabel("step, over all stages; dotted: the next stage, or the next run, begins")
    axes.legend(frameon=False)
    figure.savefig(arguments.out)


if __name__ == "__main__":
    main()
