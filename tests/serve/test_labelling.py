"""Label Studio's interfaces and regions."""

from __future__ import annotations

import numpy as np
import pytest
from http_server import file_of, iou, marked, scene

import prmagic
from prmagic.io.formats.label_studio import brush, regions, unbrush
from prmagic.serve.errors import RequestError
from prmagic.serve.labelling import Annotated, Interface, marked_labels, predicted

INTERFACE = """
<View>
  <Header value="Mark it"/>
  <Image name="img" value="$photo"/>
  <Image name="other" value="$second"/>
  <RectangleLabels name="box" toName="img"><Label value="car"/><Label value="cat"/></RectangleLabels>
  <View><BrushLabels name="brush" toName="img"><Label value="cat" alias="Cat"/><Label value="dog"/></BrushLabels></View>
  <PolygonLabels name="outline" toName="img"><Label value="car"/></PolygonLabels>
  <BrushLabels name="elsewhere" toName="other"><Label value="tree"/></BrushLabels>
  <Choices name="quality" toName="img"><Choice value="good"/></Choices>
</View>
"""
INSIDE = marked()


@pytest.fixture(scope="module")
def interface() -> Interface:
    return Interface.parse(INTERFACE)


@pytest.fixture(scope="module")
def segmenter() -> prmagic.Segmenter:
    return prmagic.load("persam-f")


def annotated(*results) -> Annotated:
    return Annotated("task 1", file_of(scene()), results)


def test_an_interface_tells_fields_and_labels(interface: Interface):
    assert interface.field == "photo"
    assert interface.labels == ["Cat", "dog", "car", "cat"]
    assert interface.control("Cat").name == "brush"
    assert interface.control("car").name == "outline"
    assert interface.control("cat").name == "box"


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("<View", "no XML"),
        ("<View/>", "needs BrushLabels"),
        ('<View><Text name="t" value="$t"/><Labels name="l" toName="t"><Label value="x"/></Labels></View>', "needs"),
        ('<!DOCTYPE x [<!ENTITY a "aaaa">]><View>&a;</View>', "declares entities"),
        ("<View>" + " " * 1_000_001 + "</View>", "too long"),
    ],
)
def test_other_interfaces_are_refused(config: str, told: str):
    with pytest.raises(RequestError, match=told):
        Interface.parse(config)


@pytest.mark.parametrize("seed", range(6))
def test_the_brush_comes_back(seed: int):
    source = np.random.default_rng(seed)
    mask = source.random((source.integers(1, 60), source.integers(1, 60))) < source.random()
    np.testing.assert_array_equal(unbrush(list(brush(mask)), *mask.shape), mask)


def test_the_brush_with_runs_that_do_not_repeat():
    """As Label Studio's own page writes them: 0, then the length, then each byte."""
    pixels = "".join(f"{value:08b}" for value in (0, 0, 0, 255, 1, 2, 3, 0))
    bits = f"{8:032b}{7:05b}{2:04b}{3:04b}{7:04b}{15:04b}" + "0" + "00" + f"{7:03b}" + pixels
    code = [int(bits.ljust(-(-len(bits) // 8) * 8, "0")[i : i + 8], 2) for i in range(0, len(bits), 8)]
    np.testing.assert_array_equal(unbrush(code, 1, 2), [[True, False]])


@pytest.mark.parametrize("damage", [lambda c: c[:-3], lambda c: c[:4], lambda c: [], lambda c: [255] * len(c)])
def test_a_damaged_brush_is_an_error(damage):
    with pytest.raises(ValueError, match="the brush's code"):
        unbrush(damage(list(brush(INSIDE))), *INSIDE.shape)
    with pytest.raises(ValueError, match="not of a picture of 121 × 90"):
        unbrush(list(brush(INSIDE)), 90, 121)


@pytest.mark.parametrize("kind", ["brushlabels", "polygonlabels", "rectanglelabels"])
def test_regions_become_a_support(segmenter: prmagic.Segmenter, kind: str):
    example = annotated(*regions(kind, "car", INSIDE, 1.0)).example(segmenter)
    assert iou(example.mask, INSIDE) > 0.85


def test_a_turned_rectangle_is_taken_around_its_corners(segmenter: prmagic.Segmenter):
    (region,) = regions("rectanglelabels", "car", INSIDE, 0.0)
    value = region["value"]
    turned = {**value, "x": value["x"] + value["width"], "rotation": 90}
    turned |= {"width": value["height"] * 90 / 120, "height": value["width"] * 120 / 90}
    example = annotated({**region, "value": turned}).example(segmenter)
    assert example.mask.any()


@pytest.mark.parametrize(
    "change",
    [
        {"original_width": 90, "original_height": 120},
        {"image_rotation": 90},
        {"value": {"polygonlabels": ["car"]}},
        {"value": {"points": [["x", 1]], "polygonlabels": ["car"]}},
        {"value": {"points": [[float("nan"), 1], [2, 2], [3, 9]], "polygonlabels": ["car"]}},
        {"value": {"points": [[1e9, 1], [2, 2], [3, 9]], "polygonlabels": ["car"]}},
    ],
)
def test_a_region_that_cannot_be_used_is_left_out_and_told(segmenter, caplog: pytest.LogCaptureFixture, change):
    (good,) = regions("polygonlabels", "car", INSIDE, 1.0)
    example = annotated(good, {**good, **change}).example(segmenter)
    assert iou(example.mask, INSIDE) > 0.98 and "a region is left out" in caplog.text
    with pytest.raises(RequestError, match="task 1: no region can be used"):
        annotated({**good, **change}).example(segmenter)


def test_labels_are_those_of_the_interface(interface: Interface):
    (outline,) = regions("polygonlabels", "car", INSIDE, 1.0, ("outline", "img"))
    (box,) = regions("rectanglelabels", "car", INSIDE, 1.0, ("box", "img"))
    (painted,) = regions("brushlabels", "gone", INSIDE, 1.0, ("brush", "img"))
    (foreign,) = regions("brushlabels", "dog", INSIDE, 1.0, ("nobody", "img"))
    choice = {"from_name": "quality", "type": "choices", "value": {"choices": ["good"]}}
    found = marked_labels([outline, box, painted, foreign, choice], interface)
    assert found == {"car": [outline, box]}


def test_predictions_speak_the_interface(interface: Interface):
    both = marked() | marked((slice(70, 80), slice(90, 110)))
    both[0, 0] = True
    (painted,) = predicted("dog", both, 0.5, interface, 1)
    np.testing.assert_array_equal(unbrush(painted["value"]["rle"], 90, 120), both)
    assert (painted["from_name"], painted["to_name"], painted["score"]) == ("brush", "img", 0.5)
    outlines = predicted("car", both, None, interface, 4)
    assert [region["id"] for region in outlines] == ["prmagic4", "prmagic5"]
    boxes = predicted("cat", both, 0.5, interface, 1)
    assert [round(box["value"]["x"] * 1.2) for box in boxes] == [30, 90]
    assert predicted("dog", np.zeros((9, 9), bool), None, interface, 1) == []
