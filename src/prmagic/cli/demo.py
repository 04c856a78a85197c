"""`prmagic demo`: the main job on photos that ship with a dependency, with each framework."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prmagic.cli.terminal import errors_for_people, say, waiting_for

if TYPE_CHECKING:
    from prmagic import Segmentation, Segmenter
    from prmagic.demo import Case
    from prmagic.types import BoolArray

SIDE_BY_SIDE = ("persam-f", "matcher")
SPOKEN = {"persam": "PerSAM", "persam-f": "PerSAM-F", "matcher": "Matcher", "gf-sam": "GF-SAM"}


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo_output"),
    framework: Annotated[
        str | None,
        typer.Option(help="Only this one, such as persam.", show_default="persam-f and matcher"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
) -> None:
    """Segment a few real photos from one example each, offline, with the small embedded models."""
    with errors_for_people():
        from prmagic.demo import cases

        names = SIDE_BY_SIDE if framework is None else (framework,)
        segmenters = {name: _segmenter(name, seed) for name in names}
        for case in cases():
            say(f"{case.name}: {case.caption}")
            _show(case, segmenters, out)
        say(
            f"\nThe pictures are in {out.resolve()}\n"
            "<case>.png compares, the others show every candidate and the chosen mask. IoU is the overlap with a mask "
            "drawn by hand."
        )


def _show(case: Case, segmenters: Mapping[str, Segmenter], out: Path) -> None:
    """One case by each framework: its pictures, and a line."""
    from prmagic import Support, pictures
    from prmagic.strips import candidate_strip, comparison

    results = {}
    for name, segmenter in segmenters.items():
        spoken = SPOKEN.get(name, name)
        with waiting_for(spoken):
            reference = segmenter.encode_support(Support(case.support, case.support_mask))
            result = segmenter.segment(case.query, {case.label: reference}, name=case.name)[case.label]
            strip = candidate_strip(result, case.query, reference.preview)
            pictures.save_image(strip, out / f"{case.name}_{name}.png")
            pictures.save_image(pictures.overlay(case.query, result.mask), out / f"{case.name}_{name}_overlay.jpg")
        say(f"  {spoken:8}  {_told(result, case.truth)}")
        results[spoken] = result
    picture = comparison(results, reference.preview, case.truth, case.caption)
    pictures.save_image(picture, out / f"{case.name}.png")


def _segmenter(framework: str, seed: int) -> Segmenter:
    from prmagic.loading import load

    # Some of the photos show several things, of which the peak alone, the default, finds one.
    options: dict[str, Any] = {"extra_points": "0.99/0.90"} if framework == "persam-f" else {}
    return load(framework, seed=seed, device="cpu", **options)


def _told(result: Segmentation, truth: BoolArray | None) -> str:
    """Which candidate was chosen, how good it is, how long it took."""
    from prmagic.metrics import areas, foreground_iou

    told = f"t = {result.chosen} chosen"
    if truth is not None:
        each = [float(foreground_iou(areas(candidate.mask, truth))) for candidate in result.candidates]
        told += f": IoU {each[result.chosen]:.2f} (baseline {each[0]:.2f}, best of {len(each)} {max(each):.2f})"
    if result.rejected:
        told += f", but not found: its score {result.score:.2f} is below {result.min_score:.2f}"
    return f"{told}; {sum(result.seconds.values()):.1f} s"
