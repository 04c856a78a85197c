"""Pairs of real photos from installed packages, with hand-drawn masks, for the demo, the tests and the notebook.

Where the photos come from, and on what terms (scikit-image's are as the docstrings of `skimage.data` state them):

- astronaut.png (scikit-image): Eileen Collins, NASA Great Images; public domain, no known copyright restrictions.
- grace_hopper.jpg (matplotlib): Grace Hopper, official U.S. Navy portrait; public domain (matplotlib pull request 1599;
  the folder's README says nothing).
- motorcycle_left.png, motorcycle_right.png (scikit-image): Middlebury 2014 stereo benchmark, quarter size; its page
  permits use and publication and asks to cite D. Scharstein, H. Hirschmueller, Y. Kitajima, G. Krathwohl, N. Nesic,
  X. Wang, P. Westling, "High-resolution stereo datasets with subpixel-accurate ground truth", GCPR 2014.
- coins.png (scikit-image): Greek coins from Pompeii, Brooklyn Museum Collection; no known copyright restrictions.
- chelsea.png (scikit-image): the cat Chelsea, by Stefan van der Walt; CC0.
- coffee.png (scikit-image): by Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0.
- rocket.jpg (scikit-image): launch photo of DSCOVR on Falcon 9, by SpaceX; released into the public domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance

from prmagic.demo import outlines
from prmagic.demo.outlines import Outline

LONGEST_SIDE = 640  # pixels; larger photos are shrunk, so that a demo is quick

Box = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 excluded


@dataclass(frozen=True, eq=False)
class Case:
    """One example: a support photo with its mask, and a query photo to search.

    support: (H, W, 3) uint8 RGB; support_mask: (H, W) bool, the object in it.
    query: (h, w, 3) uint8 RGB; truth: (h, w) bool, all of the query's objects of that kind.
    caption: one sentence on what the two photos are, for people.
    """

    name: str
    label: str
    caption: str
    support: npt.NDArray[np.uint8]
    support_mask: npt.NDArray[np.bool_]
    query: npt.NDArray[np.uint8]
    truth: npt.NDArray[np.bool_]


def cases() -> list[Case]:
    """Every example, built from the installed packages' photos without a network; the same each time.

    Raises FileNotFoundError where a package does not carry its photo, ValueError where it carries another one.
    """
    return [build() for build in (_person, _face, _flag, _motorcycle, _wheel, _coins, _coin, _cat, _eye, _cup, _rocket)]


# --- the photos ---


@dataclass(frozen=True)
class _Photo:
    """A photo inside an installed package; size is (width, height), that on which the outlines were drawn."""

    package: str
    path: str
    size: tuple[int, int]
    known_good: str  # the distribution that the outlines were drawn with

    def load(self) -> Image.Image:
        name = self.path.rpartition("/")[2]
        advice = f"the demo was made with {self.known_good}: pip install '{self.known_good}'"
        try:
            with resources.files(self.package).joinpath(self.path).open("rb") as file:
                image = Image.open(file).convert("RGB")
        except (ModuleNotFoundError, FileNotFoundError) as error:
            raise FileNotFoundError(
                f"the demo photo {name} is not in the installed {self.package}; {advice}"
            ) from error
        if image.size != self.size:
            raise ValueError(f"demo photo {name} is {image.size} pixels large, expected {self.size}; {advice}")
        return image


def _skimage(name: str, width: int, height: int) -> _Photo:
    return _Photo("skimage", f"data/{name}", (width, height), "scikit-image==0.26.0")


ASTRONAUT = _skimage("astronaut.png", 512, 512)
MOTORCYCLE_LEFT = _skimage("motorcycle_left.png", 741, 500)
MOTORCYCLE_RIGHT = _skimage("motorcycle_right.png", 741, 500)
COINS = _skimage("coins.png", 384, 303)
CHELSEA = _skimage("chelsea.png", 451, 300)
COFFEE = _skimage("coffee.png", 600, 400)
ROCKET = _skimage("rocket.jpg", 640, 427)
HOPPER = _Photo("matplotlib", "mpl-data/sample_data/grace_hopper.jpg", (512, 600), "matplotlib==3.11.2")


# --- a photo and its mask, changed together ---


@dataclass(frozen=True, eq=False)
class _View:
    """A photo (RGB) and its mask (L, 0 or 255), of equal size; every change returns a new pair."""

    image: Image.Image
    mask: Image.Image

    def crop(self, box: Box) -> _View:
        return _View(self.image.crop(box), self.mask.crop(box))

    def mirror(self) -> _View:
        return self._turn(Image.Transpose.FLIP_LEFT_RIGHT)

    def quarter_turn(self) -> _View:
        """Counter-clockwise by 90 degrees."""
        return self._turn(Image.Transpose.ROTATE_90)

    def brightness(self, factor: float) -> _View:
        return _View(ImageEnhance.Brightness(self.image).enhance(factor), self.mask)

    def arrays(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        """The photo (H, W, 3) and the mask (H, W), shrunk to at most LONGEST_SIDE."""
        width, height = self.image.size
        scale = min(1.0, LONGEST_SIDE / max(width, height))
        size = (round(width * scale), round(height * scale))
        image = self.image.resize(size, Image.Resampling.LANCZOS)
        mask = self.mask.resize(size, Image.Resampling.BILINEAR)  # 128 and above: most of the pixel is object
        return np.array(image, dtype=np.uint8), np.asarray(mask) >= 128

    def _turn(self, how: Image.Transpose) -> _View:
        return _View(self.image.transpose(how), self.mask.transpose(how))


def _view(photo: _Photo, *objects: Outline) -> _View:
    """The whole photo with every given object marked."""
    mask = Image.new("L", photo.size)
    for outline in objects:
        mask.paste(255, mask=_rasterize(outline, photo.size))
    return _View(photo.load(), mask)


def _rasterize(outline: Outline, size: tuple[int, int]) -> Image.Image:
    """L image of the given (width, height): 255 on the object, 0 elsewhere."""
    mask = Image.new("L", size)
    draw = ImageDraw.Draw(mask)
    for part in outline.parts:
        draw.polygon(_corners(part), fill=255)
    for x, y, radius_x, radius_y in outline.ellipses:
        draw.ellipse((x - radius_x, y - radius_y, x + radius_x, y + radius_y), fill=255)
    for hole in outline.holes:
        draw.polygon(_corners(hole), fill=0)
    return mask


def _corners(points: str) -> list[tuple[float, float]]:
    """The (x, y) corners in "x,y x,y ..."."""
    pairs = (point.split(",") for point in points.split())
    return [(float(x), float(y)) for x, y in pairs]


def _case(name: str, label: str, caption: str, support: _View, query: _View) -> Case:
    support_image, support_mask = support.arrays()
    query_image, truth = query.arrays()
    return Case(name, label, caption, support_image, support_mask, query_image, truth)


# --- the examples: two photos ---


def _person() -> Case:
    return _case(
        "person",
        "person",
        "Two portraits: the astronaut Eileen Collins, marked with her suit, and the computer scientist Grace Hopper.",
        _view(ASTRONAUT, outlines.ASTRONAUT_PERSON),
        _view(HOPPER, outlines.HOPPER_PERSON),
    )


def _face() -> Case:
    return _case(
        "face",
        "face",
        "Two portraits: the astronaut Eileen Collins, only her face marked, and the computer scientist Grace Hopper.",
        _view(ASTRONAUT, outlines.ASTRONAUT_FACE),
        _view(HOPPER, outlines.HOPPER_FACE),
    )


def _flag() -> Case:
    return _case(
        "flag",
        "flag",
        "Two portraits: the flag behind the astronaut Eileen Collins, and the one behind Grace Hopper.",
        _view(ASTRONAUT, outlines.ASTRONAUT_FLAG),
        _view(HOPPER, outlines.HOPPER_FLAG),
    )


def _rocket() -> Case:
    return _case(
        "rocket",
        "rocket",
        "A Falcon 9 on its launch pad, and a photo with a model of the Space Shuttle, a rocket of quite another shape.",
        _view(ROCKET, outlines.ROCKET),
        _view(ASTRONAUT, outlines.ASTRONAUT_SHUTTLE),
    )


# --- the examples: two views of one scene ---


def _motorcycle() -> Case:
    return _case(
        "motorcycle",
        "motorcycle",
        "The left view of a stereo pair, and the right one: the same motorcycle, seen from 19 cm further right.",
        _view(MOTORCYCLE_LEFT, outlines.MOTORCYCLE_LEFT),
        _view(MOTORCYCLE_RIGHT, outlines.MOTORCYCLE_RIGHT),
    )


def _wheel() -> Case:
    return _case(
        "wheel",
        "wheel",
        "The front wheel in the left view of a stereo pair; the right view, the query, shows both wheels.",
        _view(MOTORCYCLE_LEFT, outlines.FRONT_WHEEL_LEFT),
        _view(MOTORCYCLE_RIGHT, outlines.FRONT_WHEEL_RIGHT, outlines.REAR_WHEEL_RIGHT),
    )


# --- the examples: crops of one photo, or a changed copy of it ---

UPPER_COINS: Box = (0, 0, 184, 150)  # the left six of the upper two rows
ONE_COIN: Box = (122, 15, 188, 88)
LOWER_COINS: Box = (0, 150, 384, 303)  # the lower two rows: twelve coins


def _coins() -> Case:
    return _case(
        "coins",
        "coins",
        "Two crops of one photo: the support shows six coins with one of them marked, the query twelve others.",
        _view(COINS, _one_coin()).crop(UPPER_COINS),
        _view(COINS, outlines.COINS).crop(LOWER_COINS),
    )


def _coin() -> Case:
    return _case(
        "coin",
        "coin close-up",
        "Two crops of one photo: the support shows a single coin, the query twelve others.",
        _view(COINS, _one_coin()).crop(ONE_COIN),
        _view(COINS, outlines.COINS).crop(LOWER_COINS),
    )


def _one_coin() -> Outline:
    """The third coin of the first row."""
    return Outline(ellipses=outlines.COINS.ellipses[2:3])


def _cat() -> Case:
    return _case(
        "cat",
        "cat",
        "One photo of a cat; the query is the same photo mirrored, cropped and darkened.",
        _view(CHELSEA, outlines.CAT),
        _view(CHELSEA, outlines.CAT).crop((90, 20, 451, 290)).mirror().brightness(0.65),
    )


def _eye() -> Case:
    return _case(
        "eye",
        "eye",
        "Two crops of one photo of a cat: the left half with its eye marked, and the right half with the other eye.",
        _view(CHELSEA, outlines.CAT_EYE_LEFT).crop((0, 0, 240, 300)),
        _view(CHELSEA, outlines.CAT_EYE_RIGHT).crop((240, 0, 451, 300)),
    )


def _cup() -> Case:
    return _case(
        "cup",
        "coffee cup",
        "One photo of a coffee cup; the query is the same photo cropped, turned by a quarter and darkened.",
        _view(COFFEE, outlines.CUP),
        _view(COFFEE, outlines.CUP).crop((120, 0, 560, 400)).quarter_turn().brightness(0.8),
    )
