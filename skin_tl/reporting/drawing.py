"""What all figures share: theme, colours, markers, and how a figure becomes vector graphics.

Takes nothing but matplotlib; gives `Drawing`, a matplotlib figure that shows itself in a notebook, the style and the
shown name of each backbone, and small helpers for axes.  `to_svg` makes figures vector graphics to be put inline into
a page, the same bytes for the same figure.
"""

import base64
import io
import re
import textwrap
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

INK, SOFT, GRID = "#1f2933", "#52606d", "#d9dfe5"
GREY = "#767676"
"""Of what is not to be compared: baselines, and groups too small for a conclusion."""

LEARNED, NEW, BLANK, UNUSED = "#9fc5e8", "#f6b26b", "#ffffff", "#d9d9d9"
"""Layers of a network in the drawings that explain: learned before, to be learned, random, thrown away."""
LEARNED_TEXT, NEW_TEXT = "#1d4f7a", "#a04000"
"""Words and strokes that belong to such layers, dark enough to be read on white."""
SIGNED = sns.color_palette("vlag", as_cmap=True)
"""Colours of numbers below and above zero."""

# Okabe and Ito's palette, its black left to the text.
DIAGNOSES = {
    "akiec": "#E69F00",
    "bcc": "#56B4E9",
    "bkl": "#009E73",
    "df": "#F0E442",
    "mel": "#D55E00",
    "nv": "#0072B2",
    "vasc": "#CC79A7",
}

# Paul Tol's muted palette, grey for baselines; a marker each, so that no colour is needed to tell them apart.
BACKBONE_STYLES = {
    "VGG16": ("#332288", "o"),
    "Xception": ("#117733", "s"),
    "ResNet50": ("#CC6677", "D"),
    "EfficientNetB7": ("#88671A", "^"),
    "MobileNetV2": ("#882255", "v"),
    "ConvNeXtTiny": ("#2E8BB0", "P"),
    "ensemble": ("#1F2933", "X"),
    "majority": (GREY, "<"),
    "metadata_only": (GREY, ">"),
    "colour_histogram": (GREY, "d"),
}
STRATEGY_STYLES = {
    "feature_extraction": ("#1D4F7A", "o"),
    "fine_tuning": ("#117733", "s"),
    "from_scratch": ("#A04000", "D"),
}
"""Colour and marker of a strategy, where strategies stand beside each other."""
_OTHER_STYLES = (("#AA4499", "8"), ("#6B6B00", "p"), ("#4A4A4A", "h"))

THEME = {
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


def themed(draw):
    """Run a drawing function under `THEME`."""

    def drawn(*arguments, **keywords):
        with mpl.rc_context(THEME):
            return draw(*arguments, **keywords)

    drawn.__name__, drawn.__doc__, drawn.__wrapped__ = draw.__name__, draw.__doc__, draw
    return drawn


def backbone_style(backbone):
    """Return the colour and the marker of a backbone; one that is not listed gets those of its name's length."""
    return BACKBONE_STYLES.get(backbone) or _OTHER_STYLES[len(backbone) % len(_OTHER_STYLES)]


def backbone_name(backbone, labels):
    """Return how a backbone is called in a language: its own name, or the label of a pseudo-backbone."""
    return labels.known("backbone", backbone)


def ink_on(colour):
    """Return the colour of words on a coloured ground: ink, white or black, the first with a contrast of 4.5 (AA)."""
    return next(ink for ink in (INK, "white", "black") if contrast_of(ink, colour) >= 4.5)


def contrast_of(*colours):
    """Return the contrast of two colours as WCAG 2 defines it, 1 to 21."""
    darker, lighter = sorted(map(_luminance, colours))
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour):
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour))
    return np.dot(tuple(linear), (0.2126, 0.7152, 0.0722))


