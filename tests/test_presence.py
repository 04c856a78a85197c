"""How alike a result is to the examples, and below which score it counts as not found."""

from __future__ import annotations

import math

import numpy as np
import pytest
from common import MINI, region, rng

import prmagic
from prmagic.demo import cases
from prmagic.frameworks.persam import PerSamF
from prmagic.frameworks.registry import FRAMEWORKS
from prmagic.presence import CALIBRATED, calibrated, presence
from prmagic.reference import Example


@pytest.fixture(scope="module")
def demo():
    return {case.name: case for case in cases()}


@pytest.fixture(scope="module")
def found(mini):
    """A segmenter, its reference, and a result that has a score."""
    segmenter = prmagic.load(sam=MINI)
    reference = segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))
    return segmenter, reference, segmenter.segment(mini["query_rgb"], reference, name="a")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_object_itself_is_as_alike_as_can_be_and_another_thing_less(framework, demo):
    segmenter, cat = prmagic.load(framework), demo["cat"]
    reference = segmenter.encode_support(prmagic.Support(cat.support, cat.support_mask))
    (query,) = segmenter.framework.encode_queries([cat.support])
    own, other = (presence(query, reference, mask) for mask in (cat.support_mask, ~cat.support_mask))
    assert own > 0.96  # not 1, as a patch that the mask only touches is taken by one side or the other
    assert -1 <= other < own - 0.02
    assert math.isnan(presence(query, reference, np.zeros_like(cat.support_mask)))
    thin = region(10, slice(10, 12), cat.support_mask.shape)  # covers no patch by half
    assert -1 <= presence(query, reference, thin) < own


def test_by_hand(sam, mini):
    """The mean, over the supports' patches, of the best cosine with the patches under the mask."""
    framework = PerSamF(sam)
    examples = [Example(mini["support_rgb"], mini["support_mask"]), Example(mini["query_rgb"], mini["query_mask"])]
    reference = framework.learn(examples, rng())
    (query,) = framework.encode_queries([mini["query_rgb"]])
    mask = region(slice(8, 40), slice(8, 64))
    patches = query.tokens.vectors[query.tokens.cover([mask])[0] > 0.5]
    expected = [
        float((vector @ patches.T).max())
        for support in reference.supports for vector, share in zip(support.vectors, support.shares, strict=True)
        if share > 0
    ]  # fmt: skip
    assert presence(query, reference, mask) == pytest.approx(np.mean(expected), abs=1e-5)


def test_below_the_least_score_nothing_counts_as_found(found, mini):
    segmenter, reference, free = found
    assert -1 <= free.score <= 1
    assert free.min_score is None  # random weights are not calibrated
    assert free.found and not free.rejected
    strict = prmagic.load(sam=segmenter.framework.sam, min_score=min(1.0, free.score + 1e-3))
    loose = prmagic.load(sam=segmenter.framework.sam, min_score=free.score)
    rejected, kept = (each.segment(mini["query_rgb"], reference, name="a") for each in (strict, loose))
    assert rejected.rejected and not rejected.found
    assert not rejected.mask.any() and rejected.mask.shape == free.mask.shape
    assert np.array_equal(rejected.candidates[rejected.chosen].mask, free.mask)  # still there, to be looked at
    assert kept.found and np.array_equal(kept.mask, free.mask)


@pytest.mark.parametrize("value", [-1.01, 2])
def test_a_least_score_that_is_no_cosine_is_refused(value):
    with pytest.raises(ValueError, match=r"min_score .* -1 … 1"):
        prmagic.load(sam=MINI, min_score=value)


def test_the_embedded_matcher_has_a_calibrated_least_score():
    segmenter = prmagic.load("matcher")
    models = {"sam": segmenter.framework.sam}
    assert 0 < segmenter.min_score < 1  # none: the weights changed, and it has to be measured anew
    assert calibrated(segmenter.framework) == segmenter.min_score in CALIBRATED.values()
    assert prmagic.load("matcher", **models, min_score=-1).min_score == -1
    assert prmagic.load("matcher", **models, preset="paper").min_score is None
    assert prmagic.load("matcher", **models, encoder_size=512).min_score is None  # other patches, other cosines
    assert prmagic.load("persam-f", **models).min_score is None


def test_the_embedded_matcher_finds_coins_and_no_motorcycle_among_them(demo):
    segmenter = prmagic.load("matcher", flow="none")
    references = {
        name: segmenter.encode_support(prmagic.Support(demo[name].support, demo[name].support_mask))
        for name in ("coins", "motorcycle")
    }
    results = segmenter.segment(demo["coins"].query, references)
    assert results["coins"].found
    assert not results["motorcycle"].found and not results["motorcycle"].mask.any()
