"""Print the largest absolute difference from the published code per array: `python tests/parity_table.py`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from parity import full_comparisons, mini_comparisons
from parity_matcher import matcher_comparisons

from prmagic.backbones.sam import Sam

HERE = Path(__file__).parent
FULL = Path(os.environ.get("PRMAGIC_GOLDEN", "golden-full"))


def main() -> None:
    with np.load(HERE / "golden" / "persam_mini.npz") as arrays:
        sets = {
            "Small set, in every clone": list(mini_comparisons(Sam.load(HERE / "golden" / "sam_mini"), dict(arrays)))
        }
    if FULL.is_dir():
        sets["Larger set, real photographs: PerSAM-F"] = list(full_comparisons(FULL))
        sets["Larger set, real photographs: Matcher"] = list(matcher_comparisons(FULL))
    for title, comparisons in sets.items():
        print(f"\n## {title}\n\n| array | largest value | largest difference | allowed |\n|---|---|---|---|")
        for c in comparisons:
            allowed = f"{c.tolerance:.0e}" if c.tolerance else "none"
            print(f"| {c.name} | {np.abs(c.theirs.astype(float)).max():.4g} | {c.difference:.1e} | {allowed} |")


if __name__ == "__main__":
    main()
