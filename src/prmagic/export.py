"""Results on disk: mask files and one JSON line per query and label. The schema is in `docs/results.schema.json`."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from prmagic.backbones.checkpoints import checksums
from prmagic.frameworks.base import Framework, Reference
from prmagic.resumable import RUN, RecordFolder
from prmagic.types import BoolArray, Candidate, Prompts, Segmentation

RESULTS = "results.jsonl"
PICTURES = ("masks", "overlays", "candidates")


def rle(mask: BoolArray) -> dict[str, Any]:
    """(H, W) bool → COCO's run-length encoding: {"size": [H, W], "counts": str}."""
    encoded = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def record(result: Segmentation, sha256: str) -> dict[str, Any]:
    """One line of results.jsonl; sha256: of the photo's file. No times, so that equal runs give equal bytes."""
    height, width = result.mask.shape
    return {
        "query": result.query,
        "sha256": sha256,
        "label": result.label,
        "seed": result.seed,
        "height": height,
        "width": width,
        "found": bool(result.mask.any()),
        "chosen": result.chosen,
        "scores": [_finite(score) for score in result.scores],
        "candidates": [_candidate(candidate) for candidate in result.candidates],
    }


def _candidate(candidate: Candidate) -> dict[str, Any]:
    return {
        "step": candidate.step,
        **_prompts(candidate.prompts),
        "parts": [{**_prompts(part.prompts), "channel": part.channel} for part in candidate.parts],
        "predicted_iou": _finite(candidate.predicted_iou),
        "area": int(candidate.mask.sum()),
        "rle": rle(candidate.mask),
    }


def _prompts(prompts: Prompts) -> dict[str, Any]:
    return {
        "points": prompts.points.astype(float).tolist(),
        "labels": prompts.labels.tolist(),
        "box": None if prompts.box is None else list(prompts.box),
    }


def _finite(value: float) -> float | None:
    """JSON knows neither nan nor infinity."""
    return value if math.isfinite(value) else None


def digest(reference: Reference) -> str:
    """Of what a reference was made from, to tell whether a folder of results was made with it."""
    made_by = {name: value for name, value in reference.made_by.items() if name != "model_name"}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(file: Path) -> str:
    """Of a file's content, in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def weights(framework: Framework) -> dict[str, dict[str, str]]:
    """For run.json: the SHA-256 of each file with weights, by what they serve as, "sam" or "encoder", and file name."""
    models = zip(("sam", "encoder"), framework.models, strict=False)
    return {kind: checksums(kind, model.name) for kind, model in models}


def is_result(file: Path) -> bool:
    """Whether a run wrote this picture."""
    return any(parent.name in PICTURES and (parent.parent / RUN).is_file() for parent in file.parents)


class RunFolder(RecordFolder):
    """results.jsonl and its pictures; the files of a query are written before its line.

    done: by query and label, the SHA-256 of the photo's file."""

    records = RESULTS
    others = PICTURES
    key = ("query", "label")
    value = "sha256"
    mark = "references"

    def clear(self) -> None:
        """Delete all records and pictures."""
        for name in PICTURES:
            shutil.rmtree(self.folder / name, ignore_errors=True)
        super().clear()

    def path(self, kind: str, query: str, label: str | None, suffix: str) -> Path:
        """Where a picture of this query belongs; label: only where a run has several."""
        return (self.folder / kind / (label or "") / query).with_suffix(suffix)
