"""The commands on the benchmarks' pages are commands that exist; the numbers on them are those of the report."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

from prmagic.cli.main import app
from prmagic.datasets import DATASETS
from prmagic.evaluation.published_numbers import published_number

PAGES = sorted((Path(__file__).parents[2] / "docs" / "benchmarks").glob("*.md"))


def commands(page):
    text = "\n".join(re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    joined = text.replace("\\\n", " ")
    return [shlex.split(line)[1:] for line in joined.splitlines() if line.startswith("prmagic ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_can_be_given(page):
    assert commands(page)
    for args in commands(page):
        command, context = typer.main.get_command(app), None
        while hasattr(command, "commands"):
            name, *args = args
            command = command.commands[name]
        context = command.make_context(name, args)  # parses, and fails for an option that is not known
        assert context.params.get("benchmark", "own") in DATASETS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_published_numbers_are_those_of_the_report(page):
    pattern = r"\| (PR-MaGIC|Matcher|GF-SAM)[^|]*?, (\d)-shot \| (episode-mIoU|class-mIoU) \| ([\d.]+) \| ([\d.]*) ?\|"
    for line in page.read_text(encoding="utf-8").splitlines():
        if found := re.match(pattern, line):
            who, shots, metric, b, t = found.groups()
            name = "persam-f" if "PerSAM-F" in line else "gf-sam" if who == "GF-SAM" else "matcher"
            for quantity, printed in (("B", b), ("T", t)):
                if printed:
                    known = published_number(metric, quantity, name, int(shots), page.stem)
                    assert known is not None and float(printed) == pytest.approx(float(known), abs=0.051), line
