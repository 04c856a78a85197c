"""Where tiles lie, and when a photo is looked at in tiles."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from common import photo, region

import prmagic
from prmagic.reference import Example, Reference
from prmagic.tiles import EXTENTS, Tile, around, checked, extents, grid, hull, meeting, pyramid, tile_count


def reference(*sides: tuple[float, float]) -> Reference:
    """With the sides of each support's object and photo; without any where the reference does not say."""
    tensors = {EXTENTS: torch.tensor(sides)} if sides else {}
    return Reference(tensors, {}, (np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool)))


@pytest.mark.parametrize("size", [(900, 1200), (1200, 900), (1000, 1000), (97, 3001), (333, 334)])
@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_tiles_cover_the_photo_and_overlap(size, count):
    tiles = grid(size, count)
    seen = np.zeros(size, int)
    for tile in tiles:
        assert seen[tile.place].shape == (tile.height, tile.width)  # none lies beyond the photo
        seen[tile.place] += 1
    assert seen.min() == 1
    along = sorted({(tile.left, tile.width) if size[1] >= size[0] else (tile.top, tile.height) for tile in tiles})
    assert len(along) == count
    for (start, side), (following, _) in pairwise(along):
        assert start + side - following >= 0.2 * side


def test_tiles_are_square_where_the_photo_allows():
    assert {(tile.height, tile.width) for tile in grid((900, 1200), 4)} == {(370, 370)}
    assert {(tile.height, tile.width) for tile in grid((100, 1200), 4)} == {(100, 370)}


def test_a_pyramid_begins_with_the_whole_and_halves_the_tiles():
    tiles = pyramid((1000, 1000), 8)
    assert tiles[0] == Tile(0, 0, 1000, 1000)
    assert len(tiles) == 1 + 2 * 2 + 4 * 4 + 8 * 8
    assert [tile.height for tile in tiles] == sorted((tile.height for tile in tiles), reverse=True)


def test_rectangles_meet_and_have_a_hull():
    first, second = Tile(0, 0, 10, 20), Tile(5, 15, 10, 20)
    assert meeting(first, second) == Tile(5, 15, 5, 5)
    assert meeting(first, Tile(10, 0, 5, 5)) is None
    assert hull(first, second) == Tile(0, 0, 15, 35)


class TestAuto:
    def test_things_that_stay_large_need_no_tiles(self):
        # 100 of 640 pixels are more than an eighth of the model's input.
        assert tile_count("auto", (480, 640), [reference((100, 320))], 256) == 1

    def test_tiles_are_as_large_as_the_example(self):
        assert tile_count("auto", (960, 1280), [reference((100, 320))], 256) == 4
        assert tile_count("auto", (1280, 960), [reference((100, 320))], 256) == 4

    def test_one_small_thing_among_labels_is_enough(self):
        assert tile_count("auto", (960, 1280), [reference((400, 400)), reference((100, 320))], 256) == 4

    def test_the_example_that_needs_most_decides(self):
        assert tile_count("auto", (960, 1280), [reference((100, 640), (90, 320))], 256) == 4

    def test_there_are_no_more_tiles_than_help(self):
        assert tile_count("auto", (9000, 12000), [reference((20, 100))], 256) == 16
        assert tile_count("auto", (480, 640), [reference((5, 20))], 256) == 5  # of no less than half the input

    def test_a_reference_that_does_not_say_its_size_counts_as_one_of_the_inputs_size(self):
        assert tile_count("auto", (960, 1280), [reference()], 256) == 5
        assert tile_count("auto", (200, 256), [reference()], 256) == 1

    def test_a_number_is_taken_and_off_is_none(self):
        assert tile_count(3, (480, 640), [reference((400, 640))], 256) == 3
        assert tile_count("off", (9000, 12000), [reference((20, 100))], 256) == 1


class TestSupports:
    def test_a_small_object_of_a_large_support_is_looked_at_closely(self):
        mask = region(slice(300, 340), slice(1160, 1200), (900, 1200))
        image = photo(900, 1200)
        near = around(Example(image, mask), 256)
        assert near.image.shape == (160, 160, 3) and near.mask.shape == (160, 160)
        assert near.mask.sum() == mask.sum()
        assert np.array_equal(near.image, image[240:400, 1040:1200])

    @pytest.mark.parametrize(
        ("size", "rows"),
        [((200, 256), slice(10, 20)), ((900, 1200), slice(100, 400))],
        ids=["small photo", "large thing"],
    )
    def test_others_stay(self, size, rows):
        example = Example(photo(*size), region(rows, slice(10, 20), size))
        assert around(example, 256) is example

    def test_extents_are_the_longer_sides(self):
        examples = [Example(photo(90, 120), region(slice(10, 20), slice(5, 45)))]
        assert extents(examples)[EXTENTS].tolist() == [[40.0, 120.0]]


@pytest.mark.parametrize("value", ["auto", "off"])
def test_words_are_taken(value):
    assert checked(value) == value


def test_numbers_are_taken_as_text_too():
    assert checked("4") == checked(4) == checked(np.int64(4)) == 4


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("many", "tiles is auto, off, or how many lie along a photo's longer side, not 'many'"), (1, "2 to 64, not 1"),
        ("65", "2 to 64, not 65"), (2.5, "tiles is auto, off, or how many"), (True, "side, not True"),
        (None, "tiles is auto, off, or how many"), ("-2", "not '-2'"), ("", "not ''"), ("9" * 5000, "side, not '999"),
    ],
)  # fmt: skip
def test_other_values_are_told(wrong, told, sam):
    with pytest.raises(ValueError) as error:
        prmagic.load(sam=sam, tiles=wrong)
    assert told in str(error.value)
