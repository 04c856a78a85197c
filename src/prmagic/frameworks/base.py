"""What a framework is: an in-context segmenter that turns support similarity into prompts for SAM.

The loop in `refine.py` knows nothing else of it. A new framework is one file with four methods: `encode_support`,
`sample_prompts`, `decode` and `logit`.
"""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Embedding, Frame, Promptable
from prmagic.flow import Flow
from prmagic.stopwatch import Stopwatch
from prmagic.types import BoolArray, ByteArray, Candidate, Prompts

PREVIEW = 320  # longest side of the support's picture that a reference keeps for the candidate strip
FORMAT = "prmagic-reference-2"
WORKING_SIZE = 1024  # longest side at which similarity maps are searched for peaks and mask weights are fitted


class ReferenceMismatch(ValueError):
    """A reference that another model or another framework made, or a file that is none."""


@dataclass(frozen=True, eq=False)
class Example:
    """A checked support: image (H, W, 3) uint8, mask (H, W) bool with at least one object pixel."""

    image: ByteArray
    mask: BoolArray


@dataclass(frozen=True, eq=False)
class Query:
    """A photo (H, W, 3) uint8 to be segmented, and its embedding z₀; derive from it to keep more."""

    image: ByteArray
    embedding: Embedding


@dataclass(frozen=True, eq=False)
class Reference:
    """What a support set becomes: all that later steps need of it, for any number of queries.

    tensors: the framework's own; among them, one unit vector per support: where the framework keeps them, `prototypes`
    (K, C'), the mean feature under the mask; what `support_patches` reads, which PerSAM and Matcher keep always; and,
    for a selector that reads them, `descriptors` (K, C), eq. (4)'s, and `photos`, see `with_photos`. `objects`: see
    `object_patches`.
    made_by: framework, model and settings, compared before use, and a digest of the supports. preview: the first
    support, at most 320 pixels a side, (h, w, 3) uint8 and (h, w) bool, for the candidate strip."""

    tensors: Mapping[str, Tensor]
    made_by: Mapping[str, str]
    preview: tuple[ByteArray, BoolArray]

    def save(self, path: str | Path) -> None:
        """One safetensors file, there as a whole or not at all; folders above it are made.

        ValueError if it cannot be written."""
        image, mask = self.preview
        tensors = {f"tensor.{name}": value.cpu().contiguous() for name, value in self.tensors.items()}
        tensors |= {"preview.image": torch.from_numpy(image.copy()), "preview.mask": torch.from_numpy(mask.copy())}
        metadata = {"format": FORMAT, "made_by": json.dumps(dict(self.made_by))}
        unfinished = Path(f"{path}.{os.getpid()}.tmp")
        try:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, unfinished, metadata)
            unfinished.replace(path)
        except (SafetensorError, OSError) as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise ValueError(f"cannot save the reference as {str(path)!r} ({error})") from error

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """Raises ReferenceMismatch for a file that `save` did not write, FileNotFoundError for none."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no reference file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ReferenceMismatch(f"{path} is a safetensors file, but not a reference of this prmagic")
                # Copied, because the file's own alignment can change the last bit of what is computed from a tensor.
                stored = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no dictionary)
        except (SafetensorError, OSError) as error:
            raise ReferenceMismatch(f"{path} is not a reference file, or it is damaged ({error})") from error
        tensors = {name.removeprefix("tensor."): t for name, t in stored.items() if name.startswith("tensor.")}
        preview = stored["preview.image"].numpy(), stored["preview.mask"].numpy()
        return cls(tensors, json.loads(metadata["made_by"]), preview)


class Framework(ABC):
    """An in-context segmenter that prompts SAM. `shift` is always G_t = z_t − z₀, shaped like the embedding."""

    name: str
    pool_padding = False  # eq. (4)'s mean includes the padding, as in the published code
    flow = Flow()  # the default one; others than the published d need `logit_maps`
    selector = "reencode"  # the default one's name, see select.py

    def __init__(self, sam: Promptable):
        self.sam = sam
        self.stopwatch = Stopwatch()  # of all that this thread did with this framework; so are `counts`
        self._supports: WeakKeyDictionary[Reference, list[tuple[Query, BoolArray]]] = WeakKeyDictionary()

    @property
    def models(self) -> tuple[Promptable | Dino, ...]:
        """What decides the results beside the settings."""
        return (self.sam,)

    @property
    def counts(self) -> dict[str, int]:
        """How often this thread did the costly things: SAM's photos, prompt sets, and those of them with a gradient."""
        ran = self.sam.ran
        return {"encodes": ran.encodes, "decodes": ran.decodes, "gradient_decodes": ran.gradient_decodes}

    @property
    def settings(self) -> Mapping[str, Any]:
        """What else than the model decides the results; JSON values."""
        return {}

    @property
    def reference_settings(self) -> Mapping[str, Any]:
        """Those of the settings that decide what a reference holds."""
        return self.settings

    @property
    def signature(self) -> dict[str, str]:
        """Compared with a reference's `made_by`."""
        return {
            "framework": self.name,
            "model": "+".join(model.fingerprint for model in self.models),
            "model_name": " + ".join(model.name for model in self.models),  # for people; one model may have several
            "settings": json.dumps(dict(self.reference_settings), sort_keys=True),
        }

    @abstractmethod
    def encode_support(self, examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """K ≥ 1 supports → their reference; `self.reference(tensors, examples)` makes one."""

    @abstractmethod
    def sample_prompts(self, query: Query, reference: Reference, shift: Tensor, rng: torch.Generator) -> Prompts:
        """Eq. (2): the prompts that the similarity with z₀ + shift gives."""

    @abstractmethod
    def decode(self, query: Query, reference: Reference, prompts: Prompts) -> Candidate:
        """Eq. (3): the mask, decoded from the untouched z₀."""

    @abstractmethod
    def logit(self, query: Query, reference: Reference, candidate: Candidate, embedding: Embedding) -> Tensor:
        """The discriminator's scalar d at `embedding`, with the candidate's prompts as constants; has a graph."""

    def learn(self, queries: Sequence[Query], examples: Sequence[Example], rng: torch.Generator) -> Reference:
        """`encode_support` for photos that are encoded; override it where they need not be encoded again."""
        return self.encode_support(examples, rng)

    def decode_all(self, query: Query, references: Sequence[Reference], prompts: Sequence[Prompts]) -> list[Candidate]:
        """`decode` for several at once; override it where fewer and larger calls of SAM's decoder will do."""
        return [self.decode(query, *each) for each in zip(references, prompts, strict=True)]

    def logits(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[Tensor]:  # fmt: skip
        """`logit` for several at once; the same."""
        return [self.logit(query, *each) for each in zip(references, candidates, embeddings, strict=True)]

    def logit_maps(
        self, query: Query, references: Sequence[Reference], candidates: Sequence[Candidate],
        embeddings: Sequence[Embedding],
    ) -> list[list[Tensor]]:  # fmt: skip
        """What `logits` sums up: of each candidate the logits (n, h, w) of its masks, in one or several stacks.

        For flows that climb something else than the sum; ValueError for a framework that has no such maps."""
        raise ValueError(f"{self.name} has no logit maps, and can be refined with the objective sum only")

    def encode_queries(self, images: Sequence[ByteArray]) -> list[Query]:
        """Photos (H, W, 3) uint8, each encoded once for all references and steps."""
        with self.stopwatch("encode"):
            return [Query(image, z) for image, z in zip(images, self.sam.encode(images), strict=True)]

    def describe(self, images: Sequence[ByteArray], masks: Sequence[BoolArray]) -> Tensor:
        """E in eq. (4): (N, C) unit vectors, the mean embedding of each image with all outside its mask black."""
        black = (np.where(mask[..., None], image, np.uint8(0)) for image, mask in zip(images, masks, strict=True))
        vectors = [(e.features if self.pool_padding else e.photo_features).mean((2, 3)) for e in self.sam.encode(black)]
        return F.normalize(torch.cat(vectors), dim=1)

    def pooled(self, query: Query, masks: Sequence[BoolArray]) -> Tensor:
        """(N, C) unit vectors: the query's own features under each mask, the mean. Nothing is encoded for it.

        To be compared with the reference's `prototypes`, which are the same of the supports."""
        covered = torch.stack([cover(mask, query.embedding.frame) for mask in masks])
        return masked_means(query.embedding.photo_features[0], covered)

    def patches(self, query: Query) -> Tensor:
        """(N, C) unit vectors: the query's own features, patch by patch, row by row."""
        return F.normalize(query.embedding.photo_features[0].flatten(1).T, dim=1)

    def shares(self, query: Query, masks: Sequence[BoolArray]) -> Tensor:
        """(M, N): which share of each of the query's patches each mask covers."""
        covered = torch.stack([cover(mask, query.embedding.frame) for mask in masks])
        return covered.flatten(1).to(query.embedding.features)

    def support_patches(self, reference: Reference) -> list[tuple[Tensor, Tensor]]:
        """Of each support its patches (n, C), unit vectors, and the share of each under the mask (n,)."""
        kept = reference.tensors
        sizes = kept["patch_counts"].tolist()
        return list(zip(kept["patches"].split(sizes), kept["shares"].split(sizes), strict=True))

    def object_patches(self, reference: Reference) -> Tensor | None:
        """(n, C) unit vectors, the supports' patches under their masks, to be compared with `patches` of a query.

        None where the framework keeps no `objects`; then results have no score."""
        return reference.tensors.get("objects")

    def reference(self, tensors: Mapping[str, Tensor], examples: Sequence[Example]) -> Reference:
        """A reference signed by this framework."""
        return Reference(tensors, {**self.signature, "supports": digest(examples)}, _preview(examples[0]))

    def with_descriptors(self, reference: Reference, examples: Sequence[Example]) -> Reference:
        """The same with eq. (4)'s descriptors: each support is encoded once more, all outside its mask black."""
        descriptors = self.describe([e.image for e in examples], [e.mask for e in examples])
        return replace(reference, tensors={**reference.tensors, "descriptors": descriptors})

    def with_shares(self, reference: Reference, examples: Sequence[Example]) -> Reference:
        """The same with what `support_patches` needs. Where `encode_support` did not keep it, each support is encoded
        once more, as a query."""
        if "shares" in reference.tensors:
            return reference
        kept = self._patches_and_shares(self.encode_queries([example.image for example in examples]), examples)
        return replace(reference, tensors={**reference.tensors, **kept})

    def _patches_and_shares(self, queries: Sequence[Query], examples: Sequence[Example]) -> dict[str, Tensor]:
        """Tensors patches (n, C), shares (n,) and patch_counts (K,), of all supports one after another."""
        patches = [self.patches(query) for query in queries]
        shares = [self.shares(query, [e.mask])[0] for query, e in zip(queries, examples, strict=True)]
        counts = torch.tensor([len(each) for each in patches])
        return {"patches": torch.cat(patches), "shares": torch.cat(shares), "patch_counts": counts}

    def with_photos(self, reference: Reference, examples: Sequence[Example]) -> Reference:
        """The same with what `supports` needs.

        tensors: photos (n, 3) and photo_masks (n,), uint8, of all supports one after another, photo_sizes (K, 2)."""
        photos = torch.cat([torch.from_numpy(e.image.copy()).flatten(0, 1) for e in examples])
        masks = torch.cat([torch.from_numpy(e.mask.astype(np.uint8)).flatten() for e in examples])
        sizes = torch.tensor([e.mask.shape for e in examples])
        return replace(
            reference, tensors={**reference.tensors, "photos": photos, "photo_masks": masks, "photo_sizes": sizes}
        )

    def supports(self, reference: Reference) -> list[tuple[Query, BoolArray]]:
        """The supports as queries, and their masks (H, W); encoded when they are first asked for."""
        if reference not in self._supports:
            kept, sizes = reference.tensors, reference.tensors["photo_sizes"].tolist()
            counts = [height * width for height, width in sizes]
            parts = zip(kept["photos"].split(counts), kept["photo_masks"].split(counts), sizes, strict=True)
            photos, masks = [], []
            for photo, mask, size in parts:
                photos.append(photo.view(*size, 3).numpy())
                masks.append(mask.view(*size).numpy() > 0)
            self._supports[reference] = list(zip(self.encode_queries(photos), masks, strict=True))
        return self._supports[reference]

    def check(self, reference: Reference) -> None:
        """Raise ReferenceMismatch if another framework, model or setting made it."""
        theirs, mine = reference.made_by, self.signature
        for what in ("framework", "model", "settings"):
            if theirs.get(what) != mine[what]:
                shown = "model_name" if what == "model" and theirs.get("model_name") != mine["model_name"] else what
                was, now = theirs.get(shown), mine[shown]
                if what == "settings":
                    was, now = _differing(was, now), _differing(now, was)
                raise ReferenceMismatch(
                    f"this reference was made with {what} {was}, but here with {now}: "
                    "use the same one, or make the reference anew from the support photos"
                )


def _differing(settings: str | None, others: str | None) -> str:
    """Those of the settings (JSON) that the others have not, such as: bridge "pad"."""
    mine, theirs = json.loads(settings or "{}"), json.loads(others or "{}")
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in mine.items() if theirs.get(name) != value)


def bounding_box(mask: BoolArray) -> tuple[float, float, float, float] | None:
    """x0, y0, x1, y1 of the outermost object pixels; None for an empty mask."""
    if not mask.any():
        return None
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def cover(mask: BoolArray, frame: Frame) -> Tensor:
    """(H, W) bool → (rows, columns) float32: which share of each cell of the photo the mask covers."""
    resized = F.interpolate(torch.from_numpy(mask)[None, None].float(), frame.resized, mode="area")
    rows, columns = frame.cells
    spare = (0, columns * frame.patch - frame.resized[1], 0, rows * frame.patch - frame.resized[0])
    return F.avg_pool2d(F.pad(resized, spare), frame.patch)[0, 0]


def masked_means(features: Tensor, weights: Tensor) -> Tensor:
    """Features (C, h, w), weights (N, h, w) ≥ 0 → (N, C) unit vectors; zeros where no weight is."""
    return F.normalize(torch.einsum("chw,nhw->nc", features, weights.to(features)), dim=1)


def to_mask(logits: Tensor, frame: Frame) -> BoolArray:
    """(s, s) low-resolution logits → (H, W) bool at the photo's size."""
    mask: BoolArray = (frame.upscale(logits) > 0).cpu().numpy()
    return mask


def working_size(photo: tuple[int, int], most: int = WORKING_SIZE) -> tuple[int, int]:
    """The photo's (height, width), reduced to at most `most` pixels a side."""
    scale = min(1.0, most / max(photo))
    return max(1, round(photo[0] * scale)), max(1, round(photo[1] * scale))


def digest(examples: Sequence[Example]) -> str:
    """Of the supports' pixels and masks, and so the same whatever machine encodes them."""
    content = hashlib.sha256()
    for example in examples:
        content.update(str(example.image.shape).encode() + example.image.tobytes() + example.mask.tobytes())
    return content.hexdigest()[:16]


def _preview(example: Example) -> tuple[ByteArray, BoolArray]:
    picture, mask = Image.fromarray(example.image), Image.fromarray(example.mask.astype(np.uint8) * 255)
    picture.thumbnail((PREVIEW, PREVIEW))
    covered = np.asarray(mask.resize(picture.size, Image.Resampling.BOX))
    return np.asarray(picture), covered >= min(128, covered.max())
