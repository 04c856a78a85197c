"""What tests of several modules start from: generators, photos, and one step of a framework."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Query
from prmagic.reference import Example, Reference
from prmagic.refine import d_gradients
from prmagic.types import Candidate, Prompts

GOLDEN = Path(__file__).parent / "golden"
MINI = GOLDEN / "sam_mini"


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise, (H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def region(rows: slice | int, columns: slice | int, size: tuple[int, int] = (90, 120)) -> np.ndarray:
    """A mask (H, W) bool of these rows and columns."""
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def still(query: Query) -> Tensor:
    """G₀, the shift before any step."""
    return torch.zeros_like(query.embedding.features)


def prompts_of(framework: Framework, query: Query, reference: Reference, shift: Tensor | None = None) -> Prompts:
    (found,) = framework.sample_prompts(query, [reference], [still(query) if shift is None else shift], [rng()])
    return found


def decoded(framework: Framework, query: Query, reference: Reference, prompts: Prompts) -> Candidate:
    with torch.no_grad():
        (found,) = framework.decode(query, [reference], [prompts])
    return found


def first_answer(
    framework: Framework, examples: Sequence[Example], image: np.ndarray
) -> tuple[Reference, Query, Prompts, Candidate]:
    """Reference, query, and prompts without a shift with their candidate."""
    with torch.no_grad():
        reference = framework.learn(examples, rng())
        (query,) = framework.encode_queries([image])
        prompts = prompts_of(framework, query, reference)
    return reference, query, prompts, decoded(framework, query, reference, prompts)


def gradient_of_d(
    framework: Framework,
    query: Query,
    reference: Reference,
    candidate: Candidate,
    shift: Tensor,
    objective: str = "sum",
) -> Tensor:
    (found,) = d_gradients(framework, query, [reference], [candidate], [shift], Flow(objective=objective))
    return found


def d(framework: Framework, query: Query, reference: Reference, candidate: Candidate, shift: Tensor) -> float:
    """The paper's d at z₀ + shift."""
    embedding = query.embedding.moved_to(query.embedding.features + shift)
    (maps,) = framework.logits(query, [reference], [candidate], [embedding])
    return float(maps.sum())
