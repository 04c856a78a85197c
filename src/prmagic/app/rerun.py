"""The command and the Python lines that give the same masks without the page.

Names of photos and classes are a visitor's: they are quoted wherever they stand, and never stand in a remark.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prmagic.app.settings import command_arguments, load_arguments
from prmagic.app.visitor import Visitor
from prmagic.frameworks.registry import variant

PHOTOS = "photos"  # stands for the folder with the photos


def command(visitor: Visitor) -> str:
    """The command line, to be run in the unpacked zip."""
    words = ["prmagic", "segment", *_queries(visitor)]
    for label, files in _sources(visitor).items():
        for pair in files:
            words += ["--reference", *pair] if len(pair) == 1 else ["--support", *pair]
        words += ["--label", label]
    things = ["--instances"] if visitor.settings.instances else []
    words += [*command_arguments(_arguments(visitor)), *things, "--out", "again/"]
    return "\n".join([*_remarks(visitor), shlex.join(words)])


def python(visitor: Visitor) -> str:
    """The same in Python."""
    lines = [
        *_remarks(visitor),
        "from pathlib import Path",
        "",
        "import prmagic",
        "from prmagic.io.finding import find_images, query_name",
        "from prmagic.pictures import mask_image, save_image",
        "",
        f"segmenter = prmagic.load({', '.join(f'{name}={value!r}' for name, value in _arguments(visitor).items())})",
        "references = {",
    ]
    things = ", instances=True" if visitor.settings.instances else ""
    for label, files in _sources(visitor).items():
        if len(files[0]) == 1:
            lines.append(f"    {label!r}: prmagic.Reference.load({files[0][0]!r}),")
        else:
            supports = ", ".join(f"prmagic.Support({photo!r}, {mask!r})" for photo, mask in files)
            lines.append(f"    {label!r}: segmenter.encode_support([{supports}], {label!r}),")
    return "\n".join(
        [
            *lines,
            "}",
            f"photos = find_images({_queries(visitor)!r})",
            "names = [query_name(name) for _, name in photos]",
            f"for result in segmenter.stream([file for file, _ in photos], references, names=names{things}):",
            '    file = Path("again", "masks", result.label if len(references) > 1 else "", result.query)',
            '    save_image(mask_image(result.mask), file.with_suffix(".png"))',
        ]
    )


def example_files(visitor: Visitor) -> Iterator[tuple[Path, str]]:
    """Each file of the examples, and its name in the zip."""
    named = {label: iter(files) for label, files in _sources(visitor).items()}
    for example in visitor.examples.marked:
        photo, mask = next(named[example.label])
        yield example.photo, photo
        yield example.mask, mask


def _arguments(visitor: Visitor) -> dict[str, Any]:
    settings = visitor.settings
    uses_encoder = variant(settings.framework, settings.preset).framework.uses_encoder
    return load_arguments(visitor.workspace.engine.models, settings, uses_encoder)


def _remarks(visitor: Visitor) -> Iterator[str]:
    """What the lines below do not give again."""
    yield f"# {PHOTOS}/ stands for the folder with the photos: those that you uploaded, or the server's --root."
    results = list(visitor.results.values())
    by_hand = sum(kept.how != "automatic" for kept in results)
    others = sum(kept.how != "corrected" and kept.settings != visitor.settings for kept in results)
    if by_hand:
        yield f"# On the page {by_hand} of {len(results)} masks were picked or corrected by hand: see scores.csv."
    if others:
        yield f"# On the page {others} of {len(results)} masks were made with other settings: see scores.csv."


def _queries(visitor: Visitor) -> list[str]:
    workspace = visitor.workspace
    uploaded = any(photo.file.is_relative_to(workspace.folder) for photo in visitor.photos.values())
    root = Path() if workspace.root is None else workspace.root.resolve()
    named = [Path(PHOTOS, folder.relative_to(root)).as_posix() for folder in visitor.folders]
    return list(dict.fromkeys([*([PHOTOS] if uploaded or not named else []), *named]))


def _sources(visitor: Visitor) -> dict[str, list[tuple[str, ...]]]:
    """By class, the names in the zip: (photo, mask) of each example, or (reference,)."""
    references = visitor.examples.references
    named: dict[str, list[tuple[str, ...]]] = {label: [(f"examples/{label}.safetensors",)] for label in references}
    for number, example in enumerate(visitor.examples.marked, 1):
        stem = f"examples/{example.label}_{number}"
        named.setdefault(example.label, []).append((f"{stem}{example.photo.suffix}", f"{stem}_mask.png"))
    return {label: named[label] for label in visitor.sources}
