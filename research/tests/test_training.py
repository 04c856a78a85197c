"""Training runs, is resumed exactly, keeps the dev classes out, and makes a model that loads."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import curves
import embedded_encoder
import embedded_sam
import scenes
import synthetic
from attention import attention
from optimizer import MUON_RATE, Optimizer
from prmagic.backbones.dino import Dino
from prmagic.backbones.sam import Sam
from schedule import trapezoid

SOURCES = scenes.Sources({"coco": 1.0}, synthetic=0.3, species=3)
PERMISSIVE = {"coco", "davis2016", "feralcats", "facade", "kuih", "coffeeleaf", "nuclei"}
PERMISSIVE |= {"caltech101", "caltech101_white"}
PHOTOS_ONLY = scenes.Sources({"coco": 1.0}, synthetic=0.0, species=0)


@pytest.fixture(scope="module")
def drawn():
    """The scenes of SOURCES."""
    return scenes.render_scenes(SOURCES, workers=2)


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
    assert len(scenes.load_photos([data], dev=False)) == 6
    held_out = scenes.load_photos([data], dev=True)
    assert len(held_out) == 2
    assert {name for photo in held_out for _, _, name in photo.targets} == {"held out"}


@pytest.fixture
def more(tmp_path):
    """A second folder: ten photos of "plate" and two of "fork", void in the right half; no dev classes."""
    lines = []
    for number in range(12):
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 5:40] = 7
        mask[:, 30:] = scenes.VOID
        Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(tmp_path / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / f"{number}_mask.png")
        line = {"image": f"{number}.png", "mask": f"{number}_mask.png", "mask_value": 7, "split": "train"}
        lines.append({**line, "dataset": "kitchen", "class": "plate" if number < 10 else "fork"})
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "instances.jsonl").write_text("")
    return tmp_path


def relabel(folder, **changes):
    """The last line of a folder's index, changed."""
    lines = (folder / "index.jsonl").read_text().splitlines()
    lines[-1] = json.dumps({**json.loads(lines[-1]), **changes})
    (folder / "index.jsonl").write_text("\n".join(lines))


def test_dev_classes_of_one_folder_are_kept_out_of_all(data, more):
    assert len(scenes.load_photos([data, more], dev=False)) == 18
    relabel(more, **{"class": "held out"})
    assert len(scenes.load_photos([data, more], dev=False)) == 17
    assert len(scenes.load_photos([data, more], dev=True)) == 3
    with pytest.raises(ValueError, match="has a dev_classes"):
        scenes.load_photos([more], dev=False)


def test_test_classes_are_refused(data, more):
    relabel(more, split="test")
    with pytest.raises(ValueError, match="'fork' is a class of the test split"):
        scenes.load_photos([data, more], dev=False)


def test_a_source_is_drawn_by_class(data, more):
    """Of ten plates and two forks, a fork is drawn more often than every sixth time."""
    sources = scenes.Sources({"kitchen": 1.0}, 0.0, 0)
    sampler = scenes.Sampler(scenes.load_photos([data, more], dev=False), [], sources, 64, 1, 0, 1, seed=0)
    rng = np.random.default_rng(0)
    drawn = [photo.targets[target][2] for photo, target in (sampler._single(rng) for _ in range(400))]
    assert drawn.count("fork") / 400 == pytest.approx(2**0.5 / (2**0.5 + 10**0.5), abs=0.07)


def test_void_follows_its_image(data, more):
    sources = scenes.Sources({"kitchen": 1.0}, 0.0, 0)
    photos = scenes.load_photos([data, more], sources, dev=False)
    sampler = scenes.Sampler(photos, [], sources, 60, 1, pairs=6, singles=0, seed=0, augment=False)
    for sample in sampler.batch(0):
        assert sample.masks[0].any() and not (sample.void & sample.masks[0]).any()
        assert not sample.void[sample.valid[0] :].any()
    assert any(sample.void.any() for sample in sampler.batch(0))


