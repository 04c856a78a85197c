"""`prmagic evaluate` again in the same folder: finished, interrupted, killed, damaged, or another run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
from command_line import start
from miniatures import (
    assert_equal_runs,
    command,
    contents,
    datasets,
    evaluate,
    own_data,
    records,
    run_json,
    timeless,
)

from prmagic.evaluation.folder import EvaluationFolder, Outcome
from prmagic.io.records import locked


@pytest.fixture(scope="module")
def four(tmp_path_factory):
    """A folder with the data and a run of four episodes, made once."""
    place = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        own_data(place / "data")
        evaluate("own", "--limit", 4)
    return place


@pytest.fixture
def finished(four, work):
    """A copy of it, and its lines of episodes.jsonl and masks.jsonl."""
    shutil.copytree(four / "data", "data")
    shutil.copytree(four / "out", "out")
    run = run_json()
    assert run["data"] == str(four / "data")  # only a note
    Path("out/run.json").write_text(json.dumps({**run, "data": str(work / "data")}))
    shutil.copytree("out", "whole")
    return [Path("out", name).read_bytes().splitlines(keepends=True) for name in ("episodes.jsonl", "masks.jsonl")]


def test_a_finished_run_is_left_as_it_is(finished):
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert "4 of 4 episodes are done already." in evaluate("own", "--limit", 4)
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


@pytest.mark.parametrize(
    "change, told",
    [
        (("--set", "eta=0.5"), "settings.flow.eta was 0.001, now it is 0.5"),
        (("--steps", 2), "settings.flow.steps was 1, now it is 2"),
        (("--framework", "persam-f"), 'settings.framework was "persam", now it is "persam-f"'),
        (("--preset", "paper"), 'settings.preset was "default", now it is "paper"'),
        (("--seeds", "1"), "seeds was [42], now it is [1]"),
        (("--shots", 2), "shots was 1, now it is 2"),
        (("--size", 32), "size was null, now it is 32"),
        (("--limit", 1), "limit was 4, now it is 1"),
        (("--threads", 2), "threads was 1, now it is 2"),
        (("--split", "train", "--split", "test"), 'dataset_options.split was null, now it is "test"'),
        (("--dtype", "bfloat16"), 'settings.dtype was "float32", now it is "bfloat16"'),
        (("--set", "rho=0.2"), "settings.flow.rho was null, now it is 0.2"),
        (("--all-scores",), "scores was "),
        (("--no-masks",), "masks was true, now it is false"),
    ],
)
def test_another_run_in_the_same_folder_is_refused(finished, change, told):
    before = contents()
    said = evaluate("own", "--limit", 4, *change, code=2)
    assert told in said and "out holds results of another run" in said
    assert "Choose another --out, or start it anew with --overwrite" in said
    assert contents() == before


def test_other_episodes_and_other_data_are_another_manifest(finished):
    before = contents()
    datasets("manifest", "own", "--data", "data", "--out", "list.jsonl", "--limit", 1)
    assert "manifests.42 was " in evaluate("own", "--limit", 4, "--episodes", "list.jsonl", code=2)
    lines = Path("data/index.jsonl").read_text().splitlines(keepends=True)
    Path("data/index.jsonl").write_text("".join(lines[::-1]))
    assert "manifests.42 was " in evaluate("own", "--limit", 4, code=2)
    assert contents() == before


def test_overwrite(finished):
    said = evaluate("own", "--limit", 2, "--seeds", 1, "--no-masks", "--overwrite")
    assert "done already" not in said
    assert sorted(contents()) == ["episodes.jsonl", "run.json"]
    assert [(record["seed"], record["episode"]) for record in records()] == [(1, "0/00000"), (1, "0/00001")]
    assert run_json()["seeds"] == [1]
    evaluate("own", "--limit", 2, "--seeds", 1, out="anew")
    assert timeless() == timeless("anew")


def test_folders_of_others_are_safe(own):
    Path("mine").mkdir()
    Path("mine/masks.jsonl").write_text("precious")
    Path("segmented").mkdir()
    Path("segmented/run.json").write_text('{"references": {}}')
    Path("file").touch()
    for out, told in (("mine", "choose another --out"), ("segmented", "not of such a run"), ("file", "is a file")):
        before = contents(out)
        for more in ((), ("--overwrite",)):
            assert told in evaluate("own", "--limit", 1, *more, out=out, code=2)
        assert contents(out) == before


def test_two_runs_at_once(own):
    with locked(Path("out")):
        assert "nother run is writing into out" in evaluate("own", "--limit", 1, code=2)
    evaluate("own", "--limit", 1)


@pytest.fixture
def sigint():
    """A background job ignores SIGINT, and so would the processes that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def started(*args):
    """A process of its own, which has written three records."""
    process = start(*command(*args))
    episodes = Path("out/episodes.jsonl")
    deadline = time.monotonic() + 300
    while not (episodes.exists() and episodes.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.01)
    return process


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_in_the_middle_and_continued(own):
    args = ("own", "--seeds", "1-3")
    process = started(*args)
    process.send_signal(signal.SIGSTOP)  # or it could be done before the other has looked
    try:
        assert "nother run is writing into out" in evaluate(*args, code=2)
    finally:
        process.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL and "Traceback" not in output
    kept = Path("out/episodes.jsonl").read_bytes().splitlines(keepends=True)
    done = [line for line in kept if line.endswith(b"\n")]
    assert 3 <= len(done) < 24
    assert f"{len(done)} of 24 episodes are done already" in evaluate(*args)
    now = Path("out/episodes.jsonl").read_bytes().splitlines(keepends=True)
    assert len(now) == 24 and set(done) <= set(now)  # seconds included: they were not done again
    evaluate(*args, out="at once")
    assert_equal_runs("at once")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_interrupted(own, sigint):
    process = started("own", "--seeds", "1-9")
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 130, output
    assert "Interrupted. What is finished is kept" in output and "Traceback" not in output
    assert 3 <= len(records()) < 72


