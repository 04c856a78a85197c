"""`prmagic evaluate`: a benchmark's episodes, resumable, in one process or many."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prmagic.cli.davis import evaluate_davis
from prmagic.cli.options import (
    BATCH_SIZE,
    BENCHMARK,
    CACHE,
    CLASSES,
    DATA,
    DEVICE,
    DTYPE,
    ENCODER,
    EPISODES,
    FLOW,
    FOLDS,
    FRAMEWORK,
    GPUS,
    HELP_ALL,
    LIMIT,
    OUTPUT,
    OVERWRITE,
    PRESET,
    RAY,
    RUNNING,
    RUNTIME,
    SAM,
    SELECTOR,
    SET,
    SHOTS,
    SPLIT,
    STEPS,
    THREADS,
    WORKERS,
    as_begun,
    cluster_of,
    option,
    settings_from,
)
from prmagic.cli.terminal import KEPT, errors_for_people, progress_bar, say
from prmagic.cli.video import MEMORY

if TYPE_CHECKING:
    from prmagic.datasets import Dataset, Episode
    from prmagic.distributed import Cluster
    from prmagic.evaluation.folder import EvaluationFolder, Outcome
    from prmagic.evaluation.jobs import Job
    from prmagic.evaluation.run import Evaluator, Plan

CHUNK = 8  # episodes that a worker is given at once


SEEDS = Annotated[str, option(EPISODES, "N,N…", "One run of all episodes each: 42 or 42-46 or 1,2.")]
EPISODE_SOURCE = Annotated[
    str,
    option(
        EPISODES,
        "NAME|FILE",
        "paper: as the published code draws them; default: without its mistakes; or a manifest.",
    ),
]
SIZE = Annotated[
    int | None,
    option(
        EPISODES,
        "PIXELS",
        "Squash photos and masks to this side, and score there.",
        rare=True,
        default="the preset's",
        min=1,
    ),
]
OUT = Annotated[Path, option(OUTPUT, "DIR", "Folder for run.json and the records.", default=False)]
NO_MASKS = Annotated[bool, option(OUTPUT, None, "Keep no masks for the report's pictures.", "--no-masks", rare=True)]
INSTANCES = Annotated[
    bool, option(EPISODES, None, "For own: score single objects, by the data's instances.jsonl.", "--instances")
]
ALL_SCORES = Annotated[
    bool,
    option(OUTPUT, None, "Record every selector's scores, for `report --selector`.", "--all-scores", rare=True),
]
PER_FRAME = Annotated[bool, option(EPISODES, None, "For davis: search each frame by itself.", "--per-frame", rare=True)]
PREFETCH = Annotated[int, option(RUNNING, "N", "Threads that read photos ahead.", rare=True, min=0)]


def evaluate(
    benchmark: BENCHMARK,
    *,
    data: DATA,
    shots: SHOTS = 1,
    folds: FOLDS = "all",
    seeds: SEEDS = "42",
    episodes: EPISODE_SOURCE = "default",
    size: SIZE = None,
    limit: LIMIT = None,
    split: SPLIT = None,
    classes: CLASSES = None,
    memory: MEMORY = None,
    per_frame: PER_FRAME = False,
    instances: INSTANCES = False,
    out: OUT,
    overwrite: OVERWRITE = False,
    no_masks: NO_MASKS = False,
    all_scores: ALL_SCORES = False,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    runtime: RUNTIME = "auto",
    preset: PRESET = "default",
    steps: STEPS = None,
    settings: SET = None,
    flow: FLOW = None,
    selector: SELECTOR = None,
    batch_size: BATCH_SIZE = 8,
    prefetch: PREFETCH = 2,
    threads: THREADS = None,
    cache: CACHE = None,
    ray: RAY = None,
    workers: WORKERS = None,
    gpus_per_worker: GPUS = None,
    help_all: HELP_ALL = False,
) -> None:
    """Run a benchmark's episodes and keep a record of each.

    The same command goes on where it stopped, whatever stopped it. `prmagic
    report` makes tables. Exit code 1: some episodes failed; 2: the run could
    not start, or had to stop.

    Example: prmagic evaluate coco --data COCO2014 --preset paper --episodes
    paper --seeds 42-46 --out runs/coco
    """
    with errors_for_people(KEPT):
        from prmagic.io.records import check_out

        chosen = settings_from(framework, preset, settings, selector, steps=steps, flow=flow)
        arguments: dict[str, Any] = {
            "framework": framework, "sam": sam, "encoder": encoder, "preset": preset, "selector": selector,
            "device": device, "dtype": dtype, "runtime": runtime, "cache": cache,
        }  # fmt: skip
        check_out(out)
        if cache is not None:
            check_out(cache, "--cache")
        arguments = as_begun(arguments, out, overwrite)
        if benchmark == "davis":
            evaluate_davis({**arguments, **chosen}, data, split, memory, per_frame, limit, threads, out, overwrite)
            return
        if per_frame or memory is not None:
            raise ValueError("--memory and --per-frame are for davis: leave them out")
        dataset, plan = _planned(
            benchmark, data, own_options(benchmark, split, classes), arguments, chosen, size,
            keep_masks=not no_masks, prefetch=prefetch, batch_size=batch_size, threads=threads, all_scores=all_scores,
        )  # fmt: skip
        drawing = Drawing(episodes, folds, shots, numbers(seeds, "--seeds"), limit)
        run = _evaluated_instances if instances else _evaluated
        total, failed = run(plan, dataset, drawing, cluster_of(ray, workers, gpus_per_worker), out, overwrite)
    say(f"{total} episode(s) done, {failed} of them failed. `prmagic report {out}` shows what came out.")
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Drawing:
    """Which episodes: source is a sampling or a manifest's file; the rest as on the command line."""

    source: str
    folds: str
    shots: int
    seeds: Sequence[int]
    limit: int | None


