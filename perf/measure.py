"""Measure one cell: floor, support, query and unit costs in turn, so that a slow phase of the machine hits them all."""

from __future__ import annotations

import hashlib
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

import prmagic
from cells import SETUPS, Cell
from prmagic import Segmenter, Support
from prmagic.backbones.promptable import Embedding
from prmagic.demo import cases
from prmagic.frameworks import Framework, Matcher, Reference
from prmagic.types import ByteArray, Candidate, Prompts, Segmentation
from sizes import checkpoints

UNTIMED = ("app", "cli", "datasets", "evaluation")  # parts of the package of which no cell runs anything
MOST_DECODED = 64  # prompt sets of one step whose decoding is timed together, without a graph
MOST_WITH_GRAPH = 64  # the same with a graph, which takes about 170 MB each; all 154 of the published code take 26 GB

Result = TypeVar("Result")


@dataclass
class Record:
    """What a cell gave. Lists hold seconds, at least one number per round; `query` and `stages` are per photo."""

    cell: dict[str, Any]
    name: str
    floor_sam: list[float] = field(default_factory=list)
    floor_encoder: list[float] = field(default_factory=list)
    support: list[float] = field(default_factory=list)
    query: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    support_counts: dict[str, int] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)  # per photo
    decode: list[float] = field(default_factory=list)  # one prompt set alone
    decode_in_batch: list[float] = field(default_factory=list)  # per prompt set
    gradient_decode: list[float] = field(default_factory=list)  # per prompt set, with graph and backward pass
    gradient_decode_alone: list[float] = field(default_factory=list)  # the same for one prompt set in a call
    subsets: int = 0  # Matcher's prompt sets per step
    distinct_prompts: float = 0  # per photo, of all steps and labels
    distinct_candidates: float = 0  # per photo, masks that are not empty, of all steps and labels
    areas: tuple[float, float] = (0.0, 0.0)  # smallest and largest candidate, as shares of the photo
    peak_bytes: int = 0
    load: list[float] = field(default_factory=list)  # of the last minute, before each round and after the last
    threads: int = 0
    when: str = ""


def measure(cell: Cell, models: Path) -> Record:
    """In a fresh process, or the peak memory is not the cell's."""
    segmenter = build(cell, models)
    framework = segmenter.framework
    photos, supports = _queries(cell.queries), _supports(cell.labels)
    names = [str(number) for number in range(cell.queries)]
    record = Record(asdict(cell), cell.name, threads=torch.get_num_threads())
    record.when = time.strftime("%Y-%m-%d %H:%M")
    _warm_up(cell, models, photos[0], framework)

    references: dict[str, Reference] = {}
    for turn in range(cell.rounds):
        record.load.append(os.getloadavg()[0])
        embedding = _floor(record, framework, photos[0])
        if not references or cell.labels == cell.queries == 1:
            before = dict(framework.counts)
            seconds, references = _timed(lambda: {n: segmenter.encode_support(s) for n, s in supports.items()})
            record.support.append(seconds)
            record.support_counts = {kind: total - before[kind] for kind, total in framework.counts.items()}
            _floor(record, framework, photos[0])
        seconds, results = _timed(partial(_stream, segmenter, photos, references, names))
        record.query.append(seconds / len(photos))
        for stage in dict.fromkeys(stage for result in results for stage in result.seconds):
            spent = sum(result.seconds.get(stage, 0.0) for result in results)
            record.stages.setdefault(stage, []).append(spent / len(photos))
        if not turn:  # the unit costs below would be seen in the peak
            record.peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            _describe(record, framework, results, len(photos))
        _units(record, framework, embedding, results[0].candidates[0])
        _floor(record, framework, photos[0])
    record.load.append(os.getloadavg()[0])
    return record


def build(cell: Cell, models: Path) -> Segmenter:
    """On the CPU, by the public interface; only the number of centres has to be put in afterwards."""
    setup = SETUPS[cell.setup]
    sam, encoder = checkpoints(cell.size, models)
    options = {"encoder": encoder} if setup.framework == "matcher" else {"extra_points": setup.extra_points}
    # The published presets have a re-encoding selector of their own.
    own = setup.preset == "paper" and cell.selector == "reencode"
    segmenter = prmagic.load(
        setup.framework, sam=sam, preset=setup.preset, steps=cell.steps, flow=None if cell.steps else "none",
        selector=None if own else cell.selector, device="cpu", dtype=cell.dtype, **options,
    )  # fmt: skip
    framework = segmenter.framework
    if setup.centers is not None and isinstance(framework, Matcher):
        settings = replace(framework.options, centers=setup.centers, subset_sizes=(4, 6))
        framework = Matcher(framework.sam, framework.encoder, settings)
        segmenter = Segmenter(framework, segmenter.flow, segmenter.selector)
    return segmenter


def about() -> dict[str, Any]:
    """The machine, for the report's head, and a digest of all code that is timed or does the timing."""
    code, package = hashlib.sha256(), Path(prmagic.__file__).parent
    timed = [path for path in sorted(package.rglob("*.py")) if path.relative_to(package).parts[0] not in UNTIMED]
    for path in [*timed, *(Path(__file__).with_name(name) for name in ("measure.py", "sizes.py"))]:
        code.update(path.read_bytes())
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return {
        "cpu": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "ram_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "prmagic": prmagic.__version__,
        "code": code.hexdigest()[:12],
    }


