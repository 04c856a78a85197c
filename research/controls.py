"""Cheap ways to choose a candidate, as controls of the package's selectors. They are called as those are."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from prmagic.frameworks.base import Framework, Query
from prmagic.reference import Reference
from prmagic.types import Candidate


def predicted_iou(
    framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]
) -> list[float]:
    """SAM's own estimate; -inf for an empty mask."""
    return [each.predicted_iou if each.mask.any() else -math.inf for each in candidates]


def pooled(framework: Framework, query: Query, reference: Reference, candidates: Sequence[Candidate]) -> list[float]:
    """Cosine of the mean token under the mask with that under each support's mask, the mean; -inf for an empty mask."""
    tokens = query.tokens
    under = tokens.cover([each.mask for each in candidates]) @ tokens.vectors
    prototypes = torch.stack([each.shares @ each.vectors for each in reference.supports]).to(under)
    cosines = (F.normalize(under, dim=-1) @ F.normalize(prototypes, dim=-1).T).mean(1).tolist()
    return [cosine if each.mask.any() else -math.inf for cosine, each in zip(cosines, candidates, strict=True)]
