"""The command `prmagic`: all commands, each from a file of its name."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from prmagic.cli import app as page
from prmagic.cli import datasets, demo, evaluate, export, models, report, segment
from prmagic.cli import serve as server
from prmagic.cli.old_names import COMMANDS
from prmagic.cli.options import Command
from prmagic.cli.sources import SegmentCommand
from prmagic.cli.terminal import errors_for_people


class _Commands(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            with errors_for_people():
                raise ValueError(COMMANDS[args[0]])
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="prmagic",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from prmagic import __version__

        typer.echo(f"prmagic {__version__}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Show it one photo with a mask, and it finds the same thing in your other photos."""


app.command(cls=SegmentCommand)(segment.segment)
app.command()(demo.demo)
app.command("app", cls=Command)(page.serve_page)
app.command("serve", cls=Command)(server.serve)
app.command()(export.export)
app.command()(models.models)
app.command(cls=Command)(evaluate.evaluate)
app.command()(report.report)
app.add_typer(datasets.datasets, name="datasets")


def main() -> None:
    """Run the command line on this process's arguments."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the help has letters that a pipe on Windows may not know
    app(prog_name="prmagic")
