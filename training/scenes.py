"""Training samples from a folder in the layout of `index.jsonl` / `instances.jsonl`.

Every sample is a pure function of (seed, step): a run that is interrupted and resumed sees the same pictures as one
that is not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

# How often a picture of each source is drawn. By lines alone the region maps of bsds500 would be two thirds of it.
SOURCE_WEIGHTS = {
    "coco": 0.28,
    "bsds500": 0.24,
    "davis2016": 0.12,
    "flowers17": 0.1,
    "feralcats": 0.1,
    "carparts": 0.1,
    "camvid": 0.06,
}


@dataclass
class Photo:
    """One picture with its label maps. `targets` are (map index, value, class name or None)."""

    source: str
    path: Path
    rgb: np.ndarray
    maps: list[np.ndarray] = field(default_factory=list)
    targets: list[tuple[int, int, str | None]] = field(default_factory=list)

    def mask(self, target: int) -> np.ndarray:
        """(H, W) bool."""
        map_index, value, _ = self.targets[target]
        return self.maps[map_index] == value


@dataclass
class Sample:
    """A square crop: image (S, S, 3) uint8, masks (M, S, S) bool, valid (height, width) before the padding."""

    image: np.ndarray
    masks: np.ndarray
    valid: tuple[int, int]


def load_photos(root: Path, *, dev: bool) -> list[Photo]:
    """The train split: with dev=False every photo without a dev class, with dev=True only those that have one."""
    dev_classes = set((root / "dev_classes.txt").read_text().split("\n")) - {""}
    lines = [
        json.loads(line)
        for name in ("index.jsonl", "instances.jsonl")
        for line in (root / name).read_text().splitlines()
    ]
    lines = [line for line in lines if line["split"] == "train"]
    dev_images = {line["image"] for line in lines if line["class"] in dev_classes}
    photos: dict[str, Photo] = {}
    maps: dict[str, dict[str, int]] = defaultdict(dict)
    for line in lines:
        key = line["image"]
        if (key in dev_images) != dev or (dev and line["class"] not in dev_classes):
            continue
        if key not in photos:
            photos[key] = Photo(line["dataset"], root / key, np.asarray(Image.open(root / key).convert("RGB")))
        photo = photos[key]
        if line["mask"] not in maps[key]:
            maps[key][line["mask"]] = len(photo.maps)
            photo.maps.append(np.asarray(Image.open(root / line["mask"])))
        photo.targets.append((maps[key][line["mask"]], line["mask_value"], line["class"]))
    return list(photos.values())


class Sampler:
    """Draws batches: `pairs` couples of photos that share a class, then `singles` photos of any kind."""

    def __init__(self, photos: list[Photo], size: int, masks_per_image: int, pairs: int, singles: int, seed: int):
        self.photos, self.size, self.masks_per_image = photos, size, masks_per_image
        self.pairs, self.singles, self.seed = pairs, singles, seed
        self.by_source: dict[str, list[int]] = defaultdict(list)
        by_class: dict[str, set[int]] = defaultdict(set)
        for index, photo in enumerate(photos):
            self.by_source[photo.source].append(index)
            for _, _, name in photo.targets:
                if name is not None:
                    by_class[name].add(index)
        self.by_class = {name: sorted(found) for name, found in sorted(by_class.items()) if len(found) > 1}
        self.classes = list(self.by_class)
        # Square root: between "every class alike" (rare ones would be learnt by heart) and "every photo alike".
        weights = np.sqrt([len(self.by_class[name]) for name in self.classes])
        self.class_weights = weights / weights.sum()
        self.sources = [source for source in SOURCE_WEIGHTS if source in self.by_source]
        weights = np.array([SOURCE_WEIGHTS[source] for source in self.sources])
        self.source_weights = weights / weights.sum()

    def batch(self, step: int) -> list[Sample]:
        """2 × pairs + singles samples; samples 2i and 2i + 1 of the pairs have mask 0 of one class."""
        rng = np.random.default_rng((self.seed, step))
        samples = []
        for _ in range(self.pairs):
            name = self.classes[rng.choice(len(self.classes), p=self.class_weights)]
            for index in rng.choice(self.by_class[name], 2, replace=False):
                photo = self.photos[index]
                targets = [t for t, (_, _, found) in enumerate(photo.targets) if found == name]
                samples.append(self._crop(photo, int(targets[0]), rng))
        for _ in range(self.singles):
            source = self.sources[rng.choice(len(self.sources), p=self.source_weights)]
            photo = self.photos[rng.choice(self.by_source[source])]
            samples.append(self._crop(photo, int(rng.integers(len(photo.targets))), rng))
        return samples

    def _crop(self, photo: Photo, target: int, rng: np.random.Generator) -> Sample:
        height, width = photo.rgb.shape[:2]
        main = photo.mask(target)
        ys, xs = np.nonzero(main)
        if rng.random() < 0.4 or len(ys) == 0:
            left, top, right, bottom = 0.0, 0.0, float(width), float(height)
        else:  # a rectangle around one object pixel, never much smaller than the object
            extent = max(np.ptp(ys), np.ptp(xs)) + 1
            side = rng.uniform(max(0.9 * extent, 0.3 * min(height, width)), max(height, width) * 1.02)
            ratio = np.exp(rng.uniform(-0.25, 0.25))
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
        image = jitter(image, rng)
        others = rng.permutation(len(photo.targets))
        masks: list[np.ndarray] = []
        for candidate in [target, *[int(other) for other in others if other != target]]:
            mask = Image.fromarray(photo.mask(candidate).astype(np.uint8) * 255)
            resized = np.asarray(mask.resize((new_w, new_h), Image.Resampling.BILINEAR, box=box)) > 127
            if not masks or (resized.sum() >= 0.002 * self.size**2 and resized.mean() < 0.95):
                masks.append(resized)
            if len(masks) == self.masks_per_image:
                break
        while len(masks) < self.masks_per_image:
            masks.append(masks[int(rng.integers(len(masks)))])
        rgb, stack = np.asarray(image), np.stack(masks)
        if flip:
            rgb, stack = rgb[:, ::-1], stack[:, :, ::-1]
        padded = np.zeros((self.size, self.size, 3), np.uint8)
        padded[:new_h, :new_w] = rgb
        padded_masks = np.zeros((len(masks), self.size, self.size), bool)
        padded_masks[:, :new_h, :new_w] = stack
        return Sample(padded, padded_masks, (new_h, new_w))


def jitter(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    for enhancer, low, high in (
        (ImageEnhance.Brightness, 0.65, 1.4),
        (ImageEnhance.Contrast, 0.65, 1.4),
        (ImageEnhance.Color, 0.4, 1.5),
    ):
        if rng.random() < 0.7:
            image = enhancer(image).enhance(float(rng.uniform(low, high)))
    if rng.random() < 0.08:
        image = image.convert("L").convert("RGB")
    return image
