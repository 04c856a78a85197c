"""The pieces of the page that Gradio has no component for, as HTML. What comes from a visitor is escaped."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from prmagic.app.download import COLUMNS, HOW, KINDS, ordered
from prmagic.app.packed import PackedResult
from prmagic.app.settings import Settings, as_text
from prmagic.app.visitor import Inspected, Progress, Visitor

SHOWN = 20  # problems in one message
TOOLS = {
    "add": "+ Object",
    "remove": "− Not this",
    "box": "□ Box",
    "brush": "● Brush",
    "erase": "○ Eraser",
}


def header(model: str) -> str:
    """The page's title; model: SAM's name."""
    remark = ", a small one for trying things out" if model == "embedded" else ""
    return (
        '<div class="pm-title"><h1>prmagic</h1><p>Show it one photo with a mask, and it finds the same thing in your '
        f'other photos.</p><p class="pm-model">Model: {escape(model)}{remark}</p></div>'
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
    """The template for canvas.js; blank: the text where there is no photo yet."""
    zoom = (
        '<button type="button" data-zoom="0.5" aria-label="Zoom out">−</button>'
        '<button type="button" data-zoom="2" aria-label="Zoom in">+</button>'
    )
    if tools:
        choices = "".join(
            f'<button type="button" role="radio" aria-checked="false" data-tool="{tool}">{label}</button>'
            for tool, label in TOOLS.items()
        )
        head = (
            f'<div class="pm-tools"><div role="radiogroup" aria-label="Tool">{choices}</div>'
            '<label class="pm-size">Size <input type="range" min="1" max="25" value="5"></label>'
            f'<div class="pm-do">{zoom}<button type="button" data-do="undo">Undo</button>'
            '<button type="button" data-do="clear">Clear</button></div></div>'
        )
    else:
        head = f'<div class="pm-head"><p class="pm-caption">{escape(caption)}</p><div class="pm-do">{zoom}</div></div>'
    keyboard, hint = (' tabindex="0"', '<p class="pm-hint"></p>') if tools else ("", "")
    return (
        f'<div class="pm-canvas"{" data-editable" if tools else ""}>{head}'
        f'<div class="pm-view"><canvas role="img"{keyboard}></canvas></div>'
        f'<div class="pm-blank">{escape(blank)}</div>{hint}</div>'
    )


def sentence(text: str) -> str:
    """With a capital, unless it begins with a name."""
    word = text.partition(" ")[0]
    return text[:1].upper() + text[1:] if word.isalpha() else text


def message(text: str = "", problems: Sequence[str] = ()) -> str:
    """A line on what happened, and what went wrong; read out by screen readers."""
    if problems:
        listed = [*problems[:SHOWN], *([f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else [])]
        items = "".join(f"<li>{escape(sentence(problem))}</li>" for problem in listed)
        lead = f"<p>{escape(text)}</p>" if text else ""
        return f'<div class="pm-message pm-wrong" role="alert">{lead}<ul>{items}</ul></div>'
    return f'<p class="pm-message" role="status">{escape(text)}</p>'


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
    """The uploaded example photos, of which one is worked on; nothing for a single one."""
    examples = visitor.examples
    if len(examples.drafts) < 2:
        return ""
    items = (
        tile(str(number), visitor.workspace.preview(draft.photo), draft.photo.name, pressed=number == examples.current)
        for number, draft in enumerate(examples.drafts)
    )
    return tiles(items, "Photos of what you look for", few=True)


def examples(visitor: Visitor) -> str:
    """What was marked and named, and the references that were loaded."""
    items = [
        plain_tile(str(number), visitor.workspace.url(example.mask.with_suffix(".jpg")), example.label)
        for number, example in enumerate(visitor.examples.marked)
    ]
    items += [plain_tile(f"saved:{label}", "", f"{label} (loaded)") for label in visitor.examples.references]
    return tiles(items, "Examples", few=True)


def gallery(visitor: Visitor) -> str:
    """Every photo: with what was found in it, for each class, or as it is."""
    items, several = [], len(visitor.sources) > 1
    for name, photo in visitor.photos.items():
        known = ordered(visitor, name)
        for kept in known:
            remark = HOW[kept.how] if kept.found else "nothing found"
            if kept.how == "automatic" and kept.found:
                remark = kept.title if kept.things is None else counted(kept.things, "thing")
            title = f"{name} · {kept.label}" if several else name
            url = visitor.workspace.url(visitor.path("thumbs", kept, ".jpg"), kept.version)
            items.append(tile(to_key(name, kept.label), url, title, remark, none=not kept.found))
        if not known and photo.file.is_relative_to(visitor.workspace.folder):
            items.append(tile(to_key(name, ""), visitor.workspace.preview(photo), name, "waiting"))
    return tiles(items, "Photos and what was found in them") or blank("The photos appear here, with what was found.")


def to_key(name: str, label: str) -> str:
    """A photo and a class, as a tile's key."""
    return json.dumps([name, label])


