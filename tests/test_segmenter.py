"""The façade: what users call from Python."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MINI
from PIL import Image

import prmagic
from prmagic.backbones.sam import Sam
from prmagic.evaluation.metrics import areas, episode_miou
from prmagic.flow import FLOW_MODES, Flow
from prmagic.frameworks import FRAMEWORKS, PerSamF, ReferenceMismatch
from prmagic.images import ImageError
from prmagic.presets import PRESETS
from prmagic.select import Oracle
from prmagic.types import Candidate, Prompts


@pytest.fixture(scope="module")
def segmenter():
    return prmagic.load(sam=MINI)


@pytest.fixture(scope="module")
def support(mini):
    return prmagic.Support(mini["support_rgb"], mini["support_mask"])


@pytest.fixture(scope="module")
def reference(segmenter, support):
    return segmenter.encode_support(support)


def same(first, second):
    assert [c.prompts.points.tolist() for c in first.candidates] == [
        c.prompts.points.tolist() for c in second.candidates
    ]
    assert all(np.array_equal(a.mask, b.mask) for a, b in zip(first.candidates, second.candidates, strict=True))
    assert first.scores == second.scores


def test_the_lines_of_the_readme(segmenter, reference, mini, tmp_path):
    Image.fromarray(mini["query_rgb"]).save(tmp_path / "photo.png")
    result = segmenter.segment(tmp_path / "photo.png", reference)
    assert result.mask.shape == (90, 120)
    assert result.mask.dtype == bool
    assert [candidate.step for candidate in result.candidates] == [0, 1, 2, 3, 4, 5]
    assert len(result.scores) == 6
    assert result.mask is result.candidates[result.chosen].mask
    assert result.scores[result.chosen] == max(result.scores)
    assert result.predicted_iou == result.candidates[result.chosen].predicted_iou
    assert np.array_equal(result.image, mini["query_rgb"])


@pytest.mark.parametrize(
    ("framework", "preset"),
    [  # Matcher's others: tests/test_matcher.py
        *((name, preset) for name in ("persam", "persam-f") for preset in PRESETS if PRESETS[preset].persam),
        *(("matcher", preset) for preset in ("default", "default-parts", "paper-parts")),
    ],
)
def test_every_framework_with_every_preset(framework, preset, support, mini, encoder_folder, monkeypatch):
    monkeypatch.setattr("prmagic.frameworks.persam.fit_published", lambda logits, truths: torch.tensor([0.2, 0.5, 0.3]))
    encoder = {"encoder": encoder_folder} if framework == "matcher" else {}
    segmenter = prmagic.load(framework, sam=MINI, preset=preset, steps=2, **encoder)
    result = segmenter.segment(mini["query_rgb"], segmenter.encode_support(support))
    assert len(result.candidates) == 3
    assert all(math.isfinite(score) for score in result.scores)
    assert segmenter.flow.eta == (1e-4 if preset.endswith(("parts", "part", "paco", "dis5k")) else 1e-3)


@pytest.mark.parametrize("preset", [name for name in PRESETS if name.startswith("official")])
def test_matchers_own_presets_are_refused_elsewhere(preset):
    with pytest.raises(ValueError, match=f"preset '{preset}' is Matcher's own"):
        prmagic.load("persam-f", sam=MINI, preset=preset)


@pytest.mark.parametrize("flow", FLOW_MODES)
def test_flows_start_alike_and_differ_by_what_they_leave_out(flow, support, mini):
    segmenter = prmagic.load(sam=MINI, flow=flow, eta=0.5, steps=2)
    full = prmagic.load(sam=MINI, eta=0.5, steps=2)
    reference = segmenter.encode_support(support)
    result = segmenter.segment(mini["query_rgb"], reference)
    baseline = full.segment(mini["query_rgb"], reference)
    assert np.array_equal(result.candidates[0].mask, baseline.candidates[0].mask)
    assert len(result.candidates) == (1 if flow == "none" else 3)
    assert ("gradient" in result.seconds) == (flow in ("full", "drift"))
    if flow == "none":
        assert math.isnan(result.scores[0])
        assert "select" not in result.seconds
    if flow == "resample":  # the default has one point, the peak, so that nothing is left to chance
        assert np.array_equal(result.candidates[0].prompts.similarity, result.candidates[2].prompts.similarity)


def test_the_refinement_moves_the_similarity_map(segmenter, reference, mini):
    result = segmenter.segment(mini["query_rgb"], reference)
    first, last = (result.candidates[t].prompts.similarity for t in (0, 5))
    assert 0.001 < np.abs(first - last).max() < 0.5


def test_one_encode_of_the_query_serves_all_labels(support, mini):
    segmenter = prmagic.load(sam=MINI, flow="none")
    other = prmagic.Support(mini["query_rgb"], mini["query_mask"])
    references = {"a": segmenter.encode_support(support), "b": segmenter.encode_support(other)}
    before = segmenter.framework.sam.ran.encodes
    results = segmenter.segment(mini["query_rgb"], references)
    assert list(results) == ["a", "b"]
    assert segmenter.framework.sam.ran.encodes - before == 1
    assert [result.counts["encodes"] for result in results.values()] == [1, 0]
    same(results["a"], segmenter.segment(mini["query_rgb"], references["a"]))


def test_a_refined_query_is_encoded_once(segmenter, reference, mini):
    result = segmenter.segment(mini["query_rgb"], reference)
    assert result.counts["encodes"] == 1
    points = {candidate.prompts.points.tobytes() for candidate in result.candidates}
    assert len(points) > 1
    # Three stages each, and the last stage again for five gradients.
    assert result.counts["decodes"] == 3 * len(points) + 5


def test_the_papers_selector_encodes_the_supports_once_more_and_each_distinct_candidate(support, mini):
    segmenter = prmagic.load(sam=MINI, eta=0.1, selector="reencode")
    before = segmenter.framework.sam.ran.encodes
    reference = segmenter.encode_support(support)
    assert segmenter.framework.sam.ran.encodes - before == 2
    result = segmenter.segment(mini["query_rgb"], reference)
    distinct = {candidate.mask.tobytes() for candidate in result.candidates if candidate.mask.any()}
    assert result.counts["encodes"] == 1 + len(distinct)


@pytest.mark.parametrize("options", [{"selector": "pooled"}, {"selector": "reencode", "steps": 0}])
def test_a_support_is_encoded_once_where_nothing_else_is_needed(support, options):
    segmenter = prmagic.load(sam=MINI, **options)
    before = segmenter.framework.sam.ran.encodes
    assert "descriptors" not in segmenter.encode_support(support).tensors
    assert segmenter.framework.sam.ran.encodes - before == 1


def test_a_reference_without_what_the_selector_reads_is_refused(support, mini):
    reference = prmagic.load(sam=MINI, selector="pooled").encode_support(support)
    with pytest.raises(ReferenceMismatch, match="needs descriptors of the supports"):
        prmagic.load(sam=MINI, selector="reencode").segment(mini["query_rgb"], reference)
    prmagic.load(sam=MINI, selector="reencode", steps=0).segment(mini["query_rgb"], reference)


def test_what_was_asked_before_is_not_asked_again(support, mini):
    segmenter = prmagic.load(sam=MINI, flow="resample")  # the peak alone, of a similarity map that does not move
    result = segmenter.segment(mini["query_rgb"], segmenter.encode_support(support))
    assert result.counts["decodes"] == 3
    assert [candidate.step for candidate in result.candidates] == [0, 1, 2, 3, 4, 5]


@pytest.fixture
def decoder_calls(monkeypatch):
    """The numbers of prompt sets in each call of SAM's decoder."""
    calls = []
    answer = Sam._answer

    def counted(self, features, *others, **asked):
        calls.append(len(features))
        return answer(self, features, *others, **asked)

    monkeypatch.setattr(Sam, "_answer", counted)
    return calls


