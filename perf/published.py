"""What the published code calls for one episode, and what that costs at measured prices.

Counted on the published code with T = 5, six candidates, one support:
- PerSAM-F: nine SAM encodes (support, query, the support and the six candidates with all else black); 1018 decoder calls
  (1000 steps of the mask weights' fit, three stages of six candidates), the last stage of five of them with a graph and a
  backward pass (the published code runs a sixth, whose result nobody uses; it is not priced).
- Matcher: six SAM encodes, all of the query; nine DINOv2 encodes (support, query, the support and the six candidates
  with all else black); every subset of each of the six steps decoded with a graph, and a backward pass through all.
What else it does (the losses of the 1000 steps, assignments, earth mover's distances, suppression) is not priced, so
that real ratios are larger. For other T the counts follow from the same structure.
"""

from __future__ import annotations

from dataclasses import dataclass

FIT_STEPS = 1000
STAGES = 3  # of PerSAM-F's cascade


@dataclass(frozen=True)
class Calls:
    """How often an episode needs what is dear; gradient_decodes are those with a graph and a backward pass."""

    sam_encodes: int
    encoder_encodes: int
    decodes: int  # prompt sets without a graph
    gradient_decodes: int


@dataclass(frozen=True)
class Units:
    """Seconds of one each."""

    sam_encode: float
    encoder_encode: float
    decode: float
    gradient_decode: float


def published_calls(framework: str, steps: int, subsets: int = 0) -> Calls:
    """Of one episode with T = steps ≥ 1 refinements; subsets: Matcher's prompt sets per step."""
    candidates = steps + 1
    if framework == "matcher":
        return Calls(candidates, 3 + candidates, 0, candidates * subsets)
    return Calls(3 + candidates, 0, FIT_STEPS + STAGES * candidates - steps, steps)


def price(calls: Calls, units: Units) -> float:
    """Seconds."""
    return (
        calls.sam_encodes * units.sam_encode
        + calls.encoder_encodes * units.encoder_encode
        + calls.decodes * units.decode
        + calls.gradient_decodes * units.gradient_decode
    )
