"""The recipe of docs/labelling-tools.md for FiftyOne, where FiftyOne is installed: it has an environment of its own."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from textwrap import dedent

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PHOTOS = ROOT / "src" / "prmagic" / "demo" / "photos"


def recipe() -> str:
    page = (ROOT / "docs" / "labelling-tools.md").read_text(encoding="utf-8")
    (found,) = [block for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "fiftyone" in block]
    return dedent(" " * 4 + found.lstrip())


def test_it_is_short():
    assert len([line for line in recipe().splitlines() if line]) <= 10
    compile(recipe(), "recipe", "exec")


def test_the_data_set_has_the_masks(tmp_path, monkeypatch):
    pytest.importorskip("fiftyone", reason="needs pip install fiftyone")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    shutil.copy(PHOTOS / "speaker_11.jpg", tmp_path / "photos")
    for suffix, name in (("jpg", "cat.jpg"), ("png", "cat_mask.png")):
        shutil.copy(PHOTOS / f"speaker_10.{suffix}", tmp_path / name)
    names: dict = {}
    exec(recipe(), names)
    (sample,) = names["dataset"]
    result = names["segmenter"].segment("photos/speaker_11.jpg", names["cat"], instances=True)
    height, width = result.mask.shape
    assert len(sample.prmagic.detections) == len(result.instances) > 0
    for detection, thing in zip(sample.prmagic.detections, result.instances, strict=True):
        assert np.array_equal(detection.to_segmentation(frame_size=(width, height)).mask > 0, thing.mask)
        assert (detection.label, detection.confidence) == ("cat", thing.score)
