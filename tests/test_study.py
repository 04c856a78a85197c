"""`prmagic study` as a user meets it, on a miniature data set and the tiny random models; its arithmetic by hand."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluate import SAM, SPOTS, own_data, run

import prmagic
from prmagic import Support
from prmagic.datasets import open_dataset
from prmagic.datasets.base import Episode, Item
from prmagic.evaluation.gaussian import Gaussian, simulate
from prmagic.evaluation.metrics import areas, class_miou, episode_miou, foreground_background_iou
from prmagic.evaluation.run import Job
from prmagic.evaluation.study import FROM_DEFAULT, STUDIES, Student, limited, moved, settings
from prmagic.evaluation.study_figures import _prefixes
from prmagic.evaluation.study_report import (
    METRICS,
    Clusters,
    _against,
    _random_fallback,
    _settings_table,
    fit_rate,
    paired,
    rates,
    read,
)
from prmagic.evaluation.study_report import Study as Recorded
from prmagic.flow import Flow
from prmagic.images import load_image
from prmagic.select import SELECTORS

sys.path.insert(0, str(Path(__file__).parents[1] / "perf"))
from studies import plan


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return own_data(tmp_path / "data")


def study(name="flows", *args, out="out", code=0):
    fixed = ("--data", "data", "--sam", SAM, "--per-class", 2, "--seeds", 3, "--steps", 3, "--threads", 1)
    result = run("study", "run", name, *fixed, "--out", out, *args)
    assert result.exit_code == code, result.output
    return result.output


def records(out="out"):
    return [json.loads(line) for line in Path(out, "steps.jsonl").read_text().splitlines()]


def sorted_lines(lines):
    return sorted(json.dumps(line) for line in lines)


def width(file):
    with Image.open(file) as picture:
        return picture.width


def test_records_hold_what_the_library_finds_with_each_flow(own):
    study("flows", "--all-scores", "--extra-points", "0.99/0.90")
    lines = records()
    assert [line["setting"] for line in lines[:5]] == ["none", "resample", "noise", "drift", "full"]
    assert len(lines) == 4 * 5  # two episodes of two classes
    dataset = open_dataset("own", own)
    line = next(line for line in lines if line["setting"] == "full")
    episode = next(e for e in dataset.episodes(0, 1, 3) if e.id == line["episode"])
    query, (support,) = dataset.load(episode)
    segmenter = prmagic.load("persam-f", sam=SAM, steps=3, seed=3, extra_points="0.99/0.90", selector="reencode")
    reference = segmenter.encode_support(Support(support.image, support.mask))
    result = segmenter.segment(query.image, reference, name=episode.id)
    assert line["areas"] == [areas(c.mask, query.mask).tolist() for c in result.candidates]
    assert line["scores"]["reencode"] == pytest.approx(result.scores, abs=1e-5)
    assert set(line["scores"]) == set(SELECTORS) - {"guard", "veto", "consensus", "fusion"}
    assert line["gradient_norm"][0] > 0 and len(line["gradient_norm"]) == 3
    points = [c.prompts.points for c in result.candidates]
    assert line["moved"] == [0, *(moved(*pair) for pair in pairwise(points))]
    noise = next(line for line in lines if line["setting"] == "noise")
    assert noise["gradient_norm"] == [None] * 3 and noise["shift_rms"][0] == 0 < noise["shift_rms"][1]
    resampled = next(line for line in lines if line["setting"] == "resample")
    assert resampled["shift_rms"] == [0] * 4 and resampled["d"][0] == pytest.approx(noise["d"][0])
    drift = next(line for line in lines if line["setting"] == "drift")
    assert drift["d"][0] == pytest.approx(line["d"][0])  # that of the framework's own objective


def test_a_photo_is_encoded_once_for_all_settings_and_killed_runs_go_on(own, monkeypatch):
    whole = study(out="whole")
    assert "20 record(s) done" in whole
    Path("out").mkdir()
    for name in ("run.json", "steps.jsonl"):
        text = Path("whole", name).read_text()
        Path("out", name).write_text(text if name == "run.json" else "".join(text.splitlines(True)[:7]) + text[:30])
    encoded = []
    real = prmagic.Segmenter.encode
    monkeypatch.setattr(
        prmagic.Segmenter, "encode", lambda self, images: encoded.append(len(images)) or real(self, images)
    )
    assert "7 of 20 records are there already" in study()
    assert sorted_lines(records()) == sorted_lines(records("whole"))  # the line that was cut short is dropped
    assert encoded == [1] * 3  # of four episodes one was whole
    assert "was 3, now it is 2" in study("flows", "--steps", 2, code=2)


def test_the_presets_own_selector_is_recorded(own):
    study("objective", "--preset", "paper", "--per-class", 1, "--steps", 1)
    assert all("reencode" in line["scores"] for line in records())
    assert "T by reencode" in run("study", "report", "out").output


def test_a_selector_that_compares_candidates_sees_those_of_one_setting(own, encoder_folder):
    study("flows", "--framework", "matcher", "--encoder", encoder_folder, "--eta", 0.5, "--steps", 3)
    dataset = open_dataset("own", own)
    episodes = {e.id: e for e in dataset.episodes(0, 1, 3)}
    for line in records():
        segmenter = prmagic.load(
            "matcher", sam=SAM, encoder=encoder_folder, flow=line["setting"], eta=0.5, steps=3, seed=3, min_score=-1
        )
        query, (support,) = dataset.load(episodes[line["episode"]])
        reference = segmenter.encode_support(Support(support.image, support.mask))
        result = segmenter.segment(query.image, reference, name=line["episode"])
        scores = [-np.inf if score is None else score for score in line["scores"]["guard"]]
        if line["setting"] != "none":  # which chooses nothing
            assert scores == pytest.approx(list(result.scores), abs=1e-5)


def test_a_selector_of_ones_own_judges_each_setting_with_what_it_reads(own):
    def mine(framework, query, reference, candidates):
        assert "descriptors" in reference.tensors  # without `reads`
        return [float(t) for t in range(len(candidates))]

    dataset = open_dataset("own", own)
    segmenter = prmagic.load("persam-f", sam=SAM, steps=2, selector=mine)
    student = Student(dataset, segmenter, settings("selectors", segmenter.flow))
    job = Job(3, dataset.episodes(0, 1, 3)[0])
    found = list(student.run([job], lambda *_: False))
    assert [record["scores"]["mine"] for record in found] == [[0, 1, 2]] * 2


def test_an_episode_that_cannot_be_used_is_recorded_and_left_out(own, monkeypatch):
    learn = prmagic.Segmenter.encode_examples

    def refusing(self, examples, read=None):
        if examples[0].image.tobytes() in cats:
            raise ValueError("no cats")
        return learn(self, examples, read)

    cats = {load_image(f"data/{number}.png").tobytes() for number in range(SPOTS)}
    monkeypatch.setattr(prmagic.Segmenter, "encode_examples", refusing)
    assert "(cat), drift: no cats" in study(code=1)
    assert "2 episodes of 1 classes, seeds 3; 2 left out" in run("study", "report", "out").output
    assert "20 of 20 records are there already" in study(code=1)  # they are not whole


def test_options_without_effect_and_unknown_names_are_refused(own):
    assert "the study eta tries several values of its own: leave --eta out" in study("eta", "--eta", 0.1, code=2)
    assert "the study eta starts from the published step: leave --rho out" in study("eta", "--rho", 0.1, code=2)
    assert "did you mean 'gamma'" in study("gama", "--rho", 0.1, code=2)
    assert "is missing" in run("study", "report", "nowhere").output


@pytest.mark.parametrize("base", [Flow(), Flow(objective="foreground", rho=0.2, clip=None)])
@pytest.mark.parametrize("name", STUDIES)
def test_every_study_compares_flows_that_differ(name, base):
    flows = settings(name, base)
    assert len(set(flows.values())) == len(flows) > 1
    assert (base in flows.values()) == (base.rho is None or name in FROM_DEFAULT)


@pytest.mark.parametrize("framework", ["persam-f", "matcher"])
def test_the_report_of_a_study(own, framework, encoder_folder):
    more = ("--framework", "matcher", "--encoder", encoder_folder) if framework == "matcher" else ()
    study("selectors", *more, "--seeds", "3,4", "--steps", 3, "--eta", 0.01)  # the published step, which has a λ
    result = run("study", "report", "out", "--out", "report")
    assert result.exit_code == 0, result.output
    text = Path("report/report.md").read_text()
    assert "8 episodes of 2 classes, seeds 3, 4; 0 left out" in text
    assert text.partition("\n![")[0] in result.output
    lines = [line for line in records() if line["setting"] == "full"]
    baseline = np.mean([episode_miou(np.array(line["areas"][0])) for line in lines])
    row = next(line for line in text.splitlines() if line.startswith("| full "))
    assert f"{100 * baseline:.2f}" in row
    for selector in (
        "cycle",
        "recall",
        "fusion",
        "guard fusion",
        "guard pooled",
        "veto cycle-recall",
        "consensus cycle-recall",
    ):
        assert f"| {selector} " in text
    for figure in ("gains", "steps", "path", "rates"):
        assert width(f"report/{figure}.png") > 500
        assert f"]({figure}.png)" in text
    assert "T by guard pooled" in run("study", "report", "out", "--selector", "guard pooled").output
    assert "has no scores 'colour'" in run("study", "report", "out", "--selector", "colour").output


def test_a_guard_of_a_shorter_flow_decides_by_its_own_candidates():
    overlap = [[1, 0.5, 0.5], [0.5, 1, 0.5], [0.5, 0.5, 1]]
    scores = {"separation": [0.5, 0.6, 0.9], "cycle": [0.5, 0.6, 0.1], "guard": [9, 9, 9]}
    study = Recorded(Path("here"), {}, {"full": [{"scores": scores, "overlap": overlap}]}, 0)
    assert study.scores("full", "guard") == [[0.5, -math.inf, -math.inf]]  # the best one does not pass
    assert study.scores("full", "guard separation", 2) == [[0.5, 0.6]]


def test_episodes_that_were_not_begun_count_as_left_out(own):
    study()
    records = Path("out/steps.jsonl")
    records.write_text("".join(records.read_text().splitlines(True)[:5]))
    assert "1 episodes of 1 classes, seeds 3; 3 left out" in run("study", "report", "out").output


def test_runs_of_other_seeds_are_one_study(own):
    for seeds, out in (("3", "one"), ("4", "other"), ("3,4", "both")):
        study("selectors", "--seeds", seeds, out=out)
    apart, both = (run("study", "report", *names).output for names in (("one", "other"), ("both",)))
    assert apart == both
    assert "have a seed in common" not in apart
    refused = run("study", "report", "one", "both")
    assert refused.exit_code == 2 and "a seed in common" in refused.output


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


def test_the_bootstrap_draws_classes_and_queries_and_keeps_seeds_together():
    clusters = Clusters(["a", "a", "a", "b"], ["1", "1", "2", "3"])
    found = clusters.resampled(np.array([[1.0], [10.0], [100.0], [1000.0]]), draws=400)
    assert found.shape == (400, 2, 1)
    assert set(found.ravel()) == {22.0, 111.0, 200.0, 1000.0}
    for values, interval in (([1.0, 1.0, 1.0, 3.0], (1.0, 3.0)), ([2.0] * 4, (2.0, 2.0))):
        counted = np.stack([values, np.ones(4)], 1)
        assert clusters.interval(counted, METRICS["episode-mIoU"].of_sums) == interval


def test_a_gain_and_its_interval_in_each_metric():
    clusters = Clusters(list("aab"), list("123"))
    better, than = (np.array([[0, 9, i, 10], [3, 9, i, 10], [9, 9, 2, 8]]) for i in (6, 4))
    classes = list("aab")
    for name, known in (
        ("episode-mIoU", episode_miou(better).mean() - episode_miou(than).mean()),
        ("class-mIoU", class_miou(better, classes) - class_miou(than, classes)),
        ("FB-IoU", foreground_background_iou(better) - foreground_background_iou(than)),
    ):
        gain, low, high = clusters.gain(METRICS[name], better, than)
        assert gain == pytest.approx(known)
        assert low == pytest.approx(0) and high == pytest.approx({"FB-IoU": 0.1, "class-mIoU": 0.2}.get(name, 0.1))
        assert clusters.gain(METRICS[name], better, better) == (0, 0, 0)


def test_the_rate_of_a_decay():
    norms = [3 * math.exp(-0.4 * t) for t in range(6)]
    for gaps in (norms, [*norms[:2], None, 0.0, *norms[4:]], [*norms[:4], math.nan, norms[5]]):
        rate = fit_rate(gaps)
        assert (rate.rate, rate.r2) == (pytest.approx(0.4), pytest.approx(1))
    assert fit_rate([1.0, 2.0, 4.0]).rate == pytest.approx(-math.log(2))
    assert fit_rate([1.0, 0.5]) is None and fit_rate([None] * 5) is None and fit_rate([2.0] * 4) is None


def test_the_random_control_rejects_as_many_proposals(own):
    study("selectors", out="out")
    found = read(Path("out"))
    count = len(found.lines["full"])
    proposals, rejected = [[0.0, 1.0, 0.0, 0.0]] * count, [[1.0, 0.0, 0.0, 0.0]] * count
    half = [*proposals[: count // 2], *rejected[count // 2 :]]
    for line in found.lines["full"]:
        line["overlap"][0][1] = 0.5  # every proposal changes something
    share, gain, _, more = _random_fallback(found, "full", half, proposals)
    b, t, guard = (
        np.mean([episode_miou(each[at]) for each, at in zip(found.areas("full"), places, strict=True)])
        for places in ([0] * count, [1] * count, [1] * (count // 2) + [0] * (count - count // 2))
    )
    assert share == "50 %" and gain == f"{100 * (t - b) / 2:+.2f}".replace("-", "−")
    assert more.split()[0] == f"{100 * (guard - (b + t) / 2):+.2f}".replace("-", "−")
    found.lines["full"][0]["overlap"][0][1] = 0.99  # no change: there is nothing to reject
    assert _random_fallback(found, "full", half, proposals)[0] == f"{100 * (count / 2) / (count - 1):.0f} %"


def test_rejecting_at_random_is_no_better_than_that_in_any_resampling():
    """Where every proposal gains the same, it does not matter which are let through, however many are drawn."""
    study = made(episodes=24, full=[2, 4])
    proposals = [[0.0, 1.0]] * 24
    scores = [[0.0, 1.0] if episode % 3 else [1.0, 0.0] for episode in range(24)]
    assert _random_fallback(study, "full", scores, proposals)[-1].replace("−", "+") == "+0.00 [+0.00, +0.00]"


def made(name="flows", episodes=6, **settings):
    """A study by hand: of each setting the masks' IoU of photos of 10 pixels, 5 of them the object, by candidate."""
    run = {
        "study": name, "model": "made", "settings": {"framework": "persam-f"}, "seeds": [3], "selector_name": "cycle",
        "flows": {key: {"rho": None, "gradient_at_origin": False, "particles": 1} for key in settings},
    }  # fmt: skip

    def line(episode, found):
        # Of five pixels of each, the mask has none of the background, and found of the object.
        areas = [[5, 10 - each, each, 5] for each in found]
        about = {"seed": 3, "episode": str(episode), "class": f"c{episode % 2}", "query": str(episode)}
        scores = {"cycle": [float(each) for each in found], "separation": [float(-each) for each in found]}
        overlap = [[float(a == b) for b in found] for a in found]
        return {**about, "areas": areas, "scores": scores, "overlap": overlap, "pixels": 10, "object": 5}

    lines = {key: [line(episode, found) for episode in range(episodes)] for key, found in settings.items()}
    return Recorded(Path(name), run, lines, 0)


