"""What all figures share: theme, colours, markers, and how a figure becomes vector graphics.

Takes nothing but matplotlib; gives `Drawing`, a matplotlib figure that shows itself in a notebook, the style and the
shown name of each backbone, and small helpers for axes.  `to_svg` makes figures vector graphics to be put inline into
a page, the same bytes for the same figure.
"""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MultipleLocator

INK, SOFT, GRID = "#1f2933", "#52606d", "#d9dfe5"

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
    "ensemble": ("#1F2933", "*"),
    "majority": ("#767676", "<"),
    "metadata_only": ("#767676", ">"),
    "colour_histogram": ("#767676", "d"),
}
_OTHER_STYLES = (("#AA4499", "X"), ("#6B6B00", "p"), ("#4A4A4A", "h"))

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
    """Set the x-axis of a score (0 to 1), with ticks as fine as its span allows."""
    step, spec = (0.1, ".1f") if high - low > 0.35 else (0.05, ".2f")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    write_numbers(axes.xaxis, labels, spec)


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
