"""Runs `prmagic` in this process, and reads what it wrote. The models are tiny, with random weights: the masks mean
nothing, but are the same every time."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from typer.testing import CliRunner

from prmagic.cli.main import app

HERE = Path(__file__).parent
SAM = HERE / "golden" / "sam_mini"
GOLDEN = dict(np.load(HERE / "golden" / "persam_mini.npz"))
SCHEMA = json.loads((HERE.parent / "docs" / "results.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
FAST = ("--no-pictures", "--steps", "1")
CAT = ("--support", "cat.png", "cat_mask.png", "--label", "cat")
DOG = ("--support", "photos/a.png", "cat_mask.png", "--label", "dog")


def save(pixels, path: Path, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.ascontiguousarray(pixels)).save(path, **options)
    return path


def run(*args, **options):
    """Never a traceback, whatever happens; an exception would be one."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], **options)
    assert result.exception is None or isinstance(result.exception, SystemExit), repr(result.exception)
    assert "Traceback" not in result.output
    return result


def start(*args) -> subprocess.Popen[str]:
    """A process of its own."""
    command = [sys.executable, "-m", "prmagic", *map(str, args)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace"
    )


def segment(*args, support=("cat.png", "cat_mask.png"), out="found", code=0) -> str:
    """What it says, in one line, however it was wrapped."""
    named = () if support is None else ("--support", *support)
    result = run("segment", *args, *named, "--out", out, "--sam", SAM)
    assert result.exit_code == code, result.output
    return flat(result.output)


def export(*args, to="coco", out="exported", code=0) -> str:
    result = run("export", *args, "--to", to, "--out", out)
    assert result.exit_code == code, result.output
    return flat(result.output)


def flat(output: str) -> str:
    """Without the frame and the line breaks of an error box."""
    return re.sub(r"[\s│╭╮╰╯─|+]+", " ", output)


def picture(path: str | Path):
    """(H, W, …) pixels as stored."""
    with Image.open(path) as opened:
        return np.asarray(opened)


def lines(out="found") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(out, "results.jsonl").read_bytes().splitlines()]


def queries(out="found") -> list[str]:
    return [line["query"] for line in lines(out)]


def settings(out="found") -> dict[str, Any]:
    return json.loads(Path(out, "run.json").read_text())["settings"]


def contents(out="found", kinds=("masks", "results.jsonl")) -> dict[str, bytes]:
    """Every file's bytes by its path in the folder."""
    files = [path for path in Path(out).rglob("*") if path.is_file()]
    named = {path.relative_to(out).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in sorted(named.items()) if name.startswith(kinds)}


def records(out="found") -> list[bytes]:
    """The bytes of each record, whatever its place in the file."""
    return sorted(Path(out, "results.jsonl").read_bytes().splitlines())


def check_results(out="found", labels=1) -> None:
    """Every line is as the schema says, and its mask is the one in masks/."""
    for line in lines(out):
        VALIDATOR.validate(line)
        mask = coco_mask.decode(line["rle"])
        folder = Path(out, "masks", *([line["label"]] if labels > 1 else []))
        np.testing.assert_array_equal(picture((folder / line["query"]).with_suffix(".png")), mask * 255)
        assert mask.shape == (line["height"], line["width"])
        assert line["found"] == bool(mask.any())
        steps = [c["step"] for c in line["candidates"]]
        own = next((at for at, step in enumerate(steps) if step != at), len(steps))
        assert len(steps) == len(line["scores"]) and steps[own:] == sorted(steps[own:]) and len(steps) - own <= 6
        for candidate in line["candidates"]:
            assert candidate["area"] == coco_mask.decode(candidate["rle"]).sum()
            for prompts in (candidate, *candidate["parts"]):
                assert len(prompts["points"]) == len(prompts["labels"])


def coco_labels(path: Path, masks: dict[tuple[str, str], Any], categories=("cat", "dog")) -> Path:
    """COCO annotations of photos beside the file; masks: by photo and category."""
    from prmagic.io.formats import rle

    images = [
        {"id": i, "file_name": photo, "width": 120, "height": 90}
        for i, photo in enumerate(dict.fromkeys(p for p, _ in masks))
    ]
    ids = {entry["file_name"]: entry["id"] for entry in images}
    annotations = [
        {"id": i, "image_id": ids[photo], "category_id": categories.index(category), "segmentation": rle(mask)}
        for i, ((photo, category), mask) in enumerate(masks.items())
    ]
    content = {"images": images, "annotations": annotations}
    path.write_text(json.dumps({**content, "categories": [{"id": i, "name": c} for i, c in enumerate(categories)]}))
    return path
