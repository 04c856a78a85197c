"""Work for many processes or machines, by Ray: each worker loads its models once, and one that dies is replaced."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from prmagic.frameworks import Reference
from prmagic.segmenter import load
from prmagic.types import Part, Prompts, Segmentation

Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS = 3  # a task that kills so many workers is to blame itself


@dataclass(frozen=True)
class Cluster:
    """address: "auto" for the cluster this machine is part of, or a new one on this machine if there is none; or of a
    cluster's head, such as "ray://10.0.0.1:10001". workers: processes; gpus: of each one, a fraction for sharing."""

    address: str = "auto"
    workers: int = 2
    gpus: float = 0.0


def spread(build: Callable[[], Callable[[Task], Result]], tasks: Iterable[Task], cluster: Cluster) -> Iterator[Result]:
    """Results as they come, in any order. build: called once in each worker, gives what turns a task into a result.

    A worker that dies is replaced, and its task done again. Errors that a task raises are raised here. ValueError if
    Ray is not installed or the cluster has no room, RuntimeError for a task that kills its workers."""
    ray = connect(cluster)
    hired: type[Any] = ray.remote(num_cpus=0, num_gpus=cluster.gpus)(_Worker)

    def hire() -> Any:
        return hired.remote(build)

    waiting = deque((task, 0) for task in tasks)
    idle = [hire() for _ in range(min(cluster.workers, len(waiting)))]
    running: dict[Any, tuple[Any, Task, int]] = {}
    try:
        while waiting or running:
            while idle and waiting:
                worker, (task, attempts) = idle.pop(), waiting.popleft()
                running[worker.do.remote(task)] = worker, task, attempts
            (done,), _ = ray.wait(list(running), num_returns=1)
            worker, task, attempts = running.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayActorError as error:
                if attempts + 1 == ATTEMPTS:
                    raise RuntimeError(f"{attempts + 1} worker(s) died of the same work: {error}") from None
                waiting.appendleft((task, attempts + 1))
                idle.append(hire())
                continue
            except ray.exceptions.RayTaskError as error:
                idle.append(worker)  # to be ended with the others
                raise error.cause from None
            idle.append(worker)
            yield result
    finally:
        for worker in [*idle, *(worker for worker, _, _ in running.values())]:
            ray.kill(worker)


@dataclass(frozen=True)
class SegmentPlan:
    """What a worker needs to segment photos. load: the arguments of `prmagic.load`; threads: torch's."""

    load: Mapping[str, Any]
    references: Mapping[str, Reference]
    threads: int

    def work(self) -> Callable[[Sequence[tuple[str, str]]], list[Segmentation | Skipped]]:
        """Turns (name, file) pairs into results, one per label, or a note of why a photo cannot be used.

        The workers read the files themselves, so these have to lie where all machines see them."""
        torch.set_num_threads(self.threads)
        segmenter = load(**self.load)

        def segment(photos: Sequence[tuple[str, str]]) -> list[Segmentation | Skipped]:
            skipped: list[Segmentation | Skipped] = []
            results = segmenter.stream(
                [file for _, file in photos], self.references, names=[name for name, _ in photos],
                batch_size=len(photos), on_error=lambda name, error: skipped.append(Skipped(name, str(error))),
            )  # fmt: skip
            return [*(_without_logits(result) for result in results), *skipped]

        return segment


@dataclass(frozen=True)
class Skipped:
    """A photo that could not be used."""

    name: str
    why: str


def _without_logits(result: Segmentation) -> Segmentation:
    """For the way back: nothing that is written needs them."""
    return replace(
        result, candidates=tuple(replace(candidate, logits=None, parts=tuple(map(_plain_part, candidate.parts)),
        prompts=_plain(candidate.prompts)) for candidate in result.candidates),
    )  # fmt: skip


def _plain_part(part: Part) -> Part:
    return replace(part, prompts=_plain(part.prompts))


def _plain(prompts: Prompts) -> Prompts:
    return replace(prompts, mask_logits=None)


class _Worker:
    def __init__(self, build: Callable[[], Callable[[Any], Any]]):
        self._build = build
        self._work: Callable[[Any], Any] | None = None

    def do(self, task: Any) -> Any:
        # Built here and not above, where Ray would wrap an error in its own.
        self._work = self._work or self._build()
        return self._work(task)


def connect(cluster: Cluster) -> Any:
    """The ray module, connected. ValueError if it is not installed, nobody answers, or there is too little room."""
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray, which is not installed: pip install 'prmagic[ray]'") from None
    if not ray.is_initialized():
        # Ray's own "auto" would also join a cluster that another run on this machine has started for itself.
        address = None if cluster.address == "auto" else cluster.address
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", include_dashboard=False)
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {cluster.address} ({error})") from None
    if cluster.gpus:
        room = sum(int(node["Resources"].get("GPU", 0) / cluster.gpus) for node in ray.nodes() if node["Alive"])
        if cluster.workers > room:
            raise ValueError(
                f"the cluster has room for {room} workers with {cluster.gpus:g} GPU each, not for {cluster.workers}: "
                "take fewer --workers, or a smaller --gpus-per-worker"
            )
    return ray
