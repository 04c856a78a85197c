"""A miniature data set and tiny models with random weights."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Config, Dinov2Model

RESEARCH = Path(__file__).parents[1]
sys.path[:0] = [str(RESEARCH / name) for name in ("", "training", "speed")]
SPOTS = 5  # photos of each class, and the split of each
SPLITS = ("train", "test", "test", "test", "test")


@pytest.fixture(scope="session")
def sam_folder() -> Path:
    return RESEARCH.parent / "tests" / "golden" / "sam_mini"


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Dinov2Model(Dinov2Config(**sizes, patch_size=8, image_size=64, initializer_range=0.2)).save_pretrained(folder)
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The working folder holds data/: cats and dogs, bright rectangles in dark noise, four test photos of each."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    root.mkdir()
    lines = []
    for number in range(2 * SPOTS):
        rng = np.random.default_rng(number)
        image, mask = rng.integers(0, 90, (48, 64, 3)), np.zeros((48, 64), bool)
        top, left = rng.integers(2, 28), rng.integers(2, 40)
        mask[top : top + rng.integers(10, 20), left : left + rng.integers(10, 24)] = True
        image[mask] = rng.integers(150, 255, 3)
        Image.fromarray(image.astype(np.uint8)).save(root / f"{number}.png")
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"{number}_mask.png")
        kind, split = "cat" if number < SPOTS else "dog", SPLITS[number % SPOTS]
        lines.append({"image": f"{number}.png", "mask": f"{number}_mask.png", "class": kind, "split": split})
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    threads = torch.get_num_threads()
    yield root
    torch.set_num_threads(threads)
