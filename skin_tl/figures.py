"""Figures: from tables to pictures, in one visual language.

Takes pandas DataFrames (and decoded images for `example_grid`) and the labels of a language; gives `Drawing`, a
matplotlib figure that shows itself in a notebook, or a list of them where panels stand beside each other in a grid
that follows the width of the page.  Every diagnosis and every backbone has one colour (and marker) everywhere; all
colours can be told apart with the common forms of colour blindness.  `to_svg` makes them vector graphics to be
put inline into a page, the same bytes for the same figure.
"""

import base64
import io
import re
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image
from scipy import signal

from skin_tl.study import CLASSES
from skin_tl.texts import labels as labels_of

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

# Paul Tol's muted palette; a marker each, so that no colour is needed to tell them apart.
BACKBONE_STYLES = {
    "VGG16": ("#332288", "o"),
    "Xception": ("#117733", "s"),
    "ResNet50": ("#CC6677", "D"),
    "EfficientNetB7": ("#88671A", "^"),
    "MobileNetV2": ("#882255", "v"),
    "ConvNeXtTiny": ("#2E8BB0", "P"),
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


def _new(width, height, **options):
    figure = Drawing(figsize=(width, height), layout=options.pop("layout", "constrained"))
    return figure, figure.subplots(**options)


def _numbers(axis, labels, spec):
    axis.set_major_formatter(FuncFormatter(lambda value, _: labels.number(value, spec)))


def _score_axis(axes, labels, low, high):
    """Set the x-axis of a score (0 to 1), with ticks as fine as its span allows."""
    step, spec = (0.1, ".1f") if high - low > 0.35 else (0.05, ".2f")
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(MultipleLocator(step))
    _numbers(axes.xaxis, labels, spec)


# Drawings that explain ------------------------------------------------------------------------------------------

# A toy picture, 8 × 8: a round dark spot on bright ground, in tenths of full brightness.
_SPOT = np.array(
    [
        [9, 9, 9, 8, 8, 9, 9, 9],
        [9, 8, 6, 4, 4, 6, 8, 9],
        [9, 6, 3, 2, 2, 3, 6, 9],
        [8, 4, 2, 1, 1, 2, 4, 8],
        [8, 4, 2, 1, 1, 2, 4, 8],
        [9, 6, 3, 2, 2, 3, 6, 9],
        [9, 8, 6, 4, 4, 6, 8, 9],
        [9, 9, 9, 8, 8, 9, 9, 9],
    ]
)
_FILTER = np.array([[1, 0, -1], [1, 0, -1], [1, 0, -1]])


def _cells(axes, values, left, top, cell, cmap, low, high, labels, size=6.5):
    """Draw a grid of numbers, its upper left corner at (left, top), with colours from `cmap`."""
    colours = mpl.colormaps[cmap] if isinstance(cmap, str) else cmap
    for (row, column), value in np.ndenumerate(values):
        colour = colours((value - low) / (high - low))
        corner = (left + column * cell, top - (row + 1) * cell)
        axes.add_patch(Rectangle(corner, cell, cell, facecolor=colour, edgecolor="white", linewidth=0.6))
        bright = np.dot(to_rgb(colour), (0.3, 0.59, 0.11)) > 0.55
        axes.text(
            corner[0] + cell / 2,
            corner[1] + cell / 2,
            labels.number(float(value), ".0f"),
            ha="center",
            va="center",
            fontsize=size,
            color=INK if bright else "white",
        )


def _frame(axes, left, top, rows, columns, cell, colour):
    axes.add_patch(
        Rectangle(
            (left, top - rows * cell), columns * cell, rows * cell, fill=False, edgecolor=colour, linewidth=2, zorder=3
        )
    )


def _arrow(axes, start, end, colour=SOFT, width=1.6, style="-|>", curve=0.0, dashed=False):
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle=style,
            mutation_scale=11,
            linewidth=width,
            color=colour,
            connectionstyle=f"arc3,rad={curve}",
            linestyle="--" if dashed else "-",
            shrinkA=0,
            shrinkB=0,
        )
    )


