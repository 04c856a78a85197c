"""What a benchmark is: folds of classes, episodes drawn from a seed, and the photos and masks of an episode.

An episode is one query and K supports of one class. It names files and instances only, so that a list of episodes is a
manifest: it can be written, hashed, and run again on another machine.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from prmagic.names import hint, why
from prmagic.types import BoolArray, ByteArray

Sampling = Literal["paper", "default"]
SAMPLINGS: tuple[Sampling, ...] = get_args(Sampling)
Choice = TypeVar("Choice")


class DatasetError(ValueError):
    """Data that is missing, incomplete or damaged: the message says what, where, and what to do."""


@dataclass(frozen=True)
class Item:
    """A photo of an episode.

    Attributes:
        image: Its path below the data set's folder, with /.
        instance: Which object of the photo, by the annotation's own number; None where a benchmark takes all.
    """

    image: str
    instance: int | None = None


@dataclass(frozen=True)
class Episode:
    """One query and K supports of one class.

    Attributes:
        id: Unique in a list of episodes.
        fold: The fold it belongs to.
        class_id: The benchmark's number of the class; LVIS-92i, PACO-Part and PASCAL-Part number inside the fold.
        category: The data set's own name of the class, which finds its annotations.
        query: The photo to segment.
        supports: The photos that come with a mask.
    """

    id: str
    fold: int
    class_id: int
    category: str
    query: Item
    supports: tuple[Item, ...]


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo with its mask.

    Attributes:
        image: (H, W, 3) uint8.
        mask: (H, W) bool.
        ignore: (H, W) bool, pixels that are not scored; None for none.
    """

    image: ByteArray
    mask: BoolArray
    ignore: BoolArray | None = None


@dataclass(frozen=True)
class Inventory:
    """What lies in a data set's folder, in sentences for people; complete if nothing is missing.

    Attributes:
        found: What is there.
        missing: What is not.
        notes: What is odd, but does no harm.
        classes: How many, by fold, for one shot.
        episodes: How many, by fold, for one shot.
    """

    found: Sequence[str] = ()
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()
    classes: Mapping[int, int] = field(default_factory=dict)
    episodes: Mapping[int, int] = field(default_factory=dict)


class RandomChoices:
    """The published stream of random choices: numpy's legacy generator, which permutes all to draw one."""

    def __init__(self, seed: int, without_repeats: bool):
        """Begin the stream.

        Args:
            seed: Decides all choices.
            without_repeats: Whether the shots of one episode differ; as published they may repeat. With one shot both
                draw the same.
        """
        self._generator = np.random.RandomState(seed)
        self._without_repeats = without_repeats

    def one(self, choices: Sequence[Choice]) -> Choice:
        """One of them."""
        return choices[int(self._generator.choice(len(choices), 1, replace=False)[0])]

    def supports(self, choices: Sequence[Choice], query: Choice, shots: int) -> list[Choice]:
        """`shots` of them, none the query; DatasetError if there are too few."""
        self.enough(choices, query, shots)
        drawn: list[Choice] = []
        while len(drawn) < shots:
            choice = self.one(choices)
            if choice != query and not (self._without_repeats and choice in drawn):
                drawn.append(choice)
        return drawn

    def enough(self, choices: Sequence[Choice], query: Choice, shots: int) -> None:
        """DatasetError if `supports` could not end."""
        others = len(set(choices) - {query})
        if others < (shots if self._without_repeats else 1):
            raise DatasetError(
                f"{others} photo(s) beside the query {query}, but {shots} support(s) to draw: the class is too small "
                "for so many shots"
            )


