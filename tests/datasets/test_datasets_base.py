"""RandomChoices, manifests, squashing, and reading pictures."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from prmagic.datasets.base import (
    Dataset,
    DatasetError,
    Episode,
    Inventory,
    Item,
    Photo,
    RandomChoices,
    manifest_digest,
    manifest_line,
    numbered,
    read_manifest,
    require_fold,
    squash,
    write_manifest,
)

EPISODES = [
    Episode(numbered(0, 0), 0, 760, "abe's_flyingfish", Item("data/1.jpg"), (Item("data/9.jpg"), Item("data/9.jpg"))),
    Episode(numbered(0, 1), 0, 3, "Käfer:Flügel", Item("a b/2.jpg", instance=17), (Item("a b/3.jpg", instance=0),)),
]


class Toy(Dataset):
    name = "toy"
    title = "Toy set"
    folds = 2
    source = "Ask the toymaker."

    def classes(self, fold, shots):
        return ["thing"]

    def episodes(self, fold, shots, seed, sampling="default"):
        return []

    def photo(self, item, category):
        image = self.read_image(item.image)
        return Photo(image, image[..., 0] > 127)

    def check(self):
        return Inventory()


# ---- draws -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 42, 43])
def test_draws_are_those_of_numpys_choice_on_the_list_itself(seed):
    generator, draws = np.random.RandomState(seed), RandomChoices(seed, without_repeats=False)
    for choices in (list("abcdefg"), list("xyz"), list("abcdefg"), ["only"]):
        assert draws.one(choices) == generator.choice(choices, 1, replace=False)[0]


@pytest.mark.parametrize("without_repeats", [False, True])
def test_supports_are_drawn_one_by_one_and_rejected_ones_count(without_repeats):
    generator, draws = np.random.RandomState(5), RandomChoices(5, without_repeats)
    choices = [3, 1, 4, 15, 9, 2, 6]
    rejected = 0
    for query in choices * 4:
        expected = []
        while len(expected) < 5:
            drawn = generator.choice(choices, 1, replace=False)[0]
            if drawn == query or (without_repeats and drawn in expected):
                rejected += 1
            else:
                expected.append(drawn)
        assert draws.supports(choices, query, 5) == expected
        assert not without_repeats or len(set(expected)) == 5
    assert rejected > 10


def test_repeats_are_allowed_as_published_and_never_otherwise():
    choices = list(range(6))
    published, corrected = RandomChoices(0, without_repeats=False), RandomChoices(0, without_repeats=True)
    repeated = sum(len(set(published.supports(choices, 0, 5))) < 5 for _ in range(100))
    assert repeated > 80  # all five differ in 1 of 26
    assert all(sorted(corrected.supports(choices, 0, 5)) == [1, 2, 3, 4, 5] for _ in range(100))


def test_one_shot_is_the_same_with_and_without_repeats():
    published, corrected = RandomChoices(42, without_repeats=False), RandomChoices(42, without_repeats=True)
    assert [published.supports("abcd", "a", 1) for _ in range(50)] == [
        corrected.supports("abcd", "a", 1) for _ in range(50)
    ]


@pytest.mark.parametrize(
    "choices, shots, without_repeats",
    [(["q"], 1, False), (["q", "q"], 1, False), ([], 1, True), (list("qab"), 3, True), (list("qaab"), 3, True)],
)
def test_too_few_photos_are_an_error_and_no_endless_loop(choices, shots, without_repeats):
    with pytest.raises(DatasetError, match=r"query q, but \d support"):
        RandomChoices(0, without_repeats).supports(choices, "q", shots)


def test_one_other_photo_suffices_for_five_shots_as_published():
    assert RandomChoices(0, without_repeats=False).supports(["q", "a"], "q", 5) == ["a"] * 5


# ---- manifests -------------------------------------------------------------------------------------------------------


def test_a_manifest_comes_back_as_it_was(tmp_path):
    file = tmp_path / "new folder" / "episodes.jsonl"
    write_manifest(EPISODES, file)
    assert read_manifest(file) == EPISODES


def test_names_with_odd_line_ends_do_not_cut_a_manifest(tmp_path):
    episodes = [EPISODES[0], replace(EPISODES[1], category="a\u2028b", query=Item("c\x85d\ne\r.jpg"))]
    file = tmp_path / "episodes.jsonl"
    write_manifest(episodes, file)
    assert read_manifest(file) == episodes
    file.write_text(file.read_text(encoding="utf-8") + "\n", encoding="utf-8")  # an editor's empty line at the end
    assert read_manifest(file) == episodes


def test_a_manifest_line_is_json_with_sorted_keys():
    assert manifest_line(EPISODES[1]) == (
        '{"category": "Käfer:Flügel", "class_id": 3, "fold": 0, "id": "0/00001", '
        '"query": {"image": "a b/2.jpg", "instance": 17}, "supports": [{"image": "a b/3.jpg", "instance": 0}]}'
    )


def test_the_digest_is_that_of_the_file_on_any_system(tmp_path):
    file = tmp_path / "episodes.jsonl"
    write_manifest(EPISODES, file)
    assert b"\r" not in file.read_bytes()
    assert manifest_digest(EPISODES) == sha256(file.read_bytes()).hexdigest() == manifest_digest(read_manifest(file))


def test_the_digest_tells_episodes_apart():
    other_support = replace(EPISODES[1], supports=(Item("a b/3.jpg", instance=1),))
    lists = [EPISODES, EPISODES[::-1], EPISODES[:1], [EPISODES[0], other_support]]
    assert len({manifest_digest(episodes) for episodes in lists}) == len(lists)


def _changed(**fields):
    return json.dumps({**json.loads(manifest_line(EPISODES[1])), **fields})


@pytest.mark.parametrize(
    "line",
    [
        manifest_line(EPISODES[1])[:-5],
        " ",
        "[]",
        "17",
        "[" * 100_000,
        "\0",
        json.dumps({"id": "0/00001"}),
        _changed(supports=[]),
        _changed(supports=["a b/3.jpg"]),
        _changed(query=None),
        _changed(query={"picture": "a b/2.jpg"}),
        _changed(colour="red"),
        _changed(id=1),
        _changed(fold="0"),
        _changed(query={"image": "a b/2.jpg", "instance": "42"}),
        _changed(supports=[json.loads(manifest_line(EPISODES[1]))["query"]]),
    ],
)
def test_a_damaged_line_is_named(tmp_path, line):
    file = tmp_path / "episodes.jsonl"
    file.write_text(f"{manifest_line(EPISODES[0])}\n{line}\n", encoding="utf-8")
    with pytest.raises(DatasetError, match=r"episodes\.jsonl, line 2 is no episode"):
        read_manifest(file)


def test_a_manifest_needs_episodes_with_ids_of_their_own(tmp_path):
    file = tmp_path / "episodes.jsonl"
    write_manifest([EPISODES[0], replace(EPISODES[1], id=EPISODES[0].id)], file)
    with pytest.raises(DatasetError, match=r"2 episode\(s\) with 1 id\(s\)"):
        read_manifest(file)
    file.write_text("")
    with pytest.raises(DatasetError, match="0 episode"):
        read_manifest(file)
    with pytest.raises(DatasetError, match="is no file"):
        read_manifest(tmp_path)


# ---- squashing -------------------------------------------------------------------------------------------------------


def test_masks_are_squashed_by_the_legacy_nearest_rule():
    """5 → 3 picks 0, 1 and 3 (nearest-exact and pixel centres pick 0, 2 and 4)."""
    image = np.zeros((5, 5, 3), np.uint8)
    for picked in range(5):
        row, column = np.zeros((5, 5), bool), np.zeros((5, 5), bool)
        row[picked], column[:, picked] = True, True
        squashed = squash(Photo(image, row, ignore=column), 3)
        expected = [source == picked for source in (0, 1, 3)]
        assert squashed.mask.tolist() == [[hit] * 3 for hit in expected]
        assert squashed.ignore.tolist() == [expected] * 3


def test_masks_are_enlarged_by_the_same_rule():
    mask = np.array([[True, False]])
    squashed = squash(Photo(np.zeros((1, 2, 3), np.uint8), mask), 5)  # columns 0 0 0 1 1: ⌊2 · 2 / 5⌋ = 0
    assert squashed.mask.tolist() == [[True, True, True, False, False]] * 5
    assert squashed.mask.dtype == bool and squashed.ignore is None


def test_photos_lose_their_aspect_ratio_and_are_not_aliased():
    stripes = np.zeros((24, 48, 3), np.uint8)
    stripes[:, ::2] = 255, 255, 0
    image = squash(Photo(stripes, np.zeros((24, 48), bool)), 6).image
    assert image.shape == (6, 6, 3) and image.dtype == np.uint8
    np.testing.assert_allclose(image[:, 1:-1].astype(int) - [127, 127, 0], 0, atol=8)  # bilinear alone: all or nothing


# ---- pictures and folders --------------------------------------------------------------------------------------------


def test_photos_are_read_as_rgb_and_not_turned_upright(tmp_path):
    grey = Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter to see it upright
    grey.save(tmp_path / "grey.png", exif=exif)
    grey.convert("RGBA").save(tmp_path / "rgba.png")
    for name in ("grey.png", "rgba.png"):
        image = Toy(tmp_path).read_image(name)
        assert image.shape == (3, 4, 3) and image[2, 3].tolist() == [11, 11, 11]


def test_labels_are_palette_indices_and_not_colours(tmp_path):
    labels = np.array([[0, 1, 255]], np.uint8)
    picture = Image.fromarray(labels, "L")
    picture.save(tmp_path / "grey.png")
    picture.putpalette([200, 10, 30] * 256)
    picture.save(tmp_path / "palette.png")
    for name in ("grey.png", "palette.png"):
        assert Toy(tmp_path).read_labels(name).tolist() == labels.tolist()


@pytest.mark.parametrize("read", [Toy.read_image, Toy.read_labels])
def test_pictures_that_cannot_be_read_are_named(tmp_path, read):
    (tmp_path / "text.jpg").write_text("not a picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:600])
    bomb = bytearray((tmp_path / "cut.png").read_bytes())
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)  # width and height
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    (tmp_path / "bomb.png").write_bytes(bomb)
    for name in ("text.jpg", "cut.png", "bomb.png"):
        with pytest.raises(DatasetError, match=rf"{name} cannot be read .* Ask the toymaker"):
            read(Toy(tmp_path), name)
    with pytest.raises(DatasetError, match=r"gone\.jpg is missing: .*check toy"):
        read(Toy(tmp_path), "gone.jpg")


def test_an_episode_is_loaded_in_its_order(tmp_path):
    for value in (10, 20, 200):
        Image.fromarray(np.full((2, 2, 3), value, np.uint8)).save(tmp_path / f"{value}.png")
    episode = Episode("0/00000", 0, 0, "thing", Item("200.png"), (Item("20.png"), Item("10.png"), Item("20.png")))
    query, supports = Toy(tmp_path).load(episode)
    assert query.image[0, 0, 0] == 200 and query.mask.all()
    assert [support.image[0, 0, 0] for support in supports] == [20, 10, 20]


def test_folders_and_folds_that_are_not_there_are_explained(tmp_path):
    with pytest.raises(DatasetError, match=r"nowhere is not a folder: .*Toy set\. Ask the toymaker"):
        Toy(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"Toy set has no fold 2: choose one of: 0, 1"):
        require_fold(Toy(tmp_path), 2)
    require_fold(Toy(tmp_path), 1)
