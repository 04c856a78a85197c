"""What the published code calls for one episode, and what that costs at measured prices."""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = """\
Counted on the published code with T = 5, so six candidates, and one support; for other T it follows from the structure.

- PerSAM-F: nine SAM encodes (support, query, and with all else black the support and the six candidates); 1018 decoder
  calls (1000 in the fit of the mask weights, three stages of six candidates), five of them with a graph and a backward
  pass. It runs a sixth backward pass whose result nobody uses; that one is not priced.
- Matcher: six SAM encodes, all of the query; nine DINOv2 encodes (support, query, and with all else black the support
  and the six candidates); every subset of each of the six steps decoded with a graph, and a backward pass through all.

What else it does (the losses of the 1000 steps, assignments, earth mover's distances, suppression) is not priced, so
that the real ratios are larger. A decode with a graph is priced in one batch, as the published code makes it, of 64
at most, because all 154 subsets at once need more memory than most machines have. In a large batch each prompt set
costs more than alone: the system has to hand out some 230 MB of fresh memory for it. What the ratio would be, had the
published code made its graphs one by one, stands below each ratio.
"""
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
