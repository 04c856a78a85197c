"""References: what they hold, how they are saved, and files that are none, or damaged."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from common import MINI, photo, region
from safetensors import safe_open
from safetensors.torch import save_file

from prmagic.reference import FORMAT, Example, Reference, ReferenceMismatch, preview, supports_digest

MADE_BY = {"framework": "persam-f", "model": "abc", "model_name": "a + b", "settings": "{}", "supports": "123"}


@pytest.fixture
def reference():
    """Of two supports, with three and two patches."""
    tensors = {
        "tokens": torch.nn.functional.normalize(torch.randn(5, 4, generator=torch.Generator().manual_seed(0))),
        "shares": torch.tensor([0.0, 0.5, 1.0, 0.25, 0.0]), "token_counts": torch.tensor([3, 2]),
        "target": torch.ones(4),
    }  # fmt: skip
    example = Example(photo(30, 40), region(slice(5, 20), slice(10, 30), (30, 40)))
    return Reference(tensors, MADE_BY, preview(example), "cat")


@pytest.fixture
def file(reference, tmp_path):
    reference.save(tmp_path / "cat.safetensors")
    return tmp_path / "cat.safetensors"


def test_supports_come_back_one_by_one(reference):
    first, second = reference.supports
    assert torch.equal(first.vectors, reference.tensors["tokens"][:3])
    assert torch.equal(second.shares, torch.tensor([0.25, 0.0]))


def test_what_was_saved_is_loaded(reference, file):
    loaded = Reference.load(file)
    assert loaded.label == "cat"
    assert loaded.made_by == MADE_BY and loaded.digest == reference.digest
    assert loaded.tensors.keys() == reference.tensors.keys()
    assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in reference.tensors.items())
    assert all(np.array_equal(*pair) for pair in zip(loaded.preview, reference.preview, strict=True))


def test_without_a_label_it_is_empty(reference, tmp_path):
    replace(reference, label="").save(tmp_path / "thing.safetensors")
    assert Reference.load(tmp_path / "thing.safetensors").label == ""


def test_saving_makes_folders_and_replaces_as_a_whole(reference, tmp_path):
    path = tmp_path / "new" / "deep" / "cat.safetensors"
    reference.save(path)
    replace(reference, label="dog").save(str(path))
    assert Reference.load(path).label == "dog"
    assert [each.name for each in path.parent.iterdir()] == ["cat.safetensors"]


def test_a_file_that_cannot_be_written_is_told_and_leaves_nothing(reference, tmp_path):
    (tmp_path / "taken").touch()
    with pytest.raises(ValueError, match=r"cannot save the reference as .*taken"):
        reference.save(tmp_path / "taken" / "cat.safetensors")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="cannot save the reference"):
        reference.save(tmp_path / "folder")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["folder", "taken"]


def test_a_digest_is_of_what_made_it_and_of_nothing_else(reference):
    assert replace(reference, label="dog", tensors={}).digest == reference.digest
    assert replace(reference, made_by={**MADE_BY, "model_name": "another name"}).digest == reference.digest
    for key in ("framework", "model", "settings", "supports"):
        assert replace(reference, made_by={**MADE_BY, key: "other"}).digest != reference.digest


def test_supports_have_a_digest_of_their_pixels_and_masks():
    one = Example(photo(30, 40), region(slice(5), slice(5), (30, 40)))
    same = Example(one.image.copy(), one.mask.copy())
    digest = supports_digest([one])
    assert supports_digest([same]) == digest
    others = [
        [Example(one.image, ~one.mask)], [Example(255 - one.image, one.mask)], [one, one],
        [Example(one.image.reshape(40, 30, 3), one.mask.reshape(40, 30))],
    ]  # fmt: skip
    assert len({digest, *(supports_digest(each) for each in others)}) == 5


class TestPreview:
    @pytest.mark.parametrize(
        "size, expected", [((1000, 700), (320, 224)), ((700, 1000), (224, 320)), ((90, 120), (90, 120))]
    )
    def test_it_is_small_and_keeps_its_proportions(self, size, expected):
        image, mask = preview(Example(photo(*size), region(slice(100), slice(50), size)))
        assert image.shape == (*expected, 3) and mask.shape == expected
        assert image.dtype == np.uint8 and mask.dtype == bool
        share = mask.mean(), region(slice(100), slice(50), size).mean()
        assert share[0] == pytest.approx(share[1], rel=0.05)

    def test_a_mask_too_fine_for_it_is_still_seen(self):
        _, mask = preview(Example(photo(2000, 2000), region(1000, 1000, (2000, 2000))))
        assert 0 < mask.sum() < 20


# Files that are no reference


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no reference file .*none\.safetensors"):
        Reference.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no reference file"):
        Reference.load(tmp_path)


def content(file):
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


def without(name):
    return lambda tensors, told: tensors.pop(name)


def changed(name, value):
    return lambda tensors, told: tensors.__setitem__(name, value)


def told_as(**metadata):
    return lambda tensors, told: told.update(metadata)


NAN = torch.tensor([1.0, float("nan"), 1.0, 1.0])
DAMAGE = {
    "another version": (told_as(format="prmagic-reference-2"), "of another version of prmagic"),
    "another program": (told_as(format="pt"), "of something else than prmagic"),
    "no format": (lambda tensors, told: told.pop("format"), "of something else than prmagic"),
    "no maker": (lambda tensors, told: told.pop("made_by"), "made_by"),
    "a maker that is no JSON": (told_as(made_by="{"), "damaged"),
    "a maker that is a list": (told_as(made_by="[1]"), "damaged"),
    "a maker of numbers": (told_as(made_by='{"framework": 3}'), "does not say what made it"),
    "a maker without a framework": (told_as(made_by="{}"), "not what was saved"),
    "settings that are no JSON": (told_as(made_by=json.dumps({**MADE_BY, "settings": "{"})), "not what was saved"),
    "another label": (told_as(label="dog"), "not what was saved"),
    "no label": (lambda tensors, told: told.pop("label"), "label"),
    "no checksum": (lambda tensors, told: told.pop("checksum"), "not what was saved"),
    "without what the framework learnt": (without("tensor.target"), "not what was saved"),
    "what was learnt in another shape": (changed("tensor.target", torch.ones(5)), "not what was saved"),
    "one number changed": (changed("tensor.target", torch.tensor([1.0, 1.0, 1.0, 1.1])), "not what was saved"),
    "no tokens": (without("tensor.tokens"), "tokens"),
    "no shares": (without("tensor.shares"), "shares"),
    "no counts": (without("tensor.token_counts"), "token_counts"),
    "no preview": (without("preview.image"), "preview.image"),
    "numbers that are none": (changed("tensor.target", NAN), "its target are no finite numbers"),
    "infinite tokens": (changed("tensor.tokens", torch.full((5, 4), torch.inf)), "its tokens are no finite numbers"),
    "too few tokens": (changed("tensor.tokens", torch.zeros(4, 4)), "do not fit together"),
    "too few shares": (changed("tensor.shares", torch.zeros(4)), "do not fit together"),
    "counts of no supports": (changed("tensor.token_counts", torch.zeros(0, dtype=torch.int64)), "do not fit"),
    "counts that are a table": (changed("tensor.token_counts", torch.tensor([[3, 2]])), "do not fit together"),
    "counts below zero": (changed("tensor.token_counts", torch.tensor([6, -1])), "do not fit together"),
    "counts that are no whole numbers": (changed("tensor.token_counts", torch.tensor([2.5, 2.5])), "do not fit"),
    "tokens without channels": (changed("tensor.tokens", torch.zeros(5)), "do not fit together"),
    "shares with channels": (changed("tensor.shares", torch.zeros(5, 2)), "do not fit together"),
    "a grey preview": (changed("preview.image", torch.zeros(30, 40, dtype=torch.uint8)), "no photo with a mask"),
    "a preview of floats": (changed("preview.image", torch.zeros(30, 40, 3)), "no photo with a mask"),
    "a mask of another size": (changed("preview.mask", torch.ones(30, 41, dtype=torch.bool)), "no photo with a mask"),
    "a mask of numbers": (changed("preview.mask", torch.ones(30, 40)), "no photo with a mask"),
    "a type that numpy lacks": (changed("preview.image", torch.zeros(30, 40, 3, dtype=torch.bfloat16)), "damaged"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_file_is_refused_with_a_reason(kind, file):
    damage, said = DAMAGE[kind]
    tensors, told = content(file)
    damage(tensors, told)
    save_file(tensors, file, told)
    with pytest.raises(ReferenceMismatch, match=said) as raised:
        Reference.load(file)
    assert str(file) in str(raised.value)
    assert "anew from the support photos" in str(raised.value)


@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.99])
def test_a_file_cut_short(file, share):
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ReferenceMismatch, match="is not a reference file, or it is damaged"):
        Reference.load(file)


@pytest.mark.parametrize("junk", [b"hello", b"\xff" * 100, os.urandom(1000)])
def test_another_kind_of_file(tmp_path, junk):
    (tmp_path / "text").write_bytes(junk)
    with pytest.raises(ReferenceMismatch, match="is not a reference file, or it is damaged"):
        Reference.load(tmp_path / "text")


def test_the_weights_of_a_model():
    with pytest.raises(ReferenceMismatch, match="of something else than prmagic"):
        Reference.load(MINI / "model.safetensors")


def test_the_format_says_its_version():
    assert FORMAT.startswith("prmagic-reference-")
