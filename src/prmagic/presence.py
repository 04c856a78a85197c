"""Whether the wanted thing is in a photo at all: a score for a result, and below which score nothing counts as found.

`prmagic study rejection` measures how well the score tells; docs/measurements.md ("Rejection") says what it found."""

from __future__ import annotations

import math

import torch

from prmagic.frameworks.base import Framework, Query, Reference
from prmagic.types import BoolArray

# By framework and fingerprints of the embedded models: 5 % of the dev classes' photos with the thing are below. Other
# weights need other values, which `prmagic study rejection` on the dev classes finds. PerSAM has none: with the first
# weights its score depended more on the example than on what was found.
CALIBRATED = {("matcher", "fa1d9e4bb92cbd01+3895e01ec968d46e"): 0.359}


def presence(framework: Framework, query: Query, reference: Reference, mask: BoolArray) -> float:
    """How alike what the mask (H, W) holds is to the supports' objects: −1 … 1; nan for an empty mask.

    Each patch of the supports' objects looks for the patch under the mask that is most like it; the mean of these
    cosines. nan, too, for a framework that does not say what its objects' patches are."""
    objects = framework.object_patches(reference)
    if objects is None or not mask.any():
        return math.nan
    with torch.no_grad():
        share = framework.shares(query, [mask])[0]
        patches = framework.patches(query)[share > 0.5 if (share > 0.5).any() else share == share.max()]
        return float((objects.to(patches) @ patches.T).amax(1).mean())


def calibrated(framework: Framework) -> float | None:
    """The least score of what counts as found, where it was measured for these models; else None."""
    return CALIBRATED.get((framework.name, framework.signature["model"]))
