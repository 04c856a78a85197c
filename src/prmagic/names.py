"""Looking up what users call by name."""

from __future__ import annotations

import difflib
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")
# What Windows keeps for devices, in any case and with any suffix.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}

foreign: set[str] = set()  # modules, or their packages, that were loaded because a user named them
LONGEST_LABEL = 200  # bytes; systems take 255 for the name of a folder, and of a reference's file that ends in it


def hint(name: str, known: Iterable[str]) -> str:
    """For the end of an error message: the nearest known name, and all of them."""
    known = list(known)
    near = nearest(name, known)
    return f"{near}Known: {', '.join(known)}" if near else f"choose one of: {', '.join(known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """For an error message: a question with the nearest known name; empty if none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]!r}? " if near else ""


def lookup(what: str, name: str, known: Mapping[str, Value]) -> Value:
    """The entry of that name; a ValueError that lists the names, nearest first, if there is none."""
    if not isinstance(name, str):
        raise ValueError(f"the {what} is a name, and not {name!r}: {hint('', known)}")
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: {hint(name, known)}")
    return known[name]


def from_file(file: Path, name: str, what: str, suits: Callable[[Any], bool]) -> Any:
    """What FILE.py:NAME names, such as a class of the user's; the file is run.

    Args:
        file: A Python file.
        name: What it defines.
        what: "class" or "function", for messages.
        suits: Tells which of what the file defines to list, if the name is not there.

    Raises:
        ValueError: If there is no such file or name, or the file cannot be run.
    """
    if not file.is_file():
        raise ValueError(f"there is no file {file}: a {what} of your own is given as FILE.py:{what.upper()}")
    spec = spec_from_file_location(f"prmagic.own:{file.resolve()}", file)  # no other module has this name
    assert spec is not None and spec.loader is not None  # there is a loader for .py
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    foreign.add(spec.name)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[spec.name]
        raise ValueError(f"{file} cannot be loaded: {reason(error, file)}") from error
    if not hasattr(module, name):
        defined = [key for key, value in vars(module).items() if not key.startswith("_") and suits(value)]
        raise ValueError(f"{file} has no {what} {name!r}: {hint(name, defined)}")
    return getattr(module, name)


def why(error: BaseException) -> str:
    """What an error says, in one line: the system's words without its number, and what a missing key means."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):
        return f"{error.args[0] if error.args else 'something'} is missing"
    return re.sub(r" \(os error \d+\)", "", " ".join(str(error).split())) or type(error).__name__


def reason(error: BaseException, file: Path | None = None) -> str:
    """What an error in a user's code says, in one line; file: where to look for the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__) if file else []
    lines = [frame.lineno for frame in frames if file and Path(frame.filename).resolve() == file.resolve()]
    place = f"line {lines[-1]}: " if lines else ""  # a SyntaxError tells its own
    return f"{place}{type(error).__name__}: {' '.join(str(error).split())}".rstrip(": ")


def foreign_place(error: BaseException) -> str:
    """File and line at which code that a user named, or a package brought, failed; "" if it did not."""
    frames = (
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if {(name := str(frame.f_globals.get("__name__"))), name.partition(".")[0]} & foreign
    )
    lines = [f"{frame.f_code.co_filename}, line {frame.f_lineno}" for frame in frames]
    return lines[-1] if lines else ""


def installed(package: str) -> bool:
    """Whether it is; a folder that has its name is not it."""
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def check_label(label: str) -> None:
    """ValueError for a label that cannot be a folder's name on every system."""
    device = label.split(".")[0].strip().lower() in DEVICES
    odd = label != label.rstrip(". ") or not label.isprintable() or set(label) & set('/\\:*?"<>|')
    if not label or device or odd:
        raise ValueError(f"label {label!r} cannot be used, as it becomes a folder's name: choose another")
    if len(label.encode()) > LONGEST_LABEL:
        raise ValueError(f"label {label[:20]!r}… is too long, as it becomes a folder's name: choose another")
