"""Checkpoints in their authors' own layout: read by content and converted."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from common import MINI, photo
from originals import CLASSES, KINDS, dinov2_original, sam_config, sam_hq_config, sam_original, seeded
from safetensors.torch import load_file, save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    SamHQModel,
    SamModel,
)

import prmagic
from prmagic.backbones.checkpoints import load_pretrained
from prmagic.backbones.dino import Dino
from prmagic.backbones.original import read_original
from prmagic.backbones.sam import Sam
from prmagic.types import Prompts


def prompts(*points, box=None, mask=None):
    return Prompts(np.array(points, np.float32), np.ones(len(points), np.int64), box, mask)


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_converted_there_and_back(name, folders, tmp_path):
    kind, model_class, config, original = KINDS[name]
    model = load_pretrained(kind, CLASSES[kind], folders[name] / "original.pth")
    assert type(model) is model_class
    assert not model.training
    same = load_pretrained(kind, CLASSES[kind], folders[name])
    assert model.state_dict().keys() == same.state_dict().keys()
    for key, weight in same.state_dict().items():
        assert torch.equal(model.state_dict()[key], weight), key
    model.save_pretrained(tmp_path)
    back = original(load_file(tmp_path / "model.safetensors"))
    written = torch.load(folders[name] / "original.pth", weights_only=True)
    assert back.keys() == written.keys()
    assert all(torch.equal(back[key], written[key]) for key in written)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        if hasattr(config, part):
            assert_same_sizes(getattr(model.config, part), getattr(config, part))
    assert_same_sizes(model.config, config)


def assert_same_sizes(ours, theirs):
    ours, theirs = ours.to_dict(), theirs.to_dict()
    for key in set(theirs) - {"dtype", "architectures", "_name_or_path"} - {k for k in theirs if k.endswith("_config")}:
        value = list(ours[key]) if isinstance(ours[key], tuple) else ours[key]
        # SAM's decoder does not use the ratio once it has the MLP's size.
        assert value == theirs[key] or key in ("mlp_ratio", "vision_config"), key


def test_a_sam_encodes_and_decodes_as_from_a_folder(folders):
    ours, theirs = Sam.load(folders["sam"] / "original.pth"), Sam.load(folders["sam"])
    assert ours.fingerprint == theirs.fingerprint
    same_answers(ours, theirs)


def same_answers(ours, theirs):
    (z,), (expected,) = ours.encode([photo(50, 60)]), theirs.encode([photo(50, 60)])
    torch.testing.assert_close(z.features, expected.features, atol=1e-5, rtol=0)
    side = z.features.shape[-1] * 4
    mask = torch.randn(side, side, generator=torch.Generator().manual_seed(1))
    sets = [prompts((3, 4)), prompts((3, 4), (40, 20), box=(5, 6, 30, 40)), prompts((9, 9), mask=mask)]
    for multimask in (True, False):
        answers, wanted = (model.decode(expected, sets, multimask=multimask) for model in (ours, theirs))
        torch.testing.assert_close(answers.logits, wanted.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(answers.predicted_iou, wanted.predicted_iou, atol=1e-5, rtol=0)
    assert wanted.logits.std() > 1e-3  # and not all alike


def test_a_sam_gives_what_the_published_code_gave(mini, monkeypatch, tmp_path):
    """The arrays are the published implementation's, on these weights; it was given half of its heads for them."""
    monkeypatch.setattr("prmagic.backbones.original.SAM_DECODER_HEADS", 4)
    torch.save(sam_original(load_file(MINI / "model.safetensors")), tmp_path / "a.pth")
    sam = Sam.load(tmp_path / "a.pth")
    (z,) = sam.encode([mini["support_rgb"]])
    torch.testing.assert_close(z.features, torch.from_numpy(mini["support_embedding"]), atol=1e-4, rtol=0)
    (logits,) = sam.decode(z, [prompts(mini["support_point"][0])]).logits
    torch.testing.assert_close(logits, torch.from_numpy(mini["support_point_logits"]), atol=1e-4, rtol=0)