def value(found):
    return 100 * (5 / (10 - found) + found / 5) / 2


def test_gap_and_degraded_episodes_are_those_of_the_masks():
    up, down = made(full=[2, 4, 5]), made(full=[4, 1, 5])
    good, bad = _settings_table(up, "cycle").rows[0], _settings_table(down, "separation").rows[0]
    assert good[1:4] == [f"{value(each):.2f}" for each in (2, 5, 5)]
    assert good[5:7] == ["100 %", "0.0 %"]
    assert bad[1:4] == [f"{value(each):.2f}" for each in (4, 1, 5)]
    assert bad[5] == f"−{100 * (value(4) - value(1)) / (value(5) - value(4)):.0f} %" and bad[6] == "100.0 %"


def test_full_is_compared_with_flows_of_as_many_candidates():
    study = made(full=[2, 4, 5], noise=[2, 3, 3], none=[2])
    (table,) = _against(study, "cycle")
    assert [row[0] for row in table.rows] == ["noise"]
    assert table.rows[0][1].startswith(f"{value(5) - value(3):+.2f} [")


def test_settings_of_several_runs_are_compared_on_common_episodes():
    one, other = made(full=[2, 4, 5], noise=[2, 3, 3]), made("scaling", 4, drift=[2, 2, 4])
    _, table = paired([one, other], "noise")
    assert [row[:2] for row in table.rows] == [["flows: full", "6"], ["scaling: drift", "4"]]
    for row, best in zip(table.rows, (5, 4), strict=True):
        for cell in (row[2], row[5]):  # T and O of episode-mIoU
            assert cell.startswith(f"{value(best) - value(3):+.2f} [")
    near = replace(made(noise=[2, 3, 3]), folder=Path("near"))
    heading, table = paired([near, one], "noise")
    assert heading.text.startswith("Against noise of flows") and heading.text.endswith("in near")
    assert [row[0] for row in table.rows] == [f"flows in {one.folder}: full", f"flows in {one.folder}: noise"]
    with pytest.raises(ValueError, match="has the setting 'colour'"):
        paired([one], "colour")
    other.lines["drift"][0]["query"] = "elsewhere"
    with pytest.raises(ValueError, match=r"not of the same data: episode 0 is of elsewhere"):
        paired([one, other], "noise")
    other.run["settings"]["framework"] = "matcher"
    with pytest.raises(ValueError, match="their settings differ"):
        paired([one, other], "noise")


