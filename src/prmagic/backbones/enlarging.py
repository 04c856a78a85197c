"""Low-resolution logits as masks of a photo, without enlarging what is all object or all background anyway.

An enlarged value is a mean, with weights that sum to 1, of a few low-resolution ones. Where all of those are above 0 it
is above 0, too; where none is, it is not. Only tiles of the photo with both are enlarged.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 32  # pixels of the photo a side
BAND = 4  # at least so many rows of the photo are looked at for a mask's first or last one
EIGHT = 0x0101010101010101  # eight pixels that are set, as one number
ROUNDING = 2e-6  # beyond which two ways to sum the same mean differ, as a share of the mean of the absolute values


@lru_cache(16)  # they are as wide as photos
def linear(side: int, via: int, kept: int, size: int) -> Tensor:
    """(side, size): what each of `side` positions gives each of `size`, interpolated to `via` first and cut there."""
    each = F.interpolate(torch.eye(side)[None], via, mode="linear", align_corners=False)[..., :kept]
    return F.interpolate(each, size, mode="linear", align_corners=False)[0]


class Tiles(NamedTuple):
    """Along one side of the photo: which positions of the map the pixels of each tile are means of, and how.

    places (tiles, k) indices; shares (tiles, k, TILE), 0 for pixels beyond the photo and for repeated places."""

    places: Tensor
    shares: Tensor


@lru_cache(32)
def tiles(side: int, via: int, kept: int, size: int) -> Tiles:
    """Of a map of `side` positions, as for `linear`."""
    weights = linear(side, via, kept, size)
    count = -(-size // TILE)
    padded = F.pad(weights, (0, count * TILE - size)).view(side, count, TILE)
    first, last = _range((padded > 0).any(2).T)
    steps = torch.arange(int((last - first).max()) + 1)
    places = torch.minimum(first[:, None] + steps, last[:, None])
    shares = padded[places, torch.arange(count)[:, None]] * (first[:, None] + steps <= last[:, None])[..., None]
    return Tiles(places, shares)


def _range(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """(n, m) bool → the first and the last place of each row that is chosen, (n,) each."""
    numbers = chosen.int()
    return numbers.argmax(1), chosen.shape[1] - 1 - numbers.flip(1).argmax(1)


def positive(maps: Tensor, down: Tiles, across: Tiles) -> tuple[Tensor, list[int]]:
    """Where any map is above 0 when enlarged.

    Args:
        maps: (n, s, s) float32 on the CPU.
        down: Of the rows.
        across: Of the columns.

    Returns:
        (rows · TILE, columns · TILE) bool; and the maps that decide a pixel there by less than what rounding can do,
        which is left out.
    """
    highest, lowest = _extreme(maps, down, across), -_extreme(-maps, down, across)
    whole = (lowest > 0).any(0)
    found = (whole[..., None, None] * EIGHT).repeat(1, 1, TILE, TILE // 8).view(torch.bool)
    doubts: list[tuple[int, Tensor, Tensor, Tensor]] = []
    for index in ((highest > 0) & ~whole).flatten(1).any(1).nonzero()[:, 0].tolist():
        rows, columns = ((highest[index] > 0) & ~whole).nonzero(as_tuple=True)
        pieces = maps[index][down.places[rows][:, :, None], across.places[columns][:, None]]
        values = _enlarged(pieces, down.shares[rows], across.shares[columns])
        above = values > 0
        most = torch.maximum(highest[index], -lowest[index])[rows, columns]
        near = values.abs() <= ROUNDING * most[:, None, None]
        if near.any():
            near &= values.abs() <= ROUNDING * _enlarged(pieces.abs(), down.shares[rows], across.shares[columns])
            above &= ~near
            doubts.append((index, rows, columns, near))
        found[rows, columns] |= above
    unclear = [index for index, rows, columns, near in doubts if (near & ~found[rows, columns]).any()]
    return _laid_out(found), unclear


class Ends(NamedTuple):
    """Along one side of the photo: weights (side, size) as of `linear`; which positions (size, k) of the map each pixel
    is a mean of, and how (size, k); the first and the last pixel that each position takes part in, (side,) each; which
    positions take part at all, (side,); and up to where."""

    weights: Tensor
    places: Tensor
    shares: Tensor
    first: Tensor
    last: Tensor
    used: Tensor
    length: int

    def at(self, pixels: Any) -> Pixels:
        """Some of the pixels."""
        return Pixels(self.places[pixels], self.shares[pixels])


@lru_cache(32)
def ends(side: int, via: int, kept: int, size: int) -> Ends:
    """Of a map of `side` positions, as for `linear`."""
    weights = linear(side, via, kept, size).contiguous()
    taken = weights > 0
    lowest, highest = (each[:, None] for each in _range(taken.T))
    steps = torch.arange(int((highest - lowest).max()) + 1)
    places = torch.minimum(lowest + steps, highest)
    shares = weights.T.gather(1, places) * (lowest + steps <= highest)
    return Ends(weights, places, shares, *_range(taken), taken.any(1), int(highest.max()) + 1)


class Pixels(NamedTuple):
    """Some pixels along one side of the photo: of which positions (n, k) of the map they are means, and how (n, k)."""

    places: Tensor
    shares: Tensor

    def to(self, device: torch.device) -> Pixels:
        """On this device."""
        return Pixels(self.places.to(device), self.shares.to(device))


def positive_at(maps: Tensor, down: Pixels, across: Pixels) -> Tensor:
    """Where each map is above 0 when enlarged, at pixels of these rows and columns alone.

    Args:
        maps: (n, s, s) float32.
        down: Of r rows.
        across: Of c columns.

    Returns:
        (n, r, c) bool.
    """
    above = maps > 0
    some, every = _both(above, above, down.places, 1)
    some, every = _both(some, every, across.places, 2)
    index, row, column = (some & ~every).nonzero(as_tuple=True)  # the sign of all others is clear
    pieces = maps[index[:, None, None], down.places[row][:, :, None], across.places[column][:, None]]
    every[index, row, column] = (down.shares[row][:, None] @ pieces @ across.shares[column][..., None]).flatten() > 0
    return every


def _both(some: Tensor, every: Tensor, places: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Whether any of the places along an axis has it, and whether all have."""
    first, *further = places.T
    any_has, all_have = some.index_select(axis, first), every.index_select(axis, first)
    for each in further:
        any_has |= some.index_select(axis, each)
        all_have &= every.index_select(axis, each)
    return any_has, all_have


