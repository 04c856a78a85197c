"""What version 0.1 had under other names, and what to write now."""

from __future__ import annotations

from collections.abc import Sequence

SETTINGS = ("eta", "gamma", "rho", "extra-points", "centers", "encoder-size")  # options then, for --set now
BRIDGE = "--bridge is gone: Matcher's embedding is always padded to SAM's, as --bridge pad did"
FLOWS = ("drift", "resample")
SELECTORS = (
    "pooled", "predicted-iou", "separation", "cycle", "recall", "full-cycle", "fusion", "consensus", "veto", "oracle",
)  # fmt: skip
COMMANDS = {"study": "`prmagic study` is gone: clone the repository and see research/README.md"}


def refuse_old_options(args: Sequence[str]) -> None:
    """ValueError that says what to write instead of an option of version 0.1."""
    for position, arg in enumerate(args):
        if arg == "--":
            return
        option, equals, value = arg.partition("=")
        if option == "--bridge":
            raise ValueError(BRIDGE)
        if option.startswith("--") and (name := option[2:]) in SETTINGS:
            value = value if equals else next(iter(args[position + 1 :]), "VALUE")
            raise ValueError(f"{option} is a setting now: write --set {name.replace('-', '_')}={value}")


def refuse_old_values(preset: str, selector: str | None, flow: str | None) -> None:
    """ValueError that says what to write instead of a preset, selector or flow of version 0.1."""
    name, dash, kind = preset.partition("-")
    if dash and name in ("default", "paper", "official"):
        hint = f"write --preset {name}; `prmagic evaluate` takes a benchmark's own values with it"
        if kind == "parts":
            hint = f"write --preset {name} --set eta=1e-4"
        raise ValueError(f"the preset {preset!r} is gone: {hint}")
    if selector in SELECTORS:
        raise ValueError(f"the selector {selector!r} is gone: choose judge, reencode, cycle-recall or guard")
    if flow in FLOWS:
        raise ValueError(f"the flow {flow!r} is gone: choose spread, full, noise or none")
