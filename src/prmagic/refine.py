"""The paper's Algorithm 1: prompts, mask, flow, and again (PR-MaGIC, arXiv 2604.12113)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from prmagic.flow import OBJECTIVES, Flow
from prmagic.frameworks.base import Framework, Query
from prmagic.frameworks.maps import compact
from prmagic.reference import Reference
from prmagic.types import Candidate, Prompts

IN_ONE_GRAPH = 8  # references
Watch = Callable[[int, Sequence[Tensor], Sequence[Tensor | None]], None]


@dataclass(frozen=True, eq=False)
class Draws:
    """Where one search takes its random draws: points and noise each from a generator of their own, so that flows are
    compared on the same points."""

    points: torch.Generator
    noise: torch.Generator


def refine(
    framework: Framework, query: Query, references: Sequence[Reference], flow: Flow, draws: Sequence[Draws],
    watch: Watch | None = None,
) -> list[list[Candidate]]:  # fmt: skip
    """Algorithm 1, for several references in one query at once.

    Args:
        framework: What samples prompts and decodes masks.
        query: The photo.
        references: What to look for.
        flow: How the embedding moves.
        draws: One per reference.
        watch: Called with t, the shifts G_t and the gradients that led there, in every step.

    Returns:
        For each reference its candidates 0 … T. Candidate 0 is the framework's own answer.
    """
    if flow.mode == "spread":
        return spread(framework, query, references, flow, draws)
    timed, z0 = framework.stopwatch, query.embedding.features
    shifts = [torch.zeros_like(z0) for _ in references]  # G₀
    memory = [_Memory() for _ in references]
    paths: list[list[Candidate]] = [[] for _ in references]
    for t in range(flow.length + 1):
        gradients: Sequence[Tensor | None] = [None] * len(references)
        if t and flow.needs_gradient:
            with timed("gradient"):
                places = [flow.gradient_place(shift) for shift in shifts]
                gradients = d_gradients(framework, query, references, [path[-1] for path in paths], places, flow)
        if t:
            each = zip(shifts, gradients, draws, strict=True)
            shifts = [flow.step(shift, gradient, draw.noise, z0) for shift, gradient, draw in each]  # eq. (1)
        if watch is not None:
            watch(t, shifts, gradients)
        with timed("decode"), torch.no_grad():
            prompts = framework.sample_prompts(query, references, shifts, [draw.points for draw in draws])  # eq. (2)
            candidates = _decode(framework, query, references, prompts, memory)  # eq. (3)
        for path, candidate in zip(paths, candidates, strict=True):
            path.append(candidate.changed(step=t))
    return paths


def spread(
    framework: Framework, query: Query, references: Sequence[Reference], flow: Flow, draws: Sequence[Draws]
) -> list[list[Candidate]]:
    """The framework's own answer, and those at the next most alike places; candidates as those of `refine`."""
    paths = refine(framework, query, references, flow.changed(mode="none"), draws)
    with framework.stopwatch("decode"), torch.no_grad():
        asked = [[path[0].prompts] for path in paths]
        for each, reference in zip(asked, references, strict=True):
            while len(each) < flow.candidates and (new := framework.next_prompts(query, reference, each)) is not None:
                each.append(new)
        further = [
            (path, reference, new)
            for path, reference, each in zip(paths, references, asked, strict=True)
            for new in each[1:]
        ]
        if further:
            found = framework.decode(query, [each for _, each, _ in further], [each for _, _, each in further])
            for (path, _, _), candidate in zip(further, found, strict=True):
                path.append(candidate.changed(step=len(path)))
    return paths


def d_gradients(
    framework: Framework, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
    shifts: Sequence[Tensor], flow: Flow,
) -> Sequence[Tensor]:  # fmt: skip
    """∇_z d at z₀ + shift, for each candidate; float32, shaped like the embedding.

    At most eight references share a graph, so that memory does not grow with their number."""
    found: list[Tensor] = []
    for start in range(0, len(references), IN_ONE_GRAPH):
        some = slice(start, start + IN_ONE_GRAPH)
        moved = [(query.embedding.features + shift).detach().requires_grad_() for shift in shifts[some]]
        with torch.enable_grad():
            embeddings = [query.embedding.moved_to(z) for z in moved]
            maps = framework.logits(query, references[some], candidates[some], embeddings)
            d = torch.stack([OBJECTIVES[flow.objective](each) for each in maps]).sum()
            found += torch.autograd.grad(d, moved)
    return found


def on_cpu(candidate: Candidate) -> Candidate:
    """The same without the accelerator's memory, of which a list of results would hold much, and without `others`."""
    prompts, logits = _prompts_on_cpu(candidate.prompts), candidate.logits
    parts = tuple(replace(part, prompts=_prompts_on_cpu(part.prompts)) for part in candidate.parts)
    logits = None if logits is None else compact(logits.cpu())
    mask = candidate.mask if candidate.later is None else candidate.later.compact()
    return candidate.changed(mask=mask, prompts=prompts, parts=parts, logits=logits, others=())


def _prompts_on_cpu(prompts: Prompts) -> Prompts:
    return prompts if prompts.mask_logits is None else replace(prompts, mask_logits=prompts.mask_logits.cpu())


class _Memory(dict[Hashable, Candidate]):
    """Candidates of one search, by their prompts."""


def _decode(
    framework: Framework, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts],
    memory: Sequence[_Memory],
) -> list[Candidate]:  # fmt: skip
    """The candidates; SAM decodes the same prompts only once in a search."""
    keys = [each.key for each in prompts]
    new = [i for i, key in enumerate(keys) if key not in memory[i]]
    if new:
        found = framework.decode(query, [references[i] for i in new], [prompts[i] for i in new])
        for i, candidate in zip(new, found, strict=True):
            memory[i][keys[i]] = candidate
    answers = [known[key] for known, key in zip(memory, keys, strict=True)]
    return [
        answer.changed(prompts=replace(answer.prompts, similarity=each.similarity))
        for answer, each in zip(answers, prompts, strict=True)
    ]