def to_svg(figure, prefix="figure"):
    """Return a figure as an SVG element to be put inline.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
    prefix : str
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
    attributes = {"viewBox": root.get("viewBox"), "font-family": _FONTS, "stroke-linejoin": "round"}
    attributes |= {"width": f"{figure.get_figwidth() * 96:g}", "height": f"{figure.get_figheight() * 96:g}"}
    root.attrib.clear()
    root.attrib.update(xmlns="http://www.w3.org/2000/svg", **attributes)
    return ElementTree.tostring(root, encoding="unicode")


_FONTS = "'Report Sans', 'DejaVu Sans', Verdana, sans-serif"
_POINTS = ("d", "x", "y", "transform", "width", "height")


def _tidy(element, kept, prefix):
    """Strip an SVG element: no namespaces, style attributes or groups without a purpose, two decimals, own ids."""
    element.tag = element.tag.rpartition("}")[2]
    attributes = {}
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


def new_figure(width, height, **options):
    figure = Drawing(figsize=(width, height), layout=options.pop("layout", "constrained"))
    return figure, figure.subplots(**options)


def write_numbers(axis, labels, spec):
    axis.set_major_formatter(FuncFormatter(lambda value, _: labels.number(value, spec)))


def score_axis(axes, labels, low, high):
    """Set the x-axis of a score (0 to 1) from `low` to `high`, with ticks as fine as its span allows."""
    span = high - low
    steps = ((0.7, 0.2, ".1f"), (0.35, 0.1, ".1f"), (0.12, 0.05, ".2f"), (0.0, 0.02, ".2f"))
    step, spec = next((step, spec) for least, step, spec in steps if span > least)
    axes.set_xlim(low, high)
    first, last = np.ceil(max(low, 0) / step - 1e-9), np.floor(min(high, 1) / step + 1e-9)
    axes.set_xticks(np.arange(first, last + 1) * step)
    write_numbers(axes.xaxis, labels, spec)


def difference_axis(axes, labels, values):
    """Set the x-axis of a difference so that it holds zero, with a line there, and `values`, and room around."""
    low, high = np.nanmin([0.0, *values]), np.nanmax([0.0, *values])
    room = 0.12 * max(high - low, 0.02)
    axes.set_xlim(low - room, high + room)
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low - room, high + room)
    axes.set_xticks([tick for tick in ticks if low - room <= tick <= high + room])
    write_numbers(axes.xaxis, labels, "+.2f" if ticks[1] - ticks[0] > 0.0099 else "+.3f")
    axes.axvline(0, color=SOFT, linewidth=1.2, zorder=1)


def with_room(values, share=0.28):
    """Return the ends of an axis of scores on which a number fits beside the lowest and the highest of `values`."""
    low, high = np.nanmin(values), np.nanmax(values)
    room = share * max(high - low, 0.1)
    return low - room, high + room


def in_lines(name, width=17):
    """Break a long name into lines of so many letters, at its spaces."""
    return textwrap.fill(name, width, break_long_words=False, break_on_hyphens=False)


def write_below(axes, text, width=40):
    """Write the label of the x-axis, lines longer than `width` letters broken."""
    axes.set_xlabel("\n".join(in_lines(line, width) for line in text.split("\n")))


def rows_figure(names, width=4.6, margin=1.0, height=0.42):
    """Return a figure and its axes, a row for each of `names` from the bottom up; `margin` and `height` in inches."""
    figure, axes = new_figure(width, margin + height * len(names))
    axes.set_yticks(range(len(names)), [in_lines(name) for name in names], linespacing=1.05)
    axes.set_ylim(-0.5, len(names) - 0.35)
    axes.grid(visible=False, axis="y")
    return figure, axes


def interval_line(axes, low, high, place, colour, width=2):
    """Draw an interval in a row, nothing where it has no ends."""
    if np.isfinite([low, high]).all():
        axes.plot([low, high], [place] * 2, color=colour, linewidth=width, solid_capstyle="butt")


def dumbbell(axes, place, hollow, full, backbone):
    """Draw two values of a backbone in a row, the markers hollow and full, with a line between; NaN is left out."""
    colour, marker = backbone_style(backbone)
    axes.plot([hollow, full], [place] * 2, color=colour, linewidth=1.6, alpha=0.6, zorder=1)
    style = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.6}
    axes.plot(hollow, place, marker, markersize=7, **style)
    axes.plot(full, place, marker, markersize=8.5, color=colour, markeredgecolor="white")


def above_row(axes, x, place, text):
    """Write a number above a row."""
    ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
    axes.text(x, place + 0.19, text, ha="center", va="bottom", fontsize=8, bbox=ground)


def beside_row(axes, place, values, labels, spec):
    """Write the lower of two values left of its marker in a row, the higher one right of it; NaN is left out."""
    values = sorted((value for value in values if np.isfinite(value)), reverse=True)
    for value, (side, shift) in zip(values, (("left", 7), ("right", -7)), strict=False):
        style = {"xytext": (shift, 0), "textcoords": "offset points", "ha": side, "va": "center", "fontsize": 8}
        axes.annotate(labels.number(value, spec), (value, place), **style)


def marker_legend(figure, names, faces, others=(), ncols=1):
    """Put a legend above a figure: round markers, hollow (``white``) or full, then `others`, a list of handles.

    Parameters
    ----------
    names, faces : list of str
        What the markers mean, and their colour inside.
    others : list of matplotlib.artist.Artist
        With labels of their own.
    ncols : int
    """
    style = {"linestyle": "", "marker": "o", "markersize": 7, "markeredgecolor": SOFT}
    handles = [
        mpl.lines.Line2D([], [], markerfacecolor=face, label=name, **style)
        for name, face in zip(names, faces, strict=True)
    ]
    return figure.legend(handles=[*handles, *others], loc="outside upper center", ncols=ncols)


def spread_out(heights, least):
    """Move sorted heights apart until none is nearer than `least` to the next."""
    heights = np.array(heights, dtype=float)
    for _ in range(50):
        for low in range(len(heights) - 1):
            lacking = least - (heights[low + 1] - heights[low])
            if lacking > 1e-9:
                heights[low] -= lacking / 2
                heights[low + 1] += lacking / 2
    return heights