def _canvas(width, height):
    """Return a figure with one invisible axes whose units are inches."""
    figure = Drawing(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


@themed
def cnn_operations(labels=None):
    """Draw the four operations of a convolutional network, worked out on a toy picture.

    Parameters
    ----------
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
        Convolution, ReLU, pooling, classification; each uses what the one before it gave.
    """
    labels = labels or labels_of()
    maps = signal.correlate2d(_SPOT, _FILTER, mode="valid")
    positive = np.maximum(maps, 0)
    pooled = positive.reshape(3, 2, 3, 2).max(axis=(1, 3))
    highest = np.abs(maps).max()
    signed = sns.color_palette("vlag", as_cmap=True)
    grey = "gray"
    mark = DIAGNOSES["mel"]

    first, axes = _canvas(4.6, 2.5)
    cell = 0.215
    _cells(axes, _SPOT, 0.12, 1.98, cell, grey, 0, 10, labels)
    _frame(axes, 0.12 + 4 * cell, 1.98 - cell, 3, 3, cell, mark)
    _cells(axes, _FILTER, 2.03, 1.44, 0.215, signed, -2.6, 2.6, labels)
    _frame(axes, 2.03, 1.44, 3, 3, 0.215, mark)
    axes.text(2.35, 1.55, labels("cnn.filter"), ha="center", va="bottom", fontsize=8)
    _arrow(axes, (2.72, 1.12), (3.05, 1.12))
    _cells(axes, maps, 3.12, 1.76, cell, signed, -highest, highest, labels)
    _frame(axes, 3.12 + 4 * cell, 1.76 - cell, 1, 1, cell, mark)
    axes.text(0.12 + 4 * cell, 0.12, labels("cnn.picture"), ha="center", fontsize=8)
    axes.text(3.12 + 3 * cell, 0.12, labels("cnn.map"), ha="center", fontsize=8)

    second, axes_relu = _canvas(4.6, 2.5)
    _cells(axes_relu, maps, 0.35, 1.86, 0.25, signed, -highest, highest, labels, 7)
    _arrow(axes_relu, (2.0, 1.11), (2.6, 1.11))
    axes_relu.text(2.3, 1.2, "max(0, x)", ha="center", va="bottom", fontsize=8)
    _cells(axes_relu, positive, 2.75, 1.86, 0.25, signed, -highest, highest, labels, 7)
    axes_relu.text(1.1, 0.12, labels("cnn.map"), ha="center", fontsize=8)
    axes_relu.text(3.5, 0.12, labels("cnn.rectified"), ha="center", fontsize=8)

    third, axes_pool = _canvas(4.6, 2.5)
    _cells(axes_pool, positive, 0.35, 1.86, 0.25, signed, -highest, highest, labels, 7)
    _arrow(axes_pool, (2.0, 1.11), (2.6, 1.11))
    axes_pool.text(2.3, 1.2, labels("cnn.largest"), ha="center", va="bottom", fontsize=8)
    _cells(axes_pool, pooled, 2.93, 1.69, 0.38, signed, -highest, highest, labels, 8.5)
    for row in range(3):
        for column in range(3):
            _frame(axes_pool, 0.35 + 0.5 * column, 1.86 - 0.5 * row, 2, 2, 0.25, SOFT)
    _frame(axes_pool, 0.35 + 1.0, 1.86, 2, 2, 0.25, mark)
    _frame(axes_pool, 2.93 + 0.76, 1.69, 1, 1, 0.38, mark)
    axes_pool.text(1.1, 0.12, labels("cnn.rectified"), ha="center", fontsize=8)
    axes_pool.text(3.5, 0.12, labels("cnn.pooled"), ha="center", fontsize=8)

    fourth, axes_class = _canvas(4.6, 2.5)
    flat = pooled.reshape(9, 1)
    _cells(axes_class, flat, 0.35, 2.32, 0.225, signed, -highest, highest, labels, 7)
    heights = [2.2 - 0.3 * place for place in range(len(CLASSES))]
    weights = np.random.default_rng(5).normal(0, 0.05, (len(CLASSES), 9))  # a head that has learned nothing yet
    chances = np.exp(weights @ flat[:, 0])
    chances /= chances.sum()
    for row in range(9):
        for height in heights:
            axes_class.plot([0.62, 1.9], [2.32 - 0.225 * (row + 0.5), height], color=GRID, linewidth=0.6, zorder=0)
    for height, name, chance in zip(heights, CLASSES, chances, strict=True):
        axes_class.text(1.97, height, name, va="center", fontsize=8)
        axes_class.add_patch(
            Rectangle(
                (2.48, height - 0.09),
                1.7 * chance / chances.max(),
                0.18,
                facecolor=DIAGNOSES[name],
                edgecolor=SOFT,
                linewidth=0.5,
            )
        )
    axes_class.text(0.46, 0.12, labels("cnn.features"), ha="center", fontsize=8)
    axes_class.text(3.0, 0.12, labels("cnn.probabilities"), ha="center", fontsize=8)

    drawings = [first, second, third, fourth]
    names = ("convolution", "relu", "pooling", "classification")
    for number, (drawing, name) in enumerate(zip(drawings, names, strict=True), start=1):
        width = drawing.get_figwidth()
        drawing.axes[0].text(
            width / 2,
            2.47,
            f"{number}  {labels(f'cnn.{name}')}",
            ha="center",
            va="top",
            fontweight="bold",
            fontsize=9.5,
        )
        if name == "classification":
            drawing.axes[0].set_ylim(0, 2.7)
            drawing.axes[0].texts[-1].set_y(2.68)
            drawing.set_figheight(2.7)
    return drawings


_LAYERS = 5


def _network(axes, left, bottom, colours, hatch=None):
    """Draw a backbone as layers that grow narrower, with the head in another colour at its end."""
    for layer, colour in enumerate(colours):
        height = 1.0 - 0.13 * layer
        axes.add_patch(
            FancyBboxPatch(
                (left + 0.27 * layer, bottom + (1 - height) / 2),
                0.17,
                height,
                boxstyle="round,pad=0.01,rounding_size=0.04",
                facecolor=colour,
                edgecolor=INK,
                linewidth=0.8,
                hatch=hatch if layer < _LAYERS else None,
            )
        )


def _block(axes, left, bottom, width, height, text, colour="white", edge=SOFT, size=8):
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.06",
            facecolor=colour,
            edgecolor=edge,
            linewidth=1,
        )
    )
    axes.text(left + width / 2, bottom + height / 2, text, ha="center", va="center", fontsize=size, linespacing=1.25)


