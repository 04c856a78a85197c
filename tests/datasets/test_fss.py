"""FSS-1000 in miniature, in its layout on disk."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from published_draws import empty, numbers, picture

from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.fss import Fss


def fss_of(root, text, line_end="\n"):
    (root / "splits").mkdir(exist_ok=True)
    (root / "splits" / "test.txt").write_bytes(text.replace("\n", line_end).encode())
    return Fss(root)


@pytest.fixture
def fss(tmp_path):
    """With the published number of classes; all but the first have made-up names, which the draws do not look at."""
    names = [f"class_{number:03d}" for number in range(239)]
    return fss_of(tmp_path, "\n".join([*names[::-1], "abe's_flyingfish", ""]), "\r\n")


@pytest.mark.parametrize(
    "seed, supports",
    [
        (42, [[9], [1], [10]]),
        (42, [[9, 10, 2, 2, 9], [1, 5, 3, 5, 6], [4, 3, 8, 7, 5]]),
        (0, [[3], [4], [3]]),
    ],
)
def test_fss_replays_the_published_episodes(fss, seed, supports):
    """The first episodes of the published code."""
    episodes = fss.episodes(0, len(supports[0]), seed, "paper")
    assert {e.category for e in episodes[:10]} == {"abe's_flyingfish"}
    assert numbers(episodes)[:3] == [(760, query, shots) for query, shots in zip([1, 10, 2], supports, strict=True)]


def test_fss_asks_every_photo_of_every_class_once(fss):
    for sampling in ("paper", "default"):
        episodes = fss.episodes(0, 1, 42, sampling)
        assert [(e.id, e.class_id) for e in episodes] == [
            (f"0/{number:05d}", 760 + number // 10) for number in range(2400)
        ]
        assert {e.class_id: e.category for e in episodes} == dict(enumerate(fss.classes(0, 1), start=760))
        assert [query for _, query, _ in numbers(episodes)] == [1, 10, 2, 3, 4, 5, 6, 7, 8, 9] * 240
        for e in episodes:
            assert {item.image.rpartition("/")[0] for item in (e.query, *e.supports)} == {f"data/{e.category}"}


def test_fss_shots_repeat_as_published_and_differ_by_default(fss):
    repeated = [len(set(e.supports)) < 5 for e in fss.episodes(0, 5, 42, "paper")]
    assert round(np.mean(repeated), 2) == 0.75
    for e in fss.episodes(0, 5, 42):
        assert len({e.query, *e.supports}) == 6
    assert fss.episodes(0, 1, 42, "paper") == fss.episodes(0, 1, 42)
    assert fss.episodes(0, 1, 42) != fss.episodes(0, 1, 43)


def test_fss_has_nine_shots_at_most(tmp_path):
    fss = fss_of(tmp_path, "ant\n")
    for sampling, shots in (("default", 9), ("paper", 10)):
        assert {len(e.supports) for e in fss.episodes(0, shots, 42, sampling)} == {shots}
    with pytest.raises(DatasetError, match=r"9 photo\(s\) beside the query data/ant/1\.jpg, but 10"):
        fss.episodes(0, 10, 42)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("text", ["zebra\nant\nmole\n", "zebra\nant\nmole", "\n zebra\n\nant \nmole\n\n\n"])
def test_fss_sorts_its_classes_and_loses_none(tmp_path, text, line_end):
    assert fss_of(tmp_path, text, line_end).classes(0, 1) == ["ant", "mole", "zebra"]


def test_fss_says_what_is_wrong_with_its_list(tmp_path):
    with pytest.raises(DatasetError, match=r"splits/test\.txt is missing"):
        Fss(tmp_path).episodes(0, 1, 42)
    with pytest.raises(DatasetError, match=r"splits/test\.txt names no class"):
        fss_of(tmp_path, " \n\n").episodes(0, 1, 42)
    with pytest.raises(DatasetError, match="FSS-1000 has no fold 1"):
        fss_of(tmp_path, "ant").episodes(1, 1, 42)


def test_fss_masks_start_at_128(tmp_path):
    picture(tmp_path / "data/ant/1.jpg", np.full((3, 4, 3), 90))
    grey = np.array([[0, 127, 128, 255]] * 3, np.uint8)
    fss = fss_of(tmp_path, "ant")
    expected = [[False, False, True, True]] * 3
    inverted = Image.fromarray(255 - grey)
    inverted.putpalette([255 - value // 3 for value in range(768)])  # index 0 is white, 255 is black
    colours = [(255, 0, 0), (0, 200, 0), (255, 100, 0), (0, 255, 0)]  # 76, 117, 135 and 150 in grey
    coloured = Image.fromarray(np.array([colours] * 3, np.uint8))
    for mask in (Image.fromarray(grey), Image.fromarray(grey).convert("RGBA"), inverted, coloured):
        mask.save(tmp_path / "data/ant/1.png")
        photo = fss.photo(Item("data/ant/1.jpg"), "ant")
        assert photo.image.shape == (3, 4, 3) and photo.ignore is None
        assert photo.mask.tolist() == expected


def test_fss_masks_of_another_size_are_brought_to_the_photos(tmp_path):
    """The release has a few, such as rubber_eraser/8.png."""
    picture(tmp_path / "data/ant/8.jpg", np.zeros((3, 2, 3)))
    mask = np.zeros((5, 7))
    mask[3, 0] = mask[0, 3] = 255
    picture(tmp_path / "data/ant/8.png", mask)
    photo = fss_of(tmp_path, "ant").photo(Item("data/ant/8.jpg"), "ant")
    assert photo.mask.tolist() == [[False, True], [False, False], [True, False]]  # rows 0, 1, 3; columns 0, 3


def test_fss_names_the_picture_that_is_missing(tmp_path):
    fss = fss_of(tmp_path, "mr.jpg")
    with pytest.raises(DatasetError, match=r"data/mr\.jpg/1\.jpg is missing"):
        fss.photo(Item("data/mr.jpg/1.jpg"), "mr.jpg")
    picture(tmp_path / "data/mr.jpg/1.jpg", np.zeros((3, 2, 3)))
    with pytest.raises(DatasetError, match=r"data/mr\.jpg/1\.png is missing"):
        fss.photo(Item("data/mr.jpg/1.jpg"), "mr.jpg")


def test_fss_check_tells_what_is_there_and_what_is_not(tmp_path):
    fss = fss_of(tmp_path, "ant\nmole\nzebra\n")
    assert fss.check().missing == [
        f"{tmp_path}/data is missing: it should hold ant/1.jpg, ant/2.jpg, ant/3.jpg and 57 more"
    ]
    for name in fss.classes(0, 1):
        for number in range(1, 11):
            for suffix in ("jpg", "png"):
                empty(tmp_path / "data" / name / f"{number}.{suffix}")
    inventory = fss.check()
    assert inventory.found == ["30 of 30 photos of 3 test classes", "30 of 30 masks"]
    assert not inventory.missing
    assert inventory.classes == {0: 3} and inventory.episodes == {0: 30}

    for lost in ("mole/3.jpg", "mole/10.png", "zebra/1.png"):
        (tmp_path / "data" / lost).unlink()
    inventory = fss.check()
    assert inventory.found == ["29 of 30 photos of 3 test classes", "28 of 30 masks"]
    assert inventory.missing == [f"{tmp_path}/data/mole lacks 3.jpg, 10.png", f"{tmp_path}/data/zebra lacks 1.png"]


def test_fss_check_tells_of_a_list_that_is_missing(tmp_path):
    assert Fss(tmp_path).check().missing == [f"{tmp_path}/splits is missing: it should hold test.txt"]
    (tmp_path / "splits").mkdir()
    assert Fss(tmp_path).check().missing == [f"{tmp_path}/splits lacks test.txt"]
    assert "names no class" in fss_of(tmp_path, "\n").check().missing[0]


def test_fss_check_notes_a_list_that_is_not_the_published_one(fss, tmp_path):
    assert not fss.check().notes
    (note,) = fss_of(tmp_path, "ant\nmole\n").check().notes
    assert note.startswith("splits/test.txt lists 2 classes, the published one 240")
