"""What makes one run differ from another: `default` does what is right, `paper` what the published code does."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prmagic.flow import Flow
from prmagic.frameworks.persam import PerSamSettings
from prmagic.select import Reencode

# x and y swapped, one box for two stages, the first stage's mask scored, padding included: method, §2.
_PUBLISHED = PerSamSettings(
    points=5,
    quantiles=(0.99999, 0.9999),
    swap_extra_points=True,
    keep_first_box=True,
    score_first_stage=True,
    published_maps=True,
    published_fit=True,
)


@dataclass(frozen=True)
class Preset:
    """Settings of framework, flow and selector that belong together."""

    persam: PerSamSettings
    flow: Flow
    selector: Reencode


# Where PerSAM-F's points beside the peak come from: above which quantiles of the similarity map.
EXTRA_POINTS: dict[str, tuple[float, float] | None] = {
    "none": None,
    "0.99/0.90": (0.99, 0.90),
    "0.99999/0.9999": (0.99999, 0.9999),
}

_DEFAULT = Preset(PerSamSettings(points=5), Flow(eta=1e-3), Reencode())
_PAPER = Preset(_PUBLISHED, Flow(eta=1e-3, gradient_at_origin=True), Reencode(published=True))

# "-parts" is for parts of objects and thin structures: PACO-Part, PASCAL-Part, DIS5K in the paper.
PRESETS = {
    "default": _DEFAULT,
    "default-parts": replace(_DEFAULT, persam=replace(_DEFAULT.persam, points=3), flow=Flow(eta=1e-4)),
    "paper": _PAPER,
    "paper-parts": replace(_PAPER, persam=replace(_PUBLISHED, points=3), flow=Flow(eta=1e-4, gradient_at_origin=True)),
}
