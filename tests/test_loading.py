"""`prmagic.load`: names become objects, presets become settings, and what can be set by name."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from common import MINI

import prmagic
from prmagic.flow import Flow
from prmagic.frameworks.matcher import MatcherOptions
from prmagic.frameworks.persam import PerSam, PerSamF, PerSamFOptions
from prmagic.frameworks.published import PublishedFlow
from prmagic.frameworks.registry import FRAMEWORKS, find, preset_names
from prmagic.loading import GONE, load, parse_settings, settings_of
from prmagic.options import option
from prmagic.select import SELECTORS, Reencode


class TestLoad:
    def test_without_arguments_it_is_persam_f_on_the_embedded_model(self):
        segmenter = load()
        assert type(segmenter.framework) is PerSamF
        assert (segmenter.framework.sam.name, segmenter.preset, segmenter.seed) == ("embedded", "default", 0)
        assert segmenter.selector is SELECTORS["judge"]

    def test_a_model_that_is_loaded_already_is_used_as_it_is(self, sam, encoder):
        framework = load("matcher", sam=sam, encoder=encoder).framework
        assert framework.sam is sam and framework.encoder is encoder

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    @pytest.mark.parametrize("preset", ["default", "paper"])
    def test_every_framework_segments_with_both_presets(
        self, framework, preset, sam, mini, encoder_folder, monkeypatch
    ):
        fitted = staticmethod(lambda logits, truths: torch.tensor([0.2, 0.5, 0.3]))
        monkeypatch.setattr("prmagic.frameworks.published.PublishedPerSamF.fit", fitted)
        encoder = {"encoder": encoder_folder} if find(framework).uses_encoder else {}
        segmenter = load(framework, sam=sam, preset=preset, steps=1, **encoder)
        support = prmagic.Support(mini["support_rgb"], mini["support_mask"])
        result = segmenter.segment(mini["query_rgb"], segmenter.encode_support(support))
        steps = len(result.candidates) - result.others
        assert steps == (1 if preset == "default" and find(framework).uses_encoder else 2)
        assert result.others == 0 or preset == "default"
        assert math.isfinite(result.scores[result.chosen]) == (len(result.candidates) > 1)
        assert segmenter.preset == preset
        assert isinstance(segmenter.flow, PublishedFlow) == (preset == "paper")
        assert segmenter.flow.mode == ("full" if preset == "paper" else "spread")
        assert (segmenter.flow.rho, segmenter.flow.objective) == (None, "sum")

    @pytest.mark.parametrize(
        "options, told",
        [
            ({"framework": "persam-g"}, r"unknown framework 'persam-g': did you mean 'persam-f'\?"),
            ({"framework": dict}, r"derived from prmagic\.Framework"),
            ({"preset": "papers"}, "unknown preset of persam-f 'papers': did you mean 'paper'"),
            ({"preset": "official"}, "unknown preset of persam-f 'official'"),
            ({"preset": "paper-coco"}, "unknown preset of persam-f 'paper-coco'"),
            ({"selector": "rencode"}, r"unknown selector 'rencode': did you mean 'reencode'\?"),
            ({"selector": "full-cycle"}, "unknown selector 'full-cycle': choose one of: judge, reencode, cycle"),
            ({"extra_points": "0.9"}, r"unknown extra_points '0\.9'.*0\.99/0\.90"),
            ({"points": 0}, "points must be 1 or more; got 0"),
            ({"points": "5"}, "points must be a whole number; got '5'"),
            ({"encoder": "embedded"}, "persam-f compares SAM's own features: leave the encoder out"),
            ({"dtype": "float64"}, "unknown dtype 'float64'.*float32"),
            ({"flow": "ful"}, r"unknown flow 'ful': did you mean 'full'\?"),
            ({"flow": "drift"}, "unknown flow 'drift': choose one of: spread, full, noise, none"),
            ({"objective": "margin"}, "unknown objective 'margin': choose one of: sum, foreground"),
            ({"steps": 2.5}, r"steps must be a whole number; got 2\.5"),
            ({"eta": "0.1"}, r"eta must be a number; got '0\.1'"),
            ({"steps": -3}, "0 or more"),
            ({"rho": 0}, "rho must be above 0"),
            ({"device": "abacus"}, "device 'abacus' cannot be used here .*try device cpu"),
            ({"sims": 3}, r"has no setting 'sims'"),
            ({"step": 3}, r"has no setting 'step': did you mean 'steps'\?"),
            ({"centers": 3}, "has no setting 'centers'"),  # Matcher's
            ({"bridge": "ridge"}, "bridge cannot be set any more"),
        ],
        ids=str,
    )
    def test_what_cannot_be_loaded(self, options, told, sam):
        with pytest.raises(ValueError, match=told) as raised:
            load(**{"sam": sam, **options})
        assert "\n" not in str(raised.value)

    def test_half_precision_is_for_the_encoders(self, encoder_folder):
        framework = load("matcher", sam=MINI, encoder=encoder_folder, encoder_size=40, dtype="bfloat16").framework
        assert framework.sam.dtype == framework.encoder.dtype == torch.bfloat16
        assert framework.encoder.grid == (5, 5)
        with pytest.raises(ValueError, match="multiple of its patch"):
            load("matcher", sam=framework.sam, encoder=encoder_folder, encoder_size=41)

    def test_a_selector_is_a_name_or_a_function(self, sam):
        def mine(framework, query, reference, candidates):
            return [0.0] * len(candidates)

        assert load(sam=sam, selector=mine).selector is mine
        assert load(sam=sam, selector="reencode").selector == Reencode()
        assert load(sam=sam, preset="paper").selector == Reencode(published=True)


class TestFlow:
    """The preset's own; an η asks for the published gradient, a ρ for a relative one of any length."""

    OWN = PerSamF.presets["default"].flow

    @pytest.mark.parametrize(
        "options, expected",
        [
            ({}, OWN),
            ({"steps": 2}, Flow(mode="spread", steps=2)),
            ({"flow": "full"}, Flow()),
            ({"steps": 2, "gamma": 1.0}, Flow(steps=2, gamma=1.0)),
            ({"objective": "foreground"}, Flow(objective="foreground")),
            ({"flow": "spread", "eta": 0.5}, Flow(mode="spread", eta=0.5)),
            ({"eta": 0.5}, Flow(eta=0.5)),
            ({"rho": 0.2}, Flow(rho=0.2)),
            ({"eta": 0.5, "rho": 0.2}, Flow(rho=0.2, eta=0.5)),
            ({"flow": "noise", "eta": 0.5}, Flow(eta=0.5, mode="noise")),
            ({"flow": "none"}, Flow(mode="none")),
            ({"preset": "paper"}, PublishedFlow()),
            ({"preset": "paper", "rho": 0.2}, PublishedFlow(rho=0.2)),
        ],
        ids=str,
    )
    def test_options_change_the_presets(self, options, expected, sam):
        found = load(sam=sam, **options).flow
        assert found == expected and type(found) is type(expected)

    @pytest.mark.parametrize("flow", ["noise", "spread", "none"])
    def test_rho_without_a_gradient_is_refused(self, sam, flow):
        with pytest.raises(ValueError, match=f"'{flow}' has no gradient, so that rho would change nothing"):
            load(sam=sam, flow=flow, rho=0.2)


