"""Scenes of large photos, and what is counted in them."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image
from typer.testing import CliRunner

from prmagic.datasets.own import Own
from prmagic.io.formats import rle
from tiles import CELL, SIDE, app, is_one_thing, judged, pasted


def test_things_lie_where_their_photos_were_pasted(own):
    scenes = list(pasted(Own(own, "test"), wanted=2))
    assert [scene.name for scene in scenes] == ["cat", "dog"]
    for scene in scenes:
        assert scene.image.shape == (SIDE * CELL, SIDE * CELL, 3)
        assert len(scene.things) == 2 and sum(mask is not None for _, mask in scene.photos) == 2
        for thing in scene.things:
            assert scene.image[thing].mean() > 120  # the things are bright
        assert not any(np.array_equal(image, scene.example.image) for image, _ in scene.photos)


def test_a_thing_counts_as_found_from_half_its_pixels():
    def strip(start, end):
        mask = np.zeros((10, 20), bool)
        mask[:, start:end] = True
        return mask

    told = judged([strip(0, 10), strip(15, 20)], [strip(0, 10), strip(12, 20), strip(10, 12)])
    assert told == {"ious": [1.0, 5 / 8, 0.0], "wrong": 0}
    assert judged([], [strip(0, 5)]) == {"ious": [0.0], "wrong": 0}
    assert judged([strip(0, 5)], []) == {"ious": [], "wrong": 1}


def test_two_pieces_are_not_one_thing():
    mask = np.zeros((20, 20), bool)
    mask[:5, :5] = True
    assert is_one_thing(mask)
    mask[10:15, :5] = True
    assert not is_one_thing(mask)


def test_scattered_things_are_scored(own):
    where = ["--data", str(own), "--split", "test", "--category", "cat", "--out", "large"]
    made = CliRunner().invoke(app, ["scatter", *where, "--width", "600", "--height", "450", "--things", "3"])
    assert made.exit_code == 0, made.output
    labels = np.asarray(Image.open("large/truth.png"))
    masks = [labels == number for number in (1, 2)] + [np.roll(labels == 3, 100)]
    things = [{"mask": rle(mask), "box": [0, 0, 600, 450]} for mask in masks]
    (own.parent / "results.jsonl").write_text(json.dumps({"instances": things}) + "\n")
    told = CliRunner().invoke(app, ["score", ".", "large/truth.png"]).output
    assert told.startswith("2 of 3 found, 1 wrong")
