"""The benchmarks' split files are pickles, which can run any code when read. This reader admits plain data only."""

from __future__ import annotations

import json
import pickle
import pickletools
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from prmagic.datasets.base import DatasetError

PAIRS = "%pairs"  # JSON has no integer keys: such a dictionary is kept as {PAIRS: [[key, value], …]}
# A pickle may name one part many times over. What it stands for may be this much larger than the file:
GROWTH, FREE = 20, 1_000_000


def load_pickle(path: Path) -> Any:
    """Read a pickle of plain data; nothing in it is ever run.

    The content is kept as JSON beside the pickle, if the folder can be written, and read from there while the pickle is
    unchanged.

    Args:
        path: The pickle.

    Returns:
        Dictionaries, lists, strings, numbers, True, False and None; tuples become lists, bytes ASCII strings.

    Raises:
        DatasetError: If the file is missing or damaged, holds anything else, or is far larger unpacked.
    """
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    cached, stamp = path.with_name(path.name + ".json"), [path.stat().st_size, path.stat().st_mtime_ns]
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        kept = json.loads(cached.read_text(encoding="utf-8"))
        if kept["of"] == stamp:
            return _from_json(kept["content"])
    try:
        content = _unpickled(path)
    except DatasetError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything, MemoryError and RecursionError among it
        why = " ".join(str(error).split())
        raise DatasetError(f"{path} cannot be read as plain data ({why}): fetch it anew from its source") from error
    with suppress(OSError, ValueError, RecursionError):
        unfinished = cached.with_name(cached.name + ".tmp")
        unfinished.write_text(json.dumps({"of": stamp, "content": _to_json(content)}), encoding="utf-8")
        unfinished.replace(cached)
    return content


def _unpickled(path: Path) -> Any:
    packed = path.read_bytes()
    _check_places(packed)
    return _PlainData(path, len(packed) * GROWTH + FREE).of(_PlainUnpickler(BytesIO(packed)).load())


def _check_places(packed: bytes) -> None:
    """Refuse a pickle that stores something in a distant place: the unpickler takes memory for all before it."""
    for count, (opcode, place, _) in enumerate(pickletools.genops(packed)):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and isinstance(place, int) and place > count:
            raise pickle.UnpicklingError(f"it asks for {place} places in memory and uses {count}")


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a list of files has no use for")


class _PlainData:
    """Copies plain data, at most `budget` entries and characters of it."""

    def __init__(self, path: Path, budget: int):
        self._path = path
        self._budget = budget

    def of(self, value: Any) -> Any:
        self._budget -= 1 + (len(value) if isinstance(value, (str, bytes, bytearray)) else 0)
        if self._budget < 0:
            raise DatasetError(
                f"{self._path} unpacks to far more than its size, as no list of photos does: fetch it anew from its "
                "source"
            )
        if isinstance(value, dict):
            return {self.of(key): self.of(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [self.of(entry) for entry in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
        if isinstance(value, (bytes, bytearray)):
            return value.decode("ascii")
        if value is None or isinstance(value, (str, int, float)):
            return value
        raise DatasetError(
            f"{self._path} holds a {type(value).__name__}, not plain data: fetch it anew from its source"
        )


def _to_json(value: Any) -> Any:
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _to_json(entry) for key, entry in value.items()}
        return {PAIRS: [[key, _to_json(entry)] for key, entry in value.items()]}
    return [_to_json(entry) for entry in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {PAIRS}:
            return {key: _from_json(entry) for key, entry in value[PAIRS]}
        return {key: _from_json(entry) for key, entry in value.items()}
    return [_from_json(entry) for entry in value] if isinstance(value, list) else value
