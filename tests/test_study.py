"""`prmagic study` as a user meets it, on a miniature data set and the tiny random models; its arithmetic by hand."""

from __future__ import annotations

import json
import math
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
from prmagic.evaluation.study import STUDIES, Student, limited, moved, settings
from prmagic.evaluation.study_report import METRICS, Clusters, _random_fallback, fit_rate, read
from prmagic.evaluation.study_report import Study as Recorded
from prmagic.flow import Flow
from prmagic.images import load_image
from prmagic.select import SELECTORS


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


def width(file):
    with Image.open(file) as picture:
        return picture.width


def timeless(lines):
    return sorted(json.dumps({**line, "seconds": 0}) for line in lines)


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
    assert resampled["shift_norm"] == [0] * 4 and resampled["d"][0] == pytest.approx(line["d"][0])


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
    assert timeless(records()) == timeless(records("whole"))  # the line that was cut short is dropped
    assert encoded == [1] * 3  # of four episodes one was whole
    assert "was 3, now it is 2" in study("flows", "--steps", 2, code=2)


def test_the_presets_own_selector_is_recorded(own):
    study("objective", "--preset", "paper")
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
    assert "20 of 20 records are there already" in study()


def test_options_without_effect_and_unknown_names_are_refused(own):
    assert "the study eta tries several values of its own: leave --eta out" in study("eta", "--eta", 0.1, code=2)
    assert "did you mean 'gamma'" in study("gama", code=2)
    assert "is missing" in run("study", "report", "nowhere").output


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_compares_flows_that_differ(name):
    flows = settings(name, Flow())
    assert len(set(flows.values())) == len(flows) > 1


@pytest.mark.parametrize("framework", ["persam-f", "matcher"])
def test_the_report_of_a_study(own, framework, encoder_folder):
    more = ("--framework", "matcher", "--encoder", encoder_folder) if framework == "matcher" else ()
    study("selectors", *more, "--seeds", "3,4", "--steps", 3)
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
    rate = fit_rate([3 * math.exp(-0.4 * t) for t in range(6)])
    assert (rate.rate, rate.r2) == (pytest.approx(0.4), pytest.approx(1))
    assert fit_rate([1.0, 2.0, 4.0]).rate == pytest.approx(-math.log(2))
    assert fit_rate([1.0, 0.5]) is None and fit_rate([None] * 5) is None and fit_rate([2.0] * 4) is None


def test_the_random_control_rejects_as_many_proposals(own):
    study("selectors", out="out")
    found = read(Path("out"))
    count = len(found.lines["full"])
    proposals, rejected = [[0.0, 1.0, 0.0, 0.0]] * count, [[1.0, 0.0, 0.0, 0.0]] * count
    half = [*proposals[: count // 2], *rejected[count // 2 :]]
    share, gain, _ = _random_fallback(found, "full", half, proposals)
    b, t = (np.mean([episode_miou(each[at]) for each in found.areas("full")]) for at in (0, 1))
    assert share == "50 %" and gain == f"{100 * (t - b) / 2:+.2f}".replace("-", "−")


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
