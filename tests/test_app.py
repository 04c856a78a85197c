"""The web page, as people use it: in a real Chromium, and the parts below it by themselves.

`PRMAGIC_SCREENSHOTS=docs/images/app pytest tests/test_app.py -k from_two_photos` renews the pictures of the docs."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from supervision import DetectionDataset

from prmagic.app import html, results
from prmagic.app.engine import Engine, Models, Settings
from prmagic.app.marking import Box, Marking, Point, Stroke, read_edit
from prmagic.app.pictures import tint
from prmagic.app.visitor import Visitor
from prmagic.app.visitors import Visitors
from prmagic.demo import cases
from prmagic.frameworks import Reference

SIDE = 1_000_000  # pixels of the largest photo that the tests' server takes
GRACE = 1.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120  # seconds for what should take one: other things may run on the machine
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
# The page's server; any connection to another machine ends it. Most answers leave some time after they were made, as
# they do on a busy machine, so that the last one shows how things are only if the page sees to it.
SERVER = """
import itertools, os, socket, sys, time
from pathlib import Path
def only_here(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], tuple) and arguments[1][0] not in ("127.0.0.1", "::1"):
        print("CONNECTS", arguments[1], flush=True)
        os._exit(3)
    if event == "socket.getaddrinfo" and arguments[0] not in (None, "127.0.0.1", "localhost", "::1"):
        print("ASKS FOR", arguments[0], flush=True)
        os._exit(3)
sys.addaudithook(only_here)
from prmagic.app import html
from prmagic.app.engine import Models, Settings
from prmagic.app.server import Address, serve
said, delays = html.said, itertools.cycle([0.1, 0, 0, 0.1, 0])
def late(*told, **more):
    time.sleep(next(delays))
    return said(*told, **more)
html.said = late
root, pixels, grace = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
try:
    serve(Models(max_pixels=pixels), Settings(), Address(port=0, max_upload=3_000_000, grace=grace), root,
          lambda url: print(url, flush=True))
except KeyboardInterrupt:
    print("closed", flush=True)
