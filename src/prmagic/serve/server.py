"""Builds the server and runs it. Needs the extra `serve`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from fastapi_offline import FastAPIOffline

from prmagic._version import __version__
from prmagic.serve import label_studio, x_anylabeling
from prmagic.serve.engine import Engine
from prmagic.serve.errors import RequestError
from prmagic.serve.gate import OPEN, Gate, Rules
from prmagic.serve.hosts import Hosts, is_loopback, listening, url_of
from prmagic.serve.label_studio_api import Access, LabelStudio
from prmagic.serve.routes import routes
from prmagic.serve.service import ClientGone, Limits, Service, sentence
from prmagic.serve.store import Store

SHOWN = 3  # problems of one request
SHORTEST_TOKEN = 16
CONNECTIONS = 256


@dataclass(frozen=True)
class Address:
    """Where the server listens, and who may use it.

    Args:
        host: An address of this machine.
        port: 0 for any that is free.
        names: Further host names that it answers to.
        token: That requests must show; needed unless only this machine can reach the host.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is None and not is_loopback(self.host):
            raise ValueError(f"others can reach {self.host}: set a --token that they must know")
        if self.token is not None and (len(self.token) < SHORTEST_TOKEN or not self.token.isascii()):
            raise ValueError(f"a token has {SHORTEST_TOKEN} or more letters and digits: make one by chance")


@dataclass(frozen=True)
class Plan:
    """What to serve.

    Args:
        models: For `prmagic.load`.
        store: The folder of the references.
        address: Where.
        limits: What a request may have.
        root: The folder below which requests may name files; None: they may not.
        label_studio: The Label Studio whose ML backend it is.
        instances: Labelling tools get one region per thing.
    """

    models: Mapping[str, Any]
    store: Path
    address: Address = field(default_factory=Address)
    limits: Limits = field(default_factory=Limits)
    root: Path | None = None
    label_studio: Access | None = None
    instances: bool = False


def serve(plan: Plan, ready: Callable[[str], None] = lambda url: None) -> None:
    """Serve until interrupted. Requests that are being answered are finished.

    Args:
        plan: What and where.
        ready: Called with the URL, when it answers.

    Raises:
        ValueError: What `prmagic.load` raises for the models.
        OSError: The port is in use, or the store cannot be written.
    """
    import uvicorn

    with listening(plan.address.host, plan.address.port) as listener:
        app = application(plan)
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=int(plan.limits.timeout), server_header=False,
        )  # fmt: skip
        ready(url_of(plan.address.host, listener))
        uvicorn.Server(config).run(sockets=[listener])


def application(plan: Plan) -> FastAPI:
    """The server as an ASGI application. The models are loaded here.

    Raises:
        ValueError, OSError: As for `serve`.
    """
    service = Service(Engine(plan.models), Store(plan.store), plan.limits, plan.root)

    studio = None if plan.label_studio is None else LabelStudio(plan.label_studio, plan.limits.max_upload)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        if studio is not None:
            await studio.close()
        service.close()

    secured = [Depends(HTTPBearer(auto_error=False))] if plan.address.token else []
    app = FastAPIOffline(
        docs_url="/docs", redoc_url=None, static_url="/docs-files", title="prmagic", version=__version__,
        description="Mark a thing in one photo, and find it in others.", lifespan=lifespan, dependencies=secured,
    )  # fmt: skip
    app.include_router(routes(service))
    app.include_router(x_anylabeling.routes(service, plan.instances))
    if studio is not None:
        projects = label_studio.Projects(service, studio, plan.instances)
        app.include_router(label_studio.routes(projects))
    app.state.service = service
    _add_errors(app)
    hosts = Hosts(plan.address.host, plan.address.names)
    rules = Rules(hosts, plan.address.token, plan.limits.max_upload, (*OPEN, label_studio.WEBHOOK))
    app.add_middleware(Gate, rules=rules, count=service.metrics.count)
    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> JSONResponse:
        headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
        return JSONResponse({"detail": str(error)}, error.status, headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return JSONResponse({"detail": "; ".join(map(sentence, error.errors()[:SHOWN]))}, 422)

    @app.exception_handler(ClientGone)
    async def gone(request: Request, error: ClientGone) -> JSONResponse:
        return JSONResponse({"detail": "nobody waits for this"}, 499)
