"""What `prmagic segment` learns from, and what it is called."""

import shutil
from pathlib import Path

import pytest
from command_line import (
    CAT,
    DOG,
    FAST,
    GOLDEN,
    check_results,
    coco_labels,
    contents,
    lines,
    picture,
    queries,
    records,
    run,
    save,
    segment,
)

from prmagic.cli.sources import sources_by_label


def test_two_labels(work):
    said = segment("photos/b.jpg", *CAT, *DOG, "--steps", 1, "--save-reference", "kept.ref", support=None)
    assert "1 photo(s) segmented" in said
    assert [(line["query"], line["label"]) for line in lines()] == [("b.jpg", "cat"), ("b.jpg", "dog")]
    assert sorted(contents(kinds=("masks", "overlays", "candidates"))) == [
        f"{kind}/{label}/b.{suffix}"
        for kind, suffix in (("candidates", "png"), ("masks", "png"), ("overlays", "jpg"))
        for label in ("cat", "dog")
    ]
    check_results(labels=2)
    by_reference = ("--reference", "kept-cat.ref", "--label", "kept", "--reference", "kept-dog.ref", "--label", "dog")
    segment("photos/b.jpg", *by_reference, *FAST, support=None, out="loaded")
    assert {line["label"] for line in lines("loaded")} == {"kept", "dog"}

    segment("photos/b.jpg", *CAT, *FAST, support=None, out="cat alone")
    segment("photos/b.jpg", *CAT, *DOG, *FAST, "--overlaps", support=None, out="shared")
    (alone,) = lines("cat alone")
    assert {**alone, "mask": "masks/cat/b.png"} in lines("shared")
    cat, dog = (picture(f"found/masks/{label}/b.png") > 0 for label in ("cat", "dog"))
    both = [picture(f"shared/masks/{label}/b.png") > 0 for label in ("cat", "dog")]
    assert (both[0] & both[1]).any()
    assert not (cat & dog).any()
    assert ((cat | dog) == (both[0] | both[1])).all()
    assert "overlaps was false, now it is true" in segment(
        "photos/b.jpg", *CAT, *DOG, *FAST, "--overlaps", support=None, code=2
    )

    labels_first = ("--label", "cat", "--support", "cat.png", "cat_mask.png",
                    "--label=dog", "--support", "photos/a.png", "cat_mask.png")  # fmt: skip
    segment("photos/b.jpg", *labels_first, *FAST, support=None, out="turned")
    assert contents("turned") == contents()


def test_several_supports_of_one_label(work):
    segment("photos/b.jpg", "--support", "photos/a.png", "cat_mask.png", *FAST)
    segment("photos/b.jpg", *FAST, out="of one")
    assert [line["label"] for line in lines()] == ["object"]
    assert records() != records("of one")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a\\b", "a:b", "new\nline", "\x1b[31m", "end.", "end ", "nul\0"]
)
def test_unsafe_labels(work, name):
    assert "becomes a folder's name" in segment("photos", "--label", name, code=2)
    assert not Path("found").exists()


@pytest.mark.parametrize("second", ["cat", "Cat"])
def test_a_label_given_twice(work, second):
    more = ("--support", "photos/a.png", "cat_mask.png", "--label", second)
    assert "is given twice" in segment("photos", *CAT, *more, support=None, code=2)


@pytest.mark.parametrize(
    "args, said",
    [
        ((), "Say what to look for"),
        (("--label", "cat"), "--label cat has nothing to name"),
        ((*CAT, "--label", "dog"), "--label dog has nothing to name"),
        ((*CAT, "--support", "photos/a.png", "cat_mask.png"), "put a --label behind each label's supports"),
        (("--support", "cat.png"), "--support takes two files"),
        (("--support=cat.png", "cat_mask.png"), "--support takes two files"),
        (("--support", "--label", "cat", "cat_mask.png"), "--support takes two files"),
        (("--support", "cat.png", "--label", "cat_mask.png"), "--support takes two files"),
    ],
)
def test_supports_and_labels_that_do_not_match(work, args, said):
    assert said in segment("photos", *args, support=None, code=2)
    assert not Path("found").exists()


@pytest.mark.parametrize("last", [("--support",), ("--support", "cat.png"), ("--label",), ("--reference",)])
def test_an_option_as_the_last_word_without_its_value(work, last):
    assert run("segment", "photos", "--out", "x", *last).exit_code == 2


def test_labels_name_what_is_before_them():
    def grouped(*given, saved=""):
        return sources_by_label(given, lambda file: saved)

    support, other, label = ("support", ("s", "m")), ("support", ("t", "n")), ("label", ("cat",))
    assert grouped(support, other, label)["cat"].supports == [("s", "m"), ("t", "n")]
    assert grouped(label, support, other)["cat"].supports == [("s", "m"), ("t", "n")]
    two = grouped(("label", ("a",)), support, ("label", ("b",)), other)
    assert {name: source.supports for name, source in two.items()} == {"a": [("s", "m")], "b": [("t", "n")]}
    one, another = ("reference", ("x/r.ref",)), ("reference", ("q.ref",))
    assert list(grouped(one, another, label)) == ["r", "cat"]
    assert list(grouped(support, ("reference", ("r.ref",)))) == ["r", "object"]
    assert list(grouped(one)) == ["object"]
    assert list(grouped(one, saved="dog")) == ["dog"]
    assert list(grouped(one, another, label, saved="dog")) == ["dog", "cat"]


# Out of labels


def test_supports_from_coco_are_as_good_as_files(work, labels):
    segment("photos/a.png", *FAST, "--label", "cat", out="files")
    coco = ("--support-coco", "labels.json", "--category", "cat", "--limit", 1)
    segment("photos/a.png", *FAST, *coco, support=None, out="coco")
    assert contents("coco") == contents("files")
    assert {line["label"] for line in lines("coco")} == {"cat"}  # the category's name
    segment("photos/a.png", *FAST, *coco, "--label", "feline", support=None, out="named")
    assert {line["label"] for line in lines("named")} == {"feline"}


