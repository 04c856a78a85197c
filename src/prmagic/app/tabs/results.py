"""Part 4: the table of results, downloads, and how to do the same without the page."""

from __future__ import annotations

from typing import Any

import gradio as gr

from prmagic.app import download, html, rerun
from prmagic.app.components import QUIET, Outcome, Site, answers, html_place
from prmagic.app.visitor import Visitor


class ResultsTab:
    """The places, laid out; `connect` fills them."""

    def __init__(self, site: Site):
        self.site = site
        self.status = html_place("results-status")
        self.download = html_place("download")
        self.table = html_place("scores")
        with gr.Accordion("The same without this page", open=True, elem_id="again"):
            self.command = html_place("command")
            self.python = html_place("python")

    def connect(self, tab: Any) -> None:
        """They are filled whenever the part is opened."""
        shown = [self.download, self.table, self.command, self.python, self.status]
        tab.select(answers(self.site, _show)(_refresh), None, shown, **QUIET)


def _show(visitor: Visitor) -> tuple[Any, ...]:
    if not visitor.results:
        return "", "", "", ""
    return (
        html.downloads(visitor),
        html.scores(download.rows(visitor)),
        html.code(rerun.command(visitor), "Command line"),
        html.code(rerun.python(visitor), "Python"),
    )


def _refresh(visitor: Visitor) -> Outcome:
    return None if visitor.results else "Nothing yet: the results of part 2 appear here."
