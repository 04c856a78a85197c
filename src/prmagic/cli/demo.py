"""`prmagic demo`: one marked photo, and what is found in others; on photos that come with the package."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prmagic.cli.terminal import errors_for_people, say, waiting_for

if TYPE_CHECKING:
    from PIL import Image

    from prmagic import Segmentation, Segmenter
    from prmagic.demo import Sheet
    from prmagic.types import BoolArray

FOUND = 0.5  # the least IoU with the known mask


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("demo_output"),
    framework: Annotated[
        str | None,
        typer.Option(help="Use only this one, such as gf-sam.", show_default="persam-f, for several things matcher"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result.")] = 0,
) -> None:
    """Find marked things in real photos, offline, with the small embedded models."""
    with errors_for_people():
        from prmagic.demo import sheets
        from prmagic.io.records import check_out
        from prmagic.loading import load
        from prmagic.pictures import save_image

        check_out(out)
        shown = sheets()
        names = {framework or sheet.framework for sheet in shown}
        segmenters = {name: load(name, seed=seed, device="cpu") for name in sorted(names)}
        say(f"{'picture':17} {'framework':9}  {'found':8}  {'mean IoU':>8}  {'seconds':>7}")
        for number, sheet in enumerate(shown, start=1):
            name, file = framework or sheet.framework, f"{number}_{sheet.name}.jpg"
            started = time.perf_counter()
            with waiting_for(sheet.title):
                results = _segmented(sheet, segmenters[name])
            seconds = time.perf_counter() - started
            ious = [_iou(result.mask, case.truth) for result, case in zip(results, sheet.cases, strict=True)]
            found = f"{sum(iou >= FOUND for iou in ious)} of {len(ious)}"
            say(f"{file:17} {name:9}  {found:8}  {sum(ious) / len(ious):8.2f}  {seconds:7.1f}   {sheet.title}")
            save_image(_rows(sheet, results) if sheet.steps else _sheet(sheet, results), out / file)
        say(f"\nFound: the IoU with the known mask is at least {FOUND}. The pictures are in\n{out.resolve()}")


def _segmented(sheet: Sheet, segmenter: Segmenter) -> list[Segmentation]:
    """Of each of the sheet's cases; a marked photo that several share is encoded once."""
    from prmagic import Support

    references = {}
    for case in sheet.cases:
        if id(case.support) not in references:
            references[id(case.support)] = segmenter.encode_support(Support(case.support, case.support_mask))
    return [segmenter.segment(case.query, references[id(case.support)], name=case.name) for case in sheet.cases]


def _sheet(sheet: Sheet, results: Sequence[Segmentation]) -> Image.Image:
    """The marked photo, and what was found in all others."""
    from prmagic.strips import contact_sheet

    support = sheet.cases[0].support, sheet.cases[0].support_mask
    found = [(result.image, result.mask) for result in results]
    ious = [_iou(result.mask, case.truth) for result, case in zip(results, sheet.cases, strict=True)]
    captions = [f"IoU {iou:.2f}" + ", missed" * (iou < FOUND) for iou in ious]
    count = f" Found in {sum(iou >= FOUND for iou in ious)} of {len(ious)} others." * (len(ious) > 1)
    return contact_sheet(sheet.title + count, support, found, captions)


def _rows(sheet: Sheet, results: Sequence[Segmentation]) -> Image.Image:
    """A row for each case: the marked photo, what the framework finds alone, the refined mask, the known one."""
    from prmagic.strips import contact_sheet, stacked

    rows = []
    for case, result in zip(sheet.cases, results, strict=True):
        masks = {"at first": result.candidates[0].mask, "refined": result.mask}
        captions = [f"{name}: IoU {_iou(mask, case.truth):.2f}" for name, mask in masks.items()]
        found = [(result.image, mask) for mask in (*masks.values(), case.truth)]
        rows.append(contact_sheet(case.caption, (case.support, case.support_mask), found, [*captions, "known mask"]))
    return stacked(rows)


def _iou(mask: BoolArray, truth: BoolArray) -> float:
    from prmagic.metrics import areas, foreground_iou

    return float(foreground_iou(areas(mask, truth)))
