"""Pieces of HTML: what the cells of the report notebook show, and how numbers, tables and figures are written in it.

In: values, captions and drawings.  Out: `Piece`, which a notebook shows as it is.  Whatever comes from outside (names
in the metadata, titles) is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from markupsafe import Markup

from skin_tl.reporting.texts import Labels, format_p, typeset

GRID = "display:grid;gap:12px;align-items:start;grid-template-columns:repeat(auto-fit,minmax(min(100%,360px),1fr))"
"""Panels stand beside each other where there is room; written into each figure, for it holds in a notebook too."""

_FIGURE = Markup('<figure id="{}">\n{}\n<figcaption>{}</figcaption>\n</figure>')
_TABLE = Markup(
    '<div class="table {name}" id="{anchor}">\n<p class="caption" id="{anchor}-caption">{caption}</p>\n'
    '<div class="scroll" role="region" aria-labelledby="{anchor}-caption" tabindex="0">\n'
    '<table aria-labelledby="{anchor}-caption">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}\n</tbody>\n</table>\n'
    "</div>\n</div>"
)


@dataclass(frozen=True)
class Piece:
    """A piece of the report's HTML.

    Attributes
    ----------
    page
        What the page as a whole needs to know; only the header has it.
    slides
        What the slides are made from (see `skin_tl.reporting.report.Report.slides`); such a piece is no part of the
        page.
    """

    html: str
    page: dict[str, Any] | None = None
    slides: dict[str, Any] | None = None

    def _repr_mimebundle_(self, include=None, exclude=None):
        about = {"piece": True, "page": self.page} if self.slides is None else {"piece": False, "slides": self.slides}
        return {"text/html": str(self.html)}, {"skin_tl": about}


def anchor_of(kind: str, name: str, context: Mapping[str, Any]) -> str:
    """Return the anchor of a figure or table: its name and what it is shown for."""
    words = [getattr(value, "key", str(value)) for value in context.values()]
    return "-".join([kind, name, *words]).replace(".", "-").replace("_", "-").lower()


def figure_html(anchor: str, body: Markup, caption: Markup) -> Markup:
    """Return a figure with its caption."""
    return _FIGURE.format(anchor, body, caption)


def panels_html(anchor: str, drawings: Iterable[tuple[str, float, float]], alt: str) -> Markup:
    """Return drawings (SVG, width and height in inches) as panels beside each other, with one alternative text."""
    panels = []
    for svg, width, height in drawings:
        kind = "panel tall" if height > 0.8 * width else "panel"
        panels.append(f'<div class="{kind}" style="max-width:{width * 96 * 1.2:.0f}px">{svg}</div>')
    several = " several" * (len(panels) > 1) + " many" * (len(panels) > 2)
    html = Markup('<div class="panels{}" role="img" aria-label="{}" style="{}">\n{}\n</div>')
    return html.format(several, alt, GRID, Markup("\n".join(panels)))


def table_html(
    name: str, anchor: str, caption: Markup, heads: Sequence[tuple[str, bool]], rows: Iterable[Sequence[Any]]
) -> Markup:
    """Return a table: heads say their words and whether numbers stand below; the first cell of a row names it."""
    classes = [Markup(' class="number"') if number else "" for _, number in heads]
    line = Markup("<tr>{}</tr>")
    lines = []
    for row in rows:
        cells = [Markup('<th scope="row">{}</th>').format(row[0])]
        cells += [Markup("<td{}>{}</td>").format(*cell) for cell in zip(classes[1:], row[1:], strict=True)]
        lines.append(line.format(Markup("").join(cells)))
    columns = [
        Markup('<th scope="col"{}>{}</th>').format(classes[place] if place else "", head)
        for place, (head, _) in enumerate(heads)
    ]
    parts = {"caption": caption, "heads": Markup("").join(columns), "rows": Markup("\n").join(lines)}
    return _TABLE.format(name=name, anchor=anchor, **parts)


class Cells:
    """Writes the numbers of tables in one language, each as HTML that carries its value."""

    def __init__(self, labels: Labels):
        self.labels = labels
        self._semicolon = typeset(" ;", labels.language).lstrip(" ")  # with French's narrow space before it

    def number(self, value: Any, spec: str, part: str = "") -> Markup | str:
        """Return a number; `part` says what it is where a cell holds several (a word below `page`)."""
        if value is None or pd.isna(value):
            return "–"
        return _data(value, self.labels.number(value, spec), part)

    def p_value(self, value: float) -> Markup | str:
        """Return a corrected p-value, or the word for a difference that cannot be tested."""
        if pd.isna(value):
            return self.labels("not_testable")
        return _data(value, format_p(value, self.labels.language), "p_holm")

    def interval(self, low: float, high: float, spec: str, mark: str = "", words: Markup | str = "") -> Markup:
        """Return an interval in brackets, nothing where it has no ends; `mark` stands before it, `words` after it."""
        if pd.isna(low):
            return Markup("")
        ends = self.number(low, spec, "low"), self._semicolon, self.number(high, spec, "high")
        return Markup(' <span class="interval">{}[{}{} {}]{}</span>').format(mark, *ends, words)

    def diagnosis(self, dx: str) -> str:
        """Return the name of a diagnosis with its short name; of ``all`` the word alone."""
        return self.labels(f"diagnosis.{dx}") + ("" if dx == "all" else f" ({dx})")


def _data(value: Any, shown: str, part: str) -> Markup:
    part = Markup(' class="{}"').format(part) if part else ""
    return Markup('<data value="{}"{}>{}</data>').format(value, part, shown)
