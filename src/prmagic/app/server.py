"""Serves the page: the one module, with `page`, that needs Gradio."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Nothing about the use of this page is told to anyone. Gradio looks at these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from prmagic.app.engine import Engine, Models, Settings
from prmagic.app.results import write_zip
from prmagic.app.visitor import Visitor
from prmagic.app.visitors import Visitors

# What a browser may load: this server's files and what is in the page itself. Gradio's templates need eval.
POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; font-src 'self' data:; "
    "object-src 'none'; frame-ancestors 'self'; base-uri 'self'"
)
HEADERS = (
    ("content-security-policy", POLICY),
    ("referrer-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
)


@dataclass(frozen=True)
class Address:
    """Where the page is served, and how large a file may be that comes in, in bytes."""

    host: str = "127.0.0.1"
    port: int = 7860
    max_upload: int = 50 << 20
    grace: float = 60.0  # seconds that a visitor's files outlive the connection


def serve(
    models: Models, settings: Settings, address: Address, root: Path | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:  # fmt: skip
    """Until interrupted. root: the folder below which visitors may name folders; ready: told the URL, when it answers.

    Whatever visitors brought is deleted at the end. Raises what `prmagic.load` raises, OSError for a port in use."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Every open tab holds a connection that never ends by itself; Gradio ends them when its event is set.
            for event in (getattr(getattr(route, "app", None), "stop_event", None) for route in app.routes):
                if event is not None:
                    event.set()
            await super().shutdown(sockets)

    with (
        tempfile.TemporaryDirectory(prefix="prmagic-", ignore_cleanup_errors=True) as folder,
        _listening(address) as listening,
    ):
        os.environ["GRADIO_TEMP_DIR"] = str(Path(folder) / "uploads")
        # So that the folder goes away then too; uvicorn hands the signal on when it has stopped.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        visitors = Visitors(Engine(models, settings), Path(folder) / "visitors", settings, root, address.grace)
        try:
            app = application(visitors, address)
            config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=2)
            host = f"[{address.host}]" if ":" in address.host else address.host
            ready(f"http://{host}:{listening.getsockname()[1]}/")
            Server(config).run(sockets=[listening])
        finally:
            visitors.close()


def application(visitors: Visitors, address: Address) -> Any:
    """The page and the visitors' files, as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import FileResponse
    from starlette.background import BackgroundTask

    from prmagic.app.page import HERE, build

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    def known(token: str) -> Visitor:
        visitor = visitors.with_token(token)
        if visitor is None:
            raise HTTPException(404, "This visit is over: its files are deleted.")
        return visitor

    @app.get("/visitors/{token}/files/{key:path}")
    def file(token: str, key: str) -> FileResponse:
        found = known(token).file(key)
        if found is None:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(found, headers={"Cache-Control": "private, max-age=3600"})

    @app.get("/visitors/{token}/results.zip")
    def take_results(token: str) -> FileResponse:
        visitor = known(token)
        place = visitor.folder / f"{secrets.token_hex(8)}.zip"
        with place.open("wb") as archive:
            write_zip(visitor, archive)
        return FileResponse(place, filename="results.zip", background=BackgroundTask(place.unlink, missing_ok=True))

    @app.get("/visitors/{token}/references/{label}.safetensors")
    def take_reference(token: str, label: str) -> FileResponse:
        visitor = known(token)
        if label not in visitor.sources:
            raise HTTPException(404, f"There is no class {label!r}.")
        place = visitor.folder / "references" / f"{label}.safetensors"
        try:
            visitors.engine.reference(visitor.settings, visitor.sources[label]).save(place)
        except ValueError as error:
            raise HTTPException(400, str(error)) from None
        return FileResponse(place, filename=place.name)

    app.add_middleware(_Guarded)
    return gr.mount_gradio_app(
        app, build(visitors), path="/", server_name=address.host, server_port=address.port, footer_links=[],
        run_history=False, show_error=False, max_file_size=address.max_upload, ssr_mode=False, pwa=False,
        theme=_theme(), css_paths=[HERE / "page.css"], js=(HERE / "page.js").read_text(encoding="utf-8"),
    )  # fmt: skip


class _Guarded:
    """Adds headers to every response; not Starlette's own kind of middleware, which holds up streams that never end."""

    def __init__(self, app: Any):
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *((name.encode(), text.encode()) for name, text in HEADERS)]
            await send(message)

        await self.app(scope, receive, with_headers)


def _theme() -> Any:
    """Gradio's default with the system's own fonts, where its own would come from Google."""
    import gradio as gr

    return gr.themes.Default(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"],
    ).set(
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="#0072b2", button_primary_background_fill_dark="#0072b2",
        button_primary_background_fill_hover="#005f96", button_primary_background_fill_hover_dark="#005f96",
    )  # fmt: skip


def _listening(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family)
    except OSError as error:
        raise OSError(
            f"cannot listen on {address.host}, port {address.port} ({error.strerror}): choose another --port, or 0 for "
            "any that is free"
        ) from None
