"""Annotations in every form that COCO has, and in forms that would end the process or fill the memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from annotated import HEIGHT, WIDTH, box_mask, polygons, rle, uncompressed

from prmagic.datasets.annotations import decode_alone, union
from prmagic.datasets.base import DatasetError

PHOTO = np.zeros((HEIGHT, WIDTH, 3), np.uint8)


@pytest.mark.parametrize("form", [polygons, rle, uncompressed, lambda *box: box_mask(*box).tolist()])
def test_every_form_of_an_annotation_is_the_same_mask(form):
    drawn = union([form(2, 1, 5, 3)], PHOTO, "a.jpg")
    assert drawn.dtype == bool
    np.testing.assert_array_equal(drawn, box_mask(2, 1, 5, 3) > 0)


def test_annotations_are_joined_and_polygons_without_area_ignored():
    drawn = union([[*polygons(0, 0, 2, 2), [5, 5, 7, 7]], rle(6, 4, 3, 2)], PHOTO, "a.jpg")
    np.testing.assert_array_equal(drawn, (box_mask(0, 0, 2, 2) | box_mask(6, 4, 3, 2)) > 0)
    assert not union([[]], PHOTO, "a.jpg").any() and not union([], PHOTO, "a.jpg").any()


@pytest.mark.parametrize(
    "damaged",
    [
        {"size": [8, 12], "counts": "!!"},
        {"counts": "0"},
        [list("abcdef")],
        7,
        [[0, 0, float("nan"), 0, 5, 5]],
        [[0, 0, float("inf"), 0, 5, 5]],
        [[0, 0, 3e8, 0, 3e8, 3e8]],
        [[0, 0, 1e18, 0, 1e18, 1e18]],
        [[0, 0, *[0, 8, 12, 0] * 300_000]],
        {"size": [8, 12], "counts": [0, 10**6]},
        {"size": [8, 12], "counts": [-5, 101]},
        {"size": [8, 12], "counts": [0, 2**32 - 1, 1, 96]},
        {"size": [10**9, 10**9], "counts": "0"},
        {"size": [-8, -12], "counts": [96]},
    ],
    ids=lambda damaged: json.dumps(damaged)[:40],
)
def test_a_damaged_annotation_names_its_photo_and_harms_nothing(damaged):
    for draw in (lambda: union([damaged], PHOTO, "a.jpg"), lambda: decode_alone(damaged, (8, 12), "a.jpg")):
        with pytest.raises(DatasetError, match=r"an annotation of a\.jpg cannot be used: "):
            draw()


def test_the_size_of_a_code_counts_where_the_photos_is_not_known():
    np.testing.assert_array_equal(decode_alone(rle(2, 1, 5, 3), (3, 3), "a.jpg"), box_mask(2, 1, 5, 3) > 0)


def test_polygons_reach_their_last_corner_without_a_photo_size():
    drawn = decode_alone(polygons(2, 100, 5, 3), (4, 4), "a.jpg")
    assert drawn[100:103, 2:7].all() and drawn.sum() == 15
