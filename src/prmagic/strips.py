"""Figures: all candidates of one result, as in the paper, and one marked photo beside what was found in others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from prmagic.pictures import MAP, Color, mask_image, overlay
from prmagic.result import Segmentation
from prmagic.types import BoolArray, ByteArray, Candidate, FloatArray, Prompts

INK, GREY, PALE = "#1a1a1a", "#595959", "#c8c8c8"
CHOSEN = "#0072b2"  # blue, from Okabe and Ito's palette: no eye takes it for the green or the red
OBJECT: dict[str, Any] = {"marker": "o", "markerfacecolor": "#00c853", "markersize": 6.5}
BACKGROUND: dict[str, Any] = {"marker": "X", "markerfacecolor": "#e31a1c", "markersize": 8}
POINT: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 1.0}

FONT = "DejaVu Sans"  # matplotlib brings it along
DPI = 128  # a power of two: pixels / DPI * DPI are the same pixels again
# Lengths on the strip, in pixels:
SIDE = 360  # a photo's longest side
NARROWEST, LOWEST = 280, 100  # a cell at least holds its caption, and the support beside a panorama
MARGIN, GAP, HEADER, TITLE, CAPTION, LEGEND = 24, 20, 80, 30, 62, 48
PER_ROW = 7  # panels; more are spread evenly over several rows
UNCROWDED = 8  # points are drawn smaller where there are more
TILE, FEW_TILE = 220, 300  # on a contact sheet: a photo's longest side, and in a single row
LINE = 26  # there: of text
THINNEST = 100  # there: a cell at least holds a word
YELLOW: Color = (255, 221, 0)  # seen on most photos, red things among them


def candidate_strip(result: Segmentation, image: ByteArray, preview: tuple[ByteArray, BoolArray]) -> Image.Image:
    """Draw the support, candidates 0 … T with prompts and scores, and the chosen one's similarity map if any.

    Args:
        result: Of one query and label.
        image: The query, (H, W, 3).
        preview: The support (h, w, 3) and its mask (h, w), as in `Reference.preview`.

    Returns:
        One RGB figure.

    Raises:
        ValueError: The masks have another size than the image.
    """
    _check(result, image)
    chosen = result.candidates[result.chosen]
    similarity = chosen.prompts.similarity
    page = _Page(1 + len(result.candidates) + (similarity is not None), image)
    why = f" · not found: {result.score:.2f} is below min_score {result.min_score:.2f}" if result.rejected else ""
    page.heading(result.query, result.label + why)
    page.support(preview)
    for index, (candidate, score) in enumerate(zip(result.candidates, result.scores, strict=True)):
        predicted = f"predicted IoU {_number(candidate.predicted_iou, 2)}"
        if candidate.parts:
            predicted += f" · {len(candidate.parts)} mask{'s' * (len(candidate.parts) > 1)}"
        title = candidate.title + " (baseline)" * (index == 0)
        page.candidate(title, candidate, f"score {_number(score, 4)}", predicted, chosen=candidate is chosen)
    if similarity is not None:
        axes = page.panel(f"similarity, t = {chosen.step}", _heat(similarity, page.size))
        page.colour_bar(f"{similarity.min():.2f}", f"{similarity.max():.2f}", below=axes)
    page.legend([candidate.prompts for candidate in result.candidates])
    return page.picture()


def contact_sheet(
    title: str,
    support: tuple[ByteArray, BoolArray],
    found: Sequence[tuple[ByteArray, BoolArray]],
    captions: Sequence[str],
) -> Image.Image:
    """Draw one marked photo at the left, and at its right what was found in others.

    Args:
        title: A line above the photos.
        support: The marked photo (h, w, 3) and its mask (h, w).
        found: Photos (H, W, 3) with their masks (H, W), of any sizes.
        captions: A line below each of them.

    Returns:
        One RGB picture. Up to four photos stand in one row, more are spread over two or three.

    Raises:
        ValueError: There are no photos, or not as many captions, or a mask does not fit its photo.
    """
    if not found or len(found) != len(captions):
        raise ValueError(
            f"a contact sheet needs a photo or more and a caption each, not {len(found)} and {len(captions)}"
        )
    rows = 1 if len(found) <= 4 else 2 if len(found) <= 10 else 3
    side = FEW_TILE if rows == 1 else TILE
    sizes = [_fit(image.shape[1], image.shape[0], side, side) for image, _ in found]
    width, height = max(THINNEST, *(size[0] for size in sizes)), max(size[1] for size in sizes)
    columns = -(-len(found) // rows)
    line = height + LINE + GAP
    large = _fit(support[0].shape[1], support[0].shape[0], rows * width, rows * line - LINE - GAP)
    left = MARGIN + max(THINNEST, large[0]) + MARGIN
    page = Image.new("RGB", (left + columns * (width + GAP) - GAP + MARGIN, LINE + MARGIN + rows * line), "white")
    _write(page, (MARGIN, GAP // 2), title, page.width - 2 * MARGIN, "bold")
    page.paste(_marked(*support, large), (MARGIN, LINE + MARGIN))
    _write(page, (MARGIN, LINE + MARGIN + large[1] + 2), "marked", max(THINNEST, large[0]))
    for place, ((image, mask), size, caption) in enumerate(zip(found, sizes, captions, strict=True)):
        row, column = divmod(place, columns)
        corner = left + column * (width + GAP), LINE + MARGIN + row * line
        page.paste(_marked(image, mask, size), corner)
        _write(page, (corner[0], corner[1] + size[1] + 2), caption, width)
    return page


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures one below the other, on white."""
    page = Image.new("RGB", (max(each.width for each in pictures), sum(each.height for each in pictures)), "white")
    top = 0
    for each in pictures:
        page.paste(each, (0, top))
        top += each.height
    return page


