"""Checkpoints in their authors' own layout, made from transformers' models by a list of names written down by hand.

The list is independent of the package's patterns, so that what the one direction gets wrong, the other does not undo.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)

Pairs = Iterator[tuple[str, str]]  # a module's name in the original, and in transformers' files


def sam_modules(depth: int, hq: bool = False) -> Pairs:
    yield "image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection"
    for i in range(depth):
        block, layer = f"image_encoder.blocks.{i}", f"vision_encoder.layers.{i}"
        yield f"{block}.norm1", f"{layer}.layer_norm1"
        yield f"{block}.norm2", f"{layer}.layer_norm2"
        for same in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
            yield f"{block}.{same}", f"{layer}.{same}"
    for i, name in enumerate(("conv1", "layer_norm1", "conv2", "layer_norm2")):
        yield f"image_encoder.neck.{i}", f"vision_encoder.neck.{name}"
    for i in range(4):
        yield f"prompt_encoder.point_embeddings.{i}", f"prompt_encoder.point_embed.{i}"
    for same in ("prompt_encoder.not_a_point_embed", "prompt_encoder.no_mask_embed"):
        yield same, same
    for i, name in {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}.items():
        yield f"prompt_encoder.mask_downscaling.{i}", f"prompt_encoder.mask_embed.{name}"
    for same in ("mask_decoder.iou_token", "mask_decoder.mask_tokens"):
        yield same, same
    attentions = ["final_attn_token_to_image"]
    for i in range(2):
        layer = f"mask_decoder.transformer.layers.{i}"
        for n in range(1, 5):
            yield f"{layer}.norm{n}", f"{layer}.layer_norm{n}"
        yield f"{layer}.mlp.lin1", f"{layer}.mlp.lin1"
        yield f"{layer}.mlp.lin2", f"{layer}.mlp.lin2"
        for attention in ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token"):
            attentions.append(f"layers.{i}.{attention}")
    for attention in attentions:
        for letter in ("q", "k", "v", "out"):
            same = f"mask_decoder.transformer.{attention}.{letter}_proj"
            yield same, same
    yield "mask_decoder.transformer.norm_final_attn", "mask_decoder.transformer.layer_norm_final_attn"
    yield "mask_decoder.output_upscaling.0", "mask_decoder.upscale_conv1"
    yield "mask_decoder.output_upscaling.1", "mask_decoder.upscale_layer_norm"
    yield "mask_decoder.output_upscaling.3", "mask_decoder.upscale_conv2"
    rows = {f"output_hypernetworks_mlps.{i}": f"output_hypernetworks_mlps.{i}" for i in range(4)}
    rows["iou_prediction_head"] = "iou_prediction_head"
    if hq:
        rows["hf_mlp"] = "hq_mask_mlp"
        yield "mask_decoder.hf_token", "mask_decoder.hq_token"
        for i, name in {0: "conv1", 1: "norm", 3: "conv2"}.items():
            yield f"mask_decoder.compress_vit_feat.{i}", f"mask_decoder.compress_vit_{name}"
            yield f"mask_decoder.embedding_encoder.{i}", f"mask_decoder.encoder_{name}"
            yield f"mask_decoder.embedding_maskfeature.{i}", f"mask_decoder.mask_{name}"
    for original, row in rows.items():
        for i, name in enumerate(("proj_in", "layers.0", "proj_out")):
            yield f"mask_decoder.{original}.layers.{i}", f"mask_decoder.{row}.{name}"


def sam_original(weights: Mapping[str, Tensor], hq: bool = False) -> dict[str, Tensor]:
    """segment-anything's state dict, or SAM-HQ's, of transformers' saved weights; every one of them is used."""
    left = dict(weights)
    depth = sum(name.endswith("attn.rel_pos_h") for name in weights)
    shared = "prompt_encoder.shared_embedding.positional_embedding"
    positions = [left.pop(name) for name in (shared, "shared_image_embedding.positional_embedding") if name in left]
    original = {
        "image_encoder.pos_embed": left.pop("vision_encoder.pos_embed"),
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix": positions[0],
    }
    for i in range(depth):
        for axis in ("attn.rel_pos_h", "attn.rel_pos_w"):
            original[f"image_encoder.blocks.{i}.{axis}"] = left.pop(f"vision_encoder.layers.{i}.{axis}")
    original |= _modules(sam_modules(depth, hq), left)
    assert not left
    return original


