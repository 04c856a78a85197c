"""A visitor's folder: the files in it, and where the page finds them."""

from __future__ import annotations

import hashlib
import secrets
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from PIL import Image

from prmagic.app.canvas import LONGEST, small
from prmagic.app.engine import Engine, PhotoFile
from prmagic.app.marking import Marking, read_edit
from prmagic.app.settings import Settings
from prmagic.caught import caught_warnings
from prmagic.io.finding import IMAGE_SUFFIXES
from prmagic.io.images import load_image
from prmagic.pictures import save_image
from prmagic.types import BoolArray, ByteArray, Prompts

MAX_STORED = 8 << 30  # bytes of photos that one visitor may have on the server
MAX_NAME = 200  # bytes; most file systems take 255


@dataclass(frozen=True)
class Upload:
    """A file that came in, and what the visitor calls it."""

    file: Path
    name: str


@dataclass
class Workspace:
    """What all of a visitor's things share: the models, the settings for runs, and a folder with an unguessable token.

    root: the folder on the server below which visitors may name folders.
    """

    engine: Engine
    folder: Path
    settings: Settings
    root: Path | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    stored: int = 0  # bytes of photos

    def url(self, file: Path, version: int = 0) -> str:
        """Where the page finds a file of the visitor's."""
        key = file.relative_to(self.folder).as_posix()
        return f"visitors/{self.token}/files/{quote(key)}" + (f"?{version}" if version else "")

    def file(self, key: str) -> Path | None:
        """The file that `url` named; None for anything outside of the visitor's folder."""
        try:
            file = (self.folder / key).resolve()
            return file if file.is_relative_to(self.folder.resolve()) and file.is_file() else None
        except (OSError, ValueError):  # a name that no file can have
            return None

    def preview(self, photo: PhotoFile, image: ByteArray | None = None) -> str:
        """Where the page finds a small copy of a photo; image: the photo (H, W, 3), which is read if not given."""
        name = hashlib.sha256(str(photo.file).encode(errors="surrogateescape")).hexdigest()[:20]
        file = self.folder / "previews" / f"{name}.jpg"
        if not file.is_file():
            save_image(small(Image.fromarray(self.read(photo) if image is None else image), LONGEST), file)
        return self.url(file)

    def read(self, photo: PhotoFile) -> ByteArray:
        """The photo's pixels, (H, W, 3)."""
        return load_image(photo.file, self.engine.models.max_pixels)

    def take(self, upload: Upload, place: Path) -> tuple[PhotoFile, ByteArray]:
        """Check that an upload is a photo, and move it to its place; the photo, and its pixels (H, W, 3)."""
        suffix = PurePosixPath(upload.name).suffix.lower()
        if suffix not in IMAGE_SUFFIXES:
            raise ValueError(f"{suffix or 'such'} files cannot be read here; convert it to JPEG or PNG")
        size = upload.file.stat().st_size
        if self.stored + size > MAX_STORED:
            raise ValueError("your photos take all the space that one visitor has here: remove some first")
        image = load_image(upload.file, self.engine.models.max_pixels)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(upload.file, place)
        self.stored += size
        photo = PhotoFile(self.token, upload.name, place)
        self.preview(photo, image)
        return photo, image

    def edited(self, photo: PhotoFile, marking: Marking, sent: Mapping[str, Any]) -> Marking:
        """A marking with an edit as the page sends it; "undo" and "clear" are tools too."""

        def ask(prompts: Prompts) -> BoolArray:
            return self.engine.answer(photo, self.settings, prompts)

        tool = sent.get("tool") if isinstance(sent, Mapping) else None
        if tool == "undo":
            return marking.undone(ask)
        if tool == "clear":
            return marking.cleared()
        return marking.edited(read_edit(sent, marking.size), ask)


def take_each(uploads: Iterable[Upload], take: Callable[[Upload], None]) -> list[str]:
    """Take every upload; what is wrong with those that cannot be taken. None stays where it was uploaded."""
    problems = []
    for upload in uploads:
        named = Upload(upload.file, plain_name(upload.name))
        try:
            if not named.name.isprintable() or len(named.name.encode(errors="replace")) > MAX_NAME:
                named = Upload(upload.file, "a file")
                raise ValueError("its name is too long, or holds characters that cannot be shown")
            take(named)
        except ValueError as error:
            problems.append(in_visitors_words(error, named))
        finally:
            upload.file.unlink(missing_ok=True)
    return problems


@contextmanager
def notes(about: str) -> Iterator[list[str]]:
    """Collect the warnings that hold this text. Other threads' may come by, and are not this visitor's business."""
    found: list[str] = []
    with caught_warnings() as several:
        warnings.simplefilter("always")
        yield found
    found += [str(one.message) for one in several if about in str(one.message)]


def plain_name(name: str) -> str:
    """A file's name without folders, and not a hidden one."""
    return PurePosixPath(name.replace("\\", "/")).name.lstrip(".") or "file"


def in_visitors_words(error: Exception | str, upload: Upload) -> str:
    """The message with the visitor's name for the file, not the server's."""
    message = str(error).replace(str(upload.file), upload.name).replace(upload.file.name, upload.name)
    return message if message.startswith((upload.name, f"mask {upload.name}")) else f"{upload.name}: {message}"
