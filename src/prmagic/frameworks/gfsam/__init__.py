"""GF-SAM: `gfsam.py` says in which order its steps come, `steps.py` has the steps as functions of arrays."""

from prmagic.frameworks.gfsam.gfsam import GfSam, GfSamOptions

__all__ = ["GfSam", "GfSamOptions"]
