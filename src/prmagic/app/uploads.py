"""Files on their way in: each waits under a key that nobody can guess, until its visitor uses it, once."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from fastapi import HTTPException, Request
from fastapi.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

from prmagic.app.workspace import Upload
from prmagic.io.finding import IMAGE_SUFFIXES

MAX_WAITING = 2 << 30  # bytes of all files that wait, and of all that are on their way
LEAST = 64 << 10  # bytes that a file counts as, as empty ones fill a disk too
MAX_REQUEST = 1 << 30
MAX_FILES = 1000  # in one request
PATIENCE = 600.0  # seconds that a file waits, and that a request may take
PAUSE = 30.0  # seconds between two pieces of a request


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
        self._coming = 0  # bytes of the requests that are being read
        self._lock = threading.Lock()
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)

    async def receive(self, request: Request, browser: str) -> list[str]:
        """Take the files of a request.

        Returns:
            A key for each.

        Raises:
            HTTPException: They are too large, or too many; or the request holds no files.
        """
        with self._limited(request.receive) as receive:
            async with Request(request.scope, receive).form(max_files=MAX_FILES, max_fields=10) as form:
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
            self._waiting[key] = _Waiting(place, browser, max(LEAST, file.size or 0))
        return key

    @contextmanager
    def _limited(self, receive: Receive) -> Iterator[Receive]:
        """The same messages, up to so many bytes, while they come."""
        most, until = min(MAX_REQUEST, MAX_FILES * self.max_bytes), time.monotonic() + PATIENCE
        taken = 0

        async def limited() -> Message:
            nonlocal taken
            try:
                message = await next_message(receive, until)
            except TimeoutError:
                raise HTTPException(408, "The files come too slowly.") from None
            if message["type"] == "http.disconnect":
                raise HTTPException(400, "The connection ended too early.")
            size = len(message.get("body", b""))
            taken += size
            self._coming += size
            if taken > most:
                raise HTTPException(413, "The files are too large together: send fewer at once.")
            if self._coming > MAX_WAITING:
                raise HTTPException(503, "Too much is being uploaded just now: try again in a minute.")
            return message

        try:
            yield limited
        finally:
            self._coming -= taken

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


async def next_message(receive: Receive, until: float) -> Message:
    """The next piece of a request; TimeoutError if it is late, or if the clock is past `until`."""
    try:
        return await asyncio.wait_for(receive(), min(PAUSE, until - time.monotonic()))
    except asyncio.TimeoutError:  # another class before Python 3.11
        raise TimeoutError("the request comes too slowly") from None
