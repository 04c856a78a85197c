"""Photos much larger than a model's input: overlapping tiles at several scales, beside the whole.

Each tile is a photo to the framework, which knows nothing of tiles. All tiles are compared with the examples first; the
framework is asked in those that are most like them. docs/large-photos.md says what that gains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image

from prmagic.backbones.promptable import ENCODE_BATCH
from prmagic.frameworks.maps import edges, working_size
from prmagic.reference import Reference, photo_digest
from prmagic.result import Segmentation
from prmagic.tiles import Tile, centred, hull, meeting, pyramid
from prmagic.types import BoolArray, ByteArray, Candidate, FloatArray, Instance, Prompts

if TYPE_CHECKING:
    from prmagic.segmenter import Encoded, Segmenter

REDUCED = 2  # times the model's input: tiles of twice that side or more are reduced
ASKED = 3  # tiles in which the framework looks for one mask, beside the whole
MARGIN = 1.5  # times a thing's longer side: the smallest crop around it
PROMISING = 0.85  # share of the best tile's likeness from which on a tile is searched for instances
LEAST = 0.8  # share of the best instance's score below which none counts
SAME = 0.5  # IoU above which two masks are of one thing
INSIDE = 0.7  # share of one mask in another, above which they are part and whole
DIVIDED = 0.6  # share of a mask that smaller ones cover, above which they are the things
KEPT = 0.5  # share of its pixels that a thing must have to itself


def segment_tiles(
    segmenter: Segmenter, name: str, image: ByteArray, references: Mapping[str, Reference], count: int,
    instances: bool = False,
) -> Iterator[Segmentation]:  # fmt: skip
    """One result per label, from a photo (H, W, 3) uint8 and its tiles, `count` along the longer side.

    One mask comes from a crop around the answer, of the whole or a tile, that is most like the examples. Instances come
    from all tiles.
    Apart from the photo and the results, only a few tiles are in memory at once."""
    key, before = photo_digest(image), segmenter.spent()
    tiles = pyramid(image.shape[:2], count)
    likeness = _likeness(segmenter, image, tiles, references)
    for label, reference in references.items():
        answers = []
        for view, encoded in _encoded(segmenter, image, _asked(tiles, likeness[label], instances)):
            answer = segmenter.segment_encoded(name, label, encoded, reference, key, instances)
            things = [view.thing(each, image) for each in answer.instances or ()]
            answers.append((view, answer, things))
        view, chosen, _ = max(answers, key=lambda each: _or_least(each[1].score))
        if not instances and chosen.found:
            ((view, encoded),) = _encoded(segmenter, image, [closer(view.cut_out(chosen.mask)[0], image, count)])
            chosen = segmenter.segment_encoded(name, label, encoded, reference, key)
        candidates = tuple(view.candidate(each, image) for each in chosen.candidates)
        result = replace(chosen, image=image, candidates=candidates)
        if instances:
            found = joined([thing for *_, things in answers for thing in things])
            result = replace(
                result, instances=tuple(each.instance(image) for each in found),
                score=max((each.found.score for each in found), default=math.nan),
            )  # fmt: skip
        seconds, counts = segmenter.since(before)
        before = segmenter.spent()
        yield replace(result, seconds=seconds, counts=counts)


def _encoded(segmenter: Segmenter, image: ByteArray, tiles: Sequence[Tile]) -> Iterator[tuple[View, Encoded]]:
    """The tiles as the models see them, a batch at a time."""
    limit = REDUCED * segmenter.framework.sam.input_size
    size = ENCODE_BATCH if segmenter.together else 1
    for start in range(0, len(tiles), size):
        views = [View.of(tile, limit) for tile in tiles[start : start + size]]
        yield from zip(views, segmenter.encode([view.seen(image) for view in views]), strict=True)


def _likeness(
    segmenter: Segmenter, image: ByteArray, tiles: Sequence[Tile], references: Mapping[str, Reference]
) -> dict[str, list[float]]:
    """By label, how well each tile holds the examples' objects, −1 … 1: the mean of their patches' best cosines."""
    found: dict[str, list[float]] = {label: [] for label in references}
    for _, encoded in _encoded(segmenter, image, tiles):
        tokens = encoded.query.tokens.vectors
        for label, reference in references.items():
            objects = torch.cat([support.vectors[support.shares > 0] for support in reference.supports])
            found[label].append(float((objects.to(tokens) @ tokens.T).amax(1).mean()))
    return found


def _asked(tiles: Sequence[Tile], likeness: Sequence[float], instances: bool) -> list[Tile]:
    """The whole, and the tiles that are most like the examples, in the order of the tiles."""
    rest = sorted(range(1, len(tiles)), key=lambda index: (-likeness[index], index))
    least = share_of(PROMISING, likeness[rest[0]])
    several = [index for index in rest if likeness[index] >= least]
    return [tiles[index] for index in sorted([0, *(several if instances else rest[:ASKED])])]


def share_of(share: float, best: float) -> float:
    """So far below the best, which may be negative, as this share of it."""
    return best - (1 - share) * abs(best)


def closer(thing: Tile, image: ByteArray, count: int) -> Tile:
    """A crop around a thing, of the size of the smallest tiles without their overlap, or larger for a large thing."""
    return centred(thing, max(max(image.shape) / count, MARGIN * max(thing.height, thing.width)), image.shape)


def _or_least(score: float) -> float:
    return -math.inf if math.isnan(score) else score


@dataclass(frozen=True)
class View:
    """A tile as the framework sees it: reduced by a whole factor, if it is large."""

    tile: Tile
    factor: int

    @classmethod
    def of(cls, tile: Tile, limit: int) -> View:
        """limit: what the longer side is not reduced below."""
        return cls(tile, max(1, max(tile.height, tile.width) // limit))

    def seen(self, image: ByteArray) -> ByteArray:
        """The tile's part of the photo; reduced some rows at a time, as a photo may be too large to be copied."""
        part = image[self.tile.place]
        if self.factor == 1:
            return np.ascontiguousarray(part)
        strip = 16 * self.factor
        rows = [Image.fromarray(np.ascontiguousarray(part[top : top + strip])) for top in range(0, len(part), strip)]
        return np.concatenate([np.asarray(each.reduce(self.factor)) for each in rows])

    def thing(self, found: Instance, image: ByteArray) -> Thing:
        """An instance that was found in the tile."""
        place, mask = self.cut_out(found.mask)
        seen, (height, width), tile = found.mask, image.shape[:2], self.tile
        inner = (
            (tile.top > 0, seen[0]), (tile.left > 0, seen[:, 0]),
            (tile.top + tile.height < height, seen[-1]), (tile.left + tile.width < width, seen[:, -1]),
        )  # fmt: skip
        cut = any(beyond and side.any() for beyond, side in inner)
        return Thing(found, place, mask, tile, cut)

    def cut_out(self, mask: BoolArray) -> tuple[Tile, BoolArray]:
        """What a mask (h, w) that is not empty covers of the photo, and the photo's mask there."""
        x0, y0, x1, y1 = map(int, edges(mask))
        k, tile = self.factor, self.tile
        part = mask[y0:y1, x0:x1]
        if k > 1:
            grey = Image.fromarray(np.pad(mask, 1, mode="edge")[y0 : y1 + 2, x0 : x1 + 2].astype(np.uint8) * 255)
            large = np.asarray(grey.resize((grey.width * k, grey.height * k), Image.Resampling.BILINEAR)) > 127
            part = large[k:-k, k:-k][: tile.height - k * y0, : tile.width - k * x0]
        return Tile(tile.top + k * y0, tile.left + k * x0, *part.shape), part

    def candidate(self, candidate: Candidate, image: ByteArray) -> Candidate:
        """In the photo's frame; without logits, which are of the tile."""
        mask = np.zeros(image.shape[:2], bool)
        if candidate.mask.any():
            place, part = self.cut_out(candidate.mask)
            mask[place.place] = part
        parts = tuple(replace(part, prompts=self._prompts(part.prompts, mask.shape)) for part in candidate.parts)
        prompts = self._prompts(candidate.prompts, mask.shape)
        return replace(candidate, mask=mask, prompts=prompts, parts=parts, logits=None, scored_mask=None)

    def _prompts(self, prompts: Prompts, photo: tuple[int, ...]) -> Prompts:
        points, box = self._moved(prompts.points), prompts.box
        if box is not None:
            (x0, y0), (x1, y1) = self._moved(np.array(box, np.float32).reshape(2, 2)).tolist()
            box = x0, y0, x1, y1
        similarity = None if prompts.similarity is None else self._over_photo(prompts.similarity, photo)
        return replace(prompts, points=points, box=box, mask_logits=None, similarity=similarity)

    def _moved(self, points: FloatArray) -> FloatArray:
        corner = np.array([self.tile.left, self.tile.top], np.float32)
        if self.factor == 1:
            return (points + corner).astype(np.float32)
        # The middle of a reduced pixel may lie beyond a tile that ends within it.
        last = np.array([self.tile.width - 1, self.tile.height - 1], np.float32)
        return (((points + 0.5) * self.factor - 0.5).clip(0, last) + corner).astype(np.float32)

    def _over_photo(self, similarity: FloatArray, photo: tuple[int, ...]) -> FloatArray:
        """A map of the tile in one of the photo, which is lowest elsewhere."""
        height, width = working_size((photo[0], photo[1]))
        scale = height / photo[0]
        top, left = (
            min(round(each * scale), size - 1) for each, size in ((self.tile.top, height), (self.tile.left, width))
        )
        rows = min(max(1, round(self.tile.height * scale)), height - top)
        columns = min(max(1, round(self.tile.width * scale)), width - left)
        whole = np.full((height, width), similarity.min(), np.float32)
        whole[top : top + rows, left : left + columns] = np.asarray(Image.fromarray(similarity).resize((columns, rows)))
        return whole


