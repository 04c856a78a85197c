"""Matcher from support to mask on tiny models: points, prompts, scores, merging, gradients, counts, odd inputs.

The photos are 90 × 120 and the encoder sees 6 × 8 patches of 15 × 15 pixels, unless a test says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MINI

import prmagic
from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from prmagic.flow import Flow
from prmagic.frameworks import Example, Matcher, PerSamF, Query, Reference, ReferenceMismatch
from prmagic.frameworks.bridges import BRIDGE_NAMES
from prmagic.frameworks.matcher import MatcherSettings
from prmagic.frameworks.matching import match
from prmagic.presets import PRESETS
from prmagic.refine import logit_gradients
from prmagic.segmenter import Segmenter
from prmagic.select import Reencode
from prmagic.types import Candidate, Prompts

LIGHT = MatcherSettings(centers=5, subset_sizes=(4, 6))  # six subsets instead of 154
# Nothing is left out, of 22 subsets.
EVERYTHING = MatcherSettings(
    centers=6, subset_sizes=(4, 6), box_nms=1.0, score_filter=None, merge=10_000, compare_at=120
)
RAW = replace(EVERYTHING, centers=None, subset_sizes=(2, 3), random_subsets=5)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def photo(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return coarse[np.arange(height)[:, None] * 4 // height, np.arange(width) * 5 // width]


@pytest.fixture
def example(mini):
    return Example(mini["support_rgb"], mini["support_mask"])


@pytest.fixture
def other(mini):
    return Example(mini["query_rgb"], mini["query_mask"])


@pytest.fixture
def small(sam, matcher):
    """Builds a Matcher on the tiny models with settings of one's own."""
    return lambda settings=None: Matcher(sam, matcher.encoder, settings)


@pytest.fixture(scope="module")
def certain():
    """The tiny SAM, but sure of itself: logits a thousand times as large, and a predicted IoU of about one."""
    sure = Sam.load(MINI)
    with torch.no_grad():
        for network in sure.model.mask_decoder.output_hypernetworks_mlps:
            network.proj_out.weight *= 1e3
            network.proj_out.bias *= 1e3
        sure.model.mask_decoder.iou_prediction_head.proj_out.weight *= 0
        sure.model.mask_decoder.iou_prediction_head.proj_out.bias.fill_(1.0)
    return sure


@pytest.fixture(scope="module")
def blind():
    """The tiny SAM, but it finds nothing anywhere: every logit is zero."""
    model = Sam.load(MINI)
    with torch.no_grad():
        for network in model.model.mask_decoder.output_hypernetworks_mlps:
            network.proj_out.weight.zero_()
            network.proj_out.bias.zero_()
    return model


def region(rows, columns, size=(90, 120)):
    mask = np.zeros(size, bool)
    mask[rows, columns] = True
    return mask


def episode(framework, supports, image):
    """Reference, query, prompts without a shift, and their candidate."""
    reference = framework.encode_support(supports, rng())
    (query,) = framework.encode_queries([image])
    prompts = framework.sample_prompts(query, reference, torch.zeros_like(query.embedding.features), rng())
    with torch.no_grad():
        return reference, query, prompts, framework.decode(query, reference, prompts)


def points(prompts):
    return {tuple(point) for point in np.round(prompts.points.astype(float), 3).tolist()}


def united(framework, query, candidate):
    """What the parts' prompts give, one by one: their union (H, W), predicted IoUs, low-resolution logits."""
    mask, predicted, logits = np.zeros(query.image.shape[:2], bool), [], []
    for part in candidate.parts:
        decoded = framework.sam.decode(query.embedding, [part.prompts], multimask=part.channel is not None)
        channel = part.channel or 0
        logits.append(decoded.logits[0, channel])
        predicted.append(float(decoded.predicted_iou[0, channel]))
        mask |= query.embedding.frame.upscale(logits[-1]).numpy() > 0
    return mask, predicted, torch.stack(logits)


