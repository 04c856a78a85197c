"""What tiles gain on large photos: `python research/tiles.py --help`.

Photos are pasted 4 × 4 into one, so that things are at a quarter of their size. Or
cut-out things lie on a photo of 108 megapixels. Every thing is one piece of its photo's mask.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image
from scipy import ndimage

import prmagic
from prmagic.datasets.base import Episode
from prmagic.datasets.own import Own
from prmagic.frameworks.maps import edges
from prmagic.reference import Example
from prmagic.types import BoolArray, ByteArray

CELL = 320  # pixels a side
SIDE = 4  # cells
GREY = 124
GROUND = 700  # pixels a side of a photo of the ground
FOUND = 0.5  # IoU from which a thing counts as found
WHOLE = 0.95  # share of a mask that its largest piece has, or it is several things

DATA = Annotated[Path, typer.Option(help="A folder as `prmagic evaluate own` takes it.", show_default=False)]
SPLIT = Annotated[str, typer.Option(help="Of the folder's index.")]
CLASSES = Annotated[Path | None, typer.Option(help="A file of classes, one a line.", show_default="all")]
FRAMEWORK = Annotated[str, typer.Option()]
OUT = Annotated[Path, typer.Option(help="A file of JSON lines, to which is added.", show_default=False)]

app = typer.Typer(help="What tiles gain on large photos.", add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True, eq=False)
class Scene:
    """A photo with things. image: (H, W, 3); things: a mask (H, W) each; photos: what was pasted, with its thing or
    None."""

    name: str
    example: Example
    image: ByteArray
    things: Sequence[BoolArray]
    photos: Sequence[tuple[ByteArray, BoolArray | None]]


def photos_of(data: Own, seed: int = 0) -> dict[str, list[Episode]]:
    """By class, in a random order, the episodes whose query shows one thing."""
    rng, found = np.random.default_rng(seed), {}
    for category in data.classes(0, 1):
        listed = [each for each in data.episodes(0, 1, seed) if each.category == category]
        found[category] = [listed[i] for i in rng.permutation(len(listed))]
    return found


def is_one_thing(mask: BoolArray) -> bool:
    """Whether nearly all of a mask is in one piece."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    return count > 0 and int(np.bincount(labels.ravel())[1:].max()) >= WHOLE * int(mask.sum())


def pasted(data: Own, seed: int = 0, wanted: int = 1) -> Iterator[Scene]:
    """One scene per class: `wanted` photos of it, or as many as there are, among photos of others."""
    by_class, rng = photos_of(data, seed), np.random.default_rng(seed)
    for category, listed in by_class.items():
        photos = {each.query.image: data.photo(each.query, category) for each in listed[: 4 * wanted]}
        single = [name for name, photo in photos.items() if is_one_thing(photo.mask)]
        if len(single) < 2:
            continue
        support, *mine = single[: wanted + 1]
        theirs = {each.query.image: each for each in listed}
        rest = [each for name, several in by_class.items() if name != category for each in several]
        others = [rest[i] for i in rng.permutation(len(rest)) if rest[i].query.image not in theirs]
        cells: list[tuple[ByteArray, BoolArray | None]] = [(photos[name].image, photos[name].mask) for name in mine]
        cells += [(data.photo(each.query, each.category).image, None) for each in others[: SIDE**2 - len(cells)]]
        cells = [cells[i] for i in rng.permutation(len(cells))]
        image = np.full((SIDE * CELL, SIDE * CELL, 3), GREY, np.uint8)
        things = []
        for place, (photo, mask) in enumerate(cells):
            height, width = photo.shape[:2]
            top = place // SIDE * CELL + (CELL - height) // 2
            left = place % SIDE * CELL + (CELL - width) // 2
            image[top : top + height, left : left + width] = photo
            if mask is not None:
                whole = np.zeros(image.shape[:2], bool)
                whole[top : top + height, left : left + width] = mask
                things.append(whole)
        example = Example(photos[support].image, photos[support].mask)
        yield Scene(category, example, image, things, cells)


def iou(first: BoolArray, second: BoolArray) -> float:
    """0 for two empty masks."""
    return float((first & second).sum() / max(1, (first | second).sum()))


def judged(instances: Sequence[BoolArray], things: Sequence[BoolArray]) -> dict[str, Any]:
    """The best IoU of each thing, and how many instances are of none."""
    table = np.array([[iou(each, thing) for each in instances] or [0.0] for thing in things])
    if not len(things):
        return {"ious": [], "wrong": len(instances)}
    hits = int((table.max(0) >= FOUND).sum())
    return {"ious": table.max(1).tolist(), "wrong": len(instances) - hits}


def added(*several: dict[str, Any]) -> dict[str, Any]:
    """Of several photos together."""
    return {
        "ious": [value for each in several for value in each["ious"]], "wrong": sum(each["wrong"] for each in several),
    }  # fmt: skip


