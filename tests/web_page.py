"""What the tests of the web page share: the server's script, and the page in a browser with what people do on it."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from prmagic.app.visitor import Visitor
from prmagic.app.workspace import Upload

if TYPE_CHECKING:
    from playwright.sync_api import Locator

SIDE = 1_000_000  # pixels of the largest photo that the tests' server takes
GRACE = 1.0
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120  # seconds for what should take one: other things may run on the machine
STEPS = 5  # by default; what comes behind them on the slider are further masks
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
from prmagic.app.server import Address, serve
from prmagic.app.settings import Models, Settings
message, delays = html.message, itertools.cycle([0.1, 0, 0, 0.1, 0])
def late(*parts, **more):
    time.sleep(next(delays))
    return message(*parts, **more)
html.message = late
root, pixels, grace = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
try:
    serve(Models(max_pixels=pixels), Settings(), Address(port=0, max_upload=3_000_000, grace=grace), root,
          lambda url: print(url, flush=True))
except KeyboardInterrupt:
    print("closed", flush=True)
"""


def uploaded(file: Path, tmp_path: Path, name: str = "") -> Upload:
    """A copy, as uploads are moved away."""
    place = tmp_path / f"upload-{time.monotonic_ns()}" / file.name
    place.parent.mkdir()
    return Upload(Path(shutil.copy(file, place)), name or file.name)


def ready(visitor: Visitor, folder: Path, tmp_path: Path, label: str = "cat") -> None:
    """With one example, marked by its mask."""
    assert visitor.examples.upload([uploaded(folder / "cat.jpg", tmp_path)]) == []
    visitor.examples.start_from(uploaded(folder / "cat_mask.png", tmp_path))
    visitor.examples.add(label)


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
                for name in ("example-status", "photos-status", "steps-status")
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

    def press(self, button: str, where: str, text: str) -> None:
        """Press until the page says it: Gradio (6.31) can lose a press while a stream of answers ends."""
        from playwright.sync_api import TimeoutError as TooLong

        for _ in range(PATIENCE // 15):
            self.page.click(button)
            with suppress(TooLong):
                self.page.locator(f"#{where}").get_by_text(text).first.wait_for(timeout=15_000)
                return
        self.says(where, text)

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
        self.says("photos-status", "Ready: ")

    def steps(self, folder: Path) -> None:
        """The cat looked for among coins, step by step."""
        self.example(folder)
        self.queries(folder / "photos" / "other coins.png")
        self.part("3 Steps")
        self.says("steps", "baseline")

    def run(self, number: int) -> None:
        self.page.click("#start")
        self.says("photos-status", f"Done: {number} result")

    def slide(self, step: int) -> str:
        """With the keyboard, as a slider has to work with it."""
        slider = self.page.locator("#step input[type=range]")
        slider.focus()
        now = int(slider.input_value())
        for _ in range(abs(step - now)):
            slider.press("ArrowRight" if step > now else "ArrowLeft")
        if not self.comes(self.row(step)):  # on a busy machine Gradio can lose a key, as it can lose a press
            for key in ("ArrowRight", "ArrowLeft") if step == 0 else ("ArrowLeft", "ArrowRight"):
                slider.press(key)
        self.shows_step(step)
        return self.label("picture")

    def row(self, step: int) -> Locator:
        """The table's row of that step, where it is the one that is shown."""
        return self.page.locator("#steps tr.pm-on td:first-child").get_by_text(re.compile(rf"^{step}\b"))

    def comes(self, place: Locator) -> bool:
        """Whether it is there within half a minute."""
        from playwright.sync_api import TimeoutError as TooLong

        try:
            place.wait_for(timeout=30_000)
        except TooLong:
            return False
        return True

    def shows_step(self, step: int) -> None:
        """The slider, the picture and the table agree on it."""
        with self.waiting(f"step {step} everywhere"):
            self.row(step).wait_for()
            told = f", step {step}:" if step <= STEPS else ", another mask of step "
            self.page.locator(f"#picture canvas[aria-label*='{told}']").wait_for()
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

    def take(self, kind: str = "Everything") -> zipfile.ZipFile:
        self.part("4 Results")
        with self.page.expect_download() as download:
            self.page.locator("#download a", has_text=kind).first.click()
        return zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes()))


def marked(label: str) -> int:
    """How many per cent of the photo a canvas says are marked."""
    return int(label.partition(", ")[2].partition(" %")[0])
