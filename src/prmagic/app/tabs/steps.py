"""Part 3: one photo step by step, other settings for it, and corrections by hand."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import gradio as gr

from prmagic.app import html
from prmagic.app.canvas import heat, view
from prmagic.app.components import (
    EACH,
    LATEST,
    QUIET,
    STEPS,
    Outcome,
    Site,
    answers,
    canvas,
    fold,
    html_place,
    visitor_of,
)
from prmagic.app.controls import Controls
from prmagic.app.settings import Settings
from prmagic.app.tabs.example import marking_view
from prmagic.app.visitor import Inspected, Visitor

START = "Make an example in part 1 and add photos in part 2. Then see here how each mask comes about."


class StepsTab:
    """The controls, laid out; `connect` makes them do something."""

    def __init__(self, site: Site):
        self.site = site
        with gr.Row():
            self.photo = gr.Dropdown([], label="Photo", elem_id="photo", scale=3)
            self.label = gr.Dropdown([], label="What", elem_id="class", scale=2)
            self.before = gr.Button("← Previous", min_width=90, scale=1, elem_id="previous", elem_classes="pm-end")
            self.after = gr.Button("Next →", min_width=90, scale=1, elem_id="next", elem_classes="pm-end")
        self.status = html_place("steps-status")
        self.step = gr.Slider(
            0, 5, 0, step=1, label="Step: 0 is the framework alone; the last ones are further masks of SAM",
            elem_id="step", buttons=[],
        )  # fmt: skip
        with gr.Row():
            with gr.Column(min_width=260):
                self.baseline = canvas("baseline", "Choose a photo.", caption="Baseline, step 0")
            with gr.Column(min_width=260):
                self.picture = canvas("picture", "Choose a photo.", caption="This step")
            with gr.Column(min_width=260):
                self.similarity = canvas("similarity", "No map.", caption="Similarity with the example")
        with gr.Row():
            self.keep = gr.Button("Keep this step", variant="primary", min_width=120, elem_id="keep")
            self.automatic = gr.Button("Back to the automatic choice", min_width=120, elem_id="automatic")
        self.kept = html_place("kept")
        with fold("Correct this step by hand", "correct"):
            self.correction = canvas("correction", "Choose a photo.", tools=True)
            self.keep_correction = gr.Button("Keep the correction", variant="primary", elem_id="keep-correction")
        with gr.Row():
            with gr.Column(min_width=300):
                self.table = html_place("steps")
            with gr.Column(min_width=300), gr.Accordion("Settings", elem_id="settings"):
                self.controls = Controls(site.visitors.engine, site.visitors.settings)
                self.everywhere = gr.Button("Use these for all photos", elem_id="everywhere")

    def connect(self, tab: Any, tabs: Any, gallery: Any) -> None:
        """What happens on each event."""
        shown = [
            self.baseline, self.picture, self.similarity, self.table, self.kept, self.correction, self.status,
        ]  # fmt: skip
        self._connect_controls(tab, shown)
        answer = answers(self.site, _show)
        gallery.pick(self._open, None, [tabs, self.photo, self.label], **STEPS | EACH)
        self.before.click(self._neighbour(-1), self.photo, self.photo, **STEPS)
        self.after.click(self._neighbour(1), self.photo, self.photo, **STEPS)
        seen = [self.picture, self.step]
        self.keep.click(answer(_keep), seen, shown, **STEPS | EACH)
        self.automatic.click(answer(_keep_automatic), seen, shown, **STEPS | EACH)
        self.keep_correction.click(answer(_keep_correction), None, shown, **STEPS)
        edited = answers(self.site, lambda visitor: (_show(visitor)[-1],))(_edit)
        self.correction.edit(edited, None, [self.correction, self.status], **STEPS | EACH)
        everywhere = answers(self.site, lambda visitor: ())(self._use_everywhere)
        self.everywhere.click(everywhere, self.controls.all, self.status, **STEPS)

    def _connect_controls(self, tab: Any, shown: Sequence[Any]) -> None:
        """One event for all controls, so that the last request has the state of all of them."""
        first = [self.controls.framework, self.controls.preset]
        moved = [tab.select, self.photo.change, self.label.change, self.step.input]
        for control in self.controls.all[len(first) :]:
            # Not at each digit of a number, nor at each place that a slider passes.
            typed = isinstance(control, gr.Number | gr.Textbox)
            done = [control.submit, control.blur] if typed else [control.input]
            moved += [control.release] if isinstance(control, gr.Slider) else done
        changed = gr.State(0)
        gr.on(
            [*moved, changed.change], self._look, [self.photo, self.label, self.step, *self.controls.all],
            [self.photo, self.label, self.step, *shown], show_progress_on=[self.table],
            **STEPS | LATEST | {"show_progress": "minimal"},
        )  # fmt: skip

        def begin_anew(framework: str, preset: str, number: int) -> list[Any]:
            try:
                return [number + 1, *self.controls.reset(framework, preset)]
            except ValueError as error:
                raise gr.Error(html.sentence(str(error)), print_exception=False) from None

        for control in first:
            control.input(begin_anew, [*first, changed], [changed, *self.controls.all], **QUIET | LATEST)

    def _look(self, request: gr.Request, name: str | None, label: str | None, step: int, *chosen: Any) -> Any:
        """Show what all controls say together."""

        def look(visitor: Visitor) -> Outcome:
            names, labels = list(visitor.photos), list(visitor.sources)
            if not names or not labels:
                visitor.inspected = None
                return START
            before, settings = visitor.inspected, self._settings(visitor, chosen)
            visitor.inspect(name if name in names else names[0], label if label in labels else labels[0], settings)
            if visitor.inspected is before:
                visitor.go_to(int(step or 0))
            return None

        return answers(self.site, lambda visitor: _choices(visitor, name, label, step))(look)(request)

    def _neighbour(self, by: int) -> Callable[..., Any]:
        def move(request: gr.Request, name: str | None) -> Any:
            names = list(visitor_of(self.site, request).photos)
            return names[(names.index(name) + by) % len(names)] if name in names else gr.skip()

        return move

    def _open(self, request: gr.Request, event: gr.EventData) -> tuple[Any, ...]:
        """Go to a picture that was pressed in part 2."""
        visitor = visitor_of(self.site, request)
        try:
            name, label = html.from_key(str(event.key))
        except ValueError:
            return gr.skip(), gr.skip(), gr.skip()
        return (
            gr.Tabs(selected="steps"),
            gr.Dropdown(choices=list(visitor.photos), value=name if name in visitor.photos else None),
            gr.Dropdown(choices=list(visitor.sources), value=label if label in visitor.sources else None),
        )

    def _settings(self, visitor: Visitor, chosen: Sequence[Any]) -> Settings:
        """What the controls say, and whether things are told apart, which part 2 decides."""
        return replace(self.controls.settings(chosen), instances=visitor.settings.instances)

    def _use_everywhere(self, visitor: Visitor, *chosen: Any) -> Outcome:
        visitor.settings = self._settings(visitor, chosen)
        return "Part 2 uses these settings now: press “Find it in all photos” there."


def _choices(visitor: Visitor, *controls: Any) -> tuple[Any, ...]:
    """The choices and what is shown. Controls that are right already are left alone: they may have been moved on."""
    at, names, labels = visitor.inspected, list(visitor.photos), list(visitor.sources)
    now = (at.photo.name, at.source.label, at.step) if at else (None, None, controls[2])
    photo, label, step = ({} if value == was else {"value": value} for value, was in zip(now, controls, strict=True))
    most = {"maximum": max(1, len(at.result.candidates) - 1)} if at else {}
    return (
        gr.Dropdown(choices=names, **photo),
        gr.Dropdown(choices=labels, **label),
        gr.Slider(**most, **step),
        *_show(visitor),
    )


def _show(visitor: Visitor) -> tuple[Any, ...]:
    """All but what is chosen."""
    if (at := visitor.inspected) is None:
        return None, None, None, "", "", None
    return (*_step_view(visitor, at), html.kept(visitor, at), marking_view(visitor, at.photo, at.marking))


def _step_view(visitor: Visitor, at: Inspected) -> tuple[Any, ...]:
    """The baseline, the step that is shown, its similarity map, and the table."""
    result, candidate = at.result, at.result.candidates[at.step]
    heated, similarity = None, candidate.similarity
    if similarity is not None:
        description = f"Similarity with the example, {similarity.min():.2f} to {similarity.max():.2f}."
        heated = view(heat(similarity), result.shape, prompts=candidate.prompts, description=description)
    pictures = (_candidate_view(visitor, at, index) for index in (0, at.step))
    return (*pictures, heated, html.steps(result, at.step))


def _candidate_view(visitor: Visitor, at: Inspected, index: int) -> dict[str, Any]:
    candidate = at.result.candidates[index]
    description = f"{at.photo.name}, {candidate.title}: {100 * candidate.mask.share:.0f} % of it found."
    url = visitor.workspace.preview(at.photo)
    return view(
        url, candidate.mask.shape, mask=candidate.mask.array, prompts=candidate.prompts, description=description,
        key=_picture_key(at, index),
    )  # fmt: skip


def _picture_key(at: Inspected, step: int) -> str:
    """Equal for pictures of the same mask."""
    content = repr((at.photo, at.source.label, at.source.supports, at.settings, step))
    return hashlib.sha256(content.encode(errors="surrogateescape")).hexdigest()[:32]


def _go_to_seen(visitor: Visitor, seen: str | None, step: int) -> None:
    """Go to a step, if its picture is the one that was seen: another may have been on its way."""
    if (at := visitor.inspected) is not None:
        step = min(max(int(step or 0), 0), len(at.result.candidates) - 1)
        if seen != _picture_key(at, step):
            raise ValueError("the picture was changing when you pressed: look at it now, and press again")
    visitor.go_to(int(step or 0))


def _keep(visitor: Visitor, seen: str | None, step: int) -> Outcome:
    _go_to_seen(visitor, seen, step)
    visitor.keep_step()
    return "Kept."


def _keep_automatic(visitor: Visitor, seen: str | None, step: int) -> Outcome:
    _go_to_seen(visitor, seen, step)
    visitor.keep_automatic()
    return "The automatic choice is in the results again."


def _keep_correction(visitor: Visitor) -> Outcome:
    visitor.keep_correction()
    return "Kept."


def _edit(visitor: Visitor, event: gr.EventData) -> Outcome:
    visitor.correct(event._data)
    return None
