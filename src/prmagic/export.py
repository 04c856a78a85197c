"""Results on disk: mask files and one JSON line per query and label. The schema is in `docs/results.schema.json`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from prmagic.frameworks.base import Reference
from prmagic.types import BoolArray, Candidate, Segmentation

RESULTS, RUN = "results.jsonl", "run.json"
PICTURES = ("masks", "overlays", "candidates")


def rle(mask: BoolArray) -> dict[str, Any]:
    """(H, W) bool → COCO's run-length encoding: {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def record(result: Segmentation) -> dict[str, Any]:
    """One line of results.jsonl. Times are left out, so that equal runs give equal bytes."""
    height, width = result.mask.shape
    return {
        "query": result.query,
        "label": result.label,
        "seed": result.seed,
        "height": height,
        "width": width,
        "found": bool(result.mask.any()),
        "chosen": result.chosen,
        "scores": [score if math.isfinite(score) else None for score in result.scores],
        "candidates": [_candidate(candidate) for candidate in result.candidates],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    prompts = candidate.prompts
    return {
        "step": candidate.step,
        "points": prompts.points.astype(float).tolist(),
        "labels": prompts.labels.tolist(),
        "box": None if prompts.box is None else list(prompts.box),
        "predicted_iou": candidate.predicted_iou,
        "area": int(candidate.mask.sum()),
        "rle": rle(candidate.mask),
    }


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    packages = ("prmagic", "torch", "transformers", "numpy", "scipy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def digest(reference: Reference) -> str:
    """Of what a reference holds, to tell whether a folder of results was made with it."""
    content = hashlib.sha256()
    for name, tensor in sorted(reference.tensors.items()):
        content.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]


class RunFolder:
    """A folder of results that can be interrupted at any moment and continued.

    Files of a query are written before its line, each line in one go; a line cut short by a crash is dropped."""

    def __init__(self, folder: Path, run: Mapping[str, Any], overwrite: bool = False):
        """run: settings, which must be those of the folder's earlier results; ValueError if they are not."""
        self.folder = folder
        if folder.exists() and not folder.is_dir():
            raise ValueError(f"{folder} is a file; --out needs a folder")
        if overwrite:
            for name in PICTURES:
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in (RESULTS, RUN):
                (folder / name).unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        self._check(run)
        self.done = self._read()

    def path(self, kind: str, query: str, label: str | None, suffix: str) -> Path:
        """Where a picture of this query belongs; label: only where a run has several."""
        return (self.folder / kind / (label or "") / query).with_suffix(suffix)

    def append(self, result: Segmentation) -> None:
        """Add the query's line; from then on it counts as done."""
        with (self.folder / RESULTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record(result), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done.add((result.query, result.label))

    def _check(self, run: Mapping[str, Any]) -> None:
        path = self.folder / RUN
        if not path.exists():
            _write(path, json.dumps({**run, "versions": versions()}, indent=2, ensure_ascii=False) + "\n")
            return
        earlier = json.loads(path.read_text(encoding="utf-8"))
        for key, value in json.loads(json.dumps(run)).items():
            if earlier.get(key) != value:
                raise ValueError(
                    f"{self.folder} holds results of another run: its {key} is {_short(earlier.get(key))}, now it is "
                    f"{_short(value)}. Choose another --out, or start it anew with --overwrite"
                )

    def _read(self) -> set[tuple[str, str]]:
        path = self.folder / RESULTS
        if not path.exists():
            return set()
        complete, done = [], set()
        content = path.read_text(encoding="utf-8", errors="replace")
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue
            if line.endswith("\n"):
                complete.append(line)
                done.add((entry["query"], entry["label"]))
        if "".join(complete) != content:
            _write(path, "".join(complete))
        return done


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 200 else text[:197] + "…"
