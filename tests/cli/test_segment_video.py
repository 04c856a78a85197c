"""Videos on the command line. The tiny SAM's masks mean nothing, but are the same every time."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import CAT, DOG, GOLDEN, VALIDATOR, contents, export, lines, save, segment
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic.io.clips import Clip, write_clip
from prmagic.io.formats import FORMATS
from prmagic.io.shapes import decode

pytest.importorskip("av")
FAST = ("--steps", "0")


def frames(count=5):
    query = GOLDEN["query_rgb"]
    return [np.roll(query, 4 * number, axis=1) for number in range(count)]


@pytest.fixture
def clip(work):
    write_clip(work / "clip.mp4", ((number / 10, image) for number, image in enumerate(frames())))
    return work


def test_a_clip_gives_masks_records_and_an_overlay_video(clip):
    told = segment("clip.mp4", *FAST)
    assert "5 frame(s) done" in told and "found/overlays/clip.mp4" in told
    found = lines()
    assert [line["query"] for line in found] == [f"clip/{number:06d}" for number in range(5)]
    for line in found:
        VALIDATOR.validate(line)
        assert (Path("found") / line["mask"]).is_file()
    shown = list(Clip(Path("found/overlays/clip.mp4")).stills())
    assert [still.image.shape for still in shown] == [(90, 120, 3)] * 5


@pytest.mark.parametrize("memory", [0, 1, 2])
def test_a_resumed_run_gives_the_same_bytes(clip, memory):
    segment("clip.mp4", *FAST, "--no-pictures", "--memory", memory, out="whole")
    segment("clip.mp4", *FAST, "--no-pictures", "--memory", memory)
    records = Path("found/results.jsonl")
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:3]))
    segment("clip.mp4", *FAST, "--no-pictures", "--memory", memory)
    assert contents() == contents("whole")


def test_a_resumed_run_numbers_things_as_if_undisturbed(clip):
    segment("clip.mp4", *FAST, "--instances", out="whole")
    found = lines("whole")
    things = [line["instances"] for line in found]
    assert all(things)
    for line in found:
        VALIDATOR.validate(line)
    numbers = {thing["number"] for each in things for thing in each}
    assert numbers == set(range(1, len(numbers) + 1)) and len(numbers) < sum(map(len, things))
    for kept in (1, 3):
        segment("clip.mp4", *FAST, "--instances")
        records = Path("found/results.jsonl")
        records.write_text("".join(records.read_text().splitlines(keepends=True)[:kept]))
        segment("clip.mp4", *FAST, "--instances")
        assert contents() == contents("whole")


def test_masks_of_things_hold_their_numbers(clip):
    segment("clip.mp4", *FAST, *CAT, *DOG, "--instances", support=None)
    shown = list(Clip(Path("found/overlays/clip.mp4")).stills())
    assert len(shown) == 5
    first = lines()[0]
    for line in lines():
        with Image.open(Path("found") / line["mask"]) as picture:
            labels = np.asarray(picture)
            assert picture.mode == "P" or not labels.any()
        for thing in line["instances"]:
            mask = decode(thing["mask"], (90, 120))
            assert (labels[mask] == thing["number"]).all()
        assert np.array_equal(labels > 0, decode(line["rle"], (90, 120)))
    assert {thing["number"] for thing in first["instances"]}.isdisjoint(
        thing["number"] for line in lines() if line["label"] != first["label"] for thing in line["instances"]
    )


def test_several_labels_share_no_pixel(clip):
    segment("clip.mp4", *FAST, *CAT, *DOG, "--no-pictures", support=None)
    assert len(lines()) == 10
    for number in range(5):
        masks = [decode(line["rle"], (90, 120)) for line in lines() if line["query"] == f"clip/{number:06d}"]
        assert not (masks[0] & masks[1]).any()


def test_part_of_a_clip_and_another_part_in_the_same_folder(clip):
    segment("clip.mp4", *FAST, "--every", 2, "--start", 0.1, "--end", 0.45)
    assert [line["query"][-1] for line in lines()] == ["2", "4"]
    assert "video.every was 2, now it is 1" in segment("clip.mp4", *FAST, code=2)


def test_a_folder_of_frames_is_a_video(work):
    for number, image in enumerate(frames(3)):
        save(image, work / "frames" / f"{number:05d}.png")
    segment("frames", "--sequence", *FAST)
    assert [line["query"] for line in lines()] == [f"frames/{number:05d}.png" for number in range(3)]


def test_the_first_frame_can_be_the_example(clip):
    mask = np.zeros((90, 120), np.uint8)
    mask[20:60, 30:80] = 255
    save(mask, clip / "first.png")
    segment("clip.mp4", *FAST, support=("clip.mp4", "first.png"))
    assert len(lines()) == 5


def test_another_video_of_the_same_name(clip):
    segment("clip.mp4", *FAST, "--no-pictures")
    write_clip(clip / "clip.mp4", [(0.0, frames()[3])])
    assert "is not the video whose results" in segment("clip.mp4", *FAST, "--no-pictures", code=2)


@pytest.mark.parametrize(
    "args, told",
    [
        (("clip.mp4", "photos/a.png"), "cannot be in one run"),
        (("photos/a.png", "--every", 2), "are for videos"),
        (("none.mp4",), "none.mp4 does not exist"),
        (("clip.mp4", "none.mp4"), "none.mp4 does not exist"),
        (("clip.mp4", "--overlaps"), "--overlaps is for photos"),
        (("clip.mp4", "--instances", "--memory", 1), "--memory is for following one thing"),
        (("clip.mp4", "--ray", "auto"), "--ray is for photos"),
        (("clip.mp4", "--start", 2, "--end", 1), "to a later --end"),
        (("photos/a.png", "--sequence"), "is not a folder of frames"),
    ],
)
def test_what_is_refused(clip, args, told):
    assert told in segment(*args, *FAST, code=2)


@pytest.mark.parametrize("to", [name for name, kind in FORMATS.items() if not kind.video])
def test_formats_of_photos_name_that_of_videos(clip, to):
    segment("clip.mp4", *FAST, "--no-pictures", "--every", 4)
    assert "found holds frames of a video, which --to coco-video exports" in export("found", to=to, code=2)
    assert not Path("exported").exists()


@pytest.mark.parametrize("things", [(), ("--instances",)])
def test_a_video_is_exported_as_one(clip, things):
    segment("clip.mp4", *FAST, *things, "--no-pictures")
    assert "Exported 5 frame(s) with 1 label(s)" in export("found", to="coco-video")
    exported = json.loads(Path("exported/instances.json").read_text())
    (video,) = exported["videos"]
    assert (video["length"], len(video["file_names"]), video["width"], video["height"]) == (5, 5, 120, 90)
    records = lines()
    numbers = {thing["number"] for line in records for thing in line.get("instances", ())}
    assert {each["track_id"] for each in exported["annotations"]} == (numbers or {1})
    for each in exported["annotations"]:
        assert each["video_id"] == video["id"] and len(each["segmentations"]) == 5
    for position, line in enumerate(records):
        codes = [each["segmentations"][position] for each in exported["annotations"]]
        masks = [coco_mask.decode(code).astype(bool) for code in codes if code is not None]
        assert np.array_equal(np.any(masks, axis=0), decode(line["rle"], (90, 120)))


def test_photos_are_no_video(clip):
    segment("photos", *FAST, "--no-pictures")
    assert "found holds photos and no video" in export("found", to="coco-video", code=2)
    assert "--photos is for photos" in export("found", "--photos", "photos", to="coco-video", code=2)


def test_a_broken_clip_leaves_the_others(clip):
    (clip / "broken.mp4").write_bytes(b"no video")
    whole = Path("clip.mp4").read_bytes()
    (clip / "cut.avi").write_bytes(b"")
    told = segment("broken.mp4", "clip.mp4", "cut.avi", *FAST, code=1)
    assert "Skipped broken.mp4: " in told and "Skipped cut.avi: " in told and "cannot be read as a video" in told
    assert "5 frame(s) done" in told and "2 video(s) skipped" in told
    assert [line["query"] for line in lines()] == [f"clip/{number:06d}" for number in range(5)]
    assert [file.name for file in Path("found/overlays").iterdir()] == ["clip.mp4"]
    (clip / "broken.mp4").write_bytes(whole)
    segment("broken.mp4", "clip.mp4", *FAST)
    assert len(lines()) == 10


def test_a_broken_frame_ends_its_video_only(work):
    for name in ("one", "two"):
        for number, image in enumerate(frames(3)):
            save(image, work / name / f"{number:05d}.png")
    Path("one/00001.png").write_bytes(b"no photo")
    told = segment("one", "two", "--sequence", *FAST, "--no-pictures", code=1)
    assert "Skipped one: " in told and "00001.png is not an image" in told
    assert "4 frame(s) done" in told and "1 video(s) skipped" in told
    assert [line["query"] for line in lines()] == ["one/00000.png", *(f"two/{number:05d}.png" for number in range(3))]


def test_the_memory_is_part_of_the_run(clip):
    segment("clip.mp4", *FAST, "--memory", 2, "--no-pictures")
    assert json.loads(Path("found/run.json").read_text())["video"]["memory"] == 2
    assert "video.memory was 2, now it is 1" in segment("clip.mp4", *FAST, "--no-pictures", code=2)
