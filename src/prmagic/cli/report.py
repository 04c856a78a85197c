"""`prmagic report`: tables and figures from the records of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prmagic.cli.terminal import errors_for_people, explain, say

if TYPE_CHECKING:
    from prmagic.evaluation.summary import Summary

SUFFIXES = {"latex": "tex"}  # the other formats are their own
FEW = 3  # episodes in a strip of photos

RUNS = Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders that `prmagic evaluate` wrote.")]
FORMAT = Annotated[
    str, typer.Option(help="md or latex: tables. csv or json: a row for each run, metric and quantity.")
]  # fmt: skip
SELECTOR = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Choose T again: by the name of a recorded score, oracle, baseline, or FILE.py:FUNCTION, which gets "
        "arrays and returns a score for each candidate of each episode.",
        show_default="the run's",
    ),
]
OUT = Annotated[
    Path | None, typer.Option(help="Also write the report, and figures, into this folder.", show_default=False)
]
FIGURES = Annotated[
    bool | None,
    typer.Option("--figures/--no-figures", help="Draw curves and strips of photos.", show_default="with --out"),
]
DATA = Annotated[
    Path | None,
    typer.Option(help="The benchmark's folder, for the strips.", show_default="the run's"),
]
STRIPS = Annotated[
    int | None, typer.Option(metavar="N", min=0, help="Worst and best episodes to show.", show_default=str(FEW))
]


def report(
    runs: RUNS,
    format: FORMAT = "md",
    selector: SELECTOR = None,
    out: OUT = None,
    figures: FIGURES = None,
    data: DATA = None,
    strips: STRIPS = None,
) -> None:
    """Print what runs of `prmagic evaluate` gave, in the paper's metric and in the literature's.

    B is the framework's own result, T the chosen candidate, O the best one. No model is run.

    Example: prmagic report runs/coco runs/lvis --out report/
    """
    with errors_for_people():
        from prmagic.evaluation.report import FORMATS
        from prmagic.evaluation.summary import summaries
        from prmagic.io.records import check_out
        from prmagic.names import lookup

        write = lookup("format", format, FORMATS)
        if out is None and (figures or strips is not None or data is not None):
            raise ValueError("figures and strips need a folder: name one with --out")
        if out is not None:
            check_out(out)
        of_instances = _of_instances(runs)
        if of_instances and (selector is not None or figures or strips is not None or data is not None):
            raise ValueError("runs of --instances have neither selectors nor figures: leave these options out")
        found = [] if of_instances else summaries(runs, selector)
        text = write(found) if found else _instance_report(runs, format)
        typer.echo(text, nl=False)
        if out is None:
            return
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"report.{SUFFIXES.get(format, format)}"
        file.write_text(text, encoding="utf-8", newline="\n")
        if found and figures is not False:
            _draw(found, out, FEW if strips is None else strips, data)
        say(f"Written to {out}")


def _of_instances(runs: list[Path]) -> bool:
    """Whether they are of `evaluate own --instances`, all of them or none."""
    from prmagic.evaluation.instances import is_instance_run

    kinds = {is_instance_run(run) for run in runs}
    if len(kinds) > 1:
        raise ValueError("some of these runs are of --instances, and some are not: report them apart")
    return kinds == {True}


def _instance_report(runs: list[Path], format: str) -> str:
    from prmagic.evaluation.instances import read_instance_run, report

    return report([read_instance_run(run) for run in runs], format)


def _draw(runs: list[Summary], out: Path, strips: int, data: Path | None) -> None:
    """Into `out`, for several runs into a folder each."""
    from prmagic.evaluation.figures import write_figures, write_strips

    names = [run.records.folder.resolve().name for run in runs]
    for number, (run, name) in enumerate(zip(runs, names, strict=True), start=1):
        own = name if names.count(name) == 1 else f"{number}-{name}"
        folder = out / own if len(runs) > 1 else out
        write_figures(run, folder)
        try:
            write_strips(run, folder, strips, data)
        except (ValueError, OSError) as error:
            say(f"{run.name} gets no strips of photos: {explain(error)}", "Note:")
