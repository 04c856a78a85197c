"""Doing it again: what is done, what is refused, and that the same gives the same bytes."""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import (
    CAT,
    DOG,
    FAST,
    GOLDEN,
    SAM,
    VALIDATOR,
    contents,
    export,
    flat,
    lines,
    queries,
    records,
    run,
    save,
    segment,
    start,
)
from safetensors.torch import load_file, save_file

from prmagic.io.records import locked
from prmagic.io.runs import RunFolder


def test_what_is_new_is_added(work):
    segment("photos/a.png", *FAST)
    assert "1 of 3 photos are done already" in segment("photos", *FAST)
    segment("photos", *FAST, out="at once")
    assert contents() == contents("at once")


def test_another_photo_of_the_same_name_is_not_taken_as_done(found):
    Path("photos/a.png").write_bytes(Path("photos/sub/c.png").read_bytes())
    assert "is not the photo whose results found holds as 'a.png'" in segment("photos", *FAST, code=2)


def test_overwrite(found):
    before = contents()
    Path("found/masks/a.png").write_bytes(b"spoilt")
    assert "3 photo(s) segmented" in segment("photos", *FAST, "--overwrite")
    assert contents() == before
    segment("photos/a.png", *FAST, "--seed", 1, "--overwrite")
    assert sorted(contents()) == ["masks/a.png", "results.jsonl"]
    assert [line["seed"] for line in lines()] == [1]


@pytest.mark.parametrize(
    "change, named",
    [
        (("--seed", 1), "settings.seed was 0, now it is 1"),
        (("--steps", 2), "settings.flow.steps was 1, now it is 2"),
        (("--framework", "persam"), 'settings.framework was "persam-f", now it is "persam"'),
        (("--label", "cat"), "references.object"),
        (("--support", "photos/a.png", "cat_mask.png"), "references.object"),
    ],
)
def test_other_settings_are_refused(found, change, named):
    before = contents(kinds=("",))
    said = segment("photos", *FAST, *change, code=2)
    assert named in said
    assert "holds results of another run" in said and "Choose another --out, or start it anew with --overwrite" in said
    assert contents(kinds=("",)) == before


def test_the_users_own_masks_are_safe(work):
    """A data set's folder has a masks/ too."""
    save(GOLDEN["support_mask"].astype(np.uint8) * 255, work / "data" / "masks" / "a.png")
    before = Path("data/masks/a.png").read_bytes()
    for more in ((), ("--overwrite",)):
        assert "choose another --out" in segment("photos", *FAST, *more, out="data", code=2)
    assert Path("data/masks/a.png").read_bytes() == before


@pytest.mark.filterwarnings("default")
def test_a_torn_line_is_repaired(found):
    before = contents()
    whole = before["results.jsonl"]
    Path("found/results.jsonl").write_bytes(whole[:-40])
    Path("found/masks/sub/c.png").unlink()
    said = segment("photos", *FAST)
    assert "2 of 3 photos are done already" in said and "found/results.jsonl: of its lines 1 are" in said
    assert contents() == before


def test_lines_of_an_older_version_are_kept(found):
    file = Path("found/results.jsonl")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    for entry in entries[:2]:
        for candidate in entry["candidates"]:
            del candidate["channel"]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries[:2]))
    assert "2 of 3 photos are done already" in segment("photos", *FAST)
    assert lines()[:2] == entries[:2] and lines()[2] == entries[2]
    for line in lines():
        VALIDATOR.validate(line)
    export("found", out="exported")


@pytest.mark.filterwarnings("default")
def test_a_lost_mask_is_made_again(found):
    before = contents()
    Path("found/masks/sub/c.png").unlink()
    Path("found/masks/a.png").write_bytes(b"")
    said = segment("photos", *FAST)
    assert "1 of 3 photos are done already" in said and "2 have a mask that is missing or damaged" in said
    after = contents()
    assert sorted(after.pop("results.jsonl").splitlines()) == sorted(before.pop("results.jsonl").splitlines())
    assert after == before


