"""Whether the wanted thing is in a photo at all: a score for a result, and below which score nothing counts as found.

docs/results.md says how well the score tells."""

from __future__ import annotations

import math

import torch

from prmagic.frameworks.base import Framework, Query
from prmagic.frameworks.maps import object_cosines
from prmagic.reference import Reference
from prmagic.types import BoolArray

# By framework and fingerprints of the embedded models; other weights need other values. 9 % of the dev classes' photos
# with the thing are below it.
CALIBRATED = {("matcher", "fa1d9e4bb92cbd01+3895e01ec968d46e"): 0.359}


def presence(query: Query, reference: Reference, mask: BoolArray) -> float:
    """How alike what the mask (H, W) holds is to the supports' objects: −1 … 1; nan for an empty mask.

    Each patch that a support's mask touches looks for the patch under the mask that is most like it; the mean of these
    cosines."""
    if not mask.any():
        return math.nan
    with torch.no_grad():
        (share,) = query.tokens.cover([mask])
        (inside,) = (share > 0.5 if (share > 0.5).any() else share == share.max()).nonzero(as_tuple=True)
        cosines = object_cosines(query, reference)
        return float(torch.cat([each.index_select(1, inside).amax(1) for each in cosines]).mean())


def calibrated(framework: Framework) -> float | None:
    """The least score of what counts as found, where it was measured for these models; else None."""
    return CALIBRATED.get((framework.name, framework.signature["model"]))
