"""Label Studio's ML backend: what is annotated in a project becomes references, which pre-annotate its tasks.

Label Studio's calls only say that something has changed. What there is to learn is read from Label Studio itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from prmagic._version import __version__
from prmagic.io.formats import unrle
from prmagic.reference import Reference
from prmagic.serve.engine import Learn, Learned, Segment
from prmagic.serve.errors import RequestError, Unfit, Unknown
from prmagic.serve.inputs import PhotoFile
from prmagic.serve.label_studio_api import LabelStudio
from prmagic.serve.labelling import Annotated, Interface, marked_labels, predicted
from prmagic.serve.schemas import Output, PhotoAnswer, Rle
from prmagic.serve.service import Service

log = logging.getLogger(__name__)

PREFIX = "/label-studio"
WEBHOOK = f"{PREFIX}/webhook"  # Label Studio sends no password there; it only makes the server look again
MOST_SUPPORTS = 10  # of a label: the tasks that were annotated last
TOGETHER = 8  # tasks whose photos are in memory at once
VERSION = f"prmagic {__version__}"

MadeFrom = list[tuple[int, int, str]]  # task, annotation, when it was changed


class _Call(BaseModel):
    project: str = Field(max_length=100)

    @property
    def number(self) -> int:
        """Label Studio sends the project's number, a dot, and when it was made."""
        start = self.project.partition(".")[0]
        if not start.isdecimal() or len(start) > 15:
            raise RequestError("project: must be the number of a project")
        return int(start)


class SetupCall(_Call):
    """The project is connected, or Label Studio looks whether it still is."""

    config: str = Field(alias="schema")


class Task(BaseModel):
    """A task; `data` names its photo."""

    id: int
    data: dict[str, Any]


class PredictCall(_Call):
    """Tasks to pre-annotate."""

    tasks: list[Task] = Field(max_length=10_000)
    label_config: str


class _Project(BaseModel):
    id: int


class WebhookCall(BaseModel):
    """Something has happened in a project."""

    action: str = Field(max_length=100)
    project: _Project | None = None


@dataclass(eq=False)
class Project:
    """What was learnt in one project, and why not more; `learning` runs as long as there is news."""

    number: int
    made_from: dict[str, MadeFrom] = field(default_factory=dict)
    problem: str = ""
    news: bool = False
    learning: asyncio.Task[None] | None = None

    @property
    def version(self) -> str:
        """Differs when something else was learnt: Label Studio then asks for new predictions."""
        if not self.made_from:
            return f"{VERSION}, nothing learnt yet"
        content = json.dumps(self.made_from, sort_keys=True).encode()
        return f"{VERSION}, {hashlib.sha256(content).hexdigest()[:8]}"

    def name(self, label: str) -> str:
        """The id of a label's reference."""
        return f"ls-{self.number}-{hashlib.sha256(label.encode()).hexdigest()[:12]}"


@dataclass(frozen=True, eq=False)
class _Support:
    """A label's regions in the last annotation of a task; address: of the photo."""

    task: int
    annotation: int
    changed: str
    address: str
    regions: Sequence[Mapping[str, Any]]

    @property
    def made_from(self) -> tuple[int, int, str]:
        return self.task, self.annotation, self.changed


