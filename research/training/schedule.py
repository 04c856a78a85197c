"""Learning rates, the same for both models."""

from __future__ import annotations


def trapezoid(step: int, steps: int, peak: float, warmup: int, cooldown: float) -> float:
    """The learning rate of `step` (from 0): linear up to `peak` in `warmup` steps, constant, then linear to nothing in
    the last `cooldown`, a share of the steps.

    Before the cool-down it does not depend on `steps`, so that a run can be made longer, or cooled down earlier, by
    editing its configuration and going on. A run shorter than ten warm-ups warms up for a tenth of it."""
    warmup = min(warmup, steps // 10)
    rising = (step + 1) / warmup if step < warmup else 1.0
    falling = (steps - step) / max(1, round(cooldown * steps))
    return peak * min(1.0, rising, falling)
