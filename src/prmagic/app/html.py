"""Pieces of the page that Gradio has no component for, as HTML. Whatever comes from a visitor is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from prmagic.app.engine import Settings
from prmagic.app.results import COLUMNS, HOW, ordered
from prmagic.app.visitor import LookedAt, Progress, Visitor
from prmagic.types import Segmentation

TOOLS = {
    "add": "+ Object",
    "remove": "− Not this",
    "box": "□ Box",
    "brush": "● Brush",
    "erase": "○ Eraser",
}


def header(model: str) -> str:
    """The page's title; model: SAM's name."""
    remark = ": small, made for trying things out" if model == "embedded" else ""
    return (
        '<div class="pm-title"><h1>prmagic</h1><p>Show it one photo with a mask, and it finds the same thing in your '
        f'other photos.</p><p class="pm-model">Model {escape(model)}{remark}</p></div>'
    )


def fold(title: str, name: str) -> str:
    """A title to press, which shows and hides what comes next on the page, called `name` (page.js, page.css)."""
    return (
        f'<button type="button" class="pm-fold" aria-expanded="false" aria-controls="{name}">{escape(title)}</button>'
    )


def blank(text: str) -> str:
    """Where there is nothing yet."""
    return f'<div class="pm-empty"><div class="pm-blank">{escape(text)}</div></div>'


def canvas(blank: str, *, tools: bool = False, caption: str = "") -> str:
    """The template for canvas.js; blank: what is said where there is no photo yet."""
    parts = [f'<p class="pm-caption">{escape(caption)}</p>' if caption else ""]
    if tools:
        choices = "".join(
            f'<button type="button" role="radio" aria-checked="false" data-tool="{tool}">{label}</button>'
            for tool, label in TOOLS.items()
        )
        parts.append(
            f'<div class="pm-tools"><div role="radiogroup" aria-label="Tool">{choices}</div>'
            '<label class="pm-size">Size <input type="range" min="1" max="25" value="5"></label>'
            '<div class="pm-do"><button type="button" data-do="undo">Undo</button>'
            '<button type="button" data-do="clear">Clear</button></div></div>'
        )
    keyboard = ' tabindex="0"' if tools else ""
    parts.append(f'<canvas role="img"{keyboard}></canvas><div class="pm-blank">{escape(blank)}</div>')
    parts.append('<p class="pm-hint"></p>' if tools else "")
    return f'<div class="pm-canvas"{" data-editable" if tools else ""}>{"".join(parts)}</div>'


def said(text: str = "", problems: Sequence[str] = ()) -> str:
    """A line on what happened, and what went wrong; read out by screen readers."""
    if problems:
        items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
        lead = f"<p>{escape(text)}</p>" if text else ""
        return f'<div class="pm-said pm-wrong" role="alert">{lead}<ul>{items}</ul></div>'
    return f'<p class="pm-said" role="status">{escape(text)}</p>'


def tile(
    key: str, url: str, title: str, remark: str = "", *, pressed: bool | None = None, none: bool = False
) -> str:  # fmt: skip
    """A picture to press; none: nothing was found in it."""
    state = "" if pressed is None else f' aria-pressed="{str(pressed).lower()}"'
    small = f"<small>{escape(remark)}</small>" if remark else ""
    return (
        f'<li><button type="button" class="pm-tile{" pm-none" * none}" data-event="pick" data-key="{escape(key)}"'
        f'{state}><img src="{escape(url)}" alt="" loading="lazy"><span>{escape(title)}{small}</span></button></li>'
    )


def plain_tile(key: str, url: str, title: str) -> str:
    """A picture to look at, with a button for taking it away."""
    picture = f'<img src="{escape(url)}" alt="">' if url else ""
    return (
        f'<li><div class="pm-tile">{picture}<span>{escape(title)}</span></div>'
        f'<button type="button" class="pm-remove" data-event="remove" data-key="{escape(key)}" '
        f'aria-label="Remove {escape(title)}">×</button></li>'
    )


def tiles(items: Iterable[str], label: str, few: bool = False) -> str:
    """Tiles as a list; nothing without any."""
    inside = "".join(items)
    return f'<ul class="pm-tiles{" pm-few" * few}" aria-label="{escape(label)}">{inside}</ul>' if inside else ""


def drafts(visitor: Visitor) -> str:
    """The uploaded example photos, of which one is worked on."""
    if len(visitor.drafts) < 2:
        return ""
    items = (
        tile(str(number), visitor.preview(draft.photo), draft.photo.name, pressed=number == visitor.current)
        for number, draft in enumerate(visitor.drafts)
    )
    return tiles(items, "Photos of what you look for", few=True)


def examples(visitor: Visitor) -> str:
    """What was marked and named, and the references that were loaded."""
    items = [
        plain_tile(str(number), visitor.url(example.mask.with_suffix(".jpg")), example.label)
        for number, example in enumerate(visitor.examples)
    ]
    items += [plain_tile(f"saved:{label}", "", f"{label} (loaded)") for label in visitor.saved]
    return tiles(items, "Examples", few=True)


def gallery(visitor: Visitor) -> str:
    """Every photo: with what was found in it, for each class, or as it is."""
    items, several = [], len(visitor.sources) > 1
    for name, photo in visitor.photos.items():
        known = ordered(visitor, name)
        for kept in known:
            remark = HOW[kept.how] if kept.found else "nothing found"
            if kept.how == "automatic" and kept.found:
                remark = f"t = {kept.record['chosen']}"
            title = f"{name} · {kept.label}" if several else name
            url = visitor.url(visitor.path("thumbs", kept, ".jpg"), kept.version)
            items.append(tile(to_key(name, kept.label), url, title, remark, none=not kept.found))
        if not known and photo.file.is_relative_to(visitor.folder):
            items.append(tile(to_key(name, ""), visitor.preview(photo), name, "waiting"))
    return tiles(items, "Photos and what was found in them") or blank("The photos appear here, with what was found.")


def to_key(name: str, label: str) -> str:
    """A photo and a class, as a tile's key."""
    return json.dumps([name, label])


