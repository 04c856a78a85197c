"""Eq. (1) of the paper: the entropy-regularised gradient flow that moves SAM's embedding.

SAM's mask decoder serves as the discriminator: its logit d says how well z can be segmented. Euler–Maruyama follows ∇d:

    z_{t+1} = z_t + η ∇_z d(z_t, P_t) + √(2γη) ξ_t,        ξ_t ~ N(0, I).

The loop keeps the shift G_t = z_t − z₀.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.checks import number, whole
from prmagic.options import option

USED: Mapping[str, tuple[str, ...]] = {  # mode → the fields that it looks at
    "spread": ("steps",),
    "full": ("steps", "eta", "gamma", "rho", "objective"),
    "noise": ("steps", "eta", "gamma"),
    "none": (),
}
FLOW_MODES = tuple(USED)
CLIP = 0.1  # ∇d is clamped to ± this, as in the published code
GRADIENT = {"eta", "gamma", "rho", "objective"}  # fields that `spread` and `none` do not look at
TINY = 1e-12  # so that a gradient of 0 is not divided by 0


def total(logits: Tensor) -> Tensor:
    """The paper's d: Σ_x ℓ(x) over all masks of a candidate, (n, h, w) → scalar."""
    return logits.sum()


def foreground(logits: Tensor) -> Tensor:
    """PerSAM-F's default d: Σ_x ω ℓ / Σ_x ω with ω = σ(ℓ) held constant, summed over masks, (n, h, w) → scalar.

    The mean logit, weighted by how much a pixel is foreground."""
    flat = logits.flatten(-2)
    weights = F.logsigmoid(flat.detach().float()).softmax(-1)  # not σ, which underflows to 0 in an empty mask
    return (weights * flat).sum()


OBJECTIVES: Mapping[str, Callable[[Tensor], Tensor]] = {"sum": total, "foreground": foreground}


@dataclass(frozen=True)
class Flow:
    """How the embedding moves between candidates. Frozen; a step is a pure function of its arguments.

    Without `rho`, a step is the paper's: η times ∇d, which is clamped to ±0.1 element by element. With `rho`, its
    drift has a root mean square of ρ times the embedding's own, and η sets the noise alone.

    Examples:
        >>> segmenter = prmagic.Segmenter(framework, Flow(steps=10, rho=0.1, objective="foreground"))
    """

    mode: str = option(
        "full",
        "spread: the embedding stays, each step asks at the next most alike place; full: gradient and noise; "
        "noise: the noise alone, as a control; none: no refinement",
        FLOW_MODES,
    )
    steps: int = option(5, "Refinements after the baseline (T): T + 1 candidates")
    eta: float = option(1e-3, "Size of the paper's step (η); with rho, of the noise alone")
    gamma: float = option(0.1, "Entropy weight (γ): the noise of a step has a deviation of √(2γη)")
    rho: float | None = option(None, "Length of a step's drift, as a share of the embedding's root mean square (ρ)")
    objective: str = option("sum", "What d is: sum (the paper's) or foreground", tuple(OBJECTIVES))

    def __post_init__(self) -> None:
        if self.mode not in FLOW_MODES:
            raise ValueError(f"unknown flow {self.mode!r}; choose one of: {', '.join(FLOW_MODES)}")
        if self.objective not in tuple(OBJECTIVES):  # whatever its type
            raise ValueError(f"unknown objective {self.objective!r}; choose one of: {', '.join(OBJECTIVES)}")
        whole("steps", self.steps, 0)
        number("eta", self.eta, 0)
        number("gamma", self.gamma, 0)
        if self.rho is not None:
            number("rho", self.rho, 0)
            if not self.rho:
                raise ValueError("rho must be above 0, or none for the paper's step")
            if not self.needs_gradient:
                raise ValueError(f"the flow {self.mode!r} has no gradient, so that rho would change nothing")

    def changed(self, **changes: Any) -> Flow:
        """A copy with other fields. η without ρ chooses the paper's step and d.

        Where the mode is `spread`, a field in GRADIENT chooses the mode `full`."""
        base = self
        if self.mode == "spread" and changes.keys() & GRADIENT:
            changes = {"mode": "full", **changes}
        if "eta" in changes and "rho" not in changes:
            base = replace(base, rho=None, objective=changes.get("objective", "sum"))
        if changes.get("mode", self.mode) != "full" and "rho" not in changes:
            base = replace(base, rho=None)
        return replace(base, **changes)

    @property
    def length(self) -> int:
        """How many steps are taken."""
        return 0 if self.mode == "none" else self.steps

    @property
    def candidates(self) -> int:
        """How many masks one query gets."""
        return 1 + self.length

    @property
    def needs_gradient(self) -> bool:
        """Whether d has to be differentiated at all."""
        return self.mode == "full" and (self.eta > 0 or self.rho is not None)

    def gradient_place(self, shift: Tensor) -> Tensor:
        """The shift at which ∇d is taken: that of z_t."""
        return shift

    def step(self, shift: Tensor, gradient: Tensor | None, rng: torch.Generator, z0: Tensor) -> Tensor:
        """Eq. (1): G_t → G_{t+1}.

        Args:
            shift: G_t, shaped like the embedding, (1, C, h, w).
            gradient: ∇d, or None for a flow without one.
            rng: Draws the noise, on the CPU, so that it is the same on every device.
            z0: The untouched embedding, to which ρ is relative.

        Returns:
            G_{t+1}, shaped like the embedding.
        """
        moved = shift if gradient is None else shift + self._drift(gradient, z0)
        noise = torch.randn(shift.shape, generator=rng).to(shift)
        return noise.mul_(math.sqrt(2 * self.eta) * math.sqrt(self.gamma)).add_(moved)

    def _drift(self, gradient: Tensor, z0: Tensor) -> Tensor:
        if self.rho is None:
            return self.eta * gradient.clamp(-CLIP, CLIP)
        return (self.rho * rms(z0) * gradient).div_(rms(gradient).clamp(min=TINY))


def rms(values: Tensor) -> Tensor:
    """Root mean square, a scalar."""
    return values.square().mean().sqrt()
