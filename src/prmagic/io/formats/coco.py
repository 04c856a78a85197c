"""COCO's format, which CVAT, FiftyOne, Roboflow and most others import."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pycocotools import mask as coco_mask

from prmagic._version import __version__
from prmagic.io.formats.base import Labelled, Options, finite, rle, to_json
from prmagic.io.polygons import Points, outlines


def coco(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> dict[str, Any]:
    """Make a data set in COCO's format, with one annotation for each thing, or for each photo and label.

    Ids count from 1. Areas and boxes are the mask's own. An instance's score stands in "score". The fields for licences
    stay empty.

    Args:
        photos: The photos with their masks.
        labels: The categories, in the order of their ids.
        options: `polygons` gives outlines, in which a hole is a cut of no width; otherwise a mask is a run-length
            code, exact and with its holes.

    Returns:
        The content of the JSON file.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo in photos:
        height, width = photo.shape
        images.append({"id": len(images) + 1, "file_name": photo.name, "width": width, "height": height})
        for position, mask, instance in photo.found(labels):
            code = rle(mask)
            shape: Any = code
            if options.polygons:
                shape = [_flat(polygon) for polygon in outlines(mask, options.tolerance)]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": len(images), "category_id": position + 1, "iscrowd": 0,
                    "segmentation": shape, "area": int(mask.sum()), "bbox": coco_mask.toBbox(code).tolist(),
                    **({} if instance is None else {"score": finite(instance.score)}),
                }
            )  # fmt: skip
    categories = [{"id": i, "name": label, "supercategory": ""} for i, label in enumerate(labels, start=1)]
    about = {"description": f"prmagic {__version__}"}
    return {"info": about, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """One file, with the name that CVAT gives it."""
    yield "annotations/instances_default.json", to_json(coco(photos, labels, options))


def _flat(polygon: Points) -> list[float]:
    return [float(number) for number in polygon.round(3).ravel()]
