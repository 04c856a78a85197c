"""Episodes and photos spread over a Ray cluster on this machine, with real workers, some of which are killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import SAM, run
from miniatures import (
    assert_equal_runs,
    command,
    contents,
    empty_mask,
    evaluate,
    fss_data,
    fss_episodes,
    own_data,
    records,
    save,
    scene,
)

from prmagic.datasets import DatasetError
from prmagic.distributed import ATTEMPTS, Cluster, spread

RAY = ("--ray", "auto", "--workers", 2)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals")]


@pytest.fixture
def work(tmp_path, monkeypatch):
    """An empty folder, the current one; one thread."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.fixture
def ray():
    """Ray itself, or the test is skipped."""
    return pytest.importorskip("ray", reason="Ray is not installed: pip install 'prmagic[ray]'")


@pytest.fixture(scope="module")
def machine():
    """A cluster of this machine without GPUs, for the module."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'prmagic[ray]'")
    ray.init(
        "local", num_cpus=2, num_gpus=0, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False,
        logging_level="error",
    )  # fmt: skip
    yield
    ray.shutdown()


@pytest.fixture
def cluster(machine):
    """The same; after each test nobody works there any more."""
    yield
    try:
        wait_until(lambda: not workers(os.getpid()))
    finally:
        for left in workers(os.getpid()):  # or the next test would fail too
            os.kill(left, signal.SIGKILL)


def workers(driver):
    """The process ids of the workers below that process."""
    import psutil  # which comes with Ray

    found = []
    for process in psutil.Process(driver).children(recursive=True):
        try:
            if "ray::_Worker" in " ".join(process.cmdline()):
                found.append(process.pid)
        except psutil.Error:  # it has just ended
            continue
    return found


def wait_until(true, seconds=300):
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# A cluster that the command starts


def test_a_worker_is_killed_in_the_middle(work, ray):
    """By the command alone, as users run it."""
    own_data(work / "data")
    args = ("own", "--seeds", "1-5")
    episodes = Path("out/episodes.jsonl")

    def count():
        return episodes.read_bytes().count(b"\n") if episodes.exists() else 0

    with subprocess.Popen(
        [sys.executable, "-c", "from prmagic.cli.main import main; main()", *command(*args, *RAY)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "RAY_ADDRESS": "local"},  # none that somebody else has on this machine
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: process.poll() is not None or count() >= 2)
            assert process.poll() is None, process.communicate()[0]
            hired = workers(process.pid)
            assert hired  # on a busy machine the second may still be on its way
            os.kill(hired[0], signal.SIGKILL)
            assert count() < 40
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "40 episode(s) done, 0 of them failed" in output and "Traceback" not in output
    evaluate(*args, out="alone")
    assert_equal_runs("alone")


def test_sigterm_ends_the_run_and_its_workers(work, ray):
    import psutil

    own_data(work / "data")
    arguments = command("own", "--seeds", "1-50", *RAY)
    with subprocess.Popen(
        [sys.executable, "-m", "prmagic", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "RAY_ADDRESS": "local"},
    ) as process:  # fmt: skip
        try:
            episodes = Path("out/episodes.jsonl")
            wait_until(lambda: process.poll() is not None or (episodes.exists() and episodes.stat().st_size))
            hired = [psutil.Process(worker) for worker in workers(process.pid)]
            process.terminate()
            output, _ = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 143, output
    assert "Terminated. What is finished is kept" in output and "Traceback" not in output
    wait_until(lambda: not any(worker.is_running() for worker in hired), seconds=60)


def test_auto_does_not_join_what_another_run_started(cluster, ray, monkeypatch):
    """It would end with that run."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    code = (
        "import ray; from prmagic.distributed import Cluster, spread; assert not list(spread(None, [], Cluster())); "
        "print(ray.get_runtime_context().gcs_address)"
    )
    joined = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert joined.returncode == 0, joined.stderr
    assert joined.stdout.split()[-1] != ray.get_runtime_context().gcs_address


# On a cluster that is there


