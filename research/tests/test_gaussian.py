"""The flow towards a Gaussian: simulation, closed form and bound agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
from typer.testing import CliRunner

from analysis import fit_rate
from gaussian import Gaussian, simulate
from study import app


def test_particles_follow_the_closed_form():
    flow = Gaussian(mean=(0.6, -0.8), variance=(0.5, 0.4), target=(1.0, 0.25), gamma=0.3)
    found = simulate(flow, eta=0.005, steps=400, particles=20000)
    for step in (0, 100, 400):
        mean, variance = flow.at(float(found.times[step]))
        assert found.means[step] == pytest.approx(mean, abs=0.03)
        assert found.variances[step] == pytest.approx(variance, rel=0.05)
    assert flow.at(50.0)[1] == pytest.approx(flow.limit)
    assert flow.limit == pytest.approx([1.3, 0.325])


def test_the_distance_decays_at_least_as_fast_as_the_proposition_says():
    flow = Gaussian()
    distances = [flow.distance(*flow.at(time)) for time in np.linspace(0, 6, 13)]
    bounds = distances[0] * np.exp(-2 * flow.rate * np.linspace(0, 6, 13))
    assert (np.array(distances[1:]) < bounds[1:]).all()
    late = fit_rate([flow.distance(*flow.at(10 + time)) for time in range(5)])
    assert late.rate == pytest.approx(2 * flow.rate, rel=0.01)  # and in the end exactly so


def test_the_distance_is_the_integral():
    flow = Gaussian(mean=(0.5,), variance=(0.6,), target=(1.0,), gamma=0.1)
    z = np.linspace(-12, 12, 20001)

    def density(mean, variance):
        return np.exp(-((z - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    limit = density(0, 1.1)
    exact = float(((density(0.5, 0.6) - limit) ** 2 / limit).sum() * (z[1] - z[0]))
    assert flow.distance(*flow.at(0.0)) == pytest.approx(exact, rel=1e-4)


def test_the_gradient_is_that_of_d():
    flow, z = Gaussian(), np.array([[0.3, -0.2]])
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        slope = (flow.d(z + step, 0.7) - flow.d(z - step, 0.7)) / 2e-5
        assert flow.gradient(z, 0.7)[0, axis] == pytest.approx(float(slope[0]), abs=1e-6)


def test_the_command_prints_theory_beside_particles():
    def run(*words):
        return CliRunner().invoke(app, ["gaussian", *words]).output

    assert "λ_min = 1" in run("--particles", "500", "--steps", "60")
    assert "Eta must lie between" in run("--eta", "3")
    for gamma in ("nan", "inf", "-1"):
        assert "amma must be a finite" in run("--gamma", gamma)
