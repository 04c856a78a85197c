"""deploy/nuclio: the function that CVAT's serverless detectors run, called as Nuclio calls it."""

from __future__ import annotations

import base64
import importlib.util
import json
import shutil
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from common import MINI, photo, region
from PIL import Image

import prmagic

yaml = pytest.importorskip("yaml")
pytest.importorskip("cvat_sdk", reason="needs pip install 'prmagic[cvat]'")

from prmagic.io.shapes import decode  # noqa: E402

NUCLIO = Path(__file__).parents[2] / "deploy" / "nuclio"
SIZE = (60, 80)


class Context:
    """What Nuclio hands over."""

    Response = SimpleNamespace

    def __init__(self):
        self.user_data = SimpleNamespace()
        self.told: list[str] = []
        self.logger = SimpleNamespace(info=self.told.append)


@pytest.fixture(scope="module")
def segmenter():
    return prmagic.load("persam", sam=str(MINI), device="cpu")


@pytest.fixture(scope="module")
def reference(segmenter):
    return segmenter.encode_support(prmagic.Support(photo(*SIZE), region(slice(10, 30), slice(20, 50), SIZE)), "cat")


@pytest.fixture
def function(reference, tmp_path, monkeypatch):
    """The module and its context, deployed to a folder of its own."""
    shutil.copy(NUCLIO / "main.py", tmp_path)
    reference.save(tmp_path / "cat.safetensors")
    monkeypatch.setenv("PRMAGIC", json.dumps({"framework": "persam", "sam": str(MINI), "device": "cpu"}))
    spec = importlib.util.spec_from_file_location("nuclio_main", tmp_path / "main.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    context = Context()
    module.init_context(context)
    assert context.told == ["prmagic looks for cat"]
    return module, context


def png(pixels: np.ndarray) -> str:
    content = BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode()


def test_a_frame_gets_masks_as_cvat_reads_them(function, segmenter, reference):
    module, context = function
    frame = photo(*SIZE, 1)
    answer = module.handler(context, SimpleNamespace(body={"image": png(frame)}))
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    found = json.loads(answer.body)
    expected = segmenter.segment(frame, reference, instances=True).instances
    assert found and len(found) == len(expected)
    for thing, instance in zip(found, expected, strict=True):
        *pixels, x0, y0, x1, y1 = thing["mask"]
        mask = np.zeros(SIZE, bool)
        mask[y0 : y1 + 1, x0 : x1 + 1] = np.reshape(pixels, (y1 - y0 + 1, x1 - x0 + 1))
        assert np.array_equal(mask, instance.mask)
        assert (thing["label"], thing["type"]) == ("cat", "mask")
        assert float(thing["confidence"]) == pytest.approx(instance.score, abs=1e-4)
        if "points" in thing:
            assert (decode([thing["points"]], SIZE) & mask).any()


def test_the_threshold(function):
    module, context = function
    answer = module.handler(context, SimpleNamespace(body={"image": png(photo(*SIZE, 1)), "threshold": 1.01}))
    assert json.loads(answer.body) == []


@pytest.mark.parametrize("body", [{}, {"image": "no base64!"}, {"image": base64.b64encode(b"no photo").decode()}])
def test_what_is_no_frame_is_refused(function, body):
    module, context = function
    answer = module.handler(context, SimpleNamespace(body=body))
    assert answer.status_code == 400
    assert json.loads(answer.body)["error"].startswith("this frame cannot be used")


def test_the_configuration_names_what_is_there():
    config = yaml.safe_load((NUCLIO / "function.yaml").read_text(encoding="utf-8"))
    annotations, spec = config["metadata"]["annotations"], config["spec"]
    assert annotations["type"] == "detector"
    assert all(label["type"] == "mask" for label in json.loads(annotations["spec"]))
    module, name = spec["handler"].split(":")
    assert f"def {name}(" in (NUCLIO / f"{module}.py").read_text(encoding="utf-8")
    assert all(isinstance(json.loads(variable["value"]), dict) for variable in spec["env"])
    assert {step["kind"] for step in spec["build"]["directives"]["preCopy"]} <= {"ENV", "RUN", "WORKDIR"}
