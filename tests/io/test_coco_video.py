"""The layout of YouTube-VIS, read back as its readers do: lists per frame, run-length codes or null."""

import json
from dataclasses import replace

import numpy as np
import pytest
from common import region
from made import instance
from pycocotools import mask as coco_mask

from prmagic.io.formats import Labelled, exported
from prmagic.io.formats.coco_video import coco_video


def thing(mask, number, score=0.5):
    return replace(instance(mask, score), number=number)


def at(column, size=(20, 40)):
    return region(slice(5, 10), slice(column, column + 6), size)


def things(name, *several, label="cat"):
    masks = [each.mask for each in several]
    union = np.any(masks, axis=0) if masks else np.zeros((20, 40), bool)
    return Labelled(name, {label: union}, instances={label: several})


FRAMES = [
    things("clip/000000", thing(at(2), 1, 0.9), thing(at(20), 2)),
    things("clip/000002"),
    things("clip/000010", thing(at(24), 2), thing(at(12), 3)),
    things("clip/000009", thing(at(5), 1)),
]


def test_a_thing_is_one_annotation_with_a_mask_per_frame():
    found = coco_video(FRAMES, ["cat"])
    (video,) = found["videos"]
    assert video == {
        "id": 1, "name": "clip", "width": 40, "height": 20, "length": 4,
        "file_names": ["clip/000000.jpg", "clip/000002.jpg", "clip/000009.jpg", "clip/000010.jpg"],
    }  # fmt: skip
    assert [(each["id"], each["video_id"], each["track_id"]) for each in found["annotations"]] == [
        (1, 1, 1), (2, 1, 2), (3, 1, 3),
    ]  # fmt: skip
    expected = {1: [at(2), None, at(5), None], 2: [at(20), None, None, at(24)], 3: [None, None, None, at(12)]}
    for annotation in found["annotations"]:
        assert annotation["length"] == len(annotation["segmentations"]) == 4
        for code, mask, box, area in zip(
            annotation["segmentations"], expected[annotation["track_id"]], annotation["bboxes"], annotation["areas"],
            strict=True,
        ):  # fmt: skip
            assert (code is None) == (mask is None) == (box is None) == (area is None)
            if mask is not None:
                assert np.array_equal(coco_mask.decode(code), mask)
                assert area == coco_mask.area(code) and box == coco_mask.toBbox(code).tolist()
    assert found["annotations"][0]["scores"] == [0.9, None, 0.5, None]


def test_labels_without_things_are_one_track_each():
    frames = [
        Labelled(f"{video}/{number}.png", {"cat": at(number), "dog": at(20) & (number == 3)})
        for video in ("b", "a")
        for number in (2, 3)
    ]
    found = coco_video(frames, ["cat", "dog"])
    assert [video["name"] for video in found["videos"]] == ["a", "b"]
    assert found["videos"][0]["file_names"] == ["a/2.png", "a/3.png"]
    each = [(one["video_id"], one["category_id"], one["track_id"]) for one in found["annotations"]]
    assert each == [(1, 1, 1), (1, 2, 2), (2, 1, 1), (2, 2, 2)]
    assert found["annotations"][1]["segmentations"][0] is None and "scores" not in found["annotations"][1]
    assert found["categories"][1] == {"id": 2, "name": "dog", "supercategory": ""}


def test_frames_of_two_sizes_are_refused():
    frames = [Labelled(f"a/{side}.png", {"cat": np.ones((side, side), bool)}) for side in (3, 4)]
    with pytest.raises(ValueError, match="the frames of a have different sizes"):
        coco_video(frames, ["cat"])


def test_it_is_a_format_of_its_own():
    ((name, content),) = exported(FRAMES, ["cat"], "coco-video")
    assert name == "instances.json" and json.loads(content) == coco_video(FRAMES, ["cat"])
    with pytest.raises(ValueError, match="no choice of polygons"):
        exported(FRAMES, ["cat"], "coco-video", polygons=True)
