"""LVIS-92i and PACO-Part on miniature copies of the published pickles and of the official releases."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic.datasets.annotations import decode
from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.lvis import Lvis
from prmagic.datasets.paco import Paco

WIDTH, HEIGHT = 12, 8
SAMPLINGS = ("paper", "default")


def box_mask(x, y, width, height):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + height, x : x + width] = 1
    return mask


def polygons(x, y, width, height):
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def rle(x, y, width, height):
    code = coco_mask.encode(np.asfortranarray(box_mask(x, y, width, height)))
    return {"size": code["size"], "counts": code["counts"].decode("ascii")}


def uncompressed(x, y, width, height):
    column_wise = box_mask(x, y, width, height).flatten(order="F")
    ends = np.flatnonzero(np.diff(column_wise, prepend=0)).tolist()
    return {"size": [HEIGHT, WIDTH], "counts": np.diff([0, *ends, column_wise.size]).tolist()}


def write_photo(root, address):
    place = root / "coco" / address
    place.parent.mkdir(parents=True, exist_ok=True)
    red = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH)
    Image.fromarray(np.dstack([red, red, red])).save(place, format="PNG")  # exact pixels, whatever the name says


def write_pickle(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content))


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def one(random, choices):
    """As the published code draws: one of a whole permutation."""
    return choices[random.choice(len(choices), 1, replace=False)[0]]


# --- one annotation


@pytest.mark.parametrize("form", [polygons, rle, uncompressed, lambda *box: box_mask(*box).tolist()])
def test_every_form_of_an_annotation_is_the_same_mask(form):
    drawn = decode(form(2, 1, 5, 3), HEIGHT, WIDTH, "a.jpg")
    assert drawn.dtype == bool
    np.testing.assert_array_equal(drawn, box_mask(2, 1, 5, 3) > 0)


def test_polygons_of_one_annotation_are_joined_and_those_without_area_ignored():
    drawn = decode([*polygons(0, 0, 2, 2), [5, 5, 7, 7], *polygons(6, 4, 3, 2)], HEIGHT, WIDTH, "a.jpg")
    np.testing.assert_array_equal(drawn, (box_mask(0, 0, 2, 2) | box_mask(6, 4, 3, 2)) > 0)
    assert not decode([], HEIGHT, WIDTH, "a.jpg").any()


@pytest.mark.parametrize("damaged", [{"size": [8, 12], "counts": "!!"}, {"counts": "0"}, [list("abcdef")], 7])
def test_a_damaged_annotation_names_its_photo(damaged):
    with pytest.raises(DatasetError, match=r"annotation of a\.jpg is damaged"):
        decode(damaged, HEIGHT, WIDTH, "a.jpg")


# --- LVIS-92i


def address(number):
    return f"{'train' if number % 2 else 'val'}2017/{number:012d}.jpg"


# 33 classes, in an order of their own. More than one photo: 31, so 3 a fold and 1 left over. More than five: 21.
SIZES = {100 - k: 1 if k in (3, 17) else (2, 6, 7)[k % 3] for k in range(33)}


def lvis_photos(category):
    return [10 * category + n for n in reversed(range(SIZES[category]))]


@pytest.fixture
def lvis(tmp_path):
    annotations = [{"segmentation": polygons(1, 1, 3, 3), "area": 9.0}, {"segmentation": rle(5, 2, 4, 4)}]
    content = {c: {address(n): {"annotations": annotations} for n in lvis_photos(c)} for c in SIZES}
    write_pickle(tmp_path / "lvis_val.pkl", content)
    for category in SIZES:
        for number in lvis_photos(category):
            write_photo(tmp_path, address(number))
    return tmp_path


@pytest.mark.parametrize("shots", [1, 5])
def test_lvis_folds_follow_the_order_of_the_pickle_and_drop_the_rest(lvis, shots):
    enough = [category for category in SIZES if SIZES[category] > shots]
    of_a_fold = {1: 3, 5: 2}[shots]
    assert len(enough) // 10 == of_a_fold
    assert len(enough) % 10 == 1
    for fold in range(10):
        expected = [str(enough[fold + 10 * v]) for v in range(of_a_fold)]
        assert Lvis(lvis).classes(fold, shots) == expected


@pytest.mark.parametrize("shots, seed", [(1, 42), (5, 42), (1, 7)])
def test_lvis_replays_the_published_stream(lvis, shots, seed):
    dataset, random = Lvis(lvis), np.random.RandomState(seed)
    classes = dataset.classes(3, shots)
    episodes = dataset.episodes(3, shots, seed, "paper")
    assert len(episodes) == 2300
    for number, episode in enumerate(episodes):
        assert (episode.class_id, episode.category) == (number % len(classes), classes[number % len(classes)])
        photos = [f"coco/{address(n)}" for n in lvis_photos(int(episode.category))]
        query, supports = one(random, photos), []
        while len(supports) < shots:
            support = one(random, photos)
            if support != query:
                supports.append(support)
        assert episode.query == Item(query)
        assert episode.supports == tuple(map(Item, supports))


def test_lvis_default_repeats_no_shot_and_is_the_paper_for_one(lvis):
    dataset = Lvis(lvis)
    assert dataset.episodes(0, 1, 42, "default") == dataset.episodes(0, 1, 42, "paper")
    repeats = {
        sampling: sum(len(set(e.supports)) < 5 for e in dataset.episodes(0, 5, 42, sampling)) for sampling in SAMPLINGS
    }
    assert repeats["default"] == 0
    assert repeats["paper"] > 0


def test_lvis_mask_joins_all_objects_of_the_class(lvis):
    photo = Lvis(lvis).photo(Item(f"coco/{address(1000)}"), "100")
    np.testing.assert_array_equal(photo.mask, (box_mask(1, 1, 3, 3) | box_mask(5, 2, 4, 4)) > 0)
    assert photo.image.shape == (HEIGHT, WIDTH, 3)
    assert photo.ignore is None


def test_lvis_photo_refuses_what_is_not_annotated_and_what_is_another_photo(lvis):
    dataset = Lvis(lvis)
    with pytest.raises(DatasetError, match="no class 99 in coco/val2017"):
        dataset.photo(Item(f"coco/{address(1000)}"), "99")
    Image.new("RGB", (5, 5)).save(lvis / "coco" / address(1000))
    with pytest.raises(DatasetError, match="5 × 5 pixels, but its annotation 12 × 8"):
        dataset.photo(Item(f"coco/{address(1000)}"), "100")
    (lvis / "coco" / address(1000)).unlink()
    with pytest.raises(DatasetError, match="is missing"):
        dataset.photo(Item(f"coco/{address(1000)}"), "100")


def lvis_release():
    """Classes and photos out of order, to be sorted; class 3 is nowhere."""
    numbers = [n for c in range(1, 24) if c != 3 for n in (100 * c, 100 * c + 1, 100 * c + 2)]
    return {
        "images": [{"id": n, "coco_url": f"http://images.cocodataset.org/{address(n)}"} for n in reversed(numbers)],
        "categories": [{"id": c, "name": f"class {c}"} for c in reversed(range(1, 24))],
        "annotations": [
            {"id": n, "image_id": n, "category_id": n // 100, "segmentation": polygons(0, 0, 4, 4)}
            for n in reversed(numbers)
        ],
    }


def test_lvis_release_stands_in_for_the_pickle_sorted_by_id(tmp_path):
    write_json(tmp_path / "lvis_v1_val.json", lvis_release())
    dataset = Lvis(tmp_path)
    assert dataset.classes(0, 1) == ["1", "12"]
    assert dataset.classes(2, 1) == ["4", "14"]  # class 3 has no photos
    assert dataset.classes(0, 3) == []
    random = np.random.RandomState(42)
    for episode in dataset.episodes(2, 1, 42, "paper")[:50]:
        photos = [f"coco/{address(100 * int(episode.category) + n)}" for n in range(3)]
        assert episode.query.image == one(random, photos)
        while (support := one(random, photos)) == episode.query.image:
            pass
        assert episode.supports[0].image == support
    write_photo(tmp_path, address(400))
    np.testing.assert_array_equal(dataset.photo(Item(f"coco/{address(400)}"), "4").mask, box_mask(0, 0, 4, 4) > 0)
    assert any("not those of the paper" in note for note in dataset.check().notes)


def test_lvis_pickle_wins_and_check_says_so(lvis):
    plain = [Lvis(lvis).episodes(0, 1, 42, sampling) for sampling in SAMPLINGS]
    write_json(lvis / "lvis_v1_val.json", lvis_release())
    assert [Lvis(lvis).episodes(0, 1, 42, sampling) for sampling in SAMPLINGS] == plain
    assert "lvis_v1_val.json is not read, as lvis_val.pkl is there" in Lvis(lvis).check().notes


@pytest.mark.parametrize("kind", [Lvis, Paco])
def test_big_files_are_parsed_once(kind, tmp_path, monkeypatch):
    write_json(tmp_path / "lvis_v1_val.json", lvis_release())
    write_json(tmp_path / "paco/annotations/paco_lvis_v1_val.json", paco_release())
    dataset, parsed = kind(tmp_path), []
    load = json.load
    monkeypatch.setattr("prmagic.datasets.annotations.json.load", lambda file: parsed.append(file) or load(file))
    dataset.check()
    for sampling in SAMPLINGS:
        dataset.episodes(0, 1, 42, sampling)
    assert len(parsed) == 1


def test_lvis_check_counts_and_names_what_is_absent(lvis):
    inventory = Lvis(lvis).check()
    assert inventory.missing == []
    assert inventory.classes == dict.fromkeys(range(10), 3)
    assert inventory.episodes == dict.fromkeys(range(10), 2300)
    assert "3 classes a fold for 1 shot(s); the paper's benchmark has 92" in inventory.notes
    of_no_fold = next(category for category in SIZES if SIZES[category] == 1)
    (lvis / "coco" / address(10 * of_no_fold)).unlink()
    assert Lvis(lvis).check().missing == []
    for number in (1000, 980):
        (lvis / "coco" / address(number)).unlink()
    (missing,) = Lvis(lvis).check().missing
    assert str(lvis / "coco/val2017") in missing
    assert ": 2 of " in missing
    assert address(980).split("/")[1] in missing
    assert "val2017.zip" in missing


def test_lvis_check_lists_missing_and_damaged_files_instead_of_raising(tmp_path):
    (missing,) = Lvis(tmp_path).check().missing
    assert "lvis_val.pkl is missing" in missing
    assert "lvisdataset.org" in missing
    for content in (b"no pickle", pickle.dumps({1: {"a/b.jpg": []}}), pickle.dumps([1])):
        (tmp_path / "lvis_val.pkl").write_bytes(content)
        (missing,) = Lvis(tmp_path).check().missing
        assert "lvis_val.pkl" in missing
    (tmp_path / "lvis_val.pkl").unlink()
    (tmp_path / "lvis_v1_val.json").write_text('{"images": [', encoding="utf-8")
    (missing,) = Lvis(tmp_path).check().missing
    assert "lvis_v1_val.json does not hold" in missing


def test_lvis_with_too_few_classes_says_so_instead_of_drawing(tmp_path):
    write_pickle(tmp_path / "lvis_val.pkl", {1: {address(n): {"annotations": []} for n in range(3)}})
    with pytest.raises(DatasetError, match="fewer than 10 classes with more than 1 photo"):
        Lvis(tmp_path).episodes(0, 1, 42)
    assert Lvis(tmp_path).check().missing


# --- PACO-Part

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


def test_paco_photo_is_the_truncated_crop_with_all_pieces_of_this_object_only(paco):
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


def test_paco_crop_without_a_pixel_is_the_episodes_failure_not_missing_data(paco_with_odd_objects):
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


@pytest.mark.parametrize("kind, folds", [(Lvis, 10), (Paco, 4)])
def test_a_fold_that_is_not_there_is_refused(kind, folds, tmp_path):
    with pytest.raises(DatasetError, match=f"no fold {folds}"):
        kind(tmp_path).classes(folds, 1)
