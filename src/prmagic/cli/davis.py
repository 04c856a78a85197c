"""`prmagic evaluate davis`: each object of each video, from its mask in the first frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from prmagic.cli.terminal import progress_bar, say

if TYPE_CHECKING:
    from prmagic.datasets.davis import Video
    from prmagic.evaluation.video import Measured
    from prmagic.segmenter import Segmenter
    from prmagic.types import BoolArray


def evaluate_davis(
    arguments: Mapping[str, Any], data: Path, split: str | None, memory: int, per_frame: bool, limit: int | None,
    threads: int | None, out: Path, overwrite: bool,
) -> None:  # fmt: skip
    """Measure what is not done, and print J, F and their mean. limit: only the first sequences."""
    import torch

    from prmagic.datasets.davis import open_davis
    from prmagic.evaluation.video import VideoFolder
    from prmagic.io.records import locked
    from prmagic.loading import load

    chosen, found = open_davis(data, split)
    videos = list(found)[:limit]
    torch.set_num_threads(threads or torch.get_num_threads())
    segmenter = load(**arguments)
    run = {
        "benchmark": "davis", "split": chosen, "settings": segmenter.settings, "limit": limit,
        "memory": None if per_frame else memory,
    }  # fmt: skip
    with locked(out):
        folder = VideoFolder(out, run, {"model": segmenter.framework.signature["model_name"]}, overwrite)
        jobs = [(video, item) for video in videos for item in video.objects]
        waiting = [job for job in jobs if (job[0].name, job[1]) not in folder.done]
        if len(waiting) < len(jobs):
            say(f"{len(jobs) - len(waiting)} of {len(jobs)} objects are done already.")
        with progress_bar("Frames", sum(len(video.frames) for video, _ in waiting)) as (progress, task):
            for video, item in waiting:
                folder.append(_measured(segmenter, video, item, None if per_frame else memory))
                progress.advance(task, len(video.frames))
        _print(folder.measures())


def _measured(segmenter: Segmenter, video: Video, item: int, memory: int | None) -> dict[str, Any]:
    """A record: J and F of each frame but the first and the last. memory: None: each frame by itself."""
    from prmagic.evaluation.video import boundary_f, region_j
    from prmagic.types import Support

    reference = segmenter.encode_support(Support(next(video.images()), video.truth(0, item)))
    if memory is None:
        results = segmenter.stream(video.images(), reference)
    else:
        results = segmenter.track(video.images(), reference, memory=memory)
    j, f = [], []
    for number, result in enumerate(results):
        if 0 < number < len(video.frames) - 1:
            truth: BoolArray = video.truth(number, item)
            j.append(region_j(result.mask, truth))
            f.append(boundary_f(result.mask, truth))
    return {"sequence": video.name, "object": item, "j": j, "f": f}


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
