"""The routes under /v1, /health and /metrics."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import PlainTextResponse

from prmagic._version import __version__
from prmagic.serve.errors import RequestError
from prmagic.serve.schemas import (
    ModelList,
    Problem,
    ReferenceAnswer,
    ReferenceList,
    ReferenceRequest,
    SegmentAnswer,
    SegmentRequest,
)
from prmagic.serve.service import Service
from prmagic.serve.x_anylabeling import entries

PROBLEMS: dict[int | str, dict[str, Any]] = {
    422: {"model": Problem, "description": "Something in the request cannot be used; the sentence says what."},
    503: {"model": Problem, "description": "Too many wait already: come again after Retry-After seconds."},
}
MISSING: dict[int | str, dict[str, Any]] = {404: {"model": Problem, "description": "There is no such reference."}}
ReferenceName = Annotated[str, Path(max_length=64)]


def routes(service: Service) -> APIRouter:
    """Of a server."""
    router = APIRouter()

    @router.post("/v1/references", status_code=201, responses=PROBLEMS, tags=["references"])
    async def add_reference(body: ReferenceRequest, request: Request) -> ReferenceAnswer:
        """Learn from examples: photos, and where the thing is in each. The reference is kept until it is deleted."""
        return await service.learn(body, request)

    @router.get("/v1/references", tags=["references"])
    async def list_references() -> ReferenceList:
        """List what is kept. Files that cannot be read are left out."""

        def found() -> list[ReferenceAnswer]:
            answers = []
            for name in service.store.names():
                try:
                    answers.append(service.about(name))
                except RequestError:  # deleted meanwhile, or of another version
                    continue
            return answers

        return ReferenceList(references=await asyncio.to_thread(found))

    @router.get("/v1/references/{name}", responses=MISSING, tags=["references"])
    async def get_reference(name: ReferenceName) -> ReferenceAnswer:
        """Look a reference up."""
        return await asyncio.to_thread(service.about, name)

    @router.delete("/v1/references/{name}", status_code=204, responses=MISSING, tags=["references"])
    async def delete_reference(name: ReferenceName) -> None:
        """Delete a reference. Requests that use it already go on."""
        await asyncio.to_thread(service.store.remove, name)

    @router.post("/v1/segment", responses=PROBLEMS | MISSING, tags=["segment"])
    async def segment(body: SegmentRequest, request: Request) -> SegmentAnswer:
        """Find what references show, in photos."""
        return SegmentAnswer(photos=await service.segment(body, request))

    @router.get("/v1/models", tags=["server"])
    async def models() -> ModelList:
        """Tell what runs. `data` is for X-AnyLabeling: references as the models that it can choose."""
        return ModelList(models=[service.engine.about()], data=await asyncio.to_thread(entries, service))

    @router.get("/health", tags=["server"])
    async def health() -> dict[str, str]:
        """Whether the server is up."""
        return {"status": "UP", "version": __version__}

    @router.get("/metrics", response_class=PlainTextResponse, tags=["server"])
    async def metrics() -> Response:
        """Counters in Prometheus' text format."""
        text = await asyncio.to_thread(service.metrics.text)
        return Response(text, media_type="text/plain; version=0.0.4")

    return router
