"""A visitor's examples: photos that are being marked, marked ones, and saved references."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from prmagic.app.canvas import thumbnail
from prmagic.app.engine import PhotoFile, Source
from prmagic.app.marking import Marking
from prmagic.app.packed import PackedMask
from prmagic.app.workspace import Upload, Workspace, in_visitors_words, notes, plain_name, take_each
from prmagic.io.masks import load_mask
from prmagic.io.reading import ImageError
from prmagic.names import check_label
from prmagic.pictures import mask_image, save_image
from prmagic.reference import Reference
from prmagic.segmenter import DEFAULT_LABEL

MAX_EXAMPLES = 50


@dataclass
class Draft:
    """A photo that is being marked."""

    photo: PhotoFile
    marking: Marking


@dataclass(frozen=True)
class MarkedExample:
    """A photo and its mask, both files, of one class."""

    label: str
    photo: Path
    mask: Path


@dataclass
class Examples:
    """What a visitor looks for. `current` is the draft that is worked on."""

    workspace: Workspace
    drafts: list[Draft] = field(default_factory=list)
    current: int = 0
    marked: list[MarkedExample] = field(default_factory=list)
    references: dict[str, Reference] = field(default_factory=dict)  # that were saved earlier, by label

    @property
    def draft(self) -> Draft | None:
        """The one that is worked on."""
        return self.drafts[self.current] if self.drafts else None

    @property
    def sources(self) -> dict[str, Source]:
        """What each class is learnt from, by its label."""
        token = self.workspace.token
        sources = {label: Source(token, label, saved=reference) for label, reference in self.references.items()}
        for label in dict.fromkeys(example.label for example in self.marked):
            files = tuple((example.photo, example.mask) for example in self.marked if example.label == label)
            sources[label] = Source(token, label, files)
        return sources

    def upload(self, uploads: Iterable[Upload]) -> list[str]:
        """Add photos to mark; what is wrong with those that cannot be used."""

        def take(upload: Upload) -> None:
            if len(self.drafts) >= MAX_EXAMPLES:
                raise ValueError(f"{MAX_EXAMPLES} example photos are the limit")
            place = self.workspace.folder / "examples" / secrets.token_hex(8) / upload.name
            photo, image = self.workspace.take(upload, place)
            self.drafts.append(Draft(photo, Marking(image.shape[:2])))
            self.current = len(self.drafts) - 1  # only a photo that is there can be worked on
            self.workspace.engine.warm(photo, self.workspace.settings)

        return take_each(uploads, take)

    def pick(self, number: int) -> None:
        """Work on another draft, by its place."""
        if 0 <= number < len(self.drafts):
            self.current = number

    def edit(self, sent: Mapping[str, Any]) -> None:
        """Apply an edit of the current draft, as the page sends it."""
        if (draft := self.draft) is None:
            raise ValueError("upload a photo first")
        draft.marking = self.workspace.edited(draft.photo, draft.marking, sent)

    def start_from(self, upload: Upload) -> list[str]:
        """Let an uploaded mask be the current draft's, in place of what was done; what there is to say about it."""
        named = Upload(upload.file, plain_name(upload.name))
        try:
            if (draft := self.draft) is None:
                raise ValueError("upload the photo first, then its mask")
            with notes(upload.file.name) as found:
                mask = load_mask(upload.file, draft.marking.size, max_pixels=self.workspace.engine.models.max_pixels)
        except ImageError as error:
            raise ValueError(in_visitors_words(error, named)) from None
        finally:
            upload.file.unlink(missing_ok=True)
        draft.marking = Marking(draft.marking.size, PackedMask.of(mask))
        return [in_visitors_words(note, named) for note in found]

    def add(self, label: str) -> None:
        """Take the current draft's photo and mask as an example of that class."""
        draft, label = self.draft, label.strip() or DEFAULT_LABEL
        if draft is None or not (mask := draft.marking.mask).any():
            raise ValueError("mark the object in a photo first: click on it, draw a box, or paint")
        self._check_label(label)
        if label in self.references:
            raise ValueError(f"{label!r} comes from a saved reference, which cannot be extended: choose another name")
        file = draft.photo.file.parent / f"mask-{secrets.token_hex(4)}.png"  # earlier ones may be in use
        save_image(mask_image(mask), file)
        save_image(thumbnail(self.workspace.read(draft.photo), mask), file.with_suffix(".jpg"))
        self.marked = [e for e in self.marked if (e.label, e.photo) != (label, draft.photo.file)]
        self.marked.append(MarkedExample(label, draft.photo.file, file))

    def remove(self, number: int) -> None:
        """Remove a marked example, by its place."""
        if 0 <= number < len(self.marked):
            del self.marked[number]

    def load_reference(self, upload: Upload, label: str) -> str:
        """Add a reference that was saved earlier.

        Args:
            upload: Its file.
            label: What to call it; if empty, what the reference says, or else the file's name.

        Returns:
            The label.
        """
        named = Upload(upload.file, plain_name(upload.name))
        try:
            reference = Reference.load(upload.file)
            label = label.strip() or reference.label or PurePosixPath(named.name).stem
            self._check_label(label)
            if label in self.sources:
                raise ValueError(f"there is a class {label!r} already: give this one another name")
            source = Source(self.workspace.token, label, saved=reference)
            self.workspace.engine.reference(self.workspace.settings, source)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(in_visitors_words(error, named)) from None
        finally:
            upload.file.unlink(missing_ok=True)
        self.references[label] = reference
        return label

    def remove_reference(self, label: str) -> None:
        """Remove a saved reference; nothing if there is none of that label."""
        self.references.pop(label, None)

    def _check_label(self, label: str) -> None:
        try:
            check_label(label)
        except ValueError:
            raise ValueError("this name cannot be used, as it becomes a folder's name: choose another") from None
        if label.startswith("-"):
            raise ValueError("a name must not begin with a dash, as it would look like an option")
        other = next((known for known in self.sources if known.casefold() == label.casefold()), label)
        if other != label:
            raise ValueError(f"there is a class {other!r} already, which some systems take for {label!r}")
