"""SAM-HQ, SAM 2, EdgeTAM and SAM 3's tracker: they answer as transformers' own models do.

The checkpoints have the published layout, sizes apart; what they find in a picture means nothing (`tiny.py`)."""

from __future__ import annotations

import json
import logging.handlers
import shutil
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from common import MINI, rng
from PIL import Image
from safetensors.torch import load_file
from tiny import photo, prompts
from transformers import EdgeTamConfig, EdgeTamModel, Sam2Model, Sam3TrackerModel, SamHQModel, TimmWrapperConfig

from prmagic.backbones.adapters import load_promptable
from prmagic.backbones.checkpoints import CheckpointError
from prmagic.backbones.sam import Sam
from prmagic.backbones.sam2 import Sam2, Sam3Tracker
from prmagic.backbones.sam_hq import SamHQ

KINDS = tuple(tiny.PUBLISHED)
SQUASHED = ("sam2", "edgetam", "sam3")
ADAPTERS = {"sam-hq": SamHQ, "sam2": Sam2, "edgetam": Sam2, "sam3": Sam3Tracker}
ORIGINALS = {"sam-hq": SamHQModel, "sam2": Sam2Model, "edgetam": EdgeTamModel, "sam3": Sam3TrackerModel}
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
HALVES = np.full(3, 0.5), np.full(3, 0.5)
PHOTOS = [(90, 120), (200, 33), (64, 64)]


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def sam(adapters, kind):
    return adapters[kind]


@pytest.fixture(scope="module")
def originals(tiny_folders, tmp_path_factory):
    """What transformers itself makes of the same files.

    SAM 3's without its fourth level: with it, transformers adds the embedding of "no memory" to that unused level,
    where the published code has it on the third, the one that is decoded."""
    found = {}
    for kind, folder in tiny_folders.items():
        if kind == "sam3":
            folder = shutil.copytree(folder, tmp_path_factory.mktemp("three") / "levels")
            config = json.loads((folder / "config.json").read_text())
            assert config["tracker_config"]["vision_config"]["scale_factors"] == [4.0, 2.0, 1.0, 0.5]
            config["tracker_config"]["vision_config"]["scale_factors"] = [4.0, 2.0, 1.0]
            (folder / "config.json").write_text(json.dumps(config))
        found[kind] = ORIGINALS[kind].from_pretrained(folder, dtype=torch.float32).eval()
    for layer in found["sam-hq"].mask_decoder.transformer.layers:
        for norm in (layer.layer_norm1, layer.layer_norm2, layer.layer_norm3, layer.layer_norm4):
            norm.eps = 1e-5  # as published, see test_sam.py
    return found


