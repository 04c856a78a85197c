"""Folders of JSON lines that long runs write: interrupted or killed at any moment, the same command goes on."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from prmagic import __version__

RUN = "run.json"


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    packages = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "POT", "pillow")
    return {"prmagic": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing results into the folder, which is made; ends with the process, if killed.

    ValueError if another has it. Without effect on Windows and on file systems that have no locks."""
    make_folder(folder)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another run is writing into {folder}: wait, or choose another --out") from None
        yield
    finally:
        os.close(descriptor)


class RecordFolder:
    """run.json says how the records were made, and a line is written in one go; one cut short by a crash is dropped.

    done: by the values of the `key` fields, each record's `value` field."""

    records: ClassVar[str]  # the file of lines
    others: ClassVar[tuple[str, ...]]  # what else a run writes
    key: ClassVar[tuple[str, ...]]  # tells records apart
    value: ClassVar[str]
    mark: ClassVar[str]  # a field that run.json has, if it is this kind of run's

    def __init__(
        self, folder: Path, run: Mapping[str, Any], notes: Mapping[str, Any] | None = None, overwrite: bool = False
    ):
        """run: settings, which must be those of the folder's earlier records; ValueError if they are not.

        notes: what else to put into run.json; its "model" names the models, for people. Nothing that others wrote is
        touched: ValueError for a folder with records or their company, but no run.json."""
        self.folder = folder
        make_folder(folder)
        earlier = self._earlier()
        if earlier is not None and overwrite:
            self.clear()
        if earlier is None or overwrite:
            described = {**(notes or {}), **run, "versions": versions()}
            write_text(folder / RUN, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
        else:
            self._compare(earlier, json.loads(json.dumps(run)), (notes or {}).get("model"))
        self.done = self._read()

    def clear(self) -> None:
        """Delete all records."""
        for name in (self.records, RUN):  # run.json last: it tells that the rest is ours
            (self.folder / name).unlink(missing_ok=True)

    def append(self, record: Mapping[str, Any]) -> None:
        """Add a line; from then on it counts as done."""
        append_line(self.folder / self.records, record)
        self.done[self._key(record)] = record[self.value]

    def _key(self, record: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(record[name] for name in self.key)

    def _earlier(self) -> dict[str, Any] | None:
        """The run.json of the records in the folder, None if there are none."""
        path = self.folder / RUN
        if path.exists():
            try:
                earlier = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                earlier = None
            if isinstance(earlier, dict) and self.mark in earlier:
                return earlier
            raise ValueError(f"{path} is not of such a run, or it is damaged: choose another --out")
        foreign = [name for name in (*self.others, self.records) if (self.folder / name).exists()]
        if foreign:
            raise ValueError(
                f"{self.folder / foreign[0]} is there, but no {RUN} beside it, so it may be something of yours that "
                "would be overwritten: choose another --out"
            )
        return None

    def _compare(self, earlier: Mapping[str, Any], run: Mapping[str, Any], model: str | None) -> None:
        changes = dict(change for key in run for change in _differences(key, earlier.get(key), run[key]))
        # Only what others follow from is named: settings decide the references' digests, and the framework both.
        if "settings.framework" in changes:
            changes = {"settings.framework": changes["settings.framework"]}
        elif "settings.model" in changes and model != earlier.get("model"):
            changes = {"model": (earlier.get("model"), model)}  # names say more than fingerprints
        elif any(name.startswith("settings") for name in changes):
            changes = {name: change for name, change in changes.items() if name.startswith("settings")}
        if changes:
            told = "; ".join(
                f"{name} was {_short(was)}, now it is {_short(now)}" for name, (was, now) in changes.items()
            )
            raise ValueError(
                f"{self.folder} holds results of another run: {told}. "
                "Choose another --out, or start it anew with --overwrite"
            )

    def _read(self) -> dict[tuple[Any, ...], Any]:
        path = self.folder / self.records
        if not path.exists():
            return {}
        complete: list[bytes] = []
        done: dict[tuple[Any, ...], Any] = {}
        content = path.read_bytes()
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line)
                key, value = self._key(entry), entry[self.value]
                known = key in done
            except (ValueError, KeyError, TypeError):
                continue
            if line.endswith(b"\n") and not known:
                complete.append(line)
                done[key] = value
        if b"".join(complete) != content:
            write_text(path, b"".join(complete).decode())
        return done


def make_folder(folder: Path) -> None:
    """With those above it; ValueError if it is a file."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out needs a folder")
    folder.mkdir(parents=True, exist_ok=True)


def _differences(name: str, earlier: Any, now: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Such as ("settings.flow.steps", (5, 2))."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in {**earlier, **now}:
            yield from _differences(f"{name}.{key}", earlier.get(key), now.get(key))
    elif earlier != now:
        yield name, (earlier, now)


def write_text(path: Path, text: str) -> None:
    """All of it or nothing, even if killed in between."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """One JSON line, on the disk when this returns."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 200 else text[:197] + "…"
