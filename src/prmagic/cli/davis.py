"""`prmagic evaluate davis`: each object of each video, from its mask in the first frame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prmagic.cli.terminal import progress_bar, say

if TYPE_CHECKING:
    from prmagic.datasets.davis import Video
    from prmagic.evaluation.video import Measured
    from prmagic.segmenter import Segmenter


def evaluate_davis(
    arguments: Mapping[str, Any], data: Path, split: str | None, memory: int | None, per_frame: bool, limit: int | None,
    threads: int | None, out: Path, overwrite: bool,
) -> None:  # fmt: skip
    """Measure what is not done, and print J, F and their mean. limit: only the first sequences."""
    import torch

    from prmagic.datasets.davis import open_davis
    from prmagic.evaluation.video import VideoFolder
    from prmagic.io.records import locked
    from prmagic.loading import load
    from prmagic.track import MEMORY

    if per_frame and memory is not None:
        raise ValueError("--per-frame has no memory: leave one of --per-frame and --memory out")
    kept = None if per_frame else MEMORY if memory is None else memory
    chosen, found = open_davis(data, split)
    videos = list(found)[:limit]
    torch.set_num_threads(threads or torch.get_num_threads())
    segmenter = load(**arguments)
    run = {
        "benchmark": "davis", "split": chosen, "settings": segmenter.settings, "limit": limit,
        "memory": kept,
    }  # fmt: skip
    with locked(out):
        folder = VideoFolder(out, run, {"model": segmenter.framework.signature["model_name"]}, overwrite)
        jobs = [(video, item) for video in videos for item in video.objects]
        waiting = [job for job in jobs if (job[0].name, job[1]) not in folder.done]
        if len(waiting) < len(jobs):
            say(f"{len(jobs) - len(waiting)} of {len(jobs)} objects are done already.")
        videos = [video for video in videos if any(each is video for each, _ in waiting)]
        with progress_bar("Frames", sum(len(video.frames) for video in videos)) as (progress, task):
            for video in videos:
                for record in _measured(segmenter, video, kept, lambda: progress.advance(task)):
                    if (record["sequence"], record["object"]) not in folder.done:
                        folder.append(record)
        _print(folder.measures())


def _measured(
    segmenter: Segmenter, video: Video, memory: int | None, advance: Callable[[], object]
) -> list[dict[str, Any]]:
    """A record for each object: J and F of each frame but the first and the last. As in the benchmark's results, no two
    objects share a pixel. memory: None: each frame by itself."""
    from prmagic.evaluation.video import boundary_f, region_j
    from prmagic.types import Support

    first = next(video.images())
    references = {
        str(item): segmenter.encode_support(Support(first, video.truth(0, item)), label=str(item))
        for item in video.objects
    }
    if memory is None:
        results = segmenter.stream(video.images(), references)
    else:
        results = segmenter.track(video.images(), references, memory=memory)
    records: list[dict[str, Any]] = [
        {"sequence": video.name, "object": item, "j": [], "f": []} for item in video.objects
    ]
    for number in range(len(video.frames)):
        for record, result in zip(records, results, strict=False):
            if 0 < number < len(video.frames) - 1:
                truth = video.truth(number, record["object"])
                record["j"].append(region_j(result.mask, truth))
                record["f"].append(boundary_f(result.mask, truth))
        advance()
    return records


def _print(measures: Sequence[tuple[str, int, Measured, Measured]]) -> None:
    """One line per object, and the mean of all."""
    import numpy as np

    typer.echo(f"{'sequence':24} object    J&F     J mean recall  decay   F mean recall  decay")
    rows = {
        f"{name:24} {item or 'all':>6}": 100 * np.array([(each.mean, each.recall, each.decay) for each in both])
        for name, item, *both in measures
    }
    rows[f"mean of {len(rows)}".ljust(31)] = np.mean(list(rows.values()), axis=0)
    for title, both in rows.items():
        j, f = ("".join(f"{value:7.1f}" for value in three) for three in both)
        typer.echo(f"{title}  {both[:, 0].mean():5.1f}   {j}   {f}")