"""


def png(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
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


# --- without a browser ---


class Asked:
    """Stands for SAM: answers with a square around the last point, and counts."""

    def __init__(self) -> None:
        self.prompts: list[Any] = []

    def __call__(self, prompts):
        self.prompts.append(prompts)
        mask = np.zeros((40, 60), bool)
        x, y = prompts.points[-1].astype(int) if len(prompts.points) else (20, 20)
        mask[max(0, y - 5) : y + 6, max(0, x - 5) : x + 6] = True
        return mask, torch.zeros(8, 8)


def test_clicks_are_asked_together_and_strokes_lie_on_top():
    ask = Asked()
    marking = Marking((40, 60)).edited(Point(10, 10, True), ask).edited(Stroke(((30, 30), (40, 30)), 4, False), ask)
    assert len(ask.prompts) == 1  # painting asks nothing
    marking = marking.edited(Point(20, 12, False), ask).edited(Box(2, 2, 30, 30), ask)
    asked = ask.prompts[-1]
    assert asked.points.tolist() == [[10, 10], [20, 12]]
    assert asked.labels.tolist() == [1, 0]
    assert asked.box == (2, 2, 30, 30)
    assert marking.mask[30, 35]  # the stroke is still there
    assert not marking.edited(Stroke(((0, 30), (59, 30)), 6, True), ask).mask[30, 35]


def test_undo_goes_back_edit_by_edit_to_the_start():
    ask, start = Asked(), np.zeros((40, 60), bool)
    start[:5] = True
    marking = Marking((40, 60), start, torch.ones(8, 8))
    clicked = marking.edited(Point(10, 20, True), ask)
    assert (ask.prompts[0].mask_logits == 1).all()  # SAM corrects what there was
    painted = clicked.edited(Stroke(((50, 35),), 3, False), ask)
    assert (painted.undone(ask).mask == clicked.mask).all()
    assert (painted.undone(ask).undone(ask).mask == start).all()
    assert (painted.cleared().mask == start).all()
    assert marking.undone(ask) is marking


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"tool": "add"},
        {"tool": "add", "points": []},
        {"tool": "add", "points": [[1, float("nan")]]},
        {"tool": "add", "points": "12"},
        {"tool": "box", "points": [[5, 5]]},
        {"tool": "brush", "points": [[1, 1]] * 6000},
        {"tool": "launch", "points": [[1, 1]]},
        {"tool": "brush", "points": [[1, 1]], "width": None},
    ],
)
def test_an_edit_that_makes_no_sense_is_refused(sent):
    with pytest.raises(ValueError, match=r"edit|box|tool"):
        read_edit(sent, (40, 60))


def test_edits_stay_within_the_photo():
    assert read_edit({"tool": "add", "points": [[-9, 1e9]]}, (40, 60)) == Point(-0.5, 39.5, True)
    assert read_edit({"tool": "box", "points": [[50, 30], [10, 5]]}, (40, 60)) == Box(10, 5, 50, 30)
    assert read_edit({"tool": "erase", "points": [[1, 1]], "width": 1e9}, (40, 60)).width == 120


def test_a_layer_is_transparent_outside_of_the_mask():
    import base64

    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:50] = True
    layer = Image.open(io.BytesIO(base64.b64decode(tint(mask).partition(",")[2]))).convert("RGBA")
    alpha = np.asarray(layer)[..., 3]
    assert ((alpha > 0) == mask).all()
    assert alpha[10, 20] == 255  # the border
    assert 0 < alpha[20, 35] < 255


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    engine = Engine(Models(max_pixels=SIDE), Settings())
    yield engine
    engine.close()


@pytest.fixture
def visitor(engine, tmp_path, folder) -> Visitor:
    visitor = Visitor(engine, tmp_path / "visitor", Settings(), root=folder)
    visitor.folder.mkdir()
    return visitor


def uploaded(file: Path, tmp_path: Path, name: str = "") -> tuple[Path, str]:
    """A copy, as uploads are moved away."""
    place = tmp_path / f"upload-{time.monotonic_ns()}" / file.name
    place.parent.mkdir()
    return Path(shutil.copy(file, place)), name or file.name


def ready(visitor: Visitor, folder: Path, tmp_path: Path, label: str = "cat") -> None:
    """With one example, marked by its mask."""
    assert visitor.add_drafts([uploaded(folder / "cat.jpg", tmp_path)]) == []
    visitor.start_from(uploaded(folder / "cat_mask.png", tmp_path))
    visitor.add_example(label)


def test_a_click_is_answered_by_the_model_from_one_encoding(visitor, engine, folder, tmp_path, monkeypatch):
    visitor.add_drafts([uploaded(folder / "cat.jpg", tmp_path)])
    visitor.edit({"tool": "add", "points": [[225, 150]]})
    first, sam = visitor.draft.marking.mask, engine.check(Settings()).framework.sam
    monkeypatch.setattr(sam, "encode", lambda images: pytest.fail("encoded again"))
    assert first[150, 225]
    visitor.edit({"tool": "remove", "points": [[400, 20]]})
    visitor.edit({"tool": "undo"})
    assert (visitor.draft.marking.mask == first).all()


@pytest.mark.parametrize("name, reason", [
    ("broken.jpg", "damaged or cut short"), ("text.png", "not an image"), ("wide.png", "the limit is 1,000,000"),
])  # fmt: skip
def test_what_cannot_be_used_is_told_by_the_visitors_name(visitor, folder, tmp_path, name, reason):
    upload = uploaded(folder / name, tmp_path)
    (problem,) = visitor.add_photos([upload])
    assert problem.startswith(name)
    assert reason in problem
    assert str(tmp_path) not in problem
    assert not visitor.photos
    assert not upload[0].exists()


def test_names_cannot_leave_the_visitors_folder_or_collide(visitor, folder, tmp_path):
    photo = folder / "photos" / "cup.png"
    outside = uploaded(photo, tmp_path, "../../../cup.png"), uploaded(photo, tmp_path, "a\\..\\cup2.png")
    assert visitor.add_photos(outside) == []
    assert list(visitor.photos) == ["cup.png", "cup2.png"]
    assert all(photo.file.is_relative_to(visitor.folder) for photo in visitor.photos.values())
    again = uploaded(photo, tmp_path), uploaded(photo, tmp_path, "CUP.jpg"), uploaded(photo, tmp_path, "cup.txt")
    problems = visitor.add_photos(again)
    assert [problem.partition(":")[2].split()[0] for problem in problems] == ["is", "its", "its"]


@pytest.mark.parametrize("named", ["..", "../..", "/etc", "photos/../..", "nowhere", "cat.jpg"])
def test_no_folder_above_the_root_can_be_named(visitor, folder, named):
    visitor.root = folder / "photos"
    with pytest.raises(ValueError, match="no folder"):
        visitor.add_folder(named)


def test_a_link_out_of_the_root_is_not_followed(visitor, folder, tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    (root / "link.jpg").symlink_to(folder / "cat.jpg")
    visitor.root = root
    assert visitor.add_folder(".") == ["link.jpg: leads out of the root"]
    assert not visitor.photos


def test_files_are_given_only_from_the_visitors_folder(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    assert visitor.file("examples/0/cat.jpg") is not None
    for key in ("../secret", "/etc/passwd", "examples", "examples/0/../../../x"):
        assert visitor.file(key) is None


def test_a_run_does_what_is_new_and_leaves_what_was_done_by_hand(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    assert [at.done for at in visitor.run()] == [0, 1, 2, 3]
    assert [at.wanted for at in visitor.run()] == [0]
    visitor.look("cup.png", "cat", Settings())
    visitor.correct({"tool": "erase", "points": [[0, 0], [500, 500]], "width": 5000})
    assert visitor.keep_correction().how == "corrected"
    visitor.settings = Settings(flow="none")
    assert [at.wanted for at in visitor.run()] == [2, 2, 2]
    assert not visitor.results["cup.png", "cat"].found
    visitor.look("cup.png", "cat", Settings())
    visitor.keep_automatic()
    assert visitor.results["cup.png", "cat"].found
    assert visitor.results["cup.png", "cat"].settings == visitor.settings


def test_a_broken_photo_in_a_folder_does_not_stop_the_run(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.root = tmp_path / "root"
    visitor.root.mkdir()
    shutil.copy(folder / "broken.jpg", visitor.root)
    shutil.copy(folder / "photos" / "cup.png", visitor.root)
    visitor.add_folder("")
    *_, last = visitor.run()
    assert last.done == 2
    assert len(last.problems) == 1
    assert last.problems[0].startswith("broken.jpg")
    assert list(visitor.results) == [("cup.png", "cat")]


def test_a_reference_of_another_framework_is_explained(visitor, engine, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    saved = tmp_path / "cat.safetensors"
    engine.reference(Settings(framework="matcher"), visitor.sources["cat"]).save(saved)
    with pytest.raises(ValueError, match="was made with framework matcher"):
        visitor.add_reference((saved, "cat2.safetensors"), "cat2")
    assert list(visitor.sources) == ["cat"]


@pytest.mark.parametrize("label", ["a/b", "..", "Cat", "x" * 3 + "\n"])
def test_a_class_needs_a_name_that_a_folder_can_have(visitor, folder, tmp_path, label):
    ready(visitor, folder, tmp_path)
    if label.strip() != label:
        visitor.add_example(label)  # what surrounds it is cut off
        return
    with pytest.raises(ValueError, match=r"cannot be used|already"):
        visitor.add_example(label)


def test_names_are_escaped():
    nasty = '<img src=x onerror="alert(1)">'
    for piece in (
        html.said(nasty),
        html.said("", [nasty]),
        html.tile(nasty, nasty, nasty, nasty),
        html.code(nasty, nasty),
    ):
        assert "<img src=x" not in piece


def test_commands_name_only_what_is_not_the_default(visitor, folder, tmp_path):
    ready(visitor, folder, tmp_path)
    visitor.add_folder("photos")
    assert results.command(visitor).startswith(f"prmagic segment {folder / 'photos'} --support examples/cat_1.jpg ")
    assert results.command(visitor).endswith("--label cat --max-pixels 1000000 --out again/")
    visitor.settings = Settings(framework="matcher", eta=0.002, bridge="ridge", centers=3)
    assert "--max-pixels 1000000 --eta 0.002 --bridge ridge --centers 3 --out" in results.command(visitor)
    assert "load('matcher', max_pixels=1000000, eta=0.002, bridge='ridge', centers=3)" in results.python(visitor)


def test_a_visitor_who_comes_back_in_time_keeps_all(engine, tmp_path):
    visitors = Visitors(engine, tmp_path / "visitors", Settings(), grace=0.2)
    first = visitors.of("a")
    visitors.leave("a")
    assert visitors.of("a") is first
    time.sleep(0.4)
    assert first.folder.is_dir()
    assert visitors.with_token(first.token) is first
    assert visitors.of("b").folder != first.folder
    visitors.leave("a")
    deadline = time.monotonic() + 60
    while first.folder.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not first.folder.exists()
    assert visitors.with_token(first.token) is None
    assert visitors.of("b").folder.is_dir()


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

    from prmagic.cli import app, page

    monkeypatch.setattr(page, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["app"])
    assert done.exit_code == 2
    assert "pip install 'prmagic[app]'" in " ".join(done.output.split())


# --- in a browser ---


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'prmagic[dev]'")
    with playwright.sync_playwright() as started:
        program = CHROMIUM or started.chromium.executable_path
        if not Path(program).is_file():
            pytest.skip("no Chromium on this machine: apt-get install chromium, or playwright install chromium")
        browser = started.chromium.launch(executable_path=program, args=FLAGS)
        yield browser
        browser.close()


class Tab:
    """The page in a browser of its own, with what people do on it; script: runs in it before the page's own."""

    def __init__(self, browser: Any, server: dict[str, Any], script: str = "", **options: Any):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.context.set_default_timeout(PATIENCE * 1000)
        self.context.add_init_script(script)
        self.asked: list[str] = []
        self.wrong: list[str] = []
        self.server = server
        self.page = self.context.new_page()
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.goto(server["url"])
        self.page.locator("body[data-ready] #canvas [data-shown]").wait_for(state="attached")

    def close(self) -> None:
        self.context.close()
        assert self.wrong == []
        here = (self.server["url"], "data:", "blob:")
        assert [url for url in self.asked if not url.startswith(here)] == []

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """What the page says instead is told, if that does not happen."""
        from playwright.sync_api import TimeoutError as TooLong

        try:
            yield
        except TooLong as error:
            _, picture = tempfile.mkstemp(".png", "prmagic-page-")
            self.page.screenshot(path=picture, full_page=True)
            said = {
                name: self.page.locator(f"#{name}").inner_text()
                for name in ("example-said", "photos-said", "look-said")
            }
            raise AssertionError(
                f"{what}: not in {PATIENCE} s; the page says {said} and looks like {picture}"
            ) from error

    def upload(self, where: str, *files: Path) -> None:
        # The place is emptied after each upload, and only then takes the next.
        self.page.locator(f"#{where} [data-testid=upload-text]").wait_for()
        self.page.set_input_files(f"#{where} input[type=file]", [str(file) for file in files])

    def part(self, name: str) -> None:
        self.page.get_by_role("tab", name=name).click()

    def files(self) -> None:
        """Open where masks and references are uploaded."""
        self.page.locator("#example-files-title button").click()

    def says(self, where: str, text: str) -> None:
        with self.waiting(f"{text!r} in {where}"):
            self.page.locator(f"#{where}").get_by_text(text).first.wait_for()

    def changed(self, canvas: str, do: Any) -> str:
        """Do something, and wait until that canvas shows something new; what it says then."""
        element = self.page.locator(f"#{canvas} [data-shown]")
        before = element.get_attribute("data-shown")
        with self.waiting(f"something new in {canvas}"):
            do()
            self.page.wait_for_function(
                "([name, before]) => document.querySelector(`#${name} [data-shown]`).dataset.shown !== before",
                arg=[canvas, before],
            )
        return self.label(canvas)

    def label(self, canvas: str) -> str:
        return self.page.locator(f"#{canvas} canvas").get_attribute("aria-label")

    def click(self, canvas: str, x: float, y: float) -> None:
        """At these shares of the canvas's width and height."""
        box = self.page.locator(f"#{canvas} canvas").bounding_box()
        self.page.locator(f"#{canvas} canvas").click(position={"x": x * box["width"], "y": y * box["height"]})

    def drag(self, canvas: str, *shares: tuple[float, float]) -> None:
        self.page.locator(f"#{canvas} canvas").scroll_into_view_if_needed()
        box = self.page.locator(f"#{canvas} canvas").bounding_box()
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in shares]
        self.page.mouse.move(*places[0])
        self.page.mouse.down()
        for place in places[1:]:
            self.page.mouse.move(*place, steps=4)
        self.page.mouse.up()

    def tool(self, canvas: str, name: str) -> None:
        self.page.locator(f"#{canvas}").get_by_role("radio", name=name).click()

    def example(self, folder: Path, label: str = "cat") -> None:
        """The cat, marked by its mask."""
        self.changed("canvas", lambda: self.upload("example-photos", folder / "cat.jpg"))
        self.files()
        self.changed("canvas", lambda: self.upload("mask-file", folder / "cat_mask.png"))
        self.page.locator("#label").get_by_role("textbox").fill(label)
        self.page.click("#add-example")
        self.says("examples", label)

    def queries(self, *files: Path) -> None:
        self.part("2 Photos")
        self.upload("query-photos", *files)
        self.says("photos-said", "Ready: ")

    def steps(self, folder: Path) -> None:
        """The cat looked for among coins, step by step."""
        self.example(folder)
        self.queries(folder / "photos" / "other coins.png")
        self.part("3 Steps")
        self.says("steps", "baseline")

    def run(self, number: int) -> None:
        self.page.click("#start")
        self.says("photos-said", f"Done: {number} result")

    def slide(self, step: int) -> str:
        """With the keyboard, as a slider has to work with it."""
        slider = self.page.locator("#step input[type=range]")
        slider.focus()
        now = int(slider.input_value())
        label = self.label("picture")
        for _ in range(abs(step - now)):
            label = self.changed("picture", lambda: slider.press("ArrowRight" if step > now else "ArrowLeft"))
        return label

    def shows_step(self, step: int) -> None:
        """The slider, the picture and the table agree on it."""
        with self.waiting(f"step {step} everywhere"):
            self.page.locator("#steps tr.pm-on").get_by_text(f"t = {step}").wait_for()
            self.page.locator(f"#picture canvas[aria-label*=' step {step}:']").wait_for()
        assert int(self.page.locator("#step input[type=range]").input_value()) == step

    def picture(self, name: str) -> None:
        """For the docs, if they are wanted."""
        if folder := os.environ.get("PRMAGIC_SCREENSHOTS"):
            self.page.wait_for_timeout(1000)  # what fades in or out is done
            with Image.open(io.BytesIO(self.page.screenshot(full_page=True))) as shot:
                small = shot.convert("RGB").resize(
                    (960, round(shot.height * 960 / shot.width)), Image.Resampling.LANCZOS
                )
            Path(folder).mkdir(parents=True, exist_ok=True)
            small.quantize(128, dither=Image.Dither.NONE).save(Path(folder, f"{name}.png"), optimize=True)

    def take(self) -> zipfile.ZipFile:
        self.part("4 Results")
        with self.page.expect_download() as download:
            self.page.locator("#download a").click()
        return zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))


