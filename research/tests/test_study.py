"""`study.py` as it is used, on a miniature data set; the report's arithmetic by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import controls
import prmagic
from analysis import METRICS, Records, document, fit_rate, gain, paired
from flows import STUDIES, Drift, Resample, settings
from prmagic import Flow, Support
from prmagic.datasets import open_dataset
from prmagic.datasets.base import Episode, Item
from prmagic.evaluation.jobs import Job
from prmagic.metrics import Clusters, areas, class_miou, episode_miou, foreground_background_iou
from runner import Runner, limited, moved
from study import app

FEW = ("--per-class", 2, "--seeds", 3, "--threads", 1)


def run(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result.output.replace("\n", " ")


@pytest.fixture
def study(own, sam_folder):
    """Runs a study of three steps."""

    def call(name, *options, out="out", code=0):
        fixed = ("--data", "data", "--sam", sam_folder, "--set", "steps=3", "--out", out)
        return run("run", name, *fixed, *FEW, *options, code=code)

    return call


def records(out="out"):
    return [json.loads(line) for line in Path(out, "steps.jsonl").read_text().splitlines()]


def sorted_lines(out):
    return sorted(json.dumps(line) for line in records(out))


def test_records_hold_what_the_library_finds(own, sam_folder, study):
    study("flows", "--all-scores", "--set", "extra_points=0.99/0.90")
    lines = records()
    assert [line["setting"] for line in lines[:6]] == ["none", "resample", "spread", "noise", "drift", "full"]
    assert len(lines) == 4 * 6  # two episodes of two classes
    by_setting = {line["setting"]: line for line in lines[:6]}
    line, noise = by_setting["full"], by_setting["noise"]
    dataset = open_dataset("own", own)
    episode = next(e for e in dataset.episodes(0, 1, 3) if e.id == line["episode"])
    query, (support,) = dataset.load(episode)
    segmenter = prmagic.load("persam-f", sam=sam_folder, flow="full", steps=3, seed=3, extra_points="0.99/0.90")
    reencode = prmagic.Segmenter(segmenter.framework, segmenter.flow, "reencode", seed=3)
    reference = reencode.encode_support(Support(support.image, support.mask))
    (encoded,) = segmenter.encode([query.image])
    asked = "a", "b", encoded, reference, episode.id
    result, judged = (each.segment_encoded(*asked) for each in (segmenter, reencode))
    assert line["areas"] == [areas(c.mask, query.mask).tolist() for c in result.candidates]
    assert line["scores"]["judge"] == pytest.approx(result.scores, abs=1e-5)
    assert line["scores"]["reencode"][:4] == pytest.approx(judged.scores, abs=1e-5)
    assert line["distinct"] == len({c.mask.tobytes() for c in result.candidates})
    assert set(line["scores"]) == {"judge", "reencode", "cycle-recall", "guard", "pooled", "predicted-iou"}
    assert line["gradient_norm"][0] > 0 and len(line["gradient_norm"]) == 3
    points = [c.prompts.points for c in judged.candidates]
    assert line["moved"] == [0, *(moved(*pair) for pair in pairwise(points))]
    assert noise["gradient_norm"] == [None] * 3 and noise["shift_rms"][0] == 0 < noise["shift_rms"][1]
    assert by_setting["resample"]["shift_rms"] == [0] * 4
    assert by_setting["drift"]["d"][0] == pytest.approx(line["d"][0])


@pytest.mark.filterwarnings("default:.*of its lines")
def test_a_photo_is_encoded_once_and_killed_runs_go_on(study, monkeypatch):
    assert "24 record(s) done" in study("flows", out="whole")
    Path("out").mkdir()
    for name in ("run.json", "steps.jsonl"):
        text = Path("whole", name).read_text()
        Path("out", name).write_text(text if name == "run.json" else "".join(text.splitlines(True)[:7]) + text[:30])
    encoded = []
    real = prmagic.Segmenter.encode
    monkeypatch.setattr(
        prmagic.Segmenter, "encode", lambda self, images: encoded.append(len(images)) or real(self, images)
    )
    said = study("flows")
    assert "7 of 24 records are there already" in said and "of its lines 1 are damaged" in said
    assert sorted_lines("out") == sorted_lines("whole")
    assert encoded == [1] * 3  # of four episodes one was whole
    assert "was 3, now it is 2" in study("flows", "--set", "steps=2", code=2)


def test_with_matcher_the_judge_chooses_as_in_the_library(own, sam_folder, encoder_folder, study):
    study("objective", "--framework", "matcher", "--encoder", encoder_folder, "--set", "centers=2")
    dataset = open_dataset("own", own)
    episodes = {e.id: e for e in dataset.episodes(0, 1, 3)}
    line = next(line for line in records() if line["setting"] == "foreground, ρ = 0.1")
    segmenter = prmagic.load(
        "matcher", sam=sam_folder, encoder=encoder_folder, centers=2, steps=3, rho=0.1, objective="foreground", seed=3,
        min_score=-1,
    )  # fmt: skip
    query, (support,) = dataset.load(episodes[line["episode"]])
    reference = segmenter.encode_support(Support(support.image, support.mask))
    (encoded,) = segmenter.encode([query.image])
    scores = segmenter.segment_encoded("a", "b", encoded, reference, draw_key=line["episode"]).scores
    recorded = [-math.inf if score is None else score for score in line["scores"]["judge"]]
    assert recorded == pytest.approx(list(scores), abs=1e-5)
    assert json.loads(Path("out/run.json").read_text())["flows"]["sum, ρ = 0.03"]["rho"] == 0.03


def test_a_selector_of_ones_own_is_recorded(own, sam_folder):
    def mine(framework, query, reference, candidates):
        return [float(t) for t in range(len(candidates))]

    dataset = open_dataset("own", own)
    segmenter = prmagic.load("persam-f", sam=sam_folder, steps=2, selector=mine)
    runner = Runner(dataset, segmenter, {"spread": segmenter.flow})
    (record,) = runner.run([Job(3, dataset.episodes(0, 1, 3)[0])], lambda *_: False)
    assert record["scores"]["mine"] == [0, 1, 2]


def test_an_episode_that_cannot_be_used_is_left_out(study, monkeypatch):
    real, refused = prmagic.Segmenter.encode_examples, []

    def refusing(self, examples, *others):
        if not refused or refused[0] == examples[0].image.tobytes():
            refused[:] = [examples[0].image.tobytes()]
            raise ValueError("not this one")
        return real(self, examples, *others)

    monkeypatch.setattr(prmagic.Segmenter, "encode_examples", refusing)
    assert "drift: not this one" in study("flows", code=1)
    assert "24 of 24 records are there already" in study("flows", code=1)  # they are not whole
    assert "1 left out" in run("report", "out") or "2 left out" in run("report", "out")


def test_wrong_names_are_explained(study):
    assert "did you mean 'objective'" in study("objectiv", code=2)
    assert "A study starts from a flow with a gradient" in study("flows", "--set", "flow=noise", code=2)
    assert "is missing" in run("report", "nowhere", code=2)


@pytest.mark.parametrize("base", [Flow(), Flow(mode="spread"), Flow(objective="foreground", rho=0.2)])
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_compares_flows_that_differ(name, base):
    flows = settings(name, base)
    assert len({(type(flow), flow) for flow in flows.values()}) == len(flows) > 1


def test_drift_has_no_noise_and_resample_does_not_move():
    shift, gradient, z0 = torch.zeros(1, 2, 4, 4), torch.randn(1, 2, 4, 4), torch.ones(1, 2, 4, 4)
    rng = torch.Generator().manual_seed(0)
    full = Flow(gamma=0.0, rho=0.1)
    assert torch.equal(Drift(rho=0.1).step(shift, gradient, rng, z0), full.step(shift, gradient, rng, z0))
    assert torch.equal(Resample().step(shift, None, rng, z0), shift) and not Resample().needs_gradient


def test_the_report_says_what_the_records_hold(study):
    study("flows", "--seeds", "3,4", "--set", "eta=0.01")
    text = run("report", "out", "--out", "report.md")
    assert Path("report.md").read_text().replace("\n", " ") == text
    assert "8 episodes of 2 classes, seeds 3, 4; 0 left out" in text
    lines = [line for line in records() if line["setting"] == "full"]
    baseline = np.mean([episode_miou(np.array(line["areas"][0])) for line in lines])
    row = next(line for line in Path("report.md").read_text().splitlines() if line.startswith("| full "))
    assert f"{100 * baseline:.2f}" in row
    assert all(f"| {selector} " in text for selector in ("pooled", "predicted-iou", "cycle-recall", "guard"))
    assert "T by pooled" in run("report", "out", "--selector", "pooled")
    assert "has no scores 'colour'" in run("report", "out", "--selector", "colour", code=2)


def test_episodes_that_were_not_begun_count_as_left_out(study):
    study("flows")
    file = Path("out/steps.jsonl")
    file.write_text("".join(file.read_text().splitlines(True)[:6]))
    assert "1 episodes of 1 classes, seeds 3; 3 left out" in run("report", "out")


def test_runs_of_other_seeds_are_one_study(study):
    for seeds, out in (("3", "one"), ("4", "other"), ("3,4", "both")):
        study("rho", "--seeds", seeds, "--per-class", 1, out=out)
    assert run("report", "one", "other") == run("report", "both")
    assert "a seed in common" in run("report", "one", "both", code=2)


@pytest.mark.filterwarnings("default:.*of its lines")
def test_what_cannot_be_read_is_named(study):
    study("flows", "--per-class", 1)
    file, described = Path("out/steps.jsonl"), Path("out/run.json")
    lines = file.read_text().splitlines(True)
    file.write_text("".join([lines[0], "{damaged\n", *lines[1:]]))
    assert "steps.jsonl, line 2, is damaged" in run("report", "out", code=2)
    assert "of its lines 1 are damaged" in study("flows", "--per-class", 1)  # goes on, and drops it
    run("report", "out")
    described.write_text("5")
    assert "is not of a study" in run("report", "out", code=2)


def test_episodes_per_class_are_drawn_from_the_seed_alone():
    def episode(number, class_id):
        return Episode(f"0/{number:05d}", 0, class_id, "abc"[class_id], Item(f"{number}"), (Item("s"),))

    everything = [episode(number, number // 10) for number in range(25)]
    some = limited(everything, 3, 7)
    assert [e.class_id for e in some] == [0] * 3 + [1] * 3 + [2] * 3
    assert some == limited(everything, 3, 7) != limited(everything, 3, 8)
    assert limited(everything, None, 7) == everything
    assert limited(everything[10:], 3, 7) == some[3:]


def test_points_move_by_the_mean_distance_to_the_nearest():
    one, two = np.array([[0, 0]], np.float32), np.array([[3, 4], [0, 1]], np.float32)
    assert moved(one, one) == 0
    assert moved(one, two) == pytest.approx(((5 + 1) / 2 + 1) / 2)


def test_pooled_is_the_cosine_of_means(own, sam_folder):
    dataset = open_dataset("own", own)
    _, (support,) = dataset.load(dataset.episodes(0, 1, 3)[0])
    segmenter = prmagic.load("persam-f", sam=sam_folder, steps=0, selector=controls.pooled)
    reference = segmenter.encode_support(Support(support.image, support.mask))
    photo = segmenter.encode([support.image])[0].query
    candidate = segmenter.segment(support.image, reference).candidates[0]
    same, empty = (replace(candidate, mask=mask) for mask in (support.mask, np.zeros_like(support.mask)))
    with torch.no_grad():
        scores = controls.pooled(segmenter.framework, photo, reference, [same, empty])
    assert scores == [pytest.approx(1, abs=1e-5), -math.inf]


def test_a_gain_and_its_interval_in_each_metric():
    clusters = Clusters(list("aab"), list("123"))
    better, than = (np.array([[0, 9, i, 10], [3, 9, i, 10], [9, 9, 2, 8]]) for i in (6, 4))
    classes = list("aab")
    for name, known in (
        ("episode-mIoU", episode_miou(better).mean() - episode_miou(than).mean()),
        ("class-mIoU", class_miou(better, classes) - class_miou(than, classes)),
        ("FB-IoU", foreground_background_iou(better) - foreground_background_iou(than)),
    ):
        found, low, high = gain(clusters, METRICS[name], better, than)
        assert found == pytest.approx(known)
        assert low == pytest.approx(0) and high == pytest.approx({"class-mIoU": 0.2}.get(name, 0.1))
        assert gain(clusters, METRICS[name], better, better) == (0, 0, 0)


def test_the_rate_of_a_decay():
    norms = [3 * math.exp(-0.4 * t) for t in range(6)]
    for gaps in (norms, [*norms[:2], None, 0.0, *norms[4:]], [*norms[:4], math.nan, norms[5]]):
        rate = fit_rate(gaps)
        assert (rate.rate, rate.r2) == (pytest.approx(0.4), pytest.approx(1))
    assert fit_rate([1.0, 2.0, 4.0]).rate == pytest.approx(-math.log(2))
    assert fit_rate([1.0, 0.5]) is None and fit_rate([None] * 5) is None and fit_rate([2.0] * 4) is None


def made(name="flows", episodes=6, **settings):
    """A study by hand: of each setting the masks' IoU of photos of 10 pixels, 5 of them the object, by candidate."""
    run = {
        "study": name, "model": "made", "settings": {"framework": "persam-f"}, "seeds": [3], "selector": "up",
        "flows": {key: {"rho": None} for key in settings},
    }  # fmt: skip

    def line(episode, found):
        # Of five pixels of each, the mask has none of the background, and found of the object.
        areas = [[5, 10 - each, each, 5] for each in found]
        about = {"seed": 3, "episode": str(episode), "class": f"c{episode % 2}", "query": str(episode)}
        scores = {"up": [float(each) for each in found], "down": [float(-each) for each in found]}
        steps = len(found)
        path = {"d": [1.0] * steps, "gradient_norm": [0.5**t for t in range(steps)], "moved": [0.0] * steps}
        about |= {"pixels": 10, "object": 5, "distinct": steps, "shift_rms": [0.1] * steps, **path}
        return {**about, "areas": areas, "scores": scores}

    lines = {key: [line(episode, found) for episode in range(episodes)] for key, found in settings.items()}
    return Records(Path(name), run, lines, 0)


