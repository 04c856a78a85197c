"""Photos in, masks out: what `Segmenter` promises whatever the framework."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from common import MINI, photo
from PIL import Image

import prmagic
from prmagic.backbones.sam import Sam
from prmagic.flow import FLOW_MODES, Flow
from prmagic.frameworks.persam import PerSamF
from prmagic.io.images import ImageError
from prmagic.reference import ReferenceMismatch
from prmagic.segmenter import DEFAULT_LABEL
from prmagic.types import Candidate, Prompts


@pytest.fixture(scope="module")
def segmenter(sam):
    return prmagic.load(sam=sam)


@pytest.fixture(scope="module")
def support(mini):
    return prmagic.Support(mini["support_rgb"], mini["support_mask"])


@pytest.fixture(scope="module")
def reference(segmenter, support):
    return segmenter.encode_support(support)


@pytest.fixture(scope="module")
def result(segmenter, reference, mini):
    return segmenter.segment(mini["query_rgb"], reference)


@pytest.fixture(scope="module")
def moved(sam, reference, mini):
    """The same along the gradient."""
    return prmagic.load(sam=sam, rho=0.1, selector="cycle-recall").segment(mini["query_rgb"], reference)


def same(first, second):
    assert [c.prompts.points.tolist() for c in first.candidates] == [
        c.prompts.points.tolist() for c in second.candidates
    ]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.candidates, second.candidates, strict=True))
    assert first.scores == second.scores


class TestSegment:
    def test_a_file_gives_a_mask_of_its_size(self, segmenter, reference, mini, tmp_path):
        Image.fromarray(mini["query_rgb"]).save(tmp_path / "photo.png")
        result = segmenter.segment(tmp_path / "photo.png", reference)
        assert result.mask.shape == (90, 120)
        assert result.mask.dtype == bool
        steps = [candidate.step for candidate in result.candidates]
        assert steps[:6] == [0, 1, 2, 3, 4, 5] and steps[6:] == sorted(steps[6:])
        assert len(result.scores) == len(steps) == 6 + result.others and 0 < result.others <= 6
        assert result.mask is result.candidates[result.chosen].mask
        assert result.scores[result.chosen] == max(result.scores)
        assert np.array_equal(result.image, mini["query_rgb"])
        assert result.query == "photo.png" and result.seed == 0

    def test_the_refinement_moves_the_similarity_map(self, moved):
        first, last = (moved.candidates[t].prompts.similarity for t in (0, 5))
        assert 0.001 < np.abs(first - last).max() < 0.5

    @pytest.mark.parametrize("flow", FLOW_MODES)
    def test_flows_start_alike_and_differ_by_what_they_leave_out(self, flow, sam, reference, mini):
        options = {"eta": 0.5, "steps": 2, "selector": "cycle-recall"}
        other, full = (prmagic.load(sam=sam, flow=mode, **options) for mode in (flow, "full"))
        result, whole = (each.segment(mini["query_rgb"], reference) for each in (other, full))
        assert np.array_equal(result.candidates[0].mask, whole.candidates[0].mask)
        assert len(result.candidates) == (1 if flow == "none" else 3)
        assert ("gradient" in result.seconds) == (flow == "full")
        if flow == "none":
            assert math.isnan(result.scores[0])
            assert "select" not in result.seconds

    def test_what_it_took_is_counted(self, moved):
        assert moved.counts["encodes"] == 1
        points = {candidate.prompts.points.tobytes() for candidate in moved.candidates}
        assert len(points) > 1
        assert moved.counts["decodes"] == 3 * len(points) + 5  # three stages each, and five gradients
        assert moved.counts["gradient_decodes"] == 5
        assert {"encode", "decode", "gradient", "select", "score"} <= set(moved.seconds)

    def test_the_judge_takes_no_encode_and_no_decode_of_its_own(self, sam, result, reference, mini):
        plain = prmagic.load(sam=sam, selector="cycle-recall").segment(mini["query_rgb"], reference)
        assert result.counts == plain.counts
        assert result.counts["encodes"] == 1 and result.counts["decodes"] == 3 * 6
        assert plain.others == 0 and len(plain.candidates) == 6
        for ours, theirs in zip(result.candidates, plain.candidates, strict=False):
            assert np.array_equal(ours.mask, theirs.mask)

    def test_one_encode_of_the_query_serves_all_labels(self, sam, support, mini):
        segmenter = prmagic.load(sam=sam, flow="none")
        other = prmagic.Support(mini["query_rgb"], mini["query_mask"])
        references = {"a": segmenter.encode_support(support), "b": segmenter.encode_support(other)}
        before = sam.calls.encodes
        results = segmenter.segment(mini["query_rgb"], references)
        assert list(results) == ["a", "b"]
        assert sam.calls.encodes - before == 1
        assert [result.counts["encodes"] for result in results.values()] == [1, 0]
        same(results["a"], segmenter.segment(mini["query_rgb"], references["a"]))

    def test_the_papers_selector_encodes_each_distinct_candidate(self, sam, support, mini):
        segmenter = prmagic.load(sam=sam, eta=0.1, selector="reencode")
        before = sam.calls.encodes
        reference = segmenter.encode_support(support)
        assert sam.calls.encodes - before == 2  # the photo, and what is under its mask
        result = segmenter.segment(mini["query_rgb"], reference)
        distinct = {candidate.mask.tobytes() for candidate in result.candidates if candidate.mask.any()}
        assert result.counts["encodes"] == 1 + len(distinct)

    @pytest.mark.parametrize("options", [{}, {"selector": "reencode", "steps": 0}, {"selector": "guard"}])
    def test_a_support_is_encoded_once_where_nothing_else_is_needed(self, sam, support, options):
        before = sam.calls.encodes
        assert "descriptors" not in prmagic.load(sam=sam, **options).encode_support(support).tensors
        assert sam.calls.encodes - before == 1

    def test_a_selector_is_any_function(self, sam, reference, mini):
        def smallest(framework, query, reference, candidates):
            return [-float(candidate.mask.sum()) for candidate in candidates]

        result = prmagic.load(sam=sam, selector=smallest, eta=0.5).segment(mini["query_rgb"], reference)
        assert list(result.scores) == [-candidate.mask.sum() for candidate in result.candidates]
        assert result.mask.sum() == min(candidate.mask.sum() for candidate in result.candidates)


@pytest.mark.parametrize("scores", [[0.5], [0.5] * 7, [0.5] * 5 + [math.nan], []])
def test_a_selector_without_a_number_for_each_candidate_is_told(scores, sam, reference, mini):
    def careless(framework, query, reference, candidates):
        return scores

    with pytest.raises(ValueError, match="the selector careless must give a number for each of 6 candidates; got "):
        prmagic.load(sam=sam, selector=careless).segment(mini["query_rgb"], reference)


class TestLabels:
    def test_a_references_label_is_the_results(self, segmenter, support, mini):
        labelled = segmenter.encode_support(support, label="cat")
        assert labelled.label == "cat"
        assert segmenter.segment(mini["query_rgb"], labelled).label == "cat"

    def test_without_one_it_is_object(self, result):
        assert result.label == DEFAULT_LABEL == "object"

    def test_names_given_with_the_references_count(self, segmenter, support, mini):
        labelled = segmenter.encode_support(support, label="cat")
        assert list(segmenter.segment(mini["query_rgb"], {"dog": labelled})) == ["dog"]

    def test_what_is_no_reference(self, segmenter, support, mini):
        for wrong in (support, {"cat": support}, None):
            with pytest.raises(TypeError, match="a reference comes from encode_support, and is not"):
                segmenter.segment(mini["query_rgb"], wrong)


class TestSupports:
    def test_several(self, sam, segmenter, support, mini):
        pair = [support, prmagic.Support(mini["query_rgb"], mini["query_mask"])]
        assert len(segmenter.encode_support(pair).supports) == 2
        judged = prmagic.load(sam=sam, selector="reencode")
        assert judged.encode_support(pair).tensors["descriptors"].shape == (2, 32)

    def test_none(self, segmenter):
        with pytest.raises(ValueError, match="at least one Support"):
            segmenter.encode_support([])

    def test_something_else(self, segmenter, mini):
        with pytest.raises(TypeError, match=r"takes Support\(image, mask\), not tuple"):
            segmenter.encode_support([(mini["support_rgb"], mini["support_mask"])])

    def test_mask_value_picks_one_label(self, segmenter, reference, mini):
        labels = np.where(mini["support_mask"], 7, 3).astype(np.uint8)
        picked = segmenter.encode_support(prmagic.Support(mini["support_rgb"], labels, mask_value=7))
        assert torch.equal(picked.tensors["target"], reference.tensors["target"])

    def test_masks_that_are_empty_or_of_another_size(self, segmenter, mini):
        with pytest.raises(ImageError, match="empty"):
            segmenter.encode_support(prmagic.Support(mini["support_rgb"], np.zeros((90, 120), bool)))
        with pytest.raises(ImageError, match=r"119 × 90.*120 × 90"):
            segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"][:, 1:]))

    def test_a_reference_knows_its_supports(self, segmenter, reference, support, mini):
        assert reference.made_by["supports"] == segmenter.encode_support(support).made_by["supports"]
        other = prmagic.Support(mini["support_rgb"], mini["query_mask"])
        assert reference.made_by["supports"] != segmenter.encode_support(other).made_by["supports"]


class TestDraws:
    """Random draws depend on the seed and on the photo's pixels, and on nothing else."""

    @staticmethod
    def run(sam, support, photos, seed=0, **options):
        segmenter = prmagic.load(sam=sam, seed=seed, eta=0.1, steps=2, selector="cycle-recall")
        results = segmenter.stream(photos.values(), segmenter.encode_support(support), names=photos, **options)
        return {result.query: result for result in results}

    def test_order_and_batches_change_nothing(self, sam, support, mini):
        photos = {"a": mini["query_rgb"], "b": mini["support_rgb"], "c": mini["query_rgb"][::-1].copy()}
        forward = self.run(sam, support, photos)
        backward = self.run(sam, support, dict(reversed(photos.items())), batch_size=2)
        for name in photos:
            same(forward[name], backward[name])
        other = self.run(sam, support, {"a": mini["query_rgb"]}, seed=1)["a"]
        moved = [each.candidates[2].prompts.similarity for each in (other, forward["a"])]
        assert not np.array_equal(*moved)

    def test_a_photo_gives_one_mask_whatever_it_is_called(self, sam, support, mini, tmp_path):
        found = self.run(sam, support, {"a": mini["query_rgb"], "b": mini["query_rgb"]})
        same(found["a"], found["b"])
        segmenter = prmagic.load(sam=sam, eta=0.1, steps=2, selector="cycle-recall")
        Image.fromarray(mini["query_rgb"]).save(tmp_path / "x.png")
        same(found["a"], segmenter.segment(tmp_path / "x.png", segmenter.encode_support(support)))

    def test_a_photo_without_a_name_is_named_by_its_pixels(self, segmenter, reference, result, mini):
        again = segmenter.segment(mini["query_rgb"], reference)
        assert len(result.query) == 16 and again.query == result.query
        same(result, again)
        assert segmenter.segment(mini["query_rgb"], reference, name="x").query == "x"

    def test_a_benchmark_may_tie_them_to_something_else(self, sam, reference, moved, mini):
        segmenter = prmagic.load(sam=sam, rho=0.1)
        (encoded,) = segmenter.encode([mini["query_rgb"]])
        episode = segmenter.segment_encoded("x", "cat", encoded, reference, draw_key="episode 3")
        assert (episode.query, episode.label) == ("x", "cat")
        maps = [each.candidates[1].prompts.similarity for each in (episode, moved)]
        assert not np.array_equal(*maps)

    def test_points_and_noise_are_drawn_apart(self, segmenter):
        draws, again = segmenter.draws("x"), segmenter.draws("x")
        generators = draws.points, draws.noise, again.noise
        numbers = [torch.rand(3, generator=generator).tolist() for generator in generators]
        assert numbers[0] != numbers[1] == numbers[2]


