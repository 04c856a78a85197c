"""Where the time of one query goes: `python perf/query_time.py [--framework matcher] [--size vit-b] [--queries 3]`.

ViT-B has random weights, and Matcher's encoder beside it is a DINOv2 of ViT-S size with random weights: time hardly
depends on them, only how many masks Matcher scores does. Reports medians over the queries, after one to warm up, and
the process's peak memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from transformers import Dinov2Config, Dinov2Model, SamConfig, SamModel

from prmagic import Segmenter, Support
from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from prmagic.demo import cases
from prmagic.frameworks import Framework, Matcher, PerSamF, Query
from prmagic.frameworks.mask_weights import fit_mixture, fit_published
from prmagic.presets import PRESETS, Preset
from prmagic.types import Segmentation


def build(size: str, framework: str, preset: Preset) -> Framework:
    torch.manual_seed(0)
    embedded = size == "embedded"
    sam = Sam.load("embedded") if embedded else Sam(SamModel(SamConfig()), "SAM of ViT-B size, random weights")
    if framework == "persam-f":
        return PerSamF(sam, preset.persam)
    small = Dinov2Config(hidden_size=384, num_hidden_layers=12, num_attention_heads=6, image_size=518, patch_size=14)
    name = "DINOv2 of ViT-S size, random weights"
    return Matcher(sam, Dino.load("embedded") if embedded else Dino(Dinov2Model(small), name), preset.matcher)


def table(kind: str, columns: list[str], rows: dict[str, list[dict[str, float]]]) -> None:
    """Medians, one row per title."""
    print(f"\n| {kind} | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for title, found in rows.items():
        print(f"| {title} | " + " | ".join(f"{median(f.get(c, 0) for f in found):.4g}" for c in columns) + " |")


def fit_times(framework: PerSamF, support: Support, reference, photo: np.ndarray, mask: np.ndarray) -> None:
    """How long PerSAM-F's mask weights take, once per reference."""
    (embedding,) = framework.sam.encode([photo])
    origin = torch.zeros_like(embedding.features)
    peak = framework.sample_prompts(Query(photo, embedding), reference, origin, torch.Generator())
    logits = [embedding.frame.upscale(framework.sam.decode(embedding, [peak]).logits[0])]
    print("\nFit of the mask weights, masks decoded once:")
    for name, fit in (("published, 1000 steps", fit_published), ("default", fit_mixture)):
        start = time.perf_counter()
        fit(logits, [torch.from_numpy(mask.astype(np.float32))])
        print(f"  {name}: {time.perf_counter() - start:.3f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--framework", choices=("persam-f", "matcher"), default="persam-f")
    parser.add_argument("--size", choices=("embedded", "vit-b"), default="embedded")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--steps", type=int, nargs="+", default=[0, 5], help="values of T, one row each")
    parser.add_argument("--queries", type=int, default=3)
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    if preset.persam is None and arguments.framework != "matcher":
        parser.error(f"preset {arguments.preset} is Matcher's own")
    framework = build(arguments.size, arguments.framework, preset)
    case = cases()[0]
    height, width = case.query.shape[:2]
    print(f"{' and '.join(model.name for model in framework.models)}; preset {arguments.preset}; {os.cpu_count()} CPU "
          f"cores ({platform.machine()}), {torch.get_num_threads()} threads, torch {torch.__version__}, photos of "
          f"{width} × {height}")  # fmt: skip
    results: dict[str, list[Segmentation]] = {}
    support = Support(case.support, case.support_mask)
    for steps in arguments.steps:
        segmenter = Segmenter(framework, replace(preset.flow, steps=steps), preset.selector)
        reference = segmenter.encode_support(support)
        found = [segmenter.segment(case.query, reference, name=str(n)) for n in range(arguments.queries + 1)]
        results[f"T = {steps}"] = found[1:]
    stages = dict.fromkeys(stage for found in results.values() for r in found for stage in r.seconds)
    seconds = {
        title: [{**r.seconds, "all": sum(r.seconds.values())} for r in found] for title, found in results.items()
    }
    table("seconds", [*stages, "all"], seconds)
    counts = {
        title: [
            {**r.counts, "distinct candidates": len({c.mask.tobytes() for c in r.candidates if c.mask.any()})}
            for r in found
        ]
        for title, found in results.items()
    }
    table("counts", [*framework.counts, "distinct candidates"], counts)
    print(f"\nPeak memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")
    if isinstance(framework, PerSamF):
        fit_times(framework, support, reference, case.support, case.support_mask)


if __name__ == "__main__":
    main()
