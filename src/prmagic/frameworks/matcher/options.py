"""Matcher's settings. The published flags' names are in brackets."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prmagic.options import option


@dataclass(frozen=True)
class MatcherOptions:
    """Matcher's settings; the presets `paper` and `official` have the published runs' values."""

    centers: int | None = option(
        4, "How many centres of the matched points are prompts; more find more things; none: the points themselves"
    )
    subset_sizes: tuple[int, int] = option((1, 4), "Fewest and most points per prompt (sample-range)")
    random_subsets: int = option(30, "Subsets of each size, where there are over 8 points (max_sample_iterations)")
    box: bool = option(False, "Add the box around all matched points to each prompt (use_box)")
    channels: tuple[int, ...] | None = option(
        None, "Which of SAM's three masks to take; none: its single one (output_layer)"
    )
    dense_grid: int = option(0, "Points a side of a grid that adds masks; 0: no grid (use_dense_mask)")
    min_predicted_iou: float = option(0.0, "Masks with a lower predicted IoU are dropped, unless all are (iou_filter)")
    min_stability: float = option(0.0, "The same for its IoU at logits > 1 and > −1 (sel_stability_score_thresh)")
    box_nms: float = option(0.65, "Of two boxes with a larger IoU, the worse is dropped; 1 keeps all (box_nms_thresh)")
    alpha: float = option(1.0, "score = alpha · emd + beta · purity · coverage ^ exponent")
    beta: float = option(0.0, "See alpha")
    exponent: float = option(0.0, "See alpha")
    min_coverage: float = option(0.0, "Masks with less coverage are dropped, unless all are (coverage_filter)")
    min_emd: float = option(0.0, "Masks with a smaller emd are dropped, unless all are (emd_filter)")
    min_purity: float = option(0.0, "Masks with less purity are dropped, unless all are (purity_filter)")
    score_filter: tuple[float, float] | None = option(
        (0.33, 0.1), "Largest 1 − score, and largest excess over the best one's"
    )
    min_relative_score: float = option(
        0.0, "Lowest score, as a share of the best one; used without score_filter (topk_scores_threshold)"
    )
    merge: int = option(5, "The most masks to unite (num_merging_mask)")
    merge_few_shot: int | None = option(None, "The most masks to unite with several supports; none: as merge")
    compare_at: int = option(256, "Longest side, in pixels, at which masks are compared and scored")
    encoder_size: int | None = option(
        None, "Side of the encoder's input in pixels, a multiple of its patch; none: what it was trained at"
    )

    def __post_init__(self) -> None:
        sizes, channels = self.subset_sizes, self.channels
        needed = {
            "centers": (self.centers is None or self.centers >= 1, "at least 1, or none for all matched points"),
            "subset_sizes": (
                len(sizes) == 2 and 1 <= sizes[0] <= sizes[1],
                "a smallest and a largest number of points",
            ),
            "random_subsets": (self.random_subsets >= 1, "at least 1"),
            "channels": (
                channels is None or (len(channels) > 0 and set(channels) <= {0, 1, 2}),
                "some of 0, 1 and 2, or none for SAM's single mask",
            ),
            "dense_grid": (self.dense_grid >= 0, "points a side, or 0 for none"),
            "alpha": (math.isfinite(self.alpha), "a finite number"),
            "beta": (math.isfinite(self.beta), "a finite number"),
            "exponent": (math.isfinite(self.exponent), "a finite number"),
            "score_filter": (self.score_filter is None or min(self.score_filter) > 0, "two numbers above 0, or none"),
            "merge": (self.merge >= 1, "at least 1"),
            "merge_few_shot": (self.merge_few_shot is None or self.merge_few_shot >= 1, "at least 1, or none"),
            "compare_at": (self.compare_at >= 1, "a number of pixels"),
            "encoder_size": (self.encoder_size is None or self.encoder_size >= 1, "a number of pixels, or none"),
        }
        for name, (right, allowed) in needed.items():
            if not right:
                raise ValueError(f"Matcher's {name} cannot be {getattr(self, name)}: it must be {allowed}")
