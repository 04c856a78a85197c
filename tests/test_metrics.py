"""Metrics, against values worked out by hand."""

import numpy as np
import pytest

from prmagic.metrics import (
    Clusters,
    areas,
    class_miou,
    empty_areas,
    episode_miou,
    foreground_background_iou,
    foreground_iou,
    full_areas,
)


def mask(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


HALF = mask("##..", "##..")


@pytest.mark.parametrize(
    "prediction, truth, expected",
    [
        (HALF, HALF, 1.0),
        (mask("....", "...."), HALF, 0.25),  # background 4 / 8, foreground 0
        (mask("####", "####"), HALF, 0.25),
        (mask("....", "...."), mask("....", "...."), 0.5),
        (mask("####", "####"), mask("####", "####"), 0.5),
        (mask("#...", "#..."), HALF, (4 / 6 + 2 / 4) / 2),
    ],
)
def test_episode_miou(prediction, truth, expected):
    assert episode_miou(areas(prediction, truth)) == pytest.approx(expected)


def test_an_empty_prediction_scores_half_of_the_background():
    truth = np.zeros((10, 10), bool)
    truth[:1] = True
    assert episode_miou(areas(np.zeros_like(truth), truth)) == pytest.approx(0.45)


LARGE, SMALL = areas(mask("####"), mask("####")), areas(mask("#..."), mask(".#.."))  # 4 / 4 and 0 / 2
OTHER = areas(mask("##.."), mask("#..."))  # 1 / 2


def test_the_four_metrics_differ_where_classes_differ_in_size():
    found = np.stack([LARGE, SMALL, OTHER])
    assert class_miou(found, ["cat", "cat", "dog"]) == pytest.approx((4 / 6 + 1 / 2) / 2)
    assert episode_miou(found).mean() == pytest.approx((0.5 + 1 / 4 + (2 / 3 + 1 / 2) / 2) / 3)
    assert foreground_iou(found).mean() == pytest.approx((1 + 0 + 1 / 2) / 3)
    assert foreground_background_iou(found) == pytest.approx(((0 + 2 + 2) / (0 + 4 + 3) + 5 / 8) / 2)


def test_a_class_that_was_never_drawn_counts_as_0():
    assert class_miou(np.stack([LARGE]), ["cat"], count=4) == pytest.approx(1 / 4)


def test_ignored_pixels_are_not_scored_however_often_it_is_done():
    prediction, truth, ignore = mask("##.."), mask("#..."), mask(".#.#")
    for _ in range(2):
        assert areas(prediction, truth, ignore).tolist() == [1, 1, 1, 1]
    assert ignore.tolist() == mask(".#.#").tolist()


@pytest.mark.parametrize("truth", [mask("#...", "...."), mask("####", "####"), mask("....", "....")])
def test_floors_are_what_an_empty_and_a_full_mask_score(truth):
    pixels, objects = truth.size, truth.sum()
    assert empty_areas(pixels, objects).tolist() == areas(np.zeros_like(truth), truth).tolist()
    assert full_areas(pixels, objects).tolist() == areas(np.ones_like(truth), truth).tolist()


def width(interval):
    return interval[1] - interval[0]


def test_the_interval_holds_the_mean_and_narrows_with_more_classes():
    values = np.random.default_rng(0).normal(1, 1, 1000)
    few, many = (Clusters(range(n), [0] * n).mean_interval(values[:n]) for n in (40, 1000))
    assert few[0] < values[:40].mean() < few[1]
    assert width(many) == pytest.approx(2 * 1.96 * values.std() / 1000**0.5, rel=0.1)
    assert Clusters(range(1000), [0] * 1000).mean_interval(values) == many
    assert Clusters([1, 1, 2], [1, 2, 3]).mean_interval(np.full(3, 0.25)) == (0.25, 0.25)


def test_episodes_of_one_class_or_query_are_not_independent():
    """40 independent values, each seen ten times: the interval is that of 40 values and not that of 400."""
    values = np.repeat(np.random.default_rng(0).normal(1, 1, 40), 10)
    forty = np.repeat(np.arange(40), 10)
    by_class = Clusters(forty.tolist(), range(400)).mean_interval(values)
    by_query = Clusters([0] * 400, forty.tolist()).mean_interval(values)
    alone = Clusters(range(400), [0] * 400).mean_interval(values)
    for found in (by_class, by_query):
        assert width(found) == pytest.approx(2 * 1.96 * values.std() / 40**0.5, rel=0.15)
        assert width(found) > 2.5 * width(alone)


def test_a_query_belongs_to_its_class():
    clusters = Clusters(["a", "a", "b", "a"], ["q", "q", "q", "r"])
    assert clusters.of.tolist() == [0, 0, 1, 2] and clusters.members == [[0, 2], [1]]
    sums = clusters.resampled(np.array([[1.0], [2.0], [10.0], [100.0]]), draws=50)
    # Class a gives two of its queries, 3 and 100; class b one, 10.
    assert set(sums.ravel().tolist()) == {6.0, 103.0, 200.0, 10.0}


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="different sizes"):
        areas(mask("#"), mask("##"))
