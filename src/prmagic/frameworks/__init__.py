"""In-context segmentation frameworks that prompt SAM."""

from prmagic.frameworks.base import Example, Framework, Query, Reference, ReferenceMismatch
from prmagic.frameworks.persam import PerSam, PerSamF

FRAMEWORKS: dict[str, type[PerSam]] = {PerSam.name: PerSam, PerSamF.name: PerSamF}

__all__ = ["FRAMEWORKS", "Example", "Framework", "PerSam", "PerSamF", "Query", "Reference", "ReferenceMismatch"]
