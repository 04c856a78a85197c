"""Results on disk: mask files and one JSON line per query and label. The schema is in `docs/results.schema.json`."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from prmagic import __version__
from prmagic.frameworks.base import Reference
from prmagic.types import BoolArray, Candidate, Prompts, Segmentation

RESULTS, RUN = "results.jsonl", "run.json"
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


def versions() -> dict[str, str]:
    """Of everything that can change a result."""
    packages = ("torch", "transformers", "numpy", "scipy", "scikit-learn", "POT", "pillow")
    return {"prmagic": __version__, "python": platform.python_version(), **{name: version(name) for name in packages}}


def digest(reference: Reference) -> str:
    """Of what a reference was made from, to tell whether a folder of results was made with it."""
    made_by = {name: value for name, value in reference.made_by.items() if name != "model_name"}
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(file: Path) -> str:
    """Of a file's content, in hex."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def is_result(file: Path) -> bool:
    """Whether a run wrote this picture."""
    return any(parent.name in PICTURES and (parent.parent / RUN).is_file() for parent in file.parents)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes from writing results into the folder, which is made; ends with the process, if killed.

    ValueError if another has it. Without effect on Windows and on file systems that have no locks."""
    _make(folder)
    if sys.platform == "win32":
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(f"another run is writing into {folder}: wait, or choose another --out") from None
        yield
    finally:
        os.close(descriptor)


class RunFolder:
    """A folder of results that can be interrupted at any moment and continued.

    Files of a query are written before its line, each line in one go; a line cut short by a crash is dropped."""

    def __init__(self, folder: Path, run: Mapping[str, Any], model: str = "", overwrite: bool = False):
        """run: settings, which must be those of the folder's earlier results; ValueError if they are not.

        model: the names of the models, for people. done: by query and label, the SHA-256 of the photo's file.
        Nothing that others wrote is touched: ValueError for a folder with masks or results, but no run.json."""
        self.folder = folder
        _make(folder)
        earlier = self._earlier()
        if earlier is not None and overwrite:
            for name in PICTURES:
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in (RESULTS, RUN):  # run.json last: it tells that the rest is ours
                (folder / name).unlink(missing_ok=True)
        if earlier is None or overwrite:
            described = {"model": model, **run, "versions": versions()}
            _write(folder / RUN, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
        else:
            self._compare(earlier, json.loads(json.dumps(run)), model)
        self.done = self._read()

    def path(self, kind: str, query: str, label: str | None, suffix: str) -> Path:
        """Where a picture of this query belongs; label: only where a run has several."""
        return (self.folder / kind / (label or "") / query).with_suffix(suffix)

    def append(self, result: Segmentation, sha256: str) -> None:
        """Add the query's line; from then on it counts as done. sha256: of its file."""
        with (self.folder / RESULTS).open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(record(result, sha256), ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.done[result.query, result.label] = sha256

    def _earlier(self) -> dict[str, Any] | None:
        """The run.json of the results in the folder, None if there are none."""
        path = self.folder / RUN
        if path.exists():
            try:
                earlier = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                earlier = None
            if isinstance(earlier, dict) and "references" in earlier:
                return earlier
            raise ValueError(f"{path} was not written by prmagic, or it is damaged: choose another --out")
        foreign = [name for name in (*PICTURES, RESULTS) if (self.folder / name).exists()]
        if foreign:
            raise ValueError(
                f"{self.folder / foreign[0]} is there, but no {RUN} beside it, so it may be something of yours that "
                "would be overwritten: choose another --out"
            )
        return None

    def _compare(self, earlier: Mapping[str, Any], run: Mapping[str, Any], model: str) -> None:
        changes = dict(change for key in run for change in _differences(key, earlier.get(key), run[key]))
        # Only what others follow from is named: settings decide the references' digests, and the framework both.
        if "settings.framework" in changes:
            changes = {"settings.framework": changes["settings.framework"]}
        elif "settings.model" in changes and model != earlier.get("model"):
            changes = {"model": (earlier.get("model"), model)}  # names say more than fingerprints
        elif any(name.startswith("settings") for name in changes):
            changes = {name: change for name, change in changes.items() if name.startswith("settings")}
        if changes:
            told = "; ".join(
                f"{name} was {_short(was)}, now it is {_short(now)}" for name, (was, now) in changes.items()
            )
            raise ValueError(
                f"{self.folder} holds results of another run: {told}. "
                "Choose another --out, or start it anew with --overwrite"
            )

    def _read(self) -> dict[tuple[str, str], str]:
        path = self.folder / RESULTS
        if not path.exists():
            return {}
        complete: list[bytes] = []
        done: dict[tuple[str, str], str] = {}
        content = path.read_bytes()
        for line in content.splitlines(keepends=True):
            try:
                entry = json.loads(line)
                key, sha256 = (entry["query"], entry["label"]), entry["sha256"]
                known = key in done
            except (ValueError, KeyError, TypeError):
                continue
            if line.endswith(b"\n") and not known:
                complete.append(line)
                done[key] = sha256
        if b"".join(complete) != content:
            _write(path, b"".join(complete).decode())
        return done


def _make(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; --out needs a folder")
    folder.mkdir(parents=True, exist_ok=True)


def _differences(name: str, earlier: Any, now: Any) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Such as ("settings.flow.steps", (5, 2))."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in {**earlier, **now}:
            yield from _differences(f"{name}.{key}", earlier.get(key), now.get(key))
    elif earlier != now:
        yield name, (earlier, now)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8", newline="\n")
    temporary.replace(path)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) < 200 else text[:197] + "…"
