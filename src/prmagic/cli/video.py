"""The work of `prmagic segment` on videos: frames in order through a segmenter, into a folder of results."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from prmagic.cli.options import option
from prmagic.cli.terminal import progress_bar, say

if TYPE_CHECKING:
    from prmagic import Reference, Segmenter, Support
    from prmagic.io.clips import Clip, Still
    from prmagic.io.runs import RunFolder
    from prmagic.types import BoolArray, ByteArray, Instance

VIDEO = "Video"  # a panel of the help

SEQUENCE = Annotated[
    bool, option(VIDEO, None, "Each QUERY is a folder of numbered frames of one video.", "--sequence", rare=True)
]
EVERY = Annotated[int, option(VIDEO, "N", "Take each Nth frame.", rare=True, min=1)]
START = Annotated[float, option(VIDEO, "SECONDS", "Leave out what is before.", rare=True, min=0)]
END = Annotated[
    float | None,
    option(VIDEO, "SECONDS", "Leave out what comes from here on.", rare=True, default="the video's end"),
]
MEMORY = Annotated[
    int | None,
    option(VIDEO, "K", "Remember the latest K confident answers, beside the examples.", rare=True, default="1", min=0),
]


@dataclass(frozen=True)
class Watching:
    """What was said about videos."""

    sequence: bool
    every: int
    start: float
    end: float | None
    memory: int | None

    def clips(self, queries: Sequence[str], max_pixels: int) -> list[Clip]:
        """The videos among the queries; none if they are photos.

        Raises:
            ValueError: Photos and videos are mixed, two videos have one name, or an option has nothing to be for.
        """
        from prmagic.io.clips import Clip, is_clip, numbered_frames
        from prmagic.io.reading import nearest

        files = [Path(query) for query in queries]
        videos = files if self.sequence else [file for file in files if is_clip(file)]
        if not videos:
            if (self.every, self.start, self.end, self.memory) != (1, 0.0, None, None):
                raise ValueError("--every, --start, --end and --memory are for videos: name a clip, or add --sequence")
            return []
        if len(videos) < len(files):
            raise ValueError("photos and videos cannot be in one run: name the videos alone")
        clips = [Clip(file, self.every, self.start, self.end, max_pixels) for file in videos]
        names = [clip.name.casefold() for clip in clips]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two videos are called {name}: run them one by one, each with its own --out")
        if self.sequence:
            for file in files:
                numbered_frames(file)
        for file in files:
            if not file.exists():
                raise ValueError(f"{file} does not exist{nearest(file)}")
        return clips


def with_first_frames(supports: Mapping[str, Sequence[Support]], watching: Watching) -> dict[str, list[Support]]:
    """A support whose photo is a clip shows its first frame."""
    from dataclasses import replace

    from prmagic.io.clips import Clip, is_clip

    def shown(support: Support) -> Support:
        if not isinstance(support.image, (str, Path)) or not is_clip(Path(support.image)):
            return support
        return replace(support, image=Clip(Path(support.image), start=watching.start).first())

    return {label: [shown(support) for support in several] for label, several in supports.items()}


@dataclass(frozen=True, eq=False)
class VideoRun:
    """One run of the command over videos."""

    segmenter: Segmenter
    references: Mapping[str, Reference]
    clips: Sequence[Clip]
    out: Path
    watching: Watching
    pictures: bool
    instances: bool

    def finish(self, overwrite: bool) -> int:
        """Segment the frames that are not done, and draw each video's overlay when all of its frames are.

        Returns:
            The number of videos that could not be used to their end.
        """
        from prmagic.io.clips import ClipError
        from prmagic.io.reading import ImageError
        from prmagic.io.records import locked
        from prmagic.io.runs import RunFolder

        with locked(self.out):
            run = RunFolder(self.out, *self._described(), overwrite)
            known = _recorded(self.out)
            frames = found = skipped = 0
            with progress_bar("Frames", sum(map(_count, self.clips))) as (progress, task):
                for clip in self.clips:
                    try:
                        for any_found in self._followed(clip, run, known):
                            frames, found = frames + 1, found + any_found
                            progress.advance(task)
                    except (ClipError, ImageError) as error:
                        skipped += 1
                        say(f"{clip.path}: {error}", "Skipped")
                        continue
                    if self.pictures:
                        self._draw(clip)
        say(f"{frames} frame(s) done, something found in {found}, {skipped} video(s) skipped. Results: {self.out}")
        return skipped

    def _followed(self, clip: Clip, run: RunFolder, known: Mapping[tuple[str, str], _Known]) -> Iterator[bool]:
        """For each frame whether anything was found; frames that are done are only remembered."""
        from prmagic.track import Tracks

        tracks = Tracks(self.segmenter, self.references, self._memory, self.instances)
        for still in clip.stills():
            digest = _digest(still)
            done = {label: known.get((still.name, label)) for label in self.references}
            earlier = {label: each for label, each in done.items() if each is not None}
            if any(each.sha256 != digest for each in earlier.values()):
                raise ValueError(
                    f"{clip.path} is not the video whose results {self.out} holds as {clip.name!r}: choose another "
                    "--out, or start it anew with --overwrite"
                )
            if len(earlier) == len(done):
                for label, each in earlier.items():
                    tracks.remember(label, still.image, each.mask, each.score, each.instances)
                yield any(each.mask.any() for each in earlier.values())
                continue
            results = tracks.find(still.name, still.image)
            for result in results:
                if (result.query, result.label) not in run.done:
                    run.add(result, digest)
            yield any(result.found for result in results)

    def _draw(self, clip: Clip) -> None:
        """overlays/NAME.mp4, from the records."""
        from prmagic.io.clips import write_clip

        known = _recorded(self.out)

        def frames() -> Iterator[tuple[float, ByteArray]]:
            begin: float | None = None
            for still in clip.stills():
                begin = still.seconds if begin is None else begin
                yield still.seconds - begin, self._overlaid(still, known)

        target = self.out / "overlays" / f"{clip.name}.mp4"
        write_clip(target, frames())
        say(f"Overlay: {target}")

    @property
    def _memory(self) -> int:
        from prmagic.track import MEMORY

        return MEMORY if self.watching.memory is None else self.watching.memory

    def _overlaid(self, still: Still, known: Mapping[tuple[str, str], _Known]) -> ByteArray:
        """A frame with its masks: a colour for each label, or for each number of a thing."""
        import numpy as np

        from prmagic.pictures import COLORS, overlay, overlay_instances

        picture = still.image
        if self.instances:
            things = [each for label in self.references for each in known[still.name, label].instances]
            numbers = [each.number or 0 for each in things]
            return np.asarray(overlay_instances(picture, [each.mask for each in things], numbers))
        for position, label in enumerate(self.references):
            mask = known[still.name, label].mask
            if mask.any():
                picture = np.asarray(overlay(picture, mask, COLORS[position % len(COLORS)]))
        return picture

    def _described(self) -> tuple[dict[str, Any], dict[str, Any]]:
        from prmagic.io.runs import weights

        framework = self.segmenter.framework
        digests = {label: reference.digest for label, reference in self.references.items()}
        watching = self.watching
        video = {"every": watching.every, "start": watching.start, "end": watching.end, "memory": self._memory}
        notes = {"model": framework.signature["model_name"], "weights": weights(framework)}
        run = {
            "settings": self.segmenter.settings, "references": digests, "instances": self.instances, "video": video,
        }  # fmt: skip
        return run, notes


@dataclass(frozen=True, eq=False)
class _Known:
    """What a line of results.jsonl says."""

    sha256: str
    score: float
    code: dict[str, Any]
    size: tuple[int, int]
    things: Sequence[Mapping[str, Any]]

    @property
    def instances(self) -> list[Instance]:
        from prmagic.io.formats import recorded_instance

        return [recorded_instance(each) for each in self.things]

    @property
    def mask(self) -> BoolArray:
        from prmagic.io.shapes import decode

        return decode(self.code, self.size)


def _recorded(folder: Path) -> dict[tuple[str, str], _Known]:
    """All records by query and label; RunFolder has dropped those that are damaged."""
    from prmagic.io.runs import RESULTS

    path = folder / RESULTS
    found: dict[tuple[str, str], _Known] = {}
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                score = math.nan if entry["score"] is None else float(entry["score"])
                size = int(entry["height"]), int(entry["width"])
                things = entry.get("instances", ())
                found[entry["query"], entry["label"]] = _Known(entry["sha256"], score, entry["rle"], size, things)
    return found


def _count(clip: Clip) -> int:
    """About how many frames it has; 0 where it cannot be read."""
    from prmagic.io.clips import ClipError

    try:
        return clip.count()
    except ClipError:
        return 0


def _digest(still: Still) -> str:
    """SHA-256 of a frame's pixels, in hex."""
    return hashlib.sha256(f"{still.image.shape}".encode() + still.image.tobytes()).hexdigest()
