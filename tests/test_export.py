import dataclasses
import json
import math
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask

from prmagic.export import RunFolder, digest, is_result, record, rle
from prmagic.frameworks import Reference
from prmagic.resumable import locked
from prmagic.types import Candidate, Part, Prompts, Segmentation

SHA = 64 * "a"
RUN = {"settings": {"flow": {"steps": 1, "eta": 0.001}, "seed": 7}, "references": {"cat": "abc"}}


def candidate(mask, step=0, box=(1.0, 0.0, 2.0, 1.0), predicted_iou=0.5):
    prompts = Prompts(np.array([[2.0, 1.0], [0.5, 0.25]], np.float32), np.array([1, 0]), box)
    return Candidate(mask, prompts, predicted_iou, torch.zeros(4, 4), 0, mask, step=step)


def segmentation(query="a.jpg", label="cat", masks=None, scores=(0.25, 0.5), chosen=1, **details):
    if masks is None:
        masks = np.zeros((2, 2, 3), bool)
        masks[0, 1, 2] = masks[1, :, 1:] = True
    candidates = tuple(candidate(mask, step, **details) for step, mask in enumerate(masks))
    return Segmentation(query, label, 7, np.zeros((2, 3, 3), np.uint8), candidates, scores, chosen)


def lines(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def test_rle_counts_down_the_columns():
    mask = np.array([[0, 1, 1], [0, 0, 1]], bool)  # column by column: 0 0, 1 0, 1 1
    # The runs 2 1 1 2, where COCO writes the fourth and later ones as what they exceed the last but one by: 2 1 1 1
    assert rle(mask) == {"size": [2, 3], "counts": "2111"}


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (37, 23)])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_rle_comes_back(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    encoded = json.loads(json.dumps(rle(mask)))
    assert encoded["size"] == list(shape)
    np.testing.assert_array_equal(coco_mask.decode(encoded), mask)


def test_record_by_hand():
    written = record(segmentation(), SHA)
    assert {**written, "candidates": None} == {
        "query": "a.jpg", "sha256": SHA, "label": "cat", "seed": 7, "height": 2, "width": 3, "found": True,
        "score": None, "min_score": None, "chosen": 1, "scores": [0.25, 0.5], "candidates": None,
    }  # fmt: skip
    assert written["candidates"][1] == {
        "step": 1, "points": [[2.0, 1.0], [0.5, 0.25]], "labels": [1, 0], "box": [1.0, 0.0, 2.0, 1.0],
        "parts": [], "predicted_iou": 0.5, "area": 4, "rle": {"size": [2, 3], "counts": "24"},
    }  # fmt: skip
    assert written["candidates"][0]["area"] == 1


def test_record_of_a_union_says_what_made_each_mask():
    first = Prompts(np.array([[2.0, 1.0]], np.float32), np.array([1]))
    second = Prompts(np.array([[0.1, 0.25], [2.0, 1.0]], np.float32), np.array([0, 1]), (0.0, 0.5, 2.0, 1.0))
    result = segmentation()
    parts = (Part(first, None), Part(second, 2))
    united = tuple(dataclasses.replace(each, parts=parts) for each in result.candidates)
    for plain, written in zip(
        record(result, SHA)["candidates"],
        record(dataclasses.replace(result, candidates=united), SHA)["candidates"],
        strict=True,
    ):
        assert written == {**plain, "parts": [
            {"points": [[2.0, 1.0]], "labels": [1], "box": None, "channel": None},
            {"points": [[float(np.float32(0.1)), 0.25], [2.0, 1.0]], "labels": [0, 1], "box": [0.0, 0.5, 2.0, 1.0],
             "channel": 2},
        ]}  # fmt: skip
        json.dumps(written, allow_nan=False)


def test_record_of_nothing_found_is_valid_json():
    empty = segmentation(
        masks=np.zeros((2, 2, 3), bool), scores=(-math.inf, math.nan), chosen=0, box=None, predicted_iou=math.nan
    )
    written = record(empty, SHA)
    assert written["found"] is False
    assert written["scores"] == [None, None]
    assert written["candidates"][0] | {"points": 0, "rle": 0} == {
        "step": 0, "points": 0, "labels": [1, 0], "box": None, "parts": [], "predicted_iou": None, "area": 0, "rle": 0,
    }  # fmt: skip
    json.dumps(written, allow_nan=False)


def test_run_folder_goes_on(tmp_path):
    out = tmp_path / "new" / "out"
    first = RunFolder(out, RUN)
    assert first.done == {}
    first.append(record(segmentation("a.jpg"), SHA))
    first.append(record(segmentation("sub/ü ☃.jpg"), SHA))
    first.append(record(segmentation("a.jpg", "dog"), SHA))
    content = (out / "results.jsonl").read_bytes()

    second = RunFolder(out, RUN)
    assert second.done == first.done == dict.fromkeys([("a.jpg", "cat"), ("sub/ü ☃.jpg", "cat"), ("a.jpg", "dog")], SHA)
    assert (out / "results.jsonl").read_bytes() == content
    assert [line["label"] for line in lines(out)] == ["cat", "cat", "dog"]


@pytest.mark.parametrize(
    "name", ["line\u2028separator", "next\x85line", "new\nline", "form\x0cfeed", 'quote"', "\\u0041"]
)
def test_odd_names_count_as_done(tmp_path, name):
    RunFolder(tmp_path, RUN).append(record(segmentation(name), SHA))
    assert RunFolder(tmp_path, RUN).done == {(name, "cat"): SHA}


@pytest.mark.parametrize("cut", [1, 2, 30, -1])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    run = RunFolder(tmp_path, RUN)
    run.append(record(segmentation("ä.jpg"), SHA))
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole + whole.replace("ä".encode(), "ö".encode())[:cut])

    again = RunFolder(tmp_path, RUN)
    assert again.done == {("ä.jpg", "cat"): SHA}
    assert results.read_bytes() == whole
    again.append(record(segmentation("ö.jpg"), SHA))
    assert [line["query"] for line in lines(tmp_path)] == ["ä.jpg", "ö.jpg"]


