"""Seconds, calls and memory of a query, beside one encode and the published code: `python research/speed/compare.py`.

Each setting runs in a process of its own, so that its peak memory is its own. In each round an encode of the query, the
making of the reference and a query take turns; seconds are medians over the rounds. *Published* is what the published
code calls for the same episode, its support included, at the prices of the same process.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import Dinov2Config, Dinov2Model, SamConfig, SamModel, SamVisionConfig

import prmagic
from machine import about
from prmagic import Segmenter, Support
from prmagic.backbones.checkpoints import EMBEDDED
from prmagic.demo import cases
from prmagic.frameworks.gfsam import GfSamOptions
from prmagic.frameworks.gfsam.gfsam import singles
from prmagic.frameworks.registry import find
from prmagic.types import Prompts

MODELS = Path(__file__).parents[2] / "build" / "models"
FIT_STEPS, STAGES = 1000, 3  # of the published PerSAM-F: fit of the mask weights, cascade
MOST_WITH_GRAPH = 64  # prompt sets decoded with a graph at once, 170 MB each at ViT-B size
SIZES = {
    "vit-b": ({}, {}),
    "vit-h": (
        {
            "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
            "global_attn_indexes": [7, 15, 23, 31],
        },
        {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    ),
}  # fmt: skip
EIGHT = {"framework": "matcher", "centers": 8, "subset_sizes": (4, 6)}  # the paper's prompts
SETTINGS: dict[str, dict[str, Any]] = {
    "PerSAM-F": {"framework": "persam-f"},
    "PerSAM-F, plain": {"framework": "persam-f", "flow": "none"},
    "PerSAM-F, reencode": {"framework": "persam-f", "selector": "reencode"},
    "Matcher": {"framework": "matcher"},
    "Matcher, plain": {"framework": "matcher", "flow": "none"},
    "Matcher, 8 centres": EIGHT,
    "Matcher, 8 centres, reencode": {**EIGHT, "selector": "reencode"},
    "GF-SAM": {"framework": "gf-sam"},
    "GF-SAM, plain": {"framework": "gf-sam", "flow": "none"},
}
Result = TypeVar("Result")


@dataclass
class Measured:
    """One setting: seconds by round, and what was called for a query."""

    encode: list[float] = field(default_factory=list)  # one encode by each model
    support: list[float] = field(default_factory=list)
    query: list[float] = field(default_factory=list)
    counts: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0  # GB
    published: float | None = None  # seconds

    @property
    def row(self) -> list[str]:
        """For the table."""
        encode, support, query = (median(each) for each in (self.encode, self.support, self.query))
        ratio = "" if self.published is None else f"{self.published / (support + query):.1f}"
        calls = [f"{self.counts.get(name, 0):g}" for name in ("encodes", "decodes", "gradient_decodes")]
        times = [f"{encode:.3g}", f"{support:.3g}", f"{query:.3g}", f"{query / encode:.2f}"]
        return [*times, *calls, f"{self.peak:.2f}", ratio]


def checkpoints(size: str, folder: Path) -> tuple[str, str]:
    """SAM and DINOv2 of a size, with random weights; made in the folder where they are missing."""
    if size == EMBEDDED:
        return EMBEDDED, EMBEDDED
    vision, tokens = SIZES[size]
    sam, encoder = folder / f"sam-{size}", folder / f"encoder-{size}"
    torch.manual_seed(0)
    if not (sam / "config.json").exists():
        # transformers starts with weights of 1e-10 and positions of hundreds, which leave nothing of the photo.
        model = SamModel(SamConfig(vision_config=SamVisionConfig(initializer_range=0.02, **vision)))
        model.shared_image_embedding.positional_embedding.data.normal_()
        model.save_pretrained(sam)
    if not (encoder / "config.json").exists():
        Dinov2Model(Dinov2Config(patch_size=14, image_size=518, **tokens)).save_pretrained(encoder)
    return str(sam), str(encoder)


def measure(name: str, size: str, rounds: int, models: Path) -> Measured:
    """In a fresh process, or the peak memory is not the setting's."""
    sam, encoder = checkpoints(size, models)
    options = dict(SETTINGS[name])
    if find(options["framework"]).uses_encoder:
        options["encoder"] = encoder
    segmenter = prmagic.load(sam=sam, device="cpu", **options)
    framework, case = segmenter.framework, cases()[0]
    support = Support(case.support, case.support_mask)
    found = Measured()

    def encode() -> None:
        framework.sam.encode([case.query])
        if framework.encoder is not None:
            framework.encoder.encode([case.query])

    encode()  # imports, and weights paged in
    for _ in range(rounds):
        found.encode.append(timed(encode)[0])
        seconds, reference = timed(lambda: segmenter.encode_support(support))
        found.support.append(seconds)
        seconds, result = timed(partial(segmenter.segment, case.query, reference))
        found.query.append(seconds)
        found.counts = dict(result.counts)
    found.peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    if segmenter.flow.candidates == 1 or segmenter.framework.name != "gf-sam":
        found.published = published(segmenter, case.query, result.candidates[0].prompts)
    return found


