"""The folder that `prmagic segment` writes: mask files, and one JSON line per query and label.

The schema of the lines is in `docs/results.schema.json`.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from PIL import Image

from prmagic.io.finding import file_sha256
from prmagic.io.formats import instance_record, recorded_instance, rle
from prmagic.io.formats.base import finite, no_file
from prmagic.io.records import RUN, RecordFolder
from prmagic.io.shapes import check_code
from prmagic.pictures import UNFINISHED, mask_image, number_image, save_image

if TYPE_CHECKING:
    from prmagic.frameworks.base import Framework
    from prmagic.result import Segmentation
    from prmagic.types import Candidate, Prompts

RESULTS = "results.jsonl"
SUFFIXES = {"masks": ".png", "overlays": ".jpg", "candidates": ".png"}
PICTURES = tuple(SUFFIXES)
FATAL = {errno.ENOSPC, errno.EROFS, errno.EIO, errno.ENOTDIR, errno.EEXIST, getattr(errno, "EDQUOT", errno.ENOSPC)}
LONGEST = 240  # bytes of a file's name; systems take 255


class RunFolder(RecordFolder):
    """results.jsonl and its pictures; the files of a query are on the disk before its line.

    A record whose mask is gone or damaged does not count, so that its photo is done again. `done` holds, by query and
    label, the SHA-256 of the photo's file.
    """

    records = RESULTS
    others = PICTURES
    key = ("query", "label")
    value = "sha256"
    mark = "references"

    def __init__(
        self, folder: Path, run: Mapping[str, Any], notes: Mapping[str, Any] | None = None, overwrite: bool = False
    ):
        """Open or make the folder, see `RecordFolder`; `run["references"]` names the labels."""
        self._stems: dict[str, str] = {}  # the files of each query, without folder and suffix
        self._taken: dict[str, str] = {}  # whose each is, on systems that ignore case, too
        self._several = len(run["references"]) > 1
        super().__init__(folder, run, notes, overwrite)

    def clear(self) -> None:
        """Delete all records, then all pictures, and run.json last: it marks the folder as a run's."""
        (self.folder / RESULTS).unlink(missing_ok=True)
        for name in PICTURES:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        super().clear()

    def plan(self, queries: Iterable[str]) -> None:
        """Say which queries come, so that each gets files of its own.

        a.jpg has masks/a.png. Where a.png comes too, in this run or a later one, they have masks/a_jpg.png and
        masks/a_png.png, or what is still free of them: a mask is never another photo's.
        """
        wanted = list(dict.fromkeys(queries))
        shared = Counter(_key(_stem(query)) for query in wanted)
        for query in wanted:
            if query not in self._stems:
                stem = _stem(query)
                if shared[_key(stem)] > 1 or _key(stem) in self._taken:
                    stem = _stem(query, with_suffix=True)
                self._reserve(query, stem)

    def waiting(
        self, photos: Iterable[tuple[str, Path]], labels: Collection[str], report: Callable[[str, Exception], object]
    ) -> dict[str, Path]:
        """Plan the photos, and give those that are not done.

        Args:
            photos: Queries with their files.
            labels: All labels of the run.
            report: Is told of each photo that is done but cannot be read any more.

        Returns:
            The file of each query that lacks a record.

        Raises:
            ValueError: A file is another photo than the one that was done under its name.
        """
        photos = list(photos)
        self.plan(query for query, _ in photos)
        waiting = {}
        for query, file in photos:
            known = {self.done.get((query, label)) for label in labels}
            try:
                now = file_sha256(file) if known != {None} else None
            except OSError as error:
                report(query, error)
                continue
            if known - {None, now}:
                raise ValueError(
                    f"{file} is not the photo whose results {self.folder} holds as {query!r}: choose another --out, or "
                    "start it anew with --overwrite"
                )
            if None in known:
                waiting[query] = file
        return waiting

    def add(self, result: Segmentation, sha256: str, pictures: Mapping[str, Image.Image] | None = None) -> None:
        """Write a result's mask, its other pictures, and at last its line; from then on it counts as done.

        Args:
            result: What was found.
            sha256: Of the photo's file.
            pictures: By "overlays" and "candidates", what else to write.

        Raises:
            OSError: A picture cannot be written. Nothing is recorded then.
            RuntimeError: The line cannot be written, and so no other can.
        """
        label = result.label if self._several else None
        mask = self.path("masks", result.query, label, ".png")
        save_image(_mask_picture(result), mask)
        for kind, picture in (pictures or {}).items():
            save_image(picture, self.path(kind, result.query, label, SUFFIXES[kind]))
        line = record(result, sha256, mask.relative_to(self.folder).as_posix())
        try:
            self.append(line)
        except OSError as error:
            raise RuntimeError(f"{self.folder / RESULTS} cannot be written: {error.strerror or error}") from error

    def path(self, kind: str, query: str, label: str | None, suffix: str) -> Path:
        """Where a picture of this query belongs; label: only where a run has several."""
        self.plan([query])
        return self.folder / kind / (label or "") / (self._stems[query] + suffix)

    def _reserve(self, query: str, stem: str) -> None:
        free, attempt = stem, 1
        while self._taken.get(_key(free), query) != query:
            attempt += 1
            free = f"{stem}_{attempt}"
        self._stems[query] = free
        self._taken[_key(free)] = query

    def _remove_unfinished(self) -> None:
        super()._remove_unfinished()
        for kind in PICTURES:
            for file in (self.folder / kind).rglob(".*.tmp"):
                if UNFINISHED.fullmatch(file.name):
                    file.unlink()

    def _problem(self, entry: Mapping[str, Any]) -> str | None:
        query, label = entry["query"], entry["label"]
        if not (isinstance(query, str) and query and isinstance(label, str)):
            return "are damaged"
        place = f"masks/{label}/" if self._several else "masks/"
        mask = entry.get("mask", f"{place}{_stem(query)}.png")
        if not (isinstance(mask, str) and mask.startswith(place) and mask.endswith(".png")) or ".." in Path(mask).parts:
            return "are damaged"
        check_masks(entry, (int(entry["height"]), int(entry["width"])))
        stem = mask.removeprefix(place).removesuffix(".png")
        if self._taken.get(_key(stem), query) != query:
            return "name another photo's mask"
        self._reserve(query, stem)  # also if it is done again
        whole = _is_whole(self.folder / mask, entry.get("width"), entry.get("height"))
        return None if whole else "have a mask that is missing or damaged"


