"""Seconds and peak memory of `prmagic report`: `python perf/report_speed.py [--episodes 100000] [--candidates 6]`.

Writes a made-up run into a temporary folder and reports on it in other processes, without and with figures; on a run
of 8 episodes first, which shows what starting up takes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FOLDS, CLASSES, PIXELS = 4, 20, 518 * 518


def write_run(folder: Path, episodes: int, candidates: int) -> None:
    """A run whose masks overlap the truth by chance, a little more with each step."""
    folder.mkdir()
    settings = {"framework": "matcher", "preset": "paper-coco", "flow": {"mode": "full", "steps": candidates - 1}}
    run = {
        "benchmark": "coco", "title": "COCO-20i", "settings": {**settings, "selector": "reencode"}, "model": "made up",
        "shots": 1, "size": 518, "seeds": [42], "folds": list(range(FOLDS)), "sampling": "paper", "limit": None,
        "manifests": {"42": "0" * 64}, "episodes": {"42": episodes}, "classes": dict.fromkeys(range(FOLDS), CLASSES),
        "data": "nowhere", "dataset_options": {}, "device": "cpu", "versions": {},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(run))
    rng = np.random.default_rng(0)
    truth = rng.integers(1_000, PIXELS // 3, episodes)
    quality = (rng.beta(2, 1, episodes)[:, None] + rng.normal(0.02, 0.1, (episodes, candidates)).cumsum(1)).clip(0, 1)
    inside = (truth[:, None] * quality).astype(int)
    union = truth[:, None] + ((1 - quality) * 20_000).astype(int)
    areas = np.stack([PIXELS - union, PIXELS - inside, inside, union], -1).tolist()
    scores = rng.normal(0.8, 0.05, (2, episodes, candidates))
    chosen = scores[0].argmax(1).tolist()
    with (folder / "episodes.jsonl").open("w") as file:
        for i in range(episodes):
            fold = i % FOLDS
            photo = f"val2014/COCO_val2014_{i:012d}.jpg"
            record = {
                "seed": 42, "fold": fold, "episode": f"{fold}/{i // FOLDS:05d}", "class": f"class {i % 80}",
                "query": photo, "query_instance": None, "supports": [photo], "support_instances": [None],
                "pixels": PIXELS, "object": int(truth[i]), "areas": areas[i],
                "predicted_iou": scores[1, i].tolist(),
                "scores": {"reencode": scores[0, i].tolist(), "predicted-iou": scores[1, i].tolist()},
                "chosen": chosen[i], "support_pixels": [1000], "counts": {"encodes": 2, "decodes": 18},
                "seconds": {"encode": 0.31, "prompt": 0.11, "decode": 0.24, "select": 0.15},
            }  # fmt: skip
            file.write(json.dumps(record) + "\n")


def report(*arguments: str | Path) -> tuple[float, float]:
    """Seconds that it took, by the clock and of the processor."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [Path(sys.executable).with_name("prmagic"), "report", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--episodes", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=6)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} CPU cores; {arguments.episodes} episodes of {arguments.candidates} candidates")
    with tempfile.TemporaryDirectory() as temporary:
        small, large, out = (Path(temporary) / name for name in ("small", "large", "out"))
        write_run(small, 8, arguments.candidates)
        write_run(large, arguments.episodes, arguments.candidates)
        print(f"episodes.jsonl: {(large / 'episodes.jsonl').stat().st_size / 2**20:.0f} MB")
        for title, options in (
            ("8 episodes", (small,)), ("table", (large,)), ("csv", (large, "--format", "csv")),
            ("table and figures", (large, "--out", out)),
        ):  # fmt: skip
            seconds, processor = report(*options)
            peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest child so far
            print(f"{title}: {seconds:.1f} s ({processor:.1f} s of the processor), peak {peak:.2f} GB")


if __name__ == "__main__":
    main()