def test_steps_without_a_gradient_are_decoded_together(support, mini, decoder_calls):
    options = {"sam": MINI, "extra_points": "0.99/0.90", "eta": 0.1, "gamma": 1.0}
    segmenter = prmagic.load(flow="noise", **options)
    reference = segmenter.encode_support(support)
    decoder_calls.clear()
    together = segmenter.segment(mini["query_rgb"], reference, name="q").candidates
    assert sum(decoder_calls) == 6 * 3
    assert len(decoder_calls) <= 2 * 3  # with a box or without, in each stage
    first = prmagic.load(flow="noise", steps=0, **options).segment(mini["query_rgb"], reference, name="q").candidates[0]
    np.testing.assert_allclose(together[0].logits.numpy(), first.logits.numpy(), atol=1e-4)
    assert len({candidate.prompts.points.tobytes() for candidate in together}) == 6


@pytest.mark.parametrize("framework", ["persam", "persam-f"])
def test_labels_are_answered_together_where_that_pays(framework, support, mini, decoder_calls):
    """As on a GPU: photos are encoded ahead in another thread, labels share calls, results are the same."""
    other = prmagic.Support(mini["support_rgb"], ~mini["support_mask"])
    photos = {"a": mini["query_rgb"], "b": mini["support_rgb"], "c": mini["query_rgb"][::-1].copy()}
    found, calls = [], []
    for together in (False, True):
        segmenter = prmagic.load(framework, sam=MINI, eta=0.1, steps=2)
        segmenter.together = together
        references = {"thing": segmenter.encode_support(support), "rest": segmenter.encode_support(other)}
        decoder_calls.clear()
        found.append(list(segmenter.stream(photos.values(), references, names=photos, batch_size=2)))
        calls.append(len(decoder_calls))
    assert calls[1] < 0.8 * calls[0]
    for alone, shared in zip(*found, strict=True):
        assert (alone.query, alone.label, alone.chosen) == (shared.query, shared.label, shared.chosen)
        for one, both in zip(alone.candidates, shared.candidates, strict=True):
            assert (one.mask != both.mask).mean() < 1e-3
    for results in found:
        assert [result.counts["encodes"] for result in results] == [1, 0] * 3
        assert [round(result.seconds.get("encode", 0), 9) > 0 for result in results] == [True, False] * 3