def found_in(
    segmenter: prmagic.Segmenter, image: ByteArray, reference: prmagic.Reference, instances: bool
) -> list[BoolArray]:
    """The masks of the instances, or the one mask."""
    result = segmenter.segment(image, reference, instances=instances)
    return [result.mask] if result.instances is None else [each.mask for each in result.instances]


def write(out: Path, **line: Any) -> None:
    """Add a line, and show it."""
    with out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    mean = float(np.mean(line["ious"])) if line.get("ious") else math.nan
    typer.echo(f"{line['scene']:>20}  {line['way']:<12} IoU {mean:.3f}  {line['seconds']:.1f} s")


@app.command()
def paste(
    data: DATA, out: OUT, split: SPLIT = "test", classes: CLASSES = None, framework: FRAMEWORK = "persam-f",
    tiles: Annotated[list[int] | None, typer.Option(help="Along the longer side.", show_default="4")] = None,
    scenes: Annotated[int, typer.Option(help="At most.")] = 99, steps: int = 0, instances: bool = False,
    wanted: Annotated[int, typer.Option(help="Of the 16 photos that have the class.")] = 1,
    seed: Annotated[int, typer.Option(help="Of which photos make a page.")] = 0,
) -> None:  # fmt: skip
    """Things at a quarter of their size: the photos by themselves, pasted, and pasted with tiles.

    With instances, photos without the class are asked by themselves, too."""
    ways = {count: prmagic.load(framework, tiles=count, steps=steps) for count in tiles or [4]}
    plain = prmagic.load(framework, steps=steps)
    for number, scene in enumerate(pasted(Own(data, split, listed(classes)), seed, wanted)):
        if number == scenes:
            break
        reference = plain.encode_examples([scene.example])
        began = time.perf_counter()
        one = [
            judged(found_in(plain, photo, reference, instances), [] if mask is None else [mask])
            for photo, mask in scene.photos
            if instances or mask is not None
        ]
        write(out, scene=scene.name, way="by itself", seconds=time.perf_counter() - began, **added(*one))
        for count, segmenter in {1: plain, **ways}.items():
            began = time.perf_counter()
            found = judged(found_in(segmenter, scene.image, reference, instances), scene.things)
            way = "whole" if count == 1 else f"tiles {count}"
            write(out, scene=scene.name, way=way, seconds=time.perf_counter() - began, **found)


@app.command()
def small(
    data: DATA, out: OUT, split: SPLIT = "test", classes: CLASSES = None, framework: FRAMEWORK = "persam-f",
    share: Annotated[float, typer.Option(help="Of the photo that the thing has at most.")] = 0.02,
    tiles: Annotated[list[int] | None, typer.Option(help="As for paste.", show_default="2, 3")] = None,
    per_class: int = 3, steps: int = 0,
) -> None:  # fmt: skip
    """Things that are small in their own photo, one mask each: with tiles and without."""
    own = Own(data, split, listed(classes))
    ways = {count: prmagic.load(framework, tiles=count, steps=steps) for count in tiles or [2, 3]}
    plain = prmagic.load(framework, steps=steps)
    for category, several in photos_of(own).items():
        left = per_class
        for episode in several:
            photo, (example, *_) = own.load(episode)
            if not left or photo.mask.mean() > share or not is_one_thing(photo.mask):
                continue
            left -= 1
            reference = plain.encode_examples([Example(example.image, example.mask)])
            for count, segmenter in {1: plain, **ways}.items():
                began = time.perf_counter()
                mask = segmenter.segment(photo.image, reference).mask
                way = "whole" if count == 1 else f"tiles {count}"
                told = {"ious": [iou(mask, photo.mask)], "wrong": 0, "seconds": time.perf_counter() - began}
                write(out, scene=f"{category} {episode.query.image}", way=way, **told)


