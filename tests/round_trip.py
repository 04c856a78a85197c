"""What labelling tools' own loaders make of `prmagic export`'s files: a table of IoUs with the masks that went in.

Where prmagic is installed: python tests/round_trip.py write --data DIR --out FILES
Where a tool is installed:  python tests/round_trip.py read FILES

DIR has an index.jsonl with "image", "mask" and "mask_value" (docs/benchmarks/own.md); 200 of its masks are drawn, and
made-up ones join them. `read` tells of every tool that it can import (pycocotools, supervision, datumaro, opencv,
label-studio-sdk).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

LABELS = ["cat", "dog", "traffic light"]
TRUTH = "truth.npz"


def made_up() -> Iterator[tuple[str, np.ndarray]]:
    """Masks that are hard to hold."""
    rows, columns = np.mgrid[:120, :160]
    nothing = np.zeros((120, 160), bool)
    disc = (rows - 60) ** 2 + (columns - 80) ** 2 < 50**2
    yield "whole", ~nothing
    yield "frame", ~disc
    for name, row, column in (("inner pixel", 7, 9), ("first pixel", 0, 0), ("last pixel", 119, 159)):
        pixel = nothing.copy()
        pixel[row, column] = True
        yield name, pixel
        yield f"all but the {name}", ~pixel
    yield "horizontal line", rows == 40
    yield "vertical line", columns == 159
    yield "diagonal", rows == columns
    yield "thin ring", disc & ~((rows - 60) ** 2 + (columns - 80) ** 2 < 49**2)
    yield "hole", disc & ~((rows - 50) ** 2 + (columns - 70) ** 2 < 20**2)
    yield "three holes and an island", disc & ~((rows - 60) % 30 > 15) | (rows < 5) & (columns < 5)
    yield "rings in rings", (np.hypot(rows - 60, columns - 80) // 6 % 2 == 0)
    yield "chequers", (rows + columns) % 2 == 0
    yield "stripes", rows % 3 == 0
    yield "dots", (rows % 5 == 0) & (columns % 7 == 0)
    yield "noise", np.random.default_rng(0).random((120, 160)) < 0.5


def real(data: Path, number: int) -> Iterator[tuple[Path, np.ndarray]]:
    """Photos and masks, drawn with seed 0."""
    lines = (data / "index.jsonl").read_text(encoding="utf-8").splitlines()
    for at in sorted(np.random.default_rng(0).permutation(len(lines))[:number]):
        line = json.loads(lines[at])
        with Image.open(data / line["mask"]) as labels:
            yield data / line["image"], np.asarray(labels) == line["mask_value"]


def write(data: Path | None, out: Path, number: int) -> None:
    """Every format with every choice of polygons, and the masks that went in."""
    from prmagic.io.formats import FORMATS, Labelled, exported
    from prmagic.io.images import load_image

    pictures: dict[str, Image.Image] = {}
    truth: dict[str, np.ndarray] = {}
    for photo, mask in real(data, number) if data else ():
        name = f"real {len(truth)}.png"
        pictures[name], truth[name] = Image.fromarray(load_image(photo)), mask
    for title, mask in made_up():
        name = f"made up {title}.png"
        pictures[name], truth[name] = Image.fromarray(mask.astype(np.uint8) * 200), mask
    photos = [Labelled(name, {LABELS[i % 3]: mask}) for i, (name, mask) in enumerate(truth.items())]
    for kind, options in (
        ("coco", {}), ("coco", {"polygons": True}), ("coco", {"polygons": True, "tolerance": 0}), ("yolo-seg", {}),
        ("yolo-seg", {"tolerance": 0}), ("label-studio", {}), ("label-studio", {"polygons": True}), ("masks", {}),
    ):  # fmt: skip
        folder = out / "-".join([kind, *map(str, options), *(["0"] if "tolerance" in options else [])])
        size = 0
        for path, content in exported(photos, LABELS, kind, min_area=0, **options):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
            size += len(content)
        for name, picture in pictures.items():
            (folder / FORMATS[kind].photos / name).parent.mkdir(parents=True, exist_ok=True)
            picture.save(folder / FORMATS[kind].photos / name)
        print(f"{folder}: {len(photos)} photos, {size / 1e3:.0f} kB beside them")
    np.savez_compressed(out / TRUTH, **truth)


Found = Iterator[tuple[str, str, np.ndarray]]  # the photo's name, a label, and a mask (H, W) of it; several are united


def pycocotools(folder: Path) -> Found:
    from pycocotools.coco import COCO

    data = COCO(folder / "annotations" / "instances_default.json")
    for annotation in data.anns.values():
        name = data.imgs[annotation["image_id"]]["file_name"]
        yield name, data.cats[annotation["category_id"]]["name"], data.annToMask(annotation)


def supervision_coco(folder: Path) -> Found:
    import supervision

    file = folder / "annotations" / "instances_default.json"
    yield from _detections(supervision.DetectionDataset.from_coco(str(folder / "images"), str(file), force_masks=True))


def supervision_yolo(folder: Path) -> Found:
    import supervision

    images, labels, classes = (str(folder / name) for name in ("images", "labels", "data.yaml"))
    yield from _detections(supervision.DetectionDataset.from_yolo(images, labels, classes, force_masks=True))


def _detections(data) -> Found:
    for path, _, detections in data:
        for mask, label in zip(detections.mask, detections.class_id, strict=True):
            yield Path(path).name, data.classes[label], mask


def datumaro(kind: str) -> Callable[[Path], Found]:
    def read(folder: Path) -> Found:
        from datumaro import AnnotationType, Dataset
        from pycocotools import mask as coco_mask

        data = Dataset.import_from(str(folder), kind)
        names = [category.name for category in data.categories()[AnnotationType.label]]
        for item in data:
            height, width = item.media.data.shape[:2]
            for annotation in item.annotations:
                if annotation.type == AnnotationType.polygon:
                    mask = coco_mask.decode(coco_mask.frPyObjects([annotation.points], height, width)[0])
                elif annotation.type == AnnotationType.mask:
                    mask = annotation.image
                else:  # the boxes of the others
                    continue
                if names[annotation.label] != "background":  # which it takes for a class in PASCAL VOC's layout
                    yield f"{item.id}.png", names[annotation.label], mask

    return read


def ultralytics(folder: Path) -> Found:
    """As its loader does it: corners cut down to pixel indices, cv2.fillPoly."""
    import cv2
    import yaml

    names = yaml.safe_load((folder / "data.yaml").read_text(encoding="utf-8"))["names"]
    for file in sorted((folder / "labels").iterdir()):
        photo = cv2.imread(str(folder / "images" / f"{file.stem}.png"))
        height, width = photo.shape[:2]
        for line in file.read_text().splitlines():
            label, *shares = line.split()
            corners = np.array(shares, np.float32).reshape(-1, 2) * np.array([width, height], np.float32)
            mask = np.zeros((height, width), np.uint8)
            cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
            yield f"{file.stem}.png", names[int(label)], mask


def label_studio(folder: Path) -> Found:
    from label_studio_sdk.converter import brush
    from label_studio_sdk.label_interface import LabelInterface
    from pycocotools import mask as coco_mask

    interface = LabelInterface((folder / "interface.xml").read_text(encoding="utf-8"))
    interface.validate()
    for task in json.loads((folder / "tasks.json").read_text(encoding="utf-8")):
        if not interface.validate_task({"data": task["data"]}):  # with predictions it fails at itself (2.1.2)
            raise ValueError(f"not a task: {task['data']}")
        name = task["data"]["image"].partition("?d=images/")[2].replace("%20", " ")
        for prediction in task["predictions"]:
            if errors := interface.validate_prediction(prediction, return_errors=True):
                raise ValueError(f"not a prediction: {errors}")
            for result in prediction["result"]:
                value, shape = result["value"], (result["original_height"], result["original_width"])
                if "rle" in value:
                    mask = np.reshape(brush.decode_rle(value["rle"]), (*shape, 4))[..., 3] > 0
                    label = value["brushlabels"][0]
                else:  # filled as by COCO's tools, for which Label Studio exports polygons
                    corners = np.array(value["points"]) / 100 * (shape[1], shape[0])
                    mask = coco_mask.decode(coco_mask.frPyObjects([corners.ravel().tolist()], *shape)[0])
                    label = value["polygonlabels"][0]
                yield name, label, mask


READERS: list[tuple[str, str, str, Callable[[Path], Found]]] = [
    ("coco", "pycocotools", "pycocotools", pycocotools),
    ("coco", "supervision", "supervision", supervision_coco),
    ("coco", "datumaro", "datumaro", datumaro("coco")),
    ("coco-polygons", "pycocotools", "pycocotools", pycocotools),
    ("coco-polygons", "supervision", "supervision", supervision_coco),
    ("coco-polygons", "datumaro", "datumaro", datumaro("coco")),
    ("coco-polygons-tolerance-0", "pycocotools", "pycocotools", pycocotools),
    ("yolo-seg", "Ultralytics' way", "cv2", ultralytics),
    ("yolo-seg", "supervision", "supervision", supervision_yolo),
    ("yolo-seg-tolerance-0", "Ultralytics' way", "cv2", ultralytics),
    ("yolo-seg-tolerance-0", "supervision", "supervision", supervision_yolo),
    ("label-studio", "label-studio-sdk", "label_studio_sdk", label_studio),
    ("label-studio-polygons", "label-studio-sdk", "label_studio_sdk", label_studio),
    ("masks", "datumaro", "datumaro", datumaro("voc_segmentation")),
]  # fmt: skip


def overlaps(out: Path) -> Iterator[tuple[str, str, dict[str, float]]]:
    """For each format and loader that is installed, the IoU of every mask with what went in."""
    with np.load(out / TRUTH) as stored:
        truth = dict(stored)
    labels = {name: LABELS[i % 3] for i, name in enumerate(truth)}
    for folder, title, package, reader in READERS:
        if importlib.util.find_spec(package) is None:
            continue
        made = {name: np.zeros(mask.shape, bool) for name, mask in truth.items()}
        for name, label, mask in reader(out / folder):
            if label != labels[name]:
                raise ValueError(f"{title} takes {name} for {label}, it is {labels[name]}")
            made[name] |= np.asarray(mask, bool)
        yield (
            folder,
            title,
            {name: (made[name] & mask).sum() / (made[name] | mask).sum() for name, mask in truth.items()},
        )


def read(out: Path) -> None:
    print("| format | loader | masks | equal | mean IoU | lowest IoU | of real masks |\n|---|---|---|---|---|---|---|")
    for folder, title, ious in overlaps(out):
        values = np.array(list(ious.values()))
        worst = min(ious, key=ious.__getitem__)
        lowest = min(iou for name, iou in ious.items() if name.startswith("real"))
        equal = int((values == 1).sum())
        print(
            f"| {folder} | {title} | {len(values)} | {equal} | {values.mean():.4f} | {values.min():.4f} ({worst}) "
            f"| {lowest:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    writing = commands.add_parser("write")
    writing.add_argument("--data", type=Path, required=True)
    writing.add_argument("--out", type=Path, required=True)
    writing.add_argument("--masks", type=int, default=200)
    reading = commands.add_parser("read")
    reading.add_argument("out", type=Path)
    given = parser.parse_args()
    if given.command == "write":
        write(given.data, given.out, given.masks)
    else:
        warnings.simplefilter("ignore")
        read(given.out)
