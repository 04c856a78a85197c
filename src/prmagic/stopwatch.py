"""Where the time goes."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Stopwatch(threading.local):
    """Adds up seconds by stage. A stage inside another one stops the outer's clock, so that all of them add up.

    Each thread has a clock of its own."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = 0.0

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time what the `with` block does."""
        self._book()
        self._running.append(stage)
        try:
            yield
        finally:
            self._book()
            self._running.pop()

    def _book(self) -> None:
        now = _now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


def _now() -> float:
    # Their work is done in the background, and would be booked on a later stage.
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()
    return time.perf_counter()
