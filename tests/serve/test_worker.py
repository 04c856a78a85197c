"""The queue: what waits, what is done together, what is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from prmagic.serve.errors import Busy, ModelFailed, RequestError, TooSlow
from prmagic.serve.worker import Worker


@dataclass(frozen=True)
class Double:
    """Doubles numbers, when it may; 13 breaks the model."""

    name: str = ""
    may: threading.Event = field(default_factory=threading.Event, compare=False)
    batches: list[list[int]] = field(default_factory=list, compare=False)

    def run(self, photos: Any) -> list[Any]:
        assert self.may.wait(30)
        self.batches.append(list(photos))
        if 13 in photos:
            raise RuntimeError("secret /path")
        return [RequestError("minus") if photo < 0 else 2 * photo for photo in photos]


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(queue=3, batch_size=4)
    yield worker
    worker.close()


def busy(worker: Worker) -> threading.Event:
    """Keep the thread at work until the event is set."""
    first = Double("first")
    worker.submit(first, [0], 30)
    while worker._jobs and worker._jobs[0].taken == 0:
        time.sleep(0.001)
    return first.may


def test_alike_requests_are_done_together(worker: Worker):
    release, work = busy(worker), Double("work")
    work.may.set()
    jobs = [worker.submit(work, photos, 30) for photos in ([1, 2, 3], [4], [5, 6])]
    release.set()
    assert [job.future.result(30) for job in jobs] == [[2, 4, 6], [8], [10, 12]]
    assert work.batches == [[1, 2, 3, 4], [5, 6]]


def test_others_are_not(worker: Worker):
    release, one, other = busy(worker), Double("one"), Double("other")
    one.may.set()
    other.may.set()
    jobs = [worker.submit(work, [number], 30) for number, work in enumerate((one, other, one))]
    release.set()
    assert [job.future.result(30) for job in jobs] == [[0], [2], [4]]
    assert one.batches == [[0, 2]] and other.batches == [[1]]


def test_a_full_queue_says_when_to_come_again(worker: Worker):
    release = busy(worker)
    for _ in range(3):
        worker.submit(Double(), [1], 30)
    with pytest.raises(Busy, match="3 requests wait already") as refused:
        worker.submit(Double(), [1], 30)
    assert refused.value.retry_after >= 1 and refused.value.status == 503
    for job in worker._jobs:
        job.work.may.set()
    release.set()


def test_one_bad_photo_fails_its_own_request_only(worker: Worker):
    release, work = busy(worker), Double("work")
    work.may.set()
    good, wrong, broken = (worker.submit(work, photos, 30) for photos in ([1], [-1], [13]))
    release.set()
    assert good.future.result(30) == [2]
    with pytest.raises(RequestError, match="minus"):
        wrong.future.result(30)
    with pytest.raises(ModelFailed, match="its log says why"):
        broken.future.result(30)


def test_who_waited_too_long_is_told_and_not_worked_for(worker: Worker):
    release, work = busy(worker), Double("work")
    work.may.set()
    late = worker.submit(work, [1], 0.01)
    time.sleep(0.05)
    assert late.over
    with pytest.raises(TooSlow):
        late.future.result(0)
    release.set()
    assert worker.submit(work, [2], 30).future.result(30) == [4]
    assert work.batches == [[2]]


def test_who_has_gone_leaves_the_queue(worker: Worker):
    release, work = busy(worker), Double("work")
    work.may.set()
    gone = worker.submit(work, [1, 2], 30)
    gone.future.cancel()
    release.set()
    assert worker.submit(work, [3], 30).future.result(30) == [6]
    assert work.batches == [[3]]


def test_closing_finishes_what_waits():
    worker = Worker(queue=3, batch_size=1)
    release, work = busy(worker), Double("work")
    work.may.set()
    job = worker.submit(work, [1, 2], 30)
    threading.Timer(0.1, release.set).start()
    worker.close()
    assert job.future.result(0) == [2, 4]
    with pytest.raises(Busy, match="ending"):
        worker.submit(work, [1], 30)
