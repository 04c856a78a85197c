"""Seconds, calls and memory beside the floor and the published code: `python perf/compare.py [--quick]`.

The floor is one encode of the query. The published code's calls (`published.py`) are priced with what one of each costs
in the same run. Every cell (`cells.py`) runs in a process of its own, and encodes, supports, queries and unit costs
take turns in it. Interrupt it whenever you like: the same command goes on where it stopped. RESULTS.md, figures/ and
results.jsonl, one line per cell, go to perf/, or to --out. Cells of another machine, number of threads or state of the
code are not mixed with these: they are moved to results.previous.jsonl.

`--masks OUT.npz` stores the masks of fixed queries with the embedded models instead, and `--same BEFORE.npz AFTER.npz`
says how many pixels differ between two such files; the report then has it too.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cells
import results
from cells import Cell
from results import Results

HERE = Path(__file__).parent
BUILD = HERE.parent / "build"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few embedded cells, one round, to build/perf-quick")
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="cells whose name has this, such as ^vit-b/persam-f/"
    )
    parser.add_argument("--rounds", type=int, help="instead of 5 (embedded), 3 or 1")
    parser.add_argument("--threads", type=int, help="of PyTorch; all cores by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument(
        "--models", type=Path, default=BUILD / "perf-models", help="where random weights are kept, 4 GB"
    )
    parser.add_argument("--list", action="store_true", help="name the cells, in order")
    parser.add_argument("--report", action="store_true", help="measure nothing, write the report of what is there")
    parser.add_argument("--masks", type=Path, metavar="OUT.npz")
    parser.add_argument("--same", type=Path, nargs=2, metavar=("BEFORE.npz", "AFTER.npz"))
    parser.add_argument("--child", help=argparse.SUPPRESS)  # one cell as JSON, or "about"; the answer is the last line
    arguments = parser.parse_args()
    out = arguments.out or (BUILD / "perf-quick" if arguments.quick else HERE)
    if arguments.child:
        print(json.dumps(answer(arguments.child, arguments.models, arguments.threads)))
    elif arguments.masks:
        import masks

        masks.store(arguments.masks, arguments.threads)
    elif arguments.same:
        compare_masks(arguments.same[0], arguments.same[1], out)
    elif arguments.report:
        results.write(results.read(out), out)
    else:
        chosen = [
            cell for cell in (cells.quick() if arguments.quick else cells.plan()) if _wanted(cell, arguments.only)
        ]
        if arguments.rounds:
            chosen = [replace(cell, rounds=arguments.rounds) for cell in chosen]
        if arguments.list:
            print("\n".join(cell.name for cell in chosen))
        else:
            run(chosen, out, arguments.models, arguments.threads)


def run(chosen: Sequence[Cell], out: Path, models: Path, threads: int | None) -> None:
    """Measure what is not there yet, and write the report."""
    out.mkdir(parents=True, exist_ok=True)
    about = child("about", models, threads)
    found = results.read(out)
    if found.about != about:
        if found.records:
            print(
                f"{out / results.FILE} is of another machine or another state of the code: kept as {results.PREVIOUS}"
            )
            (out / results.FILE).replace(out / results.PREVIOUS)
        found = Results(about)
        results.append(out, {"about": about})
    waiting = [cell for cell in chosen if cell.name not in found.records]
    for number, cell in enumerate(waiting, 1):
        start = time.perf_counter()
        print(f"{number} of {len(waiting)}: {cell.name} ", end="", flush=True)
        try:
            record = child(json.dumps(asdict(cell)), models, threads)
        except subprocess.CalledProcessError as error:
            reason = (error.stderr or "").strip().split("\n")[-1]
            print(f"failed: {reason or f'exit code {error.returncode}'}")
            results.append(out, {"failed": cell.name, "reason": reason or f"exit code {error.returncode}"})
            continue
        results.append(out, {"record": record})
        print(f"{results.line(record)}; {time.perf_counter() - start:.0f} s in all", flush=True)
    results.write(results.read(out), out)
    print(f"report: {out / 'RESULTS.md'}")


def child(task: str, models: Path, threads: int | None) -> dict[str, Any]:
    """The answer of a fresh process. This one never loads torch, whose memory a child's peak would start from."""
    command = [sys.executable, str(HERE / "compare.py"), "--child", task, "--models", str(models)]
    command += ["--threads", str(threads)] if threads else []
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    answered: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answered


def answer(task: str, models: Path, threads: int | None) -> dict[str, Any]:
    """What `child` asks for."""
    import torch

    import measure

    if threads:
        torch.set_num_threads(threads)
    return measure.about() if task == "about" else asdict(measure.measure(Cell(**json.loads(task)), models))


def compare_masks(before: Path, after: Path, out: Path) -> None:
    """Print every candidate that differs, and keep the outcome for the report."""
    import masks

    found = masks.compare(before, after)
    differing = [each for each in found if each.pixels]
    for each in differing:
        print(f"{each.candidate}: {each.pixels} of {each.of} pixels; prompts {each.points:.3g} px apart")
    outcome = {
        "candidates": len(found),
        "identical": len(found) - len(differing),
        "pixels": sum(each.pixels for each in found),
        "of": sum(each.of for each in found),
        "worst": max((each.pixels / each.of for each in found), default=0.0),
        "prompts": max((each.points for each in found), default=0.0),
        "scores": max((each.score for each in found), default=0.0),
        "differing": [asdict(each) for each in differing],
    }
    print(results.masks_line(outcome))
    out.mkdir(parents=True, exist_ok=True)
    results.append(out, {"masks": outcome})


def _wanted(cell: Cell, pattern: str) -> bool:
    return re.search(pattern, cell.name) is not None


if __name__ == "__main__":
    main()