def distinct_prompts(framework: Framework, candidates: Sequence[Candidate]) -> int:
    """How many different prompt sets the candidates need: PerSAM-F's cascade has three for each set of points."""
    if isinstance(framework, Matcher):
        return len({prompts.points.tobytes() for c in candidates for prompts in _subsets(framework, c)})
    return 3 * len({candidate.prompts.points.tobytes() for candidate in candidates})


def _stream(
    segmenter: Segmenter, photos: Sequence[ByteArray], references: dict[str, Reference], names: Sequence[str]
) -> list[Segmentation]:
    return list(segmenter.stream(photos, references, names=names))


def _timed(work: Callable[[], Result]) -> tuple[float, Result]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def _queries(number: int) -> list[ByteArray]:
    """Different photos of the demo, and their mirror images when those are used up."""
    photos = [case.query for case in cases()]
    return [*photos, *(np.ascontiguousarray(photo[:, ::-1]) for photo in photos)][:number]


def _supports(number: int) -> dict[str, Support]:
    return {case.name: Support(case.support, case.support_mask) for case in cases()[:number]}


def _warm_up(cell: Cell, models: Path, photo: ByteArray, framework: Framework) -> None:
    """Late imports happen here, on the embedded models; then weights are paged in."""
    short = min(cell.steps, 1)  # no more memory than the cell itself needs
    small = build(replace(cell, size="embedded", steps=short, dtype="float32"), models)
    small.segment(photo, small.encode_support(next(iter(_supports(1).values()))))
    _floor(Record({}, ""), framework, photo)


def _floor(record: Record, framework: Framework, photo: ByteArray) -> Embedding:
    """One encode, and with Matcher one of the other encoder too."""
    seconds, (embedding,) = _timed(lambda: framework.sam.encode([photo]))
    record.floor_sam.append(seconds)
    if isinstance(framework, Matcher):
        encoder = framework.encoder
        record.floor_encoder.append(_timed(lambda: encoder.encode([photo]))[0])
    return embedding


def _describe(record: Record, framework: Framework, results: Sequence[Segmentation], photos: int) -> None:
    """Counts, and how many different things they were done for."""
    for kind in results[0].counts:
        record.counts[kind] = sum(result.counts[kind] for result in results) / photos
    masks = [{c.mask.tobytes() for c in result.candidates if c.mask.any()} for result in results]
    record.distinct_candidates = sum(len(each) for each in masks) / photos
    record.distinct_prompts = sum(distinct_prompts(framework, result.candidates) for result in results) / photos
    areas = [float(candidate.mask.mean()) for result in results for candidate in result.candidates]
    record.areas = min(areas), max(areas)
    if isinstance(framework, Matcher):
        record.subsets = len(_subsets(framework, results[0].candidates[0]))


def _subsets(framework: Matcher, candidate: Candidate) -> list[Prompts]:
    """All prompt sets of the step that led to a candidate."""
    points, (least, most) = candidate.prompts.points, framework.options.subset_sizes
    indices = range(len(points))
    chosen = [s for n in range(min(least, len(points)), min(most, len(points)) + 1) for s in combinations(indices, n)]
    return [Prompts(points[list(subset)], np.ones(len(subset), np.int64)) for subset in chosen]


def _units(record: Record, framework: Framework, embedding: Embedding, candidate: Candidate) -> None:
    """What one decode costs: alone, in the library's batches, and with a graph and its backward pass in both ways."""
    if isinstance(framework, Matcher):
        sets, multimask = _subsets(framework, candidate), False
        alone, with_graph = sets[:1], sets[:MOST_WITH_GRAPH]
    else:
        sets, multimask = [], True
        alone = [Prompts(candidate.prompts.points, candidate.prompts.labels)]
        with_graph = [candidate.prompts]

    def backward(prompts: Sequence[Prompts]) -> float:
        """Seconds per prompt set, all in one batch, as the published code does."""
        moved = embedding.features.clone().requires_grad_()
        ours, framework.sam.decode_batch = framework.sam.decode_batch, len(prompts)
        start = time.perf_counter()
        logits = framework.sam.decode(embedding.moved_to(moved), prompts, multimask=multimask).logits
        torch.autograd.grad(logits.sum(), moved)
        framework.sam.decode_batch = ours
        return (time.perf_counter() - start) / len(prompts)

    def decode(prompts: Sequence[Prompts]) -> float:
        return _timed(lambda: framework.sam.decode(embedding, prompts, multimask=multimask))[0] / len(prompts)

    record.decode += [decode(alone) for _ in range(3)]
    if sets:
        record.decode_in_batch.append(decode(sets[:MOST_DECODED]))
    record.gradient_decode += [backward(with_graph) for _ in range(1 if sets else 2)]
    record.gradient_decode_alone += [backward(with_graph[:1]) for _ in range(3)] if sets else []
