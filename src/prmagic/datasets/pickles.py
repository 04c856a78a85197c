"""The benchmarks' split files are pickles, which can run any code when read. This reader admits plain data only."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from prmagic.datasets.base import DatasetError

PAIRS = "%pairs"  # JSON has no integer keys: such a dictionary is kept as {PAIRS: [[key, value], …]}


def load_pickle(path: Path) -> Any:
    """Dictionaries, lists, strings, numbers, True, False and None; tuples become lists, bytes ASCII strings.

    Kept as JSON beside the pickle, if the folder can be written, and read from there while the pickle is unchanged.
    Raises DatasetError for a file that is missing, damaged, or holds anything else; nothing of it is ever run."""
    if not path.is_file():
        raise DatasetError(f"{path} is missing")
    cached, stamp = path.with_name(path.name + ".json"), [path.stat().st_size, path.stat().st_mtime_ns]
    with suppress(OSError, ValueError, KeyError, TypeError):
        kept = json.loads(cached.read_text(encoding="utf-8"))
        if kept["of"] == stamp:
            return _from_json(kept["content"])
    try:
        with path.open("rb") as file:
            content = _plain(_PlainUnpickler(file).load(), path)
    except DatasetError:
        raise
    except Exception as error:  # a damaged pickle can raise nearly anything, MemoryError and RecursionError among it
        raise DatasetError(f"{path} cannot be read as plain data ({error}): fetch it anew from its source") from error
    with suppress(OSError):
        unfinished = cached.with_name(cached.name + ".tmp")
        unfinished.write_text(json.dumps({"of": stamp, "content": _to_json(content)}), encoding="utf-8")
        unfinished.replace(cached)
    return content


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return dict
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a list of files has no use for")


def _plain(value: Any, path: Path) -> Any:
    if isinstance(value, dict):
        return {_plain(key, path): _plain(entry, path) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        entries: Iterable[Any] = sorted(value) if isinstance(value, (set, frozenset)) else value
        return [_plain(entry, path) for entry in entries]
    if isinstance(value, (bytes, bytearray)):
        return value.decode("ascii")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise DatasetError(f"{path} holds a {type(value).__name__}, not plain data: fetch it anew from its source")


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