def test_void_costs_nothing():
    """Losses are the same whatever the logits say where nobody knows."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 16, 16, generator=generator)
    truth = (torch.rand(2, 1, 16, 16, generator=generator) > 0.5).float().expand_as(logits)
    known = torch.ones(2, 1, 16, 16)
    known[..., 10:] = 0
    other = torch.where(known > 0, logits, torch.full_like(logits, 9.0))
    other[..., 10:12] = logits[..., 10:12]  # the outline of a guess at the border of the known may differ
    losses = (embedded_sam.soft_dice, embedded_sam.focal, embedded_sam.balanced, embedded_sam.overlap)
    for loss in (*losses, embedded_sam.outline_loss):
        torch.testing.assert_close(loss(logits, truth, known), loss(other, truth, known))
        assert not torch.allclose(loss(logits, truth, known), loss(-logits, truth, known))


def test_crumbs_and_coarse_outlines_cost():
    cover = torch.zeros(1, 1, 32, 32)
    cover[..., 8:24, 8:24] = 1
    known = torch.ones_like(cover)
    exact = 8 * (2 * cover - 1)
    crumbled, shifted = exact.clone(), exact.roll(2, 3)
    crumbled[..., 2, 2] = crumbled[..., 28, 28] = 8
    cost = [float(embedded_sam.outline_loss(each, cover, known)) for each in (exact, crumbled, shifted)]
    assert cost[0] < 0.01 and cost[1] > cost[0] + 0.1 and cost[2] > cost[0] + 0.1


def test_samples_are_a_function_of_seed_and_step(data, drawn):
    photos = scenes.load_photos([data], dev=False)

    def make():
        return scenes.Sampler(photos, drawn, SOURCES, 64, masks_per_image=2, pairs=2, singles=1, seed=5)

    first, again = make().batch(7), make().batch(7)
    assert len(first) == 5
    for a, b in zip(first, again, strict=True):
        assert np.array_equal(a.image, b.image)
        assert np.array_equal(a.masks, b.masks)
        assert a.image.shape == (64, 64, 3)
        assert a.masks.shape == (2, 64, 64)
        assert not a.masks[:, a.valid[0] :].any()
    assert not np.array_equal(first[0].image, make().batch(8)[0].image)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_come_in_order_whoever_draws_them(data, drawn, workers):
    photos = scenes.load_photos([data], dev=False)
    sampler = scenes.Sampler(photos, drawn, SOURCES, 32, masks_per_image=1, pairs=1, singles=0, seed=5)
    for step, batch in enumerate(scenes.load_batches(sampler, range(3, 7), workers, torch.device("cpu")), 3):
        for found, expected in zip(batch, sampler[step], strict=True):
            assert torch.equal(found, expected)


def test_outside_the_photo_is_nothing():
    images = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    masks, void = torch.ones(1, 1, 32, 32, dtype=torch.bool), torch.zeros(1, 32, 32, dtype=torch.bool)
    drawn = images, masks, torch.tensor([[32, 17]]), void
    batch = embedded_sam.collate(drawn, torch.device("cpu"))
    assert (batch.pixels[..., :17] > 2).all()
    assert (batch.pixels[..., 17:] == 0).all()
    assert batch.valid[0].tolist() == [[True, True, True, False]] * 4


@pytest.mark.parametrize("augment", [True, False])
def test_masks_follow_their_image(data, augment):
    """The rectangle is the bright part, so image and mask must stay aligned through crop, resize, flip and paste."""
    photos = scenes.load_photos([data], dev=False)
    sampler = scenes.Sampler(photos, [], PHOTOS_ONLY, 64, 1, pairs=12, singles=0, seed=0, augment=augment)
    for sample in sampler.batch(0):
        there = np.zeros((64, 64), bool)
        there[: sample.valid[0], : sample.valid[1]] = True
        inside, outside = (sample.image[there & (sample.masks[0] == value)].mean() for value in (True, False))
        assert inside > outside


def test_scenes_need_species():
    with pytest.raises(ValueError, match="number of species"):
        scenes.load_sources({"weights": {"coco": 1.0}, "synthetic": 0.2})


def test_only_the_named_sources_and_licences(data, tmp_path):
    for path in data.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "coco_attribution.tsv").write_text("image\tlicence\n0.png\tCC BY 2.0\n1.png\tCC BY-NC 2.0\n")
    free = scenes.Sources({"coco": 1.0}, 0.0, 0, coco_licences=("CC BY 2.0",))
    assert len(scenes.load_photos([tmp_path], free, dev=False)) == 1
    assert not scenes.load_photos([tmp_path], scenes.Sources({"camvid": 1.0}, 0.0, 0), dev=False)


def test_a_thing_put_before_a_picture_hides_what_is_behind(data):
    photos = scenes.load_photos([data], dev=False)
    sampler = scenes.Sampler(photos, [], PHOTOS_ONLY, 64, 2, pairs=1, singles=0, seed=0)
    everywhere = np.ones((2, 64, 64), bool)
    blank = scenes.Sample(np.zeros((64, 64, 3), np.uint8), everywhere, (64, 64), everywhere[0])
    pasted = sampler._paste(blank, photos[0], 0, np.random.default_rng(0), wanted=True)
    assert pasted.masks[0].any()
    assert not (pasted.masks[0] & pasted.masks[1]).any()
    assert np.array_equal(pasted.void, ~pasted.masks[0])
    assert pasted.image[pasted.masks[0]].mean() > 50 > pasted.image[pasted.masks[1]].mean()


class TestSyntheticScenes:
    def test_a_scene_is_a_function_of_the_generator(self):
        first, again, other = (synthetic.scene(np.random.default_rng(seed), 3, 96, 9) for seed in (0, 0, 1))
        for one, same in zip(first, again, strict=True):
            assert np.array_equal(one, same)
        assert not np.array_equal(first[1], other[1])
        assert max(first[0].shape[:2]) == 96

    def test_parts_lie_within_their_things(self):
        _, things, parts = synthetic.scene(np.random.default_rng(0), 3, 96, 9)
        assert np.array_equal(things > 0, parts > 0)
        for part in np.unique(parts[parts > 0]):
            assert len(np.unique(things[parts == part])) == 1

    def test_one_species_looks_alike(self):
        """Its mean colour, over two scenes, is nearer to its own than to another species'."""

        def colour(view, species):
            photo = scenes.synthetic_photo(species, view, 12, 96)
            return photo.rgb[photo.mask(0)].mean(0)

        one, two = (np.array([colour(view, species) for species in range(12)]) for view in (0, 1))
        distances = np.linalg.norm(one[:, None] - two, axis=2)
        assert np.median(np.diag(distances)) < 0.5 * np.median(distances)

    def test_the_thing_of_the_species_can_be_seen(self, drawn):
        assert [len(views) for views in drawn] == [scenes.VIEWS] * SOURCES.species
        for photo in (photo for views in drawn for photo in views):
            assert photo.mask(0).mean() >= scenes.MIN_SHARE


