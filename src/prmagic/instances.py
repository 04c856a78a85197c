"""One mask per thing.

SAM is asked at every peak of every step's similarity map. A mask of several pieces may be several things, so each piece
is a proposal, too. Proposals on which many points agree, of which SAM is sure, and which are like the example, stand
first. One that others divide among themselves is a group and no thing; one that overlaps an earlier one is the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from prmagic.frameworks.base import Framework, Query
from prmagic.frameworks.maps import edges
from prmagic.presence import presence
from prmagic.reference import Reference
from prmagic.types import BoolArray, Candidate, FloatArray, Instance, Prompts

# Chosen with the embedded models on photos of classes that the report does not use:
MOST_PEAKS = 256  # at which SAM is asked
MOST_POINTS = 96  # up to which points that were asked before are added
PIECE = 0.1  # share of a mask that a connected piece must have to be a proposal
AGREEING = 0.6  # IoU with another point's mask that counts as its vote
ENOUGH = 4.0  # votes; more say no more
LEAST = 0.6  # share of the best rank below which a mask is no thing
SAME = 0.5  # IoU above which two masks are of one thing
INSIDE = 0.7  # share of one mask in another, above which they are part and whole
MEMBER = 0.3  # share of a group's rank that its members have at least
DIVIDED = 0.6  # share of a group that its members cover at least
KEPT = 0.5  # share of its pixels that a thing must have to itself


@dataclass(frozen=True, eq=False)
class _Proposals:
    """n masks that SAM gave for m points, or pieces of these.

    logits (n, s, s) at low resolution; masks (n, h, w) bool over the photo, at that resolution; predicted_iou (n,);
    point (n,): which of the points (m, 2) in photo pixels asked for it; steps (m,): when that point came first."""

    logits: Tensor
    masks: Tensor
    predicted_iou: Tensor
    point: Tensor
    points: FloatArray
    steps: Sequence[int]


def find_instances(
    framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate],
    min_score: float | None = None,
) -> tuple[Instance, ...]:  # fmt: skip
    """One mask per thing.

    Args:
        framework: What found the candidates.
        query: The photo.
        reference: What is looked for.
        candidates: Those of all steps; their similarity maps and points say where to ask.
        min_score: Things with a lower presence score do not count; None: all do.

    Returns:
        Instances that share no pixel, the highest score first.
    """
    with framework.stopwatch("instances"), torch.no_grad():
        points, steps = peaks(candidates, query.tokens.grid, query.image.shape[:2])
        if not len(points):
            return ()
        answers = _ask(framework, query, points, steps)
        if not len(answers.masks):
            return ()
        proposals = _with_pieces(answers)
        overlaps = _Overlaps.of(proposals.masks)
        ranks = _without_groups(_ranks(query, reference, proposals, overlaps), overlaps)
        found = _disjoint(query, proposals, _distinct(ranks, overlaps))
        scored = [replace(each, score=presence(query, reference, each.mask)) for each in found]
        least = -math.inf if min_score is None else min_score
        return tuple(sorted((each for each in scored if each.score >= least), key=lambda each: -each.score))


def peaks(
    candidates: Sequence[Candidate], grid: tuple[int, int], photo: tuple[int, ...]
) -> tuple[FloatArray, list[int]]:
    """Where things may be: maxima of the similarity maps over 3 × 3 patches, then the points that were asked before.

    Args:
        candidates: Of all steps.
        grid: Rows and columns of patches.
        photo: Its (height, width).

    Returns:
        (m, 2) x, y in photo pixels, at most one per patch, and the step at which each came first.
    """
    height, width = photo[:2]
    first: dict[int, int] = {}
    for candidate in candidates:
        if candidate.prompts.similarity is not None:
            for patch in _maxima(candidate.prompts.similarity, grid):
                first.setdefault(patch, candidate.step)
    most = min(max(len(first), MOST_POINTS), MOST_PEAKS)
    for candidate in candidates:
        for x, y in candidate.prompts.points[candidate.prompts.labels == 1]:
            row, column = int(y / height * grid[0]), int(x / width * grid[1])
            patch = min(max(row, 0), grid[0] - 1) * grid[1] + min(max(column, 0), grid[1] - 1)
            first.setdefault(patch, candidate.step)
    patches = np.array(list(first)[:most], np.int64)
    middles = np.stack([patches % grid[1] + 0.5, patches // grid[1] + 0.5], 1) * (width / grid[1], height / grid[0])
    return middles.astype(np.float32), list(first.values())[:most]


def _maxima(similarity: FloatArray, grid: tuple[int, int]) -> list[int]:
    """Patches that no neighbour surpasses and that lie in the upper half of the map's range, the highest first."""
    values = F.adaptive_max_pool2d(torch.from_numpy(similarity)[None, None].float(), grid)
    highest = (values == F.max_pool2d(values, 3, 1, 1)) & (values > (values.max() + values.min()) / 2)
    patches = highest.flatten().nonzero()[:, 0]
    order = values.flatten()[patches].argsort(descending=True, stable=True)
    found: list[int] = patches[order].tolist()
    return found


