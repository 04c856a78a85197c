"""What a frame gives for the next ones."""

import numpy as np
import pytest
from common import region

import prmagic
from prmagic.track import Tracks, near_prompts


@pytest.fixture(scope="module")
def segmenter(sam):
    return prmagic.load(sam=sam, steps=0)


@pytest.fixture(scope="module")
def reference(segmenter, mini):
    return segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))


@pytest.fixture(scope="module")
def frames(mini):
    return [np.ascontiguousarray(np.roll(mini["query_rgb"], 3 * number, axis=1)) for number in range(4)]


def same(first, second):
    assert [each.score for each in first] == [each.score for each in second]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first, second, strict=True))


def test_one_result_per_frame(segmenter, reference, frames):
    found = list(segmenter.track(frames, reference, memory=1))
    assert [result.query for result in found] == ["000000", "000001", "000002", "000003"]
    assert len(found[0].candidates) == 1  # nothing is known of the frames before
    assert len(found[1].candidates) == 2 + 2 * 3  # each reference alone, and SAM's three masks near the last one
    assert found[1].scores[found[1].chosen] == max(found[1].scores)


def test_by_default_only_the_last_mask_helps(segmenter, reference, frames):
    found = list(segmenter.track(frames, reference))
    assert [len(result.candidates) for result in found] == [1, 4, 4, 4]


def test_the_first_frame_is_as_without_tracking(segmenter, reference, frames):
    first = next(segmenter.track(frames, reference))
    assert np.array_equal(first.mask, segmenter.segment(frames[0], reference).mask)


def test_remembering_is_as_good_as_finding(segmenter, reference, frames):
    whole = list(segmenter.track(frames, reference, memory=1))
    tracks = Tracks(segmenter, {"object": reference}, memory=1)
    for frame, result in zip(frames[:2], whole, strict=False):
        tracks.remember("object", frame, result.mask, result.score)
    same([tracks.find(f"{number:06d}", frames[number])[0] for number in (2, 3)], whole[2:])


@pytest.mark.parametrize("mask, score", [(region(0, slice(0, 0)), float("nan")), (region(slice(9), slice(9)), 0.1)])
def test_what_is_lost_is_looked_for_everywhere(segmenter, reference, frames, mask, score):
    tracks = Tracks(segmenter, {"object": reference}, memory=0)
    tracks.remember("object", frames[0], region(slice(20, 60), slice(20, 60)), 0.9)
    assert len(tracks.find("a", frames[1])[0].candidates) == 4
    tracks = Tracks(segmenter, {"object": reference}, memory=0)
    tracks.remember("object", frames[0], region(slice(20, 60), slice(20, 60)), 0.9)
    tracks.remember("object", frames[1], mask, score)
    assert len(tracks.find("b", frames[2])[0].candidates) == 1


def test_only_confident_answers_are_examples(sam, reference, frames):
    strict = prmagic.load(sam=sam, steps=0, min_score=0.8)
    tracks = Tracks(strict, {"object": reference}, memory=1)
    tracks.remember("object", frames[0], region(slice(20, 60), slice(20, 60)), 0.79)
    assert len(tracks.find("a", frames[1])[0].candidates) == 4
    tracks = Tracks(strict, {"object": reference}, memory=1)
    tracks.remember("object", frames[0], region(slice(20, 60), slice(20, 60)), 0.81)
    assert len(tracks.find("a", frames[1])[0].candidates) == 8


def test_labels_share_no_pixel(segmenter, reference, frames, mini):
    other = segmenter.encode_support(prmagic.Support(mini["query_rgb"], mini["query_mask"]))
    for first, second in zip(*[iter(segmenter.track(frames, {"a": reference, "b": other}))] * 2, strict=True):
        assert (first.label, second.label) == ("a", "b")
        assert not (first.mask & second.mask).any()


def test_a_likeness_elsewhere_does_not_win():
    similarity = np.zeros((90, 120), np.float32)
    similarity[45, 30], similarity[45, 110] = 0.8, 0.9  # the second one is far from the last mask
    prompts = near_prompts(similarity, region(slice(40, 60), slice(20, 40)))
    assert prompts.points.tolist() == [[30.0, 45.0]]
    assert prompts.box == (18.0, 38.0, 41.0, 61.0)


def test_a_negative_memory_is_refused(segmenter, reference, frames):
    with pytest.raises(ValueError, match="0 or more; got -1"):
        list(segmenter.track(frames, reference, memory=-1))
