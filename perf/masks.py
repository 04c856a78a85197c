"""All candidates' masks of fixed queries, kept in a file, so that two versions of the library can be compared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

FRAMEWORKS = ("persam-f", "matcher")
# The selector by name where a preset's own could change one day; `paper` has the published variant of it.
PRESETS: dict[str, str | None] = {"default": "reencode", "paper": None}

Runs = dict[str, dict[str, npt.NDArray[np.generic]]]


@dataclass(frozen=True)
class Difference:
    """One candidate in two files: how many pixels of its mask differ, and how far its prompts and score are apart."""

    candidate: str
    pixels: int
    of: int
    points: float  # pixels of the photo between points of the same rank, at most; inf where their number differs
    score: float


def store(path: Path, threads: int | None = None) -> None:
    """The demo's cases with both frameworks and both presets, the embedded models, float32 → one npz file."""
    import torch

    from prmagic import Support, load
    from prmagic.demo import cases

    if threads:
        torch.set_num_threads(threads)
    arrays: dict[str, npt.NDArray[np.generic]] = {"threads": np.array(torch.get_num_threads())}
    every = cases()
    for framework in FRAMEWORKS:
        for preset, selector in PRESETS.items():
            segmenter = load(framework, preset=preset, selector=selector)
            for case in every:
                reference = segmenter.encode_support(Support(case.support, case.support_mask))
                result = segmenter.segment(case.query, reference, name=case.name)
                points = [
                    [candidate.prompts.points, *(part.prompts.points for part in candidate.parts)]
                    for candidate in result.candidates
                ]
                key = f"{framework}/{preset}/{case.name}"
                arrays |= {
                    f"{key}:masks": np.stack([np.packbits(candidate.mask) for candidate in result.candidates]),
                    f"{key}:pixels": np.array(case.query.shape[0] * case.query.shape[1]),
                    f"{key}:points": _padded([np.concatenate(each) for each in points]),
                    f"{key}:boxes": np.array([c.prompts.box or (np.nan,) * 4 for c in result.candidates], np.float32),
                    f"{key}:scores": np.array(result.scores),
                    f"{key}:chosen": np.array(result.chosen),
                }
                print(f"{key}: candidate {result.chosen} of {len(result.candidates)}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **arrays)  # type: ignore[arg-type]


def compare(before: Path, after: Path) -> list[Difference]:
    """Every candidate of the first file beside the second's.

    Raises ValueError for files with different queries, or made with different numbers of threads: these alone change
    the last bits, and with them a close choice."""
    with np.load(before) as one, np.load(after) as other:
        if one["threads"] != other["threads"]:
            raise ValueError(
                f"{before} was made with --threads {one['threads']}, {after} with {other['threads']}: make one anew"
            )
    first, second = _read(before), _read(after)
    if first.keys() != second.keys():
        missing = ", ".join(sorted(first.keys() ^ second.keys()))
        raise ValueError(f"{before} and {after} hold different queries, make one of them anew: {missing}")
    return [difference for key in first for difference in _differences(key, first[key], second[key])]


def _differences(
    key: str, first: dict[str, npt.NDArray[np.generic]], second: dict[str, npt.NDArray[np.generic]]
) -> Iterator[Difference]:
    if len(first["masks"]) != len(second["masks"]):
        raise ValueError(f"{key} has {len(first['masks'])} candidates in one file and {len(second['masks'])} in other")
    pixels = int(first["pixels"])
    for step in range(len(first["masks"])):
        one, other = (np.unpackbits(run["masks"][step].astype(np.uint8), count=pixels) for run in (first, second))
        yield Difference(
            f"{key}/{step}",
            int((one != other).sum()),
            pixels,
            max(_farthest(first[kind][step], second[kind][step]) for kind in ("points", "boxes")),
            _farthest(first["scores"][step], second["scores"][step]),
        )


def _farthest(one: npt.NDArray[np.generic], other: npt.NDArray[np.generic]) -> float:
    """The largest difference of two arrays in which nan stands for nothing; inf where something is in one alone."""
    one, other = (np.atleast_1d(np.asarray(values, np.float64)) for values in (one, other))
    wide = max(len(one), len(other))
    one, other = (
        np.pad(v, [(0, wide - len(v)), *[(0, 0)] * (v.ndim - 1)], constant_values=np.nan) for v in (one, other)
    )
    if (np.isnan(one) != np.isnan(other)).any():
        return float("inf")
    apart = np.where(one == other, 0.0, np.abs(one - other))  # -inf equals -inf
    return float(np.nan_to_num(apart, nan=0.0, posinf=np.inf).max(initial=0.0))


def _padded(rows: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """Arrays (n, 2) of different lengths → (N, longest, 2), nan where there is nothing."""
    longest = max(len(row) for row in rows)
    return np.stack([np.pad(row, ((0, longest - len(row)), (0, 0)), constant_values=np.nan) for row in rows])


def _read(path: Path) -> Runs:
    runs: Runs = {}
    with np.load(path) as file:
        for name in file.files:
            key, _, kind = name.partition(":")
            if kind:
                runs.setdefault(key, {})[kind] = file[name]
    return runs