@dataclass(frozen=True, eq=False)
class Thing:
    """An instance in a photo.

    found: as the tile has it; mask: cut out of the photo, at `place`; cut: whether the border of the tile may part it.
    """

    found: Instance
    place: Tile
    mask: BoolArray
    tile: Tile
    cut: bool

    def over(self, area: Tile) -> BoolArray:
        """Its mask in an area within `place`."""
        top, left = area.top - self.place.top, area.left - self.place.left
        return self.mask[top : top + area.height, left : left + area.width]

    def shared(self, other: Thing) -> int:
        """Pixels that both have."""
        area = meeting(self.place, other.place)
        return 0 if area is None else int((self.over(area) & other.over(area)).sum())

    def overlaps(self, other: Thing) -> bool:
        """Whether both are one thing, or one is a part of the other."""
        shared, mine, theirs = self.shared(other), int(self.mask.sum()), int(other.mask.sum())
        return shared > SAME * (mine + theirs - shared) or shared > INSIDE * min(mine, theirs)

    def continues(self, other: Thing) -> bool:
        """Whether both masks agree where their tiles overlap."""
        area, shared = meeting(self.tile, other.tile), self.shared(other)
        if area is None or not shared:
            return False
        within = [meeting(each.place, area) for each in (self, other)]
        either = sum(int(each.over(part).sum()) for each, part in zip((self, other), within, strict=True) if part)
        return shared > SAME * (either - shared)

    def joined(self, other: Thing) -> Thing:
        """The union, with the better score."""
        place, tile = hull(self.place, other.place), hull(self.tile, other.tile)
        mask = np.zeros((place.height, place.width), bool)
        for each in (self, other):
            top, left = each.place.top - place.top, each.place.left - place.left
            mask[top : top + each.place.height, left : left + each.place.width] |= each.mask
        return Thing(max(self.found, other.found, key=lambda found: found.score), place, mask, tile, cut=True)

    def instance(self, image: ByteArray) -> Instance:
        """With a mask of the photo's size, of which only what the thing covers takes memory."""
        mask = np.zeros(image.shape[:2], bool)
        mask[self.place.place] = self.mask
        x0, y0, x1, y1 = edges(self.mask)
        top, left = self.place.top, self.place.left
        return replace(self.found, mask=mask, box=(x0 + left, y0 + top, x1 + left, y1 + top))


