"""PerSAM-F's two mask weights: how SAM's three answers are mixed, fitted on the support (arXiv 2305.03048, §3.4).

SAM's masks do not depend on the weights, so they are decoded once; the published code decodes them in every step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize
from torch import Tensor


def mixture(weights: Tensor) -> Tensor:
    """(w₁, w₂) → (1 − w₁ − w₂, w₁, w₂)."""
    return torch.cat([1 - weights.sum(0, keepdim=True), weights])


def dice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Soft dice of logits with a 0/1 truth of the same shape; scalar."""
    probability = logits.sigmoid()
    return 1 - (2 * (probability * truth).sum() + 1) / (probability.sum() + truth.sum() + 1)


def focal_loss(logits: Tensor, truth: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Mean focal loss of logits with a 0/1 truth of the same shape; scalar."""
    probability = logits.sigmoid()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    right = probability * truth + (1 - probability) * (1 - truth)
    balance = alpha * truth + (1 - alpha) * (1 - truth)
    return (balance * cross_entropy * (1 - right) ** gamma).mean()


def fit_published(logits: Sequence[Tensor], truths: Sequence[Tensor]) -> Tensor:
    """The published fit, (3,): exactly 1000 steps of AdamW, which do not reach the optimum.

    logits: per support (3, H, W) at the photo's size; truths (H, W) 0/1. The loss is summed over the supports."""
    weights = torch.full((2,), 1 / 3, requires_grad=True)
    optimizer = torch.optim.AdamW([weights], lr=1e-3, eps=1e-4, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
    with torch.enable_grad():
        for _ in range(1000):
            loss = _loss(weights, logits, truths)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return mixture(weights.detach())


def fit_mixture(logits: Sequence[Tensor], truths: Sequence[Tensor]) -> Tensor:
    """The best convex mixture, (3,), for the same loss: a few dozen evaluations instead of 1000 steps.

    Convex, because without a bound the loss falls for ever as the logits grow with the weights."""

    def value_and_slope(values: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.tensor(values, dtype=torch.float32, requires_grad=True)
        with torch.enable_grad():
            loss = _loss(weights, logits, truths)
            (slope,) = torch.autograd.grad(loss, weights)
        return float(loss.detach()), slope.double().numpy()

    found = minimize(
        value_and_slope, np.full(2, 1 / 3), jac=True, method="SLSQP", bounds=[(0, 1), (0, 1)],
        constraints={"type": "ineq", "fun": lambda w: 1 - w.sum(), "jac": lambda w: -np.ones(2)},
        options={"ftol": 1e-6, "maxiter": 60},
    )  # fmt: skip
    return mixture(torch.tensor(np.clip(found.x, 0, 1), dtype=torch.float32))


def _loss(weights: Tensor, logits: Sequence[Tensor], truths: Sequence[Tensor]) -> Tensor:
    mixed = [torch.einsum("m,mhw->hw", mixture(weights), maps) for maps in logits]
    losses = [dice_loss(m, truth) + focal_loss(m, truth) for m, truth in zip(mixed, truths, strict=True)]
    return torch.stack(losses).sum()
