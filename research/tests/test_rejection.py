"""The study of rejection: which photos are asked, which signals are compared, and what the report counts."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import prmagic
from prmagic.datasets import open_dataset
from prmagic.datasets.base import DatasetError, Episode, Item
from prmagic.evaluation.tables import Table
from rejection import SIGNALS, Scores, auc, pairs, signals, tables
from study import app


def episode(number, category, image):
    return Episode(f"0/{number}", 0, 0, category, Item(image), (Item("x"),))


def test_the_other_photo_holds_nothing_of_the_class():
    listed = [
        episode(0, "cat", "a"), episode(1, "cat", "b"), episode(2, "dog", "b"), episode(3, "dog", "c"),
        episode(4, "cup", "d"),
    ]  # fmt: skip
    asked = [pair for seed in range(50) for pair in pairs(listed, listed[:1], seed)]
    assert {pair.absent.query.image for pair in asked} == {"c", "d"}  # b is of a dog and a cat
    assert pairs(listed, listed, 3) == pairs(listed, listed, 3)
    with pytest.raises(DatasetError, match="every photo has something of the class cat"):
        pairs(listed[:3], listed[:1], 0)


def test_signals_are_what_their_names_say(own, sam_folder):
    dataset = open_dataset("own", own)
    photo, (support,) = dataset.load(dataset.episodes(0, 1, 3)[0])
    segmenter = prmagic.load(sam=sam_folder, selector="cycle-recall")
    reference = segmenter.encode_support(prmagic.Support(support.image, support.mask))
    encoded = segmenter.encode([photo.image])[0]
    result = segmenter.segment_encoded("a", "cat", encoded, reference)
    chosen = result.candidates[result.chosen]
    asked = segmenter.framework, encoded.query, reference
    with torch.no_grad():
        said = signals(*asked, result)
        empty = dataclasses.replace(chosen, mask=np.zeros_like(chosen.mask))
        nothing = signals(*asked, dataclasses.replace(result, candidates=(empty,), chosen=0))
    assert tuple(said) == SIGNALS
    assert said["score"] == pytest.approx(result.score)
    assert said["cycle-recall"] == pytest.approx(result.scores[result.chosen])
    assert said["predicted-iou"] == pytest.approx(chosen.predicted_iou)
    assert said["similarity peak"] == pytest.approx(result.candidates[0].prompts.similarity.max())
    assert said["object anywhere"] >= said["score"]
    of_photo = ("similarity peak", "object anywhere", "background anywhere")
    assert [name for name, value in nothing.items() if not math.isnan(value)] == list(of_photo)


def test_auc_by_hand():
    assert auc(np.array([0.9, 0.5]), np.array([0.5, 0.1])) == (1 + 1 + 0.5 + 1) / 4
    assert math.isnan(auc(np.array([]), np.array([0.1])))


def test_the_report_counts_what_is_below():
    scores = Scores(["cat"] * 10, np.arange(0.1, 1.05, 0.1), np.arange(0.05, 1.0, 0.1), np.arange(10) >= 5)
    *_, compared, table = tables({"score": scores, "other": scores}, 0.35)
    assert isinstance(compared, Table) and isinstance(table, Table)
    assert [row[0] for row in compared.rows] == ["score", "other"]
    assert table.rows[0] == ["the least score in use", "0.3500", "30.0%", "0.0%", "30.0%"]


def test_the_command_goes_on_where_it_stopped(own, sam_folder):
    def run():
        command = ["rejection", "--data", "data", "--sam", str(sam_folder), "--per-class", "2", "--threads", "1"]
        result = CliRunner().invoke(app, [*command, "--out", "out"])
        assert result.exit_code == 0, result.output
        return result.output

    done = run()
    assert "ROC-AUC" in done and "30% rejected" in done and "cycle-recall" in done
    lines = Path("out/scores.jsonl").read_text().splitlines(keepends=True)
    assert len(lines) == 8  # two episodes of two classes
    for entry in map(json.loads, lines):
        shown = "cat" if int(Path(entry["photo"]).stem) < 5 else "dog"
        assert (shown == entry["class"]) == entry["present"]
        assert (entry["iou"] is not None) == entry["present"]
    Path("out/scores.jsonl").write_text("".join(lines[:3]))
    assert run().split("\n")[1:] == done.split("\n")[1:]  # all but the progress bar
    assert Path("out/scores.jsonl").read_text() == "".join(lines)
    dataset = open_dataset("own", own)
    entry = next(entry for entry in map(json.loads, lines) if entry["present"])
    asked = next(each for each in dataset.episodes(0, 1, 42) if each.id == entry["episode"])
    query, (support,) = dataset.load(asked)
    segmenter = prmagic.load(sam=sam_folder, seed=42)
    reference = segmenter.encode_support(prmagic.Support(support.image, support.mask))
    (encoded,) = segmenter.encode([query.image])
    score = segmenter.segment_encoded("a", "b", encoded, reference, draw_key=asked.id).score
    assert score == pytest.approx(entry["signals"]["score"], abs=1e-6)
