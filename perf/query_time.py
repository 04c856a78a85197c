"""Where the time of one refined query goes: `python perf/query_time.py [--size vit-b] [--queries 3]`.

ViT-B has random weights: time does not depend on them. Reports medians over the queries, after one query to warm up.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from transformers import SamConfig, SamModel

from prmagic import Segmenter, Support
from prmagic.backbones.sam import Sam
from prmagic.demo import cases
from prmagic.frameworks import PerSamF, Query
from prmagic.frameworks.mask_weights import fit_mixture, fit_published
from prmagic.presets import PRESETS
from prmagic.types import Segmentation

STAGES = ("encode", "decode", "gradient", "select")


def build(size: str) -> Sam:
    if size == "embedded":
        return Sam.load("embedded")
    torch.manual_seed(0)
    return Sam(SamModel(SamConfig()), "ViT-B, random weights")


def row(name: str, results: list[Segmentation]) -> str:
    seconds = [f"{median(r.seconds.get(stage, 0.0) for r in results):.3f}" for stage in STAGES]
    total = f"{median(sum(r.seconds.values()) for r in results):.3f}"
    counts = [f"{median(r.counts[kind] for r in results):g}" for kind in ("encodes", "decodes")]
    return "| " + " | ".join([name, *seconds, total, *counts]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=("embedded", "vit-b"), default="embedded")
    parser.add_argument("--queries", type=int, default=3)
    arguments = parser.parse_args()
    sam = build(arguments.size)
    case = cases()[0]
    preset = PRESETS["default"]
    height, width = case.query.shape[:2]
    print(f"{sam.name}, {os.cpu_count()} CPU cores ({platform.machine()}), {torch.get_num_threads()} threads, "
          f"torch {torch.__version__}, photos of {width} × {height}\n")  # fmt: skip
    print("| | " + " | ".join(STAGES) + " | all, seconds | encodes | decodes |\n|" + "---|" * 8)
    for title, steps in (("plain PerSAM-F (T = 0)", 0), ("refined (T = 5)", 5)):
        flow = replace(preset.flow, steps=steps)
        segmenter = Segmenter(PerSamF(sam, preset.persam), flow, preset.selector)
        reference = segmenter.encode_support(Support(case.support, case.support_mask))
        results = [segmenter.segment(case.query, reference, name=str(n)) for n in range(arguments.queries + 1)]
        print(row(title, results[1:]))
    start = time.perf_counter()
    (embedding,) = sam.encode([case.support])
    encode = time.perf_counter() - start
    framework = PerSamF(sam, preset.persam)
    peak = framework.sample_prompts(
        Query(case.support, embedding), reference, torch.zeros_like(embedding.features), torch.Generator()
    )
    logits = [embedding.frame.upscale(sam.decode(embedding, [peak]).logits[0])]
    truths = [torch.from_numpy(case.support_mask.astype(np.float32))]
    print(f"\nOne encode: {encode:.3f} s. Fit of the mask weights, masks decoded once:")
    for name, fit in (("published, 1000 steps", fit_published), ("default", fit_mixture)):
        start = time.perf_counter()
        fit(logits, truths)
        print(f"  {name}: {time.perf_counter() - start:.3f} s")


if __name__ == "__main__":
    main()
