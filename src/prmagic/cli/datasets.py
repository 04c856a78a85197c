"""`prmagic datasets`: is the data there, what are its episodes, and what has to be arranged first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from prmagic.cli.evaluate import fold_numbers, own_options
from prmagic.cli.options import BENCHMARK, CLASSES, DATA, FOLDS, LIMIT, SHOTS, SPLIT
from prmagic.cli.terminal import errors_for_people, progress_bar, say

Entry = TypeVar("Entry")

datasets = typer.Typer(
    help="Check a benchmark's files, write its episodes, or arrange a download.", no_args_is_help=True
)


@datasets.command()
def check(
    benchmark: BENCHMARK,
    data: Annotated[Path, typer.Argument(metavar="DIR", help="The benchmark's folder.", show_default=False)],
    split: SPLIT = None,
    classes: CLASSES = None,
) -> None:
    """Say what is there, what is missing and where to get it. Exit code 1 if something is missing."""
    with errors_for_people():
        from prmagic.datasets import open_dataset

        dataset = open_dataset(benchmark, data, **own_options(benchmark, split, classes))
        inventory = dataset.check()
    typer.echo(f"{dataset.title} in {data}")
    for heading, lines in (("found", inventory.found), ("note", inventory.notes), ("missing", inventory.missing)):
        for line in lines:
            typer.echo(f"  {heading}: {line}")
    for fold, count in inventory.classes.items():
        typer.echo(f"  fold {fold}: {count} classes, {inventory.episodes.get(fold, 0)} one-shot episodes")
    if inventory.missing:
        typer.echo(f"Not complete. {dataset.source}")
        raise typer.Exit(1)
    typer.echo("Complete.")


@datasets.command()
def manifest(
    benchmark: BENCHMARK,
    data: DATA,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The manifest to write.", show_default=False)],
    shots: SHOTS = 1,
    folds: FOLDS = "all",
    seed: Annotated[int, typer.Option(help="Decides the episodes.")] = 42,
    sampling: Annotated[
        str, typer.Option("--episodes", help="paper: as the published code draws; default: without its mistakes.")
    ] = "default",
    limit: LIMIT = None,
    split: SPLIT = None,
    classes: CLASSES = None,
) -> None:
    """Write the episodes, one JSON line each, for `prmagic evaluate --episodes FILE`, and print their SHA-256."""
    with errors_for_people():
        from prmagic.datasets import open_dataset
        from prmagic.datasets.base import SAMPLINGS, manifest_digest, write_manifest
        from prmagic.names import lookup

        known = lookup("choice of episodes", sampling, {name: name for name in SAMPLINGS})
        dataset = open_dataset(benchmark, data, **own_options(benchmark, split, classes))
        episodes = [
            episode
            for fold in fold_numbers(folds, dataset)
            for episode in dataset.episodes(fold, shots, seed, known)[:limit]
        ]
        if out.exists():
            raise ValueError(f"{out} is there already: choose another --out")
        write_manifest(episodes, out)
    typer.echo(f"{out}: {len(episodes)} episodes, SHA-256 {manifest_digest(episodes)}")


@datasets.command()
def prepare(
    benchmark: Annotated[str, typer.Argument(help="dis5k; the others need no arranging.", show_default=False)],
    train: Annotated[list[Path], typer.Option(help="A folder with im/ and gt/, such as DIS-TR; repeat it for more.")],
    test: Annotated[list[Path], typer.Option(help="The same for the queries, such as DIS-TE1; repeat it for more.")],
    out: Annotated[Path, typer.Option(help="Where the arranged data goes; may be there already.")],
) -> None:
    """Arrange the official release of DIS5K into folders by class: files are linked where possible, else copied."""
    with errors_for_people("What is arranged is kept: run it again to go on."):
        if benchmark != "dis5k":
            raise ValueError(
                f"only dis5k has to be arranged; for {benchmark}, see `prmagic datasets check {benchmark} DIR`"
            )
        from prmagic.datasets import dis5k

        counts = dis5k.prepare(train, test, out, progress=_progress)
    say(f"{counts[0]} training and {counts[1]} test photos are in {out}: `prmagic datasets check dis5k {out}`")


def _progress(entries: Iterable[Entry]) -> Iterator[Entry]:
    entries = list(entries)
    with progress_bar("Arranging", len(entries)) as (progress, task):
        for entry in entries:
            yield entry
            progress.advance(task)
