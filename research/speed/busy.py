"""How much longer a query takes on a busy machine: `python research/speed/busy.py`.

A query is timed alone, and while other processes multiply matrices with as many threads as torch takes by default. All
get an equal part of the machine if a query takes 1 + OTHERS times as long; the last column is how many times that it
took. To compare waiting threads that spin: `OMP_WAIT_POLICY=ACTIVE python research/speed/busy.py`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from statistics import median

LOAD = "import torch\na = torch.rand(700, 700)\nprint('ready', flush=True)\nwhile True: a = (a @ a).softmax(1)"
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def serve(framework: str) -> None:
    """In a process of its own: a query for each line that comes in; its seconds go out."""
    import prmagic
    from prmagic.demo import cases

    segmenter, case = prmagic.load(framework, device="cpu"), cases()[0]
    reference = segmenter.encode_support(prmagic.Support(case.support, case.support_mask))
    segmenter.segment(case.query, reference)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        segmenter.segment(case.query, reference)
        print(time.perf_counter() - start, flush=True)


@contextmanager
def started(command: Sequence[str], environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that has said that it is ready; ended with the block."""
    process = subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


def seconds(worker: subprocess.Popen[str], rounds: int) -> float:
    """Median of the queries."""
    assert worker.stdin is not None and worker.stdout is not None
    found = []
    for _ in range(rounds):
        worker.stdin.write("\n")
        worker.stdin.flush()
        found.append(float(worker.stdout.readline()))
    return median(found)


def measure(framework: str, others: int, rounds: int) -> tuple[float, float]:
    """Seconds of a query alone, and beside the other processes."""
    theirs = {name: value for name, value in os.environ.items() if name not in WAITING}
    with started([__file__, "--serve", framework]) as worker, ExitStack() as beside:
        alone = seconds(worker, rounds)
        for _ in range(others):
            beside.enter_context(started(["-c", LOAD], theirs))
        return alone, seconds(worker, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frameworks", nargs="+", default=["matcher", "persam-f", "gf-sam"])
    parser.add_argument("--others", type=int, default=3, help="processes beside it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", help=argparse.SUPPRESS)  # the framework whose queries this process answers
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    if hasattr(os, "getloadavg"):
        print(
            f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}: alone means something only if that is low"
        )
    print("\n| framework | alone, s | busy, s | times as long | ÷ its fair share |\n|---|---|---|---|---|")
    for framework in arguments.frameworks:
        alone, busy = measure(framework, arguments.others, arguments.rounds)
        longer = busy / alone
        print(
            f"| {framework} | {alone:.2f} | {busy:.2f} | {longer:.1f} | {longer / (1 + arguments.others):.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
