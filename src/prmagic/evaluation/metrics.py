"""The paper's metric and the literature's; the two must never stand in one column.

Per episode, with N pixels, prediction P and truth G: I₁ = |P∧G|, U₁ = |P∨G|, I₀ = N − U₁, U₀ = N − I₁.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from prmagic.types import BoolArray


@dataclass(frozen=True)
class Areas:
    """Pixel counts of one prediction against its truth; background first."""

    intersection: tuple[int, int]
    union: tuple[int, int]

    @property
    def foreground_iou(self) -> float:
        """I₁ / U₁; 0 where both are empty."""
        return self.intersection[1] / max(self.union[1], 1)

    @property
    def episode_miou(self) -> float:
        """½ (I₀/U₀ + I₁/U₁): what the PR-MaGIC table calls mIoU. An empty prediction scores about ½ of it."""
        return (self.intersection[0] / max(self.union[0], 1) + self.foreground_iou) / 2


def areas(prediction: BoolArray, truth: BoolArray) -> Areas:
    """Of two masks (H, W)."""
    if prediction.shape != truth.shape:
        raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} have different sizes")
    inside, union = int((prediction & truth).sum()), int((prediction | truth).sum())
    return Areas((truth.size - union, inside), (truth.size - inside, union))


def episode_miou(prediction: BoolArray, truth: BoolArray) -> float:
    """The mean of background IoU and foreground IoU of one episode."""
    return areas(prediction, truth).episode_miou


def class_miou(episodes: Iterable[tuple[str, Areas]]) -> float:
    """The literature's mIoU: foreground intersections and unions pooled by class, the mean over the classes."""
    pooled: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for name, area in episodes:
        pooled[name][0] += area.intersection[1]
        pooled[name][1] += area.union[1]
    return float(np.mean([inside / max(union, 1) for inside, union in pooled.values()]))


def mean_episode_miou(episodes: Sequence[Areas]) -> float:
    """The mean of `episode_miou` over the episodes."""
    return float(np.mean([area.episode_miou for area in episodes]))
