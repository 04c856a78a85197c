"""Annotations in all their forms, and photos and files to put them in."""

from __future__ import annotations

import json
import pickle

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

WIDTH, HEIGHT = 12, 8
SAMPLINGS = ("paper", "default")


def box_mask(x, y, width, height):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def picture(file, labels=None, size=(8, 6), **save):
    """A photo of `size` (width, height), or a label map."""
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, (200, 10, 10)) if labels is None else Image.fromarray(np.asarray(labels, np.uint8))
    image.save(file, **save)


def corner(value=1, width=8, height=6):
    labels = np.zeros((height, width), np.uint8)
    labels[0, 0] = value
    return labels


def polygons(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def rle(x, y, width, height):
    code = coco_mask.encode(np.asfortranarray(box_mask(x, y, width, height)))
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}


def uncompressed(x, y, width, height):
    column_wise = box_mask(x, y, width, height).flatten(order="F")
    ends = np.flatnonzero(np.diff(column_wise, prepend=0)).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends, column_wise.size]).tolist()}


def write_photo(root, address):
    place = root / "coco" / address
    place.parent.mkdir(parents=True, exist_ok=True)
    red = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(np.dstack([red, red, red])).save(place, format="PNG")  # exact pixels, whatever the name says


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def one(random, choices):
    """As the published code draws: one of a whole permutation."""
    return choices[random.choice(len(choices), 1, replace=False)[0]]


def address(number):
    return f"{'train' if number % 2 else 'val'}2017/{number:012d}.jpg"
