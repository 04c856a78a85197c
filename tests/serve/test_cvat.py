"""The detection function, as cvat-cli and cvat-sdk run it, on a task of a small server on this machine."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from common import MINI, photo, region
from PIL import Image

import prmagic

pytest.importorskip("cvat_cli", reason="needs pip install 'prmagic[cvat]'")
import cvat_sdk.auto_annotation as cvataa
from cvat_cli.__main__ import main as cvat_cli
from cvat_cli._internal.commands_functions import get_function_driver_class
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.auto_annotation.driver import _AnnotationMapper, _DetectionFunctionContextImpl
from cvat_sdk.masks import decode_mask
from cvat_sdk.models import Label
from cvat_server import Task, serving

from prmagic.io.shapes import decode
from prmagic.loading import load
from prmagic.serve.cvat import Detector, create, largest_polygon, polygons_of, read_references

SIZE = (60, 80)
FRAMES = [photo(*SIZE, seed) for seed in (1, 2)]
TINY = {"sam": str(MINI), "framework": "persam", "device": "cpu"}
MODULE = "prmagic.serve.cvat"


@pytest.fixture(scope="module")
def segmenter():
    return load("persam", sam=str(MINI), device="cpu")


@pytest.fixture(scope="module")
def folder(segmenter, tmp_path_factory) -> Path:
    """cat.safetensors and dog.safetensors, the second without a label of its own."""
    folder = tmp_path_factory.mktemp("references")
    for name, label, place in (("cat", "cat", slice(10, 30)), ("dog", "", slice(30, 50))):
        support = prmagic.Support(photo(*SIZE), region(place, slice(20, 50), SIZE))
        segmenter.encode_support(support, label=label).save(folder / f"{name}.safetensors")
    return folder


@pytest.fixture(scope="module")
def detector(segmenter, folder) -> Detector:
    return Detector(segmenter, read_references(folder))


def context(least: float | None = None, polygons: bool = False) -> _DetectionFunctionContextImpl:
    return _DetectionFunctionContextImpl(frame_name="0.png", conf_threshold=least, conv_mask_to_poly=polygons)


def drawn(shape, size: tuple[int, int] = SIZE) -> np.ndarray:
    return decode_mask(shape["points"], image_height=size[0], image_width=size[1])


def annotate(monkeypatch, tmp_path, task: Task, *arguments: str) -> int:
    monkeypatch.setenv("CVAT_ACCESS_TOKEN", "made-up")
    for name in ("XDG_CACHE_HOME", "HOME", "LOCALAPPDATA"):  # where cvat-sdk keeps the frames
        monkeypatch.setenv(name, str(tmp_path))
    with serving(task) as address:
        fixed = ["--server-host", address, "task", "auto-annotate", "1", "--function-module", MODULE]
        parameters = [f"-p{name}=str:{value}" for name, value in TINY.items()]
        return cvat_cli([*fixed, *parameters, *arguments])


def test_the_command_annotates_a_task(monkeypatch, tmp_path, segmenter, folder):
    task = Task(FRAMES, ["dog", "cat"])
    assert annotate(monkeypatch, tmp_path, task, f"-preference=str:{folder}", "-pinstances=bool:no") == 0
    assert task.uploaded["shapes"] and not task.uploaded["tags"]
    references = read_references(folder)
    for frame, pixels in enumerate(FRAMES):
        expected = segmenter.segment(pixels, references)
        for label_id, label in ((100, "dog"), (101, "cat")):
            of_label = [
                each for each in task.uploaded["shapes"] if (each["frame"], each["label_id"]) == (frame, label_id)
            ]
            assert len(of_label) == expected[label].found
            for shape in of_label:
                assert (shape["type"], shape["source"]) == ("mask", "auto")
                assert np.array_equal(drawn(shape), expected[label].mask)
                assert shape["score"] == pytest.approx(max(expected[label].score, 0))


def test_settings_and_an_example_from_the_command_line(monkeypatch, tmp_path):
    Image.fromarray(photo(*SIZE)).save(tmp_path / "photo.png")
    Image.fromarray(region(slice(10, 30), slice(20, 50), SIZE)).save(tmp_path / "mask.png")
    task = Task(FRAMES, ["rabbit"])
    example = [f"-pphoto=str:{tmp_path / 'photo.png'}", f"-pmask=str:{tmp_path / 'mask.png'}", "-plabel=str:rabbit"]
    assert (
        annotate(monkeypatch, tmp_path, task, *example, "-psteps=int:1", "-peta=float:0.5", "--conv-mask-to-poly") == 0
    )
    assert {shape["type"] for shape in task.uploaded["shapes"]} == {"polygon"}


def test_a_label_that_the_task_lacks_is_told_by_cvat(monkeypatch, tmp_path, folder):
    with pytest.raises(cvataa.BadFunctionError, match="label 'dog' is not in dataset"):
        annotate(monkeypatch, tmp_path, Task(FRAMES, ["cat"]), f"-preference=str:{folder}")


def test_cvat_accepts_what_is_found_one_mask_per_thing(segmenter, folder, detector):
    references = read_references(folder)
    results = segmenter.segment(FRAMES[0], references, instances=True)
    things = [(label, each) for label, result in results.items() for each in result.instances]
    labels = [Label._from_openapi_data(id=7 + i, name=name, type="mask", attributes=[], sublabels=[])
              for i, name in enumerate(references)]  # fmt: skip
    mapper = _AnnotationMapper(
        logging.getLogger(), detector.spec.labels, labels, allow_unmatched_labels=False, conv_mask_to_poly=False
    )
    found = detector.detect(context(), Image.fromarray(FRAMES[0]))
    tags, shapes = mapper.validate_and_remap(found, 5)
    assert things and not tags and len(shapes) == len(things)
    for shape, (label, thing) in zip(shapes, things, strict=True):
        assert (shape.label_id, shape.frame) == (7 + list(references).index(label), 5)
        assert np.array_equal(drawn(shape), thing.mask)


def test_the_least_score_leaves_out_what_is_below(detector):
    best = max(shape.score for shape in detector.detect(context(), Image.fromarray(FRAMES[0])))
    kept = detector.detect(context(least=best), Image.fromarray(FRAMES[0]))
    assert [shape.score for shape in kept] == [best]
    assert detector.detect(context(least=best + 0.01), Image.fromarray(FRAMES[0])) == []


def test_polygons_cover_the_masks(detector):
    masks = detector.detect(context(), Image.fromarray(FRAMES[0]))
    united = np.any([drawn(shape) for shape in masks], axis=0)
    outlines = detector.detect(context(polygons=True), Image.fromarray(FRAMES[0]))
    assert {shape.type.value for shape in outlines} == {"polygon"}
    covered = np.any([decode([shape.points], SIZE) for shape in outlines], axis=0)
    assert (covered & united).sum() / (covered | united).sum() > 0.9


def test_the_largest_outline_and_no_specks():
    mask = region(slice(5, 15), slice(5, 15), SIZE) | region(slice(30, 50), slice(30, 60), SIZE) | region(0, 0, SIZE)
    assert len(polygons_of(mask)) == 2
    assert decode([largest_polygon(mask)], SIZE)[40, 40]
    assert largest_polygon(region(0, 0, SIZE)) == []


def test_what_cvat_is_told_of_the_function(folder):
    function = FunctionLoader(MODULE, None, {"reference": str(folder), **TINY}).load()
    fields = get_function_driver_class(function.spec).get_remote_function_fields(function.spec)
    assert [(label["name"], label["type"]) for label in fields["labels_v2"]] == [("cat", "mask"), ("dog", "mask")]


def test_labels_of_references(folder, segmenter, tmp_path):
    assert list(read_references(folder / "dog.safetensors")) == ["dog"]
    assert list(read_references(folder / "cat.safetensors", "lion")) == ["lion"]
    with pytest.raises(ValueError, match="2 references: a label is for a single one"):
        read_references(folder, "lion")
    with pytest.raises(ValueError, match=r"there is no \.safetensors file"):
        read_references(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors").write_bytes((folder / "cat.safetensors").read_bytes())
    with pytest.raises(ValueError, match="have the label 'cat'"):
        read_references(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({}, "say what to look for"),
        ({"photo": "a.jpg"}, "say what to look for"),
        ({"reference": "a", "photo": "a.jpg", "mask": "a.png"}, "say what to look for"),
        ({"reference": "a", "nonsense": 1}, "no setting 'nonsense'"),
        ({"reference": "a", "steps": "many"}, "steps"),
    ],
)
def test_what_cannot_be_is_refused(arguments, error):
    with pytest.raises(ValueError, match=error):
        create(**TINY, **arguments)


def test_a_reference_of_another_model_is_refused(folder):
    with pytest.raises(prmagic.reference.ReferenceMismatch):
        create(str(folder / "cat.safetensors"), framework="persam-f", sam=str(MINI), device="cpu")
