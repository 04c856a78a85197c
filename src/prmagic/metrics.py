"""The paper's metric and the literature's, which must never stand in one column, and intervals for both.

Everything is computed from four areas per prediction. With N scored pixels, prediction P and truth G: I₁ = |P∧G|,
U₁ = |P∨G|, I₀ = N − U₁, U₀ = N − I₁. Arrays of them end in an axis of four: I₀, U₀, I₁, U₁.
docs/which-miou.md explains the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prmagic.types import BoolArray

Areas: TypeAlias = NDArray[np.int64]
Values: TypeAlias = NDArray[np.float64]
DRAWS = 2000  # of the bootstrap
AT_ONCE = 2_000_000  # drawn queries that are held in memory


def areas(prediction: BoolArray, truth: BoolArray, ignore: BoolArray | None = None) -> Areas:
    """Intersections and unions of one prediction.

    Args:
        prediction: Mask (H, W).
        truth: Mask (H, W).
        ignore: Pixels (H, W) that are not scored; None for none.

    Returns:
        I₀, U₀, I₁, U₁ in pixels, (4,).

    Raises:
        ValueError: If the masks differ in size.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} have different sizes")
    if ignore is not None:
        prediction, truth = prediction[~ignore], truth[~ignore]
    inside, union = int((prediction & truth).sum()), int((prediction | truth).sum())
    return np.array([truth.size - union, truth.size - inside, inside, union], np.int64)


def empty_areas(pixels: ArrayLike, objects: ArrayLike) -> Areas:
    """What an empty mask would have, from N and |G| of any shape → (…, 4)."""
    n, g = np.asarray(pixels, np.int64), np.asarray(objects, np.int64)
    return np.stack([n - g, n, np.zeros_like(g), g], -1)


def full_areas(pixels: ArrayLike, objects: ArrayLike) -> Areas:
    """What a mask of the whole photo would have, from N and |G| of any shape → (…, 4)."""
    n, g = np.asarray(pixels, np.int64), np.asarray(objects, np.int64)
    return np.stack([np.zeros_like(n), n - g, g, n], -1)


def foreground_iou(found: Areas) -> Values:
    """I₁ / U₁ of areas (…, 4); 0 where both masks are empty."""
    return _share(found[..., 2], found[..., 3])


def episode_miou(found: Areas) -> Values:
    """½ (I₀/U₀ + I₁/U₁) of areas (…, 4): what PR-MaGIC's table calls mIoU.

    An empty prediction scores half of the background's share of the photo.
    """
    return (_share(found[..., 0], found[..., 1]) + foreground_iou(found)) / 2


def class_miou(found: Areas, classes: Sequence[Any] | NDArray[Any], count: int | None = None) -> float:
    """The literature's mIoU: foreground intersections and unions pooled by class, then the mean over the classes.

    Args:
        found: Areas (n, 4).
        classes: The class of each (n,).
        count: Number of the fold's classes, if some of them may have no episode: they count as 0.

    Returns:
        0 … 1.
    """
    names, index = np.unique(np.asarray(classes), return_inverse=True)
    pooled = np.stack([np.bincount(index, found[:, column], len(names)) for column in (2, 3)])
    return float(_share(pooled[0], pooled[1]).sum() / max(count or len(names), len(names)))


def foreground_background_iou(found: Areas) -> float:
    """FB-IoU: ½ (ΣI₀/ΣU₀ + ΣI₁/ΣU₁) over all areas (n, 4)."""
    return float(episode_miou(found.sum(0)))


class Clusters:
    """Episodes grouped by class and, inside a class, by query, for bootstrap intervals.

    Episodes of one class are alike, and those of one query are more so, whatever their supports and seeds. Resampling
    them one by one would make intervals too narrow. So classes are drawn first, and then queries of each drawn class.
    """

    def __init__(self, classes: Sequence[Hashable], queries: Sequence[Hashable]):
        """Group n episodes.

        Args:
            classes: The class of each episode (n,).
            queries: The query of each episode (n,); names need to be unique only inside a class.
        """
        keys: dict[tuple[Hashable, Hashable], int] = {}
        pairs = list(zip(classes, queries, strict=True))
        self.of = np.array([keys.setdefault(pair, len(keys)) for pair in pairs])
        members: dict[Hashable, list[int]] = {}
        for (name, _), cluster in keys.items():
            members.setdefault(name, []).append(cluster)
        self.members = list(members.values())

    def resampled(self, values: Values, draws: int = DRAWS) -> Values:
        """Sum values over drawn classes and, in each, drawn queries.

        Args:
            values: Of each episode (n, k).
            draws: How often everything is drawn.

        Returns:
            Sums by drawn class (draws, classes, k); the same for the same values.
        """
        rng = np.random.default_rng(0)
        sums = np.zeros((self.of.max() + 1, values.shape[1]))
        np.add.at(sums, self.of, values)
        count = len(self.members)
        drawn = rng.integers(count, size=draws * count)
        by_class = np.argsort(drawn, kind="stable")
        ends = np.searchsorted(drawn[by_class], np.arange(count), side="right")
        found = np.empty((draws * count, values.shape[1]))
        for members, places in zip(self.members, np.split(by_class, ends[:-1]), strict=True):
            most = max(1, AT_ONCE // len(members))
            for some in (places[start : start + most] for start in range(0, len(places), most)):
                queries = rng.integers(len(members), size=(len(some), len(members)))
                found[some] = sums[np.array(members)[queries]].sum(1)
        return found.reshape(draws, count, -1)

    def interval(
        self, values: Values, statistic: Callable[[Values], Values], draws: int = DRAWS
    ) -> tuple[float, float]:
        """95 % bootstrap interval of a statistic.

        Args:
            values: Of each episode (n, k).
            statistic: From sums by class (draws, classes, k) to (draws,).
            draws: How often everything is drawn.

        Returns:
            Its 2.5th and 97.5th percentile.
        """
        low, high = np.percentile(statistic(self.resampled(values, draws)), [2.5, 97.5])
        return float(low), float(high)

    def mean_interval(self, values: Values, draws: int = DRAWS) -> tuple[float, float]:
        """95 % bootstrap interval of the mean of values (n,)."""
        if np.ptp(values) == 0:
            return float(values[0]), float(values[0])
        columns = np.stack([values, np.ones_like(values)], 1)
        return self.interval(columns, lambda sums: sums[..., 0].sum(-1) / sums[..., 1].sum(-1), draws)


def _share(part: Areas, whole: Areas) -> Values:
    """0 / 0 is 0: the published denominators are clamped."""
    share: Values = part / np.maximum(whole, 1)
    return share