def test_the_rate_before_the_cool_down_does_not_depend_on_the_length():
    early, late = (trapezoid(500, steps, 2.0, warmup=100, cooldown=0.2) for steps in (1000, 5000))
    assert early == late == 2.0
    assert trapezoid(49, 1000, 2.0, warmup=100, cooldown=0.2) == 1.0
    assert trapezoid(900, 1000, 2.0, warmup=100, cooldown=0.2) == 1.0
    assert 0 < trapezoid(999, 1000, 2.0, warmup=100, cooldown=0.2) < 0.02


@pytest.mark.parametrize("shape", [((2, 3, 64, 16), (2, 3, 64, 16)), ((2, 4, 5, 16), (2, 4, 30, 16))])
def test_plain_attention_is_attention(shape):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(shape[0], generator=generator)
    key, value = (torch.randn(shape[1], generator=generator) for _ in range(2))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention(query, key, value), expected)


@pytest.mark.parametrize("shape", [(24, 24), (48, 16), (16, 48)])
def test_matrices_move_by_steps_without_a_preferred_direction(shape):
    """Muon's first step is the gradient with all of its singular values about 1, whatever they were."""
    linear = torch.nn.Linear(shape[1], shape[0], dtype=torch.float32)
    torch.manual_seed(0)
    before, bias = linear.weight.detach().clone(), linear.bias.detach().clone()
    u, _, v = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    linear.weight.grad = u @ torch.diag(torch.logspace(0, -1, 16 if 16 in shape else 24)) @ v
    linear.bias.grad = torch.ones(shape[0])
    Optimizer(linear).step(0.01)
    assert linear.weight.grad is None and linear.bias.grad is None
    step = (before * (1 - 0.01 * MUON_RATE * 0.05) - linear.weight.detach()) / (0.01 * MUON_RATE * 0.2)
    sizes = torch.diagonal(u.T @ step @ v.T) / max(shape) ** 0.5
    assert (sizes > 0.5).all() and (sizes < 1.5).all()
    torch.testing.assert_close(bias - linear.bias.detach(), torch.full_like(bias, 0.01))  # AdamW's first step


def test_a_random_point_lies_in_its_region():
    region = torch.zeros(3, 4, 6, dtype=torch.bool)
    region[0, 2, 5] = region[1, 1, 3] = True
    points = embedded_sam.random_point(region, torch.Generator().manual_seed(0))
    assert points[:2].tolist() == [[5, 2], [3, 1]]


def test_a_box_holds_its_region():
    region = torch.zeros(2, 4, 6, dtype=torch.bool)
    region[0, 1:3, 2:5] = True
    assert embedded_sam.bounding_box(region).tolist() == [[2, 1, 4, 2], [0, 0, 5, 3]]


