"""COCO's polygons and run-length codes, the damaged ones too: a message, and never a crash or gigabytes."""

import json

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from prmagic.io.formats import rle
from prmagic.io.shapes import LONGEST, ShapeError, SizeMismatch, decode, read_json, united

NAN, INFINITE = float("nan"), float("inf")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.4, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (1, 60), (60, 1), (37, 53)])
def test_codes_come_back(shape, share):
    mask = np.random.default_rng(1).random(shape) < share
    compressed = rle(mask)
    column = mask.ravel("F")
    changes = np.flatnonzero(np.diff(column, prepend=False))
    counts = np.diff(np.concatenate([[0], changes, [column.size]])).tolist()
    for code in (
        compressed,
        {**compressed, "counts": compressed["counts"].encode()},
        {"size": shape, "counts": counts},
    ):
        np.testing.assert_array_equal(decode(code), mask)
        np.testing.assert_array_equal(decode(code, shape), mask)


def test_long_runs_come_back():
    mask = np.zeros((2000, 3000), bool)
    mask[1500, 2900] = True
    np.testing.assert_array_equal(decode(rle(mask)), mask)


def test_polygons_are_filled_as_by_pycocotools():
    star = [10.5, 2, 14, 12, 25, 12.2, 16, 18, 19, 28, 10, 22]
    expected = coco_mask.decode(coco_mask.frPyObjects([star], 30, 40)[0])
    np.testing.assert_array_equal(decode([star], (30, 40)), expected)


def test_rows_of_0_and_1():
    np.testing.assert_array_equal(decode([[0, 1, 1], [0, 0, 1]]), [[False, True, True], [False, False, True]])
    np.testing.assert_array_equal(decode(np.eye(4)), np.eye(4, dtype=bool))


@pytest.mark.parametrize(
    "shape, told",
    [
        ([[1, 1, NAN, 1, 5, 5]], "no number"),
        ([[1, 1, INFINITE, 1, 5, 5]], "no number"),
        ([[1, 1, 1e9, 1, 5, 5]], "corner at 1e\\+09, 1, far outside its photo of 40 × 30"),
        ([[1, 1, -3e8, 1, 5, 5]], "far outside"),
        ([[1, 1, 5, 61, 5, 5]], "far outside"),
        ([[10**400, 1, 2, 2, 3, 1]], "beyond all photos"),
        ([[0, 0, 79, 59] * (LONGEST // 100)], "pixels long"),
        ([[1, 2, 3, 4, 5, 6, 7]], "7 numbers: an even count"),
        ([["1", "2", "3", "4", "5", "6"]], "one of its entries is not a number"),
        ([[True] * 6], "one of its entries is not a number"),
        (["polygon"], "not text"),
        ([None], "not null"),
        ("polygon", "not text"),
        (5, "not a number"),
        ({"size": [30, 40]}, 'needs "size"'),
        ({"size": [30], "counts": [1200]}, 'needs "size"'),
        ({"size": [30, INFINITE], "counts": [1200]}, 'needs "size"'),
        ({"size": [30, 40], "counts": [1199]}, "do not add up"),
        ({"size": [30, 40], "counts": [600, 601]}, "do not add up"),
        ({"size": [30, 40], "counts": [1201, -1]}, "whole numbers"),
        ({"size": [30, 40], "counts": [0.5, 1199.5]}, "whole numbers"),
        ({"size": [30, 40], "counts": [NAN]}, "whole numbers"),
        ({"size": [30, 40], "counts": None}, "cannot be read"),
        ({"size": [30, 40], "counts": ""}, "cannot be read"),
        ({"size": [30, 40], "counts": "o"}, "cannot be read"),
        ({"size": [30, 40], "counts": "~"}, "cannot be read"),
        ({"size": [30, 40], "counts": "ü"}, "cannot be read"),
        ({"size": [30, 40], "counts": "o" * 20 + "0"}, "cannot be read"),
        ({"size": [30, 40], "counts": "1"}, "do not add up"),
    ],
)
def test_damaged_shapes_are_named(shape, told):
    with pytest.raises(ShapeError, match=told):
        decode(shape, (30, 40))


@pytest.mark.parametrize("size", [[10**6, 10**6], [10**9, 1], [-5, -5], [0, 7], [1 << 20, 1 << 20]])
def test_absurd_sizes_are_refused_before_anything_is_drawn(size):
    for counts in ([size[0] * size[1]], "oooo0"):
        with pytest.raises(ShapeError, match=r"cannot be right|whole numbers"):
            decode({"size": size, "counts": counts})
    with pytest.raises(SizeMismatch, match="not of 40 × 30"):
        decode({"size": size, "counts": "0"}, (30, 40))


def test_any_bytes_are_a_mask_or_a_message():
    """Codes with some characters changed: what pycocotools itself may not survive."""
    rng = np.random.default_rng(0)
    code = rle(rng.random((30, 40)) < 0.3)
    for _ in range(500):
        counts = list(code["counts"])
        for place in rng.integers(0, len(counts), 3):
            counts[place] = chr(rng.integers(40, 120))
        try:
            assert decode({**code, "counts": "".join(counts)}).shape == (30, 40)
        except ShapeError:
            continue


def test_several_are_united():
    square, point = [[2, 2, 6, 2, 6, 6, 2, 6]], {"size": [10, 10], "counts": [0, 1, 99]}
    mask = united([square, point, []], 10, 10)
    assert mask[0, 0] and mask[2:6, 2:6].all() and mask.sum() == 17


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_json_of_any_tool(tmp_path, encoding):
    (tmp_path / "x.json").write_text(json.dumps({"ü": 1}, ensure_ascii=False), encoding=encoding)
    assert read_json(tmp_path / "x.json") == {"ü": 1}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000])
def test_what_is_no_json(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError, match="is not a JSON file"):
        read_json(tmp_path / "x.json")
