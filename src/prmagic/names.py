"""Looking up what users call by name."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable, Mapping
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any, TypeVar

Value = TypeVar("Value")
# What Windows keeps for devices, in any case and with any suffix.
DEVICES = {"con", "prn", "aux", "nul", *(f"{port}{number}" for port in ("com", "lpt") for number in range(1, 10))}

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
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise ValueError(f"{file} cannot be loaded: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        defined = [key for key, value in vars(module).items() if not key.startswith("_") and suits(value)]
        raise ValueError(f"{file} has no {what} {name!r}: {hint(name, defined)}")
    return getattr(module, name)


def check_label(label: str) -> None:
    """ValueError for a label that cannot be a folder's name on every system."""
    device = label.split(".")[0].strip().lower() in DEVICES
    odd = label != label.rstrip(". ") or not label.isprintable() or set(label) & set('/\\:*?"<>|')
    if not label or device or odd:
        raise ValueError(f"label {label!r} cannot be used, as it becomes a folder's name: choose another")
    if len(label.encode()) > LONGEST_LABEL:
        raise ValueError(f"label {label[:20]!r}… is too long, as it becomes a folder's name: choose another")
