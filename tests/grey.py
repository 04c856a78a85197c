"""A grey photo and the mask of its middle, for tests of what is drawn on it."""

from __future__ import annotations

import numpy as np

GREY = 120


def photo(height: int = 60, width: int = 90) -> np.ndarray:
    return np.full((height, width, 3), GREY, np.uint8)


def block(height: int, width: int, empty: bool = False) -> np.ndarray:
    """The middle ninth of the photo."""
    mask = np.zeros((height, width), bool)
    mask[height // 3 : -(-2 * height // 3), width // 3 : -(-2 * width // 3)] = not empty
    return mask
