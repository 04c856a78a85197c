"""Work for many processes or machines, by Ray: each worker loads its models once, and one that dies is replaced."""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from prmagic.loading import load
from prmagic.names import why
from prmagic.reference import Reference
from prmagic.result import Segmentation
from prmagic.types import Part, Prompts

Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS = 3  # a task that has ended so many workers is given up
PATIENCE = 10.0  # seconds without a result, after which the cluster is checked
# For clusters that are started here: results of this size come with the answer, and not through the raylet's store. For
# Ray ends the whole process, with code 1 and without a word, when it asks the store of a raylet that is dead.
INLINE = {"max_direct_call_object_size": 1 << 28, "task_rpc_inlined_bytes_limit": 1 << 28}


@dataclass(frozen=True)
class Cluster:
    """Where the work goes.

    Attributes:
        address: "auto" for the cluster that RAY_ADDRESS names, or else a new one on this machine; or the address of a
            cluster's head, such as "ray://10.0.0.1:10001".
        workers: How many processes.
        gpus: Of each process; a fraction shares one.
    """

    address: str = "auto"
    workers: int = 2
    gpus: float = 0.0


def spread(build: Callable[[], Callable[[Task], Result]], tasks: Iterable[Task], cluster: Cluster) -> Iterator[Result]:
    """Do tasks in many processes.

    A worker that dies, for want of memory too, is replaced, and its task is done again. If a cluster that was started
    here goes down, another is started.

    Args:
        build: Is called once in each worker, and gives what turns a task into a result.
        tasks: What to do.
        cluster: Where.

    Yields:
        Results as they come, in any order. Errors that a task raises are raised here.

    Raises:
        ValueError: Ray is not installed, nobody answers, or the cluster has no room.
        RuntimeError: A task kills its workers, or the cluster is gone.
    """
    waiting = deque((task, 0) for task in tasks)
    crew = _Crew(build, cluster)
    ray, lost = crew.ray, 0
    try:
        while waiting or crew.running:
            done = crew.next_done(waiting)
            if done is None:
                lost += 1
                waiting.extendleft((task, attempts) for _, task, attempts in crew.running.values())
                crew = _after_loss(build, cluster, lost)
                continue
            worker, task, attempts = crew.running.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayTaskError as error:
                crew.idle.append(worker)  # to be ended with the others
                raise error.cause from None
            except ray.exceptions.RayError as error:
                crew.end(worker)
                attempts += crew.is_connected()  # a cluster that goes down is not the task's fault
                if attempts == ATTEMPTS:
                    raise RuntimeError(f"{attempts} worker(s) died of the same work: {_reason(ray, error)}") from None
                waiting.appendleft((task, attempts))
                continue
            crew.idle.append(worker)
            yield result
    finally:
        crew.dismiss()


class _Crew:
    """Workers of one connection to Ray."""

    def __init__(self, build: Callable[[], Callable[[Any], Any]], cluster: Cluster):
        self.ray = connect(cluster)
        self.idle: list[Any] = []
        self.running: dict[Any, tuple[Any, Any, int]] = {}  # by Ray's name of the result: worker, task, attempts
        self._build = build
        self._size = cluster.workers
        self.failed = False  # something went wrong, perhaps with the cluster
        self._hired: type[Any] = self.ray.remote(num_cpus=0, num_gpus=cluster.gpus)(_Worker)

    def next_done(self, waiting: deque[tuple[Any, int]]) -> Any:
        """Hand out work, and wait for a result: Ray's name of it, or of a task that failed; None if the connection is
        lost."""
        try:
            self._hand_out(waiting)
            return self._first_done()
        except Exception as error:  # Ray raises its own and others'
            if not self.is_connected():
                return None
            if isinstance(error, self.ray.exceptions.RayError):
                raise RuntimeError(f"Ray failed: {_reason(self.ray, error)}") from error
            raise

    def _hand_out(self, waiting: deque[tuple[Any, int]]) -> None:
        """Give tasks to all workers that have none, and hire those that are missing."""
        if self.failed and not self.is_connected():
            return
        self.failed = False
        while waiting and len(self.running) < self._size:
            task, attempts = waiting[0]
            worker = self.idle.pop() if self.idle else self._hired.remote(self._build)
            self.running[worker.do.remote(task)] = worker, task, attempts
            waiting.popleft()

    def _first_done(self) -> Any:
        while self.running:
            try:
                done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=PATIENCE)
            except self.ray.exceptions.RayError:
                done = []
            if done and self.is_connected():
                return done[0]
            if not self.is_connected():
                break
        return None

    def is_connected(self) -> bool:
        """Whether this process's part of the cluster is alive."""
        if _started and _has_died():
            return False
        try:
            own = self.ray.get_runtime_context().get_node_id()
            return any(node["NodeID"] == own and node["Alive"] for node in self.ray.nodes())
        except Exception:  # Ray raises its own and others'
            return False

    def dismiss(self) -> None:
        """End all workers."""
        for worker in [*self.idle, *(worker for worker, _, _ in self.running.values())]:
            self.end(worker)

    def end(self, worker: Any) -> None:
        """End a worker, which may be gone already, and its cluster, too."""
        self.failed = True
        with suppress(Exception):
            self.ray.kill(worker)


