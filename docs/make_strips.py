"""Makes the strips of docs/candidates.md: every candidate of three of the demo's photos.

python docs/make_strips.py
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

import prmagic
from prmagic.demo.sheets import sheets
from prmagic.reference import Example
from prmagic.strips import candidate_strip

IMAGES = Path(__file__).parent / "images"
SHOWN = ("flag", "coins", "cow_103")
WIDTH = 1600  # pixels


def main() -> None:
    """Run the photos with the default settings, and write the strips to docs/images."""
    segmenter = prmagic.load()
    for case in {case.name: case for sheet in sheets() for case in sheet.cases if case.name in SHOWN}.values():
        reference = segmenter.encode_examples([Example(case.support, case.support_mask)])
        result = segmenter.segment(case.query, reference, name=case.name)
        strip = candidate_strip(result, case.query, reference.preview)
        strip.thumbnail((WIDTH, strip.height), Image.Resampling.LANCZOS)
        strip.save(IMAGES / f"strip_{case.name}.jpg", quality=80, optimize=True)


if __name__ == "__main__":
    main()