def same(first, second):
    for a, b in zip(first.candidates, second.candidates, strict=True):
        assert np.array_equal(a.prompts.points, b.prompts.points)
        assert np.array_equal(a.prompts.similarity, b.prompts.similarity)
        assert np.array_equal(a.mask, b.mask)
    assert first.scores == second.scores


class TestPrompts:
    """A photo that is matched with itself: each patch finds itself, so that the points are known."""

    @pytest.mark.parametrize("size, step", [((90, 120), (15, 15)), ((60, 200), (10, 25)), ((300, 40), (50, 5))])
    def test_points_are_the_middles_of_the_supports_patches(self, small, size, step):
        height, width = step
        image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
        mask = np.zeros(size, bool)
        mask[1 * height : 3 * height, 4 * width : 7 * width] = True  # rows 1 and 2, columns 4 to 6
        _, _, prompts, candidate = episode(small(RAW), [Example(image, mask)], image)
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
        _, _, prompts, candidate = episode(small(), [example], mini["support_rgb"])
        assert points(prompts) == {point}
        assert [part.prompts.points.tolist() for part in candidate.parts] == [[list(point)]]

    def test_a_thin_line_is_a_support(self, small, mini):
        example = Example(mini["support_rgb"], region(slice(None), 50))  # column 50 / 15 = 3
        _, _, prompts, _ = episode(small(RAW), [example], mini["support_rgb"])
        assert points(prompts) == {(52.5, 7.5 + 15 * row) for row in range(6)}

    def test_of_a_support_without_background_the_better_half_is_kept(self, small, mini):
        example = Example(mini["support_rgb"], np.ones((90, 120), bool))
        _, _, prompts, candidate = episode(small(RAW), [example], mini["query_rgb"])
        assert len(points(prompts)) == 24
        assert candidate.mask.shape == (90, 120)

    def test_centres_replace_many_points_and_lie_among_them(self, small, example, mini):
        *_, raw, _ = episode(small(replace(MatcherSettings(), centers=None)), [example], mini["query_rgb"])
        *_, prompts, _ = episode(small(replace(MatcherSettings(), centers=3)), [example], mini["query_rgb"])
        assert len(raw.points) > 3
        assert len(prompts.points) == 3
        assert (prompts.points >= raw.points.min(0)).all()
        assert (prompts.points <= raw.points.max(0)).all()
        assert prompts.labels.tolist() == [1, 1, 1]

    def test_published_centres_are_whole_pixels(self, small, example, mini):
        *_, prompts, _ = episode(small(PRESETS["paper-fss"].matcher), [example], mini["query_rgb"])
        assert np.array_equal(prompts.points, np.trunc(prompts.points))
        *_, exact, _ = episode(small(), [example], mini["query_rgb"])
        assert not np.array_equal(exact.points, np.trunc(exact.points))

    def test_the_box_lies_around_all_matched_points(self, small, mini):
        example = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        settings = replace(RAW, box=True)
        *_, prompts, candidate = episode(small(settings), [example], mini["support_rgb"])
        assert prompts.box == (67.5, 22.5, 97.5, 37.5)
        assert {part.prompts.box for part in candidate.parts} == {prompts.box}
        *_, candidate = episode(small(RAW), [example], mini["support_rgb"])
        assert {part.prompts.box for part in candidate.parts} == {None}

    def test_few_points_are_asked_in_all_subsets_many_in_random_ones(self, small, mini):
        few = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        _, _, prompts, candidate = episode(small(RAW), [few], mini["support_rgb"])
        assert len(points(prompts)) == 6
        asked = [part.prompts.points for part in candidate.parts]
        assert len({frozenset(map(tuple, p.tolist())) for p in asked}) == len(asked) <= 15 + 20
        many = Example(mini["support_rgb"], region(slice(15, 45), slice(0, 75)))
        _, _, prompts, candidate = episode(small(RAW), [many], mini["support_rgb"])
        assert len(points(prompts)) == 10
        assert sorted({len(part.prompts.points) for part in candidate.parts}) == [2, 3]
        assert len(candidate.parts) <= 10
        assert all(points(part.prompts) <= points(prompts) for part in candidate.parts)


