"""Masks and overlays as pictures, and how they are saved."""

import errno

import numpy as np
import pytest
from PIL import Image

from prmagic import pictures as viz

GREY = 120


def photo(height=60, width=90):
    return np.full((height, width, 3), GREY, np.uint8)


def block(height, width, empty=False):
    """The middle ninth of the photo."""
    mask = np.zeros((height, width), bool)
    mask[height // 3 : -(-2 * height // 3), width // 3 : -(-2 * width // 3)] = not empty
    return mask


TINT = tuple(round(0.55 * GREY + 0.45 * channel) for channel in viz.RED)


def test_mask_image_is_0_and_255():
    picture = viz.mask_image(np.array([[True, False, False]]))
    assert (picture.mode, picture.size, list(picture.tobytes())) == ("L", (3, 1), [255, 0, 0])


def test_overlay_tints_the_mask_and_nothing_else():
    image, mask = photo(), block(60, 90)
    before = image.copy()
    picture = np.asarray(viz.overlay(image, mask))
    assert picture.shape == image.shape and (image == before).all()
    assert (picture[~mask] == GREY).all()
    assert (picture[30, 45] == TINT).all()
    assert (picture[mask] != GREY).any(axis=1).all()


def test_the_contour_is_solid_and_grows_with_the_photo():
    def line_width(size):
        mask = np.zeros((size, size), bool)
        mask[:, size // 2 :] = True  # touches three of the photo's edges
        line = (np.asarray(viz.overlay(photo(size, size), mask, (0, 0, 255))) == (0, 0, 255)).all(axis=2)
        assert not line[:, -1].any() and (line[0] == line[size // 4]).all()
        return int(line[0].sum())

    assert 1 <= line_width(60) < line_width(3000) < 30


@pytest.mark.parametrize("size", [(1, 1), (5, 300), (300, 5), (240, 320)])
def test_overlay_of_nothing_says_so_where_there_is_room(size):
    image = photo(*size)
    picture = np.asarray(viz.overlay(image, np.zeros(size, bool)))
    changed = (picture != GREY).any(axis=2)
    assert picture.shape == image.shape and changed.mean() < 0.1
    assert changed.any() == (min(size) > 5)


def test_overlay_of_a_single_pixel_shows_it():
    mask = np.zeros((60, 90), bool)
    mask[7, 8] = True
    assert tuple(np.asarray(viz.overlay(photo(), mask))[7, 8]) == viz.RED


def test_overlay_refuses_a_mask_of_another_size():
    with pytest.raises(ValueError, match=r"\(90, 60\).*\(60, 90, 3\)"):
        viz.overlay(photo(60, 90), block(90, 60))


@pytest.mark.parametrize("name, kind", [("a.png", "PNG"), ("a.JPG", "JPEG"), ("a.jpeg", "JPEG")])
def test_save_image_makes_folders_and_goes_by_the_suffix(tmp_path, name, kind):
    path = tmp_path / "new" / "folder" / name
    viz.save_image(Image.new("RGBA", (4, 3), "red"), path)
    with Image.open(path) as picture:
        assert (picture.format, picture.size) == (kind, (4, 3))
    assert list(path.parent.iterdir()) == [path]


def test_save_image_refuses_other_suffixes(tmp_path):
    with pytest.raises(ValueError, match=r"a\.xyz.*\.png"):
        viz.save_image(Image.new("L", (4, 3)), tmp_path / "new" / "a.xyz")
    assert not list(tmp_path.iterdir())


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    viz.save_image(Image.new("L", (4, 3)), path)
    old = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*a\.png"):
        viz.save_image(Image.new("L", (9, 9)), path)
    assert path.read_bytes() == old and list(tmp_path.iterdir()) == [path]
