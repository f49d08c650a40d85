"""The report: what the cells of the report notebook call.

In: a study's name and a language.  Out: pieces of HTML (prose, figures, tables, example pictures), each shown by a
notebook as it is and put together to one page by `skin_tl.reporting.rendering`.  Every piece says which headings it
has, and every figure has a text for readers who do not see it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from skin_tl.evaluation.study_files import TEXTS, Setup
from skin_tl.reporting import figures
from skin_tl.reporting.checklists import checklist_rows, read_items
from skin_tl.reporting.context import template_context
from skin_tl.reporting.layouts import LAYOUTS
from skin_tl.reporting.pictures import error_rows, example_rows, explanation_rows
from skin_tl.reporting.pieces import Piece, anchor_of, figure_html, panels_html, table_html
from skin_tl.reporting.selection import Selection
from skin_tl.reporting.texts import Texts, without_tags

_WORDS = ["not_a_diagnosis", "contents", "skip", "colours", "system", "light", "dark", "enlarge", "close", "sort"]
_WORDS += ["ascending", "descending", "unsorted", "copy", "copied", "not_copied", "low", "high", "p_holm", "whole"]
"""Words of the page and of its controls, labels below `page`."""

_BLANKS = {name: f"{{{name}}}" for name in ("name", "rows")}
"""What the page's script fills in."""


