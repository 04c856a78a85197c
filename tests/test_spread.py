"""The flow `spread`: where it asks, and what it leaves alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from common import photo, region, rng

import prmagic
from prmagic.backbones.promptable import Frame
from prmagic.flow import Flow
from prmagic.frameworks.base import Preset
from prmagic.frameworks.persam import APART, PerSam, PerSamF, peak_apart
from prmagic.frameworks.registry import find
from prmagic.reference import Example
from prmagic.refine import Draws, refine

TEMPLATE = Path(prmagic.__file__).parent / "frameworks" / "TEMPLATE.py"
LIGHT = {"flow": "spread", "selector": "cycle-recall"}


def support(mini):
    return prmagic.Support(mini["support_rgb"], mini["support_mask"])


def path(framework, image, flow, mini):
    reference = framework.learn([Example(mini["support_rgb"], mini["support_mask"])], rng())
    (query,) = framework.encode_queries([image])
    (found,) = refine(framework, query, [reference], flow, [Draws(rng(), rng())])
    return found


@pytest.mark.parametrize("kind", [PerSam, PerSamF])
def test_each_step_asks_at_a_place_apart_and_the_first_is_the_frameworks_own(kind, sam, mini):
    found = path(kind(sam), mini["query_rgb"], Flow(mode="spread", steps=4), mini)
    (own,) = path(kind(sam), mini["query_rgb"], Flow(mode="none"), mini)
    assert found[0].mask.tobytes() == own.mask.tobytes() and found[0].logits.equal(own.logits)
    assert found[0].prompts.key == own.prompts.key
    assert [candidate.step for candidate in found] == [0, 1, 2, 3, 4]
    asked = np.array([candidate.prompts.points[0] for candidate in found])
    distances = np.linalg.norm(asked[:, None] - asked[None], axis=2)[~np.eye(5, dtype=bool)]
    assert distances.min() >= APART * 120 - 1
    alike = [candidate.prompts.similarity[int(y), int(x)] for candidate, (x, y) in zip(found, asked, strict=True)]
    assert alike == sorted(alike, reverse=True)
    for candidate in found[1:]:
        assert candidate.prompts.labels.tolist() == own.prompts.labels.tolist()
        assert np.array_equal(candidate.prompts.points[1:], own.prompts.points[1:])  # PerSAM's background point
        assert candidate.prompts.similarity is found[0].prompts.similarity


def test_with_the_embedded_model_it_is_repeatable_and_leaves_other_labels_alone(mini):
    segmenter = prmagic.load(steps=2)
    cat = segmenter.encode_support(support(mini))
    dog = segmenter.encode_support(prmagic.Support(mini["query_rgb"], mini["query_mask"]))
    alone = segmenter.segment(mini["query_rgb"], cat)
    both = segmenter.segment(mini["query_rgb"], {"dog": dog, "cat": cat}, overlaps=True)["cat"]
    own = prmagic.load(flow="none", sam=segmenter.framework.sam).segment(mini["query_rgb"], cat)
    assert both.scores == alone.scores and alone.others > 0
    for ours, theirs in zip(alone.candidates, both.candidates, strict=True):
        assert ours.mask.tobytes() == theirs.mask.tobytes() and ours.prompts.key == theirs.prompts.key
    assert own.candidates[0].mask.tobytes() == alone.candidates[0].mask.tobytes()


def test_the_next_place_by_hand():
    similarity = np.zeros((10, 20), np.float32)
    similarity[5, 10], similarity[5, 12], similarity[5, 13], similarity[0, 0] = 9, 8, 7, 6
    frame = Frame(photo=(20, 40), resized=(20, 40), input_size=40, patch=2)
    asked = []
    for x, y in ((10, 5), (13, 5), (0, 0)):  # the second highest is two places from the highest, a tenth of the side
        asked.append(peak_apart(similarity, asked, frame))
        assert asked[-1].tolist() == [2 * x + 0.5, 2 * y + 0.5]


@pytest.mark.parametrize("size", [(1, 1), (1, 64), (40, 1), (3, 5)])
def test_a_tiny_photo_runs_out_of_places(size, sam, mini):
    segmenter = prmagic.load(sam=sam, steps=20)
    result = segmenter.segment(photo(*size), segmenter.encode_support(support(mini)))
    own = [candidate for candidate in result.candidates if not candidate.beside]
    assert 1 <= len(own) <= 21 and len(result.scores) == len(result.candidates)
    assert len({candidate.prompts.points.tobytes() for candidate in own}) == len(own)
    assert result.mask.shape == size
    if size == (1, 1):
        assert len(own) == 1


def test_a_framework_without_next_places_has_one_candidate_per_photo(sam, mini):
    template = find(f"{TEMPLATE}:Template")
    for flow, number in (("spread", 1), ("full", 3)):
        segmenter = prmagic.load(template, sam=sam, steps=2, **LIGHT | {"flow": flow})
        result = segmenter.segment(mini["query_rgb"], segmenter.encode_support(support(mini)))
        assert len(result.candidates) == number
        assert np.isnan(result.scores[0]) == (number == 1)


def test_a_framework_of_ones_own_may_name_the_next_place(sam, mini):
    class Corners(find(f"{TEMPLATE}:Template")):
        presets: ClassVar = {"default": Preset(flow=Flow(mode="spread", steps=9), selector="judge")}

        def next_prompts(self, query, reference, earlier):
            corners = [(0, 0), (119, 0), (119, 89)]
            if len(earlier) > len(corners):
                return None
            return replace(earlier[0], points=np.array([corners[len(earlier) - 1]], np.float32))

    segmenter = prmagic.load(Corners, sam=sam)
    result = segmenter.segment(mini["query_rgb"], segmenter.encode_support(support(mini)))
    points = [candidate.prompts.points[0].tolist() for candidate in result.candidates]
    assert points[1:] == [[0, 0], [119, 0], [119, 89]]
    assert result.counts["decodes"] == 4


def test_steps_and_the_support_decide_how_often_sam_is_asked(sam, mini):
    for steps in (0, 1, 3):
        segmenter = prmagic.load(sam=sam, steps=steps)
        result = segmenter.segment(mini["query_rgb"], segmenter.encode_support(support(mini)))
        assert result.counts["decodes"] == 3 * (steps + 1)
        assert (result.others > 0) == (steps > 0)


def test_instances_are_found_at_the_same_places(sam, mini):
    segmenter = prmagic.load(sam=sam, steps=1)
    reference = segmenter.encode_examples([Example(mini["query_rgb"], region(slice(10, 60), slice(20, 80)))])
    plain = segmenter.segment(mini["query_rgb"], reference)
    result = segmenter.segment(mini["query_rgb"], reference, instances=True)
    assert result.scores == plain.scores and result.instances is not None
