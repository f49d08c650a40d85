"""Drawings that explain: what a convolutional network computes, and what transfer learning is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle
from scipy import signal

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import CLASSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# A toy picture, 8 × 8: a round dark spot on bright ground, in tenths of full brightness.
_HALF = np.array([[9, 9, 9, 8], [9, 8, 6, 4], [9, 6, 3, 2], [8, 4, 2, 1]])
_SPOT = np.block([[_HALF, _HALF[:, ::-1]], [_HALF[::-1], _HALF[::-1, ::-1]]])
_FILTER = np.array([[1, 0, -1]] * 3)
_MARK = draw.DIAGNOSES["mel"]

_WIDTH = 4.6
"""Inches, of every drawing here."""


def _canvas(height: float, title: str) -> tuple[draw.Drawing, Axes]:
    """Return a figure with one invisible axes whose units are inches, its title at the top."""
    figure, axes = draw.blank_figure(_WIDTH, height)
    style: dict[str, Any] = {"ha": "center", "va": "top", "fontweight": "bold", "fontsize": 9.5}
    axes.text(_WIDTH / 2, height - 0.03, title, **style)
    return figure, axes


def _write(axes: Axes, x: float, y: float, text: str, va: str = "baseline", **style: Any) -> None:
    axes.text(x, y, text, va=va, ha=style.pop("ha", "center"), fontsize=style.pop("fontsize", 8), **style)


class _Cells:
    """Draws grids of numbers, each cell in the colour of its number.

    Parameters
    ----------
    highest
        Where the colours of numbers below and above zero end.
    """

    def __init__(self, labels: Labels, highest: float):
        self.labels, self.highest = labels, highest

    def draw(self, axes, values, left, top, side, size=7.0, cmap=draw.SIGNED, ends=None):
        """Draw a grid whose upper left corner is at (left, top); `side` is that of a cell, in inches."""
        low, high = ends or (-self.highest, self.highest)
        colours = mpl.colormaps[cmap] if isinstance(cmap, str) else cmap
        for (row, column), value in np.ndenumerate(values):
            colour = colours((value - low) / (high - low))
            x, y = left + column * side, top - (row + 1) * side
            axes.add_patch(Rectangle((x, y), side, side, facecolor=colour, edgecolor="white", linewidth=0.6))
            text, style = self.labels.number(float(value), ".0f"), {"va": "center", "fontsize": size}
            _write(axes, x + side / 2, y + side / 2, text, color=draw.ink_on(colour), **style)

    def operation(self, axes, before, after, words, place):
        """Draw a grid, and right of an arrow what an operation makes of it, drawn at `place`."""
        self.draw(axes, before, 0.35, 1.86, 0.25)
        draw.arrow(axes, (2.0, 1.11), (2.6, 1.11))
        self.draw(axes, after, *place)
        _write(axes, 2.3, 1.2, words[1], "bottom")
        _write(axes, 1.1, 0.12, words[0])
        _write(axes, 3.5, 0.12, words[2])


def _frame(axes: Axes, left: float, top: float, n_cells: int, side: float, colour: str) -> None:
    """Draw a frame around a square of cells."""
    corner, width = (left, top - n_cells * side), n_cells * side
    axes.add_patch(Rectangle(corner, width, width, fill=False, edgecolor=colour, linewidth=2, zorder=3))


@draw.themed
def cnn_operations(labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw the four operations of a convolutional network, worked out on a toy picture.

    Returns
    -------
    list of Drawing
        Convolution, ReLU, pooling, classification; each uses what the one before it gave.
    """
    maps = signal.correlate2d(_SPOT, _FILTER, mode="valid")
    positive = np.maximum(maps, 0)
    pooled = positive.reshape(3, 2, 3, 2).max(axis=(1, 3))
    cells = _Cells(labels, np.abs(maps).max())
    names = ("convolution", "relu", "pooling", "classification")
    heights = dict.fromkeys(names, 2.5) | {"classification": 2.7}
    made = [_canvas(heights[name], f"{place}  {labels(f'cnn.{name}')}") for place, name in enumerate(names, start=1)]
    convolution, relu, pooling, classification = (axes for _, axes in made)
    _draw_convolution(convolution, maps, cells, labels)
    words = labels("cnn.map"), "max(0, x)", labels("cnn.rectified")
    cells.operation(relu, maps, positive, words, (2.75, 1.86, 0.25))
    words = labels("cnn.rectified"), labels("cnn.largest"), labels("cnn.pooled")
    cells.operation(pooling, positive, pooled, words, (2.93, 1.69, 0.38, 8.5))
    for row, column in np.ndindex(3, 3):
        _frame(pooling, 0.35 + 0.5 * column, 1.86 - 0.5 * row, 2, 0.25, draw.SOFT)
    _frame(pooling, 1.35, 1.86, 2, 0.25, _MARK)
    _frame(pooling, 3.69, 1.69, 1, 0.38, _MARK)
    _draw_classification(classification, pooled.reshape(9, 1), cells, labels)
    return [drawing for drawing, _ in made]


def _draw_convolution(axes: Axes, maps: np.ndarray, cells: _Cells, labels: Labels) -> None:
    side = 0.215
    cells.draw(axes, _SPOT, 0.12, 1.98, side, 6.5, "gray", (0, 10))
    _frame(axes, 0.12 + 4 * side, 1.98 - side, 3, side, _MARK)
    cells.draw(axes, _FILTER, 2.03, 1.44, side, 6.5, ends=(-2.6, 2.6))
    _frame(axes, 2.03, 1.44, 3, side, _MARK)
    _write(axes, 2.35, 1.55, labels("cnn.filter"), "bottom")
    draw.arrow(axes, (2.72, 1.12), (3.05, 1.12))
    cells.draw(axes, maps, 3.12, 1.76, side, 6.5)
    _frame(axes, 3.12 + 4 * side, 1.76 - side, 1, side, _MARK)
    _write(axes, 0.12 + 4 * side, 0.12, labels("cnn.picture"))
    _write(axes, 3.12 + 3 * side, 0.12, labels("cnn.map"))


