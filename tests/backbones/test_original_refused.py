"""Checkpoints in their authors' own layout: what is refused, and why."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile

import pytest
import torch
from originals import CLASSES, KINDS, dinov2_original, seeded
from safetensors.torch import save_file
from transformers import (
    Dinov2Config,
    Dinov2Model,
    SamModel,
)

from prmagic.backbones.checkpoints import CheckpointError, load_pretrained


def refused(file, *words, kind="sam"):
    with pytest.raises(CheckpointError) as error:
        load_pretrained(kind, CLASSES[kind], file)
    message = str(error.value)
    assert str(file) in message
    assert "\n" not in message
    for word in words:
        assert word in message


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
        refused(
            file(content, _use_new_zipfile_serialization=zipped), "more than weights", f"{os.system.__module__}.system"
        )
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