class TestStream:
    def test_a_bad_photo_raises_or_is_reported(self, segmenter, reference, mini, tmp_path):
        bad = tmp_path / "bad.jpg"
        bad.write_text("no photo")
        with pytest.raises(ImageError, match=r"bad\.jpg"):
            list(segmenter.stream([bad], reference))
        problems = []
        results = list(
            segmenter.stream([bad, mini["query_rgb"]], reference, on_error=lambda *seen: problems.append(seen))
        )
        assert len(results) == 1
        assert problems[0][0] == "bad.jpg"
        assert isinstance(problems[0][1], ImageError)

    def test_without_a_reference(self, segmenter, mini):
        with pytest.raises(ValueError, match="at least one reference"):
            list(segmenter.stream([mini["query_rgb"]], {}))

    def test_results_come_one_by_one(self, segmenter, reference, mini):
        read = []

        def photos():
            for number in range(3):
                read.append(number)
                yield mini["query_rgb"]

        coming = segmenter.stream(photos(), reference)
        next(coming)
        assert read == [0]

    @pytest.mark.parametrize("framework", ["persam", "persam-f"])
    def test_labels_are_answered_together_where_that_pays(self, framework, sam, support, mini, monkeypatch):
        """As on a GPU: photos are encoded ahead in another thread, labels share calls, results are the same."""
        calls, answer = [], Sam._answer

        def counted(self, features, *others, **asked):
            calls.append(len(features))
            return answer(self, features, *others, **asked)

        monkeypatch.setattr(Sam, "_answer", counted)
        other = prmagic.Support(mini["support_rgb"], ~mini["support_mask"])
        photos = {"a": mini["query_rgb"], "b": mini["support_rgb"], "c": mini["query_rgb"][::-1].copy()}
        found, took = [], []
        for together in (False, True):
            segmenter = prmagic.load(framework, sam=sam, eta=0.1, steps=2)
            segmenter.together = together
            references = {"thing": segmenter.encode_support(support), "rest": segmenter.encode_support(other)}
            calls.clear()
            found.append(list(segmenter.stream(photos.values(), references, names=photos, batch_size=2)))
            took.append(len(calls))
        assert took[1] < 0.8 * took[0]
        for alone, shared in zip(*found, strict=True):
            assert (alone.query, alone.label, alone.chosen) == (shared.query, shared.label, shared.chosen)
            for one, both in zip(alone.candidates, shared.candidates, strict=True):
                assert (one.mask != both.mask).mean() < 1e-3
        for results in found:
            assert [result.counts["encodes"] for result in results] == [1, 0] * 3
            assert [round(result.seconds.get("encode", 0), 9) > 0 for result in results] == [True, False] * 3


