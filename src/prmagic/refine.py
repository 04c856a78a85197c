"""The paper's Algorithm 1: prompts, mask, flow, and again (PR-MaGIC, arXiv 2604.12113)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

import torch
from torch import Tensor

from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Query, Reference
from prmagic.objectives import OBJECTIVES
from prmagic.types import Candidate, Prompts


@dataclass(eq=False)
class Search:
    """What one reference finds in one query. Candidate 0 is the framework's own answer; t follows t steps of the flow.

    Points and noise come from generators of their own, so that flows are compared on the same draws."""

    reference: Reference
    points_rng: torch.Generator
    noise_rng: torch.Generator
    shift: Tensor = field(init=False)  # G_t
    candidates: list[Candidate] = field(default_factory=list)
    answers: dict[Hashable, Candidate] = field(default_factory=dict)  # by what was asked

    def particles(self, count: int) -> list[Search]:
        """Itself, and count − 1 that go on from its candidate 0 with draws of their own."""
        seeds = torch.randint(2**62, (count - 1, 2), generator=self.noise_rng.clone_state()).tolist()
        others = []
        for pair in seeds:
            points, noise = (torch.Generator().manual_seed(seed) for seed in pair)
            other = Search(self.reference, points, noise, list(self.candidates), self.answers)
            other.shift = self.shift
            others.append(other)
        return [self, *others]


def refine(
    framework: Framework, query: Query, searches: Sequence[Search], flow: Flow,
    watch: Callable[[Search, Tensor | None], None] | None = None,
) -> None:  # fmt: skip
    """Find all candidates of each search. What several have to ask SAM, they ask together.

    The candidates of further particles come behind those of the first. watch(search, gradient): called when a search,
    or a further particle of it, has its next shift, with the ∇d that led there, if one was taken."""
    timed = framework.stopwatch
    origin = torch.zeros_like(query.embedding.features)  # G₀
    waiting: list[tuple[Search, Prompts]] = []
    paths = [[search] for search in searches]
    for step in range(flow.length + 1):
        if step == 1:
            paths = [search.particles(flow.particles) for search in searches]
        moving = list(chain.from_iterable(paths))
        gradients: Sequence[Tensor | None] = [None] * len(moving)
        if step and flow.needs_gradient:
            with timed("gradient"):
                places = [
                    (s.reference, s.candidates[-1], origin if flow.gradient_at_origin else s.shift) for s in moving
                ]
                gradients = logit_gradients(framework, query, places, flow.objective)
        for search, gradient in zip(moving, gradients, strict=True):
            search.shift = (
                flow.step(search.shift, gradient, search.noise_rng, query.embedding.features) if step else origin
            )  # eq. (1)
            if watch is not None:
                watch(search, gradient)
        with timed("decode"), torch.no_grad():
            for search in moving:
                prompts = framework.sample_prompts(query, search.reference, search.shift, search.points_rng)  # eq. (2)
                waiting.append((search, prompts))
            # Without a gradient no step needs the mask before it, so that all can be decoded at once.
            if flow.needs_gradient or flow.particles > 1 or step == flow.length:
                decode(framework, query, waiting)  # eq. (3)
                waiting = []
    for search, (_, *others) in zip(searches, paths, strict=True):
        later = chain.from_iterable(other.candidates[1:] for other in others)
        search.candidates += [replace(c, step=n) for n, c in enumerate(later, len(search.candidates))]


def logit_gradients(
    framework: Framework, query: Query, places: Sequence[tuple[Reference, Candidate, Tensor]], objective: str = "sum"
) -> Sequence[Tensor]:
    """∇_z d at z₀ + shift, for each reference with its candidate; float32, shaped like the embedding."""
    references, candidates, shifts = zip(*places, strict=True)
    moved = [(query.embedding.features + shift).detach().requires_grad_() for shift in shifts]
    with torch.enable_grad():
        d = discriminator(framework, query, references, candidates, moved, objective)
        return torch.autograd.grad(torch.stack(d).sum(), moved)


def discriminator(
    framework: Framework, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
    moved: Sequence[Tensor], objective: str,
) -> list[Tensor]:  # fmt: skip
    """D of each candidate, a scalar each, at the moved features (1, C, h, w)."""
    embeddings = [query.embedding.moved_to(z) for z in moved]
    if objective == "sum":  # all that a framework has to have
        return framework.logits(query, references, candidates, embeddings)
    found = framework.logit_maps(query, references, candidates, embeddings)
    return [torch.stack([OBJECTIVES[objective](maps) for maps in each]).sum() for each in found]


def decode(framework: Framework, query: Query, waiting: Sequence[tuple[Search, Prompts]]) -> None:
    """Append a candidate to the search of each of the prompts; what a search has asked before is not asked again."""
    new = {(search, prompts.asked): prompts for search, prompts in waiting if prompts.asked not in search.answers}
    found = framework.decode_all(query, [search.reference for search, _ in new], list(new.values())) if new else []
    for (search, asked), candidate in zip(new, found, strict=True):
        search.answers[asked] = candidate
    for search, prompts in waiting:
        answer = search.answers[prompts.asked]
        shown = replace(answer.prompts, similarity=prompts.similarity)
        search.candidates.append(replace(answer, step=len(search.candidates), prompts=shown))
