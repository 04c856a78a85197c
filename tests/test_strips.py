"""The strip of candidates, and frameworks side by side."""

import dataclasses
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import ndimage

from prmagic import pictures as viz
from prmagic import strips
from prmagic.result import Segmentation
from prmagic.types import Candidate, Part, Prompts

GREY = 120


def photo(height=60, width=90):
    return np.full((height, width, 3), GREY, np.uint8)


def block(height, width, empty=False):
    """The middle ninth of the photo."""
    mask = np.zeros((height, width), bool)
    mask[height // 3 : -(-2 * height // 3), width // 3 : -(-2 * width // 3)] = not empty
    return mask


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
    texts.clear()
    compare({"PerSAM-F": result, "Matcher": result}, truth=block(*size), subtitle=long)
    check_apart(texts)
    texts.clear()
    compare({"PerSAM-F": dataclasses.replace(result, chosen=5)})
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


def compare(results, truth=None, **options):
    return strips.comparison(results, (photo(), block(60, 90)), truth, **options)


def panels(picture, columns, rows):
    """Which of the page's cells have a red tint: (rows, columns) bool."""
    tint = (np.abs(np.asarray(picture).astype(int) - TINT) <= 3).all(axis=2)[80 : picture.height - 48]
    height, width = tint.shape[0] // rows, (picture.width - 28) // columns
    return [
        [bool(tint[r * height : (r + 1) * height, 24 + c * width : 24 + (c + 1) * width].any()) for c in range(columns)]
        for r in range(rows)
    ]


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_row_for_each_framework(texts, count, known):
    results = {f"F{number}": segmentation(photo(), 5, chosen=number) for number in range(count)}
    picture = compare(results, block(60, 90) if known else None)
    if count == 1:
        assert panels(picture, 3 + known, 1) == [[True] * (3 + known)]
    else:
        first_column = [True, known, False][:count]
        assert panels(picture, 3, count) == [[first, True, True] for first in first_column]
    written = [text.get_text() for text in texts]
    assert written.count("support") == 1 and written.count("ground truth") == known
    for number in range(count):
        assert f"F{number}, t = 0 (baseline)" in written and f"F{number}, t = {number} · chosen" in written
    assert written[:2] == ["query.jpg", "cat"]
    frames = (np.abs(np.asarray(picture).astype(int) - FRAME_BLUE) <= 12).all(axis=2)
    xs = np.nonzero(frames.any(axis=0))[0]
    last = picture.width - 24 - 360
    assert last - 15 < xs.min() and xs.max() > picture.width - 30  # the last column's are the chosen ones


def test_the_captions_tell_the_overlap_with_the_truth(texts):
    truth = block(60, 90)
    result = segmentation(photo(), 1, chosen=1)
    half = truth.copy()
    half[:30] = False
    worse = dataclasses.replace(result.candidates[0], mask=half)
    compare({"Matcher": dataclasses.replace(result, candidates=(worse, result.candidates[1]))}, truth)
    assert [text.get_text() for text in texts if "IoU" in text.get_text()] == [
        "foreground IoU 0.50", "foreground IoU 1.00",
    ]  # fmt: skip


def test_a_comparison_shows_the_prompts_and_the_subtitle(texts):
    options = {"points": [(10, 10), (80, 50)], "labels": (1, 0)}
    picture = compare({"Matcher": segmentation(photo(), 0, **options)}, subtitle="two crops")
    # Both candidates are the same one; the last mark is the legend's.
    assert groups(columns_with(picture, DOT_GREEN), gap=100) == 3
    assert [text.get_text() for text in texts][:2] == ["query.jpg", "two crops"]


def test_a_comparison_refuses_what_does_not_belong_together():
    here, there = segmentation(photo(60, 90)), segmentation(photo(90, 60))
    with pytest.raises(ValueError, match=r"\(90, 60\).*\(60, 90, 3\)"):
        compare({"PerSAM-F": here, "Matcher": there})
    with pytest.raises(ValueError, match=r"\(90, 60\)"):
        compare({"PerSAM-F": here}, block(90, 60))
    with pytest.raises(ValueError, match="at least one framework"):
        compare({})


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
