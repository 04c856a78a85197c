"""How the shift of SAM's embedding reaches the token similarities of another encoder.

The flow moves SAM's features; Matcher compares DINOv2's tokens. Each bridge turns similarities (M, N) of M support
patches with N query patches into those after the shift; without a shift it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from prmagic.backbones.promptable import Embedding

BridgeName = Literal["pad", "ridge", "similarity"]
BRIDGE_NAMES: tuple[BridgeName, ...] = get_args(BridgeName)
RIDGE = 1e-2  # of the mean square of SAM's features: what the fit of the linear map is held back by
GAIN = 1.0  # how strongly the change of SAM's similarity counts: λ in 1 + λ (c_t − c_0)


class Bridge(Protocol):
    """What a reference has to keep for it, and what it does."""

    def fit(
        self, embeddings: Sequence[Embedding], tokens: Tensor, foreground: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """K supports: SAM's embeddings, unit tokens (K, N, C), foreground (K, N) bool → tensors for `reach`."""

    def reach(
        self, kept: Mapping[str, Tensor], support: Tensor, query: Tensor, embedding: Embedding, shift: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        """Similarities (M, N) of unit tokens `support` (M, C) and `query` (N, C) after the shift (1, C_sam, h, w)."""


def on_patches(features: Tensor, embedding: Embedding, grid: tuple[int, int]) -> Tensor:
    """SAM's map (1, C, h, w), read bilinearly at the middle of each patch of the photo → (N, C)."""
    frame = embedding.frame
    axes = []
    for patches, cells, pixels in zip(grid, frame.cells, frame.resized, strict=True):
        middles = (torch.arange(patches, device=features.device) + 0.5) * (pixels / frame.patch / patches)
        # The photo's cells are -1 … 1; not beyond the middles of the outer ones, where there is nothing to read.
        axes.append((2 * middles / cells - 1).clamp(1 / cells - 1, 1 - 1 / cells))
    y, x = torch.meshgrid(*axes, indexing="ij")
    cells_of_photo = features[..., : frame.cells[0], : frame.cells[1]]
    places = torch.stack([x, y], -1)[None]
    return F.grid_sample(cells_of_photo, places, align_corners=False)[0].flatten(1).T


class Pad:
    """As published: SAM's channels are added to the tokens' first ones, which have nothing to do with them.

    The sum is not brought back to unit length."""

    def fit(
        self, embeddings: Sequence[Embedding], tokens: Tensor, foreground: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def reach(
        self, kept: Mapping[str, Tensor], support: Tensor, query: Tensor, embedding: Embedding, shift: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        """Add, and compare."""
        moved = on_patches(shift, embedding, grid)[:, : query.shape[1]]
        return support @ (query + F.pad(moved, (0, query.shape[1] - moved.shape[1]))).T


class Ridge:
    """A linear map from SAM's features to the tokens, by ridge regression over the patches of supports and query."""

    def fit(
        self, embeddings: Sequence[Embedding], tokens: Tensor, foreground: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The supports' share of the normal equations."""
        shares = [normal_equations(on_patches(z.features, z, grid), t) for z, t in zip(embeddings, tokens, strict=True)]
        left, right = (torch.stack(list(column)).sum(0) for column in zip(*shares, strict=True))
        return {"ridge_left": left, "ridge_right": right}

    def reach(
        self, kept: Mapping[str, Tensor], support: Tensor, query: Tensor, embedding: Embedding, shift: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        """Map the shift, add, bring back to unit length, and compare."""
        left, right = normal_equations(on_patches(embedding.features, embedding, grid), query)
        left, right = left + kept["ridge_left"].to(left), right + kept["ridge_right"].to(right)
        # A floor for features that do not vary, as on a grid of one patch.
        penalty = (RIDGE * left.diagonal().mean()).clamp(min=1e-6) * torch.eye(len(left), device=left.device)
        linear = torch.linalg.solve(left + penalty, right)
        return support @ F.normalize(query + on_patches(shift, embedding, grid) @ linear, dim=1).T


class Similarity:
    """A factor on each query patch: how much more SAM's features there look like the support's after the shift."""

    def fit(
        self, embeddings: Sequence[Embedding], tokens: Tensor, foreground: Tensor, grid: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The mean direction of SAM's features on the supports' foreground."""
        features = [
            F.normalize(on_patches(z.features, z, grid), dim=1)[inside.to(z.features.device)]
            for z, inside in zip(embeddings, foreground, strict=True)
        ]
        return {"prototype": F.normalize(torch.cat(features).mean(0), dim=0)}

    def reach(
        self, kept: Mapping[str, Tensor], support: Tensor, query: Tensor, embedding: Embedding, shift: Tensor,
        grid: tuple[int, int],
    ) -> Tensor:  # fmt: skip
        """(1 + S) ⊙ (1 + λ (c_t − c_0)) − 1, with c the cosine of the prototype and SAM's features.

        On 1 + S, which is never negative, so that more like the support in SAM's eyes is always more similar."""
        prototype = kept["prototype"].to(shift)
        before, after = (
            F.normalize(on_patches(z, embedding, grid), dim=1) @ prototype
            for z in (embedding.features, embedding.features + shift)
        )
        return (1 + support @ query.T) * (1 + GAIN * (after - before)) - 1


BRIDGES: dict[BridgeName, Bridge] = {"pad": Pad(), "ridge": Ridge(), "similarity": Similarity()}


def normal_equations(features: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """XᵀX and XᵀY of centred features (N, C_sam) and tokens (N, C): photo by photo, because only shifts are mapped."""
    x, y = features - features.mean(0), tokens - tokens.mean(0)
    return x.T @ x, x.T @ y