class TestSettings:
    def test_they_are_the_fields_of_the_framework_and_the_flow(self):
        found = settings_of("persam-f")
        own = {field.name for field in fields(PerSamFOptions)}
        flow = {"flow"} | {field.name for field in fields(Flow)} - {"mode"}
        assert set(found) == own | flow
        assert set(settings_of("persam")) == flow
        assert {field.name for field in fields(MatcherOptions)} < set(settings_of("matcher"))

    def test_defaults_are_the_presets(self):
        ours, paper = settings_of("persam-f"), settings_of("persam-f", "paper")
        assert (ours["flow"].default, paper["flow"].default) == ("spread", "full")
        assert (ours["extra_points"].default, paper["extra_points"].default) == ("none", "0.99999/0.9999")
        assert settings_of("matcher", "official")["dense_grid"].default == 64

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_each_explains_itself_and_its_default_can_be_said(self, framework):
        for preset in preset_names(framework):
            for name, setting in settings_of(framework, preset).items():
                assert setting.name == name
                assert len(setting.help) > 5, name
                said = setting.default
                text = ",".join(map(str, said)) if isinstance(said, tuple) else str(said)
                assert setting.parse(text) == said, name

    @pytest.mark.parametrize("framework", FRAMEWORKS)
    def test_all_of_them_can_be_loaded(self, framework, sam, encoder):
        models = {"sam": sam} | ({"encoder": encoder} if find(framework).uses_encoder else {})
        defaults = {name: setting.default for name, setting in settings_of(framework).items()}
        segmenter = load(framework, **models, **defaults)
        assert segmenter.flow == load(framework, **models).flow


