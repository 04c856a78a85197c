"""Compare flows and selectors on the same episodes of your own data: `python research/study.py --help`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from prmagic.cli.evaluate import numbers, own_options
from prmagic.cli.options import (
    CACHE,
    CLASSES,
    DEVICE,
    DTYPE,
    ENCODER,
    FRAMEWORK,
    MIN_SCORE,
    OVERWRITE,
    PRESET,
    SAM,
    SET,
    SHOTS,
    SPLIT,
    THREADS,
)
from prmagic.cli.terminal import KEPT, errors_for_people, progress_bar, say

DATA = Annotated[Path, typer.Option(help="A folder as `prmagic evaluate own` takes it.", show_default=False)]
OUT = Annotated[Path, typer.Option(help="Folder for run.json and the records.", show_default=False)]
PER_CLASS = Annotated[int | None, typer.Option(min=1, help="At most N episodes of each class.", show_default="all")]
SEEDS = Annotated[str, typer.Option(help="42 or 42-44 or 1,2.")]

app = typer.Typer(
    help="Compare flows and selectors on the same episodes of your own data.", no_args_is_help=True,
    add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip


@app.command()
def run(
    study: Annotated[
        str, typer.Argument(help="flows, steps, eta, rho, objective, refinements or spread.", show_default=False)
    ],
    data: DATA,
    out: OUT,
    split: SPLIT = None,
    classes: CLASSES = None,
    per_class: PER_CLASS = None,
    seeds: SEEDS = "42",
    shots: SHOTS = 1,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    preset: PRESET = "default",
    changes: SET = None,
    all_scores: Annotated[bool, typer.Option("--all-scores", help="Also reencode's, which is costly.")] = False,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    threads: THREADS = None,
    cache: CACHE = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Run all settings of a study on the same episodes, and record every step.

    Killed or interrupted at any moment, the same command goes on where it stopped. `report` says what the records mean.
    Exit code 1: some episodes failed.

    Example: python research/study.py run flows --data DATA --split test --per-class 20 --out runs/flows
    """
    with errors_for_people(KEPT):
        import torch

        import prmagic
        from flows import described, settings
        from prmagic.datasets import open_dataset
        from prmagic.evaluation.jobs import Job, digests
        from prmagic.io.records import locked
        from prmagic.io.runs import weights
        from prmagic.loading import parse_settings
        from runner import Runner, StudyFolder, limited

        options = own_options("own", split, classes)
        dataset = open_dataset("own", data, **options)
        if threads is not None:
            torch.set_num_threads(threads)
        segmenter = prmagic.load(
            framework, sam=sam, encoder=encoder, preset=preset, device=device, dtype=dtype, cache=cache,
            **parse_settings(framework, preset, changes or []),
        )  # fmt: skip
        flows = settings(study, segmenter.flow)
        drawn = {seed: limited(dataset.episodes(0, shots, seed), per_class, seed) for seed in numbers(seeds, "--seeds")}
        runner = Runner(dataset, segmenter, flows, all_scores)
        made: dict[str, Any] = {
            "study": study,
            "settings": {k: v for k, v in segmenter.settings.items() if k not in ("seed", "flow", "min_score")},
            "flows": {name: described(flow) for name, flow in flows.items()}, "shots": shots, "seeds": list(drawn),
            "per_class": per_class, "dataset_options": options, "manifests": digests(drawn),
            "threads": torch.get_num_threads(), "scores": sorted(runner.judges), "selector": runner.selector,
        }  # fmt: skip
        notes = {
            "model": segmenter.framework.signature["model_name"], "weights": weights(segmenter.framework),
            "data": str(data.resolve()), "episodes": {seed: len(listed) for seed, listed in drawn.items()},
        }  # fmt: skip
        with locked(out):
            folder = StudyFolder(out, made, notes, overwrite)
            jobs = [Job(seed, episode) for seed, listed in drawn.items() for episode in listed]
            total = len(jobs) * len(flows)
            if folder.done:
                say(f"{len(folder.done)} of {total} records are there already.")
            with progress_bar("Records", total - len(folder.done)) as (progress, task):
                for record in runner.run(jobs, lambda job, each: (job.seed, job.episode.id, each) in folder.done):
                    folder.append(record)
                    if why := record.get("failed"):
                        say(f"{record['episode']} ({record['class']}), {record['setting']}: {why}", "Failed")
                    progress.advance(task)
            failed = folder.failures()
    say(f"{total} record(s) done, {failed} of them failed. `report {out}` shows what came out.")
    if failed:
        raise typer.Exit(1)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders that `run` wrote.")],
    selector: Annotated[
        str | None, typer.Option(metavar="NAME", help="Which recorded selector T is.", show_default="the run's own")
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="SETTING", help="Also compare all settings with this one, episode by episode.", show_default=False
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write it into this file.", show_default=False)] = None,
) -> None:
    """Print the tables of one or several studies. No model is run.

    Runs that differ in nothing but --seeds are taken for one study.
    """
    with errors_for_people():
        from analysis import document, paired, read, together
        from prmagic.evaluation.tables import markdown
        from prmagic.io.records import write_text

        found = together([read(each) for each in runs])
        texts = [markdown(document(each, selector)) for each in found]
        if against is not None:
            texts.append(markdown(paired(found, against, selector)))
        typer.echo("\n".join(texts), nl=False)
        if out is not None:
            write_text(out, "\n".join(texts))


