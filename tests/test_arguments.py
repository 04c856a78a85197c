"""What the public functions say to values of a wrong type: which argument it is, and what it takes."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import prmagic
from prmagic import Flow, Reference, Segmenter, Support, checks
from prmagic.frameworks.persam import PerSamF


@pytest.fixture(scope="module")
def segmenter(sam):
    return prmagic.load(sam=sam, steps=0)


@pytest.fixture(scope="module")
def support(mini):
    return Support(mini["support_rgb"], mini["support_mask"])


@pytest.fixture(scope="module")
def reference(segmenter, support):
    return segmenter.encode_support(support)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"framework": 3}, "3 is no framework"),
        ({"framework": None}, "None is no framework"),
        ({"preset": None}, "the preset of persam-f is a name, and not None: choose one of: default, paper"),
        ({"preset": ["paper"]}, r"the preset of persam-f is a name, and not \['paper'\]"),
        ({"selector": 3}, "a selector is a name or a function, not int"),
        ({"sam": 3}, "sam must be a name, a folder, a file, or a model; got 3"),
        ({"sam": None}, "sam must be a name, a folder, a file, or a model; got None"),
        ({"framework": "matcher", "encoder": 3}, "encoder must be a name, a folder, a file, or a model; got 3"),
        ({"min_score": "0.5"}, "min_score must be a number; got '0.5'"),
        ({"min_score": math.nan}, "min_score must be a finite number; got nan"),
        ({"min_score": 1.5}, "min_score .* lies in -1 … 1, not 1.5"),
        ({"seed": None}, "seed must be a whole number; got None"),
        ({"device": 3.5}, "device '3.5' cannot be used here"),
        ({"device": []}, r"device '\[\]' cannot be used here .*there is no such kind of device"),
        ({"dtype": 3}, "the dtype is a name, and not 3: choose one of: float32, bfloat16, float16, mixed, auto"),
        ({"dtype": torch.int8}, "dtype torch.int8 is none of the image encoders'"),
        ({"cache": 3}, "cache must be a path; got 3"),
        ({"cache": ""}, "cache is empty"),
        ({"max_pixels": 0}, "max_pixels must be 1 or more; got 0"),
        ({"max_pixels": "many"}, "max_pixels must be a whole number; got 'many'"),
        ({"flow": 3}, "flow must be a name; got 3"),
        ({"steps": "3"}, "steps must be a whole number; got '3'"),
        ({"objective": None}, "objective must be a name; got None"),
    ],
    ids=str,
)
def test_load(wrong, told, sam):
    with pytest.raises((ValueError, TypeError), match=told) as raised:
        prmagic.load(**{"sam": sam, **wrong})
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"framework": "persam"}, "framework must be a framework on its models .*prmagic.load makes one by name"),
        ({"flow": "full"}, r"flow must be a prmagic\.Flow .*; got 'full'"),
        ({"preset": None}, "preset must be text; got None"),
        ({"max_pixels": -1}, "max_pixels must be 1 or more"),
        ({"min_score": [0.5]}, r"min_score must be a number; got \[0.5\]"),
    ],
    ids=str,
)
def test_segmenter(wrong, told, sam):
    with pytest.raises((ValueError, TypeError), match=told):
        Segmenter(**{"framework": PerSamF(sam), **wrong})


@pytest.mark.parametrize(
    "wrong, told",
    [
        ({"mode": None}, "unknown flow None"),
        ({"objective": []}, r"unknown objective \[\]"),
        ({"steps": "5"}, "steps must be a whole number; got '5'"),
        ({"eta": None}, "eta must be a number; got None"),
        ({"gamma": "x"}, "gamma must be a number"),
        ({"rho": [1]}, "rho must be a number"),
    ],
    ids=str,
)
def test_flow(wrong, told):
    with pytest.raises(ValueError, match=told):
        Flow(**wrong)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"images": np.zeros((8, 8, 3), np.uint8)}, r"put a single one into a list.*got ndarray of shape \(8, 8, 3\)"),
        ({"images": torch.zeros(3, 8, 8)}, "put a single one into a list"),
        ({"images": None}, "stream takes several photos"),
        ({"images": 3}, "stream takes several photos"),
        ({"names": "a"}, "stream takes several names: put a single one into a list; got 'a'"),
        ({"names": 3}, "stream takes several names"),
        ({"batch_size": "2"}, "batch_size must be a whole number; got '2'"),
        ({"batch_size": True}, "batch_size must be a whole number"),
        ({"on_error": "skip"}, "on_error must be a function of a name and an error; got 'skip'"),
        ({"references": [1]}, "a reference comes from encode_support, and is not list"),
        ({"references": {3: None}}, "references are named by labels, such as 'cat'; got 3"),
        ({"references": {"cat": 3}}, "a reference comes from encode_support, and is not int"),
    ],
    ids=str,
)
def test_stream_tells_before_anything_is_read(change, told, segmenter, reference, mini):
    given = {"images": [mini["query_rgb"]], "references": reference, **change}
    with pytest.raises((ValueError, TypeError), match=told):
        segmenter.stream(**given)


@pytest.mark.parametrize(
    "names, told",
    [
        ([], "fewer names than the others"),
        (["a", "b"], "fewer images than the others"),
        ([3], "a name must be text; got 3"),
    ],
)
def test_names_that_do_not_fit(names, told, segmenter, reference, mini):
    with pytest.raises((ValueError, TypeError), match=told):
        list(segmenter.stream([mini["query_rgb"]], reference, names=names))


def test_a_stack_of_photos_is_several(segmenter, reference, mini):
    assert len(list(segmenter.stream(np.stack([mini["query_rgb"]] * 2), reference))) == 2


def test_segment(segmenter, reference, mini):
    with pytest.raises(TypeError, match="name must be text; got 3"):
        segmenter.segment(mini["query_rgb"], reference, name=3)
    with pytest.raises(ValueError, match="cannot read an object of type list"):
        segmenter.segment([mini["query_rgb"]], reference)


def test_encode_support(segmenter, support, mini):
    with pytest.raises(TypeError, match="label must be text; got 3"):
        segmenter.encode_support(support, label=3)
    with pytest.raises(TypeError, match=r"supports must be a Support\(image, mask\), or a list of them; got None"):
        segmenter.encode_support(None)
    with pytest.raises(TypeError, match=r"takes Support\(image, mask\), not str"):
        segmenter.encode_support("cat.jpg")
    with pytest.raises(ValueError, match="the mask value must be a whole number; got '1'"):
        segmenter.encode_support(Support(mini["support_rgb"], mini["support_mask"], "1"))
    with pytest.raises(ValueError, match="cannot read an object of type int"):
        segmenter.encode_support(Support(mini["support_rgb"], 3))


@pytest.mark.parametrize("path", [None, 3, ["a"]])
def test_reference_files(path, reference):
    for use in (Reference.load, reference.save):
        with pytest.raises(TypeError, match="the reference's file must be a path; got "):
            use(path)


def test_a_reference_that_cannot_be_saved_has_no_number_of_the_system(reference, tmp_path):
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "cat.safetensors", tmp_path):
        with pytest.raises(ValueError, match="cannot save the reference as") as raised:
            reference.save(place)
        assert "rrno" not in str(raised.value) and "os error" not in str(raised.value)


def test_what_is_shown_is_short():
    assert checks.shown(np.zeros((2, 3))) == "ndarray of shape (2, 3)"
    assert len(checks.shown("x" * 1000)) == 60
    assert checks.shown(Path("a")) == repr(Path("a"))
