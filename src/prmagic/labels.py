"""Several labels in one photo: a pixel that more than one of them has goes to the one whose example it is most like."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from prmagic.frameworks.base import Query
from prmagic.frameworks.maps import edges
from prmagic.instances import KEPT
from prmagic.reference import Reference
from prmagic.types import BoolArray, Instance

if TYPE_CHECKING:
    from prmagic.result import Segmentation


def disjoint(
    query: Query, references: Mapping[str, Reference], results: Iterable[Segmentation]
) -> Iterator[Segmentation]:
    """The results of one photo, one per label, in which no two have a pixel in common."""
    found = list(results)
    if any(each.instances is not None for each in found):
        yield from _things_apart(found)
        return
    masks = without_overlaps(query, [references[each.label] for each in found], [each.mask for each in found])
    for result, mask in zip(found, masks, strict=True):
        lost = result.mask & ~mask
        yield replace(result, excluded=lost) if lost.any() else result


def best_first(results: Iterable[Segmentation]) -> list[Segmentation]:
    """The results of one photo, one per label; a pixel that several claim goes to the one with the highest score."""
    found = list(results)
    if any(each.instances is not None for each in found):
        return list(_things_apart(found))
    if len(found) < 2:
        return found
    masks = [result.mask for result in found]
    taken = np.zeros_like(masks[0])
    for number in sorted(range(len(found)), key=lambda n: (masks[n].any(), found[n].score), reverse=True):
        lost = masks[number] & taken
        if lost.any():
            found[number] = replace(found[number], excluded=lost)
        taken |= masks[number]
    return found


def _things_apart(results: Sequence[Segmentation]) -> Iterator[Segmentation]:
    for result, mine in zip(results, things_apart([each.instances or () for each in results]), strict=True):
        changed = replace(result, instances=mine, score=max((each.score for each in mine), default=math.nan))
        lost = result.mask & ~changed.mask
        yield replace(changed, excluded=lost) if lost.any() else changed


def things_apart(several: Sequence[Sequence[Instance]]) -> list[tuple[Instance, ...]]:
    """The things of each label of a photo; where some overlap, the one with the highest score keeps its pixels."""
    kept: list[list[Instance]] = [[] for _ in several]
    things = sorted(
        ((number, each) for number, mine in enumerate(several) for each in mine), key=lambda pair: -pair[1].score
    )
    if not things:
        return [()] * len(several)
    taken = np.zeros_like(things[0][1].mask)
    for number, thing in things:
        for left in without([thing], taken):
            kept[number].append(left)
            taken |= left.mask
    return [tuple(mine) for mine in kept]


def without(instances: Iterable[Instance], lost: BoolArray) -> Iterator[Instance]:
    """Instances without the lost pixels (H, W); one that keeps less than half of its pixels is left out."""
    for instance in instances:
        # Where nothing is lost the mask stays: of a large photo it takes memory only where the thing is.
        mask = instance.mask & ~lost if (instance.mask & lost).any() else instance.mask
        if mask.any() and mask.sum() >= KEPT * instance.mask.sum():
            yield replace(instance, mask=mask, box=edges(mask))


def without_overlaps(query: Query, references: Sequence[Reference], masks: Sequence[BoolArray]) -> list[BoolArray]:
    """Masks of one photo, made disjoint.

    A patch is as like an example as its best cosine with a patch that the example's mask touches.

    Args:
        query: The photo.
        references: One per mask.
        masks: (H, W) bool, as found for each label by itself.

    Returns:
        The masks, in the same order; no pixel is in two of them. Masks that share no pixel stay as they are.
    """
    several = np.sum(masks, axis=0) > 1
    if not several.any():
        return list(masks)
    with torch.no_grad():
        likeness = [query.tokens.to_photo(_alike(query, reference), several.shape) for reference in references]
    here = [
        np.where(mask[several], each.cpu().numpy()[several], -np.inf)
        for mask, each in zip(masks, likeness, strict=True)
    ]
    winner = np.argmax(here, axis=0)
    kept = []
    for number, mask in enumerate(masks):
        own = mask.copy()
        own[several] = winner == number
        kept.append(own)
    return kept


def _alike(query: Query, reference: Reference) -> Tensor:
    """(N,): the best cosine of each of the query's patches with the example's object."""
    tokens = query.tokens.vectors
    objects = torch.cat([support.vectors[support.shares > 0] for support in reference.supports]).to(tokens)
    return (tokens @ objects.T).amax(1)
