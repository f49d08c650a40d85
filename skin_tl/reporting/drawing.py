"""What all figures share: theme, colours, markers, and how a figure becomes vector graphics.

Takes nothing but matplotlib; gives `Drawing`, a matplotlib figure that shows itself in a notebook, the style and the
shown name of each backbone, and small helpers for axes.  `to_svg` makes figures vector graphics to be put inline into
a page, the same bytes for the same figure.
"""

from __future__ import annotations

import base64
import io
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import FuncFormatter, MaxNLocator

from skin_tl.registry import BACKBONES
from skin_tl.schema import CLASSES, CONFIDENCE, CONFIDENCES, STRATEGIES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.legend import Legend
    from matplotlib.typing import ColorType

    from skin_tl.reporting.texts import Labels

INK, SOFT, GRID = "#1f2933", "#52606d", "#d9dfe5"
GREY = "#767676"
"""Of what is not to be compared: baselines, and groups too small for a conclusion."""

DIM = "#a8a8a8"
"""Inside of the markers of a second other condition, between white and full."""

PALE = "#BFD9EC"
"""Areas of what is benign, below the outline of its diagnosis."""

LEARNED, NEW, BLANK, UNUSED = "#9fc5e8", "#f6b26b", "#ffffff", "#d9d9d9"
"""Layers of a network in the drawings that explain: learned before, to be learned, random, thrown away."""
LEARNED_TEXT, NEW_TEXT = "#1d4f7a", "#a04000"
"""Words and strokes that belong to such layers, dark enough to be read on white."""
SIGNED = sns.color_palette("vlag", as_cmap=True)
"""Colours of numbers below and above zero."""

# Okabe and Ito's palette, its black left to the text.
_PALETTE = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#0072B2", "#CC79A7")
DIAGNOSES = dict(zip(CLASSES, _PALETTE, strict=True))

# A marker each, so that no colour is needed to tell them apart; pseudo-backbones beside those of the registry.
BACKBONE_STYLES = {name: about.style for name, about in BACKBONES.items() if about.style} | {
    "ensemble": ("#1F2933", "X"),
    "majority": (GREY, "<"),
    "metadata_only": (GREY, ">"),
    "colour_histogram": (GREY, "d"),
}
_STYLES = (("#1D4F7A", "o"), ("#117733", "s"), ("#A04000", "D"), ("#AA4499", "^"))
STRATEGY_STYLES = dict(zip(STRATEGIES, _STYLES, strict=False))
"""Colour and marker of a strategy, where strategies stand beside each other."""
CONFIDENCE_STYLES = dict(zip(CONFIDENCES, _STYLES, strict=True))
"""Colour and marker of a score of confidence."""
_OTHER_STYLES = (("#AA4499", "8"), ("#6B6B00", "p"), ("#4A4A4A", "h"))

THEME: dict[Any, Any] = {
    **sns.axes_style(
        "whitegrid",
        {"grid.color": GRID, "axes.edgecolor": GRID, "text.color": INK, "axes.labelcolor": INK, "axes.axisbelow": True},
    ),
    "xtick.color": INK,
    "ytick.color": INK,
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # comes with matplotlib, so that a figure is the same everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.labelsize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "skin-tl",
    "figure.dpi": 100,
    "savefig.facecolor": "white",
}
"""The theme of all figures, seaborn's ``whitegrid`` with our ink; used by everything below and nowhere else."""


class Drawing(Figure):
    """A matplotlib figure that a notebook shows as it is, without pyplot's global state."""

    photographs = False
    """Whether it holds pixels of images, which a vector graphic would only make larger."""

    def _repr_mimebundle_(self, include=None, exclude=None):
        if self.photographs:
            with mpl.rc_context(THEME):
                buffer = io.BytesIO()
                self.savefig(buffer, format="png", dpi=110)
            return {"image/png": base64.b64encode(buffer.getvalue()).decode()}
        return {"image/svg+xml": to_svg(self)}


themed = mpl.rc_context(THEME)
"""Decorator that runs a drawing function under `THEME`."""


