"""Learning rates, the same for both models."""

from __future__ import annotations

import math

FLOOR = 0.02  # the last step's share of the peak


def cosine_with_warmup(step: int, steps: int, peak: float, warmup: int) -> float:
    """The learning rate of `step` (from 0): linear up to `peak` in `warmup` steps, then a cosine down to 2 % of it.

    A run shorter than ten warm-ups warms up for a tenth of it."""
    warmup = min(warmup, steps // 10)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))))
