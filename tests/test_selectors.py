"""The selectors that compare patches, and those that wrap another, against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import prmagic
from prmagic.backbones.promptable import Embedding, Frame
from prmagic.evaluation.metrics import areas, foreground_iou
from prmagic.frameworks import Example, PerSamF
from prmagic.select import (
    EXTRAS,
    SELECTORS,
    Consensus,
    Cycle,
    CycleRecall,
    FullCycle,
    Fusion,
    Guard,
    PredictedIou,
    Recall,
    Separation,
    Veto,
    choose,
    consensus,
    fused,
    guarded,
    overlaps,
    reads,
    stability,
    vetoed,
)
from prmagic.types import Candidate, Prompts

QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])  # patches, of two pixels each
FRAME = Frame(photo=(1, 6), resized=(1, 6), input_size=6, patch=2)


def candidate(pixels, logits=None, predicted_iou=0.5):
    prompts = Prompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64))
    return Candidate(np.array([pixels], bool), prompts, predicted_iou, logits)


def scores(selector, candidates, *supports):
    """supports: (patches, shares) each."""
    framework = SimpleNamespace(
        patches=lambda query: QUERY,
        shares=lambda query, masks: torch.tensor(np.stack(masks).reshape(-1, 3, 2).mean(2)).float(),
        support_patches=lambda reference: [(torch.tensor(p), torch.tensor(y)) for p, y in supports],
    )
    query = SimpleNamespace(embedding=Embedding(torch.zeros(1, 2, 3, 3), FRAME))
    return selector(framework, query, None, candidates)


EMPTY, FIRST, SECOND = [0] * 6, [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]


def test_the_cycle_is_the_soft_iou_of_the_votes_and_the_supports_mask():
    support = ([[1.0, 0.0], [0.6, 0.8]], [1.0, 0.5])
    # Mask on the first patch: v = 1 − 0.6 and 0.6 − 1, so that b = σ(8) and σ(−8).
    yes, no = 1 / (1 + math.exp(-8)), 1 / (1 + math.exp(8))
    (score,) = scores(Cycle(), [candidate(FIRST)], support)
    assert score == pytest.approx((yes + no) / (1 + 0.5), abs=1e-5)


def test_the_cycle_of_masks_that_are_empty_thin_or_full():
    support = ([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    thin = [1, 0, 0, 0, 0, 0]
    found = scores(Cycle(), [candidate(m) for m in (EMPTY, FIRST, thin, [1] * 6)], support)
    assert found[0] == -math.inf
    assert found[1] == found[2] > 0.95
    assert found[3] == pytest.approx(0.5)  # all patches vote for it, one of two is right


def test_shots_vote_together():
    one, other = ([[1.0, 0.0]], [1.0]), ([[0.0, 1.0], [0.0, 1.0]], [1.0, 1.0])
    (score,) = scores(Cycle(), [candidate(FIRST)], one, other)
    assert score == pytest.approx(1 / 3, abs=0.01)  # one of three foreground patches


def test_recall_is_the_f_measure_in_the_map_of_what_looks_alike():
    support = ([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    # Mean and largest cosine with the foreground are 1, 0 and 0.6, their product 1, 0 and 0.36.
    (score,) = scores(Recall(), [candidate([1, 1, 1, 0, 0, 0])], support)
    precision, recall = 1 / 1.5, 1 / 1.36
    assert score == pytest.approx(2 * precision * recall / (precision + recall), abs=1e-4)
    nothing = scores(Recall(), [candidate(SECOND), candidate(EMPTY)], support)
    assert nothing == [pytest.approx(0, abs=1e-5), -math.inf]


def test_the_map_of_several_shots_is_made_from_their_mean():
    one, other = ([[1.0, 0.0]], [1.0]), ([[0.0, 1.0]], [1.0])
    # Means of the two: ½, ½ and 0.7, squared: the third patch is 1 and the others are 0.
    (score,) = scores(Recall(), [candidate([0, 0, 0, 0, 1, 1])], one, other)
    assert score == pytest.approx(1, abs=1e-4)


def test_both_together_are_their_geometric_mean():
    support, masks = ([[1.0, 0.0], [0.6, 0.8]], [1.0, 0.5]), [candidate(FIRST), candidate(EMPTY)]
    cycle, recall = (scores(judge, masks, support)[0] for judge in (Cycle(), Recall()))
    assert scores(CycleRecall(), masks, support) == [pytest.approx(math.sqrt(cycle * recall)), -math.inf]


def test_separation_and_stability_are_of_the_logits_over_the_photo():
    logits = torch.full((6, 6), 9.0)  # of the padding
    logits[0] = torch.tensor([4.0, 2.0, 0.5, -0.5, -2.0, -4.0])
    both = [candidate(FIRST, logits), candidate(EMPTY, logits), candidate(FIRST)]
    inside, outside = (sum(1 / (1 + math.exp(-x)) for x in part) / 3 for part in ((4, 2, 0.5), (-0.5, -2, -4)))
    assert scores(Separation(), both) == [pytest.approx(inside - outside), -math.inf, -math.inf]
    query = SimpleNamespace(embedding=Embedding(torch.zeros(1, 2, 3, 3), FRAME))
    assert stability(query, both[0]) == 2 / 4
    assert stability(query, both[2]) == 1


def test_overlaps_are_ious():
    third = overlaps([candidate(FIRST), candidate([0, 1, 1, 0, 0, 0]), candidate(EMPTY)])
    assert np.array(third) == pytest.approx(np.array([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]]))


def test_the_consensus_is_the_weighted_mean_iou():
    overlap = [[1.0, 0.5, 0.0], [0.5, 1.0, 0.0], [0.0, 0.0, 1.0]]
    weight = 1 / (1 + math.exp(1))  # of 0.6 beside 0.7, with a temperature of 0.1
    found = consensus([0.7, 0.6, -math.inf], overlap)
    assert found == [pytest.approx(1 - weight + weight / 2), pytest.approx((1 - weight) / 2 + weight), -math.inf]
    assert consensus([-math.inf] * 2, overlap[:2]) == [-math.inf] * 2


def test_the_veto_drops_what_sam_doubts():
    assert vetoed([1, 2, 3, 4], [0.8, 0.69, 0.71, 0.9], [1, 1, 0.9, 0.89]) == [1, -math.inf, 3, -math.inf]


@pytest.mark.parametrize(
    "cycle, separation, overlap, index",
    [
        (0.5, 0.5, 0.9, 1),  # as good as candidate 0
        (0.4, 0.9, 0.9, 0),
        (0.9, 0.4, 0.9, 0),
        (0.9, 0.9, 0.99, 0),  # no change
    ],
)
def test_the_guard_takes_the_proposal_only_if_both_signals_agree(cycle, separation, overlap, index):
    found = guarded([0.1, 0.3, 0.2], [0.5, cycle, 0.9], [0.5, separation, 0.9], [1, overlap, 0.1])
    assert choose(found) == index


def test_wrappers_ask_the_selector_that_they_are_given():
    logits = torch.zeros(6, 6)
    logits[0] = torch.tensor([4.0, 4.0, -4.0, -4.0, -4.0, -4.0])
    masks = [candidate(SECOND, logits, 0.5), candidate(FIRST, logits, 0.9)]
    support = ([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
    assert choose(scores(Guard(PredictedIou()), masks, support)) == 1
    assert choose(scores(Guard(PredictedIou()), masks, ([[1.0, 0.0], [0.0, 1.0]], [0.0, 1.0]))) == 0
    assert scores(Veto(PredictedIou()), masks) == [0.5, 0.9]
    assert scores(Consensus(PredictedIou()), masks)[1] == pytest.approx(1 / (1 + math.exp(-4)))
    assert (reads(Guard(PredictedIou())), reads(Veto(PredictedIou()))) == (("shares",), ())


def test_fusion_adds_reciprocal_ranks():
    found = fused([[0.9, 0.1, 0.5], [3, 2, 3]])
    assert found == pytest.approx([1 / 3 + 1 / 3, 1 / 5 + 1 / 5, 1 / 4 + 1 / 3])
    assert fused([[0.9, 0.1], [-math.inf, 1.0]])[0] == -math.inf
    logits = torch.zeros(6, 6)
    masks = [candidate(SECOND, logits, 0.5), candidate(FIRST, logits, 0.9)]
    assert scores(Fusion((PredictedIou(),)), masks) == [1 / 3, 1 / 2]
    assert reads(Fusion()) == ("shares",)


@pytest.mark.parametrize("name", ["persam-f", "matcher"])
def test_the_full_cycle_is_the_iou_of_what_the_framework_finds_in_the_supports(name, sam, matcher, mini, tmp_path):
    framework = {"persam-f": PerSamF(sam), "matcher": matcher}[name]
    examples = [Example(mini["support_rgb"], mini["support_mask"]), Example(mini["query_rgb"], mini["query_mask"])]
    segmenter = prmagic.Segmenter(framework, selector=FullCycle(), cache=tmp_path)
    segmenter.encode_examples(examples)
    reference = segmenter.encode_examples(examples)  # from the cache
    (query,) = framework.encode_queries([mini["query_rgb"]])
    empty = np.zeros_like(mini["query_mask"])
    masks = [mini["query_mask"], ~mini["query_mask"], empty, mini["query_mask"]]
    encodes = framework.counts["encodes"]
    found = FullCycle()(framework, query, reference, [Candidate(mask, None, 0.5) for mask in masks])
    FullCycle()(framework, query, reference, [Candidate(masks[0], None, 0.5)])
    assert framework.counts["encodes"] - encodes == 2  # of the supports, once
    assert found[2] == -math.inf and found[3] == found[0]
    for mask, score in zip(masks[:2], found, strict=False):
        rng = torch.Generator().manual_seed(0)
        learnt = framework.encode_support([Example(mini["query_rgb"], mask)], rng)
        ious = []
        for example in examples:
            (support,) = framework.encode_queries([example.image])
            prompts = framework.sample_prompts(support, learnt, torch.zeros_like(support.embedding.features), rng)
            ious.append(foreground_iou(areas(framework.decode(support, learnt, prompts).mask, example.mask)))
        assert score == pytest.approx(np.mean(ious))


@pytest.mark.parametrize("name", ["persam-f", "matcher"])
def test_a_reference_holds_the_supports_patches(name, sam, matcher, mini):
    framework = {"persam-f": PerSamF(sam), "matcher": matcher}[name]
    examples = [Example(mini["support_rgb"], mini["support_mask"]), Example(mini["query_rgb"], mini["query_mask"])]
    segmenter = prmagic.Segmenter(framework, selector=SELECTORS["cycle"])
    plain = segmenter.encode_examples(examples, read=())
    assert set(plain.tensors) & set(EXTRAS) == {"shares"}  # without which the default selector could not judge
    reference = segmenter.encode_examples(examples)
    assert not set(plain.tensors) - set(reference.tensors)
    supports = framework.support_patches(reference)
    (query,) = framework.encode_queries([mini["support_rgb"]])
    torch.testing.assert_close(supports[0][0], framework.patches(query))
    assert supports[0][1] @ torch.ones(len(supports[0][1])) / len(supports[0][1]) == pytest.approx(
        mini["support_mask"].mean(), abs=0.03
    )
    right, wrong = (Candidate(m, None, 0.5) for m in (mini["support_mask"], ~mini["support_mask"]))
    one = segmenter.encode_examples(examples[:1])
    for judge in (Cycle(), Recall()):
        better, worse = judge(framework, query, one, [right, wrong])
        assert better > worse


def test_references_with_patches_are_kept_apart_in_the_cache_and_come_back(sam, mini, tmp_path):
    examples = [Example(mini["support_rgb"], mini["support_mask"])]
    segmenter = prmagic.Segmenter(PerSamF(sam), selector=SELECTORS["guard"], cache=tmp_path)
    made = segmenter.encode_examples(examples)
    segmenter.encode_examples(examples, read=())
    assert len(list(tmp_path.iterdir())) == 2
    again = segmenter.encode_examples(examples)
    assert all(torch.equal(again.tensors[key], value) for key, value in made.tensors.items())
    result = segmenter.segment(mini["query_rgb"], again)
    assert len(result.scores) == 6
