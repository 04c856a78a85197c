"""Eq. (1) and d, against values worked out by hand."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
import torch
from common import rng

from prmagic.flow import FLOW_MODES, OBJECTIVES, Flow, foreground, total
from prmagic.options import settings

ZERO = torch.zeros(1, 2, 1, 2)
GRADIENT = torch.tensor([0.05, -0.02, 7.0, -300.0]).view(1, 2, 1, 2)
EMBEDDING = torch.tensor([3.0, -4.0, 5.0, 0.0]).view(1, 2, 1, 2)  # root mean square √12.5


def without_noise(**fields):
    return Flow(gamma=0.0, **fields)


class TestStep:
    def test_the_papers_drift_follows_the_gradient_clamped_to_a_tenth(self):
        moved = without_noise(eta=0.5).step(ZERO + 1, GRADIENT, rng(), EMBEDDING)
        assert moved.flatten().tolist() == pytest.approx([1.025, 0.99, 1.05, 0.95])

    def test_noise_has_the_deviation_of_the_equation(self):
        shape = torch.zeros(1, 256, 64, 64)
        moved = Flow(mode="noise", eta=1e-3, gamma=0.1).step(shape, None, rng(), shape)
        assert float(moved.std()) == pytest.approx(math.sqrt(2 * 0.1 * 1e-3), rel=0.01)
        assert float(moved.mean()) == pytest.approx(0, abs=1e-4)

    def test_full_is_drift_plus_noise(self):
        both = Flow(eta=0.5).step(ZERO, GRADIENT, rng(3), EMBEDDING)
        drift = without_noise(eta=0.5).step(ZERO, GRADIENT, rng(3), EMBEDDING)
        noise = Flow(mode="noise", eta=0.5).step(ZERO, None, rng(3), EMBEDDING)
        torch.testing.assert_close(both, drift + noise)

    def test_steps_add_up(self):
        flow = without_noise(eta=1.0)
        once = flow.step(ZERO, GRADIENT, rng(), EMBEDDING)
        assert torch.equal(flow.step(once, GRADIENT, rng(), EMBEDDING), 2 * once)

    def test_a_relative_step_has_a_size_that_follows_from_the_embedding_alone(self):
        flow = without_noise(rho=0.1)
        moved = flow.step(ZERO, GRADIENT, rng(), EMBEDDING)
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.1 * math.sqrt(12.5))
        torch.testing.assert_close(moved, flow.step(ZERO, 1000 * GRADIENT, rng(), EMBEDDING))
        assert float(moved.flatten() @ GRADIENT.flatten()) == pytest.approx(float(moved.norm() * GRADIENT.norm()))
        assert not flow.step(ZERO, 0 * GRADIENT, rng(), EMBEDDING).any()

    def test_beside_rho_eta_is_the_size_of_the_noise_alone(self):
        small, large = (
            Flow(rho=0.1, eta=eta).step(ZERO, GRADIENT, rng(1), EMBEDDING)
            - without_noise(rho=0.1).step(ZERO, GRADIENT, rng(1), EMBEDDING)
            for eta in (0.01, 0.04)
        )
        torch.testing.assert_close(large, 2 * small)

    def test_the_same_generator_gives_the_same_step(self):
        one, same, other = (Flow(eta=0.5).step(ZERO, GRADIENT, rng(seed), EMBEDDING) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)

    def test_the_gradient_is_taken_where_the_flow_stands(self):
        assert torch.equal(Flow().gradient_place(EMBEDDING), EMBEDDING)


@pytest.mark.parametrize(
    "mode, candidates, needs_gradient", [("full", 6, True), ("noise", 6, False), ("none", 1, False)]
)
def test_modes(mode, candidates, needs_gradient):
    flow = Flow(mode=mode)
    assert (flow.candidates, flow.length, flow.needs_gradient) == (candidates, candidates - 1, needs_gradient)
    assert mode in FLOW_MODES


def test_no_gradient_is_needed_for_a_drift_of_nothing():
    assert not Flow(eta=0.0).needs_gradient
    assert Flow(eta=0.0, rho=0.1).needs_gradient
    assert Flow(steps=0).candidates == 1


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"mode": "fall"}, "unknown flow 'fall'; choose one of: spread, full, noise, none"),
        ({"objective": "area"}, "unknown objective 'area'; choose one of: sum, foreground"),
        ({"steps": -1}, "steps must be 0 or more; got -1"),
        ({"steps": 2.5}, "steps must be a whole number; got 2.5"),
        ({"steps": True}, "steps must be a whole number; got True"),
        ({"eta": math.nan}, "eta must be a finite number"),
        ({"steps": 10**400}, "steps must be 0 or more"),
        ({"eta": 10**400}, "eta must be a finite number"),
        ({"eta": "0.1"}, "eta must be a number; got '0.1'"),
        ({"gamma": -0.1}, "gamma must be"),
        ({"gamma": math.inf}, "gamma must be"),
        ({"rho": "0.1"}, "rho must be a number; got '0.1'"),
        ({"rho": 0.0}, "rho must be above 0, or none"),
        ({"rho": -1.0}, "rho must be a finite number of at least 0"),
        ({"rho": 0.1, "mode": "noise"}, "'noise' has no gradient, so that rho would change nothing"),
        ({"rho": 0.1, "mode": "none"}, "'none' has no gradient"),
    ],
)
def test_fields_that_make_no_sense(wrong, message):
    with pytest.raises(ValueError, match=message):
        Flow(**wrong)


def test_a_flow_does_not_change():
    with pytest.raises(FrozenInstanceError):
        Flow().eta = 1.0


def test_every_field_explains_itself():
    for name, setting in settings(Flow()).items():
        assert len(setting.help) > 10, name


class TestChanged:
    """What `load` and `--set` do to a preset's flow."""

    OURS = Flow(rho=0.1, objective="foreground")

    @pytest.mark.parametrize(
        "changes, expected",
        [
            ({}, OURS),
            ({"steps": 2, "gamma": 1.0}, replace(OURS, steps=2, gamma=1.0)),
            ({"eta": 0.5}, Flow(eta=0.5)),  # the paper's d and its step
            ({"eta": 0.5, "steps": 2}, Flow(eta=0.5, steps=2)),
            ({"eta": 0.5, "objective": "foreground"}, Flow(eta=0.5, objective="foreground")),
            ({"eta": 0.5, "rho": 0.2}, replace(OURS, rho=0.2, eta=0.5)),
            ({"rho": 0.2}, replace(OURS, rho=0.2)),
            ({"rho": None}, replace(OURS, rho=None)),
            ({"objective": "sum"}, replace(OURS, objective="sum")),
            ({"mode": "noise"}, Flow(mode="noise", objective="foreground")),
            ({"mode": "none"}, Flow(mode="none", objective="foreground")),
            ({"mode": "noise", "eta": 0.5}, Flow(mode="noise", eta=0.5)),
        ],
        ids=str,
    )
    def test_of_a_relative_flow(self, changes, expected):
        assert self.OURS.changed(**changes) == expected

    def test_of_the_papers(self):
        assert Flow().changed(rho=0.2) == Flow(rho=0.2)
        assert Flow().changed(eta=0.5) == Flow(eta=0.5)

    def test_noise_with_rho_is_refused_rather_than_ignored(self):
        with pytest.raises(ValueError, match="rho would change nothing"):
            self.OURS.changed(mode="noise", rho=0.2)

    def test_a_subclass_stays_what_it_is(self):
        class Other(Flow):
            pass

        assert type(Other().changed(eta=0.5)) is Other


