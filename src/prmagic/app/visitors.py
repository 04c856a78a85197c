"""Who is here: each browser tab is a visitor with a folder of its own, which goes when the tab does."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prmagic.app.engine import Engine
from prmagic.app.settings import Settings
from prmagic.app.visitor import Visitor
from prmagic.app.workspace import Workspace

MOST = 100  # visitors at once


class ForeignSession(ValueError):
    """A session that began in another browser."""


@dataclass
class Session:
    """A tab's visit.

    Args:
        browser: The secret in the browser's cookie; empty for a client that keeps no cookies.
        visitor: All that it has.
        connections: How many answers it is waiting for; an open tab always waits for one.
        seen: The time of its last request.
    """

    browser: str
    visitor: Visitor
    connections: int = 0
    seen: float = field(default_factory=time.monotonic)


class Visitors:
    """All visitors, by the session that Gradio's page gives to each tab.

    Args:
        engine: The models.
        folder: Where the visitors' folders are made.
        settings: What everybody begins with.
        root: The folder below which visitors may name folders.
        grace: Seconds between a broken connection and the end of what belonged to it, as a phone may come back.
    """

    def __init__(self, engine: Engine, folder: Path, settings: Settings, root: Path | None = None, grace: float = 60.0):
        self.engine, self.folder, self.settings, self.root, self.grace = engine, folder, settings, root, grace
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._closed = threading.Event()
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        threading.Thread(target=self._watch, name="visitors", daemon=True).start()

    def enter(self, session: str, browser: str) -> Visitor:
        """The visitor of a session, a new one the first time.

        Raises:
            ForeignSession: The session began in another browser.
            ValueError: There are too many visitors.
        """
        with self._lock:
            known = self._sessions.get(session)
            if known is None:
                gone = self._make_room()
                folder = self.folder / secrets.token_urlsafe(16)
                folder.mkdir(mode=0o700)
                workspace = Workspace(self.engine, folder, self.settings, self.root)
                known = self._sessions[session] = Session(browser, Visitor(workspace))
            else:
                gone = None
                if not secrets.compare_digest(known.browser.encode(), browser.encode()):
                    raise ForeignSession("this session began in another browser")
            known.seen = time.monotonic()
        if gone is not None:
            gone.close()
        return known.visitor

    def of(self, session: str) -> Visitor:
        """The visitor of a session that has entered."""
        with self._lock:
            if session not in self._sessions:
                raise ValueError("this visit is over: reload the page")
            return self._sessions[session].visitor

    @contextmanager
    def connected(self, session: str) -> Iterator[None]:
        """While the session waits for an answer, nothing that belongs to it is deleted."""
        with self._lock:
            known = self._sessions.get(session)
            if known is not None:
                known.connections += 1
        try:
            yield
        finally:
            if known is not None:
                with self._lock:
                    known.connections -= 1
                    known.seen = time.monotonic()

    def with_token(self, token: str) -> Visitor | None:
        """The visitor with that token, or None."""
        given = token.encode()
        with self._lock:
            visitors = [known.visitor for known in self._sessions.values()]
        return next((one for one in visitors if secrets.compare_digest(one.workspace.token.encode(), given)), None)

    def close(self) -> None:
        """Nobody is here any more, and no folder."""
        self._closed.set()
        with self._lock:
            for known in self._sessions.values():
                known.visitor.stopped = True
            self._sessions = {}
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _make_room(self) -> Visitor | None:
        """The visitor who has to go, if all places are taken: one without a tab, who has nothing, and idle for long."""
        if len(self._sessions) < MOST:
            return None

        def cost(name: str) -> tuple[bool, bool, float]:
            known = self._sessions[name]
            return not known.visitor.is_empty, known.connections > 0, known.seen

        name = min(self._sessions, key=cost)
        known = self._sessions[name]
        if not known.visitor.is_empty and known.connections:
            raise ValueError("too many people use this page just now: please come back later")
        return self._sessions.pop(name).visitor

    def _watch(self) -> None:
        """Delete what belongs to visitors who have left."""
        while not self._closed.wait(min(5.0, self.grace / 4)):
            latest = time.monotonic() - self.grace
            with self._lock:
                left = [name for name, one in self._sessions.items() if not one.connections and one.seen < latest]
                gone = [self._sessions.pop(name).visitor for name in left]
            for visitor in gone:
                visitor.close()
