"""`prmagic segment --runtime` and `--dtype auto`: recorded, and kept when a folder is gone on with."""

import json
from pathlib import Path

import pytest
import torch
from command_line import FAST, contents, segment, settings

from prmagic.backbones import runtimes
from prmagic.cli.options import as_begun

pytestmark = pytest.mark.filterwarnings("ignore:.* converted for OpenVINO, once")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("PRMAGIC_CACHE", str(tmp_path_factory.getbasetemp() / "converted"))


def test_a_folder_goes_on_with_the_runtime_that_it_began_with(work, monkeypatch):
    pytest.importorskip("openvino")
    segment("photos/a.png", *FAST, "--runtime", "openvino")
    assert settings()["runtime"] == "openvino"
    assert "openvino" in json.loads(Path("found/run.json").read_text())["versions"]
    assert "1 of 3 photos are done already" in segment("photos", *FAST)  # auto alone would take torch
    said = segment("photos", *FAST, "--runtime", "torch", code=2)
    assert 'settings.runtime was "openvino", now it is null' in said
    segment("photos", *FAST, "--runtime", "openvino", out="at once")
    assert contents() == contents("at once")


def test_a_folder_of_torch_stays_with_it_where_auto_would_take_another(work, monkeypatch):
    pytest.importorskip("openvino")
    segment("photos/a.png", *FAST)
    assert "runtime" not in settings()
    monkeypatch.setattr(runtimes, "SMALL", 0)
    assert "1 of 3 photos are done already" in segment("photos", *FAST)
    assert 'now it is "openvino"' in segment("photos", *FAST, "--runtime", "openvino", code=2)
    segment("photos/a.png", *FAST, "--overwrite")
    assert settings()["runtime"] == "openvino"


def test_dtype_auto_goes_on_with_what_the_folder_began_with(work, monkeypatch):
    segment("photos/a.png", *FAST, "--dtype", "bfloat16")
    assert "1 of 2 photos are done already" in segment("photos/a.png", "photos/b.jpg", *FAST, "--dtype", "auto")
    assert settings()["dtype"] == "bfloat16"


@pytest.mark.filterwarnings("always:SAM's image encoder runs in bfloat16")
def test_dtype_auto_is_told_once_where_it_is_not_float32(work, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True, raising=False)
    said = segment("photos/a.png", *FAST, "--dtype", "auto", "--runtime", "torch", "--framework", "matcher")
    assert said.count("SAM's image encoder runs in bfloat16: the device has it") == 1
    assert settings()["dtype"] == "mixed"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"settings": []}', '{"settings": {"seed": 0}}'])
def test_a_damaged_run_json_decides_nothing(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    arguments = {"dtype": "auto", "runtime": "auto", "seed": 1}
    assert as_begun(arguments, tmp_path, overwrite=False) == arguments


def test_what_is_given_is_not_replaced(tmp_path):
    (tmp_path / "run.json").write_text('{"settings": {"dtype": "bfloat16", "runtime": "openvino"}}')
    assert as_begun({"dtype": "float32", "runtime": "auto"}, tmp_path, False)["dtype"] == "float32"
    assert as_begun({"dtype": "auto", "runtime": "auto"}, tmp_path, True)["dtype"] == "auto"
