"""Read what `prmagic segment` wrote, or the web page, for exports."""

from __future__ import annotations

import json
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prmagic.io.finding import file_sha256, find_images
from prmagic.io.formats import Labelled, recorded_instance
from prmagic.io.records import RUN
from prmagic.io.runs import RESULTS, check_masks
from prmagic.io.shapes import decode

if TYPE_CHECKING:
    from prmagic.result import Segmentation

LARGEST_ENTRY = 1 << 30  # bytes of a file in a zip, unpacked


def labelled(results: Iterable[Segmentation]) -> Iterator[Labelled]:
    """Turn results in memory into what `exported` takes; results of one photo come in a row, as `stream` gives them."""
    for name, several in groupby(results, key=lambda result: result.query):
        answers = list(several)
        instances = {each.label: each.instances for each in answers if each.instances is not None}
        yield Labelled(name, {each.label: each.mask for each in answers}, instances=instances)


def read_run(source: Path, video: bool = False) -> tuple[list[str], dict[str, str], Iterator[Labelled]]:
    """Read a folder that `prmagic segment` wrote, or the zip of results that the web page gave.

    Args:
        source: The folder or zip.
        video: Whether it should be of a video.

    Returns:
        The labels, the SHA-256 of each photo by name, and the photos with their masks, by name.

    Raises:
        ValueError: It is no such folder or zip, is of photos and not of a video or the other way round, holds no
            results, or is damaged.
    """
    try:
        run = json.loads(_content(source, RUN))
        labels = [str(label) for label in run["references"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        wrong = "is no folder that `prmagic segment` wrote" if source.exists() else "does not exist"
        raise ValueError(f"{source} {wrong}: name the --out of a `prmagic segment`") from None
    if "video" in run and not video:
        raise ValueError(
            f"{source} holds frames of a video, which --to coco-video exports. Other formats need photos: save the "
            "frames as such, as with `ffmpeg -i clip.mp4 frames/%06d.png`, and run `prmagic segment` on these"
        )
    if video and "video" not in run:
        raise ValueError(f"{source} holds photos and no video: choose another format, such as --to coco")
    try:
        content = _content(source, RESULTS)
    except (FileNotFoundError, KeyError):
        content = b""
    lines = content.split(b"\n")
    if lines.pop():
        warnings.warn(f"the last line of {source / RESULTS} is cut short and was left out", UserWarning, stacklevel=2)
    answers: dict[str, _Answers] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            query, label, size = entry["query"], entry["label"], (int(entry["height"]), int(entry["width"]))
            if not (isinstance(query, str) and isinstance(label, str)):
                raise TypeError
            check_masks(entry, size)
            answer = answers.setdefault(query, _Answers(str(entry["sha256"]), size, {}, {}))
            answer.codes[label] = entry["rle"]
            if "instances" in entry:
                answer.instances[label] = entry["instances"]
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            raise ValueError(
                f"line {number} of {source / RESULTS} is damaged: the same `prmagic segment` again repairs it"
            ) from None
    if not answers:
        raise ValueError(f"{source} holds no results yet")

    def photos() -> Iterator[Labelled]:
        for query, answer in sorted(answers.items()):
            masks = {label: decode(code, answer.size) for label, code in answer.codes.items()}
            instances = {label: [*map(recorded_instance, things)] for label, things in answer.instances.items()}
            yield Labelled(query, masks, instances=instances)

    return labels, {query: answer.sha256 for query, answer in sorted(answers.items())}, photos()


def _content(source: Path, name: str) -> bytes:
    """Of a file in a folder or zip."""
    if not source.is_file():
        return (source / name).read_bytes()
    try:
        with zipfile.ZipFile(source) as archive, archive.open(name) as file:
            content = file.read(LARGEST_ENTRY + 1)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error) as error:
        raise ValueError(f"{source} is damaged: {error}") from None
    if len(content) > LARGEST_ENTRY:
        raise ValueError(f"{name} in {source} is larger than {LARGEST_ENTRY:,} bytes")
    return content


@dataclass
class _Answers:
    """What a run says of one photo: its file's SHA-256, its (height, width), and by label a code and the instances."""

    sha256: str
    size: tuple[int, int]
    codes: dict[str, dict[str, Any]]
    instances: dict[str, list[dict[str, Any]]]


def find_photos(wanted: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Find photos by their content, wherever in the folder and whatever they are called.

    Args:
        wanted: The SHA-256 of each photo by name.
        folder: Is searched with all folders in it.

    Returns:
        The file of each name.

    Raises:
        ValueError: Some are not there; it names them.
    """
    found = {file_sha256(file): file for file, _ in find_images([folder])}
    absent = [name for name, sha256 in wanted.items() if sha256 not in found]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(wanted)} photos are not in {folder}, or were changed since: {', '.join(absent[:5])}"
        )
    return {name: found[sha256] for name, sha256 in wanted.items()}
