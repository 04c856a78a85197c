"""The models, shared by all visitors: one thread runs them, in the order in which it was asked."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from prmagic.app.marking import Answer
from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Promptable
from prmagic.frameworks import Framework, Reference
from prmagic.frameworks.base import to_mask
from prmagic.images import load_image
from prmagic.segmenter import Encoded, Segmenter, load
from prmagic.select import reads
from prmagic.types import Prompts, Segmentation, Support

KEPT = 24  # encoded photos, and results with all their candidates, that are kept for all visitors together

Value = TypeVar("Value")


@dataclass(frozen=True)
class Settings:
    """What decides a result beside models, photos and examples; as for `prmagic.load`, None for the preset's."""

    framework: str = "persam-f"
    preset: str = "default"
    flow: str | None = None
    steps: int | None = None
    eta: float | None = None
    gamma: float | None = None
    selector: str | None = None
    extra_points: str | None = None
    bridge: str | None = None
    centers: int | None = None
    min_score: float | None = None
    seed: int = 0

    @property
    def given(self) -> dict[str, Any]:
        """Those that are not the default, by their names in Python."""
        plain = asdict(Settings())
        return {name: value for name, value in asdict(self).items() if value != plain[name]}


@dataclass(frozen=True)
class Models:
    """Which models, as for `prmagic.load`; what differs from its defaults has to be named to get the same again."""

    sam: str = "embedded"
    encoder: str | None = None
    encoder_size: int | None = None
    device: str | None = None
    dtype: str = "float32"
    max_pixels: int = 64_000_000