def backbone_style(backbone: str) -> tuple[str, str]:
    """Return the colour and the marker of a backbone; one that is not listed gets those of its name's length."""
    return BACKBONE_STYLES.get(backbone) or _OTHER_STYLES[len(backbone) % len(_OTHER_STYLES)]


def backbone_name(backbone: str, labels: Labels) -> str:
    """Return how a backbone is called in a language: its own name, or the label of a pseudo-backbone."""
    return labels.known("backbone", backbone)


def ink_on(colour: ColorType) -> str:
    """Return the colour of words on a coloured ground: ink, white or black, the first with a contrast of 4.5 (AA)."""
    return next(ink for ink in (INK, "white", "black") if contrast_of(ink, colour) >= 4.5)


def contrast_of(*colours: ColorType) -> float:
    """Return the contrast of two colours as WCAG 2 defines it, 1 to 21."""
    darker, lighter = sorted(map(sns.utils.relative_luminance, colours))
    return (lighter + 0.05) / (darker + 0.05)


def to_svg(figure: Figure, prefix: str = "figure") -> str:
    """Return a figure as an SVG element to be put inline.

    Parameters
    ----------
    prefix
        Begins every id inside, so that no two figures of a page share one.

    Returns
    -------
    str
        Without date, comments, style sheet or needless groups.  Words are text; they were laid out with the widest of
        the usual fonts, so that they fit in others.
    """
    with mpl.rc_context(THEME):
        buffer = io.StringIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    root = ElementTree.fromstring(buffer.getvalue())
    kept = set(re.findall(r"#([^\s\")]+)", buffer.getvalue()))
    _tidy(root, kept, prefix)
    attributes = {"viewBox": root.get("viewBox", ""), "font-family": _FONTS, "stroke-linejoin": "round"}
    attributes |= {"width": f"{figure.get_figwidth() * 96:g}", "height": f"{figure.get_figheight() * 96:g}"}
    root.attrib.clear()
    root.attrib.update(xmlns="http://www.w3.org/2000/svg", **attributes)
    return ElementTree.tostring(root, encoding="unicode")


_FONTS = "'Report Sans', 'DejaVu Sans', Verdana, sans-serif"
_POINTS = ("d", "x", "y", "transform", "width", "height")


def _tidy(element: ElementTree.Element, kept: set[str], prefix: str) -> None:
    """Strip an SVG element: no namespaces, style attributes or groups without a purpose, two decimals, own ids."""
    element.tag = element.tag.rpartition("}")[2]
    attributes: dict[str, str] = {}
    for name, value in element.attrib.items():
        name = name.rpartition("}")[2]
        if name == "style":
            attributes |= dict(re.split(r":\s*", rule, maxsplit=1) for rule in re.split(r";\s*", value) if rule)
        elif name != "id":
            attributes[name] = value
        elif value in kept:
            attributes["id"] = f"{prefix}-{value}"
    attributes.pop("font-family", None)
    if attributes.get("transform", "").startswith("rotate(-0 "):
        del attributes["transform"]
    for name, value in attributes.items():
        if name in _POINTS:
            value = re.sub(r"-?\d+\.\d+", lambda number: f"{round(float(number[0]), 2):g}", value)
        if name == "href" or "url(#" in value:
            value = re.sub(r"^#|url\(#", rf"\g<0>{prefix}-", value)
        attributes[name] = " ".join(value.split())
    element.attrib.clear()
    element.attrib.update(attributes)
    children = []
    for child in element:
        if child.tag.endswith(("}metadata", "}style")):
            continue
        _tidy(child, kept, prefix)
        children += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = [child for child in children if child.tag != "defs" or len(child)]
    if element.text and not element.text.strip():
        element.text = None
    element.tail = "\n" if element.tag != "tspan" else None


def new_figure(width: float, height: float, **options: Any) -> tuple[Drawing, Any]:
    """Return a figure, in inches, and its axes; `options` as of `matplotlib.figure.Figure.subplots`."""
    figure = Drawing(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(**options)


def blank_figure(width: float, height: float) -> tuple[Drawing, Axes]:
    """Return a figure without margins, axes or grid, whose coordinates are inches."""
    figure = Drawing(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str = SOFT, width: float = 1.6
) -> None:
    """Draw an arrow."""
    style: dict[str, Any] = {"arrowstyle": "-|>", "mutation_scale": 11, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, end, linewidth=width, color=colour, **style))


