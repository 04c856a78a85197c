"""Headings, text, lists and tables as Markdown and as LaTeX; whatever text they hold comes out as it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias


class Bold(str):
    """A cell to be printed in bold."""

    __slots__ = ()


@dataclass(frozen=True)
class Heading:
    """text: of one line."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """rows: as long as the header each; the first `texts` columns are words, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int


Block: TypeAlias = str | Heading | Bullets | Table

_LATEX: dict[str, str | int | None] = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "%": r"\%", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "[": "{[}", "]": "{]}", "−": "$-$", "±": r"$\pm$", "×": r"$\times$",
    "·": r"$\cdot$", "…": r"\ldots{}", "–": "--", "†": r"$^\dag$", "‡": r"$^\ddag$",
}  # fmt: skip


def markdown(blocks: Sequence[Block]) -> str:
    """Tables in GitHub's dialect, aligned so that they can be read as text, too."""
    return "\n".join(f"{_markdown(block)}\n" for block in blocks)


def latex(blocks: Sequence[Block]) -> str:
    r"""For \input into a document of any class; no packages are needed."""
    return "\n".join(f"{_latex(block)}\n" for block in blocks)


def _markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_markdown_text(block.text)}"
    if isinstance(block, Bullets):
        return "\n".join(f"- {_markdown_text(item)}" for item in block.items)
    if isinstance(block, str):
        return _markdown_text(block)
    cells = [[_markdown_text(cell) for cell in row] for row in (block.header, *block.rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * width if i < block.texts else "-" * (width - 1) + ":" for i, width in enumerate(widths)]
    lines = [
        " | ".join(
            cell.ljust(width) if i < block.texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (cells[0], rule, *cells[1:])
    ]
    return "\n".join(f"| {line} |" for line in lines)


def _markdown_text(text: str) -> str:
    escaped = re.sub(r"([\\`*_\[\]<>|~$])", r"\\\1", _one_line(text)).replace("&", "&amp;")
    return f"**{escaped}**" if isinstance(text, Bold) else escaped


def _latex(block: Block) -> str:
    if isinstance(block, Heading):
        return rf"\paragraph{{{_latex_text(block.text)}}}"
    if isinstance(block, Bullets):
        items = [rf"\item {_latex_text(item)}" for item in block.items]
        return "\n".join([r"\begin{itemize}", *items, r"\end{itemize}"])
    if isinstance(block, str):
        return _latex_text(block)
    columns = "l" * block.texts + "r" * (len(block.header) - block.texts)
    header, *rows = (" & ".join(map(_latex_text, row)) + r" \\" for row in (block.header, *block.rows))
    return "\n".join(
        [rf"\begin{{tabular}}{{{columns}}}", r"\hline", header, r"\hline", *rows, r"\hline", r"\end{tabular}"]
    )


def _latex_text(text: str) -> str:
    escaped = _one_line(text).translate(str.maketrans(_LATEX))
    return rf"\textbf{{{escaped}}}" if isinstance(text, Bold) else escaped


def _one_line(text: str) -> str:
    return " ".join(text.split())