def published(segmenter: Segmenter, photo: Any, prompts: Prompts) -> float:
    """Seconds of the calls that the published code makes for one episode, counted on it with T = 5.

    PerSAM-F encodes support and query, and with all else black the support and each candidate; it decodes 1000 times to
    fit the mask weights and three times for each candidate. Matcher encodes the query by SAM for each candidate, and by
    DINOv2 support, query, and with all else black the support and each candidate; it decodes every subset of every step
    with a graph. Without refinement these are the calls of the framework's own code: encodes of support and query, and
    decodes as before, of every subset, or of every point of GF-SAM. PR-MaGIC's code has no GF-SAM. What else they do is
    not priced."""
    framework, candidates = segmenter.framework, segmenter.flow.candidates
    sam = median(timed(lambda: framework.sam.encode([photo]))[0] for _ in range(3))
    (embedding,) = framework.sam.encode([photo])

    def decode(sets: Sequence[Prompts], graph: bool, multimask: bool) -> float:
        """Seconds per prompt set."""
        moved = embedding.features.clone().requires_grad_(graph)
        batch, framework.sam.decode_batch = framework.sam.decode_batch, len(sets)
        start = now()
        with torch.set_grad_enabled(graph):
            logits = framework.sam.decode(embedding.moved_to(moved), sets, multimask=multimask).logits
            if graph:
                torch.autograd.grad(logits.sum(), moved)
        framework.sam.decode_batch = batch
        return (now() - start) / len(sets)

    if framework.encoder is None:
        plain, graph = (median(decode([prompts], each, True) for _ in range(3)) for each in (False, True))
        steps = candidates - 1
        encodes = 3 + candidates if steps else 2
        return encodes * sam + (FIT_STEPS + STAGES * candidates - steps) * plain + steps * graph
    tokens = median(timed(partial(framework.encoder.encode, [photo]))[0] for _ in range(3))
    options = framework.options
    if isinstance(options, GfSamOptions):
        sets = singles(prompts)
    else:
        sets = subsets(prompts, options.centers, options.subset_sizes)
    if candidates == 1:
        return sam + 2 * tokens + len(sets) * decode(sets[:MOST_WITH_GRAPH], False, False)
    graph = decode(sets[:MOST_WITH_GRAPH], True, False)
    return candidates * sam + (3 + candidates) * tokens + candidates * len(sets) * graph


def subsets(prompts: Prompts, count: int, sizes: tuple[int, int]) -> list[Prompts]:
    """As many prompt sets of as many points as Matcher asks with; what time they take hardly depends on where."""
    points = np.resize(prompts.points, (count, 2)).astype(np.float32)
    least, most = sizes
    chosen = [list(s) for n in range(least, most + 1) for s in itertools.combinations(range(count), n)]
    return [Prompts(points[each], np.ones(len(each), np.int64)) for each in chosen]


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds, and what came out."""
    start = now()
    result = work()
    return now() - start, result


def now() -> float:
    """Seconds; what a GPU has been asked for is done."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default=EMBEDDED, choices=(EMBEDDED, *SIZES), help="of the models")
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=SETTINGS, metavar="SETTING")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", type=Path, default=MODELS, help="where models of random weights are kept")
    parser.add_argument("--here", help=argparse.SUPPRESS)  # the setting to measure in this process
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(vars(measure(arguments.here, arguments.size, arguments.rounds, arguments.models))))
        return
    print(", ".join(f"{name} {value}" for name, value in about().items()))
    calls = ["encodes", "decodes", "with gradient"]
    seconds = ["encode, s", "support, s", "query, s", "query ÷ encode"]
    print("\n| " + " | ".join([arguments.size, *seconds, *calls, "peak, GB", "published ÷ ours"]) + " |")
    print("|---" * 10 + "|")
    for name in arguments.only:
        command = [sys.executable, __file__, "--here", name, "--size", arguments.size]
        command += ["--rounds", str(arguments.rounds), "--models", str(arguments.models)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        found = Measured(**json.loads(done.stdout.splitlines()[-1]))
        print(f"| {name} | {' | '.join(found.row)} |", flush=True)


if __name__ == "__main__":
    main()
