"""PASCAL-Part on a small copy in its true layout; the published draws are replayed by hand."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.pascal_part import PascalPart

SAMPLINGS = ("paper", "default")
HEIGHT, WIDTH = 30, 40
VOC = "VOCdevkit/VOC2010/"
JSONS = "Annotations_Part_json_merged_part_classes"


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


# PASCAL-Part


def code(*pixels):
    """A run-length code with these (row, column) set; text, as in the JSON files."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8, order="F")
    for row, column in pixels:
        mask[row, column] = 1
    encoded = coco_mask.encode(mask)
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def thing(name, box=(5, 2, 25, 12), **parts):
    return {
        "name": name,
        "bndbox": dict(zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)),
        "parts": [{"name": part, "mask": codes} for part, codes in parts.items()],
    }


INSIDE, OUTSIDE = (3, 6), (20, 30)
COW = thing("cow", EAR=[code(INSIDE)], TAIL=[code((4, 7))])
ANNOTATIONS = {
    "two": [thing("cow", TAIL=[code(INSIDE)]), thing("person"), COW],
    "none": [thing("sheep", EAR=[code(INSIDE)])],  # listed for cows, but has none
    "empty": [thing("cow", EAR=[code()])],
    "outside": [thing("cow", EAR=[code(OUTSIDE)])],
    "a": [COW],
    "b": [COW, thing("cow", EAR=[])],
    "c": [COW],
}
EARS = ["two", "none", "empty", "outside", "a", "b", "c"]
LISTS = {
    "animals": {
        "cow": {
            "EAR": {"train": ["t"], "val": EARS},
            "HORN": {"train": [], "val": ["a", "b"]},
            "TAIL": {"train": ["t"], "val": ["c", "b", "a", "two"]},
        },
    },
    "indoor": {"bottle": {"CAP": {"train": ["t"], "val": ["i", "j"]}, "BODY": {"train": ["t"], "val": []}}},
    "person": {"person": {"HAND": {"train": ["t"], "val": ["p", "q"]}}},
    "vehicles": {
        "aeroplane": {
            "TAIL": {"train": ["t"], "val": ["v", "w", "v2", "w2"]},
            "WING": {"train": ["t"], "val": ["v", "w"]},
        },
        "bus": {"TAIL": {"train": ["t"], "val": ["v", "w"]}},
    },
}
for kind, part, photos in [("bottle", "CAP", "i j"), ("person", "HAND", "p q"), ("aeroplane", "WING", "v w v2 w2")]:
    for photo in photos.split():
        ANNOTATIONS[photo] = [thing(kind, **{part: [code(INSIDE)]}), thing("bus", TAIL=[code(INSIDE)])]


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "Pascal-Part" / VOC
    (folder / "JPEGImages").mkdir(parents=True)
    (folder / JSONS).mkdir()
    for photo, objects in ANNOTATIONS.items():
        Image.fromarray(noise(HEIGHT, WIDTH)).save(folder / "JPEGImages" / f"{photo}.jpg")
        annotate(folder, photo, objects)
    index(folder, LISTS)
    return folder


def annotate(voc, photo, objects):
    (voc / JSONS / f"{photo}.json").write_text(json.dumps({"object": objects}))


def index(voc, lists):
    content = {
        group: {"object": {kind: {"part": parts} for kind, parts in kinds.items()}} for group, kinds in lists.items()
    }
    (voc / "all_obj_part_to_image.json").write_text(json.dumps(content))


def part_dataset(voc):
    return PascalPart(voc.parents[1])


def short(item):
    return item.image.split("/")[-1].removesuffix(".jpg"), item.instance


