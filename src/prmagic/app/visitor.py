"""What belongs to one visitor of the page: examples, photos and results, in a folder that goes with the visitor."""

from __future__ import annotations

import json
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from prmagic.app.canvas import thumbnail
from prmagic.app.engine import PhotoFile, Source
from prmagic.app.examples import Examples
from prmagic.app.marking import Marking
from prmagic.app.packed import PackedMask, PackedResult
from prmagic.app.settings import Settings
from prmagic.app.workspace import Upload, Workspace, notes, take_each
from prmagic.io.finding import find_images, query_name
from prmagic.io.formats import recorded_instance
from prmagic.io.reading import ImageError
from prmagic.pictures import mask_image, overlay, overlay_instances, save_image
from prmagic.types import Instance

MAX_PHOTOS = 1000

How = Literal["automatic", "picked", "corrected"]


@dataclass(frozen=True)
class KeptMask:
    """The mask of one photo and class that goes into the results.

    Args:
        photo: Where it was found.
        label: What was found.
        packed: Its line of results.jsonl, compressed.
        settings: That it was made with.
        sources: What all classes were learnt from, as they share the photo's pixels.
        how: The selector's choice, or the visitor's.
        chosen: Which candidate of the line.
        title: What the page calls it.
        score: How alike it is to the examples; None if that is not known.
        selector_score: The selector's.
        predicted_iou: SAM's estimate.
        area: In pixels.
        share: Of the photo.
        things: How many there are; None: not told apart.
        version: Of its pictures; each one has its own, as browsers keep pictures.
        by_hand: The visitor chose it, so that another run leaves it alone.
    """

    photo: PhotoFile
    label: str
    packed: bytes
    settings: Settings
    sources: tuple[Source, ...]
    how: How
    chosen: int
    title: str
    score: float | None
    selector_score: float | None
    predicted_iou: float | None
    area: int
    share: float
    things: int | None
    version: int
    by_hand: bool

    @property
    def found(self) -> bool:
        """Whether there is anything in the mask."""
        return self.area > 0

    @property
    def record(self) -> dict[str, Any]:
        """Its line of results.jsonl."""
        line: dict[str, Any] = json.loads(zlib.decompress(self.packed))
        return line

    @property
    def instances(self) -> list[Instance] | None:
        """One for each thing; None: not told apart."""
        return None if self.things is None else [*map(recorded_instance, self.record["instances"])]


@dataclass(frozen=True)
class Progress:
    """Of a run: photos done of those wanted, and what went wrong."""

    done: int
    wanted: int
    problems: tuple[str, ...] = ()


@dataclass
class Inspected:
    """The result that part 3 shows, and how one of its steps is being corrected by hand."""

    photo: PhotoFile
    result: PackedResult
    settings: Settings
    source: Source
    step: int
    marking: Marking


