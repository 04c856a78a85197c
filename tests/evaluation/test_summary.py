"""The numbers of a run, against values worked out by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from handmade_runs import THREE, episode, failed, means, percent, report

from prmagic.evaluation.records import read_run
from prmagic.evaluation.report import rows
from prmagic.evaluation.reselect import reselect
from prmagic.evaluation.summary import CLASS_MIOU, EPISODE_MIOU, METRICS, summarise


def test_the_four_metrics_differ_as_by_hand(make):
    summary = summarise(read_run(make()))
    # B: I₀ U₀ I₁ U₁ are 85 95 5 15, 50 60 40 50 and 80 100 0 20
    expected = {
        "episode-mIoU": ((85 / 95 + 5 / 15) / 2 + (50 / 60 + 40 / 50) / 2 + 0.4) / 3,
        "class-mIoU": (45 / 65 + 0) / 2,
        "FB-IoU": (215 / 255 + 45 / 85) / 2,
        "episode foreground IoU": (5 / 15 + 40 / 50 + 0) / 3,
    }
    for metric in METRICS:
        values = means(summary, metric)
        assert values["B"] == values["t = 0"] == percent(expected[metric])
    assert len({round(value, 4) for value in expected.values()}) == 4
    # T: the second mask, 90 90 10 10 and 40 70 30 60; O takes the first where that is better
    assert means(summary, EPISODE_MIOU)["T"] == percent((1 + (40 / 70 + 30 / 60) / 2 + 0.4) / 3)
    assert means(summary, EPISODE_MIOU)["O"] == percent((1 + (50 / 60 + 40 / 50) / 2 + 0.4) / 3)
    assert means(summary, CLASS_MIOU)["T"] == percent(40 / 70 / 2)
    assert means(summary, CLASS_MIOU)["O"] == percent(50 / 60 / 2)
    assert means(summary, CLASS_MIOU)["t = 1"] == percent(40 / 70 / 2)
    assert means(summary, EPISODE_MIOU)["empty mask"] == percent((0.9 + 0.5 + 0.8) / 3 / 2)
    assert means(summary, EPISODE_MIOU)["full mask"] == percent((0.1 + 0.5 + 0.2) / 3 / 2)
    assert means(summary, CLASS_MIOU)["full mask"] == percent((60 / 200 + 20 / 100) / 2)


def test_what_the_choice_of_t_brings(make):
    summary = summarise(read_run(make()))
    gains = [1 - (85 / 95 + 5 / 15) / 2, (40 / 70 + 30 / 60) / 2 - (50 / 60 + 40 / 50) / 2, 0]
    assert summary.gains == percent(np.array(gains))
    assert summary.gap_closed == percent(sum(gains) / gains[0])
    assert summary.worse().mean == summary.worse(1).mean == percent(1 / 3)
    assert summary.worse(50).mean == summary.worse(50).high == 0
    assert summary.gain.mean == summary.gains.mean() and summary.gain.low < summary.gain.mean < summary.gain.high
    tallies = summary.tallies
    assert (tallies["empty prediction, B"], tallies["empty prediction, T"], tallies["failed"]) == (1, 1, 0)


def test_ties_go_to_the_earlier(make):
    same = [episode(masks=[(10, 5), (12, 10), (12, 10)], chosen=2)]
    records = read_run(make(same))
    assert reselect(records, "oracle") == [1]
    assert reselect(replace(records, scores={"flat": np.array([[0.5, np.nan, 0.5]])}), "flat") == [0]
    assert reselect(replace(records, scores={"none": np.full((1, 3), -np.inf)}), "none") == [0]


def test_nothing_to_gain_leaves_the_share_of_the_gap_undefined(make):
    folder = make([THREE[2]])
    summary = summarise(read_run(folder))
    assert np.isnan(summary.gap_closed)
    (row,) = [row for row in rows(summary) if row["quantity"] == "share of the oracle gap closed"]
    assert row["value"] is None
    assert "oracle gap" not in report(folder).stdout


def test_a_failed_episode_counts_as_an_empty_mask_and_is_listed(make):
    lines = [*THREE[:2], failed("out of memory", id="0/00003", category="dog", truth=20)]
    paper = make(lines, "paper", settings={"preset": "paper-coco"})
    default = make(lines, "default")
    for folder in (paper, default):
        summary = summarise(read_run(folder))
        assert means(summary, EPISODE_MIOU)["T"] == percent((1 + (40 / 70 + 30 / 60) / 2 + 0.4) / 3)
        assert means(summary, CLASS_MIOU)["T"] == percent(40 / 70 / 2)
        tallies = summary.tallies
        assert (tallies["failed"], tallies["empty prediction, T"], tallies["found"]) == (1, 0, 3)
        assert "| 42   | 0/00003        | dog   | out of memory |" in report(folder).stdout
        assert summary.records.seconds == {"encode": 0.5, "decode": 0.25}
    text = report(paper).stdout
    assert summarise(read_run(paper)).without_failed["B"] == percent(((85 / 95 + 1 / 3) / 2 + (5 / 6 + 4 / 5) / 2) / 2)
    said = "Without the failed episodes, as the published code for PerSAM averages, episode-mIoU"
    assert f"{said}: B 71.54, T 76.79, O 90.83" in text
    assert "Without the failed" not in report(default).stdout
    assert json.loads(report(paper, "--format", "json").stdout)["runs"][0]["failed"] == [
        {"seed": 42, "episode": "0/00003", "class": "dog", "why": "out of memory"}
    ]


def test_what_is_empty_is_counted(make):
    lines = [
        episode("0/00000", truth=0, masks=[(0, 0), (3, 0)], chosen=1),
        episode("0/00001", support_pixels=[7, 0]),
        failed("the masks of all its supports are empty", id="0/00002", support_pixels=[0]),
        failed("a crop without pixels", id="0/00003", pixels=0, truth=0),
    ]
    tallies = summarise(read_run(make(lines))).tallies
    assert tallies == {
        "expected": 4, "found": 4, "missing": 0, "distinct": 4, "failed": 2, "empty ground truth": 1,
        "empty support": 2, "empty prediction, B": 1, "empty prediction, T": 0,
    }  # fmt: skip


def test_a_run_may_fail_altogether_and_before_anything_is_known(make):
    lines = [failed(id=f"0/{number:05d}", truth=0, pixels=0) for number in range(25)]
    text = report(make(lines, settings={"preset": "paper"})).stdout
    assert "Failed: 25." in text and "… and 5 more" in text
    assert text.count("no peak") == 20


def test_seeds_that_repeat_an_episode_are_one_episode(make):
    """The published PerSAM runs: five seeds, one list of episodes."""
    gain, loss = {"masks": [(10, 5), (10, 10)]}, {"masks": [(10, 10), (10, 5)]}
    lines = [
        episode("0/00000", "cat", 10, seed=42, **gain), episode("0/00000", "cat", 10, seed=43, **loss),
        episode("0/00001", "cat", 10, seed=42, **gain), episode("0/00001", "cat", 10, seed=43, **gain),
        episode("0/00001", "cat", 10, seed=44, **gain, supports=["another.jpg"]),
    ]  # fmt: skip
    summary = summarise(read_run(make(lines)))
    gained = 1 - (85 / 95 + 5 / 15) / 2
    assert summary.tallies["distinct"] == 3
    assert summary.gains == percent(np.array([gained, gained, -gained, gained, gained]))
    half = (85 / 95 + 5 / 15) / 2
    b = summary.values[EPISODE_MIOU]["B"]
    assert b.mean == percent((half + (1 + half) / 2 + half) / 3)
    assert b.over_seeds == percent(np.std([half, (1 + half) / 2, half], ddof=1)) and np.isnan(b.over_folds)
    assert "5 of 5, 3 of them distinct (3 seeds)" in report(summary.name).stdout


def test_folds_weigh_the_same_whatever_their_size(make):
    full, none = [(10, 10)], [(0, 0)]
    lines = [
        *(episode(f"0/{n:05d}", "cat", 10, full, chosen=0) for n in range(3)),
        episode("1/00000", "dog", 10, none, chosen=0),
    ]
    value = summarise(read_run(make(lines, classes={"0": 1, "1": 1}))).values
    assert value[EPISODE_MIOU]["B"].mean == percent((1 + 0.45) / 2)
    assert value[EPISODE_MIOU]["B"].over_folds == percent(0.55 / np.sqrt(2))
    assert value[CLASS_MIOU]["B"].mean == percent(0.5)


def test_a_class_without_episodes_counts_as_0_in_a_whole_run(make):
    b = 45 / 65
    assert means(summarise(read_run(make(name="whole", classes={"0": 3}))), CLASS_MIOU)["B"] == percent(b / 3)
    limited = make(name="limited", classes={"0": 3}, limit=3)
    assert means(summarise(read_run(limited)), CLASS_MIOU)["B"] == percent(b / 2)
    unfinished = make(name="unfinished", classes={"0": 3}, episodes={"42": 5})
    assert means(summarise(read_run(unfinished)), CLASS_MIOU)["B"] == percent(b / 2)
    text = report(limited, unfinished).stdout
    assert "61.02†" in text and "61.02‡" in text
    assert "† A limited run" in text and "‡ The run is not finished" in text
    assert "2 episodes are missing (2 of seed 42)" in text
    assert "†" not in report(make(name="fine")).stdout


def test_cut_lines_go_and_the_first_of_two_counts(make):
    again = {**THREE[0], "chosen": 0}
    whole = make([*THREE, failed(id="0/00003")], "a")
    odd = make(
        [failed(id="0/00003"), THREE[2], *THREE[:2], again], "b", '{"seed": 42, "episode": "0/00', episodes={"42": 4}
    )
    with (odd / "episodes.jsonl").open("a") as file:  # where a run went on behind a cut line
        file.write(json.dumps(THREE[0]) + "\n" + json.dumps(again)[:-1])
    first, second = (report(folder, "--format", "csv").stdout.replace(str(folder), "") for folder in (whole, odd))
    assert first == second


def test_lines_that_do_not_belong_are_named(make):
    for name, wrong in (
        ("short", {"predicted_iou": [0.9]}), ("far", {"chosen": 2}), ("all", {"others": 2}), ("odd", {"others": True}),
        ("minus", {"others": -1}),
    ):  # fmt: skip
        assert "line 2 is no record" in report(make([THREE[0], {**THREE[1], **wrong}], name), code=2).stderr
    fieldless = {key: value for key, value in THREE[1].items() if key != "object"}
    del fieldless["class"]
    assert "line 1 is no record" in report(make([fieldless], "fieldless"), code=2).stderr
    other = episode("0/00001")
    other["scores"] = {"mine": [1, 2]}
    assert "the scores reencode, cycle-recall" in report(make([THREE[0], other], "other"), code=2).stderr


def test_folders_that_are_no_runs(make, tmp_path):
    assert "has no run.json" in report(tmp_path, code=2).stderr
    started = make(name="started")
    (started / "episodes.jsonl").write_text('{"seed"')
    assert "has not finished an episode yet" in report(started, code=2).stderr
    (started / "episodes.jsonl").unlink()
    assert "has not finished an episode yet" in report(started, code=2).stderr
    (started / "run.json").write_text('{"benchmark": "coco"}')
    assert "was not written by `prmagic evaluate`" in report(started, code=2).stderr
    twice = make(name="twice")
    assert "named twice" in report(twice, twice, code=2).stderr
