"""What prompted.py measures of a mask."""

from __future__ import annotations

import numpy as np
import pytest

from prompted import boundary_iou, crumbs


def square(top, left, side, shape=(60, 80)):
    """A mask; 2 % of its diagonal are two pixels."""
    mask = np.zeros(shape, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def test_boundary_iou_looks_at_the_outlines_alone():
    truth = square(10, 10, 40)
    assert boundary_iou(truth, truth) == 1
    hollow = truth & ~square(20, 20, 20)
    # Both have the outer band of 40² − 36² pixels; the hole has one of 24² − 20².
    assert boundary_iou(hollow, truth) == pytest.approx((1600 - 1296) / (1600 - 1296 + 576 - 400))
    assert boundary_iou(square(12, 10, 40), truth) < 0.5 < (38 * 40) / (42 * 40)


def test_the_photos_edge_is_an_outline():
    whole = np.ones((60, 80), bool)
    assert boundary_iou(whole, square(2, 2, 56)) < 0.2


def test_an_empty_mask_has_no_boundary():
    empty = np.zeros((60, 80), bool)
    assert boundary_iou(empty, square(10, 10, 40)) == 0


def test_crumbs_are_small_connected_parts():
    mask = square(10, 10, 40)
    assert crumbs(mask) == 0
    mask[2:4, 2] = mask[4, 3] = True  # three pixels that touch, one by its corner
    mask[55, 70] = True
    assert crumbs(mask) == 2
    mask[50:60, 60:65] = True  # 50 pixels are over 0.5 %
    assert crumbs(mask) == 2
    assert crumbs(np.zeros((60, 80), bool)) == 0