def from_key(key: str) -> tuple[str, str]:
    """The same back."""
    name, label = json.loads(key)
    return str(name), str(label)


def used(visitor: Visitor) -> str:
    """The settings of a run, in a line."""
    return f'<p class="pm-lead">Settings: {escape(summary(visitor.settings))}. Part 3 is for trying others.</p>'


def summary(settings: Settings) -> str:
    """The framework, and what differs from the default."""
    given = (f"{name.replace('_', ' ')} {value}" for name, value in settings.given.items() if name != "framework")
    return ", ".join([settings.framework, *given])


def kept(visitor: Visitor, at: LookedAt) -> str:
    """Which mask of the photo that is looked at is in the results, and whether what the selector chose counts."""
    known = visitor.results.get((at.photo.name, at.result.label))
    if known is None:
        return said(f"Not in the results yet.{_score(at.result)}")
    what = HOW[known.how] if known.how == "corrected" else f"t = {known.record['chosen']}, {HOW[known.how]}"
    other = "" if known.settings == visitor.settings else f" ({summary(known.settings)})"
    return said(f"In the results: {what}{other}{'' if known.found else '; nothing found'}.{_score(at.result)}")


def _score(result: Segmentation) -> str:
    """How alike what was found is to the examples."""
    if math.isnan(result.score):
        return ""
    low = f", below {result.min_score:.2f}, so it counts as not found unless it is kept" if result.rejected else ""
    return f" Score of t = {result.chosen}: {result.score:.2f}{low}."


def progress(at: Progress) -> str:
    """How far a run is."""
    left = f"{at.done} of {at.wanted}"
    return (
        f'<div class="pm-progress"><progress aria-label="Photos done" max="{max(at.wanted, 1)}" '
        f'value="{at.done if at.wanted else 1}"></progress><span role="status">{left}</span></div>'
    )


def links(named: Iterable[tuple[str, str]], main: bool = False) -> str:
    """(title, URL) of files to download."""
    kind = "pm-link pm-main" if main else "pm-link"
    inside = "".join(f'<a class="{kind}" href="{escape(url)}" download>{escape(title)}</a>' for title, url in named)
    return f'<div class="pm-links">{inside}</div>' if inside else ""


def reference_url(visitor: Visitor, label: str) -> str:
    """Where a class can be saved from."""
    return f"visitors/{visitor.token}/references/{quote(label, safe='')}.safetensors"


def steps(result: Segmentation, shown: int) -> str:
    """Every candidate's scores; the chosen one is said, the shown one stands out."""
    rows = []
    for candidate, score in zip(result.candidates, result.scores, strict=True):
        remark = ", ".join(
            word
            for word, true in (("baseline", candidate.step == 0), ("chosen", candidate.step == result.chosen))
            if true
        )
        cells = [
            (f"t = {candidate.step}{f' ({remark})' if remark else ''}", ""),
            (number(score, 4), "pm-number"),
            (number(candidate.predicted_iou, 2), "pm-number"),
            (f"{100 * candidate.mask.mean():.1f} %" if candidate.mask.any() else "nothing found", "pm-number"),
        ]
        rows.append(_row(cells, "pm-on" if candidate.step == shown else ""))
    heads = [("step", ""), ("score", "pm-number"), ("predicted IoU", "pm-number"), ("of the photo", "pm-number")]
    return _table(heads, rows, "Scores of the steps")


def scores(rows: Iterable[dict[str, Any]]) -> str:
    """The table of all results."""
    numbers = {"score": 2, "step_score": 4, "predicted_iou": 2}
    lines = []
    for row in rows:
        cells = []
        for name in COLUMNS:
            value = row[name]
            if name in numbers:
                cells.append((number(value, numbers[name]), "pm-number"))
            elif name == "share":
                cells.append((f"{100 * value:.1f} %", "pm-number"))
            elif name == "found":
                cells.append(("yes" if value else "nothing found", ""))
            else:
                cells.append(("–" if value is None else str(value), "pm-number" if isinstance(value, int) else ""))
        lines.append(_row(cells))
    if not lines:
        return ""
    heads = [
        (
            name.replace("_iou", " IoU").replace("_", " "),
            "pm-number" if name in ("step", "score", "step_score", "predicted_iou", "area", "share") else "",
        )
        for name in COLUMNS
    ]
    return _table(heads, lines, "Scores of all results")


def code(text: str, label: str) -> str:
    """Lines to copy."""
    return f'<pre class="pm-code" tabindex="0" aria-label="{escape(label)}">{escape(text)}</pre>' if text else ""


def counted(number: int, what: str) -> str:
    """Such as "1 photo" and "2 photos"."""
    return f"{number} {what}{'s' * (number != 1)}"


def number(value: float | None, digits: int) -> str:
    """A dash for what is not known."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def _row(cells: Iterable[tuple[str, str]], kind: str = "") -> str:
    inside = "".join(f'<td class="{style}">{escape(text)}</td>' for text, style in cells)
    return f'<tr class="{kind}">{inside}</tr>'


def _table(heads: Iterable[tuple[str, str]], rows: Iterable[str], label: str) -> str:
    head = "".join(f'<th scope="col" class="{style}">{escape(text)}</th>' for text, style in heads)
    return (
        f'<div class="pm-scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table class="pm-table">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
