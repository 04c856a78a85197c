"""What `prmagic evaluate` records of an episode, against the library and the data set used directly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import (
    HEIGHT,
    SAM,
    SPOTS,
    WIDTH,
    contents,
    counted,
    evaluate,
    masks_of,
    pascal_data,
    records,
    run_json,
    scene,
    timeless,
)
from PIL import Image

import prmagic
from prmagic.datasets import open_dataset
from prmagic.datasets.base import manifest_digest
from prmagic.reference import Example
from prmagic.select import SELECTORS


@pytest.mark.parametrize("framework, shots", [("persam-f", 1), ("matcher", 2)])
def test_a_record_is_what_the_library_says(own, encoder_folder, framework, shots):
    more = ("--encoder", encoder_folder) if framework == "matcher" else ()
    fixed = ("--shots", shots, "--steps", 2, "--seeds", 7, "--classes", "dog", "--limit", 2)
    evaluate("own", "--framework", framework, *fixed, "--all-scores", *more)
    dataset = open_dataset("own", own, classes=["dog"])
    episode = dataset.episodes(0, shots, 7)[1]
    record = next(record for record in records() if record["episode"] == episode.id)

    options = {"encoder": encoder_folder} if framework == "matcher" else {}
    segmenter = prmagic.load(framework, sam=SAM, steps=2, seed=7, **options)
    query, supports = dataset.load(episode)
    examples = [Example(photo.image, photo.mask) for photo in supports]
    reference = segmenter.encode_examples(examples, list(SELECTORS.values()))
    encoded = segmenter.encode([query.image])[0]
    result = segmenter.segment_encoded(episode.id, episode.category, encoded, reference, episode.id)
    judged = segmenter.framework, encoded.query, reference, result.candidates
    alone = len(result.candidates) == 1
    scores = {name: [np.nan] if alone else selector(*judged) for name, selector in SELECTORS.items()}
    scores["judge"] = result.scores
    seconds, counts = record.pop("seconds"), record.pop("counts")
    assert record == {
        "seed": 7,
        "fold": 0,
        "episode": "0/00001",
        "class": "dog",
        "query": f"{SPOTS + 2}.png",
        "query_instance": SPOTS + 2,
        "supports": [item.image for item in episode.supports],
        "support_instances": [item.instance for item in episode.supports],
        "pixels": HEIGHT * WIDTH,
        "object": int(scene(SPOTS + 2)[1].sum()),
        "support_pixels": [int(photo.mask.sum()) for photo in supports],
        "others": sum(candidate.beside for candidate in result.candidates),
        "areas": [counted(candidate.mask, query.mask) for candidate in result.candidates],
        "predicted_iou": [candidate.predicted_iou for candidate in result.candidates],
        "scores": {name: [s if np.isfinite(s) else None for s in each] for name, each in scores.items()},
        "chosen": int(np.argmax(scores["judge"])),
    }
    assert counts == dict(result.counts)
    assert len(record["areas"]) == record["others"] + (3 if framework == "persam-f" else 1)
    assert {"wait", "encode", "decode", "select"} <= set(seconds) and min(seconds.values()) >= 0
    for written, candidate in zip(masks_of()[7, episode.id], result.candidates, strict=True):
        np.testing.assert_array_equal(written, candidate.mask)


def test_the_selector_of_the_run_chooses_and_cheap_ones_are_recorded(own):
    evaluate("own", "--steps", 3, "--limit", 5, "--selector", "reencode")
    evaluate("own", "--steps", 3, "--limit", 5, "--selector", "guard", "--all-scores", out="other")
    evaluate("own", "--steps", 3, "--limit", 5, "--selector", "cycle-recall", out="cheap")
    for mine, theirs, cheap in zip(records(), records("other"), records("cheap"), strict=True):
        assert set(theirs["scores"]) == set(SELECTORS)
        assert mine["areas"] == theirs["areas"] and mine["others"] == theirs["others"] == 0
        assert mine["scores"] == {name: theirs["scores"][name] for name in ("reencode", "cycle-recall", "guard")}
        assert cheap["scores"] == {name: theirs["scores"][name] for name in ("cycle-recall", "guard")}
        assert cheap["counts"]["encodes"] == 1 < mine["counts"]["encodes"]
        for record, selector in ((mine, "reencode"), (theirs, "guard"), (cheap, "cycle-recall")):
            values = [-np.inf if score is None else score for score in record["scores"][selector]]
            assert record["chosen"] == int(np.argmax(values))
    assert [record["chosen"] for record in records()] != [record["chosen"] for record in records("other")]


def test_run_json_says_what_was_run(own):
    said = evaluate("own", "--seeds", "42-44", "--set", "eta=0.5", "--limit", 2)
    assert "6 episode(s) done, 0 of them failed" in said
    written = run_json()
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
    # A seed's records do not depend on the others'.
    evaluate("own", "--seeds", "44,44", "--set", "eta=0.5", "--limit", 2, out="alone")
    assert timeless("alone") == timeless()[4:]
    assert len({json.dumps([r["supports"] for r in records() if r["seed"] == seed]) for seed in (42, 43, 44)}) > 1


def test_no_masks_and_no_steps(own):
    evaluate("own", "--no-masks", "--steps", 0, "--limit", 1)
    assert sorted(contents()) == ["episodes.jsonl", "run.json"]
    (record,) = records()
    assert len(record["areas"]) == 1 and record["chosen"] == 0 and record["others"] == 0
    assert record["scores"] == {"judge": [None], "cycle-recall": [None], "guard": [None]}


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


def test_limit_and_folds(work):
    pascal_data(work / "data")
    for fold, number in ((0, 1), (2, 11), (3, 16)):
        shutil.copy("data/splits/val/fold1.txt", f"data/splits/val/fold{fold}.txt")
        text = "".join(f"{photo}__{number:02}\n" for photo in range(4))
        Path(f"data/splits/val/fold{fold}.txt").write_text(text)
    evaluate("pascal", "--steps", 0, "--limit", 2, "--folds", "0,2-3", code=1)  # their classes are in no photo
    assert [record["episode"] for record in records()] == [
        f"{fold}/{number:05}" for fold in (0, 2, 3) for number in (0, 1)
    ]
    assert run_json()["folds"] == [0, 2, 3]
    evaluate("pascal", "--steps", 0, "--limit", 1, out="all", code=1)
    assert [record["fold"] for record in records("all")] == [0, 1, 2, 3]
    assert "PASCAL-5i has no fold 4" in evaluate("pascal", "--folds", "3-4", out="x", code=2)
    assert not Path("x").exists()
