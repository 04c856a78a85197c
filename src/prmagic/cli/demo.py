"""`prmagic demo`: the main job on photos that ship with a dependency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from prmagic.cli import CONSOLE, app, errors_for_people, say


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo_output"),
    framework: Annotated[str, typer.Option(help="persam or persam-f.")] = "persam-f",
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
) -> None:
    """Segment a few real photos from one example each, offline, with the small embedded model."""
    with errors_for_people():
        from prmagic import Support, load, viz
        from prmagic.demo import cases
        from prmagic.evaluation.metrics import areas

        table = Table(title="IoU of the object with a mask drawn by hand")
        for heading in ("case", "baseline (t = 0)", "chosen", "best of all", "seconds", "what it shows"):
            table.add_column(heading, overflow="fold")
        segmenter = load(framework, seed=seed)
        for case in cases():
            with CONSOLE.status(f"{case.name} …"):
                reference = segmenter.encode_support(Support(case.support, case.support_mask))
                result = segmenter.segment(case.query, reference, name=case.name)
                strip = viz.candidate_strip(result, case.query, reference.preview)
                viz.save_image(strip, out / f"{case.name}.png")
                viz.save_image(viz.overlay(case.query, result.mask), out / f"{case.name}_overlay.jpg")
            ious = ["–"] * 3
            if case.truth is not None:
                each = [areas(candidate.mask, case.truth).foreground_iou for candidate in result.candidates]
                ious = [f"{each[0]:.2f}", f"{each[result.chosen]:.2f} (t = {result.chosen})", f"{max(each):.2f}"]
            table.add_row(case.name, *ious, f"{sum(result.seconds.values()):.1f}", case.caption)
        Console().print(table)
        say(f"The pictures are in {out.resolve()}")
