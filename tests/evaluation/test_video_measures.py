"""DAVIS's measures on masks small enough to work out by hand."""

import numpy as np
import pytest
from common import region

from prmagic.evaluation.video import boundary, boundary_f, over_frames, region_j

SQUARE = region(slice(20, 40), slice(20, 40), (100, 100))  # the tolerance here is 2 pixels: 0.8 % of 141.4 is 1.13


def test_j_is_the_iou():
    half = region(slice(20, 40), slice(20, 30), (100, 100))
    assert region_j(half, SQUARE) == 0.5
    assert region_j(~SQUARE, SQUARE) == 0
    assert region_j(np.zeros((5, 5), bool), np.zeros((5, 5), bool)) == 1


def test_a_boundary_is_one_pixel_wide():
    mask = region(slice(1, 3), slice(1, 3), (5, 5))
    assert boundary(mask).astype(int).tolist() == [
        [1, 1, 1, 0, 0],
        [1, 0, 1, 0, 0],
        [1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_the_frames_edge_is_no_boundary():
    mask = region(slice(0, 5), slice(3, 5), (5, 5))
    assert np.argwhere(boundary(mask)).tolist() == [[row, 2] for row in range(5)]


@pytest.mark.parametrize("shift, expected", [(0, 1.0), (2, 1.0), (10, 0.0)])
def test_lines_count_within_the_tolerance(shift, expected):
    line = region(slice(50 + shift, 100), slice(None), (100, 100))
    assert boundary_f(line, region(slice(50, 100), slice(None), (100, 100))) == expected


def test_f_of_a_line_of_which_half_is_found():
    truth = region(slice(50, 100), slice(None), (100, 100))  # 100 boundary pixels, row 49
    found = truth.copy()
    found[:, :50] = region(slice(80, 100), slice(None), (100, 100))[:, :50]
    # Found: 50 pixels in row 79, 51 of columns 49 to 99 in row 49, and column 49 from row 50 to 78 (29): 130 in all.
    # Of them 51 + 2 (rows 50 and 51 of the column) are within 2 pixels of row 49; row 49 columns 47 to 99 is recalled.
    assert boundary(found).sum() == 50 + 51 + 29
    precision, recall = 53 / 130, 53 / 100
    assert boundary_f(found, truth) == pytest.approx(2 * precision * recall / (precision + recall))


def test_f_where_one_mask_is_empty():
    empty = np.zeros_like(SQUARE)
    assert boundary_f(empty, SQUARE) == boundary_f(SQUARE, empty) == 0
    assert boundary_f(empty, empty) == 1


def test_masks_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="different sizes"):
        region_j(SQUARE, SQUARE[:50])


def test_mean_recall_and_decay():
    measured = over_frames([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert measured.mean == pytest.approx(0.55)
    assert measured.recall == 0.5  # 0.5 itself does not count
    # The quarters share their ends: frames 1 to 3 (1, 2.75 → 3) and 6 to 8 (6.25 → 6).
    assert measured.decay == pytest.approx(0.8 - 0.3)


def test_one_frame_decays_by_nothing():
    assert over_frames([0.7]).decay == 0
    with pytest.raises(ValueError, match="at least one frame"):
        over_frames([])