def inputs(kind, image, prompt, size):
    """What transformers' processor makes of a photo and its prompts."""
    height, width = image.shape[:2]
    scale = np.array([size / width, size / height])
    if kind == "sam-hq":
        resized = [max(1, int(side * size / max(height, width) + 0.5)) for side in (height, width)]
        scale = np.array([resized[1] / width, resized[0] / height])
        bytes_ = torch.from_numpy(np.array(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR)))
    else:
        bytes_ = torch.from_numpy(image).permute(2, 0, 1)[None]
        bytes_ = F.interpolate(bytes_, (size, size), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    mean, std = HALVES if kind == "sam3" else IMAGENET
    pixels = torch.from_numpy((bytes_.numpy() / 255 - mean) / std).float().permute(2, 0, 1)
    pixels = F.pad(pixels, (0, size - pixels.shape[2], 0, size - pixels.shape[1]))[None]
    asked = {"pixel_values": pixels}
    if len(prompt.points):
        asked["input_points"] = torch.from_numpy(prompt.points * scale).float()[None, None]
        asked["input_labels"] = torch.from_numpy(prompt.labels)[None, None]
    if prompt.box is not None:
        asked["input_boxes"] = torch.tensor(np.array(prompt.box).reshape(2, 2) * scale).float().view(1, 1, 4)
    if prompt.mask_logits is not None:
        asked["input_masks"] = prompt.mask_logits[None, None]
    return asked


ASKED = [
    prompts((30, 20)),
    prompts((30, 20), (5, 60), labels=[1, 0]),
    prompts((30, 20), box=(3, 4, 28, 50)),
    prompts(box=(3, 4, 28, 50)),
    prompts((30, 20), box=(3, 4, 28, 50), mask=torch.randn(32, 32, generator=torch.Generator().manual_seed(3)) * 5),
]


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("size", PHOTOS)
def test_masks_are_those_of_the_original_model(kind, sam, originals, size, multimask):
    image = photo(*size)
    (embedding,) = sam.encode([image])
    decoded = sam.decode(embedding, ASKED, multimask=multimask)
    assert decoded.logits.shape == (5, 3 if multimask else 1, 32, 32)
    for prompt, logits, iou in zip(ASKED, decoded.logits, decoded.predicted_iou, strict=True):
        with torch.no_grad():
            expected = originals[kind](**inputs(kind, image, prompt, sam.input_size), multimask_output=multimask)
        if kind == "sam-hq" and multimask:  # transformers sorts its three
            iou, order = iou.sort(descending=True)
            logits = logits[order]
        torch.testing.assert_close(logits, expected.pred_masks[0, 0], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(iou, expected.iou_scores[0, 0], atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(find_spec("torchvision") is None, reason="needs torchvision")
@pytest.mark.parametrize("kind", SQUASHED)
def test_pixels_are_those_of_the_real_processor(kind, sam):
    from transformers import Sam2ImageProcessor, Sam3ImageProcessor

    size = {"height": sam.input_size, "width": sam.input_size}
    processor = Sam3ImageProcessor(size=size) if kind == "sam3" else Sam2ImageProcessor(size=size)
    for image in (photo(*size) for size in PHOTOS):
        theirs = processor(Image.fromarray(image), return_tensors="pt")["pixel_values"][0]
        torch.testing.assert_close(sam.preprocess(image), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", SQUASHED)
@pytest.mark.parametrize("size", [(90, 120), (301, 77), (1, 1)])
def test_a_photo_is_squashed_by_an_antialiased_filter(kind, sam, size):
    """Within one grey level of Pillow's, and of what is not rounded to bytes, as in the published code."""
    image = photo(*size)
    mean, std = (
        np.asarray(values, np.float32)[:, None, None] * 255 for values in (HALVES if kind == "sam3" else IMAGENET)
    )
    greys = sam.preprocess(image).numpy() * std + mean
    side = (sam.input_size, sam.input_size)
    pillow = np.asarray(Image.fromarray(image).resize(side, Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    exact = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None].float(), side, mode="bilinear", antialias=True
    )[0]
    assert greys.shape == (3, *side)
    assert abs(greys - pillow).max() < 1.01
    assert abs(greys - exact.numpy()).max() < 1.01


@pytest.mark.parametrize("kind", SQUASHED)
def test_a_squashed_photo_fills_the_input(kind, sam):
    frame = sam.frame((90, 120))
    side = sam.input_size
    assert frame.cells == (8, 8)
    torch.testing.assert_close(frame.to_model(torch.tensor([[120.0, 45.0]])), torch.tensor([[side, side / 2]]))
    maps = torch.randn(2, 3, 32, 32, generator=rng())
    assert frame.over_photo(maps).shape == maps.shape
    up = frame.upscale(maps)  # as published: at once, not over the model's input
    torch.testing.assert_close(up, F.interpolate(maps, (90, 120), mode="bilinear", align_corners=False))
    assert frame.upscale(maps, (20, 30)).shape == (2, 3, 20, 30)


@pytest.mark.parametrize("kind", SQUASHED)
def test_published_predictors_never_give_back_logits_beyond_32(kind, sam):
    (embedding,) = sam.encode([photo()])
    huge = torch.linspace(-100, 100, 32 * 32).view(32, 32)
    far, near = (prompts((30, 20), mask=mask) for mask in (huge, huge.clamp(-32, 32)))
    decoded = sam.decode(embedding, [far, near])
    assert torch.equal(decoded.logits[0], decoded.logits[1])


@pytest.mark.parametrize("kind", SQUASHED)
def test_the_single_mask_is_the_models_own_choice(kind, tiny_folders, originals):
    """Its first, or the best of its three where the first is not stable; both happen here."""
    sam, threshold = load_promptable(tiny_folders[kind]), 0.0
    (embedding,) = sam.encode([photo()])
    asked = [prompts((x, y)) for x in (5, 60, 110) for y in (5, 45, 85)]
    decoder, original = sam.model.mask_decoder, originals[kind].mask_decoder
    decoder.dynamic_multimask_via_stability = False
    first = sam.decode(embedding, asked, multimask=False).logits
    three = sam.decode(embedding, asked)
    decoder.dynamic_multimask_via_stability = True
    threshold = decoder._get_stability_scores(first[:, 0]).median()
    for each in (decoder, original):
        each.dynamic_multimask_stability_thresh = threshold
    try:
        chosen = sam.decode(embedding, asked, multimask=False).logits
        best = three.logits[range(len(asked)), three.predicted_iou.argmax(1)]
        is_first = (chosen == first).flatten(1).all(1)
        assert 0 < int(is_first.sum()) < len(asked)
        torch.testing.assert_close(chosen[~is_first, 0], best[~is_first])
        for prompt, logits in zip(asked, chosen, strict=True):
            with torch.no_grad():
                expected = originals[kind](**inputs(kind, photo(), prompt, sam.input_size), multimask_output=False)
            torch.testing.assert_close(logits, expected.pred_masks[0, 0], atol=1e-4, rtol=1e-4)
    finally:
        original.dynamic_multimask_stability_thresh = 0.98


def test_a_channel_of_sam_hq_stays_the_same_mask_when_the_embedding_moves(adapters):
    """Sorted by predicted IoU, as transformers has them, two masks would change places here."""
    sam = adapters["sam-hq"]
    (embedding,) = sam.encode([photo()])
    shift = torch.randn(embedding.features.shape, generator=rng(1))
    decoded = [
        sam.decode(embedding.moved_to(embedding.features + step * shift), [prompts((30, 20))])
        for step in torch.linspace(0, 1.5, 61)
    ]
    ranks = {tuple(each.predicted_iou[0].argsort().tolist()) for each in decoded}
    assert len(ranks) > 1
    masks = torch.cat([each.logits for each in decoded])
    steps = (masks[1:] - masks[:-1]).abs().mean((2, 3))
    apart = (masks[:, 0] - masks[:, 1]).abs().mean()
    assert steps.max() < apart / 4


def test_sam_3_takes_the_trackers_neck_and_the_published_constant(adapters, tiny_folders):
    sam, weights = adapters["sam3"], load_file(tiny_folders["sam3"] / "model.safetensors")
    name = "fpn_layers.2.proj1.weight"
    assert torch.equal(sam.model.vision_encoder.neck.state_dict()[name], weights[f"tracker_neck.{name}"])
    pixels = sam.preprocess(photo())[None]
    levels = sam.model.vision_encoder(pixels).fpn_hidden_states
    assert len(levels) == 4
    constant = weights["tracker_model.no_memory_embedding"].view(1, -1, 1, 1)
    assert constant.abs().max() > 0.01
    (embedding,) = sam.encode([photo()])
    torch.testing.assert_close(embedding.features, levels[2] + constant)


# What frameworks rely on


def test_photos_of_different_sizes_in_one_call_are_as_if_alone(sam):
    images = [photo(90, 120), photo(50, 30, 1), photo(1, 1, 2)]
    before = sam.calls.encodes
    together = sam.encode(iter(images))
    assert sam.calls.encodes - before == 3
    for image, embedding in zip(images, together, strict=True):
        (alone,) = sam.encode([image])
        assert torch.equal(embedding.features, alone.features)
        assert all(torch.equal(*pair) for pair in zip(embedding.details, alone.details, strict=True))
        assert embedding.frame == sam.frame(image.shape[:2])


def test_photos_that_are_encoded_together_are_told_apart(sam):
    """As on a GPU, where a batch goes through the encoder at once."""
    images = [photo(90, 120), photo(60, 120, 1)]
    features, details = sam._features(torch.stack([sam.preprocess(image) for image in images]))
    for row, embedding in enumerate(sam.encode(images)):
        torch.testing.assert_close(features[row : row + 1], embedding.features, atol=1e-4, rtol=1e-4)
        for level, expected in zip(details, embedding.details, strict=True):
            torch.testing.assert_close(level[row : row + 1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("multimask", [True, False])
def test_ragged_prompts_on_several_photos_in_one_call_are_as_if_alone(sam, multimask):
    first, second = sam.encode([photo(90, 120), photo(50, 30, 1)])
    pairs = [(z, asked) for asked in ASKED for z in (first, second)]
    for each in (pairs, [(first, asked) for asked in ASKED]):  # the latter: one photo's details, for all
        together = sam.decode([z for z, _ in each], [asked for _, asked in each], multimask=multimask)
        for row, (z, asked) in enumerate(each):
            alone = sam.decode(z, [asked], multimask=multimask)
            torch.testing.assert_close(together.logits[row], alone.logits[0], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(together.predicted_iou[row], alone.predicted_iou[0], atol=1e-4, rtol=1e-4)


def test_the_flow_moves_the_lowest_resolution_alone(sam):
    (embedding,) = sam.encode([photo()])
    assert embedding.details
    moved = embedding.moved_to(torch.randn(embedding.features.shape, generator=rng()))
    assert moved.details is embedding.details
    other = sam.encode([photo(seed=5)])[0].details
    kept, swapped = (sam.decode(z, ASKED[:1]).logits for z in (moved, replace(moved, details=other)))
    assert (kept - sam.decode(embedding, ASKED[:1]).logits).abs().max() > 0.01
    assert (kept - swapped).abs().max() > 0.01  # they do reach the masks


def test_the_decoder_takes_a_targets_guidance(sam):
    """PerSAM's, in one batch and alone."""
    (embedding,) = sam.encode([photo()])
    guidance = {
        "attention_similarity": 3 * torch.randn(1, 1, 1, 64, generator=rng()),
        "target_embedding": torch.randn(1, 1, 1, 32, generator=rng(1)),
    }
    asked = [prompts((30, 20)), prompts((60, 70))]
    plain = sam.decode(embedding, asked, multimask=False).logits
    for name, value in guidance.items():
        guided = sam.decode(embedding, asked, multimask=False, **{name: value}).logits
        assert (guided - plain).abs().amax((1, 2, 3)).min() > 1e-3
        alone = sam.decode(embedding, asked[1:], multimask=False, **{name: value}).logits
        torch.testing.assert_close(guided[1:], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_encodes_nearly_the_same_and_decodes_in_float32(kind, tiny_folders, sam, dtype):
    half = load_promptable(tiny_folders[kind], dtype=dtype)
    (exact,), (rough,) = sam.encode([photo()]), half.encode([photo()])
    for ours, theirs in ((rough.features, exact.features), *zip(rough.details, exact.details, strict=True)):
        assert ours.dtype == torch.float32
        assert torch.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0) > 0.995
        assert not torch.equal(ours, theirs)
    moving = rough.features.clone().requires_grad_()
    logits = half.decode(rough.moved_to(moving), ASKED).logits
    assert logits.dtype == torch.float32
    assert torch.autograd.grad(logits.sum(), moving)[0].dtype == torch.float32
    assert half.fingerprint == sam.fingerprint


# Loading


def test_the_configuration_says_which_adapter_without_warnings(kind, tiny_folders, capfd):
    said = logging.handlers.BufferingHandler(100)  # transformers warns of files of which only a part is read
    logging.getLogger("transformers").addHandler(said)
    try:
        sam = load_promptable(tiny_folders[kind])
    finally:
        logging.getLogger("transformers").removeHandler(said)
    assert said.buffer == []
    assert capfd.readouterr() == ("", "")
    assert type(sam) is ADAPTERS[kind]
    assert type(sam.model) is ORIGINALS[kind]
    assert type(load_promptable(MINI)) is Sam
    assert type(load_promptable("embedded")) is Sam


def test_a_file_of_the_image_model_alone_is_the_same_model(kind, sam, originals, tmp_path):
    originals[kind].save_pretrained(tmp_path)
    if kind == "sam3":  # without the level that the tracker does not use
        assert load_promptable(tmp_path).encode([photo()])[0].features.shape == (1, 32, 8, 8)
    else:
        assert load_promptable(tmp_path).fingerprint == sam.fingerprint


def test_fingerprints_tell_the_models_apart(adapters):
    assert len({sam.fingerprint for sam in adapters.values()}) == len(KINDS)


def test_an_adapter_refuses_another_kind(tiny_folders, encoder_folder):
    with pytest.raises(CheckpointError, match=r"is a 'sam2_video' model; as SAM, 'sam' is needed"):
        Sam.load(tiny_folders["sam2"])
    with pytest.raises(CheckpointError, match=r"'dinov2' model; as SAM, 'sam' or 'sam_hq' or 'sam2' or"):
        load_promptable(encoder_folder)
    assert isinstance(Sam2.load(tiny_folders["edgetam"]), Sam2)


def test_missing_weights_are_named(tiny_folders, tmp_path):
    from safetensors.torch import save_file

    folder = shutil.copytree(tiny_folders["sam2"], tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    weights.pop("mask_decoder.conv_s0.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"mask_decoder\.conv_s0\.weight"):
        load_promptable(folder)


REPVIT = TimmWrapperConfig(
    architecture="repvit_m1.dist_in1k",
    model_args={"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
).to_dict()


@pytest.mark.skipif(find_spec("timm") is not None, reason="timm is installed")
def test_edgetam_without_timm_says_what_to_install(tiny_folders, tmp_path):
    folder = shutil.copytree(tiny_folders["edgetam"], tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["backbone_config"] = REPVIT
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"timm.*pip install 'prmagic\[edgetam\]'"):
        load_promptable(folder)


@pytest.mark.skipif(find_spec("timm") is None, reason="needs timm")
def test_edgetams_own_encoder(tmp_path):
    """EdgeTAM's real image encoder, where `tiny.py` has four convolutions."""
    vision = {
        "model_type": "edgetam_vision_model", "backbone_config": REPVIT, "fpn_hidden_size": tiny.CHANNELS,
        "backbone_feature_sizes": tiny.LEVELS,
    }  # fmt: skip
    original = EdgeTamModel(
        EdgeTamConfig(vision_config=vision, prompt_encoder_config=tiny.PROMPTS, mask_decoder_config=tiny.DECODER)
    ).eval()
    original.save_pretrained(tmp_path)
    sam = load_promptable(tmp_path)
    (embedding,) = sam.encode([photo()])
    with torch.no_grad():
        expected = original(**inputs("edgetam", photo(), ASKED[0], 128)).pred_masks[0, 0]
    torch.testing.assert_close(sam.decode(embedding, ASKED[:1]).logits[0], expected, atol=1e-4, rtol=1e-4)


def test_attention_is_torchs_own_fused_one(sam, kind):
    model = sam.model.mask_decoder if kind == "edgetam" else sam.model  # EdgeTAM's image encoder is a convolutional one
    used = {module.config._attn_implementation for module in model.modules() if hasattr(module, "config")}
    assert used == {"sdpa"}
