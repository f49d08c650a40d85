"""Rendering: from the executed report notebook to one HTML file and a PDF of it.

Takes the notebook whose cells showed the pieces of the report (`skin_tl.reporting.report`); gives a page that holds
everything it needs and asks the network for nothing, made by nbconvert with the template in ``report/template/``, and
the same page printed by WeasyPrint.  The same notebook gives the same bytes.
"""

from __future__ import annotations

import base64
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import nbformat
from nbconvert.exporters import TemplateExporter
from nbformat import NotebookNode

from skin_tl.data.images import damaged_refused
from skin_tl.errors import SkinTLError
from skin_tl.files import ROOT, write_atomically, write_text

if TYPE_CHECKING:
    import weasyprint

TEMPLATE = ROOT / "report" / "template"

APPENDIX = "appendix"
"""Id of the section whose parts are folded on a screen: details that the answers do not need."""

_HEADING = re.compile(r'<h([1-6])(?: [^>]*?)? ?id="([^"]+)">(.*?)</h\1>', re.DOTALL)

# Fonts that come with matplotlib, so that the PDF looks the same on every machine, also on one without any font.
_FONTS = {
    ("Report Serif", "normal", "normal"): "STIXGeneral",
    ("Report Serif", "bold", "normal"): "STIXGeneralBol",
    ("Report Serif", "normal", "italic"): "STIXGeneralItalic",
    ("Report Serif", "bold", "italic"): "STIXGeneralBolIta",
    ("Report Sans", "normal", "normal"): "DejaVuSans",
    ("Report Sans", "bold", "normal"): "DejaVuSans-Bold",
    ("Report Sans", "normal", "italic"): "DejaVuSans-Oblique",
}


class ReportExporter(TemplateExporter):
    """nbconvert's exporter with the report's template: what cells showed, without their code."""

    file_extension = ".html"
    output_mimetype = "text/html"

    def __init__(self, **options: Any):
        super().__init__(
            template_name=TEMPLATE.name,
            extra_template_basedirs=[str(TEMPLATE.parent)],
            template_file="index.html.j2",
            **options,
        )

    def from_notebook_node(self, nb: NotebookNode, resources: Any = None, **keywords: Any) -> tuple[Any, Any]:
        """Fill the template with the pieces of an executed notebook."""
        return super().from_notebook_node(nb, {**(resources or {}), **page_of(nb)}, **keywords)


def read_notebook(path: str | Path) -> NotebookNode:
    """Read an executed notebook; raise SkinTLError where it is absent."""
    try:
        return nbformat.read(path, as_version=4)
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing. Run the report notebook first (./run_all.sh does).") from None


def pieces_of(notebook: NotebookNode) -> Iterator[tuple[str, dict[str, Any]]]:
    """Give what the cells of an executed notebook showed as pieces: pairs of HTML and what the piece says of itself.

    Raises
    ------
    SkinTLError
        If a cell failed.
    """
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                raise SkinTLError(f"The report notebook failed: {output.ename}: {output.evalue}. Run it again.")
            about = output.get("metadata", {}).get("skin_tl")
            if about:
                yield output.data["text/html"], about


def page_of(notebook: NotebookNode) -> dict[str, Any]:
    """Collect what the template shows from the outputs of an executed notebook.

    Parameters
    ----------
    notebook

    Returns
    -------
    dict
        ``page`` (language, title, running header, words), ``header`` (HTML) and ``sections``, each with id, title, html
        and parts (id and title of its sub-headings).

    Raises
    ------
    SkinTLError
        If a cell failed, or the notebook shows no report.
    """
    page, header, sections = None, [], []
    for piece, about in pieces_of(notebook):
        if not about.get("piece"):
            continue
        page = about.get("page") or page
        headings = [(int(level), name, title) for level, name, title in _HEADING.findall(piece)]
        if headings and headings[0][0] == 2:
            sections.append({"id": headings[0][1], "title": headings[0][2], "html": [], "parts": []})
        if sections:
            sections[-1]["html"].append(piece)
            sections[-1]["parts"] += [{"id": name, "title": title} for level, name, title in headings if level == 3]
        else:
            header.append(piece)
    if page is None or not sections:
        raise SkinTLError("The notebook shows no report: run all cells of notebooks/3_report.ipynb first.")
    for section in sections:
        section["html"] = "\n".join(section["html"])
        if section["id"] == APPENDIX:
            section["html"] = _folded(section["html"])
    return {"page": page, "header": "\n".join(header), "sections": sections}


