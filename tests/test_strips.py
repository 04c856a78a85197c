"""The strip of candidates, and contact sheets."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from grey import GREY, block, photo
from matplotlib.figure import Figure
from PIL import Image
from scipy import ndimage

from prmagic import pictures as viz
from prmagic import strips
from prmagic.result import Segmentation
from prmagic.types import Candidate, Part, Prompts


def candidate(mask, step, similarity=True, points=None, labels=(1,)):
    height, width = mask.shape
    points = [(width / 2, height / 2)] if points is None else points
    cosines = np.linspace(-0.25, 0.75, 12, dtype=np.float32).reshape(3, 4) if similarity else None
    prompts = Prompts(np.array(points, np.float32), np.array(labels), similarity=cosines)
    return Candidate(mask, prompts, 0.9, torch.zeros(2, 2), 0, mask, step=step)


def segmentation(image, steps=1, chosen=0, query="query.jpg", label="cat", **settings):
    mask = block(*image.shape[:2])
    candidates = tuple(candidate(mask, step, **settings) for step in range(steps + 1))
    return Segmentation(query, label, 0, image, candidates, (0.5,) * (steps + 1), chosen)


def strip(result, support=None):
    support = photo() if support is None else support
    return strips.candidate_strip(result, result.image, (support, block(*support.shape[:2])))


def columns_with(picture, rgb, tolerance=12):
    """The x of the pixels near a colour."""
    return np.nonzero((np.abs(np.asarray(picture).astype(int) - rgb) <= tolerance).all(axis=2))[1]


def groups(xs, gap=25):
    """How many clusters sorted numbers form."""
    return 1 + int((np.diff(np.unique(xs)) > gap).sum()) if len(xs) else 0


FRAME_BLUE = (0, 114, 178)
DOT_GREEN = (0, 200, 83)
CROSS_RED = (227, 26, 28)
TINT = tuple(round(0.55 * GREY + 0.45 * channel) for channel in viz.RED)


@pytest.mark.parametrize(
    "steps, similarity, columns, rows",
    [(0, True, 3, 1), (1, False, 3, 1), (5, True, 4, 2), (5, False, 7, 1), (13, True, 6, 3)],
)
def test_one_panel_for_the_support_each_candidate_and_the_similarity(steps, similarity, columns, rows):
    picture = strip(segmentation(photo(), steps, similarity=similarity))
    tint = (np.abs(np.asarray(picture).astype(int) - TINT) <= 3).all(axis=2)
    assert groups(np.nonzero(tint.any(axis=0))[0], gap=100) == min(columns, steps + 2)
    assert groups(np.nonzero(tint.any(axis=1))[0], gap=100) == rows
    masks = tint.sum() / (tint[:, : picture.width // columns].sum() / rows)
    assert masks == pytest.approx(steps + 2, rel=0.1)
    assert bool(len(columns_with(picture, (253, 231, 37), 4))) == similarity  # viridis' last colour


@pytest.mark.parametrize("chosen", [0, 2, 4])
def test_the_frame_is_around_the_chosen_candidate_alone(chosen):
    picture = strip(segmentation(photo(), 4, chosen))  # seven panels in one row
    xs = columns_with(picture, FRAME_BLUE)
    panel = picture.width / 7
    assert panel * (1 + chosen) - 15 < xs.min() and xs.max() < panel * (2 + chosen) + 15
    assert np.ptp(xs) > 300


def test_further_masks_are_called_so():
    result = segmentation(photo(), 5)
    further = tuple(dataclasses.replace(each, beside=True) for each in result.candidates)
    both = dataclasses.replace(result, candidates=result.candidates + further, scores=(0.5,) * 12, chosen=8)
    titles, page = [], strips._Page.panel

    def told(self, title, *args, **options):
        titles.append(title + " · chosen" * options.get("chosen", False))
        return page(self, title, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strips._Page, "panel", told)
        picture = strip(both)
    assert titles[1] == "t = 0 (baseline)" and titles[7] == "t = 0, another mask"
    assert [title for title in titles if "chosen" in title] == ["t = 2, another mask · chosen"]
    assert titles[-1] == "similarity, t = 2"
    assert picture.width < 3000
    xs = columns_with(picture, FRAME_BLUE)
    panel = picture.width / 7  # two rows of seven; the ninth panel but one is the third of the second row
    assert panel * 2 - 15 < xs.min() and xs.max() < panel * 3 + 15


def test_points_lie_where_the_prompts_say():
    points = [(80, 10), (10, 50), (500, 10)]  # the last lies outside the photo and is left out
    picture = strip(segmentation(photo(60, 90), 0, similarity=False, points=points, labels=(1, 0, 1)))
    pixels = np.asarray(picture).astype(int)[: picture.height - 50]  # without the legend
    left, top, scale = 24 + 360 + 20, 80 + 30, 4

    def centre(rgb, x0, x1):
        near = (np.abs(pixels[:, x0:x1] - rgb) <= 12).all(axis=2)
        rows, columns = np.nonzero(near)
        return (columns.mean() + x0 - left) / scale, (rows.mean() - top) / scale

    assert centre(DOT_GREEN, left, picture.width) == pytest.approx((80.5, 10.5), abs=0.5)
    assert centre(CROSS_RED, left, left + 100) == pytest.approx((10.5, 50.5), abs=0.5)


SHAPES = [(1, 1), (1, 700), (700, 1), (40, 800), (800, 40), (400, 300)]


@pytest.mark.parametrize("size", SHAPES)
def test_any_shape_of_photo_fits(size):
    picture = strip(segmentation(photo(*size)), support=photo(*reversed(size)))
    assert 800 < picture.width < 1600 and 250 < picture.height < 700
    assert (np.asarray(picture)[[0, -1]] == 255).all() and (np.asarray(picture)[:, [0, -1]] == 255).all()


@pytest.fixture
def texts(monkeypatch):
    """Every text that is put onto a page."""
    written = []
    original = Figure.text

    def text(self, *args, **options):
        written.append(original(self, *args, **options))
        return written[-1]

    monkeypatch.setattr(Figure, "text", text)
    return written


def check_apart(texts):
    """No text leaves the page, and no two overlap."""
    boxes = [text.get_window_extent() for text in texts if text.get_text()]
    page = texts[0].figure.bbox
    for number, box in enumerate(boxes):
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, texts[number]
        assert not any(box.overlaps(other) for other in boxes[:number]), texts[number]


def union(result, masks):
    """With so many parts for each candidate."""
    parts = tuple(Part(result.candidates[0].prompts, None) for _ in range(masks))
    return dataclasses.replace(result, candidates=tuple(dataclasses.replace(c, parts=parts) for c in result.candidates))


@pytest.mark.parametrize("size", SHAPES)
def test_texts_stay_apart(texts, size):
    long = "A sentence about the photo, " * 10
    result = segmentation(photo(*size), 5, query="W" * 300, label=long)
    strip(union(dataclasses.replace(result, scores=(-0.98765,) * 6), 9))
    check_apart(texts)


def test_a_union_says_of_how_many_masks(texts):
    strip(union(segmentation(photo(), 0), 3))
    strip(union(segmentation(photo(), 0), 1))
    strip(segmentation(photo(), 0))
    captions = [text.get_text() for text in texts if "predicted" in text.get_text()]
    assert captions == ["predicted IoU 0.90 · 3 masks", "predicted IoU 0.90 · 1 mask", "predicted IoU 0.90"]


def test_many_points_leave_the_photo_to_be_seen():
    """200 of them, 6 pixels of a photo of 60 × 90 apart, four times as large on the page."""
    points = [(x, y) for x in np.linspace(2, 87, 20) for y in np.linspace(2, 57, 10)]

    def green(points):
        picture = strip(segmentation(photo(), 0, similarity=False, points=points, labels=(1,) * len(points)))
        shown = np.asarray(picture).astype(int)[: picture.height - 50]  # without the legend
        return ndimage.label((np.abs(shown - DOT_GREEN) <= 60).all(axis=2))

    dots, count = green(points)
    assert count == 200
    assert (dots > 0).sum() < 0.1 * 360 * 240
    one, count = green(points[95:96])
    assert count == 1 and (one > 0).sum() > 3 * (dots > 0).sum() / 200


def sheet(count, height=60, width=90, support=(60, 90), title="The title"):
    found = [(photo(height, width), block(height, width, empty=number % 2 == 1)) for number in range(count)]
    captions = [f"IoU 0.{number:02}" for number in range(count)]
    return strips.contact_sheet(title, (photo(*support), block(*support)), found, captions)


def tinted(picture):
    """A number for each mask on the picture, and how many there are."""
    tint = tuple(round(0.55 * GREY + 0.45 * channel) for channel in strips.YELLOW)
    near = (np.abs(np.asarray(picture).astype(int) - tint) <= 3).all(axis=2)
    return ndimage.label(ndimage.binary_closing(near, iterations=2))


@pytest.mark.parametrize("count, rows, columns", [(1, 1, 1), (4, 1, 4), (6, 2, 3), (12, 3, 4)])
def test_a_contact_sheet_has_the_marked_photo_at_the_left_of_a_grid(count, rows, columns):
    picture = sheet(count)
    masks, found = tinted(picture)
    assert found == 1 + -(-count // 2)  # every second photo has no mask
    boxes = ndimage.find_objects(masks)
    marked = min(boxes, key=lambda box: box[1].start)
    assert all(box[1].start > marked[1].stop for box in boxes if box is not marked)
    assert marked[0].stop - marked[0].start >= rows * 0.8 * min(box[0].stop - box[0].start for box in boxes)
    side = strips.FEW_TILE if rows == 1 else strips.TILE
    columns_wide = columns * (side + strips.GAP)
    assert columns_wide < picture.width - rows * side < columns_wide + 3 * strips.MARGIN
    assert rows * side * 2 / 3 < picture.height < rows * (side * 2 / 3 + 110)  # photos of 3 : 2, and lines of text


@pytest.mark.parametrize("support", [(320, 240), (100, 1000), (40, 30)])
def test_a_contact_sheet_takes_photos_of_any_sizes(support):
    photos = [(photo(*size), block(*size)) for size in ((60, 90), (90, 60), (8, 8), (1000, 300), (300, 1000))]
    picture = strips.contact_sheet("t", (photo(*support), block(*support)), photos, [""] * len(photos))
    assert tinted(picture)[1] == 1 + len(photos)
    border = np.asarray(picture).astype(int)
    assert all((edge == 255).all() for edge in (border[:, :8], border[:, -8:], border[-4:]))


def test_a_contact_sheet_writes_its_title_and_a_line_below_each_photo():
    silent = strips.contact_sheet("", (photo(), block(60, 90)), [(photo(), block(60, 90))], [""])
    said = strips.contact_sheet("Title", (photo(), block(60, 90)), [(photo(), block(60, 90))], ["IoU 0.50"])
    assert silent.size == said.size
    rows, columns = np.nonzero((np.asarray(silent) != np.asarray(said)).any(axis=2))
    assert groups(rows, gap=60) == 2  # above and below the photos
    assert columns[rows < 40].min() < 60 and columns[rows > 60].min() > strips.MARGIN + strips.TILE


def test_long_lines_stay_on_the_contact_sheet():
    assert sheet(1, title="word " * 500).size == sheet(1).size
    assert (np.asarray(sheet(1, title="word " * 500))[:, -8:] == 255).all()


def test_a_contact_sheet_refuses_what_does_not_belong_together():
    marked = photo(), block(60, 90)
    with pytest.raises(ValueError, match="not 0 and 0"):
        strips.contact_sheet("t", marked, [], [])
    with pytest.raises(ValueError, match="not 1 and 2"):
        strips.contact_sheet("t", marked, [marked], ["a", "b"])
    with pytest.raises(ValueError, match=r"\(90, 60\).*\(60, 90, 3\)"):
        strips.contact_sheet("t", marked, [(photo(), block(90, 60))], ["a"])


def test_pictures_are_stacked_in_their_order():
    wide, narrow = Image.new("RGB", (30, 10), "red"), Image.new("RGB", (20, 5), "blue")
    picture = strips.stacked([wide, narrow])
    assert picture.size == (30, 15)
    assert [picture.getpixel(at) for at in ((29, 9), (19, 10), (25, 12))] == [(255, 0, 0), (0, 0, 255), (255,) * 3]


def test_a_mask_too_fine_for_the_strip_is_not_lost():
    image, mask = photo(2000, 2000), np.zeros((2000, 2000), bool)
    mask[100, 1900] = True
    result = segmentation(image, 0, points=[(5, 5)], similarity=False)
    result = dataclasses.replace(result, candidates=(dataclasses.replace(result.candidates[0], mask=mask),))
    assert columns_with(strip(result), viz.RED).max() > 24 + 360 + 20 + 0.9 * 360


def test_empty_masks_and_scores_that_are_no_numbers():
    image = photo()
    result = segmentation(image, 1)
    nothing = [dataclasses.replace(c, mask=block(60, 90, empty=True)) for c in result.candidates]
    strip(dataclasses.replace(result, candidates=tuple(nothing), scores=(-math.inf, math.nan)))


@pytest.mark.parametrize("name", ["", "$x_2$ \\frac{.jpg", "猫\n\t.jpg", "long/" * 100 + "end.jpg"])
def test_any_name_can_be_a_title(name):
    image = photo()
    assert strip(segmentation(image, query=name, label=name)).size == strip(segmentation(image)).size


def test_long_names_lose_their_middle():
    assert strips._shorten("0123456789", 10) == "0123456789"
    assert strips._shorten("0123456789", 5) == "01…89"
    assert strips._shorten("0123456789", 6) == "012…89"


def test_a_strip_refuses_another_photo():
    result = segmentation(photo(60, 90))
    with pytest.raises(ValueError, match=r"\(60, 90\)"):
        strips.candidate_strip(result, photo(90, 60), (photo(), block(60, 90)))


def test_threads_draw_the_same_strip():
    result = segmentation(photo(), 2)
    alone = strip(result).tobytes()
    with ThreadPoolExecutor(3) as pool:
        assert all(picture.tobytes() == alone for picture in pool.map(strip, [result] * 6))
