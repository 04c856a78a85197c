"""What several tests share: tiny models with seeded random weights, and arrays made by the published code."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's library is imported, which looks at it then
if "PYTEST_XDIST_WORKER" in os.environ:  # there is one for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from common import GOLDEN, MINI
from transformers import Dinov2Config, Dinov2Model

from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from prmagic.frameworks.matcher import Matcher


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no worker begins one when the others are done."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def mini() -> dict[str, np.ndarray]:
    """Arrays of tests/golden/persam_mini.npz: two synthetic pictures of 90 × 120 and what the published code makes."""
    with np.load(GOLDEN / "persam_mini.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def sam() -> Sam:
    return Sam.load(MINI)


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of two layers and 48 channels (the tiny SAM has 32), trained at nothing: 64 pixels, patches of 8."""
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = Dinov2Config(**sizes, patch_size=8, image_size=64, initializer_range=0.2)
        Dinov2Model(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def encoder(encoder_folder: Path) -> Dino:
    return Dino.load(encoder_folder)


@pytest.fixture(scope="session")
def matcher(sam: Sam, encoder_folder: Path) -> Matcher:
    """With the default settings, on 6 × 8 patches."""
    return Matcher(sam, encoder=Dino.load(encoder_folder, input_size=(48, 64)))


@pytest.fixture
def small(sam: Sam, matcher: Matcher) -> Callable[..., Matcher]:
    """Builds a Matcher, or a subclass, on the tiny models with options of one's own."""
    return lambda options=None, kind=Matcher: kind(sam, options, matcher.encoder)


@pytest.fixture(scope="session")
def tiny_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of every kind of promptable model beside SAM, by kind."""
    import tiny  # slow to import

    return {kind: tiny.save(kind, tmp_path_factory.mktemp(kind)) for kind in tiny.PUBLISHED}
