"""The command line as a user meets it. The models are tiny, with random weights: the masks mean nothing, but are the
same every time."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import jsonschema
import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import prmagic
from prmagic import __version__
from prmagic.backbones.checkpoints import KNOWN, KNOWN_ENCODERS, KNOWN_SAMS, Cost
from prmagic.backbones.sam import Sam
from prmagic.cli import app
from prmagic.cli.segment import sources_by_label
from prmagic.demo import Case
from prmagic.export import file_sha256, rle
from prmagic.frameworks.base import to_mask
from prmagic.resumable import locked
from prmagic.types import Prompts

HERE = Path(__file__).parent
SAM = HERE / "golden" / "sam_mini"
GOLDEN = dict(np.load(HERE / "golden" / "persam_mini.npz"))
SCHEMA = json.loads((HERE.parent / "docs" / "results.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FAST = ("--no-pictures", "--steps", "1")
MATCHER = ("--framework", "matcher")


def save(pixels, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return path


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a support, its mask, and three photos, one of them in a sub-folder; the current one."""
    query = GOLDEN["query_rgb"]
    save(GOLDEN["support_rgb"], tmp_path / "cat.png")
    save(GOLDEN["support_mask"].astype(np.uint8) * 255, tmp_path / "cat_mask.png")
    save(query, tmp_path / "photos" / "a.png")
    save(query[:80], tmp_path / "photos" / "b.jpg")
    save(query[:, ::-1], tmp_path / "photos" / "sub" / "c.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*args, **options):
    """Never a traceback, whatever happens; an exception would be one."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return result


def segment(*args, support=("cat.png", "cat_mask.png"), out="found", code=0):
    """What it says, in one line, however it was wrapped."""
    named = () if support is None else ("--support", *support)
    result = run("segment", *args, *named, "--out", out, "--sam", SAM)
    assert result.exit_code == code, result.output
    return flat(result.output)


def flat(output):
    """Without the frame and the line breaks of an error box."""
    return re.sub(r"[\s│╭╮╰╯─|+]+", " ", output)


def picture(path):
    """(H, W, …) pixels as stored."""
    with Image.open(path) as opened:
        return np.asarray(opened)


def lines(out="found"):
    return [json.loads(line) for line in Path(out, "results.jsonl").read_bytes().splitlines()]


def queries(out="found"):
    return [line["query"] for line in lines(out)]


def contents(out="found", kinds=("masks", "results.jsonl")):
    """Every file's bytes by its path in the folder."""
    files = [path for path in Path(out).rglob("*") if path.is_file()]
    named = {path.relative_to(out).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in sorted(named.items()) if name.startswith(kinds)}


def records(out="found"):
    """The bytes of each record, whatever its place in the file."""
    return sorted(Path(out, "results.jsonl").read_bytes().splitlines())


def check_results(out, labels):
    """Every line is as the schema says, and its mask is the one in masks/."""
    for line in lines(out):
        VALIDATOR.validate(line)
        answer = line["candidates"][line["chosen"]]
        mask = coco_mask.decode(answer["rle"])
        folder = Path(out, "masks", *([line["label"]] if labels > 1 else []))
        np.testing.assert_array_equal(picture((folder / line["query"]).with_suffix(".png")), mask * 255)
        assert mask.shape == (line["height"], line["width"])
        assert line["found"] == bool(mask.any())
        assert [c["step"] for c in line["candidates"]] == list(range(len(line["scores"])))
        for candidate in line["candidates"]:
            assert candidate["area"] == coco_mask.decode(candidate["rle"]).sum()
            for asked in (candidate, *candidate["parts"]):
                assert len(asked["points"]) == len(asked["labels"])


# What is written


def test_a_folder_with_everything(work):
    said = segment("photos")
    assert "3 photo(s) segmented, 0 mask(s) empty, 0 skipped. Results: found" in said
    assert sorted(contents(kinds=("masks", "overlays", "candidates", "results", "run"))) == [
        *("candidates/a.png", "candidates/b.png", "candidates/sub/c.png"),
        *("masks/a.png", "masks/b.png", "masks/sub/c.png"),
        *("overlays/a.jpg", "overlays/b.jpg", "overlays/sub/c.jpg"),
        *("results.jsonl", "run.json"),
    ]
    check_results("found", labels=1)
    assert queries() == ["a.png", "b.jpg", "sub/c.png"]
    shapes = {name: picture(f"found/masks/{name}.png").shape for name in ("a", "b", "sub/c")}
    assert shapes == {"a": (90, 120), "b": (80, 120), "sub/c": (90, 120)}
    assert picture("found/overlays/b.jpg").shape == (80, 120, 3)
    assert all({line["label"]} == {"object"} and line["seed"] == 0 for line in lines())
    assert all(len(line["candidates"]) == 6 for line in lines())  # the baseline and 5 steps

    written = json.loads(Path("found/run.json").read_text())
    assert written["settings"]["framework"] == "persam-f"
    assert written["settings"]["flow"]["steps"] == 5
    assert written["settings"]["seed"] == 0
    assert written["settings"]["dtype"] == "float32"
    assert set(written["references"]) == {"object"}
    assert written["versions"]["prmagic"] == __version__

    before = {path: path.stat().st_mtime_ns for path in Path("found").rglob("*")}
    assert "3 of 3 photos are done already" in segment("photos")
    assert {path: path.stat().st_mtime_ns for path in Path("found").rglob("*")} == before


def test_strict_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "given, names",
    [
        (["photos/a.png"], ["a.png"]),
        (["photos/b.jpg", "photos/a.png"], ["b.jpg", "a.png"]),
        (["photos/*.png"], ["a.png"]),
        (["photos/**/*.png"], ["a.png", "sub/c.png"]),
        (["photos/"], ["a.png", "b.jpg", "sub/c.png"]),
        (["photos/a.png", "photos/a.png", "photos"], ["a.png", "b.jpg", "sub/c.png"]),
        (["photos/sub", "photos/a.png"], ["c.png", "a.png"]),
    ],
)
def test_ways_to_name_queries(work, given, names):
    segment(*given, *FAST)
    assert queries() == names


def test_no_pictures(work):
    segment("photos/a.png", "--no-pictures", "--steps", 0)
    assert sorted(contents(kinds=("",))) == ["masks/a.png", "results.jsonl", "run.json"]


