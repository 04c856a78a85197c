"""Frameworks by name: those of this package, and those that other packages bring.

Another package names its class under the entry point group `prmagic.frameworks`:

    [project.entry-points."prmagic.frameworks"]
    my-framework = "my_package:MyFramework"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from prmagic.frameworks.base import Framework, Preset
from prmagic.frameworks.gfsam import GfSam
from prmagic.frameworks.matcher import Matcher
from prmagic.frameworks.persam import PerSam, PerSamF
from prmagic.frameworks.published import PublishedGfSam, PublishedMatcher, PublishedPerSam, PublishedPerSamF
from prmagic.names import foreign, from_file, hint, lookup, reason
from prmagic.options import settings

GROUP = "prmagic.frameworks"
FRAMEWORKS: dict[str, type[Framework]] = {built.name: built for built in (PerSam, PerSamF, Matcher, GfSam)}
# Further presets of the same frameworks, which need other classes.
PUBLISHED: dict[str, type[Framework]] = {
    built.name: built for built in (PublishedPerSam, PublishedPerSamF, PublishedMatcher, PublishedGfSam)
}


@dataclass(frozen=True)
class Variant:
    """A preset, and the class that it needs."""

    framework: type[Framework]
    preset: Preset


def framework_names() -> list[str]:
    """What can be asked for by name."""
    return list(dict.fromkeys([*FRAMEWORKS, *_entry_points()]))


def find(framework: str | type[Framework]) -> type[Framework]:
    """The framework of a name, such as "persam-f"; of another package's; or of FILE.py:CLASS.

    Raises:
        ValueError: If there is none, or what is there is no framework.
    """
    if not isinstance(framework, str):
        return _checked(framework, repr(framework))
    if framework in FRAMEWORKS:
        return FRAMEWORKS[framework]
    others = _entry_points()
    if framework in others:
        foreign.add(others[framework].module.partition(".")[0])
        try:
            loaded = others[framework].load()
        except (Exception, SystemExit) as error:  # another package's code may raise anything
            raise ValueError(
                f"the framework {framework} cannot be loaded from {others[framework].value}: {reason(error)}. "
                "Mend or remove the package that brings it; the other frameworks work"
            ) from error
        return _checked(loaded, f"{framework} ({others[framework].value})")
    file, colon, name = framework.rpartition(":")
    if colon and file.endswith(".py"):
        return _checked(from_file(Path(file), name, "class", _is_framework), framework)
    raise ValueError(f"unknown framework {framework!r}: {hint(framework, framework_names())}, or FILE.py:CLASS")


def preset_names(framework: str | type[Framework]) -> list[str]:
    """Of a framework."""
    return list(_presets(find(framework)))


def variant(framework: str | type[Framework], preset: str) -> Variant:
    """The class and the settings of a preset; ValueError that lists the names if there is none."""
    found = find(framework)
    return lookup(f"preset of {found.name}", preset, _presets(found))


def _presets(framework: type[Framework]) -> dict[str, Variant]:
    found = {name: Variant(framework, preset) for name, preset in framework.presets.items()}
    if FRAMEWORKS.get(framework.name) is framework:
        published = PUBLISHED.get(framework.name)
        if published is not None:
            found |= {name: Variant(published, preset) for name, preset in published.presets.items()}
    return found


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


def _is_framework(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, Framework) and found is not Framework


def _checked(found: object, called: str) -> type[Framework]:
    if not (isinstance(found, type) and issubclass(found, Framework)):
        raise ValueError(f"{called} is no framework: a framework is a class derived from prmagic.Framework")
    if not isinstance(getattr(found, "name", None), str):
        raise ValueError(f'{called} has no name: write such as name = "mine" in the class')
    if not is_dataclass(found.Options):
        raise ValueError(f"the Options of {called} must be a dataclass")
    try:
        settings(found.Options())
    except Exception as error:
        raise ValueError(
            f"the Options of {called} cannot be made without arguments ({reason(error)}): give each field a default"
        ) from error
    if not isinstance(found.presets, Mapping) or not all(isinstance(each, Preset) for each in found.presets.values()):
        raise ValueError(f'the presets of {called} must be a dictionary such as {{"default": Preset()}}')
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ValueError(f"{called} lacks the method(s) {', '.join(missing)}")
    if "default" not in found.presets and found not in PUBLISHED.values():
        raise ValueError(f"{called} has no preset called default")
    return found