def test_a_flow_that_ended_earlier_has_its_own_masks():
    study = made(full=[2, 5, 4])
    assert [each[0, 2] for each in _prefixes(study, "full", "cycle", "T")] == [2, 5, 5]
    assert [each[0, 2] for each in _prefixes(study, "full", "separation", "T")] == [2, 2, 2]
    assert [each[0, 2] for each in _prefixes(study, "full", "separation", "O")] == [2, 5, 5]


def test_no_rate_is_told_where_every_step_has_one_length():
    study = made(full=[2, 5, 4])
    for line in study.lines["full"]:
        line["gradient_norm"] = [1.0, 0.5, 0.25]
    assert [each.rate for each in rates(study, "full")] == pytest.approx([math.log(2)] * 6)
    study.run["flows"]["full"]["rho"] = 0.03
    assert rates(study, "full") == []


def test_what_cannot_be_read_is_named(own):
    study()
    file, described = Path("out/steps.jsonl"), Path("out/run.json")
    lines, whole = file.read_text().splitlines(True), described.read_text()
    file.write_text("".join([lines[0], "{damaged\n", *lines[1:]]))
    assert "steps.jsonl, line 2, is damaged" in run("study", "report", "out").output.replace("\n", " ")
    study()  # goes on, and drops it
    assert run("study", "report", "out").exit_code == 0
    described.write_text(json.dumps({key: each for key, each in json.loads(whole).items() if key != "model"}))
    assert "it has no model" in run("study", "report", "out").output.replace("\n", " ")
    described.write_text("5")
    assert "is not of a study" in run("study", "report", "out").output.replace("\n", " ")
    described.write_text(whole)
    file.unlink()
    assert "no episode with all of its settings yet" in run("study", "report", "out").output.replace("\n", " ")


