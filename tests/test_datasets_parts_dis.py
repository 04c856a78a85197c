"""PASCAL-Part and DIS5K on small copies in their true layouts; the published draws are replayed by hand."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from prmagic.datasets import dis5k
from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.dis5k import Dis5k
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
    """Fold 0 as published (§1.4): photos, then objects, on numpy's own generator."""
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
    with pytest.raises(DatasetError, match=r"a\.jpg has 41 × 30 pixels"):
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
        with pytest.raises(DatasetError, match=r"a\.json|annotation of .*a\.jpg is damaged"):
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


# DIS5K


TRAIN = {"1-1": 6, "1-10": 2, "2-3": 3, "22-15": 5, "9-9": 1}
TEST = {"1-1": 2, "1-10": 3, "2-3": 1, "22-15": 4, "8-8": 1}
SHARED = ["1-1", "1-10", "2-3", "22-15"]


def photo_names(category, count):
    group, number = category.split("-")
    return [f"{group}#im#{number}#gt.im#im_{count - i}.x" for i in range(count)]  # names that a careless replace breaks


def put(folder, kind, stem):
    folder.mkdir(parents=True, exist_ok=True)
    if kind == "im":
        Image.fromarray(noise(6, 8)).save(folder / f"{stem}.jpg")
    else:
        Image.fromarray(np.full((6, 8), 255, np.uint8)).save(folder / f"{stem}.png")


@pytest.fixture
def dis(tmp_path):
    root = tmp_path / "im" / "images"
    for part, counts in (("Train", TRAIN), ("Test", TEST)):
        for category, count in counts.items():
            for stem in photo_names(category, count):
                put(root / part / "im" / category, "im", stem)
                put(root / part / "gt" / category, "gt", stem)
    return root


def files(part, category):
    names = photo_names(category, {"Train": TRAIN, "Test": TEST}[part][category])
    return sorted(f"{part}/im/{category}/{name}.jpg" for name in names)


@pytest.mark.parametrize("shots", [1, 3])
def test_paper_draws_class_query_and_supports_and_ignores_the_index(dis, shots):
    generator = np.random.RandomState(42)

    def drawn_from(choices):
        return generator.choice(choices, 1, replace=False)[0]

    expected = []
    for _ in range(10):
        category = drawn_from(SHARED)
        query = drawn_from(files("Test", category))
        expected.append((category, query, [drawn_from(files("Train", category)) for _ in range(shots)]))
    episodes = Dis5k(dis).episodes(0, shots, 42, "paper")
    assert [(e.category, e.query.image, [item.image for item in e.supports]) for e in episodes] == expected
    if shots > 1:
        assert any(len(set(e.supports)) < shots for e in episodes)  # as published


def test_default_takes_every_test_photo_once_and_supports_do_not_repeat(dis):
    episodes = [Dis5k(dis).episodes(0, 2, seed) for seed in range(5)]
    for drawn in episodes:
        assert [e.query.image for e in drawn] == [photo for category in SHARED for photo in files("Test", category)]
        for e in drawn:
            assert len({item.image for item in e.supports} & set(files("Train", e.category))) == 2
    assert len({tuple(e.supports for e in drawn) for drawn in episodes}) > 1
    assert episodes[0] == Dis5k(dis).episodes(0, 2, 0)
    with pytest.raises(DatasetError, match=r"2 photo\(s\) .* 3 support"):
        Dis5k(dis).episodes(0, 3, 0)  # 1-10 has two


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_class_ids_are_group_two_zeros_and_category(dis, sampling):
    episodes = [e for seed in range(5) for e in Dis5k(dis).episodes(0, 1, seed, sampling)]
    ids = {"1-1": 1001, "1-10": 10010, "2-3": 2003, "22-15": 220015}
    assert {(e.category, e.class_id) for e in episodes} == set(ids.items())


def test_classes_in_one_part_only_are_left_out_and_noted(dis):
    (dis / "Train/im/notes").mkdir()
    (dis / "Test/im/7-7").mkdir()  # without photos
    dataset = Dis5k(dis)
    assert dataset.classes(0, 1) == SHARED
    inventory = dataset.check()
    assert not inventory.missing
    assert (inventory.classes, inventory.episodes) == ({0: 4}, {0: 10})
    notes = " ".join(inventory.notes)
    for words in ("Train only: 9-9", "Test only: 8-8", "Train/im: notes", "has 210"):
        assert words in notes
    assert "7-7" not in notes


def test_only_the_folder_im_becomes_gt(dis):
    for category in SHARED:
        photo = Dis5k(dis).photo(Item(files("Test", category)[0]), category)
        assert photo.image.shape == (6, 8, 3) and photo.mask.all()


@pytest.mark.parametrize("mode", ["L", "RGB", "P"])
def test_masks_count_from_grey_128(dis, mode):
    grey = Image.fromarray(np.repeat(np.array([[0, 127, 128, 255]], np.uint8), 2, axis=1).repeat(6, axis=0))
    if mode == "P":  # the index is not the grey value
        picture = Image.fromarray(np.array([3, 2, 1, 0], np.uint8).repeat(2)[None].repeat(6, axis=0))
        picture.putpalette([value for level in (255, 128, 127, 0) for value in (level,) * 3])
        assert picture.convert("L").tobytes() == grey.tobytes()
    else:
        picture = grey.convert(mode)
    item = Item(files("Test", "2-3")[0])
    picture.save(dis / item.image.replace("Test/im", "Test/gt").replace(".jpg", ".png"))
    mask = Dis5k(dis).photo(item, "2-3").mask
    assert mask.shape == (6, 8) and mask[0].tolist() == [False] * 4 + [True] * 4


