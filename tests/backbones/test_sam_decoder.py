"""SAM's decoder in the cheaper order beside transformers' own, on the same weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from prmagic.backbones.sam_decoder import decode_masks


@pytest.fixture
def inputs(sam):
    """Features of one photo, positions, tokens of three prompt sets with four points each, and no mask prompt."""
    rng = torch.Generator().manual_seed(0)
    _, channels, height, width = sam._position.shape
    features = torch.randn(1, channels, height, width, generator=rng)
    sparse = torch.randn(3, 1, 4, channels, generator=rng)
    return features, sam._position, sparse, torch.randn(1, channels, 1, 1, generator=rng).expand_as(features)


def theirs(sam, features, position, sparse, dense, **options):
    many = (len(sparse), -1, -1, -1)
    return sam.model.mask_decoder(features.expand(many), position.expand(many), sparse, dense.expand(many), **options)


def alike(found, expected):
    for ours, published in zip(found, expected, strict=True):
        assert ours.shape == published.shape
        assert (ours - published).abs().max() <= 1e-5 * published.abs().max()


@pytest.mark.parametrize("multimask", [True, False])
def test_masks_and_ious_are_those_of_transformers(sam, inputs, multimask):
    alike(
        decode_masks(sam.model.mask_decoder, *inputs, multimask_output=multimask),
        theirs(sam, *inputs, multimask_output=multimask),
    )


def test_each_prompt_set_can_have_a_photo_and_a_mask_of_its_own(sam, inputs):
    features, position, sparse, dense = inputs
    own = [torch.cat([each, each.flip(2), each.flip(3)]) for each in (features, dense * features)]
    alike(
        decode_masks(sam.model.mask_decoder, own[0], position, sparse, own[1], multimask_output=True),
        theirs(sam, own[0], position, sparse, own[1], multimask_output=True),
    )


def test_persams_guidance_reaches_the_same_attentions(sam, inputs):
    features = inputs[0]
    guide = torch.linspace(0, 3, features[0, 0].numel()).view(1, 1, 1, -1)
    target = features[0].mean((1, 2)).view(1, 1, 1, -1)
    plain = decode_masks(sam.model.mask_decoder, *inputs, multimask_output=False)[0]
    for options in ({"attention_similarity": guide}, {"target_embedding": target}):
        found = decode_masks(sam.model.mask_decoder, *inputs, multimask_output=False, **options)
        alike(found, theirs(sam, *inputs, multimask_output=False, **options))
        assert not torch.allclose(found[0], plain, rtol=1e-3)


def test_gradients_are_those_of_transformers(sam, inputs):
    def gradient(decode):
        features = inputs[0].clone().requires_grad_()
        logits, _ = decode(features, *inputs[1:], multimask_output=True)
        return torch.autograd.grad(logits.sum(), features)

    alike(gradient(partial(decode_masks, sam.model.mask_decoder)), gradient(partial(theirs, sam)))
