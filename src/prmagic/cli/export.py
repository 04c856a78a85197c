"""`prmagic export`: results for labelling tools."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from prmagic.cli.terminal import errors_for_people, progress_bar, say

RUN = Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `prmagic segment` wrote, or the page's zip.")]
TO = Annotated[
    str, typer.Option(help="coco (CVAT and others import it), yolo-seg, label-studio or masks; of a video coco-video.")
]
OUT = Annotated[Path, typer.Option(help="A new folder.", show_default=False)]
POLYGONS = Annotated[
    bool, typer.Option("--polygons", help="coco, label-studio: outlines to edit, instead of exact pixels.")
]
TOLERANCE = Annotated[
    float | None,
    typer.Option(
        metavar="PIXELS",
        help="How far an outline may depart from the mask; 0: not at all.",
        show_default="1",
    ),
]
IMAGE_URL = Annotated[
    str | None,
    typer.Option(
        metavar="PREFIX",
        help="label-studio: what stands before a photo's name in its address.",
        show_default="/data/local-files/?d=images/",
    ),
]
MIN_AREA = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="Leave out smaller parts of a mask; 0 keeps all.",
        show_default="yolo-seg, label-studio --polygons: 16 pixels or 0.1 % of the object; others: 0",
    ),
]
PHOTOS = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Copy the photos from this folder too, to where the tool looks for them."),
]


def export(
    run: RUN,
    to: TO,
    out: OUT,
    polygons: POLYGONS = False,
    tolerance: TOLERANCE = None,
    image_url: IMAGE_URL = None,
    min_area: MIN_AREA = None,
    photos: PHOTOS = None,
) -> None:
    """Write the masks of a run as labelling tools import them.

    Example: prmagic export found/ --to coco --out for_cvat/
    """
    with errors_for_people():
        options = {"polygons": polygons, "tolerance": tolerance, "image_url": image_url, "min_area": min_area}
        number, labels = _write(run, to, out, photos, options)
        say(f"Exported {number} {'frame' if to == 'coco-video' else 'photo'}(s) with {labels} label(s) to {out}")


def _write(run: Path, to: str, out: Path, photos: Path | None, options: dict[str, Any]) -> tuple[int, int]:
    """Write the export; the number of photos and of labels."""
    from prmagic.io.formats import FORMATS, exported, photo_names
    from prmagic.io.records import check_out, new_folder
    from prmagic.io.run_reader import find_photos, read_run
    from prmagic.names import lookup

    kind = lookup("format", to, FORMATS)
    if kind.video and photos is not None:
        raise ValueError(f"--photos is for photos: leave it out with {to}, and copy the frames yourself")
    check_out(out)
    labels, hashes, found = read_run(run, kind.video)
    with new_folder(out) as folder:
        copies = {} if photos is None else find_photos(hashes, photos)
        names = photo_names(hashes, to)
        with progress_bar("Exporting", len(hashes)) as (progress, task):
            for name, content in exported(progress.track(found, task_id=task), labels, to, **options):
                _new(folder / name).write_bytes(content)
            for name, file in copies.items():
                shutil.copyfile(file, _new(folder / kind.photos / names[name]))
    return len(hashes), len(labels)


def _new(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
