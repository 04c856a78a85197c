"""The command line. One file per command."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

CONSOLE = Console(stderr=True, highlight=False)


def say(text: str, heading: str = "") -> None:
    """A line for people. The text stays as it is: file names may look like markup, and are for copying."""
    CONSOLE.print(Text.assemble((heading, "bold red"), " " * bool(heading), text), soft_wrap=True)


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.2f}/s" if task.speed else "–")


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """On the terminal, with what is left; none if there is nothing to do."""
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
    with Progress(*columns, console=CONSOLE, disable=not total) as progress:
        yield progress, progress.add_task("", total=total)


@contextmanager
def errors_for_people(interrupted: str = "Interrupted.") -> Iterator[None]:
    """Bad input ends the command with one sentence and exit code 2, an interrupt with 130; never with a traceback.

    RuntimeError is what broken checkpoints raise, and torch when memory runs out."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: say(str(message), "Note:")
        try:
            yield
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            if os.environ.get("PRMAGIC_DEBUG"):
                raise
            say(_sentence(error), "Error:")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say(interrupted)
            raise typer.Exit(130) from None


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error) or type(error).__name__


class _App(typer.Typer):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if hasattr(sys.stdout, "reconfigure"):
            sys.stdout.reconfigure(errors="replace")  # the help has a γ, which a pipe on Windows may not know
        return super().__call__(*args, **kwargs)


app = _App(
    name="prmagic",
    help="Show it one photo with a mask, and it finds the same thing in your other photos.",
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
def main(
    version: bool = typer.Option(False, "--version", help="Show the version.", callback=_version, is_eager=True),
) -> None:
    """Show it one photo with a mask, and it finds the same thing in your other photos."""


from prmagic.cli import (  # noqa: E402 (they add themselves to `app`)
    datasets,
    demo,
    evaluate,
    export,
    models,
    page,
    report,
    segment,
    study,
)

__all__ = ["app", "datasets", "demo", "evaluate", "export", "models", "page", "report", "segment", "study"]
