"""`prmagic app` as a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from app_client import Client


@pytest.mark.slow
def test_the_command_says_where_and_cleans_up(tmp_path):
    """Also the defaults: this machine only."""
    command = [sys.executable, "-m", "prmagic", "app", "--port", "0"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
        try:
            line = running.stderr.readline()
            assert line.startswith("Open http://127.0.0.1:"), line
            with urllib.request.urlopen(line.split()[1], timeout=60) as page:
                assert page.headers["Content-Security-Policy"].startswith("default-src 'self'")
                assert b"prmagic" in page.read()
            assert list(tmp_path.iterdir())
            running.send_signal(signal.SIGTERM)
            assert running.wait(60) == 0
        finally:
            running.kill()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_what_a_killed_server_leaves_is_deleted_by_the_next(tmp_path):
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "prmagic", "app", "--port", "0"]
    left: set[Path] = set()
    for _ in range(2):
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as running:
            try:
                url = running.stderr.readline().split()[1]
                assert not any(place.exists() for place in left)
                client = Client(url)
                client.file("a.png", b"what a visitor uploaded")
                left = set(tmp_path.iterdir())
                assert any(file.read_bytes() == b"what a visitor uploaded" for file in tmp_path.rglob("uploads/*"))
            finally:
                running.kill()


@pytest.mark.slow
def test_a_port_in_use_is_told(tmp_path):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "prmagic", "app", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert f"port {port}" in done.stderr
    assert "--port" in done.stderr


def test_without_gradio_the_extra_is_named(monkeypatch):
    from typer.testing import CliRunner

    from prmagic.cli import app as page
    from prmagic.cli.main import app

    monkeypatch.setattr(page, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["app"])
    assert done.exit_code == 2
    assert "pip install 'prmagic[app]'" in " ".join(done.output.split())
