"""One episode of COCO-20i with models of the paper's size: `python perf/full_size.py --data DATA --work FOLDER`.

SAM of ViT-H size and DINOv2 of ViT-L size, with random weights, in Hugging Face format; COCO's folders with two photos
of DATA for each class of fold 0; then `prmagic evaluate coco --preset paper --episodes paper --limit 1` for both
frameworks, each in a process of its own. Random weights tell times and memory, but nothing of quality. Needs 4 GB on
the disk, which FOLDER keeps for the next time.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from sizes import checkpoints

CLASSES, FOLDS = 80, 4


def make_miniature(data: Path, out: Path) -> None:
    """Two photos for each class of fold 0, with the label of that class instead of their own."""
    lines = [json.loads(line) for line in (data / "index.jsonl").read_text().splitlines()]
    lines = list({line["image"]: line for line in lines if line["dataset"] == "coco"}.values())
    lists: dict[int, list[str]] = {number: [] for number in range(CLASSES)}
    for position, number in enumerate(n for n in range(0, CLASSES, FOLDS) for _ in range(2)):
        line, name = lines[position], f"COCO_val2014_{position:012d}"
        for folder in ("val2014", "annotations/val2014", "splits/val"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        with Image.open(data / line["image"]) as photo, Image.open(data / line["mask"]) as mask:
            photo.resize((640, 480)).save(out / f"val2014/{name}.jpg")
            inside = np.asarray(mask.resize((640, 480), Image.Resampling.NEAREST)) == line["mask_value"]
        Image.fromarray(inside.astype(np.uint8) * (number + 1)).save(out / f"annotations/val2014/{name}.png")
        lists[number].append(f"val2014/{name}.jpg")
    (out / "splits/val/fold0.pkl").write_bytes(pickle.dumps(lists))


def measured(command: list[str]) -> tuple[float, float]:
    """Seconds, and peak memory in GB."""
    started = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return time.perf_counter() - started, usage.ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="own data, with photos of COCO in its index")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--frameworks", nargs="+", default=["persam-f", "matcher"])
    arguments = parser.parse_args()
    work = arguments.work
    sam, encoder = checkpoints("vit-h", work)
    make_miniature(arguments.data, work / "COCO2014")
    for framework in arguments.frameworks:
        out = work / framework
        command = [
            sys.executable, "-m", "prmagic", "evaluate", "coco", "--data", str(work / "COCO2014"), "--folds", "0",
            "--limit", "1", "--framework", framework, "--sam", sam, "--preset", "paper", "--episodes", "paper",
            "--out", str(out), "--overwrite",
        ]  # fmt: skip
        seconds, memory = measured([*command, *(["--encoder", encoder] if framework == "matcher" else [])])
        record = json.loads((out / "episodes.jsonl").read_text().splitlines()[0])
        print(f"\n{framework}: {seconds:.0f} s in all, with loading; peak memory {memory:.1f} GB")
        print("  seconds: " + ", ".join(f"{stage} {spent:.1f}" for stage, spent in record["seconds"].items()))
        print("  counts: " + ", ".join(f"{kind} {count}" for kind, count in record["counts"].items()))


if __name__ == "__main__":
    main()
