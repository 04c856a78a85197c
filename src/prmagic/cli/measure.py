"""What models cost on this machine, for `prmagic models --measure`. Each runs in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import typer

ENOUGH = 8.0  # seconds; what took that long is not run again
MOST = 3  # runs


@dataclass(frozen=True)
class Measured:
    """Of one model: where it ran, seconds of one photo's encode and of a refined query, and the process's peak in GB.

    The query is PerSAM-F's, and for an encoder Matcher's with the embedded SAM. memory: None where the system does not
    tell."""

    name: str
    kind: str
    device: str
    dtype: str
    runtime: str
    encode: float
    query: float
    memory: float | None


def measured(name: str, kind: str, arguments: dict[str, Any], threads: int | None) -> Measured:
    """In a new process.

    Args:
        name: A model, as for --sam or --encoder.
        kind: "sam", "encoder", or "" to find out.
        arguments: Others of `prmagic.load`.
        threads: None for torch's own number.

    Raises:
        ValueError: The model cannot be loaded or run; the message is the process's own.
    """
    job = json.dumps([name, kind, arguments, threads])
    done = subprocess.run([sys.executable, "-m", __name__, job], capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise ValueError(lines[-1].removeprefix("Error: ") if lines else f"{name} could not be measured")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def measure_here(name: str, kind: str, arguments: dict[str, Any], threads: int | None) -> Measured:
    """In this process, which should have done nothing else before."""
    from prmagic import Support
    from prmagic.backbones.errors import CheckpointError
    from prmagic.cli.options import use_threads
    from prmagic.demo import cases
    from prmagic.loading import load

    use_threads(threads)
    case = cases()[0]
    try:
        segmenter = load("matcher", encoder=name, **arguments) if kind == "encoder" else load(sam=name, **arguments)
    except CheckpointError as error:
        if kind:
            raise
        try:
            segmenter = load("matcher", encoder=name, **arguments)
        except CheckpointError:
            raise error from None
    model = segmenter.framework.comparer
    model.encode([case.query])  # reads weights that were only mapped
    encode = _seconds(lambda: model.encode([case.query]))
    reference = segmenter.encode_support(Support(case.support, case.support_mask))
    query = _seconds(lambda: segmenter.segment(case.query, reference))
    found = "sam" if model is segmenter.framework.sam else "encoder"
    return Measured(name, found, **segmenter.framework.placement, encode=encode, query=query, memory=_peak_memory())


def _seconds(run: Callable[[], object]) -> float:
    seconds: list[float] = []
    while len(seconds) < MOST and sum(seconds) < ENOUGH:
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def _peak_memory() -> float | None:
    """GB that this process held at most so far."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


def main(arguments: Sequence[str]) -> None:
    """What the new process runs."""
    from prmagic.cli.terminal import errors_for_people

    try:
        with errors_for_people():
            print(json.dumps(asdict(measure_here(*json.loads(arguments[0])))))
    except typer.Exit as end:
        sys.exit(end.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
