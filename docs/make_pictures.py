"""Makes the pictures of the README and the docs from the photos in docs/images/photos, with the embedded models.

python docs/make_pictures.py
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import prmagic
from prmagic.pictures import overlay

IMAGES = Path(__file__).parent / "images"
PHOTOS = IMAGES / "photos"
TITLES = {"persam-f": "PerSAM-F", "matcher": "Matcher"}
YELLOW = (255, 221, 0)
GAP, LINE = 10, 30  # pixels between two photos; height of a line of text


class Row(NamedTuple):
    """A framework, the photo that is marked, and the photo that is searched."""

    framework: str
    support: str
    query: str


MARKED = "speaker_12"
FOUND = ("speaker_16", "speaker_17", "speaker_19", "speaker_10", "speaker_21", "speaker_23")
REPAIRED = (
    Row("persam-f", "speaker_1", "speaker_11"),
    Row("persam-f", "horsejump_high_00027", "horsejump_high_00011"),
)
FAILED = (Row("matcher", "speaker_1", "speaker_20"), Row("persam-f", "speaker_17", "speaker_12"))


def main() -> None:
    """Write found.jpg, repaired.jpg and failed.jpg to docs/images."""
    torch.set_num_threads(1)
    segmenters = {name: prmagic.load(name, device="cpu") for name in TITLES}
    save(found(segmenters["persam-f"]), "found.jpg")
    save(compared(segmenters, REPAIRED), "repaired.jpg")
    save(compared(segmenters, FAILED), "failed.jpg")


def found(segmenter: prmagic.Segmenter) -> Image.Image:
    """One marked photo at the left, what was found in six others at the right."""
    tile, large = (240, 320), (488, 650)
    page = Image.new("RGB", (large[0] + 3 * (tile[0] + GAP), LINE + large[1]), "white")
    write(page, "You mark the thing in one photo …", 0)
    write(page, "… and prmagic finds it in the others", large[0] + GAP)
    page.paste(marked(photo(MARKED), mask(MARKED), large), (0, LINE))
    reference = segmenter.encode_support([example(MARKED)])
    for place, name in enumerate(FOUND):
        result = segmenter.segment(PHOTOS / f"{name}.jpg", reference)
        report(name, result.candidates[0].mask, result.mask)
        row, column = divmod(place, 3)
        corner = (large[0] + GAP + column * (tile[0] + GAP), LINE + row * (tile[1] + GAP))
        page.paste(marked(photo(name), result.mask, tile), corner)
    return page


def compared(segmenters: dict[str, prmagic.Segmenter], rows: tuple[Row, ...]) -> Image.Image:
    """For each row the marked photo, what the framework finds alone, and what the refinement makes of it."""
    pictures = [strip(segmenters[row.framework], row) for row in rows]
    page = Image.new("RGB", (pictures[0].width, sum(p.height + GAP for p in pictures) - GAP), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height + GAP
    return page


def strip(segmenter: prmagic.Segmenter, row: Row, width: int = 400) -> Image.Image:
    """One row of `compared`."""
    reference = segmenter.encode_support([example(row.support)])
    result = segmenter.segment(PHOTOS / f"{row.query}.jpg", reference)
    baseline, truth = result.candidates[0].mask, mask(row.query)
    report(row.query, baseline, result.mask)
    shown = (
        ("The marked photo", row.support, mask(row.support)),
        (f"{TITLES[row.framework]} alone: IoU {iou(baseline, truth):.2f}", row.query, baseline),
        (f"Refined: IoU {iou(result.mask, truth):.2f}", row.query, result.mask),
    )
    height = round(width * truth.shape[0] / truth.shape[1])
    page = Image.new("RGB", (3 * width + 2 * GAP, LINE + height), "white")
    for column, (text, name, found_mask) in enumerate(shown):
        left = column * (width + GAP)
        write(page, text, left)
        picture = marked(photo(name), found_mask, fitted(photo(name), width, height))
        page.paste(picture, (left + (width - picture.width) // 2, LINE))
    return page


def fitted(image: np.ndarray, width: int, height: int) -> tuple[int, int]:
    """The largest size of the photo's proportions that fits."""
    scale = min(width / image.shape[1], height / image.shape[0])
    return round(image.shape[1] * scale), round(image.shape[0] * scale)


def marked(image: np.ndarray, mask: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """The photo at another size, with the mask on it."""
    large = np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return overlay(large, np.array(Image.fromarray(mask).resize(size)), YELLOW)


def photo(name: str) -> np.ndarray:
    """(H, W, 3) uint8."""
    return np.array(Image.open(PHOTOS / f"{name}.jpg").convert("RGB"))


def mask(name: str) -> np.ndarray:
    """(H, W) bool."""
    return np.array(Image.open(PHOTOS / f"{name}.png")) > 0


def example(name: str) -> prmagic.Support:
    """The photo and its mask as a support."""
    return prmagic.Support(PHOTOS / f"{name}.jpg", PHOTOS / f"{name}.png")


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Foreground IoU of two masks."""
    return float((one & other).sum() / max((one | other).sum(), 1))


def report(name: str, baseline: np.ndarray, chosen: np.ndarray) -> None:
    """Print the IoU of the baseline and of the chosen mask."""
    truth = mask(name)
    print(f"{name}: IoU {iou(baseline, truth):.2f} alone, {iou(chosen, truth):.2f} refined")


def write(page: Image.Image, text: str, left: int) -> None:
    """A line of text above a photo."""
    ImageDraw.Draw(page).text((left + 2, 3), text, fill="black", font=ImageFont.load_default(size=19))


def save(picture: Image.Image, name: str) -> None:
    """Write a picture to docs/images and say how large it is."""
    picture.save(IMAGES / name, quality=88, optimize=True)
    print(f"{name}: {picture.size}, {(IMAGES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