def _planned(
    benchmark: str, data: Path, dataset_options: dict[str, Any], arguments: dict[str, Any],
    chosen: Mapping[str, Any], size: int | None, *, keep_masks: bool, prefetch: int, batch_size: int,
    threads: int | None, all_scores: bool,
) -> tuple[Dataset, Plan]:  # fmt: skip
    """The data set, and what a process needs to evaluate it; the benchmark's published settings give way to chosen."""
    import torch

    from prmagic.datasets import open_dataset
    from prmagic.evaluation.benchmark_settings import benchmark_settings
    from prmagic.evaluation.run import Plan
    from prmagic.frameworks.registry import find

    dataset = open_dataset(benchmark, data, **dataset_options)
    published = benchmark_settings(find(arguments["framework"]).name, arguments["preset"], benchmark)
    plan = Plan(
        benchmark, str(data.resolve()), dataset_options, {**arguments, **published.options, **chosen},
        published.size if size is None else size, keep_masks, prefetch, batch_size,
        threads or torch.get_num_threads(), all_scores,
    )  # fmt: skip
    return dataset, plan


def _evaluated(
    plan: Plan, dataset: Dataset, drawing: Drawing, cluster: Cluster | None, out: Path, overwrite: bool
) -> tuple[int, int]:
    """How many episodes there are, and how many of them failed."""
    from prmagic.evaluation.folder import EvaluationFolder
    from prmagic.evaluation.jobs import waiting_jobs
    from prmagic.io.records import locked

    evaluator = plan.build()
    drawn, sampling = _episodes(drawing, dataset, evaluator.segmenter.framework.name)
    plan.load.update(evaluator.segmenter.framework.placement)  # workers elsewhere must not choose their own
    run, notes = _described(plan, evaluator, dataset, drawn, sampling, drawing.shots, drawing.limit)
    with locked(out):
        folder = EvaluationFolder(out, run, notes, overwrite)
        waiting = waiting_jobs(folder, drawn)
        total = sum(map(len, drawn.values()))
        if folder.lost_masks:
            say(f"{folder.lost_masks} episode(s) are run again, as their masks are gone or damaged.")
        if len(waiting) < total:
            say(f"{total - len(waiting)} of {total} episodes are done already.")
        _run(folder, _outcomes(evaluator, plan, waiting, cluster), len(waiting))
        return total, folder.failed()


def _check_instances(plan: Plan, cluster: Cluster | None) -> None:
    if plan.benchmark != "own":
        raise ValueError(f"--instances is for own data: {plan.benchmark} has no single objects")
    if plan.size is not None:
        raise ValueError("--instances scores at the photos' own size: leave --size and --preset out")
    if cluster is not None:
        raise ValueError("--instances runs in one process: leave --ray out")


