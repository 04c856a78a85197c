"""Masks of any kind, and a message to act on for those that cannot be used."""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_pictures import MASK, RGB, encoded, palette_picture

from prmagic.io.images import ImageError, load_mask

LABELS = np.array([[0, 1, 2, 0, 0], [0, 0, 7, 0, 7]])


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(MASK, id="bool"),
        pytest.param(LABELS, id="int64"),
        pytest.param(LABELS.astype(np.int32), id="int32"),
        pytest.param(LABELS.astype(np.uint16), id="uint16"),
        pytest.param(-LABELS, id="negative labels"),
        pytest.param(LABELS.astype(float), id="float"),
        pytest.param(LABELS[..., None], id="channel last"),
        pytest.param(LABELS[None], id="channel first"),
        pytest.param(np.dstack([LABELS * 0, LABELS * 0, LABELS]), id="blue"),
        pytest.param(np.dstack([LABELS, LABELS * 0, LABELS * 0, LABELS * 0 + 255]), id="alpha ignored"),
    ],
)
def test_nonzero_is_the_object(mask: np.ndarray) -> None:
    for source in (mask, torch.from_numpy(mask)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of several labels, see below
            loaded = load_mask(source)
        np.testing.assert_array_equal(loaded, MASK)
        assert loaded.dtype == np.bool_


@pytest.mark.filterwarnings("ignore:mask .* holds the labels")
def test_mask_files() -> None:
    byte = MASK.astype(np.uint8)
    opaque = np.full_like(byte, 255)
    for picture in (
        Image.fromarray(MASK),
        Image.fromarray(byte),
        Image.fromarray(LABELS.astype(np.uint16)),
        Image.fromarray(LABELS.astype(np.int32)),
        Image.fromarray(np.dstack([byte, opaque])),
        Image.fromarray(np.dstack([byte * 0, byte, byte * 0])),
        Image.fromarray(np.dstack([byte, byte * 0, byte * 0, opaque])),
    ):
        np.testing.assert_array_equal(load_mask(encoded(picture, "TIFF" if picture.mode == "I" else "PNG")), MASK)
    np.testing.assert_array_equal(load_mask(Image.fromarray(LABELS.astype(np.float32))), MASK)


@pytest.mark.filterwarnings("ignore:mask .* holds the labels")
def test_palette_index_is_the_label_whatever_its_colour() -> None:
    # index 0 white, 1 and 2 black, so colours would give the opposite
    picture = palette_picture(LABELS.clip(max=2), [255, 255, 255, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(load_mask(encoded(picture)), MASK)
    np.testing.assert_array_equal(load_mask(encoded(picture, transparency=0)), MASK)
    np.testing.assert_array_equal(load_mask(picture.convert("PA")), MASK)
    np.testing.assert_array_equal(load_mask(encoded(picture), value=2), LABELS >= 2)


@pytest.mark.parametrize("value", [0, 1, 2, 7])
def test_value_picks_one_label(value: int) -> None:
    for source in (
        LABELS,
        LABELS.astype(float),
        torch.from_numpy(LABELS),
        np.dstack([LABELS] * 3),  # a grey mask that some tool saved in colour
        np.dstack([*[LABELS] * 3, LABELS + 1]),
        encoded(Image.fromarray(LABELS.astype(np.uint8))),
    ):
        np.testing.assert_array_equal(load_mask(source, value=value), value == LABELS)


@pytest.mark.parametrize(
    "mask, options, message",
    [
        (LABELS, {"value": 5}, r"no label 5: choose one of 0, 1, 2, 7$"),
        (MASK, {"value": 255}, r"no label 255: choose one of 0, 1$"),
        (LABELS.astype(np.uint8), {"value": 300}, "no label 300"),
        (np.arange(1000).reshape(20, 50), {"value": -1}, r"one of 0, 1, .*, 19, \.\.\.$"),
        (np.array([[0, 3_000_000]]), {"value": 1}, "one of 0, 3000000$"),
        (RGB, {"value": 1}, "has colours, so no label 1: leave value out"),
        (LABELS, {"size": (5, 2)}, "mask an array of shape .2, 5. is 5 × 2, its image 2 × 5"),
        (LABELS, {"size": (2, 4), "value": 99}, "its image 4 × 2"),
        (LABELS * 0, {}, "is empty: mark at least one object pixel"),
        (Image.new("RGBA", (3, 2), (0, 0, 0, 255)), {}, "a PIL image of 3 × 2 is empty"),
        (Image.new("LA", (3, 2), (0, 255)), {}, "is empty"),
        (np.array([[0.0, np.nan]]), {}, "NaN or infinite"),
        (np.array([[0.0, np.inf]]), {}, "NaN or infinite"),
        (np.zeros((2, 2), complex), {}, "dtype complex128"),
        (np.zeros((3, 8, 9), bool), {}, r"or \(1, H, W\); select one"),
        (torch.zeros((4, 8, 9)), {}, r"or \(1, H, W\); select one"),
        (np.zeros((0, 0), bool), {}, "has no pixels"),
        (b"junk", {}, "4 bytes is not an image"),
    ],
)
def test_mask_refusals(mask: object, options: dict[str, int], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_mask(mask, **options)  # type: ignore[arg-type]


def test_full_mask_warns_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "all.png"
    Image.new("L", (3, 2), 255).save(file)
    with pytest.warns(UserWarning, match=r"mask all\.png covers its whole image") as caught:
        assert load_mask(file, size=(2, 3)).all()
    assert caught[0].filename == __file__


# Masks as people have them

ROWS, COLUMNS = np.mgrid[:90, :120]
DISC = np.hypot(ROWS - 40, COLUMNS - 50) < 25
NOISE = np.random.default_rng(0).integers(1, 256, (90, 120, 3), np.uint8)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def cut_out(colours: np.ndarray, alpha: np.ndarray = DISC) -> np.ndarray:
    return np.dstack([colours, alpha * np.uint8(255)]).astype(np.uint8)


@pytest.mark.parametrize(
    "pixels",
    [
        pytest.param(cut_out(NOISE), id="of a photo"),
        pytest.param(cut_out(NOISE * DISC[..., None]), id="of a photo, black around"),
        pytest.param(cut_out(np.full((90, 120, 3), 255)), id="white everywhere"),
        pytest.param(cut_out(np.zeros((90, 120, 3))), id="black everywhere"),
        pytest.param(cut_out(np.dstack([DISC * 255] * 3)), id="white on black"),
        pytest.param(cut_out(np.zeros((90, 120))), id="grey and black everywhere"),
        pytest.param(cut_out(NOISE[..., 0]), id="grey of a photo"),
    ],
)
def test_the_opaque_part_of_a_cut_out_is_the_object(pixels: np.ndarray) -> None:
    pictures = [Image.fromarray(pixels)] + ([Image.fromarray(pixels).convert("RGBa")] if pixels.shape[2] == 4 else [])
    for picture in pictures:
        np.testing.assert_array_equal(load_mask(encoded(picture.convert("RGBA"))), DISC)
    if pixels.shape[2] == 4:
        np.testing.assert_array_equal(load_mask(pixels), DISC)


def test_a_soft_edge_of_a_cut_out_counts_from_half_on() -> None:
    alpha = np.clip(300 - 10 * np.hypot(ROWS - 40, COLUMNS - 50), 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(load_mask(encoded(Image.fromarray(np.dstack([NOISE, alpha])))), alpha >= 128)


def test_the_transparent_colour_of_a_palette_is_no_object() -> None:
    picture = palette_picture(DISC * 1, [10, 200, 30, 10, 200, 30])
    np.testing.assert_array_equal(load_mask(encoded(picture, transparency=0)), DISC)
    inverse = palette_picture(~DISC * 1, [10, 200, 30, 10, 200, 30])
    with pytest.raises(ImageError, match="say different things"):
        load_mask(encoded(inverse, transparency=1))


def test_colours_and_transparency_that_differ_are_refused() -> None:
    with pytest.raises(ImageError, match="a transparency that say different things: save it without transparency"):
        load_mask(cut_out(np.dstack([~DISC * 255] * 3)))


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("file_format", ["JPEG", "WEBP"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_noise_of_lossy_files_is_no_object(quality: int, file_format: str, mode: str) -> None:
    data = encoded(Image.fromarray(DISC * np.uint8(255)).convert(mode), file_format, quality=quality)
    with pytest.warns(UserWarning, match="from 128 on it is the object"):
        assert iou(load_mask(data), DISC) > 0.98


def test_lossy_masks_that_became_png_or_have_a_colour() -> None:
    red = np.dstack([DISC * np.uint8(255), DISC * np.uint8(0), DISC * np.uint8(0)])
    for picture in (Image.fromarray(DISC * np.uint8(255)), Image.fromarray(red)):
        data = encoded(Image.open(io.BytesIO(encoded(picture, "JPEG", quality=60))))
        with pytest.warns(UserWarning, match="soft, with values up to 2.*: from 128 on it is the object"):
            assert iou(load_mask(data), DISC) > 0.97


def test_0_and_1_in_a_jpeg() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert iou(load_mask(encoded(Image.fromarray(DISC * np.uint8(3)), "JPEG", quality=95)), DISC) > 0.9


def test_a_lossy_file_has_no_labels() -> None:
    data = encoded(Image.fromarray(DISC * np.uint8(255)), "JPEG")
    with pytest.raises(ImageError, match="has no labels, as its format changes values"):
        load_mask(data, value=255)


@pytest.mark.parametrize("dtype, half", [(np.float32, "0.5"), (np.float64, "0.5"), (np.uint8, "128")])
def test_soft_masks_count_from_half_on(dtype: type, half: str) -> None:
    soft = 1 / (1 + np.exp(0.4 * (np.hypot(ROWS - 40, COLUMNS - 50) - 25)))
    values = np.rint(soft * 255).astype(np.uint8) if dtype == np.uint8 else soft.astype(dtype)
    for source in (
        values,
        torch.from_numpy(values),
        Image.fromarray(values.astype(np.float32) if half == "0.5" else values),
    ):
        with pytest.warns(UserWarning, match=f"from {half} on it is the object"):
            assert iou(load_mask(source), soft >= 0.5) > 0.99


def test_the_grey_rim_of_a_drawn_shape_is_soft() -> None:
    large = Image.fromarray(np.kron(DISC, np.ones((4, 4), bool)).astype(np.uint8) * 255)
    with pytest.warns(UserWarning, match="soft"):
        assert iou(load_mask(large.rotate(7).resize((120, 90), Image.Resampling.BOX)), DISC) > 0.5


def test_logits_are_no_mask() -> None:
    with pytest.raises(ImageError, match=r"float values from -.* to .*: pass shares from 0 to 1"):
        load_mask(25.3 - np.hypot(ROWS - 40, COLUMNS - 50))


def test_a_photo_is_no_mask() -> None:
    photo = Image.fromarray(NOISE).resize((240, 180), Image.Resampling.BICUBIC)
    for file_format in ("JPEG", "PNG"):
        with pytest.raises(ImageError, match="looks like a photo"):
            load_mask(encoded(photo, file_format))


def label_map(dtype: type = np.uint8) -> np.ndarray:
    """Two things, and a thin void around the first."""
    labels = np.zeros((90, 120), dtype)
    labels[np.hypot(ROWS - 40, COLUMNS - 50) < 28] = np.iinfo(dtype).max
    labels[DISC] = 1
    labels[70:85, 90:110] = 2
    return labels


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_void_is_no_object(dtype: type) -> None:
    labels = label_map(dtype)
    void = np.iinfo(dtype).max
    for source in (labels, encoded(Image.fromarray(labels))):
        with pytest.warns(UserWarning, match=rf"the labels 1, 2, {void}: {void} is void.*All others .*--mask-value"):
            np.testing.assert_array_equal(load_mask(source), (labels == 1) | (labels == 2))
        np.testing.assert_array_equal(load_mask(source, value=1), DISC)
        np.testing.assert_array_equal(load_mask(source, value=int(void)), labels == void)
    labels[labels == 2] = 0
    with pytest.warns(UserWarning, match=rf"the labels 1, {void}: {void} is void, and no object$"):
        np.testing.assert_array_equal(load_mask(labels), DISC)


def test_255_alone_is_the_object() -> None:
    np.testing.assert_array_equal(load_mask(DISC * np.uint8(255)), DISC)


def test_several_labels_are_told() -> None:
    labels = np.select([DISC, ROWS > 80, COLUMNS > 100], [300, 2, 7]).astype(np.uint16)
    with pytest.warns(UserWarning, match=r"holds the labels 2, 7, 300: all are the object. Pick one with --mask-value"):
        np.testing.assert_array_equal(load_mask(encoded(Image.fromarray(labels))), labels > 0)


def test_many_labels_are_no_shades() -> None:
    """Cells, numbered: areas of one value each, up to 255 of them."""
    cells = (ROWS // 6 * 16 + COLUMNS // 8 + 1).astype(np.uint8)
    cells[(ROWS % 6 == 0) | (COLUMNS % 8 == 0)] = 0
    with pytest.warns(UserWarning, match="holds the labels 1, 2, 3"):
        np.testing.assert_array_equal(load_mask(encoded(Image.fromarray(cells))), (cells > 0) & (cells < 255))


def test_colours_of_a_label_map_and_its_void() -> None:
    colours = np.zeros((90, 120, 3), np.uint8)
    colours[np.hypot(ROWS - 40, COLUMNS - 50) < 28] = (224, 224, 192)
    colours[DISC] = (128, 0, 0)
    with pytest.warns(UserWarning, match="2 colours beside black: all are the object, but the void's"):
        np.testing.assert_array_equal(load_mask(encoded(Image.fromarray(colours))), DISC)


def test_a_mask_of_the_stored_photo_is_told_of_its_turn() -> None:
    with pytest.raises(ImageError, match="An EXIF orientation turns the image: draw the mask on the upright one"):
        load_mask(DISC, size=(120, 90))


@pytest.mark.parametrize("bands, kind", [(1, 0), (2, 4), (3, 2), (4, 6)], ids=["grey", "grey and alpha", "RGB", "RGBA"])
def test_labels_of_16_bits_in_any_kind_of_png(bands, kind):
    """PIL gives the high bytes alone of all but the first."""
    labels = np.zeros((6, 8, 1), ">u2")
    labels[:3, :4], labels[4:, 6:] = 3, 65535
    pixels = np.repeat(labels, bands, axis=2)
    if bands in (2, 4):
        pixels[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 8, 6, 16, kind, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for part in (b"IHDR" + header, b"IDAT" + zlib.compress(rows), b"IEND"):
        data += struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part))
    with pytest.warns(UserWarning, match="65535 is void"):
        mask = load_mask(data)
    assert np.array_equal(mask, labels[..., 0] == 3)
