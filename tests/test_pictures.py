"""Masks and overlays as pictures, and how they are saved."""

import errno
from itertools import pairwise

import numpy as np
import pytest
from common import region
from grey import GREY, block, photo
from PIL import Image

from prmagic import pictures as viz

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


def blocks(height, width):
    """Three things in a row, with a gap between them."""
    masks = np.zeros((3, height, width), bool)
    for number, mask in enumerate(masks):
        mask[height // 4 : -height // 4, number * width // 3 + 2 : (number + 1) * width // 3 - 2] = True
    return list(masks)


def test_instances_have_a_colour_each_and_nothing_else_changes():
    masks = blocks(120, 240)
    picture = np.asarray(viz.overlay_instances(photo(120, 240), masks))
    shown = [picture[40, columns].tolist() for columns in (10, 90, 170)]
    assert len({*map(tuple, shown)}) == 3
    outside = ~np.any(masks, axis=0)
    outside[90:] = False  # the count is written there
    assert (picture[outside] == GREY).all()


@pytest.mark.parametrize("shade", [0, 120, 255])
def test_a_number_is_read_on_any_photo(shade):
    """Its white strokes on its black plate, within the mask's middle and within the picture."""
    corner = np.zeros((90, 120), bool)
    corner[:6, :6] = True
    image = np.full((90, 120, 3), shade, np.uint8)
    one = np.asarray(viz.overlay_instances(image, [corner])).astype(int)
    plate = (one[:24, :24] == 0).all(axis=2)
    assert plate.sum() > 40 and (one[2:20, 2:20].min(axis=2)[plate.any(axis=1)[2:20]] > 180).sum() > 5
    assert (one[:24, :24] != np.asarray(viz.overlay_instances(image, [corner ^ corner, corner]))[:24, :24]).any()


def test_the_count_stands_on_the_picture():
    image, masks = photo(120, 240), blocks(120, 240)
    corners = [np.asarray(viz.overlay_instances(image, masks[:count]))[95:, :100] for count in range(4)]
    assert all((first != second).any() for first, second in pairwise(corners))
    nothing = np.asarray(viz.overlay_instances(image, []))
    np.testing.assert_array_equal(nothing, np.asarray(viz.overlay(image, np.zeros((120, 240), bool))))


def test_more_things_than_colours():
    masks = list(np.eye(30, dtype=bool).reshape(30, 5, 6).repeat(20, 1).repeat(20, 2))
    assert viz.overlay_instances(photo(100, 120), masks).size == (120, 100)


def test_an_instance_of_another_size_is_refused():
    with pytest.raises(ValueError, match=r"\(90, 60\).*\(60, 90, 3\)"):
        viz.overlay_instances(photo(60, 90), [block(60, 90), block(90, 60)])


@pytest.mark.parametrize("numbers, mode", [((1, 14), "P"), ((1, 300), "I;16")])
def test_a_label_map_holds_the_numbers_of_things(tmp_path, numbers, mode):
    masks = [region(slice(0, 3), slice(0, 4), (6, 8)), region(slice(3, 6), slice(4, 8), (6, 8))]
    viz.save_image(viz.number_image(masks, numbers, (6, 8)), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.mode == mode
        labels = np.asarray(picture)
        assert labels[1, 1] == numbers[0] and labels[4, 6] == numbers[1] and labels[1, 6] == 0
        if mode == "P":
            assert picture.convert("RGB").getpixel((1, 1)) == viz.COLORS[0]
            assert picture.convert("RGB").getpixel((6, 4)) == viz.COLORS[13 % len(viz.COLORS)]


def test_a_number_has_its_colour_in_every_picture():
    image, mask = np.zeros((60, 80, 3), np.uint8), region(slice(10, 50), slice(10, 50), (60, 80))
    alone = np.asarray(viz.overlay_instances(image, [mask], [3]))
    third = np.asarray(viz.overlay_instances(image, [~mask, region(0, 79, (60, 80)), mask]))
    assert np.array_equal(alone[12:16, 12:16], third[12:16, 12:16])
