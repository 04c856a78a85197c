"""Runs whose episodes have different numbers of candidates: those of the steps, and SAM's other masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from handmade_runs import episode, failed, found, means, report

from prmagic.evaluation.records import read_masks, read_run
from prmagic.evaluation.reselect import reselect
from prmagic.evaluation.summary import EPISODE_MIOU, summarise

# Of 10 pixels of the object: two steps and two others, one step alone, two steps and one other.
MIXED = [
    episode("0/00000", "cat", 10, [(10, 5), (10, 6), (10, 9), (10, 10)], chosen=2, others=2),
    episode("0/00001", "cat", 10, [(10, 4)], chosen=0, others=0),
    episode("0/00002", "dog", 10, [(10, 3), (10, 2), (10, 1)], chosen=2, others=1),
    failed(id="0/00003"),
]
for entry in MIXED[:3]:  # as `judge` records them
    scores = entry["scores"]["reencode"]
    entry["scores"] = {"judge": scores if len(scores) > 1 else [None]}


def miou(inside):
    """In percent, of a mask of 10 pixels that has so many of the object's 10, of 100."""
    areas = found(10, 10, inside)
    return 50 * (areas[0] / areas[1] + areas[2] / areas[3])


@pytest.fixture
def records(make):
    return read_run(make(MIXED))


def test_they_are_read_back(records):
    assert records.steps == 2 and records.areas.shape == (4, 4, 4)
    assert records.places.tolist() == [[0, 1, 2, 3], [0, -1, -1, -1], [0, 1, 2, -1], [-1] * 4]
    inside = records.areas[..., 2].tolist()
    assert inside == [[5, 6, 9, 10], [4, 4, 0, 0], [3, 2, 1, 0], [0] * 4]  # the second repeats its only step
    assert records.chosen.tolist() == [2, 0, 2, 0]
    assert records.scores["judge"][1:3].tolist() == [[-np.inf] * 4, [0.5, 0.5, 0.9, -np.inf]]
    assert np.isnan(records.predicted_iou[1]).tolist() == [False, True, True, True]


def test_an_other_of_an_episode_with_fewer_steps_is_behind_those_of_the_longest(make):
    short = episode("0/00001", masks=[(10, 4), (10, 8)], chosen=1, others=1)
    long = episode("0/00000", masks=[(10, 1), (10, 2), (10, 3)], chosen=0, others=0)
    records = read_run(make([long, short]))
    assert records.steps == 3 and records.places.tolist() == [[0, 1, 2, -1], [0, -1, -1, 1]]
    assert records.chosen.tolist() == [0, 3] and records.areas[1, 3, 2] == 8
    assert records.areas[1, :3, 2].tolist() == [4, 4, 4]


def test_b_t_and_o_by_hand(records):
    values = means(summarise(records), EPISODE_MIOU)
    nothing = 50 * 0.9  # the episode that failed has an empty mask
    for quantity, inside in {
        "B": (5, 4, 3), "T": (9, 4, 1), "O": (10, 4, 3), "t = 0": (5, 4, 3), "t = 1": (6, 4, 2),
    }.items():  # fmt: skip
        assert values[quantity] == pytest.approx((sum(map(miou, inside)) + nothing) / 4), quantity
    assert "t = 2" not in values


def test_no_selector_takes_a_mask_that_is_not_there(records, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def last(arrays):\n"
        "    assert arrays['share'].shape == (3, 4)\n"
        "    return np.arange(4) + np.zeros((3, 1))\n"
        "def none(arrays):\n"
        "    return np.full((3, 4), np.nan)\n"
    )
    assert reselect(records, f"{file}:last").tolist() == [3, 0, 2, 0]
    assert reselect(records, f"{file}:none").tolist() == [0] * 4
    assert reselect(records, "judge").tolist() == [2, 0, 2, 0]
    assert reselect(records, "oracle").tolist() == [3, 0, 0, 0]


def test_the_report_and_its_figures(make, tmp_path):
    folder, out = make(MIXED), tmp_path / "out"
    result = report(folder, "--out", out, "--selector", "judge")
    assert "T chosen by judge" in result.stdout
    assert {path.name for path in out.glob("**/*.png")} >= {"gains.png", "scatter.png", "steps.png"}


def test_of_an_older_run_all_candidates_are_of_steps(make):
    line = episode()
    assert "others" not in line
    records = read_run(make([line]))
    assert records.steps == 2 and records.places.tolist() == [[0, 1]]


def test_masks_are_found_by_their_place_in_the_line(make):
    from prmagic.io.formats import rle

    pictures = [np.arange(12).reshape(3, 4) < count for count in (1, 2, 3)]
    long = episode("0/00007", masks=[(10, 1), (10, 2), (10, 3)])
    folder = make([long, episode("0/00001", masks=[(10, 4), (10, 8)], chosen=1, others=1)])
    line = {"seed": 42, "episode": "0/00001", "masks": [rle(mask) for mask in pictures[:2]], "candidates": [1, 0]}
    (folder / "masks.jsonl").write_text(json.dumps(line) + "\n")
    records = read_run(folder)
    masks = read_masks(folder, {(42, "0/00001")})[42, "0/00001"]
    assert [mask.sum() for mask in masks] == [2, 1]
    assert masks[records.places[0, records.chosen[0]]].sum() == 1
