"""Single objects: what is searched, what is measured, and that a run goes on."""

import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from made import instance
from miniatures import evaluate, fss_data, own_data, run_json, said, save, scene

from prmagic.datasets.base import DatasetError
from prmagic.datasets.own import Own
from prmagic.evaluation.instances import measures, read_instance_run, with_objects
from prmagic.io.formats import instance_record, rle

SIZE = (100, 100)


def block(top, left, height, width):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def record(truth, found, category="cat", episode="0/00000"):
    things = [instance_record(instance(mask, score)) for mask, score in found]
    return {
        "seed": 0, "episode": episode, "class": category, "query": "a.jpg", "height": 100, "width": 100,
        "truth": [rle(mask) for mask in truth], "found": things, "seconds": 2.0,
    }  # fmt: skip


A, B, SMALL = block(0, 0, 20, 20), block(50, 50, 20, 20), block(90, 0, 10, 10)  # 4 %, 4 % and 1 % of the photo


def test_measures_by_hand():
    """Of three objects one is found whole, one by two thirds, one not; and one mask is of nothing."""
    part, wrong = block(50, 50, 20, 14), block(20, 70, 9, 9)  # IoU 0.7 and 0
    numbers = measures([record([A, B, SMALL], [(A, 0.9), (wrong, 0.8), (part, 0.7)])])
    assert (numbers["photos"], numbers["objects"], numbers["masks"]) == (1, 3, 3)
    assert numbers["precision"] == pytest.approx(2 / 3) == numbers["recall"] == numbers["F1"]
    assert numbers["recall of large"] == 1
    # Precision 1 up to a recall of 1/3, which 34 of COCO's 101 levels do not exceed; 2/3 up to 2/3, another 33.
    assert numbers["AP 0.5"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    exact = 34 / 101
    assert numbers["AP 0.5:0.95"] == pytest.approx((5 * numbers["AP 0.5"] + 5 * exact) / 10)  # at 0.5 … 0.7, 0.75 …
    assert numbers["count error"] == 0 and numbers["count within 1"] == 1 and numbers["seconds"] == 2


def test_a_second_mask_of_one_object_is_wrong():
    numbers = measures([record([A], [(A, 0.9), (A, 0.8)])])
    assert (numbers["precision"], numbers["recall"]) == (0.5, 1)


def test_counts_and_several_classes():
    first = record([A, B], [])
    second = record([A], [(A, 0.5), (B, 0.4), (SMALL, 0.3)], "dog", "0/00001")
    numbers = measures([first, second])
    assert numbers["count error"] == 2 and numbers["count within 1"] == 0
    assert numbers["recall"] == pytest.approx(1 / 3) and numbers["precision"] == pytest.approx(1 / 3)
    assert numbers["AP 0.5"] == pytest.approx(0.5)  # 0 of cats, 1 of dogs: the false ones have lower scores


def test_nothing_found():
    numbers = measures([record([SMALL], [])])
    assert numbers["recall"] == 0 == numbers["AP 0.5"] == numbers["F1"]
    assert math.isnan(numbers["precision"]) and math.isnan(numbers["recall of large"])


# Runs


def things_data(root):
    """The miniature own data; two cats' photos have two objects each, one dog's has one."""
    own_data(root)
    lines = []
    for number, values in ((1, (1, 2)), (2, (1, 2)), (6, (7,))):
        whole = scene(number)[1]
        middle = int(np.nonzero(whole.any(0))[0].mean())
        halves = whole * np.where(np.arange(whole.shape[1]) < middle, values[0], values[-1])
        save(halves, root / f"{number}_things.png")
        category = "cat" if number < 5 else "dog"
        lines += [
            {"image": f"{number}.png", "mask": f"{number}_things.png", "mask_value": value, "class": category}
            for value in values
        ]
    (root / "instances.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


@pytest.fixture
def things(work):
    return things_data(work / "data")


def lines(out="out"):
    return [json.loads(line) for line in Path(out, "instances.jsonl").read_bytes().splitlines()]


def timeless(out="out"):
    return sorted(json.dumps({**line, "seconds": 0}) for line in lines(out))


def test_a_run_and_its_report(things):
    told = evaluate("own", "--instances", "--seeds", "1,2")
    assert "6 episode(s) done, 0 of them failed" in told
    assert {(line["query"], len(line["truth"])) for line in lines()} == {("1.png", 2), ("2.png", 2), ("6.png", 1)}
    assert run_json()["task"] == "instances" and run_json()["episodes"] == {"1": 3, "2": 3}
    assert read_instance_run(Path("out")).records == lines()
    markdown = said("report", "out", "--out", "tables")
    assert "| Photos " in markdown and "2 to 5 objects" in markdown
    assert markdown.startswith(Path("tables/report.md").read_text()) and not list(Path("tables").glob("*.png"))
    rows = list(csv.DictReader(io.StringIO(said("report", "out", "--format", "csv"))))
    numbers = {(row["photos"], row["quantity"]): row["value"] for row in rows}
    assert numbers["all photos", "photos"] == "6" and numbers["2 or more objects", "objects"] == "8"
    assert json.loads(said("report", "out", "--format", "json"))["runs"][0]["task"] == "instances"
    assert said("report", "out", "--format", "latex").startswith("\\paragraph")


@pytest.mark.filterwarnings("default")
def test_a_run_goes_on_where_it_stopped(things):
    evaluate("own", "--instances")
    whole = timeless()
    path = Path("out/instances.jsonl")
    content = path.read_bytes()
    path.write_bytes(content[: content.index(b"\n") + 30])
    assert "1 of 3 episodes are done already" in evaluate("own", "--instances")
    assert timeless() == whole
    assert "was 1, now it is 0" in evaluate("own", "--instances", "--steps", 0, code=2)
    assert "is not of such a run" in evaluate("own", code=2)
    evaluate("own", out="other")
    assert "report them apart" in said("report", "out", "other", code=2)
    assert "leave these options out" in said("report", "out", "--selector", "oracle", code=2)


@pytest.mark.parametrize(
    "args, told",
    [
        (("--size", 64), "photos' own size"),
        (("--classes", "dog", "--split", "train"), "no class has 2 photos"),
        (("--limit", 1, "--classes", "dog", "--seeds", 3), "1 episode(s) done"),
    ],
)
def test_what_is_searched(things, args, told):
    assert told in evaluate("own", "--instances", *args, code=0 if "done" in told else 2)


def test_data_without_single_objects(own):
    assert "has no instances.jsonl" in evaluate("own", "--instances", code=2)
    Path("data/instances.jsonl").write_text('{"image": "1.png"}\n')
    assert 'line 1: "mask" is null' in evaluate("own", "--instances", code=2)
    Path("data/instances.jsonl").write_text('{"image": "1.png", "mask": "gone.png", "class": "cat"}\n')
    assert "gone.png" in evaluate("own", "--instances", code=2)


def test_other_benchmarks_have_no_single_objects(work):
    fss_data(work / "data")
    assert "is for own data: fss has no single objects" in evaluate("fss", "--instances", code=2)


def test_each_photo_is_searched_once_per_class(things):
    dataset = Own(things)
    drawn = dataset.episodes(0, 1, 0)
    assert [episode.query.image for episode in with_objects(dataset, drawn * 2)] == ["1.png", "2.png", "6.png"]
    with pytest.raises(DatasetError, match="names no object of these classes in these photos"):
        with_objects(dataset, [episode for episode in drawn if episode.query.image == "3.png"])
    halves = dataset.objects("1.png", "cat")
    assert len(halves) == 2 and not (halves[0] & halves[1]).any() and dataset.objects("3.png", "cat") == []


@pytest.mark.filterwarnings("default")
def test_a_damaged_record_is_named(things):
    evaluate("own", "--instances", "--classes", "dog")
    path = Path("out/instances.jsonl")
    path.write_text(json.dumps({**lines()[0], "truth": [{"size": [48, 64], "counts": "~~"}]}) + "\n")
    assert "line 1 is damaged" in said("report", "out", code=2)
    assert "1 are damaged" in evaluate("own", "--instances", "--classes", "dog")
