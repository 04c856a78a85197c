"""Between maps of a model and pixels of a photo: what several frameworks need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from scipy import ndimage
from torch import Tensor

from prmagic.backbones.promptable import Embedding, Frame
from prmagic.backbones.tokens import Tokens
from prmagic.frameworks.base import Query
from prmagic.reference import Reference
from prmagic.types import BoolArray, FloatArray, LaterMask

CLOSE = 1e-5  # cosines nearer to each other may change places by rounding
EIGHT = np.ones((3, 3), bool)  # neighbours of a pixel, for connected pieces
WORKING_SIZE = 1024  # longest side at which similarity maps are searched for peaks and mask weights are fitted


def bounding_box(mask: BoolArray) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 of the outermost object pixels; None for an empty mask."""
    if not mask.any():
        return None
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def edges(mask: BoolArray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1: the outer edges of the outermost pixels of a mask that is not empty."""
    box = bounding_box(mask)
    assert box is not None
    return box[0], box[1], box[2] + 1, box[3] + 1


def cleaned(mask: BoolArray, share: float) -> BoolArray:
    """Without holes and pieces that are smaller than this share of the largest piece."""
    if not mask.any():
        return mask
    pieces = _Pieces.of(mask)
    least = share * pieces.sizes.max()
    filled = mask | _Pieces.of(~mask).below(least)
    if filled.sum() > mask.sum():
        pieces = _Pieces.of(filled)
    return filled & ~pieces.below(least)


class _Pieces(NamedTuple):
    """labels (H, W): each connected piece's number, 0 outside; sizes: pixels by number, 0 for number 0."""

    labels: npt.NDArray[np.int32]
    sizes: npt.NDArray[np.int64]

    @classmethod
    def of(cls, mask: BoolArray) -> _Pieces:
        labels = ndimage.label(mask, EIGHT)[0]
        sizes = np.bincount(labels.ravel())
        sizes[0] = 0
        return cls(labels, sizes)

    def below(self, least: float) -> BoolArray:
        """The pixels of smaller pieces, (H, W)."""
        small = self.sizes < least
        small[0] = False
        return small[self.labels] if small.any() else np.zeros(self.labels.shape, bool)


def cosine_map(features: Tensor, target: Tensor) -> Tensor:
    """(1, C, h, w) and a unit vector (C,) → (h, w) cosines."""
    return torch.einsum("chw,c->hw", F.normalize(features[0], dim=0), target)


def quick_cosine_map(features: Tensor, target: Tensor) -> Tensor:
    """`cosine_map` up to rounding, without a copy of the features."""
    return torch.einsum("chw,c->hw", features[0], target) / features[0].square().sum(0).sqrt().clamp(min=1e-12)


def stands_out(similarity: FloatArray) -> bool:
    """Whether rounding cannot change where the largest value is."""
    return int(np.count_nonzero(similarity > similarity.max() - CLOSE)) == 1


def peak(similarity: FloatArray) -> tuple[int, int]:
    """x, y of the largest value of (h, w); the first of equals, row by row."""
    row, column = np.unravel_index(int(similarity.argmax()), similarity.shape)
    return int(column), int(row)


def to_mask(logits: Tensor, frame: Frame) -> BoolArray:
    """(s, s) low-resolution logits → (H, W) bool at the photo's size."""
    mask: BoolArray = frame.inside(logits[None]).numpy(force=True)
    return mask


def to_later_mask(logits: Tensor, frame: Frame) -> Any:
    """The same for a candidate, made when it is looked at."""
    return to_later_union([logits], frame)


def to_later_union(logits: Sequence[Tensor], frame: Frame, clean: float | None = None) -> Any:
    """The same of several together, and `cleaned` by this share; on an accelerator it is made now, so that its memory
    is not held."""
    later = _LaterUnion(logits, frame, clean)
    return later if logits[0].device.type == "cpu" else later.made()


class _LaterUnion(LaterMask):
    """Several threads may look at it: the logits are read before `_made`, and given up after it."""

    def __init__(self, logits: Sequence[Tensor], frame: Frame, clean: float | None):
        self._logits, self._frame, self._clean = list(logits), frame, clean
        self._made: BoolArray | None = None

    def made(self) -> BoolArray:
        logits = self._logits
        if self._made is None:
            mask: BoolArray = self._frame.inside(torch.stack(logits)).numpy(force=True)
            self._made = mask if self._clean is None else cleaned(mask, self._clean)
            self._logits = []
        return self._made

    def empty(self) -> bool:
        """`cleaned` neither takes all of a mask nor makes one of nothing."""
        logits = self._logits
        return all(map(self._frame.empty, logits)) if self._made is None else not self._made.any()

    def compact(self) -> LaterMask:
        self._logits = list(map(compact, self._logits))
        return self


def compact(tensor: Tensor) -> Tensor:
    """The same, or a copy if it is a part of a larger tensor, whose memory it would hold."""
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def largest(maps: Sequence[Tensor]) -> Tensor:
    """Of several (h, w), element by element."""
    if len(maps) == 1:
        return maps[0]
    found = torch.maximum(maps[0], maps[1])
    for each in maps[2:]:
        torch.maximum(found, each, out=found)
    return found


def to_photo(points: FloatArray, size: tuple[int, ...], frame: Frame) -> FloatArray:
    """Pixel centres x, y of a map of `size` → photo pixels."""
    scale = np.array([frame.photo[1] / size[1], frame.photo[0] / size[0]], np.float32)
    return ((points + 0.5) * scale - 0.5).astype(np.float32)


def working_size(photo: tuple[int, int], most: int = WORKING_SIZE) -> tuple[int, int]:
    """The photo's (height, width), reduced to at most `most` pixels a side."""
    scale = min(1.0, most / max(photo))
    return max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))


def resize_mask(mask: BoolArray, size: tuple[int, int]) -> Tensor:
    """(H, W) bool → (h, w) float 0 … 255, bilinear."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return torch.from_numpy(np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))).float()


def object_cosines(query: Query, reference: Reference) -> list[Tensor]:
    """(m, N) for each support: of its patches that its mask touches with all of the query's; kept for one reference."""
    known: Reference | None
    cosines: list[Tensor]
    known, cosines = query.memo.get("object cosines", (None, []))
    if known is not reference:
        tokens = query.tokens.vectors
        cosines = [each.vectors[each.shares > 0].to(tokens) @ tokens.T for each in reference.supports]
        query.memo["object cosines"] = reference, cosines
    return cosines


def on_patches(features: Tensor, embedding: Embedding, grid: tuple[int, int]) -> Tensor:
    """SAM's map (1, C, h, w), read bilinearly at the middle of each patch of another encoder's grid → (N, C)."""
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


def shifted_tokens(tokens: Tokens, shift: Tensor, embedding: Embedding) -> Tensor:
    """Tokens of another encoder after the shift of SAM's embedding, (N, C).

    As published: SAM's channels are added to the tokens' first ones, and the sum is not brought back to unit length."""
    channels = tokens.vectors.shape[1]
    moved = on_patches(shift, embedding, tokens.grid)[:, :channels]
    return tokens.vectors + F.pad(moved, (0, channels - moved.shape[1]))
