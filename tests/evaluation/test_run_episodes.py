"""Which episodes `prmagic evaluate` runs: seeds, samplings, manifests, splits; and what it refuses."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from miniatures import (
    coco_data,
    datasets,
    evaluate,
    fss_data,
    pascal_data,
    records,
    run_json,
    timeless,
)

from prmagic.datasets import open_dataset


@pytest.mark.parametrize(
    "option, value",
    [("--seeds", value) for value in ("", "44-42", "one", "1,,2", "1.5", "1-2-3")]
    + [("--folds", value) for value in ("", "1-0", "some")],
)
def test_values_that_are_no_list_of_numbers(option, value):
    from prmagic.cli.evaluate import numbers

    with pytest.raises(ValueError, match="is not a list of numbers: write such as 42, or 0,2, or 42-46") as caught:
        numbers(value, option)
    assert str(caught.value).startswith(f"{option} {value!r}")


@pytest.mark.parametrize(
    "args, told",
    [
        (("--limit", 0), "--limit"),
        (("--shots", 0), "--shots"),
        (("--shots", 4), "no class has 5 photos"),
        (("--folds", 1), "wn data has no fold 1"),
        (("--folds", "some"), "--folds 'some' is not a list of numbers"),
        (("--preset", "papr"), "did you mean 'paper'"),
        (("--preset", "official"), "official"),
        (("--episodes", "paper"), "obody published episodes of your own data"),
        (("--episodes", "missing.jsonl"), "missing.jsonl is no file"),
        (("--data", "nowhere"), "owhere is not a folder"),
        (("--sam", "nowhere"), "nowhere"),
        (("--device", "warp"), "evice 'warp' cannot be used here"),
        (("--classes", "cow"), "has no class 'cow'"),
        (("--split", "val"), "has no split 'val'"),
        (("--workers", 3), "--ray"),
    ],
)
def test_what_cannot_be_run(own, args, told):
    assert told in evaluate("own", *args, code=2)
    assert not Path("out").exists()


def test_an_unknown_benchmark(own):
    assert "nknown benchmark 'oxn'" in evaluate("oxn", code=2)


def test_own_data_by_split_and_classes(own):
    evaluate("own", "--split", "test", "--classes", "dog", "--steps", 0)
    assert {record["query"] for record in records()} == {f"{number}.png" for number in range(6, 10)}
    Path("classes.txt").write_text("dog\n\ncat\n")
    evaluate("own", "--classes", "classes.txt", "--steps", 0, out="both")
    assert [record["class"] for record in records("both")] == ["cat"] * 4 + ["dog"] * 4
    said = evaluate("own", "--classes", "cat,dog", "--split", "test", "--steps", 0, out="both", code=2)
    assert 'dataset_options.split was null, now it is "test"' in said
    for option, value in (("--split", "test"), ("--classes", "dog")):
        assert f"{option} is for own data: fss has its own classes" in evaluate("fss", option, value, out="x", code=2)
    assert not Path("x").exists()
    evaluate("own", "--classes", ",".join(["dog"] * 200), "--limit", 1, out="few")  # longer than any file's name
    assert {record["class"] for record in records("few")} == {"dog"}


@pytest.mark.parametrize("framework", ["persam", "persam-f", "matcher"])
def test_published_persam_has_the_same_episodes_for_every_seed(work, encoder_folder, framework):
    """Matcher has not, and by default neither has."""
    data = fss_data(work / "data")
    more = ("--encoder", encoder_folder) if framework == "matcher" else ()
    fixed = ("--framework", framework, *more, "--steps", 0, "--limit", 2, "--seeds", "1,42", "--no-masks")
    drawn = {}
    for sampling in ("paper", "default"):
        evaluate("fss", *fixed, "--episodes", sampling, out=sampling)
        drawn[sampling] = {
            seed: [(r["query"], r["supports"]) for r in records(sampling) if r["seed"] == seed] for seed in (1, 42)
        }
        assert run_json(sampling)["sampling"] == sampling
    listed = {
        seed: [
            (e.query.image, [s.image for s in e.supports])
            for e in open_dataset("fss", data).episodes(0, 1, seed, "paper")[:2]
        ]
        for seed in (1, 42)
    }
    assert listed[1] != listed[42]
    published = listed if framework == "matcher" else dict.fromkeys((1, 42), listed[42])
    assert drawn == {"paper": published, "default": listed}


@pytest.mark.parametrize("sampling, count", [("paper", 20), ("default", 1)])
def test_published_class_counts_include_classes_that_were_not_drawn(work, sampling, count):
    coco_data(work / "data")
    evaluate("coco", "--folds", 0, "--limit", 1, "--steps", 0, "--size", 32, "--episodes", sampling)
    assert run_json()["classes"] == {"0": count}


def test_a_manifest_is_written_and_run(own):
    said = datasets("manifest", "own", "--data", "data", "--out", "new/list.jsonl", "--seed", 43)
    written = Path("new/list.jsonl").read_bytes()
    digest = hashlib.sha256(written).hexdigest()
    assert said == f"new/list.jsonl: 8 episodes, SHA-256 {digest}\n"
    evaluate("own", "--seeds", 43, out="drawn")
    evaluate("own", "--seeds", 43, "--episodes", "new/list.jsonl", out="listed")
    assert timeless("listed") == timeless("drawn")
    assert Path("listed/masks.jsonl").read_bytes() == Path("drawn/masks.jsonl").read_bytes()
    assert run_json("listed")["manifests"] == run_json("drawn")["manifests"] == {"43": digest}
    assert run_json("listed")["sampling"] == "manifest" and run_json("listed")["classes"] == {"0": 2}
    datasets("manifest", "own", "--data", "data", "--out", "few.jsonl", "--seed", 43, "--limit", 3)
    assert Path("few.jsonl").read_bytes() == b"".join(written.splitlines(keepends=True)[:3])
    evaluate("own", "--seeds", 43, "--episodes", "few.jsonl", out="few")
    assert timeless("few") == timeless("drawn")[:3]
    assert run_json("few")["classes"] == {"0": 1}


def test_a_manifest_by_folds_limit_and_shots(work):
    pascal_data(work / "data")
    text = "".join(f"{photo}__01\n" for photo in range(4))
    Path("data/splits/val/fold0.txt").write_text(text)
    options = ("--data", "data", "--limit", 3, "--shots", 2, "--episodes", "paper")
    said = datasets("manifest", "pascal", *options, "--folds", "0-1", "--out", "list.jsonl")
    assert "list.jsonl: 6 episodes" in said
    dataset = open_dataset("pascal", "data")
    listed = [json.loads(line) for line in Path("list.jsonl").read_text().splitlines()]
    drawn = [e for fold in (0, 1) for e in dataset.episodes(fold, 2, 42, "paper")[:3]]
    assert [(e["id"], [s["image"] for s in e["supports"]]) for e in listed] == [
        (e.id, [s.image for s in e.supports]) for e in drawn
    ]
    evaluate("pascal", "--episodes", "list.jsonl", "--folds", 1, "--limit", 2, "--steps", 0, "--no-masks")
    assert [record["episode"] for record in records()] == ["1/00000", "1/00001"]
    assert run_json()["shots"] == 2 and run_json()["folds"] == [1]
    assert "no fold 7" in datasets("manifest", "pascal", *options, "--folds", 7, "--out", "x", code=2)
    assert "did you mean 'paper'" in datasets(
        "manifest", "pascal", *options[:-1], "papers", "--folds", 1, "--out", "x", code=2
    )
    assert not Path("x").exists()


def test_a_manifest_that_does_not_fit(own):
    datasets("manifest", "own", "--data", "data", "--out", "list.jsonl")
    assert "is there already" in datasets("manifest", "own", "--data", "data", "--out", "list.jsonl", code=2)
    lines = Path("list.jsonl").read_text().splitlines(keepends=True)
    Path("torn.jsonl").write_text(lines[0] + lines[1][:-30])
    assert "torn.jsonl, line 2 is no episode" in evaluate("own", "--episodes", "torn.jsonl", code=2)
    Path("twice.jsonl").write_text(lines[0] * 2)
    assert "2 episode(s) with 1 id(s)" in evaluate("own", "--episodes", "twice.jsonl", code=2)
    Path("fold.jsonl").write_text("".join(lines).replace('"fold": 0', '"fold": 9'))
    assert "no fold 9" in evaluate("own", "--episodes", "fold.jsonl", code=2)
    assert not Path("out").exists()
    Path("other.jsonl").write_text(lines[0] + lines[1].replace('"cat"', '"cow"'))
    said = evaluate("own", "--episodes", "other.jsonl", code=2)
    assert "of cow" in said and "was the manifest made with other data?" in said