def _marked(image: ByteArray, mask: BoolArray, size: tuple[int, int]) -> Image.Image:
    """The photo at another (width, height), with the mask on it."""
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape} does not fit a photo of shape {image.shape}")
    return overlay(_small(image, size), _small_mask(mask, size), YELLOW)


def _write(page: Image.Image, place: tuple[int, int], text: str, width: float, weight: str = "normal") -> None:
    """A line of text at the left and top of `place`, shortened to `width` pixels."""
    points = 9.0
    font = ImageFont.truetype(findfont(FontProperties(family=FONT, weight=weight)), points * DPI / 72)
    ImageDraw.Draw(page).text(place, _fitting(text, width, points, weight), INK, font)


class _Page:
    """A white page with rows of equal cells, filled in reading order. All lengths in pixels from the top left."""

    def __init__(self, panels: int, photo: ByteArray):
        """photo: (H, W, 3), the query, which decides the size of the cells."""
        height, width = photo.shape[:2]
        self.size = _fit(width, height, SIDE, SIDE)
        self.photo = _small(photo, self.size)
        self.cell = cell_width, cell_height = max(self.size[0], NARROWEST), max(self.size[1], LOWEST)
        rows = -(-panels // PER_ROW)
        self.columns = -(-panels // rows)
        self.filled = 0
        self.width = 2 * MARGIN + self.columns * (cell_width + GAP) - GAP
        self.height = HEADER + rows * (TITLE + cell_height + CAPTION) + LEGEND
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor="white")
        self.canvas: Any = FigureCanvasAgg(self.figure)  # its methods have no types

    def heading(self, title: str, subtitle: str) -> None:
        width = self.width - 2 * MARGIN
        self._text(MARGIN, 32, _fitting(title, width, 11.5, "bold"), ha="left", fontsize=11.5, fontweight="bold")
        self._text(MARGIN, 60, _fitting(subtitle, width, 9), ha="left", fontsize=9, color=GREY)

    def support(self, preview: tuple[ByteArray, BoolArray]) -> None:
        """The support (h, w, 3) with its mask (h, w), in the next cell."""
        image, mask = preview
        size = _fit(image.shape[1], image.shape[0], *self.cell)
        self.panel("support", overlay(_small(image, size), _small_mask(mask, size)))

    def candidate(self, title: str, candidate: Candidate, *caption: str, chosen: bool = False) -> None:
        """The query with a candidate's mask and prompts, in the next cell."""
        height, width = candidate.mask.shape
        axes = self.panel(title, self.masked(candidate.mask), *caption, chosen=chosen)
        _draw_prompts(axes, candidate.prompts, width, height)

    def masked(self, mask: BoolArray) -> Image.Image:
        """The query with a mask (H, W) on it, as large as it is shown."""
        return overlay(self.photo, _small_mask(mask, self.size))

    def panel(self, title: str, picture: Image.Image, *caption: str, chosen: bool = False) -> Axes:
        """Put a picture into the next cell, with lines of text below it; returns axes that just cover it."""
        row, column = divmod(self.filled, self.columns)
        self.filled += 1
        width, height = self.cell
        middle = MARGIN + column * (width + GAP) + width // 2
        top = HEADER + row * (TITLE + height + CAPTION) + TITLE
        emphasis: dict[str, Any] = {"color": CHOSEN, "fontweight": "bold"} if chosen else {}
        self._text(middle, top - 16, title + " · chosen" * chosen, **emphasis)
        for line, text in enumerate(caption):
            self._text(middle, top + picture.height + 18 + 20 * line, text, fontsize=8.5)
        axes = self._axes(middle - picture.width // 2, top, *picture.size)
        axes.imshow(picture, extent=(0, 1, 0, 1), transform=axes.transAxes, interpolation="nearest", aspect="auto")
        frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, clip_on=False)
        frame.set(edgecolor=CHOSEN if chosen else PALE, linewidth=6.5 if chosen else 1)
        frame.set_zorder(-1)  # under the picture, which leaves only the frame's outer half to be seen
        axes.add_patch(frame)
        return axes

    def colour_bar(self, low: str, high: str, below: Axes) -> None:
        """The colours from `low` to `high`, in the place of a panel's caption."""
        box = below.get_position()
        middle, y = self.width * (box.x0 + box.x1) / 2, self.height * (1 - box.y0) + 18
        axes = self._axes(middle - 80, y - 4, 160, 8)
        axes.imshow(np.linspace(0, 1, 256)[None], cmap=MAP, aspect="auto")
        self._text(middle - 86, y, low, ha="right", fontsize=8.5)
        self._text(middle + 86, y, high, ha="left", fontsize=8.5)

    def legend(self, prompts: list[Prompts]) -> None:
        """What the marks mean, those that occur, along the bottom."""
        marks = []
        if any((p.labels == 1).any() for p in prompts):
            marks.append(Line2D([], [], label="object point", **OBJECT, **POINT))
        if any((p.labels == 0).any() for p in prompts):
            marks.append(Line2D([], [], label="background point", **BACKGROUND, **POINT))
        if any(p.box is not None for p in prompts):
            marks.append(Line2D([], [], label="prompt box", color=INK, linewidth=1, linestyle=(0, (4, 3))))
        self.figure.legend(
            handles=marks, loc="lower left", bbox_to_anchor=(MARGIN / self.width, 12 / self.height), ncols=3,
            frameon=False, borderpad=0, borderaxespad=0, labelcolor=GREY, prop={"family": FONT, "size": 8.5},
        )  # fmt: skip

    def picture(self) -> Image.Image:
        self.canvas.draw()
        return Image.fromarray(np.asarray(self.canvas.buffer_rgba())).convert("RGB")

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        bottom = self.height - top - height
        box = (left / self.width, bottom / self.height, width / self.width, height / self.height)
        axes = self.figure.add_axes(box, xticks=[], yticks=[])
        axes.spines[:].set(visible=False)
        return axes

    def _text(self, x: float, y: float, text: str, **style: Any) -> None:
        style = {"ha": "center", "fontsize": 9.5, "color": INK} | style
        self.figure.text(
            x / self.width, 1 - y / self.height, drawable(text), style, va="center", family=FONT, parse_math=False
        )


def _check(result: Segmentation, image: ByteArray) -> None:
    if result.mask.shape != image.shape[:2]:
        raise ValueError(f"masks of shape {result.mask.shape} do not belong to a photo of shape {image.shape}")


def _draw_prompts(axes: Axes, prompts: Prompts, width: int, height: int) -> None:
    """The box and the points, onto axes that cover a photo of this width and height."""
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if prompts.box is not None:
        x0, y0, x1, y1 = prompts.box
        for style in ({"edgecolor": INK, "alpha": 0.6}, {"edgecolor": "white", "linestyle": (0, (4, 3))}):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=1, **style))
    scale = min(1.0, max(0.35, math.sqrt(UNCROWDED / max(len(prompts.points), 1))))
    inside = ((prompts.points >= -0.5) & (prompts.points <= (width - 0.5, height - 0.5))).all(axis=1)
    for label, marker in ((0, BACKGROUND), (1, OBJECT)):
        x, y = prompts.points[inside & (prompts.labels == label)].T
        sizes = {"markersize": scale * marker["markersize"], "markeredgewidth": scale * POINT["markeredgewidth"]}
        axes.plot(x, y, clip_on=False, **(marker | POINT | sizes))  # whole also at the photo's edge


