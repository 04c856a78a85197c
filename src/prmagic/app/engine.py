"""The models, shared by all visitors. One thread runs them and takes requests in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from prmagic.app.packed import PackedResult
from prmagic.app.settings import Models, Settings, load_arguments
from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Promptable
from prmagic.frameworks.maps import to_mask
from prmagic.frameworks.registry import variant
from prmagic.io.finding import file_sha256
from prmagic.io.images import load_image
from prmagic.labels import things_apart, without_overlaps
from prmagic.loading import load
from prmagic.reference import Reference
from prmagic.segmenter import Encoded, Segmenter
from prmagic.serve.cache import Budget, Cache
from prmagic.types import BoolArray, Prompts, Support

PHOTOS = Budget(each=512 << 20, total=2 << 30)  # pixels, embeddings and tokens of photos
RESULTS = Budget(each=128 << 20, total=512 << 20)
REFERENCES = Budget(each=128 << 20, total=512 << 20)
SEGMENTERS = Budget(each=24, total=24)  # each counts as 1: they share the models

Value = TypeVar("Value")


@dataclass(frozen=True)
class PhotoFile:
    """A visitor's photo: whose it is, its name, which the random draws are tied to, and its file."""

    owner: str
    name: str
    file: Path


@dataclass(frozen=True)
class Source:
    """What a class is learnt from: files of photos and masks, or a saved reference."""

    owner: str
    label: str
    supports: tuple[tuple[Path, Path], ...] = ()
    saved: Reference | None = None


