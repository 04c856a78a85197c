"""References on disk and in memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from prmagic.reference import Reference
from prmagic.serve import store as module
from prmagic.serve.cache import Budget
from prmagic.serve.errors import Unfit, Unknown
from prmagic.serve.store import Store


def reference(label: str = "cat", size: int = 4) -> Reference:
    tensors = {
        "tokens": torch.ones(size, 2), "shares": torch.ones(size), "token_counts": torch.tensor([1, size - 1]),
    }  # fmt: skip
    preview = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2), bool)
    return Reference(tensors, {"framework": "f", "model": "m", "settings": "{}"}, preview, label)


def test_a_reference_outlives_the_server(tmp_path: Path):
    name = Store(tmp_path).add(reference("a dog"))
    again = Store(tmp_path)
    assert list(again.names()) == [name]
    assert again.get(name).label == again.header(name).label == "a dog"
    assert again.header(name).supports == 2


def test_files_put_there_by_hand_are_references(tmp_path: Path):
    store = Store(tmp_path)
    reference().save(tmp_path / "my-cat_1.safetensors")
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "no name.safetensors").write_text("")
    assert list(store.names()) == ["my-cat_1"] and store.get("my-cat_1").label == "cat"


def test_a_changed_file_is_read_again(tmp_path: Path):
    store = Store(tmp_path)
    name = store.add(reference("old"))
    assert store.get(name) is store.get(name)
    assert store.add(reference("new"), name) == name
    assert store.get(name).label == "new"
    reference("by another server").save(tmp_path / f"{name}.safetensors")
    assert store.get(name).label == "by another server"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a.b", "-a", "a" * 65, "a\0", "a\n", "C:x", "nul."])
def test_what_is_no_id_is_no_file(tmp_path: Path, name: str):
    store = Store(tmp_path / "store")
    reference().save(tmp_path / "x.safetensors")
    for use in (store.get, store.header, store.remove):
        with pytest.raises(Unknown):
            use(name)
    assert (tmp_path / "x.safetensors").exists()


def test_damaged_files_are_told_without_their_place(tmp_path: Path):
    store = Store(tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for use in (store.get, store.header):
        with pytest.raises(Unfit, match="reference 'bad' is damaged") as told:
            use("bad")
        assert str(tmp_path) not in str(told.value)


def test_memory_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    each = 1000 * 2 * 4 + 1000 * 4 + 16 + 16
    monkeypatch.setattr(module, "IN_MEMORY", Budget(each=3 * each, total=3 * each))
    store = Store(tmp_path)
    for name in [store.add(reference(size=1000)) for _ in range(8)]:
        store.get(name)
    assert 2 * each < store.bytes <= 3 * each


def test_what_a_killed_server_left_goes_away(tmp_path: Path):
    old, new = tmp_path / "a.safetensors.1.tmp", tmp_path / "b.safetensors.2.tmp"
    for file in (old, new):
        file.write_bytes(b"")
    os.utime(old, (time.time() - 2 * module.ABANDONED,) * 2)
    Store(tmp_path)
    assert not old.exists() and new.exists()
