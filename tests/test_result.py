"""A result: which mask it is, and what it becomes: a picture, COCO, supervision."""

import builtins
import dataclasses
import io
import json
import pickle

import numpy as np
import pytest
from made import instance, segmentation
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic.io.formats import Options
from prmagic.io.formats.coco import coco
from prmagic.io.run_reader import labelled
from prmagic.pictures import overlay, overlay_instances


def test_the_chosen_candidates_mask_is_the_answer():
    result = segmentation()
    assert result.mask is result.candidates[1].mask and result.found and not result.rejected
    assert dataclasses.replace(result, chosen=0).mask is result.candidates[0].mask
    assert segmentation(predicted_iou=0.75).predicted_iou == 0.75


def test_an_empty_mask_is_nothing_found():
    nothing = segmentation(masks=np.zeros((2, 2, 3), bool))
    assert not nothing.found and not nothing.rejected


@pytest.mark.parametrize(
    "score, least, rejected", [(0.3, 0.4, True), (0.4, 0.4, False), (0.3, None, False), (float("nan"), 0.4, False)]
)
def test_below_the_least_score_the_mask_is_empty_and_the_candidates_stay(score, least, rejected):
    result = dataclasses.replace(segmentation(), score=score, min_score=least)
    assert (result.rejected, result.found) == (rejected, not rejected)
    assert result.mask.shape == (2, 3) and bool(result.mask.any()) is not rejected
    assert result.candidates[1].mask.any()
    assert len(result.to_coco()["annotations"]) == (not rejected)
    assert np.asarray(result.to_pil()).any() == (not rejected)
    assert result.to_supervision().is_empty() == rejected
    (photo,) = labelled([result])
    assert photo.masks["cat"].any() == (not rejected)


def test_pixels_of_another_label_are_left_out():
    result = segmentation()
    other = np.zeros((2, 3), bool)
    other[0] = True
    kept = dataclasses.replace(result, excluded=other)
    np.testing.assert_array_equal(kept.mask, result.mask & ~other)
    assert not dataclasses.replace(result, excluded=~other | other).found


def test_a_slim_result_keeps_the_mask_and_the_numbers_in_few_bytes():
    whole = dataclasses.replace(segmentation(), score=0.3, excluded=np.eye(2, 3, dtype=bool))
    slim = whole.slim()
    np.testing.assert_array_equal(slim.mask, whole.mask)
    for name in ("query", "label", "seed", "scores", "chosen", "score", "predicted_iou", "found"):
        assert getattr(slim, name) == getattr(whole, name)
    assert slim.to_coco() == whole.to_coco()
    assert np.array_equal(np.asarray(slim.to_pil()), np.asarray(whole.to_pil()))
    large = segmentation(masks=np.ones((1, 3000, 4000), bool), scores=(0.5,), chosen=0)
    assert len(pickle.dumps(large.slim())) < 2000


@pytest.mark.parametrize("size, shown", [((20, 30), (30, 20)), ((100, 3000), (1024, 34))])
def test_a_notebook_shows_the_photo_with_the_mask(size, shown):
    whole = segmentation(masks=np.ones((2, *size), bool))
    whole = dataclasses.replace(whole, image=np.zeros((*size, 3), np.uint8))
    with Image.open(io.BytesIO(whole._repr_png_())) as picture:
        assert picture.format == "PNG" and picture.size == shown
        assert np.asarray(picture.convert("RGB")).any()


def test_to_coco():
    result = segmentation()
    assert result.to_coco() == coco(labelled([result]), ["cat"], Options())
    (annotation,) = json.loads(json.dumps(result.to_coco()))["annotations"]
    np.testing.assert_array_equal(coco_mask.decode(annotation["segmentation"]), result.mask)
    assert isinstance(result.to_coco(polygons=True)["annotations"][0]["segmentation"], list)
    nothing = segmentation(masks=np.zeros((2, 2, 3), bool))
    assert nothing.to_coco()["annotations"] == [] and len(nothing.to_coco()["images"]) == 1


def test_to_pil_and_overlay():
    result = segmentation()
    assert result.to_pil().mode == "L"
    np.testing.assert_array_equal(np.asarray(result.to_pil()), result.mask * 255)
    np.testing.assert_array_equal(np.asarray(result.overlay()), np.asarray(overlay(result.image, result.mask)))


def test_to_supervision():
    made = segmentation(predicted_iou=0.75).to_supervision(class_id=3)
    assert made.xyxy.tolist() == [[1, 0, 2, 1]] and made.mask.shape == (1, 2, 3)
    assert made.class_id.tolist() == [3] and made.confidence.tolist() == [0.75]
    assert made.data["class_name"].tolist() == ["cat"]
    assert segmentation(predicted_iou=float("nan")).to_supervision().confidence is None
    assert segmentation(masks=np.zeros((2, 2, 3), bool)).to_supervision().is_empty()


def test_to_supervision_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "supervision":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install 'prmagic\[supervision\]'"):
        segmentation().to_supervision()


# Instances


def with_instances(*masks):
    things = tuple(instance(mask, score, 0.75) for mask, score in zip(masks, (0.9, 0.8, 0.7), strict=False))
    return dataclasses.replace(segmentation(), instances=things, score=0.9)


LEFT, RIGHT = np.array([[1, 0, 0], [1, 0, 0]], bool), np.array([[0, 0, 0], [0, 0, 1]], bool)


def test_instances_become_an_annotation_and_a_detection_each():
    result = with_instances(LEFT, RIGHT)
    for kept in (result, result.slim()):
        annotations = json.loads(json.dumps(kept.to_coco()))["annotations"]
        assert [each["score"] for each in annotations] == [0.9, 0.8]
        np.testing.assert_array_equal(coco_mask.decode(annotations[1]["segmentation"]), RIGHT)
    made = result.to_supervision(class_id=3)
    assert made.xyxy.tolist() == [[0, 0, 0, 1], [2, 1, 2, 1]] and made.class_id.tolist() == [3, 3]
    np.testing.assert_array_equal(made.mask, [LEFT, RIGHT])
    assert made.confidence.tolist() == [0.75, 0.75] and made.data["score"].tolist() == pytest.approx([0.9, 0.8])
    assert made.data["class_name"].tolist() == ["cat", "cat"]
    nothing = with_instances()
    assert nothing.to_supervision().is_empty() and nothing.to_coco()["annotations"] == []


def test_an_overlay_tells_instances_apart():
    result = with_instances(LEFT, RIGHT)
    expected = overlay_instances(result.image, [LEFT, RIGHT])
    np.testing.assert_array_equal(np.asarray(result.overlay()), np.asarray(expected))