@themed
def transfer(labels=None, **fields):
    """Draw learning from scratch beside transfer, as the presentation does.

    Parameters
    ----------
    labels : skin_tl.texts.Labels, optional
        English by default.
    **fields
        What the labels name: `images` (of skin), `photographs` and `categories` (that the backbones learned
        from), numbers written as text.

    Returns
    -------
    list of Drawing
        From scratch, transfer.
    """
    labels = labels or labels_of()
    blank, learned, head = "#ffffff", "#9fc5e8", "#f6b26b"
    width, height = 4.6, 3.9
    scratch, axes = _canvas(width, 2.6)
    axes.text(width / 2, 2.52, labels("transfer.scratch"), ha="center", va="top", fontweight="bold", fontsize=9.5)
    bottom = 0.8
    _block(axes, 0.08, bottom + 0.12, 1.0, 0.76, labels("transfer.skin", **fields))
    _arrow(axes, (1.12, bottom + 0.5), (1.36, bottom + 0.5))
    _network(axes, 1.45, bottom, [blank] * _LAYERS + [blank])
    _arrow(axes, (3.12, bottom + 0.5), (3.4, bottom + 0.5))
    _block(axes, 3.45, bottom + 0.12, 1.07, 0.76, labels("transfer.diagnoses"))
    axes.text(2.24, bottom + 1.12, labels("transfer.random"), ha="center", va="bottom", fontsize=8)
    axes.plot([1.45, 3.0], [bottom - 0.12] * 2, color=DIAGNOSES["mel"], linewidth=2)
    axes.text(2.24, bottom - 0.2, labels("transfer.all_learn"), ha="center", va="top", fontsize=8, color="#a04000")

    reuse, axes = _canvas(width, height)
    axes.text(
        width / 2, height - 0.08, labels("transfer.transfer"), ha="center", va="top", fontweight="bold", fontsize=9.5
    )
    top, bottom = 2.2, 0.55
    _block(axes, 0.08, top + 0.12, 1.0, 0.76, labels("transfer.photographs", **fields))
    _arrow(axes, (1.12, top + 0.5), (1.36, top + 0.5))
    _network(axes, 1.45, top, [learned] * _LAYERS + ["#d9d9d9"])
    _arrow(axes, (3.12, top + 0.5), (3.4, top + 0.5))
    _block(axes, 3.45, top + 0.12, 1.07, 0.76, labels("transfer.categories", **fields))
    axes.text(2.24, top + 1.06, labels("transfer.source"), ha="center", va="bottom", fontsize=8)
    _arrow(axes, (2.07, top - 0.06), (2.07, bottom + 1.08), colour="#2b6ca3", width=2.4)
    axes.text(2.2, (top + bottom + 1) / 2 + 0.01, labels("transfer.copy"), va="center", fontsize=8, color="#1d4f7a")
    _block(axes, 0.08, bottom + 0.12, 1.0, 0.76, labels("transfer.skin", **fields))
    _arrow(axes, (1.12, bottom + 0.5), (1.36, bottom + 0.5))
    _network(axes, 1.45, bottom, [learned] * _LAYERS + [head])
    _arrow(axes, (3.12, bottom + 0.5), (3.4, bottom + 0.5))
    _block(axes, 3.45, bottom + 0.12, 1.07, 0.76, labels("transfer.diagnoses"))
    axes.plot([1.45, 2.72], [bottom - 0.08] * 2, color="#2b6ca3", linewidth=2)
    axes.text(2.08, bottom - 0.15, labels("transfer.frozen"), ha="center", va="top", fontsize=8, color="#1d4f7a")
    axes.plot([2.8, 3.0], [bottom - 0.08] * 2, color=DIAGNOSES["mel"], linewidth=2)
    axes.text(2.86, bottom - 0.15, labels("transfer.learns"), ha="left", va="top", fontsize=8, color="#a04000")
    return [scratch, reuse]


