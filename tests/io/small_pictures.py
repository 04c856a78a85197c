"""Pictures of a few pixels, and files of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

# 2 rows, 5 columns, no two pixels alike: any flip, turn or channel swap shows
RGB = np.array(
    [
        [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]],
        [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120], [130, 140, 150]],
    ],
    dtype=np.uint8,
)
MASK = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 0, 1]], dtype=bool)


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def palette_picture(indices: np.ndarray, colours: list[int]) -> Image.Image:
    result = Image.new("P", indices.shape[::-1])
    result.frombytes(indices.astype(np.uint8).tobytes())
    result.putpalette(colours)
    return result