@pytest.mark.parametrize(
    "path", sorted((Path(scenes.__file__).parent / "configs").iterdir()), ids=lambda path: path.stem
)
def test_configurations_can_be_read(path):
    module = embedded_sam if path.stem.startswith("sam-") else embedded_encoder
    recipe = module.load_recipe(path)
    assert sum(recipe.sources.weights.values()) == pytest.approx(1)
    if "everything" not in path.stem:
        assert set(recipe.sources.weights) <= PERMISSIVE
        assert not any("NC" in licence for licence in recipe.sources.coco_licences)


def run_interrupted(training, recipe, data, out, monkeypatch):
    """Train, broken off after the checkpoint of the fourth step; then go on."""
    real, calls = training.validate, []

    def stop_at_second(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(training, "validate", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        training.train(recipe, [data], out)
    monkeypatch.setattr(training, "validate", real)
    training.train(recipe, [data], out)


@pytest.mark.slow
def test_an_interrupted_run_ends_like_an_undisturbed_one(data, tmp_path, monkeypatch):
    stages = (
        embedded_sam.Stage(size=64, steps=5, lr=1e-3, pairs=1, singles=1, balanced_steps=2),
        embedded_sam.Stage(size=128, steps=1, lr=1e-3, pairs=1, singles=0),
    )
    recipe = embedded_sam.Recipe(SOURCES, stages)
    monkeypatch.setattr(embedded_sam, "VALIDATE_EVERY", 2)
    monkeypatch.setattr(embedded_sam, "CHECKPOINT_EVERY", 0)
    embedded_sam.train(recipe, [data], tmp_path / "whole")

    run_interrupted(embedded_sam, recipe, data, tmp_path / "broken", monkeypatch)
    embedded_sam.export_checkpoint(recipe, tmp_path / "broken", tmp_path / "unfinished")
    assert Sam.load(tmp_path / "unfinished").input_size == 128
    whole, broken = (Sam.load(tmp_path / name / "embedded_sam") for name in ("whole", "broken"))
    assert whole.input_size == 128
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, broken.model.state_dict()[name]), name


def test_a_run_goes_on_from_given_weights():
    start = Sam.load("embedded").model.float().state_dict()
    recipe = embedded_sam.Recipe(
        PHOTOS_ONLY, (embedded_sam.Stage(size=256, steps=1, lr=1e-3, pairs=1, singles=0),), start="embedded"
    )
    for name, weight in embedded_sam.initial_model(recipe).state_dict().items():
        assert torch.equal(weight, start[name]), name


def test_a_finished_run_only_exports_again(data, tmp_path, monkeypatch):
    recipe = embedded_sam.Recipe(PHOTOS_ONLY, (embedded_sam.Stage(size=64, steps=1, lr=1e-3, pairs=1, singles=0),))
    encoder = embedded_encoder.Recipe(PHOTOS_ONLY, size=64, steps=1, lr=1e-3, pairs=1, views=1)
    for training, given in ((embedded_sam, recipe), (embedded_encoder, encoder)):
        out = tmp_path / training.__name__
        training.train(given, [data], out)
        weights = out / training.__name__ / "model.safetensors"
        first = weights.read_bytes()
        weights.unlink()
        monkeypatch.setattr(training, "load_photos", None)  # what would be called, were anything trained
        training.train(given, [data], out)
        assert weights.read_bytes() == first
        monkeypatch.undo()
        longer = (
            replace(given, steps=2) if given is encoder else replace(given, stages=(replace(given.stages[0], steps=2),))
        )
        training.train(longer, [data], out)  # goes on where it had stopped
        steps = [json.loads(line)["step"] for line in (out / "log.jsonl").read_text().splitlines()]
        assert steps == [1, 2] and weights.read_bytes() != first


class TestEncoder:
    def test_it_starts_from_the_sams_image_encoder(self):
        block = embedded_encoder.build_model().encoder.layer[3]
        theirs = Sam.load("embedded").model.float().vision_encoder.layers[3]
        queries = next(each for name, each in block.named_parameters() if "q" in name and name.endswith("weight"))
        assert torch.equal(queries, theirs.attn.qkv.weight[:192])
        assert torch.equal(block.mlp.fc2.weight, theirs.mlp.lin2.weight)
        assert torch.equal(block.norm1.bias, theirs.layer_norm1.bias)

    @pytest.fixture()
    def crops(self, data, drawn):
        photos = scenes.load_photos([data], dev=False)
        return embedded_encoder.Crops(photos, drawn, ["box"], SOURCES, 64, pairs=2, views=1, seed=5)

    def test_crops_are_a_function_of_seed_and_step(self, crops):
        first, again, other = crops[7], crops[7], crops[8]
        assert first.pixels.shape == (6, 3, 64, 64)
        assert first.labels.shape == (6, 64)
        assert torch.equal(first.pixels, again.pixels)
        assert torch.equal(first.places, again.places)
        assert not torch.equal(first.pixels, other.pixels)

    def test_labels_follow_their_image(self, data):
        """The rectangle is the bright part, so pixels and patch labels stay aligned through crop, resize and flip."""
        photos = scenes.load_photos([data], dev=False)
        batch = embedded_encoder.Crops(photos, [], ["box"], PHOTOS_ONLY, 64, pairs=2, views=1, seed=5)[0]
        brightness = torch.nn.functional.avg_pool2d(batch.pixels.float().mean(1), 8).flatten(1)
        for row in range(4):
            inside = batch.labels[row] == batch.wanted[row // 2]
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

    def test_patches_of_the_class_that_match_cost_less(self):
        """Two pictures whose halves are alike, against one whose halves are changed about; a couple without the class
        counts for nothing."""
        left = torch.arange(8).repeat(2) < 4
        labels = torch.where(left, 3, -1).expand(4, -1).clone()
        labels[2:] = -1
        tokens = torch.where(left[:, None], torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).expand(4, -1, -1)
        wanted = torch.tensor([3, 3])
        alike = embedded_encoder.pair_loss(tokens, labels, wanted)
        torch.testing.assert_close(alike, embedded_encoder.pair_loss(tokens[:2], labels[:2], wanted[:1]))
        swapped = torch.stack([tokens[0], tokens[1].flip(1), *tokens[2:]])
        assert alike < 0.5 < embedded_encoder.pair_loss(swapped, labels, wanted)
        unknown = torch.where(labels == -1, embedded_encoder.VOID, labels)
        sure = embedded_encoder.pair_loss(swapped, unknown, wanted)
        torch.testing.assert_close(sure, torch.zeros(()), atol=1e-4, rtol=0)

    def test_void_is_no_class(self, data, more):
        (photo, *_) = scenes.load_photos([data, more], scenes.Sources({"kitchen": 1.0}, 0.0, 0), dev=False)
        labels = embedded_encoder.label_map(photo, ["fork", "plate"])
        assert labels[20, 20] == 1 and labels[0, 0] == -1 and labels[20, 50] == embedded_encoder.VOID

    def test_a_sam_that_would_not_be_used_is_refused(self, data, tmp_path, monkeypatch, capsys):
        config = json.loads((Path(scenes.__file__).parent / "configs/encoder-everything.json").read_text())
        path = tmp_path / "config.json"
        path.write_text(json.dumps({**config, "start": "embedded"}))
        command = ["x", "--config", str(path), "--data", str(data), "--out", str(tmp_path / "out"), "--sam", "embedded"]
        monkeypatch.setattr(sys, "argv", command)
        with pytest.raises(SystemExit):
            embedded_encoder.main()
        assert "--sam would do nothing" in capsys.readouterr().err

    @pytest.mark.slow
    def test_an_interrupted_run_ends_like_an_undisturbed_one(self, data, tmp_path, monkeypatch):
        recipe = embedded_encoder.Recipe(SOURCES, size=64, steps=5, lr=1e-3, pairs=1, views=1)
        monkeypatch.setattr(embedded_encoder, "VALIDATE_EVERY", 2)
        monkeypatch.setattr(embedded_encoder, "CHECKPOINT_EVERY", 0)
        embedded_encoder.train(recipe, [data], tmp_path / "whole")
        run_interrupted(embedded_encoder, recipe, data, tmp_path / "broken", monkeypatch)
        whole, broken = (Dino.load(tmp_path / name / "embedded_encoder") for name in ("whole", "broken"))
        assert whole.grid == (32, 32)
        for name, weight in whole.model.state_dict().items():
            assert torch.equal(weight, broken.model.state_dict()[name]), name


def test_curves_go_on_over_stages_and_leave_out_what_was_done_twice():
    def record(stage, step, value):
        return {"stage": stage, "step": step, "dev": {"box": value}}

    resumed = [record(0, 10, 0.1), record(0, 20, 0.2), record(0, 20, 0.3), record(1, 5, 0.4)]
    assert curves.curves(resumed) == {("", "box"): [(10, 0.1), (20, 0.3), (25, 0.4)]}
    two = [{"run": name, **each} for name in ("a", "b") for each in resumed[:1]]
    assert curves.curves(two) == {("a", "box"): [(10, 0.1)], ("b", "box"): [(10, 0.1)]}
