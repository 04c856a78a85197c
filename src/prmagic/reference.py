"""What a set of supports becomes: a reference, good for any number of queries, that can be saved."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from prmagic import checks
from prmagic.names import why
from prmagic.types import BoolArray, ByteArray

PREVIEW = 320  # longest side of the support's picture that a reference keeps for the candidate strip
FORMAT = "prmagic-reference-3"


class ReferenceMismatch(ValueError):
    """A reference of another model or another framework, or a file that is none."""


@dataclass(frozen=True)
class Header:
    """What a file says of the reference in it: `label` and `made_by`, and how many supports it was made from."""

    label: str
    made_by: Mapping[str, str]
    supports: int


@dataclass(frozen=True, eq=False)
class Example:
    """A support that has been read: image (H, W, 3) uint8, mask (H, W) bool with at least one object pixel."""

    image: ByteArray
    mask: BoolArray


@dataclass(frozen=True, eq=False)
class SupportTokens:
    """One support as it is compared: unit vectors (N, C), and the share of each patch under the mask (N,)."""

    vectors: Tensor
    shares: Tensor


@dataclass(frozen=True, eq=False)
class Reference:
    """What a set of supports becomes: all that later steps need of it, for any number of queries.

    Args:
        tensors: `tokens` (n, C), `shares` (n,) and `token_counts` (K,) of all K supports one after another; what the
            framework learnt; what the selector keeps.
        made_by: Framework, model and settings, compared before use, and a digest of the supports.
        preview: The first support, at most 320 pixels a side, (h, w, 3) uint8 and (h, w) bool.
        label: What the supports show; empty if it was not said.

    Examples:
        >>> reference = segmenter.encode_support(prmagic.Support("cat.jpg", "cat_mask.png"), label="cat")
        >>> reference.save("cat.safetensors")
    """

    tensors: Mapping[str, Tensor]
    made_by: Mapping[str, str]
    preview: tuple[ByteArray, BoolArray]
    label: str = ""

    @property
    def supports(self) -> list[SupportTokens]:
        """The supports' tokens, one entry per support."""
        sizes = self.tensors["token_counts"].tolist()
        each = zip(self.tensors["tokens"].split(sizes), self.tensors["shares"].split(sizes), strict=True)
        return [SupportTokens(*pair) for pair in each]

    @property
    def digest(self) -> str:
        """Of what it was made from: equal for references that give the same results."""
        made_by = {name: value for name, value in self.made_by.items() if name != "model_name"}
        return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, as a whole or not at all; folders above it are made.

        Raises:
            ValueError: If it cannot be written.
        """
        checks.path("the reference's file", path)
        image, mask = self.preview
        tensors = {f"tensor.{name}": value.cpu().contiguous() for name, value in self.tensors.items()}
        tensors |= {"preview.image": torch.from_numpy(image.copy()), "preview.mask": torch.from_numpy(mask.copy())}
        metadata = {"format": FORMAT, "made_by": json.dumps(dict(self.made_by)), "label": self.label}
        metadata["checksum"] = _checksum(tensors, metadata)
        unfinished = Path(f"{path}.{os.getpid()}.tmp")
        try:
            unfinished.parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, unfinished, metadata)
            unfinished.replace(path)
        except (SafetensorError, OSError) as error:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
            raise ValueError(f"cannot save the reference as {str(path)!r}: {why(error)}") from error

    @classmethod
    def load(cls, path: str | Path) -> Reference:
        """Read a file that `save` wrote.

        Raises:
            FileNotFoundError: If there is no such file.
            ReferenceMismatch: If it is something else, of another version, or damaged.
        """
        if not Path(checks.path("the reference's file", path)).is_file():
            raise FileNotFoundError(f"no reference file {path}")
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                # Copied, because the file's own alignment can change the last bit of what is computed from a tensor.
                stored = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no dictionary)
        except (SafetensorError, OSError, ValueError) as error:
            raise ReferenceMismatch(f"{path} is not a reference file, or it is damaged ({why(error)})") from error
        if metadata.get("format") != FORMAT:
            made = metadata.get("format", "")
            kind = "of another version of prmagic" if made.startswith("prmagic") else "of something else than prmagic"
            raise ReferenceMismatch(f"{path} is a file {kind}: make the reference anew from the support photos")
        try:
            tensors = {name.removeprefix("tensor."): t for name, t in stored.items() if name.startswith("tensor.")}
            preview = stored["preview.image"].numpy(), stored["preview.mask"].numpy()
            loaded = cls(tensors, json.loads(metadata["made_by"]), preview, metadata.get("label", ""))
            _check_loaded(loaded)
            if metadata.get("checksum") != _checksum(stored, metadata):
                raise ValueError("its content is not what was saved")
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise ReferenceMismatch(
                f"{path} is damaged ({why(error)}): make it anew from the support photos"
            ) from error
        return loaded


def read_header(path: str | Path) -> Header:
    """What a file that `Reference.save` wrote says of itself. Its tensors are not read, nor checked.

    Raises:
        OSError: If it cannot be read.
        ReferenceMismatch: If it is something else, or of another version.
    """
    Path(path).stat()
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            (supports,) = file.get_slice("tensor.token_counts").get_shape()
        if metadata.get("format") != FORMAT:
            raise ValueError("another format")
        return Header(metadata.get("label", ""), json.loads(metadata["made_by"]), int(supports))
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise ReferenceMismatch(f"{path} is not a reference file of this version of prmagic ({error})") from error


def _check_loaded(reference: Reference) -> None:
    """What every reference must hold, before anything is computed from it; ValueError with what is wrong."""
    image, mask = reference.preview
    if image.dtype != np.uint8 or image.shape != (*mask.shape, 3) or mask.dtype != bool or mask.ndim != 2:
        raise ValueError("its preview is no photo with a mask")
    if not all(isinstance(value, str) for value in reference.made_by.values()):
        raise ValueError("it does not say what made it")
    for name, tensor in reference.tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(f"its {name} are no finite numbers")
    counts, tokens, shares = (reference.tensors[name] for name in ("token_counts", "tokens", "shares"))
    whole = counts.ndim == 1 and counts.dtype == torch.int64 and len(counts) > 0 and bool((counts > 0).all())
    if not whole or (tokens.ndim, shares.ndim) != (2, 1) or {len(tokens), len(shares)} != {int(counts.sum())}:
        raise ValueError("its tokens do not fit together")


def _checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Of all that a file holds, apart from the format."""
    content = hashlib.sha256(json.dumps([metadata["made_by"], metadata["label"]]).encode())
    for name, tensor in sorted(tensors.items()):
        content.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        content.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return content.hexdigest()


def photo_digest(image: ByteArray) -> str:
    """Of the pixels (H, W, 3), and so the same for a path, bytes or an array of one photo."""
    content = hashlib.sha256(f"{image.shape}".encode())
    content.update(np.ascontiguousarray(image).data)  # not joined with the shape: a photo may be large
    return content.hexdigest()[:16]


def supports_digest(examples: Sequence[Example]) -> str:
    """Of the supports' pixels and masks, and so the same whatever machine encodes them."""
    content = hashlib.sha256()
    for example in examples:
        content.update(str(example.image.shape).encode() + example.image.tobytes() + example.mask.tobytes())
    return content.hexdigest()[:16]


def preview(example: Example) -> tuple[ByteArray, BoolArray]:
    """The support at no more than 320 pixels a side, (h, w, 3) uint8 and (h, w) bool."""
    picture, mask = Image.fromarray(example.image), Image.fromarray(example.mask.astype(np.uint8) * 255)
    picture.thumbnail((PREVIEW, PREVIEW))
    covered = np.asarray(mask.resize(picture.size, Image.Resampling.BOX))
    return np.asarray(picture), covered >= min(128, covered.max())
