"""The paper's metric and the literature's; the two must never stand in one column (benchmarks, §10).

Everything is computed from four areas per prediction. With N scored pixels, prediction P and truth G: I₁ = |P∧G|,
U₁ = |P∨G|, I₀ = N − U₁, U₀ = N − I₁. Arrays of them end in an axis of four: I₀, U₀, I₁, U₁.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap

from prmagic.types import BoolArray

Areas: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]


def areas(prediction: BoolArray, truth: BoolArray, ignore: BoolArray | None = None) -> Areas:
    """Of two masks (H, W) → (4,); pixels of `ignore` are left out."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} have different sizes")
    if ignore is not None:
        prediction, truth = prediction[~ignore], truth[~ignore]
    inside, union = int((prediction & truth).sum()), int((prediction | truth).sum())
    return np.array([truth.size - union, truth.size - inside, inside, union], np.int64)


def empty_areas(pixels: ArrayLike, objects: ArrayLike) -> Areas:
    """What an empty mask would have: of N and |G|, any shape → (…, 4)."""
    n, g = np.asarray(pixels, np.int64), np.asarray(objects, np.int64)
    return np.stack([n - g, n, np.zeros_like(g), g], -1)


def full_areas(pixels: ArrayLike, objects: ArrayLike) -> Areas:
    """What a mask of the whole photo would have."""
    n, g = np.asarray(pixels, np.int64), np.asarray(objects, np.int64)
    return np.stack([np.zeros_like(n), n - g, g, n], -1)


def foreground_iou(found: Areas) -> Values:
    """I₁ / U₁; 0 where both are empty."""
    return _share(found[..., 2], found[..., 3])


def episode_miou(found: Areas) -> Values:
    """½ (I₀/U₀ + I₁/U₁): what the PR-MaGIC table calls mIoU. An empty prediction scores about ½ of it."""
    return (_share(found[..., 0], found[..., 1]) + foreground_iou(found)) / 2


def class_miou(found: Areas, classes: Sequence[Any] | NDArray[Any], count: int | None = None) -> float:
    """The literature's mIoU: foreground intersections and unions (n, 4) pooled by class, the mean over the classes.

    count: of the fold's classes, if some of them may have been drawn for no episode: they count as 0."""
    names, index = np.unique(np.asarray(classes), return_inverse=True)
    pooled = np.stack([np.bincount(index, found[:, column], len(names)) for column in (2, 3)])
    return float(_share(pooled[0], pooled[1]).sum() / max(count or len(names), len(names)))


def foreground_background_iou(found: Areas) -> float:
    """FB-IoU: ½ (ΣI₀/ΣU₀ + ΣI₁/ΣU₁) over all episodes (n, 4)."""
    return float(episode_miou(found.sum(0)))


def interval(values: Values, draws: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of values (n,); the same for the same values."""
    if len(values) < 2 or np.ptp(values) == 0:
        return float(np.mean(values)), float(np.mean(values))
    rows = max(1, 10_000_000 // len(values))  # resampled together: 80 MB
    found = bootstrap(
        (values,), np.mean, n_resamples=draws, batch=rows, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def _share(part: Areas, whole: Areas) -> Values:
    """0 / 0 is 0: the published denominators are clamped."""
    share: Values = part / np.maximum(whole, 1)
    return share