@pytest.mark.filterwarnings("default:.*left out")
def test_supports_from_a_folder_are_as_good_as_files(work):
    shutil.copy("cat.png", "photos")
    shutil.copy("cat_mask.png", "photos")
    segment("photos", *FAST, support=("photos/cat.png", "photos/cat_mask.png"), out="files")
    said = segment("photos", *FAST, "--support-dir", "photos", support=None, out="folder")
    assert contents("folder") == contents("files")
    assert "photos: left out, as they have no partner: a.png, b.jpg" in said
    assert "cat_mask.png" not in queries("folder")


@pytest.mark.filterwarnings("default:.*left out")
def test_several_labels_from_labels(work, labels):
    coco = ("--support-coco", "labels.json", "--category")
    segment("photos/a.png", *FAST, *coco, "cat", *coco, "dog", support=None)
    assert [line["label"] for line in lines()] == ["cat", "dog"]
    mixed = (*coco, "dog", "--support-images", ".", "--label", "dog", "--support", "cat.png", "cat_mask.png")
    segment("photos/a.png", *FAST, *mixed, "--label", "cat", support=None, out="mixed")
    assert [line["label"] for line in lines("mixed")] == ["dog", "cat"]
    segment("photos/a.png", *FAST, "--support-dir", ".", "--label", "pair", *coco, "dog", support=None, out="both")
    assert [line["label"] for line in lines("both")] == ["pair", "dog"]
    dog = [line["candidates"] for out in ("found", "mixed", "both") for line in lines(out) if line["label"] == "dog"]
    assert dog[0] == dog[1] == dog[2]
    segment("photos/a.png", *FAST, *coco, "cat", "--save-reference", "cat.safetensors", support=None, out="saved")
    segment("photos/a.png", *FAST, "--reference", "cat.safetensors", support=None, out="again")
    assert lines("again") == lines("saved")


@pytest.mark.parametrize(
    "args, told",
    [
        (["--support-coco", "labels.json"], "ay which category of labels.json to learn, with --category: it has cat"),
        (["--support-coco", "labels.json", "--category", "act"], "did you mean 'cat'"),
        (["--support-coco", "none.json", "--category", "cat"], "none.json"),
        (["--category", "cat", "--support-coco", "labels.json"], "Put --category behind the --support-coco"),
        (["--support-dir", ".", "--category", "cat"], "Put --category behind the --support-coco"),
        (["--support", "cat.png", "cat_mask.png", "--limit", "1"], "behind the --support-coco or --support-dir"),
        (["--support-coco", "labels.json", "--category", "a", "--category", "b"], "--category is given twice"),
        (["--support-coco", "labels.json", "--category", "cat", "--limit", "0"], "--limit must be at least 1; got 0"),
        (["--support-coco", "labels.json", "--category", "cat", "--limit", "x"], "valid integer"),
        (["--support-coco", "labels.json", "--category", "cat", "--mask-value", "1"], "--mask-value is for masks in"),
        (["--support-coco", "labels.json", "--category", "cat", "--support-images", "photos"], "cat.png"),
        (["--support-dir", "photos"], "has no photo with a mask of the same name"),
        (["--support-dir", "."], "2 photo"),
        (
            ["--support-coco", "labels.json", "--category", "cat", "--reference", "r", "--label", "x"],
            "both supports and a saved reference",
        ),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used(work, labels, args, told):
    if told == "2 photo":
        shutil.copy("cat.png", "cat.jpg")
        told = "not clear which is the photo and which its mask"
    assert told in segment("photos/a.png", *FAST, *args, support=None, code=2)
    assert not Path("found").exists()


def test_a_category_that_is_no_name_for_a_folder(work):
    coco_labels(work / "labels.json", {("cat.png", "a/b"): GOLDEN["support_mask"].astype(bool)}, ["a/b"])
    coco = ("--support-coco", "labels.json", "--category", "a/b")
    assert "choose another with --label" in segment("photos/a.png", *FAST, *coco, support=None, code=2)
    segment("photos/a.png", *FAST, *coco, "--label", "ab", support=None)


def test_mask_value(work):
    values = GOLDEN["support_mask"].astype("uint8") * 7
    values[:5, :5] = 3
    save(values, work / "labels.png")
    segment("photos/a.png", *FAST)
    segment("photos/a.png", *FAST, "--mask-value", 7, support=("cat.png", "labels.png"), out="seven")
    segment("photos/a.png", *FAST, "--mask-value", 3, support=("cat.png", "labels.png"), out="three")
    assert records("seven") == records() != records("three")
    said = segment("photos/a.png", "--mask-value", 9, support=("cat.png", "labels.png"), out="nine", code=2)
    assert "has no label 9: choose one of 0, 3, 7" in said


def test_a_label_that_lost_all_its_pixels_to_another_is_told(work):
    """Two equal examples: the first label has everything."""
    same = ("--support", "cat.png", "cat_mask.png", "--label", "same")
    said = segment("photos/a.png", *FAST, *CAT, *same, support=None, out="both")
    assert "1 mask(s) empty (1 as other labels have all its pixels)" in said
    cat, other = lines("both")
    assert (cat["found"], cat["given_away"]) == (True, 0)
    assert not other["found"] and other["given_away"] == cat["candidates"][cat["chosen"]]["area"]
    check_results("both", labels=2)
    segment("photos/a.png", *FAST, *CAT, *same, "--overlaps", support=None, out="overlaps")
    assert [line["given_away"] for line in lines("overlaps")] == [0, 0]
