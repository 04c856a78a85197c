"""Algorithm 1: what the loop asks of a framework and of a flow, and in which order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from common import first_answer, gradient_of_d, prompts_of, rng, still

from prmagic.flow import OBJECTIVES, Flow
from prmagic.frameworks.base import Framework
from prmagic.frameworks.persam import PerSam, PerSamF
from prmagic.reference import Example
from prmagic.refine import IN_ONE_GRAPH, Draws, d_gradients, on_cpu, refine
from prmagic.types import Candidate, Part, Prompts


@pytest.fixture
def example(mini):
    return Example(mini["support_rgb"], mini["support_mask"])


def draws(points=0, noise=0):
    return Draws(rng(points), rng(noise))


def refined(framework, example, image, flow, watch=None, **seeds):
    reference = framework.learn([example], rng())
    (query,) = framework.encode_queries([image])
    (path,) = refine(framework, query, [reference], flow, [draws(**seeds)], watch)
    return query, reference, path


def test_the_first_candidate_is_the_frameworks_own_and_each_has_its_step(sam, example, mini):
    framework = PerSamF(sam)
    *_, own = first_answer(framework, [example], mini["query_rgb"])
    _, _, path = refined(framework, example, mini["query_rgb"], Flow(steps=3, eta=0.5))
    assert [candidate.step for candidate in path] == [0, 1, 2, 3]
    assert np.array_equal(path[0].mask, own.mask)
    assert any(not np.array_equal(each.prompts.similarity, own.prompts.similarity) for each in path[1:])


@pytest.mark.parametrize("flow", [Flow(mode="none"), Flow(steps=0)])
def test_without_steps_there_is_one_candidate(sam, example, mini, flow):
    _, _, path = refined(PerSamF(sam), example, mini["query_rgb"], flow)
    assert len(path) == 1


def test_a_step_is_the_flows_of_the_gradient_at_the_shift(sam, example, mini):
    framework, seen = PerSamF(sam), []
    flow = Flow(steps=2, gamma=0.0)
    query, reference, path = refined(
        framework, example, mini["query_rgb"], flow, lambda t, shifts, gradients: seen.append((t, shifts, gradients))
    )
    assert [t for t, _, _ in seen] == [0, 1, 2]
    shifts = [shift for _, (shift,), _ in seen]
    gradients = [gradient for _, _, (gradient,) in seen]
    assert not shifts[0].any() and gradients[0] is None
    for t in (1, 2):
        expected = gradient_of_d(framework, query, reference, path[t - 1], shifts[t - 1])
        torch.testing.assert_close(gradients[t], expected)
        torch.testing.assert_close(shifts[t], shifts[t - 1] + 1e-3 * gradients[t].clamp(-0.1, 0.1))


def test_a_flow_without_a_gradient_asks_for_none(sam, example, mini):
    class NoGradient(PerSamF):
        def logits(self, *asked):
            raise AssertionError("nobody needs d")

    seen = []
    flow = Flow(mode="noise", eta=0.5, steps=2)
    refined(NoGradient(sam), example, mini["query_rgb"], flow, lambda *each: seen.append(each))
    assert [gradients for *_, gradients in seen] == [[None]] * 3
    assert [bool(shift.any()) for _, (shift,), _ in seen] == [False, True, True]


@pytest.mark.parametrize("name", ["persam", "persam-f", "matcher"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_that_of_d(name, objective, sam, matcher, example, mini):
    framework = {"persam": PerSam(sam), "persam-f": PerSamF(sam), "matcher": matcher}[name]
    reference, query, _, found = first_answer(framework, [example], mini["query_rgb"])
    gradient = gradient_of_d(framework, query, reference, found, still(query), objective)
    assert gradient.shape == query.embedding.features.shape and gradient.any()
    along = torch.randn(gradient.shape, generator=rng(1))
    along = along / along.norm()

    def maps(step):
        z = query.embedding.moved_to(query.embedding.features + step * along)
        with torch.no_grad():
            return framework.logits(query, [reference], [found], [z])[0]

    ahead, here, behind = (maps(step) for step in (1e-2, 0, -1e-2))
    if objective == "sum":
        slope = float((ahead - behind).sum()) / 2e-2
    else:  # its weights are constants
        weights = here.flatten(1).sigmoid() / here.flatten(1).sigmoid().sum(1, keepdim=True)
        slope = float((weights * (ahead - behind).flatten(1)).sum()) / 2e-2
    size = float(OBJECTIVES[objective](here).abs())
    assert float((gradient * along).sum()) == pytest.approx(slope, rel=0.05, abs=0.02 * size)


@pytest.mark.parametrize("name", ["persam", "persam-f", "matcher"])
def test_several_references_at_once_get_what_each_gets_alone(name, sam, matcher, example, mini):
    framework = {"persam": PerSam(sam), "persam-f": PerSamF(sam), "matcher": matcher}[name]
    others = [example, Example(mini["support_rgb"], ~mini["support_mask"])]
    references = [framework.learn([each], rng()) for each in others]
    flow, (query,) = Flow(steps=2, eta=0.1), framework.encode_queries([mini["query_rgb"]])
    together = refine(framework, query, references, flow, [draws(1, 2), draws(3, 4)])
    (fresh,) = framework.encode_queries([mini["query_rgb"]])
    for path, reference, seeds in zip(together, references, ((1, 2), (3, 4)), strict=True):
        (alone,) = refine(framework, fresh, [reference], flow, [draws(*seeds)])
        for ours, theirs in zip(path, alone, strict=True):
            assert np.array_equal(ours.prompts.points, theirs.prompts.points)
            assert (ours.mask != theirs.mask).mean() < 1e-3


def test_noise_and_points_come_from_generators_of_their_own(sam, example, mini):
    flow = Flow(mode="noise", eta=0.5, steps=1)
    framework = PerSamF(sam, PerSamF.Options(extra_points="0.99/0.90"))

    def run(**seeds):
        return refined(framework, example, mini["query_rgb"], flow, **seeds)[2]

    one, other_points, other_noise = run(), run(points=5), run(noise=5)
    assert np.array_equal(one[1].prompts.similarity, other_points[1].prompts.similarity)
    assert not np.array_equal(one[0].prompts.points, other_points[0].prompts.points)
    assert np.array_equal(one[0].prompts.points, other_noise[0].prompts.points)
    assert not np.array_equal(one[1].prompts.similarity, other_noise[1].prompts.similarity)


class Recorder(Framework):
    """Asks at a place that its options fix, and counts what it is asked."""

    name = "recorder"
    places = (3.0, 7.0, 3.0, 3.0)

    def __init__(self, sam):
        super().__init__(sam)
        self.asked, self.sampled = [], 0

    def encode_support(self, examples, queries, rng):
        return {}

    def sample_prompts(self, query, references, shifts, rngs):
        x = self.places[self.sampled]
        self.sampled += 1
        shown = np.full((2, 2), self.sampled, np.float32)
        point = np.array([[x, 5]], np.float32)
        return [Prompts(point, np.ones(1, np.int64), similarity=shown) for _ in references]

    def decode(self, query, references, prompts):
        self.asked += [float(each.points[0, 0]) for each in prompts]
        return [Candidate(np.full((4, 4), i % 2 == 0), each, 0.5) for i, each in enumerate(prompts)]

    def logits(self, query, references, candidates, embeddings):
        raise AssertionError


def test_what_was_asked_before_is_not_asked_again(sam, example, mini):
    framework = Recorder(sam)
    *_, path = refined(framework, example, mini["query_rgb"], Flow(mode="noise", steps=3))
    assert framework.asked == [3.0, 7.0]
    assert [float(candidate.prompts.points[0, 0]) for candidate in path] == list(framework.places)
    assert [float(candidate.prompts.similarity[0, 0]) for candidate in path] == [1, 2, 3, 4]
    assert [candidate.step for candidate in path] == [0, 1, 2, 3]


def test_candidates_carry_no_graph(sam, example, mini):
    _, _, path = refined(PerSamF(sam), example, mini["query_rgb"], Flow(steps=2))
    assert not any(candidate.logits.requires_grad for candidate in path)


def test_the_time_goes_into_gradient_and_decode(sam, example, mini):
    framework = PerSamF(sam)
    before = dict(framework.stopwatch.seconds)
    refined(framework, example, mini["query_rgb"], Flow(steps=1))
    for stage in ("gradient", "decode"):
        assert framework.stopwatch.seconds[stage] > before.get(stage, 0)


def test_prompts_follow_the_shift(sam, example, mini):
    framework = PerSamF(sam)
    reference, query, prompts, _ = first_answer(framework, [example], mini["query_rgb"])
    moved = prompts_of(framework, query, reference, torch.randn(still(query).shape, generator=rng()))
    assert np.abs(moved.similarity - prompts.similarity).max() > 0.01


@pytest.mark.parametrize("name", ["persam-f", "matcher"])
def test_gradients_do_not_depend_on_how_many_share_a_graph(name, sam, matcher, example, mini, monkeypatch):
    framework = PerSamF(sam) if name == "persam-f" else matcher
    references = [framework.learn([each], rng()) for each in (example, Example(example.image, ~example.mask))] * 2
    (query,) = framework.encode_queries([mini["query_rgb"]])
    flow, sizes = Flow(), []
    candidates = [path[0] for path in refine(framework, query, references, Flow(mode="none"), [draws()] * 4)]
    shifts = [torch.full_like(query.embedding.features, 0.01 * number) for number in range(4)]
    logits = framework.logits

    def counted(query, references, *others):
        sizes.append(len(references))
        return logits(query, references, *others)

    monkeypatch.setattr(framework, "logits", counted)
    together = d_gradients(framework, query, references, candidates, shifts, flow)
    monkeypatch.setattr("prmagic.refine.IN_ONE_GRAPH", 3)
    apart = d_gradients(framework, query, references, candidates, shifts, flow)
    assert sizes == [4, 3, 1] and IN_ONE_GRAPH >= 4
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_a_candidate_for_keeping_has_nothing_on_an_accelerator():
    here = torch.zeros(2, 2)

    class OnGpu:
        def cpu(self):
            return here

    asked = Prompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64), mask_logits=OnGpu())
    kept = on_cpu(Candidate(np.ones((2, 2), bool), asked, 0.5, OnGpu(), parts=(Part(asked, 1),)))
    assert kept.logits is kept.prompts.mask_logits is kept.parts[0].prompts.mask_logits is here
    assert kept.parts[0].channel == 1
    parts = kept.changed(logits=torch.zeros(9, 2, 2)[1])  # would hold the memory of all nine
    assert on_cpu(parts).logits.untyped_storage().nbytes() == 16
