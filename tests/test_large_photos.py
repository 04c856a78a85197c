"""Photos in tiles: what is asked where, and how the answers come together."""

from __future__ import annotations

import numpy as np
import pytest
from common import photo, region

import prmagic
from prmagic.frameworks.matcher import Matcher
from prmagic.frameworks.persam import PerSamF
from prmagic.frameworks.TEMPLATE import Template
from prmagic.large_photos import REDUCED, Thing, View, closer, joined
from prmagic.segmenter import Segmenter
from prmagic.tiles import EXTENTS, Tile, grid, pyramid
from prmagic.types import Instance

SIZE = (180, 240)


@pytest.fixture(scope="module")
def large(mini):
    """Noise, with a photo of something in its lower right."""
    image = photo(*SIZE)
    image[90:, 120:] = mini["query_rgb"]
    return image


@pytest.fixture(scope="module")
def support(mini):
    return prmagic.Support(mini["support_rgb"], mini["support_mask"])


@pytest.fixture(scope="module")
def still(sam):
    """Without refinement, and so without noise: a tile's answer is that of the same photo by itself."""
    return prmagic.load(sam=sam, steps=0, tiles=2)


def thing(mask, score=0.5, tile=None, cut=False):
    """Of a mask (H, W) over the photo, in a tile of 100 × 100 unless said."""
    tile = tile or Tile(0, 0, 100, 100)
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    place = Tile(int(rows[0]), int(columns[0]), int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1)
    return Thing(Instance(mask, (0, 0, 0, 0), score, 0.9), place, mask[place.place], tile, cut)


def masks(things, size=(100, 200)):
    return [each.instance(np.zeros((*size, 3), np.uint8)).mask for each in things]


def block(rows, columns):
    return region(slice(*rows), slice(*columns), (100, 200))


class TestAnswers:
    def test_the_mask_is_that_of_a_crop_around_a_tiles_answer(self, still, support, large):
        reference, plain = still.encode_support(support), prmagic.load(sam=still.framework.sam, steps=0)
        result = still.segment(large, reference)
        assert result.mask.shape == SIZE and np.array_equal(result.image, large)
        for tile in pyramid(SIZE, 2):
            answer = plain.segment(large[tile.place], reference)
            crop = closer(View.of(tile, 1000).cut_out(answer.mask)[0], large, 2)
            near = plain.segment(large[crop.place], reference)
            if np.array_equal(result.mask[crop.place], near.mask) and result.mask.sum() == near.mask.sum():
                break
        else:
            pytest.fail("no tile leads to this mask")
        assert result.score == pytest.approx(near.score, abs=1e-6)
        moved = near.candidates[0].prompts.points[0] + (crop.left, crop.top)
        assert result.candidates[0].prompts.points[0] == pytest.approx(moved, abs=1e-4)

    def test_the_crop_is_as_large_as_a_tile_or_larger_than_the_thing(self, large):
        assert closer(Tile(80, 100, 20, 40), large, 2) == Tile(30, 60, 120, 120)
        assert closer(Tile(0, 0, 20, 40), large, 2) == Tile(0, 0, 120, 120)
        assert closer(Tile(0, 20, 180, 200), large, 2) == Tile(0, 0, 180, 240)

    def test_what_it_took_is_told(self, still, support, large):
        result = still.segment(large, still.encode_support(support))
        compared = len(pyramid(SIZE, 2))
        assert result.counts["encodes"] == compared + 5  # again the whole, three tiles, and the crop
        assert result.seconds["encode"] > 0

    def test_a_similarity_map_covers_the_photo(self, still, support, large):
        result = still.segment(large, still.encode_support(support))
        similarity = result.candidates[0].prompts.similarity
        assert similarity.shape == SIZE
        x, y = result.candidates[0].prompts.points[0]
        row, column = np.unravel_index(similarity.argmax(), SIZE)
        assert abs(row - y) <= 2 and abs(column - x) <= 2

    @pytest.mark.parametrize("kind", [PerSamF, Matcher, Template])
    def test_any_framework_with_several_labels(self, kind, sam, encoder, support, mini, large):
        framework = kind(sam, encoder=encoder) if kind.uses_encoder else kind(sam)
        segmenter = Segmenter(framework, tiles=2)
        references = {
            "cat": segmenter.encode_support(support),
            "dog": segmenter.encode_support(prmagic.Support(mini["query_rgb"], mini["support_mask"][::-1])),
        }
        found = {label: each.mask for label, each in segmenter.segment(large, references).items()}
        assert list(found) == ["cat", "dog"]
        assert not (found["cat"] & found["dog"]).any()
        shared = segmenter.segment(large, references, overlaps=True)
        best = max(shared.values(), key=lambda each: each.score)
        assert np.array_equal(best.mask, found[best.label])

    def test_instances_share_no_pixel_and_lie_in_the_photo(self, sam, support, large):
        segmenter = prmagic.load(sam=sam, steps=1, tiles=2)
        result = segmenter.segment(large, segmenter.encode_support(support), instances=True)
        assert result.instances
        assert sum(each.mask.astype(int) for each in result.instances).max() == 1
        for each in result.instances:
            x0, y0, x1, y1 = map(int, each.box)
            assert each.mask[y0:y1, x0:x1].sum() == each.mask.sum() and each.mask[y0:y1, x0].any()
        scores = [each.score for each in result.instances]
        assert scores == sorted(scores, reverse=True) and result.score == scores[0]
        assert np.array_equal(result.mask, sum(each.mask for each in result.instances) > 0)

    def test_the_same_photo_gives_the_same_result(self, sam, support, large):
        segmenter = prmagic.load(sam=sam, steps=1, tiles=3)
        reference = segmenter.encode_support(support)
        first, second = (segmenter.segment(large, reference) for _ in range(2))
        assert first.scores == second.scores and np.array_equal(first.mask, second.mask)


