"""How long people wait for the web page: `python perf/app_time.py [--repeat 10] [--framework matcher]`.

Starts `prmagic app`, opens it in Chromium, and takes the time in the browser, from the click or the key to the moment
when the answer is drawn. Reports medians and the longest, for the demo's photos and for one of twelve million pixels.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from playwright.sync_api import Page, sync_playwright

from prmagic.demo import cases

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync"]
# From the last click or key to the next picture on that canvas.
WATCH = """(canvas) => {
    for (const kind of ["pointerdown", "keydown"]) {
        window.addEventListener(kind, () => { window.started = performance.now(); }, true);
    }
    window.answered = () => new Promise((done) => {
        const shown = document.querySelector(`#${canvas} [data-shown]`);
        const observer = new MutationObserver(() => {
            observer.disconnect();
            requestAnimationFrame(() => done(performance.now() - window.started));
        });
        observer.observe(shown, { attributes: true, attributeFilter: ["data-shown"] });
    });
}"""


def timed(page: Page, canvas: str, do: Callable[[], object]) -> float:
    """Milliseconds until the canvas shows the answer."""
    page.evaluate(WATCH, canvas)
    page.evaluate("() => { window.answer = window.answered(); }")
    do()
    return float(page.evaluate("() => window.answer"))


def report(what: str, found: list[float]) -> None:
    print(f"| {what} | {median(found):.0f} | {max(found):.0f} |")


def visit(page: Page, photos: dict[str, Path], repeat: int, framework: str) -> None:
    for name, photo in photos.items():
        page.set_input_files("#example-photos input[type=file]", str(photo))
        page.get_by_text("Click on the object, or").wait_for()
        page.wait_for_timeout(1000)
        box = page.locator("#canvas canvas").bounding_box()
        clicks = []
        for i in range(repeat):
            at = {"x": box["width"] * (0.3 + 0.4 * i / repeat), "y": box["height"] * 0.5}
            clicks.append(timed(page, "canvas", partial(page.locator("#canvas canvas").click, position=at)))
            page.wait_for_timeout(200)
        report(f"click to mask, {name}", clicks)
    page.click("#add-example")
    page.locator("#examples li").first.wait_for()
    page.get_by_role("tab", name="2 Photos").click()
    page.set_input_files("#query-photos input[type=file]", [str(photo) for photo in photos.values()])
    page.locator("#gallery li").nth(len(photos) - 1).wait_for()
    page.get_by_role("tab", name="3 Steps").click()
    page.locator("#steps table").wait_for()
    # With points that are drawn, each seed gives another picture.
    control, value = ("extra-points", "0.99/0.90") if framework == "persam-f" else ("framework", framework)
    page.locator(f"#set-{control} input").click()
    timed(page, "picture", lambda: page.get_by_role("option", name=value, exact=True).click())
    for number, name in enumerate(photos):
        if number:
            timed(page, "picture", lambda: page.click("#next"))
        page.wait_for_timeout(1000)
        slider, steps = page.locator("#step input[type=range]"), []
        slider.press("Home")
        page.wait_for_timeout(500)
        for i in range(repeat):
            key = "ArrowRight" if i % 10 < 5 else "ArrowLeft"
            steps.append(timed(page, "picture", partial(slider.press, key)))
            page.wait_for_timeout(200)
        report(f"slider to picture, {name}", steps)
        changes, seed = [], page.locator("#set-seed input")
        for i in range(repeat):
            seed.fill(f"{1 + number}{i}")
            changes.append(timed(page, "picture", partial(seed.press, "Tab")))
            page.wait_for_timeout(200)
        report(f"another seed to picture ({framework}, T = 5), {name}", changes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeat", type=int, default=10)
    parser.add_argument("--framework", choices=("persam-f", "matcher"), default="persam-f")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small = Image.fromarray(cases()[0].support)
        large = small.resize((4000, 3000), Image.Resampling.BICUBIC)
        photos = {f"{w} × {h}": Path(folder, f"{w}.jpg") for w, h in (small.size, large.size)}
        for picture, file in zip((small, large), photos.values(), strict=True):
            picture.save(file, quality=92)
        started = time.perf_counter()
        command = [sys.executable, "-m", "prmagic", "app", "--port", "0"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
            url = next(line.split()[1] for line in running.stderr if line.startswith("Open "))
            urllib.request.urlopen(url).read()
            seconds = time.perf_counter() - started
            print(f"{os.cpu_count()} CPU cores, {torch.get_num_threads()} threads, torch {torch.__version__}")
            print(f"\nFrom the command to the page's first answer: {seconds:.1f} s\n")
            print("| ms | median | longest |\n|---|---|---|")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=arguments.chromium, args=FLAGS)
                page = browser.new_page(viewport={"width": 1280, "height": 900})
                page.goto(url)
                page.locator("#canvas [data-shown]").wait_for(state="attached")
                visit(page, photos, arguments.repeat, arguments.framework)
                browser.close()
            running.terminate()


if __name__ == "__main__":
    main()
