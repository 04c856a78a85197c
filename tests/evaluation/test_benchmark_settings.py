"""The published settings of each benchmark, and what `prmagic evaluate --preset` makes of them."""

from __future__ import annotations

import pytest
from miniatures import (
    HEIGHT,
    SAM,
    WIDTH,
    coco_data,
    counted,
    datasets,
    dis_release,
    evaluate,
    fss_data,
    pascal_data,
    records,
    run_json,
    scene,
)

import prmagic
from prmagic import Support
from prmagic.datasets import open_dataset
from prmagic.datasets.base import squash
from prmagic.evaluation.benchmark_settings import PARTS, TABLE, benchmark_settings
from prmagic.loading import settings_of

PAPER_ETA = {"fss": 1e-3, "coco": 1e-3, "lvis": 1e-3, "paco": 1e-4, "pascal-part": 1e-4, "dis5k": 1e-4}
# alpha, beta, exponent, num_merging_mask, num_centers of PR-MaGIC's scripts/launch_matcher_pr.py
PAPER_MATCHER = {
    "fss": (0.8, 0.2, 1, 10, 8), "coco": (1, 0, 0, 9, 8), "lvis": (1, 0, 0, 9, 8), "paco": (0.5, 0.5, 0, 5, 5),
    "pascal-part": (0.5, 0.5, 0, 5, 5), "dis5k": (0.8, 0.2, 1, 10, 5),
}  # fmt: skip


def value(framework, preset, benchmark, name):
    """With which a framework runs."""
    own = benchmark_settings(framework, preset, benchmark).options
    return own.get(name, settings_of(framework, preset)[name].default)


@pytest.mark.parametrize("benchmark", PAPER_ETA)
def test_paper_is_what_the_published_launchers_pass(benchmark):
    for framework in ("persam", "persam-f", "matcher"):
        assert value(framework, "paper", benchmark, "eta") == PAPER_ETA[benchmark]
        assert benchmark_settings(framework, "paper", benchmark).size == 518
    assert value("persam-f", "paper", benchmark, "points") == (3 if benchmark in PARTS else 5)
    names = ("alpha", "beta", "exponent", "merge", "centers")
    found = tuple(value("matcher", "paper", benchmark, name) for name in names)
    assert found == PAPER_MATCHER[benchmark]
    assert value("matcher", "paper", benchmark, "subset_sizes") == (4, 6)


@pytest.mark.parametrize(
    "name, values",
    [
        ("random_subsets", (64, 30, 128)),
        ("subset_sizes", ((1, 6), (4, 6), (3, 6))),
        ("centers", (None, 8, None)),
        ("box", (False, False, True)),
        ("dense_grid", (64, 0, 0)),
        ("box_nms", (0.65, 1.0, 1.0)),
        ("channels", ((0, 1, 2), None, None)),
        ("min_predicted_iou", (0.85, 0, 0)),
        ("min_stability", (0.9, 0, 0)),
        ("min_purity", (0.02, 0, 0)),
        ("min_coverage", (0, 0, 0.3)),
        ("score_filter", ((0.33, 0.1), None, None)),
        ("min_relative_score", (0, 0.7, 0.7)),
        ("alpha", (1, 0.8, 0.5)),
        ("beta", (0, 0.2, 0.5)),
        ("exponent", (0, 1, 0)),
        ("merge", (9, 10, 5)),
        ("merge_few_shot", (5, 5, None)),
        ("eta", (1e-3, 1e-3, 1e-4)),
    ],
)
def test_official_is_what_matchers_scripts_pass(name, values):
    assert tuple(value("matcher", "official", benchmark, name) for benchmark in ("coco", "fss", "paco")) == values


def test_every_option_can_be_set():
    for (framework, preset), by_benchmark in TABLE.items():
        for options in by_benchmark.values():
            assert set(options) <= set(settings_of(framework, preset))


def test_nothing_is_changed_where_nothing_is_published():
    assert benchmark_settings("mine.py:Mine", "default", "paco") == benchmark_settings("persam", "default", "coco")
    assert benchmark_settings("matcher", "paper", "own").options == {}


def test_paper_is_the_benchmarks_own_and_squashes(work):
    data = fss_data(work / "data")
    evaluate("fss", "--limit", 2)
    assert run_json()["settings"]["preset"] == "default" and run_json()["size"] is None
    assert [(r["pixels"], r["object"]) for r in records()] == [
        (HEIGHT * WIDTH, scene(number)[1].sum()) for number in (1, 10)
    ]
    evaluate("fss", "--limit", 2, "--preset", "paper", out="paper")
    assert run_json("paper")["settings"]["preset"] == "paper" and run_json("paper")["size"] == 518
    episode = open_dataset("fss", data).episodes(0, 1, 42)[1]
    query, support = (
        squash(open_dataset("fss", data).photo(item, "ant"), 518) for item in (episode.query, *episode.supports)
    )
    record = records("paper")[1]
    assert record["pixels"] == 518 * 518 and record["object"] == query.mask.sum()
    assert record["support_pixels"] == [support.mask.sum()]
    segmenter = prmagic.load("persam", sam=SAM, steps=1, seed=42, preset="paper")
    reference = segmenter.encode_support(Support(support.image, support.mask))
    (encoded,) = segmenter.encode([query.image])
    result = segmenter.segment_encoded(episode.id, "ant", encoded, reference, episode.id)
    assert record["areas"] == [counted(candidate.mask, query.mask) for candidate in result.candidates]
    evaluate("fss", "--limit", 1, "--preset", "paper", "--size", 100, out="small")
    assert records("small")[0]["pixels"] == 100 * 100


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_the_benchmarks_settings_are_recorded_and_explicit_ones_win(work, encoder_folder, preset):
    fss_data(work / "data")
    matcher = ("--framework", "matcher", "--encoder", encoder_folder, "--preset", preset, "--limit", 1, "--steps", 0)
    evaluate("fss", *matcher, "--size", 64, "--set", "merge=3")
    written = run_json()["settings"]
    assert written["preset"] == preset and run_json()["size"] == 64
    assert (written["settings"]["alpha"], written["settings"]["exponent"], written["settings"]["merge"]) == (0.8, 1, 3)
    assert written["settings"]["centers"] == 8


@pytest.mark.parametrize(
    "benchmark, preset, eta, size",
    [("coco", "paper", 1e-3, 518), ("dis5k", "paper", 1e-4, 518), ("dis5k", "default", 1e-3, None),
     ("pascal", "paper", 1e-3, 518)],
)  # fmt: skip
def test_the_preset_of_a_benchmark(work, benchmark, preset, eta, size):
    if benchmark == "dis5k":
        dis_release(work)
        datasets("prepare", "dis5k", "--train", "DIS-TR", "--test", "DIS-TE1", "--test", "DIS-TE2", "--out", "data")
    else:
        {"coco": coco_data, "pascal": pascal_data}[benchmark](work / "data")
    evaluate(benchmark, "--preset", preset, "--folds", {"pascal": 1}.get(benchmark, 0), "--limit", 1, "--steps", 0)
    written = run_json()
    assert written["settings"]["preset"] == preset and written["size"] == size
    flow = written["settings"]["flow"]
    assert (flow["eta"], flow["rho"], flow["mode"]) == (eta, None, "spread" if preset == "default" else "full")
    (record,) = records()
    if benchmark != "pascal":
        assert record["pixels"] == (size * size if size else HEIGHT * WIDTH)


def test_gf_sam_is_measured_at_the_size_of_its_own_loaders():
    assert benchmark_settings("gf-sam", "paper", "coco").size == 1024
    assert benchmark_settings("gf-sam", "default", "coco").size is None