def _fit(width: int, height: int, widest: int, highest: int) -> tuple[int, int]:
    """(width, height) enlarged or reduced to just fit, and at least 8 pixels thick."""
    scale = min(widest / width, highest / height)
    return max(8, round(width * scale)), max(8, round(height * scale))


def _small(image: ByteArray, size: tuple[int, int]) -> ByteArray:
    """(H, W, 3) → (h, w, 3) for a size of (w, h)."""
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def _small_mask(mask: BoolArray, size: tuple[int, int]) -> BoolArray:
    """(H, W) → (h, w) for a size of (w, h); a mask too fine for it keeps the pixels that it touches."""
    small: BoolArray = np.asarray(mask_image(mask).resize(size, Image.Resampling.BILINEAR)) >= 128
    if not small.any():
        rows, columns = np.nonzero(mask)
        small[rows * size[1] // mask.shape[0], columns * size[0] // mask.shape[1]] = True
    return small


def _heat(similarity: FloatArray, size: tuple[int, int]) -> Image.Image:
    """(h, w) cosines in colour, from their minimum to their maximum."""
    low, high = similarity.min(), similarity.max()
    small = np.asarray(Image.fromarray(similarity).resize(size, Image.Resampling.BILINEAR))
    return Image.fromarray(colormaps[MAP]((small - low) / max(high - low, 1e-12), bytes=True)[..., :3])


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "–"


def drawable(text: str) -> str:
    """Put a box for each character that FONT lacks; matplotlib would warn of each."""
    return "".join(c if ord(c) in _characters() else "□" for c in text)


def _fitting(text: str, width: float, points: float, weight: str = "normal") -> str:
    """Shorten the text to `width` pixels at a font size of so many points."""
    text = drawable(text)
    file = findfont(FontProperties(family=FONT, weight=weight))
    font, length = ImageFont.truetype(file, points * DPI / 72), len(text)
    while font.getlength(_shorten(text, length)) > width:
        length -= 1
    return _shorten(text, length)


def _shorten(text: str, length: int) -> str:
    """Cut from the middle, to at most `length` characters."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 :]}"


@cache
def _characters() -> frozenset[int]:
    """The code points that FONT can draw."""
    return frozenset(get_font(findfont(FONT)).get_charmap())
