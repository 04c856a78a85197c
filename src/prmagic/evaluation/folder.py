"""The folder that `prmagic evaluate` writes: run.json, episodes.jsonl and masks.jsonl."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prmagic.evaluation.records import EPISODES, MASKS
from prmagic.io.records import RecordFolder, append_line
from prmagic.io.shapes import check_code


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one episode gave.

    Attributes:
        record: A line of episodes.jsonl.
        masks: A line of masks.jsonl; None where there are none.
    """

    record: dict[str, Any]
    masks: dict[str, Any] | None


class EvaluationFolder(RecordFolder):
    """A run's records. An episode is done when its line is in episodes.jsonl and, if the run keeps them, its masks.

    Attributes:
        lost_masks: How many earlier records were dropped because their masks are gone or damaged.
    """

    records = EPISODES
    others = (MASKS,)
    key = ("seed", "episode")
    value = "fold"
    mark = "benchmark"

    def __init__(
        self, folder: Path, run: Mapping[str, Any], notes: Mapping[str, Any] | None = None, overwrite: bool = False
    ):
        """Open a folder, or make it; see `RecordFolder`."""
        self._keeps_masks = bool(run.get("masks"))
        self.lost_masks = 0
        super().__init__(folder, run, notes, overwrite)

    def add(self, outcome: Outcome) -> None:
        """Write an episode. Its masks come first, so that a crash leaves no record without them."""
        if outcome.masks is not None:
            append_line(self.folder / MASKS, outcome.masks)
        self.append(outcome.record)

    def failed(self) -> int:
        """How many of the episodes could not be segmented."""
        path = self.folder / EPISODES
        if not path.exists():
            return 0
        with path.open(encoding="utf-8") as lines:
            return sum("failed" in json.loads(line) for line in lines)

    def finish(self) -> None:
        """Sort the lines by seed and episode, each once; workers finish in any order."""
        for name in (EPISODES, MASKS):
            if (self.folder / name).exists():
                _sort_lines(self.folder / name, self.key)

    def clear(self) -> None:
        """Delete all records, then their masks, then run.json, which marks the folder as a run's."""
        for name in (EPISODES, MASKS):
            (self.folder / name).unlink(missing_ok=True)
        super().clear()

    def _read(self) -> dict[tuple[Any, ...], Any]:
        found: set[tuple[Any, ...]] = set()

        def intact(masks: Mapping[str, Any]) -> bool:
            for code in masks["masks"]:
                check_code(code)
            whole = bool(masks["masks"] and masks["candidates"])
            if whole:
                found.add(self._key(masks))
            return whole

        def has_masks(record: Mapping[str, Any]) -> bool:
            return "failed" in record or self._key(record) in found

        _filter_lines(self.folder / MASKS, intact)
        if self._keeps_masks:
            self.lost_masks = _filter_lines(self.folder / EPISODES, has_masks, leave_damaged=True)
        return super()._read()


def _filter_lines(path: Path, wanted: Callable[[Mapping[str, Any]], bool], leave_damaged: bool = False) -> int:
    """Keep the whole lines that are wanted; return how many whole records were not. No lines are held in memory.

    leave_damaged: keep the others, too, for who tells of them.
    """
    if not path.exists():
        return 0
    temporary = path.with_name(path.name + ".tmp")
    unwanted = kept = 0
    with path.open("rb") as file, temporary.open("wb") as filtered:
        for line in file:
            try:
                keep = damaged = not line.endswith(b"\n")  # a crash cut it short
                keep = keep or wanted(json.loads(line))
            except (ValueError, LookupError, TypeError, RecursionError):  # something damaged it
                keep = damaged = True
            if keep and (leave_damaged or not damaged):
                filtered.write(line)
                kept += len(line)
            unwanted += not keep
    if kept < path.stat().st_size:
        temporary.replace(path)
    else:
        temporary.unlink()
    return unwanted


def _sort_lines(path: Path, key: Sequence[str]) -> None:
    """Sort by these fields without holding the lines in memory; drop lines that were cut short."""
    places: dict[tuple[Any, ...], tuple[int, int]] = {}
    with path.open("rb") as file:
        start = 0
        for line in file:
            if line.endswith(b"\n"):
                fields = json.loads(line)
                places.setdefault(tuple(fields[name] for name in key), (start, len(line)))
            start += len(line)
        if list(places) == sorted(places) and sum(length for _, length in places.values()) == start:
            return
        temporary = path.with_name(path.name + ".tmp")
        with temporary.open("wb") as ordered:
            for begin, length in (places[name] for name in sorted(places)):
                file.seek(begin)
                ordered.write(file.read(length))
    temporary.replace(path)