class TestParse:
    def test_texts_become_arguments_for_load(self, sam):
        found = parse_settings("persam-f", "default", ["eta=0.5", "steps = 3", "extra-points=0.99/0.90", "flow=noise"])
        assert found == {"eta": 0.5, "steps": 3, "extra_points": "0.99/0.90", "flow": "noise"}
        assert load(sam=sam, **found).flow == Flow(mode="noise", eta=0.5, steps=3)

    def test_of_a_framework_with_tuples_and_nones(self):
        texts = ["subset_sizes=2,5", "channels=none", "centers=none", "score_filter=0.3,0.2", "box=true"]
        assert parse_settings("matcher", "default", texts) == {
            "subset_sizes": (2, 5), "channels": None, "centers": None, "score_filter": (0.3, 0.2), "box": True,
        }  # fmt: skip

    def test_the_last_of_equals_counts(self):
        assert parse_settings("persam", "default", ["steps=3", "steps=4"]) == {"steps": 4}

    @pytest.mark.parametrize(
        "text, told",
        [
            ("steps", "'steps' sets nothing: write NAME=VALUE, such as steps=3"),
            ("=3", "has no setting ''"),
            ("stepps=3", r"has no setting 'stepps': did you mean 'steps'\? Known: .*gamma"),
            ("steps=three", "steps 'three' is not a whole number"),
            ("steps=2.5", "steps '2.5' is not a whole number"),
            ("rho=long", "rho 'long' is not a number or none"),
            ("extra_points=0.9", "unknown extra_points '0.9'"),
            ("flow=noize", r"unknown flow 'noize': did you mean 'noise'\?"),
            ("mode=noise", "has no setting 'mode'"),
            *((f"{name}=1", f"{name} cannot be set any more: {why}") for name, why in GONE.items()),
        ],
    )
    def test_what_cannot_be_set(self, text, told):
        with pytest.raises(ValueError, match=told) as raised:
            parse_settings("persam-f", "default", [text])
        assert "\n" not in str(raised.value)

    def test_of_an_unknown_framework_or_preset(self):
        with pytest.raises(ValueError, match="unknown framework"):
            parse_settings("persan", "default", [])
        with pytest.raises(ValueError, match="unknown preset of persam"):
            parse_settings("persam", "official", [])


class TestTypes:
    def test_values_are_brought_to_the_fields_types(self, sam, encoder):
        options = {"subset_sizes": [2, np.int64(5)], "centers": np.int64(3), "alpha": 1}
        found = load("matcher", sam=sam, encoder=encoder, **options).framework.settings
        assert json.dumps([found[name] for name in options]) == "[[2, 5], 3, 1.0]"

    @pytest.mark.parametrize(
        "options, told",
        [
            ({"merge": 2.5}, r"merge must be a whole number; got 2\.5"),
            ({"centers": True}, "centers must be a whole number or none; got True"),
            ({"subset_sizes": (1, 2, 3)}, "subset_sizes must be 2 numbers separated by a comma"),
            ({"channels": "0"}, "channels must be numbers separated by commas or none; got '0'"),
            ({"box": 1}, "box must be true or false; got 1"),
            ({"encoder_size": 64}, "encoder_size is for an encoder given by name"),
        ],
        ids=str,
    )
    def test_values_of_another_type(self, options, told, sam, encoder):
        with pytest.raises(ValueError, match=told):
            load("matcher", sam=sam, encoder=encoder, **options)


def test_an_option_cannot_have_the_name_of_one_of_the_flow_s(sam):
    @dataclass(frozen=True)
    class Steps:
        steps: int = option(3, "Of another kind")

    class Mine(PerSam):
        name = "mine"
        Options = Steps

    with pytest.raises(ValueError, match="mine has an option called steps, as the flow has: give it another name"):
        load(Mine, sam=sam)


def test_a_user_s_framework_needs_no_registration(sam):
    class Mine(PerSam):
        name = "mine"

    assert type(load(Mine, sam=sam).framework) is Mine
    assert set(settings_of(Mine)) == set(settings_of("persam"))
