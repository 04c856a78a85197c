"""`prmagic models`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from prmagic.backbones.checkpoints import Cost, KnownModel


def models() -> None:
    """List the models that can be named after --sam and --encoder."""
    from rich.console import Console

    from prmagic.backbones.checkpoints import BESIDE_ENCODERS, KNOWN_ENCODERS, KNOWN_SAMS, MEASURED_ON

    console = Console()
    console.print(_table("Models for --sam", KNOWN_SAMS))
    console.print(
        "Any other SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3 in Hugging Face format works too, by hub id or folder."
    )
    console.print()
    console.print(_table("Models for --encoder (framework matcher)", KNOWN_ENCODERS))
    console.print("So does any other DINOv2, with or without registers, and any DINOv3 (ViT).")
    console.print()
    console.print(
        "Encode: of one photo. Query: a refined one, T = 5, default preset, reference at hand; by PerSAM-F, and for an "
        f"encoder by Matcher with {BESIDE_ENCODERS} (embedded with embedded). Seconds, and the process's peak memory, "
        f"where measured: on {MEASURED_ON}."
    )
    console.print("Gated: its page on huggingface.co asks for consent before the download; then run `hf auth login`.")
    console.print(
        "An @ behind a hub id takes a certain revision, such as facebook/sam-vit-huge@main. The original files of SAM "
        "(sam_vit_h_4b8939.pth, …), SAM-HQ and DINOv2 (dinov2_vitl14_pretrain.pth, …) are taken as they are."
    )


def _table(title: str, known: Iterable[KnownModel]) -> Table:
    """Narrow enough for 80 columns."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left", show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("name, licence of the weights, remark", no_wrap=True)  # names are for copying
    for heading in ("param.,\ndownload", "input", "encode", "query"):
        table.add_column(heading, justify="right", no_wrap=True)
    for model in known:
        licence = f"{model.licence}, gated" if model.gated else model.licence
        lines = [model.name, licence, model.remark] if model.remark else [model.name, licence]
        size = f"{model.parameters} M\n" + (f"{model.download} MB" if model.download else "none")
        table.add_row(
            "\n  ".join(lines), size, f"{model.input_size} px", _measured(model.encode), _measured(model.query)
        )
    return table


def _measured(cost: Cost | None) -> str:
    return "not\nmeasured" if cost is None else f"{cost.seconds:g} s\n{cost.memory:.1f} GB"
