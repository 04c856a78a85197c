"""Patch votes of all masks at once: what each mask would get by itself."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from common import rng

from prmagic.reference import SupportTokens
from prmagic.votes import SHARPNESS, cycle_scores, distinct, largest_cosines, recall_scores, standardised


def cycle_of_one(cosines, truth, share):
    """Straight from the definition."""
    inside = share > 0.5 if (share > 0.5).any() else share == share.max()
    within, without = (
        part.amax(0) if len(part) else torch.full(truth.shape, -math.inf)
        for part in (cosines[inside], cosines[~inside])
    )
    votes = ((within - without) / SHARPNESS).sigmoid()
    return float(torch.minimum(votes, truth).sum() / torch.maximum(votes, truth).sum())


@pytest.mark.parametrize("cover", ["some", "thin", "all", "none"])
def test_the_cycle_is_best_inside_minus_best_outside(cover):
    draw = rng()
    for _ in range(50):
        patches, others = (int(torch.randint(1, 12, (), generator=draw)) for _ in range(2))
        cosines = (torch.rand(patches, others, generator=draw) * 4 - 2).round(decimals=1)  # with equal ones
        truth = torch.rand(others, generator=draw)
        shares = torch.rand(5, patches, generator=draw) * {"some": 1, "thin": 0.4, "all": 0, "none": 0}[cover]
        shares += cover == "all"
        expected = [cycle_of_one(cosines, truth, share) for share in shares]
        assert cycle_scores(cosines, truth, shares) == pytest.approx(expected, abs=1e-6)


def test_masks_beside_a_mask_do_not_change_its_cycle_by_a_bit():
    draw = rng(1)
    cosines, truth = torch.rand(200, 150, generator=draw) * 2 - 1, torch.rand(150, generator=draw)
    shares = torch.rand(9, 200, generator=draw)
    assert cycle_scores(cosines, truth, shares) == [cycle_scores(cosines, truth, share[None])[0] for share in shares]


@pytest.mark.parametrize("full", [True, False])
def test_recall_is_the_harmonic_mean_of_precision_and_recall_in_the_map(full):
    draw = rng(2)
    tokens, vectors = (F.normalize(torch.randn(n, 16, generator=draw), dim=1) for n in (40, 300))
    weight = torch.rand(300, generator=draw)
    if not full:
        weight[::3] = 0
    query = SimpleNamespace(tokens=SimpleNamespace(vectors=tokens), memo={})
    reference = SimpleNamespace(supports=[SupportTokens(vectors, weight)])
    cosines = vectors @ tokens.T
    alike = (weight[:, None] * cosines).mean(0) / (weight.mean() + 1e-7) * (weight[:, None] * cosines).amax(0)
    alike = (alike - alike.min()) / (alike.max() - alike.min() + 1e-6)
    shares = torch.rand(4, 40, generator=draw)
    precision, recall = shares @ alike / shares.sum(1), shares @ alike / alike.sum()
    expected = (2 * precision * recall / (precision + recall)).tolist()
    assert recall_scores(query, reference, shares) == pytest.approx(expected, abs=1e-5)


def test_of_nearly_equal_masks_the_first_stays_and_empty_ones_go():
    masks = torch.zeros(5, 10, 10, dtype=torch.bool)
    masks[0, :5], masks[1, :5], masks[2, 5:], masks[4, 5:, 1:] = True, True, True, True
    assert distinct(masks, 1, 0.98) == [2, 4]
    assert distinct(masks, 1, 0.85) == [2]


def test_standardised_values_have_no_scale():
    assert standardised([1.0, 3.0]).tolist() == pytest.approx([-1, 1], abs=1e-5)
    assert standardised([2.0, 2.0]).tolist() == [0, 0]
    assert standardised([math.nan, 1.0, 3.0]).tolist() == pytest.approx([0, -1, 1], abs=1e-5)
    assert standardised([math.nan]).tolist() == [0]


@pytest.mark.parametrize("weightless", [0, 5, 12])
def test_largest_leaves_out_only_what_cannot_count(weightless):
    torch.manual_seed(0)
    vectors, tokens, weight = torch.randn(12, 6), torch.randn(9, 6), torch.rand(12) + 0.1
    weight[:weightless] = 0
    plain = (weight[:, None] * (vectors @ tokens.T)).amax(0)
    assert torch.allclose(largest_cosines(weight, (vectors @ tokens.T)[weight > 0]), plain, atol=1e-6)
