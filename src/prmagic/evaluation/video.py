"""DAVIS's measures of a video's masks (Perazzi et al., CVPR 2016; Pont-Tuset et al., arXiv 1704.00675).

J is the IoU of a frame's masks. F is the F-measure of their boundaries: a boundary pixel counts as matched within 0.8 %
of the frame's diagonal of the other boundary. Over the frames of an object: mean; recall, the share of frames above
0.5; and decay, the mean of the first quarter minus that of the last.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, hypot
from typing import Any

import numpy as np
from scipy import ndimage

from prmagic.io.records import RecordFolder
from prmagic.types import BoolArray

TOLERANCE = 0.008  # of the diagonal
RECALLED = 0.5
QUARTERS = 4


@dataclass(frozen=True)
class Measured:
    """Mean, recall and decay of one measure over the frames of an object."""

    mean: float
    recall: float
    decay: float


def region_j(found: BoolArray, truth: BoolArray) -> float:
    """J: |P ∧ G| ÷ |P ∨ G| of masks (H, W); 1 where both are empty."""
    _same_size(found, truth)
    union = int((found | truth).sum())
    return int((found & truth).sum()) / union if union else 1.0


def boundary_f(found: BoolArray, truth: BoolArray) -> float:
    """F: 2 P R ÷ (P + R) of the boundaries of masks (H, W); 1 where neither has one."""
    _same_size(found, truth)
    radius = ceil(TOLERANCE * hypot(*found.shape))
    lines = boundary(found), boundary(truth)
    sizes = [int(line.sum()) for line in lines]
    if not all(sizes):
        return float(sizes[0] == sizes[1])
    precision = int((lines[0] & _near(lines[1], radius)).sum()) / sizes[0]
    recall = int((lines[1] & _near(lines[0], radius)).sum()) / sizes[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary(mask: BoolArray) -> BoolArray:
    """Pixels (H, W) that differ from the next one to the right, below, or both; one pixel wide."""
    padded = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = padded[:-1, :-1]
    line: BoolArray = (here != padded[:-1, 1:]) | (here != padded[1:, :-1]) | (here != padded[1:, 1:])
    line[-1, -1] = False
    return line


def over_frames(values: Sequence[float]) -> Measured:
    """Mean, recall and decay of a measure's values, frame by frame.

    Raises:
        ValueError: There is no value.
    """
    if not values:
        raise ValueError("a measure needs the values of at least one frame")
    each = np.asarray(values, np.float64)
    edges = np.round(np.linspace(1, len(each), QUARTERS + 1) + 1e-10).astype(int) - 1
    quarters = [each[edges[number] : edges[number + 1] + 1] for number in range(QUARTERS)]
    decay = float(quarters[0].mean() - quarters[-1].mean())
    return Measured(float(each.mean()), float((each > RECALLED).mean()), decay)


def _near(line: BoolArray, radius: float) -> BoolArray:
    """Pixels no farther than `radius` from the line: its dilation with a disk."""
    near: BoolArray = ndimage.distance_transform_edt(~line) <= radius
    return near


def _same_size(found: BoolArray, truth: BoolArray) -> None:
    if found.shape != truth.shape:
        raise ValueError(f"prediction {found.shape} and truth {truth.shape} have different sizes")


class VideoFolder(RecordFolder):
    """What `prmagic evaluate davis` writes: J and F, frame by frame, of each object of each video."""

    records = "videos.jsonl"
    others = ()
    key = ("sequence", "object")
    value = "j"
    mark = "benchmark"

    def measures(self) -> list[tuple[str, int, Measured, Measured]]:
        """Sequence, object, J and F of all records."""
        lines = (self.folder / self.records).read_text(encoding="utf-8").splitlines()
        each = [json.loads(line) for line in lines]
        return [(one["sequence"], one["object"], over_frames(one["j"]), over_frames(one["f"])) for one in each]

    def _problem(self, entry: Mapping[str, Any]) -> str | None:
        whole = len(entry["j"]) == len(entry["f"]) > 0 and all(0 <= value <= 1 for value in (*entry["j"], *entry["f"]))
        return None if whole else "are damaged"
