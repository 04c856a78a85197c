"""Eq. (1): the entropy-regularised gradient flow that moves SAM's embedding.

The decoder is the discriminator: its logit d says how well z can be segmented, and Euler–Maruyama follows its gradient,

    z_{t+1} = z_t + η ∇_z d(z_t, P_t) + √(2γη) ξ_t,        ξ_t ~ N(0, I).

What is kept is the shift G_t = z_t − z₀.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

FlowMode = Literal["full", "drift", "noise", "resample", "none"]
FLOW_MODES: tuple[FlowMode, ...] = get_args(FlowMode)


@dataclass(frozen=True)
class Flow:
    """How the embedding moves between candidates. Frozen; a step is a pure function of its arguments.

    mode: "full" is eq. (1). The others show what its parts buy: "drift" leaves the noise out, "noise" the gradient,
    "resample" both, so that only the random choice of points differs between candidates, and "none" is the plain
    framework with no refinement at all."""

    steps: int = 5  # T, refinements after the baseline; T + 1 candidates
    eta: float = 1e-3  # step size; the paper uses 1e-4 for parts of objects
    gamma: float = 0.1  # entropy weight; the noise of a step has a deviation of √(2γη)
    clip: float = 0.1  # ∇d is clamped to ± this, element by element
    mode: FlowMode = "full"
    gradient_at_origin: bool = False  # ∇d at z₀ instead of z_t, as in the published code

    def __post_init__(self) -> None:
        if self.mode not in FLOW_MODES:
            raise ValueError(f"unknown flow {self.mode!r}; choose one of: {', '.join(FLOW_MODES)}")
        if self.steps < 0:
            raise ValueError(f"the number of refinement steps must be 0 or more; got {self.steps}")
        for name in ("eta", "gamma", "clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0; got {value}")

    @property
    def candidates(self) -> int:
        """How many masks one query gets."""
        return 1 if self.mode == "none" else self.steps + 1

    @property
    def needs_gradient(self) -> bool:
        """Whether d has to be differentiated at all."""
        return self.mode in ("full", "drift") and self.eta > 0

    def step(self, shift: Tensor, gradient: Tensor | None, rng: torch.Generator) -> Tensor:
        """G_t → G_{t+1}; shift and gradient are shaped like the embedding."""
        if self.mode == "resample":
            return shift
        moved = shift
        if gradient is not None:
            moved = moved + self.eta * gradient.clamp(-self.clip, self.clip)
        if self.mode != "drift":
            moved = moved + math.sqrt(2 * self.eta) * math.sqrt(self.gamma) * self.noise(shift, rng)
        return moved

    def noise(self, shift: Tensor, rng: torch.Generator) -> Tensor:
        """ξ_t, shaped like the embedding; drawn on the CPU, so that it is the same on every device."""
        return torch.randn(shift.shape, generator=rng).to(shift)
