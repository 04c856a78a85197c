"""Eq. (1) and eq. (4), each against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from prmagic.backbones.promptable import Frame
from prmagic.flow import FLOW_MODES, Flow
from prmagic.frameworks import Example, Framework, PerSam, PerSamF, Reference, ReferenceMismatch
from prmagic.frameworks.base import cover, masked_means
from prmagic.objectives import OBJECTIVES, foreground, margin
from prmagic.refine import Search, discriminator, logit_gradients, refine
from prmagic.select import Oracle, Pooled, PredictedIou, Reencode, choose, require
from prmagic.types import Candidate, Prompts


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


ZERO = torch.zeros(1, 2, 1, 2)
GRADIENT = torch.tensor([0.05, -0.02, 7.0, -300.0]).view(1, 2, 1, 2)


def test_drift_follows_the_clipped_gradient():
    moved = Flow(mode="drift", eta=0.5, clip=0.1).step(ZERO + 1, GRADIENT, rng())
    assert moved.flatten().tolist() == pytest.approx([1.025, 0.99, 1.05, 0.95])


def test_noise_has_the_deviation_of_the_equation():
    shape = torch.zeros(1, 256, 64, 64)
    moved = Flow(mode="noise", eta=1e-3, gamma=0.1).step(shape, None, rng())
    assert float(moved.std()) == pytest.approx(math.sqrt(2 * 0.1 * 1e-3), rel=0.01)
    assert float(moved.mean()) == pytest.approx(0, abs=1e-4)


def test_full_is_drift_plus_noise():
    flow = Flow(eta=0.5)
    both = flow.step(ZERO, GRADIENT, rng(3))
    drift = Flow(mode="drift", eta=0.5).step(ZERO, GRADIENT, rng(3))
    noise = Flow(mode="noise", eta=0.5).step(ZERO, None, rng(3))
    torch.testing.assert_close(both, drift + noise)


def test_resampling_does_not_move_the_embedding():
    assert torch.equal(Flow(mode="resample").step(ZERO, None, rng()), ZERO)


def test_steps_add_up():
    flow = Flow(mode="drift", eta=1.0)
    assert torch.equal(
        flow.step(flow.step(ZERO, GRADIENT, rng()), GRADIENT, rng()), 2 * flow.step(ZERO, GRADIENT, rng())
    )


@pytest.mark.parametrize(
    "mode, candidates, needs_gradient",
    [("full", 6, True), ("drift", 6, True), ("noise", 6, False), ("resample", 6, False), ("none", 1, False)],
)
def test_modes(mode, candidates, needs_gradient):
    flow = Flow(mode=mode)
    assert (flow.candidates, flow.needs_gradient) == (candidates, needs_gradient)
    assert mode in FLOW_MODES


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mode": "fall"}, "unknown flow 'fall'"),
        ({"steps": -1}, "0 or more; got -1"),
        ({"eta": math.nan}, "eta must be a finite number"),
        ({"gamma": -0.1}, "gamma must be"),
        ({"clip": math.inf}, "clip must be"),
        ({"objective": "area"}, "unknown objective 'area'; choose one of: sum, foreground, margin"),
        ({"rho": "0.1", "clip": None}, "rho must be a number; got '0.1'"),
        ({"steps": 2.5}, "steps must be a whole number; got 2.5"),
        ({"rho": 0.0, "clip": None}, "rho must be a finite number above 0"),
        ({"rho": 0.1}, "use clip=None"),
        ({"rho": 0.1, "clip": None, "mode": "noise"}, "'noise' has no gradient, so that rho would change nothing"),
        ({"particles": 0}, "1 or more; got 0"),
        ({"particles": 2, "mode": "drift"}, "particles differ in their noise, and this flow has none"),
        ({"particles": 2, "gamma": 0.0}, "particles differ in their noise"),
    ],
)
def test_settings_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Flow(**wrong)


def test_without_a_clip_the_drift_is_the_whole_gradient():
    moved = Flow(mode="drift", eta=0.5, clip=None).step(ZERO, GRADIENT, rng())
    assert moved.flatten().tolist() == pytest.approx([0.025, -0.01, 3.5, -150.0])


def test_a_relative_step_has_a_size_that_follows_from_the_embedding_alone():
    flow = Flow(mode="drift", rho=0.1, clip=None)
    embedding = torch.tensor([3.0, -4.0, 5.0, 0.0]).view(1, 2, 1, 2)  # rms: √12.5
    moved = flow.step(ZERO, GRADIENT, rng(), embedding)
    assert float(moved.square().mean().sqrt()) == pytest.approx(0.1 * math.sqrt(12.5))
    torch.testing.assert_close(moved, flow.step(ZERO, 1000 * GRADIENT, rng(), embedding))
    assert float(moved.flatten() @ GRADIENT.flatten()) == pytest.approx(float(moved.norm() * GRADIENT.norm()))
    assert not flow.step(ZERO, 0 * GRADIENT, rng(), embedding).any()
    with pytest.raises(ValueError, match="pass z0"):
        flow.step(ZERO, GRADIENT, rng())


def test_a_mode_without_gradient_has_the_published_noise_and_no_step_of_its_own():
    flow = Flow(objective="margin", rho=0.1, clip=None, eta=0.5, steps=3, particles=4)
    assert flow.in_mode("drift") == Flow(objective="margin", rho=0.1, clip=None, eta=0.5, steps=3, mode="drift")
    for mode in ("noise", "resample", "none"):
        expected = Flow(objective="margin", eta=0.5, steps=3, mode=mode, particles=4 if mode == "noise" else 1)
        assert flow.in_mode(mode) == expected
    assert flow.published == Flow(eta=0.5, steps=3, particles=4)


def test_objectives_against_values_worked_out_by_hand():
    logits = torch.full((2, 3, 6), -3.0)
    logits[0, 1, 0], logits[0, 1, 1] = 2.0, -1.0
    # One pixel inside; the band reaches one pixel: (2, 2) neighbours above and below, and the one beside it.
    assert float(margin(logits[:1])) == pytest.approx(2 - (-1 - 3 * 4) / 5)
    assert float(margin(logits[1:])) == 0  # nothing inside, no band
    weights = [1 / (1 + math.exp(-x)) for x in (2, -1, *[-3] * 16)]
    mean = sum(w * x for w, x in zip(weights, (2, -1, *[-3] * 16), strict=True)) / sum(weights)
    assert float(foreground(logits)) == pytest.approx(mean - 3, abs=1e-5)


def test_the_weights_of_an_objective_are_constants():
    logits = torch.tensor([[[1.0, -2.0]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(foreground(logits), logits)
    weights = torch.tensor([1.0, -2.0]).sigmoid()
    torch.testing.assert_close(gradient[0, 0], weights / weights.sum())


@pytest.mark.parametrize("name", ["persam-f", "matcher"])
def test_the_gradient_of_every_objective_is_that_of_its_d(name, sam, matcher, mini):
    framework = {"persam-f": PerSamF(sam), "matcher": matcher}[name]
    reference = framework.encode_support([Example(mini["support_rgb"], mini["support_mask"])], rng())
    (query,) = framework.encode_queries([mini["query_rgb"]])
    z0 = query.embedding.features
    found = framework.decode(query, reference, framework.sample_prompts(query, reference, torch.zeros_like(z0), rng()))
    along = torch.randn(z0.shape, generator=rng(1))
    along = along / along.norm()
    gradients = {}
    for objective in OBJECTIVES:
        (gradients[objective],) = logit_gradients(
            framework, query, [(reference, found, torch.zeros_like(z0))], objective
        )
        ahead, behind = (
            float(discriminator(framework, query, [reference], [found], [z0 + step * along], objective)[0])
            for step in (1e-2, -1e-2)
        )
        if objective != "foreground":  # whose weights are constants in the gradient, and not in the difference
            slope = (ahead - behind) / 2e-2
            assert float((gradients[objective] * along).sum()) == pytest.approx(slope, rel=0.05, abs=0.02 * abs(ahead))
        assert gradients[objective].any()
    (same,) = logit_gradients(framework, query, [(reference, found, torch.zeros_like(z0))])
    assert torch.equal(same, gradients["sum"])


def test_a_framework_without_logit_maps_says_so(sam, mini):
    class Plain(PerSamF):
        logit_maps = Framework.logit_maps

    framework = Plain(sam)
    reference = framework.encode_support([Example(mini["support_rgb"], mini["support_mask"])], rng())
    (query,) = framework.encode_queries([mini["query_rgb"]])
    searches = [Search(reference, rng(), rng())]
    with pytest.raises(ValueError, match="persam-f has no logit maps, and can be refined with the objective sum only"):
        refine(framework, query, searches, Flow(objective="margin"))


def test_a_search_can_be_watched(sam, mini):
    framework = PerSamF(sam)
    reference = framework.encode_support([Example(mini["support_rgb"], mini["support_mask"])], rng())
    (query,) = framework.encode_queries([mini["query_rgb"]])
    seen = []
    search = Search(reference, rng(), rng())
    refine(framework, query, [search], Flow(steps=2, mode="drift"), lambda s, g: seen.append((s.shift, g)))
    assert [shift.any().item() for shift, _ in seen] == [False, True, True] and seen[0][1] is None
    torch.testing.assert_close(seen[1][0], 1e-3 * seen[1][1].clamp(-0.1, 0.1))
    assert seen[2][0] is search.shift


@pytest.mark.parametrize("mode", ["full", "noise"])
@pytest.mark.parametrize("name", ["persam-f", "matcher"])
def test_particles_go_on_from_one_candidate_and_the_first_is_what_it_would_be_alone(name, mode, sam, matcher, mini):
    framework = {"persam-f": PerSamF(sam), "matcher": matcher}[name]
    reference = framework.encode_support([Example(mini["support_rgb"], mini["support_mask"])], rng())
    (query,) = framework.encode_queries([mini["query_rgb"]])
    flow, shifts = Flow(steps=2, eta=0.5, mode=mode), {}
    alone, several, again = (Search(reference, rng(1), rng(2)) for _ in range(3))
    refine(framework, query, [alone], flow)
    flow = replace(flow, particles=3)
    refine(framework, query, [several], flow, lambda s, g: shifts.setdefault(s, []).append(s.shift))
    refine(framework, query, [again], flow)
    assert len(several.candidates) == flow.candidates == 7
    assert [c.step for c in several.candidates] == list(range(7))
    for one, other in zip(alone.candidates, several.candidates, strict=False):
        assert np.array_equal(one.mask, other.mask) and np.array_equal(one.prompts.points, other.prompts.points)
    assert [len(path) for path in shifts.values()] == [3, 2, 2]
    ends = [path[-1] for path in shifts.values()]
    assert not torch.equal(ends[0], ends[1]) and not torch.equal(ends[1], ends[2])
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(several.candidates, again.candidates, strict=True))


@pytest.mark.parametrize(
    "scores, index",
    [
        ([0.1, 0.3, 0.2], 1),
        ([0.3, 0.3], 0),
        ([-math.inf, -2.0], 1),
        ([-math.inf, -math.inf], 0),
        ([math.nan], 0),
    ],
)
def test_the_highest_score_wins_and_the_earlier_of_equals(scores, index):
    assert choose(scores) == index


def candidate(mask, scored=None, predicted_iou=0.5):
    prompts = Prompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64))
    return Candidate(mask, prompts, predicted_iou, torch.zeros(1), 0, mask if scored is None else scored)


@pytest.fixture
def episode(sam, mini):
    framework = PerSamF(sam)
    (query,) = framework.encode_queries([mini["query_rgb"]])
    descriptors = framework.describe([mini["support_rgb"]] * 2, [mini["support_mask"], ~mini["support_mask"]])
    return framework, query, Reference({"descriptors": descriptors}, {}, (mini["support_rgb"], mini["support_mask"]))


def test_scores_are_mean_cosines_with_the_supports(episode, mini):
    framework, query, reference = episode
    mask = mini["query_mask"]
    (score,) = Reencode()(framework, query, reference, [candidate(mask)])
    vector = framework.describe([query.image], [mask])[0]
    assert score == pytest.approx(float((reference.tensors["descriptors"] @ vector).mean()), abs=1e-6)
    (first_only,) = Reencode(published=True)(framework, query, reference, [candidate(mask)])
    assert first_only == pytest.approx(float(reference.tensors["descriptors"][0] @ vector), abs=1e-6)


def test_equal_masks_are_encoded_once_and_score_the_same(episode, mini):
    framework, query, reference = episode
    masks = [mini["query_mask"], ~mini["query_mask"], mini["query_mask"].copy()]
    before = framework.sam.ran.encodes
    scores = Reencode()(framework, query, reference, [candidate(mask) for mask in masks])
    assert framework.sam.ran.encodes - before == 2
    assert scores[0] == scores[2] != scores[1]


def test_an_empty_mask_never_wins_but_does_in_the_published_code(episode, mini):
    framework, query, reference = episode
    empty = np.zeros_like(mini["query_mask"])
    some = candidate(mini["query_mask"])
    assert Reencode()(framework, query, reference, [candidate(empty), some])[0] == -math.inf
    assert Reencode()(framework, query, reference, [candidate(empty)] * 2) == [-math.inf, -math.inf]
    full = candidate(np.ones_like(empty))
    scores = Reencode(published=True)(framework, query, reference, [candidate(empty), full])
    assert scores[0] == scores[1]
    assert PredictedIou()(framework, query, reference, [candidate(empty, predicted_iou=2.0), some]) == [-math.inf, 0.5]


@pytest.mark.parametrize("name", ["persam", "persam-f", "matcher"])
def test_pooled_scores_compare_mean_features_and_encode_nothing(name, sam, matcher, mini):
    framework = {"persam": PerSam(sam), "persam-f": PerSamF(sam), "matcher": matcher}[name]
    support = Example(mini["support_rgb"], mini["support_mask"])
    other = Example(mini["support_rgb"], ~mini["support_mask"])
    one, both = (framework.encode_support(examples, rng()) for examples in ([support], [support, other]))
    (query,) = framework.encode_queries([mini["support_rgb"]])
    counted = dict(framework.counts)
    same, different = Pooled()(framework, query, one, [candidate(support.mask), candidate(other.mask)])
    assert framework.counts == counted
    assert same == pytest.approx(1, abs=1e-5)
    assert different < 1 - 1e-3
    (score,) = Pooled()(framework, query, both, [candidate(support.mask)])
    assert score == pytest.approx((1 + different) / 2, abs=1e-5)


def test_pooled_scores_of_masks_that_are_empty_or_nearly_full_never_win(episode, mini, sam):
    framework = PerSamF(sam)
    reference = framework.encode_support([Example(mini["support_rgb"], mini["support_mask"])], rng())
    _, query, without = episode
    empty = np.zeros_like(mini["query_mask"])
    nearly = ~empty
    nearly[0, :5] = False
    masks = [empty, nearly, mini["query_mask"]]
    scores = Pooled()(framework, query, reference, [candidate(mask) for mask in masks])
    assert scores[:2] == [-math.inf, -math.inf] and math.isfinite(scores[2])
    assert Pooled()(framework, query, reference, [candidate(empty)]) == [-math.inf]
    with pytest.raises(ReferenceMismatch, match=r"needs prototypes .* choose the selector that it was made for"):
        require(Pooled(), without)


def test_cover_is_the_share_of_each_cell():
    frame = Frame(photo=(20, 40), resized=(32, 64), input_size=64, patch=16)
    mask = np.zeros((20, 40), bool)
    mask[:10, 5:10] = True  # of the four columns of cells, half of the first; of the two rows, the first
    assert cover(mask, frame).numpy() == pytest.approx(np.array([[0.5, 0, 0, 0], [0, 0, 0, 0]]))


def test_a_masked_mean_weighs_cells_by_their_share():
    features = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # (2, 1, 2)
    (mean,) = masked_means(features, torch.tensor([[[0.75, 1.0]]]))
    assert mean.tolist() == pytest.approx([0.6, 0.8])


def test_what_is_scored_is_the_scored_mask(episode, mini):
    framework, query, reference = episode
    mask = mini["query_mask"]
    (other,) = Reencode()(framework, query, reference, [candidate(mask, scored=~mask)])
    (same,) = Reencode()(framework, query, reference, [candidate(~mask)])
    assert other == same


def test_the_oracle_knows_the_truth(episode, mini):
    framework, query, reference = episode
    truth = mini["query_mask"]
    scores = Oracle(truth)(framework, query, reference, [candidate(~truth), candidate(truth), candidate(truth)])
    assert choose(scores) == 1
    assert scores[1] == 1.0
    assert scores[0] == 0.0
