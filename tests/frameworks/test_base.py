"""What every framework gets for free: queries, references, signatures and counts."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, replace

import numpy as np
import pytest
import torch
from common import photo, region, rng

from prmagic.frameworks.base import Framework, Preset, Query
from prmagic.frameworks.persam import PerSam, PerSamF
from prmagic.frameworks.registry import find
from prmagic.options import option
from prmagic.reference import Example, ReferenceMismatch


@pytest.fixture
def example(mini):
    return Example(mini["support_rgb"], mini["support_mask"])


class TestQuery:
    def test_each_model_sees_a_photo_once_and_only_when_needed(self, sam, matcher, mini):
        for framework in (PerSam(sam), matcher):
            before = dict(framework.counts)
            query = Query(mini["query_rgb"], framework)
            assert framework.counts == before
            for _ in range(3):
                assert query.embedding is query.embedding
                assert query.tokens is query.tokens
            spent = {kind: number - before[kind] for kind, number in framework.counts.items()}
            assert spent["encodes"] == 1
            assert spent.get("encoder_encodes", 1) == 1

    def test_tokens_of_an_encoder_need_no_sam(self, matcher, mini):
        before = matcher.counts["encodes"]
        assert Query(mini["query_rgb"], matcher).tokens.grid == (6, 8)
        assert matcher.counts["encodes"] == before

    def test_encoded_together_they_are_as_if_alone(self, sam, matcher):
        images = [photo(90, 120), photo(50, 30, 1)]
        for framework in (PerSam(sam), matcher):
            before = dict(framework.counts)
            queries = framework.encode_queries(images)
            assert framework.counts["encodes"] - before["encodes"] == 2
            for query, image in zip(queries, images, strict=True):
                alone = Query(image, framework)
                assert torch.equal(query.embedding.features, alone.embedding.features)
                assert torch.equal(query.tokens.vectors, alone.tokens.vectors)


class TestReference:
    def test_it_holds_the_supports_tokens_and_what_was_learnt(self, sam, example, mini):
        other = Example(mini["query_rgb"], mini["query_mask"])
        reference = PerSamF(sam).learn([example, other], rng(), "cat", {"kept": torch.ones(2)})
        assert set(reference.tensors) == {"tokens", "shares", "token_counts", "target", "mask_weights", "kept"}
        assert reference.label == "cat"
        for support, each in zip(reference.supports, (example, other), strict=True):
            query = Query(each.image, PerSamF(sam))
            torch.testing.assert_close(support.vectors, query.tokens.vectors)
            torch.testing.assert_close(support.shares, query.tokens.cover([each.mask])[0])

    def test_supports_of_different_sizes(self, sam):
        examples = [Example(photo(*size), region(slice(5), slice(5), size)) for size in ((90, 120), (120, 40))]
        first, second = PerSam(sam).learn(examples, rng()).supports
        assert len(first.shares) == 12 * 16 and len(second.shares) == 16 * 6

    @pytest.mark.parametrize("name", ["persam-f", "matcher"])
    def test_each_support_is_encoded_once(self, name, sam, matcher, example):
        framework = {"persam-f": PerSamF(sam), "matcher": matcher}[name]
        before = dict(framework.counts)
        framework.learn([example, example], rng())
        spent = {kind: number - before[kind] for kind, number in framework.counts.items()}
        assert spent["encodes"] == (2 if name == "persam-f" else 0)
        assert spent.get("encoder_encodes", 2) == 2

    def test_it_is_signed(self, sam, example):
        framework = PerSamF(sam)
        reference = framework.learn([example], rng())
        framework.check(reference)
        assert reference.made_by["framework"] == "persam-f"
        assert reference.made_by["model"] == sam.fingerprint
        assert json.loads(reference.made_by["settings"]) == {"extra_points": "none"}


class TestCheck:
    @pytest.mark.parametrize(
        "change, told",
        [
            ({"framework": "persam"}, "made with framework persam, but here with persam-f"),
            ({"model": "abc", "model_name": "another"}, "made with model another, but here with "),
            (
                {"model": "abc"},
                "made with model abc, but here with ",
            ),  # of one name, so that the fingerprint tells more
            (
                {"settings": '{"extra_points": "x"}'},
                'made with settings extra_points "x", but here with extra_points "n',
            ),
            ({"framework": None}, "made with framework None"),
        ],
        ids=str,
    )
    def test_what_differs_is_named(self, change, told, sam, example):
        framework = PerSamF(sam)
        reference = framework.learn([example], rng())
        with pytest.raises(ReferenceMismatch, match=told) as raised:
            framework.check(replace(reference, made_by={**reference.made_by, **change}))
        assert "use the same one, or make the reference anew" in str(raised.value)

    def test_another_name_of_the_same_model_is_no_difference(self, sam, example):
        reference = PerSamF(sam).learn([example], rng())
        PerSamF(sam).check(replace(reference, made_by={**reference.made_by, "model_name": "another"}))


@dataclass(frozen=True)
class Shade:
    shade: int = option(3, "How dark")


class TestOfOnesOwn:
    def test_the_four_methods_are_needed(self, sam):
        class Unfinished(Framework):
            name = "unfinished"

        with pytest.raises(TypeError, match=r"abstract .*decode.*encode_support.*logits.*sample_prompts"):
            Unfinished(sam)

    def test_options_are_its_own(self, sam):
        class Own(PerSam):
            name = "own"
            Options = Shade
            presets = {"default": Preset(Shade(4))}  # noqa: RUF012

        assert Own(sam).options == Shade(3)
        built = Own.build(sam, None, Shade(5))
        assert built.settings == {"shade": 5}
        with pytest.raises(FrozenInstanceError):
            built.options.shade = 6

    def test_an_encoder_is_part_of_its_signature(self, sam, matcher):
        plain, encoded = PerSam(sam).signature, matcher.signature
        assert encoded["model"] == f"{plain['model']}+{matcher.encoder.fingerprint}"
        assert json.loads(encoded["settings"]) == {"encoder_input": [48, 64]}
        assert (PerSam(sam).comparer, matcher.comparer) == (sam, matcher.encoder)


def test_stages_are_timed_where_they_are_done(matcher, mini):
    before = dict(matcher.stopwatch.seconds)
    matcher.encode_queries([mini["query_rgb"]])
    assert all(matcher.stopwatch.seconds[stage] > before.get(stage, 0) for stage in ("encode", "tokens"))


def test_a_memo_belongs_to_its_photo(matcher, mini):
    one, two = matcher.encode_queries([mini["query_rgb"], mini["support_rgb"]])
    one.memo["x"] = np.ones(1)
    assert two.memo == {}


class TestCode:
    """A framework from a file signs its references with a digest of that file."""

    CODE = """
from prmagic.frameworks.persam import PerSam

class Own(PerSam):
    name = "own"
    factor = {factor}

    def encode_support(self, *given):
        return {{"target": super().encode_support(*given)["target"] * self.factor}}
"""

    def own(self, sam, folder, factor):
        (folder / "own.py").write_text(self.CODE.format(factor=factor))
        return find(f"{folder / 'own.py'}:Own")(sam)

    def test_an_old_reference_is_refused_after_a_change(self, sam, example, tmp_path):
        first = self.own(sam, tmp_path, 1)
        reference = first.learn([example], rng())
        changed = self.own(sam, tmp_path, 2)
        first.check(reference)  # what runs is what was loaded, whatever the file says now
        with pytest.raises(ReferenceMismatch, match="the code of the framework own has changed since this reference"):
            changed.check(reference)
        self.own(sam, tmp_path, 1).check(reference)
        assert reference.digest != changed.learn([example], rng()).digest

    def test_ours_have_none(self, sam, matcher):
        assert not any("code" in framework.signature for framework in (PerSam(sam), PerSamF(sam), matcher))
