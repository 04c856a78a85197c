"""How well a SAM answers honest prompts: `python research/training/prompted.py --data DATA --split test [--sam NAME]`.

For each photo and class one random point inside the object, alone and with the object's box; foreground IoU, at the
photo's size, of the mask that the IoU head chooses and of the best of three.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.progress import track

from prmagic.backbones.adapters import load_promptable
from prmagic.frameworks.base import bounding_box, to_mask
from prmagic.io.images import load_image, load_mask
from prmagic.metrics import areas, foreground_iou
from prmagic.types import Prompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", choices=("dev", "test"), default="dev")
    parser.add_argument("--sam", default="embedded")
    arguments = parser.parse_args()
    data = arguments.data
    dev = set((data / "dev_classes.txt").read_text().split("\n")) - {""}
    lines = [json.loads(line) for line in (data / "index.jsonl").read_text().splitlines()]
    wanted = [x for x in lines if (x["split"] == "test" if arguments.split == "test" else x["class"] in dev)]
    sam, rng = load_promptable(arguments.sam), np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for line in track(wanted, "Photos"):
        truth = load_mask(data / line["mask"], value=line["mask_value"])
        (embedding,) = sam.encode([load_image(data / line["image"])])
        ys, xs = np.nonzero(truth)
        pick = rng.integers(len(ys))
        point, one = np.array([[xs[pick], ys[pick]]], np.float32), np.ones(1, np.int64)
        for name, box in (("point", None), ("point and box", bounding_box(truth))):
            decoded = sam.decode(embedding, [Prompts(point, one, box)])
            ious = [foreground_iou(areas(to_mask(logits, embedding.frame), truth)) for logits in decoded.logits[0]]
            found.setdefault(f"{name}, chosen", []).append(ious[int(decoded.predicted_iou[0].argmax())])
            found.setdefault(f"{name}, best of three", []).append(max(ious))
    print(f"{len(wanted)} objects: " + "; ".join(f"{name} {np.mean(values):.3f}" for name, values in found.items()))


if __name__ == "__main__":
    main()
