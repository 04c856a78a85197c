"""Pickles of the benchmarks must hold nothing but data, and no more than a file of their size can."""

from __future__ import annotations

import builtins
import json
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest

from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.pickles import load_pickle


@pytest.fixture
def file(tmp_path):
    return tmp_path / "fold0.pkl"


def _keep(content, file, protocol=4):
    file.write_bytes(pickle.dumps(content, protocol=protocol))
    return file


class Calls:
    """Pickles as a call, which an ordinary unpickler makes."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("wrap", [lambda call: call, lambda call: {0: ["val2014/1.jpg", call]}])
def test_a_pickle_that_would_run_code_is_refused_unrun(tmp_path, file, protocol, wrap):
    mark = tmp_path / "it ran"
    for call in (
        Calls(os.system, f"mkdir '{mark}'"),
        Calls(os.mkdir, str(mark)),
        Calls(builtins.eval, f"__import__('os').mkdir({str(mark)!r})"),
    ):
        _keep(wrap(call), file, protocol)
        with pytest.raises(DatasetError, match=r"fold0\.pkl cannot be read as plain data \(it asks for"):
            load_pickle(file)
        assert list(tmp_path.iterdir()) == [file]  # neither the mark nor a cache
        with file.open("rb") as stream:  # an ordinary unpickler does run it
            pickle.load(stream)
        mark.rmdir()


@pytest.mark.parametrize("content", [np.arange(3), [np.float64(1)], {1: np.dtype("int8")}, Item("1.jpg"), complex(1)])
def test_arrays_and_objects_are_refused(file, content):
    with pytest.raises(DatasetError, match=r"fold0\.pkl cannot be read as plain data \(it asks for"):
        load_pickle(_keep(content, file))
    assert not file.with_name("fold0.pkl.json").exists()


PLAIN = {
    0: ["val2014/COCO_val2014_000000429717.jpg", "val2014/größer.jpg"],
    79: [],
    "names": {"a": True, "b": None, "c": 1.5},
    "deep": [{1: {2: [{-3: "x"}]}}],
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_the_same_also_from_the_cache(file, protocol):
    _keep(PLAIN, file, protocol)
    assert load_pickle(file) == PLAIN  # a string "0" would not equal the key 0
    assert file.with_name("fold0.pkl.json").is_file()
    assert load_pickle(file) == PLAIN


def test_tuples_become_lists_and_bytes_strings(file):
    _keep({"t": (1, (2, 3)), "b": b"ascii", "s": {"z", "a"}, "o": OrderedDict([(2, "two"), (1, "one")])}, file)
    expected = {"t": [1, [2, 3]], "b": "ascii", "s": ["a", "z"], "o": {2: "two", 1: "one"}}
    for _ in range(2):
        content = load_pickle(file)
        assert content == expected and list(content["o"]) == [2, 1]


def test_strings_of_python_2_are_read(file):
    file.write_bytes(b"(dp0\nI7\n(lp1\nS'val2014/1.jpg'\np2\nas.")
    assert load_pickle(file) == {7: ["val2014/1.jpg"]}


def test_the_cache_spares_the_pickle(file, monkeypatch):
    load_pickle(_keep(PLAIN, file))
    monkeypatch.setattr("prmagic.datasets.pickles._PlainUnpickler", None)
    assert load_pickle(file) == PLAIN


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"of": 1}', "\udcff"])
def test_a_damaged_cache_is_made_anew(file, damage):
    load_pickle(_keep(PLAIN, file))
    cached = file.with_name("fold0.pkl.json")
    whole = cached.read_bytes()
    cached.write_text(damage, encoding="utf-8", errors="surrogateescape")
    assert load_pickle(file) == PLAIN
    assert cached.read_bytes() == whole


def test_the_cache_is_made_anew_when_the_pickle_changes(file):
    load_pickle(_keep({0: ["1.jpg"]}, file))
    stamp = file.stat().st_mtime_ns
    _keep({0: ["2.jpg"]}, file)  # just as long
    os.utime(file, ns=(stamp + 1000, stamp + 1000))
    assert load_pickle(file) == {0: ["2.jpg"]}
    _keep({0: ["2.jpg", "3.jpg"]}, file)
    os.utime(file, ns=(stamp + 1000, stamp + 1000))  # just as old
    assert load_pickle(file) == {0: ["2.jpg", "3.jpg"]}
    assert json.loads(file.with_name("fold0.pkl.json").read_text())["of"] == [file.stat().st_size, stamp + 1000]


def test_a_folder_that_cannot_be_written_is_read_all_the_same(file, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("read-only")

    _keep(PLAIN, file)
    monkeypatch.setattr("pathlib.Path.write_text", refuse)  # the rights of a folder would not stop root
    file.parent.chmod(0o555)
    try:
        assert load_pickle(file) == PLAIN
        assert list(file.parent.iterdir()) == [file]
    finally:
        file.parent.chmod(0o755)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><title>Too many requests</title>",
        pickle.dumps(PLAIN)[:40],
        pickle.dumps(PLAIN)[:-1],
        pickle.dumps({b"\xff": 1}),
        pickle.dumps({(1, 2): 3}),
        b"\x80\x04h\x07.",
    ],
)
def test_a_damaged_pickle_is_named(file, content):
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"fold0\.pkl cannot be read as plain data .*fetch it anew"):
        load_pickle(file)


def test_a_missing_pickle_is_named(file):
    with pytest.raises(DatasetError, match=r"fold0\.pkl is missing"):
        load_pickle(file)


def _nested(depth):
    """A list of ten lists of ten lists …, each the same ten times: 10 ** depth entries in a few bytes."""
    nested = [1] * 10
    for _ in range(depth - 1):
        nested = [nested] * 10
    return nested


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": _nested(9)}),
        pickle.dumps(["x" * 100_000] * 100_000),
        b"\x80\x04]r\xff\xff\xff\x7f.",  # one list, to be kept in place 2 ** 31 - 1
    ],
)
def test_a_small_file_that_would_fill_the_memory_is_refused(file, content):
    file.write_bytes(content)
    with pytest.raises(DatasetError, match=r"far more than its size|places in memory"):
        load_pickle(file)
    assert not list(file.parent.glob("*.json"))


def test_a_part_may_be_named_several_times(file):
    polygon = [float(number) for number in range(100)]
    file.write_bytes(pickle.dumps(dict.fromkeys(range(100), polygon)))
    assert load_pickle(file) == dict.fromkeys(range(100), polygon)
