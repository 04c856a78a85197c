"""A cache within a budget of memory, for each visitor and for all."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

Value = TypeVar("Value")
Key = tuple[Hashable, ...]  # begins with the owner


@dataclass(frozen=True)
class Budget:
    """How many bytes may be kept for one owner, and for all together."""

    each: int
    total: int


class Cache(Generic[Value]):
    """Values by key. Those that were used last stay, as far as the budget goes; a value above it is never kept."""

    def __init__(self, size: Callable[[Value], int], budget: Budget):
        self._values: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._size = size
        self._budget = budget

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """The value of that key, made if it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key][0]
        value = make()
        self._values[key] = value, self._size(value)
        self._shrink([known for known in self._values if known[0] == key[0]], self._budget.each)
        self._shrink(list(self._values), self._budget.total)
        return value

    def peek(self, key: Key) -> Value | None:
        """The value of that key, if it is there."""
        return self._values[key][0] if key in self._values else None

    def forget(self, owner: Hashable) -> None:
        """Drop all values of an owner."""
        for key in [key for key in self._values if key[0] == owner]:
            del self._values[key]

    @property
    def bytes(self) -> int:
        """What all values take."""
        return sum(size for _, size in self._values.values())

    def _shrink(self, keys: list[Key], most: int) -> None:
        """Drop the least recently used of these, until they take no more."""
        taken = sum(self._values[key][1] for key in keys)
        for key in keys:
            if taken <= most:
                return
            taken -= self._values.pop(key)[1]