@app.command()
def rejection(
    data: DATA,
    out: OUT,
    split: SPLIT = None,
    classes: CLASSES = None,
    per_class: PER_CLASS = None,
    seeds: SEEDS = "42",
    shots: SHOTS = 1,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    min_score: MIN_SCORE = None,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    threads: THREADS = None,
    cache: CACHE = None,
    overwrite: OVERWRITE = False,
) -> None:
    """How well a result's score tells photos with the thing from photos without it.

    Each episode is run on its own query, and on a photo of another class that holds nothing of its own. Other signals
    that could be the score are compared with it. Killed or interrupted, the same command goes on where it stopped.

    Example: python research/study.py rejection --data DATA --split test --out runs/rejection
    """
    with errors_for_people(KEPT):
        import torch

        import prmagic
        from prmagic.datasets import open_dataset
        from prmagic.evaluation.jobs import digests
        from prmagic.evaluation.tables import markdown
        from prmagic.io.records import locked
        from prmagic.io.runs import weights
        from rejection import SIGNALS, RejectionFolder, Scores, pairs, run_pairs, tables
        from runner import limited

        options = own_options("own", split, classes)
        dataset = open_dataset("own", data, **options)
        if threads is not None:
            torch.set_num_threads(threads)
        segmenter = prmagic.load(
            framework, sam=sam, encoder=encoder, min_score=min_score, device=device, dtype=dtype, cache=cache
        )
        drawn = {seed: dataset.episodes(0, shots, seed) for seed in numbers(seeds, "--seeds")}
        wanted = [
            pair
            for seed, episodes in drawn.items()
            for pair in pairs(episodes, limited(episodes, per_class, seed), seed)
        ]
        made: dict[str, Any] = {
            "rejection": {"seeds": list(drawn), "per_class": per_class, "signals": list(SIGNALS)},
            "manifests": digests(drawn), "shots": shots,
            "settings": {name: v for name, v in segmenter.settings.items() if name not in ("seed", "min_score")},
            "dataset_options": options, "threads": torch.get_num_threads(),
        }  # fmt: skip
        notes = {
            "model": segmenter.framework.signature["model_name"], "weights": weights(segmenter.framework),
            "data": str(data.resolve()),
        }  # fmt: skip
        with locked(out):
            folder = RejectionFolder(out, made, notes, overwrite)
            with progress_bar("Photos", 2 * len(wanted) - len(folder.done)) as (progress, task):
                done = folder.done
                for record in run_pairs(
                    dataset, segmenter, wanted, lambda job, here: (job.seed, job.episode.id, here) in done
                ):
                    folder.append(record)
                    progress.advance(task)
            scores = {signal: Scores.read(folder, signal) for signal in SIGNALS}
        typer.echo(markdown(tables(scores, segmenter.min_score)), nl=False)
    say(f"Written to {out}")


@app.command()
def judge(
    data: DATA,
    split: SPLIT = None,
    classes: CLASSES = None,
    per_class: PER_CLASS = None,
    seed: Annotated[int, typer.Option(help="Of the episodes and all draws.")] = 42,
    shots: SHOTS = 1,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    threads: THREADS = None,
) -> None:
    """Try other constants of the selector `judge` on your own photos and models.

    Example: python research/study.py judge --data DATA --split train --per-class 6
    """
    with errors_for_people():
        import torch

        import prmagic
        from judging import table, try_judges
        from prmagic.datasets import open_dataset
        from prmagic.evaluation.tables import markdown
        from runner import limited

        dataset = open_dataset("own", data, **own_options("own", split, classes))
        if threads is not None:
            torch.set_num_threads(threads)
        segmenter = prmagic.load(framework, sam=sam, encoder=encoder, selector="judge", device=device, dtype=dtype)
        episodes = limited(dataset.episodes(0, shots, seed), per_class, seed)
        tried = []
        with progress_bar("Episodes", len(episodes)) as (progress, task):
            for each in try_judges(dataset, segmenter, episodes, seed):
                tried.append(each)
                progress.advance(task)
        typer.echo(markdown(table(tried)), nl=False)


@app.command()
def gaussian(
    gamma: Annotated[float, typer.Option(help="Entropy weight γ.")] = 0.1,
    eta: Annotated[float, typer.Option(help="Step size η.")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, help="Euler–Maruyama steps.")] = 300,
    particles: Annotated[int, typer.Option(min=2, help="Points that are moved.")] = 20000,
) -> None:
    """The flow where theory is exact: μ a Gaussian in two dimensions, simulated beside Proposition 1."""
    with errors_for_people():
        import numpy as np

        from gaussian import Gaussian, simulate

        if not 0 < eta < 1:
            raise ValueError(f"eta must lie between 0 and 1, or the steps do not follow the equation; got {eta}")
        flow = Gaussian(gamma=gamma)
        found = simulate(flow, eta, steps, particles)
        typer.echo(f"rate λ_min = {flow.rate:g}, limit of the variances {flow.limit.tolist()}, γ = {gamma:g}")
        typer.echo("    t   ‖ρ_t − μ*‖²  particles     bound")
        start = flow.distance(*flow.at(0.0))
        for row in np.linspace(0, steps, 7).round().astype(int):
            time = float(found.times[row])
            theory, seen = flow.distance(*flow.at(time)), flow.distance(found.means[row], found.variances[row])
            typer.echo(f"{time:5.2f} {theory:13.5f} {seen:10.5f} {start * np.exp(-2 * flow.rate * time):9.5f}")


if __name__ == "__main__":
    app()
