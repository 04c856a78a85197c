"""Benchmarks of a few small photos in their true layouts, and `prmagic evaluate` on them with a tiny model."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
from command_line import SAM, run
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic.datasets.base import Episode, Item, write_manifest

HEIGHT, WIDTH = 48, 64
SPOTS = 5  # photos of each class of the own data, and the split of each
SPLITS = ("train", "test", "test", "test", "test")


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)


def scene(number):
    """A photo of a bright rectangle in dark noise, and where that is."""
    rng = np.random.default_rng(number)
    image = rng.integers(0, 90, (HEIGHT, WIDTH, 3))
    mask = np.zeros((HEIGHT, WIDTH), bool)
    top, left = rng.integers(2, 28), rng.integers(2, 40)
    mask[top : top + rng.integers(10, 20), left : left + rng.integers(10, 24)] = True
    image[mask] = rng.integers(150, 255, 3)
    return image, mask


def own_data(root):
    """Cats and dogs; without a wish the split "test" is taken, four photos of each."""
    lines = []
    for number in range(2 * SPOTS):
        image, mask = scene(number)
        save(image, root / f"{number}.png")
        save(mask * 255, root / f"{number}_mask.png")
        category = "cat" if number < SPOTS else "dog"
        split = SPLITS[number % SPOTS]
        lines.append({"image": f"{number}.png", "mask": f"{number}_mask.png", "class": category, "split": split})
    (root / "index.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


def fss_data(root, classes=("ant",)):
    (root / "splits").mkdir(parents=True)
    (root / "splits" / "test.txt").write_text("\n".join(classes))
    for position, name in enumerate(classes):
        for number in range(1, 11):
            image, mask = scene(100 * position + number)
            save(image, root / f"data/{name}/{number}.jpg")
            save(mask * 255, root / f"data/{name}/{number}.png")
    return root


def coco_data(root):
    """Fold 0, where all classes have the same three photos; only in them is there anything of each."""
    photos = [f"val2014/COCO_val2014_{number:012d}.jpg" for number in range(3)]
    (root / "splits" / "val").mkdir(parents=True)
    lists = {number: photos if number % 4 == 0 else [] for number in range(80)}
    (root / "splits" / "val" / "fold0.pkl").write_bytes(pickle.dumps(lists))
    for number, photo in enumerate(photos):
        image, _ = scene(number)
        save(image, root / photo)
        labels = np.repeat(np.arange(80)[None], HEIGHT, 0)[:, :WIDTH] + 1  # a column of each of the first 64 classes
        save(labels, (root / "annotations" / photo).with_suffix(".png"))
    return root


def pascal_data(root):
    """Fold 1, its class 6 (bus) only, in four photos; around each object runs a boundary of none."""
    (root / "splits" / "val").mkdir(parents=True)
    (root / "splits" / "val" / "fold1.txt").write_text("".join(f"{number}__06\n" for number in range(4)))
    for number in range(4):
        image, mask = scene(number)
        grown = mask.copy()
        for axis in (0, 1):
            for shift in (-2, -1, 1, 2):
                grown |= np.roll(mask, shift, axis)
        save(image, root / f"JPEGImages/{number}.jpg")
        save(np.where(mask, 6, np.where(grown, 255, 0)), root / f"SegmentationClassAug/{number}.png")
    return root


def perseg_data(root):
    for position, name in enumerate(("cup", "toy")):
        for number in range(4):
            image, mask = scene(10 * position + number)
            save(image, root / f"Images/{name}/{number:02}.jpg")
            save(np.where(mask[..., None], [128, 0, 0], 0), root / f"Annotations/{name}/{number:02}.png")
    return root


DIS = {
    "DIS-TR": ("1#Bags#1#Bag#a", "1#Bags#1#Bag#b", "2#Arms#15#Gun#c", "2#Arms#15#Gun#d"),
    "DIS-TE1": ("1#Bags#1#Bag#e",),
    "DIS-TE2": ("2#Arms#15#Gun#f", "2#Arms#15#Gun#g"),
}


def dis_release(root):
    for folder, stems in DIS.items():
        for number, stem in enumerate(stems):
            image, mask = scene(number)
            save(image, root / folder / "im" / f"{stem}.jpg")
            save(mask * 255, root / folder / "gt" / f"{stem}.png")


def command(benchmark="own", *args, out="out"):
    """One PerSAM step, on one thread."""
    fixed = ("--sam", SAM, "--framework", "persam", "--steps", 1, "--threads", 1)
    return [str(arg) for arg in ("evaluate", benchmark, "--data", "data", "--out", out, *fixed, *args)]


def evaluate(*args, out="out", code=0):
    """What it says."""
    return said(*command(*args, out=out), code=code)


def datasets(*args, code=0):
    """What it says."""
    return said("datasets", *args, code=code)


def said(*args, code=0):
    """What the command says, on long lines."""
    result = run(*args, env={"COLUMNS": "500"})
    assert result.exit_code == code, result.output
    return result.output


def records(out="out"):
    return [json.loads(line) for line in Path(out, "episodes.jsonl").read_bytes().splitlines()]


def timeless(out="out"):
    """The records' lines without what may differ between equal runs."""
    return [json.dumps({**record, "seconds": None}) for record in records(out)]


def masks_of(out="out"):
    """By seed and episode, the candidates' masks (C, H, W)."""
    lines = [json.loads(line) for line in Path(out, "masks.jsonl").read_bytes().splitlines()]
    return {
        (line["seed"], line["episode"]): [coco_mask.decode(line["masks"][n]).astype(bool) for n in line["candidates"]]
        for line in lines
    }


def run_json(out="out"):
    return json.loads(Path(out, "run.json").read_text())


def contents(out="out"):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in Path(out).rglob("*") if path.is_file()}


def assert_equal_runs(one, other="out"):
    """Byte for byte, but for the seconds."""
    assert timeless(one) == timeless(other)
    assert Path(one, "masks.jsonl").read_bytes() == Path(other, "masks.jsonl").read_bytes()
    without = [{**run_json(out), "versions": None} for out in (one, other)]
    assert without[0] == without[1]


def counted(prediction, truth):
    """I₀, U₀, I₁, U₁."""
    pairs = list(zip(np.ravel(prediction).tolist(), np.ravel(truth).tolist(), strict=True))
    both, neither = pairs.count((True, True)), pairs.count((False, False))
    return [neither, len(pairs) - both, both, len(pairs) - neither]


def empty_mask(number):
    save(np.zeros((HEIGHT, WIDTH)), Path(f"data/data/ant/{number}.png"))


def fss_episodes(*drawn):
    """A manifest of episodes (query, supports…), by the photos' numbers."""
    items = [[Item(f"data/ant/{number}.jpg") for number in numbers] for numbers in drawn]
    write_manifest(
        [Episode(f"0/{n:05}", 0, 760, "ant", query, tuple(supports)) for n, (query, *supports) in enumerate(items)],
        Path("list.jsonl"),
    )
    return "--episodes", "list.jsonl"