# The data set ---------------------------------------------------------------------------------------------------


@themed
def class_balance(metadata, labels=None):
    """Draw how many images and lesions each diagnosis has.

    Parameters
    ----------
    metadata : pandas.DataFrame
        One row per image; columns dx and lesion_id.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    images = metadata["dx"].value_counts().reindex(CLASSES, fill_value=0)
    lesions = metadata.drop_duplicates("lesion_id")["dx"].value_counts().reindex(CLASSES, fill_value=0)
    order = sorted(CLASSES, key=lambda dx: (images[dx], dx))
    figure, axes = _new(5.2, 3.9)
    for place, dx in enumerate(order):
        for offset, counts, alpha, height in ((0.19, images, 1, 0.36), (-0.2, lesions, 0.45, 0.32)):
            axes.barh(
                place + offset, counts[dx], height, color=(*to_rgb(DIAGNOSES[dx]), alpha), edgecolor=SOFT, linewidth=0.6
            )
            axes.text(
                counts[dx] + images.max() * 0.012,
                place + offset,
                labels.number(int(counts[dx]), ",d"),
                va="center",
                fontsize=7.5,
            )
    axes.set_yticks(range(len(order)), [f"{labels(f'diagnosis.{dx}')}\n({dx})" for dx in order], linespacing=1.1)
    axes.set_xlim(0, images.max() * 1.12)
    axes.set_xlabel(
        labels("axis.number", images=labels.number(len(metadata), ",d"), lesions=labels.number(lesions.sum(), ",d"))
    )
    _numbers(axes.xaxis, labels, ",.0f")
    axes.grid(visible=False, axis="y")
    handles = [Rectangle((0, 0), 1, 1, facecolor=(0.35, 0.35, 0.35, alpha), edgecolor=SOFT) for alpha in (1, 0.45)]
    axes.legend(handles, [labels("axis.images"), labels("axis.lesions")], loc="lower right")
    return figure


def choose_examples(metadata, n_examples=5, seed=0):
    """Choose images to show: one image of each of some lesions per diagnosis, drawn at random.

    Parameters
    ----------
    metadata : pandas.DataFrame
        One row per image; row order does not matter.
    n_examples : int
        Per diagnosis; fewer where it has fewer lesions.
    seed : int

    Returns
    -------
    dict of list of str
        Image ids by diagnosis, in the order of `CLASSES`.
    """
    chosen = {}
    for place, dx in enumerate(CLASSES):
        ids = metadata[metadata["dx"] == dx].sort_values("image_id").drop_duplicates("lesion_id")["image_id"].tolist()
        rng = np.random.default_rng([seed, place])
        chosen[dx] = [ids[i] for i in sorted(rng.choice(len(ids), min(n_examples, len(ids)), replace=False))]
    return chosen


def example_pictures(images, metadata, n_examples=5, side=160, seed=0):
    """Encode example images of each diagnosis for a page.

    Parameters
    ----------
    images : skin_tl.images.ImageSet
        Its `ids` and `pixels`, (n_images, size, size, 3) uint8, are read.
    metadata : pandas.DataFrame
    n_examples, seed : int
        As for `choose_examples`.
    side : int
        Largest side of the pictures, in pixels.

    Returns
    -------
    dict of list of (str, str)
        Image id and JPEG as data URI, by diagnosis.  Pictures have the cameras' proportions, 4:3.
    """
    rows = {image_id: row for row, image_id in enumerate(images.ids)}
    pixels = images.pixels
    pictures = {}
    for dx, ids in choose_examples(metadata, n_examples, seed).items():
        pictures[dx] = []
        for image_id in ids:
            picture = Image.fromarray(pixels[rows[image_id]]).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
            buffer = io.BytesIO()
            picture.save(buffer, "JPEG", quality=85)
            uri = "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
            pictures[dx].append((image_id, uri))
    return pictures


@themed
def example_grid(images, metadata, labels=None, n_examples=5, seed=0):
    """Draw a grid of example images, one row per diagnosis.

    Parameters
    ----------
    images : skin_tl.images.ImageSet
    metadata : pandas.DataFrame
    labels : skin_tl.texts.Labels, optional
        English by default.
    n_examples, seed : int
        As for `choose_examples`.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    rows = {image_id: row for row, image_id in enumerate(images.ids)}
    pixels = images.pixels
    figure, grid = _new(7.6, 7.6, nrows=len(CLASSES), ncols=n_examples, squeeze=False)
    figure.photographs = True
    for dx, axes_row, ids in zip(CLASSES, grid, choose_examples(metadata, n_examples, seed).values(), strict=True):
        for axes in axes_row:
            axes.axis("off")
        for axes, image_id in zip(axes_row, ids, strict=False):
            axes.imshow(pixels[rows[image_id]], aspect=0.75)
        name = labels(f"diagnosis.{dx}").replace(" ", "\n", 1)
        axes_row[0].text(-0.08, 0.5, f"{name}\n({dx})", transform=axes_row[0].transAxes, ha="right", va="center")
    return figure


