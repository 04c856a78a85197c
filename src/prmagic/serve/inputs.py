"""From what a request names to photos and masks. Files are read below --root alone, and nothing is fetched."""

from __future__ import annotations

import stat
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol, TypeVar

import numpy as np
import torch

from prmagic.caught import caught_warnings
from prmagic.frameworks.maps import to_mask
from prmagic.io.images import load_image, load_mask
from prmagic.io.shapes import decode
from prmagic.reference import Example
from prmagic.segmenter import Segmenter
from prmagic.serve.errors import NotAllowed, RequestError
from prmagic.serve.schemas import PhotoInput, SupportInput
from prmagic.types import BoolArray, ByteArray, Prompts

MOST_SUPPORT_PIXELS = 2  # times those of the largest photo

Value = TypeVar("Value")


@dataclass(frozen=True, eq=False)
class PhotoFile:
    """The bytes of a photo, and where in the request it stands."""

    where: str
    content: bytes


class ExampleFile(Protocol):
    """A support that has not been decoded yet."""

    def example(self, segmenter: Segmenter) -> Example:
        """Decode it; RequestError if it cannot be used."""


@dataclass(frozen=True, eq=False)
class Marked:
    """A support whose files have been read, but not decoded; mask: a picture's bytes, or None for a shape."""

    where: str
    photo: bytes
    mask: bytes | None
    given: SupportInput

    def example(self, segmenter: Segmenter) -> Example:
        """Decode it; RequestError if it cannot be used."""
        image = decoded_photo(PhotoFile(f"{self.where}.photo", self.photo), segmenter.max_pixels)
        try:
            mask = _mask(self, image, segmenter)
        except ValueError as error:
            raise RequestError(f"{self.where}: {error}") from None
        if not mask.any():
            raise RequestError(f"{self.where}: nothing is marked")
        return Example(image, mask)


class Files:
    """Reads what requests name.

    Args:
        root: The folder below which they may name files; None: nowhere.
        limit: Bytes of the largest file.
    """

    def __init__(self, root: Path | None, limit: int):
        self.root = None if root is None else root.resolve()
        self.limit = limit

    def photo(self, given: PhotoInput, where: str) -> PhotoFile:
        """Of a photo in a request.

        Raises:
            RequestError: It names a file that may not or cannot be read.
        """
        return PhotoFile(where, self._bytes(given, where))

    def support(self, given: SupportInput, where: str) -> Marked:
        """Of a support in a request; raises as `photo` does."""
        mask = None if given.mask is None else self._bytes(given.mask, f"{where}.mask")
        return Marked(where, self._bytes(given.photo, f"{where}.photo"), mask, given)

    def _bytes(self, given: PhotoInput, where: str) -> bytes:
        if given.path is None:
            assert given.data is not None
            return given.data
        if self.root is None:
            raise NotAllowed(f"{where}: this server reads no files of its own: send the bytes as data")
        missing = RequestError(f"{where}: there is no such file below the server's --root")
        try:
            file = (self.root / PurePosixPath(given.path)).resolve()
            if not file.is_relative_to(self.root):
                raise missing
            about = file.stat()
            if not stat.S_ISREG(about.st_mode):
                raise missing
            if about.st_size > self.limit:
                raise RequestError(f"{where}: the file has more than {self.limit >> 20} MB")
            return file.read_bytes()
        except (OSError, ValueError, RuntimeError):  # unreadable, a NUL in the name, a circle of links
            raise missing from None


def noted(do: Callable[[], Value]) -> tuple[Value, list[str]]:
    """A value, and what was said on the way."""
    with caught_warnings() as caught:
        warnings.simplefilter("always")
        value = do()
    return value, [str(entry.message) for entry in caught if entry.category is UserWarning]


def decoded_photo(photo: PhotoFile, max_pixels: int) -> ByteArray:
    """(H, W, 3) of the bytes.

    Raises:
        RequestError: It is no photo, or too large.
    """
    try:
        return load_image(photo.content, max_pixels)
    except ValueError as error:
        raise RequestError(f"{photo.where}: {error}") from None


def decoded_supports(supports: Sequence[ExampleFile], segmenter: Segmenter) -> list[Example]:
    """Photos with masks; raises as `decoded_photo` does, and for too many pixels in all."""
    examples: list[Example] = []
    most = MOST_SUPPORT_PIXELS * segmenter.max_pixels
    for marked in supports:
        examples.append(marked.example(segmenter))
        if sum(example.mask.size for example in examples) > most:
            raise RequestError(f"the supports have more than {most:,} pixels in all: make them smaller, or send fewer")
    return examples


def _mask(marked: Marked, image: ByteArray, segmenter: Segmenter) -> BoolArray:
    size = image.shape[0], image.shape[1]
    given = marked.given
    if marked.mask is not None:
        return load_mask(marked.mask, size, given.mask_value, segmenter.max_pixels)
    if given.polygons is not None:
        return decode(given.polygons, size)
    if given.rle is not None:
        return decode({"size": list(given.rle.size), "counts": given.rle.counts}, size)
    assert given.box is not None
    return boxed(image, given.box, segmenter)


def boxed(image: ByteArray, box: tuple[float, float, float, float], segmenter: Segmenter) -> BoolArray:
    """SAM's mask (H, W) for a box x0, y0, x1, y1 in pixels of the photo.

    Raises:
        ValueError: The box has no area in the photo.
    """
    height, width = image.shape[:2]
    x0, y0, x1, y1 = np.clip(box, 0, (width, height, width, height)).tolist()
    if x1 - x0 < 1 or y1 - y0 < 1:
        raise ValueError("the box has no pixel of the photo")
    prompts = Prompts(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), (x0, y0, x1, y1))
    (embedding,) = segmenter.framework.embeddings([image])
    with torch.no_grad():
        answer = segmenter.framework.sam.decode(embedding, [prompts], multimask=False)
        return to_mask(answer.logits[0, 0], embedding.frame)