def from_key(key: str) -> tuple[str, str]:
    """The same back; ValueError for what is no such key."""
    try:
        name, label = json.loads(key)
    except (ValueError, TypeError, RecursionError):
        raise ValueError("choose a photo first") from None
    return str(name), str(label)


def used(visitor: Visitor) -> str:
    """The settings of a run, in a line."""
    return f'<p class="pm-lead">Settings: {escape(summary(visitor.settings))}. Try others in part 3.</p>'


def summary(settings: Settings) -> str:
    """The framework, and what differs from the default."""
    given = (
        f"{name.replace('_', ' ')} {as_text(value)}"
        for name, value in settings.arguments.items()
        if name != "framework"
    )
    return ", ".join([settings.framework, *given, *(["one mask per thing"] if settings.instances else [])])


def kept(visitor: Visitor, at: Inspected) -> str:
    """Which mask of the photo that is shown is in the results, and whether what the selector chose counts."""
    known = visitor.results.get((at.photo.name, at.source.label))
    if known is None:
        return message(f"Not in the results yet.{_score(at.result)}")
    what = HOW[known.how] if known.how == "corrected" else f"{known.title}, {HOW[known.how]}"
    other = "" if known.settings == visitor.settings else f" ({summary(known.settings)})"
    return message(f"In the results: {what}{other}{'' if known.found else '; nothing found'}.{_score(at.result)}")


def _score(result: PackedResult) -> str:
    """How alike what was found is to the examples."""
    if math.isnan(result.score):
        return ""
    low = f", below {result.min_score:.2f}, so it counts as not found unless you keep it" if result.rejected else ""
    return f" Score of {result.candidates[result.chosen].title}: {result.score:.2f}{low}."


def progress(at: Progress) -> str:
    """How far a run is."""
    left = f"{at.done} of {at.wanted}"
    return (
        f'<div class="pm-progress"><progress aria-label="Photos done" max="{max(at.wanted, 1)}" '
        f'value="{at.done if at.wanted else 1}"></progress><span role="status">{left}</span></div>'
    )


def links(named: Iterable[tuple[str, str]], main: bool = False) -> str:
    """(title, URL) of files to download; main: the first stands out."""
    inside = "".join(
        f'<a class="pm-link{" pm-main" * (main and not number)}" href="{escape(url)}" download>{escape(title)}</a>'
        for number, (title, url) in enumerate(named)
    )
    return f'<div class="pm-links">{inside}</div>' if inside else ""


def reference_url(visitor: Visitor, label: str) -> str:
    """Where a class can be saved from."""
    return f"visitors/{visitor.workspace.token}/references/{quote(label, safe='')}.safetensors"


def downloads(visitor: Visitor) -> str:
    """Links to the zip with everything, and to those for labelling tools."""
    return links(
        ((title, f"visitors/{visitor.workspace.token}/{kind}.zip") for kind, title in KINDS.items()),
        main=True,
    )


def steps(result: PackedResult, shown: int) -> str:
    """Every candidate's scores; the chosen one is named, the shown one stands out."""
    rows = []
    for index, (candidate, score) in enumerate(zip(result.candidates, result.scores, strict=True)):
        remarks = [(index == 0, "baseline"), (candidate.beside, candidate.title), (index == result.chosen, "chosen")]
        remark = ", ".join(word for applies, word in remarks if applies)
        cells = [
            (f"{index}{f' ({remark})' if remark else ''}", ""),
            (number(score, 4), "pm-number"),
            (number(candidate.predicted_iou, 2), "pm-number"),
            (f"{100 * candidate.mask.share:.1f} %" if candidate.mask.area else "nothing found", "pm-number"),
        ]
        rows.append(_row(cells, "pm-on" if index == shown else ""))
    heads = [
        ("step", ""), ("selector score", "pm-number"), ("predicted IoU", "pm-number"), ("of the photo", "pm-number")
    ]  # fmt: skip
    return _table(heads, rows, "Scores of the steps")


def scores(rows: Iterable[dict[str, Any]]) -> str:
    """The table of all results."""
    numbers = {"score": 2, "selector_score": 4, "predicted_iou": 2}
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
    texts = ("photo", "class", "found", "how", "framework", "settings")
    heads = [(name.replace("_iou", " IoU").replace("_", " "), "" if name in texts else "pm-number") for name in COLUMNS]
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
