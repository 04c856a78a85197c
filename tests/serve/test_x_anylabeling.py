"""What X-AnyLabeling's client asks for, and what it reads of the answers."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from http_server import PLACE, Client, iou, marked, scene, sent, started

from prmagic.io.shapes import decode

ELSEWHERE = (slice(40, 80), slice(60, 110))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with started(tmp_path_factory.mktemp("x-anylabeling")) as client:
        yield client


def predict(client: Client, model: str, image=None, **params):
    """As its client sends it, with all of its parameters."""
    given = {"conf_threshold": 0.0, "iou_threshold": 0.0, "epsilon_factor": 0.001, **params}
    photo = scene(ELSEWHERE) if image is None else image
    return client.post("/v1/predict", json={"model": model, "image": f"data:image/png;base64,{sent(photo)['data']}",
                                            "params": given})  # fmt: skip


def test_references_are_its_models(server: Client):
    assert server.get("/v1/models").json()["data"] == {}
    assert "no reference yet" in predict(server, "*").json()["detail"]
    name = server.learn("red")["id"]
    models = server.get("/v1/models").json()
    assert list(models["data"]) == [name]
    assert models["data"][name]["display_name"] == f"red ({name})"
    assert "button_run" in [widget["name"] for widget in models["data"][name]["widgets"]]
    (about,) = models["models"]
    assert (about["framework"], about["sam"], about["device"]) == ("persam-f", "embedded", "cpu")
    assert {"steps", "selector", "seed"} <= {setting["name"] for setting in about["settings"]}
    other = server.learn("also red")["id"]
    assert next(iter(server.get("/v1/models").json()["data"])) == "*"
    labels = [shape["label"] for shape in predict(server, "*").json()["data"]["shapes"]]
    assert set(labels) <= {"red", "also red"} and labels
    server.delete(f"/v1/references/{other}")


def test_shapes_are_closed_polygons(server: Client):
    name = server.learn("red")["id"]
    answer = predict(server, name, text_prompt="ignored", marks=[])
    assert answer.status_code == 200, answer.text
    shapes = answer.json()["data"]["shapes"]
    found = np.zeros((90, 120), bool)
    for shape in shapes:
        assert (shape["label"], shape["shape_type"]) == ("red", "polygon") and shape["score"] > 0.5
        assert shape["points"][0] == shape["points"][-1]
        found |= decode([np.ravel(shape["points"]).tolist()], found.shape)
    assert iou(found, marked(ELSEWHERE)) > 0.8
    assert predict(server, name, conf_threshold=0.999).json()["data"]["shapes"] == []


def test_what_cannot_be_predicted(server: Client):
    assert predict(server, "../x").status_code == 404
    assert server.post("/v1/predict", json={"model": "*", "image": "%"}).status_code == 422
    name = server.learn("red")["id"]
    assert predict(server, name, conf_threshold=1e7).status_code == 422


def test_instances_are_told_apart(client: Client, red: str):
    both = scene()
    both[10:40, 85:115] = both[PLACE][:30, :30]
    ((found,),) = [photo["masks"] for photo in client.find(red, photos=[sent(both)], instances=True)]
    assert found["instances"] is not None
    union = sum(instance["area"] for instance in found["instances"])
    assert union == found["area"]
    for instance in found["instances"]:
        x0, y0, x1, y1 = instance["box"]
        assert 0 <= x0 < x1 <= 120 and 0 <= y0 < y1 <= 90 and -1 <= instance["score"] <= 1
    ((alone,),) = [photo["masks"] for photo in client.find(red, photos=[sent(both)])]
    assert alone["instances"] is None
