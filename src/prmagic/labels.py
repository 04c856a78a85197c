"""Several labels in one photo: a pixel that more than one of them has goes to the one whose example it is most like."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from prmagic.frameworks.base import Query
from prmagic.reference import Reference
from prmagic.types import BoolArray


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
