"""Which files of a benchmark are not there, in sentences for `Inventory`."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


def absent_files(root: Path, files: Iterable[str]) -> list[str]:
    """Those of the files, named below root with /, that are not there.

    Lists each folder once: to ask for tens of thousands of files one by one takes minutes on a network disk."""
    listings: dict[str, set[str]] = {}
    absent = []
    for file in files:
        folder, _, name = file.rpartition("/")
        if folder not in listings:
            listings[folder] = _names_in(root / folder)
        if name not in listings[folder]:
            absent.append(file)
    return absent


def _names_in(folder: Path) -> set[str]:
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError:  # not there, no folder, or closed to us: nothing of it can be read
        return set()


def gaps(root: Path, absent: Iterable[str]) -> list[str]:
    """A sentence for each folder that lacks files, or for the topmost folder that is itself missing."""
    folders: dict[Path, list[Path]] = {}
    for file in absent:
        folders.setdefault((root / file).parent, []).append(root / file)
    places: dict[Path, list[Path]] = {}
    for folder, files in folders.items():
        place = folder
        while not place.parent.is_dir():
            place = place.parent
        places.setdefault(place, []).extend(files)
    return [_gap(place, files) for place, files in places.items()]


def _gap(place: Path, files: list[Path]) -> str:
    named = ", ".join(file.relative_to(place).as_posix() for file in files[:3])
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    return f"{place} {'lacks' if place.is_dir() else 'is missing: it should hold'} {named}{more}"


def unlike_published(split: str, found: int, published: int, what: str) -> list[str]:
    """A note for Inventory if a split file is not as long as the published one: then its episodes are others."""
    if found == published:
        return []
    return [f"{split} lists {found} {what}, the published one {published}: scores are not comparable with the paper's"]