def test_the_same_records_as_of_one_process(work, cluster, encoder_folder):
    """Also of failures, and of a run that one process began."""
    fss_data(work / "data")
    empty_mask(3)
    listed = fss_episodes((1, 2), (2, 3), (4, 2), (3, 1), (5, 6, 7), *((number, 2) for number in range(5, 11)))
    args = ("fss", *listed, "--framework", "matcher", "--encoder", encoder_folder)
    evaluate(*args, out="alone", code=1)
    assert ["failed" in record for record in records("alone")] == [number == 1 for number in range(11)]
    shutil.copytree("alone", "out")
    for name, kept in (("episodes.jsonl", 3), ("masks.jsonl", 2)):  # the second has no masks
        lines = Path("out", name).read_bytes().splitlines(keepends=True)
        Path("out", name).write_bytes(b"".join(lines[:kept]))
    assert "3 of 11 episodes are done already" in evaluate(*args, *RAY, code=1)
    assert_equal_runs("alone")
    assert "11 of 11 episodes are done already" in evaluate(*args, *RAY, code=1)


def test_a_missing_photo_is_a_sentence_here_too(work, cluster):
    fss_data(work / "data")
    photo = Path("data/data/ant/4.jpg")
    photo.rename("away")
    args = ("fss", *fss_episodes((1, 2), (3, 1), (5, 6), (4, 1), (7, 1)))
    said = evaluate(*args, "--ray", "auto", "--workers", 1, code=2)
    assert f"Error: {work / photo}" in said and "is missing" in said
    assert "ray::" not in said
    assert [record["episode"] for record in records()]  # what was done before is kept
    Path("away").rename(photo)
    evaluate(*args)
    evaluate(*args, out="alone")
    assert_equal_runs("alone")


@pytest.mark.parametrize("gpus", [1, 0.25])
def test_more_gpus_than_the_cluster_has(work, cluster, gpus):
    own_data(work / "data")
    said = evaluate("own", *RAY, "--gpus-per-worker", gpus, code=2)
    assert f"Error: The cluster has room for 0 workers with {gpus} GPU each, not for 2" in said
    assert not Path("out/episodes.jsonl").exists()


def test_segment(work, cluster):
    for number in range(6):
        save(scene(number)[0], work / f"photos/{number % 2}/{number}.png")
    Path("photos/broken.png").write_bytes(Path("photos/0/0.png").read_bytes()[:500])
    image, mask = scene(9)
    save(image, work / "support.png")
    save(mask * 255, work / "mask.png")
    save(np.roll(mask, 3) * 255, work / "shifted.png")
    supports = (
        "--support", "support.png", "mask.png", "--label", "one",
        "--support", "support.png", "shifted.png", "--label", "other",
    )  # fmt: skip
    args = (
        "segment",
        "photos",
        *supports,
        "--sam",
        SAM,
        "--steps",
        1,
        "--threads",
        1,
        "--batch-size",
        2,
        "--instances",
    )
    for out, more in (("out", RAY), ("alone", ())):
        done = run(*args, "--out", out, *more)
        assert done.exit_code == 1, done.output
        assert "Skipped broken.png: " in done.output and "damaged or cut short" in done.output
        assert "6 photo(s) segmented" in done.output and "1 skipped" in done.output
    found, alone = contents("out"), contents("alone")
    results = "results.jsonl"
    lines, expected = found.pop(results).splitlines(), alone.pop(results).splitlines()
    assert len(lines) == 12 and sorted(lines) == sorted(expected) and all(b'"instances": [' in line for line in lines)
    assert found == alone and len(found) == 12 * 3 + 1  # masks, overlays, candidates; run.json


