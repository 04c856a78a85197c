"""Folders of JSON lines: the lock, run.json, and what is refused."""

import json
import os
import re
from importlib.metadata import requires, version

import pytest
from made import RUN, SHA, segmentation

from prmagic.io.records import check_out, locked, new_folder
from prmagic.io.runs import RunFolder


def made_with(framework="matcher", model="aa+bb", references="abc", **settings):
    return {
        "settings": {"framework": framework, "model": model, "settings": settings},
        "references": {"cat": references},
    }


def test_other_settings_are_refused_by_name(tmp_path):
    RunFolder(tmp_path, RUN).add(segmentation(), SHA)
    before = (tmp_path / "run.json").read_bytes()
    other = {"settings": {"flow": {"steps": 2, "eta": 0.001}, "seed": 7}, "references": {"cat": "abc"}}
    with pytest.raises(ValueError, match=r"settings\.flow\.steps was 1, now it is 2\. Choose another --out") as caught:
        RunFolder(tmp_path, other)
    assert "eta" not in str(caught.value)
    with pytest.raises(ValueError, match=r'references\.dog was null, now it is "def"'):
        RunFolder(tmp_path, {**RUN, "references": {"cat": "abc", "dog": "def"}})
    with pytest.raises(ValueError, match=r"references\.cat"):
        RunFolder(tmp_path, {**RUN, "references": {}})
    assert (tmp_path / "run.json").read_bytes() == before
    assert RunFolder(tmp_path, RUN).done


@pytest.mark.parametrize(
    "now, names, told",
    [
        (
            made_with("persam-f", "aa", "def", points=5), "sam",
            'settings.framework was "matcher", now it is "persam-f"',
        ),
        (made_with(model="aa+cc", references="def", bridge="pad"), "sam + large",
         'model was "sam + small", now it is "sam + large"'),
        (made_with(model="aa+cc", references="def", bridge="pad"), "sam + small",
         'settings.model was "aa+bb", now it is "aa+cc"'),
        (made_with(references="def", bridge="ridge"), "sam + small",
         'settings.settings.bridge was "pad", now it is "ridge"'),
        (made_with(references="def", bridge="pad"), "sam + small", 'references.cat was "abc", now it is "def"'),
    ],
)  # fmt: skip
def test_of_what_differs_only_the_cause_is_named(tmp_path, now, names, told):
    RunFolder(tmp_path, made_with(bridge="pad"), {"model": "sam + small"})
    with pytest.raises(ValueError) as caught:
        RunFolder(tmp_path, now, {"model": names})
    assert str(caught.value) == (
        f"{tmp_path} holds results of another run: {told}. Choose another --out, or start it anew with --overwrite"
    )


def test_another_name_of_the_same_models_is_no_difference(tmp_path):
    RunFolder(tmp_path, made_with(bridge="pad"), {"model": "sam + small"})
    RunFolder(tmp_path, made_with(bridge="pad"), {"model": "sam + a copy of small"})
    assert json.loads((tmp_path / "run.json").read_text())["model"] == "sam + small"


def test_run_json_holds_the_run_and_versions(tmp_path):
    RunFolder(tmp_path, RUN)
    written = json.loads((tmp_path / "run.json").read_text())
    assert {name: written[name] for name in RUN} == RUN
    assert written["versions"]["torch"] == version("torch")
    packages = {name.lower() for name in written["versions"]} - {"python", "prmagic"}
    declared = {re.split(r"[^\w-]", line)[0].lower() for line in requires("prmagic") if "extra ==" not in line}
    assert {"torch", "transformers", "numpy", "pot"} <= packages <= declared | {"openvino"}  # an extra


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file; --out needs a folder"):
        RunFolder(tmp_path / "file", RUN)


@pytest.mark.parametrize("out, told", [("file/below", "file is a file"), ("link", "link is a link that leads nowhere")])
def test_a_folder_that_cannot_be_made(tmp_path, out, told):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ValueError, match=f"{told}; --out needs a folder"):
        check_out(tmp_path / out)
    check_out(tmp_path / "new" / "deeper")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "link"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="who may write everything")
def test_a_folder_that_may_not_be_written(tmp_path):
    (tmp_path / "closed").mkdir(0o500)
    for out in ("closed", "closed/new"):
        with pytest.raises(ValueError, match="closed may not be written: choose another --out"):
            check_out(tmp_path / out)


def test_a_folder_is_locked_for_one(tmp_path):
    out = tmp_path / "out"
    with locked(out):
        with pytest.raises(ValueError, match="another run is writing into"), locked(out):
            pass
        with locked(tmp_path / "other"):
            pass
    with locked(out):
        pass
    assert list(out.iterdir()) == []


def test_a_new_folder_is_written_by_one(tmp_path):
    out = tmp_path / "out"
    with new_folder(out) as unfinished:
        (unfinished / "a").touch()
        with pytest.raises(ValueError, match="another run is writing into"), new_folder(out):
            pass
        assert not out.exists()
    assert [file.name for file in tmp_path.rglob("*")] == ["out", "a"]