class Engine:
    """Answers clicks, learns references and segments, for any settings.

    What was computed stays as long as memory allows, so that a photo is encoded once for several questions.

    Raises:
        ValueError: What `prmagic.load` raises for the models and settings.
    """

    def __init__(self, models: Models, settings: Settings):
        self.models = models
        self._worker = ThreadPoolExecutor(1, "model")
        self._segmenters: Cache[Segmenter] = Cache(lambda segmenter: 1, SEGMENTERS)
        self._photos: Cache[Encoded] = Cache(_bytes_of_photo, PHOTOS)
        self._references: Cache[Reference] = Cache(_bytes_of_reference, REFERENCES)
        self._results: Cache[PackedResult] = Cache(lambda result: result.bytes, RESULTS)
        self._sam: Promptable | None = None
        self._encoder: Dino | None = None
        self._sam = self.check(settings).framework.sam

    def check(self, settings: Settings) -> Segmenter:
        """The segmenter for them; ValueError if there is none."""
        return self._run(lambda: self._segmenter(settings))

    def warm(self, photo: PhotoFile, settings: Settings) -> Future[Encoded]:
        """Encode a photo before anyone asks for it."""
        return self._worker.submit(self._encode, photo, settings)

    def answer(self, photo: PhotoFile, settings: Settings, prompts: Prompts) -> BoolArray:
        """SAM's mask (H, W) for clicks on a photo."""
        return self._run(lambda: self._answer(photo, settings, prompts))

    def reference(self, settings: Settings, source: Source) -> Reference:
        """What the source gives with these settings; ReferenceMismatch if it was saved with others."""
        return self._run(lambda: self._reference(settings, source))

    def segment(self, photo: PhotoFile, settings: Settings, source: Source) -> PackedResult:
        """Find the source's thing in one photo.

        Raises:
            ImageError: The photo cannot be used.
            ReferenceMismatch: The reference is of another model.
        """
        return self._run(lambda: self._segment(photo, settings, source))

    def segment_all(self, photo: PhotoFile, settings: Settings, sources: Sequence[Source]) -> list[PackedResult]:
        """Find the things of several sources in one photo. A pixel goes to the one whose examples it is most like."""
        return self._run(lambda: self._segment_all(photo, settings, sources))

    def forget(self, owner: str) -> None:
        """Drop all that was computed for a visitor."""

        def drop() -> None:
            for cache in (self._photos, self._references, self._results):
                cache.forget(owner)

        self._worker.submit(drop)

    def close(self) -> None:
        """Finish what runs, and nothing that waits."""
        self._worker.shutdown(cancel_futures=True)

    def _run(self, do: Callable[[], Value]) -> Value:
        return self._worker.submit(do).result()

    def _segmenter(self, settings: Settings) -> Segmenter:
        settings = replace(settings, instances=False)  # for both it is the same
        return self._segmenters.get(("", settings), lambda: self._load(settings))

    def _load(self, settings: Settings) -> Segmenter:
        uses_encoder = variant(settings.framework, settings.preset).framework.uses_encoder
        arguments: dict[str, Any] = load_arguments(self.models, settings, uses_encoder)
        if self._sam is not None:
            arguments["sam"] = self._sam
        sized = dict(settings.options).get("encoder_size") is not None
        if uses_encoder and self._encoder is not None and not sized:
            arguments["encoder"] = self._encoder
        segmenter = load(**arguments)
        if not sized:
            self._encoder = segmenter.framework.encoder or self._encoder
        return segmenter

    def _encode(self, photo: PhotoFile, settings: Settings) -> Encoded:
        framework = self._segmenter(settings).framework
        models = tuple(model.fingerprint for model in framework.models)

        def make() -> Encoded:
            (query,) = framework.encode_queries([load_image(photo.file, self.models.max_pixels)])
            return Encoded(query, {}, {})

        return self._photos.get((photo.owner, photo, framework.name, models), make)

    def _answer(self, photo: PhotoFile, settings: Settings, prompts: Prompts) -> BoolArray:
        embedding = self._encode(photo, settings).query.embedding
        # A single click may mean a thing or its part: then, as SAM's authors advise, the best of three answers.
        ambiguous = len(prompts.points) == 1 and prompts.box is None and prompts.mask_logits is None
        with torch.no_grad():
            decoded = self._segmenter(settings).framework.sam.decode(embedding, [prompts], multimask=ambiguous)
            logits = decoded.logits[0, int(decoded.predicted_iou[0].argmax())]
            return to_mask(logits, embedding.frame)

    def _reference(self, settings: Settings, source: Source) -> Reference:
        segmenter = self._segmenter(settings)
        if source.saved is not None:
            segmenter.check(source.saved)
            return source.saved
        supports = [Support(photo, mask) for photo, mask in source.supports]
        signature = tuple(segmenter.framework.signature.items())
        kept = getattr(segmenter.selector, "reads", ()) if segmenter.flow.candidates > 1 else ()
        key = (source.owner, source, signature, settings.seed, *kept)
        return self._references.get(key, lambda: segmenter.encode_support(supports, source.label))

    def _segment(self, photo: PhotoFile, settings: Settings, source: Source) -> PackedResult:
        def make() -> PackedResult:
            segmenter, reference = self._segmenter(settings), self._reference(settings, source)
            encoded = self._encode(photo, settings)
            result = segmenter.segment_encoded(
                photo.name, source.label, encoded, reference, instances=settings.instances
            )
            encoded.query.memo.clear()  # it may hold many masks
            return PackedResult.of(result, file_sha256(photo.file))

        return self._results.get((photo.owner, photo, settings, source), make)

    def _segment_all(self, photo: PhotoFile, settings: Settings, sources: Sequence[Source]) -> list[PackedResult]:
        results = [self._segment(photo, settings, source) for source in sources]
        if len(results) < 2:
            return results
        if settings.instances:
            things = things_apart([result.instances for result in results])
            return [result.with_instances(mine) for result, mine in zip(results, things, strict=True)]
        references = [self._reference(settings, source) for source in sources]
        masks = [result.mask.array for result in results]
        apart = without_overlaps(self._encode(photo, settings).query, references, masks)
        each = zip(results, masks, apart, strict=True)
        return [result if mask is own else result.answered(own) for result, mask, own in each]


def _bytes_of_photo(encoded: Encoded) -> int:
    embedding, tokens = encoded.query.embedding, encoded.query.tokens
    tensors = (embedding.features, *embedding.details, tokens.vectors)
    return int(encoded.query.image.nbytes + sum(tensor.nbytes for tensor in tensors))


def _bytes_of_reference(reference: Reference) -> int:
    return int(sum(tensor.nbytes for tensor in reference.tensors.values()))
