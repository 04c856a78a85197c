"""DAVIS's folders, and `prmagic evaluate davis` on videos of a few frames."""

import json

import numpy as np
import pytest
from command_line import GOLDEN, SAM, run
from PIL import Image

from prmagic.datasets.base import DatasetError
from prmagic.datasets.davis import open_davis


def davis(root, split="2017/val", lines=("bear",), objects=2, count=4):
    """Sequences of the tiny photo, moving to the right; object 2 is a bar at the left."""
    for name in ("bear",):
        for number in range(count):
            image = np.roll(GOLDEN["query_rgb"], 3 * number, axis=1)
            labels = np.roll(GOLDEN["query_mask"].astype(np.uint8), 3 * number, axis=1)
            if objects > 1:
                labels[30:50, :10] = 2
            for folder, picture, suffix in (("JPEGImages", image, "jpg"), ("Annotations", labels, "png")):
                file = root / folder / "480p" / name / f"{number:05d}.{suffix}"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.ascontiguousarray(picture)).save(file)
    file = root / "ImageSets" / f"{split}.txt"
    file.parent.mkdir(parents=True)
    file.write_text("\n".join(lines) + "\n")
    return root


def evaluate(root, *args, code=0):
    found = run(
        "evaluate", "davis", "--data", root, "--sam", SAM, "--steps", "0", "--out", root / "out", *args
    )  # fmt: skip
    assert found.exit_code == code, found.output
    return found.output


def test_in_2017_each_object_is_one(tmp_path):
    split, videos = open_davis(davis(tmp_path))
    (video,) = videos
    assert (split, video.name, video.objects, len(video.frames)) == ("2017/val", "bear", (1, 2), 4)
    assert video.truth(0, 2).sum() == 200
    assert not (video.truth(0, 1) & video.truth(0, 2)).any()
    assert [image.shape for image in video.images()] == [(90, 120, 3)] * 4


@pytest.mark.parametrize(
    "split, line",
    [("2016/val", "bear"), ("480p/val", "/JPEGImages/480p/bear/00000.jpg /Annotations/480p/bear/00000.png")],
)
def test_in_2016_all_objects_are_one(tmp_path, split, line):
    chosen, videos = open_davis(davis(tmp_path, split, [line, line]))
    (video,) = videos
    assert (chosen, video.objects) == (split, (0,))
    assert np.array_equal(video.truth(0, 0), video.truth(0, 1) | video.truth(0, 2))


def test_the_masks_of_davis_2016_are_black_and_white(tmp_path):
    davis(tmp_path, "2016/val", objects=1)
    for file in (tmp_path / "Annotations").rglob("*.png"):
        with Image.open(file) as picture:
            labels = np.asarray(picture)
        Image.fromarray(labels * np.uint8(255)).save(file)
    (video,) = open_davis(tmp_path)[1]
    assert video.objects == (0,)
    assert np.array_equal(video.truth(0, 0), GOLDEN["query_mask"] > 0)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(DatasetError, match="no folder ImageSets"):
        open_davis(tmp_path)
    davis(tmp_path)
    with pytest.raises(DatasetError, match="--split can be: 2017/val"):
        open_davis(tmp_path, "2016/val")
    (tmp_path / "Annotations/480p/bear/00002.png").unlink()
    with pytest.raises(DatasetError, match=r"00002\.png is missing"):
        list(open_davis(tmp_path)[1])


def test_the_command_measures_all_but_the_first_and_last_frame(tmp_path):
    told = evaluate(davis(tmp_path))
    assert "mean of 2" in told and "J&F" in told
    records = [json.loads(line) for line in (tmp_path / "out" / "videos.jsonl").read_text().splitlines()]
    assert [(record["sequence"], record["object"], len(record["j"]), len(record["f"])) for record in records] == [
        ("bear", 1, 2, 2),
        ("bear", 2, 2, 2),
    ]
    again = evaluate(tmp_path)
    assert "2 of 2 objects are done already" in again
    assert again.splitlines()[-1] == told.splitlines()[-1]
    file = tmp_path / "out" / "videos.jsonl"
    whole = file.read_text()
    file.write_text(whole.splitlines(keepends=True)[0])
    assert "1 of 2 objects are done already" in evaluate(tmp_path)
    assert file.read_text() == whole


def test_frames_by_themselves_are_another_run(tmp_path):
    davis(tmp_path, objects=1)
    evaluate(tmp_path, "--per-frame")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["memory"] is None
    assert "memory was null, now it is 1" in " ".join(evaluate(tmp_path, code=2).split())
    assert "--per-frame has no memory" in evaluate(tmp_path, "--per-frame", "--memory", 1, code=2)


def test_options_of_videos_are_for_davis(tmp_path):
    found = run("evaluate", "own", "--data", tmp_path, "--out", tmp_path / "out", "--per-frame")
    assert found.exit_code == 2 and "are for davis" in found.output