def test_the_published_presets_squash_photos_as_evaluate_does(own, encoder_folder):
    few = ("--per-class", 1, "--steps", 1)
    study("selectors", "--preset", "paper", *few)
    assert {line["pixels"] for line in records()} == {518 * 518}
    matcher = ("--framework", "matcher", "--encoder", encoder_folder, "--centers", 2)
    study("selectors", "--preset", "official-fss", *matcher, *few, out="other")
    assert {line["pixels"] for line in records("other")} == {518 * 518}


def test_options_of_the_flow_and_the_framework_are_the_runs(own, encoder_folder):
    matcher = ("--framework", "matcher", "--encoder", encoder_folder, "--centers", 2)
    study("selectors", *matcher, "--rho", 0.2)
    written = json.loads(Path("out/run.json").read_text())
    assert written["settings"]["settings"]["centers"] == 2 and written["flows"]["full"]["rho"] == 0.2
    for changed, told in ((("--rho", 0.3), "flows.full.rho was 0.2, now it is 0.3"), ((), "flows.full.rho was 0.2")):
        assert told in study("selectors", *matcher, *changed, code=2)


def test_all_studies_are_planned_once():
    runs = list(plan(20, {"persam-f": 10, "matcher": 5}, ("dev", "test")))
    assert len({each.folder for each in runs}) == len(runs)
    assert {each.study for each in runs if each.split == "test"} == set(STUDIES)
    assert [each.split for each in runs] == sorted(each.split for each in runs)
    for study in STUDIES:
        assert {each.seed for each in runs if each.study == study and each.split == "test"} == {42, 43, 44}
    by_folder = {each.folder: each.command(Path("data"), Path("runs")) for each in runs}
    dev, test = by_folder["dev/persam-f/flows/42"], by_folder["test/matcher/flows/44"]
    assert "--all-scores" in dev and dev[dev.index("--split") + 1 :][:3] == [
        "train",
        "--classes",
        "data/dev_classes.txt",
    ]
    assert test[test.index("--split") + 1] == "test" and "--classes" not in test
    for study in ("flows", "steps"):
        assert by_folder[f"test/persam-f/{study}-eta-1/43"][-2:] == ["--eta", "1.0"]
    assert "--eta" not in test


