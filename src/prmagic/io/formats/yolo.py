"""The format that YOLO's segmentation models train on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from prmagic.io.formats.base import Labelled, Options
from prmagic.io.polygons import outlines, pixel_indices


def files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """A text file for each photo, empty where nothing was found.

    Each instance has a line, and so has each connected part of a label's whole mask, as YOLO's objects have one
    outline. The parts of an instance are joined. Coordinates are shares of the photo's sides.
    """
    names = "".join(f"  {i}: {json.dumps(label, ensure_ascii=False)}\n" for i, label in enumerate(labels))
    yield "data.yaml", f"train: images\nval: images\nnames:\n{names}".encode()
    for photo in photos:
        height, width = photo.shape
        lines = [
            " ".join([str(position), *(f"{share:.7f}" for share in (pixel_indices(part) / (width, height)).ravel())])
            for position, mask, instance in photo.found(labels)
            for part in outlines(mask, options.tolerance, joined=instance is not None)
        ]
        yield f"labels/{photo.stem}.txt", "".join(f"{line}\n" for line in lines).encode()
