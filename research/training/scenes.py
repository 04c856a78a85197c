"""Training samples: photos from a folder in the layout of `index.jsonl` / `instances.jsonl`, and synthetic scenes.

Every sample is a pure function of (seed, step): a run that is interrupted and resumed sees the same pictures as one
that is not.
"""

from __future__ import annotations

import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageFilter
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import synthetic

MIN_SHARE = 0.002  # of the crop; smaller targets are not trained on
VOID = 255  # in a label map: nobody knows what is there
VIEWS = 4  # scenes that show one species
SCENE_SIZE = 256  # pixels of their longer side


@dataclass
class Photo:
    """One picture with its label maps. `targets` are (map index, value, class name or None)."""

    source: str
    rgb: np.ndarray
    maps: list[np.ndarray] = field(default_factory=list)
    targets: list[tuple[int, int, str | None]] = field(default_factory=list)

    def mask(self, target: int) -> np.ndarray:
        """(H, W) bool."""
        map_index, value, _ = self.targets[target]
        return self.maps[map_index] == value

    @property
    def void(self) -> np.ndarray:
        """(H, W) bool, where a label map says that it does not know."""
        named = {(map_index, value) for map_index, value, _ in self.targets}
        void = np.zeros(self.rgb.shape[:2], bool)
        for index, labels in enumerate(self.maps):
            if (index, VOID) not in named:
                void |= labels == VOID
        return void


@dataclass
class Sample:
    """A square crop: image (S, S, 3) uint8, masks (M, S, S) bool, valid (height, width) before the padding, void
    (S, S) bool where the masks do not count."""

    image: np.ndarray
    masks: np.ndarray
    valid: tuple[int, int]
    void: np.ndarray


@dataclass(frozen=True)
class Sources:
    """What a recipe trains on.

    `weights` has how often a photo of each source is drawn; by lines alone the region maps of bsds500 would be two
    thirds of it. A source that is not named is left out. `coco_licences` keeps COCO's photos to those under one of
    these licences, as `coco_attribution.tsv` names them; None means every photo."""

    weights: dict[str, float]
    synthetic: float  # share of the samples that are synthetic scenes
    species: int  # kinds of things in them
    coco_licences: tuple[str, ...] | None = None


def load_sources(values: dict[str, Any]) -> Sources:
    """Sources as a configuration has them."""
    licences = values.get("coco_licences")
    licences = None if licences is None else tuple(licences)
    if values["synthetic"] and values.get("species", 0) < 1:
        raise ValueError("sources with synthetic scenes need a number of species, at least 1")
    return Sources(values["weights"], values["synthetic"], values.get("species", 0), licences)


def load_photos(roots: Sequence[Path], sources: Sources | None = None, *, dev: bool) -> list[Photo]:
    """The train split of these folders: with dev=False every photo of the sources without a dev class, with dev=True
    only those that have one, of whatever source. The dev classes of one folder are those of all.

    Raises:
        ValueError: No folder names dev classes, or a photo to train on shows a class of the test split.
    """
    lists = [root / "dev_classes.txt" for root in roots]
    dev_classes = {name for path in lists if path.exists() for name in path.read_text().split("\n")} - {""}
    if not dev_classes:
        raise ValueError(f"none of these folders has a dev_classes.txt: {', '.join(map(str, roots))}")
    lines = [
        {**line, "image": root / line["image"], "mask": root / line["mask"]}
        for root in roots
        for name in ("index.jsonl", "instances.jsonl")
        for line in map(json.loads, (root / name).read_text().splitlines())
    ]
    test_classes = {line["class"] for line in lines if line["split"] == "test"} - {None}
    lines = [line for line in lines if line["split"] == "train"]
    for line in lines:
        if line["class"] in test_classes:
            raise ValueError(f"{line['image']} is to be trained on, but {line['class']!r} is a class of the test split")
    dev_images = {line["image"] for line in lines if line["class"] in dev_classes}
    if sources is not None:
        lines = [line for line in lines if line["dataset"] in sources.weights]
        if sources.coco_licences is not None:
            allowed = coco_photos(roots, sources.coco_licences)
            lines = [line for line in lines if line["dataset"] != "coco" or line["image"] in allowed]
    photos: dict[Path, Photo] = {}
    maps: dict[Path, dict[Path, int]] = defaultdict(dict)
    for line in lines:
        key = line["image"]
        if (key in dev_images) != dev or (dev and line["class"] not in dev_classes):
            continue
        if key not in photos:
            photos[key] = Photo(line["dataset"], np.asarray(Image.open(key).convert("RGB")))
        photo = photos[key]
        if line["mask"] not in maps[key]:
            maps[key][line["mask"]] = len(photo.maps)
            photo.maps.append(np.asarray(Image.open(line["mask"])))
        photo.targets.append((maps[key][line["mask"]], line["mask_value"], line["class"]))
    return list(photos.values())


