"""The models that ship in the package, on the photos of the demo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import prmagic
from prmagic.backbones.checkpoints import EMBEDDED_FOLDER
from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from prmagic.demo import cases
from prmagic.frameworks.maps import bounding_box, to_mask
from prmagic.frameworks.matcher.steps import patches_of
from prmagic.metrics import areas, foreground_iou
from prmagic.types import Prompts


@pytest.fixture(scope="module")
def demo():
    return cases()


def test_they_are_small():
    size = sum(file.stat().st_size for file in EMBEDDED_FOLDER.rglob("*"))
    assert size < 20_000_000


@pytest.mark.parametrize("kind", ["sam", "encoder"])
def test_their_licence_is_marked(kind):
    text = (EMBEDDED_FOLDER / kind / "README.md").read_text()
    assert "free to use" in text
    assert "Apache" in text


def test_a_box_is_answered_with_the_object(demo):
    """Well below what it reaches, well above what damaged weights would: see docs/embedded-model.md."""
    sam, ious = Sam.load("embedded"), []
    for case in demo:
        (embedding,) = sam.encode([case.support])
        box = bounding_box(case.support_mask)
        centre = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]], np.float32)
        decoded = sam.decode(embedding, [Prompts(centre, np.ones(1, np.int64), box)])
        mask = to_mask(decoded.logits[0, int(decoded.predicted_iou[0].argmax())], embedding.frame)
        ious.append(foreground_iou(areas(mask, case.support_mask)))
    assert np.mean(ious) > 0.45


def test_patches_find_their_like_in_the_other_photo(demo):
    """The share of the support's patches whose nearest patch of the query is in the object, against chance."""
    encoder, found, chance = Dino.load("embedded"), [], []
    for case in demo:
        tokens = [F.normalize(t.before_norm, dim=1) for t in encoder.encode([case.support, case.query])]
        support, query = (patches_of(torch.from_numpy(mask), encoder.grid) for mask in (case.support_mask, case.truth))
        found.append(query[(tokens[0][support] @ tokens[1].T).argmax(1)].mean())
        chance.append(query.mean())
    assert np.mean(found) > np.mean(chance) + 0.25


@pytest.mark.parametrize("framework", ["persam-f", "matcher"])
def test_without_names_it_finds_something_offline(framework, demo):
    case = next(case for case in demo if case.name == "motorcycle")
    segmenter = prmagic.load(framework)
    result = segmenter.segment(case.query, segmenter.encode_support(prmagic.Support(case.support, case.support_mask)))
    assert result.mask.shape == case.truth.shape
    assert foreground_iou(areas(result.mask, case.truth)) > 0.2
