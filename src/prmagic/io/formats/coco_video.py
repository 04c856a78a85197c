"""COCO for videos, in the layout of YouTube-VIS: one annotation for each thing of a video, with a mask per frame."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from pycocotools import mask as coco_mask

from prmagic._version import __version__
from prmagic.io.formats.base import Labelled, Options, finite, rle, to_json

Frame = dict[tuple[int, int], dict[str, Any]]  # by category and track: mask, box, area and score


def files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """One file, with the name that YouTube-VIS gives it."""
    del options
    yield "instances.json", to_json(coco_video(photos, labels))


def coco_video(frames: Iterable[Labelled], labels: Sequence[str]) -> dict[str, Any]:
    """Make a data set in the layout of YouTube-VIS. Ids count from 1.

    An annotation has a list as long as the video in "segmentations", "bboxes" and "areas", and for things "scores";
    null where the thing is not seen. "track_id" is the thing's number, as on the overlay; without numbers, the label's
    category.

    Args:
        frames: Their names are video/number, in any order; masks by label, or things with numbers.
        labels: The categories, in the order of their ids.

    Returns:
        The content of the JSON file.

    Raises:
        ValueError: The frames of a video have different sizes.
    """
    videos: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for name, (size, several) in sorted(_by_video(frames, labels).items()):
        order = sorted(several, key=_number)
        height, width = size
        video = {"id": len(videos) + 1, "width": width, "height": height, "length": len(order)}
        videos.append({**video, "name": name, "file_names": [_file(each) for each in order]})
        tracks = sorted({track for found in several.values() for track in found})
        for category, number in tracks:
            seen = [several[each].get((category, number)) for each in order]
            annotations.append(
                {
                    "id": len(annotations) + 1, "video_id": video["id"], "category_id": category, "iscrowd": 0,
                    "track_id": number, "width": width, "height": height, "length": len(order),
                    **{key: [each and each.get(one) for each in seen] for key, one in _LISTS.items()},
                }
            )  # fmt: skip
            if all(each is None or "score" not in each for each in seen):
                del annotations[-1]["scores"]
    categories = [{"id": i, "name": label, "supercategory": ""} for i, label in enumerate(labels, start=1)]
    about = {"description": f"prmagic {__version__}"}
    return {"info": about, "licenses": [], "videos": videos, "annotations": annotations, "categories": categories}


_LISTS = {"segmentations": "mask", "bboxes": "box", "areas": "area", "scores": "score"}


def _by_video(frames: Iterable[Labelled], labels: Sequence[str]) -> dict[str, tuple[tuple[int, int], dict[str, Frame]]]:
    """By a video's name its (height, width), and by the frame's name what is in it."""
    found: dict[str, tuple[tuple[int, int], dict[str, Frame]]] = {}
    for frame in frames:
        size, several = found.setdefault(str(PurePosixPath(frame.name).parent), (frame.shape, {}))
        if frame.shape != size:
            raise ValueError(f"the frames of {PurePosixPath(frame.name).parent} have different sizes: a video has one")
        several[frame.name] = {}
        for position, mask, instance in frame.found(labels):
            code = rle(mask)
            number = position + 1 if instance is None or instance.number is None else instance.number
            several[frame.name][position + 1, number] = {
                "mask": code, "box": coco_mask.toBbox(code).tolist(), "area": int(mask.sum()),
                **({} if instance is None else {"score": finite(instance.score)}),
            }  # fmt: skip
    return found


def _number(name: str) -> tuple[int, str]:
    """The last number in a frame's name, by which frames are in order."""
    digits = re.findall(r"\d+", PurePosixPath(name).stem)
    return int(digits[-1]) if digits else 0, name


def _file(name: str) -> str:
    """A frame of a clip is no file yet; it gets the name of the photo that it would be."""
    return name if PurePosixPath(name).suffix else f"{name}.jpg"
