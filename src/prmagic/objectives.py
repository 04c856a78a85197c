"""What the flow climbs: d of masks' low-resolution logits ℓ (n, h, w), summed over the n masks of a candidate.

"sum" is the published one, which every pixel of the photo raises, background included, so that the mask is to grow
everywhere; the others look at the object, or at its edge, alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch.nn.functional as F
from torch import Tensor

Objective = Callable[[Tensor], Tensor]
BAND = 1 / 32  # of the map's longer side: how far the band outside of a mask reaches, 8 pixels of SAM's 256


def total(logits: Tensor) -> Tensor:
    """Σ_x ℓ(x)."""
    return logits.sum()


def foreground(logits: Tensor) -> Tensor:
    """Σ_x ω ℓ / Σ_x ω with ω = σ(ℓ) held constant: the mean logit, weighted by how much a pixel is foreground."""
    flat = logits.flatten(-2)
    weights = F.logsigmoid(flat.detach().float()).softmax(-1)  # σ alone is 0 everywhere in a mask of nothing
    return (weights * flat).sum()


def margin(logits: Tensor) -> Tensor:
    """The mean logit inside of a mask minus the mean in a thin band around it; of an empty part 0."""
    inside = (logits.detach() > 0).to(logits)
    reach = max(1, round(max(logits.shape[-2:]) * BAND))
    near = F.max_pool2d(inside[:, None], 2 * reach + 1, stride=1, padding=reach)[:, 0]
    means = [(part * logits).sum((-2, -1)) / part.sum((-2, -1)).clamp(min=1) for part in (inside, near - inside)]
    return (means[0] - means[1]).sum()


OBJECTIVES: Mapping[str, Objective] = {"sum": total, "foreground": foreground, "margin": margin}
