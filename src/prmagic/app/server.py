"""Serves the page. This module, `page` and `tabs` need Gradio."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# No telemetry. Gradio reads these when it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from prmagic.app.download import KINDS, write_zip
from prmagic.app.engine import Engine
from prmagic.app.folder import temporary_folder
from prmagic.app.settings import Models, Settings
from prmagic.app.visitor import Visitor
from prmagic.app.visitors import Visitors
from prmagic.serve.hosts import Hosts, listening, url_of


@dataclass(frozen=True)
class Address:
    """Where the page is served.

    Args:
        host: The address to listen on.
        port: 0 for any that is free.
        names: Further host names that the page answers to.
        max_upload: How large a file may be that comes in, in bytes.
        grace: Seconds that a visitor's files outlive the connection.
    """

    host: str = "127.0.0.1"
    port: int = 7860
    names: tuple[str, ...] = ()
    max_upload: int = 50 << 20
    grace: float = 60.0


def serve(
    models: Models, settings: Settings, address: Address, root: Path | None = None,
    ready: Callable[[str], None] = lambda url: None,
) -> None:  # fmt: skip
    """Serve the page until interrupted. Whatever visitors brought is deleted at the end, or by the next start.

    Args:
        models: That run.
        settings: What visitors begin with.
        address: Where.
        root: The folder below which visitors may name folders.
        ready: Called with the URL, when it answers.

    Raises:
        ValueError: What `prmagic.load` raises for the models and settings.
        OSError: The port is in use.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Every open tab holds a connection that never ends by itself; Gradio ends them when its event is set.
            for event in (getattr(getattr(route, "app", None), "stop_event", None) for route in app.routes):
                if event is not None:
                    event.set()
            await super().shutdown(sockets)

    with temporary_folder() as folder, listening(address.host, address.port) as listener:
        os.environ["GRADIO_TEMP_DIR"] = str(folder / "gradio")
        if threading.current_thread() is threading.main_thread():
            # So that the folder goes away then too; uvicorn hands the signal on when it has stopped.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        visitors = Visitors(Engine(models, settings), folder / "visitors", settings, root, address.grace)
        try:
            app = application(visitors, address, folder / "uploads")
            config = uvicorn.Config(app, log_level="warning", access_log=False, ws="none", timeout_graceful_shutdown=2)
            ready(url_of(address.host, listener))
            Server(config).run(sockets=[listener])
        finally:
            visitors.close()


def application(visitors: Visitors, address: Address, uploads_folder: Path) -> Any:
    """The page and the visitors' files, as an ASGI application."""
    import gradio as gr
    from fastapi import FastAPI

    from prmagic.app.components import HERE, Site
    from prmagic.app.gate import Gate
    from prmagic.app.page import build
    from prmagic.app.uploads import Uploads

    site = Site(visitors, Uploads(uploads_folder, address.max_upload))
    page = build(site)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _add_uploads(app, site)
    _add_downloads(app, visitors)
    hosts = Hosts(address.host, address.names)
    app.add_middleware(Gate, page=page, visitors=visitors, uploads=site.uploads, hosts=hosts)
    return gr.mount_gradio_app(
        app, page, path="/", server_name=address.host, server_port=address.port, footer_links=[],
        run_history=False, show_error=False, max_file_size=address.max_upload, ssr_mode=False, pwa=False,
        theme=_theme(), css_paths=[HERE / "page.css"], js=(HERE / "page.js").read_text(encoding="utf-8"),
    )  # fmt: skip


def _add_uploads(app: Any, site: Any) -> None:
    """In place of Gradio's own, which names files by their content and forgets who sent them."""
    from fastapi.responses import JSONResponse, PlainTextResponse

    async def upload(request: Any) -> JSONResponse:
        return JSONResponse(await site.uploads.receive(request, request.scope["browser"]))

    async def progress(request: Any) -> PlainTextResponse:
        return PlainTextResponse('data: {"msg": "done"}\n\n', media_type="text/event-stream")

    app.add_route("/gradio_api/upload", upload, methods=["POST"])
    app.add_route("/gradio_api/upload_progress", progress, methods=["GET"])


def _add_downloads(app: Any, visitors: Visitors) -> None:
    """What a visitor's own links lead to. The token in them is the secret."""
    from fastapi import HTTPException
    from fastapi.responses import FileResponse
    from starlette.background import BackgroundTask

    def known(token: str) -> Visitor:
        visitor = visitors.with_token(token)
        if visitor is None:
            raise HTTPException(404, "This visit is over: its files are deleted.")
        return visitor

    def file(token: str, key: str) -> FileResponse:
        found = known(token).workspace.file(key)
        if found is None:
            raise HTTPException(404, "There is no such file.")
        return FileResponse(found, headers={"Cache-Control": "private, max-age=3600"})

    def results(token: str, kind: str) -> FileResponse:
        visitor = known(token)
        if kind not in KINDS:
            raise HTTPException(404, "There is no such download.")
        place = visitor.workspace.folder / f"{secrets.token_hex(8)}.zip"
        try:
            with place.open("wb") as archive:
                write_zip(visitor, kind, archive)
        except ValueError as error:
            place.unlink(missing_ok=True)
            raise HTTPException(400, str(error)) from None
        return FileResponse(place, filename=f"{kind}.zip", background=BackgroundTask(place.unlink, missing_ok=True))

    def reference(token: str, label: str) -> FileResponse:
        visitor = known(token)
        if label not in visitor.sources:
            raise HTTPException(404, "There is no such class.")
        place = visitor.workspace.folder / "references" / f"{label}.safetensors"
        try:
            visitors.engine.reference(visitor.settings, visitor.sources[label]).save(place)
        except ValueError:
            raise HTTPException(400, "This reference does not fit the settings of part 2.") from None
        return FileResponse(place, filename=place.name)

    app.add_api_route("/visitors/{token}/files/{key:path}", file, methods=["GET"], response_model=None)
    app.add_api_route("/visitors/{token}/{kind}.zip", results, methods=["GET"], response_model=None)
    app.add_api_route(
        "/visitors/{token}/references/{label}.safetensors", reference, methods=["GET"], response_model=None
    )


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