def test_particles_follow_the_closed_form():
    flow = Gaussian(mean=(0.6, -0.8), variance=(0.5, 0.4), target=(1.0, 0.25), gamma=0.3)
    found = simulate(flow, eta=0.005, steps=400, particles=20000)
    for step in (0, 100, 400):
        mean, variance = flow.at(float(found.times[step]))
        assert found.means[step] == pytest.approx(mean, abs=0.03)
        assert found.variances[step] == pytest.approx(variance, rel=0.05)
    assert flow.at(50.0)[1] == pytest.approx(flow.limit)
    assert flow.limit == pytest.approx([1.3, 0.325])


def test_the_distance_decays_at_least_as_fast_as_the_proposition_says():
    flow = Gaussian()
    distances = [flow.distance(*flow.at(time)) for time in np.linspace(0, 6, 13)]
    bounds = distances[0] * np.exp(-2 * flow.rate * np.linspace(0, 6, 13))
    assert (np.array(distances[1:]) < bounds[1:]).all()
    late = fit_rate([flow.distance(*flow.at(10 + time)) for time in range(5)])
    assert late.rate == pytest.approx(2 * flow.rate, rel=0.01)  # and in the end exactly so


def test_the_distance_is_the_integral():
    flow = Gaussian(mean=(0.5,), variance=(0.6,), target=(1.0,), gamma=0.1)
    z = np.linspace(-12, 12, 20001)

    def density(mean, variance):
        return np.exp(-((z - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    limit = density(0, 1.1)
    exact = float(((density(0.5, 0.6) - limit) ** 2 / limit).sum() * (z[1] - z[0]))
    assert flow.distance(*flow.at(0.0)) == pytest.approx(exact, rel=1e-4)


def test_the_gradient_is_that_of_d():
    flow, z = Gaussian(), np.array([[0.3, -0.2]])
    for axis in range(2):
        step = 1e-5 * np.eye(2)[axis]
        slope = (flow.d(z + step, 0.7) - flow.d(z - step, 0.7)) / 2e-5
        assert flow.gradient(z, 0.7)[0, axis] == pytest.approx(float(slope[0]), abs=1e-6)


def test_the_illustration_is_drawn(tmp_path):
    result = run("study", "gaussian", "--out", tmp_path, "--particles", 500, "--steps", 60)
    assert result.exit_code == 0 and "λ_min = 1" in result.output
    assert width(tmp_path / "gaussian.png") > 500
    assert "eta must lie between" in run("study", "gaussian", "--out", tmp_path, "--eta", 3).output
    for gamma in ("nan", "inf", "-1"):
        assert "gamma must be a finite" in run("study", "gaussian", "--out", tmp_path, "--gamma", gamma).output
