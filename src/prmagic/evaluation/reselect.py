"""Which candidate another selector would have chosen, from the records of a run and without running a model."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prmagic.evaluation.records import Integers, Records
from prmagic.metrics import Values, episode_miou
from prmagic.names import from_file, hint

Arrays = dict[str, Any]
Scorer = Callable[[Arrays], Any]


def reselect(records: Records, selector: str) -> Integers:
    """The candidate that a selector takes in each episode: the highest score wins, the earlier of equals.

    Args:
        records: Of a run.
        selector: The name of a recorded score, "baseline", "oracle" (by the truth), or FILE.py:FUNCTION, see `score`.

    Returns:
        The index of the candidate (n,).

    Raises:
        ValueError: For a name that is none of these, and for a function that fails.
    """
    n, candidates = records.areas.shape[:2]
    if selector == "baseline":
        return np.zeros(n, np.int64)
    if selector == "oracle":
        return _highest(np.where(records.places >= 0, episode_miou(records.areas), -np.inf))
    if selector in records.scores:
        return _highest(records.scores[selector])
    file, _, function = selector.rpartition(":")
    if not file.endswith(".py"):
        known = hint(selector, [*records.scores, "oracle", "baseline"])
        raise ValueError(f"{records.folder} has no scores {selector!r}: {known}, or FILE.py:FUNCTION")
    kept = ~records.failed
    scores = np.full((n, candidates), -np.inf)
    scores[kept] = score(_load(Path(file), function), _arrays(records, kept), selector)
    return _highest(np.where(records.places >= 0, scores, -np.inf))


def score(function: Scorer, arrays: Arrays, name: str) -> Values:
    """Call a user's function on the episodes that did not fail.

    Args:
        function: Gets `arrays`, returns a score for each candidate (n, C). -inf and nan may not win.
        arrays: Of n episodes with C candidates: {"scores": {name: (n, C)}, "predicted_iou": (n, C), "share": (n, C) of
            the photo that the mask covers, "class": (n,) names, "fold": (n,)}; never the truth. Of a candidate that is
            not there the scores are -inf and the predicted IoU is nan.
        name: Of the function, for error messages.

    Returns:
        The scores (n, C).

    Raises:
        ValueError: If the function fails, or its scores have another shape.
    """
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


def _arrays(records: Records, kept: NDArray[np.bool_]) -> Arrays:
    """Copies, so that a function cannot change the records."""
    return {
        "scores": {name: values[kept] for name, values in records.scores.items()},
        "predicted_iou": records.predicted_iou[kept],
        "share": records.predicted[kept] / np.maximum(records.pixels[kept], 1)[:, None],
        "class": np.array(records.class_names)[records.classes[kept]],
        "fold": records.folds[kept],
    }


def _load(file: Path, name: str) -> Scorer:
    function = from_file(file, name, "function", callable)
    if not callable(function):
        raise ValueError(f"{file}:{name} is no function")
    found: Scorer = function
    return found


def _highest(scores: Values) -> Integers:
    chosen: Integers = np.where(np.isnan(scores), -np.inf, scores).argmax(1)
    return chosen
