"""How well a SAM answers honest prompts: `python research/training/prompted.py --data DATA --split test [--sam NAME]`.

For each photo and class one random point inside the object, alone and with the object's box, at the photo's size: IoU
of the mask that the IoU head chooses and of the best of three; of the chosen one also the boundary IoU and the crumbs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from rich.progress import track
from scipy import ndimage

from prmagic.backbones.adapters import load_promptable
from prmagic.frameworks.maps import bounding_box, to_mask
from prmagic.io.images import load_image
from prmagic.io.masks import load_mask
from prmagic.metrics import areas, foreground_iou
from prmagic.types import BoolArray, Prompts

BAND = 0.02  # of the photo's diagonal: how far from an outline boundary IoU looks
CRUMB = 0.005  # of the mask's area: smaller connected parts are crumbs
AROUND = np.ones((3, 3), bool)


def boundary_iou(prediction: BoolArray, truth: BoolArray) -> float:
    """IoU of the parts of two masks (H, W) that lie within BAND of their own outlines (arXiv 2103.16562, equation 3).

    The photo's edge is an outline, too."""
    width = max(1, round(BAND * float(np.hypot(*truth.shape))))
    bands = [mask & ~ndimage.binary_erosion(mask, AROUND, width, border_value=0) for mask in (prediction, truth)]
    return float(foreground_iou(areas(*bands)))


def crumbs(mask: BoolArray) -> int:
    """Connected parts of a mask (H, W) under CRUMB of its area; diagonal neighbours connect."""
    sizes = np.bincount(ndimage.label(mask, AROUND)[0].ravel())[1:]
    return int((sizes < CRUMB * mask.sum()).sum())


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
            masks = [to_mask(logits, embedding.frame) for logits in decoded.logits[0]]
            ious = [float(foreground_iou(areas(mask, truth))) for mask in masks]
            chosen = int(decoded.predicted_iou[0].argmax())
            for measure, value in (
                ("chosen", ious[chosen]),
                ("best of three", max(ious)),
                ("boundary IoU", boundary_iou(masks[chosen], truth)),
                ("crumbs", crumbs(masks[chosen])),
            ):
                found.setdefault(f"{name}, {measure}", []).append(value)
    print(f"{len(wanted)} objects: " + "; ".join(f"{name} {np.mean(values):.3f}" for name, values in found.items()))


if __name__ == "__main__":
    main()
