"""Folders of JSON lines that long runs write: interrupted or killed at any moment, the same command goes on."""

from __future__ import annotations

import json
import os
import platform
import shutil
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from filelock import FileLock, Timeout

from prmagic._version import __version__
from prmagic.names import installed

RUN = "run.json"
LOCK = ".prmagic.lock"


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    packages = ["torch", "transformers", "numpy", "scipy", "POT", "pillow"]
    packages += ["openvino"] if installed("openvino") else []
    return {"prmagic": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep other processes from writing results into the folder, which is made. A killed process loses its lock.

    File systems without locks are left unlocked.

    Raises:
        ValueError: Another process has the lock.
    """
    make_folder(folder)
    with _held(folder / LOCK, folder):
        yield


@contextmanager
def _held(file: Path, folder: Path) -> Iterator[None]:
    """Lock this file, which is gone afterwards; folder: what it keeps others from, for people."""
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another run is writing into {folder}: wait, or choose another --out") from None
    except OSError:  # no locks here, or no right to write, which the first write tells
        pass
    try:
        yield
    finally:
        if lock.is_locked:
            with suppress(OSError):  # Windows removes the file itself
                file.unlink()
            lock.release()


class RecordFolder:
    """A folder whose run.json says how its records were made, with one JSON line per record.

    A line is on the disk when `append` returns. Lines that are damaged, or whose files are, are dropped with a warning,
    so that what they were about is done again. `done` holds each record's `value` field by its `key` fields.
    """

    records: ClassVar[str]  # the file of lines
    others: ClassVar[tuple[str, ...]]  # what else a run writes
    key: ClassVar[tuple[str, ...]]  # tells records apart
    value: ClassVar[str]
    mark: ClassVar[str]  # a field that run.json has, if it is this kind of run's

    def __init__(
        self, folder: Path, run: Mapping[str, Any], notes: Mapping[str, Any] | None = None, overwrite: bool = False
    ):
        """Open or make the folder.

        Args:
            folder: Is made, with those above it.
            run: Settings, which must be those of the folder's earlier records.
            notes: What else to put into run.json; its "model" names the models, for people.
            overwrite: Delete the earlier records first.

        Raises:
            ValueError: The earlier records have other settings, or somebody else's files are in the way.
        """
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
        self._remove_unfinished()
        self.done = self._read()

    def clear(self) -> None:
        """Delete all records, run.json last: it marks the folder as a run's."""
        for name in (self.records, RUN):
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

    def _remove_unfinished(self) -> None:
        """Delete what a killed run had begun to write."""
        for name in (RUN, self.records):
            (self.folder / f"{name}.tmp").unlink(missing_ok=True)

    def _read(self) -> dict[tuple[Any, ...], Any]:
        path = self.folder / self.records
        if not path.exists():
            return {}
        kept: list[bytes] = []
        done: dict[tuple[Any, ...], Any] = {}
        problems: Counter[str] = Counter()
        content = path.read_bytes()
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line)
                key, value = self._key(entry), entry[self.value]
                known = key in done
                problem = None if line.endswith(b"\n") else "are cut short"
                problem = problem or (None if known else self._problem(entry))
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError):
                known, problem = False, "are damaged"
            if problem is not None:
                problems[problem] += 1
            elif not known:
                kept.append(line)
                done[key] = value
        if problems:
            told = ", ".join(f"{count} {problem}" for problem, count in problems.items())
            warnings.warn(f"{path}: of its lines {told}; what they are about is done again", UserWarning, stacklevel=4)
        if b"".join(kept) != content:
            write_text(path, b"".join(kept))
        return done

    def _problem(self, entry: Mapping[str, Any]) -> str | None:
        """Why a record does not count, None if it does; it ends "of its lines 2 …"."""
        del entry
        return None


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Give a folder beside `out` to write into, which becomes `out` when all is well; otherwise it is removed.

    What a killed process left of it is removed, too.

    Raises:
        ValueError: `out` is there and not empty, or is a file, or another process is writing it.
        OSError: The folder cannot be made.
    """
    out = out.absolute()
    check_out(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name[:100]}.prmagic.tmp")
    with _held(unfinished.with_suffix(".lock"), out):
        shutil.rmtree(unfinished, ignore_errors=True)
        if out.is_dir() and any(out.iterdir()):
            raise ValueError(f"{out} is not empty: choose a new folder with --out")
        unfinished.mkdir()
        try:
            yield unfinished
            if out.is_dir():  # somebody's, empty: it stays the same folder
                for entry in unfinished.iterdir():
                    entry.replace(out / entry.name)
                unfinished.rmdir()
            else:
                unfinished.replace(out)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


def make_folder(folder: Path) -> None:
    """With those above it; ValueError as of `check_out`."""
    check_out(folder)
    folder.mkdir(parents=True, exist_ok=True)


def check_out(folder: Path, option: str = "--out") -> None:
    """Refuse a folder that cannot be written, before any work is done for it; option: what named it.

    Raises:
        ValueError: It or a folder above it is a file, or may not be written.
    """
    place = next(each for each in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(each))
    if not place.is_dir():
        what = "link that leads nowhere" if place.is_symlink() and not place.exists() else "file"
        raise ValueError(f"{folder if place == folder.absolute() else place} is a {what}; {option} needs a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ValueError(f"{place} may not be written: choose another {option}")


def _differences(name: str, earlier: Any, now: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Such as ("settings.flow.steps", (5, 2))."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in {**earlier, **now}:
            yield from _differences(f"{name}.{key}", earlier.get(key), now.get(key))
    elif earlier != now:
        yield name, (earlier, now)


def write_text(path: Path, text: str | bytes) -> None:
    """Write all of it or nothing, even if killed in between; a link stays one."""
    path = path.resolve()
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(text.encode() if isinstance(text, str) else text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def append_line(path: Path, record: Mapping[str, Any]) -> None:
    """Add one JSON line, on the disk when this returns."""
    with path.open("a", encoding="utf-8", newline="\n") as file:
        file.write(json.dumps(record, ensure_ascii=False) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 200 else text[:197] + "…"
