"""Metrics, against values worked out by hand."""

import numpy as np
import pytest

from prmagic.evaluation.metrics import areas, class_miou, episode_miou, mean_episode_miou


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
    assert episode_miou(prediction, truth) == pytest.approx(expected)


def test_an_empty_prediction_scores_half_of_the_background():
    truth = np.zeros((10, 10), bool)
    truth[:1] = True
    assert episode_miou(np.zeros_like(truth), truth) == pytest.approx(0.45)


def test_class_miou_pools_before_it_divides():
    large, small = areas(mask("####"), mask("####")), areas(mask("#..."), mask(".#.."))  # 4 / 4 and 0 / 2
    other = areas(mask("##.."), mask("#..."))  # 1 / 2
    episodes = [("cat", large), ("cat", small), ("dog", other)]
    assert class_miou(episodes) == pytest.approx((4 / 6 + 1 / 2) / 2)
    assert mean_episode_miou([large, small, other]) == pytest.approx((0.5 + 1 / 4 + (2 / 3 + 1 / 2) / 2) / 3)


def test_masks_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="different sizes"):
        areas(mask("#"), mask("##"))
