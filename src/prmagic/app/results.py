"""What a visitor can take away: a zip, a table, and the lines that give the same without the page."""

from __future__ import annotations

import csv
import io
import json
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np

from prmagic.app.engine import command_options, python_options
from prmagic.app.visitor import Kept, Visitor
from prmagic.export import Labelled, Options, coco
from prmagic.images import load_image
from prmagic.types import BoolArray

COLUMNS = (
    "photo", "class", "found", "how", "score", "step", "step_score", "predicted_iou", "area", "share", "framework",
    "settings",
)  # fmt: skip
HOW = {
    "automatic": "chosen by the selector",
    "picked": "step picked by hand",
    "corrected": "corrected by hand",
}
README = """\
masks/            255 on the object and 0 elsewhere, of each photo's own size; with several classes, a folder for each
overlays/         the photos with the masks on them
annotations.json  the masks in COCO's format; a mask in which nothing was found has no annotation
results.jsonl     as `prmagic segment` writes it: the prompts, scores and mask of every candidate
scores.csv        a line for each photo and class; how: chosen by the selector, or picked or corrected by hand;
                  score: how alike the mask's content is to the examples; step_score: the selector's
examples/         what was looked for: photos with masks, or saved references
again.sh, again.py  the command, and the Python lines, that give the same
"""


def ordered(visitor: Visitor, *photos: str) -> list[Kept]:
    """All results, or those of these photos, photo by photo and the classes in their order."""
    known, labels = visitor.results, list(visitor.sources)
    wanted = ((name, label) for name in photos or list(visitor.photos) for label in labels)
    return [known[key] for key in wanted if key in known]


def rows(visitor: Visitor) -> list[dict[str, Any]]:
    """The table of scores, by COLUMNS; of a corrected mask there is no score."""
    found = []
    for kept in ordered(visitor):
        line, settings = kept.record, kept.settings
        chosen = line["chosen"]
        by_model = kept.how != "corrected"
        changed = {name: value for name, value in settings.given.items() if name not in ("framework", "seed")}
        found.append(
            dict(
                zip(
                    COLUMNS,
                    (
                        kept.photo.name, kept.label, kept.found, HOW[kept.how], line["score"] if by_model else None,
                        chosen if by_model else None, line["scores"][chosen] if by_model else None,
                        line["candidates"][chosen]["predicted_iou"] if by_model else None,
                        kept.area, kept.area / (line["height"] * line["width"]), settings.framework,
                        ", ".join(f"{name} {value}" for name, value in changed.items()) or "default",
                    ),
                    strict=True,
                )
            )
        )  # fmt: skip
    return found


def write_zip(visitor: Visitor, file: IO[bytes]) -> None:
    """Everything, as README above says."""
    kept = ordered(visitor)
    folder = {label: f"{label}/" if len(visitor.sources) > 1 else "" for label in visitor.sources}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # pictures are compressed already
        for one in kept:
            for kind, suffix in (("masks", ".png"), ("overlays", ".jpg")):
                place = PurePosixPath(kind, folder[one.label] + one.photo.name).with_suffix(suffix)
                archive.write(visitor.path(kind, one, suffix), place.as_posix())
        for path, name in _example_files(visitor):
            archive.write(path, name)
        texts = {
            "annotations.json": json.dumps(coco(labelled(visitor, kept), list(visitor.sources), Options())),
            "results.jsonl": "".join(json.dumps(one.record, ensure_ascii=False) + "\n" for one in kept),
            "scores.csv": table(visitor),
            "again.sh": command(visitor) + "\n",
            "again.py": python(visitor) + "\n",
            "README.txt": README,
        }
        for name, text in texts.items():
            archive.writestr(name, text, zipfile.ZIP_DEFLATED)
        for label, reference in visitor.saved.items():
            saved = visitor.folder / "references" / f"{label}.safetensors"
            reference.save(saved)
            archive.write(saved, f"examples/{label}.safetensors")


def table(visitor: Visitor) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(visitor))
    return text.getvalue()