class TestCache:
    @staticmethod
    def encodes(model, supports, folder, **options):
        segmenter = prmagic.load(**{"sam": model, **options}, cache=folder)
        counted = segmenter.framework.sam.calls
        before = counted.encodes
        reference = segmenter.encode_support(supports)
        return counted.encodes - before, segmenter, reference

    def test_the_same_supports_are_not_encoded_again(self, sam, support, mini, tmp_path):
        first, segmenter, made = self.encodes(sam, support, tmp_path / "new" / "cache")
        again, _, kept = self.encodes(sam, support, tmp_path / "new" / "cache")
        assert (first, again) == (1, 0)
        same(*(segmenter.segment(mini["query_rgb"], reference) for reference in (made, kept)))

    def test_whatever_decides_the_reference_makes_another(self, sam, support, mini, tmp_path):
        self.encodes(sam, support, tmp_path)
        other = prmagic.Support(mini["support_rgb"], ~mini["support_mask"])
        assert self.encodes(sam, other, tmp_path)[0] == 1
        assert self.encodes(sam, [support, other], tmp_path)[0] == 2
        for options, encodes in (
            ({"framework": "persam"}, 1), ({"selector": "reencode"}, 2), ({"extra_points": "0.99/0.90"}, 1),
            ({"extra_points": "0.99/0.90", "seed": 1}, 1), ({"sam": MINI, "dtype": "bfloat16"}, 1),
            ({"steps": 2, "eta": 0.5}, 0), ({"selector": "guard"}, 0),  # what queries alone depend on
        ):  # fmt: skip
            assert self.encodes(sam, support, tmp_path, **options)[0] == encodes, options

    def test_a_damaged_file_is_made_anew(self, sam, support, tmp_path):
        self.encodes(sam, support, tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:100])
        assert self.encodes(sam, support, tmp_path)[0] == 1
        assert self.encodes(sam, support, tmp_path)[0] == 0

    def test_labels_are_kept_apart(self, sam, support, tmp_path):
        segmenter = prmagic.load(sam=sam, cache=tmp_path)
        for _ in range(2):
            assert [segmenter.encode_support(support, label).label for label in ("cat", "dog")] == ["cat", "dog"]

    def test_a_folder_that_cannot_be_written(self, sam, support, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="cannot save the reference"):
            self.encodes(sam, support, tmp_path / "file" / "cache")


