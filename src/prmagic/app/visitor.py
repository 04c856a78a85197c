"""What belongs to one visitor of the page: examples, photos and results, in a folder that goes with the visitor."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import quote

from PIL import Image

from prmagic import viz
from prmagic.app.engine import Engine, Photo, Settings, Source
from prmagic.app.marking import Answer, Marking, read_edit
from prmagic.app.pictures import SHOWN, small, thumbnail
from prmagic.export import file_sha256, record
from prmagic.frameworks import Reference
from prmagic.images import IMAGE_SUFFIXES, ImageError, find_images, load_image, load_mask
from prmagic.names import check_label
from prmagic.segmenter import DEFAULT_LABEL
from prmagic.types import BoolArray, ByteArray, Prompts, Segmentation

MAX_EXAMPLES = 50
MAX_PHOTOS = 1000

Upload = tuple[Path, str]  # a file that came in, and what the visitor calls it
How = Literal["automatic", "picked", "corrected"]


@dataclass
class Draft:
    """A photo whose mask is being made."""

    photo: Photo
    marking: Marking


@dataclass(frozen=True)
class Example:
    """A photo and its mask, both files, of one class."""

    label: str
    photo: Path
    mask: Path


@dataclass(frozen=True)
class Kept:
    """The mask of one photo and class that goes into the results; record: as in results.jsonl.

    version: of its pictures; by_hand: the visitor asked for just this one, so that another run leaves it alone."""

    photo: Photo
    label: str
    record: Mapping[str, Any]
    settings: Settings
    source: Source
    how: How
    area: int  # in pixels
    version: int
    by_hand: bool

    @property
    def found(self) -> bool:
        """Whether there is anything in the mask."""
        return self.area > 0


@dataclass(frozen=True)
class Progress:
    """Of a run over all photos: results done of those wanted, and what went wrong."""

    done: int
    wanted: int
    problems: tuple[str, ...] = ()


@dataclass
class LookedAt:
    """What is looked at, and how one of its candidates is being corrected by hand."""

    photo: Photo
    result: Segmentation
    settings: Settings
    source: Source
    step: int
    marking: Marking


@dataclass
class Visitor:
    """All that one visitor has; `folder` is new and the visitor's own, and so is the unguessable `token`."""

    engine: Engine
    folder: Path
    settings: Settings
    root: Path | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    drafts: list[Draft] = field(default_factory=list)
    current: int = 0  # the draft that is worked on
    examples: list[Example] = field(default_factory=list)
    saved: dict[str, Reference] = field(default_factory=dict)
    photos: dict[str, Photo] = field(default_factory=dict)
    folders: list[Path] = field(default_factory=list)  # on the server, where photos came from
    results: dict[tuple[str, str], Kept] = field(default_factory=dict)
    looked_at: LookedAt | None = None
    running: bool = False
    stopped: bool = False

    # --- examples ---

    @property
    def draft(self) -> Draft | None:
        """The one that is worked on."""
        return self.drafts[self.current] if self.drafts else None

    @property
    def sources(self) -> dict[str, Source]:
        """What each class is learnt from, by its name."""
        sources = {label: Source(self.token, saved=reference) for label, reference in self.saved.items()}
        for label in dict.fromkeys(example.label for example in self.examples):
            files = tuple((example.photo, example.mask) for example in self.examples if example.label == label)
            sources[label] = Source(self.token, files)
        return sources

    def add_drafts(self, uploads: Iterable[Upload]) -> list[str]:
        """Photos to make masks on; what is wrong with those that cannot be used."""

        def take(upload: Upload) -> None:
            if len(self.drafts) >= MAX_EXAMPLES:
                raise ValueError(f"{MAX_EXAMPLES} example photos are the limit")
            self.current = len(self.drafts)
            photo, image = self._take(upload, self.folder / "examples" / f"{self.current}" / upload[1])
            self.drafts.append(Draft(photo, Marking(image.shape[:2])))
            self.engine.warm(photo, self.settings)

        return _each(uploads, take)

    def edit(self, sent: Mapping[str, Any]) -> None:
        """An edit of the current draft, as the page sends it; "undo" and "clear" are tools too."""
        if (draft := self.draft) is None:
            raise ValueError("upload a photo first")
        draft.marking = self._edited(draft.photo, draft.marking, sent)

    def start_from(self, upload: Upload) -> None:
        """Let an uploaded mask be the current draft's, in place of what was done."""
        if (draft := self.draft) is None:
            raise ValueError("upload the photo first, then its mask")
        file, name = upload
        try:
            mask = load_mask(file, draft.marking.size, max_pixels=self.engine.models.max_pixels)
        except ImageError as error:
            raise ValueError(_told(error, file, name)) from None
        finally:
            file.unlink(missing_ok=True)
        draft.marking = Marking(draft.marking.size, mask)

    def add_example(self, label: str) -> None:
        """Take the current draft's photo and mask as an example of that class."""
        draft, label = self.draft, label.strip() or DEFAULT_LABEL
        if draft is None or not draft.marking.mask.any():
            raise ValueError("mark the object in a photo first: click on it, draw a box, or paint")
        self._check_label(label)
        if label in self.saved:
            raise ValueError(f"{label!r} comes from a saved reference, which cannot be extended: choose another name")
        place = draft.photo.file.parent
        self.examples = [e for e in self.examples if (e.label, e.photo) != (label, draft.photo.file)]
        mask = place / f"mask{len(list(place.glob('mask*.png')))}.png"  # a new file, as earlier ones may be in use
        viz.save_image(viz.mask_image(draft.marking.mask), mask)
        image = load_image(draft.photo.file, self.engine.models.max_pixels)
        viz.save_image(thumbnail(image, draft.marking.mask), mask.with_suffix(".jpg"))
        self.examples.append(Example(label, draft.photo.file, mask))

    def remove_example(self, number: int) -> None:
        """By its place in `examples`."""
        if 0 <= number < len(self.examples):
            del self.examples[number]
        self._forget_absent()

    def add_reference(self, upload: Upload, label: str) -> str:
        """A reference that was saved earlier; the label is the file's name where none is given. Returns the label."""
        file, name = upload
        label = label.strip() or PurePosixPath(name).stem
        try:
            self._check_label(label)
            if label in self.sources:
                raise ValueError(f"there is a class {label!r} already: give this one another name")
            reference = Reference.load(file)
            self.engine.reference(self.settings, Source(self.token, saved=reference))
        except ValueError as error:
            raise ValueError(_told(error, file, name)) from None
        finally:
            file.unlink(missing_ok=True)
        self.saved[label] = reference
        return label

    def remove_reference(self, label: str) -> None:
        """By its label; nothing if there is none."""
        self.saved.pop(label, None)
        self._forget_absent()

    # --- photos ---

    def add_photos(self, uploads: Iterable[Upload]) -> list[str]:
        """Photos to be searched; what is wrong with those that cannot be used."""

        def take(upload: Upload) -> None:
            self._check_new(upload[1])
            # A folder of its own, as what was computed from an earlier photo of that name may be known still.
            place = self.folder / "photos" / secrets.token_hex(8) / upload[1]
            self.photos[upload[1]], _ = self._take(upload, place)

        return _each(uploads, take)

    def add_folder(self, named: str) -> list[str]:
        """Photos of a folder on the server, below the root; they stay where they are."""
        if self.root is None:
            raise ValueError("this server shows no folders: it was started without --root")
        root = self.root.resolve()
        folder = (root / named.strip()).resolve()
        if not folder.is_relative_to(root) or not folder.is_dir():
            raise ValueError(f"there is no folder {named!r} below the root")
        try:
            found = find_images([folder])
        except ImageError:
            raise ValueError(f"the folder {named!r} holds no images") from None
        problems = []
        for file, name in found:
            try:
                if not file.resolve().is_relative_to(root):
                    raise ValueError("leads out of the root")
                self._check_new(name.as_posix())
                self.photos[name.as_posix()] = Photo(self.token, name.as_posix(), file)
            except ValueError as error:
                problems.append(f"{name.as_posix()}: {error}")
        if folder not in self.folders:
            self.folders.append(folder)
        return problems

    def clear_photos(self) -> None:
        """Take all photos away, and their results."""
        self.stopped = True
        self.photos, self.folders, self.results, self.looked_at = {}, [], {}, None
        for name in ("photos", "masks", "overlays", "thumbs"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    # --- results ---

    def run(self) -> Iterator[Progress]:
        """Every class in every photo; what is done already with these settings and examples, and by hand, stays."""
        if not self.sources:
            raise ValueError("make an example first: a photo with a mask, in part 1")
        if not self.photos:
            raise ValueError("there are no photos yet: upload some, above")
        if self.running:
            raise ValueError("this is running already")
        sources = self.sources
        waiting = [
            (photo, label, source)
            for photo in self.photos.values()
            for label, source in sources.items()
            if not self._is_done(photo, label, source)
        ]
        problems: list[str] = []
        self.running, self.stopped = True, False
        try:
            yield Progress(0, len(waiting))
            for done, (photo, label, source) in enumerate(waiting, 1):
                if self.stopped:
                    return
                try:
                    result = self.engine.segment(photo, label, self.settings, source)
                    self._keep(photo, result, self.settings, source)
                except ImageError as error:
                    problems.append(str(error).replace(str(photo.file), photo.name))
                yield Progress(done, len(waiting), tuple(problems))
        finally:
            self.running = False

    def look(self, name: str, label: str, settings: Settings) -> Segmentation:
        """One photo, with these settings; at the step that was chosen, if it was not looked at just so already."""
        photo, source = self._known(name, label)
        at = self.looked_at
        if at is not None and (at.photo, at.result.label, at.settings, at.source) == (photo, label, settings, source):
            return at.result  # and the step, and what was corrected, stay
        result = self.engine.segment(photo, label, settings, source)
        self.looked_at = LookedAt(photo, result, settings, source, result.chosen, _beginning(result, result.chosen))
        return result

    def go_to(self, step: int) -> None:
        """Another step of what is looked at; what was corrected of the last one is dropped."""
        at = self._looked_at()
        step = max(0, min(step, len(at.result.candidates) - 1))
        if step != at.step:
            at.step, at.marking = step, _beginning(at.result, step)

    def correct(self, sent: Mapping[str, Any]) -> None:
        """An edit of that step's mask, as the page sends it."""
        at = self._looked_at()
        at.marking = self._edited(at.photo, at.marking, sent)

    def keep_step(self) -> Kept:
        """The step that is looked at goes into the results."""
        at = self._looked_at()
        return self._keep(at.photo, at.result, at.settings, at.source, step=at.step)

    def keep_correction(self) -> Kept:
        """What was corrected goes into the results."""
        at = self._looked_at()
        if not at.marking.edits:
            raise ValueError("nothing is corrected yet: click or paint on the photo")
        return self._keep(at.photo, at.result, at.settings, at.source, mask=at.marking.mask)

    def keep_automatic(self) -> Kept:
        """Of the photo that is looked at, back to what a run gives."""
        at = self._looked_at()
        result = self.engine.segment(at.photo, at.result.label, self.settings, at.source)
        return self._keep(at.photo, result, self.settings, at.source)

    # --- files ---

    def path(self, kind: str, kept: Kept, suffix: str) -> Path:
        """Where a picture of a result lies; kind: masks, overlays or thumbs."""
        return (self.folder / kind / kept.label / kept.photo.name).with_suffix(suffix)

    def url(self, file: Path, version: int = 0) -> str:
        """Where the page finds a file of the visitor's."""
        key = file.relative_to(self.folder).as_posix()
        return f"visitors/{self.token}/files/{quote(key)}" + (f"?{version}" if version else "")

    def file(self, key: str) -> Path | None:
        """The file below the visitor's folder that `url` named; None for anything else."""
        file = (self.folder / key).resolve()
        return file if file.is_relative_to(self.folder.resolve()) and file.is_file() else None

    def preview(self, photo: Photo, image: ByteArray | None = None) -> str:
        """Where the page finds a small copy of the photo, (H, W, 3), which is read if it is not given."""
        name = hashlib.sha256(str(photo.file).encode(errors="surrogateescape")).hexdigest()[:20]
        file = self.folder / "previews" / f"{name}.jpg"
        if not file.is_file():
            image = load_image(photo.file, self.engine.models.max_pixels) if image is None else image
            viz.save_image(small(Image.fromarray(image), SHOWN), file)
        return self.url(file)

    def close(self) -> None:
        """Delete everything."""
        self.stopped = True
        self.engine.forget(self.token)
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- what the above share ---

    def _take(self, upload: Upload, place: Path) -> tuple[Photo, ByteArray]:
        """Check that it is an image, and move it to its place."""
        file, name = upload
        if PurePosixPath(name).suffix.lower() not in IMAGE_SUFFIXES:
            raise ValueError(f"its name must end in one of {', '.join(sorted(IMAGE_SUFFIXES))}")
        image = load_image(file, self.engine.models.max_pixels)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, place)
        photo = Photo(self.token, name, place)
        self.preview(photo, image)
        return photo, image

    def _check_new(self, name: str) -> None:
        """Names become files without their suffix, and some systems ignore case."""
        if len(self.photos) >= MAX_PHOTOS:
            raise ValueError(f"{MAX_PHOTOS} photos are the limit: take the results first, then remove these")
        key = _without_suffix(name)
        other = next((known for known in self.photos if _without_suffix(known) == key), None)
        if other is not None:
            raise ValueError("is there already" if other == name else f"its mask would have the name of {other}'s")

    def _check_label(self, label: str) -> None:
        check_label(label)
        other = next((known for known in self.sources if known.casefold() == label.casefold()), label)
        if other != label:
            raise ValueError(f"there is a class {other!r} already, which some systems take for {label!r}")

    def _edited(self, photo: Photo, marking: Marking, sent: Mapping[str, Any]) -> Marking:
        def ask(prompts: Prompts) -> Answer:
            return self.engine.answer(photo, self.settings, prompts)

        if sent.get("tool") == "undo":
            return marking.undone(ask)
        if sent.get("tool") == "clear":
            return marking.cleared()
        return marking.edited(read_edit(sent, marking.size), ask)

    def _known(self, name: str, label: str) -> tuple[Photo, Source]:
        if name not in self.photos or label not in self.sources:
            raise ValueError("choose a photo and a class first")
        return self.photos[name], self.sources[label]

    def _looked_at(self) -> LookedAt:
        if self.looked_at is None or self.looked_at.photo.name not in self.photos:
            raise ValueError("choose a photo first")
        return self.looked_at

    def _is_done(self, photo: Photo, label: str, source: Source) -> bool:
        kept = self.results.get((photo.name, label))
        return kept is not None and (kept.by_hand or (kept.settings, kept.source) == (self.settings, source))

    def _keep(
        self, photo: Photo, result: Segmentation, settings: Settings, source: Source, *, step: int | None = None,
        mask: BoolArray | None = None,
    ) -> Kept:  # fmt: skip
        """Put a result into the results: the chosen candidate, or another one, or a mask made by hand."""
        before = self.results.get((photo.name, result.label))
        line = record(result, file_sha256(photo.file))
        how: How = "automatic"
        if mask is not None:
            how = "corrected"
            line |= {
                "min_score": None,
                "found": bool(result.candidates[result.chosen].mask.any()),
            }  # what it was before
        elif step is not None and (step != result.chosen or result.rejected):
            how, mask = "picked", result.candidates[step].mask
            score = line["score"] if step == result.chosen else None  # known of the chosen one only
            line |= {"chosen": step, "score": score, "min_score": None, "found": bool(mask.any())}
        else:
            mask = result.mask
        kept = Kept(
            photo, result.label, line, settings, source, how, int(mask.sum()), before.version + 1 if before else 0,
            by_hand=how == "corrected" or step is not None,
        )  # fmt: skip
        viz.save_image(viz.mask_image(mask), self.path("masks", kept, ".png"))
        viz.save_image(viz.overlay(result.image, mask), self.path("overlays", kept, ".jpg"))
        viz.save_image(thumbnail(result.image, mask), self.path("thumbs", kept, ".jpg"))
        if photo.name in self.photos:  # they may have been removed meanwhile
            self.results[photo.name, result.label] = kept
        return kept

    def _forget_absent(self) -> None:
        """Drop the results of classes that are gone."""
        sources = self.sources
        self.results = {key: kept for key, kept in self.results.items() if key[1] in sources}


def _each(uploads: Iterable[Upload], take: Callable[[Upload], None]) -> list[str]:
    """What is wrong with those that cannot be taken; none stays where it was uploaded."""
    problems = []
    for file, called in uploads:
        name = PurePosixPath(called.replace("\\", "/")).name.lstrip(".")
        try:
            if not name.isprintable():
                raise ValueError("its name holds characters that cannot be shown")
            take((file, name))
        except ValueError as error:
            problems.append(_told(error, file, name))
        finally:
            file.unlink(missing_ok=True)
    return problems


def _told(error: Exception, file: Path, name: str) -> str:
    """With the visitor's name for the file, not the server's."""
    said = str(error).replace(str(file), name)
    return said if said.startswith((name, f"mask {name}")) else f"{name}: {said}"


def _without_suffix(name: str) -> str:
    return str(PurePosixPath(name).with_suffix("")).casefold()


def _beginning(result: Segmentation, step: int) -> Marking:
    candidate = result.candidates[step]
    return Marking(candidate.mask.shape, candidate.mask, candidate.logits)
