"""What a visitor takes away: a zip with everything, files for labelling tools, and a table."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from typing import IO, Any

from prmagic.app.rerun import command, example_files, python
from prmagic.app.settings import as_text
from prmagic.app.visitor import KeptMask, Visitor
from prmagic.io.formats import Labelled, exported
from prmagic.io.images import load_image
from prmagic.io.records import RUN, versions
from prmagic.io.runs import RESULTS

EVERYTHING = "results"
KINDS: Mapping[str, str] = {
    EVERYTHING: "Everything: masks, pictures, table",
    "coco": "COCO",
    "yolo-seg": "YOLO",
    "label-studio": "Label Studio",
    "masks": "Class masks (PASCAL VOC)",
}
COLUMNS = (
    "photo", "class", "found", "how", "score", "step", "selector_score", "predicted_iou", "area", "share", "things",
    "framework", "settings",
)  # fmt: skip
HOW = {
    "automatic": "chosen by the selector",
    "picked": "step picked by hand",
    "corrected": "corrected by hand",
}
README = """\
masks/          255 on the object and 0 elsewhere, at each photo's own size; with several classes, a folder for each
overlays/       the photos with the masks on them
results.jsonl   as `prmagic segment` writes it: the answer, and prompts, scores and mask of every candidate
run.json        the settings
scores.csv      a line for each photo and class; how: chosen by the selector, or picked or corrected by hand;
                score: how alike what the mask covers is to the examples; selector_score: the selector's
examples/       what was looked for: photos with masks, or saved references
again.sh, again.py  the command, and the Python lines, that give the same

For a labelling tool: prmagic export THIS.zip --to coco (or yolo-seg, label-studio, masks)
"""


def ordered(visitor: Visitor, *photos: str) -> list[KeptMask]:
    """All results, or those of these photos: photo by photo, and the classes in their order."""
    known, labels = visitor.results, list(visitor.sources)
    wanted = ((name, label) for name in photos or list(visitor.photos) for label in labels)
    return [known[key] for key in wanted if key in known]


def rows(visitor: Visitor) -> list[dict[str, Any]]:
    """The table of scores, by COLUMNS. A corrected mask has no scores."""
    return [_row(kept) for kept in ordered(visitor)]


def table(visitor: Visitor) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(visitor))
    return text.getvalue()


def write_zip(visitor: Visitor, kind: str, file: IO[bytes]) -> None:
    """Write the zip of that kind; ValueError for labels or names that the format cannot hold."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind == EVERYTHING:
            _write_everything(visitor, archive)
            return
        for path, content in exported(_labelled(visitor, ordered(visitor)), list(visitor.sources), kind):
            archive.writestr(path, content)


def _write_everything(visitor: Visitor, archive: zipfile.ZipFile) -> None:
    kept = ordered(visitor)
    several = len(visitor.sources) > 1
    lines = []
    for one in kept:
        named = {}
        for kind, suffix in (("masks", ".png"), ("overlays", ".jpg")):
            file = visitor.path(kind, one, suffix)
            below = visitor.workspace.folder / kind / ("" if several else one.label)
            named[kind] = f"{kind}/{file.relative_to(below).as_posix()}"
            archive.write(file, named[kind], zipfile.ZIP_STORED)  # pictures are compressed already
        lines.append(json.dumps(_with_mask(one.record, named["masks"]), ensure_ascii=False) + "\n")
    for path, name in example_files(visitor):
        archive.write(path, name, zipfile.ZIP_STORED)
    texts = {
        RUN: json.dumps(_run(visitor), indent=2, ensure_ascii=False) + "\n",
        RESULTS: "".join(lines),
        "scores.csv": table(visitor),
        "again.sh": command(visitor) + "\n",
        "again.py": python(visitor) + "\n",
        "README.txt": README,
    }
    for name, text in texts.items():
        archive.writestr(name, text)
    for label, reference in visitor.examples.references.items():
        saved = visitor.workspace.folder / "references" / f"{label}.safetensors"
        reference.save(saved)
        archive.write(saved, f"examples/{label}.safetensors")


def _with_mask(record: Mapping[str, Any], mask: str) -> dict[str, Any]:
    """A line of results.jsonl with the mask's file, where `prmagic segment` puts it."""
    before = list(record).index("rle")
    items = list(record.items())
    return dict([*items[:before], ("mask", mask), *items[before:]])


def _run(visitor: Visitor) -> dict[str, Any]:
    """As the run.json of `prmagic segment`."""
    engine = visitor.workspace.engine
    references: dict[str, str | None] = {}
    for label, source in visitor.sources.items():
        try:
            references[label] = engine.reference(visitor.settings, source).digest
        except ValueError:  # saved with other settings than those of the next run
            references[label] = source.saved.digest if source.saved else None
    settings = engine.check(visitor.settings).settings
    return {
        "settings": settings, "references": references, "instances": visitor.settings.instances, "versions": versions(),
    }  # fmt: skip


def _labelled(visitor: Visitor, kept: Sequence[KeptMask]) -> Iterator[Labelled]:
    """The photos with their masks, as the formats of labelling tools take them."""
    for name, several in groupby(kept, key=lambda one: one.photo.name):
        ones = list(several)
        masks = {one.label: load_image(visitor.path("masks", one, ".png"))[..., 0] > 0 for one in ones}
        told_apart = {one.label: one.instances for one in ones}
        instances = {label: things for label, things in told_apart.items() if things is not None}
        yield Labelled(name, masks, instances=instances)


def _row(kept: KeptMask) -> dict[str, Any]:
    by_model = kept.how != "corrected"
    scores = (kept.chosen, kept.selector_score, kept.predicted_iou) if by_model else (None, None, None)
    changed = {name: value for name, value in kept.settings.arguments.items() if name not in ("framework", "seed")}
    settings = ", ".join(f"{name} {as_text(value)}" for name, value in changed.items()) or "default"
    values = (
        kept.photo.name, kept.label, kept.found, HOW[kept.how], kept.score, *scores, kept.area, kept.share,
        kept.things, kept.settings.framework, settings,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))