def test_a_photo_of_the_same_stem_may_come_later(found):
    before = contents(kinds=("masks",))
    shutil.copy("photos/sub/c.png", "photos/a.jpg")
    segment("photos", *FAST)
    assert sorted(queries()) == ["a.jpg", "a.png", "b.jpg", "sub/c.png"]
    after = contents(kinds=("masks",))
    assert after.pop("masks/a_jpg.png") == after["masks/sub/c.png"]
    assert after == before
    export("found", out="exported")
    images = json.loads(Path("exported/annotations/instances_default.json").read_text())["images"]
    assert [image["file_name"] for image in images] == ["a.jpg", "a.png", "b.jpg", "sub/c.png"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="who may read everything")
def test_a_done_photo_that_cannot_be_read_any_more_is_skipped(found):
    Path("photos/a.png").chmod(0)
    assert "Skipped a.png: " in segment("photos", *FAST, code=1)


def test_a_label_that_was_not_finished_is_finished(both):
    before = contents()
    Path("found/results.jsonl").write_bytes(b"".join(before["results.jsonl"].splitlines(keepends=True)[:-1]))
    assert "2 of 3 photos are done already" in segment("photos", *CAT, *DOG, *FAST, support=None)
    assert contents() == before


def test_two_runs_at_once(work):
    with locked(Path("found")):
        assert "nother run is writing into found" in segment("photos", *FAST, code=2)
    segment("photos", *FAST)


# The same bytes


def test_same_seed_same_bytes_in_any_order_and_batch(work):
    files, few = ["photos/a.png", "photos/b.jpg", "photos/sub/c.png"], ("--no-pictures", "--steps", 2)
    segment(*files, *few)
    segment(*files, *few, out="again")
    assert contents("again") == contents()
    segment(*files[::-1], *few, "--batch-size", 2, out="turned")
    assert records("turned") == records()
    assert contents("turned", "masks") == contents(kinds="masks")
    segment(files[1], *few, "--batch-size", 1, out="alone")
    assert records("alone")[0] in records()
    segment(*files, *few, "--seed", 1, out="other")
    assert records("other") != records()
    assert {line["seed"] for line in lines("other")} == {1}


# Saved references


def test_saved_reference_gives_the_same_bytes(found):
    said = segment("photos", *FAST, "--save-reference", "kept/cat.safetensors", out="direct")
    assert "Saved the reference of object to kept/cat.safetensors" in said
    segment("photos", *FAST, "--reference", "kept/cat.safetensors", "--label", "object", support=None, out="loaded")
    assert contents("loaded", ("",)) == contents("direct", ("",)) == contents(kinds=("",))
    segment("photos/a.png", *FAST, "--reference", "kept/cat.safetensors", support=None, out="alone")
    assert {line["label"] for line in lines("alone")} == {"object"}
    other = Path("kept/dog.safetensors")
    other.write_bytes(Path("kept/cat.safetensors").read_bytes())
    two = ("--reference", "kept/cat.safetensors", "--reference", str(other))
    segment("photos/a.png", *FAST, *two, support=None, out="by their names")
    assert {line["label"] for line in lines("by their names")} == {"cat", "dog"}


def test_a_reference_remembers_its_label(work):
    segment("photos/a.png", *FAST, *CAT, *DOG, "--save-reference", "kept.ref", support=None)
    Path("kept-cat.ref").rename("one.ref")
    segment("photos/a.png", *FAST, "--reference", "one.ref", support=None, out="one")
    assert [line["label"] for line in lines("one")] == ["cat"]
    two = ("--reference", "one.ref", "--reference", "kept-dog.ref")
    segment("photos/a.png", *FAST, *two, support=None, out="two")
    assert records("two") == records()
    segment("photos/a.png", *FAST, *two, "--label", "hound", support=None, out="named")
    assert [line["label"] for line in lines("named")] == ["cat", "hound"]
    twice = ("--reference", "one.ref", "--reference", "one.ref")
    assert "label 'cat' is given twice" in segment("photos", *twice, support=None, out="x", code=2).replace("L", "l")


