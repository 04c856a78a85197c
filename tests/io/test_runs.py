"""The folder that `prmagic segment` writes."""

import dataclasses
import json
import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from made import RUN, SHA, segmentation
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic.io.finding import file_sha256
from prmagic.io.formats import rle
from prmagic.io.runs import RunFolder, ends_run, is_result, record
from prmagic.types import Part, Prompts


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
        "given_away": 0, "score": None, "min_score": None, "chosen": 1, "scores": [0.25, 0.5],
        "rle": {"size": [2, 3], "counts": "24"}, "candidates": None,
    }  # fmt: skip
    assert written["candidates"][1] == {
        "step": 1, "channel": 0, "points": [[2.0, 1.0], [0.5, 0.25]], "labels": [1, 0], "box": [1.0, 0.0, 2.0, 1.0],
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
        "step": 0, "channel": 0, "points": 0, "labels": [1, 0], "box": None, "parts": [], "predicted_iou": None,
        "area": 0, "rle": 0,
    }  # fmt: skip
    json.dumps(written, allow_nan=False)


TWO = {**RUN, "references": {"cat": "abc", "dog": "def"}}


def test_run_folder_goes_on(tmp_path):
    out = tmp_path / "new" / "out"
    first = RunFolder(out, TWO)
    assert first.done == {}
    for result in (segmentation("a.jpg"), segmentation("sub/ü ☃.jpg"), segmentation("a.jpg", "dog")):
        first.add(result, SHA)
    content = (out / "results.jsonl").read_bytes()

    second = RunFolder(out, TWO)
    assert second.done == first.done == dict.fromkeys([("a.jpg", "cat"), ("sub/ü ☃.jpg", "cat"), ("a.jpg", "dog")], SHA)
    assert (out / "results.jsonl").read_bytes() == content
    assert [line["mask"] for line in lines(out)] == ["masks/cat/a.png", "masks/cat/sub/ü ☃.png", "masks/dog/a.png"]
    with Image.open(out / "masks/dog/a.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), segmentation().mask * 255)


def test_pictures_are_written_beside_the_mask(tmp_path):
    run = RunFolder(tmp_path, RUN)
    run.add(
        segmentation("sub/a.jpg"), SHA, {"overlays": Image.new("RGB", (3, 2)), "candidates": Image.new("L", (9, 9))}
    )
    there = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*.*")}
    assert there == {"run.json", "results.jsonl", "masks/sub/a.png", "overlays/sub/a.jpg", "candidates/sub/a.png"}


@pytest.mark.parametrize(
    "name", ["line\u2028separator", "next\x85line", "new\nline", "form\x0cfeed", 'quote"', "\\u0041", "\\xe9", "a:b"]
)
@pytest.mark.skipif(os.name == "nt", reason="no such names there")
def test_odd_names_count_as_done(tmp_path, name):
    RunFolder(tmp_path, RUN).add(segmentation(name), SHA)
    assert RunFolder(tmp_path, RUN).done == {(name, "cat"): SHA}


@pytest.mark.parametrize("cut", [1, 2, 30, -1])
def test_a_torn_last_line_is_dropped_and_told(tmp_path, cut):
    run = RunFolder(tmp_path, RUN)
    run.add(segmentation("ä.jpg"), SHA)
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole + whole.replace("ä".encode(), "ö".encode())[:cut])

    with pytest.warns(UserWarning, match=r"results.jsonl: of its lines 1 are (damaged|cut short); .* is done again"):
        again = RunFolder(tmp_path, RUN)
    assert again.done == {("ä.jpg", "cat"): SHA}
    assert results.read_bytes() == whole
    again.add(segmentation("ö.jpg"), SHA)
    assert [line["query"] for line in lines(tmp_path)] == ["ä.jpg", "ö.jpg"]