class Dataset(ABC):
    """A benchmark in a folder. Nothing is read until it is needed.

    Attributes:
        name: As on the command line.
        title: As in the paper's table.
        folds: Their number.
        published: Whether the paper's code draws episodes from it.
        source: Where its files are to be had, for people.
    """

    name: str
    title: str
    folds: int = 1
    published: bool = True
    source: str

    def __init__(self, root: str | Path):
        self.root = Path(root)
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder: name the folder of {self.title}. {self.source}")

    @abstractmethod
    def classes(self, fold: int, shots: int) -> list[str]:
        """The categories of a fold; with more shots a benchmark may have fewer."""

    @abstractmethod
    def episodes(self, fold: int, shots: int, seed: int, sampling: Sampling = "default") -> list[Episode]:
        """Draw all episodes of a fold.

        Args:
            fold: From 0.
            shots: Supports per episode.
            seed: Decides all choices.
            sampling: "paper" for those of the published code, "default" for the same with its mistakes corrected.

        Raises:
            DatasetError: If files that say what there is are missing or damaged.
        """

    @abstractmethod
    def photo(self, item: Item, category: str) -> Photo:
        """A photo and its mask of that category, cropped if the benchmark crops. DatasetError if it cannot be read."""

    @abstractmethod
    def check(self) -> Inventory:
        """Look at all that is needed, without decoding pictures. Does not raise for what is missing."""

    def load(self, episode: Episode) -> tuple[Photo, tuple[Photo, ...]]:
        """The query and the supports of an episode."""
        supports = tuple(self.photo(item, episode.category) for item in episode.supports)
        return self.photo(episode.query, episode.category), supports

    def read_image(self, path: str) -> ByteArray:
        """An RGB photo (H, W, 3) below the folder, as it is stored: benchmarks do not turn photos upright."""
        with self._picture(path) as picture:
            return np.asarray(picture.convert("RGB"))

    def read_labels(self, path: str) -> ByteArray:
        """A one-channel label map or grey mask (H, W) as stored: palette indices, not colours."""
        with self._picture(path) as picture:
            return np.asarray(picture if picture.mode in ("L", "P") else picture.convert("L"))

    def read_grey(self, path: str, size: tuple[int, int]) -> ByteArray:
        """A mask as grey values (H, W), whatever colours it is stored in; DatasetError if it is not of that size."""
        grey = np.asarray(Image.fromarray(self.read_image(path)).convert("L"))
        if grey.shape != size:
            raise DatasetError(
                f"{self.root / path} has {grey.shape} rows and columns, its photo {size}: fetch both anew. "
                f"{self.source}"
            )
        return grey

    def read_text(self, path: str) -> str:
        """A text file below the folder; DatasetError if it is missing."""
        file = self._existing(path)
        try:
            return file.read_text(encoding="utf-8-sig")
        except (OSError, ValueError) as error:
            raise DatasetError(f"{file} cannot be read as text ({why(error)}): fetch it anew. {self.source}") from error

    @contextmanager
    def _picture(self, path: str) -> Iterator[Image.Image]:
        file = self._existing(path)
        try:
            with Image.open(file) as picture:
                yield picture
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DatasetError(f"{file} cannot be read ({why(error)}): fetch it anew. {self.source}") from error

    def _existing(self, path: str) -> Path:
        file = self.root / path
        if not file.is_file():
            raise DatasetError(f"{file} is missing: `prmagic datasets check {self.name} {self.root}` tells what is")
        return file


def numbered(fold: int, number: int) -> str:
    """An episode's id, such as "0/00017"."""
    return f"{fold}/{number:05d}"


def manifest_line(episode: Episode) -> str:
    """One line of a manifest, without its end."""
    return json.dumps(asdict(episode), ensure_ascii=False, sort_keys=True)


def manifest_digest(episodes: Sequence[Episode]) -> str:
    """SHA-256 over a manifest's lines, in hex."""
    return sha256("".join(manifest_line(episode) + "\n" for episode in episodes).encode()).hexdigest()


def write_manifest(episodes: Sequence[Episode], path: Path) -> None:
    """One JSON line per episode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(manifest_line(episode) + "\n" for episode in episodes), encoding="utf-8", newline="\n")


def read_manifest(path: Path) -> list[Episode]:
    """Read what `write_manifest` wrote; DatasetError that names the line otherwise."""
    if not path.is_file():
        raise DatasetError(f"{path} is no file: --episodes takes paper, default, or a manifest")
    episodes = []
    # Not splitlines, which also cuts at characters that a file's name may have.
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line:
            continue
        try:
            episodes.append(_episode(json.loads(line)))
        except RecursionError as error:
            raise DatasetError(f"{path}, line {number} is no episode: its brackets are nested too deeply") from error
        except (ValueError, TypeError, KeyError) as error:
            raise DatasetError(f"{path}, line {number} is no episode ({why(error)})") from error
    ids = {episode.id for episode in episodes}
    if not episodes or len(ids) < len(episodes):
        raise DatasetError(f"{path} has {len(episodes)} episode(s) with {len(ids)} id(s): each needs one of its own")
    return episodes


def _episode(fields: Mapping[str, Any]) -> Episode:
    supports = tuple(Item(**item) for item in fields["supports"])
    episode = Episode(**{**fields, "query": Item(**fields["query"]), "supports": supports})
    kinds = {"id": str, "fold": int, "class_id": int, "category": str}
    wrong = [f'"{name}" is {fields[name]!r}' for name, kind in kinds.items() if not isinstance(fields[name], kind)]
    for item in (fields["query"], *fields["supports"]):
        if not isinstance(item["image"], str) or not isinstance(item.get("instance"), int | None):
            wrong.append(f"{item} is no photo")
    if not supports or episode.query in supports:
        wrong.append("it needs supports, and none of them may be the query")
    if wrong:
        raise ValueError(", ".join(wrong))
    return episode


def require_fold(dataset: Dataset, fold: int) -> None:
    """DatasetError for a fold that the benchmark has not."""
    if fold not in range(dataset.folds):
        raise DatasetError(f"{dataset.title} has no fold {fold}: {hint(str(fold), map(str, range(dataset.folds)))}")


def squash(photo: Photo, size: int) -> Photo:
    """Squash a photo to size × size pixels, whatever its aspect ratio.

    So do the published loaders (matcher/data/dataset.py of PR-MaGIC's code). Photos are resized bilinearly with
    anti-aliasing, masks by the legacy nearest rule, source = ⌊target · in / out⌋.
    """

    def nearest(mask: BoolArray) -> BoolArray:
        return (
            F.interpolate(torch.from_numpy(mask)[None, None].float(), (size, size), mode="nearest")[0, 0].bool().numpy()
        )

    image = Image.fromarray(photo.image).resize((size, size), Image.Resampling.BILINEAR)
    return Photo(np.asarray(image), nearest(photo.mask), None if photo.ignore is None else nearest(photo.ignore))
