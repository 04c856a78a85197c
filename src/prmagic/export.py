"""Results on disk: mask files and one JSON line per query and label (the schema is in `docs/results.schema.json`), and
what labelling tools import, made from them or from results in memory (`docs/labelling-tools.md`)."""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic import __version__
from prmagic.backbones.checkpoints import checksums
from prmagic.frameworks.base import Framework, Reference
from prmagic.images import find_images
from prmagic.names import lookup
from prmagic.polygons import TOLERANCE, Points, outlines, pixel_indices
from prmagic.resumable import RUN, RecordFolder
from prmagic.types import BoolArray, ByteArray, Candidate, Prompts, Segmentation

RESULTS = "results.jsonl"
PICTURES = ("masks", "overlays", "candidates")


def rle(mask: BoolArray) -> dict[str, Any]:
    """(H, W) bool → COCO's run-length encoding: {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def record(result: Segmentation, sha256: str) -> dict[str, Any]:
    """One line of results.jsonl; sha256: of the photo's file. No times, so that equal runs give equal bytes."""
    height, width = result.mask.shape
    return {
        "query": result.query,
        "sha256": sha256,
        "label": result.label,
        "seed": result.seed,
        "height": height,
        "width": width,
        "found": result.found,
        "score": _finite(result.score),
        "min_score": result.min_score,
        "chosen": result.chosen,
        "scores": [_finite(score) for score in result.scores],
        "candidates": [_candidate(candidate) for candidate in result.candidates],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "step": candidate.step,
        **_prompts(candidate.prompts),
        "parts": [{**_prompts(part.prompts), "channel": part.channel} for part in candidate.parts],
        "predicted_iou": _finite(candidate.predicted_iou),
        "area": int(candidate.mask.sum()),
        "rle": rle(candidate.mask),
    }


def _prompts(prompts: Prompts) -> dict[str, Any]:
    return {
        "points": prompts.points.astype(float).tolist(),
        "labels": prompts.labels.tolist(),
        "box": None if prompts.box is None else list(prompts.box),
    }


def _finite(value: float) -> float | None:
    """JSON knows neither nan nor infinity."""
    return value if math.isfinite(value) else None


def digest(reference: Reference) -> str:
    """Of what a reference was made from, to tell whether a folder of results was made with it."""
    made_by = {name: value for name, value in reference.made_by.items() if name != "model_name"}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(file: Path) -> str:
    """Of a file's content, in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def weights(framework: Framework) -> dict[str, dict[str, str]]:
    """For run.json: the SHA-256 of each file with weights, by what they serve as, "sam" or "encoder", and file name."""
    models = zip(("sam", "encoder"), framework.models, strict=False)
    return {kind: checksums(kind, model.name) for kind, model in models}


def is_result(file: Path) -> bool:
    """Whether a run wrote this picture."""
    return any(parent.name in PICTURES and (parent.parent / RUN).is_file() for parent in file.parents)


class RunFolder(RecordFolder):
    """results.jsonl and its pictures; the files of a query are written before its line.

    done: by query and label, the SHA-256 of the photo's file."""

    records = RESULTS
    others = PICTURES
    key = ("query", "label")
    value = "sha256"
    mark = "references"

    def clear(self) -> None:
        """Delete all records and pictures."""
        for name in PICTURES:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        super().clear()

    def path(self, kind: str, query: str, label: str | None, suffix: str) -> Path:
        """Where a picture of this query belongs; label: only where a run has several."""
        return (self.folder / kind / (label or "") / query).with_suffix(suffix)


# For labelling tools

LOCAL_FILES = "/data/local-files/?d="  # where Label Studio serves the photos in a folder of its own machine


