"""Another package brings a framework, made out of TEMPLATE.py as docs/add-a-framework.md says."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add-a-framework.md").read_text(encoding="utf-8")
TEMPLATE = ROOT / "src" / "prmagic" / "frameworks" / "TEMPLATE.py"
PHOTOS = ROOT / "src" / "prmagic" / "demo" / "photos"

pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE, flags=re.DOTALL)


def commands() -> list[list[str]]:
    joined = [block.replace("\\\n", "") for block in blocks("sh")]
    return [line.split() for block in joined for line in block.splitlines() if line.startswith("prmagic ")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The photos that the page names, and the package of its steps 1 and 6, not installed."""
    folder = tmp_path_factory.mktemp("package")
    package = folder / "my_package"
    package.mkdir()
    (package / "__init__.py").write_bytes(TEMPLATE.read_bytes())
    (folder / "pyproject.toml").write_text(blocks("toml")[0], encoding="utf-8")
    (folder / "photos").mkdir()
    write(folder / "photos" / "photo.jpg", "speaker_21", None)
    write(folder / "cat.jpg", "speaker_12", folder / "cat_mask.png")
    for number, name in enumerate(("speaker_12", "speaker_21")):
        for kind in ("images", "masks"):
            (folder / "my_photos" / "speaker" / kind).mkdir(parents=True, exist_ok=True)
        of_class = folder / "my_photos" / "speaker"
        write(of_class / "images" / f"{number}.jpg", name, of_class / "masks" / f"{number}.png")
    return folder


def write(photo: Path, name: str, mask: Path | None) -> None:
    photo.write_bytes((PHOTOS / f"{name}.jpg").read_bytes())
    if mask is not None:
        mask.write_bytes((PHOTOS / f"{name}.png").read_bytes())


@pytest.fixture(scope="module")
def installed(folder) -> dict[str, str]:
    """The environment in which the package is installed."""
    target = folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "--target", str(target), str(folder)], check=True, timeout=300)
    paths = [str(target), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def run(code: str, folder: Path, environment: dict[str, str]) -> str:
    """Run Python lines where the package is installed."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_has_seven_steps():
    assert re.findall(r"^## (\d)\.", PAGE, flags=re.MULTILINE) == list("1234567")


def test_the_page_shows_the_template_as_it_is():
    template = TEMPLATE.read_text(encoding="utf-8")
    options = blocks("python")[0].strip().splitlines()
    assert all(line in template for line in options)


def test_the_commands_of_the_page(folder, installed):
    code = (
        "from typer.testing import CliRunner\n"
        "from prmagic.cli.main import app\n"
        f"for arguments in {[command[1:] for command in commands()]}:\n"
        "    result = CliRunner().invoke(app, arguments)\n"
        "    assert result.exit_code == 0, (arguments, result.output, result.exception)\n"
    )
    run(code, folder, installed)
    truth = np.array(Image.open(PHOTOS / "speaker_21.png")) > 0
    for out in ("first", "found"):
        mask = np.array(Image.open(folder / out / "masks" / "photo.png")) > 0
        assert (mask & truth).sum() / (mask | truth).sum() > 0.8
    settings = json.loads((folder / "found" / "run.json").read_text(encoding="utf-8"))
    assert '"background": true' in json.dumps(settings)
    lines = (folder / "runs" / "template" / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 2


def test_its_settings_are_known_by_name(folder, installed):
    code = (
        "from prmagic.loading import settings_of\n"
        "found = settings_of('template')\n"
        "print(found['background'].help, found['rho'].default)\n"
    )
    told = run(code, folder, installed)
    assert told.strip() == "Also place a background point where the photo is least like the examples 0.1"


def test_the_web_page_has_its_controls_and_loads_it(folder, installed):
    pytest.importorskip("gradio")
    code = (
        "from prmagic.app.controls import fields_of\n"
        "from prmagic.app.engine import Engine\n"
        "from prmagic.app.settings import Models, Settings\n"
        "from prmagic.frameworks.registry import framework_names\n"
        "fields = fields_of(framework_names())\n"
        "print([field.setting.name for field in fields if field.framework == 'template'])\n"
        "chosen = Settings(framework='template', options=(('background', True),))\n"
        "print(Engine(Models(device='cpu'), chosen).check(chosen).framework.options)\n"
    )
    names, options = run(code, folder, installed).splitlines()
    assert names == "['background']"
    assert options == "TemplateOptions(background=True)"
