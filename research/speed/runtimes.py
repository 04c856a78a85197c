"""What an image encoder costs on each runtime, and what that does to masks: `python research/speed/runtimes.py`.

Models have the published sizes and random weights (`models.py`); each runs in a process of its own, in which all
runtimes take turns. With one thread, seconds are the processor's, so that other processes hardly count; with more, they
are the clock's. A ratio is the median over the rounds of PyTorch's seconds in float32 by the runtime's own of the same
round. Cosine: the least of all outputs, to PyTorch in float32.

ONNX Runtime needs `pip install onnx onnxruntime`, int8 needs `pip install nncf onnx onnxruntime`, and compile needs a
C++ compiler; what is not there is left out. `--masks DATA` compares final masks of the embedded models instead, on the
photos of a folder for `prmagic evaluate own`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import prmagic
from machine import about
from models import build
from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Promptable
from prmagic.backbones.runtimes import MODEL, WEIGHTS, OnOpenVino, Traced, converted, least_cosine, test_picture
from prmagic.datasets.own import Own

RECORD = Path(__file__).with_suffix(".jsonl")
MODELS = {
    "embedded": "sam",
    "facebook/sam-vit-base": "sam",
    "facebook/sam2.1-hiera-tiny": "sam",
    "facebook/sam2.1-hiera-base-plus": "sam",
    "facebook/dinov2-small": "encoder",
    "facebook/dinov2-large": "encoder",
}
FRAMEWORKS = ("persam-f", "matcher", "gf-sam")
PLACES = {"torch bf16": ("torch", "bfloat16"), "OpenVINO": ("openvino", "float32"),
          "OpenVINO bf16": ("openvino", "bfloat16")}  # fmt: skip
Run = Callable[[Tensor], tuple[Tensor, ...]]


def ways(kind: str, name: str, titles: Sequence[str]) -> Iterator[tuple[str, Run]]:
    """Title and encoder, PyTorch in float32 first; what cannot be had is told and left out."""
    plain = build(kind, name)
    yield "torch", plain.outputs
    for title in titles:
        try:
            yield title, WAYS[title](plain)
        except (ImportError, RuntimeError) as error:
            print(f"{name}: no {title}: {' '.join(str(error).split())[:200]}", file=sys.stderr)


def in_bfloat16(model: Promptable | Dino) -> Run:
    half = build("sam" if isinstance(model, Promptable) else "encoder", model.name.partition(",")[0])
    half.network.to(torch.bfloat16)
    half.dtype = torch.bfloat16
    return half.outputs


def compiled(model: Promptable | Dino) -> Run:
    return torch.compile(model.outputs)


def openvino_int8(model: Promptable | Dino) -> Run:
    """Weights in int8; activations are quantised as they come."""
    import nncf
    import openvino

    folder = Path(tempfile.mkdtemp())
    (kept,) = [each for each in cached(model) if json.loads((each / "entry.json").read_text())["dtype"] == "float32"]
    openvino.save_model(nncf.compress_weights(openvino.Core().read_model(kept / MODEL)), folder / MODEL)
    return OnOpenVino(folder / MODEL, torch.float32)


def cached(model: Promptable | Dino) -> Iterator[Path]:
    from prmagic.backbones.runtimes import cache_folder

    for folder in cache_folder().glob(f"openvino-{model.fingerprint}-*/{WEIGHTS}"):
        yield folder.parent


def onnx_float(model: Promptable | Dino) -> Run:
    return on_onnx_runtime(exported(model))


def onnx_int8(model: Promptable | Dino) -> Run:
    from onnxruntime.quantization import quantize_dynamic

    file = exported(model)
    quantize_dynamic(file, file.with_name("int8.onnx"))
    return on_onnx_runtime(file.with_name("int8.onnx"))


def exported(model: Promptable | Dino) -> Path:
    file = Path(tempfile.mkdtemp()) / "encoder.onnx"
    picture = model.preprocess(test_picture())[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Traced(model).eval(), (picture,), file, dynamo=False, opset_version=18)
    return file


def on_onnx_runtime(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    (into,) = session.get_inputs()
    return lambda pixels: tuple(map(torch.from_numpy, session.run(None, {into.name: pixels.numpy()})))


WAYS: dict[str, Callable[[Promptable | Dino], Run]] = {
    "torch bf16": in_bfloat16,
    "torch compile": compiled,
    "OpenVINO": lambda model: converted(model, torch.float32),
    "OpenVINO bf16": lambda model: converted(model, torch.bfloat16),
    "OpenVINO int8": openvino_int8,
    "ONNX Runtime": onnx_float,
    "ONNX Runtime int8": onnx_int8,
}


@torch.no_grad()
def measure(kind: str, name: str, threads: int, rounds: int, titles: Sequence[str]) -> dict[str, Any]:
    """In this process: seconds of each round and cosine, by runtime."""
    torch.set_num_threads(threads)
    clock = time.process_time if threads == 1 else time.perf_counter
    pixels = build(kind, name).preprocess(test_picture())[None]
    runs: dict[str, Run] = {}
    cosines: dict[str, float] = {}
    expected: tuple[Tensor, ...] = ()
    for title, run in ways(kind, name, titles):
        with suppress(RuntimeError):  # a compiler may be missing
            found = run(pixels)
            expected = expected or found
            cosines[title] = least_cosine(found, expected)
            runs[title] = run
    seconds: dict[str, list[float]] = {title: [] for title in runs}
    for _ in range(rounds):
        for title, run in runs.items():
            started = clock()
            run(pixels)
            seconds[title].append(clock() - started)
    return {"model": name, "threads": threads, "seconds": seconds, "cosine": cosines}


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    yield "| model | threads | runtime | seconds | times as fast | cosine |"
    yield "|---|---|---|---|---|---|"
    for line in lines:
        base = line["seconds"]["torch"]
        for title, own in line["seconds"].items():
            ratio = median(before / now for before, now in zip(base, own, strict=True))
            yield (
                f"| {line['model']} | {line['threads']} | {title} | {median(own):.3g} | {ratio:.2f} | "
                f"{line['cosine'][title]:.6f} |"
            )


def compare_masks(data: Path, count: int) -> Iterator[str]:
    """IoU of the embedded models' final masks to PyTorch's in float32, by framework and runtime."""
    dataset = Own(data)
    episodes = dataset.episodes(fold=0, shots=1, seed=0)[:: max(1, len(dataset.episodes(0, 1, 0)) // count)][:count]
    yield "| framework | runtime | mean IoU | least IoU | equal masks |"
    yield "|---|---|---|---|---|"
    for framework in FRAMEWORKS:
        expected = masks(prmagic.load(framework, device="cpu", runtime="torch"), dataset, episodes)
        for title, (runtime, dtype) in PLACES.items():
            found = masks(prmagic.load(framework, device="cpu", runtime=runtime, dtype=dtype), dataset, episodes)
            ious = [float((a & b).sum() / max((a | b).sum(), 1)) for a, b in zip(found, expected, strict=True)]
            equal = sum(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
            yield f"| {framework} | {title} | {np.mean(ious):.4f} | {min(ious):.4f} | {equal} of {len(ious)} |"


def masks(segmenter: Any, dataset: Any, episodes: Any) -> list[Any]:
    found = []
    for episode in episodes:
        query, supports = dataset.load(episode)
        examples = [prmagic.Support(each.image, each.mask) for each in supports]
        found.append(segmenter.segment(query.image, segmenter.encode_support(examples), "photo").mask)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--runtimes", nargs="+", default=list(WAYS), choices=WAYS, metavar="RUNTIME")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--masks", type=Path, metavar="DATA", help="compare masks on these photos instead")
    parser.add_argument("--photos", type=int, default=12)
    parser.add_argument("--table", action="store_true", help="print what is in the record, and measure nothing")
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)  # MODEL THREADS: in the process of its own
    arguments = parser.parse_args()
    if arguments.here:
        name, threads = arguments.here
        print(json.dumps(measure(MODELS[name], name, int(threads), arguments.rounds, arguments.runtimes)))
    elif arguments.masks:
        for row in compare_masks(arguments.masks, arguments.photos):
            print(row, flush=True)
    elif arguments.table:
        print("\n".join(table([json.loads(line) for line in arguments.record.read_text().splitlines()])))
    else:
        for threads in arguments.threads:
            for name in arguments.only:
                command = [sys.executable, __file__, "--here", name, str(threads), "--rounds", str(arguments.rounds)]
                command += ["--runtimes", *arguments.runtimes]
                done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
                line = json.loads(done.stdout.splitlines()[-1])
                with arguments.record.open("a") as record:
                    record.write(json.dumps({**line, "machine": about()}) + "\n")
                print("\n".join(table([line])), flush=True)


if __name__ == "__main__":
    main()
