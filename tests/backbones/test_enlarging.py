"""Masks of a photo out of low-resolution logits: the quick ways find what enlarging them as a whole finds."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from common import rng

from prmagic.backbones.enlarging import ends, outermost, positive_at
from prmagic.backbones.promptable import Frame
from prmagic.backbones.sam2 import SquashedFrame
from prmagic.frameworks.maps import working_size

PHOTOS = [(61, 97), (768, 1024), (333, 1200), (1200, 333), (20, 700), (512, 512)]


def frame(photo, kind=Frame):
    """As SAM's, or SAM 2's, of ViT-H size."""
    scale = 1024 / max(photo)
    resized = tuple(max(1, int(side * scale + 0.5)) for side in photo)
    return Frame(photo, resized, 1024, 16) if kind is Frame else SquashedFrame(photo, (1024, 1024), 1024, 16)


def blobs(count, seed, level=-3.0, side=256):
    """(count, side, side) smooth logits, a part of them above 0."""
    coarse = torch.randn(count, 1, 8, 8, generator=rng(seed))
    return F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)[:, 0] * 10 + level


KINDS = {
    "blobs": lambda seed: blobs(4, seed),
    "few": lambda seed: blobs(4, seed, -14),
    "whole numbers": lambda seed: blobs(4, seed).round(),  # many enlarged values are 0
    "noise": lambda seed: torch.randn(4, 256, 256, generator=rng(seed)),
    "tiny": lambda seed: blobs(4, seed) * 1e-20,
    "nothing": lambda seed: torch.zeros(4, 256, 256),
    "everything": lambda seed: torch.ones(4, 256, 256),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [Frame, SquashedFrame])
def test_masks_are_those_of_enlarged_logits(kind, of):
    for seed, photo in enumerate(PHOTOS):
        logits, where = KINDS[kind](seed), frame(photo, of)
        expected = (torch.stack([where.upscale(each) for each in logits]) > 0).any(0)
        assert torch.equal(where.inside(logits), expected)
        assert torch.equal(where.inside(logits[:1]), where.upscale(logits[0]) > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [Frame, SquashedFrame])
def test_boxes_are_those_of_enlarged_logits(kind, of):
    for seed, photo in enumerate(PHOTOS):
        logits, where, size = KINDS[kind](seed), frame(photo, of), working_size(photo, 256)
        assert torch.equal(where.boxes(logits, size), outermost(where.upscale_many(logits, size) > 0))
        for larger in (size, working_size(photo)):
            expected = outermost(torch.stack([where.upscale(each, larger) > 0 for each in logits]))
            assert torch.equal(where.boxes(logits, larger, exact=True), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("of", [Frame, SquashedFrame])
def test_an_empty_mask_is_known_without_it(kind, of):
    for seed, photo in enumerate(PHOTOS):
        for logits in KINDS[kind](seed):
            where = frame(photo, of)
            assert where.empty(logits) == (not (where.upscale(logits) > 0).any())


def test_a_speck_that_no_pixel_shows_is_empty():
    logits = torch.full((256, 256), -5.0)
    logits[101, 51] = 1e-3
    assert frame((1024, 1024)).empty(logits)
    logits[101, 51] = 500
    assert not frame((1024, 1024)).empty(logits)


@pytest.mark.parametrize("kind", ["blobs", "few", "whole numbers", "noise", "nothing", "everything"])
def test_pixels_by_themselves_are_those_of_the_enlarged_mask(kind):
    logits, rows, columns = KINDS[kind](0), [0, 3, 4, 500, 1023], [1, 2, 700, 1023]
    down, across = (ends(256, 1024, 1024, 1024).at(pixels) for pixels in (rows, columns))
    expected = (frame((1024, 1024)).upscale(logits) > 0)[:, rows][:, :, columns]
    assert torch.equal(positive_at(logits, down, across), expected)


def test_a_mask_in_the_padding_alone_is_empty():
    logits = torch.full((2, 256, 256), -5.0)
    logits[0, 200:], logits[1, 40:50, 60:90] = 5, 5  # a photo of 1024 × 512 has no row from 128 on
    where = frame((512, 1024))
    assert where.boxes(logits, (128, 256)).tolist() == [[-1] * 4, [60, 40, 89, 49]]
    assert not where.inside(logits[:1]).any()


def test_what_rounding_could_decide_is_enlarged_as_before(monkeypatch):
    """Every second column of a smooth edge is exactly 0 when enlarged."""
    logits = torch.arange(256.0).sub(127.5).expand(1, 256, 256).contiguous()
    where = frame((1024, 1024))
    plain, asked = Frame.upscale, []
    monkeypatch.setattr(Frame, "upscale", lambda self, *given: asked.append(1) or plain(self, *given))
    assert torch.equal(where.inside(logits - 0.125), plain(where, logits[0] - 0.125) > 0)
    assert asked == [1]
    where.inside(blobs(1, 0) + 0.01234)
    assert asked == [1]
