"""What makes one run differ from another: `default` does what is right, `paper` what the published code does.

`official` is what Matcher's own authors run, which is not what PR-MaGIC's runs refine: without steps (T = 0) it is
theirs; its refinement is as published, but for the gradient at z_t and for eq. (4), which are as in `default`. The
settings of the published runs depend on the benchmark: `paper-coco`, `official-fss`, … A preset without a benchmark's
name is for objects in general, one that ends in -parts for parts of objects and thin structures.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from prmagic.flow import Flow
from prmagic.frameworks.matcher import MatcherSettings
from prmagic.frameworks.persam import PerSamSettings
from prmagic.select import Reencode


@dataclass(frozen=True)
class Preset:
    """Settings of frameworks, flow and selector that belong together; persam is None where there are none."""

    persam: PerSamSettings | None
    matcher: MatcherSettings
    flow: Flow | None  # None: the framework's own
    selector: Reencode | None  # None: the framework's own
    photo_size: int | None = None  # side in pixels to which benchmarks' photos are squashed; None: they are not


PUBLISHED_SIZE = 518  # to which the published code squashes every photo (benchmarks, §1.2)

# Where PerSAM-F's points beside the peak come from: above which quantiles of the similarity map.
EXTRA_POINTS: dict[str, tuple[float, float] | None] = {
    "none": None,
    "0.99/0.90": (0.99, 0.90),
    "0.99999/0.9999": (0.99999, 0.9999),
}

# x and y swapped, one box for two stages, the first stage's mask scored, padding included: method, §2.
_PERSAM = PerSamSettings(
    points=5,
    quantiles=(0.99999, 0.9999),
    swap_extra_points=True,
    keep_first_box=True,
    score_first_stage=True,
    published_maps=True,
    published_fit=True,
)
_PERSAM_PARTS = replace(_PERSAM, points=3)

# Matcher as PR-MaGIC runs it: subsets of a few centres, one mask each, no filter but the score's.
_MATCHER = MatcherSettings(
    centers=8, subset_sizes=(4, 6), random_subsets=30, box_nms=0.65, score_filter=(0.33, 0.1), compare_at=518,
    bridge="pad", shots_together=True, published=True,
)  # fmt: skip
_MATCHER_OBJECTS = replace(_MATCHER, centers=8, alpha=1.0, beta=0.0, exponent=0.0, merge=9)
_MATCHER_PARTS = replace(_MATCHER, centers=5, alpha=0.5, beta=0.5, exponent=0.0, merge=5)

# Matcher as its authors run it.
_OFFICIAL_OBJECTS = replace(
    _MATCHER, centers=None, random_subsets=64, subset_sizes=(1, 6), channels=(0, 1, 2), dense_grid=64,
    min_predicted_iou=0.85, min_stability=0.90, min_purity=0.02, alpha=1.0, beta=0.0, exponent=0.0, merge=9,
    merge_few_shot=5,
)  # fmt: skip
_OFFICIAL_FSS = replace(
    _MATCHER, centers=8, random_subsets=30, box_nms=1.0, score_filter=None, min_relative_score=0.7, alpha=0.8, beta=0.2,
    exponent=1.0, merge=10, merge_few_shot=5,
)  # fmt: skip
_OFFICIAL_PARTS = replace(
    _MATCHER, centers=None, random_subsets=128, subset_sizes=(3, 6), box=True, box_nms=1.0, min_coverage=0.3,
    score_filter=None, min_relative_score=0.7, alpha=0.5, beta=0.5, exponent=0.0, merge=5,
)  # fmt: skip


def _paper(persam: PerSamSettings, matcher: MatcherSettings, eta: float) -> Preset:
    return Preset(persam, matcher, Flow(eta=eta, gradient_at_origin=True), Reencode(published=True), PUBLISHED_SIZE)


def _official(matcher: MatcherSettings, eta: float) -> Preset:
    return Preset(None, matcher, Flow(eta=eta), Reencode(), PUBLISHED_SIZE)


_DEFAULT = Preset(PerSamSettings(points=5), MatcherSettings(), None, None)
_COCO = _paper(_PERSAM, _MATCHER_OBJECTS, 1e-3)
_PACO = _paper(_PERSAM_PARTS, _MATCHER_PARTS, 1e-4)
_OFFICIAL_COCO, _OFFICIAL_PACO = _official(_OFFICIAL_OBJECTS, 1e-3), _official(_OFFICIAL_PARTS, 1e-4)

# reference/benchmarks, §11: the published launchers' settings, and the official Matcher's.
PRESETS = {
    "default": _DEFAULT,
    "default-parts": replace(_DEFAULT, persam=PerSamSettings(points=3), flow=Flow(eta=1e-4)),
    "paper": _COCO,
    "paper-parts": _PACO,
    "paper-fss": _paper(_PERSAM, replace(_MATCHER, centers=8, alpha=0.8, beta=0.2, exponent=1.0, merge=10), 1e-3),
    "paper-coco": _COCO,
    "paper-lvis": _COCO,
    "paper-paco": _PACO,
    "paper-pascal-part": _PACO,
    "paper-dis5k": _paper(
        _PERSAM_PARTS, replace(_MATCHER, centers=5, alpha=0.8, beta=0.2, exponent=1.0, merge=10), 1e-4
    ),
    "official": _OFFICIAL_COCO,
    "official-parts": _OFFICIAL_PACO,
    "official-fss": _official(_OFFICIAL_FSS, 1e-3),
    "official-coco": _OFFICIAL_COCO,
    "official-lvis": _OFFICIAL_COCO,
    "official-paco": _OFFICIAL_PACO,
    "official-pascal-part": _OFFICIAL_PACO,
}
