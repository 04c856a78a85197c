"""A detection function for CVAT: what references show, found in every frame of a task. Needs the extra `cvat`.

cvat-cli task auto-annotate 12 --function-module prmagic.serve.cvat -p reference=str:cat.safetensors
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cvat_sdk.auto_annotation as cvataa
from cvat_sdk.masks import encode_mask
from PIL import Image

from prmagic.io.polygons import outlines, without_specks
from prmagic.io.shapes import decode
from prmagic.loading import load, parse_settings
from prmagic.reference import Reference
from prmagic.segmenter import DEFAULT_LABEL, Segmenter
from prmagic.types import BoolArray, Support

MODELS = ("framework", "sam", "encoder", "preset", "device", "min_score")


def create(
    reference: str = "",
    *,
    photo: str = "",
    mask: str = "",
    label: str = "",
    instances: bool = True,
    **models: Any,
) -> Detector:
    """What cvat-cli calls. Its `-p NAME=TYPE:VALUE` are the arguments.

    Args:
        reference: A file that `prmagic segment --save-reference` wrote, or a folder of them.
        photo: In place of a reference, a photo,
        mask: and a picture of its size that is not black on the object.
        label: The task's label for a single reference. Default: the one saved with it, or else the file's name.
        instances: One mask per thing, or one per label.
        **models: framework, sam, encoder, preset, device and min_score as for `prmagic.load`; and what `--set` takes.

    Returns:
        A detection function of cvat-sdk.

    Raises:
        ValueError: Neither a reference nor a photo with a mask is named, or a name or value is not known.
        FileNotFoundError: There is no such file.
    """
    segmenter = segmenter_with(models)
    if bool(photo) != bool(mask) or bool(photo) == bool(reference):
        raise ValueError("say what to look for: reference=str:FILE.safetensors, or photo=str:FILE and mask=str:FILE")
    if reference:
        references = read_references(Path(reference), label)
    else:
        name = label or DEFAULT_LABEL
        references = {name: segmenter.encode_support(Support(photo, mask), label=name)}
    return Detector(segmenter, references, instances=instances)


def segmenter_with(given: Mapping[str, Any]) -> Segmenter:
    """`prmagic.load` with MODELS by name, and settings of any type, also as text."""
    models = {"framework": "persam-f", "preset": "default", **{name: given[name] for name in MODELS if name in given}}
    texts = [f"{name}={value}" for name, value in given.items() if name not in MODELS]
    return load(**models, **parse_settings(models["framework"], models["preset"], texts))


def read_references(path: Path, label: str = "") -> dict[str, Reference]:
    """A file's reference, or those of all .safetensors files in a folder, by label.

    Args:
        path: The file or folder.
        label: Of a single one; default: what was saved with each, or else the file's name.

    Raises:
        ValueError: There is none, or two have the same label.
        FileNotFoundError: There is no such file.
    """
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"{path} has no reference: there is no .safetensors file in it")
    if label and len(files) > 1:
        raise ValueError(f"{path} has {len(files)} references: a label is for a single one")
    references: dict[str, Reference] = {}
    for file in files:
        loaded = Reference.load(file)
        name = label or loaded.label or file.stem
        if name in references:
            raise ValueError(f"two references in {path} have the label {name!r}: keep one, or name both otherwise")
        references[name] = loaded
    return references


class Detector:
    """A detection function of cvat-sdk.

    Args:
        segmenter: Finds them.
        references: What to look for, by the task's labels.
        instances: One mask per thing, or one per label.

    Raises:
        ReferenceMismatch: For a reference of another model.
    """

    def __init__(self, segmenter: Segmenter, references: Mapping[str, Reference], *, instances: bool = True):
        for reference in references.values():
            segmenter.check(reference)
        self.segmenter = segmenter
        self.references = dict(references)
        self.instances = instances
        self.labels = {label: number for number, label in enumerate(self.references)}
        self.spec = cvataa.DetectionFunctionSpec(
            labels=[cvataa.label_spec(label, number, type="mask") for label, number in self.labels.items()]
        )

    def detect(self, context: cvataa.DetectionFunctionContext, image: Image.Image) -> list[Any]:
        """Find all references in one frame.

        Args:
            context: The frame's name, the least score, and whether polygons are wanted.
            image: The frame.

        Returns:
            Masks with scores, or polygons: one for each connected part, a hole cut open.
        """
        least = context.conf_threshold
        return [
            shape
            for label, mask, score in self.find(image, context.frame_name)
            if least is None or score >= least
            for shape in _shapes(self.labels[label], mask, score, context.conv_mask_to_poly)
        ]

    def find(self, image: Image.Image, name: str | None = None) -> Iterator[tuple[str, BoolArray, float]]:
        """The label, mask (H, W) and score (−1 … 1) of each thing."""
        results = self.segmenter.segment(image, self.references, name, instances=self.instances)
        for label, result in results.items():
            if result.instances is not None:
                yield from ((label, each.mask, each.score) for each in result.instances)
            elif result.found:
                yield label, result.mask, result.score


def polygons_of(mask: BoolArray) -> list[list[float]]:
    """A mask (H, W) as CVAT's outlines, x, y, x, y, …: one for each connected part that is no speck."""
    return [polygon.round(2).ravel().tolist() for polygon in outlines(without_specks(mask))]


def largest_polygon(mask: BoolArray) -> list[float]:
    """The one of `polygons_of` that covers most; empty if there are specks only."""
    return max(polygons_of(mask), key=lambda polygon: int(decode([polygon], mask.shape).sum()), default=[])


def _shapes(number: int, mask: BoolArray, score: float, polygons: bool) -> Iterator[Any]:
    told = min(max(score, 0.0), 1.0)  # CVAT's scores
    if polygons:
        for polygon in polygons_of(mask):
            yield cvataa.polygon(number, polygon, score=told)
    else:
        yield cvataa.mask(number, encode_mask(mask), score=told)
