"""The ML backend, with a Label Studio of a few lines: what is learnt, when, and from which addresses."""

from __future__ import annotations

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from http_server import MODELS, Client, file_of, iou, marked, scene
from starlette.testclient import TestClient

from prmagic.io.formats.label_studio import regions, unbrush
from prmagic.serve.label_studio_api import Access
from prmagic.serve.server import Address, Plan, application

INTERFACE = (
    '<View><Image name="image" value="$image"/><BrushLabels name="brush" toName="image">'
    '<Label value="red"/><Label value="blue"/></BrushLabels></View>'
)
ELSEWHERE = (slice(40, 80), slice(60, 110))
KEY = "aaa.bbb.ccc"
TOKEN = "a-token-for-the-tests"


class Studio(ThreadingHTTPServer):
    """Answers what the backend asks for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.tasks: list[dict[str, Any]] = []
        self.files = {
            "/data/upload/1/a.png": file_of(scene()),
            "/data/local-files/": file_of(scene()),
            "/data/upload/1/b.png": file_of(scene(ELSEWHERE)),
            "/data/upload/1/bad.png": b"no photo",
            "/api/users/": b'"secret"',
        }
        self.asked: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def annotate(
        self, task: int, label: str = "red", address: str = "/data/upload/1/a.png", changed: str = "1"
    ) -> None:
        result = regions("brushlabels", label, marked(), 1.0, ("brush", "image"))
        annotation = {"id": 10 * task, "updated_at": changed, "was_cancelled": False, "result": result}
        self.tasks = [each for each in self.tasks if each["id"] != task]
        self.tasks.insert(0, {"id": task, "data": {"image": address}, "annotations": [annotation]})


class Handler(BaseHTTPRequestHandler):
    server: Studio

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, content: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == "/api/token/refresh" and body == {"refresh": KEY}
        self.answer(b'{"access": "short-lived"}' if known else b"{}", 200 if known else 401)

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        place = urlsplit(self.path)
        if place.path == "/signed/photo.png":
            assert "Authorization" not in self.headers or self.headers["Host"].startswith("127.0.0.1")
            return self.answer(file_of(scene()))
        if self.headers.get("Authorization") != "Bearer short-lived":
            return self.answer(b"{}", 401)
        if place.path == "/api/projects/7/":
            return self.answer(json.dumps({"label_config": INTERFACE}).encode())
        if place.path == "/api/tasks":
            return self.answer(json.dumps({"tasks": self.server.tasks}).encode())
        if place.path == "/tasks/3/resolve/":
            (name,) = parse_qs(place.query)["fileuri"]
            assert base64.urlsafe_b64decode(name) == b"s3://bucket/photo.png"
            return self.answer(b"", 302, Location=f"{self.server.url}/signed/photo.png")
        content = self.server.files.get(place.path)
        return self.answer(content or b"", 200 if content else 404)


@pytest.fixture
def studio() -> Iterator[Studio]:
    studio = Studio()
    yield studio
    studio.shutdown()
    studio.server_close()


def started(studio: Studio, store: Path, key: str = KEY) -> TestClient:
    plan = Plan(MODELS, store, Address(token=TOKEN), label_studio=Access(studio.url, key))
    return Client(application(plan), base_url="http://127.0.0.1", headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.fixture
def backend(studio: Studio, tmp_path: Path) -> Iterator[TestClient]:
    with started(studio, tmp_path) as client:
        yield client


def connect(backend: TestClient) -> str:
    call = {"project": "7.1700000000", "schema": INTERFACE, "hostname": "http://evil.example", "access_token": "x"}
    answer = backend.post("/label-studio/setup", json=call)
    assert answer.status_code == 200, answer.text
    return answer.json()["model_version"]


def predict(backend: TestClient, address: str = "/data/upload/1/b.png", task: int = 2) -> Any:
    task_sent = {"id": task, "data": {"image": address}, "annotations": [], "project": 7}
    call = {"tasks": [task_sent], "project": "7.1700000000", "label_config": INTERFACE, "params": {"context": None}}
    return backend.post("/label-studio/predict", json=call)


def changed(backend: TestClient, action: str = "ANNOTATION_UPDATED") -> None:
    answer = backend.post("/label-studio/webhook", json={"action": action, "project": {"id": 7, "title": "x"}})
    assert answer.status_code == 200


def until(ready: Callable[[], Any]) -> None:
    end = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.05)


def references(backend: TestClient) -> list[tuple[str, int]]:
    listed = backend.get("/v1/references").json()["references"]
    return sorted((each["label"], each["supports"]) for each in listed)


def test_what_is_annotated_is_found_in_other_tasks(studio: Studio, backend: TestClient):
    studio.annotate(1)
    assert "nothing learnt yet" in connect(backend)
    answer = predict(backend)
    assert answer.status_code == 200, answer.text
    ((region,),) = [prediction["result"] for prediction in answer.json()["results"]]
    assert (region["from_name"], region["to_name"], region["value"]["brushlabels"]) == ("brush", "image", ["red"])
    assert iou(unbrush(region["value"]["rle"], 90, 120), marked(ELSEWHERE)) > 0.8
    assert answer.json()["results"][0]["score"] == region["score"] > 0.5
    assert answer.json()["model_version"] == connect(backend)


def test_changes_are_learnt_and_the_version_tells(studio: Studio, backend: TestClient):
    studio.annotate(1)
    connect(backend)
    until(lambda: references(backend) == [("red", 1)])
    first = connect(backend)
    studio.annotate(4, "blue")
    studio.annotate(5)
    changed(backend, "ANNOTATION_CREATED")
    until(lambda: references(backend) == [("blue", 1), ("red", 2)])
    second = connect(backend)
    studio.tasks.clear()
    changed(backend, "ANNOTATIONS_DELETED")
    until(lambda: references(backend) == [])
    assert len({first, second, connect(backend)}) == 3
    answer = predict(backend)
    assert answer.status_code == 409 and "annotate a task first" in answer.text


def test_only_what_changed_is_learnt_anew_also_after_a_restart(studio: Studio, tmp_path: Path):
    studio.annotate(1)
    with started(studio, tmp_path) as backend:
        connect(backend)
        until(lambda: references(backend) == [("red", 1)])
        version = connect(backend)
    (file,) = tmp_path.glob("ls-7-*.safetensors")
    before = file.stat().st_mtime_ns
    with started(studio, tmp_path) as backend:
        assert connect(backend) == version
        assert predict(backend).status_code == 200
        assert file.stat().st_mtime_ns == before
        studio.annotate(1, changed="2")
        changed(backend)
        until(lambda: file.stat().st_mtime_ns != before)


def test_cancelled_and_older_annotations_do_not_count(studio: Studio, backend: TestClient):
    studio.annotate(1)
    (task,) = studio.tasks
    older = {**task["annotations"][0], "id": 11, "updated_at": "0"}
    older["result"] = regions("brushlabels", "blue", marked(), 1.0, ("brush", "image"))
    cancelled = {**older, "id": 12, "updated_at": "9", "was_cancelled": True}
    task["annotations"] += [older, cancelled]
    connect(backend)
    until(lambda: references(backend) == [("red", 1)])


def test_a_photo_that_cannot_be_used_spoils_nothing_else(studio: Studio, backend: TestClient):
    studio.annotate(1)
    studio.annotate(2, address="/data/upload/1/bad.png")
    studio.annotate(3, address="/data/upload/1/gone.png")
    connect(backend)
    until(lambda: references(backend) == [("red", 1)])
    answer = predict(backend, "/data/upload/1/bad.png")
    assert answer.json()["results"][0]["result"] == []


@pytest.mark.parametrize(
    "address",
    ["/data/local-files/?d=images/a.png", "upload/1/b.png", "/data/upload/1/b.png", "s3://bucket/photo.png"],
)
def test_uploads_local_files_and_clouds_are_read_through_label_studio(studio, backend, address: str):
    studio.annotate(1)
    connect(backend)
    assert predict(backend, address, task=3).json()["results"][0]["result"]


@pytest.mark.parametrize(
    "address",
    [
        "/api/users/", "/data/../api/users/", "/data/%2e%2e/api/users/", "//127.0.0.1:1/data/a.png", "file:///etc/passwd",
        "http://169.254.169.254/latest/", "http://127.0.0.1:1/data/a.png", "/etc/passwd", "", "ftp://x/y",
        "http://user@127.0.0.1:1/data/upload/1/a.png",
    ],
)  # fmt: skip
def test_nothing_else_is_fetched(studio: Studio, backend: TestClient, address: str):
    studio.annotate(1)
    connect(backend)
    until(lambda: references(backend) == [("red", 1)])
    before = list(studio.asked)
    assert predict(backend, address).json()["results"][0]["result"] == []
    assert [path for path in studio.asked[len(before) :] if not path.startswith("/api/projects")] == []


def test_the_webhook_needs_no_token_and_believes_nothing(studio: Studio, backend: TestClient):
    studio.annotate(1)
    connect(backend)
    until(lambda: references(backend) == [("red", 1)])
    bare = TestClient(backend.app, base_url="http://127.0.0.1")
    forged = {"action": "ANNOTATION_CREATED", "project": {"id": 99}, "annotation": {"result": "x"}}
    assert bare.post("/label-studio/webhook", json=forged).status_code == 200
    assert bare.post("/label-studio/predict", json={}).status_code == 401
    assert bare.post("/label-studio/setup", json={}).status_code == 401
    asked = len(studio.asked)
    time.sleep(0.2)
    assert len(studio.asked) == asked and references(backend) == [("red", 1)]


def test_what_failed_is_tried_again_by_the_next_call(studio: Studio, backend: TestClient):
    studio.annotate(1)
    config = "/api/projects/7/"
    connect(backend)
    until(lambda: references(backend) == [("red", 1)])
    studio.annotate(1, changed="2")
    studio.tasks[0]["annotations"] = "nonsense"
    changed(backend)
    until(lambda: studio.asked.count(config) == 2)
    studio.annotate(1, "blue", changed="3")
    until(lambda: connect(backend) and references(backend) == [("blue", 1)])


def test_a_wrong_key_is_told_when_predicting(studio: Studio, tmp_path: Path):
    with started(studio, tmp_path, key="x.y.z") as backend:
        connect(backend)
        assert "does not take the token" in predict(backend).text


@pytest.mark.parametrize(("url", "key"), [("label.example.org", KEY), ("ftp://x", KEY), ("http://x", "")])
def test_how_to_reach_label_studio_is_checked(url: str, key: str):
    with pytest.raises(ValueError, match=r"no address of Label Studio|token is missing"):
        Access(url, key)


def test_projects_that_are_none(backend: TestClient):
    for project in ("x", "", "-1", "9" * 50):
        answer = backend.post("/label-studio/setup", json={"project": project, "schema": INTERFACE})
        assert answer.status_code == 422
    assert np.all([backend.post("/label-studio/setup", json={"project": "7", "schema": "<View/>"}).status_code == 422])
