"""Names become objects: `prmagic.load`, and what can be set by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import NoneType
from typing import Any

import torch

from prmagic import checks
from prmagic.backbones.adapters import load_promptable
from prmagic.backbones.checkpoints import EMBEDDED
from prmagic.backbones.dino import Dino
from prmagic.backbones.promptable import Promptable
from prmagic.backbones.runtimes import MIXED, RUNTIMES, fastest_dtype, place
from prmagic.frameworks.base import Framework
from prmagic.frameworks.registry import Variant, variant
from prmagic.io.images import MAX_PIXELS
from prmagic.names import hint, lookup
from prmagic.options import Setting, settings
from prmagic.presence import calibrated
from prmagic.segmenter import Segmenter
from prmagic.select import SELECTORS, Selector
from prmagic.tiles import OFF, checked

DTYPES: dict[str, torch.dtype | str | None] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    MIXED: MIXED,
    "auto": None,
}
FLOW_FIELDS = {"mode": "flow"}  # a flow's field → what it is called among all settings
GONE = {
    "bridge": "there is one bridge now, the published one",
    "particles": "one path is followed",
    "clip": "a step without rho is clamped as published",
    "gradient_at_origin": "the preset paper does it",
}


def load(
    framework: str | type[Framework] = "persam-f",
    *,
    sam: str | Path | Promptable = EMBEDDED,
    encoder: str | Path | Dino | None = None,
    preset: str = "default",
    selector: str | Selector | None = None,
    min_score: float | None = None,
    seed: int = 0,
    device: str | None = None,
    dtype: str | torch.dtype = "float32",
    runtime: str = "auto",
    cache: str | Path | None = None,
    max_pixels: int = MAX_PIXELS,
    tiles: str | int = OFF,
    **options: Any,
) -> Segmenter:
    """A segmenter, ready to use. Without arguments it is PerSAM-F on the embedded model, offline.

    Args:
        framework: "persam", "persam-f", "matcher", "gf-sam", another package's name, "FILE.py:CLASS", or a class of
            yours derived from `prmagic.Framework`.
        sam: "embedded", a hub id such as "facebook/sam-vit-huge" or "facebook/sam-vit-huge@REVISION", a folder in
            Hugging Face format (SAM, SAM-HQ, SAM 2, EdgeTAM, SAM 3), or a file as its authors published it, such as
            "sam_vit_h_4b8939.pth". A model that another segmenter has keeps its device, dtype and runtime.
        encoder: The same for the DINOv2 or DINOv3 of a framework that compares one's tokens; default: "embedded".
        preset: "default"; "paper": the published code's behaviour, mistakes included; "official": Matcher's own.
        selector: "judge", "reencode" (the paper's), "cycle-recall", "guard", or a function; default: the preset's.
        min_score: In −1 … 1. A result with a lower score counts as not found. Default: calibrated for "matcher" with
            the embedded models, elsewhere none.
        seed: The same seed gives the same result.
        device: "cpu", "cuda", "mps", …; default: a GPU if there is one.
        dtype: Of the image encoders: "float32", "bfloat16", "float16"; "mixed": bfloat16 for SAM, float32 for the
            encoder; "auto": "mixed" for Matcher where the device has bfloat16, else "float32".
        runtime: Of the image encoders: "torch"; "openvino", faster on a CPU; "auto": OpenVINO on a CPU if it is
            installed, and torch for small encoders such as the embedded ones.
        cache: A folder that keeps references, so that the same supports are not encoded again.
        max_pixels: Larger photos are refused.
        tiles: Photos larger than the model sees, in tiles: "off", "auto", or how many along the longer side.
        **options: Fields of the framework's options, and of the flow: `flow` ("spread", "full", "noise", "none"),
            `steps`, `eta`, `gamma`, `rho`, `objective`. `settings_of` lists them.

    Returns:
        A `Segmenter`.

    Raises:
        ValueError: For a name that is not known, or a value that is not possible.
        CheckpointError: For a model that cannot be loaded.

    Examples:
        >>> segmenter = prmagic.load("matcher", sam="facebook/sam-vit-huge", encoder="facebook/dinov2-large")
    """
    chosen = variant(framework, preset)
    judge = chosen.preset.selector if selector is None else selector
    if isinstance(judge, str):
        judge = lookup("selector", judge, SELECTORS)
    chosen_options, flow = _configured(chosen, options)
    _check_models(sam, encoder)
    checked(tiles)
    place_on = lookup("runtime", runtime, RUNTIMES), _dtype(dtype)
    ready = _built(chosen.framework, chosen_options, sam, encoder, _device(device), *place_on)
    if min_score is None and preset == "default" and getattr(chosen_options, "encoder_size", None) is None:
        min_score = calibrated(ready)
    return Segmenter(
        ready, flow, judge, seed=seed, min_score=min_score, cache=cache, max_pixels=max_pixels, preset=preset,
        tiles=tiles,
    )  # fmt: skip


def settings_of(framework: str | type[Framework], preset: str = "default") -> dict[str, Setting]:
    """All that can be set of a framework and its flow, by name, with the preset's values as defaults."""
    return _settings(variant(framework, preset))


def parse_settings(framework: str | type[Framework], preset: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Texts such as "eta=0.01" as arguments for `load`.

    Raises:
        ValueError: For a name that cannot be set, which suggests the nearest, or a value of another type.
    """
    chosen = variant(framework, preset)
    known = _settings(chosen)
    found: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(f"{text!r} sets nothing: write NAME=VALUE, such as steps=3")
        found[name] = _known(name, known, chosen).parse(value.strip())
    return found


def _settings(chosen: Variant) -> dict[str, Setting]:
    of_options, of_flow = settings(_options(chosen)), settings(chosen.preset.flow, FLOW_FIELDS)
    twice = sorted(of_options.keys() & of_flow.keys())
    if twice:
        raise ValueError(
            f"{chosen.framework.name} has an option called {twice[0]}, as the flow has: give it another name"
        )
    return {**of_options, **of_flow}


def _options(chosen: Variant) -> Any:
    return chosen.framework.Options() if chosen.preset.options is None else chosen.preset.options


def _known(name: str, known: Mapping[str, Setting], chosen: Variant) -> Setting:
    if name in known:
        return known[name]
    if name in GONE:
        raise ValueError(f"{name} cannot be set any more: {GONE[name]}")
    raise ValueError(f"{chosen.framework.name} has no setting {name!r}: {hint(name, known)}")


def _configured(chosen: Variant, changes: Mapping[str, Any]) -> tuple[Any, Any]:
    """The framework's options and the flow of a preset, with what was chosen."""
    known = _settings(chosen)
    fitting = {name: _known(name, known, chosen).check(value) for name, value in changes.items()}
    fields = {setting: name for name, setting in FLOW_FIELDS.items()}
    of_flow = settings(chosen.preset.flow, FLOW_FIELDS)
    moved = {fields.get(name, name): value for name, value in fitting.items() if name in of_flow}
    others = {name: value for name, value in fitting.items() if name not in of_flow}
    return replace(_options(chosen), **others), chosen.preset.flow.changed(**moved)


def _built(
    framework: type[Framework], options: Any, sam: Any, encoder: Any, device: torch.device, runtime: str,
    dtype: torch.dtype | str | None,
) -> Framework:  # fmt: skip
    """On its models, which are loaded if they are named."""
    if encoder is not None and not framework.uses_encoder:
        raise ValueError(f"{framework.name} compares SAM's own features: leave the encoder out")
    promptable = sam if isinstance(sam, Promptable) else load_promptable(sam, device)
    tokens = encoder if isinstance(encoder, Dino) else None
    if tokens is not None and getattr(options, "encoder_size", None) is not None:
        raise ValueError("encoder_size is for an encoder given by name: one that is loaded has its size")
    if framework.uses_encoder and tokens is None:
        size = getattr(options, "encoder_size", None)
        tokens = Dino.load(EMBEDDED if encoder is None else str(encoder), device, input_size=size)
    wanted = _dtypes(framework, dtype, device)
    models: list[Promptable | Dino] = [promptable] if tokens is None else [promptable, tokens]
    new = {each: its for each, its in zip(models, wanted, strict=False) if each not in (sam, encoder)}
    place(list(new), runtime, list(new.values()))
    return framework.build(promptable, tokens, options)


def _check_models(sam: Any, encoder: Any) -> None:
    checks.instance("sam", sam, (str, Path, Promptable), "a name, a folder, a file, or a model")
    checks.instance("encoder", encoder, (str, Path, Dino, NoneType), "a name, a folder, a file, or a model")


def _dtypes(
    framework: type[Framework], given: torch.dtype | str | None, device: torch.device
) -> tuple[torch.dtype, torch.dtype]:
    """Of SAM's image encoder, and of the encoder whose tokens are compared."""
    if given is None:
        fast = fastest_dtype(device)
        given = MIXED if framework.keeps_masks_in_bfloat16 and fast == torch.bfloat16 else torch.float32
        if given == MIXED:
            warnings.warn("SAM's image encoder runs in bfloat16: the device has it", UserWarning, stacklevel=4)
    return (torch.bfloat16, torch.float32) if isinstance(given, str) else (given, given)


def _dtype(given: Any) -> torch.dtype | str | None:
    found: torch.dtype | str | None = given if isinstance(given, torch.dtype) else lookup("dtype", given, DTYPES)
    if found not in DTYPES.values():
        raise ValueError(f"dtype {found} is none of the image encoders': {hint('', DTYPES)}")
    return found


def _device(name: str | None) -> torch.device:
    if name is None:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).tolist()
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        raise ValueError(f"device {str(name)!r} cannot be used here ({_why_not(error)}); try device cpu") from None
    return device


def _why_not(error: Exception) -> str:
    """In words: torch lists forty kinds of devices, or the names of its own parts."""
    text = str(error).strip().split("\n")[0].split(". ")[0]
    if isinstance(error, TypeError) or text.startswith(("Expected one of", "Invalid device string")):
        return "there is no such kind of device"
    if "dispatch" in text or "aten::" in text or "not linked with support" in text or "not compiled with" in text:
        return "torch was installed without it, or this machine has none"
    return text