class Report(Selection):
    """The report of one study in one language; parameters and attributes as of `Selection`."""

    def __init__(self, study: str, language: str = "en", output: str | Path = "", texts: Path = TEXTS):
        super().__init__(study, language, output, texts)
        self.texts = Texts(language, self.facts, template_context(self), texts)
        self._numbers: dict[str, dict[str, int]] = {}

    def _banners(self) -> list[tuple[str, str, str]]:
        """Return what the study is not: (kind, text, short text) of each banner."""
        kinds = {"synthetic": self.study.synthetic, "random": self.random_weights, "narrowed": self.narrowed}
        shown = [kind for kind, present in kinds.items() if present]
        caption = self.texts.caption
        return [(kind, caption("banners", kind, "text"), caption("banners", kind, "short")) for kind in shown]

    def header(self) -> Piece:
        """Return the title with its banners, and what the page as a whole needs to know."""
        banners = self._banners()
        lines = [Markup('<p class="banner {}" role="note">{}</p>').format(k, Markup(text)) for k, text, _ in banners]
        short = [without_tags(text) for _, _, text in banners] or [self.labels("page.not_a_diagnosis")]
        title = self.labels.known("title", self.study.title)
        page = {
            "language": self.language,
            "title": title,
            "running": " · ".join(short),
            "words": {key: self.labels(f"page.{key}", **_BLANKS) for key in _WORDS},
            "page_of": self.labels("page.page", page="\0", pages="\0").split("\0"),
        }
        return Piece(Markup("\n").join([Markup('<h1 id="title">{}</h1>').format(title), *lines]), page)

    def text(self, name: str, **context: Any) -> Piece:
        """Return the text ``<name>.md`` in the report's language."""
        return Piece(self.texts.prose(name, **context))

    def figure(
        self, name: str, drawings: figures.Drawing | Sequence[figures.Drawing], data: str | None = None, **context: Any
    ) -> Piece:
        """Return a figure: one drawing, or panels beside each other, with caption and alternative text.

        Parameters
        ----------
        name
            Its entry in captions.yaml.
        data
            The table that it shows, for the link below it.
        **context
            What its caption asks for, for example `setup`.
        """
        drawings = drawings if isinstance(drawings, Sequence) else [drawings]
        _, anchor = self._number("figure", name, context)
        panels = [
            (figures.to_svg(drawing, f"{anchor}-{place}"), *drawing.get_size_inches())
            for place, drawing in enumerate(drawings)
        ]
        body = panels_html(anchor, panels, self._alt(name, context))
        return self._captioned(name, body, data, context)

    def examples(self, n_examples: int = 5) -> Piece:
        """Return pictures of each diagnosis, each with a text of its own; without pictures, the words that say why."""
        if not self.pictures:
            return self.text("no_pictures")
        return self._pictures("examples", example_rows(self, n_examples))

    def explanations(self, setup: Setup, backbone: str) -> Piece:
        """Return Grad-CAM of a backbone: for each diagnosis, one image that it recognises and one that it does not."""
        rows = explanation_rows(self, setup, backbone)
        return self._pictures("explanations", rows, "explanations.csv", setup=setup, backbone=backbone)

    def confident_errors(self, setup: Setup) -> Piece:
        """Return the most confident errors of each backbone, with Grad-CAM."""
        return self._pictures("confident_errors", error_rows(self, setup), "explanations.csv", setup=setup)

    def _pictures(self, name: str, rows: Sequence[Markup], data: str | None = None, **context: Any) -> Piece:
        """Return a figure made of rows of pictures, each with a text of its own."""
        html = Markup('<div role="group" aria-label="{}">{}</div>')
        return self._captioned(name, html.format(self._alt(name, context), Markup("\n").join(rows)), data, context)

    def table(self, name: str, **context: Any) -> Piece:
        """Return a table of the report by its name, a key of `skin_tl.reporting.layouts.LAYOUTS`."""
        layout = LAYOUTS[name](self, **context)
        columns = [column for column in layout.columns if column.shown(layout.rows)]
        heads = [(column.heading(self.cells), column.number) for column in columns]
        rows = [[column.cell(self.cells, row) for column in columns] for row in layout.rows]
        number, anchor = self._number("table", name, context)
        words = self.texts.caption("tables", name, "caption", **context)
        caption = self._caption_line("table", number, words, layout.file)
        return Piece(table_html(name, anchor, caption, heads, rows))

    def checklists(self) -> list[Piece]:
        """Return what reporting guidelines ask for with the answers of this report, a table for each part."""
        heads = [(self.labels(f"column.{name}"), False) for name in ("asked", "answer", *read_items())]
        pieces = []
        for about, rows in checklist_rows(self.texts).items():
            number, anchor = self._number("table", "checklists", {"about": about})
            words = self.texts.caption("tables", "checklists", "caption", about=about)
            caption = self._caption_line("table", number, words, None)
            pieces.append(Piece(table_html("checklists", anchor, caption, heads, rows)))
        return pieces

    def slides(self) -> Piece:
        """Return the words of the slides, which rendering makes a deck of; a notebook shows their titles.

        ``slides.md`` holds one slide per heading.  A line ``![](#figure-…)`` stands for the figure or table of the
        report with that anchor, ``{{ figure(name, setup=…) }}`` gives the anchor of one that depends on a set-up, and
        ``![text](#figure-…/2)`` shows one panel of a figure, counted from zero, with an alternative text of its own.
        """
        html = str(self.texts.prose("slides"))
        notes = [without_tags(short) for _, _, short in self._banners()] + [self.labels("page.not_a_diagnosis")]
        words = {key: self.labels(f"page.{key}") for key in ("slides", "previous", "next")}
        titles = [Markup("<li>{}</li>").format(Markup(title)) for title in re.findall(r"<h2[^>]*>(.*?)</h2>", html)]
        shown = Markup("<ol>\n{}\n</ol>").format(Markup("\n").join(titles))
        return Piece(shown, slides={"html": html, "notes": notes, "words": words})

    def write(self) -> Path:
        """Write the tables and ``facts.json`` to the output folder; return the folder."""
        self.facts.write(self.folder)
        return self.folder

    # How pieces are numbered and captioned

    def _number(self, kind: str, name: str, context: dict[str, Any]) -> tuple[int, str]:
        """Return the number and the anchor of a figure or table; the same one keeps its number when shown again."""
        anchor = anchor_of(kind, name, context)
        numbers = self._numbers.setdefault(kind, {})
        return numbers.setdefault(anchor, len(numbers) + 1), anchor

    def _alt(self, name: str, context: dict[str, Any]) -> str:
        """Return the alternative text of a figure."""
        return " ".join(without_tags(self.texts.caption("figures", name, "alt", **context)).split())

    def _caption_line(self, kind: str, number: int, caption: str, data: str | None) -> Markup:
        count = self.labels(f"caption.{kind}", number=number)
        line = Markup('<span class="count">{}.</span> {}').format(count, Markup(caption))
        if data is None:
            return line
        source = Markup(' <span class="source">{} <a href="{}">{}</a></span>')
        return line + source.format(self.labels("caption.data").capitalize(), data, data)

    def _captioned(self, name: str, body: Markup, data: str | None, context: dict[str, Any]) -> Piece:
        number, anchor = self._number("figure", name, context)
        title, words = (self.texts.caption("figures", name, part, **context) for part in ("title", "caption"))
        shown = Markup("<strong>{}.</strong> {}").format(Markup(title), Markup(words))
        caption = self._caption_line("figure", number, shown, data)
        return Piece(figure_html(anchor, body, caption))
