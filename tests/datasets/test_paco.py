"""PACO-Part on miniature copies of the published pickles and of the official release."""

from __future__ import annotations

import numpy as np
import pytest
from annotated import (
    HEIGHT,
    SAMPLINGS,
    WIDTH,
    address,
    box_mask,
    one,
    polygons,
    rle,
    write_json,
    write_photo,
    write_pickle,
)

from prmagic.datasets import paco as paco_module
from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.paco import Paco

ORDER = list(reversed(range(2000, 2448)))  # 448 classes, in the order of the train pickle
OBJECT_BOX = [2.7, 1.6, 6.9, 5.8]  # rows 1 … 6, columns 2 … 8: 2.7 + 6.9 is 9.6
CROP = slice(1, 7), slice(2, 9)
NARROW_BOX = [5.2, 1.0, 0.7, 4.0]  # no whole column


def part(category, instance, segmentation, box=OBJECT_BOX):
    return {"category_id": category, "obj_ann_id": instance, "obj_bbox": box, "segmentation": segmentation}


def paco_pickles(root, photos, annotations):
    """photos: class → image numbers, with repeats; annotations: (image, class) → its annotations."""
    train = {"cid2img": {category: [] for category in ORDER}, "img2anno": {}}
    val = {"cid2img": {}, "img2anno": {}}
    for category, numbers in photos.items():
        val["cid2img"][category] = [{number: f"/elsewhere/coco/{address(number)}"} for number in numbers]
        for number in numbers:
            write_photo(root, address(number))
    for (number, _), entries in annotations.items():
        val["img2anno"].setdefault(number, []).extend(entries)
    write_pickle(root / "paco/paco_part_train.pkl", train)
    write_pickle(root / "paco/paco_part_val.pkl", val)


FOLD1 = ORDER[1::4]
# Of the first 40 classes of fold 1, every third has one photo only, listed twice; others up to seven, with repeats.
PACO_PHOTOS = {
    category: [1000 * k] * 2 if k % 3 == 0 else [1000 * k + n % (2 + k % 6) for n in range(2 * (2 + k % 6))]
    for k, category in enumerate(FOLD1[:40])
}


def instances(number):
    return [number * 10 + 5, number * 10 + 1, number * 10 + 7][: 1 + number % 3]


@pytest.fixture
def paco(tmp_path):
    annotations = {
        (number, category): [
            *[part(category, instance, rle(3, 2, 3, 3)) for instance in instances(number)],
            part(category, instances(number)[0], polygons(7, 4, 1, 1), box=[0.0, 0.0, 1.0, 1.0]),
            part(category + 1, 99, rle(0, 0, 12, 8)),
        ]
        for category, numbers in PACO_PHOTOS.items()
        for number in numbers
    }
    paco_pickles(tmp_path, PACO_PHOTOS, annotations)
    return tmp_path


@pytest.mark.parametrize("shots", [1, 5])
def test_paco_folds_come_first_and_then_the_filter_on_distinct_photos(paco, shots):
    assert Paco(paco).classes(1, shots) == [
        str(category) for category in FOLD1 if len(set(PACO_PHOTOS.get(category, []))) > shots
    ]
    assert Paco(paco).classes(1, 1) != Paco(paco).classes(1, 5)
    assert Paco(paco).classes(0, 1) == []


@pytest.mark.parametrize("shots, seed", [(1, 42), (5, 43)])
def test_paco_replays_the_published_stream(paco, shots, seed):
    dataset, random = Paco(paco), np.random.RandomState(seed)
    classes = dataset.classes(1, shots)
    episodes = dataset.episodes(1, shots, seed, "paper")
    assert len(episodes) == 2500
    for episode in episodes:
        category = one(random, classes)
        assert (episode.category, episode.class_id) == (category, classes.index(category))
        photos = list(dict.fromkeys(PACO_PHOTOS[int(category)]))
        query = one(random, photos)
        assert episode.query == Item(f"coco/{address(query)}", one(random, instances(query)))
        supports = []
        while len(supports) < shots:
            support = one(random, photos)
            if support != query:
                supports.append(Item(f"coco/{address(support)}", one(random, instances(support))))
        assert episode.supports == tuple(supports)


def test_paco_default_repeats_no_photo_and_is_the_paper_for_one(paco):
    dataset = Paco(paco)
    assert dataset.episodes(1, 1, 42, "default") == dataset.episodes(1, 1, 42, "paper")
    repeats = {
        sampling: sum(len({item.image for item in e.supports}) < 5 for e in dataset.episodes(1, 5, 42, sampling))
        for sampling in SAMPLINGS
    }
    assert repeats["default"] == 0
    assert repeats["paper"] > 0