class TestCache:
    def encodes(self, support, folder, **options):
        segmenter = prmagic.load(sam=MINI, cache=folder, **options)
        before = segmenter.framework.sam.ran.encodes
        reference = segmenter.encode_support(support)
        return segmenter.framework.sam.ran.encodes - before, segmenter, reference

    def test_the_same_supports_are_not_encoded_again(self, support, mini, tmp_path):
        first, segmenter, made = self.encodes(support, tmp_path / "new" / "cache")
        again, _, kept = self.encodes(support, tmp_path / "new" / "cache")
        assert (first, again) == (1, 0)
        same(*(segmenter.segment(mini["query_rgb"], reference) for reference in (made, kept)))

    def test_whatever_decides_the_reference_makes_another(self, support, mini, tmp_path):
        self.encodes(support, tmp_path)
        other = prmagic.Support(mini["support_rgb"], ~mini["support_mask"])
        assert self.encodes(other, tmp_path)[0] == 1
        assert self.encodes([support, other], tmp_path)[0] == 2
        assert self.encodes(support, tmp_path, framework="persam")[0] == 1
        assert self.encodes(support, tmp_path, selector="reencode")[0] == 2
        assert self.encodes(support, tmp_path, dtype="bfloat16")[0] == 1
        assert self.encodes(support, tmp_path, extra_points="0.99/0.90")[0] == 1
        assert self.encodes(support, tmp_path, extra_points="0.99/0.90", seed=1)[0] == 1
        assert self.encodes(support, tmp_path, steps=2, eta=0.5)[0] == 0  # what queries alone depend on

    def test_a_damaged_file_is_made_anew(self, support, tmp_path):
        self.encodes(support, tmp_path)
        (file,) = tmp_path.iterdir()
        file.write_bytes(file.read_bytes()[:100])
        assert self.encodes(support, tmp_path)[0] == 1
        assert self.encodes(support, tmp_path)[0] == 0

    def test_a_folder_that_cannot_be_written(self, support, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ValueError, match="cannot save the reference"):
            self.encodes(support, tmp_path / "file" / "cache")


