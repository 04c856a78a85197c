"""The façade: a framework, a flow and a selector joined into something that takes photos and returns masks."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, overload

import torch

from prmagic import __version__
from prmagic.ahead import ahead
from prmagic.backbones.adapters import load_promptable
from prmagic.backbones.checkpoints import EMBEDDED
from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Promptable
from prmagic.flow import FLOW_MODES, Flow
from prmagic.frameworks import FRAMEWORKS, Example, Framework, Matcher, PerSam, PerSamF, Query, Reference
from prmagic.frameworks.base import FORMAT, ReferenceMismatch, digest
from prmagic.frameworks.bridges import BRIDGES
from prmagic.images import MAX_PIXELS, ImageError, ImageLike, load_image, load_mask
from prmagic.names import lookup
from prmagic.presence import calibrated, presence
from prmagic.presets import EXTRA_POINTS, PRESETS
from prmagic.refine import Search, refine
from prmagic.select import EXTRAS, SELECTORS, Selector, choose, reads, require
from prmagic.types import ByteArray, Segmentation, Support

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DEFAULT_LABEL = "object"


@dataclass(eq=False)
class Encoded:
    """A photo that was encoded; seconds and counts: what that took, as long as no result has it booked."""

    query: Query
    seconds: Mapping[str, float]
    counts: Mapping[str, float]


class Segmenter:
    """Supports become a reference, queries become masks.

    flow, selector: by default the framework's own. min_score: below it a result counts as not found
    (`prmagic.presence`); None: all count. seed: every random draw depends on it and on the query's name alone, never on
    what else ran before.
    cache: a folder in which references are kept, by the content of their supports."""

    def __init__(
        self,
        framework: Framework,
        flow: Flow | None = None,
        selector: Selector | None = None,
        seed: int = 0,
        max_pixels: int = MAX_PIXELS,
        preset: str = "none",
        cache: str | Path | None = None,
        min_score: float | None = None,
    ):
        self.framework = framework
        self.flow = flow or framework.flow
        self.selector = selector or SELECTORS[framework.selector]
        self.cache = None if cache is None else Path(cache)
        # A CPU takes one at a time: it gains nothing from more, and results stay the same whatever else is asked for.
        self.together = framework.sam.device.type != "cpu"
        if min_score is not None and not -1 <= min_score <= 1:
            raise ValueError(f"min_score is compared with cosines and lies in -1 … 1, not {min_score}")
        self.min_score = min_score
        self.seed = seed
        self.max_pixels = max_pixels
        self.preset = preset  # only a name for the record; what it stands for is in the settings

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides a result beside photos and references; JSON values."""
        signature = {name: value for name, value in self.framework.signature.items() if name != "model_name"}
        return {
            "preset": self.preset,
            **signature,
            "settings": dict(self.framework.settings),
            "flow": asdict(self.flow),
            "selector": str(self.selector),
            "min_score": self.min_score,
            "seed": self.seed,
            "device": self.framework.sam.device.type,
            "dtype": str(self.framework.sam.dtype).removeprefix("torch."),
        }

    def encode_support(self, supports: Support | Sequence[Support]) -> Reference:
        """One or several examples of one thing → a reference, good for any number of queries.

        Raises ImageError for photos or masks that cannot be used."""
        supports = [supports] if isinstance(supports, Support) else list(supports)
        if not supports:
            raise ValueError("encode_support needs at least one Support(image, mask)")
        examples = []
        for support in supports:
            if not isinstance(support, Support):
                raise TypeError(f"encode_support takes Support(image, mask), not {type(support).__name__}")
            image = load_image(support.image, self.max_pixels)
            mask = load_mask(support.mask, image.shape[:2], support.mask_value, self.max_pixels)
            examples.append(Example(image, mask))
        return self.encode_examples(examples)

    def encode_examples(self, examples: Sequence[Example], read: Iterable[str] | None = None) -> Reference:
        """The same for photos and masks that are arrays already, and are taken as they are.

        read: what selectors will read of the reference; by default, what this segmenter's own does."""
        if read is None:
            read = reads(self.selector) if self.flow.candidates > 1 else ()
        extras = [name for name in EXTRAS if name in set(read)]
        kept = self._kept(examples, extras)
        if kept is not None and kept.exists():
            with suppress(ReferenceMismatch):  # what is damaged is made anew
                return Reference.load(kept)
        with torch.no_grad():
            reference = self.framework.encode_support(examples, self._generator("", "support"))
            if "descriptors" in extras:
                reference = self.framework.with_descriptors(reference, examples)
            if "shares" in extras:
                reference = self.framework.with_shares(reference, examples)
            if "photos" in extras:
                reference = self.framework.with_photos(reference, examples)
        if kept is not None:
            reference.save(kept)
        return reference

    def _kept(self, examples: Sequence[Example], extras: Sequence[str]) -> Path | None:
        """The file in the cache: one for all that decides the reference's content, the code's version included."""
        if self.cache is None:
            return None
        sam = self.framework.sam
        signature = {name: value for name, value in self.framework.signature.items() if name != "model_name"}
        decides = [__version__, FORMAT, signature, digest(examples), extras, self.seed, str(sam.dtype), sam.device.type]
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        return self.cache / f"{key}.safetensors"

    @overload
    def segment(self, image: ImageLike, reference: Reference, name: str | None = None) -> Segmentation: ...
    @overload
    def segment(
        self, image: ImageLike, reference: Mapping[str, Reference], name: str | None = None
    ) -> dict[str, Segmentation]: ...
    def segment(
        self, image: ImageLike, reference: Reference | Mapping[str, Reference], name: str | None = None
    ) -> Segmentation | dict[str, Segmentation]:
        """Find what the reference shows in one photo; with several references by label, each of them.

        name: what the random draws are tied to, beside the seed; the file's name by default, or a digest of the pixels.
        Raises ImageError for a photo that cannot be used, ReferenceMismatch for a reference of another model."""
        references = reference if isinstance(reference, Mapping) else {DEFAULT_LABEL: reference}
        results = {r.label: r for r in self.stream([image], references, names=None if name is None else [name])}
        return results if isinstance(reference, Mapping) else results[DEFAULT_LABEL]

    def stream(
        self,
        images: Iterable[ImageLike],
        references: Reference | Mapping[str, Reference],
        *,
        names: Iterable[str] | None = None,
        batch_size: int = 1,
        on_error: Callable[[str, Exception], None] | None = None,
    ) -> Iterator[Segmentation]:
        """Segment many photos; one result per photo and label, in order, as soon as it is there.

        A photo is encoded once for all labels. names: what the random draws are tied to, beside the seed; by default
        each file's name without its folders, or a digest of the pixels. batch_size: photos encoded together on a GPU
        (a CPU takes one at a time whatever it says). on_error(name, error): called for a photo that cannot be used,
        instead of raising."""
        references = references if isinstance(references, Mapping) else {DEFAULT_LABEL: references}
        if not references:
            raise ValueError("stream needs at least one reference")
        for reference in references.values():
            if not isinstance(reference, Reference):
                raise TypeError(f"a reference comes from encode_support, and is not {type(reference).__name__}")
            self.check(reference)
        batches = self._encoded(self._named(images, names), batch_size if self.together else 1, on_error)
        for name, query in chain.from_iterable(ahead(batches) if self.together else batches):
            yield from self._segment_labels(name, query, references)

    def check(self, reference: Reference) -> None:
        """Raise ReferenceMismatch for one of another model, or without what the selector reads."""
        self.framework.check(reference)
        if self.min_score is not None and self.min_score > -1 and self.framework.object_patches(reference) is None:
            raise ReferenceMismatch(
                f"min_score {self.min_score:g} has no score to be compared with, as this reference lacks the examples' "
                "objects: if an earlier version saved it, make it anew from the support photos; if the framework keeps "
                "none, leave min_score out"
            )
        if self.flow.candidates > 1:
            require(self.selector, reference)

    def _encoded(
        self, named: Iterator[tuple[str, ImageLike]], size: int, on_error: Callable[[str, ImageError], None] | None
    ) -> Iterator[list[tuple[str, Encoded]]]:
        while batch := list(islice(named, size)):
            loaded: list[tuple[str, ByteArray]] = []
            for name, image in batch:
                try:
                    pixels = load_image(image, self.max_pixels)
                except ImageError as error:
                    if on_error is None:
                        raise
                    on_error(name or str(image), error)
                    continue
                loaded.append((name or hashlib.sha256(pixels.tobytes()).hexdigest()[:16], pixels))
            if loaded:
                encoded = self.encode([pixels for _, pixels in loaded])
                yield [(name, query) for (name, _), query in zip(loaded, encoded, strict=True)]

    def encode(self, images: Sequence[ByteArray]) -> list[Encoded]:
        """Photos (H, W, 3) uint8 → what `segment_encoded` takes; on a GPU together, which is faster."""
        before = self._spent()
        queries = self.framework.encode_queries(images)
        seconds, counts = ({kind: n / len(images) for kind, n in spent.items()} for spent in self._since(before))
        return [Encoded(query, dict(seconds), dict(counts)) for query in queries]

    def segment_encoded(self, name: str, label: str, encoded: Encoded, reference: Reference) -> Segmentation:
        """Of an encoded photo; its encoding is booked on the first result."""
        return next(self._segment_labels(name, encoded, {label: reference}))

    def _segment_labels(
        self, name: str, encoded: Encoded, references: Mapping[str, Reference]
    ) -> Iterator[Segmentation]:
        """What labels share is booked on the first: the encoding, and the decoding where all are decoded together."""
        groups = [references] if self.together else [{label: reference} for label, reference in references.items()]
        for group in groups:
            before = self._spent()
            searches = {label: self.search(name, reference) for label, reference in group.items()}
            refine(self.framework, encoded.query, list(searches.values()), self.flow)
            for label, search in searches.items():
                scores = self._scores(encoded.query, search)
                chosen = choose(scores)
                with self.framework.stopwatch("presence"):
                    score = presence(self.framework, encoded.query, search.reference, search.candidates[chosen].mask)
                took, ran = self._since(before)
                took = {
                    stage: took.get(stage, 0.0) + encoded.seconds.get(stage, 0.0)
                    for stage in {**encoded.seconds, **took}
                }
                ran = {kind: round(amount + encoded.counts.get(kind, 0)) for kind, amount in ran.items()}
                encoded.seconds, encoded.counts = {}, {}
                before = self._spent()
                yield Segmentation(
                    name, label, self.seed, encoded.query.image, tuple(search.candidates), tuple(scores),
                    chosen, score, self.min_score, took, ran,
                )  # fmt: skip

    def search(self, name: str, reference: Reference) -> Search:
        """One that has not begun, with the random draws that belong to the photo's name and the seed."""
        return Search(reference, self._generator(name, "points"), self._generator(name, "noise"))

    def _scores(self, query: Query, search: Search) -> list[float]:
        if len(search.candidates) == 1:
            return [math.nan]  # nothing to choose from
        with self.framework.stopwatch("select"), torch.no_grad():
            return self.selector(self.framework, query, search.reference, search.candidates)

    def _spent(self) -> tuple[dict[str, float], dict[str, int]]:
        """The framework's seconds and counts up to now."""
        return dict(self.framework.stopwatch.seconds), dict(self.framework.counts)

    def _since(self, before: tuple[dict[str, float], dict[str, int]]) -> tuple[dict[str, float], dict[str, int]]:
        """What has been added since; of the seconds only stages that ran."""
        seconds, counts = self._spent()
        passed = {stage: total - before[0].get(stage, 0.0) for stage, total in seconds.items()}
        return (
            {stage: spent for stage, spent in passed.items() if spent > 0},
            {kind: total - before[1].get(kind, 0) for kind, total in counts.items()},
        )

    def _named(self, images: Iterable[ImageLike], names: Iterable[str] | None) -> Iterator[tuple[str, ImageLike]]:
        if names is not None:
            yield from zip(names, images, strict=True)
            return
        for image in images:
            yield (Path(image).name if isinstance(image, (str, os.PathLike)) else ""), image

    def _generator(self, name: str, stream: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}|{name}|{stream}".encode(errors="surrogateescape")).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def load(
    framework: str | type[Framework] = "persam-f",
    *,
    sam: str | Path | Promptable = EMBEDDED,
    encoder: str | Path | Dino | None = None,
    encoder_size: int | None = None,
    preset: str = "default",
    flow: str | None = None,
    steps: int | None = None,
    eta: float | None = None,
    gamma: float | None = None,
    rho: float | None = None,
    extra_points: str | None = None,
    bridge: str | None = None,
    centers: int | None = None,
    selector: str | Selector | None = None,
    min_score: float | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | torch.dtype = "float32",
    max_pixels: int = MAX_PIXELS,
    cache: str | Path | None = None,
) -> Segmenter:
    """A segmenter, ready to use; without arguments the embedded model, offline.

    framework: "persam", "persam-f", "matcher", or a class of yours derived from prmagic.Framework. sam: "embedded", a
    hub id such as "facebook/sam-vit-huge" (or "facebook/sam-vit-huge@REVISION"), a folder in Hugging Face format, of a
    SAM, SAM-HQ, SAM 2, EdgeTAM or SAM 3, or a file as its authors published it, such as "sam_vit_h_4b8939.pth";
    encoder: the same for Matcher's DINOv2 or DINOv3, and encoder_size the side of its input in pixels. Either may be a
    model that another segmenter has already, which keeps its device and dtype. preset:
    "default", "paper" (the published code's behaviour, mistakes included) or "official" (Matcher's own), each also as
    "-parts" for parts of objects, the latter two also with a benchmark's name behind ("paper-fss"). These replace the
    preset's, or the framework's own: flow, steps (T), gamma (γ), selector; eta (η), which stands for the published d
    and step, or with rho for the size of the noise alone; rho (ρ), the root mean square of a step's drift in parts of
    the embedding's, for the d of the preset or the framework; extra_points, where PerSAM-F's points beside the peak
    come from: "none", or above the quantiles "0.99/0.90" or "0.99999/0.9999" of the similarity map; bridge, how SAM's
    shift reaches Matcher's tokens: "pad", "ridge" or "similarity"; centers, with how many places Matcher prompts: the
    more, the more things of the kind it can find in one photo. min_score: the least score, −1 … 1, of what counts as
    found (`prmagic.presence`); by default, for "matcher" with the embedded models and a default preset, the one that
    was calibrated for it, and elsewhere none. device: "cpu", "cuda", "mps", …; CUDA if it is there. dtype: of the
    image encoders. cache: a folder that keeps references, so that the same model does not encode the same supports
    again.

    Raises ValueError for a name that is not known or an option that the framework has not, CheckpointError for a model
    that cannot be loaded."""
    chosen = lookup("preset", preset, PRESETS)
    judge: Selector | None = chosen.selector
    if selector is not None:
        judge = lookup("selector", selector, SELECTORS) if isinstance(selector, str) else selector
    built = lookup("framework", framework, FRAMEWORKS) if isinstance(framework, str) else framework
    if not (isinstance(built, type) and issubclass(built, Framework)):
        raise ValueError(f"framework must be a name or a class derived from prmagic.Framework, not {built!r}")
    configured = _flow(chosen.flow or built.flow, flow, rho, {"steps": steps, "eta": eta, "gamma": gamma})
    _refuse(built, PerSamF, extra_points=extra_points)
    _refuse(built, Matcher, bridge=bridge, centers=centers, encoder=encoder, encoder_size=encoder_size)
    kind = lookup("dtype", dtype, DTYPES) if isinstance(dtype, str) else dtype
    place = _device(device)
    ready: Framework
    if issubclass(built, PerSam):
        if chosen.persam is None:
            raise ValueError(f"preset {preset!r} is Matcher's own: use it with framework matcher, or another preset")
        quantiles = chosen.persam.quantiles
        if extra_points is not None:
            quantiles = lookup("choice of extra points", extra_points, EXTRA_POINTS)
        ready = built(_promptable(sam, place, kind), replace(chosen.persam, quantiles=quantiles))
    elif issubclass(built, Matcher):
        across = chosen.matcher.bridge
        if bridge is not None:
            across = lookup("bridge", bridge, {known: known for known in BRIDGES})
        if isinstance(encoder, Dino):
            tokens = encoder
        else:
            tokens = Dino.load(EMBEDDED if encoder is None else encoder, place, kind, encoder_size)
        places = chosen.matcher.centers if centers is None else centers
        options = replace(chosen.matcher, bridge=across, centers=places)
        ready = built(_promptable(sam, place, kind), tokens, options)
    else:
        ready = built(_promptable(sam, place, kind))
    if min_score is None and preset == "default" and encoder_size is None:
        min_score = calibrated(ready)
    return Segmenter(ready, configured, judge, seed, max_pixels, preset, cache, min_score)