class Projects:
    """All projects that were connected. What they know survives a restart.

    Args:
        service: What learns and predicts.
        studio: Where the projects are.
        instances: Predict one region per thing.
    """

    def __init__(self, service: Service, studio: LabelStudio, instances: bool):
        self.service, self.studio, self.instances = service, studio, instances
        self.folder = service.store.folder / "label-studio"
        self.folder.mkdir(exist_ok=True)
        self.known: dict[int, Project] = {}
        for file in sorted(self.folder.glob("*.json")):
            try:
                made_from = {label: [tuple(each) for each in used] for label, used in _read(file).items()}
                self.known[int(file.stem)] = Project(int(file.stem), made_from, news=True)
            except (ValueError, TypeError, AttributeError):
                log.warning("%s is damaged: the project is learnt anew", file.name)

    def connect(self, number: int) -> Project:
        """A project that Label Studio has connected."""
        if number not in self.known:
            self.known[number] = Project(number, news=True)
        project = self.known[number]
        if project.news or project.problem:
            self.learn(project)
        return project

    def learn(self, project: Project) -> None:
        """Look what has changed, as soon as an earlier look is over."""
        project.news = True
        if project.learning is None or project.learning.done():
            project.learning = asyncio.create_task(self._learn(project))

    async def _learn(self, project: Project) -> None:
        while project.news:
            project.news, project.problem = False, ""
            try:
                await self._update(project)
            except RequestError as error:
                project.problem = str(error)
                log.warning("project %d: %s", project.number, error)
            except Exception:  # whatever Label Studio sends: the next call tries again
                project.problem = "the server's log says why"
                log.exception("project %d", project.number)

    async def _update(self, project: Project) -> None:
        interface = Interface.parse(await self.studio.config(project.number))
        tasks = await self.studio.annotated_tasks(project.number)
        wanted = _supports(tasks, interface)
        for label, supports in wanted.items():
            made_from = [support.made_from for support in supports]
            if made_from == project.made_from.get(label) and await asyncio.to_thread(self._fits, project, label):
                continue
            if used := await self._make(project, label, supports):
                project.made_from[label] = used
                await asyncio.to_thread(_write, self.folder / f"{project.number}.json", project.made_from)
            else:
                await self._forget(project, label)
        for label in [label for label in project.made_from if label not in wanted]:
            await self._forget(project, label)

    def _fits(self, project: Project, label: str) -> bool:
        try:
            return self.service.about(project.name(label)).fits
        except RequestError:
            return False

    async def _forget(self, project: Project, label: str) -> None:
        if project.made_from.pop(label, None) is not None:
            with suppress(Unknown):
                await asyncio.to_thread(self.service.store.remove, project.name(label))
            await asyncio.to_thread(_write, self.folder / f"{project.number}.json", project.made_from)

    async def _make(self, project: Project, label: str, supports: Sequence[_Support]) -> MadeFrom:
        """A label's reference; what it was made from, without supports that cannot be used."""
        read: list[tuple[_Support, Annotated]] = []
        for support in supports:
            where = f"project {project.number}, task {support.task}, {label}"
            try:
                photo = await self.studio.photo(support.address, support.task)
                read.append((support, Annotated(where, photo, support.regions)))
            except RequestError as error:
                log.warning("%s: left out: %s", where, error)
        while read:
            try:
                examples = [annotated for _, annotated in read]
                (learned,) = await self.service.answers(Learn(self.service.engine, label), [examples], None)
            except RequestError as error:
                good = [each for each in read if not str(error).startswith(f"{each[1].where}:")]
                if len(good) == len(read):  # it is not about one of them: the next call tries again
                    raise
                log.warning("left out: %s", error)
                read = good
                continue
            assert isinstance(learned, Learned)
            await asyncio.to_thread(self.service.store.add, learned.reference, project.name(label))
            return [support.made_from for support, _ in read]
        return []

    async def predict(self, call: PredictCall, request: Request) -> dict[str, Any]:
        """Pre-annotate tasks, after what is being learnt is learnt."""
        project, interface = self.connect(call.number), Interface.parse(call.label_config)
        if project.learning is not None:
            await asyncio.wait({project.learning}, timeout=self.service.limits.timeout / 2)
        references = await asyncio.to_thread(self._references, project, interface)
        if not references:
            raise Unfit(f"nothing is learnt yet: {project.problem or 'annotate a task first'}")
        results = []
        for start in range(0, len(call.tasks), TOGETHER):
            some = call.tasks[start : start + TOGETHER]
            results += await self._results(some, interface, references, request)
        for result in results:
            result["model_version"] = project.version
        return {"results": results, "model_version": project.version}

    def _references(self, project: Project, interface: Interface) -> tuple[tuple[str, Reference], ...]:
        found = []
        for label in interface.labels:
            if label in project.made_from:
                reference = self.service.store.get(project.name(label))
                self.service.engine.check(reference, project.name(label))
                found.append((project.name(label), reference))
        return tuple(found)

    async def _results(
        self, tasks: Sequence[Task], interface: Interface, references: Any, request: Request
    ) -> list[dict[str, Any]]:
        """One prediction per task; an empty one where the photo cannot be used."""
        photos: dict[int, PhotoFile] = {}
        for place, task in enumerate(tasks):
            try:
                content = await self.studio.photo(str(task.data.get(interface.field, "")), task.id)
                photos[place] = PhotoFile(f"task {task.id}", content)
            except RequestError as error:
                log.warning("task %d: %s", task.id, error)
        work = Segment(
            self.service.engine, references, (), Output.rle, self.instances, candidates=False, overlaps=False
        )
        results: list[dict[str, Any]] = [{"result": [], "score": 0.0} for _ in tasks]
        for place, photo in photos.items():
            try:
                (answer,) = await self.service.answers(work, [photo], request)
            except RequestError as error:
                if error.status >= 500:
                    raise
                log.warning("%s", error)
                continue
            self.service.metrics.photos.inc()
            results[place] = _prediction(answer, interface)
        return results