def test_results_depend_on_seed_and_name_alone(support, mini):
    def run(seed, names, batch_size=1):
        segmenter = prmagic.load(sam=MINI, seed=seed, eta=0.1, steps=2)
        photos = {"a": mini["query_rgb"], "b": mini["support_rgb"], "c": mini["query_rgb"][::-1]}
        reference = segmenter.encode_support(support)
        results = segmenter.stream([photos[n] for n in names], reference, names=names, batch_size=batch_size)
        return {result.query: result for result in results}

    forward, backward = run(0, "abc"), run(0, "cba", batch_size=2)
    for name in "abc":
        same(forward[name], backward[name])
    other = run(1, "a")["a"]
    assert not np.array_equal(other.candidates[2].prompts.similarity, forward["a"].candidates[2].prompts.similarity)


def test_a_photo_without_a_name_is_named_by_its_pixels(segmenter, reference, mini):
    first, again = (segmenter.segment(mini["query_rgb"], reference) for _ in range(2))
    same(first, again)
    assert len(first.query) == 16
    assert segmenter.segment(mini["support_rgb"], reference).query != first.query
    assert segmenter.segment(mini["query_rgb"], reference, name="x").query == "x"


def test_several_supports(segmenter, support, mini):
    pair = [support, prmagic.Support(mini["query_rgb"], mini["query_mask"])]
    assert segmenter.encode_support(pair).tensors["prototypes"].shape == (2, 32)
    judged = prmagic.load(sam=MINI, selector="reencode")
    assert judged.encode_support(pair).tensors["descriptors"].shape == (2, 32)
    with pytest.raises(ValueError, match="at least one Support"):
        segmenter.encode_support([])


def test_mask_value_picks_one_label(segmenter, mini):
    labels = np.where(mini["support_mask"], 7, 3).astype(np.uint8)
    picked = segmenter.encode_support(prmagic.Support(mini["support_rgb"], labels, mask_value=7))
    direct = segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))
    assert torch.equal(picked.tensors["target"], direct.tensors["target"])


def test_bad_supports_are_refused(segmenter, mini):
    with pytest.raises(ImageError, match="empty"):
        segmenter.encode_support(prmagic.Support(mini["support_rgb"], np.zeros((90, 120), bool)))
    with pytest.raises(ImageError, match=r"119 × 90.*120 × 90"):
        segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"][:, 1:]))


