"""The measuring scripts: what they count, and that the measured models are the published ones."""

from __future__ import annotations

import argparse
import json
import sys

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

import busy
import compare
import gpu
import models
import prmagic
import query
from prmagic import Support
from prmagic.backbones.checkpoints import EMBEDDED, KNOWN
from prmagic.demo import cases
from prmagic.types import Prompts


def test_eight_centres_give_154_prompt_sets_a_step():
    prompts = Prompts(np.zeros((3, 2), np.float32), np.ones(3, np.int64))
    assert len(compare.subsets(prompts, 8, (4, 6))) == 154
    assert {len(each.points) for each in compare.subsets(prompts, 8, (4, 6))} == {4, 5, 6}


@pytest.mark.parametrize(("name", "encodes"), [("PerSAM-F", 1), ("PerSAM-F, plain", 1), ("GF-SAM, plain", 1)])
def test_a_setting_is_measured(name, encodes, tmp_path):
    found = compare.measure(name, EMBEDDED, 1, tmp_path)
    assert found.counts["encodes"] == encodes
    assert found.counts["gradient_decodes"] == 0
    if name.startswith("PerSAM-F"):
        assert found.counts["decodes"] == (3 if "plain" in name else 18)
    assert 0 < found.encode[0] < found.query[0] and found.peak > 0.1
    assert found.published is not None and found.published > found.encode[0]
    assert len(found.row) == 9


def test_what_the_published_code_calls_is_priced(monkeypatch):
    """Every call takes a second here: 9 encodes, 1013 decodes and 5 with a graph (PerSAM-F, T = 5)."""
    segmenter, case = prmagic.load("persam-f"), cases()[0]
    result = segmenter.segment(case.query, segmenter.encode_support(Support(case.support, case.support_mask)))
    clock = iter(range(10**6))
    monkeypatch.setattr(compare.time, "perf_counter", lambda: next(clock))
    assert compare.published(segmenter, case.query, result.candidates[0].prompts) == 9 + 1013 + 5


def test_the_measured_models_are_the_published_ones():
    """By the numbers of their parameters; all but the embedded ones, and the one that needs timm."""
    known = {model.name: model.parameters for group in KNOWN.values() for model in group if model.name != EMBEDDED}
    assert known.keys() - models.ARCHITECTURES.keys() == {"yonigozlan/EdgeTAM-hf"}
    for name, (model_class, config) in models.ARCHITECTURES.items():
        with torch.device("meta"):
            weights = model_class(config).parameters()
        assert round(sum(weight.numel() for weight in weights) / 1e6, 1) == known[name]


def test_random_weights_keep_a_model_alive():
    """The spread of its features is neither nothing nor beyond all bounds."""
    config = Dinov2Config(**models.DINOV2, **{**models.VIT["small"], "num_hidden_layers": 3})
    model = models.random_weights(Dinov2Model, config)
    features = model(torch.randn(1, 3, 56, 56)).last_hidden_state
    assert features.isfinite().all()
    assert 0.1 < features.std(1).mean() < 10
    assert (features[0, 1] - features[0, 2]).abs().max() > 0.1


def test_a_model_is_measured_once_and_shown(tmp_path, capsys, monkeypatch):
    record = tmp_path / "record.jsonl"
    command = ["models.py", "--record", str(record)]
    monkeypatch.setattr(models, "KNOWN", {"sam": KNOWN["sam"]})
    monkeypatch.setattr(sys, "argv", [*command, "--only", EMBEDDED])
    models.main()
    (line,) = (json.loads(line) for line in record.read_text().splitlines())
    assert (line["kind"], line["name"]) == ("sam", EMBEDDED)
    assert min(line["encode"]) > 0 and min(line["query"]) > 0
    assert 0.1 < line["memory"]["libraries"] <= line["memory"]["encode"] <= line["memory"]["query"] < 10
    assert line["counts"]["encodes"] == 1
    models.main()
    assert len(record.read_text().splitlines()) == 1
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*command, "--table"])
    models.main()
    assert capsys.readouterr().out.count(f"| `{EMBEDDED}` |") == 1


@pytest.mark.parametrize(("name", "stages"), [("PerSAM-F", {"decode"}), ("GF-SAM", {"decode", "align", "gates"})])
def test_a_query_is_timed_without_its_neural_calls(name, stages):
    small = query.Size(1, 1, 128, 16, 192)
    spent = query.measure(query.build(name, small), side=64, count=1, rounds=1)
    assert stages | {"sample_prompts", "select", query.NEURAL, "rest"} <= spent.keys()
    own = sum(ms for stage, ms in spent.items() if stage not in (query.NEURAL, "total"))
    assert 0 < spent["total"] == pytest.approx(own, rel=0.05)


def test_enlarged_models_answer_in_the_sizes_of_large_ones():
    segmenter = query.build("Matcher, 8 centres", query.SIZES["vit-h"])
    sam, encoder = segmenter.framework.sam, segmenter.framework.encoder
    photo = cases()[0].query
    with torch.no_grad():
        (embedding,), (tokens,) = sam.encode([photo]), encoder.tokens([photo])
        prompts = Prompts(np.array([[100.0, 100.0]], np.float32), np.ones(1, np.int64))
        again = Prompts(prompts.points, prompts.labels, mask_logits=sam.decode(embedding, [prompts]).logits[0, 0])
        assert sam.decode(embedding, [again], multimask=False).logits.shape == (1, 1, 256, 256)
    assert embedding.features.shape == (1, 256, 64, 64)
    assert tokens.vectors.shape == (37 * 37, 1024)
    moved = embedding.features.clone().requires_grad_()
    sam.decode(embedding.moved_to(moved), [prompts]).logits.sum().backward()
    assert moved.grad.abs().sum() > 0


@pytest.mark.parametrize(("framework", "steps"), [("persam-f", 0), ("persam-f", 5)])
def test_photos_a_second_are_measured_without_a_gpu(framework, steps, tmp_path):
    asked = argparse.Namespace(size=EMBEDDED, device="cpu", dtype="float32", photos=2, batch=2, models=tmp_path)
    found = gpu.measure(framework, steps, asked)
    assert 0 < found["encode"] < found["seconds"] and found["peak"] > 0.1
    assert ("published" in found) == (steps > 0)
    assert gpu.row(framework, steps, found).count("|") == 8


@pytest.mark.slow
def test_a_query_is_timed_alone_and_beside_others():
    alone, beside = busy.measure("persam-f", others=1, rounds=1)
    assert alone > 0 and beside > 0
