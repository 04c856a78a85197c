"""The tracking function, as the agent of cvat-cli runs it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from common import MINI, photo, region
from PIL import Image

pytest.importorskip("cvat_cli", reason="needs pip install 'prmagic[cvat]'")
import cvat_sdk.auto_annotation as cvataa
from cvat_cli._internal.agent_driver import set_worker_current_function
from cvat_cli._internal.agent_driver_tracking import (
    AgentTrackingFunctionDriver,
    _worker_job_init_tracking,
    _worker_job_track,
)
from cvat_cli._internal.commands_functions import get_function_driver_class
from cvat_cli._internal.common import FunctionLoader
from cvat_sdk.masks import decode_mask, encode_mask

from prmagic.io.polygons import outlines
from prmagic.io.shapes import decode

SIZE = (60, 80)
PHOTOS = Path(__file__).parents[2] / "src" / "prmagic" / "demo" / "photos"
MARKED = region(slice(10, 30), slice(20, 50), SIZE)


def in_worker(**parameters):
    """The function in this process, as the agent has it in one of its own."""
    function = FunctionLoader("prmagic.serve.cvat_tracking", None, {"device": "cpu", **parameters}).load()
    driver = get_function_driver_class(function.spec)
    assert driver is AgentTrackingFunctionDriver
    set_worker_current_function(function)
    driver.init_worker(iter("abcdefgh").__next__)
    return function


def shape_of(kind: str, mask: np.ndarray) -> cvataa.TrackableShape:
    points = encode_mask(mask) if kind == "mask" else outlines(mask)[0].ravel().tolist()
    return cvataa.TrackableShape(type=kind, points=points)


def drawn(shape: cvataa.TrackableShape, size: tuple[int, ...]) -> np.ndarray:
    if shape.type == "polygon":
        return decode([shape.points], size[:2])
    return decode_mask(shape.points, image_height=size[0], image_width=size[1])


def test_masks_and_polygons_are_carried_on_as_they_are():
    function = in_worker(framework="persam", sam=str(MINI))
    assert AgentTrackingFunctionDriver.get_remote_function_fields(function.spec) == {
        "supported_shape_types": ["mask", "polygon"]
    }
    first, second = (Image.fromarray(photo(*SIZE, seed)) for seed in (0, 1))
    states = _worker_job_init_tracking(1, first, [shape_of("mask", MARKED), shape_of("polygon", MARKED)])
    found = _worker_job_track(1, second, states)
    assert [shape.type for shape in found] == ["mask", "polygon"]
    assert all(drawn(shape, SIZE).any() for shape in found)
    again = _worker_job_track(1, second, states)
    assert [shape.points for shape in again] == [shape.points for shape in found]


def test_what_is_not_there_is_not_tracked():
    in_worker(framework="persam", sam=str(MINI), min_score=1.0)
    states = _worker_job_init_tracking(1, Image.fromarray(photo(*SIZE)), [shape_of("mask", MARKED)])
    assert _worker_job_track(1, Image.fromarray(photo(*SIZE, 1)), states) == [None]


def test_a_shape_outside_of_the_frame_is_refused():
    in_worker(framework="persam", sam=str(MINI))
    outside = cvataa.TrackableShape(type="polygon", points=[-9, -9, -5, -9, -5, -5])
    with pytest.raises(ValueError, match="the polygon covers no pixel of its frame"):
        _worker_job_init_tracking(1, Image.fromarray(photo(*SIZE)), [outside])


def test_a_horse_is_found_in_a_later_frame():
    in_worker()
    frames = [Image.open(PHOTOS / f"horse_{number}.jpg") for number in ("011", "027")]
    masks = [np.asarray(Image.open(PHOTOS / f"horse_{number}.png")) > 0 for number in ("011", "027")]
    states = _worker_job_init_tracking(1, frames[0], [shape_of("mask", masks[0])])
    (found,) = _worker_job_track(1, frames[1], states)
    mask = drawn(found, masks[1].shape)
    assert (mask & masks[1]).sum() / (mask | masks[1]).sum() > 0.5