def _draw_classification(axes: Axes, features: np.ndarray, cells: _Cells, labels: Labels) -> None:
    cells.draw(axes, features, 0.35, 2.32, 0.225)
    weights = np.random.default_rng(5).normal(0, 0.05, (len(CLASSES), 9))  # a head that has learned nothing yet
    chances = np.exp(weights @ features[:, 0])
    chances /= chances.sum()
    for place, (name, chance) in enumerate(zip(CLASSES, chances, strict=True)):
        height = 2.2 - 0.3 * place
        for row in range(9):
            axes.plot([0.62, 1.9], [2.32 - 0.225 * (row + 0.5), height], color=draw.GRID, linewidth=0.6, zorder=0)
        _write(axes, 1.97, height, name, "center", ha="left")
        style: dict[str, Any] = {"facecolor": draw.DIAGNOSES[name], "edgecolor": draw.SOFT, "linewidth": 0.5}
        axes.add_patch(Rectangle((2.48, height - 0.09), 1.7 * chance / chances.max(), 0.18, **style))
    _write(axes, 0.46, 0.12, labels("cnn.features"))
    _write(axes, 3.0, 0.12, labels("cnn.probabilities"))


_LAYERS = 5


def _box(axes, left, bottom, width, height, colour, edge, line, style):
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom), width, height, boxstyle=f"round,{style}", facecolor=colour, edgecolor=edge, linewidth=line
        )
    )


def _network(axes: Axes, bottom: float, source: str, colours: Sequence[str], target: str) -> None:
    """Draw a row: what a network takes, its layers, which grow narrower, the head last, and what it gives."""
    for left, width, text in ((0.08, 1.0, source), (3.45, 1.07, target)):
        _box(axes, left, bottom + 0.12, width, 0.76, "white", draw.SOFT, 1, "pad=0.02,rounding_size=0.06")
        _write(axes, left + width / 2, bottom + 0.5, text, "center", linespacing=1.25)
    draw.arrow(axes, (1.12, bottom + 0.5), (1.36, bottom + 0.5))
    draw.arrow(axes, (3.12, bottom + 0.5), (3.4, bottom + 0.5))
    for layer, colour in enumerate(colours):
        height = 1.0 - 0.13 * layer
        place = 1.45 + 0.27 * layer, bottom + (1 - height) / 2
        _box(axes, *place, 0.17, height, colour, draw.INK, 0.8, "pad=0.01,rounding_size=0.04")


@draw.themed
def transfer(
    labels: Labels = ENGLISH, strategies: Sequence[str] = ("feature_extraction",), **fields: str
) -> list[draw.Drawing]:
    """Draw training from scratch beside transfer, as the presentation does.

    Parameters
    ----------
    strategies
        Those of the study, which tell what becomes of the copied layers: frozen, learning on, or both.
    **fields
        What the labels name: `images` (of skin), `photographs` and `categories` (that the backbones learned
        from), numbers written as text.

    Returns
    -------
    list of Drawing
        From scratch, transfer.
    """
    skin, diagnoses = labels("transfer.skin", **fields), labels("transfer.diagnoses")
    scratch, axes = _canvas(2.6, labels("transfer.scratch"))
    bottom = 0.8
    _network(axes, bottom, skin, [draw.BLANK] * (_LAYERS + 1), diagnoses)
    _write(axes, 2.24, bottom + 1.12, labels("transfer.random"), "bottom")
    axes.plot([1.45, 3.0], [bottom - 0.12] * 2, color=draw.NEW_TEXT, linewidth=2)
    _write(axes, 2.24, bottom - 0.2, labels("transfer.all_learn"), "top", color=draw.NEW_TEXT)

    reuse, axes = _canvas(3.9, labels("transfer.transfer"))
    top, bottom = 2.2, 0.55
    photographs, categories = (labels(f"transfer.{name}", **fields) for name in ("photographs", "categories"))
    _network(axes, top, photographs, [draw.LEARNED] * _LAYERS + [draw.UNUSED], categories)
    _write(axes, 2.24, top + 1.06, labels("transfer.source"), "bottom")
    draw.arrow(axes, (2.07, top - 0.06), (2.07, bottom + 1.08), draw.LEARNED_TEXT, 2.4)
    middle = (top + bottom + 1) / 2 + 0.01
    _write(axes, 2.2, middle, labels("transfer.copy"), "center", ha="left", color=draw.LEARNED_TEXT)
    _network(axes, bottom, skin, [draw.LEARNED] * _LAYERS + [draw.NEW], diagnoses)
    axes.plot([1.45, 2.72], [bottom - 0.08] * 2, color=draw.LEARNED_TEXT, linewidth=2)
    ways = "frozen" if "fine_tuning" not in strategies else "both" if "feature_extraction" in strategies else "tuned"
    _write(axes, 2.08, bottom - 0.15, labels(f"transfer.{ways}"), "top", color=draw.LEARNED_TEXT)
    axes.plot([2.8, 3.0], [bottom - 0.08] * 2, color=draw.NEW_TEXT, linewidth=2)
    _write(axes, 2.86, bottom - 0.15, labels("transfer.learns"), "top", ha="left", color=draw.NEW_TEXT)
    return [scratch, reuse]