def _folded(html: str) -> str:
    """Put each part of a section, from one heading of third level to the next, into a fold that shows its heading."""
    part = r"(<h3 .*?</h3>)(.*?)(?=<h3 |\Z)"
    return re.sub(part, r"<details>\n<summary>\1</summary>\2</details>\n", html, flags=re.DOTALL)


def to_html(notebook: NotebookNode) -> str:
    """Turn an executed report notebook into the text of one HTML page."""
    text, _ = ReportExporter().from_notebook_node(notebook)
    return text


def lay_out(page: str) -> weasyprint.Document:
    """Lay an HTML page out on paper; only data URIs and matplotlib's fonts are fetched."""
    with damaged_refused():
        import weasyprint
    from weasyprint.text.fonts import FontConfiguration
    from weasyprint.urls import URLFetcher

    logging.getLogger("weasyprint").setLevel(logging.CRITICAL)  # it warns of links to files beside the report
    logging.getLogger("fontTools").setLevel(logging.ERROR)
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rules = "\n".join(
        f'@font-face {{ font-family: "{family}"; font-weight: {weight}; font-style: {style}; '
        f'src: url("{(fonts / file).with_suffix(".ttf").as_uri()}") }}'
        for (family, weight, style), file in _FONTS.items()
    )
    configuration = FontConfiguration()
    css = weasyprint.CSS(string=rules, font_config=configuration)
    # Elements round numbers, of use on a screen alone, make WeasyPrint break lines before they are full.
    bare = re.sub(r"</?data\b[^>]*>", "", _with_pictures(page))
    document = weasyprint.HTML(string=bare, url_fetcher=URLFetcher(allowed_protocols=["data"]))
    return document.render(stylesheets=[css], font_config=configuration, pdf_tags=True)


def to_pdf(page: str) -> bytes:
    """Print an HTML page to PDF."""
    document, date = lay_out(page), os.environ.get("SOURCE_DATE_EPOCH")
    # Without the system's library libharfbuzz-subset, fontTools cuts fonts to size and would date them.
    os.environ["SOURCE_DATE_EPOCH"] = date or "0"
    try:
        return document.write_pdf(pdf_tags=True)
    finally:
        if date is None:
            del os.environ["SOURCE_DATE_EPOCH"]


def _with_pictures(page: str) -> str:
    """Return the page with its drawings as images: WeasyPrint styles and lays out each node of an inline one."""

    def picture(found: re.Match[str]) -> str:
        drawing, label = found["drawing"], found["label"]
        if drawing is None:
            labels.append(label)
            return found[0]
        alt = labels.pop() if labels else ""
        size = " ".join(re.findall(r'(?:width|height)="[^"]*"', drawing.split(">", 1)[0]))
        data = base64.b64encode(drawing.encode()).decode()
        return f'<img class="drawing" alt="{alt}" {size} src="data:image/svg+xml;base64,{data}">'

    labels: list[str] = []
    parts = r'<div class="panels[^"]*" role="img" aria-label="(?P<label>[^"]*)"|(?P<drawing><svg .*?</svg>)'
    return re.sub(parts, picture, page, flags=re.DOTALL)


def render_report(notebook: str | Path, html_file: str | Path, pdf_file: str | Path) -> None:
    """Render an executed report notebook.

    Parameters
    ----------
    notebook, html_file, pdf_file
        What is read, and what is written, each whole or not at all.

    Raises
    ------
    SkinTLError
        If the notebook is absent, failed, or shows no report.
    """
    page = to_html(read_notebook(notebook))
    printed = to_pdf(page)
    write_text(html_file, page)
    with write_atomically(pdf_file) as part:
        part.write_bytes(printed)
