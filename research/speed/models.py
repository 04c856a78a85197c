"""What each known model costs on this CPU: `python research/speed/models.py [--only NAME …]`.

Each model has its published architecture, and random weights but for the embedded two: time and memory do not depend on
them, beyond how many masks Matcher finds worth scoring. Each runs in a process of its own, all cores, float32:

- encode: one photo. One run to warm up, then the median of three; of one, where it takes more than 20 s.
- query: a refined query, T = 5, default preset, reference at hand. PerSAM-F for what is prompted; Matcher for an
  encoder, with SAM ViT-B beside it, and embedded with embedded.

Memory is the most that the process ever held until then, weights and libraries included. A line of JSON for each model
goes to the record, which `--table` shows; what it has already is not measured again. EdgeTAM is
left out: its encoder is timm's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    Sam2Config,
    Sam2Model,
    Sam3TrackerConfig,
    Sam3TrackerModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)
from transformers.initialization import no_init_weights

import prmagic
from machine import about
from prmagic import Support
from prmagic.backbones.adapters import ADAPTERS, load_promptable
from prmagic.backbones.checkpoints import BESIDE_ENCODERS, EMBEDDED, KNOWN
from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Promptable
from prmagic.demo import cases

RECORD = Path(__file__).with_suffix(".jsonl")
LONG = 20.0  # seconds; what takes longer is not run three times
VIT: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
SAM_VIT: dict[str, dict[str, Any]] = {
    "base": VIT["base"],
    "large": {**VIT["large"], "global_attn_indexes": [5, 11, 17, 23]},
    "huge": {
        "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "global_attn_indexes": [7, 15, 23, 31],
    },
}  # fmt: skip
HIERA: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 96, "blocks_per_stage": [1, 2, 7, 2], "global_attention_blocks": [5, 7, 9]},
    "small": {"hidden_size": 96, "blocks_per_stage": [1, 2, 11, 2], "global_attention_blocks": [7, 10, 13]},
    "base-plus": {
        "hidden_size": 112, "num_attention_heads": 2, "blocks_per_stage": [2, 3, 16, 3],
        "global_attention_blocks": [12, 16, 20], "window_positional_embedding_background_size": [14, 14],
    },
    "large": {
        "hidden_size": 144, "num_attention_heads": 2, "blocks_per_stage": [2, 6, 36, 4],
        "global_attention_blocks": [23, 33, 43], "window_size_per_stage": [8, 4, 16, 8],
    },
}  # fmt: skip


def sam_hq(vit: dict[str, Any]) -> SamHQConfig:
    return SamHQConfig(vision_config=vit, mask_decoder_config={"vit_dim": vit["hidden_size"]})


def sam2(hiera: dict[str, Any]) -> Sam2Config:
    """Each stage has twice the channels and heads of the one before."""
    hiera = {"model_type": "sam2_hiera_det_model", "num_attention_heads": 1, **hiera}
    channels = [hiera["hidden_size"] << stage for stage in range(4)]
    hiera["embed_dim_per_stage"] = channels
    hiera["num_attention_heads_per_stage"] = [hiera["num_attention_heads"] << stage for stage in range(4)]
    vision = {"model_type": "sam2_vision_model", "backbone_config": hiera, "backbone_channel_list": channels[::-1]}
    return Sam2Config(vision_config=vision)


def dinov3(vit: dict[str, Any]) -> DINOv3ViTConfig:
    return DINOv3ViTConfig(intermediate_size=4 * vit["hidden_size"], num_register_tokens=4, **vit)


DINOV2 = {"image_size": 518, "patch_size": 14}
SMALLER = {size: vit for size, vit in VIT.items() if size != "giant"}
ARCHITECTURES: dict[str, tuple[Any, Any]] = {
    **{f"facebook/sam-vit-{size}": (SamModel, SamConfig(vision_config=vit)) for size, vit in SAM_VIT.items()},
    **{f"syscv-community/sam-hq-vit-{size}": (SamHQModel, sam_hq(vit)) for size, vit in SAM_VIT.items()},
    **{f"facebook/sam2.1-hiera-{size}": (Sam2Model, sam2(hiera)) for size, hiera in HIERA.items()},
    "facebook/sam3": (Sam3TrackerModel, Sam3TrackerConfig()),
    **{f"facebook/dinov2-{size}": (Dinov2Model, Dinov2Config(**DINOV2, **vit)) for size, vit in VIT.items()},
    **{
        f"facebook/dinov2-with-registers-{size}": (
            Dinov2WithRegistersModel,
            Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=4, **vit),
        )
        for size, vit in SMALLER.items()
    },
    **{
        f"facebook/dinov3-vit{size[0]}16-pretrain-lvd1689m": (DINOv3ViTModel, dinov3(vit))
        for size, vit in SMALLER.items()
    },
}


def random_weights(model_class: Any, config: Any) -> Any:
    """Seeded; of a spread at which no layer is silent or saturated. Filled here, because it is faster."""
    torch.manual_seed(0)
    with no_init_weights():
        model = model_class(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:
                weight.fill_(0.0 if name.endswith("bias") else 1.0)  # of a norm or a layer's scale
            else:
                weight.normal_(0, weight[0].numel() ** -0.5)
        for name, values in model.named_buffers():
            if name.endswith("positional_embedding"):
                values.normal_()  # as in a trained SAM; transformers' start with hundreds of it
    return model


def build(kind: str, name: str) -> Promptable | Dino:
    if name == EMBEDDED:
        return load_promptable(name) if kind == "sam" else Dino.load(name)
    model = random_weights(*ARCHITECTURES[name])
    title = f"{name}, random weights"
    if kind == "encoder":
        return Dino(model, title)
    return next(adapter for adapter in ADAPTERS if isinstance(model, adapter.model_classes))(model, title)


def timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def repeated(run: Callable[[], Any]) -> list[float]:
    """Seconds of three runs, or of one that is long."""
    seconds = [timed(run)]
    while seconds[0] <= LONG and len(seconds) < 3:
        seconds.append(timed(run))
    return seconds


def peak_memory() -> float:
    """GB that this process held at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def worked() -> float:
    """Core-seconds that all processes of the machine, and other machines on its cores, took since it started."""
    _, user, nice, system, _, _, *interrupts_and_stolen = Path("/proc/stat").read_text().split("\n")[0].split()[:9]
    return sum(map(int, (user, nice, system, *interrupts_and_stolen))) / os.sysconf("SC_CLK_TCK")