def value(found):
    return 100 * (5 / (10 - found) + found / 5) / 2


def test_gap_and_worse_episodes_are_those_of_the_masks():
    _, _, good, *_ = document(made(full=[2, 4, 5]), "up")
    _, _, bad, *_ = document(made(full=[4, 1, 5]), "down")
    assert good.rows[0][1:4] == [f"{value(each):.2f}" for each in (2, 5, 5)]
    assert good.rows[0][5:7] == ["100 %", "0.0 %"]
    assert bad.rows[0][1:4] == [f"{value(each):.2f}" for each in (4, 1, 5)]
    assert bad.rows[0][5] == f"−{100 * (value(4) - value(1)) / (value(5) - value(4)):.0f} %"
    assert bad.rows[0][6] == "100.0 %"


def test_full_is_compared_with_the_others():
    _, _, _, table, *_ = document(made(full=[2, 4, 5], noise=[2, 3, 3]))
    assert [row[0] for row in table.rows] == ["noise"]
    assert table.rows[0][1].startswith(f"{value(5) - value(3):+.2f} [")


def test_a_rate_is_told_only_of_the_paper_s_step():
    study = made(full=[2, 4, 5, 5])
    assert document(study)[-1].rows[0][-2:] == [f"{math.log(2):.3g} [{math.log(2):.3g}, {math.log(2):.3g}]", "100 %"]
    study.run["flows"]["full"]["rho"] = 0.03
    assert document(study)[-1].rows[0][-2:] == ["–", "–"]


def test_settings_of_several_runs_are_compared_on_common_episodes():
    one, other = made(full=[2, 4, 5], noise=[2, 3, 3]), made("rho", 4, drift=[2, 2, 4])
    _, table = paired([one, other], "noise")
    assert [row[:2] for row in table.rows] == [["full, in flows", "6"], ["drift, in rho", "4"]]
    for row, highest in zip(table.rows, (5, 4), strict=True):
        for cell in (row[2], row[5]):  # T and O of episode-mIoU
            assert cell.startswith(f"{value(highest) - value(3):+.2f} [")
    with pytest.raises(ValueError, match="has the setting 'colour'"):
        paired([one], "colour")
    other.lines["drift"][0]["query"] = "elsewhere"
    with pytest.raises(ValueError, match=r"not of the same data: episode 0 is of elsewhere"):
        paired([one, other], "noise")
    other.run["settings"]["framework"] = "matcher"
    with pytest.raises(ValueError, match="their settings differ"):
        paired([one, other], "noise")
