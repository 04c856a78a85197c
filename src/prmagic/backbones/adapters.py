"""Which adapter is for which checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from prmagic.backbones.checkpoints import load_pretrained
from prmagic.backbones.promptable import FLOAT, Promptable
from prmagic.backbones.sam import Sam
from prmagic.backbones.sam2 import Sam2, Sam3Tracker
from prmagic.backbones.sam_hq import SamHQ

ADAPTERS: tuple[type[Promptable], ...] = (Sam, SamHQ, Sam2, Sam3Tracker)


def load_promptable(name: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype = FLOAT) -> Promptable:
    """A SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3 from a hub id such as facebook/sam2.1-hiera-large, a folder in Hugging
    Face format, or "embedded"; what it is, its config.json says.

    Raises CheckpointError, which says what to do, for a checkpoint that is missing, broken or of another kind."""
    model = load_pretrained("sam", [known for adapter in ADAPTERS for known in adapter.model_classes], name)
    adapter = next(adapter for adapter in ADAPTERS if isinstance(model, adapter.model_classes))
    return adapter(model, str(name), device, dtype)
