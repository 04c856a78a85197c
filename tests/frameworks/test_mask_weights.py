"""PerSAM-F's two mask weights: losses by hand, and the fit against the published one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from prmagic.frameworks.mask_weights import dice_loss, fit_mixture, fit_published, focal_loss, mixture


def test_losses_by_hand():
    logits, truth = torch.zeros(2, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert float(dice_loss(logits, truth)) == pytest.approx(1 - (2 * 0.5 + 1) / (2 + 1 + 1))
    ce = np.log(2)
    assert float(focal_loss(logits, truth)) == pytest.approx((0.25 + 3 * 0.75) / 4 * 0.25 * ce)


def test_mixture():
    assert mixture(torch.tensor([0.2, 0.3])).tolist() == pytest.approx([0.5, 0.2, 0.3])


@pytest.mark.parametrize("right", [0, 1, 2])
def test_the_mask_that_fits_gets_the_weight(right):
    truth = torch.zeros(20, 30)
    truth[5:12, 8:20] = 1
    logits = torch.stack([(2 * truth - 1) * 6 if channel == right else -(2 * truth - 1) * 3 for channel in range(3)])
    weights = fit_mixture([logits], [truth])
    assert int(weights.argmax()) == right
    assert float(weights[right]) > 0.95
    assert float(weights.sum()) == pytest.approx(1)
    assert (weights >= 0).all()


def test_the_fast_fit_is_at_least_as_good_as_the_published_one(sam, mini):
    low = torch.from_numpy(mini["support_point_logits"])
    full = sam.frame((90, 120)).upscale(low)
    truth = torch.from_numpy(mini["support_mask"]).float()
    published = fit_published([full], [truth]).clamp(min=0)
    published = published / published.sum()

    def loss(weights):
        mixed = torch.einsum("m,mhw->hw", weights, full)
        return float(dice_loss(mixed, truth) + focal_loss(mixed, truth))

    assert loss(fit_mixture([full], [truth])) <= loss(published) + 1e-4


def test_losses_of_several_supports_are_summed():
    truth = torch.zeros(8, 8)
    truth[2:5] = 1
    good, bad = (2 * truth - 1) * 5, -(2 * truth - 1) * 5
    first = torch.stack([good, bad, bad])
    second = torch.stack([bad, good, bad])
    both = fit_mixture([first, second], [truth, truth])
    assert abs(float(both[0] - both[1])) < 0.05
    assert float(both[2]) < 0.05
