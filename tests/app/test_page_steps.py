"""Part 3 in a browser: settings, steps, and presses while answers are on their way."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.slow


def test_settings_change_what_is_shown(tab, folder):
    tab.steps(folder)
    rows = tab.page.locator("#steps tbody tr")
    assert rows.count() == 6 + rows.filter(has_text="another mask of step").count() > 6
    tab.page.locator("#more-settings-title button").click()
    eta, rho = (tab.page.locator(f"#set-{name}").locator("input, textarea") for name in ("eta", "rho"))
    assert (eta.input_value(), rho.input_value()) == ("0.001", "")
    tab.says("kept", "Not in the results yet")
    tab.page.locator("#set-framework input").click()
    tab.changed("similarity", lambda: tab.page.get_by_role("option", name="matcher").click())
    centers = tab.page.locator("#set-matcher-centers").locator("input, textarea")
    centers.wait_for()
    assert not tab.page.locator("#set-persam-f-extra-points").is_visible()
    assert tab.page.locator("#set-selector input").input_value() == "judge"  # the framework's own
    assert (rho.input_value(), centers.input_value()) == ("", "4")
    eta.fill("much")
    eta.press("Enter")
    tab.says("steps-status", "Eta is not a number")
    eta.fill("0.5")
    eta.press("Enter")
    tab.says("kept", "Not in the results yet")
    assert tab.page.locator("#set-flow input").input_value() == "spread"  # and stays, though it makes no use of η
    tab.page.locator("#set-flow input").click()
    tab.changed("similarity", lambda: tab.page.get_by_role("option", name="full").click())
    rows.nth(5).wait_for()
    tab.page.locator("#set-flow input").click()
    tab.page.get_by_role("option", name="none").click()
    tab.page.locator("#steps tbody tr").nth(1).wait_for(state="detached")
    tab.page.locator("#set-min-score input").fill("0.95")  # more than two different photos reach
    tab.page.locator("#set-min-score input").press("Enter")
    tab.says("kept", "so it counts as not found unless you keep it")
    tab.page.click("#keep")
    tab.says("kept", ", flow none")
    tab.part("2 Photos")
    tab.says("gallery", "step picked by hand")
    tab.part("3 Steps")
    tab.page.locator("#set-framework input").click()
    tab.changed("similarity", lambda: tab.page.get_by_role("option", name="persam-f").click())
    assert tab.page.locator("#set-flow input").input_value() == "spread"


def test_another_mask_of_sam_can_be_looked_at_and_kept(tab, folder):
    tab.steps(folder)
    last = int(tab.page.locator("#step input[type=range]").get_attribute("max"))
    assert last > 5 and last == tab.page.locator("#steps tbody tr").count() - 1
    assert ", another mask of step" in tab.slide(last)
    tab.page.click("#keep")
    tab.says("kept", "In the results: another mask of step")


def test_what_is_pressed_last_is_shown_last(tab, folder):
    tab.steps(folder)
    rows = tab.page.locator("#steps tbody tr td:first-child").all_inner_texts()
    tab.slide(next(at for at, row in enumerate(rows) if "chosen" not in row))
    for button, said in [("#keep", "step picked by hand"), ("#automatic", "chosen by the selector")] * 10:
        tab.page.locator("#set-seed input").focus()  # to leave it asks for another look
        tab.press(button, "kept", said)
        tab.page.wait_for_timeout(200)
        tab.says("kept", said)  # still


def test_what_was_not_seen_is_not_kept(tab, folder):
    tab.steps(folder)
    tab.page.locator("#more-settings-title button").click()
    tab.page.locator("#set-flow input").click()
    tab.changed("picture", lambda: tab.page.get_by_role("option", name="full").click())
    tab.slide(5)
    eta = tab.page.locator("#set-eta").locator("input, textarea")
    eta.fill("1")
    tab.page.click("#keep")  # leaves the field, too, which asks for other masks, as a rule first
    with tab.waiting("what was seen kept, or nothing"):
        tab.page.locator("#steps-status:has-text('press again'), #kept:has-text('In the results:')").first.wait_for()
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
        slider.press("Home")
        tab.shows_step(0)
        slider.press("End")
        tab.shows_step(int(slider.get_attribute("max")))
    for name in ("cup", "other coins", "cup"):  # a click while the one before is on its way does not count
        tab.page.click("#next")
        with tab.waiting(f"{name} in the picture"):
            tab.page.locator(f"#picture canvas[aria-label^='{name}']").wait_for()
    tab.says("kept", "In the results")
    tab.page.click("#keep")
    tab.says("steps-status", "Kept.")
    tab.shows_step(int(slider.input_value()))
