"""`prmagic models`."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from prmagic.cli import app


@app.command()
def models() -> None:
    """List the models that can be named after --sam."""
    from prmagic.backbones.checkpoints import KNOWN_MODELS

    table = Table(title="Models for --sam")
    for heading in ("name", "parameters", "input", "download", "licence of the weights", ""):
        table.add_column(heading, justify="right" if heading in ("parameters", "input", "download") else "left")
    for model in KNOWN_MODELS:
        download = f"{model.download} MB" if model.download else "none"
        size = f"{model.input_size} px"
        table.add_row(model.name, f"{model.parameters} M", size, download, model.licence, model.remark)
    console = Console()
    console.print(table)
    console.print("Any other SAM checkpoint in Hugging Face format works too, by hub id or by folder.")
