"""`prmagic segment`, the main job."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text
from typer.core import TyperCommand

from prmagic.cli import CONSOLE, app, errors_for_people, progress_bar, say
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
    MIN_SCORE,
    RAY,
    RHO,
    SAM,
    SELECTOR,
    STEPS,
    THREADS,
    WORKERS,
    cluster_of,
)
from prmagic.names import check_label

if TYPE_CHECKING:
    from prmagic import Reference, Segmenter, Support
    from prmagic.distributed import Cluster, SegmentPlan
    from prmagic.export import RunFolder
    from prmagic.types import ByteArray, Segmentation

ORDER = "prmagic.order"
COLLECTIONS = ("support-coco", "support-dir")
COLLECTION_OPTIONS = ("category", "support-images", "limit")
_TWO_FILES = "--support takes two files: --support PHOTO MASK"


class _KeepsOrder(TyperCommand):
    """Remembers in which order --support, …, and --label came: a label names the supports before it."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[ORDER] = list(_ordered(args))
        return super().parse_args(ctx, _flattened(args))


def _ordered(args: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    lengths = {"--support": 2, **{f"--{name}": 1 for name in ("reference", "label", *COLLECTIONS, *COLLECTION_OPTIONS)}}
    position = 0
    while position < len(args) and args[position] != "--":
        name, equals, value = args[position].partition("=")
        position += 1
        if name in lengths:
            values = (value,) if equals else tuple(args[position : position + lengths[name]])
            position += 0 if equals else lengths[name]
            yield name.removeprefix("--"), values


def _flattened(args: Sequence[str]) -> list[str]:
    """`--support A B` → `--support A --support B`: Typer knows no option of several values that may be repeated."""
    flat = list(args)
    end = flat.index("--") if "--" in flat else len(flat)
    if any(arg.startswith("--support=") for arg in flat[:end]):
        raise typer.BadParameter(_TWO_FILES)
    for position in reversed([i for i, arg in enumerate(flat[:end]) if arg == "--support"]):
        if len(flat[position:end]) < 3 or any(value.startswith("--") for value in flat[position + 1 : position + 3]):
            raise typer.BadParameter(_TWO_FILES)
        flat.insert(position + 2, "--support")
        end += 1
    return flat


@dataclass
class Collection:
    """Many supports at once: kind support-coco or support-dir, and what was said about it."""

    kind: str
    path: str
    options: dict[str, str] = field(default_factory=dict)

    def supports(self, mask_value: int | None, max_pixels: int) -> list[Support]:
        from prmagic.supports import supports_from_coco, supports_from_folder

        limit = int(self.options["limit"]) if "limit" in self.options else None
        if self.kind == "support-dir":
            return supports_from_folder(Path(self.path), limit, mask_value)
        images = Path(self.options["support-images"]) if "support-images" in self.options else None
        return supports_from_coco(Path(self.path), self.options.get("category", ""), limit, images, max_pixels)


@dataclass
class Source:
    """What one label is learnt from: supports (photo, mask) and collections of them, or a saved reference."""

    supports: list[tuple[str, str]] = field(default_factory=list)
    collections: list[Collection] = field(default_factory=list)
    reference: str | None = None

    @property
    def learnt(self) -> bool:
        """From supports."""
        return bool(self.supports or self.collections)

    @property
    def has_mask_files(self) -> bool:
        """Whether a --mask-value has a meaning."""
        return bool(self.supports) or any(many.kind == "support-dir" for many in self.collections)

    def all_supports(self, mask_value: int | None, max_pixels: int) -> list[Support]:
        """Read from the collections, those given one by one first."""
        from prmagic import Support

        supports = [Support(image, mask, mask_value) for image, mask in self.supports]
        return supports + [each for many in self.collections for each in many.supports(mask_value, max_pixels)]


def sources_by_label(order: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, Source]:
    """Group supports and references by the --label that follows them (or precedes them, if the first is a label).

    Without one, what comes from a COCO file is called by its category, and a reference by its file."""
    items = list(order)
    if items and items[0][0] == "label":
        items = _labels_last(items)
    sources: dict[str, Source] = {}
    pending = Source()
    for kind, values in items:
        if kind == "support":
            pending.supports.append((values[0], values[1]))
        elif kind in COLLECTIONS:
            pending.collections.append(Collection(kind, values[0]))
        elif kind in COLLECTION_OPTIONS:
            _describe(pending.collections, kind, values[0])
        elif kind == "reference":
            if pending.reference is not None:
                sources = _named(sources, Path(pending.reference).stem, Source(reference=pending.reference))
            pending.reference = values[0]
        else:
            sources = _named(sources, values[0], pending)
            pending = Source()
    if pending.reference is not None:
        alone = not sources and not pending.learnt
        label = "object" if alone else Path(pending.reference).stem
        sources = _named(sources, label, Source(reference=pending.reference))
    categories = {many.options["category"]: None for many in pending.collections if "category" in many.options}
    if all("category" in many.options for many in pending.collections) and not pending.supports:
        for category in categories:
            same = [many for many in pending.collections if many.options["category"] == category]
            sources = _named(sources, category, Source(collections=same))
    elif pending.learnt:
        if len(categories) > 1:
            raise ValueError(f"put a --label behind each label's supports: {', '.join(categories)} are several")
        if any(source.learnt for source in sources.values()):
            raise ValueError(
                "the supports after the last --label have none: put a --label behind each label's supports"
            )
        sources = _named(sources, next(iter(categories), "object"), replace(pending, reference=None))
    if not sources:
        raise ValueError("say what to look for: --support PHOTO MASK, --support-coco, --support-dir, or --reference")
    return sources


def _describe(collections: list[Collection], option: str, value: str) -> None:
    """Tell the last collection; ValueError if the option is not for it."""
    suited = COLLECTIONS if option == "limit" else COLLECTIONS[:1]
    if not collections or collections[-1].kind not in suited:
        raise ValueError(f"put --{option} behind the {' or '.join(f'--{kind}' for kind in suited)} that it is for")
    if option in collections[-1].options:
        raise ValueError(
            f"--{option} is given twice; for another {option}, give --{collections[-1].kind} again before it"
        )
    collections[-1].options[option] = value


def _labels_last(items: list[tuple[str, tuple[str, ...]]]) -> list[tuple[str, tuple[str, ...]]]:
    """`label a a label b b` → `a a label b b label`."""
    moved: list[tuple[str, tuple[str, ...]]] = []
    label = items[0]
    for item in items[1:]:
        if item[0] == "label":
            moved.append(label)
            label = item
        else:
            moved.append(item)
    return [*moved, label]


def _named(sources: dict[str, Source], label: str, source: Source) -> dict[str, Source]:
    if not source.learnt and source.reference is None:
        raise ValueError(f"--label {label} has nothing to name: put its --support or --reference before it")
    if source.learnt and source.reference is not None:
        raise ValueError(f"label {label!r} has both supports and a saved reference; a reference cannot be extended")
    if label.casefold() in map(str.casefold, sources):  # "Cat" and "cat" are one folder on many systems
        raise ValueError(f"label {label!r} is given twice; put all its supports before one --label")
    try:
        check_label(label)
    except ValueError as error:
        raise ValueError(f"{error} with --label") from None
    return {**sources, label: source}


@app.command(cls=_KeepsOrder)
def segment(
    ctx: typer.Context,
    queries: Annotated[
        list[str], typer.Argument(metavar="QUERY…", help="Photos, folders (searched throughout), globs.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for masks, pictures and results.jsonl.", show_default=False)],
    support: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PHOTO MASK",
            help="An example: a photo, and its mask (nonzero is the object). Repeat it for more examples.",
        ),
    ] = None,
    support_coco: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Examples from COCO annotations: all photos with something of a --category."),
    ] = None,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Which one of the --support-coco before it.")
    ] = None,
    support_images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR", help="Where the photos of the --support-coco before it are.", show_default="beside the file"
        ),
    ] = None,
    support_dir: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Examples from a folder: images/a.jpg with masks/a.png, or a.jpg beside a_mask.png or a.png.",
        ),
    ] = None,
    limit: Annotated[
        list[int] | None,
        typer.Option(metavar="K", min=1, help="Only the first K photos of the --support-coco or -dir before it."),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Names the supports, or the --reference, before it.")
    ] = None,
    reference: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="A reference saved earlier, instead of --support.")
    ] = None,
    save_reference: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Save what was learnt from the supports; with several labels, one file each."
        ),
    ] = None,
    mask_value: Annotated[
        int | None, typer.Option(metavar="V", help="The masks are label maps: take this value as the object.")
    ] = None,
    framework: FRAMEWORK = "persam-f",
    sam: SAM = "embedded",
    encoder: ENCODER = None,
    encoder_size: ENCODER_SIZE = None,
    preset: Annotated[
        str,
        typer.Option(
            help="default; paper: the published code's behaviour; official: Matcher's own. With -parts behind it for "
            "parts of objects; paper and official with -fss, -coco, … for a benchmark's own settings."
        ),
    ] = "default",
    steps: STEPS = None,
    eta: ETA = None,
    gamma: GAMMA = None,
    rho: RHO = None,
    flow: FLOW = None,
    extra_points: EXTRA_POINTS = None,
    bridge: BRIDGE = None,
    centers: CENTERS = None,
    selector: SELECTOR = None,
    min_score: MIN_SCORE = None,
    seed: Annotated[int, typer.Option(help="Same seed, same result, in any order and any batch.")] = 0,
    device: DEVICE = None,
    dtype: DTYPE = "float32",
    cache: CACHE = None,
    batch_size: BATCH_SIZE = 8,
    max_pixels: Annotated[int, typer.Option(min=1, help="Larger photos are refused.")] = 64_000_000,
    threads: THREADS = None,
    ray: RAY = None,
    workers: WORKERS = None,
    gpus_per_worker: GPUS = None,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Write overlays and candidate strips beside the masks.")
    ] = True,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Delete the earlier results in the --out folder first.")
    ] = False,
) -> None:
    """Find what the supports show in every query.

    Writes masks/, overlays/, candidates/ and results.jsonl into the --out folder. A second run skips what is done. Exit
    code 1: some photos could not be used; 2: the run could not start, or not go on.

    Example: prmagic segment photos/ --support cat.jpg cat_mask.png --out found/
    """
    del (
        support,
        support_coco,
        category,
        support_images,
        support_dir,
        limit,
        label,
        reference,
    )  # taken from ctx.meta, where their order is kept
    with errors_for_people("Interrupted. What is finished is kept: run it again, without --overwrite, to go on."):
        sources = sources_by_label(ctx.meta[ORDER])
        if mask_value is not None and not any(source.has_mask_files for source in sources.values()):
            raise ValueError("--mask-value is for masks in files: add --support or --support-dir, or leave it out")
        supports = {
            label: source.all_supports(mask_value, max_pixels) for label, source in sources.items() if source.learnt
        }
        files = _find_queries(queries, supports)
        import torch

        from prmagic.segmenter import load

        torch.set_num_threads(threads or torch.get_num_threads())
        arguments: dict[str, Any] = {
            "framework": framework, "sam": sam, "encoder": encoder, "encoder_size": encoder_size, "preset": preset,
            "flow": flow, "steps": steps, "eta": eta, "gamma": gamma, "rho": rho, "extra_points": extra_points,
            "bridge": bridge, "centers": centers, "selector": selector, "min_score": min_score, "seed": seed,
            "device": device, "dtype": dtype, "max_pixels": max_pixels, "cache": cache,
        }  # fmt: skip
        cluster = cluster_of(ray, workers, gpus_per_worker)
        segmenter = load(**arguments)
        references = {
            label: _learn(segmenter, label, supports[label]) if label in supports else _loaded(segmenter, source)
            for label, source in sources.items()
        }
        if save_reference is not None:
            _save({label: references[label] for label in supports}, save_reference)
        spread_over = None
        if cluster is not None:
            from prmagic.distributed import SegmentPlan

            spread_over = SegmentPlan(arguments, references, torch.get_num_threads()), cluster
        failed = _segment_all(segmenter, references, files, out, batch_size, pictures, overwrite, spread_over)
    if failed:
        raise typer.Exit(1)


