"""Matcher's masks: union, scores, filters, the dense grid, and the gradient of d (photos: `matchers.py`)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from common import MINI, d, first_answer, gradient_of_d, region, rng, still
from matchers import EVERYTHING, LIGHT, RAW, blotches, united

import prmagic
from prmagic.backbones.sam import Sam
from prmagic.flow import Flow
from prmagic.frameworks.matcher import Matcher, MatcherOptions
from prmagic.frameworks.published import PublishedMatcher
from prmagic.frameworks.registry import variant
from prmagic.reference import Example
from prmagic.segmenter import Segmenter

PAPER = variant("matcher", "paper").preset.options


def changed_sam(change):
    sam = Sam.load(MINI)
    with torch.no_grad():
        change(sam.model.mask_decoder)
    return sam


@pytest.fixture(scope="module")
def certain():
    """The tiny SAM, but sure of itself: logits a thousand times as large, and a predicted IoU of about one."""

    def change(decoder):
        for network in decoder.output_hypernetworks_mlps:
            network.proj_out.weight *= 1e3
            network.proj_out.bias *= 1e3
        decoder.iou_prediction_head.proj_out.weight *= 0
        decoder.iou_prediction_head.proj_out.bias.fill_(1.0)

    return changed_sam(change)


@pytest.fixture(scope="module")
def blind():
    """The tiny SAM, but it finds nothing anywhere: every logit is zero."""

    def change(decoder):
        for network in decoder.output_hypernetworks_mlps:
            network.proj_out.weight.zero_()
            network.proj_out.bias.zero_()

    return changed_sam(change)


def scores(framework, query, reference, patches):
    """1 − earth mover's distance of each set of patches."""
    return framework._emd(framework._unshifted(query, reference), None, patches)


