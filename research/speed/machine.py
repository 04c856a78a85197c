"""What the times were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

import torch

import prmagic


def about() -> dict[str, Any]:
    """Processor, cores, and versions."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "prmagic": prmagic.__version__,
    }
