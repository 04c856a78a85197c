"""Prompts: what they must hold, and which of them ask for the same mask."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from prmagic.types import Prompts

POINTS, LABELS = np.array([[3, 4], [5, 6]], np.float32), np.array([1, 0])


@pytest.mark.parametrize(
    "points, labels, box, told",
    [
        (np.zeros((0, 2), np.float32), np.zeros(0, np.int64), None, "at least one point, or a box"),
        (np.zeros((2, 3), np.float32), np.ones(2, np.int64), None, r"\(N, 2\), x and y; got \(2, 3\)"),
        (np.zeros((2, 2), np.float32), np.ones(1, np.int64), None, r"shape \(2,\), one per point; got \(1,\)"),
    ],
)
def test_prompts_are_checked(points, labels, box, told):
    with pytest.raises(ValueError, match=told):
        Prompts(points, labels, box)


def test_a_box_alone_is_enough():
    assert Prompts(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), (0, 0, 3, 4)).box == (0, 0, 3, 4)


def test_the_key_is_of_what_the_decoder_is_asked():
    prompts = Prompts(POINTS, LABELS, (0.0, 1.0, 2.0, 3.0), torch.ones(4, 4))
    same = replace(prompts, points=POINTS.copy(), mask_logits=torch.ones(4, 4), similarity=np.ones((2, 2), np.float32))
    assert same.key == prompts.key and hash(same.key) == hash(prompts.key)
    for other in (
        {"points": POINTS + 1}, {"labels": LABELS[::-1].copy()}, {"box": None}, {"mask_logits": None},
        {"mask_logits": torch.zeros(4, 4)},
    ):  # fmt: skip
        assert replace(prompts, **other).key != prompts.key
