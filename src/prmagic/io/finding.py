"""The photos behind files, folders and patterns, and a name for each."""

# The tests in os.path, unlike Path's, answer False for names that no file can have.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path

from PIL import features

from prmagic.io.reading import ADVICE, HEIF, ImageError, file_kind, nearest

HEIF_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
IMAGE_SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".gif",
        ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".tga",
    }
    | (HEIF_SUFFIXES if find_spec("pillow_heif") else set())
    | ({".avif"} if features.check("avif") else set())
)  # fmt: skip

# Files that people may take for photos, and that PIL cannot read; and what to do with them.
_UNREADABLE = {
    **dict.fromkeys(HEIF_SUFFIXES, HEIF),
    ".avif": ADVICE["AVIF"],
    **dict.fromkeys(
        (".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".raw"),
        "develop raw photos to JPEG or PNG",
    ),
    **dict.fromkeys((".jxl", ".psd", ".svg", ".exr", ".hdr", ".pdf", ".eps"), "save them as PNG or JPEG"),
    **dict.fromkeys((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v"), "videos: name them themselves"),
    "broken link(s)": "what they point to is not there",
    "pipe(s) or device(s)": "save the images to files first",
}  # fmt: skip
_ESCAPED = re.compile(r"\\x[0-9a-f]{2}")


def file_sha256(file: Path) -> str:
    """Of a file's content, in hex; the file may be larger than memory."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def find_images(paths: str | Path | Sequence[str | Path]) -> list[tuple[Path, Path]]:
    """List the image files behind files, folders and patterns, each with a name.

    A folder is searched with all folders in it, also those behind links, for IMAGE_SUFFIXES and for images without a
    suffix. So are the matches of a pattern, which may use `**`, unless it matches nothing of the kind. Hidden files are
    skipped. A warning counts what looks like a photo and cannot be read.

    Args:
        paths: Files, folders, or patterns such as `photos/**/*.jpg`.

    Returns:
        Each file once, with its path below the folder, or below the part of the pattern before its first wildcard.
        Where two names would be equal they get more of their folders.

    Raises:
        ImageError: Something is not there, or holds no images.
    """
    found: dict[Path, tuple[Path, Path]] = {}
    left_out: Counter[str] = Counter()
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        if not str(path):
            raise ImageError("the name of a photo or folder is empty: is a variable unset?")
        for file, base in _expand(Path(path), left_out):
            found.setdefault(file.resolve(), (file, base))
    if left_out:
        _tell(left_out)
    files = [file for file, _ in found.values()]
    return list(zip(files, _distinct_names(list(found.values())), strict=True))


def query_name(name: Path) -> str:
    r"""Turn a name of `find_images` into text that JSON and every terminal can hold, with / between folders.

    Bytes that are not valid Unicode are spelt out, as in `caf\xe9`. Other names that look so get a second backslash,
    so that two files never have one name.
    """
    text = os.fsencode(name.as_posix())
    try:
        plain = text.decode()
        return plain.replace("\\", "\\\\") if _ESCAPED.search(plain) else plain
    except UnicodeDecodeError:
        return text.replace(b"\\", b"\\\\").decode(errors="backslashreplace")


def _expand(path: Path, left_out: Counter[str]) -> list[tuple[Path, Path]]:
    """List (file, folder its name is relative to) for one file, folder or pattern."""
    if os.path.isfile(path):
        return [(path, path.parent)]
    if os.path.isdir(path):
        base, candidates = path, sorted(_walk(path, left_out))
        problem = f"{path} holds no images"
    elif any(mark in str(path) for mark in "*?["):
        base, candidates = _matching(path, left_out)
        problem = f"no file matches {path}" + ("" if base.is_dir() else f": there is no folder {base}")
    elif os.path.exists(path):
        raise ImageError(f"{path} is a pipe or device: save the image to a file first")
    else:
        raise ImageError(f"{path} does not exist{nearest(path)}")
    files = [file for file in candidates if _is_photo(file, left_out)]
    if not files and base != path:
        files = [file for file in candidates if os.path.isfile(file)]
    if not files:
        raise ImageError(f"{problem} that can be read. Left out: {_counted(left_out)}" if left_out else problem)
    return [(file, base) for file in files]


def _is_photo(file: Path, left_out: Counter[str]) -> bool:
    """Whether its name, or without a suffix its content, says so; counts what is left out."""
    suffix = file.suffix.lower()
    if not os.path.isfile(file):
        if suffix in IMAGE_SUFFIXES:
            left_out["pipe(s) or device(s)" if os.path.exists(file) else "broken link(s)"] += 1
        return False
    if suffix in IMAGE_SUFFIXES:
        return True
    if suffix in _UNREADABLE:
        left_out[suffix] += 1
    elif (kind := file_kind(file)) is not None:
        if not suffix and kind not in ADVICE:
            return True
        left_out[suffix or kind] += 1
    return False


def _tell(left_out: Counter[str]) -> None:
    warnings.warn(f"left out: {_counted(left_out)}", UserWarning, stacklevel=3)


def _counted(left_out: Counter[str]) -> str:
    """Such as "3 .heic (pip install 'prmagic[heif]')"."""
    advice = {kind: _UNREADABLE.get(kind, ADVICE.get(kind, "")) for kind in left_out}
    return ", ".join(
        f"{count} {kind} ({advice[kind] or 'images by their content: give them a suffix that says so'})"
        if kind in _UNREADABLE or kind.startswith(".") or kind in ADVICE
        else f"{kind}"
        for kind, count in sorted(left_out.items())
    )


def _walk(folder: Path, left_out: Counter[str], depth: int | None = None) -> Iterator[Path]:
    """What is visible below a folder, also behind links; each folder once, its own path before a link to it."""
    seen = {os.path.realpath(folder)}
    waiting = [folder]
    while waiting:
        links = []
        for start in waiting:
            for place, folders, names in os.walk(start, onerror=lambda error: _note_folder(error, left_out)):
                here = Path(place)
                seen.add(os.path.realpath(here))
                visible = sorted(name for name in folders if name[0] != ".")
                linked = {name for name in visible if (here / name).is_symlink()}
                links += [here / name for name in visible if name in linked]
                deep = depth is not None and len(here.relative_to(folder).parts) >= depth
                folders[:] = [] if deep else [name for name in visible if name not in linked]
                yield from (here / name for name in names if name[0] != ".")
        waiting = []
        for link in links:
            target = os.path.realpath(link)
            loops = Path(os.path.realpath(link.parent)).is_relative_to(target)  # to a folder above itself
            if target not in seen and not loops:
                seen.add(target)
                waiting.append(link)


def _note_folder(error: OSError, left_out: Counter[str]) -> None:
    left_out[f"the folder {error.filename} ({error.strerror})"] += 1


def _matching(pattern: Path, left_out: Counter[str]) -> tuple[Path, list[Path]]:
    """The folder before the first wildcard, and what is visible below it and matches."""
    start = next(i for i, part in enumerate(pattern.parts) if any(mark in part for mark in "*?["))
    base, parts = Path(*pattern.parts[:start]), pattern.parts[start:]
    if pattern.name == "**":
        parts = (*parts, "*")
    if not base.is_dir():
        return base, []
    depth = None if "**" in parts else len(parts) - 1
    matching = (file for file in _walk(base, left_out, depth) if _matches(file.relative_to(base).parts, parts))
    return base, sorted(matching)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern or not parts:
        return not pattern and not parts
    if pattern[0] == "**":
        return any(_matches(parts[skipped:], pattern[1:]) for skipped in range(len(parts)))
    return fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _distinct_names(found: Iterable[tuple[Path, Path]]) -> list[Path]:
    """Name each (file, base) relative to its base, and further only where two names would be equal."""
    pairs = [(Path(os.path.abspath(file)), Path(os.path.abspath(base))) for file, base in found]
    files = [file for file, _ in pairs]
    depths = [len(file.relative_to(base).parts) for file, base in pairs]
    while True:  # one more parent folder for every name that occurs twice
        names = [Path(*file.parts[-depth:]) for file, depth in zip(files, depths, strict=True)]
        count = Counter(names)
        deeper = [
            min(depth + (count[name] > 1), len(file.parts) - 1)
            for file, depth, name in zip(files, depths, names, strict=True)
        ]
        if deeper == depths:
            break
        depths = deeper
    taken: set[Path] = set()
    for i, name in enumerate(names):
        attempt = 1
        while names[i] in taken:  # two ways to one text, as with .. behind a link
            attempt += 1
            names[i] = name.with_stem(f"{name.stem}_{attempt}")
        taken.add(names[i])
    return names