def replay(seed, shots, sampling):
    """Fold 0 as published: photos, then objects, on numpy's own generator."""
    generator = np.random.RandomState(seed)

    def drawn_from(choices):
        return generator.choice(choices, 1, replace=False)[0]

    def suits(annotated, part):
        masks = [mask for entry in annotated["parts"] if entry["name"] == part for mask in entry["mask"]]
        cropped = [coco_mask.decode(mask)[2:12, 5:25] for mask in masks]
        return any(mask.size if sampling == "paper" else mask.any() for mask in cropped)

    episodes = []
    for number in range(7 + 2 + 4):
        part, listed = (("EAR", EARS), ("TAIL", ["c", "b", "a", "two"]))[number % 2]
        chosen = []
        while len(chosen) <= shots:
            photo = drawn_from(listed)
            cows = [i for i, annotated in enumerate(ANNOTATIONS[photo]) if annotated["name"] == "cow"]
            if photo in [taken for taken, _ in chosen] or not cows:
                continue
            cow = drawn_from(cows)
            if suits(ANNOTATIONS[photo][cow], part):
                chosen.append((photo, cow))
        episodes.append(chosen)
    return episodes


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("shots", [1, 3])
def test_parts_are_drawn_as_published(voc, sampling, shots):
    for seed in (0, 42):
        episodes = part_dataset(voc).episodes(0, shots, seed, sampling)
        assert [[short(item) for item in (e.query, *e.supports)] for e in episodes] == replay(seed, shots, sampling)
        assert [e.class_id for e in episodes] == [number % 2 for number in range(13)]
        assert {e.category for e in episodes if e.class_id == 1} == {"cow+TAIL"}


def test_only_paper_draws_parts_that_do_not_show(voc):
    def ears(sampling):
        episodes = [e for seed in range(20) for e in part_dataset(voc).episodes(0, 1, seed, sampling)]
        return {short(item)[0] for e in episodes if e.category == "cow+EAR" for item in (e.query, *e.supports)}

    assert ears("paper") == {"two", "empty", "outside", "a", "b", "c"}
    assert ears("default") == {"two", "a", "b", "c"}


def test_classes_need_photos_in_both_lists_and_one_is_left_out_by_name(voc):
    dataset = part_dataset(voc)
    assert [dataset.classes(fold, 1) for fold in range(4)] == [
        ["cow+EAR", "cow+TAIL"],
        ["bottle+CAP"],
        ["person+HAND"],
        ["aeroplane+WING", "bus+TAIL"],
    ]
    assert [len(dataset.episodes(fold, 1, 0)) for fold in range(4)] == [13, 2, 2, 8]  # with those left out
    with pytest.raises(DatasetError, match="no fold 4"):
        dataset.classes(4, 1)


def test_there_are_2500_episodes_at_most(voc):
    index(voc, {**LISTS, "person": {"person": {"HAND": {"train": ["t"], "val": ["p", "q"] * 2000}}}})
    assert len(part_dataset(voc).episodes(2, 1, 0)) == part_dataset(voc).check().episodes[2] == 2500


@pytest.mark.parametrize("sampling, shots, usable", [("paper", 6, 6), ("default", 4, 4)])
def test_too_few_photos_are_an_error_instead_of_an_endless_loop(voc, sampling, shots, usable):
    lists = {**LISTS, "animals": {"cow": {"EAR": LISTS["animals"]["cow"]["EAR"]}}}
    index(voc, lists)
    assert part_dataset(voc).episodes(0, shots - 1, 0, sampling)
    with pytest.raises(DatasetError, match=rf"cow\+EAR: {usable} of 7 .* needs {shots + 1}"):
        part_dataset(voc).episodes(0, shots, 0, sampling)


@pytest.mark.parametrize("inside", [False, True])
def test_photos_are_cropped_and_either_root_will_do(voc, inside):
    root = voc if inside else voc.parents[1]
    other = PascalPart(voc.parents[1] if inside else voc)
    dataset = PascalPart(root)
    episode = dataset.episodes(0, 1, 3)[0]
    assert (root / episode.query.image).is_file()
    ours, theirs = dataset.load(episode)[0], other.load(episode)[0]  # the manifest of one runs on the other
    with Image.open(root / episode.query.image) as picture:
        assert (ours.image == np.asarray(picture)[2:12, 5:25]).all()
    assert np.argwhere(ours.mask).tolist() == [[INSIDE[0] - 2, INSIDE[1] - 5]]
    assert (ours.image == theirs.image).all() and (ours.mask == theirs.mask).all()


def test_all_codes_of_the_part_count_and_no_other_objects(voc):
    cow = thing("cow", EAR=[code((3, 6), (4, 6)), code((4, 6), (11, 24), (12, 25))], TAIL=[code((5, 5))])
    annotate(voc, "a", [thing("cow", EAR=[code((7, 7))]), cow])
    mask = part_dataset(voc).photo(Item(f"{VOC}JPEGImages/a.jpg", 1), "cow+EAR").mask
    assert np.argwhere(mask).tolist() == [[1, 1], [2, 1], [9, 19]]  # row 12 and column 25 are beyond the box


