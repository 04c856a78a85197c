"""`prmagic models`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from prmagic.cli import app

if TYPE_CHECKING:
    from prmagic.backbones.checkpoints import KnownModel


@app.command()
def models() -> None:
    """List the models that can be named after --sam and --encoder."""
    from prmagic.backbones.checkpoints import KNOWN_ENCODERS, KNOWN_SAMS

    console = Console()
    console.print(_table("Models for --sam", KNOWN_SAMS))
    console.print("Any other SAM checkpoint in Hugging Face format works too, by hub id or by folder.")
    console.print(_table("Models for --encoder (framework matcher)", KNOWN_ENCODERS))
    console.print("So does any other DINOv2, with or without registers, and any DINOv3 (ViT).")
    console.print(
        "An @ behind a hub id takes a certain revision, such as facebook/sam-vit-huge@main. The original files of SAM "
        "(sam_vit_h_4b8939.pth, …) and DINOv2 (dinov2_vitl14_pretrain.pth, …) are taken as they are."
    )


def _table(title: str, known: Iterable[KnownModel]) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    table.add_column("name", no_wrap=True)  # for copying, so that the last column has to wrap
    for heading in ("parameters", "input", "download"):
        table.add_column(heading, justify="right")
    table.add_column("licence of the weights; remark")
    for model in known:
        download = f"{model.download} MB" if model.download else "none"
        remark = f"{model.licence}; {model.remark}".rstrip("; ")
        table.add_row(model.name, f"{model.parameters} M", f"{model.input_size} px", download, remark)
    return table