def level_labels(drawings: Sequence[Drawing]) -> int:
    """Give the words below several panels as many lines, so that their rows are level; return how many break a line."""
    labels = [drawing.axes[0].xaxis.label for drawing in drawings]
    most = max(label.get_text().count("\n") for label in labels)
    for label in labels:
        label.set_text(label.get_text() + "\n " * (most - label.get_text().count("\n")))
    return most


def unit_figure(width: float, height: float, labels: Labels) -> tuple[Drawing, Axes]:
    """Return a figure whose axes both go from 0 to 1, with the diagonal."""
    figure, axes = new_figure(width, height)
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    for axis in (axes.xaxis, axes.yaxis):
        write_numbers(axis, labels, ".1f")
    return figure, axes


def confidence_level(labels: Labels) -> str:
    """Return the confidence level of every interval, as text."""
    return labels.number(CONFIDENCE, ".0%")


def write_numbers(axis: Axis, labels: Labels, spec: str) -> None:
    """Write the numbers of an axis as the language writes them."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: labels.number(value, spec)))


def score_axis(axes: Axes, labels: Labels, low: float, high: float) -> None:
    """Set the x-axis of a score (0 to 1) from `low` to `high`, with ticks as fine as its span allows."""
    span = high - low
    steps = ((0.7, 0.2, ".1f"), (0.35, 0.1, ".1f"), (0.12, 0.05, ".2f"), (0.0, 0.02, ".2f"))
    step, spec = next((step, spec) for least, step, spec in steps if span > least)
    axes.set_xlim(low, high)
    first, last = np.ceil(max(low, 0) / step - 1e-9), np.floor(min(high, 1) / step + 1e-9)
    axes.set_xticks(np.arange(first, last + 1) * step)
    write_numbers(axes.xaxis, labels, spec)


def difference_axis(axes: Axes, labels: Labels, values: Iterable[float]) -> None:
    """Set the x-axis of a difference so that it holds zero, with a line there, and `values`, and room around."""
    low, high = np.nanmin([0.0, *values]), np.nanmax([0.0, *values])
    room = 0.12 * max(high - low, 0.02)
    axes.set_xlim(low - room, high + room)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low - room, high + room)
    axes.set_xticks([tick for tick in ticks if low - room <= tick <= high + room])
    write_numbers(axes.xaxis, labels, "+.2f" if ticks[1] - ticks[0] > 0.0099 else "+.3f")
    axes.axvline(0, color=SOFT, linewidth=1.2, zorder=1)


def with_room(values: Sequence[float] | np.ndarray, share: float = 0.28) -> tuple[float, float]:
    """Return the ends of an axis of scores on which a number fits beside the lowest and the highest of `values`."""
    low, high = np.nanmin(values), np.nanmax(values)
    room = share * max(high - low, 0.1)
    return low - room, high + room


def in_lines(name: str, width: int = 17) -> str:
    """Break a long name into lines of so many letters, at its spaces."""
    return textwrap.fill(name, width, break_long_words=False, break_on_hyphens=False)


def write_below(axes: Axes, text: str, width: int = 40) -> None:
    """Write the label of the x-axis, lines longer than `width` letters broken."""
    axes.set_xlabel("\n".join(in_lines(line, width) for line in text.split("\n")))


def name_rows(axes: Axes, names: Sequence[str], linespacing: float = 1.1) -> None:
    """Name the rows of a figure, which stand at 0, 1, 2 … from the bottom up."""
    axes.set_yticks(range(len(names)), names, linespacing=linespacing)
    axes.grid(visible=False, axis="y")


def rows_figure(
    backbones: Iterable[str], labels: Labels, width: float = 4.6, margin: float = 1.0, height: float = 0.42
) -> tuple[Drawing, Axes]:
    """Return a figure and its axes, a row for each backbone from the bottom up; `margin` and `height` in inches."""
    names = [in_lines(backbone_name(backbone, labels)) for backbone in backbones]
    figure, axes = new_figure(width, margin + height * len(names))
    name_rows(axes, names, linespacing=1.05)
    axes.set_ylim(-0.5, len(names) - 0.35)
    return figure, axes


def rarest_first(counts: pd.Series) -> list[str]:
    """Return diagnoses in the order of their counts, a `pandas.Series` by diagnosis, the rarest first."""
    return sorted((dx for dx in CLASSES if dx in counts), key=lambda dx: (counts[dx], dx))


def interval_line(axes: Axes, low: float, high: float, place: float, colour: ColorType, width: float = 2) -> None:
    """Draw an interval in a row, nothing where it has no ends."""
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [place] * 2, color=colour, linewidth=width, solid_capstyle="butt")


def dumbbell(axes: Axes, place: float, hollow: float, full: float, backbone: str) -> None:
    """Draw two values of a backbone in a row, the markers hollow and full, with a line between; NaN is left out."""
    colour, marker = backbone_style(backbone)
    axes.plot([hollow, full], [place] * 2, color=colour, linewidth=1.6, alpha=0.6, zorder=1)
    axes.plot(hollow, place, marker, markersize=7, **hollow_marker(colour, 1.6))
    axes.plot(full, place, marker, markersize=8.5, color=colour, markeredgecolor="white")


def hollow_marker(colour: ColorType, width: float) -> dict[str, Any]:
    """Return the style of a hollow marker; `width` of its edge in points."""
    return {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": width}


def above_row(axes: Axes, x: float, place: float, text: str) -> None:
    """Write a number above a row."""
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axes.text(x, place + 0.19, text, ha="center", va="bottom", fontsize=8, bbox=ground)


def beside_marker(axes: Axes, x: float, place: float, text: str, shift: float = 6) -> None:
    """Write a number right of its marker in a row, left of it where `shift` (points) is negative."""
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "left" if shift > 0 else "right", "va": "center"}
    axes.annotate(text, (x, place), xytext=(shift, 0), fontsize=8, **style)


def beside_row(axes: Axes, place: float, values: Iterable[float], labels: Labels, spec: str) -> None:
    """Write the lower of two values left of its marker in a row, the higher one right of it; NaN is left out."""
    finite = sorted((value for value in values if np.isfinite(value)), reverse=True)
    for value, shift in zip(finite, (7, -7), strict=False):
        beside_marker(axes, value, place, labels.number(value, spec), shift)


def legend_line(label: str, **style: Any) -> mpl.lines.Line2D:
    """Return an entry of a legend that stands for a line, or a marker where `linestyle` is empty."""
    return mpl.lines.Line2D([], [], label=label, **style)


def marker_legend(
    figure: Drawing, names: Sequence[str], faces: Sequence[str], others: Sequence[Artist] = (), ncols: int = 1
) -> Legend:
    """Put a legend above a figure: round markers, then `others`, with labels of their own.

    Parameters
    ----------
    names, faces
        What the markers mean, and their colour inside: ``white`` is hollow.
    """
    style = {"linestyle": "", "marker": "o", "markersize": 7, "markeredgecolor": SOFT}
    handles = [legend_line(name, markerfacecolor=face, **style) for name, face in zip(names, faces, strict=True)]
    return figure.legend(handles=[*handles, *others], loc="outside upper center", ncols=ncols)


def titled_legend(figure: Drawing, handles: Sequence[Artist], title: str) -> Legend:
    """Put a legend with a title above a figure."""
    return figure.legend(handles=handles, title=title, title_fontsize=8.5, loc="outside upper center")


def spread_out(heights: Sequence[float] | np.ndarray, least: float) -> np.ndarray:
    """Move sorted heights apart until none is nearer than `least` to the next."""
    heights = np.array(heights, dtype=float)
    for _ in range(50):
        for low in range(len(heights) - 1):
            lacking = least - (heights[low + 1] - heights[low])
            if lacking > 1e-9:
                heights[low] -= lacking / 2
                heights[low + 1] += lacking / 2
    return heights
