"""`prmagic evaluate`: a benchmark's episodes, resumable, on one process or many."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prmagic.cli import app, errors_for_people, progress_bar, say
from prmagic.cli.options import (
    BATCH_SIZE,
    BRIDGE,
    CACHE,
    CENTERS,
    DEVICE,
    DTYPE,
    ENCODER,
    ENCODER_SIZE,
    ETA,
    EXTRA_POINTS,
    FLOW,
    FRAMEWORK,
    GAMMA,
    GPUS,
    RAY,
    RHO,
    SAM,
    SELECTOR,
    STEPS,
    THREADS,
    WORKERS,
    cluster_of,
)

if TYPE_CHECKING:
    from prmagic.datasets import Dataset, Episode
    from prmagic.distributed import Cluster
    from prmagic.evaluation.run import EvaluationFolder, Evaluator, Job, Outcome, Plan

CHUNK = 8  # episodes that a worker is given at once

BENCHMARK = Annotated[
    str, typer.Argument(help="fss, coco, lvis, paco, pascal-part, dis5k, pascal, perseg, or own.", show_default=False)
]
DATA = Annotated[Path, typer.Option(help="The benchmark's folder.", show_default=False)]
SHOTS = Annotated[int, typer.Option(min=1, help="Supports per episode.")]
FOLDS = Annotated[str, typer.Option(help="all, or some of them: 0,2 or 0-3.")]
LIMIT = Annotated[int | None, typer.Option(min=1, help="Only the first N episodes of each fold.", show_default="all")]
SPLIT = Annotated[
    str | None,
    typer.Option(help="Of own data: the split in its index.", show_default="test, if the index has such lines"),
]
CLASSES = Annotated[
    str | None,
    typer.Option(metavar="A,B…|FILE", help="Of own data: only these classes.", show_default="all"),
]


@app.command()
def evaluate(
    benchmark: BENCHMARK,
    data: DATA,
    out: Annotated[Path, typer.Option(help="Folder for run.json and the records.", show_default=False)],
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    encoder_size: ENCODER_SIZE = None,
    shots: SHOTS = 1,
    folds: FOLDS = "all",
    seeds: Annotated[str, typer.Option(help="One run of all episodes each: 42 or 42-46 or 1,2.")] = "42",
    preset: Annotated[
        str,
        typer.Option(
            help="default; paper: as the published runs of this benchmark; official: as Matcher's own. A name with a "
            "benchmark behind it, such as paper-coco, is taken as it is."
        ),
    ] = "default",
    episodes: Annotated[
        str,
        typer.Option(
            metavar="paper|default|FILE",
            help="paper: those that the published code draws; default: the same, without its mistakes; or a manifest.",
        ),
    ] = "default",
    size: Annotated[
        int | None,
        typer.Option(
            metavar="PIXELS",
            min=1,
            help="Squash photos and masks to this side, and score there.",
            show_default="518 with paper and official, else the photos' own",
        ),
    ] = None,
    flow: FLOW = None,
    steps: STEPS = None,
    eta: ETA = None,
    gamma: GAMMA = None,
    rho: RHO = None,
    extra_points: EXTRA_POINTS = None,
    bridge: BRIDGE = None,
    centers: CENTERS = None,
    selector: SELECTOR = None,
    all_scores: Annotated[
        bool,
        typer.Option(
            "--all-scores",
            help="Record also the scores of selectors that encode candidates anew, compare patches with the supports', "
            "or look for the thing in the supports again, for `report --selector`.",
        ),
    ] = False,
    limit: LIMIT = None,
    split: SPLIT = None,
    classes: CLASSES = None,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    cache: CACHE = None,
    batch_size: BATCH_SIZE = 8,
    prefetch: Annotated[int, typer.Option(min=0, help="Threads that read photos ahead.")] = 2,
    threads: THREADS = None,
    masks: Annotated[bool, typer.Option("--masks/--no-masks", help="Keep masks, for the report's pictures.")] = True,
    ray: RAY = None,
    workers: WORKERS = None,
    gpus_per_worker: GPUS = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Delete the folder's earlier records first.")] = False,
) -> None:
    """Run a benchmark's episodes and keep a record of each.

    Killed or interrupted at any moment, the same command goes on where it stopped. `prmagic report` says what the
    records mean. Exit code 1: some episodes failed; 2: the run could not start, or not go on.

    Example: prmagic evaluate coco --data COCO2014 --framework matcher --sam facebook/sam-vit-huge --encoder
    facebook/dinov2-large --preset paper --episodes paper --seeds 42-46 --out runs/coco
    """
    with errors_for_people("Interrupted. What is finished is kept: run it again, without --overwrite, to go on."):
        import torch

        from prmagic.datasets import open_dataset
        from prmagic.evaluation.run import EvaluationFolder, Plan, digests, selector_name, waiting_jobs
        from prmagic.export import weights
        from prmagic.names import lookup
        from prmagic.presets import PRESETS
        from prmagic.resumable import locked

        dataset_options = own_options(benchmark, split, classes)
        dataset = open_dataset(benchmark, data, **dataset_options)
        chosen = preset_of(preset, dataset)
        if size is None:
            size = lookup("preset", chosen, PRESETS).photo_size
        arguments = {
            "framework": framework, "sam": sam, "encoder": encoder, "encoder_size": encoder_size, "preset": chosen,
            "flow": flow, "steps": steps, "eta": eta, "gamma": gamma, "rho": rho, "extra_points": extra_points,
            "bridge": bridge, "centers": centers, "selector": selector, "device": device, "dtype": dtype,
            "cache": cache,
        }  # fmt: skip
        plan = Plan(
            benchmark, str(data.resolve()), dataset_options, arguments, size, masks, prefetch, batch_size,
            threads or torch.get_num_threads(), all_scores,
        )  # fmt: skip
        cluster = cluster_of(ray, workers, gpus_per_worker)
        evaluator = plan.build()
        segmenter = evaluator.segmenter
        drawn, sampling = _episodes(
            episodes, dataset, folds, shots, numbers(seeds, "--seeds"), limit, type(segmenter.framework)
        )
        settings = {n: v for n, v in segmenter.settings.items() if n not in ("seed", "min_score")}  # T needs no score
        plan.load["device"] = settings["device"]  # workers elsewhere must not choose one of their own
        used = sorted({episode.fold for listed in drawn.values() for episode in listed})
        run = {
            "benchmark": benchmark, "settings": settings, "shots": _shots(drawn, shots, sampling), "size": size,
            "seeds": list(drawn), "folds": used, "sampling": sampling, "limit": limit, "manifests": digests(drawn),
            "threads": plan.threads, "dataset_options": dataset_options, "masks": masks,
            "scores": sorted(evaluator.judges), "selector_name": selector_name(segmenter.selector),
        }  # fmt: skip
        notes = {
            "title": dataset.title, "model": segmenter.framework.signature["model_name"],
            "weights": weights(segmenter.framework), "device": settings["device"], "data": plan.data,
            "episodes": {str(seed): len(listed) for seed, listed in drawn.items()},
            "classes": _class_counts(dataset, used, shots, sampling, drawn),
        }  # fmt: skip
        with locked(out):
            folder = EvaluationFolder(out, run, notes, overwrite)
            waiting = waiting_jobs(folder, drawn)
            total = sum(map(len, drawn.values()))
            if len(waiting) < total:
                say(f"{total - len(waiting)} of {total} episodes are done already.")
            _run(folder, _outcomes(evaluator, plan, waiting, cluster), len(waiting))
            failed = folder.failed()
    say(f"{total} episode(s) done, {failed} of them failed. `prmagic report {out}` shows what came out.")
    if failed:
        raise typer.Exit(1)


def own_options(benchmark: str, split: str | None, classes: str | None) -> dict[str, Any]:
    """What `own` data can be told beside its folder; ValueError for another benchmark."""
    options: dict[str, Any] = {}
    if split is not None:
        options["split"] = split
    if classes is not None:
        file = Path(classes)
        named = "," not in classes and file.is_file()  # a long list of classes is no possible name of a file
        listed = file.read_text(encoding="utf-8").splitlines() if named else classes.split(",")
        options["classes"] = sorted({name.strip() for name in listed} - {""})
    if options and benchmark != "own":
        raise ValueError(f"--{next(iter(options))} is for own data: {benchmark} has its own classes and splits")
    return options


def numbers(text: str, option: str) -> list[int]:
    """Such as 42-46 or 0,2 → a list; ValueError for anything else."""
    found: list[int] = []
    for part in text.split(","):
        matched = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if not matched or int(matched[2] or matched[1]) < int(matched[1]):
            raise ValueError(f"{option} {text!r} is not a list of numbers: write such as 42, or 0,2, or 42-46")
        found += range(int(matched[1]), int(matched[2] or matched[1]) + 1)
    return list(dict.fromkeys(found))


def fold_numbers(text: str, dataset: Dataset) -> list[int]:
    """All of them, or those listed; ValueError for one that the benchmark has not."""
    from prmagic.datasets.base import require_fold

    folds = list(range(dataset.folds)) if text == "all" else numbers(text, "--folds")
    for fold in folds:
        require_fold(dataset, fold)
    return folds


def preset_of(name: str, dataset: Dataset) -> str:
    """The benchmark's own variant of a preset, or that for parts, if there is one."""
    from prmagic.presets import PRESETS

    variants = [f"{name}-{dataset.name}", f"{name}-parts"] if dataset.parts else [f"{name}-{dataset.name}"]
    return next((variant for variant in variants if variant in PRESETS), name)