def _find_queries(queries: Sequence[str], supports: dict[str, list[Support]]) -> list[tuple[Path, str]]:
    """Files and their names, without what an earlier run wrote and without the supports' masks."""
    from prmagic.export import is_result
    from prmagic.images import find_images

    given = (support.mask for several in supports.values() for support in several)
    masks = {Path(mask).resolve() for mask in given if isinstance(mask, (str, Path))}
    kept = [
        (file, _text(name))
        for file, name in find_images(queries)
        if file.resolve() not in masks and not is_result(file.resolve())
    ]
    if not kept:
        raise ValueError("the queries hold no photo but masks and earlier results")
    return kept


def _text(name: Path) -> str:
    """With / between folders. A name need not be valid Unicode on Linux: its odd bytes are spelt out as hex."""
    return os.fsencode(name.as_posix()).decode(errors="backslashreplace")


def _learn(segmenter: Segmenter, label: str, supports: list[Support]) -> Reference:
    with CONSOLE.status(Text(f"Learning {label} from {len(supports)} example(s) …")):
        return segmenter.encode_support(supports)


def _loaded(segmenter: Segmenter, source: Source) -> Reference:
    from prmagic import Reference

    reference = Reference.load(source.reference or "")
    segmenter.check(reference)
    return reference


def _save(learnt: dict[str, Reference], path: Path) -> None:
    if not learnt:
        raise ValueError("--save-reference needs --support: what was loaded with --reference is saved already")
    for label, reference in learnt.items():
        target = path if len(learnt) == 1 else path.with_name(f"{path.stem}-{label}{path.suffix}")
        reference.save(target)
        say(f"Saved {label} to {target}")