# Training and results -------------------------------------------------------------------------------------------


@themed
def training_curves(history, labels=None, title=None):
    """Draw training and validation loss by epoch: a thin line per seed, a dot where the weights were taken.

    Parameters
    ----------
    history : pandas.DataFrame
        Of the arm ``main``: columns split_policy, preprocessing, seed, epoch, loss, val_loss, val_macro_f1.
    labels : skin_tl.texts.Labels, optional
        English by default.
    title : str, optional
        Usually the backbone's name, whose colour the lines have then.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    colour = backbone_style(title or "")[0]
    figure, axes = _new(3.7, 2.7)
    for _, part in history.groupby(["split_policy", "preprocessing", "seed"], sort=True):
        part = part.sort_values("epoch")
        axes.plot(part["epoch"], part["loss"], color=colour, linewidth=1, alpha=0.65, linestyle=(0, (3, 2)))
        axes.plot(part["epoch"], part["val_loss"], color=colour, linewidth=1.4)
        best = part.loc[part["val_macro_f1"].idxmax()]
        axes.plot(best["epoch"], best["val_loss"], "o", color=colour, markersize=4.5, markeredgecolor="white")
    n_heads = len(history.drop_duplicates(["split_policy", "preprocessing", "seed"]))
    axes.set_xlabel(labels("axis.epoch", heads=labels.number(n_heads, "d")))
    axes.set_ylabel(labels("axis.loss"))
    axes.set_ylim(bottom=0)
    _numbers(axes.xaxis, labels, ".0f")
    _numbers(axes.yaxis, labels, ".1f")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_title(title or "")
    lines = [mpl.lines.Line2D([], [], color=colour, linestyle=style) for style in ((0, (3, 2)), "-")]
    axes.legend(lines, [labels("axis.training"), labels("axis.validation")], loc="best")
    return figure


@themed
def scores(table, metrics, labels=None):
    """Draw scores of backbones with their 95 % intervals and the values of single seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        ``scores.csv`` of one set-up: metric, backbone, value, ci_low, ci_high, seed_min, seed_max, n_seeds.
    metrics : list of str
        Which scores, one panel each.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
    """
    labels = labels or labels_of()
    order = list(table.loc[table["metric"] == metrics[-1]].sort_values("value")["backbone"])
    low = table.loc[table["metric"].isin(metrics), ["ci_low", "seed_min", "value"]].min().min()
    low = max(0.0, np.floor(low * 10) / 10 - 0.05 if low > 0.15 else 0.0)
    high = table.loc[table["metric"].isin(metrics), ["ci_high", "seed_max", "value"]].max().max()
    high = min(1.0, np.ceil(high * 10) / 10)
    drawings = []
    for metric in metrics:
        figure, axes = _new(4.6, 1.0 + 0.42 * len(order))
        rows = table[table["metric"] == metric].set_index("backbone")
        for place, backbone in enumerate(order):
            row = rows.loc[backbone]
            colour, marker = backbone_style(backbone)
            axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(row["value"], place, marker, color=colour, markersize=8, markeredgecolor="white")
            for edge in ("seed_min", "seed_max"):
                axes.plot(row[edge], place - 0.2, "|", color=colour, markersize=6, markeredgewidth=1.4)
            axes.plot([row["seed_min"], row["seed_max"]], [place - 0.2] * 2, color=colour, linewidth=0.8)
            axes.text(
                row["value"], place + 0.2, labels.number(row["value"], ".3f"), ha="center", va="bottom", fontsize=8
            )
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.5, len(order) - 0.35)
        _score_axis(axes, labels, low, high)
        n_images, n_seeds = labels.number(rows["n_images"].mean(), ",.0f"), labels.number(rows["n_seeds"].max(), "d")
        axes.set_xlabel(labels("axis.score", metric=labels(f"metric.{metric}"), images=n_images, seeds=n_seeds))
        axes.grid(visible=False, axis="y")
        drawings.append(figure)
    return drawings


@themed
def confusion_matrix(table, labels=None):
    """Draw the confusion matrix of one backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        ``confusion.csv`` of one set-up and backbone: backbone, dx, predicted, n_images (mean over the seeds), share.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
        Colour and second line: share of the images with that diagnosis; first line: mean number of images.
    """
    labels = labels or labels_of()
    counts = table.pivot(index="dx", columns="predicted", values="n_images").loc[list(CLASSES), list(CLASSES)]
    shares = table.pivot(index="dx", columns="predicted", values="share").loc[list(CLASSES), list(CLASSES)]
    figure, axes = _new(4.5, 4.45)
    sns.heatmap(
        shares,
        vmin=0,
        vmax=1,
        cmap=sns.light_palette(DIAGNOSES["nv"], as_cmap=True),
        cbar=False,
        ax=axes,
        square=True,
        linewidths=1,
        linecolor="white",
    )
    for (row, column), count in np.ndenumerate(counts.to_numpy()):
        share = shares.iloc[row, column]
        if count == 0 or np.isnan(share):
            continue
        colour = "white" if share > 0.55 else INK
        shown = labels.number(count, ",.0f" if count >= 10 or count == round(count) else ".1f")
        axes.text(column + 0.5, row + 0.4, shown, ha="center", va="center", fontsize=8.5, color=colour)
        axes.text(
            column + 0.5, row + 0.74, labels.number(share, ".0%"), ha="center", va="center", fontsize=6.5, color=colour
        )
    axes.set_xlabel(labels("axis.predicted"))
    axes.set_ylabel(labels("axis.actual", images=labels.number(counts.to_numpy().sum(), ",.0f")))
    axes.tick_params(axis="x", rotation=0, length=0)
    axes.tick_params(axis="y", rotation=0, length=0)
    axes.set_title(table["backbone"].iloc[0])
    return figure


@themed
def class_scores(table, labels=None):
    """Draw F1 per diagnosis, a marker for each backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classification_reports.csv`` of one set-up: backbone, row, f1_score, support.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    rows = table[table["row"].isin(CLASSES)]
    support = rows.groupby("row")["support"].mean()
    order = sorted(CLASSES, key=lambda dx: (support[dx], dx))
    backbones = list(dict.fromkeys(rows["backbone"]))
    figure, axes = _new(5.2, 4.1)
    shift = np.linspace(0.24, -0.24, len(backbones)) if len(backbones) > 1 else [0.0]
    for backbone, offset in zip(backbones, shift, strict=True):
        values = rows[rows["backbone"] == backbone].set_index("row")["f1_score"]
        colour, marker = backbone_style(backbone)
        places = [place + offset for place in range(len(order))]
        axes.hlines(places, 0, values[order], color=colour, linewidth=0.8, alpha=0.5)
        axes.plot(values[order], places, marker, color=colour, markersize=6, markeredgecolor="white", label=backbone)
    names = [f"{labels(f'diagnosis.{dx}')}\n({dx}, n = {labels.number(support[dx], ',.0f')})" for dx in order]
    axes.set_yticks(range(len(order)), names, linespacing=1.1)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, len(order) - 0.5)
    axes.set_xlabel(labels("axis.f1"))
    axes.grid(visible=False, axis="y")
    _numbers(axes.xaxis, labels, ".1f")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=min(2, len(backbones)))
    return figure