def labelled(visitor: Visitor, kept: Sequence[Kept]) -> Iterator[Labelled]:
    """The photos with their masks, as the formats of labelling tools take them."""
    for name, ones in groupby(kept, key=lambda one: one.photo.name):
        yield Labelled(name, {one.label: _mask(visitor.path("masks", one, ".png")) for one in ones})


def command(visitor: Visitor) -> str:
    """The command line, to be run in the unpacked zip; what was done by hand is told as a remark."""
    words = ["prmagic", "segment", *(str(path) for path in _queries(visitor))]
    for label, files in _sources(visitor).items():
        for pair in files:
            words += ["--reference", *pair] if len(pair) == 1 else ["--support", *pair]
        words += ["--label", label]
    lines = [*_remarks(visitor), shlex.join([*words, *command_options(visitor.engine.models, visitor.settings)])]
    return "\n".join(lines) + " --out again/"


def python(visitor: Visitor) -> str:
    """The same in Python."""
    settings, models = visitor.settings, visitor.engine.models
    arguments = ", ".join(
        [repr(settings.framework), *(f"{n}={v!r}" for n, v in python_options(models, settings).items())]
    )
    lines = [
        *_remarks(visitor),
        "from pathlib import Path",
        "",
        "import prmagic",
        "from prmagic.images import find_images",
        "from prmagic.viz import mask_image, save_image",
        "",
        f"segmenter = prmagic.load({arguments})",
        "references = {",
    ]
    for label, files in _sources(visitor).items():
        if len(files[0]) == 1:
            lines.append(f"    {label!r}: prmagic.Reference.load({files[0][0]!r}),")
        else:
            supports = ", ".join(f"prmagic.Support({photo!r}, {mask!r})" for photo, mask in files)
            lines.append(f"    {label!r}: segmenter.encode_support([{supports}]),")
    return "\n".join(
        [
            *lines,
            "}",
            f"photos = find_images({[str(path) for path in _queries(visitor)]!r})",
            "names = [name.as_posix() for _, name in photos]",
            "for result in segmenter.stream([file for file, _ in photos], references, names=names):",
            '    file = Path("again", "masks", result.label if len(references) > 1 else "", result.query)',
            '    save_image(mask_image(result.mask), file.with_suffix(".png"))',
        ]
    )


def _remarks(visitor: Visitor) -> Iterator[str]:
    """What the lines below do not give again."""
    if any(path == Path("photos") for path in _queries(visitor)):
        yield "# photos/ stands for the folder with the photos that you uploaded."
    for kept in ordered(visitor):
        if kept.how == "corrected":
            yield f"# {kept.photo.name}, {kept.label}: corrected by hand on the page."
        elif kept.how == "picked":
            yield f"# {kept.photo.name}, {kept.label}: step {kept.record['chosen']} picked by hand on the page."
        if kept.how != "corrected" and kept.settings != visitor.settings:
            options = shlex.join(command_options(visitor.engine.models, kept.settings)) or "the default settings"
            yield f"# {kept.photo.name}, {kept.label}: made with {options}"


def _queries(visitor: Visitor) -> list[Path]:
    uploaded = any(photo.file.is_relative_to(visitor.folder) for photo in visitor.photos.values())
    return [*([Path("photos")] if uploaded or not visitor.folders else []), *visitor.folders]


def _sources(visitor: Visitor) -> dict[str, list[tuple[str, ...]]]:
    """By class, the names in the zip: (photo, mask) of each example, or (reference,)."""
    named: dict[str, list[tuple[str, ...]]] = {label: [(f"examples/{label}.safetensors",)] for label in visitor.saved}
    for number, example in enumerate(visitor.examples, 1):
        stem = f"examples/{example.label}_{number}"
        named.setdefault(example.label, []).append((f"{stem}{example.photo.suffix}", f"{stem}_mask.png"))
    return {label: named[label] for label in visitor.sources}


def _example_files(visitor: Visitor) -> Iterator[tuple[Path, str]]:
    taken = {label: iter(files) for label, files in _sources(visitor).items()}
    for example in visitor.examples:
        photo, mask = next(taken[example.label])
        yield example.photo, photo
        yield example.mask, mask


def _mask(file: Path) -> BoolArray:
    return np.asarray(load_image(file)[..., 0] > 0)
