"""Single objects: how many of a class's things in a photo are found, one mask each.

An episode is a photo with its supports, as in `prmagic evaluate own`; the truth is in the data's instances.jsonl. Masks
are matched, and precision averaged, by pycocotools' own code.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from prmagic.datasets.base import DatasetError, Episode
from prmagic.datasets.own import OBJECTS, Own
from prmagic.evaluation.jobs import Job, by_supports
from prmagic.evaluation.tables import Block, Bullets, Heading, Table, latex, markdown
from prmagic.io.formats import Labelled, Options, instance_record, recorded_instance, rle
from prmagic.io.formats.coco import coco
from prmagic.io.records import RUN, RecordFolder
from prmagic.io.shapes import check_code, decode
from prmagic.reference import Example, Reference
from prmagic.segmenter import Segmenter
from prmagic.types import Instance

LARGE = 0.02  # of the photo: smaller objects are left out of one of the recalls
TASK = "instances"


class InstanceFolder(RecordFolder):
    """run.json and instances.jsonl, a line per photo, class and seed with the true and the found objects."""

    records = OBJECTS
    others = ()
    key = ("seed", "episode")
    value = "class"
    mark = "task"

    def _problem(self, entry: Mapping[str, Any]) -> str | None:
        _check(entry)
        return None


def with_objects(dataset: Own, episodes: Sequence[Episode]) -> list[Episode]:
    """Those whose photo has single objects of the class, each photo once per class.

    Raises:
        DatasetError: There are none, or the data names no single objects.
    """
    first: dict[tuple[str, str], Episode] = {}
    for episode in episodes:
        if dataset.has_objects(episode.query.image, episode.category):
            first.setdefault((episode.query.image, episode.category), episode)
    if not first:
        raise DatasetError(f"{dataset.root / OBJECTS} names no object of these classes in these photos")
    return list(first.values())


def found_objects(dataset: Own, segmenter: Segmenter, jobs: Iterable[Job]) -> Iterator[dict[str, Any]]:
    """Search the photos, grouped by their supports.

    Yields:
        A line of instances.jsonl per job. A photo that cannot be searched has "failed".

    Raises:
        DatasetError: The data is missing or damaged.
    """
    supports: object = None
    reference: Reference | str = ""
    for job in by_supports(jobs):
        segmenter.seed = job.seed
        if job.supports != supports:
            supports, reference = job.supports, _reference(dataset, segmenter, job.episode)
        yield _searched(dataset, segmenter, job, reference)


def _reference(dataset: Own, segmenter: Segmenter, episode: Episode) -> Reference | str:
    """Or why there is none."""
    photos = [dataset.photo(item, episode.category) for item in episode.supports]
    try:
        return segmenter.encode_examples([Example(photo.image, photo.mask) for photo in photos])
    except ValueError as error:
        return str(error)


def _searched(dataset: Own, segmenter: Segmenter, job: Job, reference: Reference | str) -> dict[str, Any]:
    episode = job.episode
    image = dataset.photo(episode.query, episode.category).image
    truth = dataset.objects(episode.query.image, episode.category)
    record: dict[str, Any] = {
        "seed": job.seed, "episode": episode.id, "class": episode.category, "query": episode.query.image,
        "supports": [item.image for item in episode.supports], "height": image.shape[0], "width": image.shape[1],
        "truth": [rle(mask) for mask in truth if mask.any()], "found": [],
    }  # fmt: skip
    try:
        if isinstance(reference, str):
            raise ValueError(reference)
        (encoded,) = segmenter.encode([image])
        result = segmenter.segment_encoded(
            episode.query.image, episode.category, encoded, reference, episode.id, instances=True
        )
    except ValueError as error:
        return {**record, "failed": str(error), "seconds": 0.0}
    found = [instance_record(each) for each in result.instances or ()]
    return {**record, "found": found, "seconds": round(sum(result.seconds.values()), 4)}


@dataclass(frozen=True, eq=False)
class InstanceRun:
    """A run's records, by name for people; about: its run.json."""

    name: str
    about: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]