def _episodes(
    source: str, dataset: Dataset, folds: str, shots: int, seeds: Sequence[int], limit: int | None, framework: type[Any]
) -> tuple[dict[int, list[Episode]], str]:
    from prmagic.datasets.base import SAMPLINGS, read_manifest, require_fold
    from prmagic.evaluation.run import draw

    if source in SAMPLINGS:
        with progress_bar("Drawing episodes", 0):
            return draw(dataset, fold_numbers(folds, dataset), shots, seeds, source, limit, framework), source
    wanted = None if folds == "all" else set(fold_numbers(folds, dataset))
    everything = read_manifest(Path(source))
    for fold in sorted({episode.fold for episode in everything}):
        require_fold(dataset, fold)
    listed = [episode for episode in everything if wanted is None or episode.fold in wanted]
    if not listed:
        raise ValueError(f"{source} has no episode of --folds {folds}")
    kept: list[Episode] = []
    for fold in dict.fromkeys(episode.fold for episode in listed):
        kept += [episode for episode in listed if episode.fold == fold][:limit]
    return dict.fromkeys(seeds, kept), "manifest"


def _shots(drawn: dict[int, list[Episode]], shots: int, sampling: str) -> int:
    """A manifest's own number of supports, the largest."""
    return max(len(e.supports) for listed in drawn.values() for e in listed) if sampling == "manifest" else shots


