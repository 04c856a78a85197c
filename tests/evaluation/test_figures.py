"""The report's figures, and its strips of photos."""

from __future__ import annotations

import json

import numpy as np
import pytest
from handmade_runs import THREE, episode, report
from matplotlib.figure import Figure
from PIL import Image

from prmagic.evaluation.figures import _gains
from prmagic.evaluation.records import read_masks, read_run
from prmagic.evaluation.summary import summarise
from prmagic.io.formats import rle


def test_figures_of_each_run_and_a_reason_for_missing_strips(make, tmp_path):
    a, b, out = make(name="x/run"), make([THREE[2]], name="y/run", shots=5), tmp_path / "out"
    result = report(a, b, "--out", out)
    assert sorted(str(file.relative_to(out)) for file in out.glob("**/*.png")) == [
        f"{folder}/{name}.png" for folder in ("1-run", "2-run") for name in ("gains", "scatter", "steps")
    ]
    assert f"{a} gets no strips of photos: the run kept no masks" in result.stderr
    assert str(b) not in result.stderr  # where T equals B there is nothing to show


@pytest.fixture
def pictured(make, tmp_path):
    """A run on a folder of the user's own, with masks: a better episode and a worse one, for two seeds."""
    data = tmp_path / "data"
    square = np.zeros((40, 60), bool)
    square[10:30, 20:40] = True
    for name in "abc":
        for kind, pixels in (("images", np.full((40, 60, 3), 120, np.uint8)), ("masks", np.uint8(square) * 255)):
            (data / "a $cat_" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(data / "a $cat_" / kind / f"{name}.png")
    half = square.copy()
    half[20:] = False
    sizes = {"pixels": 2400, "object": 400}
    better, worse = [[2000, 2200, 200, 400], [2000, 2000, 400, 400]], [[2000, 2000, 400, 400], [2000, 2200, 200, 400]]
    lines, masks = [], []
    for seed in (42, 43):
        for id, areas, order in (("0/00000", better, [0, 1]), ("0/00001", worse, [1, 0])):
            query, support = f"a $cat_/images/{'ab'[int(id[-1])]}.png", "a $cat_/images/c.png"
            lines.append(episode(id, "a $cat_", seed=seed, areas=areas, query=query, supports=[support], **sizes))
            masks.append({"seed": seed, "episode": id, "masks": [rle(half), rle(square)], "candidates": order})
    folder = make(lines, benchmark="own", title="own data")
    (folder / "masks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in masks) + '{"seed": 42, "epi')
    return folder


def red(picture):
    """Pixels with the tint of a mask, of a grey photo."""
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    return int(((pixels[..., 0] - pixels[..., 1] > 40) & (pixels[..., 1] < 120)).sum())


def test_strips_show_the_worst_and_the_best_episode_once(pictured, tmp_path):
    out = tmp_path / "out"
    result = report(pictured, "--out", out)
    assert "no strips" not in result.stderr
    for name, refined in (("regressions", 0.5), ("rescues", 2)):
        with Image.open(out / f"{name}.png") as picture:
            assert picture.width > 4 * 400 and picture.height < 600  # one row: the seeds share the episode
            width = picture.width // 4
            support, b, t, truth = (
                red(picture.crop((i * width, 0, (i + 1) * width, picture.height))) for i in range(4)
            )
        assert t / b == pytest.approx(refined, rel=0.15)
        assert support == pytest.approx(truth, rel=0.05)
    found = read_masks(pictured, {(43, "0/00001")})
    assert [mask.sum() for mask in found[43, "0/00001"]] == [400, 200]


def test_no_strips_when_the_data_is_gone_or_other_data(pictured, tmp_path):
    data = (tmp_path / "data").rename(tmp_path / "moved")
    out = tmp_path / "out"
    assert "gets no strips of photos: " in report(pictured, "--out", out).stderr
    assert not (out / "rescues.png").exists()
    assert "no strips" not in report(pictured, "--out", out, "--data", data).stderr
    assert (out / "rescues.png").exists()
    for kind in ("images", "masks"):
        for file in (data / "a $cat_" / kind).iterdir():
            Image.open(file).resize((30, 20), Image.Resampling.NEAREST).save(file)
    assert "this is not the data of the run" in report(pictured, "--out", out, "--data", data).stderr


def test_strips_of_a_run_on_squashed_photos(pictured, tmp_path):
    run = json.loads((pictured / "run.json").read_text())
    (pictured / "run.json").write_text(json.dumps({**run, "size": 32}))
    lines = [json.loads(line) for line in (pictured / "masks.jsonl").read_text().splitlines()[:-1]]
    square = np.zeros((32, 32), bool)
    square[8:24, 10:22] = True
    for line in lines:
        line["masks"] = [rle(square), rle(~square)]
    (pictured / "masks.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "no strips" not in report(pictured, "--out", tmp_path / "out").stderr
    assert (tmp_path / "out" / "regressions.png").exists()


def test_all_ticks_of_an_axis_have_one_size(make):
    lines = [episode(f"0/{n:05}", "cat", 50, [(40, 40), (40, 40 - n)], chosen=1) for n in range(1, 6)]
    axes = Figure().add_subplot()
    _gains(axes, summarise(read_run(make(lines))))
    labels = [*axes.get_yticklabels(), *axes.get_yticklabels(minor=True), *axes.get_xticklabels()]
    assert {label.get_size() for label in labels} == {8}