@pytest.fixture
def tab(browser, server) -> Iterator[Tab]:
    tab = Tab(browser, server)
    yield tab
    tab.close()


def marked(label: str) -> int:
    """How many per cent of the photo a canvas says are marked."""
    return int(label.partition(", ")[2].partition(" %")[0])


@pytest.mark.parametrize("width", [320, 1280])
def test_all_parts_are_there_from_the_start(browser, server, width):
    """What Gradio makes only when it is opened, it sets to its beginning once more a moment later."""
    tab = Tab(browser, server, viewport={"width": width, "height": 900})
    for part in ("#query-photos input[type=file]", "#mask-file input", "#reference-file input", "#correction canvas"):
        tab.page.locator(part).first.wait_for(state="attached", timeout=60_000)
    assert tab.page.get_by_role("tab", name="1 Example").get_attribute("aria-selected") == "true"
    tab.close()


def test_what_is_folded_opens(tab):
    title, inside = tab.page.locator("#example-files-title button"), tab.page.locator("#mask-file")
    for opened in (False, True, False):
        assert title.get_attribute("aria-expanded") == str(opened).lower()
        assert inside.is_visible() == opened
        title.press("Enter")


def test_clicks_box_brush_and_keys_make_a_mask(tab, folder):
    assert marked(tab.changed("canvas", lambda: tab.upload("example-photos", folder / "cat.jpg"))) == 0
    clicked = marked(tab.changed("canvas", lambda: tab.click("canvas", 0.5, 0.5)))
    assert 0 < clicked < 100
    tab.tool("canvas", "Not this")
    tab.changed("canvas", lambda: tab.click("canvas", 0.95, 0.05))
    tab.changed("canvas", lambda: tab.page.get_by_role("button", name="Undo").first.click())
    assert marked(tab.label("canvas")) == clicked
    assert marked(tab.changed("canvas", lambda: tab.page.get_by_role("button", name="Clear").first.click())) == 0
    tab.tool("canvas", "Box")
    assert marked(tab.changed("canvas", lambda: tab.drag("canvas", (0.1, 0.1), (0.9, 0.9)))) > 0
    tab.changed("canvas", lambda: tab.page.get_by_role("button", name="Clear").first.click())
    tab.tool("canvas", "Brush")  # 5 % of the longest side, 451 × 300: a band of 0.05 × 1.5 of the height
    painted = marked(tab.changed("canvas", lambda: tab.drag("canvas", (0.1, 0.5), (0.9, 0.5))))
    assert 5 <= painted <= 8
    tab.tool("canvas", "Eraser")
    wiped = marked(tab.changed("canvas", lambda: tab.drag("canvas", (0.5, 0.5), (0.95, 0.5))))
    assert wiped <= painted - 2
    tab.page.get_by_role("radio", name="Eraser").first.press("ArrowRight")  # round to the first tool
    tab.page.locator("#canvas canvas").focus()
    tab.page.keyboard.press("ArrowLeft")
    assert marked(tab.changed("canvas", lambda: tab.page.keyboard.press("Enter"))) > wiped


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
    tab.page.locator("#set-extra-points input").click()
    tab.changed("picture", lambda: tab.page.get_by_role("option", name="0.99/0.90").click())
    tab.page.click("#everywhere")
    tab.says("look-said", "uses these settings now")
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
    tab.says("kept", f"t = {other}, step picked by hand")
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
    coco = COCO(tmp_path / "second/annotations.json")
    (annotation,) = coco.loadAnns(coco.getAnnIds())
    assert (coco.annToMask(annotation).astype(bool) == mask).all()
    assert annotation["area"] == mask.sum()
    assert coco.loadImgs(annotation["image_id"])[0]["file_name"] == "other coins.png"
    assert {image["file_name"] for image in coco.dataset["images"]} == {"other coins.png", "cup.png"}
    # A labelling tool's own loader reads it beside the photos.
    photos, annotations = tmp_path / "photos", tmp_path / "second/annotations.json"
    loaded = DetectionDataset.from_coco(str(photos), str(annotations), force_masks=True)
    found = {Path(path).name: detections for path, _, detections in loaded}
    assert loaded.classes == ["coin"]
    assert (found["other coins.png"].mask == mask).all()
    assert found["cup.png"].is_empty()
    table = (tmp_path / "second/scores.csv").read_text().splitlines()
    assert "step picked by hand" in table[1]
    assert "corrected by hand" in table[2]
    assert f"# other coins.png, coin: step {other} picked by hand" in (tmp_path / "second/again.sh").read_text()


