"""The README's commands and Python lines run as they stand there, in a folder with the photos that they name.

Commands that need a benchmark's data or a model from the hub are in blocks of `bash`, and are not run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prmagic.demo import cases

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    case = cases()[0]
    image, mask = Image.fromarray(case.support), Image.fromarray(case.support_mask.astype(np.uint8) * 255)
    for name in ("cat", "a", "b", "d"):
        image.save(folder / f"{name}.jpg")
    for name in ("cat_mask", "a", "b", "d"):
        mask.save(folder / f"{name}.png")
    Image.fromarray(case.query).save(folder / "photos" / "photo.jpg")
    for kind, picture, suffix in (("images", image, "jpg"), ("masks", mask, "png")):
        (folder / "my_photos" / "cat" / kind).mkdir(parents=True)
        for name in ("one", "two"):
            picture.save(folder / "my_photos" / "cat" / kind / f"{name}.{suffix}")
    return folder


def run(arguments: list[str], folder: Path) -> None:
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(arguments, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_commands(folder):
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("prmagic ")]
    assert commands
    for command in commands:
        run(command.split(), folder)
    for name in ("found", "first", "again", "plain"):
        assert (folder / name / "masks" / "photo.png").is_file()
    assert (folder / "both" / "masks" / "dog" / "photo.png").is_file()
    assert len((folder / "runs" / "own" / "episodes.jsonl").read_text().splitlines()) == 2
    first, again = ((folder / name / "results.jsonl").read_bytes() for name in ("first", "again"))
    assert first == again


@pytest.mark.slow
def test_python(folder):
    quick_start = blocks("python")[0]
    run([sys.executable, "-c", quick_start], folder)


def test_links_lead_somewhere():
    root = Path(__file__).parents[1]
    for page in [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_make_targets_exist():
    makefile = (Path(__file__).parents[1] / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
