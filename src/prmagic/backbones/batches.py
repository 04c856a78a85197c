"""Photos on their way to an accelerator: how many at once, and how they get there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, islice
from typing import TypeVar

import torch
from torch import Tensor

Item = TypeVar("Item")
Found = TypeVar("Found")


def in_batches(items: Iterable[Item], most: int, work: Callable[[list[Item]], list[Found]]) -> list[Found]:
    """What `work` makes of up to `most` items at a time.

    A batch that does not fit into the accelerator's free memory is halved, and so are those after it.

    Raises:
        torch.cuda.OutOfMemoryError: If not even one item fits.
    """
    waiting, found = iter(items), list[Found]()
    while batch := list(islice(waiting, most)):
        try:
            found += work(batch)
        except torch.cuda.OutOfMemoryError:
            if len(batch) == 1:
                raise
            waiting, most = chain(batch, waiting), len(batch) // 2
            torch.cuda.empty_cache()
    return found


def moved(pixels: Tensor, device: torch.device, dtype: torch.dtype) -> Tensor:
    """On the device; to a GPU out of pinned memory, so that this thread need not wait for the copy."""
    if device.type == "cuda":
        return pixels.pin_memory().to(device, non_blocking=True).to(dtype)
    return pixels.to(device, dtype)
