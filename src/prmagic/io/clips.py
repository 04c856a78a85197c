"""Videos as streams of frames: clips, and folders of numbered frames. No more than one frame is held at a time."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from prmagic.io.finding import IMAGE_SUFFIXES, query_name
from prmagic.io.images import MAX_PIXELS, load_image
from prmagic.io.reading import check_size
from prmagic.io.seeking import NotSeekable, Timetable, decoded
from prmagic.types import ByteArray

CLIP_SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts"})
RATE = 25  # frames per second of a folder of frames, which says nothing of it
TICKS = 90_000  # per second, of the clips that are written


class ClipError(ValueError):
    """A video that cannot be used; the message tells which one, why, and what to do."""


@dataclass(frozen=True, eq=False)
class Still:
    """One frame of a video: its name, such as clip/000012 or, of a folder, frames/00012.jpg; when it is shown; and its
    pixels (H, W, 3) uint8."""

    name: str
    seconds: float
    image: ByteArray


@dataclass(frozen=True)
class Clip:
    """A video to read.

    Args:
        path: A file, or a folder of numbered frames.
        every: Take each Nth frame.
        start: In seconds; frames before it are left out.
        end: In seconds; frames from it on are left out. None: to the end.
        max_pixels: Larger frames are refused.
    """

    path: Path
    every: int = 1
    start: float = 0.0
    end: float | None = None
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ClipError(f"--every takes each Nth frame, N from 1; got {self.every}")
        if self.start < 0 or (self.end is not None and self.end <= self.start):
            raise ClipError(f"a clip goes from --start (0 or later) to a later --end; got {self.start} to {self.end}")

    @property
    def name(self) -> str:
        """The file's without its suffix, or the folder's."""
        path = self.path.resolve()
        return query_name(Path(path.name if path.is_dir() else path.stem))

    def stills(self) -> Iterator[Still]:
        """The frames, upright, each when it is wanted.

        Raises:
            ClipError: The video cannot be read, or holds no frame between start and end.
        """
        several = False
        for name, seconds, read in self._of_folder() if self.path.is_dir() else self._of_file():
            several = True
            yield Still(f"{self.name}/{name}", seconds, read())
        if not several:
            raise ClipError(f"{self.path} has no frame from {self.start:g} s on: is --start or --end right?")

    def count(self) -> int:
        """About how many frames `stills` gives; 0 where the file does not say."""
        if self.path.is_dir():
            total, rate = len(numbered_frames(self.path)), Fraction(RATE)
        else:
            with _opened(self.path) as (_, stream):
                rate = stream.average_rate or Fraction(RATE)
                length = stream.duration * stream.time_base if stream.duration else 0
                total = stream.frames or round(length * rate)
        last = total if self.end is None else min(total, round(self.end * rate))
        return max(0, last - round(self.start * rate) + self.every - 1) // self.every

    def first(self) -> ByteArray:
        """The first frame's pixels."""
        return next(iter(self.stills())).image

    def _of_folder(self) -> Iterator[tuple[str, float, Callable[[], ByteArray]]]:
        """The name of each frame, when it is shown, and a function that gives its pixels."""
        for index, file in enumerate(numbered_frames(self.path)):
            if self._wants(index, index / RATE):
                yield query_name(Path(file.name)), index / RATE, partial(load_image, file, self.max_pixels)

    def _of_file(self) -> Iterator[tuple[str, float, Callable[[], ByteArray]]]:
        """The same; frames that are not wanted are jumped over where the file allows it."""
        last = -1
        if self.start > 0 or self.every > 1:
            try:
                for last, seconds, frame in self._sought():
                    yield self._numbered(last, seconds, frame)
                return
            except (NotSeekable, _av().FFmpegError, OSError):  # it is decoded as a whole, from where this ended
                pass
        for index, seconds, frame in self._from_beginning():
            if self.end is not None and seconds >= self.end:
                break
            if index > last and self._wants(index, seconds):
                yield self._numbered(index, seconds, frame)

    def _numbered(self, index: int, seconds: float, frame: Any) -> tuple[str, float, Callable[[], ByteArray]]:
        return f"{index:06d}", seconds, partial(_pixels, frame, self.path, self.max_pixels)

    def _wants(self, index: int, seconds: float) -> bool:
        return not index % self.every and self.start <= seconds and (self.end is None or seconds < self.end)

    def _sought(self) -> Iterator[tuple[int, float, Any]]:
        """Index, seconds and frame of those that are wanted; the others are jumped over."""
        with _opened(self.path) as (container, stream):
            timetable = Timetable.read(container, stream, self.end)
        with _opened(self.path) as (container, stream):
            first = float(timetable.times[0] * stream.time_base)
            shown = [float(time * stream.time_base) - first for time in timetable.times]
            wanted = [index for index, seconds in enumerate(shown) if self._wants(index, seconds)]
            for index, frame in zip(wanted, decoded(container, stream, timetable, wanted), strict=True):
                yield index, shown[index], frame

    def _from_beginning(self) -> Iterator[tuple[int, float, Any]]:
        """The same of all frames."""
        with _opened(self.path) as (container, stream):
            begin: float | None = None
            for index, frame in enumerate(_decoded(container, stream, self.path)):
                if frame.time is None:
                    raise ClipError(f"{self.path} does not say when its frames are shown: convert it, as to MP4")
                begin = frame.time if begin is None else begin
                yield index, frame.time - begin, frame
            if begin is None:
                raise ClipError(f"{self.path} holds no frame: it is empty, or was cut off")