def test_settings_change_what_is_shown(tab, folder):
    tab.steps(folder)
    assert tab.page.locator("#steps tbody tr").count() == 6
    eta = tab.page.locator("#set-eta").locator("input, textarea")
    assert eta.input_value() == ""  # the framework's own step, not one of size 0
    tab.says("kept", "Not in the results yet")
    tab.page.locator("#set-framework input").click()
    tab.changed("similarity", lambda: tab.page.get_by_role("option", name="matcher").click())
    tab.page.locator("#set-bridge input").wait_for()
    assert not tab.page.locator("#set-extra-points").is_visible()
    assert tab.page.locator("#set-selector input").input_value() == "guard"  # the framework's own
    assert (
        eta.input_value() == "0.001"
        and tab.page.locator("#set-centers").locator("input, textarea").input_value() == "4"
    )
    eta.fill("much")
    eta.press("Enter")
    tab.says("look-said", "η must be a number, not 'much'")
    eta.fill("0.5")
    tab.changed("similarity", lambda: eta.press("Enter"))
    tab.page.locator("#set-flow input").click()
    tab.page.get_by_role("option", name="none").click()
    tab.page.locator("#steps tbody tr").nth(1).wait_for(state="detached")
    tab.page.locator("#set-min-score input").fill("0.95")  # more than two different photos reach
    tab.page.locator("#set-min-score input").press("Enter")
    tab.says("kept", "so it counts as not found unless it is kept")
    tab.page.click("#keep")
    tab.says("kept", "(matcher, flow none")
    tab.part("2 Photos")
    tab.says("gallery", "step picked by hand")
    tab.part("3 Steps")
    tab.page.locator("#set-framework input").click()
    tab.changed("similarity", lambda: tab.page.get_by_role("option", name="persam-f").click())
    assert eta.input_value() == ""


