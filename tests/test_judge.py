"""The selector `judge`: all of SAM's masks, of which a result keeps the best."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from common import rng

import prmagic
from prmagic.frameworks.gfsam import GfSam
from prmagic.frameworks.persam import PerSamF
from prmagic.reference import Example, SupportTokens
from prmagic.select import (
    SELECTORS,
    Judge,
    best,
    cycle_recall,
    judged,
    selector_name,
)
from prmagic.types import Candidate, Other, Prompts
from prmagic.votes import cycle_scores, thinned

JUDGE = SELECTORS["judge"]
POINT = Prompts(np.zeros((1, 2), np.float32), np.ones(1, np.int64))
SIZE = 64  # of the tiny SAM's masks; the photo of 90 × 120 lies in the upper 48 rows


class Scene:
    """A query with a reference that shows its own object."""

    def __init__(self, framework, mini, supports=1):
        self.framework = framework
        example = Example(mini["query_rgb"], mini["query_mask"])
        self.reference = framework.learn([example] * supports, rng())
        (self.query,) = framework.encode_queries([mini["query_rgb"]])
        self.truth = mini["query_mask"]

    def widened(self, candidates, judge=JUDGE):
        return judge.widened(self.framework, self.query, self.reference, candidates)

    def scores(self, candidates, judge=JUDGE):
        return judge(self.framework, self.query, self.reference, candidates)


class AsksForNoMore(PerSamF):
    margin = 0.0


@pytest.fixture(scope="module")
def scene(sam, mini):
    return Scene(AsksForNoMore(sam), mini)


def logits(rows=slice(0), columns=slice(0)):
    """(64, 64): 4 in these rows and columns, −4 elsewhere."""
    found = torch.full((SIZE, SIZE), -4.0)
    found[rows, columns] = 4.0
    return found


def candidate(scene, low, predicted_iou=0.5, step=0, others=()):
    mask = (scene.query.embedding.frame.upscale(low) > 0).numpy()
    return Candidate(mask, POINT, predicted_iou, low, step=step, others=tuple(others))


def blocks(count):
    """Squares of 8 × 8 side by side."""
    return [logits(slice(8 * (i // 8), 8 * (i // 8) + 8), slice(8 * (i % 8), 8 * (i % 8) + 8)) for i in range(count)]


class TestWidened:
    def test_at_most_six_others_by_step_and_the_rest_are_the_worst(self, scene):
        squares = blocks(14)
        found = [
            candidate(scene, squares[0], step=0, others=[Other(s, POINT, 0.1 * i) for i, s in enumerate(squares[2:8])]),
            candidate(scene, squares[1], step=1, others=[Other(s, POINT, 0.05 * i) for i, s in enumerate(squares[8:])]),
        ]
        wide, scores = scene.widened(found)
        assert len(wide) == len(scores) == 8 and [each.beside for each in wide] == [False] * 2 + [True] * 6
        assert wide[:2] == found
        steps = [each.step for each in wide[2:]]
        assert steps == sorted(steps)
        assert all(math.isfinite(score) for score in scores)
        _, all_scores = scene.widened(found, Judge(kept=100))
        assert len(all_scores) == 14
        assert sorted(scores[2:]) == pytest.approx(sorted(all_scores[2:])[-6:])

    def test_equal_masks_are_kept_once_and_empty_ones_never(self, scene):
        first, second = blocks(2)
        same = [Other(low, POINT, 0.9, channel) for channel, low in enumerate((first, second, second + 1, logits()))]
        wide, scores = scene.widened([candidate(scene, first, others=same)])
        assert len(wide) == len(scores) == 2
        assert wide[1].channel == 1 and np.array_equal(wide[1].mask, candidate(scene, second).mask)
        assert wide[1].logits is second

    def test_an_empty_mask_cannot_win(self, scene):
        found = [candidate(scene, logits(), 0.99), candidate(scene, blocks(1)[0], 0.01, step=1)]
        scores = scene.scores(found)
        assert scores[0] == -math.inf and best(scores) == 1
        gone = replace(found[1], mask=np.zeros_like(found[1].mask))  # a mask that was cleaned away, unlike its logits
        assert scene.scores([found[1], gone])[1] == -math.inf

    def test_where_all_are_empty_the_frameworks_own_is_given(self, scene):
        other = Other(logits(), POINT, 0.9)
        wide, scores = judged(
            JUDGE, scene.framework, scene.query, scene.reference,
            [candidate(scene, logits(), others=[other]), candidate(scene, logits(), step=1)],
        )  # fmt: skip
        assert scores == [-math.inf] * 2 and best(scores) == 0 and not wide[0].mask.any()

    def test_one_candidate_without_others_has_nothing_to_choose(self, scene):
        wide, scores = judged(JUDGE, scene.framework, scene.query, scene.reference, [candidate(scene, blocks(1)[0])])
        assert len(wide) == 1 and math.isnan(scores[0])


class TestScores:
    def test_by_hand(self, scene):
        found = [candidate(scene, low, iou) for low, iou in zip(blocks(3), (0.2, 0.6, 0.7), strict=True)]
        found = [replace(each, logits=None) for each in found]  # `cycle-recall` compares masks of the photo's size
        alike = np.array(cycle_recall(scene.framework, scene.query, scene.reference, found))
        sure = np.array([0.2, 0.6, 0.7])
        z = [(values - values.mean()) / (values.std() + 1e-6) for values in (alike, sure)]
        assert scene.scores(found) == pytest.approx(z[0] + 0.7 * z[1] + [0.3, 0, 0], abs=0.01)
        plain = scene.scores(found, Judge(quality=0, first=0))
        assert plain == pytest.approx(z[0], abs=0.01)

    def test_without_logits_the_masks_count(self, scene):
        found = [candidate(scene, low, iou) for low, iou in zip(blocks(2), (0.2, 0.6), strict=True)]
        bare = [replace(each, logits=None) for each in found]
        assert scene.scores(bare) == pytest.approx(scene.scores(found), abs=0.2)
        assert scene.widened(bare)[0] == bare

    def test_what_sam_does_not_say_does_not_count(self, scene):
        found = [candidate(scene, low, iou) for low, iou in zip(blocks(3), (math.nan, 0.6, math.nan), strict=True)]
        assert scene.scores(found) == pytest.approx(
            np.add(scene.scores(found, Judge(quality=0, first=0)), [0.3, 0, 0]), abs=1e-5
        )

    @pytest.mark.filterwarnings("error")
    def test_what_sam_never_says_does_not_count_either(self, scene):
        found = [candidate(scene, low, math.nan) for low in blocks(3)]
        expected = np.add(scene.scores(found, Judge(quality=0, first=0)), [0.3, 0, 0])
        assert scene.scores(found) == pytest.approx(expected, abs=1e-5)

    def test_equal_candidates_differ_by_the_first_s_bonus_alone(self, scene):
        low = blocks(1)[0]
        assert scene.scores([candidate(scene, low)] * 3) == pytest.approx([0.3, 0.0, 0.0], abs=1e-3)

    def test_what_is_not_enough_more_alike_cannot_beat_the_first(self, scene):
        found = [candidate(scene, low, iou) for low, iou in zip(blocks(3), (0.1, 0.8, 0.9), strict=True)]
        found = [replace(each, logits=None) for each in found]
        alike = np.array(cycle_recall(scene.framework, scene.query, scene.reference, found))
        found, alike = [found[i] for i in alike.argsort()], np.sort(alike)
        found[0] = replace(found[0], predicted_iou=0.1)
        free = scene.scores(found)
        assert min(free[1:]) > free[0]
        for margin in (alike[1:].mean() / alike[0], 2 * alike[2] / alike[0]):
            asking = type("Asking", (AsksForNoMore,), {"margin": float(margin)})(scene.framework.sam)
            scores = JUDGE(asking, scene.query, scene.reference, found)
            kept = alike >= margin * alike[0]
            assert scores == pytest.approx(np.where(kept, free, free[0]))
            assert best(scores) == (2 if kept[2] else 0)

    @pytest.mark.parametrize("name", ["persam-f", "matcher", "gf-sam"])
    def test_the_object_beats_the_rest_whatever_the_framework_and_the_shots(self, name, sam, matcher, mini):
        framework = {"persam-f": PerSamF(sam), "matcher": matcher, "gf-sam": GfSam(sam, encoder=matcher.encoder)}[name]
        scene = Scene(framework, mini, supports=2)
        right, wrong = (Candidate(mask, POINT, 0.5) for mask in (scene.truth, ~scene.truth))
        scores = scene.scores([wrong, right], Judge(first=0))
        assert scores[1] > scores[0]

    def test_many_patches_are_pooled(self, sam, mini):
        scene, big = Scene(PerSamF(sam), mini), Scene(PerSamF(sam), mini)
        tokens = big.query.tokens
        rows, columns = tokens.grid
        maps = tokens.vectors.T.reshape(1, -1, rows, columns).repeat_interleave(9, 2).repeat_interleave(9, 3)
        assert max(maps.shape[2:]) > 32
        enlarged = replace(tokens, vectors=maps[0].flatten(1).T, grid=tuple(maps.shape[2:]), frame=None)
        big.query = type("Query", (), {"tokens": enlarged, "embedding": big.query.embedding, "memo": {}})()
        regions = (slice(0, 24), slice(0, 32)), (slice(24, 48), slice(0, 64))
        pair = [candidate(scene, logits(*each)) for each in regions]
        ours, theirs = scene.scores(pair), big.scores(pair)
        assert all(math.isfinite(score) for score in theirs) and best(theirs) == best(ours)

    def test_a_support_too_thin_for_every_fourth_patch_still_counts(self, sam, mini):
        side, scene = 64, Scene(PerSamF(sam), mini)
        inside = torch.zeros(side, side)
        inside[:, 5] = 1.0  # 4096 patches, of which every fourth is compared: columns 0, 4, 8 …
        axes = torch.stack([inside, 1 - inside], -1).view(-1, 2)
        support = SupportTokens(axes, inside.flatten())
        seen = torch.zeros(8, 8)
        seen[:, 0] = 1.0
        tokens = replace(
            scene.query.tokens, vectors=torch.stack([seen, 1 - seen], -1).view(-1, 2), grid=(8, 8), frame=None
        )
        masks = [np.kron(1 - seen, np.ones((4, 4))) > 0, np.kron(seen, np.ones((4, 4))) > 0]
        query, reference = SimpleNamespace(tokens=tokens, memo={}), SimpleNamespace(supports=[support])
        found = [Candidate(mask, POINT, 0.5) for mask in masks]
        wrong, right = cycle_scores(*thinned(query, reference), tokens.cover(masks))
        assert wrong < 0.01 and right > 0.99
        assert best(Judge(first=0)(scene.framework, query, reference, found)) == 1


@pytest.mark.parametrize("framework", ["persam", "persam-f", "matcher", "gf-sam"])
def test_nothing_is_decoded_more_often_than_with_another_selector(framework, sam, encoder, mini):
    models = {"sam": sam} | ({"encoder": encoder} if framework in ("matcher", "gf-sam") else {})
    counts, firsts = [], []
    for selector in ("judge", "cycle-recall"):
        segmenter = prmagic.load(framework, selector=selector, steps=2, **models)
        reference = segmenter.encode_examples([Example(mini["support_rgb"], mini["support_mask"])])
        result = segmenter.segment(mini["query_rgb"], reference)
        counts.append(dict(result.counts))
        firsts.append(result.candidates[0].mask)
        assert not any(each.others for each in result.candidates)
        assert result.others <= 6 and (result.others == 0 or selector == "judge")
    assert counts[0] == counts[1] and np.array_equal(*firsts)


@pytest.mark.parametrize("framework", ["matcher", "gf-sam"])
def test_labels_that_ask_at_the_same_places_do_not_change_each_other_by_a_bit(framework, sam, encoder, mini):
    segmenter = prmagic.load(framework, sam=sam, encoder=encoder)
    pairs = [Example(mini[f"{name}_rgb"], mini[f"{name}_mask"]) for name in ("support", "query")]
    one, two = segmenter.encode_examples(pairs[:1]), segmenter.encode_examples(pairs)
    image = mini["query_rgb"]
    for shown in (image, np.ascontiguousarray(image[:3])):
        alone = segmenter.segment(shown, one)
        beside = segmenter.segment(shown, {"two": two, "one": one}, overlaps=True)["one"]
        assert alone.scores == beside.scores
        for ours, theirs in zip(alone.candidates, beside.candidates, strict=True):
            assert ours.predicted_iou == theirs.predicted_iou and ours.logits.equal(theirs.logits)


def test_a_judge_with_other_weights_has_its_name(sam):
    assert selector_name(Judge(first=0)) == "judge"
    assert prmagic.load(sam=sam, selector="judge").selector == Judge()