@pytest.mark.parametrize(
    "junk", [b"\0" * 64, b"null\n", b"5\n", b'{"query": "x"}\n', b'{"query": [], "label": 1}\n', b"\xff\n"]
)
def test_other_damage_is_dropped(tmp_path, junk):
    RunFolder(tmp_path, RUN).append(record(segmentation(), SHA))
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole + junk)
    assert RunFolder(tmp_path, RUN).done == {("a.jpg", "cat"): SHA}
    assert results.read_bytes() == whole


def test_a_line_that_came_twice_counts_once(tmp_path):
    RunFolder(tmp_path, RUN).append(record(segmentation(), SHA))
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole * 2)
    RunFolder(tmp_path, RUN)
    assert results.read_bytes() == whole


def test_other_settings_are_refused_by_name(tmp_path):
    RunFolder(tmp_path, RUN).append(record(segmentation(), SHA))
    before = (tmp_path / "run.json").read_bytes()
    other = {"settings": {"flow": {"steps": 2, "eta": 0.001}, "seed": 7}, "references": {"cat": "abc"}}
    with pytest.raises(ValueError, match=r"settings\.flow\.steps was 1, now it is 2\. Choose another --out") as caught:
        RunFolder(tmp_path, other)
    assert "eta" not in str(caught.value)
    with pytest.raises(ValueError, match=r'references\.dog was null, now it is "def"'):
        RunFolder(tmp_path, {**RUN, "references": {"cat": "abc", "dog": "def"}})
    with pytest.raises(ValueError, match=r"references\.cat"):
        RunFolder(tmp_path, {**RUN, "references": {}})
    assert (tmp_path / "run.json").read_bytes() == before
    assert RunFolder(tmp_path, RUN).done


def made_with(framework="matcher", model="aa+bb", references="abc", **settings):
    return {
        "settings": {"framework": framework, "model": model, "settings": settings},
        "references": {"cat": references},
    }


