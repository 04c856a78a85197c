"""What caching supports and reading ahead save: `python perf/evaluate_time.py --data DATA [--longer-side 3000]`.

DATA is a folder that `prmagic evaluate own` takes. Of three classes, four queries each with one support; every way of
running them is timed in turn, several rounds, in one process. Batches of queries are for GPUs: on a CPU photos are
encoded one at a time whatever --batch-size says, so that records do not depend on it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from rich.progress import track

from prmagic.datasets import Episode, Own
from prmagic.evaluation.run import Evaluator, Job
from prmagic.segmenter import load

CLASSES, QUERIES = 3, 4


def few_episodes(data: Own) -> list[Job]:
    """The same support for all queries of a class."""
    by_class: dict[str, list[Episode]] = {}
    for episode in data.episodes(0, 1, 0):
        by_class.setdefault(episode.category, []).append(episode)
    large = [listed for listed in by_class.values() if len(listed) > QUERIES][:CLASSES]
    return [
        Job(0, Episode(e.id, 0, e.class_id, e.category, e.query, (listed[0].query,)))
        for listed in large
        for e in listed[1 : QUERIES + 1]
    ]


def enlarged(data: Path, jobs: list[Job], longer_side: int, out: Path) -> None:
    """Write the photos and masks of the jobs, enlarged, as own data with the same names and line numbers."""
    items = {item for job in jobs for item in (job.episode.query, *job.episode.supports)}
    lines = (data / "index.jsonl").read_text().splitlines()
    kept = {item.instance for item in items}
    for number in track(sorted(kept), "Enlarging"):
        line = json.loads(lines[number])
        for name, way in ((line["image"], Image.Resampling.BICUBIC), (line["mask"], Image.Resampling.NEAREST)):
            with Image.open(data / name) as picture:
                scale = longer_side / max(picture.size)
                target = out / name
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.resize((round(picture.width * scale), round(picture.height * scale)), way).save(target)
    (out / "index.jsonl").write_text("".join(line + "\n" if i in kept else "\n" for i, line in enumerate(lines)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--longer-side", type=int, help="enlarge the photos to this, in pixels")
    parser.add_argument("--framework", default="persam-f")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    segmenter = load(arguments.framework)
    jobs = few_episodes(Own(arguments.data))
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data
        if arguments.longer_side:
            data = Path(folder)
            enlarged(arguments.data, jobs, arguments.longer_side, data)

        def evaluator(prefetch: int) -> Evaluator:
            return Evaluator(Own(data), segmenter, prefetch=prefetch)

        ways: dict[str, Callable[[], object]] = {
            "each episode by itself": lambda: [list(evaluator(0).run([job])) for job in jobs],
            "each support encoded once": lambda: list(evaluator(0).run(jobs)),
            "and photos read ahead": lambda: list(evaluator(2).run(jobs)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()  # once untimed: caches of files and allocators fill up
        for _ in track(range(arguments.rounds), "Rounds"):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                seconds[name].append((time.perf_counter() - started) / len(jobs))
    first = float(np.median(seconds["each episode by itself"]))
    print(f"\n{len(jobs)} episodes, {len({job.supports for job in jobs})} supports, {arguments.rounds} rounds\n")
    print("| | seconds per episode, median | of the first |\n|---|---|---|")
    for name, spent in seconds.items():
        print(f"| {name} | {np.median(spent):.3f} | {np.median(spent) / first:.2f} |")


if __name__ == "__main__":
    main()