def _has_died() -> bool:
    """Whether a part of the cluster that was started here has ended: at once, where asking it would wait for a minute,
    after which Ray ends this process."""
    try:
        from ray._private.worker import _global_node

        return any(kind in ("raylet", "gcs_server") for kind, _ in _global_node.dead_processes())
    except Exception:  # it is no public part of Ray
        return False


def _after_loss(build: Callable[[], Callable[[Any], Any]], cluster: Cluster, lost: int) -> _Crew:
    """A crew of another cluster, if the one that is gone was started here."""
    import ray

    if lost == ATTEMPTS or not _started:
        raise RuntimeError(
            f"the Ray cluster ({cluster.address}) went down. What is finished is kept: start the cluster, and then the "
            "same command again"
        )
    with suppress(Exception):
        ray.shutdown()
    return _Crew(build, cluster)


def _reason(ray: Any, error: Exception) -> str:
    text = str(error)
    if isinstance(error, ray.exceptions.OutOfMemoryError) or "out of memory" in text.lower() or "OOM" in text:
        return "memory ran out; take fewer --workers, or a smaller --batch-size"
    return why(error)[:300]


@dataclass(frozen=True)
class SegmentPlan:
    """What a worker needs to segment photos.

    Attributes:
        load: The arguments of `prmagic.load`.
        references: By label.
        threads: torch's, in each worker.
        instances: Whether to find one mask per thing.
        overlaps: Whether labels may share pixels.
    """

    load: Mapping[str, Any]
    references: Mapping[str, Reference]
    threads: int
    instances: bool = False
    overlaps: bool = False

    def work(self) -> Callable[[Sequence[tuple[str, str]]], list[Segmentation | Skipped]]:
        """Give what turns (name, file) pairs into results, one per label, or a note of why a photo cannot be used.

        The workers read the files themselves, so these have to lie where all machines see them.
        """
        torch.set_num_threads(self.threads)
        segmenter = load(**self.load)

        def segment(photos: Sequence[tuple[str, str]]) -> list[Segmentation | Skipped]:
            skipped: list[Segmentation | Skipped] = []
            results = segmenter.stream(
                [file for _, file in photos], self.references, names=[name for name, _ in photos],
                batch_size=len(photos), on_error=lambda name, error: skipped.append(Skipped(name, str(error))),
                instances=self.instances, overlaps=self.overlaps,
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


@contextmanager
def _keeping_sigterm() -> Iterator[None]:
    """Ray puts its own handler of SIGTERM in place of this process's."""
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        yield
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


_started: list[str] = []  # holds something if the cluster was started by this process


def connect(cluster: Cluster) -> Any:
    """Connect to a cluster, or start one.

    Returns:
        The ray module.

    Raises:
        ValueError: Ray is not installed, nobody answers, or there is too little room.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--ray needs Ray, which is not installed: pip install 'prmagic[ray]'") from None
    if not ray.is_initialized():
        # Ray's own "auto" would also join a cluster that another run on this machine has started for itself.
        address = None if cluster.address == "auto" else cluster.address
        where = address or os.environ.get("RAY_ADDRESS") or "local"
        _started[:] = [where] if where == "local" else []
        try:
            with _keeping_sigterm():
                ray.init(
                    address=address, log_to_driver=False, logging_level="error", include_dashboard=False,
                    _system_config=INLINE if _started else None,
                )  # fmt: skip
        except ConnectionError as error:
            raise ValueError(f"no Ray cluster answers at {where} ({why(error)})") from None
        except Exception as error:  # what else Ray raises while it starts is of no kind of its own
            raise ValueError(f"Ray cannot start ({why(error)[:300]}): try again, or leave --ray out") from error
    if cluster.gpus:
        room = sum(int(node["Resources"].get("GPU", 0) / cluster.gpus) for node in ray.nodes() if node["Alive"])
        if cluster.workers > room:
            raise ValueError(
                f"the cluster has room for {room} workers with {cluster.gpus:g} GPU each, not for {cluster.workers}: "
                "take fewer --workers, or a smaller --gpus-per-worker"
            )
    return ray
