"""The slides: from the executed report notebook to one HTML file that reveal.js shows as a deck.

Takes the notebook whose cells showed the pieces of the report (`skin_tl.reporting.report`), one of them the words of
the slides; gives a page that holds reveal.js, taken from an installed package, and every figure and table that the
words ask for, taken from the pieces.  Without scripts, on a phone and on paper its slides stand one below another.  The
same notebook gives the same bytes.
"""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path
from typing import Any

from markupsafe import Markup
from nbformat import NotebookNode

from skin_tl.errors import SkinTLError
from skin_tl.files import write_text
from skin_tl.reporting.rendering import TEMPLATE, page_of, pieces_of, read_notebook
from skin_tl.reporting.texts import templates

PACKAGE = "pyreveal"
"""Ships the files of reveal.js, unchanged, in the folder below; nothing else of it is used."""

_DIST = "pyreveal/revealjs/dist"
_FILES = {"script": "reveal.js", "style": "reveal.css"}

_SLIDE = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>\n?', re.DOTALL)
_SHOWN = re.compile(r'<p><img src="#([^"/]+)(?:/(\d+))?" alt="([^"]*)" /></p>\n?')
_ANCHOR = re.compile(r'<(?:figure|div class="table[^"]*") id="([^"]+)"')
_PANEL = re.compile(r'<div class="panel( tall)?".*?</div>', re.DOTALL)


def reveal() -> dict[str, str]:
    """Read reveal.js from the package that ships it: ``script`` and ``style``."""
    folder = Path(str(metadata.distribution(PACKAGE).locate_file(_DIST)))
    return {kind: (folder / name).read_text(encoding="utf-8") for kind, name in _FILES.items()}


def deck_of(notebook: NotebookNode) -> dict[str, Any]:
    """Collect what the template of the slides shows from the outputs of an executed report notebook.

    Parameters
    ----------
    notebook

    Returns
    -------
    dict
        ``page`` and ``header`` as `skin_tl.reporting.rendering.page_of` gives them, ``opening`` (HTML below the title),
        ``notes`` (the foot of every slide, list of str), ``words`` (by what they name) and ``slides``, each with id,
        title, html (its words), shown (figures and tables, HTML) and kind: ``words``, ``shown``, ``beside`` or
        ``below``.

    Raises
    ------
    SkinTLError
        If a cell failed, the notebook shows no slides, or they ask for a figure or table that the report does not show.
    """
    page = page_of(notebook)
    decks = [about["slides"] for _, about in pieces_of(notebook) if about.get("slides")]
    if len(decks) != 1:
        raise SkinTLError(
            f"The notebook holds {len(decks)} decks of slides, not one: run all cells of notebooks/3_report.ipynb, of "
            "which one says report.slides()."
        )
    pieces = _Pieces(notebook)
    opening, *parts = _SLIDE.split(decks[0]["html"])
    slides = [_slide(*part, pieces) for part in zip(parts[::3], parts[1::3], parts[2::3], strict=True)]
    about = {"opening": Markup(opening), "notes": decks[0]["notes"], "words": decks[0]["words"], "slides": slides}
    return {"page": page["page"], "header": Markup(page["header"])} | about


class _Pieces:
    """The figures and tables of a notebook by their anchor; each is shown once, as its ids are those of the page."""

    def __init__(self, notebook: NotebookNode):
        self._pieces: dict[str, str] = {}
        for html, about in pieces_of(notebook):
            found = _ANCHOR.match(html.lstrip())
            if about.get("piece") and found:
                self._pieces[found[1]] = html

    def take(self, anchor: str, panel: str | None, alt: str) -> str:
        """Return the figure or table `anchor`, or one panel of it, described by `alt` where that is not empty."""
        place = f"#{anchor}" if panel is None else f"#{anchor}/{panel}"
        if anchor not in self._pieces:
            known = ", ".join(sorted(self._pieces))
            raise SkinTLError(f"slides.md asks for {place}, which the report does not show. Name one of {known}.")
        html = self._pieces[anchor]
        if panel is not None:
            panels = list(_PANEL.finditer(html))
            html = html[: panels[0].start()] + panels[int(panel)][0] + html[panels[-1].end() :]
            html = html.replace(f'id="{anchor}"', f'id="{anchor}-{panel}"', 1).replace("panels several", "panels", 1)
        return re.sub(r'aria-label="[^"]*"', lambda _: f'aria-label="{alt}"', html, count=1) if alt else html


def _slide(name: str, title: str, html: str, pieces: _Pieces) -> dict[str, Any]:
    """Return one slide: its words, and what it shows beside or below them."""
    shown = [pieces.take(*found.groups()) for found in _SHOWN.finditer(html)]
    words = _SHOWN.sub("", html).strip()
    if "<img" in words:
        raise SkinTLError(
            f"slides.md, slide {name}: a picture stands within a paragraph. Write ![](#anchor) alone, between "
            "empty lines."
        )
    kind = "words" if not shown else "shown" if not words else "below"
    if kind == "below" and all(len(_PANEL.findall(piece)) in (1, 4) for piece in shown):
        kind = "beside"
    about = {"id": name, "title": Markup(title), "html": Markup(words), "kind": kind}
    return about | {"shown": [Markup(piece) for piece in shown]}


def to_html(notebook: NotebookNode) -> str:
    """Turn an executed report notebook into the text of a deck of slides, one HTML page."""
    template = templates(TEMPLATE, autoescape=True).get_template("slides.html.j2")
    return template.render(deck_of(notebook), reveal=reveal())


def render_slides(notebook: str | Path, html_file: str | Path) -> None:
    """Render the slides of an executed report notebook.

    Parameters
    ----------
    notebook, html_file
        What is read, and what is written, whole or not at all.

    Raises
    ------
    SkinTLError
        If the notebook is absent, failed, or shows no slides, or reveal.js is not installed.
    """
    write_text(html_file, to_html(read_notebook(notebook)))
