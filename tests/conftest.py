"""What several tests share: the tiny model with seeded random weights, and arrays made by the published code."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from prmagic.backbones.sam import Sam

HERE = Path(__file__).parent
MINI = HERE / "golden" / "sam_mini"
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def mini() -> dict[str, np.ndarray]:
    """Arrays of tests/golden/persam_mini.npz: two synthetic pictures of 90 × 120 and what the published code makes."""
    with np.load(HERE / "golden" / "persam_mini.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="session")
def sam() -> Sam:
    return Sam.load(MINI)
