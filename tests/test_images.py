"""Images and masks: every kind a user may hold, and a message to act on for every kind that cannot be used."""

import io
import os
import struct
import sys
import threading
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from prmagic import images
from prmagic.images import ImageError, describe, find_images, load_image, load_mask

# 2 rows, 5 columns, no two pixels alike: any flip, turn or channel swap shows
RGB = np.array(
    [
        [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]],
        [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120], [130, 140, 150]],
    ],
    dtype=np.uint8,
)
GREY = np.array([[0, 1, 2, 3, 4], [50, 100, 150, 200, 255]], dtype=np.uint8)
MASK = np.array([[0, 1, 1, 0, 0], [0, 0, 1, 0, 1]], dtype=bool)


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def palette_picture(indices: np.ndarray, colours: list[int]) -> Image.Image:
    result = Image.new("P", indices.shape[::-1])
    result.frombytes(indices.astype(np.uint8).tobytes())
    result.putpalette(colours)
    return result


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its (absent) pixels never keep."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


# Images: sources


def test_path_text_bytes_and_pil_read_alike(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(RGB).save(file)
    for source in (file, str(file), file.read_bytes(), Image.fromarray(RGB), Image.open(file)):
        loaded = load_image(source)
        np.testing.assert_array_equal(loaded, RGB)
        assert loaded.dtype == np.uint8
        assert loaded.flags.c_contiguous
        assert loaded.flags.writeable


@pytest.mark.parametrize(
    "pixels, expected",
    [
        pytest.param(RGB, RGB, id="rgb"),
        pytest.param(np.dstack([RGB, GREY]), RGB, id="rgba drops alpha"),
        pytest.param(np.moveaxis(RGB, 2, 0), RGB, id="channels first"),
        pytest.param(np.moveaxis(np.dstack([RGB, GREY]), 2, 0), RGB, id="rgba channels first"),
        pytest.param(GREY, np.dstack([GREY] * 3), id="grey"),
        pytest.param(GREY[..., None], np.dstack([GREY] * 3), id="grey channel last"),
        pytest.param(GREY[None], np.dstack([GREY] * 3), id="grey channel first"),
        pytest.param(MASK, np.dstack([MASK * np.uint8(255)] * 3), id="bool"),
        pytest.param(RGB[:, ::-1][:, ::-1], RGB, id="negative strides"),
        pytest.param(RGB / 255, RGB, id="float64"),
        pytest.param((RGB / 255).astype(np.float16), RGB, id="float16"),
        pytest.param(RGB.astype(np.uint16) * 257, RGB, id="uint16"),
        pytest.param((RGB.astype(np.uint16) * 257).astype(">u2"), RGB, id="uint16 big endian"),
    ],
)
def test_arrays_and_tensors(pixels: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_array_equal(load_image(pixels), expected)
    if pixels.dtype.isnative:
        np.testing.assert_array_equal(load_image(torch.from_numpy(pixels.copy())), expected)


def test_uint16_rounds_to_the_nearest_step() -> None:
    deep = np.array([[0, 128, 129, 385, 386, 65535]], dtype=np.uint16)
    assert load_image(deep)[0, :, 0].tolist() == [0, 0, 1, 1, 2, 255]


def test_float_rounds_and_forgives_arithmetic_noise_only() -> None:
    assert load_image(np.array([[-1e-6, 0.4999 / 255, 0.5001 / 255, 1 + 1e-6]]))[0, :, 0].tolist() == [0, 0, 1, 255]
    with pytest.raises(ImageError, match=r"from -0\.01 to 1\b.*expected 0 to 1"):
        load_image(np.array([[-0.01, 1.0]]))


def test_ambiguous_shapes_read_by_the_habit_of_their_library() -> None:
    cube = np.arange(3 * 2 * 3, dtype=np.uint8).reshape(3, 2, 3)
    np.testing.assert_array_equal(load_image(cube), cube)
    np.testing.assert_array_equal(load_image(torch.from_numpy(cube)), np.moveaxis(cube, 0, 2))


def test_tensors_with_a_gradient_or_a_type_numpy_lacks() -> None:
    np.testing.assert_array_equal(load_image(torch.tensor(RGB / 255, requires_grad=True)), RGB)
    assert load_image(torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16))[0, :, 2].tolist() == [0, 255]


def test_result_never_shares_memory_with_its_source() -> None:
    source = RGB.copy()
    load_image(source)[:] = 0
    np.testing.assert_array_equal(source, RGB)
    mask = MASK.copy()
    load_mask(mask)[:] = False
    np.testing.assert_array_equal(mask, MASK)


# Images: what files hold


@pytest.mark.parametrize(
    "picture, colour",
    [
        (Image.new("1", (3, 2), 1), (255, 255, 255)),
        (Image.new("L", (3, 2), 7), (7, 7, 7)),
        (Image.new("LA", (3, 2), (7, 0)), (7, 7, 7)),
        (Image.new("La", (3, 2), (5, 128)), (9, 9, 9)),  # 5 / 128 * 255, cut
        (Image.new("RGBA", (3, 2), (1, 2, 3, 0)), (1, 2, 3)),
        (Image.new("RGBa", (3, 2), (5, 0, 128, 128)), (9, 0, 255)),
        (Image.new("CMYK", (3, 2), (255, 0, 0, 0)), (0, 255, 255)),
        (Image.new("YCbCr", (3, 2), (90, 128, 128)), (90, 90, 90)),
        (Image.new("HSV", (3, 2), (0, 255, 255)), (255, 0, 0)),
        (Image.new("I", (3, 2), 257 * 9), (9, 9, 9)),
        (Image.new("I;16", (3, 2), 257 * 9), (9, 9, 9)),
        (Image.new("I;16B", (3, 2), 257 * 9), (9, 9, 9)),
        (Image.new("F", (3, 2), 0.2), (51, 51, 51)),
        (palette_picture(np.ones((2, 3)), [0, 0, 0, 4, 5, 6]), (4, 5, 6)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else "",
)
def test_every_pil_mode(picture: Image.Image, colour: tuple[int, int, int]) -> None:
    loaded = load_image(picture)
    assert loaded.shape == (2, 3, 3)
    assert (loaded == colour).all()


def test_transparent_palette_keeps_its_colours() -> None:
    picture = palette_picture(np.array([[0, 1, 1]]), [9, 8, 7, 4, 5, 6])
    loaded = load_image(encoded(picture, transparency=0))
    assert loaded.tolist() == [[[9, 8, 7], [4, 5, 6], [4, 5, 6]]]


def test_16_bit_png_and_tiff_keep_their_range() -> None:
    deep = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    for data in (encoded(Image.fromarray(deep)), encoded(Image.fromarray(deep), "TIFF")):
        assert load_image(data)[0, :, 1].tolist() == [0, 100, 255]


def test_32_bit_values_beyond_16_bits_are_refused() -> None:
    with pytest.raises(ImageError, match="from 70000 to 70000; expected 16 bits"):
        load_image(Image.new("I", (3, 2), 70000))


@pytest.mark.parametrize(
    "orientation, stored",
    [
        (1, RGB),
        (2, RGB[:, ::-1]),
        (3, RGB[::-1, ::-1]),
        (4, RGB[::-1]),
        (5, RGB.transpose(1, 0, 2)),
        (6, np.rot90(RGB, 1)),  # stored a quarter turn to the left, so shown a quarter turn to the right
        (7, np.rot90(RGB, 2).transpose(1, 0, 2)),
        (8, np.rot90(RGB, -1)),
        (9, RGB),  # no such orientation
    ],
)
@pytest.mark.parametrize("file_format", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation_is_applied_once(orientation: int, stored: np.ndarray, file_format: str) -> None:
    picture = Image.fromarray(np.ascontiguousarray(stored))
    exif = picture.getexif()
    exif[0x0112] = orientation
    data = encoded(picture, file_format, exif=exif, **({"lossless": True} if file_format == "WEBP" else {}))
    np.testing.assert_array_equal(load_image(data), RGB)
    np.testing.assert_array_equal(load_image(Image.open(io.BytesIO(data))), RGB)
    assert load_mask(data, size=(2, 5))[1, 0]


def test_first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (4, 3), colour) for colour in ("red", "lime", "blue")]
    for file_format in ("GIF", "TIFF"):
        loaded = load_image(encoded(frames[0], file_format, save_all=True, append_images=frames[1:]))
        assert (loaded == (255, 0, 0)).all()


def test_a_users_picture_is_left_alone() -> None:
    picture = Image.fromarray(np.ascontiguousarray(np.rot90(RGB)))
    picture.getexif()[0x0112] = 6
    assert load_image(picture).shape == (2, 5, 3)
    assert picture.size == (2, 5)
    assert picture.getexif()[0x0112] == 6


# Images: refusals


@pytest.mark.parametrize(
    "image, message",
    [
        (np.full((2, 2), np.nan), "an array of shape .2, 2. has float values from nan to nan"),
        (np.array([[0.0, np.inf]]), "from 0 to inf"),
        (RGB.astype(float), "from 0 to 255; expected 0 to 1"),
        (torch.full((3, 2, 2), 2.5), "a tensor of shape .3, 2, 2. has float values from 2.5"),
        (RGB.astype(np.int64), "dtype int64; expected uint8"),
        (np.array([["a"]]), "dtype <U1"),
        (np.zeros((2, 2), complex), "dtype complex128"),
        (np.zeros((1, 3, 4, 4), np.uint8), r"expected \(H, W\).*one of a batch"),
        (np.zeros((5, 6, 2), np.uint8), r"expected \(H, W\)"),
        (np.zeros(5, np.uint8), r"expected \(H, W\)"),
        (np.array(5, np.uint8), r"expected \(H, W\)"),
        (np.zeros((0, 3), np.uint8), "has no pixels"),
        (np.zeros((4, 0, 3), np.uint8), "has no pixels"),
        (Image.new("RGB", (0, 5)), "has no pixels"),
        (torch.eye(3).to_sparse(), "plain dense tensor"),
        (torch.empty(3, 2, 2, device="meta"), "plain dense tensor"),
        (b"", "the image data is empty"),
        (b"not an image", "12 bytes is not an image of a kind that can be read: save it as PNG or JPEG"),
        ([[1, 2], [3, 4]], "cannot read an object of type list: pass a path"),
        (None, "cannot read an object of type NoneType"),
        ("", "is a folder"),
        ("no\0name.png", "does not exist"),
        ("x" * 5000, "does not exist"),
    ],
)
def test_refusals_say_what_was_found(image: object, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_image(image)  # type: ignore[arg-type]


def test_file_refusals_name_the_file_and_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "Photo1.JPG").write_bytes(b"")
    (tmp_path / "letter.jpg").write_text("Dear reader")
    with pytest.raises(ImageError, match=r"photo\.jpg does not exist: did you mean .*Photo1\.JPG\?"):
        load_image(tmp_path / "photo.jpg")
    (tmp_path / "broken.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ImageError, match=r"broken\.png does not exist$"):
        load_image(tmp_path / "broken.png")
    with pytest.raises(ImageError, match=r"zebra\.webp does not exist$"):
        load_image(tmp_path / "zebra.webp")
    with pytest.raises(ImageError, match=r"there is no folder .*nowhere$"):
        load_image(tmp_path / "nowhere" / "photo.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"pipe\.png is a pipe or device"):
        load_image(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match="is a folder: name one image file"):
        load_image(tmp_path)
    with pytest.raises(ImageError, match=r"Photo1\.JPG is empty"):
        load_image(tmp_path / "Photo1.JPG")
    with pytest.raises(ImageError, match=r"letter\.jpg is not an image"):
        load_image(str(tmp_path / "letter.jpg"))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_truncated_files_never_raise_anything_else(file_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), file_format)
    assert load_image(data).shape == (9, 11, 3)
    for length in range(len(data)):
        try:
            assert load_image(data[:length]).shape == (9, 11, 3)
        except ImageError as error:
            assert "bytes" in str(error)
        else:
            assert length > len(data) - 30, "only a cut in the file's trailer may go unnoticed"


def test_closed_picture() -> None:
    picture = Image.open(io.BytesIO(encoded(Image.fromarray(RGB))))
    picture.close()
    with pytest.raises(ImageError, match="a PIL image of 5 × 2 cannot be read"):
        load_image(picture)


@pytest.mark.parametrize("file_format", ["EPS", "ICO"])
def test_formats_that_act_on_opening_are_refused(file_format: str) -> None:
    with pytest.raises(ImageError, match="not an image of a kind that can be read"):
        load_image(encoded(Image.new("RGB", (16, 16)), file_format))


# The pixel limit


@pytest.mark.parametrize("side", [8001, 10_000, 20_000])  # PIL warns above 9459 and raises above 13377
def test_huge_files_are_refused_before_decoding(side: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as caught:
            load_image(huge_png(side, side))
    assert f"{side} × {side} = {side * side:,} pixels, the limit is 64,000,000" in str(caught.value)
    assert "max_pixels= or --max-pixels" in str(caught.value)


def test_limit_is_exact_and_the_same_for_all_sources() -> None:
    for source in (RGB, torch.from_numpy(RGB), Image.fromarray(RGB), encoded(Image.fromarray(RGB))):
        assert load_image(source, max_pixels=10).shape == (2, 5, 3)
        assert load_mask(source, max_pixels=10).shape == (2, 5)
        with pytest.raises(ImageError, match="5 × 2 = 10 pixels, the limit is 9"):
            load_image(source, max_pixels=9)
        with pytest.raises(ImageError, match="5 × 2 = 10 pixels, the limit is 9"):
            load_mask(source, max_pixels=9)


def test_a_raised_limit_overrides_pil_and_leaves_it_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    data = encoded(Image.fromarray(RGB), "TIFF", compression="tiff_deflate", tile=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_image(data).shape == (2, 5, 3)
        with pytest.raises(ImageError):
            load_image(data[:40])
    assert Image.MAX_IMAGE_PIXELS == 1


def test_an_icon_cannot_hide_a_larger_image() -> None:
    inner = encoded(Image.new("RGBA", (40, 40)))
    icon = b"icns" + struct.pack(">I", 16 + len(inner)) + b"icp4" + struct.pack(">I", 8 + len(inner)) + inner
    assert Image.open(io.BytesIO(icon)).size == (16, 16)
    with pytest.raises(ImageError, match=r"1600 pixels\) exceeds"):
        load_image(icon, max_pixels=700)


def test_threads_restore_pils_limit() -> None:
    before = Image.MAX_IMAGE_PIXELS
    data = encoded(Image.fromarray(RGB))
    threads = [threading.Thread(target=lambda: [load_image(data) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert before == Image.MAX_IMAGE_PIXELS


# Masks

LABELS = np.array([[0, 1, 2, 0, 0], [0, 0, 7, 0, 7]])


@pytest.mark.parametrize(
    "mask",
    [
        pytest.param(MASK, id="bool"),
        pytest.param(LABELS, id="int64"),
        pytest.param(LABELS.astype(np.int32), id="int32"),
        pytest.param(LABELS.astype(np.uint16), id="uint16"),
        pytest.param(-LABELS, id="negative labels"),
        pytest.param(LABELS * 1e-9, id="float"),
        pytest.param(LABELS[..., None], id="channel last"),
        pytest.param(LABELS[None], id="channel first"),
        pytest.param(np.dstack([LABELS * 0, LABELS * 0, LABELS]), id="blue"),
        pytest.param(np.dstack([LABELS, LABELS * 0, LABELS * 0, LABELS * 0 + 255]), id="alpha ignored"),
    ],
)
def test_nonzero_is_the_object(mask: np.ndarray) -> None:
    for source in (mask, torch.from_numpy(mask)):
        loaded = load_mask(source)
        np.testing.assert_array_equal(loaded, MASK)
        assert loaded.dtype == np.bool_


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
def test_mask_refusals(mask: images.MaskLike, options: dict[str, int], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        load_mask(mask, **options)  # type: ignore[arg-type]


def test_full_mask_warns_with_its_name(tmp_path: Path) -> None:
    file = tmp_path / "all.png"
    Image.new("L", (3, 2), 255).save(file)
    with pytest.warns(UserWarning, match=r"mask all\.png covers its whole image") as caught:
        assert load_mask(file, size=(2, 3)).all()
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    "image, text",
    [
        ("folder/photo.jpg", "photo.jpg"),
        (Path("folder/photo.jpg"), "photo.jpg"),
        (Path("/"), "/"),
        (b"12345", "5 bytes"),
        (np.zeros((3, 4)), "an array of shape (3, 4)"),
        (torch.zeros(3, 4), "a tensor of shape (3, 4)"),
        (Image.new("L", (40, 30)), "a PIL image of 40 × 30"),
    ],
)
def test_describe(image: object, text: str) -> None:
    assert describe(image) == text


# Finding


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the working folder hold a few (empty) files."""
    for name in (
        "a/x.jpg",
        "a/deep/y.PNG",
        "a/deep/notes.txt",
        "a/.hidden.jpg",
        "a/.cache/z.jpg",
        "b/x.jpg",
        "c/b/x.jpg",
        "same/x.jpg",
        "same/x.png",
        "odd/p[1].png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*paths: str | Path) -> list[tuple[str, str]]:
    return [(file.as_posix(), name.as_posix()) for file, name in find_images(paths)]


@pytest.mark.parametrize(
    "paths, expected",
    [
        pytest.param([], [], id="nothing asked"),
        pytest.param(["a/x.jpg"], [("a/x.jpg", "x.jpg")], id="file"),
        pytest.param(["a/deep/notes.txt"], [("a/deep/notes.txt", "notes.txt")], id="any file given by name"),
        pytest.param(["a"], [("a/deep/y.PNG", "deep/y.PNG"), ("a/x.jpg", "x.jpg")], id="folder"),
        pytest.param(["a/.cache"], [("a/.cache/z.jpg", "z.jpg")], id="hidden folder given by name"),
        pytest.param(["a/*.jpg"], [("a/x.jpg", "x.jpg")], id="pattern"),
        pytest.param(["?/x.jpg"], [("a/x.jpg", "a/x.jpg"), ("b/x.jpg", "b/x.jpg")], id="pattern for folders"),
        pytest.param(["a/**/*.PNG"], [("a/deep/y.PNG", "deep/y.PNG")], id="recursive"),
        pytest.param(
            ["a/**"],
            [("a/deep/y.PNG", "deep/y.PNG"), ("a/x.jpg", "x.jpg")],
            id="last **",
        ),
        pytest.param(["a/**/*.txt"], [("a/deep/notes.txt", "deep/notes.txt")], id="a pattern for nothing but text"),
        pytest.param(["odd/p[1].png"], [("odd/p[1].png", "p[1].png")], id="a file that looks like a pattern"),
        pytest.param(
            ["a/x.jpg", "a", "a/../a/x.jpg"], [("a/x.jpg", "x.jpg"), ("a/deep/y.PNG", "deep/y.PNG")], id="once"
        ),
        pytest.param(["a/../b/x.jpg"], [("a/../b/x.jpg", "x.jpg")], id="no climbing"),
        pytest.param(["a/x.jpg", "b/x.jpg"], [("a/x.jpg", "a/x.jpg"), ("b/x.jpg", "b/x.jpg")], id="one parent"),
        pytest.param(
            ["a/x.jpg", "b/x.jpg", "c/b/x.jpg"],
            [("a/x.jpg", "a/x.jpg"), ("b/x.jpg", "{root}/b/x.jpg"), ("c/b/x.jpg", "c/b/x.jpg")],
            id="as many parents as it takes",
        ),
        pytest.param(["same"], [("same/x.jpg", "x_jpg.jpg"), ("same/x.png", "x_png.png")], id="same output"),
        pytest.param(
            ["a/x.jpg", "same/x.png"], [("a/x.jpg", "x_jpg.jpg"), ("same/x.png", "x_png.png")], id="by suffix"
        ),
    ],
)
def test_find_images(tree: Path, paths: list[str], expected: list[tuple[str, str]]) -> None:
    assert found(*paths) == [(file, name.replace("{root}", tree.name)) for file, name in expected]


def test_absolute_and_single_paths(tree: Path) -> None:
    assert find_images([tree / "a"]) == [
        (tree / "a/deep/y.PNG", Path("deep/y.PNG")),
        (tree / "a/x.jpg", Path("x.jpg")),
    ]
    assert find_images([f"{tree}/b/*"]) == [(tree / "b/x.jpg", Path("x.jpg"))]
    assert find_images("b") == [(Path("b/x.jpg"), Path("x.jpg"))]


def test_outputs_never_collide_even_with_awkward_names(tree: Path) -> None:
    for name in ("x_jpg.jpg", "X.GIF", "x_jpg_2.jpg"):
        (tree / "same" / name).touch()
    pairs = find_images(["same", "a", "b", "c", "same/../odd"])
    outputs = [name.with_suffix(".png").as_posix().lower() for _, name in pairs]
    assert len(set(outputs)) == len(pairs) == 10
    assert not any(name.is_absolute() or ".." in name.parts for _, name in pairs)
    assert pairs == find_images(["same", "a", "b", "c", "same/../odd"])


def test_a_suffix_in_the_name_may_be_taken_already(tree: Path) -> None:
    (tree / "same/x_jpg.jpg").touch()
    assert [name for _, name in found("same")] == ["x_jpg.jpg", "x_png.png", "x_jpg_2.jpg"]


def test_a_climb_through_a_link_is_another_file(tree: Path) -> None:
    (tree / "b/link").symlink_to(tree / "a/deep")
    # b/link/.. is a, though its text says b
    pairs = find_images(["b/x.jpg", "b/link/../x.jpg"])
    assert len({name for _, name in pairs}) == 2
    assert pairs[1][0].samefile("a/x.jpg")


def test_links_do_not_loop_or_repeat(tree: Path) -> None:
    (tree / "a/again").symlink_to(tree / "a")
    (tree / "a/deep/up").symlink_to(tree)
    (tree / "a/w.jpg").symlink_to(tree / "a/x.jpg")
    (tree / "a/broken.jpg").symlink_to(tree / "gone.jpg")
    assert found("a") == found("a/**/*.[jP]*") == [("a/deep/y.PNG", "deep/y.PNG"), ("a/w.jpg", "w.jpg")]
    assert found("a/again") == [("a/again/deep/y.PNG", "deep/y.PNG"), ("a/again/w.jpg", "w.jpg")]


@pytest.mark.parametrize(
    "path, message",
    [
        ("a/y.jpg", r"a/y\.jpg does not exist: did you mean a/x\.jpg\?"),
        ("nowhere/x.jpg", "there is no folder nowhere"),
        ("a/*.webp", r"no file matches a/\*\.webp$"),
        ("nowhere/*.jpg", "there is no folder nowhere"),
        ("a/*/../../b/x.jpg", "no file matches"),
        ("empty", r"empty holds no images \(\.bmp, \.gif"),
    ],
)
def test_nothing_found(tree: Path, path: str, message: str) -> None:
    (tree / "empty").mkdir()
    with pytest.raises(ImageError, match=message):
        find_images(["b", path])


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="since 3.13 ** may stand inside a name")
def test_bad_pattern(tree: Path) -> None:
    with pytest.raises(ImageError, match="is not a pattern"):
        find_images(["a/**.jpg"])