class TestShots:
    def test_every_support_gives_points(self, small, example, other):
        framework, image = small(RAW), photo(70, 100)
        alone = [points(episode(framework, [shot], image)[2]) for shot in (example, other)]
        both = points(episode(framework, [example, other], image)[2])
        assert both == alone[0] | alone[1]
        assert both not in alone

    @pytest.mark.parametrize("together", [False, True])
    def test_they_are_matched_one_by_one_or_as_one_photo(self, small, example, other, together):
        framework = small(replace(RAW, shots_together=together))
        image, before = photo(70, 100), framework.counts.get("assignments", 0)
        reference, query, prompts, _ = episode(framework, [example, other], image)
        assert framework.counts["assignments"] - before == (2 if together else 4)
        tokens, foreground = reference.tensors["tokens"], reference.tensors["foreground"].numpy()
        similarity = (tokens @ query.tokens.T).numpy()
        if together:
            found = match(np.concatenate(list(similarity)), np.concatenate(list(foreground))).query
        else:
            found = np.concatenate([match(similarity[k], foreground[k]).query for k in (0, 1)])
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
        framework, image = small(), photo(70, 100)
        references = [
            framework.with_descriptors(framework.encode_support(shots, rng()), shots)
            for shots in ([example], [other], [example, other])
        ]
        (query,) = framework.encode_queries([image])
        candidates = [
            Candidate(mask, Prompts(np.ones((1, 2), np.float32), np.ones(1, np.int64)), 0.5)
            for mask in (region(slice(9), slice(50), (70, 100)), region(slice(30, 70), slice(60, 90), (70, 100)))
        ]
        one, two, both = (Reencode()(framework, query, reference, candidates) for reference in references)
        assert both == pytest.approx(((np.array(one) + two) / 2).tolist(), abs=1e-6)
        assert one != pytest.approx(two, abs=1e-4)

    def test_masks_are_scored_by_the_mean_over_all(self, small, example, other):
        framework, image = small(), photo(70, 100)
        patches = np.zeros((3, 48), bool)
        patches[0, 3:9], patches[1, 40:], patches[2] = True, True, True
        (query,) = framework.encode_queries([image])
        one, two, both = (
            framework._emd(query, framework.encode_support(shots, rng()), None, patches)
            for shots in ([example], [other], [example, other])
        )
        np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
        assert np.abs(one - two).max() > 1e-4

    @pytest.mark.filterwarnings("ignore:.*covers its whole image")
    def test_supports_and_query_of_different_sizes(self, small):
        shots = [
            prmagic.Support(photo(*size, seed), region(slice(*rows), slice(*columns), size))
            for seed, (size, rows, columns) in enumerate(
                [
                    ((90, 120), (10, 60), (5, 9)),
                    ((33, 200), (0, 33), (0, 200)),
                    ((5, 7), (4, 5), (6, 7)),
                    ((1, 1), (0, 1), (0, 1)),
                ]
            )
        ]
        for together in (False, True):
            settings = replace(LIGHT, shots_together=together, bridge="ridge")
            segmenter = Segmenter(small(settings), Flow(eta=0.1, steps=1), Reencode())
            reference = segmenter.encode_support(shots)
            assert reference.tensors["descriptors"].shape == (4, 48)
            assert reference.tensors["tokens"].shape == (4, 48, 48)
            result = segmenter.segment(photo(200, 31, 9), reference)
            assert result.mask.shape == (200, 31)
            assert len(result.candidates) == 2

    def test_several_supports_have_a_limit_of_their_own(self, small, example, other):
        framework = small(replace(EVERYTHING, merge=7, merge_few_shot=3))
        image = photo(70, 100)
        assert len(episode(framework, [example], image)[3].parts) == 7
        assert len(episode(framework, [example, other], image)[3].parts) == 3

    def test_a_shot_with_few_matches_loses_none_to_the_others(self, small):
        """Thirty pairs of one shot are few enough to stay; sixty of two together are not."""
        similarity = np.stack([np.eye(64, dtype=np.float32)] * 2)
        foreground = np.arange(64) < 30
        pairs = small()._match(similarity, np.stack([foreground] * 2))
        assert sorted(set(pairs.query.tolist())) == list(range(30))
        together = small(MatcherSettings(shots_together=True))._match(similarity, np.stack([foreground] * 2))
        assert len(together.query) < 60