def test_what_is_pressed_last_is_shown_last(tab, folder):
    tab.steps(folder)
    tab.slide(0)
    for button, said in [("#keep", "step picked by hand"), ("#automatic", "chosen by the selector")] * 10:
        tab.page.locator("#set-seed input").focus()  # to leave it asks for another look
        tab.page.click(button)
        tab.says("kept", said)
        tab.page.wait_for_timeout(200)
        tab.says("kept", said)  # still


def test_what_was_not_seen_is_not_kept(tab, folder):
    tab.steps(folder)
    tab.slide(5)
    eta = tab.page.locator("#set-eta").locator("input, textarea")
    eta.fill("1")
    tab.page.click("#keep")  # leaves the field, too, which asks for other masks, as a rule first
    with tab.waiting("what was seen kept, or nothing"):
        tab.page.locator("#look-said:has-text('press again'), #kept:has-text('In the results:')").first.wait_for()
    assert "eta 1" not in tab.page.locator("#kept").inner_text()


def test_slider_picture_and_table_agree_however_quickly_one_moves(tab, folder):
    tab.example(folder)
    tab.queries(folder / "photos" / "other coins.png", folder / "photos" / "cup.png")
    tab.run(2)
    slider = tab.page.locator("#step input[type=range]")
    for tile, keys in (
        (0, ["End"]),
        (1, ["Home", "ArrowRight"]),
        (0, ["End", *["ArrowLeft"] * 3]),
        (0, ["ArrowRight"] * 4),
    ):
        tab.part("2 Photos")
        tab.page.locator("#gallery [data-event=pick]").nth(tile).click()
        slider.focus()  # while the photo is still on its way
        for key in keys:
            slider.press(key)
        name = ("other coins", "cup")[tile]
        with tab.waiting(f"{name} in the picture"):
            tab.page.locator(f"#picture canvas[aria-label^='{name}']").wait_for()
        for key, step in (("Home", 0), ("End", 5)):
            slider.press(key)
            tab.shows_step(step)
    for name in ("cup", "other coins", "cup"):  # a click while the one before is on its way does not count
        tab.page.click("#next")
        with tab.waiting(f"{name} in the picture"):
            tab.page.locator(f"#picture canvas[aria-label^='{name}']").wait_for()
    tab.says("kept", "In the results")
    tab.page.click("#keep")
    tab.says("look-said", "Kept.")
    tab.shows_step(int(slider.input_value()))


