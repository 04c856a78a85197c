"""The steps of Matcher (arXiv 2305.13310) as functions of arrays: pairs, centres, subsets, suppression, scores.

Tests compare them with the published code on recorded inputs (docs/parity.md).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import ot
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from prmagic.types import BoolArray, FloatArray

IntArray = npt.NDArray[np.int64]
DoubleArray = npt.NDArray[np.float64]
ENOUGH_PAIRS = 40  # of more than these only the better half is kept
MAX_LLOYD_STEPS = 100
ALL_SUBSETS = 8  # up to so many points every subset is taken, beyond them random ones


@dataclass(frozen=True, eq=False)
class Pairs:
    """n matched patches: indices of the support's (n,) and of the query's (n,), and their similarity (n,)."""

    support: IntArray
    query: IntArray
    similarity: FloatArray


def patches_of(masks: Tensor, grid: tuple[int, int]) -> BoolArray:
    """Masks (..., H, W) bool → (..., rows · columns) bool: the patches that a mask touches with any pixel.

    So nothing is too thin or too small for the grid."""
    touched = masks.numpy(force=True)
    for axis, size, patches in zip((-2, -1), touched.shape[-2:], grid, strict=True):
        touched = np.moveaxis(touched, axis, 0)
        starts = [(patch * size // patches, -(-(patch + 1) * size // patches)) for patch in range(patches)]
        touched = np.stack([touched[start:end].any(0) for start, end in starts])
        touched = np.moveaxis(touched, 0, axis)
    return touched.reshape(*masks.shape[:-2], -1)


def match(similarity: FloatArray, foreground: BoolArray) -> Pairs:
    """Bidirectional Hungarian matching of the support's foreground patches with the query's.

    similarity (M, N) of all support patches with all query patches; foreground (M,). A pair stays if the way back from
    its query patch ends in the foreground; if none does, all stay."""
    inside = np.flatnonzero(foreground)
    rows, there = linear_sum_assignment(similarity[inside], maximize=True)
    forth = inside[rows]
    order, back = linear_sum_assignment(similarity[:, there].T, maximize=True)
    returned = np.zeros(len(there), bool)
    returned[order] = foreground[back]
    keep = returned if returned.any() else np.ones_like(returned)
    return Pairs(forth[keep], there[keep], similarity[forth[keep], there[keep]])


def better_half(pairs: Pairs) -> Pairs:
    """The more similar half of the pairs, if there are more than 40."""
    if len(pairs.query) <= ENOUGH_PAIRS:
        return pairs
    best = np.argsort(-pairs.similarity, kind="stable")[: len(pairs.query) // 2]
    return Pairs(pairs.support[best], pairs.query[best], pairs.similarity[best])


def cluster_centers(points: FloatArray, count: int, rng: torch.Generator) -> DoubleArray:
    """k-means++ of points (n, 2) → at most `count` different centres (k, 2); fewer points are their own centres.

    First centres are drawn as by the published code, so that the same generator gives the same; then Lloyd's steps."""
    count = min(count, len(points))
    places = torch.from_numpy(points).float()
    chosen = [int(torch.randint(len(points), (1,), generator=rng))]
    while len(chosen) < count:
        # Not by matrix products, whose rounding makes near points one.
        distance = torch.cdist(places, places[chosen], compute_mode="donot_use_mm_for_euclid_dist").amin(1).square()
        if not distance.any():  # every other point lies on a centre
            break
        chosen.append(int(torch.multinomial(distance / distance.sum(), 1, generator=rng)))
    return _lloyd(points.astype(np.float64), chosen)


def _lloyd(points: DoubleArray, first: Sequence[int]) -> DoubleArray:
    """Lloyd's steps from the points with these indices: (n, 2) → (k, 2).

    Written out because ties decide: matched points lie on a grid, and a point that is as far from two centres goes to
    the first of them, as in the published code. scikit-learn's KMeans breaks ties by rounding."""
    centers = points[list(first)]
    for _ in range(MAX_LLOYD_STEPS):
        nearest = np.square(points[:, None] - centers).sum(-1).argmin(1)
        moved = np.array([points[nearest == k].mean(0) if (nearest == k).any() else c for k, c in enumerate(centers)])
        if (moved == centers).all():
            break
        centers = moved
    return centers


def subsets(points: FloatArray, sizes: tuple[int, int], draws: int, rng: random.Random) -> list[FloatArray]:
    """Sets of the points (n, 2), of `sizes[0]` to `sizes[1]` points each, or n if that is less, in order of size.

    All of them for up to 8 points, in colexicographic order; of more, `draws` random ones of each size."""
    found: list[FloatArray] = []
    for size in range(min(sizes[0], len(points)), min(sizes[1], len(points)) + 1):
        indices = range(len(points))
        if len(points) <= ALL_SUBSETS:
            chosen = sorted(itertools.combinations(indices, size), key=lambda subset: subset[::-1])
            found += [points[list(subset)] for subset in chosen]
        else:
            found += [points[rng.sample(indices, size)] for _ in range(draws)]
    return found


def suppress(boxes: FloatArray, scores: FloatArray, threshold: float) -> IntArray:
    """Non-maximum suppression: indices of the boxes (N, 4; x0, y0, x1, y1) that are kept, by descending score.

    A box goes if its IoU with a better one that stays is above the threshold; 1 keeps all."""
    x0, y0, x1, y1 = boxes.astype(np.float64).T
    area = (x1 - x0) * (y1 - y0)
    width = np.minimum(x1[:, None], x1) - np.maximum(x0[:, None], x0)
    height = np.minimum(y1[:, None], y1) - np.maximum(y0[:, None], y0)
    shared = width.clip(0) * height.clip(0)
    either = area[:, None] + area - shared
    overlap = np.divide(shared, either, out=np.zeros_like(shared), where=either > 0)
    kept: list[int] = []
    for index in np.argsort(-scores, kind="stable"):
        if not (overlap[index, kept] > threshold).any():
            kept.append(int(index))
    return np.array(kept, np.int64)


def earth_movers_distance(costs: Sequence[FloatArray]) -> list[float]:
    """The exact distance between two uniform distributions for each cost matrix (m, n); solved on all cores.

    No mass on one side (n = 0) is as far as can be: 1."""

    def solve(cost: FloatArray) -> float:
        rows, columns = cost.shape
        if not columns:
            return 1.0
        weights = np.full(rows, 1 / rows), np.full(columns, 1 / columns)
        return float(ot.emd2(*weights, cost.astype(np.float64), numItermax=10_000_000))

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # the solver lets other threads run
        return list(pool.map(solve, costs))


def under(points: FloatArray, masks: BoolArray, photo: tuple[int, ...]) -> BoolArray:
    """Which masks (n, h, w) cover which points (m, 2) of a photo of (height, width): (n, m)."""
    height, width = masks.shape[1:]
    columns = (points[:, 0] * width / photo[1]).astype(int).clip(0, width - 1)
    rows = (points[:, 1] * height / photo[0]).astype(int).clip(0, height - 1)
    return masks[:, rows, columns]


def box_around(points: FloatArray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of points (n, 2)."""
    (x0, y0), (x1, y1) = points.min(0).tolist(), points.max(0).tolist()
    return x0, y0, x1, y1