def test_missing_or_misfit_masks(dis):
    gone, odd = files("Test", "22-15")[:2]

    def mask_file(photo):
        return dis / photo.replace("Test/im", "Test/gt").replace(".jpg", ".png")

    mask_file(gone).unlink()
    Image.new("L", (3, 3)).save(mask_file(odd))
    dataset = Dis5k(dis)
    [line] = dataset.check().missing
    assert "1 of 11 masks" in line and mask_file(gone).name in line
    with pytest.raises(DatasetError, match="is missing"):
        dataset.photo(Item(gone), "22-15")
    with pytest.raises(DatasetError, match=r"\(3, 3\)"):
        dataset.photo(Item(odd), "22-15")


def test_check_of_nothing(dis, tmp_path):
    shutil.rmtree(dis / "Test")
    inventory = Dis5k(dis).check()
    assert inventory.classes == {0: 0}
    assert str(dis / "Test/im") in inventory.missing[0] and "prepare" in inventory.missing[0]
    with pytest.raises(DatasetError, match="Test"):
        Dis5k(dis).episodes(0, 1, 0)
    with pytest.raises(DatasetError, match="is not a folder"):
        Dis5k(tmp_path / "nowhere")
    shutil.copytree(dis / "Train/im/9-9", dis / "Test/im/5-5")
    assert "no class has photos in both" in Dis5k(dis).check().missing[-1]
    with pytest.raises(DatasetError, match="no class has photos in both"):
        Dis5k(dis).classes(0, 1)


RELEASE = {
    "DIS-TR": ["1#Accessories#1#Bag#a#b", "22#Weapon#15#Gun#c"],
    "DIS-TE1": ["1#Accessories#1#Bag#d"],
    "DIS-TE2": ["22#Weapon#15#Gun#e", "22#Weapon#15#Gun#f"],
}


@pytest.fixture
def release(tmp_path):
    for folder, stems in RELEASE.items():
        for stem in stems:
            put(tmp_path / folder / "im", "im", stem)
            put(tmp_path / folder / "gt", "gt", stem)
    return [tmp_path / folder for folder in RELEASE]


@pytest.mark.parametrize("links", [True, False])
def test_prepare_arranges_the_release(release, tmp_path, monkeypatch, links):
    if not links:
        monkeypatch.setattr(dis5k.os, "link", lambda *_: (_ for _ in ()).throw(OSError("another disk")))
    train, *test = release
    seen = []
    out = tmp_path / "out"
    assert dis5k.prepare([train], test, out, progress=lambda pairs: seen.extend(pairs) or seen) == (2, 3)
    assert len(seen) == 10
    dataset = Dis5k(out)
    assert dataset.classes(0, 1) == ["1-1", "22-15"]
    assert not dataset.check().missing
    assert [e.query.image for e in dataset.episodes(0, 1, 0)] == [
        "Test/im/1-1/1#Accessories#1#Bag#d.jpg",
        "Test/im/22-15/22#Weapon#15#Gun#e.jpg",
        "Test/im/22-15/22#Weapon#15#Gun#f.jpg",
    ]
    placed = out / "Train/im/1-1/1#Accessories#1#Bag#a#b.jpg"
    assert os.path.samefile(placed, train / "im" / placed.name) == links  # noqa: PTH121
    assert placed.read_bytes() == (train / "im" / placed.name).read_bytes()
    assert sum(file.is_file() for file in out.rglob("*")) == 10  # no unfinished copies


def test_prepare_again_leaves_what_is_there_and_adds_the_rest(release, tmp_path):
    train, *test = release
    out = tmp_path / "out"
    placed = out / "Train/im/1-1/1#Accessories#1#Bag#a#b.jpg"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(b"mine")
    assert dis5k.prepare([train], test, out) == (2, 3)
    assert dis5k.prepare([train], test, out) == (2, 3)
    assert placed.read_bytes() == b"mine"
    assert not Dis5k(out).check().missing


def test_prepare_follows_links(release, tmp_path):
    train, *test = release
    photo = next((train / "im").iterdir())
    photo.rename(train / "elsewhere.jpg")
    photo.symlink_to("../elsewhere.jpg")
    dis5k.prepare([train], test, tmp_path / "out")
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_symlink()]


def test_prepare_names_what_is_wrong_before_it_writes(release, tmp_path):
    train, *test = release
    out = tmp_path / "out"

    def refused(words, train=train, test=test):
        with pytest.raises(DatasetError, match=words):
            dis5k.prepare([train], test, out)
        assert not out.exists()

    refused(r"has no im/\*\.jpg", train=train / "im")
    refused("would both become", test=[*test, test[0]])
    (test[1] / "gt" / "22#Weapon#15#Gun#f.png").unlink()
    refused(r"DIS-TE2.im have no mask: .*22#Weapon#15#Gun#f\.png")
    put(train / "im", "im", "1#Bag#a")
    refused(r"1 of 3 photos .* 1#Bag#a\.jpg, are not named like")
    (tmp_path / "out").write_text("a file")
    (train / "im" / "1#Bag#a.jpg").unlink()
    with pytest.raises(DatasetError, match="cannot be put at"):
        dis5k.prepare([train], test[:1], out)