def dinov2_original(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """DINOv2's state dict, with registers or without, of transformers' saved weights; every one of them is used."""
    left = dict(weights)
    depth = sum(name.endswith("norm1.weight") for name in weights)
    original = {"pos_embed": left.pop("embeddings.position_embeddings")}
    for name in ("cls_token", "mask_token", "register_tokens"):
        if f"embeddings.{name}" in left:
            original[name] = left.pop(f"embeddings.{name}")

    def modules() -> Pairs:
        yield "patch_embed.proj", "embeddings.patch_embeddings.projection"
        yield "norm", "layernorm"
        for i in range(depth):
            block, layer = f"blocks.{i}", f"encoder.layer.{i}"
            for same in ("norm1", "norm2", "mlp.fc1", "mlp.fc2"):
                yield f"{block}.{same}", f"{layer}.{same}"
            yield f"{block}.mlp.w12", f"{layer}.mlp.weights_in"
            yield f"{block}.mlp.w3", f"{layer}.mlp.weights_out"
            yield f"{block}.attn.proj", f"{layer}.attention.output.dense"

    for i in range(depth):
        for n in (1, 2):
            original[f"blocks.{i}.ls{n}.gamma"] = left.pop(f"encoder.layer.{i}.layer_scale{n}.lambda1")
        for end in ("weight", "bias"):
            three = (left.pop(f"encoder.layer.{i}.attention.attention.{n}.{end}") for n in ("query", "key", "value"))
            original[f"blocks.{i}.attn.qkv.{end}"] = torch.cat(list(three))
    original |= _modules(modules(), left)
    assert not left
    return original


def _modules(pairs: Pairs, left: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        f"{original}.{end}": left.pop(f"{ours}.{end}")
        for original, ours in pairs
        for end in ("weight", "bias")
        if f"{ours}.{end}" in left
    }


def seeded(model_class: Any, config: Any, folder: Path) -> dict[str, Tensor]:
    """A model of random weights, all of them, saved in Hugging Face format; the weights as they stand in the file."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = model_class(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5 if parameter.ndim > 1 else 0.5)
    model.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


CLASSES = {"sam": (SamModel, SamHQModel), "encoder": (Dinov2Model, Dinov2WithRegistersModel)}
# Windows of 3 in a grid of 8, so that they do not fit, and no two sizes alike that need not be.
VISION = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "image_size": 64, "patch_size": 8,
    "mlp_dim": 40, "window_size": 3, "global_attn_indexes": [1, 3], "output_channels": 48, "num_pos_feats": 24,
}  # fmt: skip
PROMPT = {"hidden_size": 48, "image_size": 64, "patch_size": 8, "mask_input_channels": 12}
DECODER = {"hidden_size": 48, "mlp_dim": 56, "num_attention_heads": 8, "iou_head_hidden_dim": 20}
DECODER |= {"attention_downsample_rate": 3, "layer_norm_eps": 1e-5}
TINY = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 42, "patch_size": 14}


def sam_config(vision, prompt, decoder):
    return SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


def sam_hq_config(vision, prompt, decoder):
    decoder = {**decoder, "vit_dim": vision["hidden_size"]}
    return SamHQConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder)


def sam_hq_original(weights):
    return sam_original(weights, hq=True)


# What it serves as, transformers' class, a small configuration, and how to write it in the original layout.
KINDS = {
    "sam": ("sam", SamModel, sam_config(VISION, PROMPT, DECODER), sam_original),
    "sam_hq": ("sam", SamHQModel, sam_hq_config(VISION, PROMPT, DECODER), sam_hq_original),
    "dinov2": ("encoder", Dinov2Model, Dinov2Config(**TINY, mlp_ratio=3), dinov2_original),
    "swiglu": ("encoder", Dinov2Model, Dinov2Config(**TINY, use_swiglu_ffn=True), dinov2_original),
    "registers": (
        "encoder", Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**TINY, num_register_tokens=4), dinov2_original,
    ),
    "registers, swiglu": (
        "encoder", Dinov2WithRegistersModel,
        Dinov2WithRegistersConfig(**TINY, num_register_tokens=2, use_swiglu_ffn=True), dinov2_original,
    ),
}  # fmt: skip


def save_all(folder: Path) -> dict[str, Path]:
    """Of each kind a folder in Hugging Face format, with the same weights in original.pth in the original layout."""
    found = {}
    for name, (_, model_class, config, original) in KINDS.items():
        found[name] = folder / name
        torch.save(original(seeded(model_class, config, found[name])), found[name] / "original.pth")
    return found
