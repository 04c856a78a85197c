"""Own data in both layouts, on pictures of a few pixels."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from annotated import corner, picture
from PIL import Image

from prmagic.datasets.base import DatasetError, Item, manifest_digest
from prmagic.datasets.own import Own


def write_index(root, *lines):
    (root / "index.jsonl").write_text(
        "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8"
    )


def line(image, category, **more):
    return {"image": f"photos/{image}.jpg", "mask": f"masks/{image}.png", "class": category, **more}


def photos(root, *names):
    for name in names:
        picture(root / f"photos/{name}.jpg")
        picture(root / f"masks/{name}.png", corner())


@pytest.fixture
def indexed(tmp_path):
    photos(tmp_path, *"abcdefg")
    write_index(
        tmp_path,
        line("c", "dog"),
        line("d", None),
        "",
        line("a", "dog"),
        line("b", "dog"),
        line("e", "cat"),
        line("f", "cat", mask_value=None),
        line("g", "bird"),
    )
    return tmp_path


@pytest.fixture
def foldered(tmp_path):
    for category, names in {"dog": "cab", "cat": "ef", "bird": "g"}.items():
        for name in names:
            picture(tmp_path / category / "images" / f"{name}.jpg")
            picture(tmp_path / category / "masks" / f"{name}.png", corner())
    (tmp_path / "cat/images/Thumbs.db").write_text("no photo")
    (tmp_path / "cat/images/.hidden.jpg").write_text("no photo")
    (tmp_path / "papers").mkdir()
    for name in "ab":
        picture(tmp_path / ".trash/images" / f"{name}.jpg")
        picture(tmp_path / ".trash/masks" / f"{name}.png", corner())
    return tmp_path


def drawn(episodes):
    return [(e.category, e.query, e.supports) for e in episodes]


def test_every_indexed_photo_is_a_query_once_by_its_line(indexed):
    episodes = Own(indexed).episodes(0, 1, 0)
    assert [(e.class_id, e.category, e.query.image, e.query.instance) for e in episodes] == [
        (0, "cat", "photos/e.jpg", 5),
        (0, "cat", "photos/f.jpg", 6),
        (1, "dog", "photos/c.jpg", 0),
        (1, "dog", "photos/a.jpg", 3),
        (1, "dog", "photos/b.jpg", 4),
    ]
    assert [e.id for e in episodes] == [f"0/{number:05d}" for number in range(5)]


def test_every_pair_in_the_folders_is_a_query_once(foldered):
    episodes = Own(foldered).episodes(0, 1, 0)
    assert [(e.class_id, e.query.image, e.query.instance) for e in episodes] == [
        (0, "cat/images/e.jpg", None),
        (0, "cat/images/f.jpg", None),
        (1, "dog/images/a.jpg", None),
        (1, "dog/images/b.jpg", None),
        (1, "dog/images/c.jpg", None),
    ]
    assert Own(foldered).load(episodes[0])[0].mask.sum() == 1


def test_supports_are_other_photos_of_the_class_and_depend_on_the_seed(indexed):
    for seed in range(5):
        for episode in Own(indexed).episodes(0, 2, seed):
            assert episode.category == "dog"  # the only class of three
            taken = {item.image for item in (episode.query, *episode.supports)}
            assert taken == {"photos/a.jpg", "photos/b.jpg", "photos/c.jpg"}
    assert len({manifest_digest(Own(indexed).episodes(0, 1, seed)) for seed in range(9)}) > 1
    assert drawn(Own(indexed).episodes(0, 1, 7)) == drawn(Own(indexed).episodes(0, 1, 7))
    with pytest.raises(DatasetError, match=r"no class has 4 photos .* dog with 3"):
        Own(indexed).classes(0, 3)


def test_a_photo_with_several_lines_does_not_support_itself(tmp_path):
    for name in "ab":
        picture(tmp_path / f"photos/{name}.jpg")
        picture(tmp_path / f"masks/{name}.png", corner(3) + corner(5)[::-1, ::-1])
    lines = [line(image, "cup", mask_value=value) for image in "ab" for value in (3, 5)]
    write_index(tmp_path, *lines)
    dataset = Own(tmp_path)
    episodes = [e for seed in range(20) for e in dataset.episodes(0, 1, seed)]
    assert len(episodes) == 20 * 4
    assert all(e.query.image != e.supports[0].image for e in episodes)
    assert {(e.query.instance, e.supports[0].instance) for e in episodes} == {
        (0, 2), (0, 3), (1, 2), (1, 3), (2, 0), (2, 1), (3, 0), (3, 1)
    }  # fmt: skip
    masks = [np.argwhere(dataset.photo(Item("photos/a.jpg", number), "cup").mask).tolist() for number in (0, 1)]
    assert masks == [[[0, 0]], [[5, 7]]]
    with pytest.raises(DatasetError, match="no class has 3 photos"):
        dataset.classes(0, 2)  # four lines, but two photos


def test_the_test_split_is_taken_where_there_is_one(indexed):
    splits = {"a": "train", "b": "test", "c": "test", "d": "test", "e": "val"}
    write_index(indexed, *(line(name, "dog", split=split) for name, split in splits.items()), line("f", "dog"))

    def queries(**options):
        return "".join(e.query.image[7] for e in Own(indexed, **options).episodes(0, 1, 0))

    assert queries() == queries(split="test") == "bcd"
    with pytest.raises(DatasetError, match="no class has 2 photos"):
        queries(split="train")
    with pytest.raises(DatasetError, match=r"no split 'tset': did you mean 'test'\? Known: test, train, val"):
        queries(split="tset")
    write_index(indexed, *(line(name, "dog", split="train") for name in "ab"), line("f", "dog"))
    assert queries() == "abf"


def test_folders_have_no_splits(foldered):
    with pytest.raises(DatasetError, match="no split 'test': it names no splits"):
        Own(foldered, split="test").episodes(0, 1, 0)


@pytest.mark.parametrize("layout", ["indexed", "foldered"])
def test_classes_can_be_chosen(layout, request):
    root = request.getfixturevalue(layout)
    assert Own(root, classes=["dog", "bird"]).classes(0, 1) == ["dog"]
    with pytest.raises(DatasetError, match=r"no class 'dgo': did you mean 'dog'\? Known: bird, cat, dog"):
        Own(root, classes={"dgo"}).classes(0, 1)
    with pytest.raises(DatasetError, match="none of the classes"):
        Own(root, classes=[]).classes(0, 1)


def test_nobody_published_episodes_of_own_data(indexed):
    dataset = Own(indexed)
    assert not dataset.published
    with pytest.raises(DatasetError, match="nobody published"):
        dataset.episodes(0, 1, 0, "paper")
    with pytest.raises(DatasetError, match="no fold 1"):
        dataset.episodes(1, 1, 0)


def test_photos_come_upright_and_masks_fit_them(indexed):
    exif = Image.Exif()
    exif[274] = 6  # stored lying on its side
    picture(indexed / "photos/a.jpg", size=(6, 8), exif=exif)
    photo = Own(indexed).photo(Item("photos/a.jpg", 3), "dog")
    assert photo.image.shape == (6, 8, 3) and photo.mask.shape == (6, 8)


def test_any_format_will_do_in_folders(foldered):
    picture(foldered / "cat/images/x.y.webp")
    picture(foldered / "cat/masks/x.y.bmp", corner())
    assert Own(foldered).photo(Item("cat/images/x.y.webp"), "cat").mask.sum() == 1


def spoil(root, what):
    if what == "empty":
        picture(root / "masks/a.png", corner(0))
    elif what == "small":
        picture(root / "masks/a.png", corner()[1:])
    elif what == "gone":
        (root / "masks/a.png").unlink()
    else:
        (root / "photos/a.jpg").write_bytes(b"\xff\xd8 no photo")


@pytest.mark.parametrize(
    "what, words", [("empty", "is empty"), ("small", "8 × 5"), ("gone", "does not exist"), ("photo", "not an image")]
)
def test_a_picture_that_cannot_be_used_is_named_with_its_line(indexed, what, words):
    spoil(indexed, what)
    file = "photos/a.jpg" if what == "photo" else "masks/a.png"
    with pytest.raises(DatasetError, match=rf"{words}.*{file}, line 4 of index\.jsonl"):
        Own(indexed).photo(Item("photos/a.jpg", 3), "dog")


def test_an_empty_mask_in_a_folder_is_named(foldered):
    picture(foldered / "dog/masks/a.png", corner(0))
    with pytest.raises(DatasetError, match=r"is empty.*dog/masks/a\.png"):
        Own(foldered).photo(Item("dog/images/a.jpg"), "dog")


@pytest.mark.parametrize("item, category", [(Item("photos/a.jpg", 4), "dog"), (Item("photos/a.jpg", 3), "cat")])
def test_an_item_of_other_data_is_refused(indexed, item, category):
    with pytest.raises(DatasetError, match=r"photos/a\.jpg of .* other data"):
        Own(indexed).photo(item, category)


def test_a_manifest_of_another_split_still_finds_its_photos(indexed):
    write_index(
        indexed, line("a", "dog", split="train"), line("b", "dog", split="train"), line("c", "cat", split="test")
    )
    [episode, _] = Own(indexed, split="train").episodes(0, 1, 0)
    assert Own(indexed).load(episode)[0].mask.any()


@pytest.mark.parametrize(
    "bad, words",
    [
        ("{", "line 2: Expecting"),
        ("[1]", "line 2: not an object"),
        ({"mask": "a.png", "class": "dog"}, 'line 2: "image" is null'),
        (line("a", "dog", mask_value="3"), 'line 2: "mask_value" is "3"'),
        (line("a", 7), 'line 2: "class" is 7'),
        (line("a", "dog", split=1), 'line 2: "split" is 1'),
        ("[" * 100_000, "line 2: its brackets are nested too deeply"),
        (line("a", "\ud800"), "'\\ud800' cannot be written in UTF-8: rename it"),
    ],
)
def test_a_bad_line_is_named(indexed, bad, words):
    write_index(indexed, line("a", "dog"), bad)
    with pytest.raises(DatasetError, match=re.escape(words)):
        Own(indexed).episodes(0, 1, 0)
    assert words in Own(indexed).check().missing[0]


def test_an_index_may_start_with_a_byte_order_mark_and_hold_any_name(indexed):
    names = ["a\u2028b", "über"]
    photos(indexed, *names)
    lines = "".join(json.dumps(line(name, "dog"), ensure_ascii=False) + "\r\n" for name in names)
    (indexed / "index.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode())
    assert [e.query.image for e in Own(indexed).episodes(0, 1, 0)] == [f"photos/{name}.jpg" for name in names]
    (indexed / "index.jsonl").write_bytes(b"\xff\xfe")
    assert "UTF-8" in Own(indexed).check().missing[0]


def test_check_of_an_index(indexed):
    inventory = Own(indexed).check()
    assert not inventory.missing
    assert (inventory.classes, inventory.episodes) == ({0: 2}, {0: 5})
    notes = " ".join(inventory.notes)
    assert "1 lines of index.jsonl" in notes and "left out: bird" in notes
    assert len(Own(indexed).episodes(0, 1, 0)) == 5
    assert "two photos at least" in Own(indexed, classes=["bird"]).check().missing[0]


def test_check_names_absent_files_of_the_chosen_lines_only(indexed):
    (indexed / "photos/a.jpg").unlink()
    (indexed / "masks/e.png").unlink()
    (indexed / "masks/d.png").unlink()  # of a line without class
    assert Own(indexed).check().missing == [str(indexed / "masks/e.png"), str(indexed / "photos/a.jpg")]
    assert Own(indexed, classes=["dog"]).check().missing == [str(indexed / "photos/a.jpg")]


def test_check_names_what_has_no_partner_in_folders(foldered):
    picture(foldered / "dog/images/x.jpg")
    picture(foldered / "dog/masks/y.png", corner())
    dataset = Own(foldered)
    assert dataset.check().missing == [
        f"{foldered}/dog/masks/x.*, for x.jpg",
        f"{foldered}/dog/images/y.*, for y.png",
    ]
    assert {"dog/images/x.jpg", "dog/images/y.png"}.isdisjoint(e.query.image for e in dataset.episodes(0, 1, 0))


def test_two_photos_of_one_name_are_an_error(foldered):
    picture(foldered / "dog/images/a.PNG")
    with pytest.raises(DatasetError, match=r"dog/images: a\.PNG and a\.jpg"):
        Own(foldered).episodes(0, 1, 0)
    assert "a.PNG and a.jpg" in Own(foldered).check().missing[0]


def test_a_folder_with_nothing_of_the_kind(tmp_path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(DatasetError, match=r"holds no photo .* index\.jsonl"):
        Own(tmp_path).episodes(0, 1, 0)
    assert "holds no photo" in Own(tmp_path).check().missing[0]
    picture(tmp_path / "cat/images/a.jpg")
    picture(tmp_path / "cat/masks/a_mask.png", corner())
    assert len(Own(tmp_path).check().missing) == 3  # the two without partner, and that nothing remains
