"""`prmagic export`: results for labelling tools."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from prmagic.cli import app, errors_for_people, progress_bar, say


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `prmagic segment` wrote.")],
    to: Annotated[str, typer.Option(help="coco (CVAT and others import it), yolo-seg, label-studio, or masks.")],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    polygons: Annotated[
        bool, typer.Option("--polygons", help="coco, label-studio: outlines to edit, instead of exact pixels.")
    ] = False,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="PIXELS",
            help="Of polygons: how far an outline may depart from the mask; 0 for all its corners.",
            show_default="1",
        ),
    ] = None,
    image_url: Annotated[
        str | None,
        typer.Option(
            metavar="PREFIX",
            help="label-studio: what stands before a photo's name in its address.",
            show_default="/data/local-files/?d=",
        ),
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Copy the photos too, where the tool looks for them; they are known by their content."
        ),
    ] = None,
) -> None:
    """Write the masks of a run as labelling tools import them.

    Example: prmagic export found/ --to coco --out for_cvat/
    """
    with errors_for_people():
        from prmagic.export import FORMATS, exported, find_photos, read_run
        from prmagic.names import lookup
        from prmagic.resumable import make_folder

        photos_below = lookup("format", to, FORMATS).photos
        labels, hashes, found = read_run(run)
        make_folder(out)
        if any(out.iterdir()):
            raise ValueError(f"{out} is not empty: choose a new folder with --out")
        try:
            copies = {} if photos is None else find_photos(hashes, photos)
            with progress_bar("Exporting", len(hashes)) as (progress, task):
                passing = progress.track(found, task_id=task)
                files = exported(passing, labels, to, polygons=polygons, tolerance=tolerance, image_url=image_url)
                for name, content in files:
                    _new(out / name).write_bytes(content)
                for name, file in copies.items():
                    shutil.copyfile(file, _new(out / photos_below / name))
        except BaseException:
            shutil.rmtree(out, ignore_errors=True)  # it was empty
            raise
        say(f"{len(hashes)} photo(s), {len(labels)} label(s): {out}")


def _new(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