def _ask(framework: Framework, query: Query, points: FloatArray, steps: Sequence[int]) -> _Proposals:
    """SAM's three masks for each point, without empty ones."""
    prompts = [Prompts(point[None], np.ones(1, np.int64)) for point in points]
    decoded = framework.sam.decode(query.embedding, prompts)
    logits, predicted_iou = decoded.logits.flatten(0, 1), decoded.predicted_iou.flatten()
    masks = query.embedding.frame.over_photo(logits) > 0
    seen = masks.flatten(1).any(1)
    point = torch.arange(len(points), device=logits.device).repeat_interleave(decoded.logits.shape[1])
    return _Proposals(logits[seen], masks[seen], predicted_iou[seen], point[seen], points, steps)


def _with_pieces(proposals: _Proposals) -> _Proposals:
    """The same, and the connected pieces of each mask that has several, small ones aside."""
    masks, sources = [], []
    for index, mask in enumerate(proposals.masks.cpu().numpy()):
        labels, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        pieces = [labels == number for number in np.flatnonzero(sizes >= PIECE * sizes.sum()) + 1]
        each = [mask, *pieces] if len(pieces) > 1 else [mask]
        masks += each
        sources += [index] * len(each)
    device = proposals.masks.device
    rows = torch.tensor(sources, device=device)
    return replace(
        proposals, logits=proposals.logits[rows], masks=torch.from_numpy(np.stack(masks)).to(device),
        predicted_iou=proposals.predicted_iou[rows], point=proposals.point[rows],
    )  # fmt: skip


class _Overlaps(NamedTuple):
    """Of n masks with each other. iou (n, n); inside (n, n): the share of the first in the second; area (n,)."""

    iou: Tensor
    inside: Tensor
    area: Tensor

    @classmethod
    def of(cls, masks: Tensor) -> _Overlaps:
        """(n, h, w) bool."""
        flat = masks.flatten(1).float()
        shared, area = flat @ flat.T, flat.sum(1)
        return cls(shared / (area[:, None] + area - shared), shared / area[:, None], area)


def _ranks(query: Query, reference: Reference, proposals: _Proposals, overlaps: _Overlaps) -> FloatArray:
    """(n,): predicted IoU · mean probability inside · √votes · mean likeness of the patches inside to the example."""
    masks = proposals.masks.flatten(1)
    probability = query.embedding.frame.over_photo(proposals.logits).flatten(1).sigmoid()
    sure = (probability * masks).sum(1) / masks.sum(1)
    nearest = sure.new_zeros(len(masks), len(proposals.points))
    nearest.scatter_reduce_(1, proposals.point.expand(len(masks), -1), overlaps.iou, "amax")
    votes = (nearest * (nearest > AGREEING)).sum(1).clamp(max=ENOUGH)
    tokens = query.tokens.vectors
    objects = torch.cat([support.vectors[support.shares > 0] for support in reference.supports]).to(tokens)
    cover = query.tokens.cover(list(proposals.masks.cpu().numpy()))
    likeness = cover @ (tokens @ objects.T).amax(1) / cover.sum(1).clamp(min=1e-6)
    ranks = proposals.predicted_iou.clamp(0, 1) * sure * votes.sqrt() * likeness.to(sure).clamp(min=0)
    found: FloatArray = ranks.cpu().numpy()
    return found


