"""A real Label Studio, in a process of its own: one task is annotated, and the others are pre-annotated.

Needs PRMAGIC_LABEL_STUDIO, the command `label-studio` of a virtual environment of its own (`make test-integrations`).
PRMAGIC_LABEL_STUDIO_PICTURE names a file for a screenshot, which needs Chromium.
"""

from __future__ import annotations

import io
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from prmagic.demo import cases
from prmagic.io.formats.label_studio import regions, unbrush

COMMAND = os.environ.get("PRMAGIC_LABEL_STUDIO")
PICTURE = os.environ.get("PRMAGIC_LABEL_STUDIO_PICTURE")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(COMMAND is None, reason="needs PRMAGIC_LABEL_STUDIO")]

PATIENCE = 600.0
EMAIL, PASSWORD = "someone@example.org", "a-long-password-1"
TOKEN = "a-token-for-the-tests"
INTERFACE = """
<View>
  <Image name="photo" value="$picture"/>
  <BrushLabels name="brush" toName="photo"><Label value="coin"/><Label value="cat &amp; co" background="red"/></BrushLabels>
  <PolygonLabels name="outline" toName="photo"><Label value="cup"/></PolygonLabels>
  <RectangleLabels name="box" toName="photo"><Label value="rocket"/></RectangleLabels>
</View>
"""  # noqa: E501


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(ready: Callable[[], Any], what: str) -> Any:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            if value := ready():
                return value
        except httpx.HTTPError:
            pass
        time.sleep(0.3)
    raise AssertionError(f"{what} did not happen in {PATIENCE:.0f} s")


@contextmanager
def running(command: list[str], log: Path, **environment: str) -> Iterator[None]:
    with log.open("w") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **environment}, cwd=log.parent
        )
        try:
            yield
        finally:
            process.kill()
            process.wait()


class Studio:
    """Label Studio through its API, as somebody who has logged in."""

    def __init__(self, url: str):
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=PATIENCE, trust_env=False, follow_redirects=True)

    def log_in(self) -> str:
        """Give a personal access token."""
        page = self.client.get("/user/login/").text
        secret = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
        assert secret
        form = {"email": EMAIL, "password": PASSWORD, "csrfmiddlewaretoken": secret[1]}
        self.client.post("/user/login/", data=form, headers={"Referer": self.url})
        return str(self.send("POST", "/api/token/")["token"])

    def send(self, method: str, path: str, **more: Any) -> Any:
        headers = {"X-CSRFToken": self.client.cookies.get("csrftoken", ""), "Referer": self.url}
        answer = self.client.request(method, path, headers=headers, **more)
        assert answer.status_code < 300, f"{path}: {answer.status_code} {answer.text[:2000]}"
        return answer.json() if answer.content else None

    def predictions(self, project: int) -> dict[int, list[dict[str, Any]]]:
        tasks = self.send("GET", f"/api/tasks?project={project}&fields=all&page_size=100")["tasks"]
        return {task["id"]: task["predictions"] for task in tasks}


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    folder, port = tmp_path_factory.mktemp("label-studio"), free_port()
    command = [
        str(COMMAND), "start", "--no-browser", "--port", str(port), "--internal-host", "127.0.0.1",
        "--data-dir", str(folder), "--username", EMAIL, "--password", PASSWORD,
    ]  # fmt: skip
    settings = {
        "ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false", "ML_TIMEOUT_PREDICT": str(PATIENCE),
        "HOST": f"http://127.0.0.1:{port}", "DJANGO_DB": "sqlite", "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
    }  # fmt: skip
    with running(command, folder / "log.txt", **settings):
        studio = Studio(f"http://127.0.0.1:{port}")
        until(lambda: studio.client.get("/health").status_code == 200, "Label Studio's start")
        yield studio


