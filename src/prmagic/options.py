"""Fields of frozen dataclasses that users may set: each carries its help text."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from prmagic.names import hint


def option(default: Any, help: str, choices: Sequence[str] = ()) -> Any:
    """A dataclass field with a default, a help text and, for names, what they may be."""
    return field(default=default, metadata={"help": help, "choices": tuple(choices)})


@dataclass(frozen=True)
class Setting:
    """One thing that can be set, as the command line, the page and the docs show it.

    Args:
        name: As in `--set NAME=VALUE` and `prmagic.load(NAME=VALUE)`.
        type: The field's type hint, such as `float | None`.
        default: Its value unless another is given.
        help: One sentence.
        choices: The names that it may be, if it is a name.
    """

    name: str
    type: Any
    default: Any
    help: str
    choices: tuple[str, ...] = ()

    def parse(self, text: str) -> Any:
        """The value that a text stands for, of the field's type; ValueError if it is none."""
        try:
            value = _read(text, self.type)
        except (ValueError, SyntaxError, TypeError, KeyError, OverflowError):
            raise ValueError(f"{self.name} {text!r} is not {_spoken(self.type)}") from None
        return self._chosen(value)

    def check(self, value: Any) -> Any:
        """The value as the field's type has it, such as a tuple for a list; ValueError if it is of another type."""
        try:
            fitting = _fitting(value, self.type)
        except (ValueError, OverflowError):
            raise ValueError(f"{self.name} must be {_spoken(self.type)}; got {value!r}") from None
        return self._chosen(fitting)

    def _chosen(self, value: Any) -> Any:
        if self.choices and value not in self.choices:
            raise ValueError(f"unknown {self.name} {value!r}: {hint(str(value), self.choices)}")
        return value


def settings(instance: Any, rename: Mapping[str, str] | None = None) -> dict[str, Setting]:
    """The settings of a dataclass instance, whose values are the defaults; rename: field → setting."""
    types = get_type_hints(type(instance))
    found = {}
    for each in fields(instance):
        name = (rename or {}).get(each.name, each.name)
        told = each.metadata
        found[name] = Setting(
            name, types[each.name], getattr(instance, each.name), told.get("help", ""), told.get("choices", ())
        )
    return found


def _read(text: str, kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        if NoneType in get_args(kind) and text.strip().lower() in ("none", ""):
            return None
        for one in (each for each in get_args(kind) if each is not NoneType):
            try:
                return _read(text, one)
            except (ValueError, SyntaxError, TypeError, KeyError, OverflowError):
                continue
        raise ValueError(text)
    if kind is str:
        return text
    if kind is bool:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.strip().lower()]
    if get_origin(kind) is tuple:
        parts = [part for part in text.strip("()[] ").split(",") if part.strip()]
        wanted = get_args(kind)
        each = wanted[:1] * len(parts) if wanted[-1] is Ellipsis else wanted
        return tuple(_read(part.strip(), one) for part, one in zip(parts, each, strict=True))
    value = ast.literal_eval(text.strip())
    if isinstance(value, bool) or not isinstance(value, (int, float) if kind is float else kind):
        raise ValueError(text)
    return kind(value)


def _fitting(value: Any, kind: Any) -> Any:
    if get_origin(kind) in (Union, UnionType):
        for one in get_args(kind):
            with suppress(ValueError, OverflowError):
                return _fitting(value, one)
        raise ValueError(value)
    if get_origin(kind) is tuple:
        if not isinstance(value, (tuple, list)):
            raise ValueError(value)
        wanted = get_args(kind)
        each = wanted[:1] * len(value) if wanted[-1] is Ellipsis else wanted
        return tuple(_fitting(part, one) for part, one in zip(value, each, strict=True))
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
            raise ValueError(value)
        return kind(value)
    if isinstance(kind, type) and not isinstance(value, kind):
        raise ValueError(value)
    return value


def _spoken(kind: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a name", bool: "true or false", NoneType: "none"}
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_spoken(each) for each in get_args(kind))
    if get_origin(kind) is tuple:
        inner = get_args(kind)
        return "numbers separated by commas" if inner[-1] is Ellipsis else f"{len(inner)} numbers separated by a comma"
    return names.get(kind, str(kind))