# Holds back the end of the stream by which Gradio's page takes its answers, as a slow machine does at times.
LATE_END = """(() => {
    const ask = window.fetch;
    window.fetch = async (...asked) => {
        const response = await ask(...asked);
        if (!response.url.includes("/queue/data")) return response;
        const late = new TransformStream({ async transform(chunk, out) {
            const text = new TextDecoder().decode(chunk), end = text.indexOf('data: {"msg":"close_stream"');
            if (end < 0) return out.enqueue(chunk);
            if (end > 0) out.enqueue(new TextEncoder().encode(text.slice(0, end)));
            await new Promise((done) => setTimeout(done, 1500));
            out.enqueue(new TextEncoder().encode(text.slice(end)));
        } });
        return new Response(response.body.pipeThrough(late), { headers: response.headers });
    };
})()"""


def test_no_answer_is_lost_when_gradio_ends_its_stream_late(browser, server, folder):
    tab = Tab(browser, server, LATE_END)
    tab.example(folder)
    tab.queries(folder / "photos" / "cup.png")
    tab.run(1)
    tab.close()


def test_what_cannot_be_used_is_told_on_the_page(tab, folder):
    tab.part("2 Photos")
    tab.upload("query-photos", folder / "broken.jpg", folder / "text.png", folder / "photos" / "cup.png")
    tab.says("photos-said", "Ready: 1 photo.")
    told = tab.page.locator("#photos-said [role=alert]").inner_text()
    assert "broken.jpg cannot be read" in told
    assert "text.png is not an image" in told
    tab.upload("query-photos", folder / "wide.png")
    tab.says("photos-said", "the limit is 1,000,000")
    tab.upload("query-photos", folder / "heavy.png")
    tab.page.get_by_text("exceed the maximum").first.wait_for()  # by the browser; the server refuses it as well:
    tab.wrong.clear()  # Gradio stumbles over its own refusal
    body = (
        b"--x\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
        + bytes(4_000_000)
        + b"\r\n--x--\r\n"
    )
    kind = {"Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(urllib.error.HTTPError, match="413"):
        urllib.request.urlopen(urllib.request.Request(f"{tab.server['url']}gradio_api/upload", body, kind), timeout=60)
    tab.page.click("#start")
    tab.says("photos-said", "make an example first")
    tab.page.locator("#folder").get_by_role("textbox").fill("../..")
    tab.page.click("#add-folder")
    tab.says("photos-said", "no folder '../..' below the root")
    tab.page.locator("#folder").get_by_role("textbox").fill("more")
    tab.page.click("#add-folder")
    tab.says("photos-said", "Ready: 2 photos.")


def test_a_reference_is_saved_and_loaded_again(tab, browser, server, folder, tmp_path):
    tab.example(folder)
    with tab.page.expect_download() as download:
        tab.page.get_by_role("link", name="Save cat").click()
    saved = tmp_path / download.value.suggested_filename
    assert saved.name == "cat.safetensors"
    download.value.save_as(saved)
    other = Tab(browser, server)
    other.files()
    other.upload("reference-file", saved)
    other.says("examples", "cat (loaded)")
    other.queries(folder / "photos" / "cup.png")
    other.run(1)
    with other.take() as archive:
        assert "--reference examples/cat.safetensors --label cat" in archive.read("again.sh").decode()
        archive.extract("examples/cat.safetensors", tmp_path)
    given, taken = Reference.load(saved), Reference.load(tmp_path / "examples" / "cat.safetensors")
    assert given.made_by == taken.made_by
    assert all(torch.equal(tensor, taken.tensors[name]) for name, tensor in given.tensors.items())
    other.close()


def test_two_visitors_do_not_see_each_other_and_leave_nothing(browser, server, folder):
    folders = next(server["folder"].glob("prmagic-*")) / "visitors"
    earlier = set(folders.glob("*"))
    first, second = Tab(browser, server), Tab(browser, server)
    first.example(folder, "cat")
    second.example(folder, "puss")
    first.queries(folder / "photos" / "cup.png")
    second.queries(folder / "photos" / "other coins.png")
    first.page.click("#start")
    second.page.click("#start")
    first.says("photos-said", "Done: 1 result.")
    second.says("photos-said", "Done: 1 result.")
    assert "other coins" not in first.page.locator("#gallery").inner_text()
    assert "cup" not in second.page.locator("#gallery").inner_text()
    with first.take() as archive:
        assert "masks/cup.png" in archive.namelist()
        assert not any("puss" in name or "other coins" in name for name in archive.namelist())
    link = server["url"] + first.page.locator("#download a").get_attribute("href")
    mine = {place for place in set(folders.iterdir()) - earlier if list(place.glob("photos/*/cup.png"))}
    assert len(mine) == 1
    first.close()
    deadline = time.monotonic() + 60
    while mine & set(folders.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not mine & set(folders.iterdir())
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(link, timeout=60)
    with second.take() as archive:
        assert "masks/other coins.png" in archive.namelist()
    second.close()