def test_odd_names(work):
    names = ["[a].png", "[red]x.png", ":smile:.png", "sp ace/ü ☃.png", "two.dots.png", "line\u2028sep.png", "CAPS.PNG"]
    shutil.rmtree("photos")
    for name in names:
        save(GOLDEN["query_rgb"], work / "photos" / name, format="PNG")
    (work / "photos" / "[" / "red]").mkdir(parents=True)
    (work / "photos" / "[" / "red].jpg").write_text("[/red]")  # its path is [/red].jpg, which ends what never began
    said = segment("photos", *FAST, "--label", "[b]☃", out="o ut [", code=1)
    assert "[/red].jpg is not an image" in said
    assert sorted(queries("o ut [")) == sorted(names)
    check_results("o ut [", labels=1)
    assert "8 of 8" not in segment("photos", *FAST, "--label", "[b]☃", out="o ut [", code=1)  # one is still broken
    segment("photos/[a].png", *FAST, out="one")
    assert queries("one") == ["[a].png"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_name_that_is_not_unicode(work):
    shutil.copy("photos/a.png", b"photos/caf\xe9.png")
    segment("photos", *FAST)
    assert "caf\\xe9.png" in queries()
    check_results("found", labels=1)


def test_links_and_hidden_files(work):
    Path("photos/link.png").symlink_to("a.png")
    Path("photos/loop").symlink_to(".")
    Path("photos/nowhere.png").symlink_to("missing.png")
    shutil.copy("photos/a.png", "photos/.hidden.png")
    segment("photos", *FAST)
    assert queries() == ["a.png", "b.jpg", "sub/c.png"]


def test_kinds_of_photos(work):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    save(small[:1, :1], work / "kinds" / "1x1.png")
    save(rng.integers(0, 255, (1, 5000, 3), dtype=np.uint8), work / "kinds" / "panorama.png")
    save(rng.integers(0, 65535, (20, 30)).astype(np.uint16), work / "kinds" / "16bit.png")
    Image.fromarray(small).convert("CMYK").save("kinds/cmyk.jpg")
    Image.fromarray(small).save("kinds/moving.gif", save_all=True, append_images=[Image.fromarray(small[::-1])])
    segment("kinds", "--steps", 1)
    assert len(lines()) == 5
    check_results("found", labels=1)
    assert picture("found/masks/panorama.png").shape == (1, 5000)


def test_the_supports_mask_is_no_query(work):
    segment(".", *FAST)
    assert queries() == ["cat.png", "photos/a.png", "photos/b.jpg", "photos/sub/c.png"]
    assert "hold no photo but masks" in segment("cat_mask.png", out="other", code=2)


@pytest.mark.parametrize("out", ["photos/found", "photos"])
def test_own_output_is_no_query(work, out):
    segment("photos", "--steps", 0, out=out)
    assert "3 of 3 photos are done already" in segment("photos", "--steps", 0, out=out)
    segment("photos", *FAST, out="elsewhere")  # nor is another run's
    assert queries(out) == queries("elsewhere") == ["a.png", "b.jpg", "sub/c.png"]


# Doing it again


def test_what_is_new_is_added(work):
    segment("photos/a.png", *FAST)
    assert "1 of 3 photos are done already" in segment("photos", *FAST)
    segment("photos", *FAST, out="at once")
    assert contents() == contents("at once")


def test_another_photo_of_the_same_name_is_not_taken_as_done(work):
    segment("photos/a.png", *FAST)
    Path("photos/a.png").write_bytes(Path("photos/sub/c.png").read_bytes())
    assert "is not the photo whose results found holds as 'a.png'" in segment("photos", *FAST, code=2)


def test_overwrite(work):
    segment("photos", *FAST)
    before = contents()
    Path("found/masks/a.png").write_bytes(b"spoilt")
    assert "3 photo(s) segmented" in segment("photos", *FAST, "--overwrite")
    assert contents() == before
    segment("photos/a.png", *FAST, "--seed", 1, "--overwrite")
    assert sorted(contents()) == ["masks/a.png", "results.jsonl"]
    assert [line["seed"] for line in lines()] == [1]


@pytest.mark.parametrize(
    "change, named",
    [
        (("--seed", 1), "settings.seed was 0, now it is 1"),
        (("--steps", 2), "settings.flow.steps was 1, now it is 2"),
        (("--framework", "persam"), 'settings.framework was "persam-f", now it is "persam"'),
        (("--label", "cat"), "references.object"),
        (("--support", "photos/a.png", "cat_mask.png"), "references.object"),
    ],
)
def test_other_settings_are_refused(work, change, named):
    segment("photos/a.png", *FAST)
    before = contents(kinds=("",))
    said = segment("photos", *FAST, *change, code=2)
    assert named in said
    assert "holds results of another run" in said and "Choose another --out, or start it anew with --overwrite" in said
    assert contents(kinds=("",)) == before


def test_the_users_own_masks_are_safe(work):
    """A data set's folder has a masks/ too."""
    save(GOLDEN["support_mask"].astype(np.uint8) * 255, work / "data" / "masks" / "a.png")
    before = Path("data/masks/a.png").read_bytes()
    for more in ((), ("--overwrite",)):
        assert "choose another --out" in segment("photos", *FAST, *more, out="data", code=2)
    assert Path("data/masks/a.png").read_bytes() == before


def test_a_torn_line_is_repaired(work):
    segment("photos", *FAST)
    before = contents()
    whole = before["results.jsonl"]
    Path("found/results.jsonl").write_bytes(whole[:-40])
    Path("found/masks/sub/c.png").unlink()
    assert "2 of 3 photos are done already" in segment("photos", *FAST)
    assert contents() == before


def test_two_runs_at_once(work):
    with locked(Path("found")):
        assert "another run is writing into found" in segment("photos", *FAST, code=2)
    segment("photos", *FAST)


# The same bytes


def test_same_seed_same_bytes_in_any_order_and_batch(work):
    files = ["photos/a.png", "photos/b.jpg", "photos/sub/c.png"]
    segment(*files, "--no-pictures")
    segment(*files, "--no-pictures", out="again")
    assert contents("again") == contents()
    segment(*files[::-1], "--no-pictures", "--batch-size", 2, out="turned")
    assert records("turned") == records()
    assert contents("turned", "masks") == contents(kinds="masks")
    segment(files[1], "--no-pictures", "--batch-size", 1, out="alone")
    assert records("alone")[0] in records()
    segment(*files, "--no-pictures", "--seed", 1, out="other")
    assert records("other") != records()
    assert {line["seed"] for line in lines("other")} == {1}


def test_saved_reference_gives_the_same_bytes(work):
    segment("photos", *FAST)
    said = segment("photos", *FAST, "--save-reference", "kept/cat.safetensors", out="direct")
    assert "Saved object to kept/cat.safetensors" in said
    segment("photos", *FAST, "--reference", "kept/cat.safetensors", "--label", "object", support=None, out="loaded")
    assert contents("loaded", ("",)) == contents("direct", ("",)) == contents(kinds=("",))
    segment("photos/a.png", *FAST, "--reference", "kept/cat.safetensors", support=None, out="alone")
    assert {line["label"] for line in lines("alone")} == {"object"}
    other = Path("kept/dog.safetensors")
    other.write_bytes(Path("kept/cat.safetensors").read_bytes())
    two = ("--reference", "kept/cat.safetensors", "--reference", str(other))
    segment("photos/a.png", *FAST, *two, support=None, out="by their names")
    assert {line["label"] for line in lines("by their names")} == {"cat", "dog"}


def test_unfit_references(work):
    segment("photos/a.png", *FAST, "--save-reference", "cat.ref")
    by_reference = {"support": None, "out": "other", "code": 2}
    said = segment("photos/a.png", "--reference", "cat.ref", "--framework", "persam", **by_reference)
    assert "made with framework persam-f, but here with persam:" in said
    said = segment("photos/a.png", "--reference", "cat.ref", "--preset", "paper", **by_reference)
    assert "made with settings" in said
    assert "no reference file missing" in segment("photos/a.png", "--reference", "missing", **by_reference)
    assert "cat.png is not a reference" in segment("photos/a.png", "--reference", "cat.png", **by_reference)
    weights = SAM / "model.safetensors"
    assert "not a reference of this prmagic" in segment("photos/a.png", "--reference", weights, **by_reference)
    said = segment("photos/a.png", "--reference", "cat.ref", "--framework", "matcher", **by_reference)
    assert "made with framework persam-f, but here with matcher:" in said
    said = segment("photos/a.png", "--reference", "cat.ref", "--save-reference", "x", **by_reference)
    assert "--save-reference needs --support" in said
    assert "cannot be extended" in segment(
        "photos/a.png", "--support", "cat.png", "cat_mask.png", "--reference", "cat.ref", "--label", "x", **by_reference
    )
    assert not Path("other").exists()


@pytest.mark.parametrize("target", ["photos", "", "cat.png/x"])
def test_a_reference_that_cannot_be_saved(work, target):
    assert "Error:" in segment("photos/a.png", *FAST, "--save-reference", target, code=2)


def test_a_reference_of_another_model(work):
    shutil.copytree(SAM, "sam_other")
    weights = load_file("sam_other/model.safetensors")
    weights["mask_decoder.iou_token.weight"] += 1
    save_file(weights, "sam_other/model.safetensors", {"format": "pt"})
    segment("photos/a.png", *FAST, "--save-reference", "cat.ref")
    result = run("segment", "photos/a.png", "--reference", "cat.ref", "--out", "other", "--sam", "sam_other")
    assert result.exit_code == 2
    assert "made with model" in flat(result.output)


# Labels

CAT = ("--support", "cat.png", "cat_mask.png", "--label", "cat")
DOG = ("--support", "photos/a.png", "cat_mask.png", "--label", "dog")


def test_two_labels(work):
    said = segment("photos/b.jpg", *CAT, *DOG, "--steps", 1, "--save-reference", "kept.ref", support=None)
    assert "1 photo(s) segmented" in said
    assert [(line["query"], line["label"]) for line in lines()] == [("b.jpg", "cat"), ("b.jpg", "dog")]
    assert sorted(contents(kinds=("masks", "overlays", "candidates"))) == [
        f"{kind}/{label}/b.{suffix}"
        for kind, suffix in (("candidates", "png"), ("masks", "png"), ("overlays", "jpg"))
        for label in ("cat", "dog")
    ]
    check_results("found", labels=2)
    segment("photos/b.jpg", "--reference", "kept-cat.ref", "--reference", "kept-dog.ref", "--label", "dog", *FAST,
            support=None, out="loaded")  # fmt: skip
    assert {line["label"] for line in lines("loaded")} == {"kept-cat", "dog"}

    segment("photos/b.jpg", *CAT, *FAST, support=None, out="cat alone")
    assert records("cat alone")[0] in records()

    labels_first = ("--label", "cat", "--support", "cat.png", "cat_mask.png",
                    "--label=dog", "--support", "photos/a.png", "cat_mask.png")  # fmt: skip
    segment("photos/b.jpg", *labels_first, *FAST, support=None, out="turned")
    assert contents("turned") == contents()


def test_a_label_that_was_not_finished_is_finished(work):
    segment("photos", *CAT, *DOG, *FAST, support=None)
    before = contents()
    Path("found/results.jsonl").write_bytes(b"".join(before["results.jsonl"].splitlines(keepends=True)[:-1]))
    assert "2 of 3 photos are done already" in segment("photos", *CAT, *DOG, *FAST, support=None)
    assert contents() == before


def test_several_supports_of_one_label(work):
    segment("photos/b.jpg", "--support", "photos/a.png", "cat_mask.png", *FAST)
    segment("photos/b.jpg", *FAST, out="of one")
    assert [line["label"] for line in lines()] == ["object"]
    assert records() != records("of one")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a:b", "new\nline", "\x1b[31m", "end.", "end ", "nul\0"]
)
def test_unsafe_labels(work, name):
    assert "becomes a folder's name" in segment("photos", "--label", name, code=2)
    assert not Path("found").exists()


@pytest.mark.parametrize("second", ["cat", "Cat"])
def test_a_label_given_twice(work, second):
    more = ("--support", "photos/a.png", "cat_mask.png", "--label", second)
    assert "is given twice" in segment("photos", *CAT, *more, support=None, code=2)


@pytest.mark.parametrize(
    "args, said",
    [
        ((), "say what to look for"),
        (("--label", "cat"), "--label cat has nothing to name"),
        ((*CAT, "--label", "dog"), "--label dog has nothing to name"),
        ((*CAT, "--support", "photos/a.png", "cat_mask.png"), "put a --label behind each label's supports"),
        (("--support", "cat.png"), "--support takes two files"),
        (("--support=cat.png", "cat_mask.png"), "--support takes two files"),
        (("--support", "--label", "cat", "cat_mask.png"), "--support takes two files"),
        (("--support", "cat.png", "--label", "cat_mask.png"), "--support takes two files"),
    ],
)
def test_supports_and_labels_that_do_not_match(work, args, said):
    assert said in segment("photos", *args, support=None, code=2)
    assert not Path("found").exists()


@pytest.mark.parametrize("last", [("--support",), ("--support", "cat.png"), ("--label",), ("--reference",)])
def test_an_option_as_the_last_word_without_its_value(work, last):
    assert run("segment", "photos", "--out", "x", *last).exit_code == 2


def test_labels_name_what_is_before_them():
    support, other, label = ("support", ("s", "m")), ("support", ("t", "n")), ("label", ("cat",))
    assert sources_by_label([support, other, label])["cat"].supports == [("s", "m"), ("t", "n")]
    assert sources_by_label([label, support, other])["cat"].supports == [("s", "m"), ("t", "n")]
    two = sources_by_label([("label", ("a",)), support, ("label", ("b",)), other])
    assert {name: source.supports for name, source in two.items()} == {"a": [("s", "m")], "b": [("t", "n")]}
    assert list(sources_by_label([("reference", ("x/r.ref",)), ("reference", ("q.ref",)), label])) == ["r", "cat"]
    assert list(sources_by_label([support, ("reference", ("r.ref",))])) == ["r", "object"]


# Options act


def settings(out):
    return json.loads(Path(out, "run.json").read_text())["settings"]


@pytest.mark.parametrize(
    "option, candidates",
    [
        (("--steps", 0), 1),
        (("--steps", 2), 3),
        (("--flow", "none"), 1),
        (("--flow", "drift", "--steps", 1), 2),
        (("--flow", "noise", "--steps", 1), 2),
        (("--flow", "resample", "--steps", 1), 2),
    ],
)
def test_number_of_candidates(work, option, candidates):
    segment("photos/a.png", "--no-pictures", *option)
    (line,) = lines()
    assert len(line["candidates"]) == len(line["scores"]) == candidates
    if candidates == 1:
        assert line["scores"] == [None] and line["chosen"] == 0
    check_results("found", labels=1)


def test_strong_noise_gives_other_candidates(work):
    strong = ("--no-pictures", "--eta", 10, "--gamma", 10, "--steps", 2)
    segment("photos/a.png", *strong)
    segment("photos/a.png", *strong, "--seed", 1, out="other seed")
    counts = [[c["rle"]["counts"] for c in lines(out)[0]["candidates"]] for out in ("found", "other seed")]
    assert len({*counts[0]}) > 1
    assert counts[0][0] == counts[1][0]  # the baseline draws no noise
    assert counts[0] != counts[1]
    assert settings("found")["flow"] | {"eta": 10.0, "gamma": 10.0, "steps": 2} == settings("found")["flow"]


def test_selector_framework_and_preset(work):
    segment("photos/a.png", *FAST, "--selector", "predicted-iou", out="selector")
    (line,) = lines("selector")
    assert line["scores"] == [candidate["predicted_iou"] for candidate in line["candidates"]]
    segment("photos/a.png", *FAST, "--framework", "persam", out="persam")
    (line,) = lines("persam")
    assert line["candidates"][0]["labels"] == [1, 0]  # PerSAM has a background point
    segment("photos/a.png", *FAST, "--preset", "paper", out="paper")
    assert settings("paper")["flow"]["gradient_at_origin"] is True
    segment("photos/a.png", "--no-pictures", "--steps", 1, "--preset", "default-parts", out="parts")
    assert settings("parts")["flow"]["eta"] == 1e-4
    segment("photos/a.png", *FAST, "--dtype", "bfloat16", "--device", "cpu", out="bfloat16")
    assert settings("bfloat16")["dtype"] == "bfloat16"
    for out in ("selector", "persam", "paper", "parts", "bfloat16"):
        check_results(out, labels=1)


def test_mask_value(work):
    labels = GOLDEN["support_mask"].astype(np.uint8) * 7
    labels[:5, :5] = 3
    save(labels, work / "labels.png")
    segment("photos/a.png", *FAST)
    segment("photos/a.png", *FAST, "--mask-value", 7, support=("cat.png", "labels.png"), out="seven")
    segment("photos/a.png", *FAST, "--mask-value", 3, support=("cat.png", "labels.png"), out="three")
    assert records("seven") == records() != records("three")
    said = segment("photos/a.png", "--mask-value", 9, support=("cat.png", "labels.png"), out="nine", code=2)
    assert "has no label 9: choose one of 0, 3, 7" in said


@pytest.mark.parametrize(
    "option, said",
    [
        (("--preset", "papper"), "did you mean 'paper'"),
        (("--framework", "persamf"), "did you mean 'persam-f'"),
        (("--framework", "macher"), "did you mean 'matcher'"),
        (("--preset", "official"), "preset 'official' is Matcher's own: use it with framework matcher"),
        (("--preset", "paper-cocoo"), "did you mean 'paper-coco'"),
        (("--encoder", "embedded"), "the encoder can be chosen for framework matcher, but this is persam-f"),
        (("--encoder-size", "64"), "the encoder size can be chosen for framework matcher, but this is persam-f"),
        (
            ("--framework", "persam", "--bridge", "pad"),
            "the bridge can be chosen for framework matcher, but this is persam",
        ),
        (("--centers", 3), "the centers can be chosen for framework matcher, but this is persam-f"),
        ((*MATCHER, "--centers", 0), "Matcher's centers cannot be 0: it must be at least 1"),
        (("--rho", 0), "rho must be a finite number above 0"),
        (
            ("--flow", "noise", "--rho", 0.1),
            "the flow 'noise' has no gradient, so that rho would change nothing",
        ),
        (
            (*MATCHER, "--extra-points", "none"),
            "the extra points can be chosen for framework persam-f, but this is matcher",
        ),
        ((*MATCHER, "--bridge", "pads"), "did you mean 'pad'"),
        ((*MATCHER, "--encoder", "embeded"), "no encoder is called 'embeded': did you mean 'embedded'"),
        ((*MATCHER, "--encoder", "photos"), "has no config.json"),
        ((*MATCHER, "--encoder", "cat.png"), "cat.png is no checkpoint"),
        ((*MATCHER, "--encoder", SAM), "is a 'sam' model"),
        ((*MATCHER, "--encoder-size", "0"), "--encoder-size"),
        (("--selector", "re-encode"), "did you mean 'reencode'"),
        (("--dtype", "float"), "did you mean 'float32'"),
        (("--flow", "ful"), "full"),
        (("--sam", "embeded"), "did you mean 'embedded'"),
        (("--sam", "photos"), "has no config.json"),
        (("--device", "foo"), "device 'foo' cannot be used here"),
        (("--device", "cuda:99"), "device 'cuda:99' cannot be used here"),
        (("--steps", "-1"), "must be 0 or more; got -1"),
        (("--steps", "many"), "valid integer"),
        (("--eta", "nan"), "eta must be a finite number of at least 0; got nan"),
        (("--gamma", "-1"), "gamma must be a finite number"),
        (("--batch-size", "0"), "--batch-size"),
        (("--max-pixels", "0"), "--max-pixels"),
        (("--suport", "x"), "--support"),
    ],
)
def test_options_that_cannot_be(work, option, said):
    result = run("segment", "photos", "--support", "cat.png", "cat_mask.png", "--out", "x", "--sam", SAM, *option)
    assert result.exit_code == 2
    assert said in flat(result.output)
    assert not Path("x").exists()


# Matcher


@pytest.fixture
def matcher(encoder_folder):
    """The options for it, on a tiny encoder; with the preset that asks SAM for the fewest masks."""
    return (*MATCHER, "--encoder", encoder_folder, "--preset", "paper-parts")


def rebuilt(photo, parts):
    """The union of the masks that the record of a candidate says how to make."""
    sam = Sam.load(SAM)
    (embedding,) = sam.encode([picture(photo)])
    masks = []
    for part in parts:
        prompts = Prompts(np.array(part["points"], np.float32), np.array(part["labels"]), part["box"])
        logits = sam.decode(embedding, [prompts], multimask=part["channel"] is not None).logits
        masks.append(to_mask(logits[0, part["channel"] or 0], embedding.frame))
    return np.any(masks, axis=0)


@pytest.mark.parametrize("preset", ["default", "official-fss", "official-parts"])
def test_matcher_and_how_to_make_its_masks_again(work, encoder_folder, preset):
    """By default its single mask, with official-parts a box beside the points."""
    segment("photos/a.png", *MATCHER, "--encoder", encoder_folder, "--preset", preset, "--steps", 1)
    assert sorted(contents(kinds=("masks", "overlays", "candidates"))) == [
        "candidates/a.png", "masks/a.png", "overlays/a.jpg",
    ]  # fmt: skip
    check_results("found", labels=1)
    for candidate in lines()[0]["candidates"]:
        mask = coco_mask.decode(candidate["rle"]).astype(bool)
        assert candidate["parts"]
        assert all((part["box"] is not None) == (preset == "official-parts") for part in candidate["parts"])
        again = rebuilt("photos/a.png", candidate["parts"])
        assert (again != mask).mean() < 1e-3  # decoded one by one, logits near 0 may change their sign


def test_matchers_run_names_both_models(work, encoder_folder, matcher):
    segment("photos/a.png", *FAST, *matcher, "--bridge", "ridge", "--encoder-size", 32, "--dtype", "bfloat16")
    written = json.loads(Path("found/run.json").read_text())
    assert written["model"] == f"{SAM} + {encoder_folder}"
    files = {"sam": Path(SAM, "model.safetensors"), "encoder": Path(encoder_folder, "model.safetensors")}
    assert written["weights"] == {kind: {file.name: file_sha256(file)} for kind, file in files.items()}
    assert written["settings"]["framework"] == "matcher"
    assert (
        written["settings"]["settings"] | {"bridge": "ridge", "encoder_input": [32, 32], "centers": 5}
        == (written["settings"]["settings"])
    )
    assert written["settings"]["dtype"] == "bfloat16"
    check_results("found", labels=1)


def test_matcher_with_two_labels_several_supports_and_saved_references(work, matcher):
    two = ("--support", "photos/sub/c.png", "cat_mask.png")
    said = segment("photos", *two, *CAT, *DOG, "--steps", 1, *matcher, "--save-reference", "kept.ref", support=None)
    assert "Saved cat to kept-cat.ref" in said and "Saved dog to kept-dog.ref" in said
    assert "3 photo(s) segmented" in said
    check_results("found", labels=2)
    before = contents(kinds=("",))
    assert "3 of 3 photos are done already" in segment("photos", *two, *CAT, *DOG, "--steps", 1, *matcher, support=None)
    assert contents(kinds=("",)) == before

    by_reference = ("--reference", "kept-cat.ref", "--label", "cat", "--reference", "kept-dog.ref", "--label", "dog")
    segment("photos", *by_reference, *FAST, *matcher, support=None, out="loaded")
    assert contents("loaded", ("masks", "results", "run")) == contents(kinds=("masks", "results", "run"))
    segment("photos/sub/c.png", *CAT, *FAST, *matcher, support=None, out="of one")
    assert records("of one")[0] not in records()

    Path("found/results.jsonl").write_bytes(b"".join(before["results.jsonl"].splitlines(keepends=True)[:-1]))
    assert "2 of 3 photos are done already" in segment("photos", *two, *CAT, *DOG, *FAST, *matcher, support=None)
    assert contents(kinds=("",)) == before

    fits_not = segment("photos", *by_reference, *FAST, *matcher, "--bridge", "ridge", support=None, out="x", code=2)
    assert "made with settings" in fits_not and not Path("x").exists()


def test_matchers_results_are_not_mixed_with_others(work, encoder_folder, matcher):
    other = shutil.copytree(encoder_folder, work / "other_encoder")
    weights = load_file(other / "model.safetensors")
    name = min(weights)
    save_file({**weights, name: weights[name] + 1}, other / "model.safetensors", {"format": "pt"})
    segment("photos/a.png", *FAST, *matcher)
    before = contents(kinds=("",))
    for change, told in (
        ((*matcher, "--encoder", other), f'model was "{SAM} + {encoder_folder}", now it is "{SAM} + {other}".'),
        ((*matcher, "--encoder-size", 32), "settings.settings.encoder_input was [64, 64], now it is [32, 32]."),
        ((*matcher, "--bridge", "ridge"), 'settings.settings.bridge was "pad", now it is "ridge".'),
        (("--preset", "paper-parts"), 'settings.framework was "matcher", now it is "persam-f".'),
    ):
        said = segment("photos", *FAST, *change, code=2)
        assert flat(f"found holds results of another run: {told} Choose another --out") in said
    assert contents(kinds=("",)) == before


def test_an_encoder_size_that_is_no_multiple_of_the_patch(work, matcher):
    said = segment("photos", *matcher, "--encoder-size", 60, code=2)
    assert "must be a multiple of its patch, 8 pixels; got 60 × 60" in said


# Bad input


def test_bad_photos_are_skipped_and_the_rest_is_done(work):
    whole = Path("photos/a.png").read_bytes()
    Path("photos/cut.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/text.jpg").write_text("not a photo")
    Path("photos/empty.png").touch()
    save(np.zeros((100, 200, 3), np.uint8), work / "photos" / "large.png")
    said = segment("photos", *FAST, "--max-pixels", 12000, code=1)
    assert "Skipped cut.png: " in said and "damaged or cut short" in said
    assert "Skipped text.jpg: " in said and "not an image of a kind that can be read" in said
    assert "Skipped empty.png: " in said and "is empty (0 bytes)" in said
    assert "Skipped large.png: " in said and "the limit is 12,000" in said
    assert "3 photo(s) segmented, 0 mask(s) empty, 4 skipped" in said
    assert queries() == ["a.png", "b.jpg", "sub/c.png"]
    before = contents()
    segment("photos", *FAST, "--max-pixels", 12000, code=1)  # says it again
    assert contents() == before
    for name in ("cut.png", "text.jpg", "empty.png"):
        Path("photos", name).unlink()
    assert "3 of 4 photos are done already" in segment("photos", *FAST)  # the limit decides no result
    assert len(lines()) == 4


def test_only_bad_photos(work):
    Path("text.jpg").write_text("not a photo")
    assert "0 photo(s) segmented, 0 mask(s) empty, 1 skipped" in segment("text.jpg", *FAST, code=1)


@pytest.mark.parametrize(
    "query, said",
    [
        ("missing.png", "missing.png does not exist"),
        ("photos/aa.png", "did you mean photos/a.png"),
        ("missing/*.png", "there is no folder missing"),
        ("photos/*.webp", "no file matches"),
        ("void", "void holds no images"),
        ("", "is a variable unset"),
    ],
)
def test_missing_queries(work, query, said):
    Path("void").mkdir()
    assert said in segment(query, "photos/a.png", code=2)
    assert not Path("found").exists()


def test_bad_supports(work):
    save(np.zeros((90, 120), np.uint8), work / "empty.png")
    save(np.ones((45, 60), np.uint8), work / "half.png")
    for pair, said in [
        (("cat.png", "empty.png"), "mask empty.png is empty: mark at least one object pixel"),
        (("cat.png", "half.png"), "mask half.png is 60 × 45, its image 120 × 90"),
        (("cat.png", "missing.png"), "missing.png does not exist"),
        (("missing.png", "cat_mask.png"), "missing.png does not exist"),
        (("cat.png", "photos"), "photos is a folder"),
    ]:
        assert said in segment("photos", support=pair, code=2)
    assert not Path("found").exists()


@pytest.mark.filterwarnings("default")
def test_a_mask_of_everything_is_remarked(work):
    save(np.ones((90, 120), np.uint8), work / "full.png")
    said = segment("photos/a.png", *FAST, support=("cat.png", "full.png"))
    assert "Note: mask full.png covers its whole image" in said
    assert "UserWarning" not in said


@pytest.mark.parametrize("out", ["cat.png", "cat.png/sub", "/proc/nothing/can/be/made/here"])
def test_out_that_cannot_be_a_folder(work, out):
    assert "Error:" in segment("photos/a.png", *FAST, out=out, code=2)


def test_a_full_disk_ends_the_run_with_a_sentence(work, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "found/masks/a.png")

    monkeypatch.setattr("prmagic.viz.save_image", full)
    assert "Error: found/masks/a.png: No space left on device" in segment("photos", *FAST, code=2)


# The other commands, and the terminal


def test_models():
    result = run("models")
    assert result.exit_code == 0
    for title, known in (("--sam", KNOWN_SAMS), ("--encoder", KNOWN_ENCODERS)):
        shown = [line.split() for line in result.output.split(f"Models for {title}")[1].splitlines()]
        for model in known:
            row = next(i for i, words in enumerate(shown) if words[:1] == [model.name])  # whole, at 80 columns
            seconds = [f"{cost.seconds:g} s" if cost else "not" for cost in (model.encode, model.query)]
            memory = [f"{cost.memory:.1f} GB" if cost else "measured" for cost in (model.encode, model.query)]
            licence = model.licence + (", gated" if model.gated else "")
            download = f"{model.download} MB" if model.download else "none"
            upper = f"{model.name} {model.parameters} M {model.input_size} px {' '.join(seconds)}"
            assert " ".join(shown[row]) == upper
            assert " ".join(shown[row + 1]) == f"{licence} {download} {' '.join(memory)}"
            assert " ".join(shown[row + 2]) == model.remark or not model.remark
    assert "measured: on 2 cores of an AMD EPYC, float32, with random weights" in " ".join(result.output.split())


def test_the_page_on_models_says_the_same():
    rows = [
        [cell.strip(" `*") for cell in line.strip("|").split("|")]
        for line in (HERE.parent / "docs" / "models.md").read_text().splitlines()
    ]
    for model in (*KNOWN_SAMS, *KNOWN_ENCODERS):
        download = f"{model.download} MB" if model.download else "none"
        costs = [f"{c.seconds:g} s, {c.memory:.1f} GB" if c else "not measured" for c in (model.encode, model.query)]
        licence = f"{model.licence}; gated" if model.gated else model.licence
        assert [model.name, f"{model.parameters} M", f"{model.input_size} px", download, *costs, licence] in rows


def test_what_models_cost_is_what_was_measured():
    lines = [json.loads(line) for line in (HERE.parent / "perf" / "models.jsonl").read_text().splitlines()]
    record = {(line["kind"], line["name"]): line for line in lines}
    for kind, known in KNOWN.items():
        for model in known:
            line = record.get((kind, model.name))
            for what, cost in (("encode", model.encode), ("query", model.query)):
                seconds = line and float(f"{median(line[what]):.2g}")
                assert cost == (line and Cost(seconds, round(line["memory"][what], 1))), model.name


@pytest.fixture
def small_demo(monkeypatch, encoder_folder):
    """Two cases on the tiny models, one without truth. On the embedded models the demo runs in test_embedded.py."""
    photos = GOLDEN["support_rgb"], GOLDEN["support_mask"], GOLDEN["query_rgb"]
    small = [
        Case("blob", "blobs", "A blob and another one.", *photos, GOLDEN["query_mask"]),
        Case("riddle", "riddles", "Who knows?", *photos, None),
    ]
    monkeypatch.setattr("prmagic.demo.cases", lambda: small)
    load = prmagic.load

    def tiny(framework, **options):
        if framework == "matcher":
            options |= {"encoder": encoder_folder, "preset": "paper-parts"}
        return load(framework, sam=SAM, **options)

    monkeypatch.setattr(prmagic, "load", tiny)


@pytest.mark.parametrize("only", [None, "persam", "matcher"])
def test_demo(tmp_path, small_demo, only):
    done = run("demo", "--out", tmp_path / "new", *([] if only is None else ["--framework", only]))
    assert done.exit_code == 0, done.output
    used = ["persam-f", "matcher"] if only is None else [only]
    names = [f"{case}{name}" for case in ("blob", "riddle") for name in [
        ".png", *(f"_{framework}{end}" for framework in used for end in (".png", "_overlay.jpg"))
    ]]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(names)
    for framework in used:
        assert picture(tmp_path / "new" / f"blob_{framework}_overlay.jpg").shape == GOLDEN["query_rgb"].shape
        assert picture(tmp_path / "new" / f"blob_{framework}.png").shape[1] > 1000
    known, unknown = (picture(tmp_path / "new" / f"{case}.png") for case in ("blob", "riddle"))
    assert (known.shape == unknown.shape) == (only is None)  # a row each: the truth stands below the support
    said = flat(done.output)
    assert "blob: A blob and another one." in said and "riddle: Who knows?" in said
    spoken = {"persam": "PerSAM", "persam-f": "PerSAM-F", "matcher": "Matcher"}
    iou = r"IoU \d\.\d\d \(baseline \d\.\d\d, best of 6 \d\.\d\d\)"
    for name in (spoken[framework] for framework in used):
        assert len(re.findall(rf"{name} t = \d chosen: {iou}; \d+\.\d s", said)) == 1
        assert len(re.findall(rf"{name} t = \d chosen; \d+\.\d s", said)) == 1
    assert any(str(tmp_path / "new") in line for line in done.output.splitlines())  # whole: it is for copying


def test_demo_of_an_unknown_framework(tmp_path):
    done = run("demo", "--framework", "machter", "--out", tmp_path / "new")
    assert done.exit_code == 2
    assert "unknown framework 'machter': did you mean 'matcher'" in flat(done.output)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", [(), ("segment",), ("models",), ("demo",)])
@pytest.mark.parametrize("columns", ["80", "20"])
def test_help(command, columns):
    for option in ("--help", "-h"):
        result = run(*command, option, env={"COLUMNS": columns})
        assert result.exit_code == 0
        assert "Usage: prmagic" in flat(result.output)


def test_version():
    assert run("--version").output == f"prmagic {__version__}\n"


def test_unknown_command():
    result = run("segmen")
    assert result.exit_code == 2
    assert "Did you mean 'segment'" in flat(result.output)


def test_messages_are_not_wrapped(work):
    """A path that is broken over two lines cannot be copied."""
    name = "x" * 100 + ".jpg"
    (work / name).write_text("not a photo")
    result = run("segment", name, "--support", "cat.png", "cat_mask.png", "--out", "x", "--sam", SAM)
    assert any(name in line for line in result.output.splitlines())


# Real processes


def start(*args):
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs ignore it
    command = [sys.executable, "-c", f"{listen}; from prmagic.cli import app; app()", *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    )


def test_help_through_a_pipe_without_greek(monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    process = start("segment", "--help")
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert "--support" in output and "η" not in output


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("stop, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_stopped_in_the_middle_and_continued(work, monkeypatch, stop, code):
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # which can change the last bits
    for number in range(60):
        save(GOLDEN["query_rgb"][:, number:], work / "many" / f"{number:02}.png")
    args = ("many", *FAST)
    process = start("segment", *args, "--support", "cat.png", "cat_mask.png", "--out", "found", "--sam", SAM)
    results = Path("found/results.jsonl")
    deadline = time.monotonic() + 300
    while not (results.exists() and results.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    process.send_signal(signal.SIGSTOP)  # or it could be done before the other has looked
    try:
        assert "another run is writing" in segment(*args, code=2)
    finally:
        process.send_signal(stop)
        process.send_signal(signal.SIGCONT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    assert "Traceback" not in output
    if stop == signal.SIGINT:
        assert "Interrupted. What is finished is kept" in output

    kept = results.read_bytes().splitlines(keepends=True)
    done = sum(line.endswith(b"\n") for line in kept)
    assert 3 <= done < 60
    assert f"{done} of 60 photos are done already" in segment(*args)
    assert results.read_bytes().startswith(b"".join(kept[:done]))
    segment(*args, out="at once")
    assert contents() == contents("at once")


# Supports out of labels


def coco_labels(path, masks, categories=("cat", "dog")):
    """COCO annotations of photos beside the file; masks: by photo and category."""
    images = [
        {"id": i, "file_name": photo, "width": 120, "height": 90}
        for i, photo in enumerate(dict.fromkeys(p for p, _ in masks))
    ]
    ids = {entry["file_name"]: entry["id"] for entry in images}
    annotations = [
        {"id": i, "image_id": ids[photo], "category_id": categories.index(category), "segmentation": rle(mask)}
        for i, ((photo, category), mask) in enumerate(masks.items())
    ]
    content = {"images": images, "annotations": annotations}
    path.write_text(json.dumps({**content, "categories": [{"id": i, "name": c} for i, c in enumerate(categories)]}))
    return path


@pytest.fixture
def labels(work):
    mask = GOLDEN["support_mask"].astype(bool)
    save(GOLDEN["support_rgb"], work / "dog.png")
    masks = {("cat.png", "cat"): mask, ("dog.png", "cat"): mask[::-1], ("dog.png", "dog"): ~mask}
    return coco_labels(work / "labels.json", masks)


def test_supports_from_coco_are_as_good_as_files(work, labels):
    segment("photos/a.png", *FAST, "--label", "cat", out="files")
    coco = ("--support-coco", "labels.json", "--category", "cat", "--limit", 1)
    segment("photos/a.png", *FAST, *coco, support=None, out="coco")
    assert contents("coco") == contents("files")
    assert {line["label"] for line in lines("coco")} == {"cat"}  # the category's name
    segment("photos/a.png", *FAST, *coco, "--label", "feline", support=None, out="named")
    assert {line["label"] for line in lines("named")} == {"feline"}


@pytest.mark.filterwarnings("default:.*left out")
def test_supports_from_a_folder_are_as_good_as_files(work):
    shutil.copy("cat.png", "photos")
    shutil.copy("cat_mask.png", "photos")
    segment("photos", *FAST, support=("photos/cat.png", "photos/cat_mask.png"), out="files")
    said = segment("photos", *FAST, "--support-dir", "photos", support=None, out="folder")
    assert contents("folder") == contents("files")
    assert "Note: photos: left out, as they have no partner: a.png, b.jpg" in said
    assert "cat_mask.png" not in queries("folder")


@pytest.mark.filterwarnings("default:.*left out")
def test_several_labels_from_labels(work, labels):
    coco = ("--support-coco", "labels.json", "--category")
    segment("photos/a.png", *FAST, *coco, "cat", *coco, "dog", support=None)
    assert [line["label"] for line in lines()] == ["cat", "dog"]
    mixed = (*coco, "dog", "--support-images", ".", "--label", "dog", "--support", "cat.png", "cat_mask.png")
    segment("photos/a.png", *FAST, *mixed, "--label", "cat", support=None, out="mixed")
    assert [line["label"] for line in lines("mixed")] == ["dog", "cat"]
    segment("photos/a.png", *FAST, "--support-dir", ".", "--label", "pair", *coco, "dog", support=None, out="both")
    assert [line["label"] for line in lines("both")] == ["pair", "dog"]
    dog = [line["candidates"] for out in ("found", "mixed", "both") for line in lines(out) if line["label"] == "dog"]
    assert dog[0] == dog[1] == dog[2]
    segment("photos/a.png", *FAST, *coco, "cat", "--save-reference", "cat.safetensors", support=None, out="saved")
    segment("photos/a.png", *FAST, "--reference", "cat.safetensors", support=None, out="again")
    assert lines("again")[0]["candidates"] == lines("saved")[0]["candidates"]


@pytest.mark.parametrize(
    "args, told",
    [
        (["--support-coco", "labels.json"], "say which category of labels.json to learn, with --category: it has cat"),
        (["--support-coco", "labels.json", "--category", "act"], "did you mean 'cat'"),
        (["--support-coco", "none.json", "--category", "cat"], "none.json: No such file"),
        (["--category", "cat", "--support-coco", "labels.json"], "put --category behind the --support-coco"),
        (["--support-dir", ".", "--category", "cat"], "put --category behind the --support-coco"),
        (["--support", "cat.png", "cat_mask.png", "--limit", "1"], "behind the --support-coco or --support-dir"),
        (["--support-coco", "labels.json", "--category", "a", "--category", "b"], "--category is given twice"),
        (["--support-coco", "labels.json", "--category", "cat", "--limit", "0"], "greater than or equal to 1"),
        (["--support-coco", "labels.json", "--category", "cat", "--limit", "x"], "valid integer"),
        (["--support-coco", "labels.json", "--category", "cat", "--mask-value", "1"], "--mask-value is for masks in"),
        (["--support-coco", "labels.json", "--category", "cat", "--support-images", "photos"], "cat.png"),
        (["--support-dir", "photos"], "has no photo with a mask of the same name"),
        (["--support-dir", "."], "2 photo"),
        (
            ["--support-coco", "labels.json", "--category", "cat", "--reference", "r", "--label", "x"],
            "both supports and a saved reference",
        ),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used(work, labels, args, told):
    if told == "2 photo":
        shutil.copy("cat.png", "cat.jpg")
        told = "not clear which is the photo and which its mask"
    assert told in segment("photos/a.png", *FAST, *args, support=None, code=2)
    assert not Path("found").exists()


def test_a_category_that_is_no_name_for_a_folder(work):
    coco_labels(work / "labels.json", {("cat.png", "a/b"): GOLDEN["support_mask"].astype(bool)}, ["a/b"])
    coco = ("--support-coco", "labels.json", "--category", "a/b")
    assert "choose another with --label" in segment("photos/a.png", *FAST, *coco, support=None, code=2)
    segment("photos/a.png", *FAST, *coco, "--label", "ab", support=None)


# Into labelling tools


def export(*args, to="coco", out="exported", code=0):
    result = run("export", *args, "--to", to, "--out", out)
    assert result.exit_code == code, result.output
    return flat(result.output)


@pytest.fixture
def both(work):
    """The run `found` with two labels."""
    two = ("--support", "cat.png", "cat_mask.png", "--label", "cat", "--label")
    segment("photos", *FAST, *two[:5], "--support", "cat.png", "cat_mask.png", "--label", "dog", support=None)


def test_export_coco(both, capsys):
    assert "3 photo(s), 2 label(s): exported" in export("found")
    data = COCO("exported/annotations/instances_default.json")
    capsys.readouterr()
    assert [image["file_name"] for image in data.imgs.values()] == ["a.png", "b.jpg", "sub/c.png"]
    for annotation in data.anns.values():
        image, category = data.imgs[annotation["image_id"]], data.cats[annotation["category_id"]]
        mask = picture((Path("found/masks") / category["name"] / image["file_name"]).with_suffix(".png"))
        np.testing.assert_array_equal(data.annToMask(annotation) * 255, mask)
    assert len(data.anns) == sum(line["found"] for line in lines())


@pytest.mark.parametrize(
    "to, names",
    [
        ("coco", ["annotations/instances_default.json"]),
        ("yolo-seg", ["data.yaml", "labels/a.txt", "labels/b.txt", "labels/sub/c.txt"]),
        ("label-studio", ["interface.xml", "tasks.json"]),
        (
            "masks",
            [
                "ImageSets/Segmentation/default.txt",
                *(f"SegmentationClass/{name}.png" for name in ("a", "b", "sub/c")),
                "labelmap.txt",
            ],
        ),
    ],
)
def test_export_with_photos(both, to, names):
    Path("photos/a.png").rename("photos/renamed since.png")
    export("found", "--photos", "photos", to=to)
    there = contents("exported", kinds=("",))
    folder = "JPEGImages" if to == "masks" else "images"
    assert sorted(there) == sorted([*names, *(f"{folder}/{name}" for name in ("a.png", "b.jpg", "sub/c.png"))])
    assert there[f"{folder}/a.png"] == Path("photos/renamed since.png").read_bytes()


def test_export_options(both):
    export("found", "--polygons", "--tolerance", "0", out="polygons")
    (content,) = contents("polygons", kinds=("",)).values()
    assert all(isinstance(entry["segmentation"], list) for entry in json.loads(content)["annotations"])
    export("found", "--image-url", "s3://bucket/", to="label-studio", out="tasks")
    assert json.loads(Path("tasks/tasks.json").read_text())[0]["data"]["image"] == "s3://bucket/a.png"


@pytest.mark.parametrize(
    "args, to, told",
    [
        (["photos"], "coco", "photos is no folder that `prmagic segment` wrote"),
        (["nowhere"], "coco", "there is no such folder"),
        (["found"], "cvat", "unknown format 'cvat'"),
        (["found", "--polygons"], "masks", "always pixels"),
        (["found", "--tolerance", "-1"], "yolo-seg", "it is a distance in pixels"),
        (["found", "--photos", "photos/sub"], "coco", "2 of 3 photos are not in photos/sub, or were changed since: a"),
    ],
)
def test_exports_that_cannot_be(both, args, to, told):
    assert told in export(*args, to=to, code=2)
    assert not Path("exported").exists()


def test_an_export_overwrites_nothing(both):
    save(GOLDEN["query_rgb"], Path("mine/SegmentationClass/a.png"))
    before = contents("mine", kinds=("",))
    assert "mine is not empty: choose a new folder" in export("found", to="masks", out="mine", code=2)
    assert contents("mine", kinds=("",)) == before
    before = contents(kinds=("",))
    assert "found is not empty" in export("found", out="found", code=2)
    assert "is a file; --out needs a folder" in export("found", out="cat.png", code=2)
    assert contents(kinds=("",)) == before
