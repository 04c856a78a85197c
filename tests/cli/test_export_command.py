"""`prmagic export`: a run, as labelling tools import it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from command_line import GOLDEN, contents, export, lines, picture, save
from pycocotools.coco import COCO


def test_export_coco(both, capsys):
    assert "Exported 3 photo(s) with 2 label(s) to exported" in export("found")
    data = COCO("exported/annotations/instances_default.json")
    capsys.readouterr()
    assert [image["file_name"] for image in data.imgs.values()] == ["a.png", "b.jpg", "sub/c.png"]
    for annotation in data.anns.values():
        image, category = data.imgs[annotation["image_id"]], data.cats[annotation["category_id"]]
        mask = picture((Path("found/masks") / category["name"] / image["file_name"]).with_suffix(".png"))
        np.testing.assert_array_equal(data.annToMask(annotation) * 255, mask)
    assert len(data.anns) == sum(line["found"] for line in lines())


@pytest.mark.parametrize(
    "to, names",
    [
        ("coco", ["annotations/instances_default.json"]),
        ("yolo-seg", ["data.yaml", "labels/a.txt", "labels/b.txt", "labels/sub/c.txt"]),
        ("label-studio", ["interface.xml", "tasks.json"]),
        (
            "masks",
            [
                "ImageSets/Segmentation/default.txt",
                *(f"SegmentationClass/{name}.png" for name in ("a", "b", "sub/c")),
                "labelmap.txt",
            ],
        ),
    ],
)
def test_export_with_photos(both, to, names):
    Path("photos/a.png").rename("photos/renamed since.png")
    export("found", "--photos", "photos", "--min-area", 0, to=to)
    there = contents("exported", kinds=("",))
    folder = "JPEGImages" if to == "masks" else "images"
    assert sorted(there) == sorted([*names, *(f"{folder}/{name}" for name in ("a.png", "b.jpg", "sub/c.png"))])
    assert there[f"{folder}/a.png"] == Path("photos/renamed since.png").read_bytes()


def test_export_options(both):
    export("found", "--polygons", "--tolerance", "0", out="polygons")
    (content,) = contents("polygons", kinds=("",)).values()
    assert all(isinstance(entry["segmentation"], list) for entry in json.loads(content)["annotations"])
    export("found", "--image-url", "s3://bucket/", "--min-area", 0, to="label-studio", out="tasks")
    assert json.loads(Path("tasks/tasks.json").read_text())[0]["data"]["image"] == "s3://bucket/a.png"


@pytest.mark.parametrize(
    "args, to, told",
    [
        (["photos"], "coco", "photos is no folder that `prmagic segment` wrote"),
        (["nowhere"], "coco", "does not exist: name the --out"),
        (["found"], "cvat", "nknown format 'cvat'"),
        (["found", "--polygons"], "masks", "always pixels"),
        (["found", "--tolerance", "-1"], "yolo-seg", "t is a distance in pixels"),
        (["found", "--photos", "photos/sub"], "coco", "2 of 3 photos are not in photos/sub, or were changed since: a"),
    ],
)
def test_exports_that_cannot_be(both, args, to, told):
    assert told in export(*args, to=to, code=2)
    assert not Path("exported").exists()


def test_an_export_overwrites_nothing(both):
    save(GOLDEN["query_rgb"], Path("mine/SegmentationClass/a.png"))
    before = contents("mine", kinds=("",))
    assert "mine is not empty: choose a new folder" in export("found", to="masks", out="mine", code=2)
    assert contents("mine", kinds=("",)) == before
    before = contents(kinds=("",))
    assert "found is not empty" in export("found", out="found", code=2)
    assert "is a file; --out needs a folder" in export("found", out="cat.png", code=2)
    assert contents(kinds=("",)) == before


@pytest.mark.filterwarnings("default")
def test_an_export_tells_of_specks(both):
    assert "Note: Left out specks of less than" in export("found", to="yolo-seg")


@pytest.mark.parametrize("there", [True, False])
def test_an_export_that_fails_leaves_the_folder_as_it_was(both, there):
    if there:
        Path("mine").mkdir()
        before = Path("mine").stat().st_ino
    results = Path("found/results.jsonl")
    results.write_text(results.read_text().replace('"counts": "', '"counts": "~', 1))
    assert "ine 1 of found/results.jsonl is damaged" in export("found", out="mine", code=2)
    assert Path("mine").exists() == there
    assert not there or (Path("mine").stat().st_ino == before and not any(Path("mine").iterdir()))
    assert not [file for file in Path().iterdir() if file.name.startswith(".mine")]


def test_an_export_into_an_empty_folder_keeps_it(both):
    Path("mine").mkdir(mode=0o700)
    export("found", out="mine")
    export("found", out="new")
    assert Path("mine").stat().st_mode & 0o777 == 0o700
    assert contents("mine", kinds=("",)) == contents("new", kinds=("",))
    Path("plain").mkdir()
    assert Path("new").stat().st_mode == Path("plain").stat().st_mode


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("kind", ["SIGTERM", "SIGKILL"])
def test_a_killed_export_leaves_nothing_half_written(both, kind):
    """Whatever the moment, --out is not there, or complete."""
    slow = "f.exported = lambda *a, **k: (time.sleep(0.3) or file for file in e(*a, **k))"
    code = f"import time, prmagic.io.formats as f; e = f.exported; {slow}; from prmagic.cli.main import app; app()"
    command = ["export", "found", "--to", "yolo-seg", "--min-area", "0", "--out", "mine"]
    with subprocess.Popen([sys.executable, "-c", code, *command], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not list(Path().glob(".mine*/labels/*")) and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(getattr(signal, kind))
        process.wait(60)
    assert not Path("mine").exists()
    assert kind == "SIGKILL" or not list(Path().glob(".mine*"))
    export("found", "--min-area", 0, to="yolo-seg", out="mine")
    assert Path("mine/labels/a.txt").is_file()
    assert not list(Path().glob(".mine*"))
