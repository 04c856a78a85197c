"""PerSAM and PerSAM-F: points, target feature, similarity, mask weights, cascade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from common import d, decoded, first_answer, gradient_of_d, photo, region, rng, still

from prmagic.frameworks.maps import bounding_box
from prmagic.frameworks.persam import PerSam, PerSamF, PerSamFOptions, feature_mask, sample_points
from prmagic.reference import Example

THIN = region(slice(40, 42), slice(60, 62))


@pytest.fixture
def example(mini):
    return Example(mini["support_rgb"], mini["support_mask"])


@pytest.mark.parametrize("row, column, xy", [(0, 3, (3, 0)), (2, 1, (1, 2)), (3, 4, (4, 3))])
def test_peak_comes_back_as_x_then_y(row, column, xy):
    similarity = np.zeros((4, 5), np.float32)
    similarity[row, column] = 1
    assert sample_points(similarity, 0, (), rng()).tolist() == [list(xy)]


def test_extra_points_lie_above_their_quantile_and_are_distinct():
    similarity = np.random.default_rng(0).random((40, 60), dtype=np.float32)
    points = sample_points(similarity, 2, (0.999, 0.99), rng()).astype(int)
    assert len(points) == 5
    assert len({tuple(point) for point in points.tolist()}) == 5
    values = similarity[points[:, 1], points[:, 0]]
    assert values[0] == similarity.max()
    assert (values[1:3] >= np.quantile(similarity, 0.999)).all()
    assert (values[3:] >= np.quantile(similarity, 0.99)).all()
    assert not np.array_equal(points, sample_points(similarity, 2, (0.999, 0.99), rng(1)))


def test_fewer_extra_points_where_the_map_has_no_more():
    similarity = np.array([[0.0, 1.0]], np.float32)
    assert sample_points(similarity, 4, (0.9,), rng()).tolist() == [[1, 0]]


@pytest.mark.parametrize("height, width", [(90, 120), (37, 256), (300, 300)])
def test_quick_maps_have_the_same_peaks(sam, height, width):
    """Also where the peak lies in a corner, and many pixels are as high up to rounding."""
    framework = PerSam(sam)
    (embedding,) = sam.encode([photo(height, width)])
    targets = [*torch.randn(12, embedding.features.shape[1], generator=rng()), embedding.features[0, :, 0, 0]]
    for number, target in enumerate(targets):
        target = target / target.norm()
        shift = 0.1 * torch.randn(embedding.features.shape, generator=rng(number))
        shift[..., 0, 0] += 9 * target  # the peak
        quick, plain = (
            framework.peaked(embedding, target, shift, (1, -1)),
            framework.similarity(embedding, target, shift),
        )
        np.testing.assert_allclose(quick, plain, atol=1e-6)
        assert [quick.argmax(), quick.argmin()] == [plain.argmax(), plain.argmin()]


class TestTarget:
    @staticmethod
    def target(framework, *examples):
        return framework.learn(examples, rng()).tensors["target"]

    @staticmethod
    def inside(embedding, mask):
        return embedding.features[0].flatten(1).T[feature_mask(mask, embedding)]

    def test_persam_takes_the_mean_and_persam_f_half_mean_half_maximum(self, sam, example):
        (embedding,) = sam.encode([example.image])
        features = self.inside(embedding, example.mask)
        plain, mixed = features.mean(0), features.mean(0) / 2 + features.amax(0) / 2
        torch.testing.assert_close(self.target(PerSam(sam), example), plain / plain.norm())
        torch.testing.assert_close(self.target(PerSamF(sam), example), mixed / mixed.norm())

    def test_shots_are_pooled_by_position(self, sam, example, mini):
        other = Example(mini["query_rgb"], mini["query_mask"])
        embeddings = sam.encode([example.image, other.image])
        inside = torch.cat([self.inside(z, e.mask) for e, z in zip((example, other), embeddings, strict=True)])
        pooled = inside.mean(0) / 2 + inside.amax(0) / 2
        target = self.target(PerSamF(sam), example, other)
        torch.testing.assert_close(target, pooled / pooled.norm())
        torch.testing.assert_close(self.target(PerSamF(sam), other, example), target)

    def test_a_mask_thinner_than_a_cell_uses_the_cells_it_covers_most(self, sam, example):
        (embedding,) = sam.encode([example.image])
        target = self.target(PerSam(sam), Example(example.image, THIN))
        cell = embedding.features[0, :, 5, 8]  # 41.0 / 90 · 12 = 5.5, 61.0 / 120 · 16 = 8.1
        torch.testing.assert_close(target, cell / cell.norm())

    def test_a_thin_support_counts_beside_a_large_one(self, sam, example):
        both, alone = (
            self.target(PerSam(sam), *shots) for shots in ([example, Example(example.image, THIN)], [example])
        )
        assert not torch.allclose(both, alone)


def test_padding_does_not_matter_to_similarity_maps(sam):
    """A photo of 60 × 128 fills 7.5 of 16 rows of cells."""
    (embedding,) = sam.encode([photo(60, 128)])
    features = embedding.features.clone()
    features[:, :, 8:] = 100 * torch.randn(features[:, :, 8:].shape, generator=rng())
    target = torch.nn.functional.normalize(torch.randn(32, generator=rng()), dim=0)
    clean, noisy = (PerSamF(sam).similarity(e, target) for e in (embedding, embedding.moved_to(features)))
    assert clean.shape == (60, 128)
    assert np.array_equal(clean, noisy)


class TestCascade:
    def test_persam_prompts_with_the_peak_and_the_trough(self, sam, example, mini):
        _, _, prompts, _ = first_answer(PerSam(sam), [example], mini["query_rgb"])
        assert prompts.labels.tolist() == [1, 0]
        similarity = prompts.similarity
        (x0, y0), (x1, y1) = prompts.points.astype(int).tolist()
        assert similarity[y0, x0] == similarity.max()
        assert similarity[y1, x1] == similarity.min()

    def test_persam_is_guided_by_the_target(self, sam, example, mini):
        framework = PerSam(sam)
        reference, query, prompts, guided = first_answer(framework, [example], mini["query_rgb"])
        other = replace(reference, tensors={**reference.tensors, "target": -reference.tensors["target"]})
        assert not torch.equal(guided.logits, decoded(framework, query, other, prompts).logits)

    def test_persam_f_mixes_the_three_masks_by_the_supports_weights(self, sam, example, mini):
        framework = PerSamF(sam)
        reference, query, prompts, _ = first_answer(framework, [example], mini["query_rgb"])
        assert float(reference.tensors["mask_weights"].sum()) == pytest.approx(1)
        ((first, others),) = framework.first_stage(query, [reference], [prompts])
        decoded = sam.decode(query.embedding, [prompts])
        expected = (reference.tensors["mask_weights"][:, None, None] * decoded.logits[0]).sum(0)
        torch.testing.assert_close(first, expected)
        assert sorted(other.channel for other in others) == [0, 1, 2]
        assert [other.predicted_iou for other in others] == sorted(decoded.predicted_iou[0].tolist(), reverse=True)
        for other in others:
            assert torch.equal(other.logits, decoded.logits[0, other.channel]) and other.prompts is prompts

    @pytest.mark.parametrize("kind, others", [(PerSam, 2), (PerSamF, 5)])
    def test_what_sam_gave_beside_a_mask_stays_with_the_candidate(self, sam, example, mini, kind, others):
        *_, candidate = first_answer(kind(sam), [example], mini["query_rgb"])
        assert len(candidate.others) == others
        last = candidate.others[-2:]
        assert {candidate.channel, *(each.channel for each in last)} == {0, 1, 2}
        assert all(each.predicted_iou <= candidate.predicted_iou for each in last)
        assert all(each.prompts is candidate.prompts for each in last)

    @pytest.mark.parametrize("kind", [PerSam, PerSamF])
    def test_the_last_stage_is_asked_with_box_and_logits_of_the_second(self, sam, example, mini, kind):
        _, query, _, candidate = first_answer(kind(sam), [example], mini["query_rgb"])
        assert candidate.mask.shape == (90, 120)
        assert candidate.mask.any() or candidate.prompts.box is None
        again = sam.decode(query.embedding, [candidate.prompts])
        torch.testing.assert_close(again.logits[0, candidate.channel], candidate.logits)
        assert int(again.predicted_iou[0].argmax()) == candidate.channel
        second_mask = query.embedding.frame.upscale(candidate.prompts.mask_logits).numpy() > 0
        assert candidate.prompts.box == bounding_box(second_mask)
        assert candidate.scored_mask is None

    @pytest.mark.parametrize("kind", [PerSam, PerSamF])
    def test_d_rises_along_its_gradient(self, sam, example, mini, kind):
        framework = kind(sam)
        reference, query, _, candidate = first_answer(framework, [example], mini["query_rgb"])
        gradient = gradient_of_d(framework, query, reference, candidate, still(query))
        step = 1e-3 * gradient / gradient.norm()
        down, here, up = (d(framework, query, reference, candidate, sign * step) for sign in (-1, 0, 1))
        assert up > here > down

    def test_d_is_summed_over_the_photo_only(self, sam, example):
        framework = PerSamF(sam)
        reference, query, _, candidate = first_answer(framework, [example], photo(32, 128))
        expected = sam.decode(query.embedding, [candidate.prompts]).logits[0, candidate.channel, :16].sum()
        assert d(framework, query, reference, candidate, still(query)) == pytest.approx(float(expected), rel=1e-5)

    def test_an_empty_first_mask_is_survived(self, sam, example, mini):
        framework = PerSamF(sam)
        reference, query, prompts, _ = first_answer(framework, [example], mini["query_rgb"])
        framework.first_stage = lambda query, references, prompts: [(torch.full((64, 64), -5.0), ())]
        assert decoded(framework, query, reference, prompts).mask.shape == (90, 120)

    def test_the_box_of_a_large_photo_is_found_at_the_working_size(self, sam):
        framework, frame = PerSamF(sam), sam.frame((1000, 2500))
        assert framework.working_size(frame) == (410, 1024)
        low = torch.full((64, 64), -3.0)
        low[5:14, 20:41] = 3.0
        exact = bounding_box(frame.upscale(low).numpy() > 0)
        box, none = framework.boxes([low, -low.abs()], frame)
        assert box == pytest.approx(exact, abs=2500 / 1024) and none is None


class TestOptions:
    def test_extra_points_are_drawn_near_the_peak(self, sam, example, mini):
        framework = PerSamF(sam, PerSamFOptions(points=5, extra_points="0.99/0.90"))
        _, _, prompts, _ = first_answer(framework, [example], mini["query_rgb"])
        assert len(prompts.points) == 5 and prompts.labels.tolist() == [1] * 5
        assert len(first_answer(PerSamF(sam), [example], mini["query_rgb"])[2].points) == 1

    def test_a_reference_depends_on_the_points_only_if_there_are_extra_ones(self, sam):
        def settings(**options):
            return PerSamF(sam, PerSamFOptions(**options)).signature["settings"]

        assert settings(points=3) == settings(points=5)
        assert settings(points=3, extra_points="0.99/0.90") != settings(points=5, extra_points="0.99/0.90")

    @pytest.mark.parametrize(
        "wrong, told", [({"points": 0}, "1 or more; got 0"), ({"extra_points": "0.9"}, r"choose one of: none, 0\.99/0")]
    )
    def test_what_makes_no_sense(self, wrong, told):
        with pytest.raises(ValueError, match=told):
            PerSamFOptions(**wrong)


def test_a_query_of_one_pixel(sam, example):
    framework = PerSamF(sam, PerSamFOptions(extra_points="0.99/0.90"))
    _, _, prompts, candidate = first_answer(framework, [example], np.zeros((1, 1, 3), np.uint8))
    assert prompts.points.tolist() == [[0, 0]]
    assert candidate.mask.shape == (1, 1)
