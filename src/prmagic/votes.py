"""How well masks fit by patches: what the selectors `cycle`, `recall` and `judge` compute, for all masks at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.frameworks.base import Query
from prmagic.frameworks.maps import object_cosines
from prmagic.reference import Reference

SHARPNESS = 0.05  # cycle: of a support patch's vote, in cosines
PATCHES = 32  # judge: how many patches of a photo are compared, along a side
ROWS = 64  # of cosines that are weighted at a time, so that they stay in the CPU's cache


def cycle_scores(cosines: Tensor, truth: Tensor, shares: Tensor) -> list[float]:
    """`cycle` of masks, by the share of each query patch that each covers.

    A largest cosine inside of a mask is one over groups of patches, each of which lies in the same masks.

    Args:
        cosines: (P, M), of the query's with the supports' patches.
        truth: (M,), the share of each support patch that its mask covers.
        shares: (n, P).

    Returns:
        n scores in 0 … 1.
    """
    inside = shares > 0.5
    thin = ~inside.any(1)
    inside[thin] = shares[thin] == shares[thin].amax(1, keepdim=True)
    groups, of_patch = inside.unique(dim=1, return_inverse=True)
    sizes = of_patch.bincount(minlength=groups.shape[1]).tolist()
    highest = torch.stack([rows.amax(0) for rows in cosines[of_patch.argsort()].split(sizes)])
    nothing = highest.new_tensor(-math.inf)
    within, without = (torch.where(each[..., None], highest, nothing).amax(1) for each in (groups, ~groups))
    votes = ((within - without) / SHARPNESS).sigmoid()
    scores: list[float] = (torch.minimum(votes, truth).sum(1) / torch.maximum(votes, truth).sum(1)).tolist()
    return scores


def recall_scores(query: Query, reference: Reference, shares: Tensor) -> list[float]:
    """`recall` of masks, by the share (n, N) of each query patch that each covers."""
    tokens = query.tokens.vectors
    means, largest = [], []
    for support, cosines in zip(reference.supports, object_cosines(query, reference), strict=True):
        weight, vectors = support.shares.to(tokens), support.vectors.to(tokens)
        means.append((weight @ vectors) @ tokens.T / len(weight) / (weight.mean() + 1e-7))
        largest.append(largest_cosines(weight, cosines))
    alike = torch.stack(means).mean(0) * torch.stack(largest).mean(0)
    alike = (alike - alike.min()) / (alike.max() - alike.min() + 1e-6)
    total = max(float(alike.sum()), 1e-12)

    def score(share: Tensor) -> float:
        held = float(share @ alike)
        precision, recalled = held / float(share.sum()), held / total
        return 2 * precision * recalled / (precision + recalled) if held > 0 else 0.0

    return [score(share) for share in shares]


def thinned(query: Query, reference: Reference) -> tuple[Tensor, Tensor]:
    """Cosines of the query's with the supports' patches and the supports' shares, for `cycle_scores`: the query's
    patches pooled, of the supports' every n-th, so that many masks cost little with large models, too."""
    (rows, columns), tokens = query.tokens.grid, query.tokens.vectors
    maps = tokens.T.reshape(1, -1, rows, columns)
    pooled = F.normalize(F.avg_pool2d(maps, stride((rows, columns)), ceil_mode=True)[0].flatten(1).T, dim=1)
    vectors, shares = [], []
    for support in reference.supports:
        every = math.ceil(len(support.vectors) / PATCHES**2)
        if not support.shares[::every].any():  # the object lies between them
            every = 1
        vectors.append(support.vectors[::every].to(tokens))
        shares.append(support.shares[::every].to(tokens))
    return pooled @ torch.cat(vectors).T, torch.cat(shares)


def pooled_shares(shares: Tensor, grid: tuple[int, int]) -> Tensor:
    """(n, N), of the patches of a grid → of the pooled ones of `thinned`."""
    return F.avg_pool2d(shares.view(-1, *grid), stride(grid), ceil_mode=True).flatten(1)


def stride(grid: tuple[int, int]) -> int:
    """Every how many patches along a side are compared, so that there are at most 32 × 32."""
    return math.ceil(max(grid) / PATCHES)


def distinct(masks: Tensor, own: int, same: float) -> list[int]:
    """Indices from `own` on of masks (n, h, w) that are not empty, and have an IoU above `same` with none before."""
    flat = masks.flatten(1).float()
    both, sizes = flat @ flat.T, flat.sum(1)
    alike = (both > same * (sizes[:, None] + sizes - both)).cpu()
    kept = list(range(own))
    for index in range(own, len(flat)):
        if sizes[index] > 0 and not alike[index, kept].any():
            kept.append(index)
    return kept[own:]


def standardised(values: Sequence[float]) -> Tensor:
    """In standard deviations from the mean; 0 where all are the same, and for what is not known."""
    given = torch.tensor(values)
    known = given[given.isfinite()]
    if not len(known):
        return torch.zeros_like(given)
    spread = (given - known.mean()) / (known.std(correction=0) + 1e-6)  # so that equal values are not divided by 0
    return spread.nan_to_num(0.0, 0.0, 0.0)


def largest_cosines(weight: Tensor, cosines: Tensor) -> Tensor:
    """(N,): the largest weight · cosine of each token with a support's patches, of which those without weight give 0.

    cosines: (m, N), with the patches that have weight."""
    seen = weight > 0
    given = weight[seen, None]
    largest = cosines.new_full((cosines.shape[1],), 0.0 if not seen.all() else -math.inf)
    for start in range(0, len(cosines), ROWS):
        some = slice(start, start + ROWS)
        largest = torch.maximum(largest, (given[some] * cosines[some]).amax(0))
    return largest
