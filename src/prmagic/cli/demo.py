"""`prmagic demo`: the main job on photos that ship with a dependency."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prmagic.cli import CONSOLE, app, errors_for_people


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

        # With the peak as the only point, the default, the paper's steps hardly move anything on the embedded model
        # (docs/measurements.md); with points drawn around it there is something to see.
        segmenter = load(framework, seed=seed, device="cpu", extra_points="0.99/0.90")
        for case in cases():
            with CONSOLE.status(f"{case.name} …"):
                reference = segmenter.encode_support(Support(case.support, case.support_mask))
                result = segmenter.segment(case.query, reference, name=case.name)
                strip = viz.candidate_strip(result, case.query, reference.preview)
                viz.save_image(strip, out / f"{case.name}.png")
                viz.save_image(viz.overlay(case.query, result.mask), out / f"{case.name}_overlay.jpg")
            CONSOLE.print(f"[bold]{case.name}[/]: {case.caption}")
            told = f"t = {result.chosen} chosen of 0 … {len(result.candidates) - 1}"
            if case.truth is not None:
                each = [areas(candidate.mask, case.truth).foreground_iou for candidate in result.candidates]
                told += f"; IoU with a mask drawn by hand: baseline {each[0]:.2f}, chosen {each[result.chosen]:.2f}"
                told += f", best of all {max(each):.2f}"
            CONSOLE.print(f"  {told}; {sum(result.seconds.values()):.1f} s", style="dim")
        CONSOLE.print(f"\nThe pictures are in {out.resolve()}: strips of all candidates, overlays of the chosen.")
