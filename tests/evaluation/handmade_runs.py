"""Folders of runs written by hand. Photos have 100 pixels, so that areas are percentages."""

from __future__ import annotations

import json

import pytest
from command_line import run


def found(predicted, truth, inside):
    """I₀ U₀ I₁ U₁ of a mask of so many pixels, of 100."""
    union = predicted + truth - inside
    return [100 - union, 100 - inside, inside, union]


def episode(id="0/00000", category="cat", truth=10, masks=((10, 5), (10, 10)), chosen=1, seed=42, **fields):
    """A line of episodes.jsonl; masks: of each candidate its pixels, and how many of them are the object's."""
    scores = [0.5] * len(masks)
    scores[chosen] = 0.9
    return {
        "seed": seed, "fold": int(id[0]), "episode": id, "class": category, "query": f"{id}.jpg",
        "query_instance": None, "supports": ["s.jpg"], "support_instances": [None], "pixels": 100, "object": truth,
        "areas": [found(pixels, truth, inside) for pixels, inside in masks], "predicted_iou": [0.9] * len(masks),
        "scores": {"reencode": scores, "cycle-recall": [0.8, 0.7, 0.6][: len(masks)]}, "chosen": chosen,
        "support_pixels": [7], "counts": {"encodes": 2}, "seconds": {"encode": 0.5, "decode": 0.25}, **fields,
    }  # fmt: skip


def failed(why="no peak", **fields):
    entry = episode(**fields)
    for name in ("areas", "scores", "chosen", "predicted_iou", "counts", "seconds"):
        del entry[name]
    return {**entry, "failed": why}


THREE = [  # two classes of different sizes
    episode("0/00000", "cat", 10, [(10, 5), (10, 10)], chosen=1),  # better
    episode("0/00001", "cat", 50, [(40, 40), (40, 30)], chosen=1),  # worse
    episode("0/00002", "dog", 20, [(0, 0), (0, 0)], chosen=0),  # nothing found
]


def run_folder(tmp_path, lines=THREE, name="run", end="", **changes):
    """A folder with these lines of episodes.jsonl; changes: to run.json."""
    folder = tmp_path / name
    folder.mkdir(parents=True)
    seeds = sorted({line["seed"] for line in lines})
    settings = {"framework": "matcher", "preset": "default", "selector": "Reencode(published=False)"}
    written = {
        "benchmark": "coco", "title": "COCO-20i", "settings": {**settings, "flow": {"mode": "full", "steps": 1}},
        "model": "sam + dino", "shots": 1, "size": None, "seeds": seeds,
        "folds": sorted({line["fold"] for line in lines}), "sampling": "default", "limit": None,
        "manifests": {str(seed): f"{seed}" * 32 for seed in seeds},
        "episodes": {str(seed): sum(line["seed"] == seed for line in lines) for seed in seeds},
        "classes": {str(fold): 2 for fold in range(4)}, "data": str(tmp_path / "data"), "dataset_options": {},
        "device": "cpu", "versions": {},
    }  # fmt: skip
    for key, value in changes.items():
        written[key] = {**written[key], **value} if key == "settings" else value
    (folder / "run.json").write_text(json.dumps(written))
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return folder


def means(summary, metric):
    return {quantity: value.mean for quantity, value in summary.values[metric].items()}


def percent(value):
    return pytest.approx(100 * value)


def report(*arguments, code=0):
    result = run("report", *arguments)
    assert result.exit_code == code, result.output
    return result