class TestObjectives:
    def test_against_values_worked_out_by_hand(self):
        logits = torch.full((2, 3, 6), -3.0)
        logits[0, 1, 0], logits[0, 1, 1] = 2.0, -1.0
        assert float(total(logits)) == 2 - 1 - 3 * 34
        weights = [1 / (1 + math.exp(-x)) for x in (2, -1, *[-3] * 16)]
        mean = sum(w * x for w, x in zip(weights, (2, -1, *[-3] * 16), strict=True)) / sum(weights)
        assert float(foreground(logits)) == pytest.approx(mean - 3, abs=1e-5)
        assert {"sum": total, "foreground": foreground} == OBJECTIVES

    def test_the_weights_of_the_foreground_are_constants(self):
        logits = torch.tensor([[[1.0, -2.0]]], requires_grad=True)
        (gradient,) = torch.autograd.grad(foreground(logits), logits)
        weights = torch.tensor([1.0, -2.0]).sigmoid()
        torch.testing.assert_close(gradient[0, 0], weights / weights.sum())

    def test_a_mask_of_nothing_has_a_foreground_too(self):
        logits = torch.full((1, 2, 2), -200.0, requires_grad=True)
        (gradient,) = torch.autograd.grad(foreground(logits), logits)
        assert float(foreground(logits).detach()) == -200.0
        torch.testing.assert_close(gradient, torch.full((1, 2, 2), 0.25))
