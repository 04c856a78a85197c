"""Outlines of masks, read back as COCO's tools do and as those do that take corners for pixel indices."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask
from scipy import ndimage

from prmagic.io.polygons import outlines, pixel_indices


def drawn(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def blobs(seed, share=0.5, shape=(60, 80)):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 3)
    return smooth > np.quantile(smooth, 1 - share)


ROWS, COLUMNS = np.mgrid[:60, :80]
MASKS = {
    "whole": np.ones((60, 80), bool),
    "corner pixel": (ROWS == 59) & (COLUMNS == 79),
    "inner pixel": (ROWS == 7) & (COLUMNS == 9),
    "all but a pixel": (ROWS != 7) | (COLUMNS != 9),
    "line": ROWS == 30,
    "diagonal": ROWS == COLUMNS,
    "chequers": (ROWS + COLUMNS) % 2 == 0,
    "rings": np.hypot(ROWS - 30, COLUMNS - 40) // 5 % 2 == 0,
    "grid": (ROWS % 6 < 2) | (COLUMNS % 6 < 2),
    "noise": np.random.default_rng(0).random((60, 80)) < 0.5,
    **{f"blobs {seed}": blobs(seed) for seed in range(3)},
}


def by_area(polygons, shape):
    """As pycocotools fills them."""
    codes = coco_mask.frPyObjects([polygon.ravel().tolist() for polygon in polygons], *shape)
    return coco_mask.decode(coco_mask.merge(codes)).astype(bool)


def by_indices(polygons, shape, to_int):
    """As cv2.fillPoly fills them: with the pixels that the outline runs through."""
    mask = np.zeros(shape, bool)
    for polygon in polygons:
        picture = Image.new("1", shape[::-1])
        corners = to_int(pixel_indices(polygon)).tolist()
        ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=1, outline=1)
        mask |= np.asarray(picture)
    return mask


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_without_tolerance_the_mask_comes_back(mask):
    polygons = outlines(mask, 0)
    np.testing.assert_array_equal(by_area(polygons, mask.shape), mask)
    for to_int in (np.floor, np.round):
        np.testing.assert_array_equal(by_indices(polygons, mask.shape, to_int), mask)


@pytest.mark.parametrize("tolerance", [0.5, 1, 5, 1000])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_any_tolerance_leaves_99_percent(mask, tolerance):
    polygons = outlines(mask, tolerance)
    assert iou(by_area(polygons, mask.shape), mask) >= 0.99
    assert iou(by_indices(polygons, mask.shape, np.floor), mask) >= 0.99


def test_the_default_tolerance_saves_corners():
    rows, columns = np.mgrid[:400, :400]
    disc = np.hypot(rows - 200, columns - 200) < 150
    (exact,), (simple,) = outlines(disc, 0), outlines(disc)
    assert len(simple) < len(exact) / 5
    distance = np.abs(np.hypot(*(simple - 200.5).T) - 150)
    assert distance.max() < 1.5


def test_corners_lie_on_the_pixels_that_they_bound():
    (polygon,) = outlines(drawn("....", "..#.", "....") > 0, 0)
    np.testing.assert_array_equal(np.unique(np.floor(polygon), axis=0), [[2, 1]])  # x, y
    assert np.abs(polygon - (2.5, 1.5)).max() < 0.5


def test_parts_touch_also_at_a_corner():
    mask = drawn("##....", "..#...", "......", ".....#")
    first, second = outlines(mask, 0)
    np.testing.assert_array_equal(by_area([first], mask.shape), mask & (np.mgrid[:4, :6][0] < 2))
    np.testing.assert_array_equal(by_area([second], mask.shape), mask & (np.mgrid[:4, :6][0] == 3))


def test_a_hole_is_cut_open_along_a_row():
    mask = drawn("#####", "#####", "##.##", "#####", "#####")
    (polygon,) = outlines(mask, 0)
    area = by_area([polygon], mask.shape)
    assert not area[2, 2] and area.sum() == 24
    twice = [corner for corner in polygon.tolist() if polygon.tolist().count(corner) == 2]
    assert len(twice) == 4 and len({y for _, y in twice}) == 1  # both ends of one cut, there and back


def test_of_nothing_there_is_no_outline():
    assert outlines(np.zeros((3, 4), bool)) == []


@pytest.mark.parametrize("tolerance", [-1, float("nan"), float("inf")])
def test_a_tolerance_is_a_distance(tolerance):
    with pytest.raises(ValueError, match="distance in pixels"):
        outlines(MASKS["line"], tolerance)


@pytest.mark.parametrize("tolerance", [0, 1])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_joined_parts_are_one_polygon_of_the_same_area(mask, tolerance):
    (polygon,) = outlines(mask, tolerance, joined=True)
    apart = by_area(outlines(mask, tolerance), mask.shape)
    np.testing.assert_array_equal(by_area([polygon], mask.shape), apart)


def test_parts_are_joined_where_they_are_closest():
    mask = drawn("##...##...........##", "##...##...........##")
    (polygon,) = outlines(mask, 0, joined=True)
    steps = np.linalg.norm(np.diff(polygon, axis=0, append=polygon[:1]), axis=1)
    assert sorted(steps[steps > 2.5]) == pytest.approx([3.5, 3.5, 11.5, 11.5])  # and not 16.5 from end to end
    assert outlines(np.zeros((3, 3), bool), joined=True) == []
