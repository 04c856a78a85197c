"""LVIS-92i on miniature copies of the published pickle and of the official release."""

from __future__ import annotations

import pickle

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
from PIL import Image

from prmagic.datasets import lvis as lvis_module
from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.lvis import Lvis

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


def test_lvis_photo_refuses_what_is_not_annotated(lvis):
    dataset = Lvis(lvis)
    with pytest.raises(DatasetError, match="no class 99 in coco/val2017"):
        dataset.photo(Item(f"coco/{address(1000)}"), "99")
    Image.new("RGB", (5, 5)).save(lvis / "coco" / address(1000))
    with pytest.raises(DatasetError, match="it is for a photo of 12 × 8 pixels, not of 5 × 5"):
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


def test_the_release_is_parsed_once(tmp_path, monkeypatch):
    write_json(tmp_path / "lvis_v1_val.json", lvis_release())
    dataset, parsed, read = Lvis(tmp_path), [], lvis_module.read_json
    monkeypatch.setattr(lvis_module, "read_json", lambda file: parsed.append(file) or read(file))
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


def test_a_fold_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="no fold 10"):
        Lvis(tmp_path).classes(10, 1)
