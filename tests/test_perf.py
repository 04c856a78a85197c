"""The measuring tool in perf/: what it counts, how it prices, and that a quick run makes a report."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

import cells
import masks
import models
import prmagic.demo
import results
from cells import Cell
from prmagic.backbones.checkpoints import EMBEDDED, KNOWN
from prmagic.frameworks.matching import subsets
from published import Calls, Units, price, published_calls
from results import Figures, Results

TOOL = Path(__file__).parents[1] / "perf" / "compare.py"


def record(cell: Cell, query: float, **changes: Any) -> dict[str, Any]:
    """SAM encodes in 10 s, DINOv2 in 2 s; a decode takes 0.1 s, with a graph 0.3 s; references 20 s."""
    matcher = cell.setup.startswith("matcher")
    measured = {
        "cell": vars(cell), "name": cell.name, "floor_sam": [9.0, 10.0, 90.0], "support": [20.0], "query": [query] * 3,
        "floor_encoder": [2.0] if matcher else [], "stages": {"encode": [10.0], "decode": [query - 10.0]},
        "counts": {"encodes": 1.0}, "decode": [0.1], "decode_in_batch": [0.05] if matcher else [],
        "gradient_decode": [0.3], "gradient_decode_alone": [0.2] if matcher else [],
        "subsets": 154 if matcher else 0, "distinct_prompts": 100.0, "distinct_candidates": 4.0, "areas": [0.2, 0.5],
        "peak_bytes": 3e9, "load": [1.0], "when": "2026-01-01 00:00", **changes,
    }  # fmt: skip
    return json.loads(json.dumps(measured))


def found_of(*records: dict[str, Any]) -> Results:
    about = dict.fromkeys(("cpu", "cores", "ram_gb", "system", "python", "torch", "threads", "prmagic", "code"), "?")
    return Results(about, {r["name"]: r for r in records})


def test_the_published_calls_are_those_that_were_counted():
    persam = published_calls("persam-f", 5)
    assert (persam.sam_encodes, persam.decodes + persam.gradient_decodes, persam.gradient_decodes) == (9, 1018, 5)
    assert published_calls("matcher", 5, 154) == Calls(6, 9, 0, 924)
    assert published_calls("matcher", 5, 6).gradient_decodes == 36


def test_eight_centres_give_154_subsets_a_step_and_five_give_six():
    for centers, sets in ((8, 154), (5, 6)):
        points = np.random.default_rng(0).random((centers, 2)).astype(np.float32)
        assert len(subsets(points, (4, 6), 30, None)) == sets  # type: ignore[arg-type]


def test_calls_are_priced_by_hand():
    assert price(Calls(9, 0, 1013, 5), Units(10, 2, 0.1, 0.3)) == pytest.approx(90 + 101.3 + 1.5)
    assert price(Calls(6, 9, 0, 924), Units(10, 2, 0.1, 0.3)) == pytest.approx(60 + 18 + 277.2)


def test_a_cell_s_figures_by_hand():
    matcher = Figures(record(Cell("vit-b", "matcher-8", labels=5), 50.0))
    assert (matcher.floor, matcher.least_floor) == (12, 11)  # medians, and the least of each
    assert matcher.published == pytest.approx(5 * (60 + 18 + 277.2))  # the published code does label by label
    assert matcher.published_one_by_one == pytest.approx(5 * (60 + 18 + 924 * 0.2))
    assert matcher.decodes == pytest.approx(100 * 0.05)
    assert matcher.rest == pytest.approx(50 - 10 - 5)
    slow_batch = Figures(record(Cell("vit-b", "matcher-8"), 50.0, decode_in_batch=[0.5]))
    assert slow_batch.decodes == pytest.approx(100 * 0.1)  # alone is cheaper
    assert slow_batch.rest == pytest.approx(0)  # 100 × 0.5 is more than the whole stage
    assert Figures(record(Cell("vit-b", "persam-f", steps=0), 11.0)).published is None
    assert Figures(record(Cell("vit-b", "persam-f"), 11.0)).published_one_by_one is None


def test_bars_are_judged_by_their_ratios():
    found = found_of(
        record(Cell("vit-b", "persam-f"), 13.0, peak_bytes=3.8e9),
        record(Cell("vit-b", "persam-f", steps=0), 11.0),
        record(Cell("vit-b", "persam-f", "reencode"), 60.0, peak_bytes=4e9),
        record(Cell("vit-b", "matcher-8"), 24.0),
    )
    bars = {(bar.number, bar.about): bar for bar in results.bars(found)}

    def met(number: int, *words: str) -> list[bool | None]:
        return [bar.met for (n, about), bar in bars.items() if n == number and all(word in about for word in words)]

    assert met(1, "PerSAM-F,", "pooled") == [True, False]  # 13 ÷ 10 of 1.35; (20 + 13) ÷ 10 of 2.5
    assert met(1, "PerSAM-F,", "reencode") == [False, False]  # 6 ÷ 1 of 1.35 + 4
    assert met(2, "pooled", "one query") == [False]  # 24 of 1.5 × 12 + 100 × 0.05 = 23
    assert met(2, "pooled", results.REST) == [False]  # 24 − 10 − 5 is more than a fifth of it
    assert met(3, "PerSAM-F,", "support included", "pooled") == [False]  # 192.8 ÷ 33 = 5.84
    assert met(3, "PerSAM-F,", "further", "pooled") == [True]  # 192.8 ÷ 13 = 14.8
    assert met(3, "PerSAM-F,", "further", "reencode") == [None]  # shown beside, without a bar
    assert met(4, "persam-f", "pooled") == [True]  # 3.8 ÷ 3
    assert met(4, "persam-f", "reencode") == [False]  # 4 ÷ 3
    assert met(5) == [None]


def test_a_report_has_every_cell_and_says_what_failed(tmp_path):
    found = found_of(*(record(cell, 13.0) for cell in cells.plan() if cell.size == "vit-b"))
    found.failed["vit-h/persam-f"] = "out of memory"
    results.write(found, tmp_path)
    text = (tmp_path / "RESULTS.md").read_text()
    assert "out of memory" in text and "### matcher-8-paper" in text and "bfloat16" in text
    for name in ("vit-b-steps", "vit-b-labels", "vit-b-queries", "vit-b-stages-persam"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size < 100_000
        assert f"figures/{name}.png" in text


def test_results_of_another_state_of_the_code_do_not_count(tmp_path):
    for entry in ({"about": {"code": "old"}}, {"record": record(Cell("vit-b", "persam-f"), 1.0)}, {"about": {}}):
        results.append(tmp_path, entry)
    assert not results.read(tmp_path).records


def test_masks_are_compared_pixel_by_pixel(tmp_path, monkeypatch):
    case = prmagic.demo.cases()[0]
    monkeypatch.setattr(prmagic.demo, "cases", lambda: [case])
    monkeypatch.setattr(masks, "FRAMEWORKS", ("persam-f",))
    monkeypatch.setattr(masks, "PRESETS", {"default": "reencode"})
    masks.store(tmp_path / "before.npz")
    assert [each.pixels for each in masks.compare(tmp_path / "before.npz", tmp_path / "before.npz")] == [0] * 6
    with np.load(tmp_path / "before.npz") as file:
        arrays = {name: file[name] for name in file.files}
    key = f"persam-f/default/{case.name}"
    arrays[f"{key}:masks"][2, 0] ^= 0b10100000  # two pixels of candidate 2
    arrays[f"{key}:points"][3, 0, 1] += 1.5
    np.savez(tmp_path / "after.npz", **arrays)
    found = masks.compare(tmp_path / "before.npz", tmp_path / "after.npz")
    assert [each.pixels for each in found] == [0, 0, 2, 0, 0, 0]
    assert [each.points for each in found] == pytest.approx([0, 0, 0, 1.5, 0, 0])


def test_files_that_cannot_be_compared_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", threads=1, **{"x:masks": np.zeros(1)})
    np.savez(tmp_path / "b.npz", threads=1, **{"y:masks": np.zeros(1)})
    np.savez(tmp_path / "c.npz", threads=2, **{"x:masks": np.zeros(1)})
    with pytest.raises(ValueError, match="different queries"):
        masks.compare(tmp_path / "a.npz", tmp_path / "b.npz")
    with pytest.raises(ValueError, match=r"--threads 1, .* with 2"):
        masks.compare(tmp_path / "a.npz", tmp_path / "c.npz")


@pytest.mark.slow
def test_a_quick_run_counts_right_and_is_not_repeated(tmp_path):
    command = [sys.executable, str(TOOL), "--quick", "--out", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True)
    found = {name: SimpleNamespace(**r) for name, r in results.read(tmp_path).records.items()}
    assert set(found) == {cell.name for cell in cells.quick()}
    refined, plain, reencoded, matcher = (found[cell.name] for cell in cells.quick())
    assert (plain.counts["encodes"], plain.counts["decodes"], plain.counts["gradient_decodes"]) == (1, 3, 0)
    assert refined.counts["encodes"] == 1
    assert refined.counts["gradient_decodes"] == 5
    # Three stages of six candidates, or of as many as are different.
    assert refined.distinct_prompts <= refined.counts["decodes"] - refined.counts["gradient_decodes"] <= 18
    assert reencoded.counts["encodes"] == 1 + reencoded.distinct_candidates
    assert (matcher.counts["encodes"], matcher.counts["encoder_encodes"], matcher.subsets) == (1, 1, 6)
    assert matcher.counts["decodes"] - matcher.counts["gradient_decodes"] <= 36
    for each in found.values():
        assert 0 < each.areas[0] <= each.areas[1] < 1
        spent = sum(median[0] for median in each.stages.values())
        assert 0.5 * each.query[0] < spent < 1.5 * each.query[0]
    assert "÷ floor" in (tmp_path / "RESULTS.md").read_text()
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "1 of" not in again.stdout


def test_the_measured_models_are_the_published_ones():
    """By the numbers of their parameters; all but the embedded ones, and the one that needs timm."""
    known = {model.name: model.parameters for group in KNOWN.values() for model in group if model.name != EMBEDDED}
    assert known.keys() - models.ARCHITECTURES.keys() == {"yonigozlan/EdgeTAM-hf"}
    for name, (model_class, config) in models.ARCHITECTURES.items():
        with torch.device("meta"):
            weights = model_class(config).parameters()
        assert round(sum(weight.numel() for weight in weights) / 1e6, 1) == known[name]


def test_random_weights_keep_a_model_alive():
    """The spread of its features is neither nothing nor beyond all bounds."""
    config = Dinov2Config(**models.DINOV2, **{**models.VIT["small"], "num_hidden_layers": 3})
    model = models.random_weights(Dinov2Model, config)
    features = model(torch.randn(1, 3, 56, 56)).last_hidden_state
    assert features.isfinite().all()
    assert 0.1 < features.std(1).mean() < 10
    assert (features[0, 1] - features[0, 2]).abs().max() > 0.1


def test_a_model_is_measured_once_and_shown(tmp_path, capsys, monkeypatch):
    record = tmp_path / "record.jsonl"
    command = ["models.py", "--record", str(record)]
    monkeypatch.setattr(models, "KNOWN", {"sam": KNOWN["sam"]})
    monkeypatch.setattr(sys, "argv", [*command, "--only", EMBEDDED])
    models.main()
    (line,) = (json.loads(line) for line in record.read_text().splitlines())
    assert (line["kind"], line["name"]) == ("sam", EMBEDDED)
    assert min(line["encode"]) > 0 and min(line["query"]) > 0
    assert 0.1 < line["memory"]["libraries"] <= line["memory"]["encode"] <= line["memory"]["query"] < 10
    assert line["counts"]["encodes"] == 1
    models.main()
    assert len(record.read_text().splitlines()) == 1
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*command, "--table"])
    models.main()
    assert capsys.readouterr().out.count(f"| `{EMBEDDED}` |") == 1
