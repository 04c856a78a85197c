"""Several labels in one photo: who gets a pixel that two of them want."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

import prmagic
from prmagic.backbones.tokens import Tokens
from prmagic.frameworks.maps import edges
from prmagic.labels import disjoint, without_overlaps
from prmagic.reference import Reference
from prmagic.result import Segmentation
from prmagic.types import Candidate, Instance, Prompts

# A photo of two patches of 4 × 4 pixels, side by side; the left one is like the cat, the right one like the dog.
CAT, DOG = [1.0, 0.0], [0.0, 1.0]
QUERY = SimpleNamespace(tokens=Tokens(torch.tensor([CAT, DOG]), (1, 2)))


def reference(*patches, shares=None):
    tensors = {
        "tokens": torch.tensor(patches), "shares": torch.tensor(shares or [1.0] * len(patches)),
        "token_counts": torch.tensor([len(patches)]),
    }  # fmt: skip
    return Reference(tensors, {}, (np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), bool)))


def columns(first, last):
    mask = np.zeros((4, 8), bool)
    mask[:, first:last] = True
    return mask


def test_a_pixel_goes_to_the_label_whose_example_it_is_most_like():
    cat, dog = without_overlaps(QUERY, [reference(CAT), reference(DOG)], [columns(0, 7), columns(1, 8)])
    assert np.array_equal(cat, columns(0, 4))
    assert np.array_equal(dog, columns(4, 8))


def test_the_order_of_the_labels_does_not_matter():
    dog, cat = without_overlaps(QUERY, [reference(DOG), reference(CAT)], [columns(1, 8), columns(0, 7)])
    assert np.array_equal(cat, columns(0, 4)) and np.array_equal(dog, columns(4, 8))


def test_only_pixels_that_several_want_change_hands():
    """The dog's mask lies on what looks like a cat; the cat does not want it."""
    cat, dog = without_overlaps(QUERY, [reference(CAT), reference(DOG)], [columns(2, 3), columns(0, 3)])
    assert np.array_equal(cat, columns(2, 3)) and np.array_equal(dog, columns(0, 2))


def test_masks_that_share_nothing_stay_as_they_are():
    masks = [columns(4, 8), columns(0, 4), columns(0, 0)]
    assert all(a is b for a, b in zip(without_overlaps(QUERY, [reference(CAT)] * 3, masks), masks, strict=True))


def test_the_background_of_an_example_does_not_count():
    like_dog_only_outside = reference(CAT, DOG, shares=[1.0, 0.0])
    cat, dog = without_overlaps(QUERY, [like_dog_only_outside, reference(DOG)], [columns(0, 8), columns(0, 8)])
    assert np.array_equal(cat, columns(0, 4)) and np.array_equal(dog, columns(4, 8))


@pytest.mark.parametrize("overlaps", [False, True])
def test_a_segmenter_leaves_no_pixel_in_two_masks_unless_asked_to(overlaps, sam, mini):
    segmenter = prmagic.load(sam=sam, flow="none")
    masks = {"a": mini["support_mask"], "b": ~mini["support_mask"]}
    references = {
        label: segmenter.encode_support(prmagic.Support(mini["support_rgb"], mask)) for label, mask in masks.items()
    }
    alone = {label: segmenter.segment(mini["query_rgb"], each).mask for label, each in references.items()}
    assert (alone["a"] & alone["b"]).any()
    found = segmenter.segment(mini["query_rgb"], references, overlaps=overlaps)
    both = found["a"].mask & found["b"].mask
    assert both.any() == overlaps
    assert np.array_equal(found["a"].mask | found["b"].mask, alone["a"] | alone["b"])
    for label, result in found.items():
        assert np.array_equal(result.candidates[result.chosen].mask, alone[label])  # still there, to be looked at


def found(label, *things):
    """A result with instances of these (mask, score)."""
    instances = tuple(Instance(mask, edges(mask), score, 0.5) for mask, score in things)
    candidate = Candidate(columns(0, 8), Prompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64)), 0.5)
    return Segmentation("photo", label, 0, np.zeros((4, 8, 3), np.uint8), (candidate,), (0.0,), 0, instances=instances)


def test_a_thing_goes_to_one_label_as_a_whole():
    """The dog's thing keeps 1 of 4 columns, too few; the cat's other thing keeps 2 of 3."""
    cat = found("cat", (columns(0, 3), 0.9), (columns(5, 8), 0.3))
    dog = found("dog", (columns(0, 4), 0.4), (columns(7, 8), 0.8))
    cat, dog = disjoint(QUERY, {}, [cat, dog])
    assert [each.score for each in cat.instances] == [0.9, 0.3] and cat.score == 0.9
    assert np.array_equal(cat.instances[1].mask, columns(5, 7)) and cat.instances[1].box == (5, 0, 7, 4)
    (left,) = dog.instances
    assert np.array_equal(left.mask, columns(7, 8)) and dog.score == 0.8
    assert np.array_equal(dog.excluded, columns(0, 4)) and np.array_equal(cat.excluded, columns(7, 8))


def test_a_label_that_loses_all_its_things_has_no_score():
    first, second = disjoint(QUERY, {}, [found("cat", (columns(0, 3), 0.9)), found("dog", (columns(0, 3), 0.8))])
    assert first.found and not second.found and second.instances == () and np.isnan(second.score)
    assert np.isnan(second.predicted_iou)
