"""COCO-20i in miniature, in its layout on disk; and its real episodes where the data is."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from published_draws import choice, drawn, empty, numbers, picture, real, reject_equal

from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.coco import Coco
from prmagic.datasets.pascal import Pascal

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
    """The first episodes of the published code."""
    coco = real(Coco, "PRMAGIC_COCO2014")
    assert numbers(coco.episodes(fold, len(episodes[0][2]), seed, "paper"))[: len(episodes)] == episodes


def test_coco_lists_are_the_published_ones():
    """Numbers of entries, and of the smallest and the largest class."""
    coco = real(Coco, "PRMAGIC_COCO2014")
    sizes = [Counter(class_id for _, class_id in coco.pairs(fold)).values() for fold in range(4)]
    assert [(sum(s), min(s), max(s)) for s in sizes] == [
        (35783, 142, 19217), (17912, 270, 1733), (14563, 37, 2754), (14315, 94, 1565)
    ]  # fmt: skip
