"""`prmagic segment --tiles`: large photos."""

import numpy as np
import pytest
from command_line import FAST, GOLDEN, check_results, contents, lines, save, segment, settings


@pytest.fixture
def large(work):
    """A photo, larger than the model's input by several times."""
    image = np.random.default_rng(0).integers(0, 256, (360, 480, 3), dtype=np.uint8)
    image[200:290, 300:420] = GOLDEN["query_rgb"]
    save(image, work / "large.png")
    return work


def test_tiles_are_recorded_and_a_folder_goes_on_with_the_same_only(large):
    said = segment("large.png", *FAST, "--tiles", "2")
    assert "1 photo(s) segmented" in said
    assert settings()["tiles"] == 2
    assert (lines()[0]["height"], lines()[0]["width"]) == (360, 480)
    check_results()
    assert "1 of 1 photos are done already" in segment("large.png", *FAST, "--tiles", "2")
    assert "settings.tiles was 2, now it is" in segment("large.png", *FAST, "--tiles", "auto", code=2)
    assert "settings.tiles was 2, now it is null" in segment("large.png", *FAST, code=2)


def test_off_is_as_without_the_option(large):
    segment("large.png", "photos", *FAST)
    segment("large.png", "photos", *FAST, "--tiles", "off", out="off")
    assert contents("found", ("masks", "results.jsonl", "run.json")) == contents(
        "off", ("masks", "results.jsonl", "run.json")
    )
    assert "tiles" not in settings()


def test_pictures_and_instances_of_a_photo_in_tiles(large):
    segment("large.png", "--steps", "1", "--tiles", "2", "--instances")
    assert {"overlays/large.jpg", "candidates/large.png"} <= set(contents(kinds=("overlays", "candidates")))
    check_results()
    assert len(lines()[0]["instances"]) > 0


@pytest.mark.parametrize(
    ("wrong", "told"), [("many", "is auto, off, or how many lie along a photo's longer side"), ("1", "2 to 64, not 1")]
)
def test_other_values_are_told_before_anything_is_done(wrong, told, large):
    said = segment("large.png", "--tiles", wrong, code=2)
    assert told in said
    assert not (large / "found").exists()


def test_videos_take_no_tiles(work):
    for number in (1, 2):
        save(GOLDEN["query_rgb"], work / "frames" / f"{number}.png")
    said = segment("frames", "--sequence", "--tiles", "2", code=2)
    assert "--tiles is for photos: leave it out for videos" in said