class TestReferences:
    def test_a_saved_one_gives_the_same_result(self, segmenter, reference, result, mini, tmp_path):
        reference.save(tmp_path / "cat.safetensors")
        same(segmenter.segment(mini["query_rgb"], prmagic.Reference.load(tmp_path / "cat.safetensors")), result)

    def test_settings_that_do_not_touch_it_may_differ(self, sam, reference, mini):
        for changes in ({"points": 3}, {"flow": "none"}, {"seed": 5}):
            prmagic.load(**{"sam": sam, "steps": 1, **changes}).segment(mini["query_rgb"], reference)

    @pytest.mark.parametrize(
        "changes", [{"framework": "persam"}, {"preset": "paper"}, {"extra_points": "0.99999/0.9999"}]
    )
    def test_made_by_another_framework_or_preset(self, sam, reference, mini, changes):
        with pytest.raises(ReferenceMismatch, match="make the reference anew"):
            prmagic.load(**{"sam": sam, **changes}).segment(mini["query_rgb"], reference)

    def test_made_by_another_model(self, reference, mini):
        model = Sam.load(MINI)
        with torch.no_grad():
            model.model.mask_decoder.iou_token.weight += 1
        other = Sam(model.model, "other")
        with pytest.raises(ReferenceMismatch, match=r"model .*here with other"):
            prmagic.Segmenter(PerSamF(other)).segment(mini["query_rgb"], reference)

    def test_without_what_the_selector_reads(self, sam, reference, mini):
        judged = {"sam": sam, "selector": "reencode"}
        with pytest.raises(ReferenceMismatch, match="needs descriptors of the supports"):
            prmagic.load(**judged).segment(mini["query_rgb"], reference)
        prmagic.load(**judged, steps=0).segment(mini["query_rgb"], reference)

    def test_an_error_comes_before_any_photo_is_read(self, sam, reference):
        with pytest.raises(ReferenceMismatch):
            next(prmagic.load("persam", sam=sam).stream(iter([]), reference))