class TestDecode:
    @pytest.mark.parametrize(
        "settings",
        [
            MatcherOptions(),
            EVERYTHING,
            replace(EVERYTHING, channels=(0, 2), merge=5),
            replace(RAW, box=True, channels=(1,)),
            replace(EVERYTHING, dense_grid=3),
        ],
        ids=["default", "everything", "channels", "box", "dense"],
    )
    def test_the_mask_is_the_union_of_its_parts(self, small, certain, matcher, example, mini, settings):
        for framework in (small(settings), Matcher(certain, settings, matcher.encoder)):
            _, query, _, candidate = first_answer(framework, [example], mini["query_rgb"])
            mask, predicted, logits = united(framework, query, candidate)
            assert 0 < len(candidate.parts) <= settings.merge
            assert (mask != candidate.mask).mean() < 1e-3  # single prompts and batches differ in the last bits
            assert candidate.predicted_iou == pytest.approx(np.mean(predicted), abs=1e-4)
            torch.testing.assert_close(candidate.logits, logits.amax(0), atol=1e-3, rtol=1e-4)
            channels = {part.channel for part in candidate.parts}
            assert channels <= {None, *(settings.channels or ())}

    def test_the_best_scores_are_merged(self, small, example, mini):
        """With the earth mover's distance alone: the parts taken are those whose patches are nearest."""
        whole = small(EVERYTHING)
        reference, query, _, candidate = first_answer(whole, [example], mini["query_rgb"])
        grid, found = query.tokens.grid, {}
        for part in candidate.parts:
            logits = whole.sam.decode(query.embedding, [part.prompts], multimask=False).logits[0, 0]
            mask = query.embedding.frame.upscale(logits) > 0
            patches = torch.nn.functional.adaptive_max_pool2d(mask[None].float(), grid).flatten().numpy() > 0
            found[part.prompts.points.tobytes()] = float(scores(whole, query, reference, patches[None])[0])
        best = sorted(found.values(), reverse=True)
        assert len(set(best)) > 3
        chosen = first_answer(small(replace(EVERYTHING, merge=3)), [example], mini["query_rgb"])[3]
        merged = [found[part.prompts.points.tobytes()] for part in chosen.parts]
        assert merged == pytest.approx(best[:3], abs=1e-6)

    def test_purity_and_coverage_by_hand(self, small, example, mini):
        """The supports' patches are the query's, so that the matched points are known: rows 1 and 2, columns 4 to 6."""
        framework = small(EVERYTHING)
        support = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        reference, query, prompts, _ = first_answer(framework, [support], mini["support_rgb"])
        masks = np.stack([
            region(slice(15, 30), slice(60, 90)),  # just two of the patches
            region(slice(0, 90), slice(0, 120)),  # all 48
            region(slice(15, 45), slice(60, 61)),  # a sliver of two patches, without their middles
            region(slice(20, 24), slice(60, 113)),  # a third and half a patch more; y 22.5 is in it
        ])  # fmt: skip
        emd, purity, coverage = framework._measures(query, reference, prompts, torch.from_numpy(masks))
        np.testing.assert_allclose(purity, [2 / 2, 6 / 48, 0, 3 / 4], atol=1e-5)
        np.testing.assert_allclose(coverage, [2 / 6, 6 / 6, 0, 3 / 6], atol=1e-5)
        assert emd.shape == (4,)
        assert ((emd >= 0) & (emd <= 1 + 1e-6)).all()

    def test_a_mask_on_the_supports_own_patches_is_at_no_distance(self, small, mini):
        framework = small()
        support = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        reference, query, *_ = first_answer(framework, [support], mini["support_rgb"])
        own = np.zeros((6, 8), bool)
        own[1:3, 4:7] = True
        moved = np.zeros((6, 8), bool)
        moved[4:6, 1:4] = True
        same_patches, others = scores(framework, query, reference, np.stack([own.flatten(), moved.flatten()]))
        assert same_patches == pytest.approx(1, abs=1e-6)
        assert others < 0.999

    @pytest.mark.parametrize("kind, solved", [(Matcher, 1), (PublishedMatcher, 3)])
    def test_equal_patches_are_solved_once_and_for_all_steps(self, small, example, mini, kind, solved):
        """Two masks touch the same patches in all steps. The published scores are of moved tokens, anew each step."""
        framework = small(MatcherOptions(centers=1, subset_sizes=(1, 1), box_nms=1), kind)
        framework.placed = lambda centers: np.array([[50.0, 40.0], [70.0, 20.0]])
        segmenter = Segmenter(framework, Flow(mode="noise", steps=2))
        result = segmenter.segment(
            mini["query_rgb"], segmenter.encode_support(prmagic.Support(example.image, example.mask))
        )
        assert result.counts["emd_solves"] == solved
        assert result.counts["decodes"] == 2
        assert result.counts["assignments"] == 3 * 2

    def test_a_mask_alone_needs_no_score(self, small, example, mini):
        framework = small(MatcherOptions(centers=1))
        *_, candidate = first_answer(framework, [example], mini["query_rgb"])
        assert len(candidate.parts) == 1
        assert framework.counts["emd_solves"] == 0

    def test_equal_sets_of_patches_are_solved_once(self, small, example, mini):
        framework = small()
        reference, query, *_ = first_answer(framework, [example], mini["query_rgb"])
        before = framework.counts["emd_solves"]
        patches = np.zeros((4, 48), bool)
        patches[[0, 2], 7], patches[[1, 3], 8:20] = True, True
        found = scores(framework, query, reference, patches)
        assert framework.counts["emd_solves"] - before == 2
        assert found[0] == found[2] != found[1] == found[3]

    def test_what_no_shift_moves_is_matched_once(self, small, example, mini):
        framework = small(LIGHT)
        reference, query, *_ = first_answer(framework, [example], mini["query_rgb"])
        before = framework.counts["assignments"]
        framework.sample_prompts(query, [reference], [still(query)], [rng()])
        assert framework.counts["assignments"] == before

    def test_masks_that_miss_a_threshold_are_left_out(self, small, example, mini):
        _, query, _, candidate = first_answer(small(EVERYTHING), [example], mini["query_rgb"])
        _, predicted, _ = united(small(), query, candidate)
        least = float(np.median(predicted))
        framework = small(replace(EVERYTHING, min_predicted_iou=least))
        _, query, _, candidate = first_answer(framework, [example], mini["query_rgb"])
        _, kept, _ = united(framework, query, candidate)
        assert min(kept) > least - 1e-5
        assert len(kept) == pytest.approx(len(predicted) / 2, abs=1)

    @pytest.mark.parametrize(
        "hopeless",
        [
            {"min_predicted_iou": 9.0},
            {"min_stability": 1.5},
            {"min_purity": 9.0},
            {"min_emd": 9.0},
            {"min_coverage": 9.0},
        ],
        ids=str,
    )
    def test_filters_that_nothing_passes_leave_something(self, small, example, mini, hopeless):
        *_, free = first_answer(small(EVERYTHING), [example], mini["query_rgb"])
        *_, candidate = first_answer(small(replace(EVERYTHING, **hopeless)), [example], mini["query_rgb"])
        assert candidate.parts
        assert candidate.mask.any()
        if hopeless.keys() & {"min_predicted_iou", "min_stability"}:  # as if there were no such filter
            assert np.array_equal(candidate.mask, free.mask)
            assert len(candidate.parts) == len(free.parts)
        else:  # those with the best value stay
            assert len(candidate.parts) < len(free.parts)

    @pytest.mark.parametrize("preset", ["default", "paper", "official"])
    def test_masks_that_are_all_empty_make_an_empty_candidate(self, blind, matcher, example, mini, preset):
        chosen = variant("matcher", preset)
        options = chosen.preset.options or MatcherOptions()
        options = replace(options, dense_grid=min(2, options.dense_grid), random_subsets=3)
        segmenter = Segmenter(chosen.framework(blind, options, matcher.encoder), Flow(eta=0.1, steps=2), "guard")
        reference = segmenter.encode_support(prmagic.Support(example.image, example.mask))
        result = segmenter.segment(mini["query_rgb"], reference)
        assert [candidate.mask.any() for candidate in result.candidates] == [False] * 3
        assert [len(candidate.parts) for candidate in result.candidates] == [1] * 3
        assert result.scores == (-math.inf,) * 3
        assert result.chosen == 0
        assert result.counts["encodes"] == result.counts["encoder_encodes"] == 1

    def test_the_dense_grid_adds_what_the_points_have_not(self, certain, matcher, example, mini):
        settings = replace(RAW, dense_grid=4)
        *_, candidate = first_answer(Matcher(certain, settings, matcher.encoder), [example], mini["query_rgb"])
        single = {tuple(part.prompts.points[0].tolist()) for part in candidate.parts if len(part.prompts.points) == 1}
        expected = {(x, y) for x in (15.0, 45.0, 75.0, 105.0) for y in (11.25, 33.75, 56.25, 78.75)}
        assert single <= expected
        assert len(single) > 8  # those with an empty mask are left out
        assert any(len(part.prompts.points) > 1 for part in candidate.parts)

    def test_the_dense_grid_is_decoded_once_for_all_steps_and_labels(self, small, example, other, mini):
        segmenter = Segmenter(small(replace(LIGHT, dense_grid=4)), Flow(mode="noise", steps=2))
        references = {
            name: segmenter.encode_support(prmagic.Support(e.image, e.mask))
            for name, e in (("a", example), ("b", other))
        }
        results = segmenter.segment(mini["query_rgb"], references)
        assert results["a"].counts["decodes"] == 3 * 6 + 16
        assert results["b"].counts["decodes"] == 3 * 6


