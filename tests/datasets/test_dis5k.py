"""DIS5K on a small copy in its true layout; the published draws are replayed by hand."""

from __future__ import annotations

import os
import shutil

import numpy as np
import pytest
from PIL import Image

from prmagic.datasets import dis5k
from prmagic.datasets.base import DatasetError, Item
from prmagic.datasets.dis5k import Dis5k

SAMPLINGS = ("paper", "default")
HEIGHT, WIDTH = 30, 40


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


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