def is_clip(path: Path) -> bool:
    """Whether the name is a video's."""
    return path.suffix.lower() in CLIP_SUFFIXES


def numbered_frames(folder: Path) -> list[Path]:
    """The photos of a folder by the last number in their names.

    Raises:
        ClipError: There are none, one has no number, or two have the same.
    """
    if not folder.is_dir():
        raise ClipError(f"{folder} is not a folder of frames")
    numbers: dict[int, Path] = {}
    for file in sorted(folder.iterdir()):
        if file.name[0] == "." or file.suffix.lower() not in IMAGE_SUFFIXES:
            continue
        digits = re.findall(r"\d+", file.stem)
        if not digits:
            raise ClipError(f"{file} has no number in its name: frames are named such as 00012.jpg")
        known = numbers.setdefault(int(digits[-1]), file)
        if known != file:
            raise ClipError(f"{known.name} and {file.name} in {folder} have the same number")
    if not numbers:
        raise ClipError(f"{folder} holds no frames such as 00012.jpg")
    return [numbers[number] for number in sorted(numbers)]


def write_clip(path: Path, frames: Iterable[tuple[float, ByteArray]]) -> None:
    """Write an MP4 that browsers play (H.264, yuv420p). A reader of `path` sees the old file or the whole new one.

    An odd width or height gets one more column or row, a copy of the last.

    Args:
        path: Ends in .mp4.
        frames: When each is shown, in seconds, and its pixels (H, W, 3) uint8, all of one size.
    """
    av = _av()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.tmp")
    try:
        with av.open(str(unfinished), "w", format="mp4", options={"movflags": "faststart"}) as container:
            stream = None
            for seconds, image in frames:
                even = np.pad(image, ((0, image.shape[0] % 2), (0, image.shape[1] % 2), (0, 0)), mode="edge")
                if stream is None:
                    stream = container.add_stream("libx264", rate=RATE)
                    stream.height, stream.width = even.shape[:2]
                    stream.pix_fmt = "yuv420p"
                    stream.codec_context.time_base = Fraction(1, TICKS)
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
                frame.pts, frame.time_base = round(seconds * TICKS), Fraction(1, TICKS)
                container.mux(stream.encode(frame))
            if stream is not None:
                container.mux(stream.encode())
        unfinished.replace(path)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream."""
    av = _av()
    if not path.is_file():
        raise ClipError(f"{path} does not exist")
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise ClipError(f"{path} cannot be read as a video: it is empty, damaged or cut off ({_why(error)})") from None
    with container:
        if not container.streams.video:
            raise ClipError(
                f"{path} has sound, but no picture" if container.streams.audio else f"{path} has no picture"
            )
        stream = container.streams.video[0]
        yield container, stream


def _decoded(container: Any, stream: Any, path: Path) -> Iterator[Any]:
    av, count = _av(), 0
    try:
        for frame in container.decode(stream):
            yield frame
            count += 1
    except (av.FFmpegError, OSError) as error:
        where = f"after {count} frame(s) ({_why(error)}): cut it there with --end" if count else f"({_why(error)})"
        raise ClipError(f"{path} is damaged {where}") from None


def _pixels(frame: Any, path: Path, max_pixels: int) -> ByteArray:
    """(H, W, 3), turned as the file's metadata asks."""
    check_size(frame.width, frame.height, str(path), max_pixels)
    image: ByteArray = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4  # counter-clockwise
    return np.ascontiguousarray(np.rot90(image, turns))


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise ValueError("videos need a package: pip install 'prmagic[video]'") from None
    av.logging.set_level(av.logging.PANIC)  # errors are told by exceptions
    return av
