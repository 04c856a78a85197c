"""Warnings, collected by one thread at a time."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def caught_warnings() -> Iterator[list[warnings.WarningMessage]]:
    """As `warnings.catch_warnings(record=True)`; other threads wait, as Python has one list for all of them."""
    with _lock, warnings.catch_warnings(record=True) as caught:
        yield caught
