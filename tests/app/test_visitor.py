"""What belongs to a visitor: examples, photos, runs and results, without a browser."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from web_page import ready, uploaded

from prmagic.app import html
from prmagic.app.settings import Settings
from prmagic.app.workspace import Upload


def test_a_click_is_answered_by_the_model_from_one_encoding(visitor, engine, folder, tmp_path, monkeypatch):
    visitor.examples.upload([uploaded(folder / "cat.jpg", tmp_path)])
    visitor.examples.edit({"tool": "add", "points": [[225, 150]]})
    first, sam = visitor.examples.draft.marking.mask, engine.check(Settings()).framework.sam
    monkeypatch.setattr(sam, "encode", lambda images: pytest.fail("encoded again"))
    assert first[150, 225]
    visitor.examples.edit({"tool": "remove", "points": [[400, 20]]})
    visitor.examples.edit({"tool": "undo"})
    assert (visitor.examples.draft.marking.mask == first).all()


@pytest.mark.parametrize("name, reason", [
    ("broken.jpg", "damaged or cut short"), ("text.png", "not an image"), ("wide.png", "the limit is 1,000,000"),
])  # fmt: skip
def test_what_cannot_be_used_is_told_by_the_visitors_name(visitor, folder, tmp_path, name, reason):
    upload = uploaded(folder / name, tmp_path)
    (problem,) = visitor.add_photos([upload])
    assert problem.startswith(name)
    assert reason in problem
    assert str(tmp_path) not in problem
    assert not visitor.photos
    assert not upload.file.exists()


def test_names_cannot_leave_the_visitors_folder_or_collide(visitor, folder, tmp_path):
    photo = folder / "photos" / "cup.png"
    outside = uploaded(photo, tmp_path, "../../../cup.png"), uploaded(photo, tmp_path, "a\\..\\cup2.png")
    assert visitor.add_photos(outside) == []
    assert list(visitor.photos) == ["cup.png", "cup2.png"]
    assert all(photo.file.is_relative_to(visitor.workspace.folder) for photo in visitor.photos.values())
    again = uploaded(photo, tmp_path), uploaded(photo, tmp_path, "CUP.jpg"), uploaded(photo, tmp_path, "cup.txt")
    problems = visitor.add_photos(again)
    assert [problem.partition(":")[2].split()[0] for problem in problems] == ["is", "its", "its"]


@pytest.mark.parametrize("named", ["..", "../..", "/etc", "photos/../..", "nowhere", "cat.jpg", "a\0b", "x" * 5000])
def test_no_folder_above_the_root_can_be_named(visitor, folder, named):
    visitor.workspace.root = folder / "photos"
    with pytest.raises(ValueError, match="no such folder"):
        visitor.add_folder(named)


def test_a_link_out_of_the_root_is_not_followed(visitor, folder, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.jpg").symlink_to(folder / "cat.jpg")
    visitor.workspace.root = root
    assert visitor.add_folder(".") == ["link.jpg: leads out of the root"]
    assert not visitor.photos


def test_files_are_given_only_from_the_visitors_folder(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    workspace = visitor.workspace
    mine = visitor.examples.marked[0].photo.relative_to(workspace.folder).as_posix()
    assert workspace.file(mine) is not None
    for key in ("../secret", "/etc/passwd", "examples", f"{mine}/../../../../x", "a\0b", "x" * 5000, "é" * 300):
        assert workspace.file(key) is None


def test_a_run_does_what_is_new_and_leaves_what_was_done_by_hand(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    assert [at.done for at in visitor.run()] == [0, 1, 2, 3]
    assert [at.wanted for at in visitor.run()] == [0]
    visitor.inspect("cup.png", "cat", Settings())
    visitor.correct({"tool": "erase", "points": [[0, 0], [500, 500]], "width": 5000})
    assert visitor.keep_correction().how == "corrected"
    visitor.settings = Settings(options=(("flow", "none"),))
    assert [at.wanted for at in visitor.run()] == [2, 2, 2]
    assert not visitor.results["cup.png", "cat"].found
    visitor.inspect("cup.png", "cat", Settings())
    visitor.keep_automatic()
    assert visitor.results["cup.png", "cat"].found
    assert visitor.results["cup.png", "cat"].settings == visitor.settings


def test_another_mask_than_those_of_the_steps_can_be_kept(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    result = visitor.inspect("cup.png", "cat", Settings())
    further = [index for index, candidate in enumerate(result.candidates) if candidate.beside]
    assert further and further[-1] == len(result.candidates) - 1
    picked = next(index for index in reversed(further) if index != result.chosen)
    visitor.go_to(picked)
    assert visitor.inspected.step == picked
    kept = visitor.keep_step()
    step = result.candidates[picked].step
    assert (kept.how, kept.chosen, kept.title) == ("picked", picked, f"another mask of step {step}")
    mask = np.asarray(Image.open(visitor.path("masks", kept, ".png"))) > 0
    assert (mask == result.candidates[picked].mask.array).all()
    table = html.steps(result, picked)
    assert table.count("another mask of step") == len(further)
    assert html.steps(result, 0).count("pm-on") == table.count("pm-on") == 1
    assert f"In the results: another mask of step {step}, step picked by hand" in html.kept(visitor, visitor.inspected)


def test_a_broken_photo_in_a_folder_does_not_stop_the_run(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    root = visitor.workspace.root = tmp_path / "root"
    root.mkdir()
    shutil.copy(folder / "broken.jpg", root)
    shutil.copy(folder / "photos" / "cup.png", root)
    visitor.add_folder("")
    *_, last = visitor.run()
    assert last.done == 2
    assert len(last.problems) == 1
    assert last.problems[0].startswith("broken.jpg")
    assert list(visitor.results) == [("cup.png", "cat")]


def test_a_reference_of_another_framework_is_explained(visitor, engine, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    saved = tmp_path / "cat.safetensors"
    engine.reference(Settings(framework="matcher"), visitor.sources["cat"]).save(saved)
    with pytest.raises(ValueError, match="was made with framework matcher"):
        visitor.examples.load_reference(Upload(saved, "cat2.safetensors"), "cat2")
    assert list(visitor.sources) == ["cat"]


@pytest.mark.parametrize("label", ["a/b", "..", "Cat", "--out", "x" * 3 + "\n"])
def test_a_class_needs_a_name_that_a_folder_can_have(visitor, folder, tmp_path, label):
    ready(visitor, folder, tmp_path)
    if label.strip() != label:
        visitor.examples.add(label)  # what surrounds it is cut off
        return
    with pytest.raises(ValueError, match=r"cannot be used|already|dash"):
        visitor.examples.add(label)


def test_an_unreadable_photo_among_several_leaves_the_others_usable(visitor, folder, tmp_path):
    good, bad = uploaded(folder / "cat.jpg", tmp_path), uploaded(folder / "broken.jpg", tmp_path)
    (problem,) = visitor.examples.upload([good, bad])
    assert problem.startswith("broken.jpg")
    assert visitor.examples.draft.photo.name == "cat.jpg"
    visitor.examples.edit({"tool": "add", "points": [[225, 150]]})
    visitor.examples.pick(7)  # there is none
    visitor.examples.add("cat")
    assert list(visitor.sources) == ["cat"]


def test_what_a_mask_or_folder_leaves_open_is_told(visitor, folder, tmp_path):
    visitor.examples.upload([uploaded(folder / "cat.jpg", tmp_path)])
    everything = tmp_path / "all.png"
    with Image.open(folder / "cat.jpg") as photo:
        Image.new("L", photo.size, 255).save(everything)
    (note,) = visitor.examples.start_from(uploaded(everything, tmp_path, "mine.png"))
    assert "mine.png covers its whole image" in note
    root = visitor.workspace.root = tmp_path / "root"
    root.mkdir()
    shutil.copy(folder / "photos" / "cup.png", root)
    (root / "raw.dng").write_bytes(b"?")
    (problem,) = visitor.add_folder("")
    assert "left out: 1 .dng" in problem
    assert list(visitor.photos) == ["cup.png"]


def test_of_a_large_folder_the_limit_is_taken(visitor, folder, monkeypatch):
    monkeypatch.setattr("prmagic.app.visitor.MAX_PHOTOS", 2)
    assert visitor.add_folder("photos") == ["2 photos are the limit: 1 of this folder are left out"]
    assert len(visitor.photos) == 2


def test_a_run_of_two_classes_and_a_reference_with_its_label(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    saved = tmp_path / "x.safetensors"
    visitor.workspace.engine.reference(Settings(), visitor.sources["cat"]).save(saved)
    visitor.examples.remove(0)
    assert visitor.examples.load_reference(Upload(saved, "other.safetensors"), "") == "cat"
    ready(visitor, folder, tmp_path, "puss")
    visitor.add_photos([uploaded(folder / "photos" / "cup.png", tmp_path)])
    assert [at.wanted for at in visitor.run()][-1] == 1
    visitor.remove_example("saved:cat")
    assert list(visitor.results) == [("cup.png", "puss")]


def test_nothing_is_kept_of_a_class_that_was_removed(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    run = visitor.run()
    next(run), next(run)
    visitor.inspect("cup.png", "cat", Settings())
    visitor.remove_example("0")
    *_, last = run
    assert last.done == 3
    assert not visitor.results
    for keep in (visitor.keep_step, visitor.keep_automatic, visitor.keep_correction):
        with pytest.raises(ValueError, match="choose a photo and a class first"):
            keep()


def test_settings_that_cannot_be_used_are_refused_at_once(visitor):
    for options in ({"eta": -1.0}, {"eta": float("nan")}, {"steps": 2.5}, {"nothing": 1}):
        with pytest.raises(ValueError, match=r"must be|no setting"):
            visitor.settings = Settings(options=tuple(options.items()))
    assert visitor.settings == Settings()
