"""The commands and Python lines of the README and the docs run as they stand there, in a folder with the photos that
they name; the site builds; the tables of settings are true.

Commands that need a benchmark's data or a model from the hub are in blocks of `bash`, and are not run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from command_line import run
from PIL import Image

from prmagic.demo import cases
from prmagic.frameworks.registry import framework_names, preset_names
from prmagic.io.clips import write_clip
from prmagic.loading import settings_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
GUIDE = [DOCS / f"{name}.md" for name in ("quick-start", "supports", "rejection", "labelling-tools", "index")]


def blocks(language: str, page: Path) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: Path) -> list[list[str]]:
    joined = [block.replace("\\\n", "") for block in blocks("sh", page)]
    lines = [line for block in joined for line in block.splitlines() if line.startswith("prmagic ")]
    return [shlex.split(line)[1:] for line in lines]


def run_all(page: Path) -> None:
    assert commands(page)
    for command in commands(page):
        result = run(*command)
        assert result.exit_code == 0, f"{' '.join(command)}\n{result.output}"
        if "--out" in command:
            assert any(Path(command[command.index("--out") + 1]).iterdir()), command


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    (folder / "photos").mkdir()
    case = next(case for case in cases() if case.name == "person")
    image, mask = Image.fromarray(case.support), Image.fromarray(case.support_mask.astype(np.uint8) * 255)
    for name in ("cat", "a", "b", "d"):
        image.save(folder / f"{name}.jpg")
    for name in ("cat_mask", "a", "b", "d"):
        mask.save(folder / f"{name}.png")
    Image.fromarray(case.query).save(folder / "photos" / "photo.jpg")
    Image.fromarray(case.support_mask[:240, :320]).save(folder / "first_mask.png")
    write_clip(folder / "clip.mp4", [(0.0, case.support[:240, :320]), (0.1, case.support[:240, :320])])
    for kind, picture, suffix in (("images", image, "jpg"), ("masks", mask, "png")):
        (folder / "my_photos" / "cat" / kind).mkdir(parents=True)
        for name in ("one", "two"):
            picture.save(folder / "my_photos" / "cat" / kind / f"{name}.{suffix}")
    return folder


@pytest.mark.slow
def test_commands(photos, monkeypatch):
    monkeypatch.chdir(photos)
    run_all(README)
    assert (Path("both") / "masks" / "dog" / "photo.png").is_file()
    assert len(Path("runs/own/episodes.jsonl").read_text().splitlines()) == 2
    assert Path("first/results.jsonl").read_bytes() == Path("again/results.jsonl").read_bytes()
    for page in GUIDE:  # in the same folder: what is done already is skipped
        run_all(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, DOCS / "quick-start.md", DOCS / "settings.md"], ids=lambda page: page.stem)
def test_python(photos, monkeypatch, page):
    monkeypatch.chdir(photos)
    names = {}
    exec("import prmagic\n" + blocks("python", page)[0], names)
    if "result" in names:
        assert names["result"].mask.shape == names["result"].image.shape[:2]


@pytest.mark.parametrize("framework", framework_names())
def test_the_page_of_settings_has_the_defaults(framework):
    """Of all settings of the flow, and of those of a framework that the page names."""
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", page, flags=re.MULTILINE))
    known = settings_of(framework)
    assert {"flow", "steps", "eta", "gamma", "rho", "objective"} <= rows.keys()
    shared = {name: rows[name] for name in ("flow", "steps", "eta", "gamma", "rho", "objective")}
    for name, told in shared.items():
        assert told.strip("`").split(";")[0] == str(known[name].default).replace("None", "none"), name
    title = {"persam-f": "PerSAM-F", "matcher": "Matcher", "gf-sam": "GF-SAM"}.get(framework)
    if title is None:
        return
    section = page.split(f"## {title}\n")[1].split("\n## ")[0]
    for name, told in re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, flags=re.MULTILINE):
        default = known[name].default
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else str(default).lower()
        assert told.strip("` ") == ("the model's" if default is None else shown), name


def test_the_readme_names_every_framework_and_the_docs_every_preset():
    text = README.read_text(encoding="utf-8")
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for framework in framework_names():
        assert f"`{framework}`" in text
        assert all(f"`{preset}`" in page for preset in preset_names(framework))


def test_the_readme_is_short():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1000


@pytest.mark.slow
@pytest.mark.skipif(find_spec("zensical") is None, reason="needs pip install 'prmagic[docs]'")
def test_the_site_builds_without_a_warning(tmp_path):
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(config.replace("[src]", f"['{ROOT / 'src'}']"), encoding="utf-8")
    shutil.copytree(DOCS, tmp_path / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "api" / "index.html").is_file()


def test_links_lead_somewhere():
    for page in [
        README,
        *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")),
        *DOCS.rglob("*.md"),
    ]:
        for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)$", README.read_text(encoding="utf-8"), flags=re.MULTILINE):
        assert f"\n{target}:" in makefile
