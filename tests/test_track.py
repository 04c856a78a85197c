"""What a frame gives for the next ones."""

import numpy as np
import pytest
from common import region
from drawn import BLUE, GREEN, RED, disc, frame

import prmagic
from prmagic.memory import Window
from prmagic.track import Tracks, moved, prompts_for, window_around
from prmagic.types import Prompts


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
    found = list(segmenter.track(frames, reference))
    assert [result.query for result in found] == ["000000", "000001", "000002", "000003"]
    assert [len(result.candidates) for result in found] == [1, 2, 2, 2]  # the frame alone, and the closer look
    for result in found[1:]:
        assert result.scores[result.chosen] == max(result.scores)


def test_the_first_frame_is_as_without_tracking(segmenter, reference, frames):
    first = next(segmenter.track(frames, reference))
    assert np.array_equal(first.mask, segmenter.segment(frames[0], reference).mask)


@pytest.mark.parametrize("memory", [0, 1, 2])
def test_remembering_is_as_good_as_finding(segmenter, reference, frames, memory):
    whole = list(segmenter.track(frames, reference, memory=memory))
    tracks = Tracks(segmenter, {"object": reference}, memory)
    for image, result in zip(frames[:2], whole, strict=False):
        tracks.remember("object", image, result.mask, result.score)
    same([tracks.find(f"{number:06d}", frames[number])[0] for number in (2, 3)], whole[2:])


@pytest.mark.parametrize("mask, score", [(region(0, slice(0, 0)), float("nan")), (region(slice(9), slice(9)), 0.1)])
def test_what_is_lost_is_looked_for_everywhere(segmenter, reference, frames, mask, score):
    tracks = Tracks(segmenter, {"object": reference})
    tracks.remember("object", frames[0], region(slice(20, 60), slice(20, 60)), 0.9)
    assert len(tracks.find("a", frames[1])[0].candidates) == 2
    tracks = Tracks(segmenter, {"object": reference})
    tracks.remember("object", frames[0], region(slice(20, 60), slice(20, 60)), 0.9)
    tracks.remember("object", frames[1], mask, score)
    assert len(tracks.find("b", frames[2])[0].candidates) == 1


@pytest.mark.parametrize("score, remembered", [(0.79, False), (0.81, True)])
def test_only_confident_answers_are_remembered(sam, reference, frames, score, remembered):
    strict = prmagic.load(sam=sam, steps=0, min_score=0.8)

    def found(memory, *scores):
        tracks = Tracks(strict, {"object": reference}, memory)
        for image, each in zip(frames, scores, strict=False):
            tracks.remember("object", image, region(slice(20, 60), slice(20, 60)), each)
        (result,) = tracks.find("a", frames[2])
        return result.scores

    assert (found(1, score) != found(0, score)) == remembered


def test_labels_share_no_pixel(segmenter, reference, frames, mini):
    other = segmenter.encode_support(prmagic.Support(mini["query_rgb"], mini["query_mask"]))
    for first, second in zip(*[iter(segmenter.track(frames, {"a": reference, "b": other}))] * 2, strict=True):
        assert (first.label, second.label) == ("a", "b")
        assert not (first.mask & second.mask).any()


def test_a_window_is_around_most_of_a_mask():
    mask = region(slice(60, 100), slice(80, 120), (200, 300))
    window = window_around(mask)
    assert 25 <= window.y0 <= 60 and 100 <= window.y1 <= 135 and 45 <= window.x0 <= 80 and 120 <= window.x1 <= 155
    mask[80, 120:300] = True  # a thin line that reaches far
    assert window_around(mask).x1 < 250
    tiny = window_around(region(50, 60, (200, 300)))
    assert tiny == (45, 35, 76, 66)  # never closer than a tenth of the frame
    assert window_around(region(0, 0, (200, 300))) == (0, 0, 16, 16)


def test_prompts_lie_inside_of_what_is_likely():
    likely = np.zeros((40, 60), np.float32)
    likely[10:21, 20:31] = 0.8
    prompts = prompts_for(likely)
    assert prompts.points.tolist() == [[25.0, 15.0]] and prompts.box == (20.0, 10.0, 30.0, 20.0)
    prompts = prompts_for(likely / 4)
    assert prompts.points.tolist() == [[20.0, 10.0]] and prompts.box is None


def test_prompts_of_a_window_are_in_pixels_of_the_frame():
    inside = Prompts(np.array([[3.0, 4.0]], np.float32), np.ones(1, np.int64), (1.0, 2.0, 5.0, 6.0))
    placed = moved(inside, Window(10, 20, 30, 40))
    assert placed.points.tolist() == [[13.0, 24.0]] and placed.box == (11.0, 22.0, 15.0, 26.0)


def test_a_negative_memory_is_refused(segmenter, reference, frames):
    with pytest.raises(ValueError, match="0 or more; got -1"):
        list(segmenter.track(frames, reference, memory=-1))


@pytest.mark.slow
def test_discs_are_followed_and_numbered():
    """With the embedded model: two discs cross, one is gone for a frame and comes back."""
    segmenter = prmagic.load(steps=0)
    discs = [
        [(30 + 16 * t, 60, 22, RED), (210 - 16 * t, 90, 22, BLUE), *[(60, 145, 20, GREEN)] * (t != 4)]
        for t in (0, 2, 4, 7, 9, 11)
    ]
    images = [frame(each) for each in discs]
    first = np.any([disc(*each[:3]) for each in discs[0]], axis=0)
    things = segmenter.encode_support(prmagic.Support(images[0], first))
    seen = [
        {_colour(thing, image): thing.number for thing in result.instances or ()}
        for image, result in zip(images, segmenter.track(images, things, instances=True), strict=True)
    ]
    numbers = seen[0]
    assert set(numbers) == {RED, BLUE, GREEN} and sorted(numbers.values()) == [1, 2, 3]
    for found in seen:
        assert {RED, BLUE} <= set(found) and found == {colour: numbers[colour] for colour in found}
    assert [GREEN in found for found in (seen[2], seen[5])] == [False, True]
    red = segmenter.encode_support(prmagic.Support(images[0], disc(30, 60, 22)))
    for each, result in zip(discs, segmenter.track(images, red), strict=True):
        truth = disc(*each[0][:3])
        assert (result.mask & truth).sum() > 0.85 * (result.mask | truth).sum(), result.query


def _colour(thing, image):
    """The most frequent colour under a mask."""
    colours, counts = np.unique(image[thing.mask], axis=0, return_counts=True)
    return tuple(int(channel) for channel in colours[counts.argmax()])
