"""Files on their way in: each waits under a key that nobody can guess, until its visitor uses it, once."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

from prmagic.app.workspace import Upload
from prmagic.io.finding import IMAGE_SUFFIXES

MAX_WAITING = 2 << 30  # bytes of all files that wait
MAX_REQUEST = 1 << 30
MAX_FILES = 1000  # in one request
PATIENCE = 600.0  # seconds that a file waits


@dataclass(frozen=True)
class _Waiting:
    file: Path
    browser: str
    size: int
    since: float = field(default_factory=time.monotonic)


class Uploads:
    """The files that wait.

    Args:
        folder: Where they lie.
        max_bytes: Larger files are refused.
    """

    def __init__(self, folder: Path, max_bytes: int):
        self.folder, self.max_bytes = folder, max_bytes
        self._waiting: dict[str, _Waiting] = {}
        self._lock = threading.Lock()
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)

    async def receive(self, request: Request, browser: str) -> list[str]:
        """Take the files of a request.

        Returns:
            A key for each.

        Raises:
            HTTPException: They are too large, or too many; or the request holds no files.
        """
        limited = Request(request.scope, _limited(request.receive, min(MAX_REQUEST, MAX_FILES * self.max_bytes)))
        async with limited.form(max_files=MAX_FILES, max_fields=10) as form:
            files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
            if any((file.size or 0) > self.max_bytes for file in files):
                raise HTTPException(413, f"A file is larger than {self.max_bytes >> 20 or 1} MB.")
            keys = [await run_in_threadpool(self._store, file, browser) for file in files]
        self._forget_old()
        return keys

    def belong(self, keys: Iterable[str], browser: str) -> bool:
        """Whether all of these files wait, and came from this browser."""
        with self._lock:
            waiting = [self._waiting.get(key) for key in keys]
        return all(one and secrets.compare_digest(one.browser.encode(), browser.encode()) for one in waiting)

    def use(self, named: Iterable[tuple[str, str]]) -> list[Upload]:
        """The files of (key, name), which wait no longer. A key that waits no more gives none."""
        with self._lock:
            found = [(self._waiting.pop(key, None), name) for key, name in named]
        return [Upload(waiting.file, name) for waiting, name in found if waiting]

    def _store(self, file: UploadFile, browser: str) -> str:
        key = secrets.token_urlsafe(24)
        suffix = PurePosixPath(file.filename or "").suffix.lower()
        place = self.folder / f"{secrets.token_hex(16)}{suffix if suffix in IMAGE_SUFFIXES else ''}"
        with place.open("wb") as copy:
            shutil.copyfileobj(file.file, copy)
        with self._lock:
            self._waiting[key] = _Waiting(place, browser, file.size or 0)
        return key

    def _forget_old(self) -> None:
        """Delete what waits for too long, and the oldest if all take too much: nobody can fill the place for others."""
        latest = time.monotonic() - PATIENCE
        with self._lock:
            left = sum(waiting.size for waiting in self._waiting.values())
            files = []
            for key, waiting in list(self._waiting.items()):  # the oldest first
                if waiting.since > latest and left <= MAX_WAITING:
                    break
                files.append(self._waiting.pop(key).file)
                left -= waiting.size
        for file in files:
            file.unlink(missing_ok=True)


def _limited(receive: Receive, most: int) -> Receive:
    """The same messages, up to so many bytes."""
    taken = 0

    async def limited() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > most:
            raise HTTPException(413, "The files are too large together: send fewer at once.")
        return message

    return limited