def test_boxes_are_read_by_name_and_another_order_is_noted(voc):
    assert not [note for note in part_dataset(voc).check().notes if "xmin" in note]
    cow = {**COW, "bndbox": {"ymin": "2", "xmin": "5", "ymax": "12", "xmax": "25.0"}}
    annotate(voc, "c", [cow])  # the first of cow+TAIL
    dataset = part_dataset(voc)
    assert dataset.photo(Item("JPEGImages/c.jpg", 0), "cow+EAR").mask.shape == (10, 20)
    assert any("c.json" in note and "xmin, ymin" in note for note in dataset.check().notes)


def test_a_box_without_area_fails_its_episode_only(voc):
    annotate(voc, "a", [thing("cow", (9, 2, 9, 12), EAR=[code(INSIDE)])])
    with pytest.raises(ValueError, match="no area") as caught:
        part_dataset(voc).photo(Item("JPEGImages/a.jpg", 0), "cow+EAR")
    assert not isinstance(caught.value, DatasetError)
    drawn = [short(e.query)[0] for seed in range(9) for e in part_dataset(voc).episodes(0, 1, seed) if not e.class_id]
    assert "a" not in drawn and "b" in drawn


@pytest.mark.parametrize(
    "instance, category", [(None, "cow+EAR"), (7, "cow+EAR"), (-1, "cow+EAR"), (0, "cow+NOSE"), (0, "cat+EAR")]
)
def test_an_item_of_other_data_is_named(voc, instance, category):
    with pytest.raises(DatasetError, match=r"a\.json: object .* of other data"):
        part_dataset(voc).photo(Item("JPEGImages/a.jpg", instance), category)


def test_a_mask_of_another_size_is_no_mask_of_the_photo(voc):
    Image.fromarray(noise(HEIGHT, WIDTH + 1)).save(voc / "JPEGImages/a.jpg")
    with pytest.raises(DatasetError, match=r"a\.jpg cannot .* for a photo of 40 × 30 pixels, not of 41 × 30"):
        part_dataset(voc).photo(Item("JPEGImages/a.jpg", 0), "cow+EAR")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"object": [{}]}', json.dumps({"object": [thing("cow", EAR=[{"size": [30, 40]}])]})]
)
def test_a_damaged_annotation_is_named(voc, content):
    (voc / JSONS / "a.json").write_text(content)
    for use in (
        lambda: part_dataset(voc).episodes(0, 1, 0),
        lambda: part_dataset(voc).photo(Item("JPEGImages/a.jpg", 0), "cow+EAR"),
    ):
        with pytest.raises(DatasetError, match=r"a\.json|annotation of .*a\.jpg cannot be used"):
            use()


def test_check_of_whole_parts(voc):
    inventory = part_dataset(voc).check()
    assert not inventory.missing
    assert inventory.classes == {0: 2, 1: 1, 2: 1, 3: 2}
    assert inventory.episodes == {0: 13, 1: 2, 2: 2, 3: 8}
    assert any("31, 4, 5, 16" in note for note in inventory.notes)


def test_check_lists_what_lacks_and_never_raises(voc):
    (voc / "JPEGImages/a.jpg").unlink()
    (voc / JSONS / "b.json").unlink()
    (voc / JSONS / "c.json").write_text("{")
    missing = part_dataset(voc).check().missing
    assert len(missing) == 3
    assert "JPEGImages: 1 of 13 files, such as a.jpg" in missing[0]
    assert f"{JSONS}: 1 of 13 files, such as b.json" in missing[1]
    assert "c.json" in missing[2]
    with pytest.raises(DatasetError, match=r"b\.json is missing"):
        part_dataset(voc).episodes(0, 1, 0)

    index(voc, {**LISTS, "person": {"person": {"HAND": {"train": [], "val": ["p"]}}}})
    assert "no photos of fold 2, person" in part_dataset(voc).check().missing[0]
    shutil.rmtree(voc / "JPEGImages")
    (voc / "all_obj_part_to_image.json").write_text('{"animals": {"object": []}}')
    missing = part_dataset(voc).check().missing
    assert "all_obj_part_to_image.json" in missing[0] and "JPEGImages is missing" in missing[1]
    (voc / "all_obj_part_to_image.json").unlink()
    assert "all_obj_part_to_image.json is missing" in part_dataset(voc).check().missing[0]
