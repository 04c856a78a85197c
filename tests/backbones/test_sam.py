"""The SAM adapter: geometry, batches of ragged prompts, gradients, precision, and loading."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from common import MINI
from transformers import Dinov2Config, Dinov2Model

from prmagic.backbones.adapters import load_promptable
from prmagic.backbones.checkpoints import CheckpointError
from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Frame
from prmagic.backbones.sam import Sam
from prmagic.backbones.sam2 import SquashedFrame
from prmagic.types import Prompts


def prompts(*points, box=None, mask=None):
    return Prompts(np.array(points, np.float32), np.ones(len(points), np.int64), box, mask)


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "size, resized, cells",
    [
        ((90, 120), (96, 128), (12, 16)),
        ((120, 90), (128, 96), (16, 12)),
        ((500, 1000), (64, 128), (8, 16)),
        ((1000, 7), (128, 1), (16, 1)),  # 7 · 0.128 = 0.896, rounded; never less than one pixel
        ((1, 1), (128, 128), (16, 16)),
        ((1, 5000), (1, 128), (1, 16)),
        ((60, 128), (60, 128), (8, 16)),  # 60 / 8 = 7.5 cells: the eighth row holds half a cell of photo
    ],
)
def test_frame_of_any_size(sam, size, resized, cells):
    frame = sam.frame(size)
    assert frame.resized == resized
    assert frame.cells == cells


def test_points_scale_with_each_side(sam):
    frame = sam.frame((90, 120))
    torch.testing.assert_close(frame.to_model(torch.tensor([[60.0, 45.0]])), torch.tensor([[64.0, 48.0]]))


@pytest.mark.parametrize("size", [(90, 120), (33, 200), (1, 1), (200, 3)])
def test_maps_come_back_at_the_photo_size_from_the_unpadded_part(sam, size):
    frame = sam.frame(size)
    rows, columns = frame.cells
    grid = torch.full((16, 16), -1.0)
    grid[: rows + 1, : columns + 1] = 1.0  # one cell more than the photo, so that interpolation stays inside
    up = frame.upscale(grid.repeat_interleave(4, 0).repeat_interleave(4, 1))
    assert up.shape == size
    assert (up > 0.99).all()


def test_upscale_keeps_leading_axes(sam):
    maps = torch.randn(2, 3, 64, 64)
    up = sam.frame((90, 120)).upscale(maps)
    assert up.shape == (2, 3, 90, 120)
    assert torch.equal(up[1, 2], sam.frame((90, 120)).upscale(maps[1, 2]))


def test_padding_is_zero_after_normalisation(sam):
    pixels = sam.preprocess(photo(64, 128))
    assert pixels.shape == (3, 128, 128)
    assert (pixels[:, 64:] == 0).all()
    assert (pixels[:, :64] != 0).any()


def test_images_of_different_sizes_in_one_call_are_as_if_alone(sam):
    images = [photo(90, 120), photo(50, 30, 1), photo(1, 1, 2)]
    together = sam.encode(images)
    for image, embedding in zip(images, together, strict=True):
        assert torch.equal(embedding.features, sam.encode([image])[0].features)
        assert embedding.frame == sam.frame(image.shape[:2])


def test_ragged_prompts_in_one_call_are_as_if_alone(sam):
    (embedding,) = sam.encode([photo(90, 120)])
    mask = torch.randn(64, 64)
    sets = [
        prompts((3, 4)),
        prompts((3, 4), (50, 60), (80, 20)),
        prompts((3, 4), box=(1, 2, 70, 80)),
        prompts((9, 9), mask=mask),
        prompts((100, 80)),
        prompts((9, 9), (10, 10), box=(1, 2, 70, 80), mask=mask),
    ]
    together = sam.decode(embedding, sets)
    assert together.logits.shape == (6, 3, 64, 64)
    assert together.predicted_iou.shape == (6, 3)
    for row, one in enumerate(sets):
        alone = sam.decode(embedding, [one])
        torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(together.predicted_iou[row], alone.predicted_iou[0], atol=1e-5, rtol=0)


def test_a_box_needs_no_point(sam):
    (embedding,) = sam.encode([photo(90, 120)])
    box = Prompts(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), (10, 20, 70, 60))
    alone, mixed = sam.decode(embedding, [box]), sam.decode(embedding, [prompts((3, 4)), box])
    assert alone.logits.shape == (1, 3, 64, 64)
    torch.testing.assert_close(mixed.logits[1], alone.logits[0], atol=1e-5, rtol=0)


def test_the_decoder_normalises_as_published_whatever_config_says(sam, tmp_path):
    folder = shutil.copytree(MINI, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["mask_decoder_config"]["layer_norm_eps"] = 1e-6
    (folder / "config.json").write_text(json.dumps(config))
    (embedding,) = sam.encode([photo(90, 120)])
    assert torch.equal(
        Sam.load(folder).decode(embedding, [prompts((3, 4))]).logits, sam.decode(embedding, [prompts((3, 4))]).logits
    )


def test_one_embedding_for_each_prompt_set(sam):
    first, second = sam.encode([photo(90, 120), photo(60, 60, 1)])
    together = sam.decode([first, second, first], [prompts((3, 4)), prompts((5, 6)), prompts((7, 8))])
    torch.testing.assert_close(together.logits[1], sam.decode(second, [prompts((5, 6))]).logits[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(together.logits[2], sam.decode(first, [prompts((7, 8))]).logits[0], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="2 embeddings for 1 prompt sets"):
        sam.decode([first, second], [prompts((3, 4))])


def test_many_prompt_sets(sam):
    (embedding,) = sam.encode([photo(90, 120)])
    decoded = sam.decode(embedding, [prompts((x, 5)) for x in range(70)], multimask=False)
    assert decoded.logits.shape == (70, 1, 64, 64)


def test_no_graph_unless_the_embedding_asks_for_one(sam):
    (embedding,) = sam.encode([photo(90, 120)])
    assert not sam.decode(embedding, [prompts((3, 4))]).logits.requires_grad
    moving = embedding.features.clone().requires_grad_()
    logits = sam.decode(embedding.moved_to(moving), [prompts((3, 4))]).logits
    (gradient,) = torch.autograd.grad(logits.sum(), moving)
    assert gradient.shape == embedding.features.shape
    assert gradient.abs().max() > 0
    with torch.no_grad():
        assert not sam.decode(embedding.moved_to(moving), [prompts((3, 4))]).logits.requires_grad


def test_gradient_is_the_slope(sam):
    (embedding,) = sam.encode([photo(90, 120)])
    direction = torch.randn(embedding.features.shape, generator=torch.Generator().manual_seed(0))
    moving = embedding.features.clone().requires_grad_()

    def total(features):
        return sam.decode(embedding.moved_to(features), [prompts((30, 40))]).logits.mean()

    (gradient,) = torch.autograd.grad(total(moving), moving)
    step = 1e-2
    with torch.no_grad():
        slope = (total(moving + step * direction) - total(moving - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, rtol=2e-2, atol=1e-5)


def test_parameters_are_frozen(sam):
    assert not any(parameter.requires_grad for parameter in sam.model.parameters())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_encodes_nearly_the_same_and_decodes_in_float32(sam, dtype):
    half = Sam.load(MINI, dtype=dtype)
    (exact,), (rough,) = sam.encode([photo(90, 120)]), half.encode([photo(90, 120)])
    assert rough.features.dtype == torch.float32
    torch.testing.assert_close(rough.features, exact.features, atol=0.05, rtol=0)
    moving = rough.features.clone().requires_grad_()
    logits = half.decode(rough.moved_to(moving), [prompts((3, 4))]).logits
    assert logits.dtype == torch.float32
    assert torch.autograd.grad(logits.sum(), moving)[0].dtype == torch.float32
    assert half.fingerprint == sam.fingerprint


def test_calls_are_counted():
    sam = Sam.load(MINI)
    (embedding, _) = sam.encode([photo(9, 12), photo(12, 9)])
    sam.decode(embedding, [prompts((3, 4)), prompts((5, 6))])
    assert (sam.calls.encodes, sam.calls.decodes) == (2, 2)


class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path):
        return shutil.copytree(MINI, tmp_path / "model")

    def refused(self, name, *words):
        with pytest.raises(CheckpointError) as error:
            Sam.load(name)
        for word in words:
            assert word in str(error.value)

    def test_a_missing_folder(self, tmp_path):
        self.refused(tmp_path / "nothing", "no SAM is called", "facebook/sam-vit-base")

    def test_a_mistyped_name_suggests_the_nearest(self):
        self.refused("embeded", "did you mean 'embedded'")

    def test_a_hub_name_that_is_not_cached_says_what_to_do(self):
        self.refused("facebook/sam-vit-hug", "did you mean 'facebook/sam-vit-huge'", "hf download", "local folder")

    @pytest.mark.parametrize(
        "load, name", [(load_promptable, "facebook/sam3"), (Dino.load, "facebook/dinov3-vitb16-pretrain-lvd1689m")]
    )
    def test_a_gated_model_says_where_to_ask(self, load, name):
        with pytest.raises(
            CheckpointError, match=f"gated: .*Ask for access at https://huggingface.co/{name}.*auth login"
        ):
            load(name)

    def test_a_file_of_the_folder(self, folder):
        self.refused(folder / "model.safetensors", "Hugging Face format", "name the folder")

    def test_a_folder_without_config(self, folder):
        (folder / "config.json").unlink()
        self.refused(folder, "no config.json")

    def test_a_truncated_file(self, folder):
        content = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
        self.refused(folder, str(folder), "damaged")

    def test_missing_weights(self, folder):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights.pop("mask_decoder.iou_token.weight")
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        self.refused(folder, "mask_decoder.iou_token.weight", "again")

    def test_weights_of_another_shape(self, folder):
        config = json.loads((folder / "config.json").read_text())
        config["vision_config"]["mlp_dim"] = 64
        (folder / "config.json").write_text(json.dumps(config))
        self.refused(folder, str(folder))

    def test_another_kind_of_model(self, tmp_path):
        config = Dinov2Config(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=28)
        Dinov2Model(config).save_pretrained(tmp_path)
        self.refused(tmp_path, "'dinov2'", "'sam'")

    def test_another_weight_is_another_fingerprint(self, folder, sam):
        from safetensors.torch import load_file, save_file

        weights = load_file(folder / "model.safetensors")
        weights["mask_decoder.iou_token.weight"] += 1
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        assert Sam.load(folder).fingerprint != sam.fingerprint


@pytest.mark.parametrize("photo", [(90, 120), (300, 41), (7, 1000)])
@pytest.mark.parametrize("squashed", [False, True])
def test_many_maps_are_upscaled_as_one_is(photo, squashed):
    frame = Frame(photo, (96, 128), 128, 16)
    if squashed:
        frame = SquashedFrame(photo, (128, 128), 128, 16)
    maps = torch.randn(3, 2, 32, 32, generator=torch.Generator().manual_seed(0))
    for size in ((20, 30), photo):
        torch.testing.assert_close(frame.upscale_many(maps, size), frame.upscale(maps, size), rtol=1e-4, atol=1e-5)
    rows, columns = slice(1, 6), slice(20, photo[1] - 3)
    part = frame.upscale(maps)[..., rows, columns]
    torch.testing.assert_close(frame.upscale_part(maps, rows, columns), part, rtol=1e-4, atol=1e-5)
