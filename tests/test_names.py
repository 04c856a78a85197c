"""Looking up names: the nearest is suggested, and labels can be folders."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from prmagic.names import check_label, hint, installed, lookup

KNOWN = {"reencode": 1, "guard": 2}


def test_a_known_name_is_found():
    assert lookup("selector", "guard", KNOWN) == 2


def test_an_unknown_one_is_told_with_the_nearest_and_all():
    with pytest.raises(
        ValueError, match=r"^unknown selector 'rencode': did you mean 'reencode'\? Known: reencode, guard$"
    ):
        lookup("selector", "rencode", KNOWN)


def test_nothing_is_suggested_for_what_is_like_none():
    assert hint("xyz", KNOWN) == "choose one of: reencode, guard"


def test_a_folder_with_the_name_of_a_package_is_not_it(tmp_path, monkeypatch):
    (tmp_path / "some_package_nobody_has").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_spec("some_package_nobody_has") is not None
    assert not installed("some_package_nobody_has")
    assert installed("numpy")


@pytest.mark.parametrize("label", ["cat", "black cat", "Kätzchen", "cat.2", "a_b-c", "猫", "console", "com", "com10"])
def test_labels_that_can_be_folders(label):
    check_label(label)


@pytest.mark.parametrize(
    "label",
    [
        "",
        ".",
        "..",
        "a/b",
        "a\\b",
        "C:",
        "what?",
        "a*",
        "<cat>",
        'a"b',
        "a|b",
        "cat.",
        "cat ",
        "nul",
        "Con",
        "com1.png",
        "a\nb",
        "a\0",
    ],
)
def test_labels_that_cannot(label):
    with pytest.raises(ValueError, match="becomes a folder's name: choose another"):
        check_label(label)
