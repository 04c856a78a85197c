"""Training runs, is resumed exactly, keeps the dev classes out, and makes a model that loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
import embedded_encoder
import embedded_sam
import scenes


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Eight photos with a bright rectangle each: six of class "box", two of the dev class "held out"."""
    root = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    lines = []
    for number in range(8):
        pixels = rng.integers(0, 120, (70, 90, 3), dtype=np.uint8)
        mask = np.zeros((70, 90), np.uint8)
        y, x = rng.integers(5, 35, 2)
        mask[y : y + 25, x : x + 30] = 3
        pixels[mask == 3] += 120
        Image.fromarray(pixels).save(root / f"{number}.png")
        Image.fromarray(mask).save(root / f"{number}_mask.png")
        line = {"image": f"{number}.png", "mask": f"{number}_mask.png", "mask_value": 3, "split": "train"}
        lines.append({**line, "dataset": "coco", "class": "box" if number < 6 else "held out"})
    for name in ("index.jsonl", "instances.jsonl"):
        (root / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    (root / "dev_classes.txt").write_text("held out\n")
    return root


def test_dev_classes_are_kept_out(data):
    assert len(scenes.load_photos(data, dev=False)) == 6
    held_out = scenes.load_photos(data, dev=True)
    assert len(held_out) == 2
    assert {name for photo in held_out for _, _, name in photo.targets} == {"held out"}


def test_samples_are_a_function_of_seed_and_step(data):
    photos = scenes.load_photos(data, dev=False)

    def make():
        return scenes.Sampler(photos, 64, masks_per_image=2, pairs=2, singles=1, seed=5)

    first, again = make().batch(7), make().batch(7)
    assert len(first) == 5
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.masks, b.masks)
        assert a.image.shape == (64, 64, 3)
        assert a.masks.shape == (2, 64, 64)
        assert not a.masks[:, a.valid[0] :].any()
    assert not np.array_equal(first[0].image, make().batch(8)[0].image)


def test_masks_follow_their_image(data):
    """The rectangle is the bright part, so image and mask must stay aligned through crop, resize and flip."""
    sampler = scenes.Sampler(scenes.load_photos(data, dev=False), 64, 1, pairs=6, singles=0, seed=0)
    for sample in sampler.batch(0):
        inside, outside = (sample.image[sample.masks[0] == value].mean() for value in (True, False))
        assert inside > outside


def run_interrupted(training, data, out, monkeypatch, *recipe):
    """Train, broken off in the third step, after the checkpoint of the second; then go on."""
    real, calls = training.validate, []

    def stop_at_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "validate", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        training.train(data, out, *recipe)
    monkeypatch.setattr(training, "validate", real)
    training.train(data, out, *recipe)


@pytest.mark.slow
def test_an_interrupted_run_ends_like_an_undisturbed_one(data, tmp_path, monkeypatch):
    stages = (
        embedded_sam.Stage(size=64, steps=3, lr=1e-3, pairs=1, singles=1, balanced_steps=2),
        embedded_sam.Stage(size=128, steps=1, lr=1e-3, pairs=1, singles=0),
    )
    monkeypatch.setattr(embedded_sam, "STAGES", stages)
    monkeypatch.setattr(embedded_sam, "VALIDATE_EVERY", 2)
    embedded_sam.train(data, tmp_path / "whole")

    run_interrupted(embedded_sam, data, tmp_path / "broken", monkeypatch)
    whole, broken = (Sam.load(tmp_path / name / "embedded_sam") for name in ("whole", "broken"))
    assert whole.input_size == 128
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, broken.model.state_dict()[name]), name


class TestEncoder:
    @pytest.fixture()
    def crops(self, data):
        photos = scenes.load_photos(data, dev=False)
        return embedded_encoder.Crops(photos, ["box"], 64, pairs=2, views=1, seed=5)

    def test_crops_are_a_function_of_seed_and_step(self, crops):
        first, again, other = crops.batch(7), crops.batch(7), crops.batch(8)
        assert first.pixels.shape == (6, 3, 64, 64)
        assert first.labels.shape == (6, 64)
        assert torch.equal(first.pixels, again.pixels)
        assert torch.equal(first.places, again.places)
        assert not torch.equal(first.pixels, other.pixels)

    def test_labels_follow_their_image(self, crops):
        """The rectangle is the bright part, so pixels and patch labels stay aligned through crop, resize and flip."""
        batch = crops.batch(0)
        brightness = torch.nn.functional.avg_pool2d(batch.pixels.mean(1), 8).flatten(1)
        for row in range(4):
            inside = batch.labels[row] == 0
            assert inside.any()
            assert brightness[row][inside].mean() > brightness[row][~inside].mean()

    def test_views_find_the_place_that_they_share(self):
        """Tokens that are a function of the place alone cost less than shuffled ones."""
        grid = torch.stack(torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy"), -1).flatten(0, 1)
        places = torch.cat([grid + 0.5, torch.ones(64, 2)], 1).expand(2, -1, -1)
        tokens = torch.nn.functional.normalize(torch.randn(64, 16, generator=torch.Generator().manual_seed(0)), dim=1)
        aligned = embedded_encoder.view_loss(torch.stack([tokens, tokens]), places)
        shuffled = embedded_encoder.view_loss(torch.stack([tokens, tokens.roll(5, 0)]), places)
        assert aligned < 0.5 < shuffled

    @pytest.mark.slow
    def test_an_interrupted_run_ends_like_an_undisturbed_one(self, data, tmp_path, monkeypatch):
        recipe = embedded_encoder.Recipe(size=64, steps=3, lr=1e-3, pairs=1, views=1)
        monkeypatch.setattr(embedded_encoder, "VALIDATE_EVERY", 2)
        embedded_encoder.train(data, tmp_path / "whole", recipe)
        run_interrupted(embedded_encoder, data, tmp_path / "broken", monkeypatch, recipe)
        whole, broken = (Dino.load(tmp_path / name / "embedded_encoder") for name in ("whole", "broken"))
        assert whole.grid == (32, 32)
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, broken.model.state_dict()[name]), name
