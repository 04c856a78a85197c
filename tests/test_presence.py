"""Rejection: the score of a result, what counts as found, and the study that measures it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import MINI
from PIL import Image
from pycocotools import mask as coco_mask
from test_evaluate import SAM, SPOTS, own_data, run

import prmagic
from prmagic.datasets import open_dataset
from prmagic.datasets.base import DatasetError, Episode, Item
from prmagic.demo import cases
from prmagic.evaluation.rejection import SIGNALS, Scores, auc, questions, report, signals
from prmagic.evaluation.tables import Table
from prmagic.export import exported, labelled, read_run, record
from prmagic.frameworks import FRAMEWORKS, Example, ReferenceMismatch
from prmagic.presence import presence


@pytest.fixture(scope="module")
def cat():
    return next(case for case in cases() if case.name == "cat")


@pytest.fixture(scope="module")
def found(mini):
    """A segmenter, its reference, and a result that has a score."""
    segmenter = prmagic.load(sam=MINI)
    reference = segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))
    return segmenter, reference, segmenter.segment(mini["query_rgb"], reference, name="a")


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_object_itself_is_as_alike_as_can_be_and_another_thing_less(framework, cat):
    segmenter = prmagic.load(framework)
    reference = segmenter.encode_support(prmagic.Support(cat.support, cat.support_mask))
    (query,) = segmenter.framework.encode_queries([cat.support])
    own, other = (
        presence(segmenter.framework, query, reference, mask) for mask in (cat.support_mask, ~cat.support_mask)
    )
    assert own > 0.97  # not 1, as a patch that the mask only touches is taken by one side or the other
    assert -1 <= other < own - 0.02
    assert math.isnan(presence(segmenter.framework, query, reference, np.zeros_like(cat.support_mask)))
    thin = np.zeros_like(cat.support_mask)
    thin[10, 10:12] = True  # covers no patch by half
    assert -1 <= presence(segmenter.framework, query, reference, thin) < own


def test_below_the_least_score_nothing_counts_as_found(found, mini):
    segmenter, reference, free = found
    assert -1 <= free.score <= 1
    assert free.min_score is None  # random weights are not calibrated
    assert free.found and not free.rejected
    strict = prmagic.load(sam=segmenter.framework.sam, min_score=min(1.0, free.score + 1e-3))
    loose = prmagic.load(sam=segmenter.framework.sam, min_score=free.score)
    rejected, kept = (each.segment(mini["query_rgb"], reference, name="a") for each in (strict, loose))
    assert rejected.rejected and not rejected.found
    assert not rejected.mask.any() and rejected.mask.shape == free.mask.shape
    assert np.array_equal(rejected.candidates[rejected.chosen].mask, free.mask)  # still there, to be looked at
    assert kept.found and np.array_equal(kept.mask, free.mask)
    assert rejected.to_coco()["annotations"] == []
    assert rejected.overlay().size == rejected.to_pil().size == free.to_pil().size


@pytest.mark.parametrize("value", [-1.01, 2, math.nan])
def test_a_least_score_that_is_no_cosine_is_refused(value):
    with pytest.raises(ValueError, match=r"min_score .* -1 … 1"):
        prmagic.load(sam=MINI, min_score=value)


def test_the_embedded_matcher_has_a_calibrated_one_and_published_presets_none():
    assert 0 < prmagic.load("matcher").min_score < 1  # none: the weights changed, and it has to be measured anew
    assert prmagic.load("matcher", min_score=-1).min_score == -1
    assert prmagic.load("matcher", preset="paper").min_score is None
    assert prmagic.load("matcher", encoder_size=512).min_score is None  # other patches, other cosines
    assert prmagic.load("persam-f").min_score is None


def test_the_embedded_matcher_finds_the_demo_and_not_a_motorcycle_among_coins():
    segmenter = prmagic.load("matcher")
    own, other = (next(case for case in cases() if case.name == name) for name in ("coins", "motorcycle"))
    references = {
        case.name: segmenter.encode_support(prmagic.Support(case.support, case.support_mask)) for case in (own, other)
    }
    results = segmenter.segment(own.query, references)
    assert results["coins"].found
    assert not results["motorcycle"].found and not results["motorcycle"].mask.any()


def test_without_objects_there_is_no_score_and_a_least_one_is_refused(found, mini):
    segmenter, reference, _ = found

    class Plain(type(segmenter.framework)):
        def object_patches(self, reference):
            return None

    framework = Plain(segmenter.framework.sam, segmenter.framework.options)
    result = prmagic.Segmenter(framework).segment(mini["query_rgb"], reference)
    assert math.isnan(result.score) and result.found
    assert record(result, "0" * 64)["score"] is None
    with pytest.raises(ReferenceMismatch, match=r"min_score 0\.5 has no score"):
        prmagic.Segmenter(framework, min_score=0.5).segment(mini["query_rgb"], reference)


def test_on_the_command_line(tmp_path, mini):
    for name in ("support_rgb", "query_rgb"):
        Image.fromarray(mini[name]).save(tmp_path / f"{name}.png")
    Image.fromarray(mini["support_mask"].astype(np.uint8) * 255).save(tmp_path / "mask.png")
    asked = (tmp_path / "query_rgb.png", "--support", tmp_path / "support_rgb.png", tmp_path / "mask.png")
    lines = {}
    for least in (-1, 1):
        done = run("segment", *asked, "--sam", SAM, "--min-score", least, "--out", tmp_path / f"out{least}")
        assert done.exit_code == 0, done.output
        (lines[least],) = map(json.loads, Path(tmp_path, f"out{least}", "results.jsonl").read_text().splitlines())
    assert lines[-1]["found"] and lines[-1]["min_score"] == -1
    assert not lines[1]["found"]
    assert lines[1]["score"] == lines[-1]["score"]
    assert lines[1]["candidates"] == lines[-1]["candidates"]
    assert "1 mask(s) empty (1 for a score below 1)" in " ".join(done.output.split())
    assert not np.asarray(Image.open(tmp_path / "out1/masks/query_rgb.png")).any()
    shown = np.asarray(Image.open(tmp_path / "out-1/masks/query_rgb.png")) > 0
    assert np.array_equal(shown, coco_mask.decode(lines[-1]["candidates"][lines[-1]["chosen"]]["rle"]).astype(bool))
    labels, _, photos = read_run(tmp_path / "out1")
    (photo,) = photos
    assert not photo.masks["object"].any() and photo.masks["object"].shape == shown.shape
    files = dict(exported([photo], labels, "coco"))
    assert json.loads(files["annotations/instances_default.json"])["annotations"] == []
    other = run("segment", *asked, "--sam", SAM, "--min-score", -1, "--out", tmp_path / "out1")
    assert other.exit_code == 2
    assert "min_score" in other.output


def test_results_in_memory_export_nothing_that_is_rejected(found):
    rejected = dataclasses.replace(found[2], min_score=1.0)
    (photo,) = labelled([rejected])
    assert not photo.masks["object"].any()


# --- the study ---


def episode(number, category, image):
    return Episode(f"0/{number}", 0, 0, category, Item(image), (Item("x"),))


def test_the_other_photo_holds_nothing_of_the_class():
    listed = [
        episode(0, "cat", "a"), episode(1, "cat", "b"), episode(2, "dog", "b"), episode(3, "dog", "c"),
        episode(4, "cup", "d"),
    ]  # fmt: skip
    asked = [question for seed in range(50) for question in questions(listed, listed[:1], seed)]
    assert {question.absent.query.image for question in asked} == {"c", "d"}  # b is of a dog and a cat
    assert questions(listed, listed, 3) == questions(listed, listed, 3)
    with pytest.raises(DatasetError, match="every photo has something of the class cat"):
        questions(listed[:3], listed[:1], 0)


def test_signals_are_what_their_names_say(mini):
    segmenter = prmagic.load(sam=MINI, selector="cycle")
    example = Example(mini["support_rgb"], mini["support_mask"])
    reference = segmenter.encode_examples([example], ["prototypes", "shares"])
    encoded = segmenter.encode([mini["query_rgb"]])[0]
    result = segmenter.segment_encoded("a", "cat", encoded, reference)
    chosen = result.candidates[result.chosen]
    asked = segmenter.framework, encoded.query, reference
    with torch.no_grad():
        said = signals(*asked, result)
        assert tuple(said) == SIGNALS
        assert said["score"] == pytest.approx(result.score)
        assert said["cycle"] == pytest.approx(result.scores[result.chosen])
        assert said["predicted-iou"] == pytest.approx(chosen.predicted_iou)
        assert said["similarity peak"] == pytest.approx(result.candidates[0].prompts.similarity.max())
        assert said["object anywhere"] >= said["score"]
        half = dataclasses.replace(chosen, mask=chosen.mask & (np.arange(chosen.mask.shape[1]) % 2 == 0))
        two = dataclasses.replace(result, candidates=[chosen, half], chosen=0)
        assert signals(*asked, two)["agreement"] == pytest.approx(half.mask.sum() / chosen.mask.sum())
        assert math.isnan(signals(*asked, dataclasses.replace(two, candidates=[chosen]))["agreement"])
        empty = dataclasses.replace(chosen, mask=np.zeros_like(chosen.mask))
        nothing = signals(*asked, dataclasses.replace(two, candidates=[empty, empty]))
    of_photo = ("similarity peak", "object anywhere", "background anywhere")
    assert [name for name, value in nothing.items() if not math.isnan(value)] == list(of_photo)
    assert all(nothing[name] == said[name] for name in of_photo[1:])


def test_auc_by_hand():
    assert auc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == (1 + 1 + 0.5 + 1) / 4
    assert math.isnan(auc(np.array([]), np.array([0.1])))


def test_the_report_counts_what_is_below():
    scores = Scores(["cat"] * 10, np.arange(0.1, 1.05, 0.1), np.arange(0.05, 1.0, 0.1), np.arange(10) >= 5)
    *_, compared, table = report({"score": scores, "other": scores}, 0.35)
    assert isinstance(compared, Table) and isinstance(table, Table)
    assert [row[0] for row in compared.rows] == ["score", "other"]
    assert table.rows[0] == ["the least score in use", "0.3500", "30.0%", "0.0%", "30.0%"]


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    yield own_data(tmp_path / "data")
    torch.set_num_threads(threads)


def test_study_rejection_goes_on_where_it_stopped(own):
    command = ("study", "rejection", "--data", "data", "--sam", SAM, "--per-class", 2, "--threads", 1)
    done = run(*command, "--out", "out")
    assert done.exit_code == 0, done.output
    assert "ROC-AUC" in done.output and "30% rejected" in done.output and "cycle-recall" in done.output
    lines = Path("out/scores.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 8  # two episodes of two classes
    for entry in map(json.loads, lines):
        shown = "cat" if int(Path(entry["photo"]).stem) < SPOTS else "dog"
        assert (shown == entry["class"]) == entry["present"]
        assert (entry["iou"] is not None) == entry["present"]
    assert Path("out/roc.png").exists()
    Path("out/scores.jsonl").write_text("".join(lines[:3]))
    again = run(*command, "--out", "out")
    assert again.output.split("\n")[1:] == done.output.split("\n")[1:]  # all but the progress bar
    assert Path("out/scores.jsonl").read_text() == "".join(lines)
    dataset = open_dataset("own", own)
    entry = next(entry for entry in map(json.loads, lines) if entry["present"])
    asked = next(each for each in dataset.episodes(0, 1, 42) if each.id == entry["episode"])
    query, (support,) = dataset.load(asked)
    segmenter = prmagic.load(sam=SAM, seed=42)
    reference = segmenter.encode_support(prmagic.Support(support.image, support.mask))
    assert segmenter.segment(query.image, reference, name=asked.id).score == pytest.approx(
        entry["signals"]["score"], abs=1e-6
    )