def _segment_all(
    segmenter: Segmenter, references: dict[str, Reference], files: list[tuple[Path, str]], out: Path, batch_size: int,
    pictures: bool, overwrite: bool, spread_over: tuple[SegmentPlan, Cluster] | None,
) -> int:  # fmt: skip
    """The number of photos that could not be used."""
    from prmagic.export import RunFolder, digest, file_sha256, record, weights
    from prmagic.resumable import locked

    digests = {label: digest(reference) for label, reference in references.items()}
    problems: list[str] = []
    seconds: dict[str, float] = {}
    rejected = empty = 0
    with locked(out):
        settings = {"settings": segmenter.settings, "references": digests}
        framework = segmenter.framework
        notes = {"model": framework.signature["model_name"], "weights": weights(framework)}
        run = RunFolder(out, settings, notes, overwrite)
        waiting = {name: file for file, name in files if not _is_done(run, name, file, references)}
        if len(waiting) < len(files):
            say(f"{len(files) - len(waiting)} of {len(files)} photos are done already.")
        with progress_bar("Segmenting", len(waiting) * len(references)) as (progress, task):

            def report(name: str, error: Exception) -> None:
                problems.append(name)
                say(f"{name}: {error}", "Skipped")
                progress.advance(task, len(references))

            results = (
                segmenter.stream(waiting.values(), references, names=waiting, batch_size=batch_size, on_error=report)
                if spread_over is None
                else _elsewhere(*spread_over, waiting, batch_size, report)
            )
            for result in results:
                if (result.query, result.label) not in run.done:
                    _write(run, result, references, pictures)
                    run.append(record(result, file_sha256(waiting[result.query])))
                for stage, spent in result.seconds.items():
                    seconds[stage] = seconds.get(stage, 0.0) + spent
                rejected += result.rejected
                empty += not result.found
                progress.advance(task)
    done = len(waiting) - len(problems)
    why = f" ({rejected} for a score below {segmenter.min_score:g})" if rejected else ""
    say(f"{done} photo(s) segmented, {empty} mask(s) empty{why}, {len(problems)} skipped. Results: {out}")
    if done:
        stages = ", ".join(f"{stage} {spent / done:.2f} s" for stage, spent in seconds.items())
        say(f"A photo took, on average: {stages}.")
    return len(problems)