@pytest.mark.parametrize(
    "junk",
    [
        b"\0" * 64, b"null\n", b"5\n", b'{"query": "x"}\n', b'{"query": [], "label": 1}\n', b"\xff\n",
        b"[" * 100_000 + b"\n", b"1" * 9999 + b"\n", b'{"query": "", "label": "cat", "sha256": "x"}\n',
        b'{"query": "b", "label": 5, "sha256": "x"}\n',
        b'{"query": "b", "label": "cat", "sha256": "x", "mask": "masks/../../b.png"}\n',
        b'{"query": "b", "label": "cat", "sha256": "x", "mask": "/etc/b.png"}\n',
        b'{"query": "\\ud800", "label": "cat", "sha256": "x"}\n',
    ],
)  # fmt: skip
def test_other_damage_is_dropped_and_told(tmp_path, junk):
    RunFolder(tmp_path, RUN).add(segmentation(), SHA)
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole + junk)
    with pytest.warns(UserWarning, match="of its lines 1 "):
        assert RunFolder(tmp_path, RUN).done == {("a.jpg", "cat"): SHA}
    assert results.read_bytes() == whole


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_linked_file_of_records_stays_a_link(tmp_path):
    out = tmp_path / "out"
    RunFolder(out, RUN).add(segmentation(), SHA)
    (out / "results.jsonl").rename(tmp_path / "elsewhere.jsonl")
    (out / "results.jsonl").symlink_to(tmp_path / "elsewhere.jsonl")
    with (tmp_path / "elsewhere.jsonl").open("a") as file:
        file.write("{")
    with pytest.warns(UserWarning, match="of its lines 1 are damaged|cut short"):
        RunFolder(out, RUN)
    assert (out / "results.jsonl").is_symlink() and len(lines(out)) == 1


def test_records_that_cannot_be_written_end_the_run(tmp_path):
    run = RunFolder(tmp_path, RUN)
    (tmp_path / "results.jsonl").mkdir()
    with pytest.raises(RuntimeError, match=r"results.jsonl cannot be written: "):
        run.add(segmentation(), SHA)


def test_a_line_that_came_twice_counts_once(tmp_path):
    RunFolder(tmp_path, RUN).add(segmentation(), SHA)
    results = tmp_path / "results.jsonl"
    whole = results.read_bytes()
    results.write_bytes(whole * 2)
    RunFolder(tmp_path, RUN)
    assert results.read_bytes() == whole


def cut(file):
    file.write_bytes(file.read_bytes()[:50])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-16] ^= 1  # in the checksum of the last chunk but one, or near it
    file.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, cut, flip, lambda file: file.write_bytes(b""), lambda file: Image.new("L", (5, 5)).save(file)],
)
def test_a_record_whose_mask_is_gone_or_damaged_is_redone(tmp_path, damage):
    run = RunFolder(tmp_path, RUN)
    for name in ("a.jpg", "b.jpg"):
        run.add(segmentation(name), SHA)
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    damage(tmp_path / "masks" / "a.png")
    with pytest.warns(UserWarning, match="of its lines 1 have a mask that is missing or damaged"):
        again = RunFolder(tmp_path, RUN)
    assert again.done == {("b.jpg", "cat"): SHA}
    again.add(segmentation("a.jpg"), SHA)
    after = {file: file.read_bytes() for file in tmp_path.rglob("*.*")}
    results = tmp_path / "results.jsonl"
    assert sorted(after.pop(results).splitlines()) == sorted(before.pop(results).splitlines()) and after == before


@pytest.mark.parametrize(
    "values", [{"chosen": -1}, {"candidates": []}, {"rle": {"size": [2, 3], "counts": "~"}}, {"height": 3}, {"rle": 1}]
)
def test_a_record_that_was_damaged_is_redone(tmp_path, values):
    RunFolder(tmp_path, RUN).add(segmentation(), SHA)
    (line,) = lines(tmp_path)
    (tmp_path / "results.jsonl").write_text(json.dumps({**line, **values}) + "\n")
    with pytest.warns(UserWarning, match="of its lines 1 are damaged; what they are about is done again"):
        assert not RunFolder(tmp_path, RUN).done


def test_what_a_killed_run_began_is_removed(tmp_path):
    RunFolder(tmp_path, RUN).add(segmentation(), SHA)
    theirs = tmp_path / "masks" / ".mine.tmp"
    for file in (tmp_path / "masks" / f".{32 * 'a'}.tmp", tmp_path / "run.json.tmp", theirs):
        file.touch()
    RunFolder(tmp_path, RUN)
    assert list(tmp_path.rglob("*.tmp")) == [theirs]


