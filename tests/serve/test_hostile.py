"""What no request may do, and what it gets instead."""

from __future__ import annotations

import base64
import io
import json
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
from http_server import OUTLINE, Client, file_of, marked, scene, sent, started
from PIL import Image

PHOTO = sent(scene())


def bomb(side: int = 30_000) -> bytes:
    """A PNG of side × side black pixels in a few kilobytes of promises."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return len(content).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")

    head = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def segment(**more):
    return {"photos": [PHOTO], "supports": [{"photo": PHOTO, "polygons": [OUTLINE]}], **more}


def support(**more):
    return {"supports": [{"photo": PHOTO, **more}]}


@pytest.mark.parametrize(
    ("path", "body", "told"),
    [
        ("/v1/references", support(polygons=[OUTLINE] * 10_000), "polygons: List should have at most 1000 items"),
        ("/v1/references", support(polygons=[[0, 0] * 20_000]), "at most 20000 items"),
        ("/v1/references", support(polygons=[[0, 0, 1e300, 0, 5, 5]]), "less than or equal to 1000000"),
        ("/v1/references", support(polygons=[[0, 0, 9e5, 0, 5, 5]]), "far outside its photo of 120 × 90"),
        ("/v1/references", support(polygons=[]), "nothing is marked"),
        ("/v1/references", support(polygons=[[1, 1, 2]]), "an even count is needed"),
        ("/v1/references", support(rle={"size": [90, 120], "counts": "zz~~"}), "damaged"),
        ("/v1/references", support(rle={"size": [90000, 120000], "counts": [1]}), "for a photo of 120000 × 90000"),
        ("/v1/references", support(rle={"size": [90, 120], "counts": [10**30]}), "damaged"),
        ("/v1/references", support(box=[200, 200, 300, 300]), "no pixel of the photo"),
        ("/v1/references", support(mask=sent(marked(size=(91, 120)))), "a mask needs its image's size"),
        ("/v1/references", support(mask=sent(bomb())), "the limit is 64,000,000"),
        ("/v1/references", support(mask=PHOTO, box=[0, 0, 9, 9]), "give one of mask, polygons, rle and box"),
        ("/v1/references", {"supports": []}, "at least 1 item"),
        ("/v1/references", {"label": "a\x00b", **support(polygons=[OUTLINE])}, "label: must not hold line breaks"),
        ("/v1/segment", segment(photos=[sent(bomb())]), "photos[0]: "),
        ("/v1/segment", segment(photos=[PHOTO] * 65), "at most 64 items"),
        ("/v1/segment", segment(photos=[{"data": "%%%"}]), "photos[0].data: must be base64"),
        ("/v1/segment", segment(photos=[{"data": ""}]), "photos[0]: the image data is empty"),
        ("/v1/segment", segment(photos=[PHOTO, sent(b"%PDF-1.7 not a photo")]), "photos[1]: "),
        ("/v1/segment", segment(photos=[{"url": "http://169.254.169.254/"}]), "photos[0].url: there is no such field"),
        ("/v1/segment", segment(references=["../../etc/passwd"], supports=[]), "not the id of a reference"),
        ("/v1/segment", segment(photos=["a.jpg"]), "photos[0]: must be a JSON object"),
        ("/v1/segment", segment(lable="cat"), "lable: there is no such field"),
        ("/v1/segment", ["a.jpg"], "the request must be a JSON object, with the header Content-Type: application/json"),
        ("/v1/segment", segment(output="exe"), "output"),
        ("/v1/segment", segment(settings={"x" * 10_000: 1}), "settings"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_sentence(client: Client, path: str, body, told: str):
    answer = client.post(path, json=body)
    assert answer.status_code in (404, 422), answer.text
    assert told in answer.json()["detail"] and len(answer.text) < 700


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"photos": [{"data": ' + b'"' + b"A" * (5 << 20) + b'"}]}', 413),
        (b"[" * 500_000, 400),
        (b'{"a":' * 100_000, 400),
        (b'{"supports": [{"photo": {"data": ""}, "polygons": [[NaN, Infinity, -Infinity, 1, 2, 3]]}]}', 422),
        (b'{"label": "\xff\xfe"}', 400),
        (b"", 422),
    ],
    ids=["huge", "deep list", "deep object", "NaN", "not UTF-8", "empty"],
)
def test_json_that_is_none(client: Client, body: bytes, status: int):
    answer = client.post("/v1/references", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and json.loads(answer.text)["detail"]
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize(
    ("body", "kind", "told"),
    [
        (b'{"supports": []}', "application/x-www-form-urlencoded", "with the header Content-Type: application/json"),
        (b"", "application/json", "the request must be a JSON object"),
        (b'{"supports": [,]}', "application/json", "is not valid JSON, from character 14 on: Expecting value"),
    ],
)
def test_how_json_is_sent_is_told(client: Client, body: bytes, kind: str, told: str):
    answer = client.post("/v1/references", content=body, headers={"content-type": kind})
    assert answer.status_code == 422 and told in answer.json()["detail"]


@pytest.mark.parametrize(
    "name", ["../secret.png", "/etc/passwd", "link.png", "no.png", "", ".", "a\0b", "x" * 5000, "loop/loop", "pipe"]
)
def test_only_files_below_the_root_are_read(client: Client, root: Path, name: str):
    secret = root.parent / "secret.png"
    secret.write_bytes(file_of(scene()))
    for link, target in (("link.png", secret), ("loop", root / "loop")):
        if not (root / link).is_symlink():
            (root / link).symlink_to(target)
    detail = client.refused("/v1/segment", segment(photos=[{"path": name}]))
    assert str(root) not in detail and "secret" not in detail
    assert "no such file below" in detail or "at most 4096" in detail


def test_files_below_the_root_are_read(client: Client, root: Path, red: str):
    (root / "cats").mkdir(exist_ok=True)
    (root / "cats" / "a b.png").write_bytes(file_of(scene()))
    assert client.find(red, photos=[{"path": "cats/a b.png"}]) == client.find(red)


def test_without_a_root_no_file_is_read(tmp_path: Path):
    with started(tmp_path) as client:
        assert "reads no files" in client.refused("/v1/segment", segment(photos=[{"path": "a.png"}]), 403)


def test_supports_may_not_expand_without_end(client: Client):
    side = 7000
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "PNG", compress_level=9)
    large = {"photo": sent(buffer.getvalue()), "polygons": [OUTLINE]}
    told = client.refused("/v1/references", {"supports": [large] * 3})
    assert "more than 128,000,000 pixels in all" in told


def test_outlines_may_not_be_endless(client: Client):
    large = sent(np.zeros((1000, 2000, 3), np.uint8))
    zigzag = [number for corner in range(1500) for number in (2000 * (corner % 2), corner % 1000)]
    told = client.refused("/v1/references", {"supports": [{"photo": large, "polygons": [zigzag] * 10}]})
    assert "its outlines are more than 5,000,000 pixels long" in told


def test_two_delete_what_a_third_uses(client: Client):
    name = client.learn()["id"]
    answers: dict[str, int] = {}

    def ask(who: str, method: str, path: str, **more) -> None:
        answers[who] = client.request(method, path, **more).status_code

    asked = {"photos": [PHOTO] * 20, "references": [name]}
    third = threading.Thread(target=ask, args=("third", "POST", "/v1/segment"), kwargs={"json": asked})
    third.start()
    while "prmagic_waiting_requests 0.0" in client.get("/metrics").text and third.is_alive():
        pass
    others = [threading.Thread(target=ask, args=(who, "DELETE", f"/v1/references/{name}")) for who in ("one", "two")]
    for thread in (*others, third):
        if thread is not third:
            thread.start()
    for thread in (*others, third):
        thread.join()
    assert answers["third"] == 200
    assert sorted((answers["one"], answers["two"])) == [204, 404]


def test_no_answer_names_a_path_of_the_server(client: Client, root: Path, tmp_path: Path):
    service = client.app.state.service
    (service.store.folder / "broken.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0{}      ")
    for answer in (
        client.get("/v1/references/broken"),
        client.post("/v1/segment", json={"photos": [PHOTO], "references": ["broken"]}),
    ):
        assert answer.status_code == 409 and "damaged" in answer.text
        assert str(service.store.folder) not in answer.text
    assert all(each["id"] != "broken" for each in client.get("/v1/references").json()["references"])


def test_base64_of_data_urls_is_taken(client: Client, red: str):
    content = base64.b64encode(file_of(scene(), "JPEG")).decode()
    assert client.find(red, photos=[{"data": f"data:image/jpeg;base64,{content}"}])[0]["masks"][0]["found"]
