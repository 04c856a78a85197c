"""The part of CVAT's REST API that cvat-sdk asks for one task of images, on this machine."""

from __future__ import annotations

import json
import threading
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

import numpy as np
from cvat_sdk.version import VERSION
from PIL import Image

MADE = "2026-01-01T00:00:00Z"


class Task:
    """Task 1: frames (H, W, 3) and labels of any type, and what was uploaded to it."""

    def __init__(self, frames: Sequence[np.ndarray], labels: Sequence[str]):
        self.frames, self.labels = frames, labels
        self.uploaded: dict[str, Any] = {}
        self.asked_of: list[str] = []

    def answer(self, path: str, query: str) -> Any:
        """JSON values, or bytes; None for what it does not know."""
        known = {
            "/api/server/about": {
                "name": "CVAT", "description": "", "version": VERSION, "logo_url": "", "subtitle": "",
            },
            "/api/tasks/1": {
                "id": 1, "name": "frames", "size": len(self.frames), "data_chunk_size": len(self.frames),
                "data_original_chunk_type": "imageset", "updated_date": MADE, "labels": {"url": ""},
                "jobs": {"count": 0, "completed": 0, "validation": 0}, "organization": None, "project_id": None,
            },
            "/api/labels": {
                "count": len(self.labels), "next": None, "previous": None,
                "results": [
                    {"id": 100 + i, "name": name, "type": "any", "attributes": [], "sublabels": []}
                    for i, name in enumerate(self.labels)
                ],
            },
            "/api/tasks/1/data/meta": {
                "chunks_updated_date": MADE, "deleted_frames": [],
                "frames": [
                    {"name": f"{i}.png", "width": frame.shape[1], "height": frame.shape[0], "related_files": 0}
                    for i, frame in enumerate(self.frames)
                ],
            },
        }  # fmt: skip
        return self._chunk() if path == "/api/tasks/1/data" and "type=chunk" in query else known.get(path)

    def _chunk(self) -> bytes:
        chunk = BytesIO()
        with zipfile.ZipFile(chunk, "w") as packed:
            for number, frame in enumerate(self.frames):
                picture = BytesIO()
                Image.fromarray(frame).save(picture, "PNG")
                packed.writestr(f"{number}.png", picture.getvalue())
        return chunk.getvalue()


@contextmanager
def serving(task: Task) -> Iterator[str]:
    """Its address, as --server-host takes it."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path, _, query = self.path.partition("?")
            path = path.rstrip("/")
            task.asked_of.append(path)
            found = task.answer(path, query)
            self._send(404 if found is None else 200, found)

        def do_PATCH(self) -> None:
            task.uploaded = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(200, {"version": 1, "tags": [], "shapes": [], "tracks": []})

        def _send(self, status: int, content: Any) -> None:
            body = content if isinstance(content, bytes) else json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/zip" if isinstance(content, bytes) else "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
