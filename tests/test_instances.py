"""One mask per thing: the steps on small masks, and the whole on coins with the embedded models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

import prmagic
from prmagic.demo.cases import cases
from prmagic.instances import _distinct, _maxima, _Overlaps, _without_groups, find_instances, peaks
from prmagic.types import Candidate, Prompts


def masks(*spans):
    """Masks of one row and twelve columns, each from a first column to one before the last."""
    found = torch.zeros(len(spans), 1, 12, dtype=torch.bool)
    for row, (first, last) in enumerate(spans):
        found[row, 0, first:last] = True
    return found


def overlaps(*spans):
    return _Overlaps.of(masks(*spans))


def candidate(similarity, points, step=0, labels=None):
    prompts = Prompts(
        np.array(points, np.float32).reshape(-1, 2), np.array(labels or [1] * len(points), np.int64), (0, 0, 1, 1),
        similarity=similarity,
    )  # fmt: skip
    return Candidate(np.zeros((8, 8), bool), prompts, 0.5, step=step)


def test_overlaps_are_shares_of_the_first_mask():
    found = overlaps((0, 4), (2, 10))
    assert found.iou[0, 1] == pytest.approx(0.2) and found.inside[0, 1] == 0.5 and found.inside[1, 0] == 0.25
    assert found.area.tolist() == [4, 8]


def test_a_mask_that_others_divide_among_themselves_is_a_group():
    ranks = _without_groups(np.array([1.0, 0.5, 0.5], np.float32), overlaps((0, 12), (0, 6), (6, 12)))
    assert ranks.tolist() == [0, 0.5, 0.5]


@pytest.mark.parametrize("spans, ranks, why", [
    (((0, 12), (0, 6)), (1, 0.9), "one member is a part"),
    (((0, 12), (0, 3), (9, 12)), (1, 0.9, 0.9), "the members leave half of it"),
    (((0, 12), (0, 6), (6, 12)), (1, 0.2, 0.2), "the members are poor"),
    (((0, 12), (0, 7), (2, 9)), (1, 0.9, 0.9), "the members are one thing"),
])  # fmt: skip
def test_other_masks_are_no_groups(spans, ranks, why):
    assert _without_groups(np.array(ranks, np.float32), overlaps(*spans))[0] == 1, why


def test_of_masks_of_one_thing_the_best_is_kept():
    kept = _distinct(np.array([0.8, 1.0, 0.9, 0.7], np.float32), overlaps((0, 5), (0, 6), (2, 5), (7, 12)))
    assert kept == [1, 3]  # the first is nearly the same, the third is a part


def test_what_ranks_far_below_the_best_is_no_thing():
    assert _distinct(np.array([1.0, 0.59, 0.61], np.float32), overlaps((0, 3), (4, 6), (8, 12))) == [0, 2]
    assert _distinct(np.array([0.0, 0.0], np.float32), overlaps((0, 3), (4, 6))) == []


def test_maxima_of_the_upper_half_come_first():
    similarity = np.zeros((4, 4), np.float32)
    similarity[0, 0], similarity[3, 3], similarity[0, 3] = 0.9, 1.0, 0.4
    assert _maxima(similarity, (4, 4)) == [15, 0]


def test_there_are_none_where_all_of_sams_masks_are_empty(sam, mini, monkeypatch):
    segmenter = prmagic.load(sam=sam, steps=0)
    reference = segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))
    (encoded,) = segmenter.encode([mini["query_rgb"]])
    found = segmenter.segment_encoded("", "", encoded, reference).candidates
    assert find_instances(segmenter.framework, encoded.query, reference, found)
    decode = sam.decode

    def nowhere(*prompts):
        answer = decode(*prompts)
        return replace(answer, logits=-answer.logits.abs() - 1)

    monkeypatch.setattr(sam, "decode", nowhere)
    assert find_instances(segmenter.framework, encoded.query, reference, found) == ()


def test_a_patch_is_asked_once_and_tells_its_first_step():
    flat = np.zeros((4, 4), np.float32)
    one, two = flat.copy(), flat.copy()
    one[0, 0] = 1
    two[0, 0] = two[3, 3] = 1
    points, steps = peaks([candidate(one, [(1, 1), (7, 1)]), candidate(two, [(7, 7)], step=1)], (4, 4), (8, 8))
    assert points.tolist() == [[1, 1], [7, 7], [7, 1]] and steps == [0, 1, 0]


def test_background_points_are_not_asked():
    points, _ = peaks([candidate(None, [(1, 1), (7, 7)], labels=[1, 0])], (4, 4), (8, 8))
    assert points.tolist() == [[1, 1]]


def test_points_on_the_edge_belong_to_the_last_patch():
    points, _ = peaks([candidate(None, [(8, 1), (1, 8), (-1, 1)])], (4, 4), (8, 8))
    assert points.tolist() == [[7, 1], [1, 7], [1, 1]]


@pytest.fixture(scope="module")
def coins():
    """The demo's coins: one of six is marked in the support; the query shows twelve others."""
    (case,) = (each for each in cases() if each.name == "coins")
    segmenter = prmagic.load("gf-sam", steps=0)
    return segmenter, segmenter.encode_support(prmagic.Support(case.support, case.support_mask), "coin"), case