class Corner(prmagic.Framework):
    """A framework of a user: asks SAM near a corner, a bit further with the shift, and takes the single mask."""

    name = "corner"

    def encode_support(self, examples, queries, rng):
        return {"brightness": torch.tensor(float(examples[0].image.mean()))}

    def sample_prompts(self, query, references, shifts, rngs):
        xs = [
            5 + 10 * float(torch.rand(1, generator=rng)) + float(shift.abs().mean())
            for shift, rng in zip(shifts, rngs, strict=True)
        ]
        return [Prompts(np.array([[x, 7]], np.float32), np.array([1])) for x in xs]

    def decode(self, query, references, prompts):
        decoded = self.sam.decode(query.embedding, prompts, multimask=False)
        frame = query.embedding.frame
        return [
            Candidate(frame.upscale(logits[0]).numpy() > 0, asked, float(iou[0]))
            for asked, logits, iou in zip(prompts, decoded.logits, decoded.predicted_iou, strict=True)
        ]

    def logits(self, query, references, candidates, embeddings):
        return list(self.sam.decode(embeddings, [each.prompts for each in candidates], multimask=False).logits)


def test_a_framework_from_outside_is_refined(sam, support, mini):
    segmenter = prmagic.load(Corner, sam=sam, eta=0.1)
    reference = segmenter.encode_support(support)
    result = segmenter.segment(mini["query_rgb"], reference)
    assert len(result.candidates) == 6
    assert len({candidate.prompts.points[0, 0] for candidate in result.candidates}) == 6
    assert result.seconds["gradient"] > 0
    assert math.isfinite(result.score)
    with pytest.raises(ReferenceMismatch):
        prmagic.load(sam=sam).segment(mini["query_rgb"], reference)