def _without_groups(ranks: FloatArray, overlaps: _Overlaps) -> FloatArray:
    """The ranks, 0 for a mask that two or more others inside of it divide among themselves."""
    inside, area = overlaps.inside.cpu().numpy(), overlaps.area.cpu().numpy()
    found = ranks.copy()
    order = np.argsort(-ranks, kind="stable")
    for group in range(len(ranks)):
        within = (inside[:, group] > 0.9) & (area < DIVIDED * area[group]) & (ranks >= MEMBER * ranks[group])
        members: list[int] = []
        for index in order[within[order]].tolist():
            if not ((inside[index, members] > 0.3) | (inside[members, index] > 0.3)).any():
                members.append(index)
        if len(members) > 1 and area[members].sum() >= DIVIDED * area[group]:
            found[group] = 0
    return found


def _distinct(ranks: FloatArray, overlaps: _Overlaps) -> list[int]:
    """Indices of the masks that are things, the highest rank first."""
    iou, inside = overlaps.iou.cpu().numpy(), overlaps.inside.cpu().numpy()
    kept: list[int] = []
    for index in np.argsort(-ranks, kind="stable").tolist():
        if ranks[index] <= 0 or ranks[index] < LEAST * ranks.max():
            break
        same = (iou[index, kept] > SAME) | (inside[index, kept] > INSIDE) | (inside[kept, index] > INSIDE)
        if not same.any():
            kept.append(index)
    return kept


def _disjoint(query: Query, proposals: _Proposals, chosen: Sequence[int]) -> list[Instance]:
    """The things at the photo's size; a pixel that several have goes to the one with the largest logit.

    Each is enlarged by itself, and no more of the photo than it covers: a large photo may hold many."""
    frame = query.embedding.frame
    best = np.full(frame.photo, -np.inf, np.float32)
    owner = np.full(frame.photo, -1, np.int16)
    sizes = []
    for row, index in enumerate(chosen):
        rows, columns = _around(proposals.masks[index], frame.photo)
        logits = frame.upscale_part(proposals.logits[index], rows, columns)
        piece = frame.upscale_part(_padded(proposals.masks[index], proposals.logits.shape[-1]), rows, columns) > 0.5
        values = torch.where((logits > 0) & piece, logits, -torch.inf).cpu().numpy()
        sizes.append(int((values > 0).sum()))
        higher = values > best[rows, columns]
        best[rows, columns][higher] = values[higher]
        owner[rows, columns][higher] = row
    found = []
    for row, index in enumerate(chosen):
        mask: BoolArray = owner == row
        if mask.any() and mask.sum() >= KEPT * sizes[row]:
            step = proposals.steps[int(proposals.point[index])]
            found.append(Instance(mask, edges(mask), math.nan, float(proposals.predicted_iou[index]), step))
    return found


def _around(mask: Tensor, photo: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of the photo in which a low-resolution mask (h, w) can have pixels."""
    found = []
    for axis, size in ((1, photo[0]), (0, photo[1])):
        places = mask.any(axis).nonzero()[:, 0]
        scale = size / mask.shape[1 - axis]
        first, last = int((int(places[0]) - 2) * scale), math.ceil((int(places[-1]) + 3) * scale)
        found.append(slice(max(0, first), min(size, last)))
    return found[0], found[1]


def _padded(mask: Tensor, side: int) -> Tensor:
    """(h, w) over the photo → (side, side) over the model's input."""
    return F.pad(mask.float(), (0, side - mask.shape[1], 0, side - mask.shape[0]))
