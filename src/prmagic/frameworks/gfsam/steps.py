"""The steps of GF-SAM (arXiv 2410.06964) as functions of arrays: alignment, points, clusters, gates, merging."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csgraph
from torch import Tensor

from prmagic.backbones.enlarging import ends, positive_at
from prmagic.backbones.promptable import Frame
from prmagic.types import BoolArray, FloatArray

IntArray = npt.NDArray[np.int64]
MOST_POINTS = 128
EPSILON, SMALL = 1e-6, 1e-7  # the published ones, of ranges and sums, and of means
CLOSE = 2e-5  # scores nearer to each other may change places by rounding


class Alignment(NamedTuple):
    """How each of the query's N patches compares with the supports: the mean of the shots.

    positive: mean cosine with the object's patches. negative: with the background's. highest: the largest cosine with a
    patch of the object."""

    positive: FloatArray
    negative: FloatArray
    highest: FloatArray


class Shot(NamedTuple):
    """One support and the query's tokens without a shift.

    positive, negative (C,): their products with a token are its mean cosines, alike and unlike (N,). inside (m, C): the
    object's patches; weight (m, 1): how much they belong to it; cosines (m, N): with the query's tokens. all_inside: no
    patch has weight 0."""

    positive: Tensor
    negative: Tensor
    inside: Tensor
    weight: Tensor
    alike: Tensor
    unlike: Tensor
    cosines: Tensor
    all_inside: bool

    @classmethod
    def of(cls, tokens: Tensor, support: Tensor, weight: Tensor, cosines: Tensor | None = None) -> Shot:
        """Of the query's tokens (N, C) and a support (M, C), unit vectors, with weight (M,) in 0 … 1; cosines (m, N):
        if they are known."""
        # Means of cosines are cosines with the mean: no matrix of all pairs is needed.
        positive, negative = ((each @ support) / len(each) / (each.mean() + SMALL) for each in (weight, 1 - weight))
        within = weight > 0
        inside = support[within]
        return cls(
            positive, negative, inside, weight[within, None], tokens @ positive, tokens @ negative,
            inside @ tokens.T if cosines is None else cosines, bool(within.all()),
        )  # fmt: skip

    def likeness(self, alike: Tensor, unlike: Tensor, cosines: Tensor) -> Tensor:
        """mean⁺, mean⁻ and max⁺ of the paper, (3, N), from products with the tokens."""
        if not len(self.inside):
            return torch.stack([alike, unlike, torch.zeros_like(alike)])
        highest = (self.weight * cosines).amax(0)
        if not self.all_inside:
            highest = highest.clamp(min=0)  # the patches of weight 0 take part with 0
        return torch.stack([alike, unlike, highest])


def align(shots: Sequence[Shot]) -> Alignment:
    """Positive-negative alignment, the cosines: mean⁺, mean⁻ and max⁺ of the paper, of each patch of the query."""
    each = [shot.likeness(shot.alike, shot.unlike, shot.cosines) for shot in shots]
    return Alignment(*torch.stack(each).mean(0).cpu().numpy())


def align_moved(shots: Sequence[Shot], tokens: Tensor, moved: Tensor) -> Alignment:
    """The same of tokens (N, C) whose first channels move by (N, c), brought back to unit length; up to rounding.

    Products are sums over channels, and only some channels change."""
    channels = moved.shape[1]
    length = (tokens[:, :channels] + moved).square().sum(1).add_(tokens[:, channels:].square().sum(1)).sqrt_()
    each = [
        shot.likeness(
            (shot.alike + moved @ shot.positive[:channels]) / length,
            (shot.unlike + moved @ shot.negative[:channels]) / length,
            torch.addmm(shot.cosines, shot.inside[:, :channels], moved.T) / length,
        )
        for shot in shots
    ]
    return Alignment(*torch.stack(each).mean(0).cpu().numpy())


def point_scores(alignment: Alignment) -> FloatArray:
    """How well each patch (N,) suits as a point: 0 … 1, and 0 where it is more like the background."""
    alike, unlike = unit_range(alignment.positive * alignment.highest), unit_range(alignment.negative)
    scores: FloatArray = np.where(unlike > alike, np.float32(0), alike)
    return scores


def decided(alignment: Alignment) -> bool:
    """Whether rounding of the cosines cannot change which points `choose_points` takes."""
    alike, unlike = unit_range(alignment.positive * alignment.highest), unit_range(alignment.negative)
    scores = np.sort(point_scores(alignment))[::-1]
    total = float(scores.sum(dtype=np.float64))
    count = min(max(int(total), int(total > 0)), MOST_POINTS)
    last = scores[count - 1 : count + 1]
    return bool(
        np.abs(unlike - alike).min() > CLOSE
        and (last[:-1] - last[1:] > CLOSE).all()
        and abs(total - round(total)) > CLOSE * len(scores)
    )


def choose_points(scores: FloatArray, grid: tuple[int, int]) -> IntArray:
    """The ⌊Σ S⌋ patches with the largest scores, at least one if any is above 0, at most 128; column by column."""
    total = float(scores.sum(dtype=np.float64))
    count = min(max(int(total), int(total > 0)), MOST_POINTS)
    best = np.argsort(-scores, kind="stable")[:count]
    chosen: IntArray = best[np.lexsort((best // grid[1], best % grid[1]))]
    return chosen


def point_pixels(size: int, patches: int, at: float) -> IntArray:
    """Along one side: the pixel at this share of each patch, 0 for its first one."""
    return ((np.arange(patches) + at) * size / patches).astype(np.int64)


def sampled(logits: Tensor, frame: Frame, grid: tuple[int, int], at: float) -> tuple[BoolArray, BoolArray]:
    """Masks at the pixels that the steps look at, without enlarging them as a whole.

    Args:
        logits: (n, s, s) at low resolution.
        frame: How the photo lies in the model's input.
        grid: Rows and columns of patches, N in all.
        at: Where in its patch a point lies, along both sides.

    Returns:
        (n, N) at each patch's point, and (n, 4, N) at the pixels around their middles (see `middle_shares`).
    """
    (rows, at_rows), (columns, at_columns) = (
        np.unique(np.concatenate([point_pixels(size, patches, at), *_around(size, patches)[0]]), return_inverse=True)
        for size, patches in zip(frame.resized, grid, strict=True)
    )
    down, across = (
        ends(logits.shape[-1], frame.input_size, size, size).at(pixels).to(logits.device)
        for size, pixels in zip(frame.resized, (rows, columns), strict=True)
    )
    masks: BoolArray = positive_at(logits, down, across).cpu().numpy()
    each = masks[:, at_rows.reshape(3, -1, 1, 1), at_columns.reshape(1, 1, 3, -1)].transpose(0, 1, 3, 2, 4)
    around = each[:, 1:, 1:].reshape(len(logits), 4, -1)
    return each[:, 0, 0].reshape(len(logits), -1), around


def middle_shares(size: tuple[int, int], grid: tuple[int, int]) -> FloatArray:
    """(4, N): what each of the pixels around a patch's middle counts in a mask resized bilinearly to the grid."""
    rows, columns = (_around(*each)[1] for each in zip(size, grid, strict=True))
    shares: FloatArray = np.einsum("ir,jc->ijrc", rows, columns).reshape(4, -1).astype(np.float32)
    return shares


