"""Episodes that cannot be segmented, empty masks, and files that are missing."""

from __future__ import annotations

import numpy as np
import pytest
from miniatures import (
    SAM,
    assert_equal_runs,
    counted,
    empty_mask,
    evaluate,
    fss_data,
    fss_episodes,
    masks_of,
    records,
    scene,
    timeless,
)

import prmagic
from prmagic.datasets import open_dataset
from prmagic.datasets.base import Item, squash
from prmagic.evaluation.benchmark_settings import published_supports
from prmagic.reference import Example


def test_an_episode_without_support_fails_and_the_rest_goes_on(work):
    fss_data(work / "data")
    empty_mask(3)
    listed = fss_episodes((1, 2), (4, 3), (3, 5), (6, 3, 7), (8, 9))
    said = evaluate("fss", *listed, code=1)
    assert "Failed 0/00001 (ant): the masks of all its supports are empty" in said
    assert "5 episode(s) done, 1 of them failed" in said
    found = records()
    assert [record["episode"] for record in found if "failed" in record] == ["0/00001"]
    assert {key for key in found[0] if key not in found[1]} == {
        "others", "areas", "predicted_iou", "scores", "chosen", "counts"
    }  # fmt: skip
    assert found[1]["failed"] == "the masks of all its supports are empty"
    assert found[1]["support_pixels"] == [0] and found[1]["object"] == scene(4)[1].sum()
    assert found[2]["object"] == 0  # a query without object is an episode
    assert len(found[2]["areas"]) == 2 + found[2]["others"]
    assert found[3]["support_pixels"] == [0, scene(7)[1].sum()]
    assert [episode for _, episode in masks_of()] == ["0/00000", "0/00002", "0/00003", "0/00004"]
    said = evaluate("fss", *listed, code=1)  # not tried again, but not forgotten
    assert "5 of 5 episodes are done already" in said and "1 of them failed" in said

    fss_episodes((1, 2), (4, 2), (3, 5), (6, 7), (8, 9))  # an empty support is as good as none
    evaluate("fss", *listed, out="other")
    assert records("other")[3]["areas"] == found[3]["areas"]


def example(empty):
    mask = np.zeros((40, 60), bool)
    mask[:5, :5] = not empty
    return Example(np.zeros((40, 60, 3), np.uint8), mask)


def test_published_matcher_marks_the_middle_where_no_support_has_a_mask():
    square = np.zeros((40, 60), bool)
    square[13:27, 23:37] = True
    for made in published_supports("matcher", [example(True), example(True)]):
        np.testing.assert_array_equal(made.mask, square)
    one = [example(True), example(False)]
    assert published_supports("matcher", one) == one and published_supports("persam", one[:1]) == one[:1]
    small = published_supports("matcher", [Example(np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), bool))])
    assert small[0].mask.all()


@pytest.mark.parametrize("framework", ["persam", "matcher"])
def test_empty_supports_as_published(work, encoder_folder, framework):
    data = fss_data(work / "data")
    empty_mask(3)
    empty_mask(4)
    encoder = {"encoder": encoder_folder} if framework == "matcher" else {}
    chosen = ("--framework", framework, "--steps", 0, *(("--encoder", encoder_folder) if encoder else ()))
    listed = fss_episodes((1, 3, 4), (2, 5, 3))
    evaluate("fss", *listed, *chosen, "--preset", "paper")
    first, second = records()
    assert first["support_pixels"] == [0, 0] and second["support_pixels"][1] == 0 < second["support_pixels"][0]
    more = {"alpha": 0.8, "beta": 0.2, "exponent": 1.0, "merge": 10} if encoder else {}
    segmenter = prmagic.load(framework, sam=SAM, steps=0, seed=42, preset="paper", **encoder, **more)
    photos = {n: squash(open_dataset("fss", data).photo(Item(f"data/ant/{n}.jpg"), "ant"), 518) for n in range(1, 6)}
    for record, query, supports in ((first, photos[1], (3, 4)), (second, photos[2], (5, 3))):
        examples = [Example(photos[n].image, photos[n].mask) for n in supports]
        reference = segmenter.encode_examples(published_supports(framework, examples))
        (encoded,) = segmenter.encode([query.image])
        result = segmenter.segment_encoded(record["episode"], "ant", encoded, reference, record["episode"])
        assert record["areas"] == [counted(candidate.mask, query.mask) for candidate in result.candidates]
    evaluate("fss", *listed, *chosen, out="by default", code=1)
    assert ["failed" in record for record in records("by default")] == [True, False]


@pytest.mark.parametrize("prefetch, damage, told", [(0, None, "is missing"), (2, 200, "cannot be read")])
def test_a_missing_photo_ends_the_run_which_goes_on_once_it_is_there(work, prefetch, damage, told):
    fss_data(work / "data")
    args = ("fss", *fss_episodes((1, 2), (3, 1), (4, 1), (2, 1), (5, 3)))
    evaluate(*args, out="whole")
    photo = work / "data/data/ant/4.jpg"
    there = photo.read_bytes()
    photo.unlink()
    if damage is not None:
        photo.write_bytes(there[:damage])
    assert f"Error: {photo} {told}" in evaluate(*args, "--prefetch", prefetch, code=2)
    assert timeless() == timeless("whole")[:2]  # all that came before
    photo.write_bytes(there)
    assert "2 of 5 episodes are done already" in evaluate(*args)
    assert_equal_runs("whole")