def _is_whole(file: Path, width: Any, height: Any) -> bool:
    """Whether a PNG has this size, and all its parts are intact."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            picture.verify()
            return picture.size == (width, height)
    except (OSError, SyntaxError, ValueError):
        return False


def _stem(query: str, with_suffix: bool = False) -> str:
    """sub/a.jpg → sub/a, or sub/a_jpg; each part at most 240 bytes long, so that a suffix fits behind it.

    No folder is called like a picture of another photo: dir.png/a.jpg → dir.png_/a."""
    path = PurePosixPath(query)
    name = f"{path.stem}_{path.suffix[1:]}" if with_suffix and path.suffix else path.stem
    folders = (no_file(part, (*SUFFIXES.values(),)) for part in path.parts[:-1])
    return "/".join(_short(part) for part in (*folders, name))


def _short(part: str) -> str:
    content = part.encode(errors="surrogatepass")
    if len(content) <= LONGEST:
        return part
    return f"{content[: LONGEST - 9].decode(errors='ignore')}~{hashlib.sha256(content).hexdigest()[:8]}"


def _key(stem: str) -> str:
    """Equal for what is one file where the system ignores case."""
    return stem.casefold()


def record(result: Segmentation, sha256: str, mask: str | None = None) -> dict[str, Any]:
    """Make one line of results.jsonl. It holds no times, so that equal runs give equal bytes.

    Args:
        result: What was found.
        sha256: Of the photo's file.
        mask: The mask's file, relative to the folder.

    Returns:
        Values that JSON can hold.
    """
    height, width = result.mask.shape
    return {
        "query": result.query,
        "sha256": sha256,
        "label": result.label,
        "seed": result.seed,
        "height": height,
        "width": width,
        "found": result.found,
        "given_away": given_away(result),
        "score": finite(result.score),
        "min_score": result.min_score,
        "chosen": result.chosen,
        "scores": [finite(score) for score in result.scores],
        **({} if mask is None else {"mask": mask}),
        "rle": rle(result.mask),
        **({} if result.instances is None else {"instances": [instance_record(each) for each in result.instances]}),
        "candidates": [_candidate(candidate) for candidate in result.candidates],
    }


def given_away(result: Segmentation) -> int:
    """How many pixels of what was found went to other labels."""
    return 0 if result.excluded is None else int(result.excluded.sum())


def ends_run(error: OSError) -> bool:
    """Whether no other photo's files can be written either: the disk is full, or the folder is no folder any more."""
    return error.errno in FATAL


def is_result(file: Path) -> bool:
    """Whether a run wrote this picture."""
    return any(parent.name in PICTURES and (parent.parent / RUN).is_file() for parent in file.parents)


def check_masks(entry: Mapping[str, Any], size: tuple[int, int]) -> None:
    """ValueError, TypeError or KeyError if one of a record's masks that others read is not whole."""
    chosen, candidates = entry["chosen"], entry["candidates"]
    if isinstance(chosen, bool) or not 0 <= chosen < len(candidates):
        raise ValueError(f"there is no candidate {chosen}")
    check_code(candidates[chosen]["rle"], size)
    check_code(entry["rle"], size)
    for instance in entry.get("instances", ()):
        check_code(instance["mask"], size)
        recorded_instance(instance)


def weights(framework: Framework) -> dict[str, dict[str, str]]:
    """For run.json: the SHA-256 of each file with weights, by what they serve as, "sam" or "encoder", and file name."""
    from prmagic.backbones.checkpoints import checksums

    models = zip(("sam", "encoder"), framework.models, strict=False)
    return {kind: checksums(kind, model.name) for kind, model in models}


def _mask_picture(result: Segmentation) -> Image.Image:
    """The mask; of things in a video a label map of their numbers."""
    if result.instances is None or result.numbers is None:
        return mask_image(result.mask)
    height, width = result.mask.shape
    return number_image([each.mask for each in result.instances], result.numbers, (height, width))


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "step": candidate.step,
        "channel": candidate.channel,
        **_prompts(candidate.prompts),
        "parts": [{**_prompts(part.prompts), "channel": part.channel} for part in candidate.parts],
        "predicted_iou": finite(candidate.predicted_iou),
        "area": int(candidate.mask.sum()),
        "rle": rle(candidate.mask),
    }


def _prompts(prompts: Prompts) -> dict[str, Any]:
    return {
        "points": prompts.points.astype(float).tolist(),
        "labels": prompts.labels.tolist(),
        "box": None if prompts.box is None else list(prompts.box),
    }
