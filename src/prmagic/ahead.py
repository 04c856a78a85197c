"""Doing the next thing while the last one is still being used, or written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Done = TypeVar("Done")


def ahead(items: Iterator[Item]) -> Iterator[Item]:
    """The same items in the same order, each made in a thread of its own while the one before it is being used."""
    end: Any = object()
    with _thread() as maker:
        coming = maker.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = maker.submit(next, items, end)
            yield item


def behind(items: Iterable[Item], work: Callable[[Item], Done]) -> Iterator[tuple[Item, Future[Done]]]:
    """Each item and what the work on it gives, in order; it is done in a thread of its own while the next is made.

    What has begun is finished, also where making the next one fails or is interrupted."""
    with _thread() as worker:
        last: list[tuple[Item, Future[Done]]] = []
        for item in items:
            last.append((item, worker.submit(work, item)))
            yield from last[:-1]
            last = last[-1:]
        yield from last


def _thread() -> ThreadPoolExecutor:
    threads = torch.get_num_threads()  # torch counts them for each thread anew, and the last bits depend on them
    return ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(threads,))