def is_instance_run(folder: Path) -> bool:
    """Whether `prmagic evaluate own --instances` wrote it."""
    try:
        return bool(json.loads((folder / RUN).read_text(encoding="utf-8")).get("task") == TASK)
    except (OSError, ValueError, AttributeError):
        return False


def read_instance_run(folder: Path) -> InstanceRun:
    """Read a run, finished or not; a line that was cut short is passed over.

    Raises:
        ValueError: It holds no records, or they are damaged.
    """
    about, path = json.loads((folder / RUN).read_text(encoding="utf-8")), folder / OBJECTS
    records = []
    for number, line in enumerate(path.read_bytes().splitlines(keepends=True) if path.is_file() else (), start=1):
        if line.endswith(b"\n"):
            try:
                entry = json.loads(line)
                _check(entry)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
                raise ValueError(f"{path}, line {number} is damaged: the same `prmagic evaluate` repairs it") from error
            records.append(entry)
    if not records:
        raise ValueError(f"{folder} has no whole line in {OBJECTS}: the run has not finished a photo yet")
    return InstanceRun(folder.resolve().name, about, records)


def _check(entry: Mapping[str, Any]) -> None:
    """ValueError, TypeError or LookupError if a record cannot be measured."""
    size = (int(entry["height"]), int(entry["width"]))
    for code in entry["truth"]:
        check_code(code, size)
    for found in entry["found"]:
        check_code(found["mask"], size)
        recorded_instance(found)
    if not isinstance(entry["class"], str) or not entry["truth"]:
        raise ValueError("it has no class, or no true object")


