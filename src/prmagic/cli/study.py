"""`prmagic study`: what the parts of the flow and the selectors are worth, on data of your own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from prmagic.cli import app, errors_for_people, progress_bar, say
from prmagic.cli.evaluate import CLASSES, SHOTS, SPLIT, numbers, own_options
from prmagic.cli.options import (
    BRIDGE,
    CACHE,
    CENTERS,
    DEVICE,
    DTYPE,
    ENCODER,
    ENCODER_SIZE,
    ETA,
    EXTRA_POINTS,
    FRAMEWORK,
    GAMMA,
    MIN_SCORE,
    RHO,
    SAM,
    STEPS,
    THREADS,
)

PER_CLASS = Annotated[int | None, typer.Option(min=1, help="At most N episodes of each class.", show_default="all")]
SEEDS = Annotated[str, typer.Option(help="42 or 42-44 or 1,2.")]
OVERWRITE = Annotated[bool, typer.Option("--overwrite", help="Delete the folder's earlier records first.")]

study = typer.Typer(help="Compare flows and selectors on the same episodes of your own data.", no_args_is_help=True)
app.add_typer(study, name="study", help="Compare flows and selectors on the same episodes of your own data.")


@study.command()
def run(
    name: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="flows, eta, gamma, steps, clip, objective, scaling, origin, selectors, or particles.",
            show_default=False,
        ),
    ],
    data: Annotated[Path, typer.Option(help="A folder as `prmagic evaluate own` takes it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for run.json and the records.", show_default=False)],
    split: SPLIT = None,
    classes: CLASSES = None,
    per_class: PER_CLASS = None,
    seeds: SEEDS = "42",
    shots: SHOTS = 1,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    encoder_size: ENCODER_SIZE = None,
    preset: Annotated[str, typer.Option(help="What the study's settings start from, as of `prmagic evaluate`.")] = (
        "default"
    ),
    steps: STEPS = None,
    eta: ETA = None,
    gamma: GAMMA = None,
    rho: RHO = None,
    extra_points: EXTRA_POINTS = None,
    bridge: BRIDGE = None,
    centers: CENTERS = None,
    all_scores: Annotated[
        bool, typer.Option("--all-scores", help="Also reencode's and full-cycle's, which are costly.")
    ] = False,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    threads: THREADS = None,
    cache: CACHE = None,
    overwrite: OVERWRITE = False,
) -> None:
    """Run all settings of a study on the same episodes, and record every step.

    Killed or interrupted at any moment, the same command goes on where it stopped. `prmagic study report` says what the
    records mean. Exit code 1: some episodes failed.

    Example: prmagic study run flows --data DATA --split test --per-class 20 --seeds 42-44 --out studies/flows
    """
    with errors_for_people("Interrupted. What is finished is kept: run it again, without --overwrite, to go on."):
        import torch

        from prmagic.datasets import open_dataset
        from prmagic.evaluation.run import Job, digests
        from prmagic.evaluation.study import FROM_DEFAULT, STUDIES, Student, StudyFolder, limited, settings
        from prmagic.evaluation.study import STEPS as LONGER
        from prmagic.export import weights
        from prmagic.presets import PRESETS
        from prmagic.resumable import locked
        from prmagic.segmenter import load

        for option, value in (("eta", eta), ("gamma", gamma)):
            if name == option and value is not None:
                raise ValueError(f"the study {name} tries several values of its own: leave --{option} out")
        if rho is not None and name in STUDIES and name not in FROM_DEFAULT:
            raise ValueError(f"the study {name} starts from the published step: leave --rho out")
        options = own_options("own", split, classes)
        dataset = open_dataset("own", data, **options)
        if threads is not None:
            torch.set_num_threads(threads)
        segmenter = load(
            framework, sam=sam, encoder=encoder, encoder_size=encoder_size, preset=preset,
            steps=LONGER.get(name) if steps is None else steps, eta=eta, gamma=gamma, rho=rho,
            extra_points=extra_points, bridge=bridge, centers=centers, device=device, dtype=dtype, cache=cache,
        )  # fmt: skip
        flows = settings(name, segmenter.flow)
        drawn = {seed: limited(dataset.episodes(0, shots, seed), per_class, seed) for seed in numbers(seeds, "--seeds")}
        size = PRESETS[preset].photo_size
        student = Student(dataset, segmenter, flows, all_scores, size)
        made: dict[str, Any] = {
            "study": name,
            "settings": {k: v for k, v in segmenter.settings.items() if k not in ("seed", "flow", "min_score")},
            "flows": {setting: vars(flow) for setting, flow in flows.items()}, "shots": shots, "seeds": list(drawn),
            "per_class": per_class, "size": size, "dataset_options": options, "manifests": digests(drawn),
            "threads": torch.get_num_threads(), "scores": sorted({*student.judges, student.own}),
            "selector_name": student.own,
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
                for record in student.run(jobs, lambda job, each: (job.seed, job.episode.id, each) in folder.done):
                    folder.append(record)
                    if why := record.get("failed"):
                        say(f"{record['episode']} ({record['class']}), {record['setting']}: {why}", "Failed")
                    progress.advance(task)
            failed = folder.failures()
    say(f"{total} record(s) done, {failed} of them failed. `prmagic study report {out}` shows what came out.")
    if failed:
        raise typer.Exit(1)


@study.command()
def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="Folders that `prmagic study run` wrote.")],
    selector: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Which recorded selector T is; also behind guard, veto or consensus, such as 'guard pooled'.",
            show_default="the framework's own",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="SETTING",
            help="Also compare all settings with this one, that of the first run that has it, episode by episode.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write report.md and figures into this folder.", show_default=False)
    ] = None,
) -> None:
    """Print the tables of one or several studies. No model is run.

    Runs that differ in nothing but --seeds are taken for one study.
    """
    with errors_for_people():
        from prmagic.evaluation.study_figures import write_figures
        from prmagic.evaluation.study_report import document, paired, read, together
        from prmagic.evaluation.tables import markdown

        found = together([read(each) for each in runs])
        texts = [markdown(document(each, selector)) for each in found]
        if against is not None:
            texts.append(markdown(paired(found, against, selector)))
        typer.echo("\n".join(texts), nl=False)
        if out is None:
            return
        out.mkdir(parents=True, exist_ok=True)
        for number, each in enumerate(found):
            inner = "" if len(found) == 1 else f"{number + 1}-{each.folder.resolve().name}/"
            for name in write_figures(each, out / inner, selector):
                texts[number] += f"\n![{name}]({quote(inner)}{name}.png)\n"
        (out / "report.md").write_text("\n".join(texts), encoding="utf-8", newline="\n")
        say(f"Written to {out}")


@study.command()
def rejection(
    data: Annotated[Path, typer.Option(help="A folder as `prmagic evaluate own` takes it.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Folder for run.json, the records and roc.png.", show_default=False)],
    split: SPLIT = None,
    classes: CLASSES = None,
    per_class: PER_CLASS = None,
    seeds: SEEDS = "42",
    shots: SHOTS = 1,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    encoder_size: ENCODER_SIZE = None,
    min_score: MIN_SCORE = None,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    threads: THREADS = None,
    cache: CACHE = None,
    overwrite: OVERWRITE = False,
) -> None:
    """How well a result's score tells photos with the thing from photos without it.

    Each episode is asked of its own query, and of a photo of another class that holds nothing of its own. Other signals
    that could have been the score are compared with it. Killed or interrupted, the same command goes on where it
    stopped, and prints what came out when all is done.

    Example: prmagic study rejection --data DATA --split test --out studies/rejection
    """
    with errors_for_people("Interrupted. What is finished is kept: run it again, without --overwrite, to go on."):
        import torch

        from prmagic.datasets import open_dataset
        from prmagic.evaluation.rejection import SIGNALS, RejectionFolder, Scores, ask, draw, questions
        from prmagic.evaluation.rejection import report as blocks
        from prmagic.evaluation.run import digests
        from prmagic.evaluation.study import limited
        from prmagic.evaluation.tables import markdown
        from prmagic.export import weights
        from prmagic.resumable import locked
        from prmagic.segmenter import load

        options = own_options("own", split, classes)
        dataset = open_dataset("own", data, **options)
        if threads is not None:
            torch.set_num_threads(threads)
        segmenter = load(
            framework, sam=sam, encoder=encoder, encoder_size=encoder_size, min_score=min_score, device=device,
            dtype=dtype, cache=cache,
        )  # fmt: skip
        drawn = {seed: dataset.episodes(0, shots, seed) for seed in numbers(seeds, "--seeds")}
        asked = [
            question
            for seed, episodes in drawn.items()
            for question in questions(episodes, limited(episodes, per_class, seed), seed)
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
            with progress_bar("Photos", 2 * len(asked) - len(folder.done)) as (progress, task):
                done = folder.done
                for record in ask(
                    dataset, segmenter, asked, lambda job, here: (job.seed, job.episode.id, here) in done
                ):
                    folder.append(record)
                    progress.advance(task)
            scores = {signal: Scores.read(folder, signal) for signal in SIGNALS}
            draw(scores["score"], out / "roc.png")
        typer.echo(markdown(blocks(scores, segmenter.min_score)), nl=False)
    say(f"Written to {out}")


@study.command()
def gaussian(
    out: Annotated[Path, typer.Option(help="Folder for gaussian.png.", show_default=False)],
    gamma: Annotated[float, typer.Option(help="Entropy weight γ.")] = 0.1,
    eta: Annotated[float, typer.Option(help="Step size η.")] = 0.01,
    steps: Annotated[int, typer.Option(min=1, help="Euler–Maruyama steps.")] = 300,
    particles: Annotated[int, typer.Option(min=2, help="Points that are moved.")] = 20000,
) -> None:
    """The flow where theory is exact: μ a Gaussian in two dimensions, simulated beside Proposition 1."""
    with errors_for_people():
        import numpy as np

        from prmagic.evaluation.gaussian import Gaussian, draw, simulate

        if not 0 < eta < 1:
            raise ValueError(f"eta must lie between 0 and 1, or the steps do not follow the equation; got {eta}")
        flow = Gaussian(gamma=gamma)
        found = simulate(flow, eta, steps, particles)
        draw(flow, found, out / "gaussian.png")
        typer.echo(f"rate λ_min = {flow.rate:g}, limit of the variances {flow.limit.tolist()}, γ = {gamma:g}")
        typer.echo("    t   ‖ρ_t − μ*‖²  particles     bound")
        start = flow.distance(*flow.at(0.0))
        for row in np.linspace(0, steps, 7).round().astype(int):
            time = float(found.times[row])
            theory, seen = flow.distance(*flow.at(time)), flow.distance(found.means[row], found.variances[row])
            typer.echo(f"{time:5.2f} {theory:13.5f} {seen:10.5f} {start * np.exp(-2 * flow.rate * time):9.5f}")
    say(f"Written to {out / 'gaussian.png'}")
