"""Absurd numbers in a config.json are told before a model is built from them."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import transformers
from common import MINI

from prmagic.backbones.checkpoints import EMBEDDED_FOLDER, CheckpointError, load_pretrained
from prmagic.backbones.config_sizes import check_config

PUBLISHED = (
    "SamConfig", "SamHQConfig", "Sam2Config", "Sam2VideoConfig", "Sam3TrackerConfig", "EdgeTamConfig",
    "EdgeTamVideoConfig", "Dinov2Config", "Dinov2WithRegistersConfig", "DINOv3ViTConfig",
)  # fmt: skip
SIZES = {
    "num_hidden_layers": (10**7, -1, 0, "8", 2.5), "hidden_size": (10**9, -192, 0, "wide", 192.5),
    "image_size": (10**6, -256, 0, "256", [256, 10**6]), "patch_size": (0, -8, 10**6),
    "num_attention_heads": (10**9, 0), "num_channels": (10**9, 0), "window_size": (10**9, -1), "mlp_dim": (10**9,),
}  # fmt: skip


def config(folder=MINI):
    return json.loads((folder / "config.json").read_text())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_ones_pass(name):
    kind = getattr(transformers, name)
    check_config(json.loads(kind().to_json_string(use_diff=False)), name)


@pytest.mark.parametrize("folder", [MINI, EMBEDDED_FOLDER / "sam", EMBEDDED_FOLDER / "encoder"], ids=lambda f: f.name)
def test_ours_pass(folder):
    check_config(config(folder), "ours", folder)


@pytest.mark.parametrize("key, value", [(key, value) for key, values in SIZES.items() for value in values], ids=str)
def test_sizes_that_cannot_be(key, value):
    with pytest.raises(CheckpointError, match=rf"^m is damaged: its config.json says vision_config\.{key} = "):
        check_config({"vision_config": {key: value}}, "m")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_none(value):
    with pytest.raises(CheckpointError, match=r"layer_norm_eps = .*, which is no finite number"):
        check_config({"layer_norm_eps": value}, "m")


def test_more_layers_than_there_are_tensors():
    with pytest.raises(CheckpointError, match=r"num_hidden_layers = 999, but its model.safetensors holds \d+ tensors"):
        check_config({"num_hidden_layers": 999}, "m", MINI)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"num_hidden_layers": 10**7}, "num_hidden_layers = 10000000; 1 to 1,000 is possible there"),
        ({"hidden_size": 48}, "its weights have other shapes than its config.json asks for"),
    ],
)
def test_a_folder_of_a_model_is_refused(changes, told, tmp_path):
    folder = shutil.copytree(MINI, tmp_path / "sam")
    written = config()
    written["vision_config"] |= changes
    (folder / "config.json").write_text(json.dumps(written))
    with pytest.raises(CheckpointError, match=told) as raised:
        load_pretrained("sam", [transformers.SamModel], folder)
    assert "ignore_mismatched" not in str(raised.value)
