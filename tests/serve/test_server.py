"""The command itself, in a process of its own: binding, kill -9 and restart, an orderly end, a full queue."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from command_line import flat, run
from http_server import file_of, marked, scene, sent

import prmagic

pytestmark = pytest.mark.slow
PATIENCE = 120.0


@contextmanager
def serving(*args: object, store: Path) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    command = [sys.executable, "-m", "prmagic", "serve", "--port", "0", "--store", *map(str, (store, *args))]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        url = re.search(r"http://[\d.:]+/", line)
        assert url, line + process.stderr.read()
        with httpx.Client(base_url=url[0], timeout=PATIENCE, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def learn(client: httpx.Client) -> str:
    asked = {"label": "red", "supports": [{"photo": sent(scene()), "mask": sent(marked())}]}
    answer = client.post("/v1/references", json=asked)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def find(client: httpx.Client, name: str, photos: int = 1) -> httpx.Response:
    return client.post("/v1/segment", json={"photos": [sent(scene())] * photos, "references": [name]})


def test_references_survive_a_kill_and_fit_the_command_line(tmp_path: Path):
    store = tmp_path / "references"
    with serving(store=store) as (process, client):
        name = learn(client)
        before = find(client, name).json()
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.wait(PATIENCE)
    with serving(store=store) as (_, client):
        assert [each["id"] for each in client.get("/v1/references").json()["references"]] == [name]
        assert find(client, name).json() == before
    reference = prmagic.Reference.load(store / f"{name}.safetensors")
    mask = prmagic.load("persam-f").segment(file_of(scene()), reference).mask
    assert mask.sum() == before["photos"][0]["masks"][0]["area"]


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process at once")
def test_an_orderly_end_answers_what_it_has(tmp_path: Path):
    with serving(store=tmp_path) as (process, client):
        name = learn(client)
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(find(client, name, photos=10)))
        asking.start()
        while "prmagic_waiting_requests 0.0" in httpx.get(f"{client.base_url}metrics", trust_env=False).text:
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        asking.join(PATIENCE)
        assert [answer.status_code for answer in answers] == [200]
        assert len(answers[0].json()["photos"]) == 10
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None and "Traceback" not in process.stderr.read()


def test_a_full_queue_is_503_with_retry_after(tmp_path: Path):
    with serving("--queue", "1", store=tmp_path) as (_, client):
        name = learn(client)
        answers: list[httpx.Response] = []
        threads = [threading.Thread(target=lambda: answers.append(find(client, name, photos=4))) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        statuses = sorted(answer.status_code for answer in answers)
        assert statuses.count(200) >= 2 and statuses.count(503) >= 1 and set(statuses) == {200, 503}
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert int(refused.headers["retry-after"]) >= 1 and "wait already" in refused.text


def test_a_request_that_takes_too_long_is_504(tmp_path: Path):
    support = prmagic.Support(file_of(scene()), file_of(marked()))
    prmagic.load("persam-f").encode_support(support, "red").save(tmp_path / "red.safetensors")
    with serving("--timeout", "2", store=tmp_path) as (_, client):
        assert find(client, "red", photos=64).status_code == 504
        assert client.get("/health").status_code == 200


def test_the_ten_lines_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    page = (Path(__file__).parents[2] / "docs" / "serve.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len([line for line in lines.splitlines() if line]) <= 10
    (tmp_path / "photos").mkdir()
    for name, content in (("cat.jpg", scene()), ("cat_mask.png", marked()), ("photos/photo.jpg", scene())):
        (tmp_path / name).write_bytes(file_of(content))
    monkeypatch.chdir(tmp_path)
    with serving(store=tmp_path / "references") as (_, client):
        names: dict[str, Any] = {}
        exec(lines.replace("http://127.0.0.1:8000", str(client.base_url)), names)
        names["server"].close()
    assert capsys.readouterr().out.startswith("cat 0.")


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--host", "0.0.0.0"), "set a --token"),
        (("--token", "short"), "16 or more"),
        (("--root", "nowhere"), "--root nowhere is not a folder"),
        (("--sam", "nowhere"), "nowhere"),
        (("--store", ""), "--store is empty"),
    ],
)
def test_what_cannot_be_served_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args, told: str):
    monkeypatch.chdir(tmp_path)
    result = run("serve", *args)
    assert result.exit_code == 2 and told in flat(result.output)