def crash(finished, name, line, kept):
    """The folder as a crash leaves it that comes when `kept` bytes of this line are written to that file.

    An episode's masks are written before its record."""
    episodes, masks = finished
    torn = (episodes if name == "episodes.jsonl" else masks)[line][:kept]
    done = {"episodes.jsonl": b"".join(episodes[:line]), "masks.jsonl": b"".join(masks[:line])}
    if name == "episodes.jsonl":
        done["masks.jsonl"] += masks[line]
    done[name] += torn
    for file, content in done.items():
        Path("out", file).write_bytes(content)
        if not content:
            Path("out", file).unlink()


@pytest.mark.filterwarnings("ignore:.*of its lines 1 are:UserWarning")
@pytest.mark.parametrize("line", [0, 3])
@pytest.mark.parametrize("name", ["episodes.jsonl", "masks.jsonl"])
def test_a_crash_in_mid_write_is_repaired(finished, name, line):
    crash(finished, name, line, kept=50)
    said = evaluate("own", "--limit", 4)
    assert (f"{line} of 4 episodes are done already" in said) == (line > 0)
    assert_equal_runs("whole")
    assert [path.name for path in Path("out").iterdir() if path.suffix == ".tmp"] == []


def described():
    return {key: value for key, value in run_json("whole").items() if key != "versions"}


def outcome(finished, number):
    return Outcome(*(json.loads(lines[number]) for lines in finished))


@pytest.mark.filterwarnings("ignore:.*of its lines 1 are:UserWarning")
@pytest.mark.parametrize("name", ["episodes.jsonl", "masks.jsonl"])
def test_a_crash_at_any_byte_is_repaired(finished, name):
    """The same for many places, without models: the outcomes are taken from the whole run."""
    episodes, masks = finished
    lines = episodes if name == "episodes.jsonl" else masks
    whole = contents("whole")
    offsets = {0, 1, *range(2, len(lines[2]), 37), len(lines[2]) - 1}
    for kept in sorted(offsets):
        crash(finished, name, line=2, kept=kept)
        folder = EvaluationFolder(Path("out"), described())
        assert set(folder.done) == {(42, "0/00000"), (42, "0/00001")} and not folder.lost_masks
        for number in (3, 2):  # in any order
            folder.add(outcome(finished, number))
        folder.finish()
        assert contents() == whole, f"cut after {kept} bytes"


@pytest.mark.parametrize(
    "damage, lost",
    [
        (lambda lines: [], 4),
        (lambda lines: lines[:2], 2),
        (lambda lines: [lines[0], b"\xff" + lines[1], *lines[2:]], 1),
        (lambda lines: [*lines, b"\0" * 100 + b"\n"], 0),
        (lambda lines: [*lines[:3], lines[3][:60] + b"\n"], 1),
        (lambda lines: [lines[0].replace(b'"candidates": [', b'"candidates": [], "x": ['), *lines[1:]], 1),
        (lambda lines: [re.sub(rb'"counts": "[^"]*"', b'"counts": "PPPP0"', lines[0]), *lines[1:]], 1),
    ],
    ids=["gone", "cut", "garbage", "zeros", "half a line", "empty", "no masks"],
)
def test_episodes_whose_masks_are_lost_are_run_again(finished, damage, lost):
    whole = contents("whole")
    Path("out/masks.jsonl").write_bytes(b"".join(damage(finished[1])))
    folder = EvaluationFolder(Path("out"), described())
    assert folder.lost_masks == lost and len(folder.done) == 4 - lost
    for number in range(4):
        if (42, f"0/{number:05}") not in folder.done:
            folder.add(outcome(finished, number))
    folder.finish()
    assert contents() == whole


def test_failed_episodes_have_no_masks_to_lose(finished):
    record = json.loads(finished[0][3])
    failed = {**{key: record[key] for key in ("seed", "fold", "episode", "class")}, "failed": "no peak"}
    lines = [*finished[0][:3], json.dumps(failed).encode() + b"\n"]
    Path("out/episodes.jsonl").write_bytes(b"".join(lines))
    Path("out/masks.jsonl").write_bytes(b"".join(finished[1][:3]))
    folder = EvaluationFolder(Path("out"), described())
    assert len(folder.done) == 4 and not folder.lost_masks


def test_a_run_without_masks_needs_none(finished):
    Path("out/masks.jsonl").unlink()
    run = run_json()
    Path("out/run.json").write_text(json.dumps({**run, "masks": False}))
    assert len(EvaluationFolder(Path("out"), {**described(), "masks": False}).done) == 4


def test_a_crash_while_the_lines_are_sorted(finished):
    """Killed between the two files, or while one was written anew."""
    Path("out/episodes.jsonl.tmp").write_bytes(finished[0][0][:30])
    Path("out/masks.jsonl").write_bytes(b"".join(finished[1][::-1]))
    assert "4 of 4 episodes are done already" in evaluate("own", "--limit", 4)
    assert Path("out/masks.jsonl").read_bytes() == Path("whole/masks.jsonl").read_bytes()
