"""The command line. One file per command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

CONSOLE = Console(stderr=True, highlight=False)


@contextmanager
def errors_for_people() -> Iterator[None]:
    """Bad input ends the command with one sentence and exit code 2, an interrupt with 130; never with a traceback."""
    from prmagic.backbones.checkpoints import CheckpointError

    try:
        yield
    except (ValueError, FileNotFoundError, CheckpointError) as error:
        CONSOLE.print(f"[bold red]Error:[/] {_escape(str(error))}")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        CONSOLE.print("Interrupted. What is finished is kept; the same command goes on from there.")
        raise typer.Exit(130) from None


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


app = typer.Typer(
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


from prmagic.cli import demo, models, segment  # noqa: E402 (they add themselves to `app`)

__all__ = ["app", "demo", "models", "segment"]
