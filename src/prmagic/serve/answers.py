"""Results as answers to requests."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping

import numpy as np

from prmagic.io.formats import rle
from prmagic.io.polygons import outlines
from prmagic.pictures import mask_image
from prmagic.result import Segmentation
from prmagic.serve.schemas import CandidateAnswer, InstanceAnswer, Mask, MaskAnswer, Output, Rle
from prmagic.types import BoolArray, Candidate, Instance


def mask_answer(
    result: Segmentation, reference: str | None, label: str, output: Output, candidates: bool
) -> MaskAnswer:
    """One label's result in one photo."""
    mask = result.mask
    return MaskAnswer(
        reference=reference,
        label=label,
        found=result.found,
        score=finite(result.score),
        predicted_iou=finite(result.predicted_iou),
        area=int(mask.sum()),
        box=box_of(mask),
        mask=encoded(mask, output),
        chosen=result.chosen,
        candidates=_candidates(result, output) if candidates else None,
        instances=None if result.instances is None else [_instance(each, output) for each in result.instances],
    )


def encoded(mask: BoolArray, output: Output) -> Mask:
    """(H, W) in the form that was asked for."""
    if output is Output.polygons:
        return [[round(float(number), 3) for number in polygon.ravel()] for polygon in outlines(mask)]
    if output is Output.png:
        with io.BytesIO() as file:
            mask_image(mask).save(file, "PNG")
            return base64.b64encode(file.getvalue()).decode("ascii")
    code: Mapping[str, object] = rle(mask)
    return Rle.model_validate(code)


def box_of(mask: BoolArray) -> tuple[int, int, int, int] | None:
    """x0, y0, x1, y1 around the object's pixels, without x1 and y1; None for an empty mask."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def finite(number: float) -> float | None:
    """JSON has no other numbers."""
    return float(number) if math.isfinite(number) else None


def _instance(instance: Instance, output: Output) -> InstanceAnswer:
    return InstanceAnswer(
        box=box_of(instance.mask), score=finite(instance.score), predicted_iou=finite(instance.predicted_iou),
        area=int(instance.mask.sum()), mask=encoded(instance.mask, output),
    )  # fmt: skip


def _candidates(result: Segmentation, output: Output) -> list[CandidateAnswer]:
    def answer(candidate: Candidate, score: float) -> CandidateAnswer:
        return CandidateAnswer(
            step=candidate.step, channel=candidate.channel, score=finite(score),
            predicted_iou=finite(candidate.predicted_iou),
            area=int(candidate.mask.sum()), mask=encoded(candidate.mask, output),
        )  # fmt: skip

    return [answer(candidate, score) for candidate, score in zip(result.candidates, result.scores, strict=True)]
