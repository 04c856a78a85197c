"""GF-SAM's steps, worked out by hand on small matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prmagic.frameworks.gfsam.steps import (
    Alignment,
    Shot,
    align,
    align_moved,
    choose_points,
    clusters,
    decided,
    merged,
    middle_shares,
    overshooting_gate,
    point_pixels,
    point_scores,
    positive_gate,
    sampled,
    widest,
)


def floats(*values):
    return np.array(values, np.float32)


def bools(*values):
    return np.array(values, bool)


class TestAlignment:
    def test_one_shot(self):
        support = torch.tensor([[1.0, 0], [0, 1], [1, 0]])
        query = torch.tensor([[1.0, 0], [0, 1], [-1, 0]])
        # Cosines with the query's patches, a row for each of the support's: (1, 0, −1), (0, 1, 0), (1, 0, −1).
        found = align([Shot.of(query, support, torch.tensor([1, 0.5, 0]))])
        assert found.positive == pytest.approx([1 / 1.5, 0.5 / 1.5, -1 / 1.5], abs=1e-6)
        assert found.negative == pytest.approx([1 / 1.5, 0.5 / 1.5, -1 / 1.5], abs=1e-6)
        assert found.highest == pytest.approx([1, 0.5, 0])  # a patch of weight 0 takes part with 0

    def test_an_object_that_fills_the_photo_has_no_zeros(self):
        found = align([Shot.of(torch.tensor([[-1.0, 0]]), torch.tensor([[1.0, 0], [0.6, 0.8]]), torch.ones(2))])
        assert found.highest == pytest.approx([-0.6])
        assert found.negative == pytest.approx([0])

    def test_shots_are_averaged(self):
        query, support = torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 0], [0, 1]])
        weights = ([1.0, 0], [0, 1.0], [1.0, 1.0])
        found = align([Shot.of(query, support, torch.tensor(weight)) for weight in weights])
        assert found.positive == pytest.approx([(1 + 0 + 0.5) / 3], abs=1e-6)
        assert found.negative == pytest.approx([(0 + 1 + 0) / 3], abs=1e-6)
        assert found.highest == pytest.approx([(1 + 0 + 1) / 3])

    def test_scores_are_nothing_where_the_background_is_more_alike(self):
        alignment = Alignment(floats(0, 0.5, 1, 0.25), floats(0.5, 0, 0.25, 0.1), floats(1, 1, 1, 1))
        # Both brought to 0 … 1: the object's to 0, .5, 1, .25, the background's to 1, 0, .5, .2.
        assert point_scores(alignment) == pytest.approx([0, 0.5, 1, 0.25], abs=1e-5)
        alignment = alignment._replace(negative=floats(0.5, 0, 0.25, 0.2))
        assert point_scores(alignment) == pytest.approx([0, 0.5, 1, 0], abs=1e-5)


class TestMovedTokens:
    @pytest.mark.parametrize("seed", range(5))
    def test_are_aligned_as_if_anew(self, seed):
        draw = torch.Generator().manual_seed(seed)
        tokens, *supports = (F.normalize(torch.randn(40, 24, generator=draw), dim=1) for _ in range(3))
        weights = [(torch.rand(40, generator=draw) - 0.4).clamp(min=0), torch.full((40,), float(seed % 2))]
        moved = 0.2 * torch.randn(40, 10, generator=draw)
        anew = F.normalize(tokens + F.pad(moved, (0, 14)), dim=1)
        each = list(zip(supports, weights, strict=True))
        quick = align_moved([Shot.of(tokens, *one) for one in each], tokens, moved)
        plain = align([Shot.of(anew, *one) for one in each])
        for ours, theirs in zip(quick, plain, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        if decided(quick):
            ours, theirs = (choose_points(point_scores(each), (5, 8)) for each in (quick, plain))
            assert ours.tolist() == theirs.tolist()

    def test_close_scores_are_not_left_to_rounding(self):
        clear = Alignment(floats(0, 0.5, 1, 0.25), floats(0.5, 0, 0.25, 0.1), floats(1, 1, 1, 1))
        assert decided(clear)
        assert not decided(clear._replace(positive=floats(0, 1 - 1e-6, 1, 0)))  # which of two is the only point
        assert not decided(clear._replace(negative=floats(0.5, 0.25 + 1e-6, 0.1, 0)))


class TestPoints:
    def test_as_many_as_the_sum_column_by_column(self):
        scores = floats(0.1, 0.9, 0.0, 0.8, 0.2, 0.95)  # of 2 × 3 patches; the sum is 2.95
        assert choose_points(scores, (2, 3)).tolist() == [1, 5]
        scores[2] = 0.1  # 3.05
        assert choose_points(scores, (2, 3)).tolist() == [3, 1, 5]  # columns 0, 1, 2

    @pytest.mark.parametrize("scores, expected", [([0, 0.3, 0.2, 0], [1]), ([0, 0, 0, 0], [])])
    def test_at_least_one_if_there_is_any(self, scores, expected):
        assert choose_points(floats(*scores), (2, 2)).tolist() == expected

    def test_at_most_128(self):
        scores = np.ones(400, np.float32)
        scores[150:300] += 1
        chosen = choose_points(scores, (20, 20))
        assert sorted(chosen) == list(range(150, 278))
        assert [(patch % 20, patch // 20) for patch in chosen] == sorted((patch % 20, patch // 20) for patch in chosen)


class TestClusters:
    def test_are_joined_whichever_mask_covers_the_other_point(self):
        covers = np.eye(5, dtype=bool)
        covers[0, 2] = covers[3, 2] = True  # 0 → 2 ← 3
        assert clusters(covers).tolist() == [0, 1, 0, 0, 2]

    def test_a_mask_may_miss_its_own_point(self):
        assert clusters(np.zeros((3, 3), bool)).tolist() == [0, 1, 2]


class TestPositiveGate:
    # h = (1 + 0) / 2, D = (1, 1, −.5, −.5): the first two of four patches are the object's.
    ALIGNMENT = Alignment(floats(1, 1, 0, 0), floats(0, 0, 1, 1), floats(0, 0, 0, 0))

    def test_masks_grow_by_what_is_more_object_than_background(self):
        masks = np.stack([floats(0, 0, 1, 1), floats(1, 1, 1, 0), floats(1, 0, 0, 0), floats(0, 0.5, 0, 0)])
        # By gain: mask 2 (1) adds 1; mask 1 (.5) then adds as much background as object; mask 0 (−.5) adds 2 of the
        # background, and as the last one gives its cluster's growth. Mask 3 is by itself.
        passes, growth = positive_gate(masks, np.array([0, 0, 0, 1]), self.ALIGNMENT)
        assert passes.tolist() == [False, False, True, True]
        assert growth == pytest.approx([-2, -2, -2, 0.5])

    def test_a_mask_counts_only_beyond_those_before_it(self):
        masks = np.stack([floats(1, 1, 0, 0), floats(1, 0.9, 0.2, 0)])
        alone, _ = positive_gate(masks, np.array([0, 1]), self.ALIGNMENT)
        together, growth = positive_gate(masks, np.array([0, 0]), self.ALIGNMENT)
        assert alone.tolist() == [True, True]
        assert together.tolist() == [True, False]
        assert growth == pytest.approx([-0.2, -0.2])

    def test_an_empty_mask_does_not_pass(self):
        passes, growth = positive_gate(np.zeros((1, 4), np.float32), np.array([0]), self.ALIGNMENT)
        assert (passes.tolist(), growth.tolist()) == ([False], [0])


class TestOvershootingGate:
    PLACES = np.array([[0, 0], [0, 4], [0, 5]])  # the first two are cluster 0, four columns apart; the last is next

    def test_likeness_is_divided_by_the_distance(self):
        likeness = np.array([[0.9, 0.6, 0.2], [4.0, 0.4, 0.8]])
        # Point 0 to cluster 1: 4 / 5 < .9. A point's distance to its own cluster counts as 1.
        assert overshooting_gate(likeness, self.PLACES, np.array([0, 0, 1])).all()
        likeness[1, 0] = 5
        assert overshooting_gate(likeness, self.PLACES, np.array([0, 0, 1])).tolist() == [False, True, True]

    def test_a_cluster_that_loses_more_than_half_loses_all(self):
        likeness = np.array([[9.0, 0, 0, 0], [0, 1, 1, 1]])
        places = np.array([[0, 0], [0, 1], [0, 2], [0, 3]])
        assert overshooting_gate(likeness, places, np.array([0, 0, 1, 1])).tolist() == [True, False, True, True]
        assert overshooting_gate(likeness, places, np.array([0, 0, 0, 1])).tolist() == [False, False, False, True]


class TestMerge:
    def test_takes_what_passes_both_gates(self):
        assert merged(bools(1, 0, 1), bools(1, 1, 1), floats(-5, 9, -5)) == [0, 2]

    @pytest.mark.parametrize(
        "growth, expected",
        [
            ([1, 3, 9, 3], [1]),  # the third passes none; the first of equals
            ([-1, -3, 9, -2], [2]),  # all that passes one is below the 0 of the third
            ([-1, 0, 9, -2], [1]),
        ],
    )
    def test_falls_back_to_one_that_passes_one(self, growth, expected):
        assert merged(bools(1, 0, 0, 0), bools(0, 1, 0, 1), floats(*growth)) == expected

    def test_if_none_passes_any_the_first_point_wins(self):
        assert merged(bools(0, 0), bools(0, 0), floats(1, 2)) == [0]

    def test_widest_masks_come_first_each_by_what_it_adds(self):
        masks = np.stack([bools(1, 1, 0, 0, 0), bools(1, 1, 1, 0, 0), bools(0, 0, 0, 1, 0), bools(0, 1, 0, 1, 0)])
        assert widest(masks, 9) == [1, 2]
        assert widest(masks, 1) == [1]
        assert widest(masks, 0) == []


@pytest.mark.parametrize("at, pixels", [(0, [0, 3, 6]), (0.5, [1, 5, 8])])
def test_a_point_is_a_pixel_of_its_patch(at, pixels):
    assert point_pixels(10, 3, at).tolist() == pixels  # patches begin at 0, 3⅓ and 6⅔


@pytest.mark.parametrize("size", [(90, 120), (200, 61), (128, 128)])
def test_masks_are_read_as_if_they_were_resized_to_the_patches(sam, size):
    (embedding,) = sam.encode([np.zeros((*size, 3), np.uint8)])
    logits = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    frame, grid = embedding.frame, (6, 8)
    masks = (frame.upscale(logits, frame.resized) > 0).float()[:, None]
    corners, middles = sampled(logits, frame, grid, 0)
    points, _ = sampled(logits, frame, grid, 0.5)
    shares = (middles * middle_shares(frame.resized, grid)).sum(1)
    nearest = F.interpolate(masks, grid, mode="nearest").flatten(1).numpy()
    bilinear = F.interpolate(masks, grid, mode="bilinear", align_corners=False).flatten(1).numpy()
    assert np.array_equal(corners, nearest > 0)
    y, x = (torch.from_numpy(point_pixels(*each, 0.5)) for each in zip(frame.resized, grid, strict=True))
    assert np.array_equal(points, (masks[:, 0, y][:, :, x] > 0).flatten(1).numpy())
    assert np.allclose(shares, bilinear, atol=1e-5)
