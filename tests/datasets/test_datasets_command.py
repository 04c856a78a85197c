"""`prmagic datasets`: what is there, and arranging a download."""

from __future__ import annotations

from pathlib import Path

import pytest
from miniatures import contents, datasets, dis_release, evaluate, fss_data, own_data, records


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_check_of_complete_data(work):
    own_data(work / "data")
    said = datasets("check", "own", "data")
    assert said.startswith("own data in data\n")
    assert 'found: 8 masks of split "test" in 2 classes' in said
    assert "fold 0: 2 classes, 8 one-shot episodes" in said and said.endswith("Complete.\n")
    assert "fold 0: 1 classes, 4 one-shot episodes" in datasets("check", "own", "data", "--classes", "dog")
    assert "is for own data" in datasets("check", "fss", "data", "--split", "test", code=2)


def test_check_of_incomplete_data(work):
    own_data(work / "data")
    Path("data/7.png").unlink()
    Path("data/8_mask.png").unlink()
    said = datasets("check", "own", "data", code=1)
    assert "missing: data/7.png" in said and "missing: data/8_mask.png" in said
    assert "Not complete. Own data is a folder with index.jsonl" in said and "Complete." not in said
    Path("data/index.jsonl").write_text("{")
    assert "data/index.jsonl, line 1" in datasets("check", "own", "data", code=1)


def test_check_names_what_lacks_and_where_to_get_it(work):
    fss_data(work / "data", ("ant", "bee"))
    said = datasets("check", "fss", "data")
    assert "20 of 20 photos of 2 test classes" in said and "Complete." in said
    assert "lists 2 classes, the published one 240" in said  # a note, which is no gap
    Path("data/data/bee/7.png").unlink()
    said = datasets("check", "fss", "data", code=1)
    assert "data/data/bee lacks 7.png" in said and "19 of 20 masks" in said
    assert "github.com/aim-uofa/Matcher" in said
    assert "is not a folder" in datasets("check", "fss", "nowhere", code=2)
    assert "did you mean 'fss'" in datasets("check", "fsss", "data", code=2)
    Path("empty").mkdir()
    for benchmark in ("fss", "coco", "lvis", "paco", "pascal-part", "dis5k", "pascal", "perseg", "own"):
        assert "Not complete." in datasets("check", benchmark, "empty", code=1)


def test_prepare(work):
    dis_release(work)
    release = ("--train", "DIS-TR", "--test", "DIS-TE1", "--test", "DIS-TE2")
    said = datasets("prepare", "dis5k", *release, "--out", "data")
    assert "4 training and 3 test photos are in data" in said
    assert "fold 0: 2 classes, 3 one-shot episodes" in datasets("check", "dis5k", "data")
    before = contents("data")
    datasets("prepare", "dis5k", *release, "--out", "data")
    assert contents("data") == before and len(before) == 14
    evaluate("dis5k", "--steps", 0)
    assert [(record["class"], record["query"][-5]) for record in records()] == [
        ("1-1", "e"),
        ("2-15", "f"),
        ("2-15", "g"),
    ]


def test_what_cannot_be_prepared(work):
    dis_release(work)
    release = ("--train", "DIS-TR", "--test", "DIS-TE1")
    said = datasets("prepare", "coco", *release, "--out", "data", code=2)
    assert "nly dis5k has to be arranged; for coco, see `prmagic datasets check coco DIR`" in said
    Path("DIS-TE1/gt/1#Bags#1#Bag#e.png").unlink()
    assert "1#Bags#1#Bag#e.png" in datasets("prepare", "dis5k", *release, "--out", "data", code=2)
    assert not Path("data").exists()
    assert datasets("prepare", "dis5k", "--train", "DIS-TR", "--out", "data", code=2)
