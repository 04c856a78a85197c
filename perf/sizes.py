"""The models whose speed is measured: the embedded ones, and SAM and DINOv2 of the published sizes, random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import Dinov2Config, Dinov2Model, SamConfig, SamModel, SamVisionConfig

from prmagic.backbones.checkpoints import EMBEDDED

SEED = 0


# transformers starts SAM's image encoder with weights of 1e-10, which leaves nothing of the photo in the embedding.
SIZES = {
    "vit-b": (SamVisionConfig(initializer_range=0.02), Dinov2Config(patch_size=14, image_size=518)),
    "vit-h": (
        SamVisionConfig(
            hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, global_attn_indexes=[7, 15, 23, 31],
            initializer_range=0.02,
        ),
        Dinov2Config(hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, patch_size=14, image_size=518),
    ),
}  # fmt: skip


def checkpoints(size: str, folder: Path) -> tuple[str, str]:
    """What to give as `sam` and `encoder` to prmagic.load; made in the folder where they are missing."""
    if size == EMBEDDED:
        return EMBEDDED, EMBEDDED
    vision, tokens = SIZES[size]
    sam, encoder = folder / f"sam-{size}-{SEED}", folder / f"encoder-{size}-{SEED}"
    if not (sam / "config.json").exists():
        torch.manual_seed(SEED)
        model = SamModel(SamConfig(vision_config=vision))
        # A trained SAM's positions have this deviation; transformers' start with hundreds of it.
        model.shared_image_embedding.positional_embedding.data.normal_()
        model.save_pretrained(sam)
    if not (encoder / "config.json").exists():
        torch.manual_seed(SEED)
        Dinov2Model(tokens).save_pretrained(encoder)
    return str(sam), str(encoder)
