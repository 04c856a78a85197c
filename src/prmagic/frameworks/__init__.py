"""In-context segmentation frameworks that prompt SAM."""

from prmagic.frameworks.base import Example, Framework, Query, Reference, ReferenceMismatch
from prmagic.frameworks.matcher import Matcher
from prmagic.frameworks.persam import PerSam, PerSamF

FRAMEWORKS: dict[str, type[Framework]] = {built.name: built for built in (PerSam, PerSamF, Matcher)}

__all__ = [
    "FRAMEWORKS",
    "Example",
    "Framework",
    "Matcher",
    "PerSam",
    "PerSamF",
    "Query",
    "Reference",
    "ReferenceMismatch",
]