@dataclass
class Visitor:
    """All that one visitor has. `folders` are those on the server that photos came from."""

    workspace: Workspace
    photos: dict[str, PhotoFile] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)
    results: dict[tuple[str, str], KeptMask] = field(default_factory=dict)
    inspected: Inspected | None = None
    running: bool = False
    stopped: bool = False

    def __post_init__(self) -> None:
        self.examples = Examples(self.workspace)

    @property
    def settings(self) -> Settings:
        """What a run uses."""
        return self.workspace.settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self.workspace.engine.check(settings)
        self.workspace.settings = settings

    @property
    def sources(self) -> dict[str, Source]:
        """What each class is learnt from, by its label."""
        return self.examples.sources

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be lost if the visitor was forgotten."""
        return not (self.photos or self.examples.drafts or self.examples.references)

    def remove_example(self, key: str) -> None:
        """Remove a marked example by its number, or a saved reference by "saved:" and its label."""
        if key.isascii() and key.isdecimal():
            self.examples.remove(int(key))
        else:
            self.examples.remove_reference(key.removeprefix("saved:"))
        sources = self.sources
        self.results = {known: kept for known, kept in self.results.items() if known[1] in sources}

    # --- photos ---

    def add_photos(self, uploads: Iterable[Upload]) -> list[str]:
        """Add photos to search; what is wrong with those that cannot be used."""

        def take(upload: Upload) -> None:
            self._check_new(upload.name)
            # A folder of its own, as what was computed from an earlier photo of that name may be known still.
            place = self.workspace.folder / "photos" / secrets.token_hex(8) / upload.name
            self.photos[upload.name], _ = self.workspace.take(upload, place)

        return take_each(uploads, take)

    def add_folder(self, named: str) -> list[str]:
        """Add the photos of a folder on the server, below the root; they stay where they are."""
        if self.workspace.root is None:
            raise ValueError("this server shows no folders: it was started without --root")
        root = self.workspace.root.resolve()
        try:
            folder = (root / named.strip()).resolve()
            inside = folder.is_relative_to(root) and folder.is_dir()
        except (OSError, ValueError):  # a name that no folder can have
            inside = False
        if not inside:
            raise ValueError("there is no such folder below the root")
        try:
            with notes("left out: ") as problems:
                found = find_images([folder])
        except ImageError:
            raise ValueError("that folder holds no images that can be read") from None
        room = MAX_PHOTOS - len(self.photos)
        if len(found) > room:
            problems.append(f"{MAX_PHOTOS} photos are the limit: {len(found) - room} of this folder are left out")
        for file, path in found[:room]:
            name = query_name(path)
            try:
                if not file.resolve().is_relative_to(root):
                    raise ValueError("leads out of the root")
                self._check_new(name)
                self.photos[name] = PhotoFile(self.workspace.token, name, file)
            except ValueError as error:
                problems.append(f"{name}: {error}")
        if folder not in self.folders:
            self.folders.append(folder)
        return problems

    def clear_photos(self) -> None:
        """Take all photos away, and their results."""
        self.stopped = True
        mine = self.workspace.folder / "photos"
        self.workspace.stored -= sum(file.stat().st_size for file in mine.rglob("*") if file.is_file())
        self.photos, self.folders, self.results, self.inspected = {}, [], {}, None
        for name in ("photos", "masks", "overlays", "thumbs"):
            shutil.rmtree(self.workspace.folder / name, ignore_errors=True)

    def _check_new(self, name: str) -> None:
        """Names become files without their suffix, and some systems ignore case."""
        if len(self.photos) >= MAX_PHOTOS:
            raise ValueError(f"{MAX_PHOTOS} photos are the limit: take the results first, then remove these")
        key = _without_suffix(name)
        other = next((known for known in self.photos if _without_suffix(known) == key), None)
        if other is not None:
            raise ValueError("is there already" if other == name else f"its mask would have the name of {other}'s")

    # --- results ---

    def run(self) -> Iterator[Progress]:
        """Find every class in every photo.

        What is done already with these settings and examples stays, and so does what was done by hand.
        """
        if not self.sources:
            raise ValueError("make an example first: a photo with a mask, in part 1")
        if not self.photos:
            raise ValueError("there are no photos yet: upload some, above")
        if self.running:
            raise ValueError("this is running already")
        sources = tuple(self.sources.values())
        waiting = [photo for photo in self.photos.values() if not self._is_done(photo, sources)]
        problems: list[str] = []
        self.running, self.stopped = True, False
        try:
            yield Progress(0, len(waiting))
            for done, photo in enumerate(waiting, 1):
                if self.stopped:
                    return
                try:
                    self._find_all(photo, sources)
                except ImageError as error:
                    problems.append(str(error).replace(str(photo.file), photo.name))
                except OSError as error:
                    problems.append(f"{photo.name}: it cannot be read, or its result not be written ({error.strerror})")
                yield Progress(done, len(waiting), tuple(problems))
        finally:
            self.running = False

    def inspect(self, name: str, label: str, settings: Settings) -> PackedResult:
        """Look at one photo, with these settings; at the chosen step, if it was not looked at just so already."""
        if name not in self.photos or label not in self.sources:
            raise ValueError("choose a photo and a class first")
        photo, source = self.photos[name], self.sources[label]
        at = self.inspected
        if at is not None and (at.photo, at.settings, at.source) == (photo, settings, source):
            return at.result  # and the step, and what was corrected, stay
        result = self.workspace.engine.segment(photo, settings, source)
        self.inspected = Inspected(photo, result, settings, source, result.chosen, _start_of(result, result.chosen))
        return result

    def go_to(self, step: int) -> None:
        """Show another step; what was corrected of the last one is dropped."""
        at = self._inspected()
        step = max(0, min(step, len(at.result.candidates) - 1))
        if step != at.step:
            at.step, at.marking = step, _start_of(at.result, step)

    def correct(self, sent: Mapping[str, Any]) -> None:
        """Edit the mask of that step, as the page sends it."""
        at = self._inspected()
        at.marking = self.workspace.edited(at.photo, at.marking, sent)

    def keep_step(self) -> KeptMask:
        """The step that is shown goes into the results."""
        at = self._inspected()
        return self._keep(at.photo, at.result, at.settings, step=at.step)

    def keep_correction(self) -> KeptMask:
        """What was corrected goes into the results."""
        at = self._inspected()
        if not at.marking.edits:
            raise ValueError("nothing is corrected yet: click or paint on the photo")
        corrected = PackedMask.of(at.marking.mask)
        return self._keep(at.photo, at.result, at.settings, corrected=corrected)

    def keep_automatic(self) -> KeptMask:
        """Of the photo that is shown, back to what a run gives."""
        at = self._inspected()
        sources = tuple(self.sources.values())
        results = self.workspace.engine.segment_all(at.photo, self.settings, sources)
        result = next(result for result in results if result.label == at.source.label)
        return self._keep(at.photo, result, self.settings)

    def path(self, kind: str, kept: KeptMask, suffix: str) -> Path:
        """Where a picture of a result lies; kind: masks, overlays or thumbs."""
        return (self.workspace.folder / kind / kept.label / kept.photo.name).with_suffix(suffix)

    def close(self) -> None:
        """Delete everything."""
        self.stopped = True
        self.workspace.engine.forget(self.workspace.token)
        shutil.rmtree(self.workspace.folder, ignore_errors=True)

    def _inspected(self) -> Inspected:
        at = self.inspected
        if at is None or self.photos.get(at.photo.name) != at.photo or at.source.label not in self.sources:
            raise ValueError("choose a photo and a class first")
        return at

    def _is_done(self, photo: PhotoFile, sources: tuple[Source, ...]) -> bool:
        several = [self.results.get((photo.name, source.label)) for source in sources]
        return all(one and (one.by_hand or (one.settings, one.sources) == (self.settings, sources)) for one in several)

    def _find_all(self, photo: PhotoFile, sources: tuple[Source, ...]) -> None:
        settings = self.settings
        for result in self.workspace.engine.segment_all(photo, settings, sources):
            before = self.results.get((photo.name, result.label))
            if before is None or not before.by_hand:
                self._keep(photo, result, settings)

    def _keep(
        self, photo: PhotoFile, result: PackedResult, settings: Settings, *, step: int | None = None,
        corrected: PackedMask | None = None,
    ) -> KeptMask:  # fmt: skip
        """Put a result into the results: the chosen candidate, or another one, or a mask made by hand."""
        before = self.results.get((photo.name, result.label))
        version = before.version + 1 if before else 0
        sources = tuple(self.sources.values())
        kept, mask = _kept(photo, result, settings, sources, version, step, corrected)
        self._draw(kept, mask)
        if self.photos.get(photo.name) == photo and result.label in self.sources:  # may have been removed meanwhile
            self.results[photo.name, result.label] = kept
        return kept

    def _draw(self, kept: KeptMask, packed: PackedMask) -> None:
        image, mask = self.workspace.read(kept.photo), packed.array
        save_image(mask_image(mask), self.path("masks", kept, ".png"))
        things = None if kept.instances is None else [each.mask for each in kept.instances]
        picture = overlay(image, mask) if things is None else overlay_instances(image, things)
        save_image(picture, self.path("overlays", kept, ".jpg"))
        save_image(thumbnail(image, mask, things), self.path("thumbs", kept, ".jpg"))


def _kept(
    photo: PhotoFile, result: PackedResult, settings: Settings, sources: tuple[Source, ...], version: int,
    step: int | None, corrected: PackedMask | None,
) -> tuple[KeptMask, PackedMask]:  # fmt: skip
    """A result's mask as the visitor wants it, and the mask itself."""
    line, chosen, mask = dict(result.record), result.chosen, result.mask
    how: How = "automatic"
    if corrected is not None:
        how, mask = "corrected", corrected
        line |= {"score": None, "min_score": None}
    elif step is not None and (step != result.chosen or result.rejected or "instances" in line):
        how, mask, chosen = "picked", result.candidates[step].mask, step
        known = line["score"] if step == result.chosen else None
        line |= {"chosen": step, "score": known, "min_score": None}
    line |= {"rle": dict(mask.code), "found": mask.area > 0}
    if how != "automatic":
        line.pop("instances", None)
    things = len(line["instances"]) if "instances" in line else None
    candidate, share, by_hand = result.candidates[chosen], mask.share, how == "corrected" or step is not None
    return KeptMask(
        photo, result.label, zlib.compress(json.dumps(line, ensure_ascii=False).encode(), 1), settings, sources, how,
        chosen, candidate.title, line["score"], line["scores"][chosen], line["candidates"][chosen]["predicted_iou"],
        mask.area, share, things, version, by_hand,
    ), mask  # fmt: skip


def _start_of(result: PackedResult, step: int) -> Marking:
    candidate = result.candidates[step]
    return Marking(result.shape, candidate.mask, candidate.logits)


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()
