"""Things of a video keep their numbers. Masks and colours are drawn; the tiny model sees the frames."""

from dataclasses import replace

import numpy as np
import pytest
from drawn import BLUE, GREEN, RED, disc, frame
from made import instance

import prmagic
from prmagic.frameworks.base import Query
from prmagic.numbering import Numbering, _ious


@pytest.fixture(scope="module")
def framework(sam):
    return prmagic.load(sam=sam, steps=0).framework


class Clip:
    """Frames of discs, whose masks go through a numbering; gives the number of each disc."""

    def __init__(self, framework, numbering=None):
        self.framework, self.numbering = framework, numbering or Numbering()

    def show(self, *discs, label="disc", remembered=True):
        query = Query(frame(discs), self.framework)
        masks = [disc(*each[:3]) for each in discs]
        for later in range(1, len(masks)):
            for earlier in range(later):
                masks[earlier] = masks[earlier] & ~masks[later]
        found = self.numbering.numbered(label, query, [instance(mask) for mask in masks])
        if remembered:
            self.numbering.remember(label, query, found)
        return [each.number for each in found]


def test_numbers_count_from_one_and_stay(framework):
    clip = Clip(framework)
    assert clip.show((40, 60, 20, RED), (200, 60, 20, BLUE)) == [1, 2]
    assert clip.show((196, 60, 20, BLUE), (44, 60, 20, RED)) == [2, 1]


def test_things_that_cross_keep_their_numbers(framework):
    clip = Clip(framework)
    for step in range(11):
        places = (40 + 16 * step, 80, 22, RED), (200 - 16 * step, 90, 22, BLUE)
        assert clip.show(*places) == [1, 2]


def test_what_comes_back_keeps_its_number(framework):
    clip = Clip(framework)
    clip.show((40, 60, 20, RED), (120, 140, 20, GREEN))
    for step in range(1, 4):
        assert clip.show((40 + 5 * step, 60, 20, RED)) == [1]
    assert clip.show((210, 40, 20, GREEN), (60, 60, 20, RED)) == [2, 1]


def test_what_is_new_gets_a_new_number(framework):
    clip = Clip(framework)
    clip.show((40, 60, 20, RED))
    assert clip.show() == []
    assert clip.show((200, 140, 20, BLUE)) == [2]
    assert clip.show((40, 60, 20, RED), (200, 140, 20, BLUE), (120, 40, 20, GREEN)) == [1, 2, 3]


def test_a_thing_half_hidden_before_it_leaves_is_known_by_its_largest_sight(framework):
    clip = Clip(framework)
    clip.show((60, 60, 22, RED), (200, 140, 22, BLUE))
    clip.show((60, 60, 22, RED), (75, 60, 22, GREEN))  # blue is gone, red is partly covered
    clip.show((75, 60, 22, GREEN))
    assert clip.show((60, 60, 22, RED), (150, 60, 22, GREEN)) == [1, 3]


def test_labels_count_together_and_do_not_mix(framework):
    clip = Clip(framework)
    assert clip.show((40, 60, 20, RED), label="a") == [1]
    assert clip.show((40, 60, 20, RED), label="b") == [2]
    assert clip.show((44, 60, 20, RED), label="b") == [2]
    assert clip.show((44, 60, 20, RED), label="a") == [1]


def test_what_is_remembered_without_looking_is_the_same(framework):
    """A resumed run is told masks and numbers, and encodes only the frames on which a later number depends."""
    discs = [
        [(40 + 6 * t, 60, 16 + t % 3, RED)]
        + [(200, 140, 18, GREEN)] * (t < 2)
        + [(150, 20 + 4 * t, 18, BLUE)] * (t != 3)
        for t in range(6)
    ]
    whole, told = Clip(framework), Numbering()
    before = framework.sam.calls.encodes
    for each in discs:
        numbers = whole.show(*each)
        masks = [disc(*one[:3]) for one in each]
        things = [instance(mask) for mask in masks]
        told.remember(
            "disc", Query(frame(each), framework),
            [replace(thing, number=number) for thing, number in zip(things, numbers, strict=True)],
        )  # fmt: skip
    assert framework.sam.calls.encodes - before < 2 * len(discs)
    last = [(200, 150, 18, GREEN), (75, 60, 17, RED), (150, 50, 18, BLUE)]
    assert whole.show(*last, remembered=False) == Clip(framework, told).show(*last) == [2, 1, 3]


def test_the_same_place_is_not_the_same_thing(framework):
    clip = Clip(framework)
    clip.show((40, 60, 20, RED))
    assert clip.show((75, 60, 20, BLUE)) == [2]  # no pixel in common, another colour
    assert np.isclose(1, float(clip.numbering._things[1].last.look.norm()), atol=1e-5)


def test_ious_of_all_pairs():
    first = [disc(50, 60, 20), None, disc(150, 60, 20)]
    second = [disc(60, 60, 20), disc(150, 60, 20)]
    found = _ious(first, second)
    shared = (first[0] & second[0]).sum() / (first[0] | second[0]).sum()
    assert found.tolist() == [[np.float32(shared), 0], [0, 0], [0, 1]]