@themed
def published(table, rows, labels=None):
    """Draw our scores against the published ones, a dumbbell per backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classification_reports.csv`` of one set-up: backbone, row, f1_score, support, published_f1_score,
        published_support.
    rows : list of str
        Rows of the reports, one panel each, for example accuracy and macro_avg.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
    """
    labels = labels or labels_of()
    table = table[table["published_f1_score"].notna() & table["row"].isin(rows)]
    backbones = list(dict.fromkeys(table["backbone"]))[::-1]
    values = table[["f1_score", "published_f1_score"]].to_numpy()
    low, high = max(0.0, np.floor(values.min() * 10 - 0.5) / 10), min(1.0, np.ceil(values.max() * 10 + 0.3) / 10)
    drawings = []
    for name in rows:
        figure, axes = _new(4.6, 1.3 + 0.42 * len(backbones))
        part = table[table["row"] == name].set_index("backbone")
        for place, backbone in enumerate(backbones):
            ours, theirs = part.loc[backbone, ["f1_score", "published_f1_score"]]
            colour, marker = backbone_style(backbone)
            axes.plot([theirs, ours], [place] * 2, color=colour, linewidth=1.6, alpha=0.6, zorder=1)
            axes.plot(
                theirs,
                place,
                marker,
                markersize=7,
                markerfacecolor="white",
                markeredgecolor=colour,
                markeredgewidth=1.6,
            )
            axes.plot(ours, place, marker, markersize=7.5, color=colour, markeredgecolor="white")
            axes.text(
                (ours + theirs) / 2,
                place + 0.17,
                labels.number(ours - theirs, "+.2f"),
                ha="center",
                va="bottom",
                fontsize=8,
            )
        axes.set_yticks(range(len(backbones)), backbones)
        axes.set_ylim(-0.5, len(backbones) - 0.3)
        _score_axis(axes, labels, low, high)
        sizes = {"images": part["support"].mean(), "published": part["published_support"].mean()}
        sizes = {key: labels.number(value, ",.0f") for key, value in sizes.items()}
        axes.set_xlabel(labels(f"axis.published_{name}", **sizes))
        axes.grid(visible=False, axis="y")
        style = {"linestyle": "", "marker": "o", "markersize": 7, "markeredgecolor": SOFT}
        handles = [mpl.lines.Line2D([], [], markerfacecolor=face, **style) for face in ("white", SOFT)]
        figure.legend(handles, [labels("axis.published"), labels("axis.ours")], loc="outside upper center", ncols=2)
        drawings.append(figure)
    return drawings


