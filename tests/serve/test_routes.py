"""References are made and looked up, and found in photos."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from http_server import OUTLINE, Client, file_of, iou, marked, scene, sent
from PIL import Image
from pycocotools import mask as coco_mask

import prmagic
from prmagic.io.formats import rle
from prmagic.io.shapes import decode

ELSEWHERE = (slice(40, 80), slice(60, 110))


def mask_of(answer) -> np.ndarray:
    return coco_mask.decode(answer["mask"]).astype(bool)


@pytest.mark.parametrize(
    "support",
    [
        {"mask": sent(marked())},
        {"mask": sent(marked().astype(np.uint8) * 3), "mask_value": 3},
        {"polygons": [OUTLINE]},
        {"rle": rle(marked())},
        {"box": [30, 20, 80, 60]},
    ],
    ids=["mask", "label map", "polygons", "rle", "box"],
)
def test_every_way_to_mark_a_support_finds_the_thing_elsewhere(client: Client, support):
    (photo,) = client.find(client.learn(**support)["id"], photos=[sent(scene(ELSEWHERE))])
    assert (photo["width"], photo["height"]) == (120, 90)
    (found,) = photo["masks"]
    assert iou(mask_of(found), marked(ELSEWHERE)) > 0.8
    assert found["found"] and found["label"] == "red" and found["score"] > 0.5
    assert found["area"] == mask_of(found).sum()


def test_answers_equal_the_library(client: Client, red: str):
    segmenter = prmagic.load("persam-f")
    reference = segmenter.encode_support(prmagic.Support(file_of(scene()), file_of(marked())))
    expected = segmenter.segment(file_of(scene(ELSEWHERE)), reference)
    ((found,),) = [photo["masks"] for photo in client.find(red, photos=[sent(scene(ELSEWHERE))], candidates=True)]
    np.testing.assert_array_equal(mask_of(found), expected.mask)
    assert found["score"] == pytest.approx(expected.score)
    assert found["chosen"] == expected.chosen and expected.others > 0
    for answer, candidate in zip(found["candidates"], expected.candidates, strict=True):
        np.testing.assert_array_equal(mask_of(answer), candidate.mask)
        assert (answer["step"], answer["channel"]) == (candidate.step, candidate.channel)


def test_masks_come_as_asked(client: Client, red: str):
    (as_code,), (as_outlines,), (as_picture,) = (
        client.find(red, output=output)[0]["masks"] for output in ("rle", "polygons", "png")
    )
    exact = mask_of(as_code)
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(as_picture["mask"]))))
    np.testing.assert_array_equal(picture, exact * 255)
    assert iou(decode(as_outlines["mask"], exact.shape), exact) > 0.98
    x0, y0, x1, y1 = as_code["box"]
    assert exact[y0:y1, x0:x1].sum() == exact.sum() and exact[y0].any() and exact[y1 - 1].any()


def test_photos_keep_their_order_and_notes(client: Client, red: str):
    black = np.zeros((50, 70, 3), np.uint16)
    deep = io.BytesIO()
    Image.fromarray(black[..., 0] + 900).save(deep, "TIFF")
    photos = client.find(red, photos=[sent(deep.getvalue()), sent(scene()), sent(scene(size=(100, 130)))])
    assert [(photo["width"], photo["height"]) for photo in photos] == [(70, 50), (120, 90), (130, 100)]
    assert "taken as white" in photos[0]["notes"][0] and photos[1]["notes"] == []


def test_several_references_share_no_pixel_unless_asked(client: Client):
    ids = [client.learn(label)["id"] for label in ("first", "second")]
    (photo,) = client.find(*ids)
    first, second = map(mask_of, photo["masks"])
    assert not (first & second).any() and (first | second).any()
    assert [found["reference"] for found in photo["masks"]] == ids
    assert [found["label"] for found in photo["masks"]] == ["first", "second"]
    (photo,) = client.find(*ids, overlaps=True)
    first, second = map(mask_of, photo["masks"])
    assert iou(first, second) == 1


def test_supports_of_a_request_are_not_kept(client: Client, red: str):
    before = client.get("/v1/references").json()
    asked = {"photos": [sent(scene())], "supports": [{"photo": sent(scene()), "mask": sent(marked())}], "label": "it"}
    (found,) = client.post("/v1/segment", json=asked).json()["photos"][0]["masks"]
    assert (found["reference"], found["label"]) == (None, "it")
    assert found["mask"] == client.find(red)[0]["masks"][0]["mask"]
    assert client.get("/v1/references").json() == before


def test_settings_have_the_names_of_set(client: Client, red: str):
    (found,) = client.find(red, settings={"steps": 2, "selector": "reencode", "seed": 7}, candidates=True)[0]["masks"]
    assert [candidate["step"] for candidate in found["candidates"]] == [0, 1, 2]
    (found,) = client.find(red, settings={"min_score": 1})[0]["masks"]
    assert not found["found"] and found["area"] == 0 and found["box"] is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"stps": 3}, "did you mean 'steps'?"),
        ({"steps": 10**9}, "steps must not be above 50"),
        ({"points": 10**9}, "points must not be above 100"),
        ({"steps": "many"}, "steps must be a whole number"),
        ({"selector": "x"}, "unknown selector 'x'"),
        ({"encoder_size": 9999}, "chosen when the server starts"),
        ({"sam": "/etc/passwd"}, "no setting 'sam'"),
        ({"cache": "/tmp"}, "no setting 'cache'"),
        ({"eta": {"a": 1}}, "settings.eta: must be a number"),
    ],
)
def test_impossible_settings_are_refused(client: Client, red: str, settings, told):
    asked = {"photos": [sent(scene())], "references": [red], "settings": settings}
    assert told in client.refused("/v1/segment", asked)


def test_references_are_listed_looked_up_and_deleted(client: Client):
    made = client.learn("a cat")
    assert made == {"id": made["id"], "label": "a cat", "supports": 1, "fits": True, "notes": []}
    assert client.get(f"/v1/references/{made['id']}").json() == made
    assert made in client.get("/v1/references").json()["references"]
    assert client.delete(f"/v1/references/{made['id']}").status_code == 204
    assert client.get(f"/v1/references/{made['id']}").status_code == 404
    assert client.delete(f"/v1/references/{made['id']}").status_code == 404
    assert "no reference" in client.refused("/v1/segment", {"photos": [sent(scene())], "references": [made["id"]]}, 404)


def test_health_metrics_and_the_page_of_the_api(client: Client, red: str):
    client.find(red)
    assert client.get("/health").json()["status"] == "UP"
    metrics = client.get("/metrics").text
    assert 'prmagic_requests_total{route="/v1/segment",status="200"}' in metrics
    assert "prmagic_waiting_requests 0.0" in metrics
    page = client.get("/docs").text
    assert "/docs-files/swagger-ui-bundle.js" in page and "://" not in page.replace("http://www.w3.org", "")
    assert client.get("/docs-files/swagger-ui-bundle.js").status_code == 200
    schema = client.get("/openapi.json").json()
    assert {"/v1/references", "/v1/references/{name}", "/v1/segment"} <= set(schema["paths"])
    assert schema["components"]["schemas"]["SegmentRequest"]["example"]["references"]
