"""What strangers send: files they never uploaded, values of the wrong kind, other pages, odd addresses."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from app_client import Client, described
from PIL import Image

SECRET = "THE CONTENT OF A FILE OF THE SERVER"


@pytest.fixture
def client(server) -> Client:
    return Client(server["url"])


@pytest.fixture(scope="session")
def secret(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "secret.txt"
    file.write_text(SECRET)
    return file


def quiet(said: str, server) -> None:
    """Neither what was sent nor where the server keeps things is told."""
    for word in (SECRET, "secret.txt", "/etc", str(server["folder"]), "Traceback", "root:"):
        assert word not in said, said


def test_no_input_of_any_event_takes_a_file_of_the_server(client, server, secret):
    payload = described(str(secret))
    tried = 0
    for event in client.events():
        values = client.values(event)
        for position in range(len(values)):
            for hostile in (payload, [payload], str(secret)):
                sent = copy.deepcopy(values)
                sent[position] = hostile
                quiet(client.send(event, sent, {"key": "0", "tool": "undo"}), server)
                tried += 1
        for data in (payload, {"key": payload}, {"tool": payload, "points": [[1, 1]]}, {"key": str(secret)}):
            quiet(client.send(event, values, data), server)
    assert tried > 200
    assert secret.is_file()
    assert not list(server["folder"].rglob("secret*"))


def test_files_are_served_from_the_visitors_own_folder_only(client, server, secret):
    for path in (
        f"/gradio_api/file={secret}", f"/file={secret}", f"/gradio_api/file/{secret}", "/gradio_api/proxy=http://x/",
        "/gradio_api/info", "/gradio_api/openapi.json", "/gradio_api/stream/a/b/c/playlist.m3u8", "/static/../../x",
        "/gradio_api/queue/status", "/monitoring", "/gradio_api/vibe-code", "/gradio_api/custom_component/a/b/c/d",
    ):  # fmt: skip
        answer = client.get(path)
        assert answer.status in (403, 404), path
        quiet(answer.text, server)
    for path in ("/gradio_api/component_server", "/gradio_api/call/x", "/gradio_api/run/x", "/gradio_api/cancel",
                 "/gradio_api/process_recording", "/login", "/gradio_api/stream/x"):  # fmt: skip
        assert client.request("POST", path, b"{}").status == 404, path
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert client.request(method, "/").status == 404


def test_what_an_event_lacks_or_has_too_much_is_refused(client):
    for event in client.events():
        for values in ([], [None] * 50, {}, "x", None):
            if values == [] and not event["inputs"]:
                continue
            assert client.send(event, values).startswith("422")
    assert client.do("stop", "click", []).count("process_completed") == 1  # it still answers


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"null", b"[]", b'{"data": [NaN]}', b"[" * 100_000, b"\xff\xfe", b'{"session_hash": "../x"}',
        b'{"session_hash": "abcdef", "fn_index": 1e9, "data": []}',
        b'{"session_hash": "abcdef", "fn_index": true, "data": []}',
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused(client, content):
    answer = client.join(content)
    assert answer.status in (400, 422)
    assert len(answer.text) < 100
    assert client.join(b'{"a": "' + b"x" * 3_000_000 + b'"}').status == 413


def test_other_hosts_and_origins_are_refused(client):
    stop = client.event("stop", "click")
    body = {"data": [], "fn_index": stop["id"], "session_hash": client.session}
    here = f"{client.host}:{client.port}"
    no_hosts = (
        "user@127.0.0.1",
        "127.0.0.1/x",
        "127.0.0.1:x",
        "127.0.0.1:7860:7860",
        "127.0.0.1?",
        "[::1",
        "",
        "a" * 5000,
    )
    for host in ("evil.example", "evil.example:7860", "127.0.0.1.evil.example", "10.0.0.1", *no_hosts):
        assert client.get("/", Host=host).status == 400, host
        assert client.join(body, Host=host).status == 400
        assert client.upload(("a.jpg", b"x"), Host=host).status == 400
        forwarded = {"X-Forwarded-Host": f"{here}, {host}"}  # Gradio builds addresses from it
        assert client.get("/config", **forwarded).status == 400, host
        assert client.join(body, **forwarded).status == 400
    foreign = ("http://evil.example", "null", "http://127.0.0.1:1", f"http://{here}.evil.example", "file://")
    for origin in (*foreign, "http://[::1", "http://a]b", f"foo://{here}", f"http://{here}/", here, ""):
        assert client.join(body, Origin=origin).status == 403, origin
        assert client.upload(("a.jpg", b"x"), Origin=origin).status == 403
        assert "access-control-allow-origin" not in client.get("/config", Origin=origin).headers
    assert client.join(body, **{"Sec-Fetch-Site": "cross-site"}).status == 403
    assert client.join(body, Origin=f"http://{here}", Host=here).status == 200
    assert client.get("/", Host=f"localhost:{client.port}").status == 200
    assert client.get("/", **{"X-Forwarded-Host": here}).status == 200
    assert client.get("/gradio_api/queue/data?session_hash=nothing-asked").status == 404


def test_more_names_are_trusted_where_the_server_was_told():
    from prmagic.serve.hosts import Hosts

    hosts = Hosts("0.0.0.0", ["Label.example"])
    for name in ("label.example", "LABEL.example:443", "192.168.1.7:7860", "[fe80::1]:7860", "localhost"):
        assert hosts.trusts(name), name
    for name in ("evil.example", "label.example.evil", "", "0x7f.1.evil"):
        assert not hosts.trusts(name), name
    assert hosts.is_own("https://label.example", "127.0.0.1:7860")  # a proxy's
    assert not hosts.is_own("https://evil.example", "127.0.0.1:7860")
    assert not Hosts("127.0.0.1").trusts("192.168.1.7")


@pytest.mark.parametrize(
    "address",
    [
        b"/%00", b"/visitors/%00/files/x", b"/visitors/%C3%A9/files/x", b"/visitors/x/files/%FF%FE", b"/\xff",
        b"/visitors/x/results.zip", b"/visitors/x/coco.zip", b"/" + b"a" * 60_000,
        b"/visitors/" + b"a" * 3000,
        b"/gradio_api/queue/data?session_hash=%00", b"/gradio_api/queue/data", b"/gradio_api/heartbeat/%0d%0a",
        b"/gradio_api/heartbeat/" + b"x" * 1000, b"/theme.css/%2e%2e/%2e%2e/etc/passwd", b"/assets/..%2f..%2fx",
        b"/config?x=" + b"y" * 9000, b"//evil.example/", b"/gradio_api/upload_progress?upload_id=%00%00",
    ],
)  # fmt: skip
def test_no_address_breaks_the_server(client, address):
    assert client.raw(address) < 500
    assert client.get("/theme.css").status == 200


def photo(seed: int = 0) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (60, 80, 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_an_upload_belongs_to_the_browser_that_sent_it_and_is_used_once(server):
    mine, other, plain = Client(server["url"], "a" * 32), Client(server["url"], "b" * 32), Client(server["url"])
    file = mine.file("mine.png", photo())
    for foreign in (other, plain):
        assert foreign.do("query-photos", "upload", [[file]]).startswith("422")
    assert "Ready: 1 photo." in mine.do("query-photos", "upload", [[file]])
    assert mine.do("query-photos", "upload", [[file]]).startswith("422")
    for guess in ("", "x", "../visitors", file["path"][:-1]):
        assert mine.do("query-photos", "upload", [[described(guess)]]).startswith("422")


def test_two_visitors_upload_the_same_file(server):
    first, second = Client(server["url"]), Client(server["url"])
    files = [client.file("same.png", photo(1)) for client in (first, second)]
    assert files[0]["path"] != files[1]["path"]
    for client, file in zip((first, second), files, strict=True):
        assert "Ready: 1 photo." in client.do("query-photos", "upload", [[file]])


def test_a_session_of_another_browser_is_closed(server):
    mine = Client(server["url"], "a" * 32)
    assert "Ready: 1 photo." in mine.do("query-photos", "upload", [[mine.file("mine.png", photo())]])
    for thief in (Client(server["url"], "b" * 32), Client(server["url"])):
        thief.session = mine.session
        assert thief.do("clear-photos", "click", []).startswith("403")
        assert thief.get(f"/gradio_api/queue/data?session_hash={mine.session}").status == 403
        assert thief.get(f"/gradio_api/heartbeat/{mine.session}").status == 403
    assert "mine.png" in mine.do("stop", "click", [])


def test_the_browsers_secret_is_not_for_scripts_or_other_pages(client):
    cookie = client.get("/").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "set-cookie" not in client.get("/config").headers


def test_an_unreadable_photo_among_several_does_not_block_the_page(client):
    files = [client.file("good.png", photo()), client.file("bad.jpg", b"<html>"), client.file("x.dng", b"?")]
    said = client.do("example-photos", "upload", [files])
    assert "bad.jpg is not an image" in said
    assert ".dng files cannot be read here" in said
    click = {"tool": "add", "points": [[30, 30]]}
    assert "good.png" in client.do("canvas", "edit", [], click)


def test_a_hundred_joins_without_a_browser_lock_nobody_out(server):
    passing = Client(server["url"])
    stop = passing.event("stop", "click")
    for number in range(105):
        body = {"data": [], "fn_index": stop["id"], "session_hash": f"passing{number}"}
        assert passing.join(body).status == 200
    real = Client(server["url"])
    assert "Ready: 1 photo." in real.do("query-photos", "upload", [[real.file("a.png", photo())]])


def test_one_tab_cannot_fill_the_queue(server, folder):
    busy = Client(server["url"])
    photo_file = busy.file("cat.jpg", (folder / "cat.jpg").read_bytes())
    busy.do("example-photos", "upload", [[photo_file]])
    click = {"tool": "add", "points": [[30, 30]]}
    edit = {
        "data": [],
        "fn_index": busy.event("canvas", "edit")["id"],
        "session_hash": busy.session,
        "event_data": click,
    }
    answers = [busy.join(edit).status for _ in range(60)]
    assert answers.count(200) >= 20
    assert 429 in answers
    other = Client(server["url"])
    assert other.do("stop", "click", []).count("process_completed") == 1


def test_uploads_that_are_too_large_leave_nothing(client, server):
    uploads = next(server["folder"].glob("prmagic-app-*")) / "uploads"
    before = set(uploads.iterdir())
    answer = client.upload(("big.png", b"x" * 3_100_000), ("small.png", b"x"))
    assert answer.status == 413
    assert set(uploads.iterdir()) == before
    assert client.request("POST", "/gradio_api/upload", b"x", {"Content-Type": "multipart/form-data"}).status == 400
    assert client.upload().json() == []


def test_downloads_hold_what_tools_import(client, server, folder):
    example = client.file("cat.jpg", (folder / "cat.jpg").read_bytes())
    client.do("example-photos", "upload", [[example]])
    client.do("mask-file", "upload", [client.file("m.png", (folder / "cat_mask.png").read_bytes())])
    assert "Added" in client.do("add-example", "click", ["cat"])
    client.do("query-photos", "upload", [[client.file("cup.png", (folder / "photos" / "cup.png").read_bytes())]])
    said = client.do("start", "click", [])
    assert "Done: 1 result" in said
    token = said.partition("visitors/")[2].partition("/")[0]
    wanted = {
        "results": "run.json", "coco": "annotations/instances_default.json", "yolo-seg": "labels/cup.txt",
        "label-studio": "tasks.json", "masks": "SegmentationClass/cup.png",
    }  # fmt: skip
    for kind, name in wanted.items():
        answer = client.get(f"/visitors/{token}/{kind}.zip")
        assert name in zipfile.ZipFile(io.BytesIO(answer.body)).namelist()
    assert client.get(f"/visitors/{token}/other.zip").status == 404
    assert json.loads(zipfile.ZipFile(io.BytesIO(client.get(f"/visitors/{token}/results.zip").body)).read(
        "results.jsonl"))["query"] == "cup.png"  # fmt: skip
