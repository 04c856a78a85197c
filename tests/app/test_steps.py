"""Part 3 through the page's own requests: the step that is shown, corrections, and the zip that `export` takes."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from app_client import Client
from command_line import run
from PIL import Image, ImageDraw
from pycocotools.coco import COCO


@pytest.fixture
def client(server, folder) -> Client:
    """With an example and a photo."""
    client = Client(server["url"])
    client.do("example-photos", "upload", [[client.file("cat.jpg", (folder / "cat.jpg").read_bytes())]])
    client.do("mask-file", "upload", [client.file("m.png", (folder / "cat_mask.png").read_bytes())])
    assert "Added" in client.do("add-example", "click", ["cat"])
    client.do("query-photos", "upload", [[client.file("cup.png", (folder / "photos" / "cup.png").read_bytes())]])
    return client


def look(client: Client, by: str, step: int) -> int:
    """Look at the photo, as after a change of that control; the step that is shown."""
    event = client.event("step", "input")
    said = client.send(event, [None, None, step, *client.values(event)[3:]], trigger_id=client.by_name[by])
    return int(re.findall(r'"description":"cup.png, step (\d):', said)[-1])


def test_an_edit_that_changes_nothing_is_answered_with_something_new(client):
    stroke = {"tool": "erase", "points": [[0, 0]], "width": 5000}
    answers = [client.do("canvas", "edit", [], stroke) for _ in range(2)]
    keys = [re.search(r'"key":"(\w+)"', said)[1] for said in answers]
    assert keys[0] != keys[1]


def test_the_zip_of_the_page_goes_on_to_every_tool_with_the_correction(client, tmp_path):
    said = client.do("start", "click", [])
    assert "Done: 1 result" in said
    look(client, "class", 0)
    width, height = 40, 30
    client.do("correction", "edit", [], {"tool": "erase", "points": [[0, 0], [600, 600]], "width": 5000})
    box = [[60, 60], [60 + width, 60], [60 + width, 60 + height], [60, 60 + height], [60, 60]]
    client.do("correction", "edit", [], {"tool": "brush", "points": box, "width": 20})
    assert "corrected by hand" in client.do("keep-correction", "click", [])
    token = said.partition("visitors/")[2].partition("/")[0]
    page = tmp_path / "page.zip"
    page.write_bytes(client.get(f"/visitors/{token}/results.zip").body)
    outs = {kind: tmp_path / kind for kind in ("yolo-seg", "coco", "label-studio", "masks")}
    for kind, out in outs.items():
        assert run("export", page, "--to", kind, "--out", out).exit_code == 0, kind
    mask = np.asarray(Image.open(outs["masks"] / "SegmentationClass" / "cup.png")) > 0
    assert mask[60, 60:100].all()  # the brush went here
    assert not mask[74:77, 78:82].any()  # and around this
    coco = COCO(outs["coco"] / "annotations" / "instances_default.json")
    assert (coco.annToMask(coco.loadAnns(coco.getAnnIds())[0]).astype(bool) == mask).all()
    drawn = Image.new("1", mask.shape[::-1])
    for line in (outs["yolo-seg"] / "labels" / "cup.txt").read_text().splitlines():
        number, *corners = map(float, line.split())
        assert number == 0
        points = np.reshape(corners, (-1, 2)) * mask.shape[::-1]
        ImageDraw.Draw(drawn).polygon([tuple(point) for point in points], fill=1)
    outline = np.asarray(drawn)
    assert (outline & mask).sum() / (outline | mask).sum() > 0.9
    tasks = json.loads((outs["label-studio"] / "tasks.json").read_text())
    assert tasks[0]["data"]["image"].endswith("cup.png")
