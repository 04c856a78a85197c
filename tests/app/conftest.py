"""Photos, a visitor without a browser, the page's server, and a browser."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from web_page import CHROMIUM, FLAGS, GRACE, SERVER, SIDE, Tab

from prmagic.app.engine import Engine
from prmagic.app.settings import Models, Settings
from prmagic.app.visitor import Visitor
from prmagic.app.workspace import Workspace
from prmagic.demo import cases


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A cat with its mask, a coin, photos to search, and files that are no good."""
    folder = tmp_path_factory.mktemp("app")
    case = {case.name: case for case in cases()}
    (folder / "photos" / "more").mkdir(parents=True)
    Image.fromarray(case["cat"].support).save(folder / "cat.jpg", quality=92)
    (folder / "cat_mask.png").write_bytes(png(case["cat"].support_mask.astype(np.uint8) * 255))
    Image.fromarray(case["coins"].support).save(folder / "coin.png")
    Image.fromarray(case["coins"].query).save(folder / "photos" / "other coins.png")
    Image.fromarray(case["cup"].query).save(folder / "photos" / "cup.png")
    Image.fromarray(case["eye"].query).save(folder / "photos" / "more" / "eye.jpg", quality=92)
    (folder / "broken.jpg").write_bytes((folder / "cat.jpg").read_bytes()[:3000])
    (folder / "text.png").write_text("not an image")
    (folder / "wide.png").write_bytes(png(np.zeros((1000, 1001, 3), np.uint8)))
    (folder / "heavy.png").write_bytes(png(np.random.default_rng(0).integers(0, 255, (999, 1000, 4), np.uint8)))
    return folder


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    engine = Engine(Models(max_pixels=SIDE), Settings())
    yield engine
    engine.close()


@pytest.fixture
def visitor(engine, tmp_path, folder) -> Visitor:
    place = tmp_path / "visitor"
    place.mkdir()
    return Visitor(Workspace(engine, place, Settings(), root=folder))


@pytest.fixture(scope="session")
def server(folder, tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Its URL, and the folder that holds what visitors bring."""
    temporary = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-c", SERVER, str(folder / "photos"), str(SIDE), str(GRACE)]
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as running:
        url = running.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), url
        yield {"url": url, "folder": temporary}
        assert running.poll() is None  # the guard on its connections ends it
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 0
        assert running.stdout.read() == "closed\n"
    assert not list(temporary.iterdir())


@pytest.fixture(scope="session")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'prmagic[dev]'")
    with playwright.sync_playwright() as started:
        program = CHROMIUM or started.chromium.executable_path
        if not Path(program).is_file():
            pytest.skip("no Chromium on this machine: apt-get install chromium, or playwright install chromium")
        browser = started.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser, server) -> Iterator[Tab]:
    tab = Tab(browser, server)
    yield tab
    tab.close()