def _evaluated_instances(
    plan: Plan, dataset: Dataset, drawing: Drawing, cluster: Cluster | None, out: Path, overwrite: bool
) -> tuple[int, int]:
    """The same of photos whose single objects are scored."""
    from prmagic.datasets.own import Own
    from prmagic.evaluation.instances import TASK, InstanceFolder, found_objects, read_instance_run, with_objects
    from prmagic.evaluation.jobs import Job, digests
    from prmagic.io.records import locked
    from prmagic.io.runs import weights

    _check_instances(plan, cluster)
    assert isinstance(dataset, Own)
    segmenter = plan.build().segmenter
    drawn, sampling = _episodes(drawing, dataset, segmenter.framework.name)
    drawn = {seed: with_objects(dataset, episodes) for seed, episodes in drawn.items()}
    settings = {name: value for name, value in segmenter.settings.items() if name != "seed"}
    run = {
        "task": TASK, "settings": settings, "shots": _shots(drawn, drawing.shots, sampling), "seeds": list(drawn),
        "sampling": sampling, "limit": drawing.limit, "manifests": digests(drawn), "threads": plan.threads,
        "dataset_options": plan.dataset_options,
    }  # fmt: skip
    notes = {
        "model": segmenter.framework.signature["model_name"], "weights": weights(segmenter.framework),
        "data": plan.data, "episodes": {str(seed): len(listed) for seed, listed in drawn.items()},
    }  # fmt: skip
    with locked(out):
        folder = InstanceFolder(out, run, notes, overwrite)
        jobs = [Job(seed, each) for seed, several in drawn.items() for each in several]
        waiting = [job for job in jobs if (job.seed, job.episode.id) not in folder.done]
        if len(waiting) < len(jobs):
            say(f"{len(jobs) - len(waiting)} of {len(jobs)} episodes are done already.")
        with progress_bar("Photos", len(waiting)) as (progress, task):
            for record in found_objects(dataset, segmenter, waiting):
                folder.append(record)
                if "failed" in record:
                    say(f"{record['query']} ({record['class']}): {record['failed']}", "Failed")
                progress.advance(task)
        return len(jobs), sum("failed" in record for record in read_instance_run(out).records)


def _described(
    plan: Plan, evaluator: Evaluator, dataset: Dataset, drawn: Mapping[int, Sequence[Episode]], sampling: str,
    shots: int, limit: int | None,
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """For run.json: what decides the records, and notes beside it."""
    from prmagic.evaluation.jobs import digests
    from prmagic.io.runs import weights
    from prmagic.select import selector_name

    segmenter = evaluator.segmenter
    settings = {n: v for n, v in segmenter.settings.items() if n not in ("seed", "min_score")}  # T needs no score
    used = sorted({episode.fold for listed in drawn.values() for episode in listed})
    run = {
        "benchmark": plan.benchmark, "settings": settings, "shots": _shots(drawn, shots, sampling), "size": plan.size,
        "seeds": list(drawn), "folds": used, "sampling": sampling, "limit": limit, "manifests": digests(drawn),
        "threads": plan.threads, "dataset_options": plan.dataset_options, "masks": plan.keep_masks,
        "scores": sorted(evaluator.recorded), "selector_name": selector_name(segmenter.selector),
    }  # fmt: skip
    notes = {
        "title": dataset.title, "model": segmenter.framework.signature["model_name"],
        "weights": weights(segmenter.framework), "device": settings["device"], "data": plan.data,
        "episodes": {str(seed): len(listed) for seed, listed in drawn.items()},
        "classes": _class_counts(dataset, used, shots, sampling, drawn),
    }  # fmt: skip
    return run, notes


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


def _episodes(drawing: Drawing, dataset: Dataset, framework: str) -> tuple[dict[int, list[Episode]], str]:
    """By seed, and how they were drawn."""
    from prmagic.datasets.base import SAMPLINGS, read_manifest, require_fold
    from prmagic.evaluation.jobs import draw

    source, folds, limit = drawing.source, drawing.folds, drawing.limit
    if source in SAMPLINGS:
        chosen = fold_numbers(folds, dataset)
        with progress_bar("Drawing episodes", 0):
            return draw(dataset, chosen, drawing.shots, drawing.seeds, source, limit, framework), source
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
    return dict.fromkeys(drawing.seeds, kept), "manifest"


def _shots(drawn: Mapping[int, Sequence[Episode]], shots: int, sampling: str) -> int:
    """A manifest's own number of supports, the largest."""
    return max(len(e.supports) for listed in drawn.values() for e in listed) if sampling == "manifest" else shots


def _class_counts(
    dataset: Dataset, folds: Sequence[int], shots: int, sampling: str, drawn: Mapping[int, Sequence[Episode]]
) -> dict[str, int]:
    """By fold: the classes that there are episodes of; as published, all of the benchmark, drawn or not."""
    if sampling == "paper":
        return {str(fold): len(dataset.classes(fold, shots)) for fold in folds}
    named = {(e.fold, e.category) for listed in drawn.values() for e in listed}
    return {str(fold): sum(known == fold for known, _ in named) for fold in folds}


def _outcomes(evaluator: Evaluator, plan: Plan, jobs: Sequence[Job], cluster: Cluster | None) -> Iterator[Outcome]:
    from prmagic.evaluation.jobs import in_chunks

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