def coco_photos(roots: Sequence[Path], licences: tuple[str, ...]) -> set[Path]:
    """COCO's photos under one of these licences."""
    allowed = set()
    for root in roots:
        if (root / "coco_attribution.tsv").exists():
            with (root / "coco_attribution.tsv").open(newline="") as table:
                rows = csv.DictReader(table, delimiter="\t")
                allowed |= {root / row["image"] for row in rows if row["licence"] in licences}
    return allowed


def synthetic_photo(species: int, view: int, of: int, size: int = SCENE_SIZE) -> Photo:
    """A scene as a photo, a function of the numbers; the things beside its own are of the first `of` species. Its first
    target is the thing of that species, of which enough can be seen."""
    rng = np.random.default_rng((78, species, view))
    while True:
        rgb, things, parts = synthetic.scene(rng, species, size, of)
        targets: list[tuple[int, int, str | None]] = []
        for index, labels in enumerate((things, parts)):
            for value, area in enumerate(np.bincount(labels.ravel())):
                if value and area >= 2 * MIN_SHARE * labels.size:
                    targets.append((index, value, None))
        if targets and targets[0][:2] == (0, 1):
            return Photo("synthetic", rgb, [things, parts], targets)


def render_scenes(sources: Sources, workers: int = 1) -> list[list[Photo]]:
    """VIEWS scenes of each species, none where no sample is synthetic. A scene takes a tenth of a second, a crop of one
    a hundredth of that: therefore they are drawn before the training, and not in it."""
    if not sources.synthetic:
        return []
    numbers = [(species, view) for species in range(sources.species) for view in range(VIEWS)]
    with ProcessPoolExecutor(max(1, workers)) as pool:
        columns = zip(*numbers, strict=True)
        drawn = pool.map(synthetic_photo, *columns, repeat(sources.species), chunksize=16)
        scenes = list(track(drawn, "Scenes", total=len(numbers)))
    return [scenes[first : first + VIEWS] for first in range(0, len(scenes), VIEWS)]


def load_batches(
    drawn: Dataset[tuple[Tensor, ...]], steps: Iterable[int], workers: int, device: torch.device
) -> DataLoader[Any]:
    """The batches of these steps, in their order, drawn ahead by as many processes (0: by this one). Where they can be
    forked, they share the photos' memory; elsewhere each has a copy."""
    fork = "fork" if workers and sys.platform == "linux" else None
    return DataLoader(
        drawn, batch_size=None, sampler=steps, num_workers=workers, pin_memory=device.type == "cuda",
        prefetch_factor=4 if workers else None, multiprocessing_context=fork,
    )  # fmt: skip


