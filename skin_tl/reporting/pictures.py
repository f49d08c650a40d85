"""Rows of pictures: example images of each diagnosis, and images with their Grad-CAM, each with a text of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from skin_tl.data import preparation
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.study_files import Setup, StudyFiles
from skin_tl.explain.explanations import LEAST_SIDE, read_maps
from skin_tl.reporting import figures
from skin_tl.schema import CLASSES
from skin_tl.study import command_of

if TYPE_CHECKING:
    from skin_tl.reporting.selection import Selection

_CASE = "flex:1 1 180px;max-width:320px"
"""How wide an explained image stands among others."""

_ROW = Markup('<div class="of-diagnosis"><span class="diagnosis" style="border-color:{}">{}</span>{}</div>')
_EXAMPLES = Markup('<div class="examples" style="display:flex;gap:4px">{}</div>')
_CASES = Markup('<div class="cases" style="display:flex;flex-wrap:wrap;gap:8px">{}</div>')


def _row(colour: str, name: str, line: Markup, pictures: Iterable[Markup]) -> Markup:
    return _ROW.format(colour, name, line.format(Markup("").join(pictures)))


def _runs(report: Selection) -> StudyFiles:
    """Return the files of the runs, which alone have pictures: published studies show none."""
    if isinstance(report.files, StudyFiles):
        return report.files
    name = report.study.name
    raise SkinTLError(
        f"The published report of {name} shows pictures, which its tables lack. Write it again from the runs: "
        f"`{command_of(name)}`, then `./run_all.sh publish {name}`."
    )


def example_rows(report: Selection, n_examples: int) -> list[Markup]:
    """Return a row for each diagnosis: images of different lesions."""
    images = preparation.read_images(_runs(report).folder)
    rows = []
    for dx, pictures in figures.example_pictures(images, _runs(report).metadata, n_examples).items():
        cells = []
        for image_id, uri in pictures:
            alt = report.labels("caption.example", diagnosis=report.labels(f"diagnosis.{dx}"), image=image_id)
            cells.append(Markup('<img src="{}" alt="{}" width="160" height="120">').format(uri, alt))
        rows.append(_row(figures.DIAGNOSES[dx], report.cells.diagnosis(dx), _EXAMPLES, cells))
    return rows


def explanation_rows(report: Selection, setup: Setup, backbone: str) -> list[Markup]:
    """Return a row for each diagnosis: an image that a backbone recognises, and one that it does not."""
    cases = _cases(report, setup, backbone)
    rows = []
    for dx in CLASSES:
        cells = []
        for kind in ("hit", "miss"):
            found = [case for row, case in cases if (row["kind"], row["dx"]) == (kind, dx)]
            none = Markup('<div class="case" style="{}">{}</div>').format(_CASE, report.labels(f"caption.no_{kind}"))
            cells += found or [none]
        rows.append(_row(figures.DIAGNOSES[dx], report.cells.diagnosis(dx), _CASES, cells))
    return rows


def error_rows(report: Selection, setup: Setup) -> list[Markup]:
    """Return a row for each backbone: the errors that it is surest of."""
    rows = []
    for backbone in report.study.backbones:
        cells = [case for row, case in _cases(report, setup, backbone) if row["kind"] == "error"]
        if cells:
            rows.append(_row(figures.backbone_style(backbone)[0], backbone, _CASES, cells))
    return rows


def _cases(report: Selection, setup: Setup, backbone: str) -> list[tuple[dict[str, Any], Markup]]:
    """Return the explained images of a run: pairs of their row in ``explanations.csv`` and HTML."""
    images = preparation.read_images(_runs(report).folder)
    row_of, pixels = {image_id: row for row, image_id in enumerate(images.ids)}, images.pixels
    table = setup.of(report.tables["explanations.csv"])
    chosen = table[table["backbone"] == backbone].to_dict("records")
    maps = read_maps(_runs(report).folder / setup.strategy / backbone, len(chosen), command_of(report.study.name))
    html = Markup(
        '<div class="case" style="{}"><img src="{}" alt="{}" width="320" height="120" style="width:100%;'
        'height:auto"><br><span>{} ({})</span></div>'
    )
    cases = []
    for row, heat in zip(chosen, maps, strict=True):
        right = row["dx"] == row["predicted"]
        verdict = report.labels("caption.recognised") if right else report.labels("caption.taken_for", **row)
        picture = figures.explained_picture(pixels[row_of[row["image_id"]]], heat)
        shown = picture, _alt(report, row, right), verdict, report.cells.number(row["probability"], ".0%")
        cases.append((row, html.format(_CASE, *shown)))
    return cases


def _alt(report: Selection, row: dict[str, Any], right: bool) -> str:
    """Return the alternative text of an explained image."""
    labels = report.labels
    middle = labels("caption.nothing")
    if row["map_side"] < LEAST_SIDE:
        middle = labels("caption.coarse", side=labels.number(row["map_side"], "d"))
    elif pd.notna(row["middle"]):
        middle = labels("caption.middle", share=labels.number(row["middle"], ".0%"))
    words = {name: labels(f"diagnosis.{row[name]}") for name in ("dx", "predicted")}
    words |= {"image": row["image_id"], "probability": labels.number(row["probability"], ".0%"), "middle": middle}
    return labels("caption.explained_hit" if right else "caption.explained_miss", **words)
