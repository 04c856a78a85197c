"""Looking up what users call by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

Value = TypeVar("Value")


def hint(name: str, known: Iterable[str]) -> str:
    """For the end of an error message: the nearest known name, and all of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"{meant}Known: {', '.join(known)}"


def lookup(what: str, name: str, known: Mapping[str, Value]) -> Value:
    """The entry of that name; a ValueError that lists the names, nearest first, if there is none."""
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}: {hint(name, known)}")
    return known[name]


def check_label(label: str) -> None:
    """ValueError for a label that cannot be a folder's name on every system."""
    if not label or label != label.rstrip(". ") or not label.isprintable() or set(label) & set('/\\:*?"<>|'):
        raise ValueError(f"label {label!r} cannot be used, as it becomes a folder's name: choose another")