@pytest.fixture(scope="module")
def backend(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address for Label Studio."""
    folder, port = tmp_path_factory.mktemp("backend"), free_port()
    command = [
        sys.executable, "-m", "prmagic", "serve", "--port", str(port), "--store", str(folder / "references"),
        "--token", TOKEN, "--label-studio", studio.url, "--instances",
    ]  # fmt: skip
    with running(command, folder / "log.txt", LABEL_STUDIO_API_KEY=studio.log_in()):
        url = f"http://127.0.0.1:{port}"
        until(lambda: httpx.get(f"{url}/health", trust_env=False).status_code == 200, "the backend's start")
        yield f"{url}/label-studio"
        print((folder / "log.txt").read_text())


def photos() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Photos with what is marked in them, or is to be found."""
    case = {case.name: case for case in cases()}
    found = {}
    for name in ("coins", "cat", "cup", "rocket"):
        found[f"{name} support"] = case[name].support, case[name].support_mask
        found[f"{name} query"] = case[name].query, case[name].truth
    return found


LABELS = {"coins": "coin", "cat": "cat & co", "cup": "cup", "rocket": "rocket"}
KINDS = {"coins": "brushlabels", "cat": "brushlabels", "cup": "polygonlabels", "rocket": "rectanglelabels"}
CONTROLS = {"brushlabels": "brush", "polygonlabels": "outline", "rectanglelabels": "box"}


def test_one_annotation_pre_annotates_the_others(studio: Studio, backend: str):
    project = studio.send("POST", "/api/projects/", json={"title": "prmagic", "label_config": INTERFACE})["id"]
    tasks: dict[str, int] = {}
    for name, (image, _) in photos().items():
        # One photo is stored lying on its side, with a tag that turns it upright.
        exif = Image.Exif()
        exif[0x0112] = 6 if name == "cat support" else 1
        stored = np.rot90(image) if name == "cat support" else image
        with io.BytesIO() as file:
            Image.fromarray(np.ascontiguousarray(stored)).save(file, "JPEG", quality=95, exif=exif)
            upload = {"file": (f"{name}.jpg".replace(" ", "_"), file.getvalue(), "image/jpeg")}
        studio.send("POST", f"/api/projects/{project}/import", files=upload)
        listed = studio.send("GET", f"/api/tasks?project={project}&page_size=100")["tasks"]
        (tasks[name],) = {task["id"] for task in listed} - set(tasks.values())
    connection = {
        "url": backend, "project": project, "title": "prmagic", "auth_method": "BASIC_AUTH",
        "basic_auth_user": "anybody", "basic_auth_pass": "wrong",
    }  # fmt: skip
    headers = {"X-CSRFToken": studio.client.cookies.get("csrftoken", ""), "Referer": studio.url}
    refused = studio.client.post("/api/ml/", json={**connection}, headers=headers)
    assert refused.status_code == 400
    made = studio.send("POST", "/api/ml/", json={**connection, "basic_auth_pass": TOKEN})
    assert made["readable_state"] == "Connected"

    for name, label in LABELS.items():
        image, mask = photos()[f"{name} support"]
        kind = KINDS[name]
        marked = regions(kind, label, mask, 1.0, (CONTROLS[kind], "photo"))
        result = [{"id": f"r{number}", **region} for number, region in enumerate(marked)]
        studio.send("POST", f"/api/tasks/{tasks[f'{name} support']}/annotations/", json={"result": result})

    until(lambda: references(backend).count('"fits":true') == len(LABELS), "the learning")
    queries = [tasks[f"{name} query"] for name in LABELS]
    selected = {"selectedItems": {"all": False, "included": queries}, "project": project}
    studio.send("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", json=selected)
    predictions = studio.predictions(project)
    for name, label in LABELS.items():
        (prediction,) = predictions[tasks[f"{name} query"]]
        expected = photos()[f"{name} query"][1]
        own = [region for region in prediction["result"] if label in region["value"][region["type"]]]
        assert own, f"{name}: {[(r['type'], r['value'].get(r['type'])) for r in prediction['result']]}"
        assert {region["type"] for region in own} == {KINDS[name]}
        assert {(region["original_height"], region["original_width"]) for region in own} == {expected.shape}
        assert prediction["model_version"].startswith("prmagic ") and 0 < prediction["score"] <= 1
        if KINDS[name] == "brushlabels":
            found = np.any([unbrush(region["value"]["rle"], *expected.shape) for region in own], axis=0)
            inside = (found & expected).sum() / found.sum()
            print(f"{name}: {len(own)} regions, {inside:.2f} of their pixels on it, score {prediction['score']:.2f}")
            assert inside > 0.5

    before = predictions[queries[0]][0]["model_version"]
    annotated = studio.send("GET", f"/api/tasks/{tasks['cup support']}/annotations/")
    studio.send("DELETE", f"/api/annotations/{annotated[0]['id']}/")
    until(lambda: '"label":"cup"' not in references(backend), "forgetting")
    studio.send("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", json=selected)
    latest = studio.predictions(project)[queries[0]][-1]
    assert latest["model_version"] != before


@pytest.mark.skipif(PICTURE is None, reason="needs PRMAGIC_LABEL_STUDIO_PICTURE")
def test_a_picture_of_it(studio: Studio, backend: str):
    config = (
        '<View><Image name="photo" value="$picture"/><BrushLabels name="brush" toName="photo">'
        '<Label value="coin" background="#0072b2"/></BrushLabels></View>'
    )
    project = studio.send("POST", "/api/projects/", json={"title": "Coins", "label_config": config})["id"]
    for name in ("coins support", "coins query"):
        with io.BytesIO() as file:
            Image.fromarray(photos()[name][0]).save(file, "PNG")
            upload = {"file": (f"{name}.png".replace(" ", "_"), file.getvalue(), "image/png")}
        studio.send("POST", f"/api/projects/{project}/import", files=upload)
    support, query = sorted(studio.predictions(project))
    connection = {"url": backend, "project": project, "title": "prmagic", "auth_method": "BASIC_AUTH"}
    studio.send("POST", "/api/ml/", json={**connection, "basic_auth_user": "anybody", "basic_auth_pass": TOKEN})
    (region,) = regions("brushlabels", "coin", photos()["coins support"][1], 1.0, ("brush", "photo"))
    studio.send("POST", f"/api/tasks/{support}/annotations/", json={"result": [{"id": "one", **region}]})
    until(lambda: f"ls-{project}-" in references(backend), "the learning")
    selected = {"selectedItems": {"all": False, "included": [query]}, "project": project}
    studio.send("POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}", json=selected)
    assert studio.predictions(project)[query][0]["result"]
    take_picture(studio, project, query, Path(str(PICTURE)))


def references(backend: str) -> str:
    return httpx.get(f"{backend}/../v1/references", headers={"Token": TOKEN}, trust_env=False).text


def take_picture(studio: Studio, project: int, task: int, file: Path) -> None:
    from playwright.sync_api import sync_playwright
    from web_page import CHROMIUM, FLAGS

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 720})
        page.goto(f"{studio.url}/user/login/")
        page.fill("input[name=email]", EMAIL)
        page.fill("input[name=password]", PASSWORD)
        page.click("button[type=submit]")
        page.goto(f"{studio.url}/projects/{project}/data?task={task}")
        page.wait_for_selector("canvas", timeout=PATIENCE * 1000)
        page.wait_for_timeout(5000)
        page.screenshot(path=file)
        browser.close()