def test_overwrite_starts_anew_and_leaves_other_files_alone(tmp_path):
    run = RunFolder(tmp_path, RUN)
    run.add(segmentation("sub/a.jpg"), SHA)
    (tmp_path / "notes.txt").touch()
    other = {**RUN, "references": {"cat": "other"}}
    assert RunFolder(tmp_path, other, overwrite=True).done == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "run.json"]
    assert json.loads((tmp_path / "run.json").read_text())["references"] == {"cat": "other"}


@pytest.mark.parametrize("moment", range(4))
def test_overwrite_may_be_killed_at_any_moment(tmp_path, monkeypatch, moment):
    """Records go before masks, so that no record is without its mask, and run.json, which names the folder, last."""
    run = RunFolder(tmp_path, RUN)
    run.add(segmentation("a.jpg"), SHA)
    calls = []

    class Killed(BaseException):
        pass

    def counted(real):
        def do(*args, **kwargs):
            if len(calls) == moment:
                raise Killed
            calls.append(args[0])
            return real(*args, **kwargs)

        return do

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", counted(Path.unlink))
        patched.setattr("shutil.rmtree", counted(shutil.rmtree))
        with pytest.raises(Killed):
            RunFolder(tmp_path, RUN, overwrite=True)
    again = RunFolder(tmp_path, RUN)
    assert (tmp_path / "masks/a.png").exists() or not again.done
    again = RunFolder(tmp_path, RUN, overwrite=True)
    again.add(segmentation("a.jpg"), SHA)
    assert [line["query"] for line in lines(tmp_path)] == ["a.jpg"]


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


# Names


@pytest.mark.parametrize(
    "query, label, path",
    [
        ("a.jpg", None, "masks/a.png"),
        ("sub/a.b.jpg", None, "masks/sub/a.b.png"),
        ("sub/a.jpg", "cat", "masks/cat/sub/a.png"),
        ("no suffix", "cat", "masks/cat/no suffix.png"),
        ("..jpg", None, "masks/..png"),
        ("...jpg", None, "masks/...png"),
    ],
)
def test_paths(tmp_path, query, label, path):
    assert RunFolder(tmp_path, RUN).path("masks", query, label, ".png") == tmp_path / path


def masks(folder):
    return {line["query"]: line["mask"].removeprefix("masks/") for line in lines(folder)}


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [1, -1])
def test_photos_of_one_stem_never_share_a_mask(tmp_path, together, order):
    names = ["a.jpg", "a.png", "a_jpg.gif", "A.jpg", "sub/a.jpg", "photo", "photo.v1"][::order]
    for batch in [names] if together else [[name] for name in names]:
        run = RunFolder(tmp_path, RUN)
        run.plan(batch)
        for name in batch:
            run.add(segmentation(name), SHA)
    found = masks(tmp_path)
    assert list(found) == names
    assert len({mask.casefold() for mask in found.values()}) == len(names)
    assert all((tmp_path / "masks" / mask).is_file() for mask in found.values())
    assert len(RunFolder(tmp_path, RUN).done) == len(names)


@pytest.mark.parametrize("order", [1, -1])
def test_a_folder_named_like_another_photos_mask_or_overlay(tmp_path, order):
    names = ["dir.jpg", "dir.png/a.jpg", "dir.JPG/b.jpg", "dir.png_/a.png"][::order]
    run = RunFolder(tmp_path, RUN)
    for name in names:
        run.add(segmentation(name), SHA, {"overlays": Image.new("RGB", (3, 2))})
    assert sorted(masks(tmp_path)) == sorted(names) and len(set(masks(tmp_path).values())) == len(names)
    assert len(RunFolder(tmp_path, RUN).done) == len(names)


def test_names_do_not_depend_on_what_is_done(tmp_path):
    """A run that goes on gives each photo the name it would have had."""
    names = ["a.jpg", "a.png", "b.jpg"]
    run = RunFolder(tmp_path, RUN)
    run.plan(names)
    run.add(segmentation("a.png"), SHA)
    again = RunFolder(tmp_path, RUN)
    again.plan(names)
    assert again.path("masks", "a.jpg", None, ".png") == run.path("masks", "a.jpg", None, ".png")
    assert masks(tmp_path) == {"a.png": "a_png.png"}
    (tmp_path / "masks/a_png.png").unlink()
    with pytest.warns(UserWarning, match="missing or damaged"):
        once_more = RunFolder(tmp_path, RUN)
    once_more.plan(["a.png"])
    assert once_more.path("masks", "a.png", None, ".png").name == "a_png.png"


