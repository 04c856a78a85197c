"""PerSAM and PerSAM-F: points, target feature, similarity, mask weights, cascade."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prmagic.frameworks import Example, PerSam, PerSamF, Query
from prmagic.frameworks.base import bounding_box, working_size
from prmagic.frameworks.mask_weights import dice_loss, fit_mixture, fit_published, focal_loss, mixture
from prmagic.frameworks.persam import PerSamSettings, feature_mask, sample_points, to_photo
from prmagic.presets import PRESETS
from prmagic.refine import logit_gradients


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


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


def test_published_extra_points_have_x_and_y_exchanged():
    similarity = np.zeros((3, 9), np.float32)
    similarity[1, 7], similarity[1, 8] = 1.0, 0.9
    assert sample_points(similarity, 1, (0.93,), rng(), swap=True).tolist() == [[7, 1], [1, 8]]
    assert sample_points(similarity, 1, (0.93,), rng()).tolist() == [[7, 1], [8, 1]]


def test_large_photos_are_searched_at_a_working_size_and_points_are_scaled_back(sam):
    assert working_size((3000, 4096)) == (750, 1024)
    assert working_size((90, 120)) == (90, 120)
    assert working_size((1, 5000)) == (1, 1024)
    points = to_photo(np.array([[0, 0], [1023, 749]], np.float32), (750, 1024), sam.frame((3000, 4096)))
    assert points.tolist() == [[1.5, 1.5], [4093.5, 2997.5]]  # the middle of 4 × 4 photo pixels
    published, ours = PerSamF(sam, PRESETS["paper"].persam), PerSamF(sam)
    assert published._working_size(sam.frame((1200, 2048))) == (1200, 2048)
    assert ours._working_size(sam.frame((1200, 2048))) == (600, 1024)
    same = np.array([[17, 42]], np.float32)
    assert to_photo(same, (90, 120), sam.frame((90, 120))).tolist() == same.tolist()


@pytest.mark.parametrize(
    "rows, columns, expected",
    [(slice(2, 5), slice(3, 4), (3, 2, 3, 4)), (slice(0, 10), slice(0, 20), (0, 0, 19, 9))],
)
def test_bounding_box_of_outermost_pixels(rows, columns, expected):
    mask = np.zeros((10, 20), bool)
    mask[rows, columns] = True
    assert bounding_box(mask) == expected


def test_an_empty_mask_has_no_box():
    assert bounding_box(np.zeros((4, 4), bool)) is None


class TestTarget:
    def test_persam_takes_the_mean_and_persam_f_half_mean_half_maximum(self, sam, example):
        (embedding,) = sam.encode([example.image])
        features = embedding.features[0].flatten(1).T
        inside = features[feature_mask(example.mask, embedding.frame, (16, 16)).flatten()]
        plain, mixed = inside.mean(0), inside.mean(0) / 2 + inside.amax(0) / 2
        torch.testing.assert_close(PerSam(sam).encode_support([example], rng()).tensors["target"], plain / plain.norm())
        torch.testing.assert_close(
            PerSamF(sam).encode_support([example], rng()).tensors["target"], mixed / mixed.norm()
        )

    def test_shots_are_pooled_by_position(self, sam, example, mini):
        other = Example(mini["query_rgb"], mini["query_mask"])
        references = [PerSamF(sam).encode_support(shots, rng()) for shots in ([example], [other], [example, other])]
        targets = [reference.tensors["target"] for reference in references]
        embeddings = sam.encode([example.image, other.image])
        inside = [
            z.features[0].flatten(1).T[feature_mask(e.mask, z.frame, (16, 16)).flatten()]
            for e, z in zip((example, other), embeddings, strict=True)
        ]
        pooled = torch.cat(inside).mean(0) / 2 + torch.cat(inside).amax(0) / 2
        torch.testing.assert_close(targets[2], pooled / pooled.norm())
        assert references[2].tensors["prototypes"].shape == (2, 32)
        again = PerSamF(sam).encode_support([other, example], rng())
        torch.testing.assert_close(again.tensors["target"], targets[2])

    def test_a_mask_thinner_than_a_cell_uses_the_cells_it_covers_most(self, sam, example):
        thin = np.zeros((90, 120), bool)
        thin[40:42, 60:62] = True
        (embedding,) = sam.encode([example.image])
        target = PerSam(sam).encode_support([Example(example.image, thin)], rng()).tensors["target"]
        cell = embedding.features[0, :, 5, 8]  # 41.0 / 90 · 12 = 5.5, 61.0 / 120 · 16 = 8.1
        torch.testing.assert_close(target, cell / cell.norm())
        paper = PerSam(sam, PRESETS["paper"].persam)
        published = paper.encode_support([Example(example.image, thin)], rng()).tensors["target"]
        everywhere = embedding.features[0].flatten(1).mean(1)
        torch.testing.assert_close(published, everywhere / everywhere.norm())

    def test_a_thin_support_counts_beside_a_large_one(self, sam, example):
        thin = np.zeros((90, 120), bool)
        thin[40:42, 60:62] = True
        shots = [example, Example(example.image, thin)]
        both, alone = (PerSam(sam).encode_support(s, rng()).tensors["target"] for s in (shots, shots[:1]))
        assert not torch.allclose(both, alone)


class TestPadding:
    """A photo of 60 × 128 fills 7.5 of 16 rows of cells; what lies below must not matter."""

    @pytest.fixture
    def embedding(self, sam):
        (found,) = sam.encode([np.random.default_rng(0).integers(0, 256, (60, 128, 3), dtype=np.uint8)])
        return found

    def disturbed(self, embedding):
        features = embedding.features.clone()
        features[:, :, 8:] = 100 * torch.randn(features[:, :, 8:].shape, generator=rng())
        return embedding.moved_to(features)

    def test_similarity_maps(self, sam, embedding):
        target = torch.nn.functional.normalize(torch.randn(32, generator=rng()), dim=0)
        clean, noisy = (PerSamF(sam).similarity(e, target) for e in (embedding, self.disturbed(embedding)))
        assert clean.shape == (60, 128)
        assert np.array_equal(clean, noisy)
        published = PerSamF(sam, PRESETS["paper"].persam)
        clean, noisy = (published.similarity(e, target) for e in (embedding, self.disturbed(embedding)))
        assert not np.array_equal(clean, noisy)

    def test_descriptors(self, sam):
        """The mean is taken over the cells of the photo, here the upper quarter."""
        wide = np.full((32, 128, 3), 200, np.uint8)
        ones = np.ones((32, 128), bool)
        (embedding,) = sam.encode([wide])
        expected = embedding.features[:, :, :4].mean((2, 3))
        found = PerSam(sam).describe([wide], [ones])
        torch.testing.assert_close(found, expected / expected.norm())
        assert not torch.allclose(PerSam(sam, PRESETS["paper"].persam).describe([wide], [ones]), found)


class TestMaskWeights:
    def test_losses_by_hand(self):
        logits, truth = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
        assert float(dice_loss(logits, truth)) == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))
        ce = np.log(2)
        assert float(focal_loss(logits, truth)) == pytest.approx((0.25 + 3 * 0.75) / 4 * 0.25 * ce)

    def test_mixture(self):
        assert mixture(torch.tensor([0.2, 0.3])).tolist() == pytest.approx([0.5, 0.2, 0.3])

    @pytest.mark.parametrize("right", [0, 1, 2])
    def test_the_mask_that_fits_gets_the_weight(self, right):
        truth = torch.zeros(20, 30)
        truth[5:12, 8:20] = 1
        logits = torch.stack(
            [(2 * truth - 1) * 6 if channel == right else -(2 * truth - 1) * 3 for channel in range(3)]
        )
        weights = fit_mixture([logits], [truth])
        assert int(weights.argmax()) == right
        assert float(weights[right]) > 0.95
        assert float(weights.sum()) == pytest.approx(1)
        assert (weights >= 0).all()

    def test_the_fast_fit_is_at_least_as_good_as_the_published_one_when_that_is_convex(self, sam, example, mini):
        low = torch.from_numpy(mini["support_point_logits"])
        full = sam.frame((90, 120)).upscale(low)
        truth = torch.from_numpy(example.mask).float()
        published = fit_published([full], [truth]).clamp(min=0)
        published = published / published.sum()

        def loss(weights):
            mixed = torch.einsum("m,mhw->hw", weights, full)
            return float(dice_loss(mixed, truth) + focal_loss(mixed, truth))

        assert loss(fit_mixture([full], [truth])) <= loss(published) + 1e-4

    def test_losses_of_several_supports_are_summed(self):
        truth = torch.zeros(8, 8)
        truth[2:5] = 1
        good, bad = (2 * truth - 1) * 5, -(2 * truth - 1) * 5
        first = torch.stack([good, bad, bad])
        second = torch.stack([bad, good, bad])
        both = fit_mixture([first, second], [truth, truth])
        assert abs(float(both[0] - both[1])) < 0.05
        assert float(both[2]) < 0.05


class TestCascade:
    def episode(self, framework, example, mini):
        reference = framework.encode_support([example], rng())
        (query,) = framework.encode_queries([mini["query_rgb"]])
        return reference, query, torch.zeros_like(query.embedding.features)

    def test_persam_prompts_with_the_peak_and_the_trough(self, sam, example, mini):
        framework = PerSam(sam)
        reference, query, still = self.episode(framework, example, mini)
        prompts = framework.sample_prompts(query, reference, still, rng())
        assert prompts.labels.tolist() == [1, 0]
        similarity = prompts.similarity
        (x0, y0), (x1, y1) = prompts.points.astype(int).tolist()
        assert similarity[y0, x0] == similarity.max()
        assert similarity[y1, x1] == similarity.min()

    def test_persam_is_guided_by_the_target(self, sam, example, mini):
        framework = PerSam(sam)
        reference, query, still = self.episode(framework, example, mini)
        prompts = framework.sample_prompts(query, reference, still, rng())
        target = reference.tensors["target"]
        other = framework.reference({"target": -target}, [example])
        guided = framework.decode(query, reference, prompts)
        assert not torch.equal(guided.logits, framework.decode(query, other, prompts).logits)

    @pytest.mark.parametrize("kind", [PerSam, PerSamF])
    def test_the_last_stage_is_asked_with_box_and_logits_of_the_second(self, sam, example, mini, kind):
        framework = kind(sam)
        reference, query, still = self.episode(framework, example, mini)
        prompts = framework.sample_prompts(query, reference, still, rng())
        candidate = framework.decode(query, reference, prompts)
        assert candidate.mask.shape == (90, 120)
        assert candidate.mask.any() or candidate.prompts.box is None
        again = sam.decode(query.embedding, [candidate.prompts])
        torch.testing.assert_close(again.logits[0, candidate.channel], candidate.logits)
        assert int(again.predicted_iou[0].argmax()) == candidate.channel
        second_mask = query.embedding.frame.upscale(candidate.prompts.mask_logits).numpy() > 0
        assert candidate.prompts.box == bounding_box(second_mask)
        assert candidate.scored_mask is None

    def test_quirks_of_the_published_cascade(self, sam, example, mini):
        framework = PerSamF(sam, replace(PRESETS["paper"].persam, published_fit=False))
        reference, query, still = self.episode(framework, example, mini)
        candidate = framework.decode(query, reference, framework.sample_prompts(query, reference, still, rng()))
        assert candidate.prompts.box == bounding_box(candidate.scored_mask)
        assert not np.array_equal(candidate.scored_mask, candidate.mask)

    @pytest.mark.parametrize("kind", [PerSam, PerSamF])
    def test_d_rises_along_its_gradient(self, sam, example, mini, kind):
        framework = kind(sam)
        reference, query, still = self.episode(framework, example, mini)
        candidate = framework.decode(query, reference, framework.sample_prompts(query, reference, still, rng()))
        gradient = logit_gradients(framework, query, [(reference, candidate, still)])[0]

        def d(shift):
            moved = query.embedding.moved_to(query.embedding.features + shift)
            return float(framework.logit(query, reference, candidate, moved))

        assert d(1e-3 * gradient / gradient.norm()) > d(still) > d(-1e-3 * gradient / gradient.norm())

    def test_d_is_summed_over_the_photo_only(self, sam, example):
        wide = np.random.default_rng(0).integers(0, 256, (32, 128, 3), dtype=np.uint8)
        for framework, rows in (
            (PerSamF(sam), 16),
            (PerSamF(sam, replace(PRESETS["paper"].persam, published_fit=False)), 64),
        ):
            reference = framework.encode_support([example], rng())
            (query,) = framework.encode_queries([wide])
            prompts = framework.sample_prompts(query, reference, torch.zeros_like(query.embedding.features), rng())
            candidate = framework.decode(query, reference, prompts)
            expected = sam.decode(query.embedding, [candidate.prompts]).logits[0, candidate.channel, :rows].sum()
            torch.testing.assert_close(framework.logit(query, reference, candidate, query.embedding), expected)

    def test_an_empty_first_mask_is_survived(self, sam, example, mini):
        framework = PerSamF(sam)
        reference, query, still = self.episode(framework, example, mini)
        framework._first_stage = lambda query, references, prompts: [torch.full((64, 64), -5.0)]
        prompts = framework.sample_prompts(query, reference, still, rng())
        assert framework.decode(query, reference, prompts).mask.shape == (90, 120)

    def test_the_box_of_a_large_photo_is_found_at_the_working_size(self, sam, example):
        framework = PerSamF(sam)
        wide = np.random.default_rng(0).integers(0, 256, (1000, 2500, 3), dtype=np.uint8)
        (query,) = framework.encode_queries([wide])
        frame, low = query.embedding.frame, torch.full((64, 64), -3.0)
        low[5:14, 20:41] = 3.0
        exact = bounding_box(frame.upscale(low).numpy() > 0)
        assert framework._box(low, frame) == pytest.approx(exact, abs=2500 / 1024)
        assert framework._box(-low.abs(), frame) is None


def test_a_query_of_one_pixel(sam, example):
    framework = PerSamF(sam, PerSamSettings(quantiles=(0.99, 0.9)))
    reference = framework.encode_support([example], rng())
    (query,) = framework.encode_queries([np.zeros((1, 1, 3), np.uint8)])
    assert isinstance(query, Query)
    prompts = framework.sample_prompts(query, reference, torch.zeros_like(query.embedding.features), rng())
    assert prompts.points.tolist() == [[0, 0]]
    assert framework.decode(query, reference, prompts).mask.shape == (1, 1)