class TestOff:
    def test_it_is_what_happens_without_the_option(self, sam, support, large):
        plain, off = prmagic.load(sam=sam, steps=1), prmagic.load(sam=sam, steps=1, tiles="off")
        assert plain.settings == off.settings and "tiles" not in off.settings
        assert EXTENTS not in off.encode_support(support).tensors

    def test_a_photo_that_needs_no_tiles_is_segmented_as_ever(self, sam, support, mini):
        plain, auto = prmagic.load(sam=sam, steps=1), prmagic.load(sam=sam, steps=1, tiles="auto")
        assert auto.settings["tiles"] == "auto"
        first = plain.segment(mini["query_rgb"], plain.encode_support(support))
        second = auto.segment(mini["query_rgb"], auto.encode_support(support))
        assert first.scores == second.scores and first.counts == second.counts
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.candidates, second.candidates, strict=True))

    def test_a_reference_serves_with_tiles_and_without(self, sam, support, large):
        plain, tiled = prmagic.load(sam=sam, steps=0), prmagic.load(sam=sam, steps=0, tiles=2)
        for maker, user in ((plain, tiled), (tiled, plain)):
            assert user.segment(large, maker.encode_support(support)).mask.shape == SIZE


def test_no_more_than_a_tile_is_encoded_at_once(sam, support, monkeypatch):
    sizes, encode = [], sam.encode

    def watched(images):
        images = list(images)
        sizes.extend([image.shape for image in images])
        assert len(images) == 1  # a CPU takes one at a time
        return encode(images)

    segmenter = prmagic.load(sam=sam, steps=0, tiles="auto")
    reference = segmenter.encode_support(support)
    monkeypatch.setattr(sam, "encode", watched)
    result = segmenter.segment(photo(1200, 1600), reference)
    assert result.mask.shape == (1200, 1600)
    assert max(max(size) for size in sizes) < 2 * REDUCED * sam.input_size < 1600


class TestViews:
    def test_a_large_tile_is_reduced_by_a_whole_factor(self):
        image = photo(300, 400)
        view = View.of(Tile(10, 20, 250, 300), 100)
        assert view.factor == 3
        seen = view.seen(image)
        assert seen.shape == (84, 100, 3)
        assert np.abs(seen[5, 7] - image[10 + 15 : 10 + 18, 20 + 21 : 20 + 24].reshape(-1, 3).mean(0)).max() <= 1

    def test_its_masks_come_back_to_their_place(self):
        view = View.of(Tile(10, 20, 250, 300), 100)
        mask = region(slice(70, 84), slice(40, 60), (84, 100))
        place, found = view.cut_out(mask)
        assert place == Tile(10 + 210, 20 + 120, 250 - 210, 60)  # the last row is not whole
        assert found.shape == (40, 60) and found.mean() > 0.98

    def test_only_the_border_to_a_neighbour_cuts(self):
        image = photo(100, 200)
        view = View.of(Tile(0, 0, 100, 120), 1000)
        inside, left, right = (region(slice(0, 50), columns, (100, 120)) for columns in (
            slice(50, 60), slice(0, 20), slice(100, 120)
        ))  # fmt: skip
        cut = [view.thing(Instance(mask, (0, 0, 0, 0), 0.5, 0.9), image).cut for mask in (inside, left, right)]
        assert cut == [False, False, True]


