"""Photos as users give them: named, and read in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from prmagic import checks
from prmagic.io.images import ImageError, load_image
from prmagic.reference import photo_digest
from prmagic.types import ByteArray, ImageLike


def named(images: Iterable[ImageLike], names: Iterable[str] | None) -> Iterator[tuple[str, ImageLike]]:
    """With the names, of which there must be as many; or with each file's own, which is empty for anything else."""
    if names is not None:
        end: Any = object()
        for name, image in zip_longest(names, images, fillvalue=end):
            if name is end or image is end:
                raise ValueError(f"there are fewer {'names' if name is end else 'images'} than the others")
            yield checks.text("a name", name), image
        return
    for image in images:
        yield (Path(image).name if isinstance(image, (str, os.PathLike)) else ""), image


def read(
    photos: Iterator[tuple[str, ImageLike]], size: int, max_pixels: int,
    on_error: Callable[[str, ImageError], None] | None,
) -> Iterator[list[tuple[str, ByteArray]]]:  # fmt: skip
    """Batches of photos (H, W, 3) uint8; one without a name is called by a digest of its pixels.

    on_error: told of those that cannot be used, which are left out; None: they are raised."""
    while batch := list(islice(photos, size)):
        loaded: list[tuple[str, ByteArray]] = []
        for name, image in batch:
            try:
                pixels = load_image(image, max_pixels)
            except ImageError as error:
                if on_error is None:
                    raise
                on_error(name or str(image), error)
                continue
            loaded.append((name or photo_digest(pixels), pixels))
        if loaded:
            yield loaded