def test_a_bad_photo_in_a_stream_raises_or_is_reported(segmenter, reference, mini, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        list(segmenter.stream([bad], reference))
    problems = []
    results = list(segmenter.stream([bad, mini["query_rgb"]], reference, on_error=lambda *seen: problems.append(seen)))
    assert len(results) == 1
    assert problems[0][0] == "bad.jpg"
    assert isinstance(problems[0][1], ImageError)
    with pytest.raises(ValueError, match="at least one reference"):
        list(segmenter.stream([bad], {}))


class TestReferences:
    def test_a_saved_reference_gives_the_same_result(self, segmenter, reference, mini, tmp_path):
        reference.save(tmp_path / "cat.safetensors")
        loaded = prmagic.Reference.load(tmp_path / "cat.safetensors")
        assert np.array_equal(loaded.preview[1], reference.preview[1])
        same(segmenter.segment(mini["query_rgb"], loaded), segmenter.segment(mini["query_rgb"], reference))

    def test_settings_that_do_not_touch_it_may_differ(self, reference, mini):
        for changes in ({"preset": "default-parts"}, {"flow": "none"}, {"seed": 5}):
            prmagic.load(**{"sam": MINI, **changes}).segment(mini["query_rgb"], reference)

    @pytest.mark.parametrize(
        "changes", [{"framework": "persam"}, {"preset": "paper"}, {"extra_points": "0.99999/0.9999"}]
    )
    def test_made_by_another_framework_or_preset(self, reference, mini, changes):
        with pytest.raises(ReferenceMismatch, match="make the reference anew"):
            prmagic.load(**{"sam": MINI, **changes}).segment(mini["query_rgb"], reference)

    def test_made_by_another_model(self, reference, mini):
        model = Sam.load(MINI)
        with torch.no_grad():
            model.model.mask_decoder.iou_token.weight += 1
        other = Sam(model.model, "other")
        with pytest.raises(ReferenceMismatch, match=r"model .*here with other"):
            prmagic.Segmenter(FRAMEWORKS["persam-f"](other)).segment(mini["query_rgb"], reference)

    def test_files_that_are_no_reference(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
            prmagic.Reference.load(tmp_path / "none.safetensors")
        (tmp_path / "text").write_text("hello")
        with pytest.raises(ReferenceMismatch, match="not a reference file"):
            prmagic.Reference.load(tmp_path / "text")
        with pytest.raises(ReferenceMismatch, match="not a reference of this prmagic"):
            prmagic.Reference.load(MINI / "model.safetensors")

    def test_the_preview_is_small(self, segmenter):
        large = np.zeros((1000, 700, 3), np.uint8)
        mask = np.zeros((1000, 700), bool)
        mask[100:500, 100:600] = True
        image, small = segmenter.encode_support(prmagic.Support(large, mask)).preview
        assert max(image.shape) <= 320
        assert image.shape[:2] == small.shape
        assert small.any()


class Corner(prmagic.Framework):
    """A framework of a user: asks SAM at the brightest pixel after the shift's mean, and takes the single mask."""

    name = "corner"

    def encode_support(self, examples, rng):
        return self.reference({"brightness": torch.tensor(float(examples[0].image.mean()))}, examples)

    def sample_prompts(self, query, reference, shift, rng):
        x = 5 + 10 * float(torch.rand(1, generator=rng)) + float(shift.abs().mean())
        return Prompts(np.array([[x, 7]], np.float32), np.array([1]))

    def decode(self, query, reference, prompts):
        decoded = self.sam.decode(query.embedding, [prompts], multimask=False)
        logits = decoded.logits[0, 0]
        mask = query.embedding.frame.upscale(logits).numpy() > 0
        return Candidate(mask, prompts, float(decoded.predicted_iou[0, 0]))

    def logit(self, query, reference, candidate, embedding):
        return self.sam.decode(embedding, [candidate.prompts], multimask=False).logits.sum()


def test_a_framework_from_outside_is_refined(support, mini):
    segmenter = prmagic.load(Corner, sam=MINI, eta=0.1)
    reference = segmenter.encode_support(support)
    result = segmenter.segment(mini["query_rgb"], reference)
    assert len(result.candidates) == 6
    assert len({candidate.prompts.points[0, 0] for candidate in result.candidates}) == 6
    assert result.seconds["gradient"] > 0
    with pytest.raises(ReferenceMismatch):
        prmagic.load(sam=MINI).segment(mini["query_rgb"], reference)


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"framework": "persam-g"}, r"unknown framework 'persam-g': did you mean 'persam-f'\?"),
        ({"preset": "papers"}, "did you mean 'paper'"),
        ({"selector": "rencode"}, "did you mean 'reencode'"),
        ({"extra_points": "0.9"}, "unknown choice of extra points '0.9'.*0.99/0.90"),
        ({"framework": lambda sam: None}, "derived from prmagic.Framework"),
        ({"dtype": "float64"}, "unknown dtype 'float64'.*float32"),
        ({"flow": "ful"}, "unknown flow 'ful': did you mean 'full'"),
        ({"steps": -3}, "0 or more"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_unknown_names(wrong, message):
    with pytest.raises(ValueError, match=message):
        prmagic.load(**{"sam": MINI, **wrong})


def test_which_step_the_flow_takes():
    """The framework's own; an η asks for the published one, a ρ for a relative one of any length."""
    own = PerSamF.flow
    assert own.rho is not None

    def flow(**options):
        return prmagic.load(sam=MINI, **options).flow

    assert flow() == own
    assert flow(steps=2, gamma=1.0) == replace(own, steps=2, gamma=1.0)
    assert flow(eta=0.5) == Flow(eta=0.5)
    assert flow(rho=0.2) == replace(own, rho=0.2)
    assert flow(eta=0.5, rho=0.2) == replace(own, rho=0.2, eta=0.5)
    assert flow(flow="noise", eta=0.5) == Flow(eta=0.5, mode="noise")
    assert flow(preset="paper", rho=0.2) == Flow(rho=0.2, clip=None, gradient_at_origin=True)
    with pytest.raises(ValueError, match="'noise' has no gradient, so that rho would change nothing"):
        flow(flow="noise", rho=0.2)
    assert flow(flow="drift", eta=0.5) == Flow(eta=0.5, mode="drift")
    for option, other in (("eta", {"rho": 0.2}), ("gamma", {})):
        with pytest.raises(ValueError, match=f"'drift' has no noise, so that {option} would change nothing"):
            flow(flow="drift", **{option: 0.5}, **other)
    with pytest.raises(ValueError, match="rho must be a finite number above 0"):
        flow(rho=0)


def test_a_selector_of_ones_own(support, mini):
    segmenter = prmagic.load(sam=MINI, selector=Oracle(mini["query_mask"]), eta=0.5)
    result = segmenter.segment(mini["query_rgb"], segmenter.encode_support(support))
    assert list(result.scores) == [episode_miou(areas(c.mask, mini["query_mask"])) for c in result.candidates]
    assert result.scores[result.chosen] == max(result.scores)


def test_prompts_are_checked():
    with pytest.raises(ValueError, match="at least one point, or a box"):
        Prompts(np.zeros((0, 2), np.float32), np.zeros(0, np.int64))
    with pytest.raises(ValueError, match=r"\(N, 2\)"):
        Prompts(np.zeros((2, 3), np.float32), np.ones(2, np.int64))
    with pytest.raises(ValueError, match="one per point"):
        Prompts(np.zeros((2, 2), np.float32), np.ones(1, np.int64))


def test_what_is_public():
    assert all(getattr(prmagic, name) for name in prmagic.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        prmagic.nonsense  # noqa: B018
    assert (Path(prmagic.__file__).parent / "py.typed").exists()


def test_a_reference_does_not_care_where_its_model_lies(reference, mini, tmp_path):
    import shutil

    moved = prmagic.load(sam=shutil.copytree(MINI, tmp_path / "elsewhere"))
    assert moved.segment(mini["query_rgb"], reference).mask.shape == (90, 120)


def test_the_gradient_is_taken_where_the_flow_stands_or_at_the_origin(support, mini):
    seen = []

    class Watched(Corner):
        def logit(self, query, reference, candidate, embedding):
            seen.append(float((embedding.features - query.embedding.features).detach().abs().max()))
            return super().logit(query, reference, candidate, embedding)

    for preset in ("default", "paper"):
        seen.clear()
        segmenter = prmagic.load(Watched, sam=MINI, preset=preset, steps=3)
        segmenter.segment(mini["query_rgb"], segmenter.encode_support(support))
        assert seen[0] == 0
        assert (seen[1] > 0) == (seen[2] > 0) == (preset == "default")


def test_a_reference_knows_its_supports(segmenter, reference, support, mini):
    assert reference.made_by["supports"] == segmenter.encode_support(support).made_by["supports"]
    other = prmagic.Support(mini["support_rgb"], mini["query_mask"])
    assert reference.made_by["supports"] != segmenter.encode_support(other).made_by["supports"]
