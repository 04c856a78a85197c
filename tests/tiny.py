"""Checkpoints of every kind of promptable model in the published layout, small and with seeded random weights.

Structure and names of the weights are the real ones, down to the parts that only a video model has; only sizes differ.
EdgeTAM's image encoder comes from the package timm, which the tests do without: four convolutions stand for it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    PreTrainedConfig,
    PreTrainedModel,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam3VideoConfig,
    Sam3VideoModel,
    SamHQConfig,
    SamHQModel,
)

from prmagic.types import Prompts

CHANNELS = 32  # of the embedding: 8 × 8 cells
PROMPTS = {"hidden_size": CHANNELS, "image_size": 128, "patch_size": 16}
DECODER = {"hidden_size": CHANNELS, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": CHANNELS}
MEMORY = {
    "memory_attention_hidden_size": CHANNELS, "memory_attention_feed_forward_hidden_size": 64,
    "memory_attention_num_layers": 1, "memory_encoder_hidden_size": CHANNELS, "memory_encoder_output_channels": 16,
    "mask_downsampler_embed_dim": CHANNELS, "memory_fuser_embed_dim": CHANNELS, "memory_fuser_intermediate_dim": 64,
}  # fmt: skip
LEVELS = [[32, 32], [16, 16], [8, 8]]


class StagesConfig(PreTrainedConfig):
    model_type = "stages_of_the_tests"


class Stages(PreTrainedModel):
    """What EdgeTAM reads of timm's model: four maps of 8 to 64 channels, at a quarter to a 32nd of the input's size."""

    config_class = StagesConfig

    def __init__(self, config: StagesConfig):
        super().__init__(config)
        channels = (3, 8, 16, 32, 64)
        self.stages = nn.ModuleList(
            nn.Conv2d(before, after, kernel_size=4 if before == 3 else 2, stride=4 if before == 3 else 2)
            for before, after in pairwise(channels)
        )
        self.post_init()

    def forward(self, pixel_values: torch.Tensor, **_: object) -> SimpleNamespace:
        maps = [self.stages[0](pixel_values)]
        for stage in self.stages[1:]:
            maps.append(stage(maps[-1].relu()))
        return SimpleNamespace(last_hidden_state=maps, hidden_states=None)


AutoConfig.register(StagesConfig.model_type, StagesConfig)
AutoModel.register(StagesConfig, Stages)


def sam_hq() -> PreTrainedModel:
    vision = {
        "hidden_size": 32, "output_channels": CHANNELS, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": 128, "patch_size": 16, "window_size": 3, "global_attn_indexes": [1, 2], "num_pos_feats": 16,
    }  # fmt: skip
    decoder = DECODER | {"vit_dim": 32}
    return SamHQModel(SamHQConfig(vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=decoder))


def sam2() -> PreTrainedModel:
    hiera = {
        "model_type": "sam2_hiera_det_model", "hidden_size": 8, "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [8, 4, 4, 2], "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [4, 4],
    }  # fmt: skip
    vision = {
        "model_type": "sam2_vision_model", "backbone_config": hiera, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": LEVELS, "fpn_hidden_size": CHANNELS,
    }  # fmt: skip
    return Sam2VideoModel(
        Sam2VideoConfig(
            vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER, image_size=128,
            memory_attention_rope_feat_sizes=[8, 8], **MEMORY,
        )
    )  # fmt: skip


def edgetam() -> PreTrainedModel:
    vision = {
        "model_type": "edgetam_vision_model", "backbone_config": {"model_type": StagesConfig.model_type},
        "backbone_channel_list": [64, 32, 16, 8], "backbone_feature_sizes": LEVELS, "fpn_hidden_size": CHANNELS,
    }  # fmt: skip
    perceiver = {
        "perceiver_resampler_hidden_size": 16, "perceiver_resampler_num_latents": 4,
        "perceiver_resampler_num_latents_2d": 4, "memory_attention_mlp_hidden_size": 64,
    }  # fmt: skip
    return EdgeTamVideoModel(
        EdgeTamVideoConfig(
            vision_config=vision, prompt_encoder_config=PROMPTS, mask_decoder_config=DECODER, image_size=128,
            **MEMORY, **perceiver,
        )
    )  # fmt: skip


def sam3() -> PreTrainedModel:
    prompts = PROMPTS | {"image_size": 112, "patch_size": 14}
    vit = {
        "model_type": "sam3_vit_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": 112, "patch_size": 14, "window_size": 4, "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }  # fmt: skip
    vision = {
        "model_type": "sam3_vision_model", "backbone_config": vit, "fpn_hidden_size": CHANNELS,
        "backbone_feature_sizes": LEVELS,
    }  # fmt: skip
    text = {
        "model_type": "clip_text_model", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64,
        "projection_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    layers = {"hidden_size": CHANNELS, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    detector = {
        "model_type": "sam3", "vision_config": vision, "text_config": text, "geometry_encoder_config": layers,
        "detr_encoder_config": layers, "detr_decoder_config": layers | {"num_queries": 4},
        "mask_decoder_config": {"hidden_size": CHANNELS, "num_attention_heads": 2},
    }  # fmt: skip
    tracker = {
        "model_type": "sam3_tracker_video", "vision_config": vision, "prompt_encoder_config": prompts,
        "mask_decoder_config": DECODER, "image_size": 112, "memory_attention_rope_feat_sizes": [8, 8], **MEMORY,
    }  # fmt: skip
    return Sam3VideoModel(Sam3VideoConfig(detector_config=detector, tracker_config=tracker))


PUBLISHED = {"sam-hq": sam_hq, "sam2": sam2, "edgetam": edgetam, "sam3": sam3}


def save(kind: str, folder: Path) -> Path:
    """A checkpoint of that kind, with weights that make its layers neither silent nor saturated."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = PUBLISHED[kind]()
        for weight in model.parameters():
            spread = 0.3 if weight.dim() < 2 else (1.5 / weight[0].numel()) ** 0.5
            weight.normal_(1.0 if weight.dim() == 1 and weight.mean() > 0.5 else 0.0, spread)
    # Not `save_pretrained`: transformers 5.23 doubles the prefix of the tracker's weights, and then does not find them.
    model.config.save_pretrained(folder)
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def photo(height=90, width=120, seed=0):
    """Coarse blotches on fine noise, so that neither resizing nor position leaves it as it is."""
    source = np.random.default_rng(seed)
    coarse = Image.fromarray(source.integers(0, 256, (5, 7, 3), dtype=np.uint8)).resize((width, height))
    return np.clip(np.asarray(coarse) + source.integers(-40, 41, (height, width, 3)), 0, 255).astype(np.uint8)


def prompts(*points, labels=None, box=None, mask=None):
    labels = np.ones(len(points), np.int64) if labels is None else np.array(labels)
    return Prompts(np.array(points, np.float32).reshape(-1, 2), labels, box, mask)