@dataclass(frozen=True, eq=False)
class Labelled:
    """The masks of one photo. name: its file's, with / between folders; masks: (H, W) bool by label, empty for what was
    looked for and not found."""

    name: str
    masks: Mapping[str, BoolArray]

    def __post_init__(self) -> None:
        shapes = {mask.shape for mask in self.masks.values()}
        if len(shapes) != 1 or any(len(shape) != 2 for shape in shapes):
            raise ValueError(f"the masks of {self.name} must be (H, W), all of the photo's size; got {sorted(shapes)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the photo."""
        height, width = next(iter(self.masks.values())).shape
        return height, width

    def found(self, labels: Sequence[str]) -> Iterator[tuple[int, BoolArray]]:
        """The masks that are not empty, each with its label's position in the list, in the list's order."""
        for position, label in enumerate(labels):
            if label in self.masks and self.masks[label].any():
                yield position, self.masks[label]


@dataclass(frozen=True)
class Options:
    """How masks are written. polygons: as outlines, not pixel by pixel, by `prmagic.polygons.outlines` with this
    tolerance. image_url: what Label Studio puts before a photo's name to find it."""

    polygons: bool = False
    tolerance: float = TOLERANCE
    image_url: str = LOCAL_FILES


@dataclass(frozen=True)
class Format:
    """What a tool imports. files: from photos, labels and options, the path and content of each file.

    photos: the folder below which the tool looks for the photos themselves. polygons: whether outlines are possible
    (False: no, True: yes, None: always). image_url: whether the files hold addresses of the photos."""

    files: Callable[[Iterable[Labelled], Sequence[str], Options], Iterator[tuple[str, bytes]]]
    photos: str
    polygons: bool | None
    image_url: bool = False


def exported(
    photos: Iterable[Labelled],
    labels: Sequence[str],
    to: str = "coco",
    *,
    polygons: bool = False,
    tolerance: float | None = None,
    image_url: str | None = None,
) -> Iterator[tuple[str, bytes]]:
    """Photos with masks → the files that a labelling tool imports: path (with /) and content, one after the other.

    labels: all classes, in the order of their ids. to: a name in FORMATS. polygons, tolerance, image_url: see Options;
    ValueError for those without effect on the format, and for names and labels that it cannot hold."""
    format = lookup("format", to, FORMATS)
    if polygons and not format.polygons:
        hint = "always polygons" if format.polygons is None else "always pixels"
        raise ValueError(f"{to} takes no choice of polygons: it is {hint}")
    if tolerance is not None and format.polygons is not None and not polygons:
        raise ValueError("a tolerance is for polygons" + (": ask for these too" if format.polygons else ""))
    if image_url is not None and not format.image_url:
        raise ValueError(f"{to} holds no addresses of photos: the image URL is for label-studio")
    if len(set(labels)) < len(labels):
        raise ValueError(f"a label is there twice: {', '.join(labels)}")
    given = Options(polygons, TOLERANCE if tolerance is None else tolerance, image_url or LOCAL_FILES)
    return format.files(_each_once(photos, labels), labels, given)


def _each_once(photos: Iterable[Labelled], labels: Sequence[str]) -> Iterator[Labelled]:
    names: set[str] = set()
    for photo in photos:
        parts, elsewhere = PureWindowsPath(photo.name).parts, PureWindowsPath(photo.name).anchor
        if not parts or ".." in parts or elsewhere:
            raise ValueError(f"{photo.name!r} cannot be the name of a photo: it becomes a file's in the folder")
        stem = str(PurePosixPath(photo.name).with_suffix(""))
        if stem in names:
            raise ValueError(f"two photos are called {stem}: their files would have the same name")
        if unknown := photo.masks.keys() - set(labels):
            raise ValueError(f"{photo.name} has masks of {', '.join(sorted(unknown))}, which are not among the labels")
        names.add(stem)
        yield photo


def labelled(results: Iterable[Segmentation]) -> Iterator[Labelled]:
    """Results in memory, those of one photo in a row as `Segmenter.stream` gives them, as what `exported` takes."""
    for name, several in groupby(results, key=lambda result: result.query):
        yield Labelled(name, {result.label: result.mask for result in several})


def read_run(folder: Path) -> tuple[list[str], dict[str, str], Iterator[Labelled]]:
    """Of a folder that `prmagic segment` wrote: the labels, the SHA-256 of each photo by name, and the photos by name.

    ValueError if it is no such folder, holds no results, or is damaged."""
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
        labels = list(run["references"])
        content = (folder / RESULTS).read_bytes() if (folder / RESULTS).exists() else b""
    except (OSError, ValueError, KeyError, TypeError):
        there = "" if folder.is_dir() else ", and there is no such folder"
        raise ValueError(f"{folder} is no folder that `prmagic segment` wrote{there}: name its --out") from None
    lines = content.split(b"\n")
    if lines.pop():
        warnings.warn(f"the last line of {folder / RESULTS} is cut short and was left out", UserWarning, stacklevel=2)
    answers: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {}
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            _, by_label = answers.setdefault(entry["query"], (entry["sha256"], {}))
            code = entry["candidates"][entry["chosen"]]["rle"]
            by_label[entry["label"]] = code if entry["found"] else rle(np.zeros(code["size"], bool))
        except (ValueError, KeyError, TypeError, IndexError):
            raise ValueError(
                f"line {number} of {folder / RESULTS} is damaged: the same `prmagic segment` again repairs it"
            ) from None
    if not answers:
        raise ValueError(f"{folder} holds no results yet")

    def photos() -> Iterator[Labelled]:
        for name, (_, by_label) in sorted(answers.items()):
            masks = {label: coco_mask.decode(code).astype(bool) for label, code in by_label.items()}
            yield Labelled(name, masks)

    return labels, {name: sha256 for name, (sha256, _) in answers.items()}, photos()


def find_photos(wanted: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """The file in the folder, searched throughout, of each name, by its SHA-256: whatever it is called there.

    ValueError that names those that are not there."""
    files = {file_sha256(file): file for file, _ in find_images([folder])}
    absent = [name for name, sha256 in wanted.items() if sha256 not in files]
    if absent:
        raise ValueError(
            f"{len(absent)} of {len(wanted)} photos are not in {folder}, or were changed since: {', '.join(absent[:5])}"
        )
    return {name: files[sha256] for name, sha256 in wanted.items()}


def coco(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> dict[str, Any]:
    """A data set in COCO's format: one annotation for each photo and label that was found. Ids count from 1.

    A mask is a run-length code, exact and with its holes, or a list of polygons, where a hole is a cut of no width.
    Areas and boxes are the mask's own. Licences are left to the user."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for photo in photos:
        height, width = photo.shape
        images.append({"id": len(images) + 1, "file_name": photo.name, "width": width, "height": height})
        for position, mask in photo.found(labels):
            code = rle(mask)
            shape: Any = code
            if options.polygons:
                shape = [_flat(polygon) for polygon in outlines(mask, options.tolerance)]
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": len(images), "category_id": position + 1, "iscrowd": 0,
                    "segmentation": shape, "area": int(mask.sum()), "bbox": coco_mask.toBbox(code).tolist(),
                }
            )  # fmt: skip
    categories = [{"id": i, "name": label, "supercategory": ""} for i, label in enumerate(labels, start=1)]
    about = {"description": f"prmagic {__version__}"}
    return {"info": about, "licenses": [], "images": images, "annotations": annotations, "categories": categories}


def _coco_files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    yield "annotations/instances_default.json", _json(coco(photos, labels, options))


def _yolo_files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """A text file for each photo, empty where nothing was found: a line for each connected part, as YOLO's objects have
    one outline. Coordinates are shares of the photo's sides."""
    names = "".join(f"  {i}: {json.dumps(label, ensure_ascii=False)}\n" for i, label in enumerate(labels))
    yield "data.yaml", f"train: images\nval: images\nnames:\n{names}".encode()
    for photo in photos:
        height, width = photo.shape
        lines = [
            " ".join([str(position), *(f"{share:.7f}" for share in (pixel_indices(part) / (width, height)).ravel())])
            for position, mask in photo.found(labels)
            for part in outlines(mask, options.tolerance)
        ]
        yield _named("labels", photo.name, ".txt"), "".join(f"{line}\n" for line in lines).encode()


def _label_studio_files(
    photos: Iterable[Labelled], labels: Sequence[str], options: Options
) -> Iterator[tuple[str, bytes]]:
    """The labelling interface, and a task for each photo with what was found as a prediction, for people to correct."""
    kind = "PolygonLabels" if options.polygons else "BrushLabels"
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in _palette(len(labels) + 1)[1:]]
    choices = "".join(
        f"    <Label value={quoteattr(label)} background={quoteattr(colour)}/>\n"
        for label, colour in zip(labels, colours, strict=True)
    )
    yield (
        "interface.xml",
        (
            '<View>\n  <Image name="image" value="$image" zoom="true"/>\n'
            f'  <{kind} name="label" toName="image">\n{choices}  </{kind}>\n</View>\n'
        ).encode(),
    )
    tasks = []
    for photo in photos:
        height, width = photo.shape
        values: list[dict[str, Any]] = []
        for position, mask in photo.found(labels):
            value: dict[str, Any] = {kind.lower(): [labels[position]]}
            if options.polygons:
                percent = [100 * part / (width, height) for part in outlines(mask, options.tolerance)]
                values += [{**value, "points": part.round(6).tolist(), "closed": True} for part in percent]
            else:
                values.append({**value, "format": "rle", "rle": list(brush(mask))})
        common = {
            "from_name": "label", "to_name": "image", "type": kind.lower(), "original_width": width,
            "original_height": height, "image_rotation": 0,
        }  # fmt: skip
        result = [{"id": str(number), **common, "value": value} for number, value in enumerate(values, start=1)]
        address = options.image_url + quote(photo.name)
        prediction = {"model_version": f"prmagic {__version__}", "result": result}
        tasks.append({"data": {"image": address}, "predictions": [prediction]})
    yield "tasks.json", _json(tasks)


def _mask_files(photos: Iterable[Labelled], labels: Sequence[str], options: Options) -> Iterator[tuple[str, bytes]]:
    """PASCAL VOC's layout: for each photo one 8-bit picture with a palette, whose values are the classes: 0 for the
    background, then the labels. Where masks overlap the smaller one is on top, as a whole would hide its part."""
    if len(labels) > 255:
        raise ValueError(f"{len(labels)} labels are more than the 255 that an 8-bit mask can tell apart")
    for label in labels:
        if label == "background" or label.startswith("#") or set(label) & set(":\r\n"):
            raise ValueError(f"label {label!r} cannot be used in labelmap.txt: run it with another name")
    palette = _palette(len(labels) + 1)
    lines = (
        f"{label}:{red},{green},{blue}::\n"
        for label, (red, green, blue) in zip(["background", *labels], palette.tolist(), strict=True)
    )
    yield "labelmap.txt", ("# label:color_rgb:parts:actions\n" + "".join(lines)).encode()
    names = []
    for photo in photos:
        classes: ByteArray = np.zeros(photo.shape, np.uint8)
        for position, mask in sorted(photo.found(labels), key=lambda entry: -int(entry[1].sum())):
            classes[mask] = position + 1
        picture = Image.fromarray(classes)
        picture.putpalette(palette.tobytes())
        content = io.BytesIO()
        picture.save(content, "PNG")
        names.append(_named("", photo.name, ""))
        yield _named("SegmentationClass", photo.name, ".png"), content.getvalue()
    yield "ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in names).encode()


FORMATS = {
    "coco": Format(_coco_files, "images", polygons=True),
    "yolo-seg": Format(_yolo_files, "images", polygons=None),
    "label-studio": Format(_label_studio_files, "images", polygons=True, image_url=True),
    "masks": Format(_mask_files, "JPEGImages", polygons=False),
}


def brush(mask: BoolArray) -> bytes:
    """(H, W) bool → the code of Label Studio's brush: its pixels' RGBA, 255 or 0 each, packed as thi.ng/rle-pack does.

    Bits: 32 for the number of bytes, 5 and four times 4 for the sizes that follow, all less 1; then for each run a 1, 2
    for which of the four sizes its length has, its length less 1, and its byte."""
    pixels = mask.ravel()
    starts = np.flatnonzero(np.diff(pixels, prepend=~pixels[:1]))
    lengths = 4 * np.diff(starts, append=pixels.size)
    sizes = (4, 8, 12, 16)
    words = [f"{4 * pixels.size:032b}{8 - 1:05b}", *(f"{size - 1:04b}" for size in sizes)]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = "11111111" if pixels[start] else "00000000"
        while length > 0:
            run = min(length, 1 << sizes[-1])
            which = next(i for i, size in enumerate(sizes) if run <= 1 << size)
            words.append(f"1{which:02b}{run - 1:0{sizes[which]}b}{value}")
            length -= run
    bits = "".join(words)
    return int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")


def _palette(colours: int) -> ByteArray:
    """PASCAL VOC's colours, (N, 3): the bits of a class's number, three by three, from the highest bit of a channel."""
    palette: ByteArray = np.zeros((colours, 3), np.uint8)
    for number in range(colours):
        for bit in range(8):
            for channel in range(3):
                palette[number, channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return palette


def _flat(polygon: Points) -> list[float]:
    return [float(number) for number in polygon.round(3).ravel()]


def _named(folder: str, name: str, suffix: str) -> str:
    """sub/a.jpg → folder/sub/a.suffix"""
    return str(PurePosixPath(folder, PurePosixPath(name).with_suffix(""))) + suffix


def _json(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
