"""Checks of what users pass: a sentence that names the argument, says what it takes, and what it got."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from PIL import Image

LARGEST = 2**63  # torch and numpy hold no larger whole numbers


def whole(name: str, value: Any, least: int | None = None) -> int:
    """The value as an int; ValueError for what is no whole number, or with `least` for one below it or from 2^63 on."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise ValueError(f"{name} must be a whole number; got {shown(value)}")
    found = int(value)
    if least is not None and found < least:
        raise ValueError(f"{name} must be {least} or more; got {shown(found)}")
    if least is not None and found >= LARGEST:
        raise ValueError(f"{name} must be {least} or more, and below 2^63")
    return found


def number(name: str, value: Any, least: float | None = None) -> float:
    """The value as a finite float; ValueError for what is none, or less than `least`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ValueError(f"{name} must be a number; got {shown(value)}")
    try:
        found = float(value)
    except OverflowError:  # a whole number beyond any float
        found = math.inf
    if not math.isfinite(found) or (least is not None and found < least):
        bound = "" if least is None else f" of at least {least:g}"
        raise ValueError(f"{name} must be a finite number{bound}; got {shown(value)}")
    return found


def text(name: str, value: Any) -> str:
    """The value; TypeError for what is no str."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text; got {shown(value)}")
    return value


def path(name: str, value: Any) -> str | os.PathLike[str]:
    """The value; TypeError for what is no path, ValueError for an empty one."""
    if not isinstance(value, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path; got {shown(value)}")
    if not os.fspath(value):
        raise ValueError(f"{name} is empty: name a path")
    return value


def instance(name: str, value: Any, kind: type | tuple[type, ...], takes: str) -> None:
    """TypeError unless the value is of this kind; takes: what the argument is, for people."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {takes}; got {shown(value)}")


def labels(name: str, references: Mapping[Any, Any]) -> None:
    """TypeError for a mapping whose keys are no labels."""
    for label in references:
        if not isinstance(label, str) or not label:
            raise TypeError(f"{name} are named by labels, such as 'cat'; got {shown(label)}")


def several(images: Any, names: Any) -> None:
    """TypeError for a single photo or name where several are taken."""
    photo = isinstance(images, (str, bytes, os.PathLike, Image.Image)) or getattr(images, "ndim", 4) < 4
    if photo or not isinstance(images, Iterable):
        raise TypeError(
            f"stream takes several photos: put a single one into a list, or call segment; got {shown(images)}"
        )
    if names is not None and (isinstance(names, (str, bytes)) or not isinstance(names, Iterable)):
        raise TypeError(f"stream takes several names: put a single one into a list; got {shown(names)}")


def shown(value: Any) -> str:
    """A value for a message: short, and arrays by their shape."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    told = repr(value)
    return told if len(told) <= 60 else f"{told[:57]}..."
