"""Who is here: each browser tab is a visitor with a folder of its own, which goes when the tab does."""

from __future__ import annotations

import secrets
import shutil
import threading
from pathlib import Path

from prmagic.app.engine import Engine, Settings
from prmagic.app.visitor import Visitor

MOST = 100  # at once


class Visitors:
    """By the session's id, which the page's framework gives to each tab, and by their token.

    grace: seconds between a connection that broke and the end of what belonged to it, as a phone may come back."""

    def __init__(self, engine: Engine, folder: Path, settings: Settings, root: Path | None = None, grace: float = 60.0):
        self.engine, self.folder, self.settings, self.root, self.grace = engine, folder, settings, root, grace
        self._here: dict[str, Visitor] = {}
        self._leaving: dict[str, threading.Timer] = {}
        self._lock = threading.Lock()

    def of(self, session: str) -> Visitor:
        """The visitor of that session, a new one the first time. ValueError where there are too many."""
        with self._lock:
            if (leaving := self._leaving.pop(session, None)) is not None:
                leaving.cancel()
            if session not in self._here:
                if len(self._here) >= MOST:
                    raise ValueError("too many people use this page just now: please come back later")
                folder = self.folder / secrets.token_urlsafe(16)
                folder.mkdir(parents=True, mode=0o700)
                self._here[session] = Visitor(self.engine, folder, self.settings, self.root)
            return self._here[session]

    def with_token(self, token: str) -> Visitor | None:
        """The visitor whose files are asked for."""
        with self._lock:
            return next((one for one in self._here.values() if secrets.compare_digest(one.token, token)), None)

    def leave(self, session: str) -> None:
        """The session's connection is gone; what belongs to it goes too, unless it comes back in time."""
        with self._lock:
            if session in self._here and session not in self._leaving:
                self._leaving[session] = timer = threading.Timer(self.grace, self._remove, [session])
                timer.daemon = True
                timer.start()

    def _remove(self, session: str) -> None:
        with self._lock:
            if self._leaving.pop(session, None) is None:
                return  # it came back
            visitor = self._here.pop(session, None)
        if visitor is not None:
            visitor.close()

    def close(self) -> None:
        """Nobody is here any more, and no folder."""
        with self._lock:
            for timer in self._leaving.values():
                timer.cancel()
            for visitor in self._here.values():
                visitor.stopped = True
            self._here, self._leaving = {}, {}
        self.engine.close()
        shutil.rmtree(self.folder, ignore_errors=True)
