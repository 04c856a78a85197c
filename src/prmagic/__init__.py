"""prmagic: show it one photo with a mask, and it finds the same thing in your other photos."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prmagic.frameworks import Framework, Reference
    from prmagic.segmenter import Segmenter, load
    from prmagic.types import Segmentation, Support

__version__ = "0.1.0"
__all__ = ["Framework", "Reference", "Segmentation", "Segmenter", "Support", "__version__", "load"]

# Imported when first used: `prmagic --help` should not wait for torch and transformers.
_HOMES = {
    "Framework": "prmagic.frameworks",
    "Reference": "prmagic.frameworks",
    "Segmentation": "prmagic.types",
    "Segmenter": "prmagic.segmenter",
    "Support": "prmagic.types",
    "load": "prmagic.segmenter",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prmagic' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
