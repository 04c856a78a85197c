"""What all routes share: the models, their thread, the references, and how an answer is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request

from prmagic.reference import Header, Reference
from prmagic.serve.engine import Engine, Learn, Segment, Settings
from prmagic.serve.inputs import Files
from prmagic.serve.metrics import Metrics
from prmagic.serve.schemas import PhotoAnswer, ReferenceAnswer, ReferenceRequest, SegmentRequest
from prmagic.serve.store import Store
from prmagic.serve.worker import Job, Work, Worker

TICK = 0.5  # seconds between two looks whether the client is still there
PLAIN = {"extra_forbidden": "there is no such field", "model_attributes_type": "must be a JSON object"}


class ClientGone(Exception):
    """Nobody waits for the answer."""


@dataclass(frozen=True)
class Limits:
    """What a server takes.

    Args:
        max_upload: Bytes of a request, and of a file below the root.
        queue: Requests that may wait.
        batch_size: Photos given to the models together.
        timeout: Seconds that a request may take.
    """

    max_upload: int = 50 << 20
    queue: int = 32
    batch_size: int = 8
    timeout: float = 120.0


@dataclass(eq=False)
class Service:
    """One server's state.

    Args:
        engine: The models.
        store: The references.
        limits: What it takes.
        root: The folder below which requests may name files.
    """

    engine: Engine
    store: Store
    limits: Limits = field(default_factory=Limits)
    root: Path | None = None

    def __post_init__(self) -> None:
        self.files = Files(self.root, self.limits.max_upload)
        self.worker = Worker(self.limits.queue, self.limits.batch_size)
        self.metrics = Metrics(self.worker, self.store)

    async def learn(self, body: ReferenceRequest, request: Request) -> ReferenceAnswer:
        """Make a reference and keep it."""
        supports = await asyncio.to_thread(self._supports, body.supports, "supports")
        (learned,) = await self.answers(Learn(self.engine, body.label), [supports], request)
        name = await asyncio.to_thread(self.store.add, learned.reference)
        answer = await asyncio.to_thread(self.about, name)
        return answer.model_copy(update={"notes": learned.notes})

    async def segment(self, body: SegmentRequest, request: Request) -> list[PhotoAnswer]:
        """Find things in photos."""
        settings = await asyncio.to_thread(self.engine.checked, body.settings)
        references = await self._references(body, settings, request)
        work = Segment(self.engine, references, settings, body.output, body.instances, body.candidates, body.overlaps)
        photos = await asyncio.to_thread(
            lambda: [self.files.photo(photo, f"photos[{place}]") for place, photo in enumerate(body.photos)]
        )
        found = await self.answers(work, photos, request)
        self.metrics.photos.inc(len(found))
        return found

    async def answers(self, work: Work, photos: Sequence[Any], request: Request | None) -> list[Any]:
        """Wait for the worker; a client that goes away takes its photos out of the queue."""
        job = self.worker.submit(work, photos, self.limits.timeout)
        return await _answered(job, request)

    def about(self, name: str) -> ReferenceAnswer:
        """What is known of a reference; Unknown if there is none."""
        header: Header = self.store.header(name)
        return ReferenceAnswer(
            id=name, label=header.label, supports=header.supports, fits=self.engine.made(header.made_by)
        )

    def close(self) -> None:
        """Finish what waits."""
        self.worker.close()

    async def _references(
        self, body: SegmentRequest, settings: Settings, request: Request
    ) -> tuple[tuple[str | None, Reference], ...]:
        if body.supports:
            supports = await asyncio.to_thread(self._supports, body.supports, "supports")
            (learned,) = await self.answers(Learn(self.engine, body.label, settings), [supports], request)
            return ((None, learned.reference),)

        def load() -> tuple[tuple[str | None, Reference], ...]:
            found = [(name, self.store.get(name)) for name in body.references]
            for name, reference in found:
                self.engine.check(reference, name, settings)
            return tuple(found)

        return await asyncio.to_thread(load)

    def _supports(self, given: Sequence[Any], where: str) -> list[Any]:
        return [self.files.support(support, f"{where}[{place}]") for place, support in enumerate(given)]


async def _answered(job: Job, request: Request | None) -> list[Any]:
    waiting = asyncio.wrap_future(job.future)
    try:
        while not waiting.done():
            await asyncio.wait({waiting}, timeout=TICK)
            if job.over or waiting.done():
                break
            if request is not None and await request.is_disconnected():
                raise ClientGone
        return await waiting
    finally:
        waiting.cancel()


def sentence(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors, for people; nothing of the value is repeated."""
    kind, (_, *parts) = problem["type"], problem["loc"]
    if kind == "json_invalid":
        return f"the request is not valid JSON, from character {parts[0]} on: {problem['ctx']['error']}"
    if not parts and kind in ("model_attributes_type", "missing"):
        return "the request must be a JSON object, with the header Content-Type: application/json"
    place = ""
    for part in parts:
        place += f"[{part}]" if isinstance(part, int) else f".{str(part)[:64]!a}"[:70].replace("'", "")
    said = PLAIN.get(kind) or problem["msg"].removeprefix("Value error, ")
    return f"{place.lstrip('.') or 'the request'}: {said}"