class TestGradient:
    @pytest.mark.parametrize("kind", [Matcher, PublishedMatcher])
    def test_d_is_the_sum_of_the_parts_logits_over_the_photo(self, small, example, kind):
        wide = blotches(32, 128)  # a quarter of the input: 16 rows of 64 at low resolution
        framework = small(replace(EVERYTHING, merge=4, channels=(0, 2), compare_at=128), kind)
        reference, query, _, candidate = first_answer(framework, [example], wide)
        *_, logits = united(framework, query, candidate)
        over_photo = logits[:, :16] if kind is Matcher else query.embedding.frame.upscale(logits)
        found = d(framework, query, reference, candidate, still(query))
        assert found == pytest.approx(float(over_photo.sum()), rel=1e-4, abs=1e-2)

    def test_single_masks_and_one_of_three_are_told_apart(self, certain, matcher, example, mini):
        """A grid's masks are single ones even where the points' are one of three."""
        framework = Matcher(certain, replace(RAW, channels=(1, 2), dense_grid=4), matcher.encoder)
        reference, query, _, candidate = first_answer(framework, [example], mini["query_rgb"])
        assert {part.channel for part in candidate.parts} == {None, 1, 2}
        *_, logits = united(framework, query, candidate)
        found = d(framework, query, reference, candidate, still(query))
        assert found == pytest.approx(float(logits[:, :48].sum()), rel=1e-4, abs=1)

    @pytest.mark.parametrize(
        "kind, options",
        [(Matcher, MatcherOptions()), (PublishedMatcher, PAPER), (Matcher, replace(RAW, box=True, channels=(0, 1)))],
    )
    def test_its_gradient_is_that_of_finite_differences(self, small, example, mini, kind, options):
        framework = small(options, kind)
        reference, query, _, candidate = first_answer(framework, [example], mini["query_rgb"])
        at = 0.05 * torch.randn(query.embedding.features.shape, generator=rng(5))
        gradient = gradient_of_d(framework, query, reference, candidate, at)
        assert gradient.shape == at.shape
        assert gradient.dtype == torch.float32
        for seed in (1, 2):
            direction = gradient / gradient.norm() + 0.5 * torch.nn.functional.normalize(
                torch.randn(at.shape, generator=rng(seed)).flatten(), dim=0
            ).view(at.shape)
            step = 1e-2
            ahead, behind = (d(framework, query, reference, candidate, at + s * direction) for s in (step, -step))
            slope = (ahead - behind) / (2 * step)
            assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.01)