def _flow(base: Flow, mode: str | None, rho: float | None, changes: Mapping[str, Any]) -> Flow:
    """Base with what was chosen. An η alone asks for the published step, of which it is the size."""
    if rho is not None:
        base = replace(base, rho=rho, clip=None)
    elif changes["eta"] is not None:
        base = base.published
    base = replace(base, **{name: value for name, value in changes.items() if value is not None})
    moved = base if mode is None else base.in_mode(lookup("flow", mode, {known: known for known in FLOW_MODES}))
    if rho is not None and moved.rho is None:
        raise ValueError(f"the flow {moved.mode!r} has no gradient, so that rho would change nothing")
    if moved.mode == "drift":  # what does not move at all takes any size, to be compared with what does
        for name in ("gamma",) if moved.rho is None else ("gamma", "eta"):  # without ρ the drift's own size is η
            if changes[name] is not None:
                raise ValueError(f"the flow {moved.mode!r} has no noise, so that {name} would change nothing")
    return moved


def _promptable(sam: str | Path | Promptable, device: torch.device, dtype: torch.dtype) -> Promptable:
    return sam if isinstance(sam, Promptable) else load_promptable(sam, device, dtype)


def _refuse(framework: type[Framework], owner: type[Framework], **options: object) -> None:
    """An option without effect is a mistake of the caller's."""
    given = [name for name, value in options.items() if value is not None]
    if given and not issubclass(framework, owner):
        option = given[0].replace("_", " ")
        raise ValueError(f"the {option} can be chosen for framework {owner.name}, but this is {framework.name}")


def _device(name: str | None) -> torch.device:
    name = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).split("\n")[0]
        raise ValueError(f"device {name!r} cannot be used here ({reason}); try device cpu") from None
    return device
