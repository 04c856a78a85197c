"""The model that ships in the package, on the photos of the demo."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import prmagic
from prmagic.backbones.checkpoints import EMBEDDED_FOLDER
from prmagic.backbones.sam import Sam
from prmagic.cli import app
from prmagic.demo import cases
from prmagic.evaluation.metrics import areas
from prmagic.frameworks.persam import bounding_box, to_mask
from prmagic.types import Prompts


def test_it_is_small():
    size = sum(file.stat().st_size for file in EMBEDDED_FOLDER.rglob("*"))
    assert size < 12_000_000


def test_its_licence_is_marked():
    assert "non-commercial" in (EMBEDDED_FOLDER / "README.md").read_text()


def test_a_box_is_answered_with_the_object():
    """Well below what it reaches, well above what damaged weights would: see docs/embedded-model.md."""
    sam, ious = Sam.load("embedded"), []
    for case in cases():
        (embedding,) = sam.encode([case.support])
        box = bounding_box(case.support_mask)
        centre = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]], np.float32)
        decoded = sam.decode(embedding, [Prompts(centre, np.ones(1, np.int64), box)])
        mask = to_mask(decoded.logits[0, int(decoded.predicted_iou[0].argmax())], embedding.frame)
        ious.append(areas(mask, case.support_mask).foreground_iou)
    assert np.mean(ious) > 0.45


def test_without_names_it_finds_something_offline():
    case = next(case for case in cases() if case.name == "motorcycle")
    segmenter = prmagic.load()
    result = segmenter.segment(case.query, segmenter.encode_support(prmagic.Support(case.support, case.support_mask)))
    assert result.mask.shape == case.truth.shape
    assert areas(result.mask, case.truth).foreground_iou > 0.2


@pytest.mark.slow
def test_the_demo_makes_a_strip_and_an_overlay_of_every_case(tmp_path):
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    for case in cases():
        with (
            Image.open(tmp_path / f"{case.name}.png") as strip,
            Image.open(tmp_path / f"{case.name}_overlay.jpg") as overlay,
        ):
            assert strip.width > 1000
            assert overlay.size == case.query.shape[1::-1]
        assert case.caption in " ".join(done.output.split())
    assert str(Path(tmp_path).resolve()) in done.output.replace("\n", "")
