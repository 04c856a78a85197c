import numpy as np
import pytest

from prmagic.demo import Case, cases
from prmagic.demo.cases import LONGEST_SIDE, _Photo, _rasterize
from prmagic.demo.outlines import Outline

NAMES = ["person", "face", "flag", "motorcycle", "wheel", "coins", "coin", "cat", "eye", "cup", "rocket"]


@pytest.fixture(scope="module")
def by_name() -> dict[str, Case]:
    return {case.name: case for case in cases()}


def test_every_case_is_there_once():
    assert [case.name for case in cases()] == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_photos_and_masks_fit_together(by_name, name):
    case = by_name[name]
    for image, mask in ((case.support, case.support_mask), (case.query, case.truth)):
        assert image.dtype == np.uint8 and mask.dtype == bool
        assert image.shape == (*mask.shape, 3)
        assert max(mask.shape) <= LONGEST_SIDE
        assert 0.01 < mask.mean() < 0.85
    assert case.label
    assert case.caption.endswith(".") and len(case.caption) > 40


# (x, y) in the case's own photos, read off the pictures
SUPPORT_POINTS = [
    ("person", [(230, 120), (150, 380), (225, 30)], [(30, 60), (420, 150), (400, 450), (320, 100)]),
    ("face", [(205, 100), (230, 165)], [(240, 40), (220, 220), (290, 90)]),
    ("flag", [(20, 40), (60, 160)], [(150, 30), (100, 300)]),
    ("motorcycle", [(250, 170), (320, 290), (120, 250), (560, 380)], [(40, 50), (600, 100), (400, 370), (430, 290)]),
    ("wheel", [(518, 371), (579, 345), (448, 300)], [(484, 302), (520, 240), (150, 270)]),
    ("coins", [(155, 51)], [(100, 56), (44, 54), (153, 127), (120, 90)]),
    ("coin", [(33, 36)], [(2, 2), (64, 70)]),
    ("cat", [(230, 130), (60, 250)], [(10, 50), (420, 200)]),
    ("eye", [(170, 115)], [(100, 115), (230, 115)]),
    ("cup", [(290, 100), (215, 280), (290, 250)], [(120, 200), (365, 280), (240, 280), (415, 80)]),
    ("rocket", [(321, 150), (321, 390)], [(200, 200), (321, 110), (345, 300)]),
]
TRUTH_POINTS = [
    ("person", [(260, 60), (260, 200), (100, 450)], [(100, 100), (450, 200), (170, 310)]),
    ("face", [(265, 220), (265, 310)], [(260, 100), (160, 220), (260, 370)]),
    ("flag", [(50, 100), (100, 330)], [(300, 10), (260, 200), (100, 500)]),
    ("motorcycle", [(200, 180), (270, 290), (80, 250), (510, 380)], [(30, 30), (500, 60), (300, 390), (360, 350)]),
    ("wheel", [(525, 375), (90, 320), (130, 245)], [(170, 290), (270, 290), (445, 311)]),
    ("coins", [(44, 47), (154, 48), (347, 37), (358, 118)], [(76, 47), (200, 80), (300, 80)]),
    ("cat", [(150, 130), (100, 100)], [(10, 250), (20, 150)]),
    ("eye", [(80, 138)], [(30, 100), (150, 138)]),
    ("cup", [(100, 270), (250, 270)], [(20, 20), (200, 400), (280, 190)]),
    ("rocket", [(410, 30), (390, 150), (445, 150)], [(230, 100), (417, 270), (350, 100)]),
]


@pytest.mark.parametrize("name, inside, outside", SUPPORT_POINTS)
def test_support_mask_follows_the_object(by_name, name, inside, outside):
    mask = by_name[name].support_mask
    assert [mask[y, x] for x, y in inside] == [True] * len(inside)
    assert [mask[y, x] for x, y in outside] == [False] * len(outside)


@pytest.mark.parametrize("name, inside, outside", TRUTH_POINTS)
def test_truth_follows_the_object(by_name, name, inside, outside):
    mask = by_name[name].truth
    assert [mask[y, x] for x, y in inside] == [True] * len(inside)
    assert [mask[y, x] for x, y in outside] == [False] * len(outside)


def test_a_changed_copy_keeps_its_size_and_loses_light(by_name):
    cat = by_name["cat"]
    assert cat.query.shape == (270, 361, 3)
    assert cat.query.mean() < 0.75 * cat.support.mean()
    assert by_name["cup"].query.shape == (440, 400, 3)  # (400, 440) before the quarter turn


def test_cases_are_the_same_each_time(by_name):
    for case in cases():
        assert np.array_equal(case.query, by_name[case.name].query)
        assert np.array_equal(case.support_mask, by_name[case.name].support_mask)


def test_holes_are_cut_and_ellipses_added():
    outline = Outline(parts=("0,0 7,0 7,7 0,7",), holes=("2,2 3,2 3,3 2,3",), ellipses=((12, 4, 2, 3),))
    mask = np.asarray(_rasterize(outline, (16, 8)))
    assert mask.shape == (8, 16)
    assert (mask[0, 0], mask[7, 7], mask[2, 2], mask[3, 3], mask[0, 9]) == (255, 255, 0, 0, 0)
    assert (mask[4, 12], mask[1, 12], mask[7, 12], mask[4, 15]) == (255, 255, 255, 0)


@pytest.mark.parametrize("package", ["skimage", "no_such_package"])
def test_missing_photo_names_the_version_that_has_it(package):
    photo = _Photo(package, "data/no_such_photo.png", (512, 512), "scikit-image==0.26.0")
    with pytest.raises(FileNotFoundError, match=rf"no_such_photo\.png is not in the installed {package}.*==0\.26\.0"):
        photo.load()


def test_another_photo_of_the_same_name_is_refused():
    photo = _Photo("skimage", "data/coins.png", (100, 100), "scikit-image==0.26.0")
    with pytest.raises(ValueError, match=r"coins\.png is \(384, 303\) pixels large, expected \(100, 100\)"):
        photo.load()