class TestDecode:
    @pytest.mark.parametrize(
        "settings",
        [
            MatcherSettings(),
            EVERYTHING,
            replace(EVERYTHING, channels=(0, 2), merge=5),
            replace(RAW, box=True, channels=(1,)),
            replace(EVERYTHING, dense_grid=3),
        ],
        ids=["default", "everything", "channels", "box", "dense"],
    )
    def test_the_mask_is_the_union_of_its_parts(self, small, certain, matcher, example, mini, settings):
        for framework in (small(settings), Matcher(certain, matcher.encoder, settings)):
            _, query, _, candidate = episode(framework, [example], mini["query_rgb"])
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
        reference, query, prompts, candidate = episode(whole, [example], mini["query_rgb"])
        grid, found = whole.encoder.grid, {}
        for part in candidate.parts:
            logits = whole.sam.decode(query.embedding, [part.prompts], multimask=False).logits[0, 0]
            mask = query.embedding.frame.upscale(logits) > 0
            patches = torch.nn.functional.adaptive_max_pool2d(mask[None].float(), grid).flatten().numpy() > 0
            found[part.prompts.points.tobytes()] = float(whole._emd(query, reference, None, patches[None])[0])
        best = sorted(found.values(), reverse=True)
        assert len(set(best)) > 3
        few = small(replace(EVERYTHING, merge=3))
        with torch.no_grad():
            chosen = few.decode(query, reference, prompts)
        scores = [found[part.prompts.points.tobytes()] for part in chosen.parts]
        assert scores == pytest.approx(best[:3], abs=1e-6)

    def test_purity_and_coverage_by_hand(self, small, example, mini):
        """The supports' patches are the query's, so that the matched points are known: rows 1 and 2, columns 4 to 6."""
        framework = small(EVERYTHING)
        support = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        reference, query, prompts, candidate = episode(framework, [support], mini["support_rgb"])
        masks = np.stack([
            region(slice(15, 30), slice(60, 90)),  # just two of the patches
            region(slice(0, 90), slice(0, 120)),  # all 48
            region(slice(15, 45), slice(60, 61)),  # a sliver of two patches, without their middles
            region(slice(20, 24), slice(60, 113)),  # a third and half a patch more; y 22.5 is in it
        ])  # fmt: skip
        found = type(next(framework._propose(query, prompts.subsets, None)))(
            candidate.parts[:4], torch.zeros(4, 64, 64), np.zeros(4, np.float32), torch.from_numpy(masks)
        )
        emd, purity, coverage = framework._measures(query, reference, prompts, found)
        np.testing.assert_allclose(purity, [2 / 2, 6 / 48, 0, 3 / 4], atol=1e-5)
        np.testing.assert_allclose(coverage, [2 / 6, 6 / 6, 0, 3 / 6], atol=1e-5)
        assert emd.shape == (4,)
        assert ((emd >= 0) & (emd <= 1 + 1e-6)).all()

    def test_a_mask_on_the_supports_own_patches_is_at_no_distance(self, small, mini):
        framework = small()
        support = Example(mini["support_rgb"], region(slice(15, 45), slice(60, 105)))
        reference, query, *_ = episode(framework, [support], mini["support_rgb"])
        own = np.zeros((6, 8), bool)
        own[1:3, 4:7] = True
        moved = np.zeros((6, 8), bool)
        moved[4:6, 1:4] = True
        same_patches, others = framework._emd(query, reference, None, np.stack([own.flatten(), moved.flatten()]))
        assert same_patches == pytest.approx(1, abs=1e-6)
        assert others < 0.999

    def test_equal_patches_are_solved_once_and_for_all_steps(self, sam, encoder_folder, example, mini):
        # The published scores are of moved tokens: anew each step.
        for mode, published, solved in (("resample", False, 1), ("noise", True, 3)):
            encoder = Dino.load(encoder_folder, input_size=(48, 64))
            settings = replace(MatcherSettings(), centers=1, published=published)
            segmenter = Segmenter(Matcher(sam, encoder, settings), Flow(mode=mode, steps=2))
            result = segmenter.segment(
                mini["query_rgb"], segmenter.encode_support(prmagic.Support(example.image, example.mask))
            )
            assert result.counts["emd_solves"] == solved
            assert published or result.counts["decodes"] == 1  # the same point each time
            assert result.counts["assignments"] == (3 if mode == "noise" else 1) * 2  # what does not move, once
        framework = Matcher(sam, encoder)
        reference, query, *_ = episode(framework, [example], mini["query_rgb"])
        before = framework.counts["emd_solves"]
        patches = np.zeros((4, 48), bool)
        patches[[0, 2], 7], patches[[1, 3], 8:20] = True, True
        scores = framework._emd(query, reference, None, patches)
        assert framework.counts["emd_solves"] - before == 2
        assert scores[0] == scores[2] != scores[1] == scores[3]

    def test_masks_that_miss_a_threshold_are_left_out(self, small, example, mini):
        _, query, _, candidate = episode(small(EVERYTHING), [example], mini["query_rgb"])
        _, predicted, _ = united(small(), query, candidate)
        least = float(np.median(predicted))
        framework = small(replace(EVERYTHING, min_predicted_iou=least))
        _, query, _, candidate = episode(framework, [example], mini["query_rgb"])
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
        *_, free = episode(small(EVERYTHING), [example], mini["query_rgb"])
        *_, candidate = episode(small(replace(EVERYTHING, **hopeless)), [example], mini["query_rgb"])
        assert candidate.parts
        assert candidate.mask.any()
        if hopeless.keys() & {"min_predicted_iou", "min_stability"}:  # as if there were no such filter
            assert np.array_equal(candidate.mask, free.mask)
            assert len(candidate.parts) == len(free.parts)
        else:  # those with the best value stay
            assert len(candidate.parts) < len(free.parts)

    @pytest.mark.parametrize("preset", ["default", "paper", "official", "official-parts"])
    def test_masks_that_are_all_empty_make_an_empty_candidate(self, blind, matcher, example, mini, preset):
        settings = replace(
            PRESETS[preset].matcher, dense_grid=min(2, PRESETS[preset].matcher.dense_grid), random_subsets=3
        )
        segmenter = Segmenter(Matcher(blind, matcher.encoder, settings), Flow(eta=0.1, steps=2))
        reference = segmenter.encode_support(prmagic.Support(example.image, example.mask))
        result = segmenter.segment(mini["query_rgb"], reference)
        assert [candidate.mask.any() for candidate in result.candidates] == [False] * 3
        assert [len(candidate.parts) for candidate in result.candidates] == [1] * 3
        assert result.scores == (-math.inf,) * 3
        assert result.chosen == 0
        assert result.counts["encodes"] == result.counts["encoder_encodes"] == 1

    def test_the_dense_grid_adds_what_the_points_have_not(self, certain, matcher, example, mini):
        settings = replace(RAW, dense_grid=4)
        *_, candidate = episode(Matcher(certain, matcher.encoder, settings), [example], mini["query_rgb"])
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
    @pytest.mark.parametrize("published", [False, True])
    def test_d_is_the_sum_of_the_parts_logits_over_the_photo(self, small, example, published):
        wide = photo(32, 128)  # a quarter of the input: 16 rows of 64 at low resolution
        framework = small(replace(EVERYTHING, published=published, merge=4, channels=(0, 2), compare_at=128))
        reference, query, _, candidate = episode(framework, [example], wide)
        *_, logits = united(framework, query, candidate)
        expected = query.embedding.frame.upscale(logits).sum() if published else logits[:, :16].sum()
        d = framework.logit(query, reference, candidate, query.embedding)
        assert d.shape == ()
        torch.testing.assert_close(d, expected, rtol=1e-4, atol=1e-2)

    def test_single_masks_and_one_of_three_are_told_apart(self, certain, matcher, example, mini):
        """A grid's masks are single ones even where the points' are one of three."""
        framework = Matcher(certain, matcher.encoder, replace(RAW, channels=(1, 2), dense_grid=4))
        reference, query, _, candidate = episode(framework, [example], mini["query_rgb"])
        assert {part.channel for part in candidate.parts} == {None, 1, 2}
        *_, logits = united(framework, query, candidate)
        d = framework.logit(query, reference, candidate, query.embedding)
        torch.testing.assert_close(d, logits[:, :48].sum(), rtol=1e-4, atol=1)

    @pytest.mark.parametrize(
        "settings", [MatcherSettings(), PRESETS["paper"].matcher, replace(RAW, box=True, channels=(0, 1))]
    )
    def test_its_gradient_is_that_of_finite_differences(self, small, example, mini, settings):
        framework = small(settings)
        reference, query, _, candidate = episode(framework, [example], mini["query_rgb"])
        at = 0.05 * torch.randn(query.embedding.features.shape, generator=rng(5))
        gradient = logit_gradients(framework, query, [(reference, candidate, at)])[0]
        assert gradient.shape == at.shape
        assert gradient.dtype == torch.float32

        def d(shift):
            moved = query.embedding.moved_to(query.embedding.features + shift)
            return float(framework.logit(query, reference, candidate, moved))

        for seed in (1, 2):
            direction = gradient / gradient.norm() + 0.5 * torch.nn.functional.normalize(
                torch.randn(at.shape, generator=rng(seed)).flatten(), dim=0
            ).view(at.shape)
            step = 1e-2
            slope = (d(at + step * direction) - d(at - step * direction)) / (2 * step)
            assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.01)

    def test_only_the_merged_masks_are_decoded_with_a_graph(self, small, example, mini):
        segmenter = Segmenter(small(replace(EVERYTHING, centers=5, merge=4)), Flow(eta=0.1, steps=3))
        reference = segmenter.encode_support(prmagic.Support(example.image, example.mask))
        result = segmenter.segment(mini["query_rgb"], reference)
        assert [len(candidate.prompts.points) for candidate in result.candidates] == [5] * 4
        assert [len(candidate.parts) for candidate in result.candidates] == [4] * 4
        assert result.counts["gradient_decodes"] == 3 * 4  # the last candidate's gradient is not needed
        assert 6 + 3 * 4 < result.counts["decodes"] <= 4 * 6 + 3 * 4  # each new subset without a graph


