"""Patches of a photo and what of a mask lies on them, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prmagic.backbones.promptable import Frame
from prmagic.backbones.tokens import Tokens

# A photo of 20 × 40 in an input of 64: 32 × 64 pixels, 2 × 4 of 4 × 4 cells.
FRAME = Frame(photo=(20, 40), resized=(32, 64), input_size=64, patch=16)


def tokens(grid, frame=None):
    return Tokens(torch.ones(grid[0] * grid[1], 1), grid, frame)


@pytest.mark.parametrize("frame", [FRAME, None])
def test_cover_is_the_share_of_each_patch(frame):
    mask = np.zeros((20, 40), bool)
    mask[:10, 5:10] = True  # of the four columns of patches, half of the first; of the two rows, the first
    (share,) = tokens((2, 4), frame).cover([mask])
    assert share.tolist() == pytest.approx([0.5, 0, 0, 0, 0, 0, 0, 0])


def test_a_patch_that_is_half_padding_counts_what_it_holds():
    frame = Frame(photo=(24, 64), resized=(24, 64), input_size=64, patch=16)  # its second row holds 8 of 16 pixels
    (share,) = tokens((2, 4), frame).cover([np.ones((24, 64), bool)])
    assert share.tolist() == [1.0] * 4 + [0.5] * 4


def test_many_masks_and_none():
    full = np.ones((20, 40), bool)
    assert tokens((2, 4)).cover([full, ~full, full]).sum(1).tolist() == [8, 0, 8]
    assert tokens((2, 4)).cover([]).shape == (0, 8)


@pytest.mark.parametrize("frame", [FRAME, None])
def test_values_lie_over_the_photo_where_their_patches_do(frame):
    values = torch.arange(8.0)
    over = tokens((2, 4), frame).to_photo(values, (20, 40))
    assert over.shape == (20, 40)
    corners = over[0, 0], over[0, -1], over[-1, 0], over[-1, -1]
    assert [float(corner) for corner in corners] == pytest.approx([0, 3, 4, 7], abs=0.3)
    assert float(over.mean()) == pytest.approx(3.5, abs=0.1)
