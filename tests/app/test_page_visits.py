"""Visits in a browser: bad files, references, late answers, and two visitors at once."""

from __future__ import annotations

import time
import urllib.error
import urllib.request

import pytest
import torch
from web_page import Tab

from prmagic.reference import Reference

pytestmark = pytest.mark.slow


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
    tab.says("photos-status", "Ready: 1 photo.")
    told = tab.page.locator("#photos-status [role=alert]").inner_text()
    assert "broken.jpg cannot be read" in told
    assert "text.png is not an image" in told
    tab.upload("query-photos", folder / "wide.png")
    tab.says("photos-status", "the limit is 1,000,000")
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
    tab.says("photos-status", "make an example first")
    tab.page.locator("#folder").get_by_role("textbox").fill("../..")
    tab.page.click("#add-folder")
    tab.says("photos-status", "There is no such folder below the root")
    tab.page.locator("#folder").get_by_role("textbox").fill("more")
    tab.page.click("#add-folder")
    tab.says("photos-status", "Ready: 2 photos.")


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
    folders = next(server["folder"].glob("prmagic-app-*")) / "visitors"
    earlier = set(folders.glob("*"))
    first, second = Tab(browser, server), Tab(browser, server)
    first.example(folder, "cat")
    second.example(folder, "puss")
    first.queries(folder / "photos" / "cup.png")
    second.queries(folder / "photos" / "other coins.png")
    first.page.click("#start")
    second.page.click("#start")
    first.says("photos-status", "Done: 1 result.")
    second.says("photos-status", "Done: 1 result.")
    assert "other coins" not in first.page.locator("#gallery").inner_text()
    assert "cup" not in second.page.locator("#gallery").inner_text()
    with first.take() as archive:
        assert "masks/cup.png" in archive.namelist()
        assert not any("puss" in name or "other coins" in name for name in archive.namelist())
    link = server["url"] + first.page.locator("#download a").first.get_attribute("href")
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
