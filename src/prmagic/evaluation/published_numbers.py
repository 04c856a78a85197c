"""Published results in percent, as printed, each with its metric.

PR-MaGIC's "mIoU" is the episode-mIoU, and its B a reduced Matcher. Matcher's and GF-SAM's own numbers are class-mIoU,
with other settings. docs/which-miou.md tells how this is known.
"""

from __future__ import annotations

# By their names in prmagic.datasets:
BENCHMARKS = ("fss", "coco", "lvis", "paco", "pascal-part", "dis5k")

# From the README of PR-MaGIC's code: B, T, O. Framework and shots → values in the order of BENCHMARKS.
PR_MAGIC: dict[tuple[str, int], dict[str, tuple[float, ...]]] = {
    ("persam-f", 1): {
        "B": (58.41, 44.64, 42.37, 39.60, 42.72, 46.82),
        "T": (67.19, 46.83, 44.48, 40.72, 43.87, 49.99),
        "O": (72.45, 51.74, 47.29, 43.39, 46.43, 53.46),
    },
    ("matcher", 1): {
        "B": (92.08, 69.53, 59.39, 50.27, 54.76, 46.65),
        "T": (92.06, 71.23, 61.52, 54.08, 58.28, 55.08),
        "O": (93.55, 76.14, 64.75, 56.71, 61.13, 58.10),
    },
    ("matcher", 5): {
        "B": (93.26, 67.69, 57.14, 48.66, 54.54),
        "T": (93.41, 70.74, 60.79, 53.15, 59.27),
        "O": (94.32, 74.88, 63.88, 55.30, 61.55),
    },
}
# Means over the folds, from the logs in the repositories of Matcher and GF-SAM, with their own settings and seed 0.
OTHERS: dict[tuple[str, int], dict[str, tuple[float, ...]]] = {
    ("matcher", 1): {"B": (87.1, 52.7, 33.0, 34.7, 42.9)},
    ("matcher", 5): {"B": (89.6, 60.7, 40.0)},
    ("gf-sam", 1): {"B": (88.0, 58.7, 35.2, 36.3, 44.5)},
    ("gf-sam", 5): {"B": (88.9, 66.8, 44.2)},
}
_TABLES = {"episode-mIoU": PR_MAGIC, "class-mIoU": OTHERS}
SOURCES = {
    "episode-mIoU": "published: PR-MaGIC (CVPR 2026), its code's README, seeds 42 to 46",
    "class-mIoU": "published: Matcher (ICLR 2024) and GF-SAM (NeurIPS 2024), their logs, seed 0, their own settings",
}


def published_number(metric: str, quantity: str, framework: str, shots: int, benchmark: str) -> str | None:
    """A published result as printed, such as "69.53"; None where nobody published it.

    Args:
        metric: "episode-mIoU" or "class-mIoU"; nothing is published in the others.
        quantity: "B", "T" or "O".
        framework: Its name.
        shots: Supports per episode.
        benchmark: Its name.
    """
    values = _TABLES.get(metric, {}).get((framework, shots), {}).get(quantity, ())
    found = dict(zip(BENCHMARKS, values, strict=False)).get(benchmark)
    return None if found is None else f"{found:.2f}" if metric == "episode-mIoU" else f"{found:.1f}"
