"""Files on their way in: what is slow, cut, or too much of it."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import HTTPException, Request

from prmagic.app import gate, uploads
from prmagic.app.uploads import LEAST, Uploads

HEAD = {"type": "http", "headers": [(b"content-type", b"multipart/form-data; boundary=x")]}


def part(content: bytes = b"") -> bytes:
    return b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n" + content + b"\r\n"


def receiving(*bodies: bytes, then: str = "nothing"):
    """A request's `receive`: these pieces, and then the end, a broken connection, or nothing."""
    waiting = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    if then == "end":
        waiting[-1]["more_body"] = False
    if then == "break":
        waiting.append({"type": "http.disconnect"})

    async def receive():
        if not waiting:
            await asyncio.Event().wait()
        return waiting.pop(0)

    return receive


@pytest.fixture
def place(tmp_path) -> Uploads:
    return Uploads(tmp_path / "uploads", 10_000_000)


def finished(coroutine):
    """Its result, from a thread of its own: other tests' browser has a loop in this one."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def send(place: Uploads, *bodies: bytes, then: str = "end") -> list[str]:
    return finished(place.receive(Request(HEAD, receiving(*bodies, then=then)), "me"))


def test_a_request_that_stops_or_breaks_is_given_up(place, monkeypatch):
    monkeypatch.setattr(uploads, "PAUSE", 0.1)
    for then, status in (("nothing", 408), ("break", 400)):
        with pytest.raises(HTTPException) as error:
            send(place, part(b"x" * 1000), then=then)
        assert error.value.status_code == status
    with pytest.raises(gate.Refused) as refused:
        finished(gate._body(receiving(b"{")))
    assert refused.value.status == 408
    assert not list(place.folder.iterdir())
    assert place._coming == 0


def test_what_is_on_its_way_has_a_limit_for_all_together(place, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_WAITING", 100_000)
    place._coming = 90_000  # of others
    with pytest.raises(HTTPException) as error:
        send(place, part(b"x" * 50_000), b"--x--\r\n")
    assert error.value.status_code == 503
    assert place._coming == 90_000
    assert len(send(place, part(b"x" * 5000), b"--x--\r\n")) == 1


def test_empty_files_take_room_too(place, monkeypatch):
    monkeypatch.setattr(uploads, "MAX_WAITING", 3 * LEAST)
    keys = send(place, part() * 10, b"--x--\r\n")
    assert len(list(Path(place.folder).iterdir())) == 3
    assert place.belong(keys[-3:], "me")
    assert not place.belong(keys[:1], "me")
