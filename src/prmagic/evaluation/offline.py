"""A selector tried on the records of a run, without running a model again: which candidate would it have chosen?"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmagic.evaluation.metrics import Values, episode_miou
from prmagic.evaluation.records import Integers, Records
from prmagic.names import hint

Arrays = dict[str, Any]
Scorer = Callable[[Arrays], Any]


def choose(records: Records, selector: str) -> Integers:
    """The candidate (n,) that a selector takes; the highest score wins, ties go to the earlier.

    selector: the name of a recorded score, "baseline", "oracle" (by the truth), or FILE.py:FUNCTION, see `score`.
    Raises ValueError for a name that is none of these, and for a function that fails."""
    n, candidates = records.areas.shape[:2]
    if selector == "baseline":
        return np.zeros(n, np.int64)
    if selector == "oracle":
        return _highest(episode_miou(records.areas))
    if selector in records.scores:
        return _highest(records.scores[selector])
    file, _, function = selector.rpartition(":")
    if not file.endswith(".py"):
        known = hint(selector, [*records.scores, "oracle", "baseline"])
        raise ValueError(f"{records.folder} has no scores {selector!r}: {known}, and FILE.py:FUNCTION")
    kept = ~records.failed
    scores = np.full((n, candidates), -np.inf)
    scores[kept] = score(_load(Path(file), function), _seen(records, kept), selector)
    return _highest(scores)


def score(function: Scorer, arrays: Arrays, name: str) -> Values:
    """What a user's function makes of the episodes that did not fail, n of them with C candidates: scores (n, C).

    It gets {"scores": {name: (n, C)}, "predicted_iou": (n, C), "share": (n, C) of the photo that the mask covers,
    "class": (n,) names, "fold": (n,)} and never the truth. -inf and nan may not win.
    Raises ValueError for an error in it, or scores of another shape; name: for that message."""
    expected = arrays["share"].shape
    try:
        scores = np.asarray(function(arrays), np.float64)
    except Exception as error:
        inside = [f" in line {frame.lineno}" for frame in traceback.extract_tb(error.__traceback__)[1:2]]
        raise ValueError(f"{name} failed{''.join(inside)}: {type(error).__name__}: {error}") from error
    if scores.shape != expected:
        raise ValueError(
            f"{name} returned an array of shape {scores.shape}; it has to be {expected}, a score for each candidate of "
            "each episode"
        )
    return scores


def _seen(records: Records, kept: NDArray[np.bool_]) -> Arrays:
    """Copies: what a function does to them stays there."""
    return {
        "scores": {name: values[kept] for name, values in records.scores.items()},
        "predicted_iou": records.predicted_iou[kept],
        "share": records.predicted[kept] / np.maximum(records.pixels[kept], 1)[:, None],
        "class": np.array(records.class_names)[records.classes[kept]],
        "fold": records.folds[kept],
    }


def _load(file: Path, name: str) -> Scorer:
    if not file.is_file():
        raise ValueError(f"{file} is missing: a selector of your own is given as FILE.py:FUNCTION")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None and spec.loader is not None  # there is a loader for .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ValueError(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    function = getattr(module, name, None)
    if not callable(function):
        defined = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise ValueError(f"{file} has no function {name!r}: {hint(name, defined)}")
    found: Scorer = function
    return found


def _highest(scores: Values) -> Integers:
    chosen: Integers = np.where(np.isnan(scores), -np.inf, scores).argmax(1)
    return chosen
