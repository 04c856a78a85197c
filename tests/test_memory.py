"""Where the thing is by what is remembered, on patches made by hand."""

import numpy as np
import pytest
import torch
from common import region

from prmagic.backbones.tokens import Tokens
from prmagic.memory import Remembered, Window, likelihood, places

GRID = (6, 8)
WHOLE = Window(0, 0, 80, 60)


def tokens(*things, grid=GRID):
    """Patches of ground, and of things: rows, columns and a kind each. The cosine of two kinds is 0.8."""
    vectors = torch.zeros(*grid, 4)
    vectors[..., 0] = 1
    for rows, columns, kind in things:
        vectors[rows, columns] = torch.tensor([0.8, *(0.6 * (each == kind) for each in (1, 2, 3))])
    return Tokens(vectors.flatten(0, 1), grid)


def mask(rows, columns):
    """Of patches, over the frame of 60 x 80."""
    return region(slice(10 * rows.start, 10 * rows.stop), slice(10 * columns.start, 10 * columns.stop), (60, 80))


HERE = slice(2, 4), slice(2, 4)
ELSEWHERE = slice(2, 4), slice(6, 8)


def example(*things, at=HERE):
    picture = tokens(*things)
    return Remembered(picture.vectors, picture.cover([mask(*at)])[0])


def test_what_is_like_the_inside_of_an_example_is_likely():
    likely = likelihood(tokens((slice(3, 5), slice(3, 5), 1)), WHOLE, [example((*HERE, 1))], mask(*HERE)).numpy()
    assert likely.shape == (60, 80) and likely[40, 40] > 0.95 and likely[5, 5] < 0.05


def test_what_is_like_the_outside_is_not():
    """The ground of the example is known, too: what is between the two is decided by what it is more like."""
    seen = tokens((slice(3, 5), slice(3, 5), 1), (slice(0, 2), slice(0, 8), 2))
    known = example((*HERE, 1), (slice(0, 2), slice(0, 8), 2))
    assert likelihood(seen, WHOLE, [known], mask(*HERE)).numpy()[5, 40] < 0.05


def test_a_likeness_elsewhere_is_less_likely_than_one_near_the_last_mask():
    seen = tokens((*HERE, 1), (*ELSEWHERE, 1))
    small = slice(2, 3), slice(2, 3)
    likely = likelihood(seen, WHOLE, [example((*HERE, 1))], mask(*small)).numpy()
    assert likely[25, 25] > 0.9 and likely[30, 75] < 0.1


def test_a_frame_speaks_for_what_is_near_only():
    frame = tokens((*HERE, 1))
    known = Remembered.of_frame(frame, mask(*HERE))
    ground = Remembered.of_frame(tokens((*ELSEWHERE, 1)), np.zeros((60, 80), bool))
    likely = likelihood(tokens((*HERE, 1), (*ELSEWHERE, 1)), WHOLE, [known, ground], mask(*HERE)).numpy()
    assert likely[30, 30] > 0.9 and likely[30, 75] < 0.1


def test_patches_of_a_window_are_placed_in_the_frame():
    found = places(tokens(grid=(2, 3)), Window(10, 20, 40, 40))
    assert found.tolist() == [[15, 25], [25, 25], [35, 25], [15, 35], [25, 35], [35, 35]]


def test_patches_of_padded_photos_are_placed_without_the_padding(sam):
    (embedding,) = sam.encode([np.zeros((45, 60, 3), np.uint8)])
    found = places(sam.tokens(embedding), Window(0, 0, 60, 45))
    step = 60 * embedding.frame.patch / embedding.frame.resized[1]
    assert found[0].tolist() == pytest.approx([step / 2, step / 2])
    assert (found[1] - found[0]).tolist() == pytest.approx([step, 0])
