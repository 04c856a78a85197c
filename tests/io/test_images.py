"""Images of any kind, and a message to act on for every kind that cannot be used."""

import io
import os
import struct
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin, features
from small_pictures import MASK, RGB, encoded, palette_picture

from prmagic.io.images import ImageError, describe, load_image, load_mask

GREY = np.array([[0, 1, 2, 3, 4], [50, 100, 150, 200, 255]], dtype=np.uint8)


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
        (Image.new("I", (3, 2), 257 * 90), (90, 90, 90)),
        (Image.new("I;16", (3, 2), 257 * 90), (90, 90, 90)),
        (Image.new("I;16B", (3, 2), 257 * 90), (90, 90, 90)),
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
    for transparency in (0, b"\0\x80"):  # of which PIL warns that it had better be converted to RGBA
        loaded = load_image(encoded(picture, transparency=transparency))
        assert loaded.tolist() == [[[9, 8, 7], [4, 5, 6], [4, 5, 6]]]


def test_16_bit_png_and_tiff_keep_their_range() -> None:
    deep = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    for data in (encoded(Image.fromarray(deep)), encoded(Image.fromarray(deep), "TIFF")):
        assert load_image(data)[0, :, 1].tolist() == [0, 100, 255]


RAMP = np.linspace(0, 1, 80).reshape(8, 10)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("file_format", ["PNG", "TIFF"])
def test_fewer_bits_in_a_16_bit_file_fill_the_range(bits, file_format):
    white = 2**bits - 1
    data = encoded(Image.fromarray(np.rint(RAMP * white).astype(np.uint16)), file_format)
    with pytest.warns(UserWarning, match=f"has values up to {white}: {white} is taken as white"):
        loaded = load_image(data)
    assert np.abs(loaded[..., 1] - 255 * RAMP).max() <= 1


@pytest.mark.parametrize("tags, white", [({339: 2}, 32767), ({281: 1023}, 1023), ({281: 4095}, 4095)])
def test_a_file_may_tell_its_range(tags, white):
    """A signed TIFF ends at 32767; MaxSampleValue names the highest."""
    values = np.rint(RAMP * white * 0.9)
    picture = Image.fromarray(values.astype(np.uint16))
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag] = value
    with pytest.warns(UserWarning, match=f"{white} is taken as white"):
        loaded = load_image(encoded(picture, "TIFF", tiffinfo=info))
    assert np.abs(loaded[..., 0] - 0.9 * 255 * RAMP).max() <= 1


@pytest.mark.parametrize(
    "low, high, told",
    [
        (0, 255, "255 is taken as white"),
        (0, 200, "255 is taken as white"),
        (0, 4000, "4095 is taken as white"),
        (0, 2.5, "from 0 to 2.5: they are stretched"),
        (-3, 90, "from -3 to 90: they are stretched"),
        (0, 1e6, "from 0 to 1e\\+06: they are stretched"),
    ],
)
def test_float_files_fill_the_range(low, high, told):
    data = encoded(Image.fromarray((low + RAMP * (high - low)).astype(np.float32)), "TIFF")
    with pytest.warns(UserWarning, match=told):
        loaded = load_image(data)
    assert loaded.min() == 0 and loaded.max() >= 199


def test_float_files_of_shares_are_taken_as_they_are():
    data = encoded(Image.fromarray((RAMP * 0.5).astype(np.float32)), "TIFF")
    assert np.abs(load_image(data)[..., 0] - 0.5 * 255 * RAMP).max() <= 1


def test_values_beyond_16_bits_are_stretched():
    with pytest.warns(UserWarning, match=r"from 0 to 1e\+06: they are stretched"):
        loaded = load_image(Image.fromarray((RAMP * 1e6).astype(np.int32)))
    assert loaded.min() == 0 and loaded.max() == 255


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_float_files_without_a_range_are_refused(bad):
    with pytest.raises(ImageError, match="has NaN or infinite values"):
        load_image(encoded(Image.fromarray(np.array([[0, bad]], np.float32)), "TIFF"))


def png_16(pixels: np.ndarray) -> bytes:
    """(H, W, C) uint16 as a PNG, which PIL reads but does not write: grey or colours, with alpha or without."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, bands = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, (0, 4, 2, 6)[bands - 1], 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip


@pytest.mark.parametrize("alpha", [False, True], ids=["opaque", "alpha"])
@pytest.mark.parametrize("bands", [1, 3])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_greys_and_colours_of_16_bits_fill_the_range(bits, bands, alpha):
    white = 2**bits - 1
    pixels = np.dstack([RAMP, RAMP[::-1], RAMP[:, ::-1]][:bands])
    stored = np.rint(pixels * white)
    data = png_16(np.dstack([stored, np.full(RAMP.shape, 65535)]) if alpha else stored)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        loaded = load_image(data)
    assert np.abs(loaded - 255 * pixels).max() <= 1
    assert [f"{white} is taken as white" in str(note.message) for note in notes] == ([] if bits == 16 else [True])


@pytest.mark.parametrize("values, told", [(RAMP * 900, "nearly black"), (65535 - RAMP * 900, "nearly white")])
def test_a_nearly_black_or_white_result_is_told(values, told):
    """Arrays are taken as they are."""
    with pytest.warns(UserWarning, match=f"comes out {told}"):
        load_image(values.astype(np.uint16))


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_what_pil_warns_of_has_the_files_name(tmp_path, suffix):
    exif = b"Exif\0\0II*\0\x08\0\0\0\x05\0"  # five entries, and none there
    photo = Image.new("RGB", (8, 8))
    photo.save(tmp_path / f"cat{suffix}", exif=exif)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        load_image(tmp_path / f"cat{suffix}")
    assert notes and all(str(note.message).startswith(f"{tmp_path / 'cat'}{suffix}: ") for note in notes)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".avif"])
def test_photos_of_phones(tmp_path, suffix):
    if suffix != ".avif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    smooth = np.rint(255 * np.dstack([np.linspace(0, 1, 64 * 48).reshape(48, 64)] * 3)).astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / f"a{suffix}", quality=95)
    assert np.abs(load_image(tmp_path / f"a{suffix}").astype(int) - smooth).mean() < 4


@pytest.mark.parametrize(
    "head, told",
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", r"is HEIC: pip install 'prmagic\[heif\]'"),
        (b"\xff\x0a" + b"\0" * 40, "is JPEG XL: save it as PNG or JPEG"),
        (b"\x89PNG\r\n\x1a\n", "looks like PNG, but cannot be read: it may be damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_by_its_kind(tmp_path, monkeypatch, head, told):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    for known in ("HEIF",):
        monkeypatch.delitem(Image.OPEN, known, raising=False)
        monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != known])
    (tmp_path / "a.jpg").write_bytes(head + b"\0" * 64)
    with pytest.raises(ImageError, match=told):
        load_image(tmp_path / "a.jpg")


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
    with pytest.warns(UserWarning, match="9 colours"):
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
    with pytest.raises(ImageError, match=r"broken\.png does not exist: it is a link to a file that is not there"):
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
    with pytest.raises(ImageError, match=r"photo2\.png does not exist: did you mean .*Photo1\.JPG"):
        load_image(tmp_path / "photo2.png")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the administrator may read everything")
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(encoded(Image.fromarray(RGB)))
    (tmp_path / "a.jpg").chmod(0)
    with pytest.raises(ImageError, match=r"a\.jpg cannot be read: Permission denied$"):
        load_image(tmp_path / "a.jpg")


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
