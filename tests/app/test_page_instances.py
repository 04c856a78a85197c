"""One mask per thing on the page, without a browser: what is kept, shown, downloaded and given again."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from web_page import ready

from prmagic.app import download, html, rerun
from prmagic.app.canvas import thumbnail
from prmagic.app.settings import Settings
from prmagic.io.run_reader import read_run
from prmagic.pictures import overlay_instances


@pytest.fixture
def searched(visitor, folder, tmp_path):
    """Things are told apart, in one photo."""
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    visitor.photos = {"other coins.png": visitor.photos["other coins.png"]}
    visitor.settings = Settings(instances=True)
    list(visitor.run())
    return visitor


def written(visitor, kind):
    file = io.BytesIO()
    download.write_zip(visitor, kind, file)
    return zipfile.ZipFile(file)


def test_things_are_kept_counted_drawn_and_downloaded(searched, tmp_path):
    (kept,) = searched.results.values()
    things = kept.instances
    assert things and kept.things == len(things)
    union = np.any([thing.mask for thing in things], axis=0)
    assert (np.asarray(Image.open(searched.path("masks", kept, ".png"))) > 0).tolist() == union.tolist()
    image = searched.workspace.read(kept.photo)
    expected = overlay_instances(image, [thing.mask for thing in things])
    drawn = Image.open(searched.path("overlays", kept, ".jpg"))
    assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).mean() < 3
    assert html.counted(len(things), "thing") in html.gallery(searched)
    assert "one mask per thing" in html.used(searched)
    assert download.rows(searched)[0]["things"] == len(things)
    annotations = json.loads(written(searched, "coco").read("annotations/instances_default.json"))["annotations"]
    assert [each["score"] for each in annotations] == [thing.score for thing in things]
    (tmp_path / "all.zip").write_bytes(written(searched, "results").fp.getvalue())
    _, _, (photo,) = read_run(tmp_path / "all.zip")
    assert [thing.score for thing in photo.instances["cat"]] == [thing.score for thing in things]
    assert json.loads(written(searched, "results").read("run.json"))["instances"] is True
    assert "--instances --out again/" in rerun.command(searched)
    assert "names=names, instances=True)" in rerun.python(searched)


def test_another_choice_is_another_run(searched):
    assert [at.wanted for at in searched.run()] == [0]
    searched.settings = replace(searched.settings, instances=False)
    assert [at.wanted for at in searched.run()] == [1, 1]
    (kept,) = searched.results.values()
    assert kept.things is None and kept.instances is None and "--instances" not in rerun.command(searched)


def test_a_step_kept_by_hand_is_one_mask(searched):
    result = searched.inspect("other coins.png", "cat", searched.settings)
    kept = searched.keep_step()
    assert (kept.how, kept.things, kept.chosen) == ("picked", None, result.chosen) and "instances" not in kept.record
    assert kept.area == result.candidates[result.chosen].mask.area
    assert searched.keep_automatic().things is not None


def test_things_of_two_classes_share_no_pixel(searched):
    (source,) = searched.sources.values()
    both = [source, replace(source, label="again")]
    cat, again = searched.workspace.engine.segment_all(searched.photos["other coins.png"], searched.settings, both)
    alone = searched.results["other coins.png", "cat"]
    assert len(cat.instances) == len(alone.instances) and again.instances == ()  # equal things go to the first
    assert not again.record["found"] and again.record["score"] is None and again.mask.area == 0


def test_fewer_things_are_a_smaller_answer(searched):
    (source,) = searched.sources.values()
    (result,) = searched.workspace.engine.segment_all(searched.photos["other coins.png"], searched.settings, [source])
    first, second, *_ = result.instances
    cut = result.with_instances([first, second])
    assert cut.mask.area == first.mask.sum() + second.mask.sum() and cut.record["score"] == first.score
    assert len(cut.instances) == 2


def test_a_thumbnail_of_things():
    image, masks = np.full((700, 900, 3), 120, np.uint8), [np.zeros((700, 900), bool) for _ in range(2)]
    masks[0][:, :400] = masks[1][:, 500:] = True
    picture = thumbnail(image, masks[0] | masks[1], masks)
    assert picture.size == (320, 249) and picture.getpixel((30, 60)) != picture.getpixel((290, 60))


@pytest.mark.slow
def test_the_checkbox_tells_things_apart(tab, folder):
    tab.changed("canvas", lambda: tab.upload("example-photos", folder / "coin.png"))
    tab.tool("canvas", "Object")
    tab.changed("canvas", lambda: tab.click("canvas", 0.845, 0.34))
    tab.page.locator("#label").get_by_role("textbox").fill("coin")
    tab.page.click("#add-example")
    tab.says("examples", "coin")
    tab.queries(folder / "photos" / "other coins.png")
    tab.page.locator("#instances input").check()
    tab.says("settings-used", "one mask per thing")
    tab.run(1)
    tab.says("gallery", "thing")
    with tab.take() as archive:
        (line,) = archive.read("results.jsonl").splitlines()
    assert json.loads(line)["instances"]