def grass(rng: np.random.Generator, width: int, height: int) -> ByteArray:
    """A ground that is everywhere the same."""
    ground = rng.integers(-12, 12, (height, width, 1), dtype=np.int16)
    coarse = Image.fromarray(rng.integers(0, 60, (height // 150, width // 150), dtype=np.uint8))
    ground += np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))[..., None]
    return np.clip(ground + np.array([60, 85, 40], np.int16), 0, 255).astype(np.uint8)


def collage(photos: Sequence[ByteArray], width: int, height: int) -> ByteArray:
    """A ground of photos side by side, each blown up to a cell of GROUND pixels."""
    ground = np.empty((height, width, 3), np.uint8)
    for number, (top, left) in enumerate((y, x) for y in range(0, height, GROUND) for x in range(0, width, GROUND)):
        cell = Image.fromarray(photos[number % len(photos)]).resize((GROUND, GROUND), Image.Resampling.BICUBIC)
        place = ground[top : top + GROUND, left : left + GROUND]
        place[:] = np.asarray(cell)[: place.shape[0], : place.shape[1]]
    return ground


def other_photos(root: Path, split: str, category: str, rng: np.random.Generator, count: int) -> list[ByteArray]:
    """Photos of a folder in which nothing of the class is marked."""
    everything = photos_of(Own(root, split))
    mine = {each.query.image for each in everything[category]}
    own = Own(root, split)
    every = [each for name, several in everything.items() if name != category for each in several]
    rest = {each.query.image: each for each in every if each.query.image not in mine}
    names = [list(rest)[index] for index in rng.permutation(len(rest))[:count]]
    return [own.photo(rest[name].query, rest[name].category).image for name in names]


@app.command()
def scatter(
    data: DATA, out: Annotated[Path, typer.Option(help="A folder: example, photo and truth.", show_default=False)],
    category: Annotated[str, typer.Option(help="The class of the things.")] = "crocus", split: SPLIT = "train",
    width: int = 12000, height: int = 9000, things: int = 40,
    photos: Annotated[int, typer.Option(help="Photos without the class that the ground is made of; 0: grass.")] = 0,
) -> None:  # fmt: skip
    """Cut-out things of a class on a ground of grass or of other photos, as a large photo."""
    own, rng = Own(data, split, [category]), np.random.default_rng(0)
    episodes = [each for each in photos_of(own)[category] if is_one_thing(own.photo(each.query, category).mask)]
    example = own.photo(episodes[0].query, category)
    if photos:
        image = collage(other_photos(data, split, category, rng, photos), width, height)
    else:
        image = grass(rng, width, height)
    truth = np.zeros((height, width), np.uint8)
    columns = math.ceil(math.sqrt(things * width / height))
    cell = width // columns, height // math.ceil(things / columns)
    for number in range(things):
        photo = own.photo(episodes[1 + number % (len(episodes) - 1)].query, category)
        x0, y0, x1, y1 = map(int, edges(photo.mask))
        top = number // columns * cell[1] + int(rng.integers(max(1, cell[1] - (y1 - y0))))
        left = number % columns * cell[0] + int(rng.integers(max(1, cell[0] - (x1 - x0))))
        place = slice(top, top + y1 - y0), slice(left, left + x1 - x0)
        inside = photo.mask[y0:y1, x0:x1]
        image[place][inside] = photo.image[y0:y1, x0:x1][inside]
        truth[place][inside] = number + 1
    out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(out / "large.jpg", quality=92)
    Image.fromarray(truth).save(out / "truth.png")
    Image.fromarray(example.image).save(out / "example.png")
    Image.fromarray(example.mask.astype(np.uint8) * 255).save(out / "example_mask.png")


@app.command()
def score(
    found: Annotated[Path, typer.Argument(help="The folder of `prmagic segment --instances`.", show_default=False)],
    truth: Annotated[Path, typer.Argument(help="truth.png of `scatter`.", show_default=False)],
) -> None:
    """How many of the scattered things were found."""
    from prmagic.io.formats import unrle

    (line,) = (found / "results.jsonl").read_text(encoding="utf-8").splitlines()
    labels = np.asarray(Image.open(truth))
    areas = np.bincount(labels.ravel(), minlength=int(labels.max()) + 1)
    best, wrong = np.zeros(len(areas)), 0
    for instance in json.loads(line)["instances"]:
        x0, y0, x1, y1 = map(int, instance["box"])
        mask = unrle(instance["mask"])[y0:y1, x0:x1]
        shared = np.bincount(labels[y0:y1, x0:x1][mask], minlength=len(areas))
        ious = shared / (areas + mask.sum() - shared)
        best = np.maximum(best, np.where(np.arange(len(areas)) > 0, ious, 0))
        wrong += ious[1:].max() < FOUND
    typer.echo(f"{int((best >= FOUND).sum())} of {len(areas) - 1} found, {wrong} wrong, mean IoU {best[1:].mean():.3f}")


@app.command()
def report(files: Annotated[list[Path], typer.Argument(show_default=False)]) -> None:
    """A table of what `paste` or `small` wrote: means over all things, and what is won back of the loss."""
    lines = [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    by_way: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_way.setdefault(line["way"], []).append(line)
    typer.echo("| | things | found | IoU | wrong | seconds a photo |\n|---|---|---|---|---|---|")
    for way, several in by_way.items():
        ious = np.array([value for line in several for value in line["ious"]])
        wrong, seconds = (float(np.mean([line[name] for line in several])) for name in ("wrong", "seconds"))
        typer.echo(
            f"| {way} | {len(ious)} | {(ious >= FOUND).mean():.1%} | {ious.mean():.3f} | {wrong:.1f} | {seconds:.1f} |"
        )


def listed(classes: Path | None) -> list[str] | None:
    """The lines of a file."""
    return None if classes is None else [line for line in classes.read_text(encoding="utf-8").splitlines() if line]


if __name__ == "__main__":
    app()
