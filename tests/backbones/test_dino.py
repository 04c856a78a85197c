"""The encoders' adapter: the same tokens as transformers' own models, at any size, in batches, in half precision."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from common import MINI
from PIL import Image
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
)

from prmagic.backbones.checkpoints import CheckpointError
from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam

TINY = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8, "initializer_range": 0.2}
CONFIGS = {
    "dinov2": (Dinov2Model, Dinov2Config(**TINY, image_size=64)),
    "registers": (Dinov2WithRegistersModel, Dinov2WithRegistersConfig(**TINY, image_size=64, num_register_tokens=3)),
    "dinov3": (DINOv3ViTModel, DINOv3ViTConfig(**TINY, image_size=64, intermediate_size=96, num_register_tokens=4)),
}
LEADING = {"dinov2": 1, "registers": 4, "dinov3": 5}  # the class token and the registers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}
    for kind, (model_class, config) in CONFIGS.items():
        found[kind] = tmp_path_factory.mktemp(kind)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model_class(config).save_pretrained(found[kind])
    return found


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("size", [(64, 64), (40, 72), (96, 8)])
@pytest.mark.parametrize("kind", CONFIGS)
def test_tokens_are_those_of_the_original_model(kind, size, folders):
    encoder = Dino.load(folders[kind], input_size=size)
    image = photo(*size)
    (tokens,) = encoder.encode([image])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy((image / 255 - mean) / std).float().permute(2, 0, 1)[None]
    original = CONFIGS[kind][0].from_pretrained(folders[kind]).eval()
    norm = original.norm if kind == "dinov3" else original.layernorm
    entered = []
    norm.register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    with torch.no_grad():
        output = original(pixels, output_hidden_states=True)
    patches = (size[0] // 8) * (size[1] // 8)
    assert tokens.before_norm.shape == tokens.after_norm.shape == (patches, 48)
    expected = output.hidden_states[-1][0, LEADING[kind] :]
    torch.testing.assert_close(tokens.before_norm, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(tokens.before_norm, entered[0][0, LEADING[kind] :], atol=1e-4, rtol=1e-4)
    expected = output.last_hidden_state[0, LEADING[kind] :]
    torch.testing.assert_close(tokens.after_norm, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(tokens.before_norm, tokens.after_norm, atol=0.1)


@pytest.mark.parametrize("kind", CONFIGS)
def test_patches_come_row_by_row(kind, folders):
    encoder = Dino.load(folders[kind], input_size=(48, 64))
    image = photo(48, 64)
    other = image.copy()
    other[8:16, 40:48] = 255 - other[8:16, 40:48]  # the patch in row 1, column 5 of 6 × 8
    before, after = (tokens.before_norm for tokens in encoder.encode([image, other]))
    assert encoder.grid == (6, 8)
    assert int((before - after).norm(dim=1).argmax()) == 1 * 8 + 5


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (300, 20), (64, 48), (48, 64)])
def test_photos_of_any_size_are_squashed_to_the_input(encoder_folder, size):
    encoder = Dino.load(encoder_folder, input_size=(48, 64))
    image = photo(*size)
    squashed = np.array(Image.fromarray(image).resize((64, 48), Image.Resampling.BILINEAR))
    (tokens,), (expected,) = encoder.encode([image]), encoder.encode([squashed])
    assert tokens.before_norm.shape == (48, 48)
    assert torch.equal(tokens.before_norm, expected.before_norm)


def test_photos_of_different_sizes_in_one_call_are_as_if_alone(encoder):
    images = [photo(90, 120), photo(50, 30, 1), photo(1, 1, 2)]
    before = encoder.calls.encodes
    together = encoder.encode(iter(images))
    assert encoder.calls.encodes - before == 3
    for image, tokens in zip(images, together, strict=True):
        (alone,) = encoder.encode([image])
        assert torch.equal(tokens.before_norm, alone.before_norm)
        assert torch.equal(tokens.after_norm, alone.after_norm)
    assert encoder.encode([]) == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", CONFIGS)
def test_half_precision_gives_nearly_the_same_in_float32(kind, dtype, folders):
    image = photo(90, 120)
    (exact,) = Dino.load(folders[kind], input_size=(40, 72)).encode([image])
    (half,) = Dino.load(folders[kind], dtype=dtype, input_size=(40, 72)).encode([image])
    for name in ("before_norm", "after_norm"):
        ours, theirs = getattr(half, name), getattr(exact, name)
        assert ours.dtype == torch.float32
        assert torch.cosine_similarity(ours, theirs).min() > 0.995
        assert not torch.equal(ours, theirs)


def test_tokens_and_descriptors_are_unit_vectors_before_the_norm(encoder):
    images = [photo(90, 120), photo(50, 30, 1)]
    encoded, tokens, described = encoder.encode(images), encoder.tokens(images), encoder.describe(images)
    for each, found, vector in zip(encoded, tokens, described, strict=True):
        assert (found.grid, found.frame) == (encoder.grid, None)
        torch.testing.assert_close(found.vectors, torch.nn.functional.normalize(each.before_norm, dim=1))
        mean = each.before_norm.mean(0)
        torch.testing.assert_close(vector, mean / mean.norm())


def test_what_comes_back_needs_no_gradient(encoder):
    (tokens,) = encoder.encode([photo(9, 9)])
    assert not tokens.before_norm.requires_grad
    assert not any(weight.requires_grad for weight in encoder.model.parameters())


@pytest.mark.parametrize("kind, size", [("dinov2", 64), ("registers", 64), ("dinov3", 37 * 8)])
def test_the_input_size_is_what_the_model_was_trained_at_or_37_patches(kind, size, folders):
    encoder = Dino.load(folders[kind])
    assert encoder.input_size == (size, size)
    assert encoder.grid == (size // 8, size // 8)


def test_one_number_is_a_square(encoder_folder):
    encoder = Dino.load(encoder_folder, input_size=24)
    assert encoder.grid == (3, 3)
    assert encoder.encode([photo(9, 30)])[0].after_norm.shape == (9, 48)


@pytest.mark.parametrize("size", [(64, 60), (60, 64), 20, 0, (8, 0), (-8, 8)])
def test_an_input_that_patches_do_not_tile_is_refused(encoder_folder, size):
    height, width = (size, size) if isinstance(size, int) else size
    with pytest.raises(ValueError, match=f"multiple of its patch, 8 pixels; got {height} × {width}"):
        Dino.load(encoder_folder, input_size=size)


def test_a_checkpoint_of_another_kind_is_refused(encoder_folder):
    with pytest.raises(CheckpointError, match=r"is a 'sam' model; as encoder, 'dinov2' or .*'dinov3_vit' is needed"):
        Dino.load(MINI)
    with pytest.raises(CheckpointError, match="is a 'dinov2' model; as SAM, 'sam' is needed"):
        Sam.load(encoder_folder)


def test_checkpoints_that_are_missing_or_broken_are_refused(encoder_folder, tmp_path):
    with pytest.raises(CheckpointError, match="no encoder is called"):
        Dino.load("dino-of-nobody")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        Dino.load(tmp_path)
    broken = shutil.copytree(encoder_folder, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="damaged"):
        Dino.load(broken)


def test_a_fingerprint_tells_weights_not_places(folders, encoder_folder, tmp_path):
    prints = {Dino.load(folder).fingerprint for folder in (*folders.values(), encoder_folder)}
    assert len(prints) == 4
    moved = shutil.copytree(encoder_folder, tmp_path / "elsewhere")
    assert Dino.load(moved, dtype=torch.float16, input_size=24).fingerprint == Dino.load(encoder_folder).fingerprint


def test_attention_is_torchs_own_fused_one(encoder):
    used = {module.config._attn_implementation for module in encoder.model.modules() if hasattr(module, "config")}
    assert used == {"sdpa"}
