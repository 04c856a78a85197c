"""The façade: a framework, a flow and a selector joined into something that takes photos and returns masks."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, overload

import torch

from prmagic import checks
from prmagic._version import __version__
from prmagic.ahead import ahead
from prmagic.backbones.runtimes import TORCH
from prmagic.flow import Flow
from prmagic.frameworks.base import Framework, Query, code_digest
from prmagic.instances import find_instances
from prmagic.io.images import MAX_PIXELS, load_image, load_mask
from prmagic.labels import best_first, disjoint
from prmagic.large_photos import segment_tiles
from prmagic.names import lookup
from prmagic.photos import named, read
from prmagic.presence import presence
from prmagic.reference import FORMAT, Example, Reference, ReferenceMismatch, photo_digest, supports_digest
from prmagic.refine import Draws, on_cpu, refine
from prmagic.result import Segmentation
from prmagic.select import SELECTORS, Selector, best, judged, prepared, require, selector_name
from prmagic.tiles import EXTENTS, OFF, around, checked, extents, tile_count
from prmagic.track import MEMORY, Tracks
from prmagic.types import ByteArray, Candidate, ImageLike, Support

DEFAULT_LABEL = "object"


@dataclass(eq=False)
class Encoded:
    """A photo that was encoded; seconds and counts: what that took, as long as no result has it booked."""

    query: Query
    seconds: Mapping[str, float]
    counts: Mapping[str, float]


class Segmenter:
    """Supports become a reference, queries become masks. `prmagic.load` makes one by names.

    Args:
        framework: PerSAM, PerSAM-F, Matcher, GF-SAM or one of yours, on its models.
        flow: Default: that of the framework's default preset.
        selector: The same.
        seed: Every random draw depends on it and on the photo's pixels alone: not on the photo's name, nor on what ran
            before.
        min_score: In −1 … 1. Below it a result counts as not found; None: none does.
        cache: A folder in which references are kept, by the content of their supports.
        max_pixels: Larger photos are refused.
        preset: A name for the record.
        tiles: Of large photos, as for `prmagic.load`.
    """

    def __init__(
        self,
        framework: Framework,
        flow: Flow | None = None,
        selector: Selector | None = None,
        *,
        seed: int = 0,
        min_score: float | None = None,
        cache: str | Path | None = None,
        max_pixels: int = MAX_PIXELS,
        preset: str = "none",
        tiles: str | int = OFF,
    ):
        checks.instance("framework", framework, Framework, "a framework on its models (prmagic.load makes one by name)")
        checks.instance("flow", flow, (Flow, type(None)), "a prmagic.Flow (prmagic.load takes its mode by name)")
        if min_score is not None and not -1 <= checks.number("min_score", min_score) <= 1:
            raise ValueError(f"min_score is compared with cosines and lies in -1 … 1, not {min_score}")
        default = framework.presets.get("default") or next(iter(framework.presets.values()))
        judge = selector or default.selector
        judge = lookup("selector", judge, SELECTORS) if isinstance(judge, str) else judge
        if not callable(judge):
            raise TypeError(f"a selector is a name or a function, not {type(judge).__name__}")
        self.framework = framework
        self.flow = flow or default.flow
        self.selector: Selector = judge
        self.cache = None if cache is None else Path(checks.path("cache", cache))
        # A CPU takes one at a time: it gains nothing from more, and results stay the same whatever else is asked for.
        self.together = framework.sam.device.type != "cpu"
        self.min_score = min_score
        self.seed = checks.whole("seed", seed)
        self.max_pixels = checks.whole("max_pixels", max_pixels, 1)
        self.preset = checks.text("preset", preset)
        self.tiles = checked(tiles)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides a result beside photos and references; JSON values."""
        signature = {name: value for name, value in self.framework.signature.items() if name != "model_name"}
        return {
            "preset": self.preset,
            **signature,
            "settings": dict(self.framework.settings),
            "flow": {"kind": type(self.flow).__name__, **asdict(self.flow)},
            "selector": selector_name(self.selector),
            "min_score": self.min_score,
            "seed": self.seed,
            **({} if self.tiles == OFF else {"tiles": self.tiles}),
            **{name: value for name, value in self.framework.placement.items() if value != TORCH},  # as before others
        }

    def encode_support(self, supports: Support | Sequence[Support], label: str = "") -> Reference:
        """One or several examples of one thing become a reference, good for any number of queries.

        Args:
            supports: Photos with masks.
            label: What they show; kept with the reference.

        Returns:
            A `Reference`, which can be saved.

        Raises:
            ImageError: For photos or masks that cannot be used.

        Examples:
            >>> cat = segmenter.encode_support(prmagic.Support("cat.jpg", "cat_mask.png"))
        """
        checks.text("label", label)
        checks.instance("supports", supports, (Support, Iterable), "a Support(image, mask), or a list of them")
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
        return self.encode_examples(examples, label=label)

    def encode_examples(
        self, examples: Sequence[Example], selectors: Sequence[Selector] = (), label: str = ""
    ) -> Reference:
        """The same for photos and masks that have been read; selectors: others that will score the results."""
        judges = [*selectors, *([self.selector] if self.flow.candidates > 1 else [])]
        kept_names = sorted({name for judge in judges for name in getattr(judge, "reads", ())})
        if self.tiles != OFF:
            examples = [around(example, self.framework.sam.input_size) for example in examples]
            kept_names = [*kept_names, EXTENTS]
        file = self._cache_file(examples, kept_names, label, [type(each) for each in judges])
        if file is not None and file.exists():
            with suppress(ReferenceMismatch):  # what is damaged is made anew
                return Reference.load(file)
        with torch.no_grad():
            keep = prepared(judges, self.framework, examples) | (extents(examples) if self.tiles != OFF else {})
            reference = self.framework.learn(examples, self._generator("", "support"), label, keep)
        if file is not None:
            reference.save(file)
        return reference

    def _cache_file(
        self, examples: Sequence[Example], kept_names: Sequence[str], label: str, selectors: Sequence[type]
    ) -> Path | None:
        """One for all that decides the reference's content, the code's version included."""
        if self.cache is None:
            return None
        where = self.framework.placement
        signature = {name: value for name, value in self.framework.signature.items() if name != "model_name"}
        decides = [
            __version__, FORMAT, signature, supports_digest(examples), kept_names, label, self.seed, where["dtype"],
            where["device"], code_digest(selectors), *({where["runtime"]} - {TORCH}),
        ]  # fmt: skip
        key = hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]
        return self.cache / f"{key}.safetensors"

    @overload
    def segment(
        self, image: ImageLike, reference: Reference, name: str | None = None, *, instances: bool = False
    ) -> Segmentation: ...
    @overload
    def segment(
        self, image: ImageLike, reference: Mapping[str, Reference], name: str | None = None, *,
        instances: bool = False, overlaps: bool = False,
    ) -> dict[str, Segmentation]: ...  # fmt: skip
    def segment(
        self, image: ImageLike, reference: Reference | Mapping[str, Reference], name: str | None = None, *,
        instances: bool = False, overlaps: bool = False,
    ) -> Segmentation | dict[str, Segmentation]:  # fmt: skip
        """Find what a reference shows in one photo; with several references by label, each of them.

        Args:
            image: Path, encoded bytes, PIL image, array or tensor.
            reference: From `encode_support`, or a dictionary of them by label.
            name: What the photo is called in the result; default: the file's name, or a digest of the pixels.
            instances: Find one mask per thing: `result.instances`, and `result.mask` is their union.
            overlaps: Leave a pixel to all labels that have it, not only to the one whose example it is most like.

        Returns:
            A `Segmentation`, or one by label.

        Raises:
            ImageError: For a photo that cannot be used.
            ReferenceMismatch: For a reference of another model.

        Examples:
            >>> segmenter.segment("photo.jpg", cat).mask
        """
        references = reference if isinstance(reference, Mapping) else self._labelled(reference)
        names = None if name is None else [checks.text("name", name)]
        found = self.stream([image], references, names=names, instances=instances, overlaps=overlaps)
        results = {each.label: each for each in found}
        return results if isinstance(reference, Mapping) else next(iter(results.values()))

    def stream(
        self,
        images: Iterable[ImageLike],
        references: Reference | Mapping[str, Reference],
        *,
        names: Iterable[str] | None = None,
        batch_size: int = 1,
        on_error: Callable[[str, Exception], None] | None = None,
        instances: bool = False,
        overlaps: bool = False,
    ) -> Iterator[Segmentation]:
        """Segment many photos. A photo is encoded once for all labels.

        Args:
            images: Photos, as for `segment`.
            references: One, or several by label.
            names: What the photos are called in the results; default: each file's name without its folders, or a digest
                of the pixels.
            batch_size: Photos encoded together on a GPU; a CPU takes one at a time.
            on_error: Called with the name and the error of a photo that cannot be used, instead of raising.
            instances: Find one mask per thing: `result.instances`, and `result.mask` is their union.
            overlaps: Leave a pixel to all labels that have it, not only to the one whose example it is most like.

        Yields:
            One result per photo and label, in order, as soon as it is there.

        Examples:
            >>> for result in segmenter.stream(paths, {"cat": cat, "dog": dog}): ...
        """
        references = references if isinstance(references, Mapping) else self._labelled(references)
        if not references:
            raise ValueError("stream needs at least one reference")
        checks.labels("references", references)
        for reference in references.values():
            self.check(reference)
        checks.several(images, names)
        if on_error is not None and not callable(on_error):
            raise TypeError(f"on_error must be a function of a name and an error; got {checks.shown(on_error)}")
        size = checks.whole("batch_size", batch_size, 1)
        batches = read(named(images, names), size if self.together else 1, self.max_pixels, on_error)
        if self.tiles != OFF:
            return self._tiled(chain.from_iterable(batches), references, instances, overlaps)
        return self._streamed(self._encoded(batches), references, instances, overlaps)

    def _streamed(
        self, batches: Iterator[list[tuple[str, Encoded]]], references: Mapping[str, Reference], instances: bool,
        overlaps: bool,
    ) -> Iterator[Segmentation]:  # fmt: skip
        for name, query in chain.from_iterable(ahead(batches) if self.together else batches):
            results = self._segment_labels(name, query, references, instances=instances)
            yield from results if overlaps or len(references) == 1 else disjoint(query.query, references, results)

    def track(
        self, frames: Iterable[ImageLike], reference: Reference | Mapping[str, Reference], *,
        memory: int = MEMORY, instances: bool = False,
    ) -> Iterator[Segmentation]:  # fmt: skip
        """Follow things through a video's frames: one result per frame and label. The rest is as for `Tracks`."""
        references = reference if isinstance(reference, Mapping) else self._labelled(reference)
        return Tracks(self, references, memory, instances).follow(frames)

    def check(self, reference: Reference) -> None:
        """Raise ReferenceMismatch for one of another model, or without what the selector reads."""
        if not isinstance(reference, Reference):
            raise TypeError(f"a reference comes from encode_support, and is not {type(reference).__name__}")
        self.framework.check(reference)
        if self.flow.candidates > 1:
            require(self.selector, reference)

    def encode(self, images: Sequence[ByteArray]) -> list[Encoded]:
        """Photos (H, W, 3) uint8 → what `segment_encoded` takes; on a GPU together, which is faster."""
        before = self.spent()
        queries = self.framework.encode_queries(images)
        seconds, counts = ({kind: n / len(images) for kind, n in spent.items()} for spent in self.since(before))
        return [Encoded(query, dict(seconds), dict(counts)) for query in queries]

    def segment_encoded(
        self, name: str, label: str, encoded: Encoded, reference: Reference, draw_key: str | None = None,
        instances: bool = False,
    ) -> Segmentation:  # fmt: skip
        """Of an encoded photo; its encoding is booked on the first result.

        draw_key: what the random draws are tied to, beside the seed: a benchmark's episode; default: the pixels."""
        return next(self._segment_labels(name, encoded, {label: reference}, draw_key, instances))

    def draws(self, key: str) -> Draws:
        """The random draws that belong to a key, such as a photo's digest, and the seed."""
        return Draws(self._generator(key, "points"), self._generator(key, "noise"))

    def _labelled(self, reference: Reference) -> dict[str, Reference]:
        label = reference.label if isinstance(reference, Reference) else ""  # what it is, `check` tells
        return {label or DEFAULT_LABEL: reference}

    def _encoded(self, batches: Iterable[list[tuple[str, ByteArray]]]) -> Iterator[list[tuple[str, Encoded]]]:
        for batch in batches:
            encoded = self.encode([pixels for _, pixels in batch])
            yield [(name, query) for (name, _), query in zip(batch, encoded, strict=True)]

    def _tiled(
        self, photos: Iterable[tuple[str, ByteArray]], references: Mapping[str, Reference], instances: bool,
        overlaps: bool,
    ) -> Iterator[Segmentation]:  # fmt: skip
        """Photos by themselves; those that need no tiles as ever."""
        for name, image in photos:
            count = tile_count(self.tiles, image.shape[:2], references.values(), self.framework.sam.input_size)
            if count == 1:
                yield from self._streamed(self._encoded([[(name, image)]]), references, instances, overlaps)
                continue
            results = segment_tiles(self, name, image, references, count, instances)
            yield from results if overlaps or len(references) == 1 else best_first(results)

    def _segment_labels(
        self, name: str, encoded: Encoded, references: Mapping[str, Reference], draw_key: str | None = None,
        instances: bool = False,
    ) -> Iterator[Segmentation]:  # fmt: skip
        """What labels share is booked on the first: the encoding, and the decoding where all are decoded together."""
        key = photo_digest(encoded.query.image) if draw_key is None else draw_key
        groups = [references] if self.together else [{label: reference} for label, reference in references.items()]
        for group in groups:
            before = self.spent()
            draws = [self.draws(key) for _ in group]
            paths = refine(self.framework, encoded.query, list(group.values()), self.flow, draws)
            for (label, reference), path in zip(group.items(), paths, strict=True):
                candidates, scores = self._judged(encoded.query, reference, path)
                chosen = best(scores)
                things = None
                if instances:
                    things = find_instances(self.framework, encoded.query, reference, path, self.min_score)
                    score = max((each.score for each in things), default=math.nan)
                else:
                    with self.framework.stopwatch("score"):
                        score = presence(encoded.query, reference, candidates[chosen].mask)
                seconds, counts = _booked(encoded, self.since(before))
                before = self.spent()
                yield Segmentation(
                    name, label, self.seed, encoded.query.image, tuple(map(on_cpu, candidates)), tuple(scores),
                    chosen, score, self.min_score, instances=things, seconds=seconds, counts=counts,
                )  # fmt: skip

    def _judged(
        self, query: Query, reference: Reference, path: Sequence[Candidate]
    ) -> tuple[Sequence[Candidate], list[float]]:
        if self.flow.candidates == 1:
            return path, [math.nan]
        with self.framework.stopwatch("select"), torch.no_grad():
            return judged(self.selector, self.framework, query, reference, path)

    def spent(self) -> tuple[dict[str, float], dict[str, int]]:
        """The framework's seconds and counts up to now."""
        return dict(self.framework.stopwatch.seconds), dict(self.framework.counts)

    def since(self, before: tuple[dict[str, float], dict[str, int]]) -> tuple[dict[str, float], dict[str, int]]:
        """What has been added since; of the seconds only stages that ran."""
        seconds, counts = self.spent()
        passed = {stage: total - before[0].get(stage, 0.0) for stage, total in seconds.items()}
        return (
            {stage: spent for stage, spent in passed.items() if spent > 0},
            {kind: total - before[1].get(kind, 0) for kind, total in counts.items()},
        )

    def __getstate__(self) -> Any:
        raise TypeError(
            "a segmenter holds models and cannot be pickled or copied: call prmagic.load with the same arguments there"
        )

    def _generator(self, key: str, stream: str) -> torch.Generator:
        digest = hashlib.sha256(f"{self.seed}|{key}|{stream}".encode(errors="surrogateescape")).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def _booked(
    encoded: Encoded, spent: tuple[dict[str, float], dict[str, int]]
) -> tuple[dict[str, float], dict[str, int]]:
    """What a result took; the encoding of its photo is added to the first one."""
    seconds, counts = spent
    stages = {**encoded.seconds, **seconds}
    took = {stage: seconds.get(stage, 0.0) + encoded.seconds.get(stage, 0.0) for stage in stages}
    ran = {kind: round(amount + encoded.counts.get(kind, 0)) for kind, amount in counts.items()}
    encoded.seconds, encoded.counts = {}, {}
    return took, ran
