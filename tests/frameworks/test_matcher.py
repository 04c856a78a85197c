"""Matcher's prompts: points, centres, boxes, subsets, and several supports (photos and patches: `matchers.py`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from common import first_answer, region, rng, still
from matchers import EVERYTHING, LIGHT, RAW, blotches, points

import prmagic
from prmagic.flow import Flow
from prmagic.frameworks.matcher import Matcher, MatcherOptions
from prmagic.frameworks.matcher.steps import match
from prmagic.frameworks.published import PublishedMatcher
from prmagic.reference import Example
from prmagic.segmenter import Segmenter
from prmagic.select import Reencode
from prmagic.types import Candidate


class TestPrompts:
    """A photo that is matched with itself: each patch finds itself, so that the points are known."""

    @pytest.mark.parametrize("size, step", [((90, 120), (15, 15)), ((60, 200), (10, 25)), ((300, 40), (50, 5))])
    def test_points_are_the_middles_of_the_supports_patches(self, small, size, step):
        height, width = step
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        mask = np.zeros(size, bool)
        mask[1 * height : 3 * height, 4 * width : 7 * width] = True  # rows 1 and 2, columns 4 to 6
        _, _, prompts, candidate = first_answer(small(RAW), [Example(image, mask)], image)
        expected = {((column + 0.5) * width, (row + 0.5) * height) for row in (1, 2) for column in (4, 5, 6)}
        assert points(prompts) == expected
        assert candidate.mask.shape == size
        assert prompts.similarity.shape == (6, 8)
        inside = prompts.similarity[1:3, 4:7]
        np.testing.assert_allclose(inside, 1, atol=1e-5)
        assert (prompts.similarity <= 1 + 1e-5).all()
        assert prompts.similarity[0, 0] < 0.999

    @pytest.mark.parametrize(
        "row, column, point", [(33, 100, (97.5, 37.5)), (89, 0, (7.5, 82.5)), (0, 119, (112.5, 7.5))]
    )
    def test_one_pixel_is_a_support(self, small, mini, row, column, point):
        example = Example(mini["support_rgb"], region(row, column))
        _, _, prompts, candidate = first_answer(small(), [example], mini["support_rgb"])
        assert points(prompts) == {point}
        assert [part.prompts.points.tolist() for part in candidate.parts] == [[list(point)]]

    def test_a_thin_line_is_a_support(self, small, mini):
        example = Example(mini["support_rgb"], region(slice(None), 50))  # column 50 / 15 = 3
        _, _, prompts, _ = first_answer(small(RAW), [example], mini["support_rgb"])
        assert points(prompts) == {(52.5, 7.5 + 15 * row) for row in range(6)}

    def test_of_a_support_without_background_the_better_half_is_kept(self, small, mini):
        example = Example(mini["support_rgb"], np.ones((90, 120), bool))
        _, _, prompts, candidate = first_answer(small(RAW), [example], mini["query_rgb"])
        assert len(points(prompts)) == 24
        assert candidate.mask.shape == (90, 120)

    def test_centres_replace_many_points_and_lie_among_them(self, small, example, mini):
        *_, raw, _ = first_answer(small(replace(MatcherOptions(), centers=None)), [example], mini["query_rgb"])
        *_, prompts, _ = first_answer(small(replace(MatcherOptions(), centers=3)), [example], mini["query_rgb"])
        assert len(raw.points) > 3
        assert len(prompts.points) == 3
        assert (prompts.points >= raw.points.min(0)).all()
        assert (prompts.points <= raw.points.max(0)).all()
        assert prompts.labels.tolist() == [1, 1, 1]

    def test_the_box_lies_around_all_matched_points(self, small, mini):
        example = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        settings = replace(RAW, box=True)
        *_, prompts, candidate = first_answer(small(settings), [example], mini["support_rgb"])
        assert prompts.box == (67.5, 22.5, 97.5, 37.5)
        assert {part.prompts.box for part in candidate.parts} == {prompts.box}
        *_, candidate = first_answer(small(RAW), [example], mini["support_rgb"])
        assert {part.prompts.box for part in candidate.parts} == {None}

    def test_few_points_are_asked_in_all_subsets_many_in_random_ones(self, small, mini):
        few = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        _, _, prompts, candidate = first_answer(small(RAW), [few], mini["support_rgb"])
        assert len(points(prompts)) == 6
        asked = [part.prompts.points for part in candidate.parts]
        assert len({frozenset(map(tuple, p.tolist())) for p in asked}) == len(asked) <= 15 + 20
        many = Example(mini["support_rgb"], region(slice(15, 45), slice(0, 75)))
        _, _, prompts, candidate = first_answer(small(RAW), [many], mini["support_rgb"])
        assert len(points(prompts)) == 10
        assert sorted({len(part.prompts.points) for part in candidate.parts}) == [2, 3]
        assert len(candidate.parts) <= 10
        assert all(points(part.prompts) <= points(prompts) for part in candidate.parts)


class TestShots:
    def test_every_support_gives_points(self, small, example, other):
        framework, image = small(RAW), blotches(70, 100)
        alone = [points(first_answer(framework, [shot], image)[2]) for shot in (example, other)]
        both = points(first_answer(framework, [example, other], image)[2])
        assert both == alone[0] | alone[1]
        assert both not in alone

    @pytest.mark.parametrize("published", [False, True])
    def test_they_are_matched_one_by_one_or_as_one_photo(self, small, example, other, published):
        framework = small(RAW, PublishedMatcher) if published else small(RAW)
        image, before = blotches(70, 100), framework.counts["assignments"]
        reference, query, prompts, _ = first_answer(framework, [example, other], image)
        assert framework.counts["assignments"] - before == (2 if published else 4)
        similarity = [(support.vectors @ query.tokens.vectors.T).numpy() for support in reference.supports]
        foreground = [(support.shares > 0).numpy() for support in reference.supports]
        if published:
            found = match(np.concatenate(similarity), np.concatenate(foreground)).query
        else:
            found = np.concatenate([match(*shot).query for shot in zip(similarity, foreground, strict=True)])
        assert points(prompts) == {((i % 8 + 0.5) * 100 / 8, round((i // 8 + 0.5) * 70 / 6, 3)) for i in found.tolist()}

    def test_a_support_twice_is_as_good_as_once(self, small, example, other):
        segmenter = Segmenter(small(LIGHT), Flow(eta=0.1, steps=2))
        once, twice = (segmenter.encode_support([prmagic.Support(example.image, example.mask)] * k) for k in (1, 2))
        first, second = (segmenter.segment(other.image, reference) for reference in (once, twice))
        for a, b in zip(first.candidates, second.candidates, strict=True):
            assert np.array_equal(a.prompts.points, b.prompts.points)
            assert np.array_equal(a.mask, b.mask)
        assert first.scores == pytest.approx(second.scores, abs=1e-6)

    def test_the_selection_takes_the_mean_over_all(self, small, example, other):
        framework, image, judge = small(), blotches(70, 100), Reencode()
        references = [
            framework.learn(shots, rng(), keep=judge.prepare(framework, shots))
            for shots in ([example], [other], [example, other])
        ]
        (query,) = framework.encode_queries([image])
        candidates = [
            Candidate(mask, None, 0.5)
            for mask in (region(slice(9), slice(50), (70, 100)), region(slice(30, 70), slice(60, 90), (70, 100)))
        ]
        one, two, both = (judge(framework, query, reference, candidates) for reference in references)
        assert both == pytest.approx(((np.array(one) + two) / 2).tolist(), abs=1e-6)
        assert one != pytest.approx(two, abs=1e-4)

    def test_masks_are_scored_by_the_mean_over_all(self, small, example, other):
        framework = small()
        patches = np.zeros((3, 48), bool)
        patches[0, 3:9], patches[1, 40:], patches[2] = True, True, True
        (query,) = framework.encode_queries([blotches(70, 100)])
        one, two, both = (
            framework._emd(framework._unshifted(query, framework.learn(shots, rng())), None, patches)
            for shots in ([example], [other], [example, other])
        )
        np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
        assert np.abs(one - two).max() > 1e-4

    @pytest.mark.filterwarnings("ignore:.*covers its whole image")
    def test_supports_and_query_of_different_sizes(self, small):
        shots = [
            prmagic.Support(blotches(*size, seed), region(slice(*rows), slice(*columns), size))
            for seed, (size, rows, columns) in enumerate(
                [
                    ((90, 120), (10, 60), (5, 9)),
                    ((33, 200), (0, 33), (0, 200)),
                    ((5, 7), (4, 5), (6, 7)),
                    ((1, 1), (0, 1), (0, 1)),
                ]
            )
        ]
        for kind in ({}, {"kind": PublishedMatcher}):
            segmenter = Segmenter(small(LIGHT, **kind), Flow(eta=0.1, steps=1), Reencode())
            reference = segmenter.encode_support(shots)
            assert reference.tensors["descriptors"].shape == (4, 48)
            assert reference.tensors["tokens"].shape == (4 * 48, 48)
            result = segmenter.segment(blotches(200, 31, 9), reference)
            assert result.mask.shape == (200, 31)
            assert len(result.candidates) == 2

    def test_several_supports_have_a_limit_of_their_own(self, small, example, other):
        framework = small(replace(EVERYTHING, merge=7, merge_few_shot=3))
        image = blotches(70, 100)
        assert len(first_answer(framework, [example], image)[3].parts) == 7
        assert len(first_answer(framework, [example, other], image)[3].parts) == 3

    def test_a_shot_with_few_matches_loses_none_to_the_others(self, small):
        """Thirty pairs of one shot are few enough to stay; sixty of two together are not."""
        similarity = np.stack([np.eye(64, dtype=np.float32)] * 2)
        foreground = np.arange(64) < 30
        pairs = small()._match(similarity, np.stack([foreground] * 2))
        assert sorted(set(pairs.query.tolist())) == list(range(30))
        together = small(kind=PublishedMatcher)._match(similarity, np.stack([foreground] * 2))
        assert len(together.query) < 60


def test_without_an_encoder_it_says_what_it_needs(sam):
    with pytest.raises(ValueError, match=r"give it one, such as Dino\.load"):
        Matcher(sam)


def test_the_shift_reaches_the_points(small, example, mini):
    framework = small(RAW)
    reference, query, prompts, _ = first_answer(framework, [example], mini["query_rgb"])
    shift = torch.randn(still(query).shape, generator=rng())
    (moved,) = framework.sample_prompts(query, [reference], [shift], [rng()])
    assert np.abs(moved.similarity - prompts.similarity).max() > 0.01
