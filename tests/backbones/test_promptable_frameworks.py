"""Frameworks on SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker; the checkpoints are small ones (`tiny.py`)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from common import first_answer, gradient_of_d, region, rng, still
from tiny import photo

import prmagic
from prmagic.backbones.adapters import load_promptable
from prmagic.flow import Flow
from prmagic.frameworks.matcher import Matcher
from prmagic.frameworks.persam import PerSam, PerSamF
from prmagic.frameworks.published import PublishedPerSamF
from prmagic.reference import Example, ReferenceMismatch
from prmagic.select import Reencode

KINDS = tuple(tiny.PUBLISHED)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def sam(adapters, kind):
    return adapters[kind]


@pytest.fixture
def example():
    return Example(photo(100, 80, seed=7), region(slice(30, 70), slice(20, 60), (100, 80)))


def framework_of(name, sam, encoder):
    return Matcher(sam, encoder=encoder) if name == "matcher" else {"persam": PerSam, "persam-f": PerSamF}[name](sam)


def in_double(sam, embedding, candidate):
    """Model, photo and prompts in float64, in which a difference of two values of d is a slope."""
    sam.model.double()
    sam._position = sam._position.double()
    mask = candidate.prompts.mask_logits
    asked = replace(candidate.prompts, mask_logits=None if mask is None else mask.double())
    details = tuple(detail.double() for detail in embedding.details)
    return replace(embedding, features=embedding.features.double(), details=details), replace(candidate, prompts=asked)


@pytest.mark.parametrize("name", ["persam", "persam-f", "matcher"])
def test_the_gradient_of_d_is_its_slope(kind, tiny_folders, encoder, example, name):
    sam = load_promptable(tiny_folders[kind])
    framework = framework_of(name, sam, encoder)
    reference, query, _, candidate = first_answer(framework, [example], photo())
    gradient = gradient_of_d(framework, query, reference, candidate, still(query)).flatten()
    z, candidate = in_double(sam, query.embedding, candidate)
    steepest, least = gradient.abs().argsort(descending=True), 1e-3 * float(gradient.abs().max())
    for place in steepest[:: len(steepest) // 6].tolist():
        step = torch.zeros(len(gradient), dtype=torch.float64)
        step[place] = 1e-6
        moved = [z.moved_to(z.features + sign * step.view(z.features.shape)) for sign in (1, -1)]
        with torch.no_grad():
            up, down = (float(framework.logits(query, [reference], [candidate], [there])[0].sum()) for there in moved)
        assert float(gradient[place]) == pytest.approx((up - down) / 2e-6, rel=1e-3, abs=least)


@pytest.mark.parametrize("name", ["persam", "persam-f", "matcher"])
def test_a_query_is_encoded_once_refined_and_the_same_again(sam, encoder, example, name):
    results = []
    for _ in range(2):
        segmenter = prmagic.Segmenter(framework_of(name, sam, encoder), Flow(steps=2), "guard")
        results.append(segmenter.segment(photo(70, 131), segmenter.encode_examples([example])))
    result, again = results
    assert result.counts["encodes"] == 1
    assert result.counts["gradient_decodes"] >= 2
    assert len(result.candidates) == 3
    assert all(candidate.mask.shape == (70, 131) for candidate in result.candidates)
    assert all(torch.isfinite(candidate.logits).all() for candidate in result.candidates)
    for ours, theirs in zip(result.candidates, again.candidates, strict=True):
        assert np.array_equal(ours.mask, theirs.mask)


@pytest.mark.parametrize("name", ["persam-f", "matcher"])
def test_eq_4_encodes_the_masked_photo(sam, encoder, example, name):
    framework = framework_of(name, sam, encoder)
    before = sam.calls.encodes
    vectors = Reencode().prepare(framework, [example, Example(photo(), np.eye(90, 120, dtype=bool))])["descriptors"]
    assert sam.calls.encodes - before == (0 if name == "matcher" else 2)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))


def test_the_shift_reaches_matchers_tokens(sam, encoder, example):
    framework = Matcher(sam, encoder=encoder)
    reference, query, prompts, _ = first_answer(framework, [example], photo())
    shift = torch.randn(query.embedding.features.shape, generator=rng())
    (moved,) = framework.sample_prompts(query, [reference], [shift], [rng()])
    assert np.isfinite(moved.similarity).all()
    assert np.abs(moved.similarity - prompts.similarity).max() > 1e-3


@pytest.mark.parametrize("kind", ["sam-hq", "sam2"])
@pytest.mark.parametrize("name", ["persam-f", "matcher"])
def test_the_published_runs_settings_work_too(sam, encoder, example, name, monkeypatch):
    monkeypatch.setattr(PublishedPerSamF, "fit", staticmethod(lambda logits, truths: torch.tensor([0.2, 0.5, 0.3])))
    models = {"encoder": encoder, "centers": 5} if name == "matcher" else {}
    segmenter = prmagic.load(name, sam=sam, preset="paper", steps=1, **models)
    assert segmenter.segment(photo(), segmenter.encode_examples([example])).mask.shape == (90, 120)


def test_a_reference_is_saved_and_belongs_to_its_model(kind, sam, adapters, example, tmp_path):
    segmenter = prmagic.load("persam-f", sam=sam, steps=1)
    reference = segmenter.encode_examples([example])
    reference.save(tmp_path / "thing.safetensors")
    again = prmagic.Reference.load(tmp_path / "thing.safetensors")
    assert again.made_by["model"] == sam.fingerprint
    one, two = (segmenter.segment(photo(), each) for each in (reference, again))
    assert np.array_equal(one.mask, two.mask)
    other = next(k for k in KINDS if k != kind)
    with pytest.raises(ReferenceMismatch, match="made with model"):
        PerSamF(adapters[other]).check(again)


def test_the_facade_takes_a_folder(kind, sam, tiny_folders):
    framework = prmagic.load(sam=tiny_folders[kind]).framework
    assert type(framework.sam) is type(sam)
    assert framework.sam.name == str(tiny_folders[kind])
