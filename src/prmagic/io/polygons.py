"""Masks as polygons, for tools that edit outlines and not pixels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage
from scipy.spatial import KDTree
from skimage.draw import line
from skimage.measure import find_contours

from prmagic.types import BoolArray

Points = npt.NDArray[np.float64]

SPECK, SPECK_SHARE = 16, 0.001  # pixels, and share of the mask: a smaller part is a speck and no object
TOLERANCE = 1.0  # pixels
ENOUGH = 0.99  # IoU of an outline, filled again, with its part of the mask

# Where between the centres of a background pixel (0) and of an object pixel (1) an outline runs. In the open half above
# 0.5 both ways of reading a polygon give back the very mask: COCO's, which fills the pixels whose centres are inside,
# and that of tools that cut coordinates down to pixel indices and fill the outline's own pixels too.
INSIDE = 0.75
# COCO's reader rounds corners to fifths of a pixel. A corner at .5 would be a tie, which the rounding of a tool that
# stores shares of the photo's sides would decide anew.
OFF_TIES = 0.03


def outlines(mask: BoolArray, tolerance: float = TOLERANCE, joined: bool = False) -> list[Points]:
    """Give one polygon for each connected part of a mask, from the top down; diagonal neighbours connect.

    A hole is joined to the outline by a cut of no width, there and back, so that even a reader that knows no holes
    leaves it open.

    Args:
        mask: (H, W), True on the object.
        tolerance: How far an outline may depart from the pixels' edges, in pixels; 0 for not at all. It is halved, at
            last to 0, for a part whose IoU with its outline would fall below 0.99.
        joined: One polygon for all parts: lines of no width lead from part to part, there and back.

    Returns:
        Polygons (N, 2) with N > 2 and an area: x, y in pixels from the photo's top left corner, where a pixel's centre
        is at .5. The last corner connects with the first.

    Raises:
        ValueError: The tolerance is no distance.
    """
    if not (tolerance >= 0 and np.isfinite(tolerance)):
        raise ValueError(f"the tolerance is {tolerance:g}; it is a distance in pixels, 0 or more")
    numbered, _ = ndimage.label(mask, np.ones((3, 3)))
    parts = [
        _outline(numbered[place] == number, tolerance) + np.array([place[1].start, place[0].start])
        for number, place in enumerate(ndimage.find_objects(numbered), start=1)
    ]
    return [_bridged(parts)] if joined and parts else parts


def pixel_indices(polygon: Points) -> Points:
    """The same for readers that take corners as indices of pixels, whether they round them or cut them down.

    Every corner comes into the first half of its pixel. Corners stay distinct and in order, so that the polygon keeps
    an area, even that of a single pixel.
    """
    whole = np.floor(polygon)
    indices: Points = whole + 0.05 + 0.4 * (polygon - whole)
    return indices


def _outline(part: BoolArray, tolerance: float) -> Points:
    padded = np.pad(part, 1).astype(np.float64)
    rings = [ring[:-1, ::-1] - 0.5 - OFF_TIES for ring in find_contours(padded, INSIDE, fully_connected="high")]
    for allowed in (tolerance, tolerance / 2, tolerance / 4):
        large = [ring for ring in rings if np.ptp(ring, axis=0).max() > allowed]  # the others would collapse
        if allowed > 0 and large:
            simpler = _simplified(*_joined(large), allowed)
            if (
                len(simpler) > 2
                and _area(simpler) > 0
                and all(_iou(filled, part) >= ENOUGH for filled in _readings(simpler, part.shape))
            ):
                return simpler
    return _straightened(_joined(rings)[0])


def without_specks(mask: BoolArray, smallest: float | None = None) -> BoolArray:
    """The mask without its connected parts of fewer pixels; diagonal neighbours connect.

    Args:
        mask: (H, W), True on the object.
        smallest: How many pixels a part must have; None: 16, and 0.1 % of the mask.

    Returns:
        (H, W); the same array if nothing is taken away.
    """
    numbered, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    small = sizes < (max(SPECK, SPECK_SHARE * int(mask.sum())) if smallest is None else smallest)
    small[0] = False
    return mask & ~small[numbered] if small.any() else mask


def _bridged(parts: list[Points]) -> Points:
    """Polygons as one: always the nearest part is joined to what there is, between the corners that are closest."""
    whole, *rest = parts
    while rest:
        known = KDTree(whole)
        nearest = [(distances.min(), distances.argmin(), ends) for distances, ends in map(known.query, rest)]
        which = min(range(len(rest)), key=lambda index: nearest[index][0])
        _, start, ends = nearest[which]
        part, end = np.roll(rest.pop(which), -start, axis=0), ends[start]
        whole = np.concatenate([whole[: end + 1], part, part[:1], whole[end:]])
    return whole


def _joined(rings: list[Points]) -> tuple[Points, list[int]]:
    """A part's outline and its holes as one polygon, and which of its corners are ends of cuts.

    Each hole is cut open from its leftmost corner along the row to the next corner on the left: between them lies
    nothing but the part, so that no cut crosses a hole, and no corner is the end of two."""
    corners = np.concatenate(rings)
    starts = np.cumsum([0, *map(len, rings)])
    following = list(range(1, len(corners) + 1))
    for start, end in pairwise(starts):
        following[end - 1] = start
    names = list(range(len(corners)))  # the corner that each stop of the walk is at; cuts are walked twice
    ends: set[int] = set()

    reading_order = np.lexsort((corners[:, 0], corners[:, 1]))
    rank = np.argsort(reading_order)
    leftmost = [start + int(ring[:, 0].argmin()) for start, ring in zip(starts, rings, strict=False)]
    outer = min(leftmost, key=lambda corner: corners[corner, 0])
    for own in leftmost:
        if own != outer:
            left = int(reading_order[rank[own] - 1])
            back, beyond = len(names), len(names) + 1
            names += [own, left]
            following += [following[own], following[left]]
            following[left], following[own] = back, beyond
            ends |= {own, left, back, beyond}

    walk = [outer]
    while (stop := following[walk[-1]]) != outer:
        walk.append(stop)
    return corners[[names[stop] for stop in walk]], [at for at, stop in enumerate(walk) if stop in ends]


def _simplified(polygon: Points, cuts: list[int], tolerance: float) -> Points:
    """By Douglas and Peucker, all lines at once. Corners in `cuts` stay: both sides of a cut remain the same line."""
    closed = np.concatenate([polygon, polygon[:1]])
    stays = np.zeros(len(closed), bool)
    stays[[0, -1, *cuts]] = True
    while True:
        fixed = np.flatnonzero(stays)
        chord = np.repeat(np.arange(len(fixed) - 1), np.diff(fixed))  # of every point but the last
        start, along = closed[fixed[:-1]][chord], np.diff(closed[fixed], axis=0)[chord]
        offset = closed[:-1] - start
        share = (offset * along).sum(axis=1) / np.maximum((along**2).sum(axis=1), 1e-12)
        distance = np.linalg.norm(offset - share.clip(0, 1)[:, None] * along, axis=1)
        farthest = np.maximum.reduceat(distance, fixed[:-1])
        splits = np.flatnonzero((distance == farthest[chord]) & (distance > tolerance))
        if not len(splits):
            return closed[fixed[:-1]]
        stays[splits[np.unique(chord[splits], return_index=True)[1]]] = True


def _straightened(polygon: Points) -> Points:
    """Without the corners that lie on a straight line between their neighbours."""
    before, after = polygon - np.roll(polygon, 1, axis=0), np.roll(polygon, -1, axis=0) - polygon
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    straight: Points = polygon[turns | ((before * after).sum(axis=1) < 0)]
    return straight


def _readings(polygon: Points, shape: tuple[int, ...]) -> Iterator[BoolArray]:
    """What readers make of a polygon, (H, W) bool each: COCO's, and by pixel indices the least and the most.

    These differ where a line runs just between two pixels: some tools take the one, some the other."""
    height, width = shape
    (code,) = coco_mask.frPyObjects([polygon.ravel().tolist()], height, width)
    yield coco_mask.decode(code).astype(bool)
    corners = np.floor(polygon).astype(int).tolist()
    picture = Image.new("1", (width, height))
    ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=1, outline=1)
    drawn = np.array(picture)
    yield drawn
    for (x0, y0), (x1, y1) in pairwise([*corners, corners[0]]):
        drawn[line(y0, x0, y1, x1)] = drawn[line(y1, x1, y0, x0)] = True
    yield drawn


def _area(polygon: Points) -> float:
    x, y = polygon.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _iou(first: BoolArray, second: BoolArray) -> float:
    return float((first & second).sum() / (first | second).sum())