def test_a_sam_hq_answers_as_from_a_folder(folders):
    ours, theirs = (
        load_pretrained("sam", CLASSES["sam"], f) for f in (folders["sam_hq"] / "original.pth", folders["sam_hq"])
    )
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[[10.0, 20.0]]]])
    with torch.no_grad():
        answers, wanted = (model(pixels, input_points=points) for model in (ours, theirs))
    torch.testing.assert_close(answers.pred_masks, wanted.pred_masks, atol=1e-5, rtol=0)
    torch.testing.assert_close(answers.iou_scores, wanted.iou_scores, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [42, 56])
@pytest.mark.parametrize("name", ["dinov2", "swiglu", "registers", "registers, swiglu"])
def test_an_encoder_gives_the_tokens_of_a_folder(name, size, folders):
    ours, theirs = (Dino.load(f, input_size=size) for f in (folders[name] / "original.pth", folders[name]))
    assert ours.fingerprint == theirs.fingerprint
    (tokens,), (expected,) = ours.encode([photo(50, 60)]), theirs.encode([photo(50, 60)])
    assert tokens.before_norm.shape == ((size // 14) ** 2, 128)
    torch.testing.assert_close(tokens.before_norm, expected.before_norm, atol=1e-5, rtol=0)
    torch.testing.assert_close(tokens.after_norm, expected.after_norm, atol=1e-5, rtol=0)


def dinov2_tokens(weights, pixels, heads):
    """DINOv2 as its paper (arXiv 2304.07193) has it, on weights by their original names: all tokens after the norm."""

    def linear(name, x):
        return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps=1e-6)

    patch = weights["patch_embed.proj.weight"]
    x = F.conv2d(pixels, patch, weights["patch_embed.proj.bias"], stride=patch.shape[-1]).flatten(2).mT
    x = torch.cat([weights["cls_token"], x], 1) + weights["pos_embed"]
    if "register_tokens" in weights:  # behind the class token, without positions
        x = torch.cat([x[:, :1], weights["register_tokens"], x[:, 1:]], 1)
    for i in range(sum(name.endswith("ls1.gamma") for name in weights)):
        block = f"blocks.{i}"
        q, k, v = linear(f"{block}.attn.qkv", norm(f"{block}.norm1", x)).unflatten(-1, (3, heads, -1)).unbind(2)
        mixed = F.scaled_dot_product_attention(*(each.transpose(1, 2) for each in (q, k, v))).transpose(1, 2).flatten(2)
        x = x + weights[f"{block}.ls1.gamma"] * linear(f"{block}.attn.proj", mixed)
        inside = norm(f"{block}.norm2", x)
        if f"{block}.mlp.w12.weight" in weights:
            gate, value = linear(f"{block}.mlp.w12", inside).chunk(2, -1)
            inside = linear(f"{block}.mlp.w3", F.silu(gate) * value)
        else:
            inside = linear(f"{block}.mlp.fc2", F.gelu(linear(f"{block}.mlp.fc1", inside)))
        x = x + weights[f"{block}.ls2.gamma"] * inside
    return norm("norm", x)


@pytest.mark.parametrize("name", ["dinov2", "swiglu", "registers", "registers, swiglu"])
def test_an_encoder_computes_what_the_original_weights_mean(name, folders, weights):
    encoder = Dino.load(folders[name] / "original.pth")
    (tokens,) = encoder.encode([photo(42, 42)])
    with torch.no_grad():
        expected = dinov2_tokens(weights(name), encoder.preprocess(photo(42, 42))[None], heads=2)
    torch.testing.assert_close(tokens.after_norm, expected[0, -9:], atol=1e-4, rtol=1e-4)


PUBLISHED_SAMS = {  # width, depth, heads, global blocks
    "sam_vit_b": (768, 12, 12, [2, 5, 8, 11]),
    "sam_vit_l": (1024, 24, 16, [5, 11, 17, 23]),
    "sam_vit_h": (1280, 32, 16, [7, 15, 23, 31]),
}


@pytest.mark.parametrize("name", PUBLISHED_SAMS)
@pytest.mark.parametrize("hq", [False, True])
def test_the_published_sizes_of_sam(name, hq, monkeypatch, tmp_path):
    width, depth, heads, global_blocks = PUBLISHED_SAMS[name]
    vision = {
        "hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads,
        "global_attn_indexes": global_blocks, "image_size": 1024, "patch_size": 16, "window_size": 14,
    }  # fmt: skip
    # What the published code builds: a decoder of 256 channels, 8 heads and 2048 in its MLP, in 2 layers.
    decoder = {"hidden_size": 256, "mlp_dim": 2048, "num_attention_heads": 8, "layer_norm_eps": 1e-5}
    build, model_class = (sam_hq_config, SamHQModel) if hq else (sam_config, SamModel)
    config = build(vision, {"hidden_size": 256, "image_size": 1024, "patch_size": 16}, decoder)
    model = converted_without_values(model_class, config, lambda w: sam_original(w, hq), monkeypatch, tmp_path)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        assert_same_sizes(getattr(model.config, part), getattr(config, part))


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(
    "size, width, depth, heads", [("s", 384, 12, 6), ("b", 768, 12, 12), ("l", 1024, 24, 16), ("g", 1536, 40, 24)]
)
def test_the_published_sizes_of_dinov2(size, width, depth, heads, registers, monkeypatch, tmp_path):
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "image_size": 518}
    sizes |= {"patch_size": 14, "use_swiglu_ffn": size == "g"}
    if registers:
        config, model_class = Dinov2WithRegistersConfig(**sizes, num_register_tokens=4), Dinov2WithRegistersModel
    else:
        config, model_class = Dinov2Config(**sizes), Dinov2Model
    model = converted_without_values(model_class, config, dinov2_original, monkeypatch, tmp_path)
    assert_same_sizes(model.config, config)
    assert model.embeddings.position_embeddings.shape == (1, 1 + 37 * 37, width)


