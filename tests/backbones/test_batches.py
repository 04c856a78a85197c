"""Batches that do not fit into an accelerator's memory."""

from __future__ import annotations

import pytest
import torch

from prmagic.backbones.batches import in_batches, moved


def limited(most, sizes):
    def work(batch):
        sizes.append(len(batch))
        if len(batch) > most:
            raise torch.cuda.OutOfMemoryError("full")
        return [10 * each for each in batch]

    return work


@pytest.mark.parametrize(
    "fits, tried", [(16, [8, 3]), (5, [8, 4, 4, 3]), (2, [8, 4, 2, 2, 2, 2, 2, 1]), (1, [8, 4, 2, *[1] * 11])]
)
def test_a_batch_that_does_not_fit_is_halved_and_nothing_is_lost(fits, tried):
    sizes = []
    assert in_batches(iter(range(11)), 8, limited(fits, sizes)) == [10 * each for each in range(11)]
    assert sizes == tried


def test_what_does_not_fit_alone_is_an_error():
    with pytest.raises(torch.cuda.OutOfMemoryError):
        in_batches([1, 2], 2, limited(0, []))


def test_pixels_are_moved_and_cast():
    assert moved(torch.ones(2), torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16
