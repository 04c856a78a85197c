"""Runs read back from their folder."""

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from made import RUN, SHA, segmentation
from PIL import Image

from prmagic.io.finding import file_sha256
from prmagic.io.formats import exported
from prmagic.io.run_reader import find_photos, labelled, read_run
from prmagic.io.runs import RunFolder

LABELS = ["cat", "traffic light"]


def files(to, photos, labels, **options):
    return dict(exported(photos, labels, to, **options))


def run_folder(tmp_path, *results):
    run = RunFolder(tmp_path / "found", {**RUN, "references": {"cat": "1", "dog": "2"}})
    for result in results:
        run.add(result, SHA)
    return tmp_path / "found"


def test_a_run_is_what_its_results_are(tmp_path):
    results = [segmentation("b.jpg"), segmentation("b.jpg", "dog", chosen=0), segmentation("a.jpg")]
    labels, hashes, photos = read_run(run_folder(tmp_path, *results))
    assert labels == ["cat", "dog"] and hashes == {"a.jpg": SHA, "b.jpg": SHA}
    from_disk, in_memory = list(photos), list(labelled(results))
    assert [photo.name for photo in from_disk] == ["a.jpg", "b.jpg"]
    assert [photo.name for photo in in_memory] == ["b.jpg", "a.jpg"]
    assert files("coco", from_disk, labels) == files("coco", reversed(in_memory), labels)
    np.testing.assert_array_equal(from_disk[1].masks["dog"], results[1].mask)


def test_a_line_cut_short_is_left_out_and_told(tmp_path):
    folder = run_folder(tmp_path, segmentation("a.jpg"), segmentation("b.jpg"))
    (folder / "results.jsonl").write_bytes((folder / "results.jsonl").read_bytes()[:-9])
    with pytest.warns(UserWarning, match="last line .* is cut short"):
        assert list(read_run(folder)[1]) == ["a.jpg"]


def test_a_damaged_run(tmp_path):
    folder = run_folder(tmp_path, segmentation("a.jpg"))
    (folder / "results.jsonl").write_bytes(b"{}\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is damaged"):
        read_run(folder)
    (folder / "results.jsonl").unlink()
    with pytest.raises(ValueError, match="holds no results yet"):
        read_run(folder)
    (folder / "run.json").write_text('{"benchmark": "coco"}')
    with pytest.raises(ValueError, match="is no folder that `prmagic segment` wrote: name"):
        read_run(folder)
    with pytest.raises(ValueError, match="does not exist: name the --out"):
        read_run(tmp_path / "nowhere")


def test_a_zip_of_the_page_is_a_run(tmp_path, monkeypatch):
    folder = run_folder(tmp_path, segmentation("a.jpg"), segmentation("b.jpg"))
    with zipfile.ZipFile(tmp_path / "page.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("run.json", "results.jsonl"):
            archive.write(folder / name, name)
    labels, hashes, photos = read_run(tmp_path / "page.zip")
    expected_labels, expected_hashes, expected = read_run(folder)
    assert (labels, hashes) == (expected_labels, expected_hashes)
    assert files("coco", photos, labels) == files("coco", expected, labels)
    monkeypatch.setattr("prmagic.io.run_reader.LARGEST_ENTRY", 1000)
    with pytest.raises(ValueError, match=r"is no folder|larger than"):
        read_run(tmp_path / "page.zip")


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"no zip"])
def test_what_is_no_zip(tmp_path, content):
    (tmp_path / "page.zip").write_bytes(content)
    with pytest.raises(ValueError, match=r"page.zip is no folder that `prmagic segment` wrote"):
        read_run(tmp_path / "page.zip")


def edited(tmp_path, **values):
    """A run whose record was changed by hand."""
    folder = run_folder(tmp_path, segmentation("a.jpg"))
    line = json.loads((folder / "results.jsonl").read_text())
    (folder / "results.jsonl").write_text(json.dumps({**line, **values}) + "\n")
    return folder


@pytest.mark.parametrize(
    "values, told",
    [
        ({"query": 5}, "line 1 of .* is damaged"),
        ({"label": ["cat"]}, "line 1 of .* is damaged"),
        ({"height": None}, "line 1 of .* is damaged"),
        ({"rle": None}, "line 1 of .* is damaged"),
        ({"chosen": -1}, "line 1 of .* is damaged"),
        ({"chosen": "0"}, "line 1 of .* is damaged"),
        ({"chosen": 7}, "line 1 of .* is damaged"),
        ({"candidates": [{"rle": {"size": [2, 3], "counts": "PPPP0"}}] * 2}, "line 1 of .* is damaged"),
        ({"candidates": [{"rle": {"size": [10**9, 10**9], "counts": "0"}}] * 2}, "line 1 of .* is damaged"),
        ({"candidates": None}, "line 1 of .* is damaged"),
        ({"rle": {"size": [2, 3], "counts": "~~~~"}}, "line 1 of .* is damaged"),
        ({"rle": {"size": [2, 3], "counts": "PPPPPPPP0"}}, "line 1 of .* is damaged"),
        ({"rle": {"size": [2, 3], "counts": None}}, "line 1 of .* is damaged"),
        (
            {"rle": {"size": [10**9, 10**9], "counts": "0"}},
            "line 1 of .* is damaged",
        ),
        ({"height": 10**9, "width": 10**9, "rle": {"size": [10**9] * 2, "counts": "0"}}, "line 1 of .* is damaged"),
        ({"query": "../../a.jpg"}, "cannot be the name of a photo"),
        ({"query": "/etc/a.jpg"}, "cannot be the name of a photo"),
        ({"query": ""}, "cannot be the name of a photo"),
        ({"query": "\ud800.jpg"}, "cannot be the name of a photo"),
        ({"query": "."}, "cannot be the name of a photo"),
        ({"query": "a\0b.jpg"}, "cannot be the name of a photo"),
        ({"label": "zebra"}, "masks of zebra, which are not among the labels"),
    ],
)
def test_damaged_records_end_in_one_message(tmp_path, values, told):
    with pytest.raises(ValueError, match=told):
        labels, _, photos = read_run(edited(tmp_path, **values))
        files("yolo-seg", photos, labels)


def test_reading_a_run_needs_no_torch():
    """Which takes seconds to import: an export says at once that a folder is the wrong one."""
    code = (
        "import sys, prmagic.io.run_reader, prmagic.io.formats; assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_photos_are_found_by_content(tmp_path):
    for number, name in enumerate(("x.png", "deep/y.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (3, 3), number).save(tmp_path / name)
    hashes = {"one.png": file_sha256(tmp_path / "deep" / "y.png")}
    assert find_photos(hashes, tmp_path) == {"one.png": tmp_path / "deep" / "y.png"}
    with pytest.raises(ValueError, match=r"1 of 2 photos are not in .*: other.png"):
        find_photos({**hashes, "other.png": SHA}, tmp_path)
