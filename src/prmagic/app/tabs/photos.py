"""Part 2: the photos that are searched, and what was found in them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import gradio as gr

from prmagic.app import html
from prmagic.app.components import (
    LATEST,
    PHOTOS,
    QUIET,
    Outcome,
    Site,
    answers,
    html_place,
    in_words,
    on_upload,
    upload_place,
    visitor_of,
)
from prmagic.app.visitor import Progress, Visitor

EVERY = 0.3  # seconds between two pictures of a run's progress


class PhotosTab:
    """The controls, laid out; `connect` makes them do something."""

    def __init__(self, site: Site):
        self.site = site
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                self.photos = upload_place(
                    site, "Photos to search", file_count="multiple", file_types=["image"], height=170,
                    elem_id="query-photos",
                )  # fmt: skip
                with gr.Group(visible=site.visitors.root is not None):
                    self.folder = gr.Textbox(
                        label="Or a folder on the server, below its root", placeholder="holiday/2024", elem_id="folder"
                    )
                    self.add_folder = gr.Button("Add the folder", elem_id="add-folder")
                self.instances = gr.Checkbox(
                    value=site.visitors.settings.instances, label="One mask per thing", elem_id="instances"
                )
                self.start = gr.Button("Find it in all photos", variant="primary", elem_id="start")
                with gr.Row():
                    self.stop = gr.Button("Stop", min_width=80, elem_id="stop")
                    self.clear = gr.Button("Remove all", min_width=80, elem_id="clear-photos")
                self.used = html_place("settings-used")
            with gr.Column(scale=5, min_width=320):
                self.status = html_place("photos-status")
                self.bar = html_place("progress")
                blank = html.blank("The photos appear here, with what was found.")
                self.gallery = html_place("gallery", blank, pressed=True)

    def connect(self, tab: Any) -> None:
        """What happens on each event."""
        answer = answers(self.site, _show)
        shown = [self.gallery, self.used, self.status]
        on_upload(self.photos, answer(_upload), [self.photos], shown, **PHOTOS)
        gr.on([self.add_folder.click, self.folder.submit], answer(_add_folder), self.folder, shown, **PHOTOS)
        self.clear.click(answer(_clear), None, shown, **PHOTOS).then(lambda: "", None, self.bar, **QUIET)
        self.stop.click(answer(_stop), None, shown, **QUIET)
        self.instances.input(answer(_tell_apart), self.instances, shown, **PHOTOS | LATEST)
        tab.select(answer(_refresh), None, shown, **PHOTOS)
        self.start.click(self._run, None, [self.bar, *shown], concurrency_id="runs", concurrency_limit=4, **QUIET)

    def _run(self, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        visitor, at, last = visitor_of(self.site, request), Progress(0, 0), 0.0
        try:
            for at in visitor.run():
                if time.monotonic() - last > EVERY:
                    last = time.monotonic()
                    yield html.progress(at), *_show(visitor), html.message()
        except Exception as error:  # whatever it is, the page goes on
            yield "", *_show(visitor), html.message(problems=[in_words(error, visitor)])
            return
        yield html.progress(at), *_show(visitor), html.message(_summary(visitor, at), at.problems)


def _show(visitor: Visitor) -> tuple[Any, ...]:
    return html.gallery(visitor), html.used(visitor)


def _summary(visitor: Visitor, at: Progress) -> str:
    nothing = sum(not kept.found for kept in visitor.results.values())
    finished = at.done == at.wanted
    done = f"Done: {html.counted(len(visitor.results), 'result')}" if finished else f"Stopped after {at.done}"
    return f"{done}{f', nothing found in {nothing}' if nothing else ''}. Press a picture to see how it came about."


def _counted(visitor: Visitor, problems: list[str]) -> Outcome:
    return f"Ready: {html.counted(len(visitor.photos), 'photo')}.", problems


def _upload(visitor: Visitor, files: Any) -> Outcome:
    return _counted(visitor, visitor.add_photos(files))


def _add_folder(visitor: Visitor, name: str) -> Outcome:
    return _counted(visitor, visitor.add_folder(name or ""))


def _clear(visitor: Visitor) -> Outcome:
    visitor.clear_photos()
    return "All photos are removed."


def _tell_apart(visitor: Visitor, wanted: bool) -> Outcome:
    visitor.settings = replace(visitor.settings, instances=wanted)
    return None


def _stop(visitor: Visitor) -> Outcome:
    visitor.stopped = True
    return None


def _refresh(visitor: Visitor) -> Outcome:
    return None
