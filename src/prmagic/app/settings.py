"""What a result depends on beside photos and examples: the models, and the settings that visitors may change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from prmagic.io.reading import MAX_PIXELS

OPTIONS = ("framework", "preset", "selector", "steps", "flow", "min_score", "seed")  # the others are set by --set


@dataclass(frozen=True)
class Models:
    """Which models, as for `prmagic.load`."""

    sam: str = "embedded"
    encoder: str | None = None
    device: str | None = None
    dtype: str = "float32"
    runtime: str = "auto"
    max_pixels: int = MAX_PIXELS


@dataclass(frozen=True)
class Settings:
    """What decides a result beside models, photos and examples.

    Args:
        framework: A name in `framework_names()`.
        preset: One of the framework's.
        selector: None for the preset's.
        min_score: None for the preset's.
        seed: Of all random draws.
        options: (name, value) of those settings (`prmagic.loading.settings_of`) that are not the preset's.
        instances: One mask per thing.
    """

    framework: str = "persam-f"
    preset: str = "default"
    selector: str | None = None
    min_score: float | None = None
    seed: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    instances: bool = False

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of `prmagic.load` that are not its defaults."""
        return {**_changed(self, Settings(), leave_out=("options", "instances")), **dict(self.options)}


def load_arguments(models: Models, settings: Settings, uses_encoder: bool) -> dict[str, Any]:
    """The arguments of `prmagic.load` that are not its defaults, for the models too."""
    chosen = _changed(models, Models())
    if not uses_encoder:
        chosen.pop("encoder", None)
    return {**chosen, **settings.arguments}


def command_arguments(arguments: dict[str, Any]) -> Iterator[str]:
    """The same arguments as words of the command line."""
    models = asdict(Models())
    for name, value in arguments.items():
        if name in OPTIONS or name in models:
            yield from (f"--{name.replace('_', '-')}", str(value))
        else:
            yield from ("--set", f"{name}={as_text(value)}")


def as_text(value: Any) -> str:
    """A setting's value as people write it, and as `Setting.parse` reads it."""
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)


def _changed(chosen: Any, default: Any, leave_out: Sequence[str] = ()) -> dict[str, Any]:
    plain = asdict(default)
    return {name: value for name, value in asdict(chosen).items() if value != plain[name] and name not in leave_out}
