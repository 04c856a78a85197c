"""Part 1 in a browser: what is there, what is folded, and marking with every tool."""

from __future__ import annotations

import re

import pytest
from PIL import Image
from web_page import Tab, marked


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


def test_what_is_clicked_on_a_zoomed_photo_is_what_is_seen(tab, folder):
    tab.changed("canvas", lambda: tab.upload("example-photos", folder / "cat.jpg"))
    canvas, port = tab.page.locator("#canvas canvas"), tab.page.locator("#canvas .pm-view")
    small = canvas.bounding_box()
    for _ in range(2):
        tab.page.locator("#canvas").get_by_role("button", name="Zoom in").click()
    large, seen = canvas.bounding_box(), port.bounding_box()
    assert large["width"] == pytest.approx(4 * small["width"], abs=2)
    assert seen["width"] == pytest.approx(small["width"], abs=2)
    port.evaluate("port => { port.scrollLeft = 0; port.scrollTop = port.scrollHeight; }")
    at = {"x": seen["width"] / 2, "y": seen["height"] / 2}
    with tab.page.expect_request(re.compile("/queue/join")) as sent:
        tab.changed("canvas", lambda: port.click(position=at))
    (x, y) = sent.value.post_data_json["event_data"]["points"][0]
    with Image.open(folder / "cat.jpg") as photo:
        assert (x, y) == pytest.approx((photo.width / 8, photo.height * 7 / 8), abs=3)
    tab.page.mouse.move(seen["x"] + 20, seen["y"] + 20)
    tab.page.keyboard.down("Control")
    tab.page.mouse.wheel(0, 2000)
    tab.page.keyboard.up("Control")
    tab.page.wait_for_function(
        "width => document.querySelector('#canvas canvas').clientWidth <= width", arg=small["width"] + 2
    )
