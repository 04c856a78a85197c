"""Part 1: photos of what is looked for are marked by hand."""

from __future__ import annotations

from typing import Any

import gradio as gr

from prmagic.app import html
from prmagic.app.canvas import view
from prmagic.app.components import (
    EACH,
    EXAMPLE,
    Outcome,
    Site,
    answers,
    canvas,
    fold,
    html_place,
    on_upload,
    upload_place,
)
from prmagic.app.engine import PhotoFile
from prmagic.app.marking import Marking
from prmagic.app.visitor import Visitor
from prmagic.segmenter import DEFAULT_LABEL


class ExampleTab:
    """The controls, laid out; `connect` makes them do something."""

    def __init__(self, site: Site):
        self.site = site
        with gr.Row():
            with gr.Column(scale=2, min_width=260):
                self.photos = upload_place(
                    site, "Photos of what you look for", file_count="multiple", file_types=["image"], height=170,
                    elem_id="example-photos",
                )  # fmt: skip
                self.drafts = html_place("drafts", pressed=True)
                self.examples = html_place("examples", pressed=True)
                self.saved = html_place("references")
                with fold("Files: a mask, a saved reference", "example-files"):
                    self.mask = upload_place(
                        site, "Mask of the photo shown", file_types=["image"], height=150, elem_id="mask-file"
                    )
                    self.reference = upload_place(
                        site, "A saved reference (.safetensors)", file_types=[".safetensors"], height=150,
                        elem_id="reference-file",
                    )  # fmt: skip
            with gr.Column(scale=5, min_width=320):
                self.status = html_place("example-status")
                self.canvas = canvas("canvas", "Upload a photo of what you look for; then mark it here.", tools=True)
                with gr.Row():
                    self.label = gr.Textbox(
                        label="Name of the thing", value=DEFAULT_LABEL, max_length=80, elem_id="label"
                    )
                    self.add = gr.Button(
                        "Add as example", variant="primary", min_width=140, elem_id="add-example", elem_classes="pm-end"
                    )

    def connect(self) -> None:
        """What happens on each event."""
        answer = answers(self.site, _show)
        shown = [self.canvas, self.drafts, self.examples, self.saved, self.status]
        on_upload(self.photos, answer(_upload), [self.photos], shown, **EXAMPLE)
        on_upload(self.mask, answer(_start_from), [self.mask], shown, **EXAMPLE)
        on_upload(self.reference, answer(_load_reference), [self.reference, self.label], shown, **EXAMPLE)
        self.drafts.pick(answer(_pick), None, shown, **EXAMPLE | EACH)
        self.examples.remove(answer(_remove), None, shown, **EXAMPLE)
        gr.on([self.add.click, self.label.submit], answer(_add), self.label, shown, **EXAMPLE)
        edited = answers(self.site, lambda visitor: (_draft_view(visitor),))(_edit)
        self.canvas.edit(edited, None, [self.canvas, self.status], **EXAMPLE | EACH)


def marking_view(visitor: Visitor, photo: PhotoFile, marking: Marking) -> dict[str, Any]:
    """A photo with the mask that is made by hand."""
    mask = marking.mask
    description = f"{photo.name}, {100 * mask.mean():.0f} % of it marked."
    return view(
        visitor.workspace.preview(photo), marking.size, mask=mask, prompts=marking.prompts, description=description,
        key=str(len(marking.edits)),  # an edit that changes nothing is answered, too
    )  # fmt: skip


def _draft_view(visitor: Visitor) -> dict[str, Any] | None:
    draft = visitor.examples.draft
    return None if draft is None else marking_view(visitor, draft.photo, draft.marking)


def _show(visitor: Visitor) -> tuple[Any, ...]:
    saved = html.links((f"Save {label}", html.reference_url(visitor, label)) for label in visitor.sources)
    return _draft_view(visitor), html.drafts(visitor), html.examples(visitor), saved


def _upload(visitor: Visitor, files: Any) -> Outcome:
    problems = visitor.examples.upload(files)
    return "Click on the object, or choose another tool." if visitor.examples.draft else "", problems


def _pick(visitor: Visitor, event: gr.EventData) -> Outcome:
    key = str(event.key)
    visitor.examples.pick(int(key) if key.isascii() and key.isdecimal() else -1)
    return None


def _add(visitor: Visitor, label: str) -> Outcome:
    visitor.examples.add(label or "")
    return "Added. Add more examples, or go on with your photos in part 2."


def _remove(visitor: Visitor, event: gr.EventData) -> Outcome:
    visitor.remove_example(str(event.key))
    return None


def _start_from(visitor: Visitor, files: Any) -> Outcome:
    found = [note for file in files for note in visitor.examples.start_from(file)]
    return "This is the mask now. You can change it.", found


def _load_reference(visitor: Visitor, files: Any, label: str) -> Outcome:
    label = "" if label == DEFAULT_LABEL else label or ""
    labels = [visitor.examples.load_reference(file, label) for file in files]
    return f"Loaded {', '.join(labels)}."


def _edit(visitor: Visitor, event: gr.EventData) -> Outcome:
    visitor.examples.edit(event._data)
    return None
