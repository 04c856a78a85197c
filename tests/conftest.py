"""What several tests share: tiny models with seeded random weights, and arrays made by the published code."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before the hub's library is imported, which looks at it then
if "PYTEST_XDIST_WORKER" in os.environ:  # there is one for each core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from prmagic.frameworks import Matcher

HERE = Path(__file__).parent
MINI = HERE / "golden" / "sam_mini"


@pytest.fixture(scope="session")
def mini() -> dict[str, np.ndarray]:
    """Arrays of tests/golden/persam_mini.npz: two synthetic pictures of 90 × 120 and what the published code makes."""
    with np.load(HERE / "golden" / "persam_mini.npz") as arrays:
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
    return Matcher(sam, Dino.load(encoder_folder, input_size=(48, 64)))
