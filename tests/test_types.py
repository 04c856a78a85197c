"""Prompts: what they must hold, and which of them ask for the same mask."""

from __future__ import annotations

import copy
import pickle
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from prmagic.backbones.promptable import Frame
from prmagic.frameworks.maps import to_later_mask, to_later_union
from prmagic.types import Candidate, Prompts

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


class TestLaterMasks:
    FRAME = Frame((60, 80), (48, 64), 64, 4)

    def candidate(self, *logits, clean=None):
        prompts = Prompts(POINTS, LABELS)
        return Candidate(to_later_union(logits, self.FRAME, clean), prompts, 0.5, logits[0])

    def low(self, rows=slice(0), value=4.0):
        found = torch.full((16, 16), -4.0)
        found[rows] = value
        return found

    def test_a_mask_is_made_when_it_is_read_and_once(self):
        found = self.candidate(self.low(slice(2, 6)), self.low(slice(8, 9)))
        assert found.later is not None and not found.empty and found.later is not None
        expected = (self.FRAME.upscale(torch.stack([self.low(slice(2, 6)), self.low(slice(8, 9))])) > 0).any(0).numpy()
        assert np.array_equal(found.mask, expected)
        assert found.later is None and found.mask is found.mask and not found.empty

    def test_a_changed_candidate_makes_no_mask_and_shares_it(self):
        found = self.candidate(self.low(slice(2, 6)))
        changed = found.changed(step=3)
        assert changed.step == 3 and changed.later is not None and found.later is not None
        assert changed.mask is found.mask
        plain = replace(changed, step=4)
        assert plain.later is None and plain.mask is found.mask
        assert plain.changed(mask=~plain.mask).mask.sum() == (~found.mask).sum()

    @pytest.mark.parametrize("value, empty", [(4.0, False), (-4.0, True), (1e-30, True)])
    def test_empty_ones_are_known_without_the_mask(self, value, empty):
        low = self.low(slice(2, 6), value) if value != 1e-30 else self.low(slice(14, 16))  # in the padding alone
        found = self.candidate(low, clean=0.05)
        assert found.empty is empty and found.later is not None
        assert (not found.mask.any()) is empty and found.empty is empty

    def test_a_later_mask_holds_no_more_memory_than_its_own(self):
        many = torch.full((50, 16, 16), 4.0)
        later = to_later_mask(many[3], self.FRAME)
        assert later.compact() is later and later._logits[0].untyped_storage().nbytes() == 4 * 16 * 16

    @pytest.mark.parametrize("look", ["made", "empty"])
    def test_another_thread_may_make_the_mask_meanwhile(self, look):
        class Interrupted:
            """A frame that lets the other thread go first, once."""

            def __getattr__(self, name):
                if not made:
                    made.append(None)
                    other = threading.Thread(target=lambda: made.append(later.made()))
                    other.start()
                    other.join()
                return getattr(TestLaterMasks.FRAME, name)

        made = []
        later = to_later_mask(self.low(slice(2, 6)), Interrupted())
        found = getattr(later, look)()
        assert np.array_equal(found, made[1]) if look == "made" else not found

    def test_copies_and_pickles_have_the_mask(self):
        found = self.candidate(self.low(slice(2, 6)))
        for other in (copy.copy(found), pickle.loads(pickle.dumps(found))):
            assert np.array_equal(other.mask, found.mask) and other.predicted_iou == 0.5
        with pytest.raises(AttributeError, match="no attribute 'masks'"):
            _ = found.masks
