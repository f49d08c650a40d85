"""Panel parts: widgets with the names by which they are styled, the macros of the template, and the ROC curve.

Takes words and what is to happen at a click; gives ipywidgets, and HTML for them.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import ipywidgets as widgets
import numpy as np
import pandas as pd
from markupsafe import Markup
from sklearn import metrics as skm

from skin_tl.reporting.drawing import DIAGNOSES, GRID, SOFT, Drawing, themed, to_svg, write_numbers
from skin_tl.reporting.texts import Labels, templates
from skin_tl.schema import CLASSES, PROBABILITIES


def macros(given: Mapping[str, Any]) -> Any:
    """Return the macros of the template, each a function that gives HTML; `given` is what they name besides."""
    rules = templates(Path(__file__).parent, autoescape=True, lstrip_blocks=True)
    return rules.get_template("panels.html.j2").make_module(dict(given))


def _named(widget: Any, kind: str) -> Any:
    """Give a widget a class; an empty one would stop the browser."""
    return widget.add_class(kind) if kind else widget


def panel(*children: widgets.Widget) -> widgets.VBox:
    """Return widgets below each other, in the look of the panels."""
    return _named(widgets.VBox(children), "skin-tl")


def row(*children: widgets.Widget) -> widgets.HBox:
    """Return widgets beside each other, as far as there is room."""
    return widgets.HBox(children, layout=widgets.Layout(flex_flow="row wrap", grid_gap="4px 14px"))


def html(kind: str) -> widgets.HTML:
    """Return a place for HTML that is styled and found by the class `kind`."""
    return _named(widgets.HTML(), kind)


def dropdown(description: str, kind: str = "", **options: Any) -> widgets.Dropdown:
    """Return a list to choose from, whose description is shown whole."""
    return _named(widgets.Dropdown(description=description, style={"description_width": "initial"}, **options), kind)


def button(description: str, act: Callable[[], None], kind: str = "", **layout: str) -> widgets.Button:
    """Return a button as wide as its words, which calls `act`."""
    found = widgets.Button(description=description, layout={"width": "auto"} | layout)
    found.on_click(lambda _: act())
    return _named(found, kind)


def matrix(show: Callable[[str, str], None]) -> tuple[widgets.GridBox, dict[tuple[str, str], widgets.Button]]:
    """Return a confusion matrix whose cells call `show`, and its buttons by true and predicted diagnosis."""
    cells = {
        (dx, predicted): button(
            "", partial(show, dx, predicted), f"skin-cell-{dx}-{predicted}", height="34px", margin="1px"
        )
        for dx in CLASSES
        for predicted in CLASSES
    }
    children = [widgets.HTML(), *(widgets.HTML(f"<b>{dx}</b>", layout={"margin": "0 auto"}) for dx in CLASSES)]
    for dx in CLASSES:
        children += [widgets.HTML(f"<b>{dx}</b>"), *(cells[dx, predicted] for predicted in CLASSES)]
    layout = {"grid_template_columns": "52px repeat(7, minmax(44px, 74px))", "align_items": "center"}
    return _named(widgets.GridBox(children, layout=layout), "skin-matrix"), cells


def probabilities(row: Mapping[str, float]) -> dict[str, float]:
    """Return the probability of each diagnosis in a row of predictions."""
    return {dx: row[name] for dx, name in zip(CLASSES, PROBABILITIES, strict=True)}


_CURVE = (0.2, 0.22, 0.76, 0.74)
"""Where the axes of the ROC curve stand in their figure: left, bottom, width, height."""


@themed
def roc_curve(lesions: pd.DataFrame, labels: Labels) -> str:
    """Draw the ROC curve of melanoma on the test subset as SVG."""
    figure = Drawing(figsize=(3.4, 3.1))
    axes = figure.add_axes(_CURVE)
    wanted = lesions["melanoma"].to_numpy(bool)
    if wanted.any() and not wanted.all():
        false, true, _ = skm.roc_curve(wanted, lesions["melanoma_score"])
        axes.plot(false, true, color=SOFT, linewidth=1.6)
    axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_xlabel(labels("explore.curve_x", n=labels.number(int((~wanted).sum()), ",d")))
    axes.set_ylabel(labels("explore.curve_y", n=labels.number(int(wanted.sum()), ",d")))
    write_numbers(axes.xaxis, labels, ".1f")
    write_numbers(axes.yaxis, labels, ".1f")
    return to_svg(figure, "curve")


def with_point(curve: str, false: float, true: float) -> Markup:
    """Put a point on the ROC curve; nothing where it has no place."""
    size = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', curve)
    if size is None or not np.isfinite([false, true]).all():
        return Markup(curve)
    wide, high = map(float, size.groups())
    left, bottom, width, height = _CURVE
    x, y = wide * (left + width * false), high * (1 - bottom - height * true)
    point = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" fill="{DIAGNOSES["mel"]}" stroke="#ffffff"/></svg>'
    return Markup(curve.rstrip().removesuffix("</svg>") + point)
