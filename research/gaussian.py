"""Proposition 1 where everything is known: the flow towards a Gaussian μ = N(0, diag σ²), from a Gaussian ρ₀.

The flow dz = −∇ log(ρ_t/μ) dt + √(2γ) dW keeps ρ_t Gaussian. Its density follows ∂ρ = (1 + γ) Δρ − ∇·(ρ ∇ log μ), so
that along each axis, with m and s the mean and the variance of ρ₀ there,

    mean_t = m exp(−t/σ²),        var_t = (1 + γ) σ² + (s − (1 + γ) σ²) exp(−2 t/σ²),

and ρ_t goes to μ* ∝ μ^(1/(1+γ)) = N(0, (1 + γ) σ²), at the rate λ_min = 1 / max σ². The distance of Proposition 1 is
that of the densities in L²(1/μ*), which is the χ² divergence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prmagic.metrics import Values


@dataclass(frozen=True)
class Gaussian:
    """mean and variance of ρ₀ and σ² of μ, along each axis; γ as in eq. (1)."""

    mean: tuple[float, ...] = (0.6, -0.3)
    variance: tuple[float, ...] = (0.5, 0.2)
    target: tuple[float, ...] = (1.0, 0.25)  # σ²
    gamma: float = 0.1

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.variance) == len(self.target):
            raise ValueError("mean, variance and target need a number for each axis")
        if min(self.variance) <= 0 or min(self.target) <= 0:
            raise ValueError("variances must be above 0")
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(f"gamma must be a finite number of at least 0; got {self.gamma}")
        if any(s >= 2 * v for s, v in zip(self.variance, self.limit.tolist(), strict=True)):
            raise ValueError("ρ₀ must be narrower than √2 times the limit, or its distance from there is infinite")

    @property
    def limit(self) -> Values:
        """(axes,): the variance of μ*."""
        return (1 + self.gamma) * np.array(self.target)

    @property
    def rate(self) -> float:
        """λ_min."""
        return 1 / max(self.target)

    def at(self, time: float) -> tuple[Values, Values]:
        """Mean and variance of ρ_t along each axis."""
        decay = np.exp(-time / np.array(self.target))
        return np.array(self.mean) * decay, self.limit + (np.array(self.variance) - self.limit) * decay**2

    def d(self, z: Values, time: float) -> Values:
        """−log(ρ_t/μ), what the perfect discriminator would say of points (n, axes) → (n,)."""
        mean, variance = self.at(time)
        target = np.array(self.target)
        log_rho = -((z - mean) ** 2 / variance + np.log(variance)).sum(1) / 2
        log_mu: Values = -(z**2 / target + np.log(target)).sum(1) / 2
        found: Values = log_mu - log_rho
        return found

    def gradient(self, z: Values, time: float) -> Values:
        """∇d at points (n, axes)."""
        mean, variance = self.at(time)
        found: Values = (z - mean) / variance - z / np.array(self.target)
        return found

    def distance(self, mean: Values, variance: Values) -> float:
        """‖ρ − μ*‖² in L²(1/μ*), of a Gaussian ρ with these moments; infinite for one twice as wide as μ* or wider."""
        wide = 2 * self.limit - variance
        if (wide <= 0).any():
            return math.inf
        return float(np.prod(self.limit / np.sqrt(variance * wide) * np.exp(mean**2 / wide)) - 1)


@dataclass(frozen=True, eq=False)
class Simulated:
    """times (T + 1,); means and variances (T + 1, axes) of the particles."""

    times: Values
    means: Values
    variances: Values


def simulate(flow: Gaussian, eta: float, steps: int, particles: int, seed: int = 0) -> Simulated:
    """Eq. (1) for many particles at once: z ← z + η ∇d + √(2γη) ξ, with the perfect discriminator's d."""
    rng = np.random.default_rng(seed)
    z = np.array(flow.mean) + np.sqrt(flow.variance) * rng.standard_normal((particles, len(flow.mean)))
    means, variances = [z.mean(0)], [z.var(0)]
    for step in range(steps):
        z = z + eta * flow.gradient(z, step * eta) + math.sqrt(2 * flow.gamma * eta) * rng.standard_normal(z.shape)
        means.append(z.mean(0))
        variances.append(z.var(0))
    return Simulated(np.linspace(0, eta * steps, steps + 1), np.array(means), np.array(variances))
