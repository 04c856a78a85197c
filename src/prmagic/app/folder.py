"""The server's temporary folder. What a killed server left behind, the next one deletes."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

PREFIX = "prmagic-app-"
LOCK = "lock"
NEW = 2.0  # seconds in which a folder's server may not have locked it yet


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that only this user can read, locked while its server lives."""
    parent = Path(tempfile.gettempdir())
    _delete_orphans(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = FileLock(folder / LOCK)
    lock.acquire()
    try:
        yield folder
    finally:
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)


def _delete_orphans(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError, Timeout):  # what cannot be deleted is somebody else's
            if not _is_own(folder) or time.time() - folder.stat().st_mtime < NEW:
                continue
            lock = FileLock(folder / LOCK, timeout=0)
            lock.acquire()
            lock.release()
            shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    """Whether it is a real folder of this user."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