@pytest.fixture(scope="module")
def found(coins):
    segmenter, coin, case = coins
    return segmenter.segment(case.query, coin, instances=True)


def test_most_coins_get_a_mask_and_nothing_else_does(coins, found):
    truth, count = ndimage.label(coins[2].truth)
    overlaps = [max(iou(each.mask, truth == number) for number in range(1, count + 1)) for each in found.instances]
    assert count == 12 and len(overlaps) >= 8 and min(overlaps) > 0.5


def test_instances_share_no_pixel_and_make_the_mask(found):
    together = np.sum([each.mask for each in found.instances], axis=0)
    assert together.max() == 1 and np.array_equal(together == 1, found.mask)


def test_instances_come_by_score_and_know_their_boxes(found):
    scores = [each.score for each in found.instances]
    assert scores == sorted(scores, reverse=True) and found.score == scores[0]
    for each in found.instances:
        x0, y0, x1, y1 = map(int, each.box)
        assert each.mask[y0:y1, x0:x1].sum() == each.mask.sum()
        assert each.mask[y0].any() and each.mask[y1 - 1].any() and each.mask[:, x0].any() and each.mask[:, x1 - 1].any()


def test_a_poor_thing_does_not_count(coins, found):
    segmenter, coin, case = coins
    least = found.instances[2].score
    strict = prmagic.Segmenter(segmenter.framework, segmenter.flow, min_score=least)
    assert len(strict.segment(case.query, coin, instances=True).instances) == 3
    none = prmagic.Segmenter(segmenter.framework, segmenter.flow, min_score=1.0).segment(
        case.query, coin, instances=True
    )
    assert none.instances == () and not none.found and not none.rejected and np.isnan(none.score)


def test_without_the_wish_there_are_none(coins):
    segmenter, coin, case = coins
    assert segmenter.segment(case.query, coin).instances is None


def test_slim_keeps_instances(found):
    slim = found.slim()
    assert np.array_equal(slim.mask, found.mask)
    for kept, each in zip(slim.instances, found.instances, strict=True):
        assert np.array_equal(kept.mask, each.mask) and kept.box == each.box and kept.score == each.score


def test_two_labels_share_no_pixel(coins):
    segmenter, coin, case = coins
    both = segmenter.segment(case.query, {"coin": coin, "again": coin}, instances=True)
    masks = [each.mask for result in both.values() for each in result.instances]
    assert np.sum(masks, axis=0).max() == 1


def test_the_same_seed_finds_the_same(coins, found):
    segmenter, coin, case = coins
    again = segmenter.segment(case.query, coin, instances=True)
    assert [each.mask.tobytes() for each in again.instances] == [each.mask.tobytes() for each in found.instances]


@pytest.mark.parametrize("framework", ["persam", "persam-f", "matcher"])
def test_every_framework_has_instances(coins, framework):
    case = coins[2]
    segmenter = prmagic.load(framework, steps=1)
    coin = segmenter.encode_support(prmagic.Support(case.support, case.support_mask))
    result = segmenter.segment(case.query, coin, instances=True)
    assert len(result.instances) >= 2 and {each.step for each in result.instances} <= {0, 1}


def iou(one, other):
    return (one & other).sum() / (one | other).sum()
