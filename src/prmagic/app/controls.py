"""The controls of part 3: a few that everybody needs, and one fold with all other settings of the frameworks.

They are made from `settings_of`, so that a framework's options appear by themselves. Values are texts, as on the
command line; an empty one is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from prmagic.app.components import fold
from prmagic.app.engine import Engine
from prmagic.app.settings import Settings, as_text
from prmagic.flow import GRADIENT
from prmagic.frameworks.registry import framework_names, preset_names
from prmagic.loading import settings_of
from prmagic.options import Setting
from prmagic.select import SELECTORS, selector_name

MOST_STEPS = 20
MOST_SEED = 2**32 - 1
MOST = 100  # of every other whole number, unless the preset's own is larger
NOT_HERE = ("steps", "encoder_size")  # has a control of its own; would load another model for one visitor
OWN = "the preset's"  # of selectors that have no name


@dataclass(frozen=True)
class Field:
    """One setting of the fold. framework: whose it is; empty where all have it."""

    framework: str
    setting: Setting

    @property
    def elem_id(self) -> str:
        """As the tests and the styles find it."""
        name = self.setting.name.replace("_", "-")
        return f"set-{self.framework}-{name}" if self.framework else f"set-{name}"


class Controls:
    """The controls, made where they are to be on the page.

    Attributes:
        framework, preset: Those that change what the others begin with.
        all: Every control, in the order in which `settings` and `reset` take and give values.
    """

    def __init__(self, engine: Engine, start: Settings):
        self.engine, self.start = engine, start
        self.fields = fields_of(_frameworks(start))
        begin = self._values(start)
        with gr.Row():
            self.framework = gr.Dropdown(
                _frameworks(start), value=start.framework, label="Framework", min_width=150, elem_id="set-framework"
            )
            self.preset = gr.Dropdown(
                preset_names(start.framework),
                value=start.preset,
                label="Preset",
                min_width=150,
                elem_id="set-preset",
            )
            visible = [
                gr.Slider(0, MOST_STEPS, step=1, label="Steps", min_width=150, buttons=[], elem_id="set-steps"),
                gr.Number(label="Least score of what counts as found", step=0.01, min_width=150,
                    elem_id="set-min-score"),
                gr.Number(label="Seed", precision=0, min_width=150, elem_id="set-seed"),
            ]  # fmt: skip
        with fold("More settings", "more-settings"), gr.Row():
            selector = gr.Dropdown(
                [*SELECTORS, OWN], label="Selector", info="Chooses the step", min_width=220, elem_id="set-selector"
            )
            several = [_control(field) for field in self.fields]
        self.all: list[Any] = [self.framework, self.preset, *visible, selector, *several]
        for control, value in zip(self.all[2:], begin, strict=True):
            control.value = value
        for field, control in zip(self.fields, several, strict=True):
            control.visible = field.framework in ("", start.framework)

    def settings(self, values: Sequence[Any]) -> Settings:
        """What the controls say; ValueError that names the control for what cannot be."""
        framework, preset, steps, min_score, seed, selector, *texts = values
        framework, preset = self._known(framework, preset)
        plain = self._plain(framework, preset)
        known, segmenter = settings_of(framework, preset), self.engine.check(plain)
        chosen = {"steps": _whole("the number of steps", steps, MOST_STEPS)}
        for field, text in zip(self.fields, texts, strict=True):
            if field.framework in ("", framework):
                chosen[field.setting.name] = _parsed(known[field.setting.name], str(text or ""))
        lowest = _score(min_score)
        usual = lowest == (-1 if segmenter.min_score is None else segmenter.min_score)
        own = selector in (None, OWN, selector_name(segmenter.selector))
        if not own and selector not in SELECTORS:
            raise ValueError("choose a selector of the list")
        return replace(
            plain,
            selector=None if own else selector,
            min_score=plain.min_score if usual else lowest,
            seed=_whole("the seed", seed, MOST_SEED),
            options=tuple(sorted(_changed(chosen, known).items())),
        )  # fmt: skip

    def reset(self, framework: str, preset: str) -> list[Any]:
        """All controls as they are at the beginning, for another framework or preset."""
        framework, _ = self._known(framework, None)
        names = preset_names(framework)
        preset = preset if preset in names else names[0]
        values = self._values(self._plain(framework, preset))
        updates: list[Any] = [gr.skip(), gr.Dropdown(choices=names, value=preset)]
        shown = [True] * 4 + [field.framework in ("", framework) for field in self.fields]
        for control, value, visible in zip(self.all[2:], values, shown, strict=True):
            updates.append(type(control)(value=value, visible=visible))
        return updates

    def _known(self, framework: Any, preset: Any) -> tuple[str, str]:
        """Both, if they can be chosen. Other names are never looked up: one may be a file, whose code would run."""
        if framework not in _frameworks(self.start):
            raise ValueError("choose a framework of the list")
        names = preset_names(framework)
        if preset is not None and preset not in names:
            raise ValueError(f"{framework} has these presets: {', '.join(names)}")
        return framework, preset or names[0]

    def _plain(self, framework: str, preset: str) -> Settings:
        """What is there without any choice but these two; of the framework at the start, with what came with it."""
        if (framework, preset) == (self.start.framework, self.start.preset):
            return self.start
        return Settings(framework=framework, preset=preset, min_score=self.start.min_score, seed=self.start.seed)

    def _values(self, settings: Settings) -> list[Any]:
        """What the controls after framework and preset show for these settings."""
        segmenter = self.engine.check(settings)
        known = {name: setting.default for name, setting in settings_of(settings.framework, settings.preset).items()}
        known |= dict(settings.options)
        name = selector_name(segmenter.selector)
        return [
            known["steps"], -1 if segmenter.min_score is None else segmenter.min_score, settings.seed,
            name if name in SELECTORS else OWN,
            *(as_text(self._of(field, known, settings.framework)) for field in self.fields),
        ]  # fmt: skip

    @staticmethod
    def _of(field: Field, known: Mapping[str, Any], framework: str) -> Any:
        """A field's value; those of other frameworks are not shown, but are still values that they can have."""
        return known[field.setting.name] if field.framework in ("", framework) else field.setting.default