class Recent(Generic[Value]):
    """The values that were used last, of those with a key."""

    def __init__(self, most: int):
        self._values: OrderedDict[Hashable, Value] = OrderedDict()
        self._most = most

    def get(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value of that key, made if it is not there."""
        value = self._values.pop(key) if key in self._values else make()
        self._values[key] = value
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return value

    def forget(self, owner: str) -> None:
        """Drop what has a key that begins with it."""
        for key in [key for key in self._values if isinstance(key, tuple) and key[0] == owner]:
            del self._values[key]


@dataclass(frozen=True)
class Photo:
    """A visitor's photo: whose it is, its name, which the random draws are tied to, and its file."""

    owner: str
    name: str
    file: Path


@dataclass(frozen=True)
class Source:
    """What a visitor's class is learnt from: files of photos and masks, or a saved reference."""

    owner: str
    supports: tuple[tuple[Path, Path], ...] = ()
    saved: Reference | None = None


class Engine:
    """Answers clicks, learns references and segments, for any settings; a photo is encoded once, while it is recent.

    Raises at once what `prmagic.load` raises for the models and settings."""

    def __init__(self, models: Models, settings: Settings):
        self.models = models
        self._worker = ThreadPoolExecutor(1, "model")
        self._segmenters: Recent[Segmenter] = Recent(KEPT)
        # By keys that begin with the visitor.
        self._encoded: Recent[Encoded] = Recent(KEPT)
        self._references: Recent[Reference] = Recent(KEPT)
        self._results: Recent[Segmentation] = Recent(KEPT)
        self._sam: Promptable | None = None
        self._encoder: Dino | None = None
        self._sam = self.check(settings).framework.sam

    def check(self, settings: Settings) -> Segmenter:
        """The segmenter for them; ValueError if there is none."""
        return self._worker.submit(self._segmenter, settings).result()

    def warm(self, photo: Photo, settings: Settings) -> Future[Encoded]:
        """Encode a photo before anyone asks for it."""
        return self._worker.submit(self._encode, photo, settings)

    def answer(self, photo: Photo, settings: Settings, prompts: Prompts) -> Answer:
        """SAM's mask for clicks on a photo, and its logits."""
        return self._worker.submit(self._answer, photo, settings, prompts).result()

    def reference(self, settings: Settings, source: Source) -> Reference:
        """What the source gives with these settings; ReferenceMismatch if it was saved with others."""
        return self._worker.submit(self._reference, settings, source).result()

    def segment(self, photo: Photo, label: str, settings: Settings, source: Source) -> Segmentation:
        """One photo; what it gave before, if that is recent.

        Raises ImageError for a photo that cannot be used, ReferenceMismatch for a reference of another model."""
        return self._worker.submit(self._segment, photo, label, settings, source).result()

    def forget(self, owner: str) -> None:
        """Drop all that was computed for a visitor."""
        self._worker.submit(self._forget, owner)

    def close(self) -> None:
        """Finish what runs, and nothing that waits."""
        self._worker.shutdown(cancel_futures=True)

    def _segmenter(self, settings: Settings) -> Segmenter:
        return self._segmenters.get(settings, lambda: self._load(settings))

    def _load(self, settings: Settings) -> Segmenter:
        models = self.models
        options: dict[str, Any] = {**asdict(settings), "device": models.device, "max_pixels": models.max_pixels}
        if settings.framework == "matcher":
            options["encoder"] = self._encoder or models.encoder
            options["encoder_size"] = None if self._encoder else models.encoder_size
        segmenter = load(sam=self._sam or models.sam, dtype=models.dtype, **options)
        self._encoder = getattr(segmenter.framework, "encoder", self._encoder)
        return segmenter

    def _encode(self, photo: Photo, settings: Settings) -> Encoded:
        framework = self._segmenter(settings).framework
        # Frameworks that keep no more than SAM's embedding share it.
        plain = type(framework).encode_queries is Framework.encode_queries

        def make() -> Encoded:
            (query,) = framework.encode_queries([load_image(photo.file, self.models.max_pixels)])
            return Encoded(query, {}, {})

        return self._encoded.get((photo.owner, photo, "" if plain else framework.name), make)

    def _answer(self, photo: Photo, settings: Settings, prompts: Prompts) -> Answer:
        embedding = self._encode(photo, settings).query.embedding
        # A single click may mean a thing or its part: then, as SAM's authors advise, the best of three answers.
        ambiguous = len(prompts.points) == 1 and prompts.box is None and prompts.mask_logits is None
        with torch.no_grad():
            decoded = self._segmenter(settings).framework.sam.decode(embedding, [prompts], multimask=ambiguous)
            logits = decoded.logits[0, int(decoded.predicted_iou[0].argmax())]
            return to_mask(logits, embedding.frame), logits

    def _reference(self, settings: Settings, source: Source) -> Reference:
        segmenter = self._segmenter(settings)
        if source.saved is not None:
            segmenter.check(source.saved)
            return source.saved
        supports = [Support(photo, mask) for photo, mask in source.supports]
        read = reads(segmenter.selector) if segmenter.flow.candidates > 1 else ()
        key = (source.owner, source, *segmenter.framework.signature.values(), settings.seed, *read)
        return self._references.get(key, lambda: segmenter.encode_support(supports))

    def _segment(self, photo: Photo, label: str, settings: Settings, source: Source) -> Segmentation:
        segmenter, reference = self._segmenter(settings), self._reference(settings, source)

        def make() -> Segmentation:
            return segmenter.segment_encoded(photo.name, label, self._encode(photo, settings), reference)

        return self._results.get((photo.owner, photo, label, settings, source), make)

    def _forget(self, owner: str) -> None:
        for kept in (self._encoded, self._references, self._results):
            kept.forget(owner)


def python_options(models: Models, settings: Settings) -> Mapping[str, Any]:
    """The arguments of `prmagic.load` beside the framework, and of `prmagic segment`, that are not the defaults."""
    plain, chosen = asdict(Models()), asdict(models)
    if settings.framework != "matcher":
        chosen |= {"encoder": None, "encoder_size": None}
    options = {name: value for name, value in chosen.items() if value != plain[name]}
    return {**options, **{name: value for name, value in settings.given.items() if name != "framework"}}


def command_options(models: Models, settings: Settings) -> Iterable[str]:
    """The same for the command line, the framework too."""
    options = {**({"framework": settings.framework} if "framework" in settings.given else {})}
    options |= python_options(models, settings)
    for name, value in options.items():
        yield f"--{name.replace('_', '-')}"
        yield str(value)