def _class_counts(
    dataset: Dataset, folds: Sequence[int], shots: int, sampling: str, drawn: dict[int, list[Episode]]
) -> dict[str, int]:
    """By fold: the classes that there are episodes of; as published, all of the benchmark, drawn or not."""
    if sampling == "paper":
        return {str(fold): len(dataset.classes(fold, shots)) for fold in folds}
    named = {(e.fold, e.category) for listed in drawn.values() for e in listed}
    return {str(fold): sum(known == fold for known, _ in named) for fold in folds}


def _outcomes(evaluator: Evaluator, plan: Plan, jobs: Sequence[Job], cluster: Cluster | None) -> Iterator[Outcome]:
    from prmagic.evaluation.run import in_chunks

    if cluster is None:
        yield from evaluator.run(jobs)
        return
    from prmagic.distributed import spread

    for outcomes in spread(plan.work, in_chunks(jobs, CHUNK), cluster):
        yield from outcomes


def _run(folder: EvaluationFolder, outcomes: Iterator[Outcome], count: int) -> None:
    with progress_bar("Episodes", count) as (progress, task):
        for outcome in outcomes:
            folder.add(outcome)
            if why := outcome.record.get("failed"):
                say(f"{outcome.record['episode']} ({outcome.record['class']}): {why}", "Failed")
            progress.advance(task)
    folder.finish()
