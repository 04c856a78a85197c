"""DAVIS 2016 and 2017: videos in which one object, or several, have a mask in every frame. See docs/video.md."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from prmagic.datasets.base import DatasetError
from prmagic.types import BoolArray, ByteArray

SOURCE = "DAVIS is to be had from https://davischallenge.org."
SPLITS = ("2017/val", "2016/val", "480p/val")  # the first that is there is taken
VOID = 255


@dataclass(frozen=True, eq=False)
class Video:
    """A sequence: its frames and label maps in order, and its objects' values in the maps; 0: all of them as one."""

    name: str
    frames: tuple[Path, ...]
    labels: tuple[Path, ...]
    objects: tuple[int, ...]

    def images(self) -> Iterator[ByteArray]:
        """The frames, (H, W, 3) uint8."""
        for file in self.frames:
            with Image.open(file) as picture:
                yield np.asarray(picture.convert("RGB"))

    def truth(self, frame: int, item: int) -> BoolArray:
        """The mask (H, W) of an object in a frame."""
        labels = _labels(self.labels[frame])
        return labels == item if item else labels > 0


def open_davis(root: Path, split: str | None = None) -> tuple[str, Iterator[Video]]:
    """The split that is taken, and its videos.

    Args:
        root: Holds JPEGImages, Annotations and ImageSets.
        split: A list in ImageSets, such as 2017/val or 2016/val. In 2017 each object is followed for itself; in the
            others all are one. None: the first of SPLITS that is there.

    Raises:
        DatasetError: Something is not there.
    """
    lists = root / "ImageSets"
    if not lists.is_dir():
        raise DatasetError(f"{root} has no folder ImageSets: name the folder of DAVIS. {SOURCE}")
    chosen = split or next((name for name in SPLITS if (lists / f"{name}.txt").is_file()), SPLITS[0])
    file = lists / f"{chosen}.txt"
    if not file.is_file():
        known = sorted(each.relative_to(lists).with_suffix("").as_posix() for each in lists.rglob("*.txt"))
        raise DatasetError(f"{file} is missing; --split can be: {', '.join(known) or 'nothing, as there are no lists'}")
    names = dict.fromkeys(filter(None, map(_sequence, file.read_text(encoding="utf-8").splitlines())))
    if not names:
        raise DatasetError(f"{file} names no sequence. {SOURCE}")
    return chosen, (_video(root, name, several=chosen.startswith("2017")) for name in names)


def _sequence(line: str) -> str:
    """`bear`, or `/JPEGImages/480p/bear/00000.jpg /Annotations/…` → bear."""
    first = line.split()[0] if line.strip() else ""
    return PurePosixPath(first).parent.name if "/" in first else first


def _video(root: Path, name: str, several: bool) -> Video:
    folder = root / "JPEGImages" / "480p" / name
    frames = tuple(sorted(folder.glob("*.jpg")))
    if len(frames) < 3:
        raise DatasetError(f"{folder} holds {len(frames)} frame(s) *.jpg; a sequence has 3 or more. {SOURCE}")
    labels = tuple(root / "Annotations" / "480p" / name / f"{frame.stem}.png" for frame in frames)
    missing = [file for file in labels if not file.is_file()]
    if missing:
        raise DatasetError(f"{missing[0]} is missing, and {len(missing) - 1} more of {name}. {SOURCE}")
    nothing = (0, VOID) if several else (0,)  # where all objects are one, DAVIS 2016 marks it with 255
    values = [int(value) for value in np.unique(_labels(labels[0])) if value not in nothing]
    objects = tuple(values) if several else (0,)
    if not values:
        raise DatasetError(f"{labels[0]} marks no object. {SOURCE}")
    return Video(name, frames, labels, objects)


def _labels(file: Path) -> ByteArray:
    try:
        with Image.open(file) as picture:
            return np.asarray(picture if picture.mode in ("P", "L") else picture.convert("L"))
    except (OSError, SyntaxError, ValueError) as error:
        raise DatasetError(f"{file} cannot be read ({error}). {SOURCE}") from error
