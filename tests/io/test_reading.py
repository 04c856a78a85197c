"""The pixel limit: how much is decoded."""

import io
import struct
import threading
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from prmagic.io.images import ImageError, load_image, load_mask

# 2 rows, 5 columns, no two pixels alike: any flip, turn or channel swap shows
RGB = np.array(
    [
        [[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]],
        [[10, 20, 30], [40, 50, 60], [70, 80, 90], [100, 110, 120], [130, 140, 150]],
    ],
    dtype=np.uint8,
)


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its (absent) pixels never keep."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


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
        with pytest.warns(UserWarning, match="9 colours"):
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
