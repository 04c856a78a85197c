"""Which episodes a run has, and in which order and portions they are worked off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prmagic.datasets.base import Dataset, Episode, Sampling, manifest_digest
from prmagic.evaluation.benchmark_settings import SAME_EPISODES
from prmagic.evaluation.folder import EvaluationFolder

PUBLISHED_SEED = 42


@dataclass(frozen=True)
class Job:
    """An episode, and the seed on which all of its random draws depend."""

    seed: int
    episode: Episode

    @property
    def supports(self) -> tuple[Any, ...]:
        """What a reference is made from; equal for jobs that can share one."""
        return self.seed, self.episode.category, self.episode.supports


def draw(
    dataset: Dataset, folds: Sequence[int], shots: int, seeds: Sequence[int], sampling: Sampling, limit: int | None,
    framework: str,
) -> dict[int, list[Episode]]:  # fmt: skip
    """Draw the episodes of a run.

    The published PerSAM runs have the same episodes for every seed, and so has sampling "paper" with PerSAM.

    Args:
        dataset: The benchmark.
        folds: Which of its folds.
        shots: Supports per episode.
        seeds: One list of episodes each.
        sampling: "paper" or "default".
        limit: At most so many episodes of each fold; None for all.
        framework: Its name.

    Returns:
        The episodes by seed.
    """
    same = sampling == "paper" and framework in SAME_EPISODES
    drawn: dict[int, list[Episode]] = {}
    for seed in seeds:
        source = PUBLISHED_SEED if same else seed
        drawn[seed] = [episode for fold in folds for episode in dataset.episodes(fold, shots, source, sampling)[:limit]]
    return drawn


def waiting_jobs(folder: EvaluationFolder, episodes: Mapping[int, Sequence[Episode]]) -> list[Job]:
    """The jobs of which the folder has no record yet."""
    return [
        Job(seed, episode) for seed, drawn in episodes.items() for episode in drawn
        if (seed, episode.id) not in folder.done
    ]  # fmt: skip


def digests(episodes: Mapping[int, Sequence[Episode]]) -> dict[str, str]:
    """SHA-256 of each seed's manifest, by seed."""
    return {str(seed): manifest_digest(drawn) for seed, drawn in episodes.items()}


def by_supports(jobs: Iterable[Job]) -> list[Job]:
    """Jobs with the same supports side by side, otherwise in their order."""
    groups: dict[tuple[Any, ...], list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.supports, []).append(job)
    return [job for group in groups.values() for job in group]


def in_chunks(jobs: Sequence[Job], most: int) -> list[list[Job]]:
    """Portions for workers: at most so many jobs each, all with the same supports."""
    chunks: list[list[Job]] = []
    for job in by_supports(jobs):
        if chunks and chunks[-1][0].supports == job.supports and len(chunks[-1]) < most:
            chunks[-1].append(job)
        else:
            chunks.append([job])
    return chunks
