"""prmagic: show it one photo with a mask, and it finds the same thing in your other photos."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

from prmagic._version import __version__

if TYPE_CHECKING:
    from prmagic.flow import Flow
    from prmagic.frameworks.base import Framework
    from prmagic.loading import load
    from prmagic.reference import Reference
    from prmagic.result import Segmentation
    from prmagic.segmenter import Segmenter
    from prmagic.types import Support

# Read when torch is loaded. By default its threads spin long while they wait for each other; on a machine that is busy
# with other work a query then takes many times as long. What the user set stays.
if os.environ.keys().isdisjoint(("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")):
    os.environ["GOMP_SPINCOUNT"] = "2000"

__all__ = ["Flow", "Framework", "Reference", "Segmentation", "Segmenter", "Support", "__version__", "load"]

# Imported when first used: `prmagic --help` should not wait for torch and transformers.
_HOMES = {
    "Flow": "prmagic.flow",
    "Framework": "prmagic.frameworks.base",
    "Reference": "prmagic.reference",
    "Segmentation": "prmagic.result",
    "Segmenter": "prmagic.segmenter",
    "Support": "prmagic.types",
    "load": "prmagic.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'prmagic' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
