"""Checkpoints in their authors' own layout, and a small model of every other kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from originals import save_all

from prmagic.backbones.adapters import load_promptable
from prmagic.backbones.promptable import Promptable


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each kind, with the original file and the same model in Hugging Face format."""
    return save_all(tmp_path_factory.mktemp("originals"))


@pytest.fixture
def weights(folders: dict[str, Path]) -> Callable[[str], Any]:
    """The original weights of a kind, to be changed."""
    return lambda name: torch.load(folders[name] / "original.pth", weights_only=True)


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    """Writes something into a file, as torch does."""

    def write(content: Any, name: str = "a.pth", **options: Any) -> Path:
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def adapters(tiny_folders: dict[str, Path]) -> dict[str, Promptable]:
    """By kind, on the tiny checkpoints."""
    return {kind: load_promptable(folder) for kind, folder in tiny_folders.items()}
