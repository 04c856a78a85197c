"""One thread that owns the models. Requests wait for it, and alike ones are answered together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from prmagic.serve.errors import Busy, ModelFailed, RequestError, TooSlow

log = logging.getLogger(__name__)

RECENT = 0.2  # weight of the last photo in the average time


class Work(Protocol):
    """What is to be done with photos. Equal ones are done together."""

    def run(self, photos: Sequence[Any]) -> list[Any]:
        """One answer per photo; an exception in its place if there is none."""


@dataclass(eq=False)
class Job:
    """A request's photos, and the answers as they come; deadline: by `time.monotonic`."""

    work: Work
    photos: Sequence[Any]
    deadline: float
    future: Future[list[Any]] = field(default_factory=Future)
    answers: list[Any] = field(default_factory=list)
    taken: int = 0

    @property
    def over(self) -> bool:
        """Whether nobody waits for more answers; one that waited too long gets its error here."""
        if not self.future.done() and time.monotonic() > self.deadline:
            self.fail(TooSlow("there was no answer in time: send fewer photos at once, or come again later"))
        return self.future.done()

    def fail(self, error: Exception) -> None:
        """End with an error."""
        with suppress(InvalidStateError):  # the client has gone
            self.future.set_exception(error)

    def take(self, answer: Any) -> None:
        """The next answer; an error ends the job."""
        if isinstance(answer, Exception):
            self.fail(answer)
            return
        self.answers.append(answer)
        if len(self.answers) == len(self.photos):
            with suppress(InvalidStateError):
                self.future.set_result(self.answers)


class Worker:
    """The queue and its thread.

    Args:
        queue: So many requests may wait.
        batch_size: So many photos are given to the models together.
    """

    def __init__(self, queue: int, batch_size: int):
        self.queue, self.batch_size = queue, batch_size
        self.seconds = 0.0  # of a photo, the average of the last ones
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="model", daemon=True)
        self._thread.start()

    def submit(self, work: Work, photos: Sequence[Any], timeout: float) -> Job:
        """Put photos into the queue.

        Raises:
            Busy: The queue is full, or the server is ending.
        """
        job = Job(work, photos, time.monotonic() + timeout)
        with self._change:
            self._drop_finished()
            if self._closed:
                raise Busy("the server is ending", 5)
            if len(self._jobs) > self.queue:  # the first is the one that runs
                raise Busy(f"{self.queue} requests wait already", self.patience)
            self._jobs.append(job)
            self._change.notify()
        return job

    @property
    def waiting(self) -> int:
        """Requests that are not answered yet."""
        return sum(not job.over for job in list(self._jobs))

    @property
    def patience(self) -> int:
        """After how many seconds the queue is likely to have room."""
        photos = sum(len(job.photos) - job.taken for job in list(self._jobs))
        return max(1, math.ceil(photos * self.seconds / 2))

    def close(self) -> None:
        """Finish what waits, and take nothing more."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join()

    def _loop(self) -> None:
        while True:
            with self._change:
                self._drop_finished()
                while not self._jobs and not self._closed:
                    self._change.wait()
                if not self._jobs:
                    return
                batch = self._gather()
            if batch:
                begin = time.monotonic()
                self._run(batch)
                spent = (time.monotonic() - begin) / len(batch)
                self.seconds = spent if not self.seconds else (1 - RECENT) * self.seconds + RECENT * spent

    def _drop_finished(self) -> None:
        while self._jobs and self._jobs[0].over:
            self._jobs.popleft()
        for job in [job for job in self._jobs if job.over]:
            self._jobs.remove(job)

    def _gather(self) -> list[tuple[Job, Any]]:
        """Photos of the first request, and of others that want the same, with their jobs."""
        batch: list[tuple[Job, Any]] = []
        first = next((job for job in self._jobs if job.taken < len(job.photos)), None)
        for job in self._jobs:
            if first is None or len(batch) == self.batch_size:
                break
            if job.work == first.work:
                photos = job.photos[job.taken : job.taken + self.batch_size - len(batch)]
                job.taken += len(photos)
                batch += [(job, photo) for photo in photos]
        return batch

    def _run(self, batch: list[tuple[Job, Any]]) -> None:
        work = batch[0][0].work
        answers = _answers(work, [photo for _, photo in batch])
        if len(batch) > 1 and any(isinstance(answer, ModelFailed) for answer in answers):
            answers = [_answers(work, [photo])[0] for _, photo in batch]  # one photo must not fail the others
        for (job, _), answer in zip(batch, answers, strict=True):
            job.take(answer)


def _answers(work: Work, photos: Sequence[Any]) -> list[Any]:
    try:
        return work.run(photos)
    except RequestError as error:
        return [error] * len(photos)
    except Exception as error:  # out of memory, a broken model: the thread must live on
        log.exception("the model failed")
        memory = isinstance(error, MemoryError) or "memory" in str(error)
        why = "there is not enough memory" if memory else "its log says why"
        return [ModelFailed(f"the server could not do it: {why}")] * len(photos)