class Sampler(Dataset[tuple[Tensor, ...]]):
    """Draws batches: `pairs` couples of pictures of one class, then `singles` of any kind.

    A couple shows one class of the photos, or one species of the synthetic scenes, or, for the regions that have no
    class, twice the same region of one photo. With augment=False it is two photos of a class always, and nothing is
    pasted or recoloured: that is for validation. A single is drawn by its source, then by its class, then by its photo,
    so that neither a class with many photos nor one with many things in each crowds out the others."""

    def __init__(
        self,
        photos: list[Photo],
        scenes: list[list[Photo]],
        sources: Sources,
        size: int,
        masks_per_image: int,
        pairs: int,
        singles: int,
        seed: int,
        augment: bool = True,
    ):
        self.photos, self.scenes, self.augment = photos, scenes, augment
        self.size, self.masks_per_image = size, masks_per_image
        self.pairs, self.singles, self.seed, self.synthetic = pairs, singles, seed, sources.synthetic
        by_class: dict[str, set[int]] = defaultdict(set)
        by_source: dict[str, dict[str | None, set[int]]] = defaultdict(lambda: defaultdict(set))
        for index, photo in enumerate(photos):
            for _, _, name in photo.targets:
                by_source[photo.source][name].add(index)
                if name is not None:
                    by_class[name].add(index)
        self.by_class = {name: sorted(found) for name, found in sorted(by_class.items()) if len(found) > 1}
        self.classes = list(self.by_class)
        # Square root: between "every class alike" (rare ones would be learnt by heart) and "every photo alike".
        self.class_weights = shares(np.sqrt([len(self.by_class[name]) for name in self.classes]))
        self.sources = [source for source in sources.weights if source in by_source]
        self.source_weights = shares(np.array([sources.weights[source] for source in self.sources]))
        self.kinds: dict[str, tuple[list[tuple[str | None, list[int]]], np.ndarray]] = {}
        for source in self.sources:  # its classes with their photos, and how often each class is drawn
            found = [(name, sorted(indices)) for name, indices in by_source[source].items()]
            self.kinds[source] = found, shares(np.sqrt([len(indices) for _, indices in found]))

    def __getitem__(self, step: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Images (B, S, S, 3) uint8, masks (B, M, S, S) bool, valid (B, 2) height and width before the padding, void
        (B, S, S) bool."""
        samples = self.batch(step)
        images, masks, valid, void = (
            torch.from_numpy(np.stack([getattr(each, name) for each in samples]))
            for name in ("image", "masks", "valid", "void")
        )
        return images, masks, valid, void

    def batch(self, step: int) -> list[Sample]:
        """2 × pairs + singles samples; samples 2i and 2i + 1 of the pairs have mask 0 of one class."""
        rng = np.random.default_rng((self.seed, step))
        samples = []
        for _ in range(self.pairs):
            samples += [self._sample(photo, target, rng) for photo, target in self._couple(rng)]
        for _ in range(self.singles):
            samples.append(self._sample(*self._single(rng), rng))
        return samples

    def _couple(self, rng: np.random.Generator) -> list[tuple[Photo, int]]:
        kind = rng.random() if self.augment else 1.0
        if kind < self.synthetic:
            views = self.scenes[rng.integers(len(self.scenes))]
            return [(views[view], 0) for view in rng.choice(len(views), 2, replace=False)]
        if kind < self.synthetic + 0.2 * (1 - self.synthetic):
            return [self._labelled(rng)] * 2
        name = self.classes[rng.choice(len(self.classes), p=self.class_weights)]
        chosen = [self.photos[index] for index in rng.choice(self.by_class[name], 2, replace=False)]
        return [(photo, [found for _, _, found in photo.targets].index(name)) for photo in chosen]

    def _single(self, rng: np.random.Generator) -> tuple[Photo, int]:
        """A picture and one of its targets."""
        if rng.random() >= self.synthetic:
            return self._labelled(rng)
        views = self.scenes[rng.integers(len(self.scenes))]
        photo = views[rng.integers(len(views))]
        return photo, int(rng.integers(len(photo.targets)))

    def _labelled(self, rng: np.random.Generator) -> tuple[Photo, int]:
        """A photo and one of its targets."""
        source = self.sources[rng.choice(len(self.sources), p=self.source_weights)]
        found, weights = self.kinds[source]
        name, indices = found[rng.choice(len(found), p=weights)]
        photo = self.photos[rng.choice(indices)]
        return photo, int(rng.choice([index for index, target in enumerate(photo.targets) if target[2] == name]))

    def _sample(self, photo: Photo, target: int, rng: np.random.Generator) -> Sample:
        """A crop around the target, at times with another thing before it; or the target before another picture."""
        if not self.augment:
            return self._crop(photo, target, rng)
        draw = rng.random()
        if draw < 0.2 and photo.source != "synthetic":
            crop = self._crop(*self._single(rng), rng)
            return self._paste(crop, photo, target, rng, wanted=True)
        crop = self._crop(photo, target, rng)
        if draw < 0.35:
            return self._paste(crop, *self._single(rng), rng, wanted=False)
        return crop

    def _paste(self, crop: Sample, photo: Photo, target: int, rng: np.random.Generator, wanted: bool) -> Sample:
        """The target of the photo put before the crop. If `wanted`, it becomes mask 0; else it takes the place of the
        last mask, and nothing is done where it would hide too much of mask 0."""
        mask = photo.mask(target)
        ys, xs = np.nonzero(mask)
        height, width = crop.valid
        if not len(ys):
            return crop
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        extent = max(box[2] - box[0], box[3] - box[1])
        scale = min(height, width) * rng.uniform(0.25, 0.95 if wanted else 0.6) / extent
        shape = (max(2, round((box[2] - box[0]) * scale)), max(2, round((box[3] - box[1]) * scale)))
        thing = Image.fromarray(photo.rgb).resize(shape, Image.Resampling.BILINEAR, box=box)
        cut = Image.fromarray(mask.astype(np.uint8) * 255).resize(shape, Image.Resampling.BILINEAR, box=box)
        colours, alpha = np.asarray(jitter(thing, rng)), np.asarray(cut)
        if rng.random() < 0.5:
            colours, alpha = colours[:, ::-1], alpha[:, ::-1]
        # Up to a quarter of it beyond the edges.
        top = int(rng.integers(-(shape[1] // 4), max(1, height - (3 * shape[1]) // 4)))
        left = int(rng.integers(-(shape[0] // 4), max(1, width - (3 * shape[0]) // 4)))
        there = (slice(max(0, top), min(height, top + shape[1])), slice(max(0, left), min(width, left + shape[0])))
        here = (
            slice(there[0].start - top, there[0].stop - top),
            slice(there[1].start - left, there[1].stop - left),
        )
        cover = np.zeros((self.size, self.size), bool)
        cover[there] = alpha[here] > 127
        rest = crop.masks & ~cover
        if not wanted and rest[0].sum() < max(0.4 * crop.masks[0].sum(), MIN_SHARE * self.size**2):
            return crop
        image = crop.image.copy()
        opacity = alpha[here][..., None] / 255
        image[there] = (opacity * colours[here] + (1 - opacity) * image[there]).astype(np.uint8)
        masks = [cover, *rest] if wanted else [rest[0], cover, *rest[1:]]
        visible = [mask for mask in masks[1:] if mask.sum() >= MIN_SHARE * self.size**2]
        return Sample(image, np.stack(self._filled([masks[0], *visible], rng)), crop.valid, crop.void & ~cover)

    def _filled(self, masks: list[np.ndarray], rng: np.random.Generator) -> list[np.ndarray]:
        """As many masks as a sample has, repeated at random where there are too few."""
        masks = masks[: self.masks_per_image]
        while len(masks) < self.masks_per_image:
            masks.append(masks[int(rng.integers(len(masks)))])
        return masks

    def _crop(self, photo: Photo, target: int, rng: np.random.Generator) -> Sample:
        height, width = photo.rgb.shape[:2]
        main = photo.mask(target)
        ys, xs = np.nonzero(main)
        if rng.random() < 0.4 or len(ys) == 0:
            left, top, right, bottom = 0.0, 0.0, float(width), float(height)
        else:  # a rectangle around one object pixel, never much smaller than the object
            extent = max(np.ptp(ys), np.ptp(xs)) + 1
            side = rng.uniform(max(0.9 * extent, 0.3 * min(height, width)), max(height, width) * 1.02)
            ratio = np.exp(rng.uniform(-0.35, 0.35))
            crop_w, crop_h = min(side * ratio, width), min(side / ratio, height)
            anchor = rng.integers(len(ys))
            left = float(np.clip(xs[anchor] - rng.uniform(0.15, 0.85) * crop_w, 0, width - crop_w))
            top = float(np.clip(ys[anchor] - rng.uniform(0.15, 0.85) * crop_h, 0, height - crop_h))
            right, bottom = left + crop_w, top + crop_h
        box = (left, top, right, bottom)
        scale = self.size / max(right - left, bottom - top)
        new_w = min(self.size, max(1, round((right - left) * scale)))
        new_h = min(self.size, max(1, round((bottom - top) * scale)))
        image = Image.fromarray(photo.rgb).resize((new_w, new_h), Image.Resampling.BILINEAR, box=box)
        flip = rng.random() < 0.5
        if self.augment:
            image = jitter(image, rng)
        others = rng.permutation(len(photo.targets))
        masks: list[np.ndarray] = []

        def resized(region: np.ndarray) -> np.ndarray:
            picture = Image.fromarray(region.astype(np.uint8) * 255)
            return np.asarray(picture.resize((new_w, new_h), Image.Resampling.BILINEAR, box=box)) > 127

        for candidate in [target, *[int(other) for other in others if other != target]]:
            mask = resized(photo.mask(candidate))
            if not masks or (mask.sum() >= MIN_SHARE * self.size**2 and mask.mean() < 0.95):
                masks.append(mask)
            if len(masks) == self.masks_per_image:
                break
        rgb, stack = np.asarray(image), np.stack([*self._filled(masks, rng), resized(photo.void)])
        if flip:
            rgb, stack = rgb[:, ::-1], stack[:, :, ::-1]
        padded = np.zeros((self.size, self.size, 3), np.uint8)
        padded[:new_h, :new_w] = rgb
        padded_masks = np.zeros((len(stack), self.size, self.size), bool)
        padded_masks[:, :new_h, :new_w] = stack
        return Sample(padded, padded_masks[:-1], (new_h, new_w), padded_masks[-1])


def shares(weights: np.ndarray) -> np.ndarray:
    """As shares of one."""
    return weights / weights.sum()


def jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Other light, other colours, sometimes grey or out of focus."""
    for enhancer, low, high in (
        (ImageEnhance.Brightness, 0.6, 1.45),
        (ImageEnhance.Contrast, 0.6, 1.45),
        (ImageEnhance.Color, 0.3, 1.6),
    ):
        if rng.random() < 0.7:
            image = enhancer(image).enhance(float(rng.uniform(low, high)))
    if rng.random() < 0.3:  # another white balance
        gain = np.exp(rng.normal(0, 0.12, 3))
        image = Image.fromarray((np.asarray(image) * gain).clip(0, 255).astype(np.uint8))
    if rng.random() < 0.08:
        image = image.convert("L").convert("RGB")
    if rng.random() < 0.1:
        image = image.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.4, 1.2))))
    return image