@pytest.mark.parametrize(
    "now, names, told",
    [
        (
            made_with("persam-f", "aa", "def", points=5), "sam",
            'settings.framework was "matcher", now it is "persam-f"',
        ),
        (made_with(model="aa+cc", references="def", bridge="pad"), "sam + large",
         'model was "sam + small", now it is "sam + large"'),
        (made_with(model="aa+cc", references="def", bridge="pad"), "sam + small",
         'settings.model was "aa+bb", now it is "aa+cc"'),
        (made_with(references="def", bridge="ridge"), "sam + small",
         'settings.settings.bridge was "pad", now it is "ridge"'),
        (made_with(references="def", bridge="pad"), "sam + small", 'references.cat was "abc", now it is "def"'),
    ],
)  # fmt: skip
def test_of_what_differs_only_the_cause_is_named(tmp_path, now, names, told):
    RunFolder(tmp_path, made_with(bridge="pad"), {"model": "sam + small"})
    with pytest.raises(ValueError) as caught:
        RunFolder(tmp_path, now, {"model": names})
    assert str(caught.value) == (
        f"{tmp_path} holds results of another run: {told}. Choose another --out, or start it anew with --overwrite"
    )


def test_another_name_of_the_same_models_is_no_difference(tmp_path):
    RunFolder(tmp_path, made_with(bridge="pad"), {"model": "sam + small"})
    RunFolder(tmp_path, made_with(bridge="pad"), {"model": "sam + a copy of small"})
    assert json.loads((tmp_path / "run.json").read_text())["model"] == "sam + small"


def test_overwrite_starts_anew_and_leaves_other_files_alone(tmp_path):
    run = RunFolder(tmp_path, RUN)
    run.append(record(segmentation(), SHA))
    picture = run.path("masks", "sub/a.jpg", None, ".png")
    picture.parent.mkdir(parents=True)
    picture.touch()
    (tmp_path / "notes.txt").touch()
    other = {**RUN, "references": {"cat": "other"}}
    assert RunFolder(tmp_path, other, overwrite=True).done == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json"]
    assert json.loads((tmp_path / "run.json").read_text())["references"] == {"cat": "other"}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["masks/1.png", "overlays/1.jpg", "candidates/1.png", "results.jsonl", "run.json"])
def test_what_others_wrote_is_never_touched(tmp_path, name, overwrite):
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text('{"epochs": 3}\n')
    with pytest.raises(ValueError, match="choose another --out"):
        RunFolder(tmp_path, RUN, overwrite=overwrite)
    assert theirs.read_text() == '{"epochs": 3}\n'
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [theirs]


def test_run_json_holds_the_run_and_versions(tmp_path):
    RunFolder(tmp_path, RUN)
    written = json.loads((tmp_path / "run.json").read_text())
    assert {name: written[name] for name in RUN} == RUN
    assert written["versions"]["torch"] == version("torch")
    assert {"python", "prmagic", "transformers", "numpy", "scikit-learn", "POT"} <= set(written["versions"])


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; --out needs a folder"):
        RunFolder(tmp_path / "file", RUN)


@pytest.mark.parametrize(
    "query, label, path",
    [
        ("a.jpg", None, "masks/a.png"),
        ("sub/a.b.jpg", None, "masks/sub/a.b.png"),
        ("sub/a.jpg", "cat", "masks/cat/sub/a.png"),
        ("no suffix", "cat", "masks/cat/no suffix.png"),
    ],
)
def test_paths(tmp_path, query, label, path):
    assert RunFolder(tmp_path, RUN).path("masks", query, label, ".png") == tmp_path / path


def test_is_result(tmp_path):
    RunFolder(tmp_path / "out", RUN)
    assert is_result(tmp_path / "out" / "masks" / "sub" / "a.png")
    assert not is_result(tmp_path / "out" / "a.png")
    assert not is_result(tmp_path / "dataset" / "masks" / "a.png")
    assert not is_result(Path("a.png"))


def test_a_folder_is_locked_for_one(tmp_path):
    out = tmp_path / "out"
    with locked(out):
        with pytest.raises(ValueError, match="another run is writing into"), locked(out):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(out):
        pass
    assert list(out.iterdir()) == []


def test_digest_tells_references_apart_by_what_they_were_made_from():
    def reference(**made_by):
        return Reference({}, made_by, (np.zeros((1, 1, 3), np.uint8), np.zeros((1, 1), bool)))

    first = {"framework": "persam", "model": "abc", "supports": "123"}
    assert digest(reference(**first)) == digest(reference(**first, model_name="a path"))
    changed = [{**first, key: "other"} for key in first]
    assert len({digest(reference(**made_by)) for made_by in [first, *changed]}) == 4