class TestJoined:
    left, right = Tile(0, 0, 100, 120), Tile(0, 80, 100, 120)
    small = Tile(0, 0, 50, 50)

    def test_parts_of_one_thing_are_joined_across_the_border(self):
        pieces = [
            thing(block((40, 60), (60, 120)), 0.6, self.left, cut=True),
            thing(block((40, 60), (80, 150)), 0.5, self.right, cut=True),
        ]
        (found,) = joined(pieces)
        assert np.array_equal(masks([found])[0], block((40, 60), (60, 150)))
        assert found.found.score == 0.6

    def test_parts_that_disagree_where_tiles_overlap_are_two_things(self):
        pieces = [
            thing(block((10, 30), (60, 120)), 0.6, self.left, cut=True),
            thing(block((60, 80), (80, 150)), 0.5, self.right, cut=True),
        ]
        assert len(joined(pieces)) == 2

    def test_a_thing_that_two_tiles_hold_is_one(self):
        both = [thing(block((40, 60), (90, 110)), 0.6, self.left), thing(block((40, 60), (91, 111)), 0.5, self.right)]
        (found,) = joined(both)
        assert np.array_equal(masks([found])[0], block((40, 60), (90, 110)))

    def test_a_thing_larger_than_a_tile_comes_from_the_whole(self):
        whole = thing(block((10, 90), (10, 190)), 0.6, Tile(0, 0, 100, 200))
        pieces = [
            thing(block((10, 50), (10, 50)), 0.6, self.small, cut=True),
            thing(block((20, 40), (20, 30)), 0.5, self.small),
        ]
        (found,) = joined([*pieces, whole])
        assert np.array_equal(masks([found])[0], block((10, 90), (10, 190)))

    def test_the_smallest_tile_that_holds_a_thing_decides(self):
        coarse = thing(block((8, 32), (8, 32)), 0.6, Tile(0, 0, 100, 200))
        fine = thing(block((10, 30), (10, 30)), 0.55, self.small)
        (found,) = joined([coarse, fine])
        assert np.array_equal(masks([found])[0], block((10, 30), (10, 30)))

    def test_a_mask_that_smaller_things_divide_is_none(self):
        group = thing(block((10, 40), (10, 46)), 0.6, Tile(0, 0, 100, 200))
        members = [
            thing(block((10, 40), (10, 26)), 0.55, self.small),
            thing(block((10, 40), (30, 46)), 0.55, self.small),
        ]
        assert len(joined([group, *members])) == 2

    def test_what_is_much_less_alike_than_the_best_does_not_count(self):
        several = [thing(block((10, 20), (10, 20)), 0.8), thing(block((50, 60), (50, 60)), 0.3)]
        assert len(joined(several)) == 1
        assert joined([]) == []

    def test_a_best_score_below_zero_still_counts(self):
        several = [thing(block((10, 20), (10, 20)), -0.1), thing(block((50, 60), (50, 60)), -0.4)]
        assert [each.found.score for each in joined(several)] == [-0.1]

    def test_a_pixel_belongs_to_the_better_one(self):
        pair = [thing(block((10, 20), (10, 50)), 0.5), thing(block((10, 20), (40, 90)), 0.6)]
        first, second = masks(joined(pair))
        assert first.sum() == 500 and second.sum() == 300 and not (first & second).any()


def test_a_photo_smaller_than_the_tiles_asked_for_still_works(sam, support):
    segmenter = prmagic.load(sam=sam, steps=0, tiles=64)
    result = segmenter.segment(photo(2, 3), segmenter.encode_support(support))
    assert result.mask.shape == (2, 3)


def test_every_tile_of_the_grid_is_compared(still, support, large):
    """The thing lies in the last tile, which is asked though it is the last of all."""
    reference = still.encode_support(support)
    black = np.zeros_like(large)
    tile = grid(SIZE, 2)[-1]
    black[tile.place] = large[tile.place]
    result = still.segment(black, reference)
    assert result.score > 0
