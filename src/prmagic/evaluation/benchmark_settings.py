"""The published settings of each benchmark: how they differ from the framework's own preset of that name.

Sources: `paper` is what PR-MaGIC's launchers pass (scripts/launch_persam_pr.py and scripts/launch_matcher_pr.py of its
repository); `official` is what the shell scripts in scripts/ of Matcher's repository pass. A preset itself holds the
settings for COCO-20i; benchmarks without an entry take those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prmagic.frameworks.published import PUBLISHED_SIZE
from prmagic.reference import Example

PUBLISHED_SIZES = {"gf-sam": 1024}  # GF-SAM's own loaders; PR-MaGIC's squash to PUBLISHED_SIZE
SMALL_STEP = {"eta": 1e-4}  # the paper's step size for parts of objects and thin structures

_PERSAM_F_PARTS = {"points": 3, **SMALL_STEP}
_PAPER_PARTS = {"centers": 5, "alpha": 0.5, "beta": 0.5, "merge": 5}
_WITH_PURITY = {"alpha": 0.8, "beta": 0.2, "exponent": 1.0, "merge": 10}

# `official` is COCO-20i's: three masks per prompt, a dense grid, and filters by quality. The others have none of these.
_NO_DENSE_GRID = {"channels": None, "dense_grid": 0, "min_predicted_iou": 0.0, "min_stability": 0.0, "min_purity": 0.0}
_BEST_SCORES = {"box_nms": 1.0, "score_filter": None, "min_relative_score": 0.7}  # no suppression
_OFFICIAL_FSS = {
    **_NO_DENSE_GRID, **_BEST_SCORES, **_WITH_PURITY, "centers": 8, "subset_sizes": (4, 6), "random_subsets": 30,
}  # fmt: skip
_OFFICIAL_PARTS = {
    **_NO_DENSE_GRID, **_BEST_SCORES, **SMALL_STEP, "subset_sizes": (3, 6), "random_subsets": 128, "box": True,
    "min_coverage": 0.3, "alpha": 0.5, "beta": 0.5, "merge": 5, "merge_few_shot": None,
}  # fmt: skip

PARTS = ("paco", "pascal-part", "dis5k")  # benchmarks of parts and thin structures

# (framework, preset) → benchmark → options of `prmagic.load`
TABLE: dict[tuple[str, str], dict[str, dict[str, Any]]] = {
    ("persam-f", "default"): {each: {"points": 3} for each in PARTS},  # no η: the default flow takes no such step
    ("persam", "paper"): dict.fromkeys(PARTS, SMALL_STEP),
    ("persam-f", "paper"): dict.fromkeys(PARTS, _PERSAM_F_PARTS),
    ("matcher", "paper"): {
        "fss": _WITH_PURITY,
        "paco": {**_PAPER_PARTS, **SMALL_STEP},
        "pascal-part": {**_PAPER_PARTS, **SMALL_STEP},
        "dis5k": {**_WITH_PURITY, "centers": 5, **SMALL_STEP},
    },
    # There is no official setting for DIS5K; it takes that for parts.
    ("matcher", "official"): {"fss": _OFFICIAL_FSS, **dict.fromkeys(PARTS, _OFFICIAL_PARTS)},
}


@dataclass(frozen=True)
class BenchmarkSettings:
    """What one benchmark changes.

    Attributes:
        options: Arguments of `prmagic.load`.
        size: Side in pixels to which photos and masks are squashed; None for the photos' own size.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None


def benchmark_settings(framework: str, preset: str, benchmark: str) -> BenchmarkSettings:
    """How a preset's settings differ on a benchmark.

    Args:
        framework: A framework's name, such as "matcher".
        preset: A preset's name, such as "paper".
        benchmark: A benchmark's name, such as "coco".

    Returns:
        No options for a framework or a benchmark of which nothing is published.
    """
    options = TABLE.get((framework, preset), {}).get(benchmark, {})
    published = PUBLISHED_SIZES.get(framework, PUBLISHED_SIZE)
    return BenchmarkSettings(dict(options), published if preset in ("paper", "official") else None)


# What the published runs do beside their settings.

SAME_EPISODES = ("persam", "persam-f")  # datasets/dataset.py of PR-MaGIC's PerSAM code seeds the episodes with 42
SQUARE = 14  # pixels a side: what matcher/Matcher_PR.py marks when no support has a mask


def published_supports(framework: str, examples: Sequence[Example]) -> list[Example]:
    """The supports as the published code uses them, empty masks included.

    Without any mask, the published Matcher and GF-SAM take the middle of each support for the object. The published
    PerSAM averages over the whole photo, which its preset does by itself.
    """
    if framework not in ("matcher", "gf-sam") or any(example.mask.any() for example in examples):
        return list(examples)
    marked = []
    for example in examples:
        height, width = example.mask.shape
        top, left = max((height - SQUARE) // 2, 0), max((width - SQUARE) // 2, 0)
        mask = np.zeros_like(example.mask)
        mask[top : top + SQUARE, left : left + SQUARE] = True
        marked.append(Example(example.image, mask))
    return marked