def _elsewhere(
    plan: SegmentPlan, cluster: Cluster, waiting: dict[str, Path], batch_size: int,
    report: Callable[[str, Exception], None],
) -> Iterator[Segmentation]:  # fmt: skip
    """The same results as from this process, in the order in which the workers are done."""
    from prmagic.distributed import Skipped, spread

    photos = [(name, str(file.resolve())) for name, file in waiting.items()]
    batches = [photos[start : start + batch_size] for start in range(0, len(photos), batch_size)]
    for results in spread(plan.work, batches, cluster):
        for result in results:
            if isinstance(result, Skipped):
                report(result.name, ValueError(result.why))
            else:
                yield result


def _is_done(run: RunFolder, name: str, file: Path, labels: Iterable[str]) -> bool:
    from prmagic.export import file_sha256

    known = {run.done.get((name, label)) for label in labels}
    if known - {None} and known - {None} != {file_sha256(file)}:
        raise ValueError(
            f"{file} is not the photo whose results {run.folder} holds as {name!r}: choose another --out, or start it "
            "anew with --overwrite"
        )
    return None not in known


def _write(run: RunFolder, result: Segmentation, references: dict[str, Reference], pictures: bool) -> None:
    from prmagic import viz

    label = result.label if len(references) > 1 else None
    viz.save_image(viz.mask_image(result.mask), run.path("masks", result.query, label, ".png"))
    if pictures:
        image: ByteArray = result.image
        viz.save_image(viz.overlay(image, result.mask), run.path("overlays", result.query, label, ".jpg"))
        strip = viz.candidate_strip(result, image, references[result.label].preview)
        viz.save_image(strip, run.path("candidates", result.query, label, ".png"))
