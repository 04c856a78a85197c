"""What `prmagic segment` writes, and how photos are named."""

import json
import shutil
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from command_line import (
    FAST,
    GOLDEN,
    SAM,
    SCHEMA,
    check_results,
    contents,
    lines,
    picture,
    queries,
    run,
    save,
    segment,
)
from PIL import Image

from prmagic import __version__
from prmagic.pictures import save_image


def test_a_folder_with_everything(work):
    said = segment("photos")
    assert "3 photo(s) segmented, 0 mask(s) empty, 0 skipped. Results: found" in said
    assert sorted(contents(kinds=("masks", "overlays", "candidates", "results", "run"))) == [
        *("candidates/a.png", "candidates/b.png", "candidates/sub/c.png"),
        *("masks/a.png", "masks/b.png", "masks/sub/c.png"),
        *("overlays/a.jpg", "overlays/b.jpg", "overlays/sub/c.jpg"),
        *("results.jsonl", "run.json"),
    ]
    check_results()
    assert queries() == ["a.png", "b.jpg", "sub/c.png"]
    shapes = {name: picture(f"found/masks/{name}.png").shape for name in ("a", "b", "sub/c")}
    assert shapes == {"a": (90, 120), "b": (80, 120), "sub/c": (90, 120)}
    assert picture("found/overlays/b.jpg").shape == (80, 120, 3)
    assert all({line["label"]} == {"object"} and line["seed"] == 0 for line in lines())
    steps = [[candidate["step"] for candidate in line["candidates"]] for line in lines()]
    assert all(each[:6] == [0, 1, 2, 3, 4, 5] and 6 < len(each) <= 12 for each in steps)  # and further masks of SAM

    written = json.loads(Path("found/run.json").read_text())
    assert written["settings"]["framework"] == "persam-f"
    assert written["settings"]["flow"]["steps"] == 5
    assert written["settings"]["seed"] == 0
    assert written["settings"]["dtype"] == "float32"
    assert set(written["references"]) == {"object"}
    assert written["versions"]["prmagic"] == __version__

    before = {path: path.stat().st_mtime_ns for path in Path("found").rglob("*")}
    assert "3 of 3 photos are done already" in segment("photos")
    assert {path: path.stat().st_mtime_ns for path in Path("found").rglob("*")} == before


def test_the_time_of_a_photo_is_told_by_stage(work):
    said = segment("photos/a.png", *FAST)
    told = said.split("A photo took ")[1]
    assert told.split()[1:4] == ["s", "on", "average:"]
    stages = dict(part.split() for part in told.split(": ")[1].strip(" .").split(", "))
    assert {"encode", "score"} <= set(stages) and all(float(spent) >= 0 for spent in stages.values())


def test_strict_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "given, names",
    [
        (["photos/a.png"], ["a.png"]),
        (["photos/b.jpg", "photos/a.png"], ["b.jpg", "a.png"]),
        (["photos/*.png"], ["a.png"]),
        (["photos/**/*.png"], ["a.png", "sub/c.png"]),
        (["photos/"], ["a.png", "b.jpg", "sub/c.png"]),
        (["photos/a.png", "photos/a.png", "photos"], ["a.png", "b.jpg", "sub/c.png"]),
        (["photos/sub", "photos/a.png"], ["c.png", "a.png"]),
    ],
)
def test_ways_to_name_queries(work, given, names):
    segment(*given, "--no-pictures", "--steps", 0)
    assert queries() == names


def test_no_pictures(work):
    segment("photos/a.png", "--no-pictures", "--steps", 0)
    assert sorted(contents(kinds=("",))) == ["masks/a.png", "results.jsonl", "run.json"]


