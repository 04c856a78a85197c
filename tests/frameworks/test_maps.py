"""Between maps of a model and pixels of a photo, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prmagic.backbones.promptable import Embedding, Frame
from prmagic.backbones.tokens import Tokens
from prmagic.frameworks.maps import bounding_box, cleaned, edges, on_patches, shifted_tokens, to_photo, working_size

GRID = (3, 4)
# A photo of 60 × 80 in an input of 64: 6 × 8 of 8 × 8 cells; each patch covers 2 × 2 of them.
FRAME = Frame((60, 80), (48, 64), 64, 8)


def embedding(features):
    return Embedding(features, FRAME)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cells(patches):
    """(C, 3, 4) values on patches → (1, C, 8, 8) that are the same on all cells of a patch, and wild in the padding."""
    features = torch.full((1, len(patches), 8, 8), 1e3)
    features[..., :6, :] = patches.repeat_interleave(2, 1).repeat_interleave(2, 2)
    return features


@pytest.mark.parametrize(
    "rows, columns, expected",
    [(slice(2, 5), slice(3, 4), (3, 2, 3, 4)), (slice(0, 10), slice(0, 20), (0, 0, 19, 9))],
)
def test_bounding_box_of_outermost_pixels(rows, columns, expected):
    mask = np.zeros((10, 20), bool)
    mask[rows, columns] = True
    assert bounding_box(mask) == expected


def test_an_empty_mask_has_no_box():
    assert bounding_box(np.zeros((4, 4), bool)) is None


def test_large_photos_are_searched_small_and_points_scaled_back(sam):
    assert working_size((3000, 4096)) == (750, 1024)
    assert working_size((90, 120)) == (90, 120)
    assert working_size((1, 5000)) == (1, 1024)
    points = to_photo(np.array([[0, 0], [1023, 749]], np.float32), (750, 1024), sam.frame((3000, 4096)))
    assert points.tolist() == [[1.5, 1.5], [4093.5, 2997.5]]  # the middle of 4 × 4 photo pixels
    same = np.array([[17, 42]], np.float32)
    assert to_photo(same, (90, 120), sam.frame((90, 120))).tolist() == same.tolist()


def test_maps_are_cut_to_the_photo_and_averaged_on_patches():
    patches = torch.arange(12.0).view(1, 3, 4)
    noise = random(1, 1, 8, 8)
    noise[..., 1::2] = -noise[..., ::2]  # averages out over each pair of columns
    got = on_patches(cells(patches) + noise, embedding(cells(patches)), GRID)
    torch.testing.assert_close(got, torch.arange(12.0)[:, None], atol=1e-4, rtol=0)


class TestShiftedTokens:
    """How the shift of SAM's embedding reaches another encoder's tokens."""

    @staticmethod
    def moved(vectors, shift):
        return shifted_tokens(Tokens(vectors, GRID), shift, embedding(shift))

    def test_no_shift_changes_nothing(self):
        vectors = random(12, 7)
        assert torch.equal(self.moved(vectors, torch.zeros(1, 5, 8, 8)), vectors)

    def test_by_hand(self):
        shift = torch.zeros(2, 3, 4)
        shift[0, 1, 2], shift[1, 2, 0] = 0.5, -0.25  # channel, row, column
        expected = torch.zeros(12, 3)
        expected[:, 2] = 1.0
        vectors = expected.clone()
        expected[1 * 4 + 2, 0], expected[2 * 4 + 0, 1] = 0.5, -0.25
        torch.testing.assert_close(self.moved(vectors, cells(shift)), expected)

    def test_channels_that_the_tokens_have_not_are_left_out(self):
        vectors, shift = random(12, 2), random(3, 3, 4, seed=1)
        torch.testing.assert_close(self.moved(vectors, cells(shift)), vectors + shift[:2].flatten(1).T)

    def test_a_shift_acts_where_it_is_and_not_in_the_padding(self):
        vectors = random(12, 7)
        local, padding = torch.zeros(1, 5, 8, 8), torch.zeros(1, 5, 8, 8)
        local[..., 2:4, 6:8] = random(5, 2, 2, seed=8)  # the patch in row 1, column 3
        padding[..., 6:, :] = 100.0
        assert torch.equal(self.moved(vectors, padding), vectors)
        changed = (self.moved(vectors, local) - vectors).abs().amax(1) > 1e-6
        assert changed.nonzero().flatten().tolist() == [1 * 4 + 3]


def test_edges_are_one_pixel_beyond_the_box():
    mask = np.zeros((6, 8), bool)
    mask[2:4, 3] = True
    assert bounding_box(mask) == (3, 2, 3, 3) and edges(mask) == (3, 2, 4, 4)


def test_small_pieces_and_holes_go():
    """Of 100 pixels a share of 0.05 is 5: a piece of 4 goes, one of 6 stays, and so do holes."""
    mask = np.zeros((20, 40), bool)
    mask[:10, :11] = True
    mask[1:4, 1:3] = False  # a hole of 6
    mask[5:7, 5:7] = False  # a hole of 4, which makes 100 pixels
    mask[15:17, 0:2] = True  # a piece of 4
    mask[15:17, 20:23] = True  # a piece of 6
    found = cleaned(mask, 0.05)
    expected = mask.copy()
    expected[5:7, 5:7], expected[15:17, 0:2] = True, False
    assert np.array_equal(found, expected)


def test_many_equal_pieces_stay():
    mask = np.zeros((30, 30), bool)
    mask[::3, ::3] = True
    assert np.array_equal(cleaned(mask, 0.05), mask)


@pytest.mark.parametrize("mask", [np.zeros((4, 4), bool), np.ones((4, 4), bool)], ids=["empty", "full"])
def test_nothing_to_clean(mask):
    assert np.array_equal(cleaned(mask, 0.9), mask)
