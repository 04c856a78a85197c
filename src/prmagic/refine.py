"""The paper's Algorithm 1: prompts, mask, flow, and again (PR-MaGIC, arXiv 2604.12113)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Query, Reference
from prmagic.types import Candidate


def refine(
    framework: Framework,
    query: Query,
    reference: Reference,
    flow: Flow,
    points_rng: torch.Generator,
    noise_rng: torch.Generator,
) -> list[Candidate]:
    """Candidate 0 is the framework's own answer; candidate t follows t steps of the flow.

    Points and noise come from generators of their own, so that flows are compared on the same draws."""
    timed = framework.stopwatch
    shift = torch.zeros_like(query.embedding.features)  # G₀
    candidates: list[Candidate] = []
    for step in range(flow.candidates):
        if step:
            gradient = None
            if flow.needs_gradient:
                with timed("gradient"):
                    at = torch.zeros_like(shift) if flow.gradient_at_origin else shift
                    gradient = logit_gradient(framework, query, reference, candidates[-1], at)
            shift = flow.step(shift, gradient, noise_rng)  # eq. (1)
        with timed("decode"), torch.no_grad():
            prompts = framework.sample_prompts(query, reference, shift, points_rng)  # eq. (2)
            candidate = framework.decode(query, reference, prompts)  # eq. (3)
        candidates.append(replace(candidate, step=step))
    return candidates


def logit_gradient(
    framework: Framework, query: Query, reference: Reference, candidate: Candidate, shift: Tensor
) -> Tensor:
    """∇_z d at z₀ + shift, float32, shaped like the embedding."""
    moved = (query.embedding.features + shift).detach().requires_grad_()
    with torch.enable_grad():
        d = framework.logit(query, reference, candidate, query.embedding.moved_to(moved))
        return torch.autograd.grad(d, moved)[0]
