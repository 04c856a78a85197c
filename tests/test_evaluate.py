"""`prmagic evaluate` and `prmagic datasets` as a user meets them, on miniature benchmarks and tiny random models."""

from __future__ import annotations

import hashlib
import json
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

import prmagic
from prmagic import Support
from prmagic.cli import app
from prmagic.datasets import open_dataset
from prmagic.datasets.base import Episode, Item, Photo, manifest_digest, squash, write_manifest
from prmagic.evaluation.run import EvaluationFolder, Job, Outcome, Plan, in_chunks
from prmagic.frameworks import Example
from prmagic.resumable import locked
from prmagic.select import SELECTORS

SAM = Path(__file__).parent / "golden" / "sam_mini"
HEIGHT, WIDTH = 48, 64
SPOTS = 5  # photos of each class of the own data, and the split of each
FREE = ("pooled", "predicted-iou", "separation")  # selectors for which a reference holds nothing more
SPLITS = ("train", "test", "test", "test", "test")


# Miniature benchmarks


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def scene(number):
    """A photo of a bright rectangle in dark noise, and where that is."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 90, (HEIGHT, WIDTH, 3))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    top, left = rng.integers(2, 28), rng.integers(2, 40)
    mask[top : top + rng.integers(10, 20), left : left + rng.integers(10, 24)] = True
    image[mask] = rng.integers(150, 255, 3)
    return image, mask


def own_data(root):
    """Cats and dogs; without a wish the split "test" is taken, four photos of each."""
    lines = []
    for number in range(2 * SPOTS):
        image, mask = scene(number)
        save(image, root / f"{number}.png")
        save(mask * 255, root / f"{number}_mask.png")
        category = "cat" if number < SPOTS else "dog"
        split = SPLITS[number % SPOTS]
        lines.append({"image": f"{number}.png", "mask": f"{number}_mask.png", "class": category, "split": split})
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def fss_data(root, classes=("ant",)):
    (root / "splits").mkdir(parents=True)
    (root / "splits" / "test.txt").write_text("\n".join(classes))
    for position, name in enumerate(classes):
        for number in range(1, 11):
            image, mask = scene(100 * position + number)
            save(image, root / f"data/{name}/{number}.jpg")
            save(mask * 255, root / f"data/{name}/{number}.png")
    return root


def coco_data(root):
    """Fold 0, where all classes have the same three photos; only in them is there anything of each."""
    photos = [f"val2014/COCO_val2014_{number:012d}.jpg" for number in range(3)]
    (root / "splits" / "val").mkdir(parents=True)
    lists = {number: photos if number % 4 == 0 else [] for number in range(80)}
    (root / "splits" / "val" / "fold0.pkl").write_bytes(pickle.dumps(lists))
    for number, photo in enumerate(photos):
        image, _ = scene(number)
        save(image, root / photo)
        labels = np.repeat(np.arange(80)[None], HEIGHT, 0)[:, :WIDTH] + 1  # a column of each of the first 64 classes
        save(labels, (root / "annotations" / photo).with_suffix(".png"))
    return root


def pascal_data(root):
    """Fold 1, its class 6 (bus) only, in four photos; around each object runs a boundary of none."""
    (root / "splits" / "val").mkdir(parents=True)
    (root / "splits" / "val" / "fold1.txt").write_text("".join(f"{number}__06\n" for number in range(4)))
    for number in range(4):
        image, mask = scene(number)
        grown = mask.copy()
        for axis in (0, 1):
            for shift in (-2, -1, 1, 2):
                grown |= np.roll(mask, shift, axis)
        save(image, root / f"JPEGImages/{number}.jpg")
        save(np.where(mask, 6, np.where(grown, 255, 0)), root / f"SegmentationClassAug/{number}.png")
    return root


def perseg_data(root):
    for position, name in enumerate(("cup", "toy")):
        for number in range(4):
            image, mask = scene(10 * position + number)
            save(image, root / f"Images/{name}/{number:02}.jpg")
            save(np.where(mask[..., None], [128, 0, 0], 0), root / f"Annotations/{name}/{number:02}.png")
    return root


DIS = {
    "DIS-TR": ("1#Bags#1#Bag#a", "1#Bags#1#Bag#b", "2#Arms#15#Gun#c", "2#Arms#15#Gun#d"),
    "DIS-TE1": ("1#Bags#1#Bag#e",),
    "DIS-TE2": ("2#Arms#15#Gun#f", "2#Arms#15#Gun#g"),
}


def dis_release(root):
    for folder, stems in DIS.items():
        for number, stem in enumerate(stems):
            image, mask = scene(number)
            save(image, root / folder / "im" / f"{stem}.jpg")
            save(mask * 255, root / folder / "gt" / f"{stem}.png")


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def own(work):
    return own_data(work / "data")


# What a user types


def run(*args):
    """Never a traceback, whatever happens; an exception would be one."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], env={"COLUMNS": "500"})
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return result


def command(benchmark="own", *args, out="out"):
    """One PerSAM step, on one thread."""
    fixed = ("--sam", SAM, "--framework", "persam", "--steps", 1, "--threads", 1)
    return [str(arg) for arg in ("evaluate", benchmark, "--data", "data", "--out", out, *fixed, *args)]


def evaluate(*args, out="out", code=0):
    """What it says."""
    result = run(*command(*args, out=out))
    assert result.exit_code == code, result.output
    return result.output


def datasets(*args, code=0):
    result = run("datasets", *args)
    assert result.exit_code == code, result.output
    return result.output