def measures(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What a table shows; shares from 0 to 1.

    A found mask counts if its IoU with a true object that no better-scored mask has is 0.5 or more. AP is COCO's: the
    mean over the classes, at IoU 0.5 and over 0.5, 0.55 … 0.95.

    Args:
        records: At least one.

    Returns:
        Numbers by name; nan for what is not defined.
    """
    evaluator = _matched(records)
    widest, most = evaluator.params.areaRng[0], evaluator.params.maxDets[-1]
    matched = [each for each in evaluator.evalImgs if each and each["aRng"] == widest and each["maxDet"] == most]
    share = {
        id: annotation["area"] / np.prod(records[annotation["image_id"] - 1]["truth"][0]["size"])
        for id, annotation in evaluator.cocoGt.anns.items()
    }
    hits = {int(id): bool(hit) for each in matched for id, hit in zip(each["gtIds"], each["gtMatches"][0], strict=True)}
    large = [hit for id, hit in hits.items() if share[id] >= LARGE]
    right = np.concatenate([np.zeros(0), *(each["dtMatches"][0] > 0 for each in matched)])
    precision, recall = _mean(right), _mean(list(hits.values()))
    errors = [abs(len(record["found"]) - len(record["truth"])) for record in records]
    both = precision + recall
    return {
        "photos": len(records), "objects": len(hits), "masks": len(right), "precision": precision, "recall": recall,
        "recall of large": _mean(large), "F1": 2 * precision * recall / both if both > 0 else 0.0,
        "AP 0.5": float(evaluator.stats[1]), "AP 0.5:0.95": float(evaluator.stats[0]),
        "count error": _mean(errors), "count within 1": _mean([error <= 1 for error in errors]),
        "seconds": _mean([record["seconds"] for record in records]),
    }  # fmt: skip


def _matched(records: Sequence[Mapping[str, Any]]) -> COCOeval:
    """Pycocotools' evaluation, done; image ids are the records' positions from 1."""
    labels = sorted({record["class"] for record in records})
    truth, found = COCO(), COCO()
    truth.dataset = coco(map(_true, records), labels, Options())
    found.dataset = coco(map(_found, records), labels, Options())
    with redirect_stdout(io.StringIO()):  # it prints
        truth.createIndex()
        found.createIndex()
        evaluator = COCOeval(truth, found, "segm")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


def _true(record: Mapping[str, Any]) -> Labelled:
    masks = [decode(code) for code in record["truth"]]
    things = [Instance(mask, (0, 0, 0, 0), 1.0, 1.0) for mask in masks]
    return Labelled(record["episode"], {record["class"]: masks[0]}, instances={record["class"]: things})


def _found(record: Mapping[str, Any]) -> Labelled:
    nothing = np.zeros(record["truth"][0]["size"], bool)
    found = [recorded_instance(each) for each in record["found"]]
    things = [each if math.isfinite(each.score) else replace(each, score=-1.0) for each in found]
    return Labelled(record["episode"], {record["class"]: nothing}, instances={record["class"]: things})


def _mean(values: Sequence[Any] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


# By how many objects of the class a photo has.
GROUPS: dict[str, Callable[[int], bool]] = {
    "all photos": lambda objects: True,
    "2 or more objects": lambda objects: objects >= 2,
    "2 to 5 objects": lambda objects: 2 <= objects <= 5,
}
SHARES = {
    "precision": "Precision", "recall": "Recall", "recall of large": f"Recall, objects of {100 * LARGE:g} % or more",
    "F1": "F1", "AP 0.5": "AP, IoU 0.5", "AP 0.5:0.95": "AP, IoU 0.5:0.95", "count within 1": "Count within ±1",
}  # fmt: skip
NUMBERS = {
    "photos": "Photos", "objects": "Objects", "masks": "Masks found", "count error": "Mean count error",
    "seconds": "Seconds a photo",
}  # fmt: skip


def report(runs: Sequence[InstanceRun], form: str) -> str:
    """Tables of several runs; form: "md", "latex", "csv" or "json"."""
    if form in ("md", "latex"):
        blocks = [block for run in runs for block in _blocks(run)]
        return markdown(blocks) if form == "md" else latex(blocks)
    rows = [row for run in runs for row in _rows(run)]
    if form == "json":
        described = [{"run": run.name, **run.about} for run in runs]
        return json.dumps({"runs": described, "rows": rows}, indent=1, ensure_ascii=False) + "\n"
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _groups(run: InstanceRun) -> dict[str, dict[str, float]]:
    """The measures of each group that has a photo."""
    chosen = {
        name: [record for record in run.records if belongs(len(record["truth"]))] for name, belongs in GROUPS.items()
    }
    return {name: measures(records) for name, records in chosen.items() if records}


def _rows(run: InstanceRun) -> Iterator[dict[str, Any]]:
    for group, numbers in _groups(run).items():
        for name, value in numbers.items():
            finite = None if math.isnan(value) else value
            yield {"run": run.name, "photos": group, "quantity": name, "value": finite}


def _blocks(run: InstanceRun) -> Iterator[Block]:
    settings, groups = run.about["settings"], _groups(run)
    yield Heading(f"{run.name}: {settings['framework']}, single objects, {run.about['shots']}-shot")
    table = [[title, *(_percent(numbers[name]) for numbers in groups.values())] for name, title in SHARES.items()]
    plain = [[title, *(_number(numbers[name]) for numbers in groups.values())] for name, title in NUMBERS.items()]
    yield Table(("", *groups), [*plain[:3], *table, *plain[3:]], 1)
    failed = sum("failed" in record for record in run.records)
    expected = sum(run.about["episodes"].values())
    missing = expected - len(run.records)
    flow = ", ".join(f"{name} {value}" for name, value in settings.get("flow", {}).items())
    sentences = [
        "In percent: precision, recall and F1 at IoU 0.5; AP by pycocotools, the mean over the classes.",
        f"Model: {run.about['model']}. Flow: {flow}. Masks with a score below {settings['min_score']} are left out."
        if settings["min_score"] is not None
        else f"Model: {run.about['model']}. Flow: {flow}.",
        f"Photos that could not be searched: {failed}; they count as nothing found.",
    ]
    if missing:
        sentences.append(f"The run is not finished: {missing} of {expected} photos are missing.")
    yield Bullets(sentences)


def _percent(share: float) -> str:
    return "–" if math.isnan(share) or share < 0 else f"{100 * share:.1f}"


def _number(value: float) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)