@themed
def contrast(table, labels=None):
    """Draw how one score moves between two levels of a factor, a line per backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``contrasts.csv`` of one factor, strategy, held level and metric.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    first = table.iloc[0]
    figure, axes = _new(4.6, 3.3)
    ends = table.sort_values("value_b")["value_b"].to_numpy()
    span = max(np.ptp(table[["value_a", "value_b"]].to_numpy()), 0.05)
    heights = _spread(ends, 0.075 * span)
    for (_, row), height in zip(table.sort_values("value_b").iterrows(), heights, strict=True):
        colour, marker = backbone_style(row["backbone"])
        axes.plot(
            [0, 1],
            [row["value_a"], row["value_b"]],
            marker=marker,
            color=colour,
            linewidth=1.8,
            markeredgecolor="white",
            markersize=7,
        )
        text = f"{row['backbone']} {labels.number(row['difference'], '+.2f')}"
        axes.text(1.05, height, text, va="center", fontsize=8, color=colour)
    names = [labels(f"{first['factor']}.{first[level]}") for level in ("level_a", "level_b")]
    axes.set_xticks([0, 1], names)
    axes.set_xlim(-0.25, 2.0)
    axes.set_ylabel(labels(f"metric.{first['metric']}"))
    axes.grid(visible=False, axis="x")
    axes.spines["bottom"].set_bounds(-0.25, 1.1)
    _numbers(axes.yaxis, labels, ".2f")
    return figure


def _spread(heights, least):
    """Move sorted heights apart until none is nearer than `least` to the next."""
    heights = np.array(heights, dtype=float)
    for _ in range(50):
        for low in range(len(heights) - 1):
            lacking = least - (heights[low + 1] - heights[low])
            if lacking > 1e-9:
                heights[low] -= lacking / 2
                heights[low + 1] += lacking / 2
    return heights
