"""`prmagic segment`, the main job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from prmagic.cli.options import (
    BATCH_SIZE,
    CACHE,
    DEVICE,
    DTYPE,
    ENCODER,
    FLOW,
    FRAMEWORK,
    GPUS,
    HELP_ALL,
    INPUT,
    MAX_PIXELS,
    MIN_SCORE,
    OUTPUT,
    OVERWRITE,
    PRESET,
    RAY,
    RUNTIME,
    SAM,
    SEED,
    SELECTOR,
    SET,
    STEPS,
    THREADS,
    TILES,
    WORKERS,
    as_begun,
    cluster_of,
    option,
    settings_from,
    use_threads,
)
from prmagic.cli.sources import DEFAULT_LABEL, ORDER, Source, sources_by_label
from prmagic.cli.terminal import KEPT, errors_for_people, say, waiting_for
from prmagic.cli.video import END, EVERY, MEMORY, SEQUENCE, START, Watching

if TYPE_CHECKING:
    from prmagic import Reference, Segmenter, Support


QUERIES = Annotated[
    list[str],
    typer.Argument(metavar="QUERY", help="Photos, folders (with all folders in them), globs; or videos."),
]
SUPPORT = Annotated[
    list[str] | None,
    option(INPUT, "PHOTO MASK", "An example: a photo and its mask (nonzero is the object). Repeatable."),
]
SUPPORT_COCO = Annotated[
    list[str] | None, option(INPUT, "FILE", "Examples from COCO annotations: all photos with a --category.")
]
CATEGORY = Annotated[list[str] | None, option(INPUT, "NAME", "The category to take from the --support-coco before it.")]
SUPPORT_IMAGES = Annotated[
    list[str] | None,
    option(INPUT, "DIR", "Photos of the --support-coco before it.", rare=True, default="beside the file"),
]
SUPPORT_DIR = Annotated[
    list[str] | None,
    option(INPUT, "DIR", "A folder of examples: images/a.jpg, masks/a.png; or a.jpg, a_mask.png."),
]
LIMIT = Annotated[
    list[int] | None, option(INPUT, "K", "Only the first K photos of the --support-coco or -dir before it.")
]
LABEL = Annotated[list[str] | None, option(INPUT, "NAME", "Names the examples, or the --reference, before it.")]
REFERENCE = Annotated[list[str] | None, option(INPUT, "FILE", "A saved reference, instead of --support.")]
MASK_VALUE = Annotated[int | None, option(INPUT, "V", "In a label map: the label of the object.")]
OUT = Annotated[Path, option(OUTPUT, "DIR", "Folder for masks, pictures and results.jsonl.", default=False)]
SAVE_REFERENCE = Annotated[
    Path | None,
    option(OUTPUT, "FILE", "Save what was learnt from the examples; with several labels, one file each."),
]
INSTANCES = Annotated[bool, option(OUTPUT, None, "One mask per thing, with a number and a score.", "--instances")]
NO_PICTURES = Annotated[
    bool, option(OUTPUT, None, "Write no overlays/ and no candidates/.", "--no-pictures", rare=True)
]
OVERLAPS = Annotated[
    bool,
    option(OUTPUT, None, "Leave a pixel to all labels that claim it.", "--overlaps", rare=True),
]


def segment(
    ctx: typer.Context,
    queries: QUERIES,
    *,
    support: SUPPORT = None,
    support_coco: SUPPORT_COCO = None,
    category: CATEGORY = None,
    support_images: SUPPORT_IMAGES = None,
    support_dir: SUPPORT_DIR = None,
    limit: LIMIT = None,
    label: LABEL = None,
    reference: REFERENCE = None,
    mask_value: MASK_VALUE = None,
    out: OUT,
    save_reference: SAVE_REFERENCE = None,
    instances: INSTANCES = False,
    no_pictures: NO_PICTURES = False,
    overwrite: OVERWRITE = False,
    overlaps: OVERLAPS = False,
    sequence: SEQUENCE = False,
    every: EVERY = 1,
    start: START = 0.0,
    end: END = None,
    memory: MEMORY = None,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    runtime: RUNTIME = "auto",
    preset: PRESET = "default",
    steps: STEPS = None,
    min_score: MIN_SCORE = None,
    seed: SEED = 0,
    settings: SET = None,
    flow: FLOW = None,
    selector: SELECTOR = None,
    max_pixels: MAX_PIXELS = 64_000_000,
    tiles: TILES = "off",
    batch_size: BATCH_SIZE = 8,
    threads: THREADS = None,
    cache: CACHE = None,
    ray: RAY = None,
    workers: WORKERS = None,
    gpus_per_worker: GPUS = None,
    help_all: HELP_ALL = False,
) -> None:
    """Find the thing of your examples in every photo.

    Writes masks/, overlays/, candidates/ and results.jsonl into the --out
    folder. A second run skips what is done. Exit code 1: some photos could not
    be used; 2: the run could not start, or not go on.

    Example: prmagic segment photos/ --support cat.jpg cat_mask.png --out found/
    """
    del support, support_coco, category, support_images, support_dir, limit, label, reference  # ctx.meta has the order
    with errors_for_people(KEPT):
        from prmagic.io.records import check_out

        arguments: dict[str, Any] = {
            "framework": framework, "sam": sam, "encoder": encoder, "preset": preset, "selector": selector,
            "min_score": min_score, "seed": seed, "device": device, "dtype": dtype, "runtime": runtime,
            "max_pixels": max_pixels, "cache": cache, "tiles": tiles,
            **settings_from(framework, preset, settings, selector, steps=steps, flow=flow),
        }  # fmt: skip
        check_out(out)
        if cache is not None:
            check_out(cache, "--cache")
        arguments = as_begun(arguments, out, overwrite)
        learning = Learning(ctx.meta[ORDER], mask_value, max_pixels, save_reference)
        writing = Writing(out, batch_size, not no_pictures, instances, overlaps, overwrite)
        watching = Watching(sequence, every, start, end, memory)
        failed = _segment(arguments, queries, learning, writing, watching, threads, (ray, workers, gpus_per_worker))
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Learning:
    """Where references come from; order: --support, …, --label as they came."""

    order: Any
    mask_value: int | None
    max_pixels: int
    save_reference: Path | None


@dataclass(frozen=True)
class Writing:
    """What is written where."""

    out: Path
    batch_size: int
    pictures: bool
    instances: bool
    overlaps: bool
    overwrite: bool


def _segment(
    arguments: dict[str, Any], queries: Sequence[str], learning: Learning, writing: Writing, watching: Watching,
    threads: int | None, ray: tuple[str | None, int | None, float | None],
) -> int:  # fmt: skip
    """How many photos or videos could not be used."""
    sources = sources_by_label(learning.order, _saved_label)
    if learning.mask_value is not None and not any(source.has_mask_files for source in sources.values()):
        raise ValueError("--mask-value is for masks in files: add --support or --support-dir, or leave it out")
    supports = {
        label: source.all_supports(learning.mask_value, learning.max_pixels)
        for label, source in sources.items()
        if source.has_supports
    }
    clips = watching.clips(queries, learning.max_pixels)
    for_photos = {"ray": ray[0], "overlaps": writing.overlaps}
    for name, wanted in {**for_photos, "tiles": arguments["tiles"] != "off"}.items():
        if clips and wanted:
            raise ValueError(f"--{name} is for photos: leave it out for videos")
    if writing.instances and watching.memory is not None:
        raise ValueError("--memory is for following one thing: leave it out with --instances")
    files = {} if clips else _find_queries(queries, supports)
    from prmagic.cli.segment_run import SegmentRun
    from prmagic.cli.video import VideoRun, with_first_frames
    from prmagic.loading import load

    use_threads(threads)
    cluster = cluster_of(*ray)
    segmenter = load(**arguments)
    references = _references(segmenter, sources, with_first_frames(supports, watching))
    if learning.save_reference is not None:
        _save({label: references[label] for label in supports}, learning.save_reference)
    if clips:
        video = VideoRun(
            segmenter, references, clips, writing.out, watching, writing.pictures, writing.instances
        )  # fmt: skip
        return video.finish(writing.overwrite)
    spread_over = None
    if cluster is not None:
        import torch

        from prmagic.distributed import SegmentPlan

        arguments |= segmenter.framework.placement  # workers elsewhere must not choose their own
        plan = SegmentPlan(arguments, references, torch.get_num_threads(), writing.instances, writing.overlaps)
        spread_over = plan, cluster
    run = SegmentRun(
        segmenter, references, files, writing.out, writing.batch_size, writing.pictures, writing.instances,
        writing.overlaps, spread_over,
    )  # fmt: skip
    return run.finish(writing.overwrite)


def _saved_label(file: str) -> str:
    from prmagic import Reference

    return Reference.load(file).label


def _find_queries(queries: Sequence[str], supports: Mapping[str, Sequence[Support]]) -> dict[str, Path]:
    """Files by their names, without what an earlier run wrote and without the supports' masks."""
    from prmagic.io.finding import find_images, query_name
    from prmagic.io.runs import is_result

    given = (support.mask for several in supports.values() for support in several)
    masks = {Path(mask).resolve() for mask in given if isinstance(mask, (str, Path))}
    kept = {
        query_name(name): file
        for file, name in find_images(queries)
        if file.resolve() not in masks and not is_result(file.resolve())
    }
    if not kept:
        raise ValueError("the queries hold no photo but masks and earlier results")
    return kept


def _references(
    segmenter: Segmenter, sources: Mapping[str, Source], supports: Mapping[str, Sequence[Support]]
) -> dict[str, Reference]:
    """Learnt from the supports, or loaded."""
    from prmagic import Reference

    references = {}
    for label, source in sources.items():
        if label in supports:
            remembered = "" if label == DEFAULT_LABEL else label
            with waiting_for(f"Learning {label} from {len(supports[label])} example(s)"):
                references[label] = segmenter.encode_support(supports[label], label=remembered)
        else:
            references[label] = Reference.load(source.reference or "")
            segmenter.check(references[label])
    return references


def _save(learnt: Mapping[str, Reference], path: Path) -> None:
    if not learnt:
        raise ValueError("--save-reference needs --support: what was loaded with --reference is saved already")
    for label, reference in learnt.items():
        target = path if len(learnt) == 1 else path.with_name(f"{path.stem}-{label}{path.suffix}")
        reference.save(target)
        say(f"Saved the reference of {label} to {target}")