def test_a_photo_that_comes_later_leaves_the_earlier_mask(tmp_path):
    RunFolder(tmp_path, RUN).add(segmentation("a.jpg"), SHA)
    before = (tmp_path / "masks/a.png").read_bytes()
    run = RunFolder(tmp_path, RUN)
    run.plan(["a.jpg", "a.png"])
    other = segmentation("a.png", masks=np.ones((2, 2, 3), bool))
    run.add(other, SHA)
    assert masks(tmp_path) == {"a.jpg": "a.png", "a.png": "a_png.png"}
    assert (tmp_path / "masks/a.png").read_bytes() == before


def test_a_record_that_names_another_photos_mask_is_redone(tmp_path):
    RunFolder(tmp_path, RUN).add(segmentation("a.jpg"), SHA)
    results = tmp_path / "results.jsonl"
    results.write_text(results.read_text() + results.read_text().replace('"a.jpg"', '"b.jpg"'))
    with pytest.warns(UserWarning, match="of its lines 1 name another photo's mask"):
        assert RunFolder(tmp_path, RUN).done == {("a.jpg", "cat"): SHA}


@pytest.mark.parametrize(
    "name",
    ["x" * 251 + ".jpg", "x" * 255, "ü" * 125 + ".jpg", "x." + "y" * 253, r"\xe9" * 100 + ".jpg", "d" * 300 + "/x.jpg"],
)
def test_long_names_fit(tmp_path, name):
    run = RunFolder(tmp_path, RUN)
    run.plan([name, str(Path(name).with_suffix(".gif")) if "." in name else f"{name}.gif"])
    run.add(segmentation(name), SHA)
    assert RunFolder(tmp_path, RUN).done == {(name, "cat"): SHA}


def test_waiting(tmp_path):
    run = RunFolder(tmp_path / "out", TWO)
    photos = {}
    for number, name in enumerate(("done.jpg", "half.jpg", "new.jpg", "gone.jpg")):
        photos[name] = tmp_path / name
        photos[name].write_bytes(bytes([number]))
    for name in ("done.jpg", "half.jpg", "gone.jpg"):
        for label in ("cat", "dog")[: 1 if name == "half.jpg" else 2]:
            run.add(segmentation(name, label), file_sha256(photos[name]))
    photos["gone.jpg"].unlink()
    told = []
    waiting = run.waiting(photos.items(), ["cat", "dog"], lambda name, error: told.append((name, type(error))))
    assert waiting == {name: photos[name] for name in ("half.jpg", "new.jpg")}
    assert told == [("gone.jpg", FileNotFoundError)]
    photos["done.jpg"].write_bytes(b"other")
    with pytest.raises(ValueError, match=r"is not the photo whose results .* holds as 'done.jpg': choose"):
        run.waiting(photos.items(), ["cat", "dog"], lambda name, error: None)


def test_what_cannot_be_written_is_not_recorded(tmp_path):
    run = RunFolder(tmp_path, RUN)
    (tmp_path / "masks" / "a.png").mkdir(parents=True)
    with pytest.raises(OSError) as caught:
        run.add(segmentation("a.jpg"), SHA)
    assert not ends_run(caught.value) and not run.done
    (tmp_path / "masks" / "sub").touch()
    with pytest.raises(OSError) as caught:
        run.add(segmentation("sub/a.jpg"), SHA)
    assert ends_run(caught.value)
    run.add(segmentation("b.jpg"), SHA)
    assert list(masks(tmp_path)) == ["b.jpg"]


def test_is_result(tmp_path):
    RunFolder(tmp_path / "out", RUN)
    assert is_result(tmp_path / "out" / "masks" / "sub" / "a.png")
    assert not is_result(tmp_path / "out" / "a.png")
    assert not is_result(tmp_path / "dataset" / "masks" / "a.png")
    assert not is_result(Path("a.png"))
