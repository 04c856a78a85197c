"""Eq. (4) and the selectors beside it, against values worked out by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import rng

from prmagic.backbones.promptable import Embedding, Frame
from prmagic.backbones.tokens import Tokens
from prmagic.frameworks.persam import PerSamF
from prmagic.reference import Example, Reference, ReferenceMismatch
from prmagic.select import (
    SELECTORS,
    Reencode,
    best,
    cycle,
    cycle_recall,
    guard,
    guarded,
    lacking,
    prepared,
    recall,
    require,
    selector_name,
    separation,
)
from prmagic.types import Candidate, Prompts


@pytest.mark.parametrize(
    "scores, index",
    [
        ([0.1, 0.3, 0.2], 1),
        ([0.3, 0.3], 0),
        ([-math.inf, -2.0], 1),
        ([-math.inf, -math.inf], 0),
        ([math.nan], 0),
    ],
)
def test_the_highest_score_wins_and_the_earlier_of_equals(scores, index):
    assert best(scores) == index


class TestReencode:
    @staticmethod
    def candidate(mask, scored=None):
        prompts = Prompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64))
        return Candidate(mask, prompts, 0.5, torch.zeros(1), 0, scored)

    @pytest.fixture
    def episode(self, sam, mini):
        framework = PerSamF(sam)
        (query,) = framework.encode_queries([mini["query_rgb"]])
        supports = [Example(mini["support_rgb"], mask) for mask in (mini["support_mask"], ~mini["support_mask"])]
        kept = prepared([Reencode(), Reencode(published=True)], framework, supports)
        reference = framework.learn(supports, rng(), keep=kept)
        return framework, query, reference

    @staticmethod
    def described(framework, image, mask):
        return framework.comparer.describe([np.where(mask[..., None], image, np.uint8(0))])[0]

    def test_scores_are_mean_cosines_with_the_supports(self, episode, mini):
        framework, query, reference = episode
        (score,) = Reencode()(framework, query, reference, [self.candidate(mini["query_mask"])])
        vector = self.described(framework, query.image, mini["query_mask"])
        masks = mini["support_mask"], ~mini["support_mask"]
        supports = [self.described(framework, mini["support_rgb"], mask) for mask in masks]
        assert score == pytest.approx(np.mean([float(support @ vector) for support in supports]), abs=1e-6)

    def test_published_looks_at_the_first_support_only(self, sam, mini):
        framework, judge = PerSamF(sam), Reencode(published=True)
        supports = [Example(mini["support_rgb"], mask) for mask in (mini["support_mask"], ~mini["support_mask"])]
        one, both = (framework.learn(s, rng(), keep=judge.prepare(framework, s)) for s in (supports[:1], supports))
        (query,) = framework.encode_queries([mini["query_rgb"]])
        first, same = (judge(framework, query, each, [self.candidate(mini["query_mask"])]) for each in (one, both))
        assert first == same

    def test_published_counts_the_padding(self, sam, mini):
        framework, wide = PerSamF(sam), Example(mini["query_rgb"][:30], np.ones((30, 120), bool))
        ours, theirs = (Reencode(p).prepare(framework, [wide]) for p in (False, True))
        assert not torch.allclose(ours["descriptors"], theirs["padded_descriptors"])

    def test_equal_masks_are_encoded_once_and_score_the_same(self, episode, mini):
        framework, query, reference = episode
        masks = [mini["query_mask"], ~mini["query_mask"], mini["query_mask"].copy()]
        before = framework.sam.calls.encodes
        scores = Reencode()(framework, query, reference, [self.candidate(mask) for mask in masks])
        assert framework.sam.calls.encodes - before == 2
        assert scores[0] == scores[2] != scores[1]

    def test_an_empty_mask_never_wins_but_does_in_the_published_code(self, episode, mini):
        framework, query, reference = episode
        empty, some = (self.candidate(mask) for mask in (np.zeros((90, 120), bool), mini["query_mask"]))
        assert Reencode()(framework, query, reference, [empty, some])[0] == -math.inf
        assert Reencode()(framework, query, reference, [empty, empty]) == [-math.inf, -math.inf]
        full = self.candidate(np.ones((90, 120), bool))
        scores = Reencode(published=True)(framework, query, reference, [empty, full])
        assert scores[0] == scores[1]

    def test_what_is_scored_is_the_scored_mask(self, episode, mini):
        framework, query, reference = episode
        mask = mini["query_mask"]
        (other,) = Reencode()(framework, query, reference, [self.candidate(mask, scored=~mask)])
        (same,) = Reencode()(framework, query, reference, [self.candidate(~mask)])
        assert other == same

    def test_with_an_encoder_the_encoder_judges(self, matcher, mini):
        support = Example(mini["support_rgb"], mini["support_mask"])
        before = matcher.sam.calls.encodes, matcher.encoder.calls.encodes
        found = Reencode().prepare(matcher, [support, support])["descriptors"]
        assert (matcher.sam.calls.encodes - before[0], matcher.encoder.calls.encodes - before[1]) == (0, 2)
        assert found.shape == (2, 48)
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


# Selectors that compare patches. Three patches of the query, of two pixels each:
QUERY = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
FRAME = Frame(photo=(1, 6), resized=(1, 6), input_size=6, patch=2)
EMPTY, FIRST, SECOND = [0] * 6, [1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0]


def candidate(pixels, logits=None):
    prompts = Prompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64))
    return Candidate(np.array([pixels], bool), prompts, 0.5, logits)


def scores(selector, candidates, *supports):
    """supports: (patches, shares) each."""
    tokens = Tokens(QUERY, (1, 3))
    query = SimpleNamespace(tokens=tokens, embedding=Embedding(torch.zeros(1, 2, 3, 3), FRAME), memo={})
    tensors = {
        "tokens": torch.cat([torch.tensor(p) for p, _ in supports]) if supports else torch.zeros(0, 2),
        "shares": torch.cat([torch.tensor(y) for _, y in supports]) if supports else torch.zeros(0),
        "token_counts": torch.tensor([len(y) for _, y in supports], dtype=torch.int64),
    }
    reference = Reference(tensors, {}, (np.zeros((1, 1, 3), np.uint8), np.ones((1, 1), bool)))
    return selector(None, query, reference, candidates)


class TestCycle:
    def test_it_is_the_soft_iou_of_the_votes_and_the_supports_mask(self):
        support = ([[1.0, 0.0], [0.6, 0.8]], [1.0, 0.5])
        # Mask on the first patch: v = 1 − 0.6 and 0.6 − 1, so that b = σ(8) and σ(−8).
        yes, no = 1 / (1 + math.exp(-8)), 1 / (1 + math.exp(8))
        (score,) = scores(cycle, [candidate(FIRST)], support)
        assert score == pytest.approx((yes + no) / (1 + 0.5), abs=1e-5)

    def test_of_masks_that_are_empty_thin_or_full(self):
        support = ([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
        thin = [1, 0, 0, 0, 0, 0]
        found = scores(cycle, [candidate(m) for m in (EMPTY, FIRST, thin, [1] * 6)], support)
        assert found[0] == -math.inf
        assert found[1] == found[2] > 0.95
        assert found[3] == pytest.approx(0.5)  # all patches vote for it, one of two is right

    def test_shots_vote_together(self):
        one, other = ([[1.0, 0.0]], [1.0]), ([[0.0, 1.0], [0.0, 1.0]], [1.0, 1.0])
        (score,) = scores(cycle, [candidate(FIRST)], one, other)
        assert score == pytest.approx(1 / 3, abs=0.01)  # one of three foreground patches


class TestRecall:
    def test_it_is_the_f_measure_in_the_map_of_what_looks_alike(self):
        support = ([[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0])
        # Mean and largest cosine with the foreground are 1, 0 and 0.6, their product 1, 0 and 0.36.
        (score,) = scores(recall, [candidate([1, 1, 1, 0, 0, 0])], support)
        precision, recalled = 1 / 1.5, 1 / 1.36
        assert score == pytest.approx(2 * precision * recalled / (precision + recalled), abs=1e-4)
        nothing = scores(recall, [candidate(SECOND), candidate(EMPTY)], support)
        assert nothing == [pytest.approx(0, abs=1e-5), -math.inf]

    def test_the_map_of_several_shots_is_made_from_their_mean(self):
        one, other = ([[1.0, 0.0]], [1.0]), ([[0.0, 1.0]], [1.0])
        # Means of the two: ½, ½ and 0.7, squared: the third patch is 1 and the others are 0.
        (score,) = scores(recall, [candidate([0, 0, 0, 0, 1, 1])], one, other)
        assert score == pytest.approx(1, abs=1e-4)


def test_cycle_recall_is_the_geometric_mean():
    support, masks = ([[1.0, 0.0], [0.6, 0.8]], [1.0, 0.5]), [candidate(FIRST), candidate(EMPTY)]
    closed, held = (scores(judge, masks, support)[0] for judge in (cycle, recall))
    assert scores(cycle_recall, masks, support) == [pytest.approx(math.sqrt(closed * held)), -math.inf]


def test_separation_is_of_the_logits_over_the_photo():
    logits = torch.full((6, 6), 9.0)  # of the padding
    logits[0] = torch.tensor([4.0, 2.0, 0.5, -0.5, -2.0, -4.0])
    three = [candidate(FIRST, logits), candidate(EMPTY, logits), candidate(FIRST)]
    inside, outside = (sum(1 / (1 + math.exp(-x)) for x in part) / 3 for part in ((4, 2, 0.5), (-0.5, -2, -4)))
    assert scores(separation, three) == [pytest.approx(inside - outside), -math.inf, -math.inf]


class TestGuard:
    @pytest.mark.parametrize(
        "closed, separated, overlap, index",
        [
            (0.5, 0.3, 0.9, 1),  # as good as candidate 0
            (0.4, 0.9, 0.9, 0),
            (0.9, 0.9, 0.99, 0),  # no change
            (0.9, 0.9, 0.98, 1),
        ],
    )
    def test_it_takes_the_proposal_only_if_both_signals_agree(self, closed, separated, overlap, index):
        found = guarded([0.1, separated, 0.2], [0.5, closed, 0.9], [1, overlap, 0.1])
        assert best(found) == index
        assert found[0] == 0.1

    def test_on_masks(self):
        """The second mask is better separated. Whether it closes the cycle depends on the support."""
        sharp, soft = torch.zeros(6, 6), torch.zeros(6, 6)
        sharp[0] = torch.tensor([4.0, 4.0, -4.0, -4.0, -4.0, -4.0])
        soft[0] = torch.tensor([-0.5, -0.5, 0.5, 0.5, -0.5, -0.5])
        masks = [candidate(SECOND, soft), candidate(FIRST, sharp)]
        patches = [[1.0, 0.0], [0.0, 1.0]]
        assert best(scores(guard, masks, (patches, [1.0, 0.0]))) == 1
        assert best(scores(guard, masks, (patches, [0.0, 1.0]))) == 0

    def test_two_empty_masks_are_the_same(self):
        assert scores(guard, [candidate(EMPTY), candidate(EMPTY)], ([[1.0, 0.0]], [1.0])) == [-math.inf] * 2


@pytest.mark.parametrize("name", ["persam-f", "matcher"])
@pytest.mark.parametrize("judge", [cycle, recall])
def test_on_the_supports_own_photo_its_mask_beats_the_rest(name, judge, sam, matcher, mini):
    framework = {"persam-f": PerSamF(sam), "matcher": matcher}[name]
    reference = framework.learn([Example(mini["support_rgb"], mini["support_mask"])], rng())
    (query,) = framework.encode_queries([mini["support_rgb"]])
    right, wrong = (Candidate(m, None, 0.5) for m in (mini["support_mask"], ~mini["support_mask"]))
    better, worse = judge(framework, query, reference, [right, wrong])
    assert better > worse


class Keeper:
    """A selector that keeps the brightness of the supports."""

    reads = ("brightness",)

    def prepare(self, framework, examples):
        return {"brightness": torch.tensor([float(example.image.mean()) for example in examples])}

    def __call__(self, framework, query, reference, candidates):
        return [float(reference.tensors["brightness"].mean())] * len(candidates)


class TestWhatTheyKeep:
    def test_each_selector_keeps_what_it_reads(self, sam, mini):
        framework, example = PerSamF(sam), Example(mini["support_rgb"], mini["support_mask"])
        kept = prepared([Keeper(), cycle, Reencode()], framework, [example])
        assert set(kept) == {"brightness", "descriptors"}
        assert prepared([cycle, guard], framework, [example]) == {}

    def test_a_reference_without_it_is_refused(self, sam, mini):
        reference = PerSamF(sam).learn([Example(mini["support_rgb"], mini["support_mask"])], rng())
        assert lacking(Keeper(), reference) == ["brightness"]
        require(guard, reference)
        with pytest.raises(ReferenceMismatch, match=r"Keeper needs brightness .* choose the selector that it was made"):
            require(Keeper(), reference)
        with pytest.raises(ReferenceMismatch, match="reencode needs descriptors"):
            require(Reencode(), reference)

    def test_descriptors_with_padding_are_not_those_without(self, sam, mini):
        framework, example = PerSamF(sam), Example(mini["support_rgb"], mini["support_mask"])
        reference = framework.learn([example], rng(), keep=Reencode().prepare(framework, [example]))
        require(Reencode(), reference)
        with pytest.raises(ReferenceMismatch, match="reencode needs padded_descriptors"):
            require(Reencode(published=True), reference)

    def test_names(self):
        assert {name: selector_name(selector) for name, selector in SELECTORS.items()} == {n: n for n in SELECTORS}
        assert selector_name(Reencode(published=True)) == "reencode"
        assert selector_name(Keeper()) == "Keeper"
        assert selector_name(separation) == "separation"