def outer_pixels(maps: Tensor, lines: Ends, across: Ends) -> tuple[Tensor, Tensor, Tensor]:
    """The first and the last row with a pixel above 0, of each map when enlarged.

    Args:
        maps: (n, s, s) float32.
        lines: Of the rows.
        across: Of the columns.

    Returns:
        First and last row, (n,) each; and whether both are certain, (n,) bool: they are among the first and last rows
        that can have such a pixel, and no rounding decides them.
    """
    highest = maps[..., : across.length].amax(2)  # of each row of the map
    above = (highest > 0) & lines.used
    size = lines.weights.shape[1]
    band = max(BAND, 2 + math.ceil(size / int(lines.used.sum())))
    some = torch.arange(band)
    first, last = _range(above)
    first, last = lines.first[first][:, None] + some, lines.last[last][:, None] - some
    rows = torch.cat([first, last], 1).clamp(0, size - 1)
    pieces = maps[torch.arange(len(maps))[:, None, None], lines.places[rows]]  # (n, 2 · band, k, s)
    down = (pieces * lines.shares[rows][..., None]).sum(2)
    values = (down.flatten(0, 1) @ across.weights).amax(1).view(rows.shape)
    sure = (values.abs() > ROUNDING * pieces.abs().amax((1, 2, 3))[:, None]).all(1)
    found = (values > 0).unflatten(1, (2, band))
    place = found.int().argmax(2)
    rows = rows.unflatten(1, (2, band)).gather(2, place[..., None])[..., 0]
    return rows[:, 0], rows[:, 1], sure & found.any(2).all(1)


def outermost(masks: Tensor) -> Tensor:
    """(n, h, w) bool → (n, 4) x0, y0, x1, y1 of the outermost pixels, -1 for an empty mask; on the CPU."""
    sides = []
    for axis in (1, 2):
        lines = masks.any(axis).int().cpu()
        sides.append((lines.argmax(1), lines.shape[1] - 1 - lines.flip(1).argmax(1)))
    (x0, x1), (y0, y1) = sides
    found = torch.stack([x0, y0, x1, y1], 1)
    found[~masks.flatten(1).any(1).cpu()] = -1
    return found


def _laid_out(tiles_of_pixels: Tensor) -> Tensor:
    """(…, rows, columns, TILE, TILE) bool → (…, rows · TILE, columns · TILE)."""
    *several, rows, columns, _, _ = tiles_of_pixels.shape
    eights = tiles_of_pixels.view(torch.int64).transpose(-3, -2)
    return eights.reshape(*several, rows * TILE, columns * TILE // 8).view(torch.bool)


def _extreme(maps: Tensor, down: Tiles, across: Tiles) -> Tensor:
    """(n, s, s) → the largest value that each tile depends on, (n, rows, columns)."""
    return maps[:, down.places].amax(2)[:, :, across.places].amax(3)


def _enlarged(pieces: Tensor, down: Tensor, across: Tensor) -> Tensor:
    """(p, k, l) → (p, TILE, TILE)."""
    return down.mT @ (pieces @ across)
