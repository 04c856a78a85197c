"""`study.py judge` on a miniature data set; its table by hand."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

import prmagic
from judging import JUDGES, Tried, table, try_judges
from prmagic.datasets import open_dataset
from prmagic.metrics import areas, episode_miou
from prmagic.select import Judge
from study import app


def test_each_judge_chooses_as_in_a_segmenter(own, sam_folder):
    dataset = open_dataset("own", own)
    episode = dataset.episodes(0, 1, 3)[0]
    segmenter = prmagic.load(sam=sam_folder)
    (tried,) = try_judges(dataset, segmenter, [episode], 3)
    query, (support,) = dataset.load(episode)
    for at in (0, len(JUDGES) - 1):
        one = prmagic.load(sam=sam_folder, selector=JUDGES[at], seed=3)
        reference = one.encode_support(prmagic.Support(support.image, support.mask))
        (encoded,) = one.encode([query.image])
        result = one.segment_encoded("a", "b", encoded, reference, draw_key=episode.id)
        found = np.array([areas(result.candidates[each].mask, query.mask) for each in (0, result.chosen)])
        assert [tried.alone, tried.chosen[at]] == pytest.approx(100 * episode_miou(found))


def test_the_best_comes_first_and_is_judged_on_the_class_left_out():
    first, second = np.zeros(len(JUDGES)), np.zeros(len(JUDGES))
    first[4], second[7] = 10, 6  # each is best on its own class, and gains nothing on the other
    blocks = table([Tried("cat", 50.0, 50 + first), Tried("dog", 40.0, 40 + second)])
    assert blocks[0].rows[0] == [f"{JUDGES[4].quality:g}", f"{JUDGES[4].first:g}", "+5.00", "0 %"]
    assert blocks[-1] == "Chosen on all classes but one, and judged on that one: +0.00."


def test_the_default_is_among_them():
    assert Judge() in JUDGES


def test_the_command_prints_a_row_for_each(own, sam_folder):
    result = CliRunner().invoke(app, ["judge", "--data", "data", "--sam", str(sam_folder), "--per-class", "1"])
    assert result.exit_code == 0, result.output
    assert result.output.count("%") >= len(JUDGES)