def _around(size: int, patches: int) -> tuple[IntArray, FloatArray]:
    """Along one side: the two pixels around each patch's middle, and their shares; (2, n) each."""
    middle = ((np.arange(patches) + 0.5) * size / patches - 0.5).clip(0)
    before = middle.astype(np.int64)
    after = np.minimum(before + 1, size - 1)
    fraction = (middle - before).astype(np.float32)
    return np.stack([before, after]), np.stack([1 - fraction, fraction])


def clusters(covers: BoolArray) -> IntArray:
    """(n, n), whether mask k covers point l → (n,): the weakly connected component of each, numbered as they come."""
    labels: IntArray = csgraph.connected_components(covers, directed=True, connection="weak")[1].astype(np.int64)
    return labels


def positive_gate(masks: FloatArray, labels: IntArray, alignment: Alignment) -> tuple[BoolArray, FloatArray]:
    """Which masks add more of the object than of the background to their cluster.

    Args:
        masks: (n, N), the share of each patch that each mask covers.
        labels: (n,), the cluster of each.
        alignment: Of the query's patches.

    Returns:
        The gate (n,), and by how much the last mask of each one's cluster did so (n,): cls.
    """
    positive, negative, _ = alignment
    middle = (positive.max() + positive.min()) / 2
    excess = positive**2 - middle * negative
    signs = np.where(excess > 0, np.float32(1), np.float32(-1))
    gain = masks @ excess / (masks.sum(1) + EPSILON)
    passes, growth = np.zeros(len(masks), bool), np.zeros(len(masks), np.float32)
    for label in range(labels.max() + 1):
        members = np.flatnonzero(labels == label)
        inner = np.zeros(masks.shape[1], np.float32)
        for index in members[np.argsort(-gain[members], kind="stable")]:
            added = masks[index] * (1 - inner)
            growth[members] = signs @ added
            if signs @ added > 0:
                inner += added
                passes[index] = True
    return passes, growth


def overshooting_gate(likeness: FloatArray, places: IntArray, labels: IntArray) -> BoolArray:
    """Which points belong to their cluster by likeness and distance; a cluster that loses more than half loses all.

    Args:
        likeness: (c, n), how alike each point is to what each cluster's masks cover.
        places: (n, 2), the points' patches: row and column.
        labels: (n,), the cluster of each.

    Returns:
        (n,) bool.
    """
    apart = np.linalg.norm(places[:, None] - places[None], axis=2)
    members = [labels == label for label in range(labels.max() + 1)]
    distance = np.stack([apart[member].min(0) for member in members])
    own: BoolArray = (likeness / np.where(distance == 0, 1, distance)).argmax(0) == labels
    for member in members:
        if own[member].sum() < (~own[member]).sum():
            own[member] = False
    return own


def merged(positive: BoolArray, own: BoolArray, growth: FloatArray) -> list[int]:
    """Indices of the masks that pass both gates; if none does, of the one with the largest growth that passes one.

    Those that pass none take part in that with 0, as published; the first of equals wins."""
    both = np.flatnonzero(positive & own)
    return both.tolist() if len(both) else [int(np.where(positive ^ own, growth, 0).argmax())]


def widest(masks: BoolArray, count: int) -> list[int]:
    """Indices of up to `count` masks (n, P), each the one that adds most to those before it; none that adds nothing."""
    left, found = masks.copy(), list[int]()
    while len(found) < count and left.any():
        found.append(int(left.sum(1).argmax()))
        left &= ~masks[found[-1]]
    return found


def unit_range(values: FloatArray) -> FloatArray:
    """Brought to 0 … 1."""
    ranged: FloatArray = (values - values.min()) / (values.max() - values.min() + np.float32(EPSILON))
    return ranged
