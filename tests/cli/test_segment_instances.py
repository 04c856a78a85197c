"""`prmagic segment --instances`: what is written, resumed, told and exported."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import (
    CAT,
    DOG,
    FAST,
    VALIDATOR,
    check_results,
    contents,
    export,
    lines,
    picture,
    run,
    save,
    segment,
)  # fmt: skip
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

INSTANCES = ("--instances", "--steps", 1)


def masks(line):
    return [coco_mask.decode(each["mask"]).astype(bool) for each in line["instances"]]


def test_one_mask_per_thing_in_every_line(work):
    said = segment("photos", *INSTANCES)
    check_results()
    found = [masks(line) for line in lines()]
    assert f"3 photo(s) segmented, {sum(map(len, found))} thing(s) found," in said and any(found)
    for line, things in zip(lines(), found, strict=True):
        union = np.zeros((line["height"], line["width"]), int)
        for thing, mask in zip(line["instances"], things, strict=True):
            rows, columns = np.nonzero(mask)
            assert thing["box"] == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert thing["step"] in (0, 1)
            union += mask
        assert union.max(initial=0) <= 1
        np.testing.assert_array_equal(coco_mask.decode(line["rle"]), union)
        scores = [thing["score"] for thing in line["instances"]]
        assert scores == sorted(scores, reverse=True) and line["score"] == max(scores, default=None)
    assert picture("found/overlays/a.jpg").shape == (90, 120, 3) and Path("found/candidates/a.png").exists()
    assert "3 of 3 photos are done already" in segment("photos", *INSTANCES)


@pytest.mark.filterwarnings("default")
def test_a_folder_goes_on_with_the_same_choice_only(work):
    segment("photos", *FAST, "--instances")
    assert "instances was true, now it is false" in segment("photos", *FAST, code=2)
    segment("photos/a.png", *FAST, out="plain")
    assert "instances was false, now it is true" in segment("photos", *FAST, "--instances", out="plain", code=2)
    assert "instances" not in lines("plain")[0]
    before, written = contents(), lines()
    damaged = next(line for line in written if line["instances"])
    damaged["instances"][0]["mask"] = {"size": [1, 1], "counts": "1"}
    Path("found/results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in written))
    assert "1 are damaged" in segment("photos", *FAST, "--instances")
    assert sorted(contents()["results.jsonl"].splitlines()) == sorted(before["results.jsonl"].splitlines())


def test_a_score_below_the_least_is_no_thing(work):
    segment("photos", *FAST, "--instances")
    scores = sorted(thing["score"] for line in lines() for thing in line["instances"])
    least = scores[len(scores) // 2]
    segment("photos", *FAST, "--instances", "--min-score", least, out="fewer")
    kept = sorted(thing["score"] for line in lines("fewer") for thing in line["instances"])
    assert kept == [score for score in scores if score >= least] and len(kept) < len(scores)


def test_labels_compete(work):
    segment("photos/a.png", *FAST, "--instances", *CAT, *DOG, support=None)
    check_results(labels=2)
    everything = sum(mask.astype(int) for line in lines() for mask in masks(line))
    assert everything.max() == 1
    segment("photos/a.png", *FAST, "--instances", "--overlaps", *CAT, *DOG, support=None, out="over")
    assert sum(mask.sum() for line in lines("over") for mask in masks(line)) >= everything.sum()


@pytest.mark.parametrize("more", [(), ("--instances",)])
def test_masks_are_read_back_as_the_docs_say(work, more):
    """Of several labels, where the chosen candidate is another mask."""
    page = (Path(__file__).parents[2] / "docs" / "results-format.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"## Reading a mask back\n\n```python\n(.*?)```", page, flags=re.DOTALL)
    segment("photos", *FAST, *more, *CAT, *DOG, support=None)
    read = []
    exec(code + "    read.append((result, array))\n", {"read": read})
    assert len(read) == 6
    for result, array in read:
        np.testing.assert_array_equal(picture(Path("found", result["mask"])), array * 255)


def test_each_thing_is_exported(work):
    segment("photos", *FAST, "--instances")
    export("found", "--min-area", 0)
    written = json.loads(Path("exported/annotations/instances_default.json").read_text())["annotations"]
    things = [thing for line in sorted(lines(), key=lambda line: line["query"]) for thing in line["instances"]]
    assert [each["score"] for each in written] == [thing["score"] for thing in things]
    assert [each["segmentation"] for each in written] == [thing["mask"] for thing in things]


def discs(seed):
    """A photo of twelve yellow discs on a dark ground, and the mask of each."""
    rng = np.random.default_rng(seed)
    photo, masks = rng.integers(60, 90, (240, 320, 3)), []
    rows, columns = np.mgrid[:240, :320]
    for y in (40, 120, 200):
        for x in (40, 120, 200, 280):
            masks.append(np.hypot(columns - x - rng.integers(-6, 7), rows - y - rng.integers(-6, 7)) < 24)
            photo[masks[-1]] = rng.integers(150, 170, 3) * np.array([1.3, 1.1, 0.4])
    return photo.clip(0, 255).astype(np.uint8), masks


def test_twelve_discs_are_twelve_annotations(tmp_path, monkeypatch, capsys):
    """With the embedded model, from one of twelve in another photo; read back by pycocotools, and as YOLO's lines."""
    monkeypatch.chdir(tmp_path)
    photo, masks = discs(0)
    query, truth = discs(1)
    save(photo, tmp_path / "coin.png")
    save(masks[5] * np.uint8(255), tmp_path / "coin_mask.png")
    save(query, tmp_path / "coins" / "a.png")
    found = run("segment", "coins", "--support", "coin.png", "coin_mask.png", "--instances", "--out", "found")
    assert found.exit_code == 0 and "12 thing(s) found" in found.output, found.output
    export("found", "--polygons", out="coco")
    data = COCO("coco/annotations/instances_default.json")
    capsys.readouterr()  # pycocotools prints
    read = [data.annToMask(annotation).astype(bool) for annotation in data.anns.values()]
    assert len(read) == 12
    for disc in truth:
        assert max((mask & disc).sum() / (mask | disc).sum() for mask in read) > 0.8
    export("found", to="yolo-seg", out="yolo")
    outlines = [line.split() for line in Path("yolo/labels/a.txt").read_text().splitlines()]
    assert len(outlines) == 12 and all(len(line) % 2 and len(line) > 7 for line in outlines)
    middles = np.array([np.array(line[1:], float).reshape(-1, 2).mean(0) * (320, 240) for line in outlines])
    for disc in truth:
        middle = np.argwhere(disc).mean(0)[::-1]
        assert np.linalg.norm(middles - middle, axis=1).min() < 8


def test_the_option_is_shown():
    help = run("segment", "--help", env={"COLUMNS": "120"}).output
    assert "--instances" in help and "One mask per thing" in help
    assert VALIDATOR.schema["properties"]["instances"]