class TestSegmenter:
    @pytest.fixture
    def segmenter(self, small):
        return Segmenter(small(LIGHT), Flow(eta=0.5, steps=2), seed=3)

    @pytest.fixture
    def reference(self, segmenter, example):
        return segmenter.encode_support(prmagic.Support(example.image, example.mask))

    def test_a_seed_decides_and_nothing_else(self, segmenter, reference, mini):
        first = segmenter.segment(mini["query_rgb"], reference)
        same(first, segmenter.segment(mini["query_rgb"], reference))
        seeded = [Segmenter(segmenter.framework, segmenter.flow, seed=seed) for seed in range(4, 8)]
        others = [other.segment(mini["query_rgb"], reference).candidates[1].prompts.points for other in seeded]
        assert any(not np.array_equal(first.candidates[1].prompts.points, other) for other in others)

    def test_order_and_batch_change_nothing(self, segmenter, reference, mini):
        images = {"a": mini["query_rgb"], "b": photo(50, 80), "c": photo(7, 5), "d": mini["support_rgb"]}
        alone = {name: segmenter.segment(image, reference, name) for name, image in images.items()}
        for names in (list(images), list(images)[::-1]):
            pictures = [images[name] for name in names]
            for result in segmenter.stream(pictures, reference, names=names, batch_size=3):
                same(result, alone[result.query])
        together = segmenter.framework.encode_queries(list(images.values()))
        for query, image in zip(together, images.values(), strict=True):
            (single,) = segmenter.framework.encode_queries([image])
            assert torch.equal(query.tokens, single.tokens)
            assert torch.equal(query.embedding.features, single.embedding.features)

    @pytest.mark.filterwarnings("ignore:.*covers its whole image")
    @pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 300), (300, 2), (47, 200), (700, 500)])
    @pytest.mark.parametrize("bridge", BRIDGE_NAMES)
    def test_photos_of_any_size(self, small, size, bridge):
        segmenter = Segmenter(small(replace(LIGHT, bridge=bridge)), Flow(eta=0.5, steps=1))
        image = photo(*size)
        mask = np.zeros(size, bool)
        mask[size[0] // 2 :, size[1] // 2 :] = True
        result = segmenter.segment(photo(*size, 1), segmenter.encode_support(prmagic.Support(image, mask)))
        for candidate in result.candidates:
            assert candidate.mask.shape == size
            assert np.isfinite(candidate.prompts.points).all()
            assert (candidate.prompts.points >= 0).all()
            assert (candidate.prompts.points <= [size[1], size[0]]).all()
            assert math.isfinite(candidate.predicted_iou)

    @pytest.mark.parametrize("bridge", BRIDGE_NAMES)
    def test_the_flow_reaches_the_tokens_by_every_bridge(self, small, example, mini, bridge):
        segmenter = Segmenter(small(replace(LIGHT, bridge=bridge)), Flow(mode="noise", eta=0.05, steps=1))
        reference = segmenter.encode_support(prmagic.Support(example.image, example.mask))
        result = segmenter.segment(mini["query_rgb"], reference)
        before, after = (candidate.prompts.similarity for candidate in result.candidates)
        assert np.abs(after - before).max() > 1e-3
        plain = Segmenter(small(replace(LIGHT, bridge="pad")), Flow(mode="none"))
        reference = plain.encode_support(prmagic.Support(example.image, example.mask))
        baseline = plain.segment(mini["query_rgb"], reference)
        assert np.array_equal(baseline.candidates[0].mask, result.candidates[0].mask)

    @pytest.mark.parametrize("bridge", BRIDGE_NAMES)
    @pytest.mark.parametrize("selector, steps", [(Reencode(), 0), (Reencode(), 3), (None, 3)])
    def test_encodes_of_both_models(self, sam, encoder_folder, example, other, mini, bridge, selector, steps):
        encoder = Dino.load(encoder_folder, input_size=(48, 64))
        framework = Matcher(sam, encoder, replace(LIGHT, bridge=bridge))
        segmenter = Segmenter(framework, Flow(eta=0.5, steps=steps), selector)
        reencodes = bool(selector and steps)
        before = sam.ran.encodes
        reference = segmenter.encode_support([prmagic.Support(e.image, e.mask) for e in (example, other)])
        assert sam.ran.encodes - before == (0 if bridge == "pad" else 2)
        assert encoder.ran.encodes == (4 if reencodes else 2)  # the photos, and, to choose, what lies under the masks
        result = segmenter.segment(mini["query_rgb"], reference)
        distinct = {candidate.mask.tobytes() for candidate in result.candidates if candidate.mask.any()}
        assert result.counts["encodes"] == 1
        assert result.counts["encoder_encodes"] == 1 + (len(distinct) if reencodes else 0)
        assert len(result.candidates) == steps + 1

    def test_stages_are_timed(self, segmenter, reference, mini):
        result = segmenter.segment(mini["query_rgb"], reference)
        assert {"encode", "tokens", "decode", "match", "score", "gradient", "select"} <= set(result.seconds)

    @pytest.mark.parametrize("preset", PRESETS)
    def test_every_preset(self, preset, encoder_folder, example, mini):
        segmenter = prmagic.load("matcher", sam=MINI, encoder=encoder_folder, preset=preset, steps=1)
        settings = segmenter.framework.options
        assert settings == PRESETS[preset].matcher
        light = replace(
            settings, dense_grid=min(4, settings.dense_grid), random_subsets=min(4, settings.random_subsets)
        )
        segmenter.framework = Matcher(segmenter.framework.sam, segmenter.framework.encoder, light)
        result = segmenter.segment(
            mini["query_rgb"], segmenter.encode_support(prmagic.Support(example.image, example.mask))
        )
        assert len(result.candidates) == 2
        for candidate in result.candidates:
            assert candidate.mask.any()
            assert 1 <= len(candidate.parts) <= settings.merge
        assert all(math.isfinite(score) for score in result.scores)

    @pytest.mark.parametrize("bridge", BRIDGE_NAMES)
    def test_a_saved_reference_gives_the_same(self, small, example, other, mini, tmp_path, bridge):
        segmenter = Segmenter(small(replace(LIGHT, bridge=bridge)), Flow(eta=0.5, steps=2))
        reference = segmenter.encode_support([prmagic.Support(e.image, e.mask) for e in (example, other)])
        reference.save(tmp_path / "reference.safetensors")
        loaded = Reference.load(tmp_path / "reference.safetensors")
        assert loaded.tensors.keys() == reference.tensors.keys()
        same(segmenter.segment(mini["query_rgb"], reference), segmenter.segment(mini["query_rgb"], loaded))

    def test_references_of_others_are_refused(
        self, segmenter, reference, sam, encoder, matcher, example, mini, tmp_path
    ):
        support = prmagic.Support(example.image, example.mask)
        dino = Dino.load(wider(tmp_path), input_size=(48, 64))
        others = {
            'bridge "ridge", but here with bridge "pad"': Matcher(
                sam, matcher.encoder, MatcherSettings(bridge="ridge")
            ),
            r"encoder_input \[64, 64\], but here with": Matcher(sam, encoder),
            "made with model .*another": Matcher(sam, dino),
            "made with framework persam-f": PerSamF(sam),
        }
        for said, framework in others.items():
            theirs = Segmenter(framework).encode_support(support)
            with pytest.raises(ReferenceMismatch, match=said) as raised:
                segmenter.segment(mini["query_rgb"], theirs)
            assert "make the reference anew" in str(raised.value)
            with pytest.raises(ReferenceMismatch):
                Segmenter(framework).segment(mini["query_rgb"], reference)

    def test_settings_that_a_reference_does_not_depend_on_may_change(self, small, reference, mini):
        segmenter = Segmenter(small(replace(LIGHT, centers=3, alpha=0.5, beta=0.5)), Flow(mode="none"))
        assert segmenter.segment(mini["query_rgb"], reference).mask.shape == (90, 120)

    def test_a_query_of_another_framework_is_refused(self, sam, matcher, reference, mini):
        (embedding,) = sam.encode([mini["query_rgb"]])
        with pytest.raises(TypeError, match=r"queries that Matcher\.encode_queries made"):
            matcher.sample_prompts(
                Query(mini["query_rgb"], embedding), reference, torch.zeros_like(embedding.features), rng()
            )

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_half_precision(self, encoder_folder, example, mini, dtype):
        segmenter = prmagic.load(
            "matcher", sam=MINI, encoder=encoder_folder, dtype=dtype, preset="paper-parts", steps=1
        )
        result = segmenter.segment(
            mini["query_rgb"], segmenter.encode_support(prmagic.Support(example.image, example.mask))
        )
        assert result.mask.any()
        assert all(math.isfinite(score) for score in result.scores)


def wider(folder):
    """Another encoder, in a folder called another."""
    from transformers import Dinov2Config, Dinov2Model

    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
    with torch.random.fork_rng():
        Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder / "another")
    return folder / "another"


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"centers": 0}, "centers cannot be 0"),
        ({"subset_sizes": (4, 2)}, "subset_sizes"),
        ({"random_subsets": 0}, "random_subsets"),
        ({"channels": ()}, "channels cannot be .*None for SAM's single mask"),
        ({"channels": (5,)}, "channels"),
        ({"dense_grid": -1}, "dense_grid"),
        ({"alpha": math.nan}, "alpha cannot be nan"),
        ({"score_filter": (0.0, 0.0)}, "score_filter"),
        ({"merge": 0}, "merge cannot be 0"),
        ({"merge_few_shot": 0}, "merge_few_shot"),
        ({"compare_at": 0}, "compare_at"),
        ({"bridge": "pads"}, "did you mean 'pad'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        MatcherSettings(**wrong)
