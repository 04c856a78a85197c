"""Who is here, and what is kept for them."""

from __future__ import annotations

import time
from contextlib import ExitStack

import numpy as np
import pytest

from prmagic.app import visitors as module
from prmagic.app.engine import PhotoFile
from prmagic.app.folder import PREFIX, temporary_folder
from prmagic.app.packed import PackedMask
from prmagic.app.settings import Settings
from prmagic.app.visitors import ForeignSession, Visitors
from prmagic.serve.cache import Budget, Cache


@pytest.fixture
def visitors(engine, tmp_path):
    visitors = Visitors(engine, tmp_path / "visitors", Settings(), grace=0.4)
    yield visitors
    visitors._closed.set()  # the engine is shared


def gone(visitor, seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while visitor.workspace.folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return not visitor.workspace.folder.exists()


def test_a_visitor_stays_while_connected_and_for_a_while_after(visitors):
    first, other = visitors.enter("a", "me"), visitors.enter("b", "me")
    assert other.workspace.folder != first.workspace.folder
    with visitors.connected("a"):
        assert gone(other)
        assert first.workspace.folder.is_dir()
    assert visitors.enter("a", "me") is first  # in time
    assert visitors.with_token(first.workspace.token) is first
    assert gone(first)
    assert visitors.with_token(first.workspace.token) is None
    with pytest.raises(ValueError, match="reload"):
        visitors.of("a")


def test_a_session_belongs_to_the_browser_in_which_it_began(visitors):
    visitors.enter("a", "me")
    for browser in ("you", "", "mé"):
        with pytest.raises(ForeignSession):
            visitors.enter("a", browser)


@pytest.mark.parametrize("token", ["", "é", "a\0b", "x" * 10_000])
def test_a_token_that_nobody_has_finds_nobody(visitors, token):
    visitors.enter("a", "me")
    assert visitors.with_token(token) is None


def test_those_who_have_nothing_make_room(visitors, monkeypatch):
    monkeypatch.setattr(module, "MOST", 3)
    busy = visitors.enter("busy", "me")
    busy.photos["a.png"] = PhotoFile(busy.workspace.token, "a.png", busy.workspace.folder / "a.png")
    with ExitStack() as stack:
        stack.enter_context(visitors.connected("busy"))
        for number in range(100):
            visitors.enter(f"empty{number}", "")
        assert visitors.enter("new", "other").is_empty
        assert visitors.of("busy") is busy
        for name in ("new", "newer"):
            visitor = visitors.enter(name, "other")
            visitor.photos["a.png"] = busy.photos["a.png"]
            stack.enter_context(visitors.connected(name))
        with pytest.raises(ValueError, match="come back later"):
            visitors.enter("one more", "other")


def test_a_cache_keeps_what_was_used_last_within_its_budgets():
    made: list[str] = []
    cache: Cache[bytes] = Cache(len, Budget(each=100, total=150))

    def get(owner: str, name: str, size: int = 40) -> bytes:
        return cache.get((owner, name), lambda: made.append(name) or bytes(size))

    get("a", "1"), get("a", "2"), get("a", "1"), get("a", "3")
    assert made == ["1", "2", "3"]
    get("a", "1")
    assert made == ["1", "2", "3"]
    get("a", "2")  # had to go, as a's budget is full
    assert made[-1] == "2"
    get("b", "4", 90)
    assert cache.bytes <= 150
    get("c", "huge", 1000)  # more than anybody may have
    assert cache.bytes <= 150
    get("c", "huge", 1000)
    assert made.count("huge") == 2
    cache.forget("b")
    assert ("b", "4") not in cache._values


def test_a_packed_mask_is_small_and_exact():
    mask = np.zeros((3000, 4000), bool)
    mask[100:2000, 50:3000] = True
    packed = PackedMask.of(mask)
    assert (packed.array == mask).all()
    assert (packed.area, packed.shape) == (mask.sum(), (3000, 4000))
    assert len(packed.code["counts"]) < mask.size / 1000


def test_what_a_killed_server_left_is_deleted_and_a_living_ones_is_not(tmp_path, monkeypatch):
    from prmagic.app import folder as module

    monkeypatch.setattr(module, "NEW", -1.0)
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    left, foreign = tmp_path / f"{PREFIX}left", tmp_path / "other"
    for place in (left, foreign):
        (place / "uploads").mkdir(parents=True)
    (tmp_path / f"{PREFIX}link").symlink_to(foreign)
    with temporary_folder() as first, temporary_folder() as second:
        assert not left.exists()
        assert foreign.is_dir()
        assert first.is_dir()
        assert second.is_dir()
        assert (first.stat().st_mode & 0o077) == 0
    assert sorted(place.name for place in tmp_path.iterdir()) == ["other", f"{PREFIX}link"]
