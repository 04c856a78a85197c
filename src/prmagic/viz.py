"""Pictures of the results: masks, overlays on the photo, and the strip of all candidates in the style of the paper."""

from __future__ import annotations

import math
import uuid
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from prmagic.types import BoolArray, ByteArray, FloatArray, Prompts, Segmentation

Color = tuple[int, int, int]

RED: Color = (227, 26, 28)
WHITE: Color = (255, 255, 255)
OPACITY = 0.45  # of the tint inside a mask

INK, GREY, PALE = "#1a1a1a", "#595959", "#c8c8c8"
CHOSEN = "#0072b2"  # blue, from Okabe and Ito's palette: no eye takes it for the green or the red
OBJECT: dict[str, Any] = {"marker": "o", "markerfacecolor": "#00c853", "markersize": 6.5}
BACKGROUND: dict[str, Any] = {"marker": "X", "markerfacecolor": "#e31a1c", "markersize": 8}
POINT: dict[str, Any] = {"linestyle": "none", "markeredgecolor": "white", "markeredgewidth": 1.0}

MAP = "viridis"
FONT = "DejaVu Sans"  # matplotlib brings it along
DPI = 128  # a power of two: pixels / DPI * DPI are the same pixels again
# Lengths on the strip, in pixels:
SIDE = 360  # a photo's longest side
NARROWEST, LOWEST = 280, 100  # a cell at least holds its caption, and the support beside a panorama
MARGIN, GAP, HEADER, TITLE, CAPTION, LEGEND = 24, 20, 80, 30, 62, 48
PER_ROW = 7  # panels; more are spread evenly over several rows


def mask_image(mask: BoolArray) -> Image.Image:
    """(H, W) bool → a grey picture, 255 on the object and 0 elsewhere."""
    return Image.fromarray(mask.astype(np.uint8) * np.uint8(255))


