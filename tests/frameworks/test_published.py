"""The published code's quirks: what the presets `paper` and `official` do otherwise."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from common import d, first_answer, photo, region, rng, still
from matchers import LIGHT

import prmagic
from prmagic.flow import Flow
from prmagic.frameworks.maps import bounding_box
from prmagic.frameworks.matcher import Matcher, MatcherOptions
from prmagic.frameworks.persam import PerSam, PerSamF, PerSamFOptions, sample_points
from prmagic.frameworks.published import PublishedFlow, PublishedMatcher, PublishedPerSam, PublishedPerSamF
from prmagic.frameworks.registry import variant
from prmagic.reference import Example
from prmagic.select import Reencode


@pytest.fixture
def example(mini):
    return Example(mini["support_rgb"], mini["support_mask"])


@pytest.fixture
def fitted(monkeypatch):
    """Without the thousand steps of the published fit, which test_mask_weights.py looks at."""
    monkeypatch.setattr(PublishedPerSamF, "fit", staticmethod(lambda logits, truths: torch.tensor([0.2, 0.5, 0.3])))


class TestFlow:
    def test_the_gradient_is_taken_at_the_origin(self):
        assert not PublishedFlow().gradient_place(torch.ones(1, 2, 3, 4)).any()
        assert replace(PublishedFlow(), steps=2).gradient_place(torch.ones(2)).tolist() == [0, 0]

    @pytest.mark.parametrize("preset", ["default", "paper"])
    def test_in_a_whole_query(self, preset, sam, example, mini, fitted):
        chosen, seen = variant("persam-f", preset), []

        class Watched(chosen.framework):
            def logits(self, query, references, candidates, embeddings):
                seen.append(float((embeddings[0].features - query.embedding.features).detach().abs().max()))
                return super().logits(query, references, candidates, embeddings)

        flow = replace(chosen.preset.flow, mode="full", steps=3)
        segmenter = prmagic.Segmenter(Watched(sam), flow, chosen.preset.selector)
        segmenter.segment(mini["query_rgb"], segmenter.encode_examples([example]))
        assert seen[0] == 0
        assert (seen[1] > 0) == (seen[2] > 0) == (preset == "default")


class TestPerSam:
    def test_extra_points_have_x_and_y_exchanged(self):
        similarity = np.zeros((3, 9), np.float32)
        similarity[1, 7], similarity[1, 8] = 1.0, 0.9
        assert sample_points(similarity, 1, (0.93,), rng(), swap=True).tolist() == [[7, 1], [1, 8]]
        assert sample_points(similarity, 1, (0.93,), rng()).tolist() == [[7, 1], [8, 1]]
        assert PublishedPerSamF.swap_points and not PerSamF.swap_points

    def test_a_mask_thinner_than_a_cell_has_the_whole_photo_s_target(self, sam, example):
        (embedding,) = sam.encode([example.image])
        thin = Example(example.image, region(slice(40, 42), slice(60, 62)))
        target = PublishedPerSam(sam).learn([thin], rng()).tensors["target"]
        everywhere = embedding.features[0].flatten(1).mean(1)
        torch.testing.assert_close(target, everywhere / everywhere.norm())

    def test_padding_is_mixed_into_similarity_maps(self, sam):
        (embedding,) = sam.encode([photo(60, 128)])
        features = embedding.features.clone()
        features[:, :, 8:] = 100 * torch.randn(features[:, :, 8:].shape, generator=rng())
        target = torch.nn.functional.normalize(torch.randn(32, generator=rng()), dim=0)
        published = PublishedPerSam(sam)
        clean, noisy = (published.similarity(e, target) for e in (embedding, embedding.moved_to(features)))
        assert not np.array_equal(clean, noisy)

    def test_maps_are_searched_at_the_photos_own_size(self, sam):
        frame = sam.frame((1200, 2048))
        assert PublishedPerSamF(sam).working_size(frame) == (1200, 2048)
        assert PerSamF(sam).working_size(frame) == (600, 1024)

    @pytest.mark.parametrize("kind", [PublishedPerSam, PublishedPerSamF])
    def test_the_first_stages_box_serves_the_third_and_its_mask_is_scored(self, sam, example, mini, kind, fitted):
        *_, candidate = first_answer(kind(sam), [example], mini["query_rgb"])
        assert candidate.prompts.box == bounding_box(candidate.scored_mask)
        assert not np.array_equal(candidate.scored_mask, candidate.mask)

    def test_d_is_summed_over_the_padding_too(self, sam, example, fitted):
        framework = PublishedPerSamF(sam)
        reference, query, _, candidate = first_answer(framework, [example], photo(32, 128))
        expected = sam.decode(query.embedding, [candidate.prompts]).logits[0, candidate.channel].sum()
        assert d(framework, query, reference, candidate, still(query)) == pytest.approx(float(expected), rel=1e-5)

    def test_its_references_are_of_no_use_to_the_others(self, sam):
        for published, ours in ((PublishedPerSam, PerSam), (PublishedPerSamF, PerSamF)):
            assert published(sam).signature["settings"] != ours(sam).signature["settings"]


class TestMatcher:
    def test_centres_are_whole_pixels(self, small, example, mini):
        *_, prompts, _ = first_answer(small(LIGHT, PublishedMatcher), [example], mini["query_rgb"])
        assert np.array_equal(prompts.points, np.trunc(prompts.points))
        *_, exact, _ = first_answer(small(LIGHT), [example], mini["query_rgb"])
        assert not np.array_equal(exact.points, np.trunc(exact.points))

    def test_masks_are_scored_by_the_shifted_tokens(self, small, example, mini):
        for kind in (Matcher, PublishedMatcher):
            framework = small(LIGHT, kind)
            reference, query, *_ = first_answer(framework, [example], mini["query_rgb"])
            shift = torch.randn(still(query).shape, generator=rng())
            (moved,) = framework.sample_prompts(query, [reference], [shift], [rng()])
            assert (moved.moved is not None) == (kind is PublishedMatcher)

    def test_references_serve_both(self, small, example):
        reference = small(LIGHT).learn([example], rng())
        small(LIGHT, PublishedMatcher).check(reference)


class TestPresets:
    """Values of the published launchers, for objects on COCO-20i."""

    def test_papers(self):
        assert variant("persam", "paper").framework is PublishedPerSam
        persam_f, matcher = variant("persam-f", "paper"), variant("matcher", "paper")
        assert persam_f.framework is PublishedPerSamF
        assert persam_f.preset.options == PerSamFOptions(5, "0.99999/0.9999")
        assert matcher.framework is PublishedMatcher
        changed = {
            field.name: getattr(matcher.preset.options, field.name) for field in fields(MatcherOptions)
            if getattr(matcher.preset.options, field.name) != field.default
        }  # fmt: skip
        assert changed == {"centers": 8, "subset_sizes": (4, 6), "merge": 9, "compare_at": 518}
        for chosen in (persam_f, matcher):
            assert chosen.preset.flow == PublishedFlow(eta=1e-3, gamma=0.1, steps=5)
            assert chosen.preset.selector == Reencode(published=True)

    def test_officials(self):
        preset = variant("matcher", "official").preset
        assert (preset.flow, preset.selector) == (Flow(), "reencode")
        assert (preset.options.dense_grid, preset.options.channels, preset.options.centers) == (64, (0, 1, 2), None)
