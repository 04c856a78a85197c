"""Photos a second on a GPU, or with `--device cpu`: `python research/speed/gpu.py [--size vit-h] [--dtype bfloat16]`.

PerSAM-F, Matcher and GF-SAM of the default presets, without refinement (T = 0) and with it (T = 5), on a stream of
photos with references at hand, loaded and encoded ahead; beside it the encodes alone, in batches of the same size.
*Published* is what the published code calls for a photo, one at a time, priced on the same device (`compare.py`). Each
setting runs in a process of its own, so that its peak memory is its own: of the GPU, or on a CPU of the process.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch

import prmagic
from compare import MODELS, SIZES, checkpoints, published, timed
from machine import about
from prmagic import Support
from prmagic.backbones.checkpoints import EMBEDDED
from prmagic.demo import cases
from prmagic.frameworks.registry import find

FRAMEWORKS = ("persam-f", "matcher", "gf-sam")
STEPS = (0, 5)


def measure(framework: str, steps: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """In a fresh process, or the peak memory is not the setting's."""
    sam, encoder = checkpoints(arguments.size, arguments.models)
    options: dict[str, Any] = {"sam": sam, "device": arguments.device, "dtype": arguments.dtype, "steps": steps}
    if find(framework).uses_encoder:
        options["encoder"] = encoder
    segmenter = prmagic.load(framework, **options)
    found = cases()
    reference = segmenter.encode_support(Support(found[0].support, found[0].support_mask))
    photos = list(islice(cycle([case.query for case in found]), arguments.photos))

    def run() -> Any:
        return list(segmenter.stream(photos, reference, batch_size=arguments.batch))[-1]

    def encode() -> None:
        for start in range(0, len(photos), arguments.batch):
            segmenter.framework.encode_queries(photos[start : start + arguments.batch])

    run()  # warms up
    encoding, _ = timed(encode)
    if arguments.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds, result = timed(run)
    if arguments.device == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    measured = {"seconds": seconds / len(photos), "encode": encoding / len(photos), "peak": peak / 1e9}
    if steps and framework != "gf-sam":  # PR-MaGIC's code has no GF-SAM
        measured["published"] = published(segmenter, photos[0], result.candidates[0].prompts)
    return measured


def row(framework: str, steps: int, found: dict[str, float]) -> str:
    """Of the table."""
    times = f"{found['published'] / found['seconds']:.1f}" if "published" in found else ""
    rates = f"{1 / found['seconds']:.2f} | {1 / found['encode']:.2f} | {found['seconds'] / found['encode']:.2f}"
    return f"| {framework} | {steps} | {rates} | {found['peak']:.2f} | {times} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16", "float16"), help="of the encoders"
    )
    parser.add_argument("--size", default="vit-h", choices=(EMBEDDED, *SIZES), help="of the models")
    parser.add_argument("--photos", type=int, default=32)
    parser.add_argument("--batch", type=int, default=8, help="photos encoded together on a GPU")
    parser.add_argument("--only", nargs="+", default=FRAMEWORKS, choices=FRAMEWORKS, metavar="FRAMEWORK")
    parser.add_argument("--models", type=Path, default=MODELS, help="where models of random weights are kept")
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)  # FRAMEWORK STEPS: in this process
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(arguments.here[0], int(arguments.here[1]), arguments)))
        return
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else arguments.device
    print(f"{name}, {arguments.dtype}, batch {arguments.batch}; " + ", ".join(f"{k} {v}" for k, v in about().items()))
    print(f"\n| {arguments.size} | T | photos/s | encodes/s | query ÷ encode | peak, GB | published ÷ ours |")
    print("|---" * 7 + "|")
    for framework in arguments.only:
        for steps in STEPS:
            command = [sys.executable, __file__, *sys.argv[1:], "--here", framework, str(steps)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
            print(row(framework, steps, json.loads(done.stdout.splitlines()[-1])), flush=True)


if __name__ == "__main__":
    main()