def records(out="out"):
    return [json.loads(line) for line in Path(out, "episodes.jsonl").read_bytes().splitlines()]


def timeless(out="out"):
    """The records' lines without what may differ between equal runs."""
    return [json.dumps({**record, "seconds": None}) for record in records(out)]


def masks_of(out="out"):
    """By seed and episode, the candidates' masks (C, H, W)."""
    lines = [json.loads(line) for line in Path(out, "masks.jsonl").read_bytes().splitlines()]
    return {
        (line["seed"], line["episode"]): [coco_mask.decode(line["masks"][n]).astype(bool) for n in line["candidates"]]
        for line in lines
    }


def settings(out="out"):
    return json.loads(Path(out, "run.json").read_text())


def contents(out="out"):
    return {path.relative_to(out): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


def assert_equal_runs(one, other="out"):
    """Byte for byte, but for the seconds."""
    assert timeless(one) == timeless(other)
    assert Path(one, "masks.jsonl").read_bytes() == Path(other, "masks.jsonl").read_bytes()
    without = [{**settings(out), "versions": None} for out in (one, other)]
    assert without[0] == without[1]


def counted(prediction, truth):
    """I₀, U₀, I₁, U₁."""
    pairs = list(zip(np.ravel(prediction).tolist(), np.ravel(truth).tolist(), strict=True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    return [neither, len(pairs) - both, both, len(pairs) - neither]


# What is recorded


@pytest.mark.parametrize("framework, shots", [("persam-f", 1), ("matcher", 2)])
def test_a_record_is_what_the_library_says(own, encoder_folder, framework, shots):
    more = ("--encoder", encoder_folder) if framework == "matcher" else ()
    evaluate("own", "--framework", framework, "--shots", shots, "--steps", 2, "--seeds", 7, "--all-scores", *more)
    dataset = open_dataset("own", own)
    episode = dataset.episodes(0, shots, 7)[5]
    record = next(record for record in records() if record["episode"] == episode.id)

    options = {"encoder": encoder_folder} if framework == "matcher" else {}
    segmenter = prmagic.load(framework, sam=SAM, steps=2, seed=7, **options)
    query, supports = dataset.load(episode)
    reference = segmenter.encode_support([Support(photo.image, photo.mask) for photo in supports])
    reference = segmenter.framework.with_descriptors(reference, supports)
    reference = segmenter.framework.with_shares(reference, supports)
    reference = segmenter.framework.with_photos(reference, supports)
    result = segmenter.segment(query.image, reference, name=episode.id)
    judged = segmenter.framework, segmenter.encode([query.image])[0].query, reference, result.candidates
    scores = {name: selector(*judged) for name, selector in SELECTORS.items()}
    seconds, counts = record.pop("seconds"), record.pop("counts")
    assert record == {
        "seed": 7,
        "fold": 0,
        "episode": "0/00005",
        "class": "dog",
        "query": f"{SPOTS + 2}.png",
        "query_instance": SPOTS + 2,
        "supports": [item.image for item in episode.supports],
        "support_instances": [item.instance for item in episode.supports],
        "pixels": HEIGHT * WIDTH,
        "object": int(scene(SPOTS + 2)[1].sum()),
        "support_pixels": [int(photo.mask.sum()) for photo in supports],
        "areas": [counted(candidate.mask, query.mask) for candidate in result.candidates],
        "predicted_iou": [candidate.predicted_iou for candidate in result.candidates],
        "scores": {name: [s if np.isfinite(s) else None for s in each] for name, each in scores.items()},
        "chosen": int(np.argmax(scores["guard" if framework == "matcher" else "cycle-recall"])),
    }
    assert counts == dict(result.counts)
    assert {"wait", "encode", "decode", "gradient", "select"} <= set(seconds) and min(seconds.values()) >= 0
    for written, candidate in zip(masks_of()[7, episode.id], result.candidates, strict=True):
        np.testing.assert_array_equal(written, candidate.mask)


def test_the_selector_of_the_run_chooses_and_the_others_are_recorded(own):
    evaluate("own", "--steps", 3, "--limit", 5, "--selector", "reencode")
    evaluate("own", "--steps", 3, "--limit", 5, "--selector", "predicted-iou", "--all-scores", out="other")
    evaluate("own", "--steps", 3, "--limit", 5, out="cheap")
    for cheap, theirs in zip(records("cheap"), records("other"), strict=True):
        assert cheap["scores"] == {name: theirs["scores"][name] for name in (*FREE, "cycle-recall")}
        assert cheap["counts"]["encodes"] == 1
    for mine, theirs in zip(records(), records("other"), strict=True):
        assert set(theirs["scores"]) == set(SELECTORS) and mine["areas"] == theirs["areas"]
        assert mine["scores"] == {name: theirs["scores"][name] for name in (*FREE, "reencode")}
        assert mine["chosen"] == int(np.argmax(mine["scores"]["reencode"]))
        assert theirs["chosen"] == int(np.argmax(mine["scores"]["predicted-iou"]))
    assert [record["chosen"] for record in records()] != [record["chosen"] for record in records("other")]


def test_run_json_says_what_was_run(own):
    assert "6 episode(s) done, 0 of them failed" in evaluate("own", "--seeds", "42-44", "--eta", 0.5, "--limit", 2)
    written = settings()
    assert written["title"] == "own data" and written["model"] == str(SAM) and written["data"] == str(own)
    assert written["benchmark"] == "own" and written["folds"] == [0] and written["seeds"] == [42, 43, 44]
    assert written["shots"] == 1 and written["size"] is None and written["limit"] == 2 and written["threads"] == 1
    assert written["classes"] == {"0": 1} and written["episodes"] == {"42": 2, "43": 2, "44": 2}
    assert written["settings"]["flow"]["eta"] == 0.5 and written["settings"]["flow"]["steps"] == 1
    assert "seed" not in written["settings"]
    dataset = open_dataset("own", own)
    drawn = {str(seed): dataset.episodes(0, 1, seed)[:2] for seed in (42, 43, 44)}
    assert written["manifests"] == {seed: manifest_digest(listed) for seed, listed in drawn.items()}
    assert {"prmagic", "torch", "transformers"} <= set(written["versions"])


def test_no_masks_and_no_steps(own):
    evaluate("own", "--no-masks", "--steps", 0, "--limit", 1)
    assert sorted(map(str, contents())) == ["episodes.jsonl", "run.json"]
    (record,) = records()
    assert len(record["areas"]) == 1 and record["chosen"] == 0 and record["scores"] == {"cycle-recall": [None]}


def test_the_boundary_of_pascals_objects_is_not_scored(work):
    data = pascal_data(work / "data")
    evaluate("pascal", "--folds", 1, "--limit", 3)
    masks = masks_of()
    for record in records():
        stem = Path(record["query"]).stem
        labels = np.asarray(Image.open(data / f"SegmentationClassAug/{stem}.png"))
        scored = labels != 255
        assert 0 < record["object"] < record["pixels"] == scored.sum() < HEIGHT * WIDTH
        assert record["fold"] == 1 and record["class"] == "bus" and record["object"] == (labels == 6).sum()
        candidates = masks[42, record["episode"]]
        assert any((mask & ~scored).any() for mask in candidates)  # or nothing would be left out
        assert record["areas"] == [counted(mask[scored], labels[scored] == 6) for mask in candidates]


# Which episodes


def test_limit_and_folds(work):
    pascal_data(work / "data")
    for fold, number in ((0, 1), (2, 11), (3, 16)):
        shutil.copy("data/splits/val/fold1.txt", f"data/splits/val/fold{fold}.txt")
        text = "".join(f"{photo}__{number:02}\n" for photo in range(4))
        Path(f"data/splits/val/fold{fold}.txt").write_text(text)
    evaluate("pascal", "--steps", 0, "--limit", 2, "--folds", "0,2-3", code=1)  # their classes are in no photo
    assert [record["episode"] for record in records()] == [
        "0/00000",
        "0/00001",
        "2/00000",
        "2/00001",
        "3/00000",
        "3/00001",
    ]
    assert settings()["folds"] == [0, 2, 3]
    evaluate("pascal", "--steps", 0, "--limit", 1, out="all", code=1)
    assert [record["fold"] for record in records("all")] == [0, 1, 2, 3]
    assert "PASCAL-5i has no fold 4" in evaluate("pascal", "--folds", "3-4", out="x", code=2)
    assert not Path("x").exists()


def test_seeds(own):
    evaluate("own", "--seeds", "42-44", "--limit", 3)
    assert [(record["seed"], record["episode"]) for record in records()] == [
        (seed, f"0/{number:05}") for seed in (42, 43, 44) for number in range(3)
    ]
    assert len({json.dumps([r["supports"] for r in records() if r["seed"] == seed]) for seed in (42, 43, 44)}) > 1
    evaluate("own", "--seeds", "44,44", "--limit", 3, out="alone")  # a seed's records do not depend on the others'
    assert timeless("alone") == timeless()[6:]


@pytest.mark.parametrize(
    "option, value",
    [("--seeds", value) for value in ("", "44-42", "one", "1,,2", "1.5", "1-2-3")]
    + [("--folds", value) for value in ("", "1-0", "some")],
)
def test_values_that_are_no_list_of_numbers(own, option, value):
    said = evaluate("own", f"{option}={value}", code=2)
    assert f"{option} {value!r} is not a list of numbers: write such as 42, or 0,2, or 42-46" in said
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "args, told",
    [
        (("--limit", 0), "--limit"),
        (("--shots", 0), "--shots"),
        (("--shots", 4), "no class has 5 photos"),
        (("--folds", 1), "own data has no fold 1"),
        (("--preset", "papr"), "did you mean 'paper'"),
        (("--preset", "official"), "Matcher's own"),
        (("--episodes", "paper"), "nobody published episodes of your own data"),
        (("--episodes", "missing.jsonl"), "missing.jsonl is no file"),
        (("--data", "nowhere"), "nowhere is not a folder"),
        (("--sam", "nowhere"), "nowhere"),
        (("--device", "warp"), "device 'warp' cannot be used here"),
        (("--classes", "cow"), "has no class 'cow'"),
        (("--split", "val"), "has no split 'val'"),
    ],
)
def test_what_cannot_be_run(own, args, told):
    assert told in evaluate("own", *args, code=2)
    assert not Path("out").exists()


def test_an_unknown_benchmark(own):
    assert "unknown benchmark 'oxn'" in evaluate("oxn", code=2)


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


@pytest.mark.parametrize("framework", ["persam", "persam-f", "matcher"])
def test_published_persam_has_the_same_episodes_for_every_seed(work, encoder_folder, framework):
    """Q2; Matcher has not, and by default neither has."""
    data = fss_data(work / "data")
    more = ("--encoder", encoder_folder) if framework == "matcher" else ()
    fixed = ("--framework", framework, *more, "--steps", 0, "--limit", 3, "--seeds", "1,42", "--no-masks")
    drawn = {}
    for sampling in ("paper", "default"):
        evaluate("fss", *fixed, "--episodes", sampling, out=sampling)
        drawn[sampling] = {
            seed: [(r["query"], r["supports"]) for r in records(sampling) if r["seed"] == seed] for seed in (1, 42)
        }
        assert settings(sampling)["sampling"] == sampling
    listed = {
        seed: [
            (e.query.image, [s.image for s in e.supports])
            for e in open_dataset("fss", data).episodes(0, 1, seed, "paper")[:3]
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
    assert settings()["classes"] == {"0": count}


# Manifests


def test_a_manifest_is_written_and_run(own):
    said = datasets("manifest", "own", "--data", "data", "--out", "new/list.jsonl", "--seed", 43)
    written = Path("new/list.jsonl").read_bytes()
    digest = hashlib.sha256(written).hexdigest()
    assert said == f"new/list.jsonl: 8 episodes, SHA-256 {digest}\n"
    evaluate("own", "--seeds", 43, out="drawn")
    evaluate("own", "--seeds", 43, "--episodes", "new/list.jsonl", out="listed")
    assert timeless("listed") == timeless("drawn")
    assert Path("listed/masks.jsonl").read_bytes() == Path("drawn/masks.jsonl").read_bytes()
    assert settings("listed")["manifests"] == settings("drawn")["manifests"] == {"43": digest}
    assert settings("listed")["sampling"] == "manifest" and settings("listed")["classes"] == {"0": 2}
    datasets("manifest", "own", "--data", "data", "--out", "few.jsonl", "--seed", 43, "--limit", 3)
    assert Path("few.jsonl").read_bytes() == b"".join(written.splitlines(keepends=True)[:3])
    evaluate("own", "--seeds", 43, "--episodes", "few.jsonl", out="few")
    assert timeless("few") == timeless("drawn")[:3]
    assert settings("few")["classes"] == {"0": 1}


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
    assert settings()["shots"] == 2 and settings()["folds"] == [1]
    assert "no fold 7" in datasets("manifest", "pascal", *options, "--folds", 7, "--out", "x", code=2)
    assert "did you mean 'paper'" in datasets(
        "manifest", "pascal", *options[:-1], "papers", "--folds", 1, "--out", "x", code=2
    )
    assert not Path("x").exists()


def test_a_manifest_that_does_not_fit(own):
    datasets("manifest", "own", "--data", "data", "--out", "list.jsonl")
    lines = Path("list.jsonl").read_text().splitlines(keepends=True)
    Path("torn.jsonl").write_text(lines[0] + lines[1][:-30])
    assert "torn.jsonl, line 2 is no episode" in evaluate("own", "--episodes", "torn.jsonl", code=2)
    Path("twice.jsonl").write_text(lines[0] * 2)
    assert "2 episodes with 1 ids" in evaluate("own", "--episodes", "twice.jsonl", code=2)
    assert not Path("out").exists()
    Path("other.jsonl").write_text(lines[0] + lines[1].replace('"cat"', '"cow"'))
    said = evaluate("own", "--episodes", "other.jsonl", code=2)
    assert "of cow" in said and "was the manifest made with other data?" in said


# Presets of the benchmarks


def test_paper_is_the_benchmarks_own_and_squashes(work):
    data = fss_data(work / "data")
    evaluate("fss", "--limit", 2)
    assert settings()["settings"]["preset"] == "default" and settings()["size"] is None
    assert [(r["pixels"], r["object"]) for r in records()] == [
        (HEIGHT * WIDTH, scene(number)[1].sum()) for number in (1, 10)
    ]
    evaluate("fss", "--limit", 2, "--preset", "paper", out="paper")
    assert settings("paper")["settings"]["preset"] == "paper-fss" and settings("paper")["size"] == 518
    episode = open_dataset("fss", data).episodes(0, 1, 42)[1]
    query, support = (
        squash(open_dataset("fss", data).photo(item, "ant"), 518) for item in (episode.query, *episode.supports)
    )
    record = records("paper")[1]
    assert record["pixels"] == 518 * 518 and record["object"] == query.mask.sum()
    assert record["support_pixels"] == [support.mask.sum()]
    segmenter = prmagic.load("persam", sam=SAM, steps=1, seed=42, preset="paper-fss")
    reference = segmenter.encode_support(Support(support.image, support.mask))
    result = segmenter.segment(query.image, reference, name=episode.id)
    assert record["areas"] == [counted(candidate.mask, query.mask) for candidate in result.candidates]
    evaluate("fss", "--limit", 1, "--preset", "paper", "--size", 100, out="small")
    assert records("small")[0]["pixels"] == 100 * 100


@pytest.mark.parametrize(
    "benchmark, preset, chosen, size",
    [
        ("coco", "paper", "paper-coco", 518),
        ("coco", "default", "default", None),
        ("coco", "paper-fss", "paper-fss", 518),
        ("dis5k", "paper", "paper-dis5k", 518),
        ("dis5k", "default", "default-parts", None),
        ("pascal", "paper", "paper", 518),
    ],
)
def test_the_preset_of_a_benchmark(work, benchmark, preset, chosen, size):
    if benchmark == "dis5k":
        dis_release(work)
        datasets("prepare", "dis5k", "--train", "DIS-TR", "--test", "DIS-TE1", "--test", "DIS-TE2", "--out", "data")
    else:
        {"coco": coco_data, "pascal": pascal_data}[benchmark](work / "data")
    folds = {"pascal": 1}.get(benchmark, 0)
    evaluate(benchmark, "--preset", preset, "--folds", folds, "--limit", 1, "--steps", 0)
    assert settings()["settings"]["preset"] == chosen and settings()["size"] == size
    (record,) = records()
    if benchmark != "pascal":
        assert record["pixels"] == (size * size if size else HEIGHT * WIDTH)


def test_official_is_matchers(work, encoder_folder):
    fss_data(work / "data")
    matcher = ("--framework", "matcher", "--encoder", encoder_folder)
    evaluate("fss", *matcher, "--preset", "official", "--limit", 1, "--steps", 0)
    assert settings()["settings"]["preset"] == "official-fss" and settings()["size"] == 518


# Doing it again


def test_a_finished_run_is_left_as_it_is(own):
    evaluate("own")
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert "8 of 8 episodes are done already." in evaluate("own")
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


@pytest.mark.parametrize(
    "change, told",
    [
        (("--eta", 0.5), "settings.flow.eta was 0.001, now it is 0.5"),
        (("--steps", 2), "settings.flow.steps was 1, now it is 2"),
        (("--framework", "persam-f"), 'settings.framework was "persam", now it is "persam-f"'),
        (("--preset", "paper"), 'settings.preset was "default", now it is "paper"'),
        (("--seeds", "1"), "seeds was [42], now it is [1]"),
        (("--shots", 2), "shots was 1, now it is 2"),
        (("--size", 32), "size was null, now it is 32"),
        (("--limit", 1), "limit was 2, now it is 1"),
        (("--threads", 2), "threads was 1, now it is 2"),
        (("--split", "train", "--split", "test"), 'dataset_options.split was null, now it is "test"'),
        (("--episodes", "list.jsonl"), "manifests.42 was "),
        (("--dtype", "bfloat16"), 'settings.dtype was "float32", now it is "bfloat16"'),
        (("--rho", 0.2), "settings.flow.rho was 0.1, now it is 0.2"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(own, change, told):
    datasets("manifest", "own", "--data", "data", "--out", "list.jsonl", "--limit", 1)
    evaluate("own", "--limit", 2)
    before = contents()
    said = evaluate("own", "--limit", 2, *change, code=2)
    assert told in said and "out holds results of another run" in said
    assert "Choose another --out, or start it anew with --overwrite" in said
    assert contents() == before


def test_other_data_is_another_manifest(own):
    evaluate("own", "--limit", 2)
    before = contents()
    lines = Path("data/index.jsonl").read_text().splitlines(keepends=True)
    Path("data/index.jsonl").write_text("".join(lines[::-1]))
    assert "manifests.42 was " in evaluate("own", "--limit", 2, code=2)
    assert contents() == before


def test_overwrite(own):
    evaluate("own", "--limit", 3)
    said = evaluate("own", "--limit", 2, "--seeds", 1, "--no-masks", "--overwrite")
    assert "done already" not in said
    assert sorted(map(str, contents())) == ["episodes.jsonl", "run.json"]
    assert [(record["seed"], record["episode"]) for record in records()] == [(1, "0/00000"), (1, "0/00001")]
    assert settings()["seeds"] == [1]
    evaluate("own", "--limit", 2, "--seeds", 1, out="anew")
    assert timeless() == timeless("anew")


def test_folders_of_others_are_safe(own):
    Path("mine").mkdir()
    Path("mine/masks.jsonl").write_text("precious")
    Path("segmented").mkdir()
    Path("segmented/run.json").write_text('{"references": {}}')
    Path("file").touch()
    for out, told in (("mine", "choose another --out"), ("segmented", "not of such a run"), ("file", "is a file")):
        before = contents(out)
        for more in ((), ("--overwrite",)):
            assert told in evaluate("own", *more, out=out, code=2)
        assert contents(out) == before


def test_two_runs_at_once(own):
    with locked(Path("out")):
        assert "another run is writing into out" in evaluate("own", code=2)
    evaluate("own")


# Stopped and continued


def start(*args):
    """A process of its own, which has written three records."""
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # background jobs ignore it
    process = subprocess.Popen(
        [sys.executable, "-c", f"{listen}; from prmagic.cli import app; app()", *command(*args)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    episodes = Path("out/episodes.jsonl")
    deadline = time.monotonic() + 300
    while not (episodes.exists() and episodes.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_in_the_middle_and_continued(own):
    args = ("own", "--seeds", "1-3")
    process = start(*args)
    process.send_signal(signal.SIGSTOP)  # or it could be done before the other has looked
    try:
        assert "another run is writing into out" in evaluate(*args, code=2)
    finally:
        process.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL and "Traceback" not in output
    kept = Path("out/episodes.jsonl").read_bytes().splitlines(keepends=True)
    done = [line for line in kept if line.endswith(b"\n")]
    assert 3 <= len(done) < 24
    assert f"{len(done)} of 24 episodes are done already" in evaluate(*args)
    now = Path("out/episodes.jsonl").read_bytes().splitlines(keepends=True)
    assert len(now) == 24 and set(done) <= set(now)  # seconds included: they were not done again
    evaluate(*args, out="at once")
    assert_equal_runs("at once")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted(own):
    process = start("own", "--seeds", "1-9")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "Interrupted. What is finished is kept" in output and "Traceback" not in output
    assert 3 <= len(records()) < 72


@pytest.fixture
def finished(own):
    """A run of four episodes, and its lines of episodes.jsonl and masks.jsonl."""
    evaluate("own", "--limit", 4)
    shutil.copytree("out", "whole")
    return [Path("out", name).read_bytes().splitlines(keepends=True) for name in ("episodes.jsonl", "masks.jsonl")]


def crash(finished, name, line, kept):
    """The folder as a crash leaves it that comes when `kept` bytes of this line are written to that file.

    An episode's masks are written before its record."""
    episodes, masks = finished
    torn = (episodes if name == "episodes.jsonl" else masks)[line][:kept]
    done = {"episodes.jsonl": b"".join(episodes[:line]), "masks.jsonl": b"".join(masks[:line])}
    if name == "episodes.jsonl":
        done["masks.jsonl"] += masks[line]
    done[name] += torn
    for file, content in done.items():
        Path("out", file).write_bytes(content)
        if not content:
            Path("out", file).unlink()


@pytest.mark.parametrize("line", [0, 2, 3])
@pytest.mark.parametrize("name", ["episodes.jsonl", "masks.jsonl"])
def test_a_crash_in_mid_write_is_repaired(finished, name, line):
    crash(finished, name, line, kept=50)
    said = evaluate("own", "--limit", 4)
    assert (f"{line} of 4 episodes are done already" in said) == (line > 0)
    assert_equal_runs("whole")
    assert [path.name for path in Path("out").iterdir() if path.suffix == ".tmp"] == []


@pytest.mark.parametrize("name", ["episodes.jsonl", "masks.jsonl"])
def test_a_crash_at_any_byte_is_repaired(finished, name):
    """The same for many places, without models: the outcomes are taken from the whole run."""
    episodes, masks = finished
    whole = contents("whole")
    described = {key: value for key, value in settings("whole").items() if key != "versions"}
    lines = episodes if name == "episodes.jsonl" else masks
    offsets = {0, 1, *range(2, len(lines[2]), 37), len(lines[2]) - 1}
    for kept in sorted(offsets):
        crash(finished, name, line=2, kept=kept)
        folder = EvaluationFolder(Path("out"), described)
        assert set(folder.done) == {(42, "0/00000"), (42, "0/00001")}
        for number in (3, 2):  # in any order
            folder.add(Outcome(json.loads(episodes[number]), json.loads(masks[number])))
        folder.finish()
        assert contents() == whole, f"cut after {kept} bytes"


def test_a_crash_while_the_lines_are_sorted(finished):
    """Killed between the two files, or while one was written anew."""
    Path("out/episodes.jsonl.tmp").write_bytes(finished[0][0][:30])
    Path("out/masks.jsonl").write_bytes(b"".join(finished[1][::-1]))
    assert "4 of 4 episodes are done already" in evaluate("own", "--limit", 4)
    assert Path("out/masks.jsonl").read_bytes() == Path("whole/masks.jsonl").read_bytes()


# Episodes that fail


def empty_mask(number):
    save(np.zeros((HEIGHT, WIDTH)), Path(f"data/data/ant/{number}.png"))


def fss_episodes(*drawn):
    """A manifest of episodes (query, supports…), by the photos' numbers."""
    items = [[Item(f"data/ant/{number}.jpg") for number in numbers] for numbers in drawn]
    write_manifest(
        [Episode(f"0/{n:05}", 0, 760, "ant", query, tuple(supports)) for n, (query, *supports) in enumerate(items)],
        Path("list.jsonl"),
    )
    return "--episodes", "list.jsonl"


def test_an_episode_without_support_fails_and_the_rest_goes_on(work):
    fss_data(work / "data")
    empty_mask(3)
    listed = fss_episodes((1, 2), (4, 3), (3, 5), (6, 3, 7), (8, 9))
    said = evaluate("fss", *listed, code=1)
    assert "Failed 0/00001 (ant): the masks of all its supports are empty" in said
    assert "5 episode(s) done, 1 of them failed" in said
    found = records()
    assert [record["episode"] for record in found if "failed" in record] == ["0/00001"]
    assert {key for key in found[0] if key not in found[1]} == {
        "areas", "predicted_iou", "scores", "chosen", "counts"
    }  # fmt: skip
    assert found[1]["failed"] == "the masks of all its supports are empty"
    assert found[1]["support_pixels"] == [0] and found[1]["object"] == scene(4)[1].sum()
    assert found[2]["object"] == 0 and len(found[2]["areas"]) == 2  # a query without object is an episode
    assert found[3]["support_pixels"] == [0, scene(7)[1].sum()]
    assert [episode for _, episode in masks_of()] == ["0/00000", "0/00002", "0/00003", "0/00004"]
    said = evaluate("fss", *listed, code=1)  # not tried again, but not forgotten
    assert "5 of 5 episodes are done already" in said and "1 of them failed" in said

    fss_episodes((1, 2), (4, 2), (3, 5), (6, 7), (8, 9))  # an empty support is as good as none
    evaluate("fss", *listed, out="other")
    assert records("other")[3]["areas"] == found[3]["areas"]


def repaired(photo):
    """Its middle 14 × 14 pixels for the object."""
    mask = np.zeros_like(photo.mask)
    mask[252:266, 252:266] = True
    return Example(photo.image, mask)


def test_published_matcher_takes_a_square_for_empty_supports(work, encoder_folder):
    data = fss_data(work / "data")
    empty_mask(3)
    empty_mask(4)
    matcher = ("--framework", "matcher", "--encoder", encoder_folder, "--steps", 0)
    listed = fss_episodes((1, 3, 4), (2, 5, 3))
    evaluate("fss", *listed, *matcher, "--preset", "paper")
    first, second = records()
    assert first["support_pixels"] == [0, 0] and second["support_pixels"][1] == 0 < second["support_pixels"][0]
    segmenter = prmagic.load("matcher", sam=SAM, encoder=encoder_folder, steps=0, seed=42, preset="paper-fss")
    photos = {n: squash(open_dataset("fss", data).photo(Item(f"data/ant/{n}.jpg"), "ant"), 518) for n in range(1, 6)}
    for record, query, examples in (
        (first, photos[1], [repaired(photos[3]), repaired(photos[4])]),
        (second, photos[2], [Example(photos[n].image, photos[n].mask) for n in (5, 3)]),
    ):
        result = segmenter.segment(query.image, segmenter.encode_examples(examples), name=record["episode"])
        assert record["areas"] == [counted(candidate.mask, query.mask) for candidate in result.candidates]
    evaluate("fss", *listed, *matcher, out="by default", code=1)
    assert ["failed" in record for record in records("by default")] == [True, False]


@pytest.mark.parametrize("prefetch", [0, 2])
@pytest.mark.parametrize("damage, told", [(None, "is missing"), (200, "cannot be read")])
def test_a_missing_photo_ends_the_run_which_goes_on_once_it_is_there(work, prefetch, damage, told):
    listed = (1, 2), (3, 1), (4, 1), (2, 1), (5, 3)
    fss_data(work / "data")
    args = ("fss", *fss_episodes(*listed))
    evaluate(*args, out="whole")
    photo = work / "data/data/ant/4.jpg"
    there = photo.read_bytes()
    photo.unlink()
    if damage is not None:
        photo.write_bytes(there[:damage])
    assert f"Error: {photo} {told}" in evaluate(*args, "--prefetch", prefetch, code=2)
    assert timeless() == timeless("whole")[:2]  # all that came before
    photo.write_bytes(there)
    assert "2 of 5 episodes are done already" in evaluate(*args)
    assert_equal_runs("whole")


# Work that is saved


def test_records_do_not_depend_on_prefetching_and_batches(work):
    perseg_data(work / "data")
    evaluate("perseg", "--prefetch", 0)
    for prefetch, batch in ((2, 1), (20, 8)):
        evaluate("perseg", "--prefetch", prefetch, "--batch-size", batch, out=str(prefetch))
        assert_equal_runs(str(prefetch))


def plan(benchmark, prefetch=2):
    load = {"framework": "persam", "sam": str(SAM), "steps": 1, "preset": "default"}
    return Plan(
        benchmark,
        "data",
        {},
        load,
        size=None,
        keep_masks=True,
        prefetch=prefetch,
        batch_size=1,
        threads=1,
        all_scores=False,
    )


def test_supports_are_encoded_once(work):
    """Six episodes of two objects, each with one reference photo, in any order."""
    dataset = open_dataset("perseg", perseg_data(work / "data"))
    jobs = [Job(42, episode) for episode in dataset.episodes(0, 1, 42)]
    random.Random(0).shuffle(jobs)
    evaluator = plan("perseg").build()
    sam = evaluator.segmenter.framework.sam

    before = sam.ran.encodes
    evaluator.segmenter.encode_support(Support(*_photo(dataset.photo(jobs[0].episode.supports[0], "cup"))))
    each = sam.ran.encodes - before
    before = sam.ran.encodes
    outcomes = list(evaluator.run(jobs))
    ran = sum(outcome.record["counts"]["encodes"] for outcome in outcomes)
    assert sam.ran.encodes - before == 2 * each + ran
    assert ["support" in outcome.record["seconds"] for outcome in outcomes] == [True, False, False] * 2
    assert {outcome.record["episode"] for outcome in outcomes} == {job.episode.id for job in jobs}

    last = outcomes[-1].record["class"]
    again = [job for job in jobs if job.episode.category == last]
    assert not any("support" in outcome.record["seconds"] for outcome in evaluator.run(again))  # it is known still
    other = [Job(43, job.episode) for job in again]
    assert ["support" in outcome.record["seconds"] for outcome in evaluator.run(other)] == [True, False, False]


def _photo(photo: Photo):
    return photo.image, photo.mask


def test_chunks_for_workers_have_one_set_of_supports_each(work):
    dataset = open_dataset("perseg", perseg_data(work / "data"))
    jobs = [Job(seed, episode) for seed in (1, 2) for episode in dataset.episodes(0, 1, seed)]
    random.Random(0).shuffle(jobs)
    chunks = in_chunks(jobs, 2)
    assert [len(chunk) for chunk in chunks] == [2, 1] * 4
    assert all(len({job.supports for job in chunk}) == 1 for chunk in chunks)
    assert sorted((job.seed, job.episode.id) for chunk in chunks for job in chunk) == sorted(
        (job.seed, job.episode.id) for job in jobs
    )


def test_photos_are_read_while_others_are_segmented(work):
    """Closed early, the readers end too; nobody waits for photos that are there."""
    perseg_data(work / "data")
    evaluator = plan("perseg", prefetch=1).build()
    outcomes = evaluator.run([Job(42, episode) for episode in evaluator.dataset.episodes(0, 1, 42)])
    assert next(outcomes).record["episode"] == "0/00000"
    shutil.rmtree("data/Images/cup")  # the next two are read already
    assert next(outcomes).record["episode"] == "0/00001"
    outcomes.close()


# prmagic datasets


def test_check_of_complete_data(own):
    said = datasets("check", "own", "data")
    assert said.startswith("own data in data\n")
    assert 'found: 8 masks of split "test" in 2 classes' in said
    assert "fold 0: 2 classes, 8 one-shot episodes" in said and said.endswith("Complete.\n")
    assert "fold 0: 1 classes, 4 one-shot episodes" in datasets("check", "own", "data", "--classes", "dog")
    assert "is for own data" in datasets("check", "fss", "data", "--split", "test", code=2)


def test_check_of_incomplete_data(own):
    Path("data/7.png").unlink()
    Path("data/8_mask.png").unlink()
    said = datasets("check", "own", "data", code=1)
    assert "missing: data/7.png" in said and "missing: data/8_mask.png" in said
    assert "Not complete. Own data is a folder with index.jsonl" in said and "Complete." not in said
    Path("data/index.jsonl").write_text("{")
    assert "data/index.jsonl, line 1" in datasets("check", "own", "data", code=1)


def test_check_names_what_lacks_and_where_to_get_it(work):
    fss_data(work / "data", ("ant", "bee"))
    said = datasets("check", "fss", "data")
    assert "20 of 20 photos of 2 test classes" in said and "Complete." in said
    assert "lists 2 classes, the published one 240" in said  # a note, which is no gap
    Path("data/data/bee/7.png").unlink()
    said = datasets("check", "fss", "data", code=1)
    assert "data/data/bee lacks 7.png" in said and "19 of 20 masks" in said
    assert "github.com/aim-uofa/Matcher" in said
    assert "is not a folder" in datasets("check", "fss", "nowhere", code=2)
    assert "did you mean 'fss'" in datasets("check", "fsss", "data", code=2)
    Path("empty").mkdir()
    for benchmark in ("fss", "coco", "lvis", "paco", "pascal-part", "dis5k", "pascal", "perseg", "own"):
        assert "Not complete." in datasets("check", benchmark, "empty", code=1)


def test_prepare(work):
    dis_release(work)
    release = ("--train", "DIS-TR", "--test", "DIS-TE1", "--test", "DIS-TE2")
    said = datasets("prepare", "dis5k", *release, "--out", "data")
    assert "4 training and 3 test photos are in data" in said
    assert "fold 0: 2 classes, 3 one-shot episodes" in datasets("check", "dis5k", "data")
    before = contents("data")
    datasets("prepare", "dis5k", *release, "--out", "data")
    assert contents("data") == before and len(before) == 14
    evaluate("dis5k", "--steps", 0)
    assert [(record["class"], record["query"][-5]) for record in records()] == [
        ("1-1", "e"),
        ("2-15", "f"),
        ("2-15", "g"),
    ]


def test_what_cannot_be_prepared(work):
    dis_release(work)
    release = ("--train", "DIS-TR", "--test", "DIS-TE1")
    said = datasets("prepare", "coco", *release, "--out", "data", code=2)
    assert "only dis5k has to be arranged; for coco, see `prmagic datasets check coco DIR`" in said
    Path("DIS-TE1/gt/1#Bags#1#Bag#e.png").unlink()
    assert "1#Bags#1#Bag#e.png" in datasets("prepare", "dis5k", *release, "--out", "data", code=2)
    assert not Path("data").exists()
    assert datasets("prepare", "dis5k", "--train", "DIS-TR", "--out", "data", code=2)


def test_options_that_would_have_no_effect_are_refused(own):
    for option in (["--workers", 3], ["--gpus-per-worker", 1]):
        assert "are for --ray" in evaluate("own", *option, code=2)
    assert not Path("out").exists()


def test_a_manifest_without_the_chosen_fold_or_with_one_that_is_not_there(own):
    datasets("manifest", "own", "--data", "data", "--out", "list.jsonl")
    assert "is there already" in datasets("manifest", "own", "--data", "data", "--out", "list.jsonl", code=2)
    lines = Path("list.jsonl").read_text()
    Path("other.jsonl").write_text(lines.replace('"fold": 0', '"fold": 9'))
    assert "no fold 9" in evaluate("own", "--episodes", "other.jsonl", code=2)


def test_a_list_of_classes_may_be_longer_than_any_file_name(own):
    evaluate("own", "--classes", ",".join(["dog"] * 200), "--limit", 1, out="few")
    assert {record["class"] for record in records("few")} == {"dog"}


def test_other_scores_than_those_of_the_records_are_refused(own):
    evaluate("own", "--limit", 1)
    file = Path("out/run.json")
    file.write_text(file.read_text().replace('"pooled",', "", 1))
    assert "holds results of another run: scores" in evaluate("own", "--limit", 1, code=2)


def test_extra_points_reach_the_framework(own):
    evaluate("own", "--limit", 1, "--framework", "persam-f", "--extra-points", "0.99/0.90")
    assert settings()["settings"]["settings"]["quantiles"] == [0.99, 0.9]
    assert "extra points can be chosen for framework persam-f" in evaluate(
        "own", "--framework", "persam", "--extra-points", "none", out="other", code=2
    )


def test_rho_and_centers_reach_flow_and_framework(own, encoder_folder):
    evaluate("own", "--limit", 1, "--rho", 0.2)
    assert settings()["settings"]["flow"]["rho"] == 0.2
    matcher = ("--framework", "matcher", "--encoder", encoder_folder)
    evaluate("own", "--limit", 1, *matcher, "--centers", 2, out="other")
    assert settings("other")["settings"]["settings"]["centers"] == 2
    said = evaluate("own", "--limit", 1, *matcher, "--centers", 3, out="other", code=2)
    assert "settings.settings.centers was 2, now it is 3" in said
