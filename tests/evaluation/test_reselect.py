"""Other selectors, tried on the records of a run."""

from __future__ import annotations

from handmade_runs import THREE, failed, means, report

from prmagic.evaluation.records import read_run
from prmagic.evaluation.reselect import reselect
from prmagic.evaluation.summary import EPISODE_MIOU, summarise


def test_a_selector_is_tried_offline(make):
    folder = make()

    def t(selector):
        return means(summarise(read_run(folder), selector), EPISODE_MIOU)["T"]

    values = means(summarise(read_run(folder)), EPISODE_MIOU)
    assert t("baseline") == t("cycle-recall") == values["B"]
    assert t("oracle") == values["O"]
    assert t("reencode") == values["T"]
    assert "T chosen by oracle" in report(folder, "--selector", "oracle").stdout
    said = report(folder, "--selector", "orakel", code=2).stderr
    assert "did you mean 'oracle'" in said and "cycle-recall" in said


def test_a_selector_from_a_file(make, tmp_path):
    lines = [*THREE, failed(id="0/00003")]
    folder = make(lines)
    file = tmp_path / "mine.py"
    file.write_text(
        "import numpy as np\n"
        "def smallest(arrays):\n"
        "    assert set(arrays) == {'scores', 'predicted_iou', 'share', 'class', 'fold'}\n"
        "    assert list(arrays['class']) == ['cat', 'cat', 'dog'] and list(arrays['fold']) == [0, 0, 0]\n"
        "    assert arrays['share'].tolist() == [[0.1, 0.1], [0.4, 0.4], [0, 0]]\n"
        "    assert arrays['scores']['cycle-recall'].shape == arrays['predicted_iou'].shape == (3, 2)\n"
        "    arrays['scores']['reencode'][:] = 0\n"
        "    return [[0, 1], [float('nan'), -1], [1, 1]]\n"
        "def flat(arrays):\n"
        "    return np.zeros(3)\n"
        "def wrong(arrays):\n"
        "    return arrays['truth']\n"
        "def words(arrays):\n"
        "    return 'best'\n"
    )
    records = read_run(folder)
    assert reselect(records, f"{file}:smallest").tolist() == [1, 1, 0, 0]
    assert reselect(records, "reencode").tolist() == [
        1,
        1,
        0,
        0,
    ]  # what a function does to its arrays stays there

    def said(selector):
        return report(folder, "--selector", selector, code=2).stderr

    assert f"{file}:flat returned an array of shape (3,); it has to be (3, 2)" in said(f"{file}:flat")
    assert f"{file}:wrong failed in line 12: KeyError: 'truth'" in said(f"{file}:wrong")
    assert "mine.py:words failed: ValueError" in said(f"{file}:words")
    assert "has no function 'smalest': did you mean 'smallest'" in said(f"{file}:smalest")
    assert "other.py: a function of your own" in said(f"{tmp_path / 'other.py'}:smallest")
    file.write_text("import nothing_of_this_name\n")
    assert "mine.py cannot be loaded: line 1: ModuleNotFoundError" in said(f"{file}:smallest")