def test_paco_photo_is_the_crop_with_this_object_only(paco):
    category, number = next((c, n) for c, numbers in PACO_PHOTOS.items() for n in numbers if len(instances(n)) > 1)
    whole = Paco(paco).read_image(f"coco/{address(number)}")
    two_pieces, other = instances(number)[:2]
    photo = Paco(paco).photo(Item(f"coco/{address(number)}", two_pieces), str(category))
    np.testing.assert_array_equal(photo.image, whole[CROP])
    np.testing.assert_array_equal(photo.mask, ((box_mask(3, 2, 3, 3) | box_mask(7, 4, 1, 1)) > 0)[CROP])
    photo = Paco(paco).photo(Item(f"coco/{address(number)}", other), str(category))
    np.testing.assert_array_equal(photo.mask, (box_mask(3, 2, 3, 3) > 0)[CROP])


@pytest.mark.parametrize("instance", [123456, None])
def test_paco_photo_refuses_an_object_that_is_not_annotated(paco, instance):
    with pytest.raises(DatasetError, match=f"of an object {instance} in coco/"):
        Paco(paco).photo(Item(f"coco/{address(1000)}", instance), str(FOLD1[1]))


@pytest.fixture
def paco_with_odd_objects(tmp_path):
    """One class in four photos: 1 and 2 sound, 3 with a sound and two odd objects, 4 with an odd one only."""
    category = FOLD1[0]
    seen, unseen, unseen_polygon = rle(3, 2, 2, 2), rle(10, 0, 2, 2), polygons(10, 0, 2, 2)
    paco_pickles(
        tmp_path,
        {category: [1, 2, 3, 4]},
        {
            (1, category): [part(category, 11, seen)],
            (2, category): [part(category, 12, polygons(3, 2, 2, 2))],
            (3, category): [
                part(category, 13, seen, NARROW_BOX),
                part(category, 14, unseen),
                part(category, 15, unseen_polygon),
                part(category, 16, seen),
            ],
            (4, category): [part(category, 17, seen, NARROW_BOX)],
        },
    )
    return tmp_path


def test_paco_default_does_not_draw_what_the_crop_does_not_show(paco_with_odd_objects):
    dataset = Paco(paco_with_odd_objects)
    drawn = {
        sampling: {item.instance for e in dataset.episodes(1, 1, 42, sampling) for item in (e.query, *e.supports)}
        for sampling in SAMPLINGS
    }
    assert drawn == {"paper": {11, 12, 13, 14, 15, 16, 17}, "default": {11, 12, 16}}
    for instance in drawn["default"]:
        assert dataset.photo(Item(f"coco/{address(min(instance - 10, 3))}", instance), str(FOLD1[0])).mask.any()


def test_paco_crop_without_a_pixel_fails_the_episode(paco_with_odd_objects):
    dataset, category = Paco(paco_with_odd_objects), str(FOLD1[0])
    with pytest.raises(ValueError, match=r"\[5.2, 1.0, 0.7, 4.0\] of object 13 .* nothing to segment") as failure:
        dataset.photo(Item(f"coco/{address(3)}", 13), category)
    assert not isinstance(failure.value, DatasetError)
    assert not dataset.photo(Item(f"coco/{address(3)}", 14), category).mask.any()  # as published: nothing of it is seen
    assert any(note.startswith("2 part(s) of objects whose box") for note in dataset.check().notes)


def test_paco_default_leaves_out_a_class_with_too_few_visible_parts(paco_with_odd_objects):
    dataset = Paco(paco_with_odd_objects)
    assert dataset.classes(1, 3) == [str(FOLD1[0])]
    assert len(dataset.episodes(1, 3, 42, "paper")) == 2500
    with pytest.raises(DatasetError, match="no class in fold 1 with more than 3 photo"):
        dataset.episodes(1, 3, 42, "default")


def test_paco_insists_on_448_classes_and_on_both_pickles(paco):
    train = paco / "paco/paco_part_train.pkl"
    write_pickle(train, {"cid2img": {category: [] for category in ORDER[1:]}})
    with pytest.raises(DatasetError, match="447 part classes, not 448"):
        Paco(paco).classes(1, 1)
    write_json(paco / "paco/annotations/paco_lvis_v1_val.json", paco_release())
    train.unlink()
    with pytest.raises(DatasetError, match=r"paco_part_train\.pkl missing"):
        Paco(paco).classes(1, 1)


def paco_release():
    """11 part classes of objects 1 and 2, each in three photos; objects are polygons, parts run-length codes."""
    annotations, images = [], []
    for category in range(2000, 2011):
        for photo in range(3):
            number = category * 10 + photo
            images.append({"id": number, "file_name": address(number), "width": WIDTH, "height": HEIGHT})
            whole = {"id": number * 10 + 9, "category_id": 1, "bbox": OBJECT_BOX, "segmentation": polygons(2, 1, 7, 6)}
            piece = {"id": number * 10 + 1, "category_id": category, "bbox": [3, 2, 3, 3], "segmentation": None}
            for entry, code in ((whole, whole["segmentation"]), (piece, rle(3, 2, 3, 3))):
                entry |= {"image_id": number, "obj_ann_id": whole["id"], "segmentation": code}
                annotations.append(entry)
    parts = [{"id": number, "name": f"dog:{number}", "supercategory": "PART"} for number in reversed(range(2000, 2011))]
    objects = [{"id": 1, "name": "dog", "supercategory": "OBJECT"}]
    return {"images": images[::-1], "annotations": annotations[::-1], "categories": objects + parts}


