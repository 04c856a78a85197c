"""The steps of Matcher against answers worked out by hand, by brute force, or by a general solver."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog

from prmagic.frameworks.matcher.steps import (
    Pairs,
    better_half,
    cluster_centers,
    earth_movers_distance,
    match,
    patches_of,
    subsets,
    suppress,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def floats(*rows):
    return np.array(rows, np.float32)


class TestPatches:
    @pytest.mark.parametrize("row, column, patch", [(0, 0, 0), (3, 11, 3), (4, 3, 4 + 1), (11, 8, 2 * 4 + 2)])
    def test_one_pixel_marks_the_patch_it_lies_in(self, row, column, patch):
        mask = torch.zeros(12, 12, dtype=torch.bool)
        mask[row, column] = True
        assert np.flatnonzero(patches_of(mask, (3, 4))).tolist() == [patch]

    @pytest.mark.parametrize("size, grid", [((192, 256), (37, 37)), ((30, 50), (37, 37)), ((37, 74), (37, 37))])
    def test_are_those_of_max_pooling(self, size, grid):
        masks = torch.rand(3, *size, generator=torch.Generator().manual_seed(0)) > 0.98
        pooled = torch.nn.functional.adaptive_max_pool2d(masks[:, None].float(), grid) > 0
        assert np.array_equal(patches_of(masks, grid), pooled.flatten(1).numpy())

    def test_a_thin_line_survives(self):
        mask = torch.zeros(600, 800, dtype=torch.bool)
        mask[450] = True
        assert np.flatnonzero(patches_of(mask, (6, 8))).tolist() == list(range(32, 40))  # 450 / 100 → row 4

    def test_a_pixel_larger_than_a_patch_marks_all_that_it_covers(self):
        mask = torch.zeros(2, 3, dtype=torch.bool)
        mask[1, 2] = True
        marked = patches_of(mask, (4, 6)).reshape(4, 6)
        assert marked[2:, 4:].all()
        assert marked.sum() == 4

    def test_a_pixel_across_the_border_of_two_patches_marks_both(self):
        mask = torch.tensor([[False, True, False]])  # three pixels on two patches: the middle one lies in both
        assert patches_of(mask, (1, 2)).tolist() == [True, True]

    def test_empty_and_full_masks_and_leading_axes(self):
        masks = torch.zeros(2, 3, 50, 70, dtype=torch.bool)
        masks[1, 2] = True
        marked = patches_of(masks, (6, 8))
        assert marked.shape == (2, 3, 48)
        assert marked.dtype == bool
        assert marked[1, 2].all()
        assert marked.sum() == 48


def brute_force_match(similarity, foreground):
    """All ways there, all ways back: pairs (support, query) of the best, and those that return to the foreground."""
    inside = [row for row in range(len(foreground)) if foreground[row]]
    ways = (
        (
            (tuple(zip(inside, columns, strict=True)))
            for columns in itertools.permutations(range(similarity.shape[1]), len(inside))
        )
        if len(inside) <= similarity.shape[1]
        else (
            tuple(sorted(zip(rows, range(similarity.shape[1]), strict=True)))
            for rows in itertools.permutations(inside, similarity.shape[1])
        )
    )
    there = max(ways, key=lambda pairs: sum(similarity[pair] for pair in pairs))
    columns = [column for _, column in there]
    back = max(
        itertools.permutations(range(len(foreground)), len(columns)),
        key=lambda rows: sum(similarity[row, column] for row, column in zip(rows, columns, strict=True)),
    )
    returned = [pair for pair, row in zip(there, back, strict=True) if foreground[row]]
    return set(returned or there), bool(returned)


class TestMatch:
    @pytest.mark.parametrize("rows, columns", [(3, 4), (4, 3), (5, 2), (2, 5), (6, 6), (1, 1)])
    def test_as_by_brute_force(self, rows, columns):
        draw = np.random.default_rng(rows * 10 + columns)
        fewer = none = 0
        for _ in range(40):
            similarity = draw.standard_normal((rows, columns)).astype(np.float32)
            foreground = draw.random(rows) < 0.5
            foreground[draw.integers(rows)] = True
            pairs = match(similarity, foreground)
            expected, returned = brute_force_match(similarity, foreground)
            assert set(zip(pairs.support.tolist(), pairs.query.tolist(), strict=True)) == expected
            assert len(pairs.query) == len(expected)
            np.testing.assert_array_equal(pairs.similarity, similarity[pairs.support, pairs.query])
            none += not returned
            fewer += returned and len(expected) < min(foreground.sum(), columns)
        if rows > 3 and columns > 2:
            assert fewer  # so that both rules were put to the test
        if columns == 2 and rows == 5:
            assert none

    def test_pairs_whose_way_back_ends_in_the_background_are_dropped(self):
        similarity = floats(
            [0.9, 0.1, 0.0], [0.2, 0.5, 0.1], [0.1, 0.8, 0.3]
        )  # the background's patch 2 takes column 1
        pairs = match(similarity, np.array([True, True, False]))
        assert pairs.support.tolist() == [0]
        assert pairs.query.tolist() == [0]
        assert pairs.similarity.tolist() == pytest.approx([0.9])

    def test_all_pairs_stay_if_none_returns(self):
        similarity = floats([0.1, 0.3, 0.2], [0.5, 0.9, 0.4])
        pairs = match(similarity, np.array([True, False]))
        assert (pairs.support.tolist(), pairs.query.tolist()) == ([0], [1])

    def test_assignment_is_one_to_one_and_best_in_sum(self):
        similarity = floats([0.9, 0.8], [0.8, 0.1])  # greedily 0.9 + 0.1; together 0.8 + 0.8
        pairs = match(similarity, np.array([True, True]))
        assert sorted(zip(pairs.support.tolist(), pairs.query.tolist(), strict=True)) == [(0, 1), (1, 0)]

    def test_more_foreground_than_query_patches(self):
        similarity = floats([0.1], [0.7], [0.4])
        pairs = match(similarity, np.array([True, True, True]))
        assert (pairs.support.tolist(), pairs.query.tolist()) == ([1], [0])


def some_pairs(*similarity, offset=0):
    order = np.arange(len(similarity))
    return Pairs(order + offset, order + 10 * offset, np.array(similarity, np.float32))


class TestBetterHalf:
    def test_up_to_40_all_stay_in_their_order(self):
        pairs = better_half(some_pairs(*np.linspace(0, 1, 40)))
        assert pairs.query.tolist() == list(range(40))

    def test_of_41_the_20_most_similar_stay(self):
        similarity = np.random.default_rng(0).permutation(41) / 41
        pairs = better_half(some_pairs(*similarity, offset=3))
        assert len(pairs.query) == 20
        assert set(pairs.query - 30) == set(np.flatnonzero(similarity * 41 > 20.5))
        assert set(pairs.support - 3) == set(pairs.query - 30)
        np.testing.assert_allclose(pairs.similarity, similarity[pairs.query - 30].astype(np.float32))


class TestCenters:
    def test_two_groups_have_their_means_as_centres(self):
        points = floats([1, 10], [2, 11], [3, 12], [100, 50], [102, 54])
        for seed in range(5):
            centers = cluster_centers(points, 2, rng(seed))
            assert sorted(centers.tolist()) == [[2, 11], [101, 52]]

    @pytest.mark.parametrize("count", [3, 8])
    def test_no_more_points_than_centres_are_their_own_centres(self, count):
        points = floats([1, 2], [30, 4], [5, 60])
        assert sorted(cluster_centers(points, count, rng()).tolist()) == sorted(points.tolist())

    def test_one_point(self):
        assert cluster_centers(floats([7, 3]), 8, rng()).tolist() == [[7, 3]]

    def test_one_centre_is_the_mean(self):
        assert cluster_centers(floats([0, 0], [1, 0], [5, 9]), 1, rng()).tolist() == [[2, 3]]

    @pytest.mark.parametrize("distinct", [1, 2, 3])
    def test_identical_points_come_to_an_end(self, distinct):
        points = np.tile(floats([4, 4], [9, 1], [3, 7])[:distinct], (4, 1))
        centers = cluster_centers(points, 8, rng())
        assert {tuple(center) for center in centers.tolist()} == {tuple(point) for point in points.tolist()}
        assert np.isfinite(centers).all()

    def test_points_far_from_the_origin_and_close_together(self):
        points = floats(*([7850, (row + 0.5) * 2 / 37] for row in range(37)))  # a photo of 2 × 8000, 37 patches a side
        for seed in range(10):
            centers = cluster_centers(points, 8, rng(seed))
            assert len({tuple(center) for center in centers.tolist()}) == 8
            assert (centers >= points.min(0)).all()
            assert (centers <= points.max(0)).all()

    def test_the_generator_alone_decides(self):
        points = np.random.default_rng(0).random((60, 2)).astype(np.float32) * 500
        first, again, other = (cluster_centers(points, 8, rng(seed)) for seed in (3, 3, 4))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
        nearest = np.linalg.norm(points[:, None] - first, axis=2).argmin(1)  # a fixed point of Lloyd's steps
        np.testing.assert_allclose(first, [points[nearest == k].mean(0) for k in range(8)], rtol=1e-5)


class TestSubsets:
    POINTS = np.arange(24, dtype=np.float32).reshape(12, 2)

    def test_all_of_few_points_by_size_then_in_colexicographic_order(self):
        found = subsets(self.POINTS[:4], (2, 3), 1, random.Random(0))
        names = [tuple((s[:, 0] / 2).astype(int).tolist()) for s in found]
        assert names == [
            (0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3),
            (0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        "points, sizes, count",
        [(8, (4, 6), 154), (5, (4, 6), 6), (3, (4, 6), 1), (1, (4, 6), 1), (4, (1, 6), 15), (2, (1, 6), 3)],
    )
    def test_how_many_there_are(self, points, sizes, count):
        found = subsets(self.POINTS[:points], sizes, 30, random.Random(0))
        assert len(found) == count
        assert len({s.tobytes() for s in found}) == count
        assert {len(s) for s in found} == set(range(min(sizes[0], points), min(sizes[1], points) + 1))

    def test_of_more_than_8_points_so_many_random_ones_of_each_size(self):
        found = subsets(self.POINTS[:9], (3, 5), 7, random.Random(0))
        assert [len(s) for s in found] == [3] * 7 + [4] * 7 + [5] * 7
        known = {tuple(point) for point in self.POINTS[:9].tolist()}
        for chosen in found:
            assert len({tuple(point) for point in chosen.tolist()}) == len(chosen)
            assert {tuple(point) for point in chosen.tolist()} <= known
        again, other = (subsets(self.POINTS[:9], (3, 5), 7, random.Random(seed)) for seed in (0, 1))
        assert all(np.array_equal(a, b) for a, b in zip(found, again, strict=True))
        assert not all(np.array_equal(a, b) for a, b in zip(found, other, strict=True))


class TestSuppression:
    BOXES = floats(
        [0, 0, 10, 20],
        [0, 5, 10, 20],  # IoU 150 / 200 = 0.75 with the first
        [0, 10, 10, 20],  # 100 / 200 = 0.5 with the first, 100 / 150 = 0.667 with the second
        [40, 0, 60, 10],  # apart
    )
    SCORES = floats(0.9, 0.8, 0.7, 0.95)

    @pytest.mark.parametrize(
        "threshold, kept",
        [(0.65, [3, 0, 2]), (0.4, [3, 0]), (0.75, [3, 0, 1, 2]), (0.74, [3, 0, 2]), (1.0, [3, 0, 1, 2])],
    )
    def test_by_hand(self, threshold, kept):
        assert suppress(self.BOXES, self.SCORES, threshold).tolist() == kept

    def test_what_is_suppressed_suppresses_nothing(self):
        assert suppress(self.BOXES[:3], floats(0.9, 0.8, 0.7), 0.6).tolist() == [0, 2]  # 2 overlaps 1, which is gone
        assert suppress(self.BOXES[:3], floats(0.5, 0.8, 0.7), 0.6).tolist() == [1]

    def test_equal_boxes_with_equal_scores_leave_the_first(self):
        assert suppress(self.BOXES[[0, 0, 3, 0]], floats(0.5, 0.5, 0.5, 0.5), 0.65).tolist() == [0, 2]
        assert suppress(self.BOXES[[0, 0]], floats(0.5, 0.5), 1.0).tolist() == [0, 1]

    def test_boxes_without_area_and_no_boxes(self):
        assert suppress(floats([3, 4, 3, 4], [3, 4, 3, 4], [1, 1, 1, 9]), floats(1, 2, 3), 0.65).tolist() == [2, 1, 0]
        assert suppress(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), 0.65).tolist() == []

    def test_width_and_height_are_not_mixed_up(self):
        side_by_side = floats([0, 0, 30, 10], [20, 0, 50, 10])  # IoU 100 / 500
        assert suppress(side_by_side, floats(1, 2), 0.21).tolist() == [1, 0]
        assert suppress(side_by_side, floats(1, 2), 0.19).tolist() == [1]


def by_linear_programme(cost):
    rows, columns = cost.shape
    sums = np.zeros((rows + columns, rows * columns))
    for i, j in itertools.product(range(rows), range(columns)):
        sums[i, i * columns + j] = sums[rows + j, i * columns + j] = 1
    weights = np.concatenate([np.full(rows, 1 / rows), np.full(columns, 1 / columns)])
    return linprog(cost.flatten(), A_eq=sums, b_eq=weights).fun


class TestEarthMovers:
    @pytest.mark.parametrize(
        "cost, distance",
        [
            ([[0.3]], 0.3),
            ([[0.0, 1.0], [1.0, 0.0]], 0.0),
            ([[0.2, 0.4, 0.9]], 0.5),  # all goes everywhere: the mean
            ([[0.2], [0.6]], 0.4),
            ([[0.0, 0.5, 1.0], [1.0, 0.5, 0.0]], 1 / 6),  # the middle is filled half from each side: 2 · 1/6 · 0.5
            ([[0.1, 0.3], [0.2, 0.9]], 0.25),  # crosswise: (0.3 + 0.2) / 2
        ],
    )
    def test_by_hand(self, cost, distance):
        assert earth_movers_distance([floats(*cost)]) == [pytest.approx(distance, abs=1e-7)]

    def test_of_equal_sizes_it_is_the_best_assignment(self):
        cost = np.random.default_rng(0).random((40, 40)).astype(np.float32)
        rows, columns = linear_sum_assignment(cost)
        assert earth_movers_distance([cost])[0] == pytest.approx(float(cost[rows, columns].mean()), abs=1e-6)

    @pytest.mark.parametrize("shape", [(3, 5), (7, 2), (6, 4), (1, 9), (9, 1)])
    def test_as_by_a_linear_programme(self, shape):
        cost = np.random.default_rng(sum(shape)).random(shape).astype(np.float32)
        assert earth_movers_distance([cost])[0] == pytest.approx(by_linear_programme(cost), abs=1e-6)

    def test_many_at_once_come_back_in_order(self):
        draw = np.random.default_rng(1)
        costs = [draw.random((draw.integers(1, 30), draw.integers(1, 30))).astype(np.float32) for _ in range(50)]
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(2)
            together = earth_movers_distance(costs)
        finally:
            torch.set_num_threads(threads)
        assert together == [earth_movers_distance([cost])[0] for cost in costs]
        assert earth_movers_distance([]) == []

    def test_nothing_is_as_far_as_can_be(self):
        assert earth_movers_distance([np.zeros((4, 0), np.float32), floats([0.25])]) == [1.0, pytest.approx(0.25)]

    def test_a_large_problem_is_solved_to_the_end(self):
        cost = np.random.default_rng(2).random((600, 900)).astype(np.float32)
        (distance,) = earth_movers_distance([cost])
        assert 0 < distance < 0.01  # a solver that stops early leaves mass where it is dear, or warns
