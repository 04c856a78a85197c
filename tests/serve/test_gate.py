"""Who is let in: names, origins, tokens, sizes."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from http_server import Client, started

from prmagic.serve.hosts import Hosts, is_loopback
from prmagic.serve.server import Address

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with started(tmp_path_factory.mktemp("guarded"), token=TOKEN, names=("label.example.org",)) as client:
        yield client


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"anybody:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": f"Bearer {TOKEN}"}, 200),
        ({"Authorization": f"bearer {TOKEN}"}, 200),
        ({"Authorization": f"Bearer {TOKEN}x"}, 401),
        ({"Authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"Authorization": "Bearer "}, 401),
        ({"Authorization": f"Token {TOKEN}"}, 401),
        ({"Authorization": basic(TOKEN)}, 200),
        ({"Authorization": basic("wrong")}, 401),
        ({"Authorization": "Basic %%%"}, 401),
        ({"Token": TOKEN}, 200),
        ({"Token": "ä" * 30}, 401),
    ],
)
def test_the_token_is_needed(guarded: Client, headers, status: int):
    sent = {name: value.encode() for name, value in headers.items()}
    for path in ("/v1/references", "/metrics"):
        assert guarded.get(path, headers=sent).status_code == status
    answer = guarded.post("/v1/segment", json={}, headers=sent)
    assert answer.status_code == (401 if status == 401 else 422)
    assert TOKEN not in answer.text


def test_health_and_the_page_of_the_api_need_no_token(guarded: Client):
    for path in ("/health", "/docs", "/docs-files/swagger-ui.css", "/openapi.json"):
        assert guarded.get(path).status_code == 200
    assert "securitySchemes" in guarded.get("/openapi.json").text
    assert guarded.get("/docs-filesx").status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": "label.example.org:8000"}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:8000"}, 200),
        ({"Host": "192.168.0.7"}, 400),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://127.0.0.1:8000"}, 200),
        ({"Origin": "http://127.0.0.1:9999"}, 403),
    ],
)
def test_foreign_names_and_pages_are_refused(guarded: Client, headers, status: int):
    assert guarded.get("/health", headers=headers).status_code == status


def test_a_foreign_page_cannot_send_a_form(client: Client):
    answer = client.post("/v1/references", content=b"{}", headers={"Sec-Fetch-Site": "cross-site"})
    assert answer.status_code == 403


def test_long_and_strange_addresses(client: Client):
    assert client.get("/" + "a" * 5000).status_code == 414
    assert client.get("/v1/references/a%0Ab").status_code == 400
    assert client.get("/v1/references/..%5C..%5Cx").status_code == 400
    assert client.get("/v1/references/..%2F..%2Fx").status_code == 404
    assert client.get("/nothing").status_code == 404


def test_a_body_that_does_not_say_its_size_is_bounded_too(client: Client):
    chunks = (b"x" * (1 << 20) for _ in range(8))
    assert client.post("/v1/references", content=chunks).status_code == 413


def test_binding_elsewhere_needs_a_token():
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org"):
        with pytest.raises(ValueError, match="--token"):
            Address(host)
        assert Address(host, token=TOKEN).token == TOKEN
    for host in ("127.0.0.1", "127.1.2.3", "localhost", "::1"):
        assert is_loopback(host) and Address(host).token is None
    for short in ("", "short", "ü" * 20):
        with pytest.raises(ValueError, match="16 or more"):
            Address(token=short)


def test_everywhere_trusts_addresses_but_no_names():
    hosts = Hosts("0.0.0.0")
    assert hosts.trusts("192.168.0.7:8000") and not hosts.trusts("evil.example")