def test_ray_is_not_installed(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # `import ray` now fails as it does then
    own_data(work / "data")
    said = evaluate("own", *RAY, code=2)
    assert "Error: --ray needs Ray, which is not installed: pip install 'prmagic[ray]'" in said
    save(scene(1)[1] * 255, work / "mask.png")
    done = run("segment", "data/2.png", "--support", "data/1.png", "mask.png", "--sam", SAM, "--out", "found", *RAY)
    assert done.exit_code == 2 and "Error: --ray needs Ray, which is not installed" in done.output
    evaluate("own", "--steps", 0, out="without")  # nobody else needs it


# Workers that die


def test_dead_workers_are_replaced_but_not_for_ever(work, cluster):
    """One dies while it starts, and some of the work kills whoever does it."""
    log = work / "log"

    def build():
        first = not log.exists()
        with log.open("a") as file:
            file.write("start\n")
        if first:
            os.kill(os.getpid(), signal.SIGKILL)

        def do(task):
            with log.open("a") as file:
                file.write(f"{task}\n")
            if task == "deadly":
                os.kill(os.getpid(), signal.SIGKILL)
            return task.upper()

        return do

    results = spread(build, ["harmless", "deadly", "never"], Cluster(workers=1))
    assert next(results) == "HARMLESS"
    with pytest.raises(RuntimeError, match=f"{ATTEMPTS} worker"):
        next(results)
    died = ["deadly", "start"] * (ATTEMPTS - 1) + ["deadly"]
    assert log.read_text().split() == ["start", "start", "harmless", *died]


def test_a_worker_killed_for_its_memory_is_replaced(work, cluster, ray, monkeypatch):
    get, killed = ray.get, []

    def first_fails(*args, **options):
        if not killed:
            killed.append(True)
            raise ray.exceptions.OutOfMemoryError("the node was low on memory\nand more that nobody reads")
        return get(*args, **options)

    monkeypatch.setattr(ray, "get", first_fails)
    assert list(spread(lambda: str.upper, ["a"], Cluster(workers=1))) == ["A"]
    assert killed


@pytest.mark.parametrize("tasks, count", [(["long", "wrong", "never"], 2), (["wrong"], 1)])
def test_an_error_ends_the_run_and_all_workers(work, cluster, tasks, count):
    def build():
        def do(task):
            if task == "wrong":
                raise DatasetError("this is wrong")
            time.sleep(600)

        return do

    with pytest.raises(DatasetError, match=r"^this is wrong$") as caught:
        list(spread(build, tasks, Cluster(workers=count)))
    wait_until(lambda: not workers(os.getpid()))
    assert caught.tb  # which keeps alive what `spread` still knew


def test_an_error_while_a_worker_starts(work, cluster):
    """Such as models that cannot be loaded there: a sentence too."""

    def build():
        raise DatasetError("nothing is here")

    with pytest.raises((DatasetError, RuntimeError), match="nothing is here") as caught:
        list(spread(build, ["anything"], Cluster(workers=2)))
    assert "ray::" not in str(caught.value) and "File" not in str(caught.value)


def test_nothing_to_do(cluster):
    assert list(spread(lambda: lambda task: task, [], Cluster())) == []


# A cluster that goes down

BUILD = """
import os, sys, time
from prmagic.distributed import Cluster, spread

def build():
    def do(task):
        time.sleep(0.5)
        return task * 2
    return do
"""


@pytest.mark.parametrize("part, size", [("raylet", 2_000_000), ("gcs_server", 1)])
def test_a_cluster_that_goes_down_is_started_again(ray, monkeypatch, part, size):
    """A part of it is killed; every task has its result, once, however large: the raylet keeps large ones."""
    code = (
        BUILD
        + """
import psutil
done = []
for result, content in spread(build, range(12), Cluster(workers=2)):
    done.append(result)
    if len(done) == 2:
        for process in psutil.Process().children(recursive=True):
            if process.name() == sys.argv[1]:
                process.kill()
assert sorted(done) == [2 * task for task in range(12)], done
"""
    ).replace("return task * 2", f"return task * 2, bytes({size})")
    monkeypatch.setenv("RAY_ADDRESS", "local")
    ran = subprocess.run([sys.executable, "-c", code, part], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr


def test_workers_that_run_out_of_memory_are_replaced_but_not_for_ever(ray, monkeypatch):
    """Ray's monitor ends a worker where it finds too little memory: here always."""
    code = (
        BUILD
        + """
try:
    list(spread(lambda: lambda task: time.sleep(60), [1], Cluster(workers=1)))
except RuntimeError as error:
    sys.exit(str(error))
"""
    )
    monkeypatch.setenv("RAY_ADDRESS", "local")
    monkeypatch.setenv("RAY_memory_usage_threshold", "0")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert f"{ATTEMPTS} worker(s) died of the same work: memory ran out; take fewer --workers" in ran.stderr