def overlay(image: ByteArray, mask: BoolArray, color: Color = RED) -> Image.Image:
    """The photo (H, W, 3) with the mask (H, W) as a tint and a contour; an empty mask gives the photo with a note.

    The contour lies inside the mask, a line of `color` around a thinner white one: all that is not masked stays."""
    if mask.shape != image.shape[:2]:
        raise ValueError(f"a mask of shape {mask.shape} does not fit a photo of shape {image.shape}")
    picture = Image.fromarray(image)
    if not mask.any():
        _note(picture, "nothing found")
        return picture
    tint = [round((1 - OPACITY) * value + OPACITY * channel) for channel in color for value in range(256)]
    picture.paste(picture.point(tint), mask=Image.fromarray(mask))
    width = 1 + round(max(mask.shape) / 500)
    for shade, line in ((color, width), (WHITE, width // 2)):
        if line:
            core = ndimage.binary_erosion(mask, iterations=line, border_value=1)  # no line where the photo ends
            picture.paste(shade, mask=Image.fromarray(mask & ~core))
            mask = core
    return picture


def candidate_strip(result: Segmentation, image: ByteArray, preview: tuple[ByteArray, BoolArray]) -> Image.Image:
    """One figure: the support, candidates 0 … T with prompts and scores, and the chosen one's similarity map if any.

    image: the query (H, W, 3); preview: the support (h, w, 3) and its mask (h, w), as in `Reference.preview`."""
    height, width = image.shape[:2]
    if result.mask.shape != (height, width):
        raise ValueError(f"masks of shape {result.mask.shape} do not belong to a photo of shape {image.shape}")
    chosen = result.candidates[result.chosen]
    similarity = chosen.prompts.similarity
    size = _fit(width, height, SIDE, SIDE)
    cell = max(size[0], NARROWEST), max(size[1], LOWEST)
    page = _Page(1 + len(result.candidates) + (similarity is not None), *cell)
    page.heading(result.query, result.label)

    support, support_mask = preview
    support_size = _fit(support.shape[1], support.shape[0], *cell)
    page.panel("support", overlay(_small(support, support_size), _small_mask(support_mask, support_size)))

    photo = _small(image, size)
    for candidate, score in zip(result.candidates, result.scores, strict=True):
        title = "t = 0 (baseline)" if candidate.step == 0 else f"t = {candidate.step}"
        caption = f"score {_number(score, 4)}", f"predicted IoU {_number(candidate.predicted_iou, 2)}"
        picture = overlay(photo, _small_mask(candidate.mask, size))
        axes = page.panel(title, picture, *caption, chosen=candidate is chosen)
        _draw_prompts(axes, candidate.prompts, width, height)

    if similarity is not None:
        axes = page.panel(f"similarity, t = {chosen.step}", _heat(similarity, size))
        page.colour_bar(f"{similarity.min():.2f}", f"{similarity.max():.2f}", below=axes)
    page.legend([candidate.prompts for candidate in result.candidates])
    return page.picture()


def save_image(picture: Image.Image, path: Path) -> None:
    """Write a .png or .jpg and the folders above it; a reader of `path` sees the old file or the whole new one."""
    options: dict[str, dict[str, Any]] = {
        ".png": {"format": "PNG"},
        ".jpg": {"format": "JPEG", "quality": 92, "subsampling": 0},  # halved colour resolution smears red lines
    }
    suffix = path.suffix.lower().replace("jpeg", "jpg")
    if suffix not in options:
        raise ValueError(f"cannot save {path.name!r}: its name must end in .png, .jpg or .jpeg")
    if suffix == ".jpg" and picture.mode not in ("L", "RGB"):
        picture = picture.convert("RGB")
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        picture.save(unfinished, **options[suffix])
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


class _Page:
    """A white page with rows of equal cells, filled in reading order. All lengths in pixels from the top left."""

    def __init__(self, panels: int, cell_width: int, cell_height: int):
        rows = -(-panels // PER_ROW)
        self.columns = -(-panels // rows)
        self.filled = 0
        self.cell = cell_width, cell_height
        self.width = 2 * MARGIN + self.columns * (cell_width + GAP) - GAP
        self.height = HEADER + rows * (TITLE + cell_height + CAPTION) + LEGEND
        self.figure = Figure(figsize=(self.width / DPI, self.height / DPI), dpi=DPI, facecolor="white")
        self.canvas: Any = FigureCanvasAgg(self.figure)  # its methods have no types

    def heading(self, title: str, subtitle: str) -> None:
        self._text(MARGIN, 32, _shorten(title, self.width // 15), ha="left", fontsize=11.5, fontweight="bold")
        self._text(MARGIN, 60, _shorten(subtitle, self.width // 12), ha="left", color=GREY)

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
        text = "".join(c if ord(c) in _characters() else "□" for c in text)  # matplotlib would warn of each
        style = {"ha": "center", "fontsize": 9.5, "color": INK} | style
        self.figure.text(x / self.width, 1 - y / self.height, text, style, va="center", family=FONT, parse_math=False)


def _draw_prompts(axes: Axes, prompts: Prompts, width: int, height: int) -> None:
    """The box and the points, onto axes that cover a photo of this width and height."""
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    if prompts.box is not None:
        x0, y0, x1, y1 = prompts.box
        for style in ({"edgecolor": INK, "alpha": 0.6}, {"edgecolor": "white", "linestyle": (0, (4, 3))}):
            axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=1, **style))
    inside = ((prompts.points >= -0.5) & (prompts.points <= (width - 0.5, height - 0.5))).all(axis=1)
    for label, marker in ((0, BACKGROUND), (1, OBJECT)):
        x, y = prompts.points[inside & (prompts.labels == label)].T
        axes.plot(x, y, clip_on=False, **marker, **POINT)  # whole also at the photo's edge


def _note(picture: Image.Image, text: str) -> None:
    """Write a line into the lower left corner, if it fits."""
    size = max(11, min(picture.size) // 24)
    font, pad = ImageFont.load_default(size), size // 2
    draw = ImageDraw.Draw(picture, "RGBA")
    width = draw.textlength(text, font)
    top = picture.height - size - 3 * pad
    if width + 4 * pad > picture.width or top < 0:
        return
    draw.rectangle((pad, top, 3 * pad + width, picture.height - pad), fill=(0, 0, 0, 150))
    draw.text((2 * pad, (top + picture.height - pad) / 2), text, fill=WHITE, font=font, anchor="lm")


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


def _shorten(text: str, length: int) -> str:
    """At most `length` characters; what is too much goes from the middle."""
    if len(text) <= length:
        return text
    return f"{text[: length // 2]}…{text[len(text) - (length - 1) // 2 :]}"


@cache
def _characters() -> frozenset[int]:
    """The code points that FONT can draw."""
    return frozenset(get_font(findfont(FONT)).get_charmap())
