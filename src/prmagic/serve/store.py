"""References by id: files that `prmagic segment --reference` takes, of which the last used are in memory."""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from prmagic.reference import Header, Reference, ReferenceMismatch, read_header
from prmagic.serve.cache import Budget, Cache
from prmagic.serve.errors import Unfit, Unknown

SUFFIX = ".safetensors"
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
IN_MEMORY = Budget(each=512 << 20, total=512 << 20)  # bytes
ABANDONED = 3600.0  # seconds after which an unfinished file is one that a killed server left


class Store:
    """A folder of references. Several servers may use the same.

    Args:
        folder: Is made. Every `ID.safetensors` in it is a reference.

    Raises:
        OSError: The folder cannot be made or read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._lock = threading.Lock()
        self._loaded: Cache[Reference] = Cache(_bytes_of, IN_MEMORY)
        folder.mkdir(parents=True, exist_ok=True)
        for unfinished in folder.glob(f"*{SUFFIX}.*.tmp"):
            with suppress(OSError):
                if time.time() - unfinished.stat().st_mtime > ABANDONED:
                    unfinished.unlink()

    def add(self, reference: Reference, name: str = "") -> str:
        """Keep a reference, and give its id; name: an id of one's own, whose earlier reference is replaced.

        Raises:
            ValueError: It cannot be written.
        """
        chosen = name or secrets.token_hex(8)
        with self._lock:
            reference.save(self._file(chosen))
            self._loaded.forget(chosen)
        return chosen

    def get(self, name: str) -> Reference:
        """The reference of that id.

        Raises:
            Unknown: There is none.
            Unfit: Its file is damaged, or of another version.
        """
        file = self._file(name)
        try:
            with self._lock:
                state = file.stat()
                return self._loaded.get((name, state.st_mtime_ns, state.st_size), lambda: Reference.load(file))
        except ReferenceMismatch:
            raise _unfit(name) from None
        except OSError:
            raise _unknown(name) from None

    def header(self, name: str) -> Header:
        """What its file says of it; raises as `get` does."""
        try:
            return read_header(self._file(name))
        except ReferenceMismatch:
            raise _unfit(name) from None
        except OSError:
            raise _unknown(name) from None

    def remove(self, name: str) -> None:
        """Delete it. Who is using it, goes on.

        Raises:
            Unknown: There is none.
        """
        with self._lock:
            self._loaded.forget(name)
            try:
                self._file(name).unlink()
            except OSError:
                raise _unknown(name) from None

    def names(self) -> Iterator[str]:
        """All ids, in order."""
        found = (file.name.removesuffix(SUFFIX) for file in self.folder.glob(f"*{SUFFIX}"))
        yield from sorted(name for name in found if ID.fullmatch(name))

    @property
    def bytes(self) -> int:
        """What the loaded references take."""
        return self._loaded.bytes

    def _file(self, name: str) -> Path:
        if not ID.fullmatch(name):
            raise Unknown("that is not the id of a reference")
        return self.folder / f"{name}{SUFFIX}"


def _unknown(name: str) -> Unknown:
    return Unknown(f"there is no reference {name!r}")


def _unfit(name: str) -> Unfit:
    return Unfit(f"reference {name!r} is damaged, or of another version of prmagic: make it anew")


def _bytes_of(reference: Reference) -> int:
    image, mask = reference.preview
    return int(image.nbytes + mask.nbytes + sum(tensor.nbytes for tensor in reference.tensors.values()))
