"""What Matcher's tests start from.

The photos are 90 × 120 and the encoder sees 6 × 8 patches of 15 × 15 pixels, unless a test says otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from prmagic.frameworks.matcher import MatcherOptions

LIGHT = MatcherOptions(centers=5, subset_sizes=(4, 6))  # six subsets instead of 154
# Nothing is left out, of 22 subsets.
EVERYTHING = MatcherOptions(
    centers=6, subset_sizes=(4, 6), box_nms=1.0, score_filter=None, merge=10_000, compare_at=120
)
RAW = replace(EVERYTHING, centers=None, subset_sizes=(2, 3), random_subsets=5)


def blotches(height, width, seed=0):
    """A photo of 4 × 5 colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return coarse[np.arange(height)[:, None] * 4 // height, np.arange(width) * 5 // width]


def points(prompts):
    return {tuple(point) for point in np.round(prompts.points.astype(float), 3).tolist()}


def united(framework, query, candidate):
    """What the parts' prompts give, one by one: their union (H, W), predicted IoUs, low-resolution logits."""
    mask, predicted, logits = np.zeros(query.image.shape[:2], bool), [], []
    for part in candidate.parts:
        decoded = framework.sam.decode(query.embedding, [part.prompts], multimask=part.channel is not None)
        channel = part.channel or 0
        logits.append(decoded.logits[0, channel])
        predicted.append(float(decoded.predicted_iou[0, channel]))
        mask |= query.embedding.frame.upscale(logits[-1]).numpy() > 0
    return mask, predicted, torch.stack(logits)