def test_paco_release_stands_in_for_the_pickles_sorted_by_id(tmp_path):
    write_json(tmp_path / "paco/annotations/paco_lvis_v1_val.json", paco_release())
    dataset = Paco(tmp_path)
    assert [dataset.classes(fold, 1) for fold in range(4)] == [[f"{2000 + f}", f"{2004 + f}"] for f in range(4)]
    assert dataset.classes(0, 3) == []
    random = np.random.RandomState(42)
    for episode in dataset.episodes(2, 1, 42, "paper")[:50]:
        category = one(random, ["2002", "2006"])
        photos = [int(category) * 10 + n for n in range(3)]
        query = one(random, photos)
        assert episode.category == category
        assert episode.query == Item(f"coco/{address(query)}", query * 10 + 9)
        one(random, [query])
        while (support := one(random, photos)) == query:
            pass
        assert episode.supports == (Item(f"coco/{address(support)}", support * 10 + 9),)
        one(random, [support])
    write_photo(tmp_path, address(20020))
    photo = dataset.photo(Item(f"coco/{address(20020)}", 200209), "2002")
    np.testing.assert_array_equal(photo.mask, (box_mask(3, 2, 3, 3) > 0)[CROP])
    assert any("11 part classes by id, where the pickles have 448" in note for note in dataset.check().notes)


def test_paco_pickles_win_and_check_says_so(paco):
    plain = [Paco(paco).episodes(1, 1, 42, sampling) for sampling in SAMPLINGS]
    write_json(paco / "paco/annotations/paco_lvis_v1_val.json", paco_release())
    assert [Paco(paco).episodes(1, 1, 42, sampling) for sampling in SAMPLINGS] == plain
    assert "paco_lvis_v1_val.json is not read, as the pickles are there" in Paco(paco).check().notes


def test_paco_check_counts_and_names_what_is_absent(paco):
    classes = len(Paco(paco).classes(1, 1))
    inventory = Paco(paco).check()
    assert inventory.classes == {0: 0, 1: classes, 2: 0, 3: 0}
    assert inventory.episodes == {0: 0, 1: 2500, 2: 0, 3: 0}
    assert [sentence.rpartition(" ")[2] for sentence in inventory.missing] == ["0", "2", "3"]
    assert f"0, {classes}, 0, 0 classes in the folds for one shot; the paper's benchmark has 79, 82, 66, 76" in (
        inventory.notes
    )
    photo = paco / "coco" / address(PACO_PHOTOS[FOLD1[1]][0])
    photo.unlink()
    absent = Paco(paco).check().missing[0]
    assert photo.name in absent
    assert str(photo.parent) in absent


def test_paco_check_lists_missing_and_damaged_files_instead_of_raising(tmp_path):
    (missing,) = Paco(tmp_path).check().missing
    for name in ("paco_part_train.pkl", "paco_part_val.pkl", "paco_lvis_v1_val.json", "aim-uofa/Matcher"):
        assert name in missing
    broken = {"cid2img": {ORDER[0]: [{1: address(1)}]}, "img2anno": {1: []}}
    write_pickle(tmp_path / "paco/paco_part_train.pkl", {"cid2img": {category: [] for category in ORDER}})
    for content in ({}, [], broken):
        write_pickle(tmp_path / "paco/paco_part_val.pkl", content)
        (missing,) = Paco(tmp_path).check().missing
        assert "paco_part_val.pkl" in missing
    orphan = paco_release()
    orphan["annotations"] = [entry for entry in orphan["annotations"] if entry["category_id"] != 1]
    for file in (tmp_path / "paco").iterdir():
        file.unlink()
    write_json(tmp_path / "paco/annotations/paco_lvis_v1_val.json", orphan)
    (missing,) = Paco(tmp_path).check().missing
    assert "paco_lvis_v1_val.json does not hold the annotations it should (nothing under 200009)" in missing


def test_the_release_is_parsed_once(tmp_path, monkeypatch):
    write_json(tmp_path / "paco/annotations/paco_lvis_v1_val.json", paco_release())
    dataset, parsed, read = Paco(tmp_path), [], paco_module.read_json
    monkeypatch.setattr(paco_module, "read_json", lambda file: parsed.append(file) or read(file))
    dataset.check()
    for sampling in SAMPLINGS:
        dataset.episodes(0, 1, 42, sampling)
    assert len(parsed) == 1


def test_a_fold_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no fold 4"):
        Paco(tmp_path).classes(4, 1)
