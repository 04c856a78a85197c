"""The page: its parts side by side, and what happens on each event. Needs Gradio; only `server` imports it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from prmagic.app import html
from prmagic.app.components import Site, html_place
from prmagic.app.tabs.example import ExampleTab
from prmagic.app.tabs.photos import PhotosTab
from prmagic.app.tabs.results import ResultsTab
from prmagic.app.tabs.steps import StepsTab

WAITING = 100  # events at once


def build(site: Site) -> Any:
    """The whole page."""
    visitors = site.visitors
    with gr.Blocks(title="prmagic", analytics_enabled=False) as page:
        html_place("header", html.header(visitors.engine.check(visitors.settings).framework.sam.name))
        with gr.Tabs(selected="example", overflow_behavior="wrap") as tabs:
            with gr.Tab("1 Example", id="example"):
                example = ExampleTab(site)
            with gr.Tab("2 Photos", id="photos") as photos_tab:
                photos = PhotosTab(site)
            with gr.Tab("3 Steps", id="steps") as steps_tab:
                steps = StepsTab(site)
            with gr.Tab("4 Results", id="results") as results_tab:
                results = ResultsTab(site)
        example.connect()
        photos.connect(photos_tab)
        steps.connect(steps_tab, tabs, photos.gallery)
        results.connect(results_tab)
    page.queue(max_size=WAITING, default_concurrency_limit=8)
    return page
