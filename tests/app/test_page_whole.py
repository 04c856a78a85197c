"""From an example to the files, in a browser, and the same on the command line.

`PRMAGIC_SCREENSHOTS=docs/images/app pytest tests/app/test_page_whole.py` renews the pictures of the docs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from supervision import DetectionDataset
from web_page import marked

from prmagic.io.run_reader import read_run

pytestmark = pytest.mark.slow


def test_from_two_photos_to_the_files_that_the_command_line_gives(tab, folder, tmp_path):
    """With other settings for all, a candidate picked by hand, and a correction that leaves nothing."""
    tab.changed("canvas", lambda: tab.upload("example-photos", folder / "coin.png"))
    tab.tool("canvas", "Box")
    tab.changed("canvas", lambda: tab.drag("canvas", (0.71, 0.18), (0.98, 0.5)))
    tab.tool("canvas", "Object")
    tab.changed("canvas", lambda: tab.click("canvas", 0.845, 0.34))
    tab.page.locator("#label").get_by_role("textbox").fill("coin")
    tab.page.click("#add-example")
    tab.says("examples", "coin")
    tab.picture("example")
    photos = [folder / "photos" / "other coins.png", folder / "photos" / "cup.png"]
    tab.queries(*photos)
    tab.run(2)
    tab.page.locator("#gallery [data-event=pick]").first.click()
    tab.says("steps", "baseline")
    tab.page.locator("#more-settings-title button").click()
    tab.page.locator("#set-persam-f-extra-points input").click()
    tab.changed("picture", lambda: tab.page.get_by_role("option", name="0.99/0.90").click())
    tab.page.click("#everywhere")
    tab.says("steps-status", "uses these settings now")
    tab.part("2 Photos")
    tab.says("settings-used", "extra points 0.99/0.90")
    tab.run(2)
    tab.picture("photos")

    # What the command line and the Python lines give is the same, to the byte.
    with tab.take() as archive:
        archive.extractall(tmp_path)
    shutil.copytree(folder / "photos", tmp_path / "photos", ignore=shutil.ignore_patterns("more"))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    for command in (["sh", "again.sh"], [sys.executable, "again.py"]):
        shutil.rmtree(tmp_path / "again", ignore_errors=True)
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        for name in ("other coins.png", "cup.png"):
            assert (tmp_path / "again/masks" / name).read_bytes() == (tmp_path / "masks" / name).read_bytes()
        if command[0] == "sh":
            lines = [(tmp_path / at / "results.jsonl").read_text().splitlines() for at in ("again", "")]
            assert sorted(lines[0]) == sorted(lines[1])
            for name in ("other coins.jpg", "cup.jpg"):
                assert (tmp_path / "again/overlays" / name).read_bytes() == (tmp_path / "overlays" / name).read_bytes()
    records = {line["query"]: line for line in map(json.loads, lines[0])}

    # Another candidate, by hand.
    tab.part("2 Photos")
    tab.page.locator("#gallery [data-event=pick]").first.click()
    tab.says("kept", "chosen by the selector")
    record = records["other coins.png"]
    other = max(range(6), key=lambda t: (t != record["chosen"], record["candidates"][t]["area"]))
    assert f"step {other}:" in tab.slide(other)
    tab.picture("steps")
    tab.page.click("#keep")
    tab.says("kept", f"step {other}, step picked by hand")
    # Nothing of the other photo.
    tab.changed("picture", lambda: tab.page.click("#next"))
    tab.page.locator("#correct-title button").click()
    tab.tool("correction", "Eraser")
    tab.page.locator("#correction input[type=range]").fill("25")
    lanes = [(x, y) for y in np.linspace(0.02, 0.98, 6) for x in (0.0, 1.0)]
    assert marked(tab.changed("correction", lambda: tab.drag("correction", *lanes))) == 0
    tab.page.click("#keep-correction")
    tab.says("kept", "corrected by hand; nothing found")
    tab.part("2 Photos")
    tab.says("gallery", "nothing found")

    with tab.take() as archive:
        archive.extractall(tmp_path / "second")
    tab.picture("results")
    mask = np.asarray(Image.open(tmp_path / "second/masks/other coins.png")) > 0
    assert (mask == coco_mask.decode(record["candidates"][other]["rle"]).astype(bool)).all()
    assert not np.asarray(Image.open(tmp_path / "second/masks/cup.png")).any()
    annotations = tmp_path / "coco" / "annotations" / "instances_default.json"
    with tab.take("COCO") as archive:
        archive.extractall(tmp_path / "coco")
    coco = COCO(annotations)
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert (coco.annToMask(annotation).astype(bool) == mask).all()
    assert annotation["area"] == mask.sum()
    assert coco.loadImgs(annotation["image_id"])[0]["file_name"] == "other coins.png"
    assert {image["file_name"] for image in coco.dataset["images"]} == {"other coins.png", "cup.png"}
    # A labelling tool's own loader reads it beside the photos.
    loaded = DetectionDataset.from_coco(str(tmp_path / "photos"), str(annotations), force_masks=True)
    found = {Path(path).name: detections for path, _, detections in loaded}
    assert loaded.classes == ["coin"]
    assert (found["other coins.png"].mask == mask).all()
    assert found["cup.png"].is_empty()
    table = (tmp_path / "second/scores.csv").read_text().splitlines()
    assert "step picked by hand" in table[1]
    assert "corrected by hand" in table[2]
    assert "2 of 2 masks were picked or corrected by hand" in (tmp_path / "second/again.sh").read_text()
    # The zip's records are those of `prmagic segment`, with what was done by hand.
    labels, sums, answers = read_run(tmp_path / "second")
    found = {photo.name: photo.masks["coin"] for photo in answers}
    assert (labels, set(sums)) == (["coin"], set(found))
    assert (found["other coins.png"] == mask).all()
    assert not found["cup.png"].any()