def test_unfit_references(work):
    segment("photos/a.png", *FAST, "--save-reference", "cat.ref")
    by_reference = {"support": None, "out": "other", "code": 2}
    said = segment("photos/a.png", "--reference", "cat.ref", "--framework", "persam", **by_reference)
    assert "made with framework persam-f, but here with persam:" in said
    said = segment("photos/a.png", "--reference", "cat.ref", "--preset", "paper", **by_reference)
    assert "made with settings" in said
    assert "o reference file missing" in segment("photos/a.png", "--reference", "missing", **by_reference)
    assert "cat.png is not a reference" in segment("photos/a.png", "--reference", "cat.png", **by_reference)
    weights = SAM / "model.safetensors"
    assert "a file of something else than prmagic" in segment("photos/a.png", "--reference", weights, **by_reference)
    said = segment("photos/a.png", "--reference", "cat.ref", "--framework", "matcher", **by_reference)
    assert "made with framework persam-f, but here with matcher:" in said
    said = segment("photos/a.png", "--reference", "cat.ref", "--save-reference", "x", **by_reference)
    assert "--save-reference needs --support" in said
    assert "cannot be extended" in segment(
        "photos/a.png", "--support", "cat.png", "cat_mask.png", "--reference", "cat.ref", "--label", "x", **by_reference
    )
    assert not Path("other").exists()


@pytest.mark.parametrize("target", ["photos", "", "cat.png/x"])
def test_a_reference_that_cannot_be_saved(work, target):
    assert "Error:" in segment("photos/a.png", *FAST, "--save-reference", target, code=2)


def test_a_reference_of_another_model(work):
    shutil.copytree(SAM, "sam_other")
    weights = load_file("sam_other/model.safetensors")
    weights["mask_decoder.iou_token.weight"] += 1
    save_file(weights, "sam_other/model.safetensors", {"format": "pt"})
    segment("photos/a.png", *FAST, "--save-reference", "cat.ref")
    result = run("segment", "photos/a.png", "--reference", "cat.ref", "--out", "other", "--sam", "sam_other")
    assert result.exit_code == 2
    assert "made with model" in flat(result.output)


# Stopped in the middle


def many_photos(work, count=12):
    for number in range(count):
        save(GOLDEN["query_rgb"][:, number:], work / "many" / f"{number:02}.png")


@pytest.fixture
def listening():
    """Background jobs ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize(
    "stop, code, said",
    [
        (signal.SIGINT, 130, "Interrupted. What is finished is kept: run it again"),
        (signal.SIGTERM, 143, "Terminated. What is finished is kept: run it again"),
    ],
)
def test_a_signal_ends_the_run_which_can_go_on(work, monkeypatch, listening, stop, code, said):
    many_photos(work, 4)
    append = RunFolder.append

    def stops_at_the_second(self, record):
        append(self, record)
        if len(self.done) == 2:
            os.kill(os.getpid(), stop)
            time.sleep(0.5)

    monkeypatch.setattr(RunFolder, "append", stops_at_the_second)
    assert said in segment("many", *FAST, code=code)
    monkeypatch.undo()
    monkeypatch.chdir(work)
    done = len(queries())
    assert queries() == ["00.png", "01.png", "02.png"][:done] and done >= 2  # the third may have been waiting
    assert f"{done} of 4 photos are done already" in segment("many", *FAST)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_and_continued(work, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))  # which can change the last bits
    many_photos(work)
    args = ("many", *FAST)
    process = start("segment", *args, "--support", "cat.png", "cat_mask.png", "--out", "found", "--sam", SAM)
    results = Path("found/results.jsonl")
    deadline = time.monotonic() + 300
    while not (results.exists() and results.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.005)
    process.send_signal(signal.SIGSTOP)  # or it could be done before the other has looked
    try:
        assert "nother run is writing" in segment(*args, code=2)
    finally:
        process.kill()
    output, _ = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL and "Traceback" not in output, output

    kept = results.read_bytes().splitlines(keepends=True)
    done = sum(line.endswith(b"\n") for line in kept)
    assert 3 <= done < 12
    assert f"{done} of 12 photos are done already" in segment(*args)
    assert results.read_bytes().startswith(b"".join(kept[:done]))
    segment(*args, out="at once")
    assert contents() == contents("at once")
