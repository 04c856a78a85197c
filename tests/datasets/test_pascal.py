"""PASCAL-5i in miniature, in its layout on disk; and its real episodes where the data is."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from published_draws import drawn, empty, real, reject_equal

from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.pascal import Pascal

PASCAL_LIST = [
    ("2007_000033", 6), ("2007_000061", 9), ("2007_000129", 7), ("2007_000346", 10), ("2007_000346", 6),
    ("2007_000529", 8), ("2008_000001", 6), ("2008_000002", 7), ("2008_000003", 8), ("2008_000004", 9),
    ("2008_000005", 10), ("2008_000006", 6), ("2008_000007", 6),
]  # fmt: skip


def pascal_of(root, text, fold=1):
    file = root / "splits" / "val" / f"fold{fold}.txt"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
    return Pascal(root)


def pascal_text(line_end="\n"):
    return line_end.join(f"{photo}__{number:02d}" for photo, number in PASCAL_LIST)


def test_pascal_folds_are_five_classes_in_a_row(tmp_path):
    pascal = Pascal(tmp_path)
    assert [pascal.classes(fold, 5) for fold in range(4)] == [
        ["aeroplane", "bicycle", "bird", "boat", "bottle"],
        ["bus", "car", "cat", "chair", "cow"],
        ["diningtable", "dog", "horse", "motorbike", "person"],
        ["pottedplant", "sheep", "sofa", "train", "tvmonitor"],
    ]
    with pytest.raises(DatasetError, match="PASCAL-5i has no fold 4"):
        pascal.episodes(4, 1, 42)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n \n"])
@pytest.mark.parametrize("shots, seed", [(1, 42), (5, 0)])
def test_pascal_takes_queries_in_turn_and_draws_supports(tmp_path, shots, seed, end):
    episodes = pascal_of(tmp_path, pascal_text(end[:2].strip(" ") or "\n") + end).episodes(1, shots, seed, "paper")
    generator, expected = np.random.RandomState(seed), []
    for number in range(1000):
        query, label = PASCAL_LIST[number % len(PASCAL_LIST)]
        same_class = [f"JPEGImages/{photo}.jpg" for photo, other in PASCAL_LIST if other == label]
        query = f"JPEGImages/{query}.jpg"
        expected.append((label - 1, query, reject_equal(generator, same_class, query, shots)))
    assert drawn(episodes) == expected
    assert [e.id for e in episodes] == [f"1/{number:05d}" for number in range(1000)]
    assert [e.category for e in episodes[:5]] == ["bus", "chair", "car", "cow", "bus"]


def test_pascal_shots_repeat_as_published_and_differ_by_default(tmp_path):
    text = "".join(f"2008_{photo:06d}__{label:02d}\n" for photo in range(8) for label in range(1, 6))
    pascal = pascal_of(tmp_path, text, fold=0)
    assert any(len(set(e.supports)) < 5 for e in pascal.episodes(0, 5, 42, "paper"))
    assert all(len({e.query, *e.supports}) == 6 for e in pascal.episodes(0, 5, 42))
    assert pascal.episodes(0, 1, 42, "paper") == pascal.episodes(0, 1, 42)
    assert len(pascal.episodes(0, 7, 42)) == 1000
    with pytest.raises(DatasetError, match=r"7 photo\(s\) beside the query JPEGImages/2008_000000\.jpg, but 8"):
        pascal.episodes(0, 8, 42)


@pytest.mark.parametrize(
    "line", ["2007_000033", "2007_000033__", "__06", "2007_000033__bus", "2007_000033__05", "1__11"]
)
def test_pascal_names_the_line_that_does_not_fit(tmp_path, line):
    with pytest.raises(DatasetError, match=rf"fold1\.txt has the line '{line}'.*classes 6 to 10.*2007_000033__06"):
        pascal_of(tmp_path, f"{pascal_text()}\n{line}\n").episodes(1, 1, 42)


def test_pascal_says_what_is_wrong_with_its_list(tmp_path):
    with pytest.raises(DatasetError, match=r"splits/val/fold1\.txt is missing"):
        Pascal(tmp_path).episodes(1, 1, 42)
    with pytest.raises(DatasetError, match=r"splits/val/fold1\.txt is empty"):
        pascal_of(tmp_path, "\n").episodes(1, 1, 42)


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_pascal_masks_and_boundaries(tmp_path, mode):
    """SegmentationClassAug mixes grey and palette files."""
    (tmp_path / "JPEGImages").mkdir()
    Image.new(mode, (3, 2)).save(tmp_path / "JPEGImages/2007_000033.jpg")
    labels = Image.fromarray(np.array([[0, 1, 20], [255, 1, 255]], np.uint8))
    palette = labels.copy()
    palette.putpalette([7, 200, 31] * 256)
    for kept in (labels, palette):
        (tmp_path / "SegmentationClassAug").mkdir(exist_ok=True)
        kept.save(tmp_path / "SegmentationClassAug/2007_000033.png")
        photo = Pascal(tmp_path).photo(Item("JPEGImages/2007_000033.jpg"), "aeroplane")
        assert photo.image.shape == (2, 3, 3)
        assert photo.mask.tolist() == [[False, True, False], [False, True, False]]
        assert photo.ignore.tolist() == [[False, False, False], [True, False, True]]
        monitors = Pascal(tmp_path).photo(Item("JPEGImages/2007_000033.jpg"), "tvmonitor")
        assert monitors.mask.tolist() == [[False, False, True], [False, False, False]]
    with pytest.raises(DatasetError, match=r"PASCAL-5i has no class 'airplane': did you mean 'aeroplane'"):
        Pascal(tmp_path).photo(Item("JPEGImages/2007_000033.jpg"), "airplane")


def test_pascal_check_tells_what_is_there_and_what_is_not(tmp_path):
    for fold in (0, 2, 3):
        pascal_of(tmp_path, "".join(f"{fold}_{k % 3}__{5 * fold + 1:02d}\n" for k in range(346)), fold)
    pascal = pascal_of(tmp_path, pascal_text() + "\n")
    for fold in range(4):
        for photo, _ in pascal.pairs(fold):
            empty(tmp_path / photo)
            empty(tmp_path / photo.replace("JPEGImages", "SegmentationClassAug").replace("jpg", "png"))
    inventory = pascal.check()
    n = 3 * 3 + len({photo for photo, _ in PASCAL_LIST})
    assert inventory.found == [
        "4 of 4 lists of photos",
        f"{n} of the {n} photos that they name",
        f"{n} of their {n} label maps",
    ]
    assert not inventory.missing
    assert [note.partition(":")[0] for note in inventory.notes] == [
        "splits/val/fold1.txt lists 13 photos, the published one 451",
        "splits/val/fold2.txt lists 346 photos, the published one 725",
    ]
    assert inventory.classes == dict.fromkeys(range(4), 5) and inventory.episodes == dict.fromkeys(range(4), 1000)

    (tmp_path / "splits/val/fold0.txt").unlink()
    (tmp_path / "splits/val/fold3.txt").write_text("15_1__16\n15_2__1\n")
    (tmp_path / "SegmentationClassAug/2007_000529.png").unlink()
    inventory = Pascal(tmp_path).check()
    assert inventory.missing[0] == f"{tmp_path}/splits/val lacks fold0.txt"
    assert "fold3.txt has the line '15_2__1'" in inventory.missing[1]
    assert inventory.missing[2:] == [f"{tmp_path}/SegmentationClassAug lacks 2007_000529.png"]
    assert inventory.classes == {1: 5, 2: 5}


def test_pascal_replays_the_published_episodes():
    """The first episodes of the published code."""
    episodes = real(Pascal, "PRMAGIC_VOC2012").episodes(0, 1, 42, "paper")
    assert drawn(episodes)[:3] == [
        (class_id, f"JPEGImages/{query}.jpg", [f"JPEGImages/{support}.jpg"])
        for class_id, query, support in [
            (0, "2007_000033", "2009_000205"), (3, "2007_000061", "2008_001040"), (1, "2007_000129", "2010_002536")
        ]
    ]  # fmt: skip