def fields_of(frameworks: Sequence[str]) -> list[Field]:
    """The settings of the fold: first those that every framework has."""
    known: Mapping[str, dict[str, Setting]] = {name: settings_of(name) for name in frameworks}
    first = next(iter(known.values()))
    shared = [name for name in first if all(name in settings for settings in known.values())]
    found = [Field("", first[name]) for name in shared]
    for framework, settings in known.items():
        found += [Field(framework, setting) for name, setting in settings.items() if name not in shared]
    return [field for field in found if field.setting.name not in NOT_HERE]


def _frameworks(start: Settings) -> list[str]:
    """Those that can be chosen: all with a name, and that of the start, which may be one's own file."""
    return list(dict.fromkeys([start.framework, *framework_names()]))


def _control(field: Field) -> Any:
    setting = field.setting
    about: dict[str, Any] = {
        "label": setting.name.replace("_", " "), "info": setting.help, "min_width": 220, "elem_id": field.elem_id,
    }  # fmt: skip
    if setting.choices:
        return gr.Dropdown(list(setting.choices), **about)
    return gr.Textbox(max_lines=1, max_length=200, placeholder="none", **about)


def _changed(chosen: Mapping[str, Any], known: Mapping[str, Setting]) -> dict[str, Any]:
    """The settings that are not the preset's."""
    changed = {name: value for name, value in chosen.items() if value != known[name].default}
    if "eta" in changed and chosen["flow"] == "full":  # alone, it would ask for another d and step than those shown
        changed |= {name: chosen[name] for name in ("rho", "objective")}
    if changed.keys() & GRADIENT:  # would ask for the flow `full`, where another one is shown
        changed["flow"] = chosen["flow"]
    return changed


def _parsed(setting: Setting, text: str) -> Any:
    """The value of a text; the message of what cannot be does not repeat it."""
    try:
        value = setting.parse(text)
    except ValueError as error:
        raise ValueError(str(error).replace(f" {text!r}", "")) from None
    _check_size(setting.name.replace("_", " "), value, setting.default)
    return value


def _check_size(name: str, value: Any, default: Any) -> None:
    """All visitors share the model: nobody may ask it for more than it can do in a moment."""
    if isinstance(value, tuple):
        for each in value:
            _check_size(name, each, None)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number")
    elif isinstance(value, int) and not isinstance(value, bool):
        most = max(MOST, 2 * default if isinstance(default, int) else 0)
        if not -most <= value <= most:
            raise ValueError(f"{name} must not be above {most} on this page")


def _whole(name: str, value: Any, most: int) -> int:
    if not isinstance(value, (int, float)) or value != int(value) or not 0 <= value <= most:
        raise ValueError(f"{name} must be a whole number from 0 to {most}")
    return int(value)


def _score(value: Any) -> float:
    if not isinstance(value, (int, float)) or not -1 <= value <= 1:
        raise ValueError("the least score must be a number from -1 to 1")
    return float(value)
