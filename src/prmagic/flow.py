"""Eq. (1): the entropy-regularised gradient flow that moves SAM's embedding.

The decoder is the discriminator: its logit d says how well z can be segmented, and Euler–Maruyama follows its gradient,

    z_{t+1} = z_t + η ∇_z d(z_t, P_t) + √(2γη) ξ_t,        ξ_t ~ N(0, I).

What is kept is the shift G_t = z_t − z₀. Beside the published d and step there are others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Integral, Real
from typing import Literal, get_args

import torch
from torch import Tensor

from prmagic.objectives import OBJECTIVES

FlowMode = Literal["full", "drift", "noise", "resample", "none"]
FLOW_MODES: tuple[FlowMode, ...] = get_args(FlowMode)

CLIP = 0.1  # the published one
TINY = 1e-12  # keeps a gradient of nothing from being divided by


@dataclass(frozen=True)
class Flow:
    """How the embedding moves between candidates. Frozen; a step is a pure function of its arguments.

    mode: "full" is eq. (1). The others show what its parts buy: "drift" leaves the noise out, "noise" the gradient,
    "resample" both, so that only the random choice of points differs between candidates, and "none" is the plain
    framework with no refinement at all."""

    steps: int = 5  # T, refinements after the baseline; T + 1 candidates
    eta: float = 1e-3  # step size; the paper uses 1e-4 for parts of objects
    gamma: float = 0.1  # entropy weight; the noise of a step has a deviation of √(2γη)
    clip: float | None = CLIP  # ∇d is clamped to ± this, element by element; None: it is taken as it is
    mode: FlowMode = "full"
    gradient_at_origin: bool = False  # ∇d at z₀ instead of z_t, as in the published code
    objective: str = "sum"  # what d is, see objectives.py
    rho: float | None = None  # the drift of a step has a root mean square of ρ · rms(z₀), whatever η and ∇d are
    particles: int = 1  # paths from the same candidate 0, each with noise and points of its own

    def __post_init__(self) -> None:
        if self.mode not in FLOW_MODES:
            raise ValueError(f"unknown flow {self.mode!r}; choose one of: {', '.join(FLOW_MODES)}")
        if self.objective not in OBJECTIVES:
            raise ValueError(f"unknown objective {self.objective!r}; choose one of: {', '.join(OBJECTIVES)}")
        for name in ("steps", "particles"):
            if not isinstance(getattr(self, name), Integral):
                raise ValueError(f"{name} must be a whole number; got {getattr(self, name)!r}")
        for name in ("eta", "gamma", "clip", "rho"):
            value = getattr(self, name)
            if not isinstance(value, Real) and not (value is None and name in ("clip", "rho")):
                raise ValueError(f"{name} must be a number; got {value!r}")
        if self.particles < 1:
            raise ValueError(f"the number of particles must be 1 or more; got {self.particles}")
        if self.steps < 0:
            raise ValueError(f"the number of refinement steps must be 0 or more; got {self.steps}")
        for name in ("eta", "gamma", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a finite number of at least 0; got {value}")
        if self.rho is not None and not (math.isfinite(self.rho) and self.rho > 0):
            raise ValueError(f"rho must be a finite number above 0, or None for the published step; got {self.rho}")
        if self.rho is not None and self.clip is not None:
            raise ValueError("a step relative to the embedding takes the gradient's direction unclipped: use clip=None")
        if self.particles > 1 and (self.mode not in ("full", "noise") or not self.eta or not self.gamma):
            raise ValueError("particles differ in their noise, and this flow has none: use one particle")
        if self.rho is not None and self.mode not in ("full", "drift"):
            raise ValueError(f"the flow {self.mode!r} has no gradient, so that rho would change nothing")

    def in_mode(self, mode: FlowMode) -> Flow:
        """The same in another mode; without a gradient there is no ρ, and d is only what `prmagic study` records;
        without noise there is one particle."""
        kept = self if mode in ("full", "drift") else replace(self, rho=None, clip=CLIP)
        return replace(kept, mode=mode, particles=self.particles if mode in ("full", "noise") else 1)

    @property
    def published(self) -> Flow:
        """The same with the published d and the published step, of size η."""
        return replace(self, objective="sum", rho=None, clip=CLIP)

    @property
    def length(self) -> int:
        """How many steps a path has."""
        return 0 if self.mode == "none" else self.steps

    @property
    def candidates(self) -> int:
        """How many masks one query gets."""
        return 1 + self.particles * self.length

    @property
    def needs_gradient(self) -> bool:
        """Whether d has to be differentiated at all."""
        return self.mode in ("full", "drift") and (self.eta > 0 or self.rho is not None)

    def step(self, shift: Tensor, gradient: Tensor | None, rng: torch.Generator, z0: Tensor | None = None) -> Tensor:
        """G_t → G_{t+1}; shift, gradient and the untouched embedding z0, which ρ is relative to, have one shape."""
        if self.mode == "resample":
            return shift
        moved = shift
        if gradient is not None:
            moved = moved + self._drift(gradient, z0)
        if self.mode != "drift":
            moved = moved + math.sqrt(2 * self.eta) * math.sqrt(self.gamma) * self.noise(shift, rng)
        return moved

    def _drift(self, gradient: Tensor, z0: Tensor | None) -> Tensor:
        if self.rho is not None:
            if z0 is None:
                raise ValueError("a step relative to the embedding needs the embedding: pass z0")
            return self.rho * rms(z0) * gradient / rms(gradient).clamp(min=TINY)
        if self.clip is None:
            return self.eta * gradient
        return self.eta * gradient.clamp(-self.clip, self.clip)

    def noise(self, shift: Tensor, rng: torch.Generator) -> Tensor:
        """ξ_t, shaped like the embedding; drawn on the CPU, so that it is the same on every device."""
        return torch.randn(shift.shape, generator=rng).to(shift)


def rms(values: Tensor) -> Tensor:
    """Root mean square, a scalar."""
    return values.square().mean().sqrt()