def converted_without_values(model_class, config, original, monkeypatch, tmp_path):
    """A full-size model on the meta device, written as a file would be, and converted; gigabytes that are not there."""
    from transformers.core_model_loading import revert_weight_conversion

    with torch.device("meta"):
        model = model_class(config)
    saved = revert_weight_conversion(model, dict(model.state_dict()))
    monkeypatch.setattr("prmagic.backbones.original._content", lambda file: original(saved))
    return read_original(tmp_path / "any.pth").convert(model_class)


def described(config):
    """All that it says of the model, which gives the same answers if the weights are the same, too."""
    about_the_file = ("_name_or_path", "architectures", "dtype")
    return {
        key: described(value) if isinstance(value, dict) else value
        for key, value in config.items() if key not in about_the_file
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("hq", [False, True])
def test_a_sam_of_the_size_of_vit_b(hq, tmp_path):
    build, model_class = (sam_hq_config, SamHQModel) if hq else (sam_config, SamModel)
    config = build({"hidden_size": 768}, {}, {"layer_norm_eps": 1e-5})
    torch.save(sam_original(seeded(model_class, config, tmp_path), hq), tmp_path / "sam_vit_b.pth")
    ours, theirs = (load_pretrained("sam", (model_class,), f) for f in (tmp_path / "sam_vit_b.pth", tmp_path))
    assert described(ours.config.to_dict()) == described(theirs.config.to_dict())
    assert same_weights(ours, theirs)


@pytest.mark.slow
def test_a_dinov2_of_the_size_of_vit_b(tmp_path):
    weights = dinov2_original(seeded(Dinov2Model, Dinov2Config(image_size=518), tmp_path))
    torch.save(weights, tmp_path / "dinov2_vitb14_pretrain.pth")
    ours, theirs = (Dino.load(f) for f in (tmp_path / "dinov2_vitb14_pretrain.pth", tmp_path))
    (tokens,), (expected,) = ours.encode([photo(50, 60)]), theirs.encode([photo(50, 60)])
    assert ours.grid == (37, 37)
    torch.testing.assert_close(tokens.before_norm, expected.before_norm, atol=1e-5, rtol=0)


class TestWaysToSave:
    @pytest.mark.parametrize("name", ["sam", "dinov2"])
    def test_safetensors_whatever_the_name(self, name, weights, tmp_path, folders):
        save_file(weights(name), tmp_path / "nothing.said")
        kind = KINDS[name][0]
        model = load_pretrained(kind, CLASSES[kind], tmp_path / "nothing.said")
        assert same_weights(model, load_pretrained(kind, CLASSES[kind], folders[name]))

    def test_torch_before_it_used_zip(self, file, weights, folders):
        old = file(weights("sam"), _use_new_zipfile_serialization=False)
        assert not zipfile.is_zipfile(old)
        assert Sam.load(old).fingerprint == Sam.load(folders["sam"]).fingerprint

    def test_half_precision_becomes_float32(self, file, weights):
        half = OrderedDict((name, weight.half()) for name, weight in weights("dinov2").items())
        model = load_pretrained("encoder", CLASSES["encoder"], file(half))
        assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}

    @pytest.mark.parametrize("under", ["model", "state_dict", "teacher"])
    def test_a_training_checkpoint(self, under, file, weights, folders):
        training = {under: weights("sam"), "epoch": 3, "optimizer": {"lr": 0.1}}
        assert Sam.load(file(training)).fingerprint == Sam.load(folders["sam"]).fingerprint

    def test_data_parallel_training(self, file, weights, folders):
        wrapped = {f"module.{name}": weight for name, weight in weights("sam").items()}
        assert Sam.load(file({"model": wrapped})).fingerprint == Sam.load(folders["sam"]).fingerprint

    def test_dinov2s_teacher_with_its_heads_and_its_blocks_in_chunks(self, file, weights, folders):
        teacher = {"dino_head.last_layer.weight": torch.zeros(3, 3), "ibot_head.mlp.0.bias": torch.zeros(3)}
        for name, weight in weights("registers").items():
            chunked = (
                name.replace("blocks.2.", "blocks.1.2.") if "blocks.2" in name else name.replace("blocks.", "blocks.0.")
            )
            teacher[f"backbone.{chunked}"] = weight
        model = load_pretrained("encoder", CLASSES["encoder"], file({"teacher": teacher}))
        assert same_weights(model, load_pretrained("encoder", CLASSES["encoder"], folders["registers"]))

    def test_pixel_statistics_are_no_weights(self, file, weights, folders):
        kept = weights("sam") | {"pixel_mean": torch.zeros(3, 1, 1), "pixel_std": torch.ones(3, 1, 1)}
        assert Sam.load(file(kept)).fingerprint == Sam.load(folders["sam"]).fingerprint

    def test_the_file_is_not_needed_any_more(self, file, weights, folders):
        path = file(weights("sam"))
        sam = Sam.load(path)
        path.write_bytes(b"\0" * path.stat().st_size)
        same_answers(sam, Sam.load(folders["sam"]))


def same_weights(ours, theirs):
    return all(torch.equal(weight, theirs.state_dict()[key]) for key, weight in ours.state_dict().items())


def test_the_facade_takes_files(folders, mini):
    segmenter = prmagic.load("matcher", sam=folders["sam"] / "original.pth", encoder=folders["dinov2"] / "original.pth")
    same = prmagic.load("matcher", sam=folders["sam"], encoder=str(folders["dinov2"]))
    reference = segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))
    result, expected = (each.segment(mini["query_rgb"], reference) for each in (segmenter, same))
    assert np.array_equal(result.mask, expected.mask)
    assert segmenter.framework.sam.name == str(folders["sam"] / "original.pth")


def test_every_published_name_is_listed_once():
    from prmagic.backbones.original import PUBLISHED

    assert "dinov2_vitg14_reg4_pretrain.pth" in PUBLISHED["encoder"]
    assert len({*PUBLISHED["sam"], *PUBLISHED["encoder"]}) == 6 + 8
    assert all(Path(name).suffix == ".pth" for names in PUBLISHED.values() for name in names)