def measure(kind: str, name: str) -> dict[str, Any]:
    """In this process, which must have done nothing else before."""
    record: dict[str, Any] = {"kind": kind, "name": name, "memory": {"libraries": peak_memory()}}
    case = cases()[0]
    model = build(kind, name)
    size = sum(weight.numel() for weight in model.model.parameters()) / 1e6
    known = next(known for known in KNOWN[kind] if known.name == name)
    if round(size, 1) != known.parameters:
        raise SystemExit(f"{name} as built here has {size:.1f} M parameters, not {known.parameters} M")
    found: list[Any] = []
    before = (worked() - time.process_time(), time.perf_counter())

    def encode() -> None:
        found[:] = model.encode([case.query])

    record["warm up"], record["encode"] = timed(encode), repeated(encode)
    values = found[0].features if kind == "sam" else found[0].after_norm
    if not values.isfinite().all():
        raise SystemExit(f"{name}, random weights: its features are not finite, so times would mean nothing")
    record["memory"]["encode"] = peak_memory()

    if isinstance(model, Dino):
        beside = build("sam", EMBEDDED if name == EMBEDDED else BESIDE_ENCODERS)
        assert isinstance(beside, Promptable)
        segmenter = prmagic.load("matcher", sam=beside, encoder=model)
    else:
        segmenter = prmagic.load("persam-f", sam=model)
    reference = segmenter.encode_support(Support(case.support, case.support_mask))

    def query() -> None:
        found[:] = [segmenter.segment(case.query, reference)]

    record["query"] = repeated(query)
    record["memory"]["query"] = peak_memory()
    record["stages"] = dict(found[0].seconds)
    record["counts"] = dict(found[0].counts)
    record["covered"] = [round(float(candidate.mask.mean()), 3) for candidate in found[0].candidates]
    record["others"] = (worked() - time.process_time() - before[0]) / (time.perf_counter() - before[1])
    return record


def measured(record: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """By kind and name; the last line of each counts."""
    lines = [json.loads(line) for line in record.read_text().splitlines()] if record.exists() else []
    return {(line["kind"], line["name"]): line for line in lines}


def shown(line: dict[str, Any], what: str) -> str:
    return f"{median(line[what]):.3g} s, {line['memory'][what]:.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help="of these models alone")
    parser.add_argument("--again", action="store_true", help="also what is in the record already")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--table", action="store_true", help="print what is in the record, and measure nothing")
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)  # KIND NAME: in the process of its own
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(*arguments.here)))
        return
    done = measured(arguments.record)
    if arguments.table:
        print("| model | encode | refined query | median / fastest encode | others' load |\n|---|---|---|---|---|")
        for line in done.values():
            spread = median(line["encode"]) / min(line["warm up"], *line["encode"])
            costs = f"{shown(line, 'encode')} | {shown(line, 'query')}"
            print(f"| `{line['name']}` | {costs} | {spread:.2f} | {line['others']:.2f} cores |")
        return
    wanted = [(kind, known.name) for kind, models in KNOWN.items() for known in models]
    unknown = set(arguments.only or ()) - {name for _, name in wanted}
    if unknown:
        parser.error(f"not known: {', '.join(sorted(unknown))}")
    machine = about()
    print(", ".join(f"{what} {value}" for what, value in machine.items()))
    for kind, name in wanted:
        if arguments.only and name not in arguments.only:
            continue
        if name != EMBEDDED and name not in ARCHITECTURES:
            print(f"{name}: not measured, it needs timm")
        elif arguments.again or (kind, name) not in done:
            command = [sys.executable, __file__, "--here", kind, name]
            line = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
            with arguments.record.open("a") as record:
                record.write(json.dumps({**line, "machine": machine}) + "\n")
            costs = f"encode {shown(line, 'encode')}; query {shown(line, 'query')}"
            print(f"{name}: {costs}; others {line['others']:.2f} cores")


if __name__ == "__main__":
    main()
