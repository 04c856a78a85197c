"""What the demo shows: marked photos, each with the photos in which the same thing is searched.

The photos of the loudspeaker, the cow and the horse come with the package; photos/LICENSES.md has their origins.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
from PIL import Image

from prmagic.demo.cases import Case, cases
from prmagic.types import BoolArray, ByteArray

SPEAKERS = tuple(f"speaker_{number:02}" for number in (1, 10, 11, 13, 15, 16, 17, 18, 19, 21, 22, 23))
COWS = tuple(f"cow_{frame:03}" for frame in (0, 23, 46, 69, 80, 103))
HORSES = tuple(f"horse_{frame:03}" for frame in (5, 11, 22, 27, 33, 44))


@dataclass(frozen=True)
class Sheet:
    """One picture of the demo.

    name: Of its file. title: One sentence for people on what is marked.
    framework: That which is good for it.
    cases: Of one marked photo, unless `steps` is set.
    steps: Show of each case also what the framework finds alone, and the known mask.
    """

    name: str
    title: str
    framework: str
    cases: tuple[Case, ...]
    steps: bool = False


def sheets() -> list[Sheet]:
    """Every picture, in the demo's order; nothing is downloaded.

    Raises FileNotFoundError where a package does not carry its photo, ValueError where it carries another one.
    """
    pair = {case.name: case for case in cases()}
    return [
        Sheet(
            "cow",
            "A cow, marked in the middle of a clip.",
            "persam-f",
            _searched("cow", "cow_057", COWS),
        ),
        Sheet(
            "horse",
            "A horse with its rider, marked at the start of a clip.",
            "persam-f",
            _searched("horse and rider", "horse_000", HORSES),
        ),
        Sheet("face", "A face, marked in a photo of somebody else.", "persam-f", (pair["face"],)),
        Sheet("eye", "One eye of a cat, marked.", "persam-f", (pair["eye"],)),
        Sheet("coins", "One coin, marked. The other photo has twelve.", "matcher", (pair["coins"],)),
        Sheet(
            "refined",
            "What the refinement changes.",
            "persam-f",
            (pair["flag"], pair["coins"]),
            steps=True,
        ),
        Sheet("failed", "Where the embedded models fail.", "persam-f", (pair["rocket"], pair["cup"]), steps=True),
        Sheet(
            "speaker",
            "A loudspeaker, marked in one photo.",
            "persam-f",
            _searched("loudspeaker", "speaker_12", SPEAKERS),
        ),
    ]


def photo(name: str) -> tuple[ByteArray, BoolArray]:
    """One of the package's photos, (H, W, 3) uint8, and its mask, (H, W) bool; name: without the suffix."""
    folder = resources.files("prmagic.demo") / "photos"
    with (folder / f"{name}.jpg").open("rb") as file:
        image = np.array(Image.open(file).convert("RGB"))
    with (folder / f"{name}.png").open("rb") as file:
        return image, np.array(Image.open(file)) > 0


def _searched(label: str, marked: str, queries: Sequence[str]) -> tuple[Case, ...]:
    """One of the package's photos as the support, and others as queries."""
    support = photo(marked)
    return tuple(Case(query, label, f"{marked}, marked, and {query}.", *support, *photo(query)) for query in queries)