def test_without_a_flow_and_a_selector_it_takes_the_frameworks(sam):
    segmenter = prmagic.Segmenter(PerSamF(sam))
    default = PerSamF.presets["default"]
    assert segmenter.flow == default.flow
    assert segmenter.settings["selector"] == default.selector


def test_its_settings_say_all_that_decides_a_result(sam):
    segmenter = prmagic.Segmenter(PerSamF(sam), Flow(steps=2), seed=3, min_score=0.5, preset="mine")
    told = segmenter.settings
    assert (told["preset"], told["seed"], told["min_score"], told["framework"]) == ("mine", 3, 0.5, "persam-f")
    assert told["flow"] == {"kind": "Flow", **asdict(Flow(steps=2))}
    assert told["settings"] == asdict(segmenter.framework.options)
    assert (told["device"], told["dtype"], told["model"]) == ("cpu", "float32", sam.fingerprint)


def test_a_photo_larger_than_allowed_is_refused(sam, reference):
    with pytest.raises(ImageError, match="100"):
        prmagic.load(sam=sam, max_pixels=100).segment(photo(11, 10), reference)


def test_it_cannot_be_pickled_or_copied(segmenter):
    for what in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match=r"call prmagic\.load with the same arguments there"):
            what(segmenter)


@pytest.mark.parametrize(
    "wrong, error, told",
    [
        ({"selector": 3}, TypeError, "a selector is a name or a function, not int"),
        ({"seed": "1"}, ValueError, "seed must be a whole number; got '1'"),
        ({"seed": 1.5}, ValueError, "seed must be a whole number; got 1.5"),
        ({"seed": True}, ValueError, "seed must be a whole number; got True"),
    ],
)
def test_values_of_another_type_are_told_at_once(wrong, error, told, sam):
    with pytest.raises(error, match=told):
        prmagic.load(sam=sam, **wrong)


def test_a_seed_of_numpys_is_the_same_number(sam):
    assert prmagic.load(sam=sam, seed=np.int64(7)).settings["seed"] == 7


@pytest.mark.parametrize("photo", ["a.png", Path("a.png"), b"PNG", Image.new("RGB", (4, 4))])
def test_a_stream_of_one_photo_is_told(photo, segmenter, reference):
    with pytest.raises(TypeError, match="stream takes several photos: put a single one into a list"):
        next(segmenter.stream(photo, reference))


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_no_photo_is_told(size, segmenter, reference, mini):
    with pytest.raises(ValueError, match=f"batch_size must be 1 or more; got {size}"):
        next(segmenter.stream([mini["query_rgb"]], reference, batch_size=size))


def test_a_framework_that_changed_does_not_take_what_it_learnt_before(sam, support, tmp_path):
    file = tmp_path / "own.py"

    def learnt(factor):
        code = [
            "from prmagic.frameworks.persam import PerSam", "class Own(PerSam):", "    name = 'own'",
            "    def encode_support(self, *given):",
            f"        return {{'target': super().encode_support(*given)['target'] * {factor}}}",
        ]  # fmt: skip
        file.write_text("\n".join(code))
        own = prmagic.load(f"{file}:Own", sam=sam, cache=tmp_path / "kept")
        return own.encode_support(support).tensors["target"]

    assert torch.allclose(learnt(2), learnt(1.0) * 2)
    assert len(list((tmp_path / "kept").iterdir())) == 2
