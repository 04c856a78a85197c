"""`prmagic models`, and that the docs say the same."""

import json
import re
from pathlib import Path
from statistics import median

import pytest
from command_line import SAM, run

from prmagic.backbones.checkpoints import KNOWN, KNOWN_ENCODERS, KNOWN_SAMS, Cost
from prmagic.cli.measure import measure_here

ROOT = Path(__file__).parents[2]


def test_models():
    result = run("models")
    assert result.exit_code == 0
    for title, known in (("--sam", KNOWN_SAMS), ("--encoder", KNOWN_ENCODERS)):
        shown = [line.split() for line in result.output.split(f"Models for {title}")[1].splitlines()]
        for model in known:
            row = next(i for i, words in enumerate(shown) if words[:1] == [model.name])  # whole, at 80 columns
            seconds = [f"{cost.seconds:g} s" if cost else "not" for cost in (model.encode, model.query)]
            memory = [f"{cost.memory:.1f} GB" if cost else "measured" for cost in (model.encode, model.query)]
            licence = model.licence + (", gated" if model.gated else "")
            download = f"{model.download} MB" if model.download else "none"
            upper = f"{model.name} {model.parameters} M {model.input_size} px {' '.join(seconds)}"
            assert " ".join(shown[row]) == upper
            assert " ".join(shown[row + 1]) == f"{licence} {download} {' '.join(memory)}"
            assert " ".join(shown[row + 2]) == model.remark or not model.remark
    assert "measured: on 2 cores of an AMD EPYC, float32, with random weights" in " ".join(result.output.split())


def test_the_page_on_models_says_the_same():
    rows = [
        [cell.strip(" `*") for cell in line.strip("|").split("|")]
        for line in (ROOT / "docs" / "models.md").read_text().splitlines()
    ]
    rows = [[name.partition("` (")[0], *others] for name, *others in rows]  # without a remark
    for model in (*KNOWN_SAMS, *KNOWN_ENCODERS):
        download = f"{model.download} MB" if model.download else "none"
        costs = [f"{c.seconds:g} s, {c.memory:.1f} GB" if c else "not measured" for c in (model.encode, model.query)]
        licence = f"{model.licence}; gated" if model.gated else model.licence
        assert [model.name, f"{model.parameters} M", f"{model.input_size} px", download, *costs, licence] in rows


def test_what_models_cost_is_what_was_measured():
    lines = [json.loads(line) for line in (ROOT / "research" / "speed" / "models.jsonl").read_text().splitlines()]
    record = {(line["kind"], line["name"]): line for line in lines}
    for kind, known in KNOWN.items():
        for model in known:
            line = record.get((kind, model.name))
            for what, cost in (("encode", model.encode), ("query", model.query)):
                seconds = line and float(f"{median(line[what]):.2g}")
                assert cost == (line and Cost(seconds, round(line["memory"][what], 1))), model.name


@pytest.mark.slow
def test_models_are_timed():
    result = run("models", "--measure", "no/such", "--threads", 1)
    assert result.exit_code == 1
    shown = " ".join(result.output.split())
    for kind in ("sam", "encoder"):
        row = rf"embedded [0-9.]+ s [0-9.]+ s ([0-9.]+ GB|unknown) --{kind}, cpu, torch, float32"
        assert re.search(row, shown), shown
    assert "no/such: no/such is not in the local cache" in shown


def test_what_a_model_is_need_not_be_said(encoder_folder):
    arguments = {"device": "cpu", "dtype": "float32", "runtime": "auto"}
    for name, kind in ((str(SAM), "sam"), (str(encoder_folder), "encoder")):
        found = measure_here(name, "", arguments, None)
        assert (found.name, found.kind, found.runtime) == (name, kind, "torch")
        assert 0 < found.encode < found.query


def test_names_are_for_measuring():
    result = run("models", "embedded")
    assert result.exit_code == 2 and "only --measure takes names of models" in result.output.lower()
