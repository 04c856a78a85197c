"""Checkpoints in their authors' own layout: read by content, converted, and refused with a reason."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import MINI
from originals import dinov2_original, sam_original, seeded
from PIL import Image
from safetensors.torch import load_file, save_file
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
from typer.testing import CliRunner

import prmagic
from prmagic.backbones.checkpoints import CheckpointError, load_pretrained
from prmagic.backbones.dino import Dino
from prmagic.backbones.original import read_original
from prmagic.backbones.sam import Sam
from prmagic.cli import app
from prmagic.export import file_sha256
from prmagic.types import Prompts

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


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each kind a folder in Hugging Face format, with the same weights in original.pth in the original layout."""
    found = {}
    for name, (_, model_class, config, original) in KINDS.items():
        found[name] = tmp_path_factory.mktemp("folder")
        torch.save(original(seeded(model_class, config, found[name])), found[name] / "original.pth")
    return found


@pytest.fixture
def weights(folders):
    """The original weights of a kind, to be changed."""
    return lambda name: torch.load(folders[name] / "original.pth", weights_only=True)


@pytest.fixture
def file(tmp_path):
    """Writes something into a file, as torch does."""

    def write(content, name="a.pth", **options):
        torch.save(content, tmp_path / name, **options)
        return tmp_path / name

    return write


def photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def prompts(*points, box=None, mask=None):
    return Prompts(np.array(points, np.float32), np.ones(len(points), np.int64), box, mask)


def refused(file, *words, kind="sam"):
    with pytest.raises(CheckpointError) as error:
        load_pretrained(kind, CLASSES[kind], file)
    message = str(error.value)
    assert str(file) in message
    assert "\n" not in message
    for word in words:
        assert word in message


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