def _supports(tasks: Sequence[Mapping[str, Any]], interface: Interface) -> dict[str, list[_Support]]:
    """What the labels are learnt from: of each task the annotation that was changed last."""
    found: dict[str, list[_Support]] = {}
    for task in tasks:
        given = [each for each in task.get("annotations", []) if not each.get("was_cancelled") and each.get("result")]
        address = task.get("data", {}).get(interface.field)
        if not given or not isinstance(address, str):
            continue
        last = max(given, key=lambda each: str(each.get("updated_at")))
        for label, regions in marked_labels(last["result"], interface).items():
            used = found.setdefault(label, [])
            if len(used) < MOST_SUPPORTS:
                used.append(_Support(int(task["id"]), int(last["id"]), str(last.get("updated_at")), address, regions))
    return {label: sorted(used, key=lambda each: each.task) for label, used in found.items()}


def _prediction(answer: PhotoAnswer, interface: Interface) -> dict[str, Any]:
    result: list[dict[str, Any]] = []
    for found in answer.masks:
        for thing in [found] if found.instances is None else found.instances:
            assert isinstance(thing.mask, Rle)
            mask = unrle(thing.mask.model_dump())
            result += predicted(found.label, mask, thing.score, interface, len(result) + 1)
    scores = [found.score for found in answer.masks if found.found and found.score is not None]
    return {"result": result, "score": sum(scores) / len(scores) if scores else 0.0}


def _read(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["made_from"]
    return content


def _write(file: Path, made_from: Mapping[str, MadeFrom]) -> None:
    unfinished = file.with_suffix(f".{os.getpid()}.tmp")
    unfinished.write_text(json.dumps({"made_from": made_from}), encoding="utf-8")
    unfinished.replace(file)


def routes(projects: Projects) -> APIRouter:
    """The protocol of an ML backend."""
    router = APIRouter(prefix=PREFIX, tags=["Label Studio"])

    @router.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server is up."""
        return {"status": "UP", "model_class": "prmagic"}

    @router.post("/setup")
    async def setup(call: SetupCall) -> dict[str, str]:
        """Connect a project."""
        Interface.parse(call.config)
        return {"model_version": projects.connect(call.number).version}

    @router.post("/predict")
    async def predict(call: PredictCall, request: Request) -> dict[str, Any]:
        """Pre-annotate tasks."""
        return await projects.predict(call, request)

    @router.post("/webhook")
    async def webhook(call: WebhookCall) -> dict[str, str]:
        """Look what has changed in a project. Label Studio waits one second for the answer."""
        project = projects.known.get(call.project.id) if call.project else None
        if project is not None and (call.action.startswith(("ANNOTATION", "TASKS_DEL", "START", "PROJECT_UPDATED"))):
            projects.learn(project)
        return {}

    @router.get("/versions")
    async def versions() -> dict[str, list[str]]:
        """The versions that can be asked for."""
        return {"versions": [VERSION]}

    return router
