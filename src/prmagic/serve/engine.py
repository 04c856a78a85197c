"""What the worker does: learns references and finds them in photos, with the settings that a request asks for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmagic.loading import load, settings_of
from prmagic.names import hint
from prmagic.options import Setting
from prmagic.reference import Reference, ReferenceMismatch
from prmagic.segmenter import Segmenter
from prmagic.select import SELECTORS
from prmagic.serve.answers import mask_answer
from prmagic.serve.errors import RequestError, Unfit
from prmagic.serve.inputs import ExampleFile, PhotoFile, decoded_photo, decoded_supports, noted
from prmagic.serve.schemas import ModelAnswer, Output, PhotoAnswer, SettingAnswer
from prmagic.types import ByteArray

Settings = tuple[tuple[str, Any], ...]  # (name, value) of those that are not the server's, sorted

MOST_STEPS = 50
MOST = 100  # of every other whole number, unless the preset's own is larger
SEGMENTERS = 16  # with settings of their own; they share the models
FIXED = ("encoder_size",)  # would load another model
OTHERS = {
    "selector": Setting("selector", str | None, None, "What chooses the candidate.", tuple(SELECTORS)),
    "min_score": Setting("min_score", float | None, None, "Masks with a lower score count as not found."),
    "seed": Setting("seed", int, 0, "Same seed, same result."),
}


class Engine:
    """The models and what they are asked for.

    Args:
        arguments: For `prmagic.load`.

    Raises:
        ValueError: What `prmagic.load` raises for them.
    """

    def __init__(self, arguments: Mapping[str, Any]):
        self.arguments = dict(arguments)
        self.framework, self.preset = str(arguments["framework"]), str(arguments.get("preset", "default"))
        self.segmenter = load(**self.arguments)
        self._known = {**settings_of(self.framework, self.preset), **OTHERS}
        self._changed: OrderedDict[Settings, Segmenter] = OrderedDict()
        self._lock = threading.Lock()

    def checked(self, settings: Mapping[str, Any]) -> Settings:
        """A request's settings.

        Raises:
            RequestError: A name is not known, or a value not possible.
        """
        chosen = {name.replace("-", "_"): value for name, value in settings.items()}
        try:
            found = tuple(sorted((name, self._value(name, value)) for name, value in chosen.items()))
            self.with_settings(found)
        except (ValueError, TypeError) as error:
            raise RequestError(f"settings: {error}") from None
        return found

    def with_settings(self, settings: Settings) -> Segmenter:
        """A segmenter on the same models; ValueError for settings that do not go together."""
        if not settings:
            return self.segmenter
        with self._lock:
            if settings not in self._changed:
                models: dict[str, Any] = {"sam": self.segmenter.framework.sam}
                if self.segmenter.framework.encoder is not None:
                    models["encoder"] = self.segmenter.framework.encoder
                options = {name: value for name, value in self.arguments.items() if name != "encoder_size"}
                self._changed[settings] = load(**{**options, **models, **dict(settings)})
                if len(self._changed) > SEGMENTERS:
                    self._changed.popitem(last=False)
            self._changed.move_to_end(settings)
            return self._changed[settings]

    def check(self, reference: Reference, name: str, settings: Settings = ()) -> None:
        """Raise Unfit for a reference that another model made, or with other settings."""
        try:
            self.with_settings(settings).check(reference)
        except ReferenceMismatch:
            raise Unfit(
                f"reference {name!r} was made by another model or framework, or with other settings: make it anew"
            ) from None

    def made(self, made_by: Mapping[str, str]) -> bool:
        """Whether a reference was made by this model and framework, with the settings that matter for it."""
        signature = self.segmenter.framework.signature
        return all(made_by.get(what) == signature[what] for what in ("framework", "model", "settings"))

    def about(self) -> ModelAnswer:
        """The models, for people. A file or folder of the server goes without those above it."""
        framework = self.segmenter.framework
        names = [Path(model.name).name if Path(model.name).exists() else model.name for model in framework.models]
        settings = [
            SettingAnswer(name=known.name, default=known.default, help=known.help, choices=list(known.choices))
            for known in self._known.values()
            if known.name not in FIXED
        ]
        return ModelAnswer(
            framework=framework.name, preset=self.preset, sam=names[0], encoder=names[1] if len(names) > 1 else None,
            **framework.placement, max_pixels=self.segmenter.max_pixels, settings=settings,
        )  # fmt: skip

    def _value(self, name: str, value: Any) -> Any:
        if name in FIXED:
            raise ValueError(f"{name} is chosen when the server starts")
        if name not in self._known:  # above all none of `load`'s other arguments, which name files
            raise ValueError(f"{self.segmenter.framework.name} has no setting {name!r}: {hint(name, self._known)}")
        known = self._known[name]
        fitting = known.check(value)
        if isinstance(fitting, int) and not isinstance(fitting, bool) and name != "seed":
            own = known.default if isinstance(known.default, int) else 0
            most = max(MOST_STEPS if name == "steps" else MOST, 2 * own)
            if not -most <= fitting <= most:
                raise ValueError(f"{name} must not be above {most} here")
        return fitting


@dataclass(frozen=True, eq=False)
class Learned:
    """A reference, and what was said on reading its supports."""

    reference: Reference
    notes: list[str]


@dataclass(frozen=True, eq=False)
class Learn:
    """Supports become a reference. It keeps what every selector reads."""

    engine: Engine
    label: str
    settings: Settings = ()

    def run(self, photos: Sequence[Sequence[ExampleFile]]) -> list[Learned]:
        """One reference for each group of supports."""
        return [self._learn(supports) for supports in photos]

    def _learn(self, supports: Sequence[ExampleFile]) -> Learned:
        segmenter = self.engine.with_settings(self.settings)
        examples, notes = noted(lambda: decoded_supports(supports, segmenter))
        return Learned(segmenter.encode_examples(examples, [*SELECTORS.values()], self.label), notes)


@dataclass(frozen=True)
class Segment:
    """Photos in which references are looked for; references: (id, or None for supports of the request; itself)."""

    engine: Engine
    references: tuple[tuple[str | None, Reference], ...]
    settings: Settings
    output: Output
    instances: bool
    candidates: bool
    overlaps: bool

    def run(self, photos: Sequence[PhotoFile]) -> list[PhotoAnswer | RequestError]:
        """What was found in each photo; an error for one that cannot be used."""
        segmenter = self.engine.with_settings(self.settings)
        answers: list[PhotoAnswer | RequestError] = []
        images: dict[str, ByteArray] = {}
        for photo in photos:
            answer = _begun(photo, images, str(len(answers)), segmenter.max_pixels)
            answers.append(answer)
            if sum(image.size for image in images.values()) > 3 * segmenter.max_pixels:
                self._find(images, answers, segmenter)
        self._find(images, answers, segmenter)
        return answers

    def _find(
        self, images: dict[str, ByteArray], answers: Sequence[PhotoAnswer | RequestError], segmenter: Segmenter
    ) -> None:
        """Complete the answers of these images, by the answer's place, and drop the images."""
        if not images:
            return
        references = {str(place): reference for place, (_, reference) in enumerate(self.references)}
        found = segmenter.stream(
            images.values(), references, names=images, batch_size=len(images), instances=self.instances,
            overlaps=self.overlaps,
        )  # fmt: skip
        for result in found:
            name, reference = self.references[int(result.label)]
            answer = answers[int(result.query)]
            assert isinstance(answer, PhotoAnswer)
            answer.masks.append(mask_answer(result, name, reference.label, self.output, self.candidates))
        images.clear()


def _begun(photo: PhotoFile, images: dict[str, ByteArray], place: str, max_pixels: int) -> PhotoAnswer | RequestError:
    """An answer without masks yet; the decoded photo goes to the images."""
    try:
        image, notes = noted(lambda: decoded_photo(photo, max_pixels))
    except RequestError as error:
        return error
    images[place] = image
    return PhotoAnswer(width=image.shape[1], height=image.shape[0], masks=[], notes=notes)
