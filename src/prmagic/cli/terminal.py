"""What all commands say on the terminal, and how they end."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from prmagic.names import foreign_place, reason

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

KEPT = "What is finished is kept: run it again, without --overwrite, to go on."


@cache
def console() -> Console:
    """Of standard error: results go to standard output."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str, heading: str = "") -> None:
    """Print a line for people. The text stays as it is: file names may look like markup, and are for copying."""
    from rich.text import Text

    console().print(Text.assemble((heading, "bold red"), " " * bool(heading), text), soft_wrap=True)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Show that something is going on, where standard error is a terminal."""
    from rich.text import Text

    with console().status(Text(f"{what} …")):
        yield


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[tuple[Progress, TaskID]]:
    """A bar with the time that is left; none if there is nothing to do."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.2f}/s" if task.speed else "–")

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=console(), disable=not total) as progress:
        yield progress, progress.add_task("", total=total)


class Terminated(KeyboardInterrupt):
    """SIGTERM came: end as with Ctrl-C.

    Ray catches it in its own code, and raises a KeyboardInterrupt in its place; hence `came`."""

    came = False


def end_on_sigterm() -> None:
    """Let SIGTERM raise Terminated, from now on. Ray replaces the handler when it connects: call this again then."""
    if _can_have_handlers():
        signal.signal(signal.SIGTERM, _terminate)


@contextmanager
def _ending_on_sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM) if _can_have_handlers() else None
    Terminated.came = False
    end_on_sigterm()
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _can_have_handlers() -> bool:
    return hasattr(signal, "SIGTERM") and threading.current_thread() is threading.main_thread()


def _terminate(number: int, frame: FrameType | None) -> None:
    Terminated.came = True
    raise Terminated


@contextmanager
def errors_for_people(kept: str = "") -> Iterator[None]:
    """End with one sentence instead of a traceback: bad input with exit code 2, Ctrl-C with 130, SIGTERM with 143.

    RuntimeError is what broken checkpoints raise, and torch when memory runs out.

    Args:
        kept: Says after an interruption what is left of the work.
    """
    with warnings.catch_warnings(), _ending_on_sigterm():
        warnings.showwarning = lambda message, *_, **__: say(capitalised(str(message)), "Note:")
        try:
            yield
        except (ValueError, OSError, RuntimeError, MemoryError) as error:
            if os.environ.get("PRMAGIC_DEBUG"):
                raise
            say(capitalised(explain(error)), "Error:")
            raise typer.Exit(2) from None
        except Exception as error:
            place = foreign_place(error)
            if not place or os.environ.get("PRMAGIC_DEBUG"):
                raise
            say(f"{place}: {reason(error)}. PRMAGIC_DEBUG=1 shows the whole traceback.", "Error:")
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            say(f"{'Terminated' if Terminated.came else 'Interrupted'}. {kept}".rstrip())
            raise typer.Exit(143 if Terminated.came else 130) from None


def explain(error: Exception) -> str:
    """What an error says, without the number that Python puts before the system's."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    if isinstance(error, MemoryError) and not str(error):
        return "there is not enough memory"
    return str(error) or type(error).__name__


def capitalised(text: str) -> str:
    """With a capital first letter, unless the first word is the user's: a file, or what stands on the command line."""
    first = re.match(r"[a-z]+(?=[ ,:;'’]|$)", text)
    if not first or Path(first[0]).exists() or any(arg.partition("=")[0] == first[0] for arg in sys.argv):
        return text
    return text[0].upper() + text[1:]
