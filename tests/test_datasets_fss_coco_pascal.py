"""FSS-1000, COCO-20i and PASCAL-5i in miniature, in their layout on disk; and their real episodes where data is."""

from __future__ import annotations

import os
import pickle
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from prmagic.datasets.base import Dataset, DatasetError, Item
from prmagic.datasets.coco import Coco
from prmagic.datasets.fss import Fss
from prmagic.datasets.pascal import Pascal


def choice(generator, sequence):
    """A draw as published."""
    return generator.choice(sequence, 1, replace=False)[0]


def reject_equal(generator, sequence, query, shots):
    """Supports as published: they may repeat, but are not the query."""
    supports = []
    while len(supports) < shots:
        drawn = choice(generator, sequence)
        if drawn != query:
            supports.append(drawn)
    return supports


def drawn(episodes):
    return [(e.class_id, e.query.image, [support.image for support in e.supports]) for e in episodes]


def numbers(episodes):
    """COCO's image numbers, FSS's numbers in a class."""

    def number(item):
        return int(item.image.rpartition(".")[0].replace("/", "_").rpartition("_")[2])

    return [(e.class_id, number(e.query), [number(support) for support in e.supports]) for e in episodes]


def picture(file, array):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(array, np.uint8)).save(file)


def empty(file):
    """A file that no decoder would take."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


# ---- FSS-1000 --------------------------------------------------------------------------------------------------------


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
    """§14, 1."""
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
    assert round(np.mean(repeated), 2) == 0.75  # §2
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


# ---- COCO-20i --------------------------------------------------------------------------------------------------------

COCO_FOLDS = [
    "person, airplane, boat, parking meter, dog, elephant, backpack, suitcase, sports ball, skateboard, wine glass, "
    "spoon, sandwich, hot dog, chair, dining table, mouse, microwave, refrigerator, scissors",
    "bicycle, bus, traffic light, bench, horse, bear, umbrella, frisbee, kite, surfboard, cup, bowl, orange, pizza, "
    "couch, toilet, remote, oven, book, teddy bear",
    "car, train, fire hydrant, bird, sheep, zebra, handbag, skis, baseball bat, tennis racket, fork, banana, broccoli, "
    "donut, potted plant, tv, keyboard, toaster, clock, hair drier",
    "motorcycle, truck, stop sign, cat, cow, giraffe, tie, snowboard, baseball glove, bottle, knife, apple, carrot, "
    "cake, bed, laptop, cell phone, sink, vase, toothbrush",
]


def coco_lists(fold):
    """Class number n has 7 photos or more, none of them its own; photos of neighbouring classes overlap."""
    return {
        number: [f"val2014/COCO_val2014_{number + 3 * k:012d}.jpg" for k in range(7 + number % 5)]
        if number % 4 == fold
        else []
        for number in range(80)
    }


def keep_lists(root, fold, lists):
    file = root / "splits" / "val" / f"fold{fold}.pkl"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps(lists))
    return Coco(root)


def test_coco_classes_are_the_published_ones_of_each_fold(tmp_path):
    coco = Coco(tmp_path)
    assert [", ".join(coco.classes(fold, 1)) for fold in range(4)] == COCO_FOLDS
    assert len(set(coco.categories)) == 80
    with pytest.raises(DatasetError, match="COCO-20i has no fold 4"):
        coco.classes(4, 1)


@pytest.mark.parametrize("fold, shots, seed", [(0, 1, 42), (1, 5, 42), (3, 5, 0)])
def test_coco_draws_class_then_query_then_supports(tmp_path, fold, shots, seed):
    lists = coco_lists(fold)
    episodes = keep_lists(tmp_path, fold, lists).episodes(fold, shots, seed, "paper")
    generator, expected = np.random.RandomState(seed), []
    for _ in range(1000):
        class_id = choice(generator, [fold + 4 * v for v in range(20)])
        query = choice(generator, lists[class_id])
        expected.append((class_id, query, reject_equal(generator, lists[class_id], query, shots)))
    assert drawn(episodes) == expected
    names = Coco(tmp_path).classes(fold, shots)
    assert all(e.category == names[(e.class_id - fold) // 4] and e.fold == fold for e in episodes)
    assert [e.id for e in episodes] == [f"{fold}/{number:05d}" for number in range(1000)]


def test_coco_shots_repeat_as_published_and_differ_by_default(tmp_path):
    coco = keep_lists(tmp_path, 0, coco_lists(0))
    assert any(len(set(e.supports)) < 5 for e in coco.episodes(0, 5, 42, "paper"))
    assert all(len({e.query, *e.supports}) == 6 for e in coco.episodes(0, 5, 42))
    assert coco.episodes(0, 1, 42, "paper") == coco.episodes(0, 1, 42)


def test_coco_reads_only_the_list_of_the_fold_and_reads_it_once(tmp_path):
    coco = keep_lists(tmp_path, 2, coco_lists(2))
    episodes = coco.episodes(2, 1, 42)
    for file in (tmp_path / "splits" / "val").iterdir():
        file.unlink()
    assert coco.episodes(2, 1, 42) == episodes
    with pytest.raises(DatasetError, match=r"fold1\.pkl is missing"):
        coco.episodes(1, 1, 42)


@pytest.mark.parametrize(
    "lists",
    [
        coco_lists(1),
        coco_lists(0) | {4: []},
        coco_lists(0) | {4: "val2014/1.jpg"},
        coco_lists(0) | {4: [17]},
        coco_lists(0) | {4: [""]},
        {str(number): photos for number, photos in coco_lists(0).items()},
        ["val2014/1.jpg"],
    ],
)
def test_coco_refuses_lists_that_are_not_the_folds(tmp_path, lists):
    with pytest.raises(DatasetError, match=r"fold0\.pkl lists no photos of class \d+, .*not the list of fold 0"):
        keep_lists(tmp_path, 0, lists).episodes(0, 1, 42)


def test_coco_refuses_a_class_without_supports(tmp_path):
    with pytest.raises(DatasetError, match=r"0 photo\(s\) beside the query val2014/1\.jpg, but 1"):
        keep_lists(tmp_path, 0, coco_lists(0) | {4: ["val2014/1.jpg"]}).episodes(0, 1, 42)


def test_coco_masks_are_the_pixels_of_the_classs_number_plus_1(tmp_path):
    root = tmp_path / "my.jpg.data"  # the published code cuts paths at the first .jpg
    image = "val2014/COCO.jpg_val2014_000000000009.jpg"
    picture(root / image, np.full((2, 3), 60))  # COCO has grey photos
    picture(root / "annotations" / image.replace("9.jpg", "9.png"), [[0, 5, 1], [255, 80, 4]])
    coco = Coco(root)
    photo = coco.photo(Item(image), "airplane")  # class 4
    assert photo.image.shape == (2, 3, 3) and photo.ignore is None
    assert photo.mask.tolist() == [[False, True, False], [False, False, False]]
    assert coco.photo(Item(image), "person").mask.tolist() == [[False, False, True], [False, False, False]]
    assert coco.photo(Item(image), "toothbrush").mask.tolist() == [[False, False, False], [False, True, False]]
    assert not coco.photo(Item(image), "bicycle").mask.any()  # nothing of it is left, or was there: no error
    with pytest.raises(DatasetError, match=r"COCO-20i has no class 'aeroplane': did you mean 'airplane'"):
        coco.photo(Item(image), "aeroplane")


@pytest.mark.parametrize(
    "make, image, labels",
    [
        (Coco, "val2014/1.jpg", "annotations/val2014/1.png"),
        (Pascal, "JPEGImages/1.jpg", "SegmentationClassAug/1.png"),
    ],
)
def test_photos_and_label_maps_must_be_there_and_of_one_size(tmp_path, make, image, labels):
    dataset = make(tmp_path)
    with pytest.raises(DatasetError, match=f"{image} is missing"):
        dataset.photo(Item(image), "bicycle")
    picture(tmp_path / image, np.zeros((2, 3, 3)))
    with pytest.raises(DatasetError, match=f"{labels} is missing"):
        dataset.photo(Item(image), "bicycle")
    picture(tmp_path / labels, np.zeros((3, 2)))
    with pytest.raises(DatasetError, match=rf"{image} has \(2, 3\) rows and columns.*{labels} \(3, 2\)"):
        dataset.photo(Item(image), "bicycle")


def test_coco_check_counts_each_photo_once(tmp_path):
    listed = set()
    for fold in range(4):
        coco = keep_lists(tmp_path, fold, coco_lists(fold))
        listed.update(photo for photos in coco_lists(fold).values() for photo in photos)
    for photo in listed:
        empty(tmp_path / photo)
        empty((tmp_path / "annotations" / photo).with_suffix(".png"))
    inventory = coco.check()
    n = len(listed)
    assert inventory.found == [
        "4 of 4 lists of photos",
        f"{n} of the {n} photos that they name",
        f"{n} of their {n} label maps",
    ]
    assert not inventory.missing
    entries = [sum(map(len, coco_lists(fold).values())) for fold in range(4)]
    assert [note.partition(":")[0] for note in inventory.notes] == [
        f"splits/val/fold{fold}.pkl lists {found} photos, the published one {published}"
        for fold, found, published in zip(range(4), entries, [35783, 17912, 14563, 14315], strict=True)
    ]
    assert inventory.classes == dict.fromkeys(range(4), 20)
    assert inventory.episodes == dict.fromkeys(range(4), 1000)


def test_coco_check_lists_what_is_missing_or_damaged(tmp_path):
    assert Coco(tmp_path).check().missing == [
        f"{tmp_path}/splits is missing: it should hold val/fold0.pkl, val/fold1.pkl, val/fold2.pkl and 1 more"
    ]
    lists = coco_lists(0)
    coco = keep_lists(tmp_path, 0, lists)
    keep_lists(tmp_path, 1, coco_lists(2))
    (tmp_path / "splits/val/fold3.pkl").write_bytes(b"<html>")
    photos = sorted({photo for listed in lists.values() for photo in listed})
    for photo in photos[2:]:
        empty(tmp_path / photo)
    inventory = coco.check()
    n = len(photos)
    assert inventory.found == [
        "1 of 4 lists of photos",
        f"{n - 2} of the {n} photos that they name",
        f"0 of their {n} label maps",
    ]
    absent_list, wrong_list, damaged_list, absent_photos, absent_maps = inventory.missing
    assert absent_list == f"{tmp_path}/splits/val lacks fold2.pkl"
    assert "fold1.pkl lists no photos of class 1, bicycle" in wrong_list
    assert "fold3.pkl cannot be read as plain data" in damaged_list
    first, second = (photo.removeprefix("val2014/") for photo in photos[:2])
    assert absent_photos == f"{tmp_path}/val2014 lacks {first}, {second}"
    assert absent_maps.startswith(f"{tmp_path}/annotations is missing: it should hold val2014/{first[:-4]}.png, ")
    assert inventory.classes == {0: 20} and inventory.episodes == {0: 1000}


# ---- PASCAL-5i -------------------------------------------------------------------------------------------------------

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


# ---- the real data ---------------------------------------------------------------------------------------------------


def real(make: type[Dataset], variable: str) -> Dataset:
    if variable not in os.environ:
        pytest.skip(f"needs the published lists of {make.title}: let {variable} name the folder with them")
    return make(os.environ[variable])


@pytest.mark.parametrize(
    "fold, seed, episodes",
    [
        (0, 42, [(0, 186226, [65773]), (72, 148243, [523677]), (68, 269866, [437789])]),
        (1, 42, [(1, 11149, [114183]), (41, 292301, [470364]), (57, 178818, [79113])]),
        (2, 42, [(2, 232262, [480416]), (10, 564088, [149371]), (42, 369771, [88162])]),
        (3, 42, [(3, 534827, [360735]), (63, 166344, [542509]), (27, 250954, [337180])]),
        (0, 43, [(36, 322629, [220511]), (40, 472034, [433370]), (24, 416159, [516214])]),
        (0, 0, [(72, 507081, [486122]), (44, 504005, [570465]), (32, 74951, [41212])]),
        (0, 42, [(0, 186226, [65773, 435387, 387429, 178025, 302159])]),
    ],
)
def test_coco_replays_the_published_episodes(fold, seed, episodes):
    """§14, 1."""
    coco = real(Coco, "PRMAGIC_COCO2014")
    assert numbers(coco.episodes(fold, len(episodes[0][2]), seed, "paper"))[: len(episodes)] == episodes


def test_coco_lists_are_the_published_ones():
    """§3."""
    coco = real(Coco, "PRMAGIC_COCO2014")
    sizes = [Counter(class_id for _, class_id in coco.pairs(fold)).values() for fold in range(4)]
    assert [(sum(s), min(s), max(s)) for s in sizes] == [
        (35783, 142, 19217), (17912, 270, 1733), (14563, 37, 2754), (14315, 94, 1565)
    ]  # fmt: skip


def test_pascal_replays_the_published_episodes():
    """§14, 1."""
    episodes = real(Pascal, "PRMAGIC_VOC2012").episodes(0, 1, 42, "paper")
    assert drawn(episodes)[:3] == [
        (class_id, f"JPEGImages/{query}.jpg", [f"JPEGImages/{support}.jpg"])
        for class_id, query, support in [
            (0, "2007_000033", "2009_000205"), (3, "2007_000061", "2008_001040"), (1, "2007_000129", "2010_002536")
        ]
    ]  # fmt: skip