def joined(things: Sequence[Thing]) -> list[Thing]:
    """Each thing once, the highest score first; no two share a pixel.

    The smallest tile that holds a thing wholly decides. What is cut everywhere is joined where tiles overlap."""
    least = share_of(LEAST, max((each.found.score for each in things), default=0.0))
    good = [each for each in things if each.found.score >= least]
    good.sort(key=lambda each: (each.tile.height * each.tile.width, -each.found.score))
    whole: list[Thing] = []
    for thing in (each for each in good if not each.cut):
        parts = [each for each in whole if each.overlaps(thing)]
        covered = sum(each.shared(thing) for each in parts) >= DIVIDED * thing.mask.sum()
        if not covered and all(each.found.score <= thing.found.score for each in parts):
            whole = [each for each in whole if each not in parts] + [thing]
    pieces: list[Thing] = []
    for piece in (each for each in good if each.cut and not any(each.overlaps(other) for other in whole)):
        others = [each for each in pieces if each.continues(piece)]
        pieces = [each for each in pieces if each not in others] + [reduce(Thing.joined, others, piece)]
    return _apart(sorted([*whole, *pieces], key=lambda each: -each.found.score))


def _apart(things: Iterable[Thing]) -> list[Thing]:
    """Without the pixels that an earlier one has; what keeps less than half of its own is left out."""
    kept: list[Thing] = []
    for thing in things:
        mask = thing.mask.copy()
        for other in kept:
            if area := meeting(thing.place, other.place):
                replace(thing, mask=mask).over(area)[other.over(area)] = False
        if mask.any() and mask.sum() >= KEPT * thing.mask.sum():
            kept.append(replace(thing, mask=mask))
    return kept
