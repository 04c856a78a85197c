"""GF-SAM: the whole beside a plain reading of its description, refinement, and what a query costs.

On the tiny models the photos are 90 × 120 and the encoder sees 12 × 16 patches.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import prmagic
from prmagic.backbones.dino import Dino
from prmagic.flow import Flow
from prmagic.frameworks.gfsam import GfSam, GfSamOptions
from prmagic.frameworks.gfsam.gfsam import PointPrompts
from prmagic.frameworks.maps import cleaned
from prmagic.frameworks.published import PublishedGfSam
from prmagic.frameworks.registry import variant
from prmagic.reference import Example, ReferenceMismatch
from prmagic.refine import d_gradients
from prmagic.segmenter import Segmenter


def rng():
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def fine(encoder_folder):
    return Dino.load(encoder_folder, input_size=(96, 128))


@pytest.fixture(scope="module")
def gf_sam(sam, fine):
    return GfSam(sam, encoder=fine)


def segmenter(framework, **flow):
    return Segmenter(framework, Flow(**flow), "cycle-recall")


def segmented(built, examples, image, name="photo"):
    reference = built.encode_examples(examples)
    (encoded,) = built.encode([image])
    return built.segment_encoded(name, "thing", encoded, reference)


def plain_reading(framework, query, reference, weights):
    """GF-SAM with whole matrices and masks, straight from its description → the kept points' pixels (x, y) and the
    mask, both at the model's resolution."""
    (rows, columns), frame = query.tokens.grid, query.embedding.frame
    tokens, size = query.tokens.vectors, frame.resized
    mean, mean_not, highest = [], [], []
    for support, weight in zip(reference.supports, weights, strict=True):
        cosines = support.vectors @ tokens.T
        mean.append((weight[:, None] * cosines).mean(0) / (weight.mean() + 1e-7))
        mean_not.append(((1 - weight)[:, None] * cosines).mean(0) / ((1 - weight).mean() + 1e-7))
        highest.append((weight[:, None] * cosines).amax(0))
    mean, mean_not, highest = (torch.stack(each).mean(0) for each in (mean, mean_not, highest))
    alike, unlike = ((x - x.min()) / (x.max() - x.min() + 1e-6) for x in (mean * highest, mean_not))
    scores = torch.where(unlike <= alike, alike, 0)
    count = min(int(scores.sum()), 128) or int(scores.sum() > 0)
    points = sorted((int(i) % columns, int(i) // columns) for i in scores.topk(count).indices)
    masks, pixels = [], []
    at = 0 if isinstance(framework, PublishedGfSam) else 0.5
    for column, row in points:
        pixels.append((int((column + at) * size[1] / columns), int((row + at) * size[0] / rows)))
        pixel = np.array([pixels[-1]], np.float32)
        pixel *= np.array(frame.photo[::-1], np.float32) / size[::-1]
        asked = prmagic.types.Prompts(pixel.astype(np.float32), np.ones(1, np.int64))
        low = framework.sam.decode(query.embedding, [asked], multimask=False).logits[0]
        masks.append(frame.upscale(low, size)[0] > 0)
    masks = torch.stack(masks)

    def resized(mask):
        return F.interpolate(mask.float()[None, None], (rows, columns), mode="bilinear")[0, 0].flatten()

    label = list(range(len(points)))
    for k in range(len(points)):
        for other, (x, y) in enumerate(pixels):
            if masks[k, y, x]:
                label = [label[k] if each == label[other] else each for each in label]
    names = list(dict.fromkeys(label))
    h = (mean.max() + mean.min()) / 2
    excess = mean**2 - h * mean_not
    positive, growth = [0] * len(points), [0.0] * len(points)
    for name in names:
        members = [k for k, each in enumerate(label) if each == name]
        shares = {k: resized(masks[k]) for k in members}
        inner = torch.zeros(rows * columns)
        for k in sorted(members, key=lambda k: -float((shares[k] * excess).sum() / (shares[k].sum() + 1e-6))):
            added = shares[k] * (1 - inner)
            last = float(added[excess > 0].sum() - added[excess <= 0].sum())
            if last > 0:
                inner, positive[k] = inner + added, 1
        for k in members:
            growth[k] = last
    own = []
    for k, (column, row) in enumerate(points):
        rated = []
        for name in names:
            members = [m for m, each in enumerate(label) if each == name]
            union = resized(masks[members].any(0))
            cosine = tokens @ tokens[row * columns + column]
            distance = min(np.hypot(column - points[m][0], row - points[m][1]) for m in members)
            rated.append(float((union * cosine).mean() / (union.mean() + 1e-7)) / (distance or 1))
        own.append(int(names[int(np.argmax(rated))] == label[k]))
    for name in names:
        members = [k for k, each in enumerate(label) if each == name]
        if 2 * sum(own[k] for k in members) < len(members):
            for k in members:
                own[k] = 0
    kept = [k for k in range(len(points)) if positive[k] and own[k]]
    if not kept:
        rated = [growth[k] if positive[k] + own[k] == 1 else 0 for k in range(len(points))]
        kept = [int(np.argmax(rated))]
    return [pixels[k] for k in kept], masks[kept].any(0)


def asked_pixels(query, candidate):
    """The points of a candidate's parts in pixels (x, y) of the model's input."""
    frame = query.embedding.frame
    scale = np.array(frame.resized[::-1]) / frame.photo[::-1]
    return sorted(tuple(np.round(part.prompts.points[0] * scale).astype(int)) for part in candidate.parts)


def pictures(count):
    """Photos of soft blobs with masks; the same every time."""
    made = np.random.default_rng(3)
    found = []
    for _ in range(count):
        coarse = torch.from_numpy(made.integers(0, 256, (1, 3, 5, 6)).astype(np.float32))
        smooth = F.interpolate(coarse, (90, 120), mode="bicubic").clamp(0, 255)[0].permute(1, 2, 0)
        y, x = np.mgrid[:90, :120]
        cy, cx, r = made.uniform(20, 70), made.uniform(25, 95), made.uniform(12, 30)
        found.append(Example(smooth.numpy().astype(np.uint8), np.hypot(y - cy, x - cx) < r))
    return found


class TestWhole:
    @pytest.mark.parametrize("shots", [1, 3])
    @pytest.mark.parametrize("kind", [GfSam, PublishedGfSam])
    def test_is_what_the_paper_describes(self, sam, fine, kind, shots):
        sizes = []
        for scaling in (True, False):
            framework = kind(sam, GfSamOptions(channel_scaling=scaling), fine)
            *supports, query_photo = pictures(shots + 1)
            with torch.no_grad():
                reference = framework.learn(supports, rng())
                (query,) = framework.encode_queries([query_photo.image])
                still = torch.zeros_like(query.embedding.features)
                prompts = framework.sample_prompts(query, [reference], [still], [rng()])
                (candidate,) = framework.decode(query, [reference], prompts)
                points, mask = plain_reading(framework, query, reference, framework.weights(reference))
            assert asked_pixels(query, candidate) == sorted(points)
            whole = F.interpolate(mask.float()[None, None], (90, 120), mode="bilinear")[0, 0] > 0.5
            assert (whole.numpy() != candidate.mask).mean() < 0.02  # its edges differ: resized as logits or as a mask
            sizes.append(len(points))
        print(sizes, len(prompts[0].points))
        assert min(sizes) > 1

    def test_scaled_tokens_have_channels_of_equal_weight(self, gf_sam, sam, fine, example):
        plain = GfSam(sam, GfSamOptions(channel_scaling=False), fine)
        raw = fine.encode([example.image])[0].before_norm
        (scaled,), (unscaled,) = (each.encoder_tokens([example.image]) for each in (gf_sam, plain))
        assert torch.allclose(scaled.vectors, F.normalize(raw / raw.norm(dim=0), dim=1), atol=1e-6)
        assert torch.allclose(unscaled.vectors, F.normalize(raw, dim=1), atol=1e-6)

    def test_a_reference_belongs_to_its_setting(self, gf_sam, sam, fine, example):
        reference = gf_sam.learn([example], rng())
        for other in (
            GfSam(sam, GfSamOptions(channel_scaling=False), fine),
            PublishedGfSam(sam, encoder=fine),
        ):
            with pytest.raises(ReferenceMismatch, match="settings"):
                other.check(reference)

    def test_without_a_point_the_mask_is_empty_and_nothing_moves(self, gf_sam, example, other):
        reference = gf_sam.learn([example], rng())
        (query,) = gf_sam.encode_queries([other.image])
        nothing = PointPrompts(np.empty((0, 2), np.float32), np.empty(0, np.int64), patches=np.empty(0, np.int64))
        (candidate,) = gf_sam.decode(query, [reference], [nothing])
        assert candidate.mask.shape == (90, 120) and not candidate.mask.any()
        assert candidate.parts == ()
        for objective in ("sum", "foreground"):
            flow = Flow(objective=objective)
            still = torch.zeros_like(query.embedding.features)
            (gradient,) = d_gradients(gf_sam, query, [reference], [candidate], [still], flow)
            assert not gradient.any()

    def test_an_encoder_is_needed(self, sam):
        with pytest.raises(ValueError, match="GF-SAM compares the tokens of an encoder"):
            GfSam(sam)

    def test_the_mask_is_cleaned_unless_asked_not_to(self, sam, fine, example, other):
        tidy, raw = (
            segmented(segmenter(GfSam(sam, GfSamOptions(clean=share), fine), mode="none"), [example], other.image).mask
            for share in (0.5, None)
        )
        assert np.array_equal(tidy, cleaned(raw, 0.5)) and not np.array_equal(tidy, raw)

    @pytest.mark.parametrize("name", ["flow_masks", "encoder_size", "clean"])
    def test_refuses_a_setting_that_cannot_be(self, name):
        with pytest.raises(ValueError, match=f"{name} cannot be 0"):
            GfSamOptions(**{name: 0})


class TestPublished:
    def test_photos_are_squashed_but_masks_have_their_size(self, sam, fine, example):
        framework = PublishedGfSam(sam, encoder=fine)
        (query,) = framework.encode_queries([example.image])
        assert query.embedding.frame.photo == (90, 120)
        assert query.embedding.frame.resized == (sam.input_size, sam.input_size)
        assert segmented(segmenter(framework, mode="none"), [example], example.image).mask.shape == (90, 120)

    def test_a_support_s_mask_is_read_at_the_patches(self, sam, fine, example):
        thin = np.zeros((90, 120), bool)
        thin[:, 44] = True  # between the columns that are read, of which there are 16
        framework = PublishedGfSam(sam, encoder=fine)
        reference = framework.learn([Example(example.image, thin)], rng())
        assert not reference.tensors["weights"].any()
        (query,) = framework.encode_queries([example.image])
        still = torch.zeros_like(query.embedding.features)
        prompts = framework.sample_prompts(query, [reference], [still], [rng()])
        assert len(prompts[0].points) == 0

    def test_is_the_preset_paper(self):
        assert variant("gf-sam", "paper").preset.options.clean is None
        assert variant("gf-sam", "paper").framework is PublishedGfSam
        assert variant("gf-sam", "default").framework is GfSam


class TestRefinement:
    def test_is_repeatable(self, gf_sam, example, other):
        built = segmenter(gf_sam, steps=2, eta=0.1)
        first, second = (segmented(built, [example], other.image) for _ in range(2))
        assert first.scores == second.scores
        for a, b in zip(first.candidates, second.candidates, strict=True):
            assert np.array_equal(a.prompts.points, b.prompts.points)
            assert np.array_equal(a.mask, b.mask)

    def test_the_shift_moves_the_points(self, gf_sam, example, other):
        result = segmented(segmenter(gf_sam, steps=3, eta=0.3), [example], other.image)
        assert len({candidate.prompts.key for candidate in result.candidates}) > 1

    def test_the_gradient_is_that_of_the_parts_that_cover_most(self, sam, fine, example, other):
        gf_sam = GfSam(sam, GfSamOptions(flow_masks=2), fine)
        reference = gf_sam.learn([example], rng())
        (query,) = gf_sam.encode_queries([other.image])
        still = torch.zeros_like(query.embedding.features)
        prompts = gf_sam.sample_prompts(query, [reference], [still], [rng()])
        (candidate,) = gf_sam.decode(query, [reference], prompts)
        assert len(candidate.parts) > 2
        (gradient,) = d_gradients(gf_sam, query, [reference], [candidate], [still], Flow())
        direction = torch.randn(still.shape, generator=rng())

        def d(step):
            embedding = query.embedding.moved_to(query.embedding.features + step * direction)
            decoded = [gf_sam.sam.decode(embedding, [part.prompts], multimask=False) for part in candidate.parts[:2]]
            return sum(float(embedding.frame.over_photo(each.logits[0, 0]).double().sum()) for each in decoded)

        slope = (d(1e-2) - d(-1e-2)) / 2e-2
        assert slope == pytest.approx(float((gradient * direction).sum()), rel=0.02)

    def test_a_query_s_cost(self, gf_sam, example, other):
        built = segmenter(gf_sam, steps=3, eta=0.1)
        reference = built.encode_examples([example])
        (encoded,) = built.encode([other.image])
        result = built.segment_encoded("photo", "thing", encoded, reference)
        points = {tuple(point) for candidate in result.candidates for point in candidate.prompts.points.tolist()}
        in_flow = sum(len(candidate.parts[:8]) for candidate in result.candidates[:-1])
        assert result.counts["encodes"] == result.counts["encoder_encodes"] == 1
        assert result.counts["gradient_decodes"] == in_flow
        assert result.counts["decodes"] == len(points) + in_flow  # no point is asked twice without a gradient

    def test_labels_of_a_photo_share_the_points_they_have_in_common(self, gf_sam, example, other):
        references = [gf_sam.learn([each], rng()) for each in (example, replace(example))]
        (query,) = gf_sam.encode_queries([other.image])
        before = Counter(gf_sam.counts)
        stills = [torch.zeros_like(query.embedding.features)] * 2
        prompts = gf_sam.sample_prompts(query, references, stills, [rng(), rng()])
        candidates = gf_sam.decode(query, references, prompts)
        assert np.array_equal(candidates[0].mask, candidates[1].mask)
        assert gf_sam.counts["decodes"] - before["decodes"] == len(prompts[0].points)

    def test_with_the_embedded_models(self, example, other):
        built = prmagic.load("gf-sam", flow="full", selector="reencode", steps=1)
        reference = built.encode_examples([example])
        (encoded,) = built.encode([other.image])
        result = built.segment_encoded("photo", "thing", encoded, reference)
        first, query = result.candidates[0], encoded.query
        with torch.no_grad():
            points, _ = plain_reading(built.framework, query, reference, built.framework.weights(reference))
        decoded = built.framework.sam.decode(query.embedding, [part.prompts for part in first.parts], multimask=False)
        masks = query.embedding.frame.upscale(decoded.logits[:, 0]) > 0
        assert asked_pixels(query, first) == sorted(points)
        assert np.array_equal(first.mask, masks.any(0).numpy())
        assert (first.mask != masks[0].numpy()).mean() > 0.001  # more than its first mask
        assert (other.mask & first.mask).sum() / (other.mask | first.mask).sum() > 0.5
        assert len(result.candidates) == 2
        assert result.counts["gradient_decodes"] == min(8, len(first.parts))
        assert np.isfinite(result.scores).all()
