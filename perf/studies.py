"""All studies of docs/studies.md: `python perf/studies.py --data DATA --runs RUNS [--processes 2] [--reports FOLDER]`.

First, on the dev classes, what defaults are chosen by; then, on the test classes, with three seeds, the flows, with
PerSAM-F also by the published d and step, with noise that goes as far as its default, and with noise as large as the
embedding; and then every other study, all of them with one seed before any is run with the next, and PerSAM-F's steps
also with that large noise.
Killed or interrupted, the same command goes on where it stopped. It takes hours: Matcher's take about a second per
setting and episode on one core, PerSAM-F's a quarter of it; particles, twenty steps and the selectors that encode
anew several times that.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rich.progress import track

from prmagic.evaluation.study import STUDIES

CHOICES = ("flows", "scaling", "objective", "eta", "steps")  # what is run on the dev classes
ALL_SCORES = (("dev", "flows"), ("test", "selectors"))  # with the selectors that encode anew
SEEDS = (42, 43, 44)  # on the test classes; on the dev classes the first
FAR = 1.0  # the η with which noise is as large as the embedding
ETAS = (0.001, 0.05, FAR)  # of the published step, beside the default of PerSAM-F, which has none of its own
PRMAGIC = (sys.executable, "-m", "prmagic")


@dataclass(frozen=True)
class Run:
    """One process: a study of one framework on the dev or the test classes, with one seed."""

    framework: str
    study: str
    split: str
    seed: int
    per_class: int
    eta: float | None = None

    @property
    def folder(self) -> str:
        step = "" if self.eta is None else f"-eta-{self.eta:g}"
        return f"{self.split}/{self.framework}/{self.study}{step}/{self.seed}"

    def command(self, data: Path, runs: Path) -> list[str]:
        dev = ("train", "--classes", str(data / "dev_classes.txt"))
        costly = ("--all-scores",) if (self.split, self.study) in ALL_SCORES else ()
        step = () if self.eta is None else ("--eta", str(self.eta))
        return [
            *PRMAGIC, "study", "run", self.study, "--data", str(data), "--out", str(runs / self.folder),
            "--framework", self.framework, "--per-class", str(self.per_class), "--seeds", str(self.seed),
            "--threads", "1", "--split", *(dev if self.split == "dev" else (self.split,)), *costly, *step,
        ]  # fmt: skip


def plan(per_class: int, others: Mapping[str, int], splits: Sequence[str]) -> Iterator[Run]:
    """In the order of their importance. others: by framework, episodes per class of all but the main study."""
    if "dev" in splits:
        for study in CHOICES:
            for framework, fewer in others.items():
                yield Run(framework, study, "dev", SEEDS[0], fewer)
    if "test" in splits:
        for seed in SEEDS:
            for framework in others:
                yield Run(framework, "flows", "test", seed, per_class)
        for eta in ETAS:
            for seed in SEEDS:
                yield Run("persam-f", "flows", "test", seed, per_class, eta)
        for seed, study in product(SEEDS, STUDIES):
            if study != "flows":
                for framework, fewer in others.items():
                    yield Run(framework, study, "test", seed, fewer)
        for seed in SEEDS:
            yield Run("persam-f", "steps", "test", seed, others["persam-f"], FAR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with index.jsonl and dev_classes.txt")
    parser.add_argument("--runs", type=Path, required=True, help="folder for the records")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--split", choices=("dev", "test"), help="only these classes")
    parser.add_argument("--per-class", type=int, default=20, help="most episodes of a class in the main study")
    parser.add_argument("--persam-f", type=int, default=20, help="the same for PerSAM-F's other studies")
    parser.add_argument("--matcher", type=int, default=3, help="the same for Matcher's other studies")
    parser.add_argument("--reports", type=Path, help="folder for the tables and figures, a folder per study")
    arguments = parser.parse_args()
    others = {"persam-f": arguments.persam_f, "matcher": arguments.matcher}
    runs = list(plan(arguments.per_class, others, (arguments.split,) if arguments.split else ("dev", "test")))
    arguments.runs.mkdir(parents=True, exist_ok=True)

    def execute(run: Run) -> None:
        with (arguments.runs / "log.txt").open("a") as log:
            command = run.command(arguments.data, arguments.runs)
            if subprocess.run(command, stdout=log, stderr=log).returncode not in (0, 1):  # 1: an episode failed
                raise SystemExit(f"{run.folder} stopped: see {log.name}")

    with ThreadPoolExecutor(arguments.processes) as pool:
        for _ in track(pool.map(execute, runs), "Studies", total=len(runs)):
            continue
    if arguments.reports is not None:
        for folder in dict.fromkeys(str(Path(run.folder).parent) for run in runs):
            seeds = sorted((arguments.runs / folder).iterdir())
            out = arguments.reports / folder
            subprocess.run([*PRMAGIC, "study", "report", *map(str, seeds), "--out", str(out)], check=True)


if __name__ == "__main__":
    main()
