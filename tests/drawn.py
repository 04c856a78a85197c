"""Drawn clips of coloured discs on grey ground."""

from __future__ import annotations

import numpy as np

SIZE = (180, 240)
GROUND, RED, BLUE, GREEN = (200, 205, 210), (200, 40, 40), (40, 60, 200), (30, 150, 60)
Disc = tuple[int, int, int, tuple[int, int, int]]  # x, y, radius, colour


def disc(x: int, y: int, radius: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A mask (H, W) bool."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    mask: np.ndarray = (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
    return mask


def frame(discs: list[Disc], size: tuple[int, int] = SIZE) -> np.ndarray:
    """(H, W, 3) uint8; later discs lie over earlier ones."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = GROUND
    for x, y, radius, colour in discs:
        image[disc(x, y, radius, size)] = colour
    return image