class Hostile:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class TestNoWeights:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_code_in_a_pickle_is_not_run(self, zipped, file, weights, tmp_path):
        target = tmp_path / "run"
        content = {**weights("sam"), "extra": Hostile(target)}
        refused(file(content, _use_new_zipfile_serialization=zipped), "more than weights", "posix.system")
        assert not target.exists()
        (tmp_path / "plain.pth").write_bytes(pickle.dumps(content["extra"]))
        refused(tmp_path / "plain.pth", "no checkpoint")
        assert not target.exists()

    def test_settings_in_a_training_checkpoint(self, file, weights):
        training = {"model": weights("sam"), "args": argparse.Namespace(lr=0.1)}
        refused(file(training), "argparse.Namespace", "state_dict() alone")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize("kept", [0, 4, 100, 0.5, 0.99])
    def test_a_file_cut_short(self, kept, zipped, file, weights):
        path = file(weights("sam"), _use_new_zipfile_serialization=zipped)
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
        refused(path, "cut short", "download it again")

    def test_safetensors_cut_short(self, weights, tmp_path):
        save_file(weights("sam"), tmp_path / "a.safetensors")
        content = (tmp_path / "a.safetensors").read_bytes()
        (tmp_path / "a.safetensors").write_bytes(content[: len(content) // 2])
        refused(tmp_path / "a.safetensors", "cut short")

    @pytest.mark.parametrize("content", [b"<html>404</html>", b"hello, world", b"\x80\x02}q\0.", bytes(range(256))])
    def test_other_files(self, content, tmp_path):
        (tmp_path / "a.pth").write_bytes(content)
        refused(tmp_path / "a.pth")

    def test_another_zip(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
            archive.writestr("a.txt", "x")
        refused(tmp_path / "a.pth", "no checkpoint")

    @pytest.mark.parametrize("content", [{}, [1, 2], torch.zeros(3), {"epoch": 3}, {"model": {}}, {"model": [1]}])
    def test_no_weights_by_name(self, content, file):
        refused(file(content))

    @pytest.mark.parametrize(
        "value",
        [3, torch.arange(3), torch.zeros(2, 2).to_sparse(), [torch.zeros(2)]],
        ids=["int", "long", "sparse", "list"],
    )
    def test_something_else_among_the_weights(self, value, file, weights):
        refused(file(weights("sam") | {"other": value}), "something else among its weights, other")

    def test_a_name_that_is_none(self, file, weights):
        refused(file(weights("sam") | {7: torch.zeros(2)}), "something else among its weights, 7")

    @pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind here")
    def test_a_file_that_may_not_be_read(self, file, weights):
        path = file(weights("sam"))
        path.chmod(0)
        refused(path, "Permission denied")


class TestOtherWeights:
    def test_an_encoder_is_no_sam(self, folders):
        refused(folders["dinov2"] / "original.pth", "is a checkpoint of DINOv2,", "give it as encoder (--encoder)")
        refused(folders["registers"] / "original.pth", "is a checkpoint of DINOv2 with registers,", "(--encoder)")

    @pytest.mark.parametrize("name", ["sam", "sam_hq"])
    def test_a_sam_is_no_encoder(self, name, folders):
        refused(folders[name] / "original.pth", "which is no encoder", "give it as SAM (--sam)", kind="encoder")

    def test_a_sam_hq_where_only_sam_can_be_run(self, folders):
        with pytest.raises(CheckpointError, match="is a checkpoint of SAM-HQ; as SAM, 'sam' is needed here"):
            load_pretrained("sam", (SamModel,), folders["sam_hq"] / "original.pth")

    @pytest.mark.parametrize(
        "name, words",
        [
            ("image_encoder.patch_embed.seq.0.c.weight", "TinyViT"),  # MobileSAM, SAM-HQ's vit_tiny
            ("image_encoder.trunk.blocks.0.norm1.weight", "SAM 2"),
            ("tracker.maskmem_tpos_enc", "SAM 3"),
            ("storage_tokens", "DINOv3"),
            ("mask_decoder.hf_token.weight", "only a part of a SAM"),  # SAM-HQ's training saves what it trained
            ("layer4.2.conv3.weight", "of no model that is known here"),
        ],
    )
    def test_weights_of_other_models(self, name, words, file):
        refused(file({"model": {name: torch.zeros(2), "cls_token": torch.zeros(2)}}), words)

    @pytest.mark.parametrize("name", KINDS)
    def test_a_file_of_a_folder_in_hugging_face_format(self, name, folders):
        refused(folders[name] / "model.safetensors", "name the folder", "config.json", kind=KINDS[name][0])

    @pytest.mark.parametrize("name", KINDS)
    def test_weights_that_are_missing_or_misshapen(self, name, weights, monkeypatch, tmp_path):
        kind, whole = KINDS[name][0], weights(name)
        (tmp_path / "a.pth").touch()
        for changed in list(whole)[:: len(whole) // 12]:
            without = {key: weight for key, weight in whole.items() if key != changed}
            longer = torch.cat([whole[changed], whole[changed][:1]])
            for content in (without, whole | {changed: longer}, whole | {changed: torch.tensor(1.0)}):
                monkeypatch.setattr("prmagic.backbones.original._content", lambda file, content=content: content)
                refused(tmp_path / "a.pth", kind=kind)

    @pytest.mark.parametrize("name", ["image_encoder.blocks.2.norm1.bias", "mask_decoder.iou_token.weight"])
    def test_what_is_missing_is_named_as_in_the_file(self, name, file, weights):
        refused(file({key: w for key, w in weights("sam").items() if key != name}), f"lacks {name}:")

    def test_shapes_that_do_not_go_together_are_named(self, file, weights):
        changed = weights("dinov2") | {"blocks.1.mlp.fc1.weight": torch.zeros(100, 128)}
        refused(file(changed), "blocks.1.mlp.fc1.weight", "(100, 128)", "(384, 128)", kind="encoder")

    def test_weights_too_many(self, file, weights):
        changed = weights("sam") | {"image_encoder.blocks.0.adapter.weight": torch.zeros(3), "z": torch.zeros(1)}
        refused(
            file(changed), "holds more than a checkpoint of SAM:", "image_encoder.blocks.0.adapter.weight and 1 more"
        )

    def test_a_block_far_away_is_no_reason_to_build_all_before_it(self, file, weights):
        refused(file(weights("dinov2") | {"blocks.999999999.norm1.bias": torch.zeros(3)}), "lacks", kind="encoder")

    def test_a_width_that_no_published_encoder_has(self, tmp_path):
        config = Dinov2Config(hidden_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=28)
        torch.save(dinov2_original(seeded(Dinov2Model, config, tmp_path)), tmp_path / "a.pth")
        refused(tmp_path / "a.pth", "48 channels wide", "multiple of 64", kind="encoder")


def test_the_facade_takes_files(folders, mini):
    segmenter = prmagic.load("matcher", sam=folders["sam"] / "original.pth", encoder=folders["dinov2"] / "original.pth")
    same = prmagic.load("matcher", sam=folders["sam"], encoder=str(folders["dinov2"]))
    reference = segmenter.encode_support(prmagic.Support(mini["support_rgb"], mini["support_mask"]))
    result, expected = (each.segment(mini["query_rgb"], reference) for each in (segmenter, same))
    assert np.array_equal(result.mask, expected.mask)
    assert segmenter.framework.sam.name == str(folders["sam"] / "original.pth")


@pytest.mark.parametrize("command", ["segment", "evaluate"])
def test_the_commands_take_files_and_keep_their_checksums(command, folders, mini, tmp_path):
    for i in range(2):
        for part, pixels in {
            "images": mini["support_rgb"],
            "masks": mini["support_mask"].astype(np.uint8) * 255,
        }.items():
            (tmp_path / "data" / "cat" / part).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / "cat" / part / f"{i}.png")
    cat = tmp_path / "data" / "cat"
    sam, encoder = folders["sam"] / "original.pth", folders["registers"] / "original.pth"
    inputs = {
        "segment": (cat / "images" / "1.png", "--support", cat / "images" / "0.png", cat / "masks" / "0.png"),
        "evaluate": ("own", "--data", tmp_path / "data"),
    }
    models = ("--framework", "matcher", "--sam", sam, "--encoder", encoder, "--steps", 0)
    done = CliRunner().invoke(app, [str(a) for a in (command, *inputs[command], *models, "--out", tmp_path / "out")])
    assert done.exit_code == 0, done.output
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert run["weights"] == {"sam": {sam.name: file_sha256(sam)}, "encoder": {encoder.name: file_sha256(encoder)}}
    assert run["model"] == f"{sam} + {encoder}"


def test_checksums_are_not_compared(folders, mini, tmp_path):
    """The same weights in another kind of file go on where the first left off."""
    Image.fromarray(mini["query_rgb"]).save(tmp_path / "a.png")
    Image.fromarray(mini["support_rgb"]).save(tmp_path / "s.png")
    Image.fromarray(mini["support_mask"].astype(np.uint8)).save(tmp_path / "m.png")
    support = ("--support", tmp_path / "s.png", tmp_path / "m.png", "--steps", 0, "--out", tmp_path / "out")
    for sam in (folders["sam"], folders["sam"] / "original.pth"):
        done = CliRunner().invoke(app, [str(a) for a in ("segment", tmp_path / "a.png", "--sam", sam, *support)])
        assert done.exit_code == 0, done.output
    assert "1 of 1 photos are done already" in done.output


def test_every_published_name_is_listed_once():
    from prmagic.backbones.original import PUBLISHED

    assert "dinov2_vitg14_reg4_pretrain.pth" in PUBLISHED["encoder"]
    assert len({*PUBLISHED["sam"], *PUBLISHED["encoder"]}) == 6 + 8
    assert all(Path(name).suffix == ".pth" for names in PUBLISHED.values() for name in names)
