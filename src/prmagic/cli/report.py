"""`prmagic report`: tables and figures from the records of runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prmagic.cli import app, errors_for_people, say

if TYPE_CHECKING:
    from prmagic.evaluation.report import Summary

SUFFIXES = {"latex": "tex"}  # the other formats are their own


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders that `prmagic evaluate` wrote.")],
    format: Annotated[
        str,
        typer.Option(
            help="md or latex: tables; csv or json: every number in long form, a row per run, metric and quantity."
        ),
    ] = "md",
    selector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Choose T anew from the records: by the name of a recorded score, oracle, baseline, or "
            "FILE.py:FUNCTION, which gets arrays and returns a score for each candidate of each episode.",
            show_default="the run's",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write the report into this folder, and figures.", show_default=False)
    ] = None,
    figures: Annotated[
        bool | None,
        typer.Option(
            "--figures/--no-figures", help="Curves, and strips of photos, into --out.", show_default="with --out"
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="The data set's folder, for the strips.", show_default="as the run had it")
    ] = None,
    strips: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Worst and best episodes to show as photos.", show_default="3"),
    ] = None,
) -> None:
    """Print the paper's table, in the paper's metric and in the literature's, and all that a run has to tell.

    B is the framework's own result, T the chosen candidate, O the best one. Everything comes from the records: no model
    is run, and only the strips need the data.

    Example: prmagic report runs/coco runs/lvis --out report/
    """
    with errors_for_people():
        from prmagic.evaluation.report import FORMATS, summaries
        from prmagic.names import lookup

        write = lookup("format", format, FORMATS)
        if out is None and (figures or strips is not None or data is not None):
            raise ValueError("figures and strips need a folder: name one with --out")
        found = summaries(runs, selector)
        text = write(found)
        typer.echo(text, nl=False)
        if out is None:
            return
        out.mkdir(parents=True, exist_ok=True)
        file = out / f"report.{SUFFIXES.get(format, format)}"
        file.write_text(text, encoding="utf-8", newline="\n")
        if figures is not False:
            _draw(found, out, 3 if strips is None else strips, data)
        say(f"Written to {out}")


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
            say(f"{run.name} gets no strips of photos: {error}", "Note:")
