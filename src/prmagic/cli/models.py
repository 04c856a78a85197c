"""`prmagic models`."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from prmagic.cli import app


@app.command()
def models() -> None:
    """List the models that can be named after --sam."""
    from prmagic.backbones.checkpoints import KNOWN_MODELS

    table = Table(title="Models for --sam", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("name", no_wrap=True)  # for copying, so that the last column has to wrap
    for heading in ("parameters", "input", "download"):
        table.add_column(heading, justify="right")
    table.add_column("licence of the weights; remark")
    for model in KNOWN_MODELS:
        download = f"{model.download} MB" if model.download else "none"
        remark = f"{model.licence}; {model.remark}".rstrip("; ")
        table.add_row(model.name, f"{model.parameters} M", f"{model.input_size} px", download, remark)
    console = Console()
    console.print(table)
    console.print("Any other SAM checkpoint in Hugging Face format works too, by hub id or by folder.")
