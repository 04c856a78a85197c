"""Matcher behind the façade: seeds, sizes, counts, precision, and references (photos: `matchers.py`)."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from common import MINI, region
from matchers import LIGHT, blotches
from transformers import Dinov2Config, Dinov2Model

import prmagic
from prmagic.backbones.dino import Dino
from prmagic.flow import Flow
from prmagic.frameworks.matcher import Matcher, MatcherOptions
from prmagic.frameworks.persam import PerSamF
from prmagic.reference import Reference, ReferenceMismatch
from prmagic.segmenter import Segmenter
from prmagic.select import Reencode


@pytest.fixture
def segmenter(small):
    return Segmenter(small(LIGHT), Flow(eta=0.5, steps=2), seed=3)


@pytest.fixture
def reference(segmenter, example):
    return segmenter.encode_examples([example])


def same(first, second):
    for a, b in zip(first.candidates, second.candidates, strict=True):
        assert np.array_equal(a.prompts.points, b.prompts.points)
        assert np.array_equal(a.prompts.similarity, b.prompts.similarity)
        assert np.array_equal(a.mask, b.mask)
    assert first.scores == second.scores


def test_a_seed_decides_and_nothing_else(segmenter, reference, mini):
    first = segmenter.segment(mini["query_rgb"], reference)
    same(first, segmenter.segment(mini["query_rgb"], reference))
    seeded = [Segmenter(segmenter.framework, segmenter.flow, seed=seed) for seed in range(4, 8)]
    others = [each.segment(mini["query_rgb"], reference).candidates[1].prompts.points for each in seeded]
    assert any(not np.array_equal(first.candidates[1].prompts.points, each) for each in others)


def test_order_and_batch_change_nothing(segmenter, reference, mini):
    images = {"a": mini["query_rgb"], "b": blotches(50, 80), "c": blotches(7, 5), "d": mini["support_rgb"]}
    alone = {name: segmenter.segment(image, reference, name) for name, image in images.items()}
    for names in (list(images), list(images)[::-1]):
        pictures = [images[name] for name in names]
        for result in segmenter.stream(pictures, reference, names=names, batch_size=3):
            same(result, alone[result.query])


@pytest.mark.filterwarnings("ignore:.*covers its whole image")
@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 300), (300, 2), (47, 200), (700, 500)])
def test_photos_of_any_size(small, size):
    segmenter = Segmenter(small(LIGHT), Flow(eta=0.5, steps=1))
    mask = region(slice(size[0] // 2, None), slice(size[1] // 2, None), size)
    result = segmenter.segment(blotches(*size, 1), segmenter.encode_support(prmagic.Support(blotches(*size), mask)))
    for candidate in result.candidates:
        assert candidate.mask.shape == size
        assert np.isfinite(candidate.prompts.points).all()
        assert (candidate.prompts.points >= 0).all()
        assert (candidate.prompts.points <= [size[1], size[0]]).all()
        assert math.isfinite(candidate.predicted_iou)


@pytest.mark.parametrize("selector, steps", [(Reencode(), 0), (Reencode(), 3), (None, 3)])
def test_encodes_of_both_models(small, sam, example, other, mini, selector, steps):
    segmenter = Segmenter(small(LIGHT), Flow(eta=0.5, steps=steps), selector)
    encoder, reencodes = segmenter.framework.encoder, bool(selector and steps)
    before = sam.calls.encodes, encoder.calls.encodes
    reference = segmenter.encode_examples([example, other])
    assert sam.calls.encodes == before[0]  # SAM need not see the supports
    assert encoder.calls.encodes - before[1] == (4 if reencodes else 2)  # and, to choose, what lies under the masks
    result = segmenter.segment(mini["query_rgb"], reference)
    distinct = {candidate.mask.tobytes() for candidate in result.candidates if candidate.mask.any()}
    assert result.counts["encodes"] == 1
    assert result.counts["encoder_encodes"] == 1 + (len(distinct) if reencodes else 0)
    assert len(result.candidates) == steps + 1


def test_stages_are_timed(segmenter, reference, mini):
    result = segmenter.segment(mini["query_rgb"], reference)
    assert {"encode", "tokens", "decode", "match", "score", "gradient", "select"} <= set(result.seconds)


def test_only_the_merged_masks_are_decoded_with_a_graph(small, example, mini):
    options = replace(LIGHT, box_nms=1.0, score_filter=None, merge=4, compare_at=120)
    segmenter = Segmenter(small(options), Flow(eta=0.1, steps=3), "guard")
    result = segmenter.segment(mini["query_rgb"], segmenter.encode_examples([example]))
    assert [len(candidate.prompts.points) for candidate in result.candidates] == [5] * 4
    assert [len(candidate.parts) for candidate in result.candidates] == [4] * 4
    assert result.counts["gradient_decodes"] == 3 * 4  # the last candidate's gradient is not needed
    assert 6 + 3 * 4 < result.counts["decodes"] <= 4 * 6 + 3 * 4  # each new subset without a graph


def test_a_saved_reference_gives_the_same(segmenter, example, other, mini, tmp_path):
    reference = segmenter.encode_examples([example, other])
    reference.save(tmp_path / "reference.safetensors")
    loaded = Reference.load(tmp_path / "reference.safetensors")
    same(segmenter.segment(mini["query_rgb"], reference), segmenter.segment(mini["query_rgb"], loaded))


def test_references_of_others_are_refused(segmenter, reference, sam, encoder, example, mini, tmp_path):
    sizes = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "image_size": 64}
    with torch.random.fork_rng():
        Dinov2Model(Dinov2Config(**sizes)).save_pretrained(tmp_path / "another")
    others = {
        r"encoder_input \[64, 64\], but here with encoder_input \[48, 64\]": Matcher(sam, encoder=encoder),
        "made with model .*another": Matcher(sam, encoder=Dino.load(tmp_path / "another", input_size=(48, 64))),
        "made with framework persam-f": PerSamF(sam),
    }
    for said, framework in others.items():
        theirs = Segmenter(framework).encode_examples([example])
        with pytest.raises(ReferenceMismatch, match=said) as raised:
            segmenter.segment(mini["query_rgb"], theirs)
        assert "make the reference anew" in str(raised.value)
        with pytest.raises(ReferenceMismatch):
            Segmenter(framework).segment(mini["query_rgb"], reference)


def test_settings_that_a_reference_does_not_depend_on_may_change(small, reference, mini):
    segmenter = Segmenter(small(replace(LIGHT, centers=3, alpha=0.5, beta=0.5)), Flow(mode="none"))
    assert segmenter.segment(mini["query_rgb"], reference).mask.shape == (90, 120)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision(encoder_folder, example, mini, dtype):
    segmenter = prmagic.load(
        "matcher", sam=MINI, encoder=encoder_folder, dtype=dtype, preset="paper", centers=5, steps=1
    )
    result = segmenter.segment(mini["query_rgb"], segmenter.encode_examples([example]))
    assert result.mask.any()
    assert all(math.isfinite(score) for score in result.scores)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"centers": 0}, "centers cannot be 0"),
        ({"subset_sizes": (4, 2)}, "subset_sizes"),
        ({"random_subsets": 0}, "random_subsets"),
        ({"channels": ()}, "channels cannot be .*none for SAM's single mask"),
        ({"channels": (5,)}, "channels"),
        ({"dense_grid": -1}, "dense_grid"),
        ({"alpha": math.nan}, "alpha cannot be nan"),
        ({"score_filter": (0.0, 0.0)}, "score_filter"),
        ({"merge": 0}, "merge cannot be 0"),
        ({"merge_few_shot": 0}, "merge_few_shot"),
        ({"compare_at": 0}, "compare_at"),
        ({"encoder_size": 0}, "encoder_size cannot be 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        MatcherOptions(**wrong)


def test_each_thread_counts_its_own_assignments(small, example, mini):
    """On a GPU, photos are encoded in another thread meanwhile, and what is counted there is booked on them."""
    framework = small(replace(LIGHT, box_nms=1.0))
    segmenter = Segmenter(framework, Flow(steps=0))
    segmenter.segment(mini["query_rgb"], segmenter.encode_examples([example]))
    with ThreadPoolExecutor(1) as other_thread:
        there = other_thread.submit(lambda: framework.counts).result()
    assert framework.counts["assignments"] > 0 and framework.counts["emd_solves"] > 0
    assert set(there.values()) == {0}
