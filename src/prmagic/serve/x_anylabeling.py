"""What X-AnyLabeling's remote server speaks: each reference is a model that it can choose, and one is all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from prmagic.io.formats import unrle
from prmagic.io.polygons import outlines, without_specks
from prmagic.serve.engine import Segment
from prmagic.serve.errors import RequestError, Unfit
from prmagic.serve.inputs import PhotoFile
from prmagic.serve.schemas import MOST_REFERENCES, Base64, Mask, MaskAnswer, Number, Output, Rle
from prmagic.serve.service import Service

ALL = "*"  # the model of all references; no reference has this id
WIDGETS = (
    {"name": "button_run"},
    {"name": "edit_conf", "value": 0.0},
    {"name": "toggle_preserve_existing_annotations"},
)


class Parameters(BaseModel):
    """Of X-AnyLabeling's controls those that mean something here."""

    conf_threshold: Number = Field(0.0, description="What has a lower score is left out.")


class PredictRequest(BaseModel):
    """A photo, and what to find in it."""

    model: str = Field(max_length=64, description="An entry of `data` in /v1/models.")
    image: Base64
    params: Parameters = Parameters(conf_threshold=0.0)


def entries(service: Service) -> dict[str, dict[str, Any]]:
    """The models that X-AnyLabeling offers."""
    names = {name: label or name for name, label in _fitting(service)}
    found = {name: {"display_name": f"{label} ({name})", "widgets": [*WIDGETS]} for name, label in names.items()}
    return {ALL: {"display_name": "all references", "widgets": [*WIDGETS]}, **found} if len(found) > 1 else found


def routes(service: Service, instances: bool) -> APIRouter:
    """The route that it predicts with."""
    router = APIRouter(tags=["X-AnyLabeling"])

    @router.post("/v1/predict")
    async def predict(body: PredictRequest, request: Request) -> dict[str, Any]:
        """Find a reference, or all of them, in one photo."""
        names = [name for name, _ in _fitting(service)] if body.model == ALL else [body.model]
        if not names:
            raise Unfit("there is no reference yet: make one with /v1/references")
        if len(names) > MOST_REFERENCES:
            raise RequestError(f"{len(names)} references are too many at once: choose one of them")
        references = tuple((name, service.store.get(name)) for name in names)
        for name, reference in references:
            service.engine.check(reference, name)
        work = Segment(
            service.engine, references, (), Output.rle, instances=instances, candidates=False, overlaps=False
        )
        (answer,) = await service.answers(work, [PhotoFile("image", body.image)], request)
        service.metrics.photos.inc()
        shapes: list[dict[str, Any]] = []
        for found in answer.masks:
            shapes += _shapes(found, body.params.conf_threshold, len(shapes))
        return {"success": True, "data": {"shapes": shapes, "description": ""}}

    return router


def _fitting(service: Service) -> list[tuple[str, str]]:
    """(id, label) of the references that this server's model made."""
    found = []
    for name in service.store.names():
        try:
            about = service.about(name)
        except RequestError:
            continue
        if about.fits:
            found.append((name, about.label))
    return found


def _shapes(found: MaskAnswer, least: float, taken: int) -> list[dict[str, Any]]:
    """Polygons; the parts of one thing are a group."""
    things: list[tuple[Mask, float | None]] = [(found.mask, found.score)]
    if found.instances is not None:
        things = [(each.mask, each.score) for each in found.instances]
    shapes: list[dict[str, Any]] = []
    for code, score in things:
        assert isinstance(code, Rle)
        mask = unrle(code.model_dump())
        if not mask.any() or (score is not None and score < least):
            continue
        parts = outlines(without_specks(mask))
        group = taken + len(shapes) + 1 if len(parts) > 1 else None
        for part in parts:
            closed = np.concatenate([part, part[:1]]).round(3).tolist()
            label = found.label or "object"
            shapes.append(
                {"label": label, "shape_type": "polygon", "points": closed, "score": score, "group_id": group}
            )
    return shapes
