"""Doing the next thing while the last one is still being used."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order, each made in a thread of its own while the one before it is being used."""
    end: Any = object()
    threads = torch.get_num_threads()  # torch counts them for each thread anew, and the last bits depend on them
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,)) as maker:
        coming = maker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = maker.submit(next, items, end)
            yield item
