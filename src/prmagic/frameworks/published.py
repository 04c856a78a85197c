"""What the published code does otherwise, as subclasses: for reproducing its tables.

PR-MaGIC's code (CVPR 2026) is the source of `paper`. `official` is Matcher as its own authors run it, which is not what
PR-MaGIC's runs refine; its refinement is as published, but for the gradient at z_t and eq. (4) without padding.
The values here are those for objects on COCO-20i; a benchmark's own are in `prmagic.evaluation.benchmark_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from prmagic.backbones.promptable import Embedding, Frame
from prmagic.backbones.tokens import Tokens
from prmagic.flow import Flow
from prmagic.frameworks.base import Preset, Query
from prmagic.frameworks.gfsam import GfSam, GfSamOptions
from prmagic.frameworks.maps import to_mask, working_size
from prmagic.frameworks.mask_weights import fit_published
from prmagic.frameworks.matcher import Matcher, MatcherOptions
from prmagic.frameworks.matcher.steps import DoubleArray
from prmagic.frameworks.persam import Box, PerSam, PerSamF, PerSamFOptions, feature_mask
from prmagic.reference import Example, Reference
from prmagic.select import Reencode
from prmagic.types import BoolArray, ByteArray, FloatArray, Prompts

PUBLISHED_SIZE = 518  # pixels a side, to which the published code squashes every photo


@dataclass(frozen=True)
class PublishedFlow(Flow):
    """The published flow: ∇d is taken at z₀ in every step; only the sum of the steps moves the similarity map."""

    def gradient_place(self, shift: Tensor) -> Tensor:
        """No shift at all."""
        return torch.zeros_like(shift)


class PublishedPerSam(PerSam):
    """The box of the first stage serves the third, too; eq. (4) looks at the first stage's mask; padding counts as
    photo."""

    presets: ClassVar[Mapping[str, Preset]] = {"paper": Preset(flow=PublishedFlow(), selector=Reencode(published=True))}

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """Such a reference does not fit the classes that this one replaces."""
        return {**super().reference_settings, "published": True}

    def under_mask(self, example: Example, embedding: Embedding) -> Tensor:
        """(n, C): the features under a mask; all of them if it is too thin for any cell."""
        features = embedding.features[0].flatten(1).T
        inside = feature_mask(example.mask, embedding)
        return features[inside] if inside.any() else features

    def padded(self, cosine: Tensor, frame: Frame) -> Tensor:
        """(h, w) as it is, what SAM makes of the padding included."""
        return cosine

    def seen(self, cosine: Tensor, frame: Frame) -> Tensor:
        """(h, w), all cells."""
        return cosine

    def over_photo(self, logits: Tensor, frame: Frame) -> Tensor:
        """(s, s), all logits."""
        return logits

    def working_size(self, frame: Frame) -> tuple[int, int]:
        """The photo's own (height, width)."""
        return frame.photo

    def third_boxes(self, second: Sequence[Prompts], logits: Sequence[Tensor], frame: Frame) -> list[Box | None]:
        """The first stage's."""
        return [each.box for each in second]

    def scored_mask(self, first: Tensor, frame: Frame) -> BoolArray | None:
        """The first stage's."""
        return to_mask(first, frame)


class PublishedPerSamF(PublishedPerSam, PerSamF):
    """PerSAM-F with x and y of its extra points exchanged, and 1000 steps of fitting."""

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(PerSamFOptions(5, "0.99999/0.9999"), PublishedFlow(), Reencode(published=True))
    }
    swap_points = True
    fit = staticmethod(fit_published)


class PublishedMatcher(Matcher):
    """All supports are matched and scored as one photo, centres are cut to whole pixels, d is summed at the photo's
    size, masks are scored by the shifted tokens."""

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(
            MatcherOptions(centers=8, subset_sizes=(4, 6), merge=9, compare_at=PUBLISHED_SIZE),
            PublishedFlow(), Reencode(published=True),
        ),
        "official": Preset(
            MatcherOptions(
                centers=None, random_subsets=64, subset_sizes=(1, 6), channels=(0, 1, 2), dense_grid=64,
                min_predicted_iou=0.85, min_stability=0.90, min_purity=0.02, merge=9, merge_few_shot=5,
                compare_at=PUBLISHED_SIZE,
            ),
            Flow(), "reencode",
        ),
    }  # fmt: skip

    def shots(self, similarity: FloatArray, foreground: BoolArray) -> tuple[FloatArray, BoolArray]:
        """(K, N, N), (K, N) → all shots as one."""
        return similarity.reshape(1, -1, similarity.shape[2]), foreground.reshape(1, -1)

    def placed(self, centers: DoubleArray) -> DoubleArray:
        """(n, 2) centres, cut to whole pixels."""
        return np.trunc(centers)

    def scored_by(self, similarity: FloatArray) -> FloatArray | None:
        """The similarity after the shift."""
        return similarity

    def over_photo(self, logits: Tensor, frame: Frame) -> Tensor:
        """(n, s, s) → (n, H, W) at the photo's size, or at 518 pixels, the size of all published photos, if that is
        less."""
        return frame.upscale(logits, working_size(frame.photo, self.options.compare_at))

    def ranked(self, score: FloatArray) -> list[int]:
        """Indices by score; among equals what an unstable sort puts first."""
        return torch.sort(torch.from_numpy(1 - score), stable=False).indices.tolist()


class PublishedGfSam(GfSam):
    """GF-SAM as its own authors run it: photos are squashed to SAM's square input, points lie in the corners of their
    patches, and a support's mask is read bilinearly at the patches, where a thin one can be missed. They have no
    refinement; this one is PR-MaGIC's."""

    presets: ClassVar[Mapping[str, Preset]] = {
        "paper": Preset(GfSamOptions(flow_masks=None, clean=None), PublishedFlow(), Reencode(published=True))
    }
    point_at = 0.0

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """Such a reference does not fit the classes that this one replaces."""
        return {**super().reference_settings, "published": True}

    def embeddings(self, images: Sequence[ByteArray]) -> list[Embedding]:
        """SAM's, of photos without their proportions."""
        found = super().embeddings([self._squashed(image) for image in images])
        return [
            replace(each, frame=replace(each.frame, photo=image.shape[:2]))
            for each, image in zip(found, images, strict=True)
        ]

    def encoder_tokens(self, images: Sequence[ByteArray]) -> list[Tokens]:
        """The encoder's, of the squashed photos."""
        return super().encoder_tokens([self._squashed(image) for image in images])

    def encode_support(
        self, examples: Sequence[Example], queries: Sequence[Query], rng: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Weights (K, N) of the patches."""
        side = (self.sam.input_size, self.sam.input_size)
        squashed = [F.interpolate(torch.from_numpy(each.mask)[None, None].float(), side) for each in examples]
        grid = queries[0].tokens.grid
        resized = [F.interpolate(mask, grid, mode="bilinear", align_corners=True) for mask in squashed]
        return {"weights": torch.cat(resized).flatten(1)}

    def weights(self, reference: Reference) -> list[Tensor]:
        """As read."""
        return list(reference.tensors["weights"])

    def _squashed(self, image: ByteArray) -> ByteArray:
        side = self.sam.input_size
        return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))
