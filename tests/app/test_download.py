"""What a visitor takes away, and that nobody's names do harm there."""

from __future__ import annotations

import ast
import io
import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import jsonschema
import numpy as np
from PIL import Image
from web_page import ready

from prmagic.app import download, html, rerun
from prmagic.app.settings import Settings
from prmagic.io.run_reader import read_run


def test_names_are_escaped():
    nasty = '<img src=x onerror="alert(1)">'
    for piece in (
        html.message(nasty),
        html.message("", [nasty]),
        html.tile(nasty, nasty, nasty, nasty),
        html.code(nasty, nasty),
    ):
        assert "<img src=x" not in piece


def test_commands_name_only_what_is_not_the_default(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    assert rerun.command(visitor).splitlines()[-1] == (
        "prmagic segment photos/photos --support examples/cat_1.jpg examples/cat_1_mask.png --label cat "
        "--max-pixels 1000000 --out again/"
    )
    assert str(folder) not in rerun.command(visitor)  # where the server keeps its photos
    visitor.settings = Settings(framework="matcher", seed=3, options=(("centers", 3), ("subset_sizes", (1, 2))))
    assert "--framework matcher --seed 3 --set centers=3 --set 'subset_sizes=1, 2' --out" in rerun.command(visitor)
    assert "load(max_pixels=1000000, framework='matcher', seed=3, centers=3, subset_sizes=(1, 2))" in rerun.python(
        visitor
    )


NASTY = ["x'; touch pwned #", "$(touch pwned)", "`touch pwned`", 'a"; touch pwned; "', "-rf", "a & touch pwned", "a\nb"]


def test_no_name_becomes_a_command(visitor, folder, tmp_path):
    root = visitor.workspace.root = tmp_path / "root"
    ready(visitor, folder, tmp_path)
    for name in NASTY:
        (root / name).mkdir(parents=True)
        shutil.copy(folder / "photos" / "cup.png", root / name / f"{name}\ntouch pwned #.png")
        assert visitor.add_folder(name) == []
    visitor.inspect(next(iter(visitor.photos)), "cat", visitor.settings)
    visitor.go_to(1 if visitor.inspected.step != 1 else 2)
    visitor.keep_step()
    script, place = rerun.command(visitor), tmp_path / "here"
    place.mkdir()
    # The shell sees one command, whose words are the names.
    spy = 'prmagic() { for word in "$@"; do printf \'%s\\0\' "$word"; done; }\n'
    done = subprocess.run(["sh", "-c", spy + script], cwd=place, capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[: len(NASTY) + 1] == ["segment", *(f"photos/{name}" for name in NASTY)]
    assert not list(place.iterdir())
    tree = ast.parse(rerun.python(visitor))
    called = {node.func.id for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert called == {"find_images", "query_name", "len", "Path", "save_image", "mask_image"}
    assert [line for line in script.splitlines() if line.startswith("#")][1] == (
        "# On the page 1 of 1 masks were picked or corrected by hand: see scores.csv."
    )


def test_a_correction_is_in_every_download(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    list(visitor.run())
    visitor.inspect("cup.png", "cat", Settings())
    visitor.correct({"tool": "brush", "points": [[0, 0], [100, 0]], "width": 20})
    visitor.correct({"tool": "erase", "points": [[0, 200], [600, 200]], "width": 2000})
    visitor.correct({"tool": "brush", "points": [[0, 0], [100, 0]], "width": 20})
    kept = visitor.keep_correction()
    mask = np.asarray(Image.open(visitor.path("masks", kept, ".png"))) > 0
    assert mask.any()
    out = tmp_path / "out"
    with io.BytesIO() as file:
        download.write_zip(visitor, "results", file)
        zipfile.ZipFile(file).extractall(out)
    labels, _, photos = read_run(out)
    found = {photo.name: photo.masks for photo in photos}
    assert labels == ["cat"]
    assert (found["cup.png"]["cat"] == mask).all()
    schema = json.loads((Path(__file__).parents[2] / "docs" / "results.schema.json").read_text())
    for line in (out / "results.jsonl").read_text().splitlines():
        jsonschema.validate(json.loads(line), schema)
    with io.BytesIO() as file:
        download.write_zip(visitor, "masks", file)
        picture = Image.open(io.BytesIO(zipfile.ZipFile(file).read("SegmentationClass/cup.png")))
        assert ((np.asarray(picture) > 0) == mask).all()
    row = next(row for row in download.rows(visitor) if row["photo"] == "cup.png")
    assert (row["how"], row["score"], row["area"]) == ("corrected by hand", None, mask.sum())


def test_two_classes_share_no_pixel(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    ready(visitor, folder, tmp_path, "puss")  # the same thing under another name
    visitor.add_folder("photos")
    list(visitor.run())
    for name in visitor.photos:
        masks = [np.asarray(Image.open(visitor.path("masks", visitor.results[name, label], ".png"))) > 0
                 for label in ("cat", "puss")]  # fmt: skip
        assert not (masks[0] & masks[1]).any()
    with io.BytesIO() as file:
        download.write_zip(visitor, "results", file)
        assert "masks/cat/cup.png" in zipfile.ZipFile(file).namelist()