def test_odd_names(work):
    names = ["[a].png", "[red]x.png", ":smile:.png", "sp ace/ü ☃.png", "two.dots.png", "line\u2028sep.png", "CAPS.PNG"]
    shutil.rmtree("photos")
    for name in names:
        save(GOLDEN["query_rgb"], work / "photos" / name, format="PNG")
    (work / "photos" / "[" / "red]").mkdir(parents=True)
    (work / "photos" / "[" / "red].jpg").write_text("[/red]")  # its path is [/red].jpg, which ends what never began
    said = segment("photos", *FAST, "--label", "[b]☃", out="o ut [", code=1)
    assert "[/red].jpg is not an image" in said
    assert sorted(queries("o ut [")) == sorted(names)
    check_results("o ut [")
    assert "8 of 8" not in segment("photos", *FAST, "--label", "[b]☃", out="o ut [", code=1)  # one is still broken
    segment("photos/[a].png", *FAST, out="one")
    assert queries("one") == ["[a].png"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are Unicode")
def test_a_name_that_is_not_unicode(work):
    shutil.copy("photos/a.png", b"photos/caf\xe9.png")
    segment("photos", *FAST)
    assert "caf\\xe9.png" in queries()
    check_results()


@pytest.mark.filterwarnings("default:.*left out:UserWarning")
def test_links_and_hidden_files(work):
    Path("photos/link.png").symlink_to("a.png")
    Path("photos/loop").symlink_to(".")
    Path("photos/nowhere.png").symlink_to("missing.png")
    shutil.copy("photos/a.png", "photos/.hidden.png")
    said = segment("photos", "--no-pictures", "--steps", 0)
    assert queries() == ["a.png", "b.jpg", "sub/c.png"]
    assert "1 broken link(s)" in said


def test_kinds_of_photos(work):
    rng = np.random.default_rng(0)
    small = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
    save(small[:1, :1], work / "kinds" / "1x1.png")
    save(rng.integers(0, 255, (1, 5000, 3), dtype=np.uint8), work / "kinds" / "panorama.png")
    save(rng.integers(0, 65535, (20, 30)).astype(np.uint16), work / "kinds" / "16bit.png")
    Image.fromarray(small).convert("CMYK").save("kinds/cmyk.jpg")
    Image.fromarray(small).save("kinds/moving.gif", save_all=True, append_images=[Image.fromarray(small[::-1])])
    segment("kinds", "--steps", 1)
    assert len(lines()) == 5
    check_results()
    assert picture("found/masks/panorama.png").shape == (1, 5000)


def test_the_supports_mask_is_no_query(work):
    segment(".", *FAST)
    assert queries() == ["cat.png", "photos/a.png", "photos/b.jpg", "photos/sub/c.png"]
    assert "hold no photo but masks" in segment("cat_mask.png", out="other", code=2)


@pytest.mark.parametrize("out", ["photos/found", "photos"])
def test_own_output_is_no_query(work, out):
    segment("photos", "--steps", 0, out=out)
    assert "3 of 3 photos are done already" in segment("photos", "--steps", 0, out=out)
    segment("photos", "--no-pictures", "--steps", 0, out="elsewhere")  # nor is another run's
    assert queries(out) == queries("elsewhere") == ["a.png", "b.jpg", "sub/c.png"]


def test_messages_are_not_wrapped(work):
    """A path that is broken over two lines cannot be copied."""
    name = "x" * 100 + ".jpg"
    (work / name).write_text("not a photo")
    result = run("segment", name, "--support", "cat.png", "cat_mask.png", "--out", "x", "--sam", SAM)
    assert any(name in line for line in result.output.splitlines())


# What cannot be used


def test_bad_photos_are_skipped_and_the_rest_is_done(work):
    whole = Path("photos/a.png").read_bytes()
    Path("photos/cut.png").write_bytes(whole[: len(whole) // 2])
    Path("photos/text.jpg").write_text("not a photo")
    Path("photos/empty.png").touch()
    save(np.zeros((100, 200, 3), np.uint8), work / "photos" / "large.png")
    said = segment("photos", *FAST, "--max-pixels", 12000, code=1)
    assert "Skipped cut.png: " in said and "damaged or cut short" in said
    assert "Skipped text.jpg: " in said and "not an image of a kind that can be read" in said
    assert "Skipped empty.png: " in said and "is empty (0 bytes)" in said
    assert "Skipped large.png: " in said and "the limit is 12,000" in said
    assert "3 photo(s) segmented, 0 mask(s) empty, 4 skipped" in said
    assert queries() == ["a.png", "b.jpg", "sub/c.png"]
    before = contents()
    segment("photos", *FAST, "--max-pixels", 12000, code=1)  # says it again
    assert contents() == before
    for name in ("cut.png", "text.jpg", "empty.png"):
        Path("photos", name).unlink()
    assert "3 of 4 photos are done already" in segment("photos", *FAST)  # the limit decides no result
    assert len(lines()) == 4


def test_only_bad_photos(work):
    Path("text.jpg").write_text("not a photo")
    assert "0 photo(s) segmented, 0 mask(s) empty, 1 skipped" in segment("text.jpg", *FAST, code=1)


@pytest.mark.parametrize(
    "query, said",
    [
        ("missing.png", "missing.png does not exist"),
        ("photos/aa.png", "did you mean photos/a.png"),
        ("missing/*.png", "there is no folder missing"),
        ("photos/*.webp", "o file matches"),
        ("void", "void holds no images"),
        ("", "is a variable unset"),
    ],
)
def test_missing_queries(work, query, said):
    Path("void").mkdir()
    assert said.casefold() in segment(query, "photos/a.png", code=2).casefold()
    assert not Path("found").exists()


def test_bad_supports(work):
    save(np.zeros((90, 120), np.uint8), work / "empty.png")
    save(np.ones((45, 60), np.uint8), work / "half.png")
    for pair, said in [
        (("cat.png", "empty.png"), "Mask empty.png is empty: mark at least one object pixel"),
        (("cat.png", "half.png"), "Mask half.png is 60 × 45, its image 120 × 90"),
        (("cat.png", "missing.png"), "missing.png does not exist"),
        (("missing.png", "cat_mask.png"), "missing.png does not exist"),
        (("cat.png", "photos"), "photos is a folder"),
    ]:
        assert said in segment("photos", support=pair, code=2)
    assert not Path("found").exists()


@pytest.mark.filterwarnings("default")
def test_a_mask_of_everything_is_remarked(work):
    save(np.ones((90, 120), np.uint8), work / "full.png")
    said = segment("photos/a.png", *FAST, support=("cat.png", "full.png"))
    assert "Note: Mask full.png covers its whole image" in said
    assert "UserWarning" not in said


@pytest.mark.parametrize("out", ["cat.png", "cat.png/sub", "/proc/nothing/can/be/made/here"])
def test_out_that_cannot_be_a_folder(work, out):
    assert "Error:" in segment("photos/a.png", *FAST, out=out, code=2)


def test_a_full_disk_ends_the_run_with_a_sentence(work, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "found/masks/a.png")

    monkeypatch.setattr("prmagic.io.runs.save_image", full)
    assert "Error: found/masks/a.png: No space left on device" in segment("photos", *FAST, code=2)


def test_after_a_full_disk_nothing_more_is_written(work, monkeypatch):
    """The next photo is ready by then; it would come before this one in the results."""

    def full_once(picture, path):
        if path.name == "a.png":
            raise OSError(28, "No space left on device", str(path))
        save_image(picture, path)

    monkeypatch.setattr("prmagic.io.runs.save_image", full_once)
    segment("photos", *FAST, code=2)
    assert not Path("found/results.jsonl").exists()


def test_a_photo_whose_mask_cannot_be_written_is_skipped(work):
    segment("photos/b.jpg", *FAST)
    Path("found/masks/a.png").mkdir()
    said = segment("photos", *FAST, code=1)
    assert "Skipped a.png: " in said and "irectory" in said
    assert "1 photo(s) segmented, 0 mask(s) empty, 1 skipped" in said
    assert sorted(queries()) == ["b.jpg", "sub/c.png"]
