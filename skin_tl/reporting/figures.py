"""Figures: from tables to pictures, in one visual language.

Takes pandas DataFrames (and decoded images for `example_grid`) and the labels of a language; gives `Drawing`, a
matplotlib figure that shows itself in a notebook, or a list of them where panels stand beside each other in a grid
that follows the width of the page.  Every diagnosis and every backbone has one colour (and marker) everywhere; all
colours can be told apart with the common forms of colour blindness.

All figures are called by this module's name.  It holds those that explain and those of the data set; training and
results are in `skin_tl.reporting.result_figures`, theme and helpers in `skin_tl.reporting.drawing`.
"""

import base64
import io

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle
from PIL import Image
from scipy import signal

from skin_tl.reporting.decision_figures import calibration, operating_points, roc, subgroups
from skin_tl.reporting.drawing import (
    BACKBONE_STYLES,
    BLANK,
    DIAGNOSES,
    GRID,
    INK,
    LEARNED,
    LEARNED_TEXT,
    NEW,
    NEW_TEXT,
    SIGNED,
    SOFT,
    THEME,
    UNUSED,
    Drawing,
    backbone_name,
    backbone_style,
    ink_on,
    new_figure,
    themed,
    to_svg,
    write_numbers,
)
from skin_tl.reporting.result_figures import (
    class_scores,
    confusion_matrix,
    contrast,
    effects,
    external,
    published,
    published_classes,
    rank_changes,
    scores,
    split_spread,
)
from skin_tl.reporting.texts import labels as labels_of
from skin_tl.reporting.training_figures import feature_maps, learning_curves, training_curves
from skin_tl.schema import CLASSES

__all__ = [
    "BACKBONE_STYLES",
    "DIAGNOSES",
    "THEME",
    "Drawing",
    "backbone_name",
    "backbone_style",
    "calibration",
    "choose_examples",
    "class_balance",
    "class_scores",
    "cnn_operations",
    "confusion_matrix",
    "contrast",
    "effects",
    "example_grid",
    "example_pictures",
    "explained_picture",
    "external",
    "feature_maps",
    "learning_curves",
    "operating_points",
    "published",
    "published_classes",
    "rank_changes",
    "roc",
    "scores",
    "split_spread",
    "subgroups",
    "to_svg",
    "training_curves",
    "transfer",
]

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
        axes.text(
            corner[0] + cell / 2,
            corner[1] + cell / 2,
            labels.number(float(value), ".0f"),
            ha="center",
            va="center",
            fontsize=size,
            color=ink_on(colour),
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
    labels : skin_tl.reporting.texts.Labels, optional
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
    mark = DIAGNOSES["mel"]

    first, axes = _canvas(4.6, 2.5)
    cell = 0.215
    _cells(axes, _SPOT, 0.12, 1.98, cell, "gray", 0, 10, labels)
    _frame(axes, 0.12 + 4 * cell, 1.98 - cell, 3, 3, cell, mark)
    _cells(axes, _FILTER, 2.03, 1.44, 0.215, SIGNED, -2.6, 2.6, labels)
    _frame(axes, 2.03, 1.44, 3, 3, 0.215, mark)
    axes.text(2.35, 1.55, labels("cnn.filter"), ha="center", va="bottom", fontsize=8)
    _arrow(axes, (2.72, 1.12), (3.05, 1.12))
    _cells(axes, maps, 3.12, 1.76, cell, SIGNED, -highest, highest, labels)
    _frame(axes, 3.12 + 4 * cell, 1.76 - cell, 1, 1, cell, mark)
    axes.text(0.12 + 4 * cell, 0.12, labels("cnn.picture"), ha="center", fontsize=8)
    axes.text(3.12 + 3 * cell, 0.12, labels("cnn.map"), ha="center", fontsize=8)

    second, axes_relu = _canvas(4.6, 2.5)
    _cells(axes_relu, maps, 0.35, 1.86, 0.25, SIGNED, -highest, highest, labels, 7)
    _arrow(axes_relu, (2.0, 1.11), (2.6, 1.11))
    axes_relu.text(2.3, 1.2, "max(0, x)", ha="center", va="bottom", fontsize=8)
    _cells(axes_relu, positive, 2.75, 1.86, 0.25, SIGNED, -highest, highest, labels, 7)
    axes_relu.text(1.1, 0.12, labels("cnn.map"), ha="center", fontsize=8)
    axes_relu.text(3.5, 0.12, labels("cnn.rectified"), ha="center", fontsize=8)

    third, axes_pool = _canvas(4.6, 2.5)
    _cells(axes_pool, positive, 0.35, 1.86, 0.25, SIGNED, -highest, highest, labels, 7)
    _arrow(axes_pool, (2.0, 1.11), (2.6, 1.11))
    axes_pool.text(2.3, 1.2, labels("cnn.largest"), ha="center", va="bottom", fontsize=8)
    _cells(axes_pool, pooled, 2.93, 1.69, 0.38, SIGNED, -highest, highest, labels, 8.5)
    for row in range(3):
        for column in range(3):
            _frame(axes_pool, 0.35 + 0.5 * column, 1.86 - 0.5 * row, 2, 2, 0.25, SOFT)
    _frame(axes_pool, 0.35 + 1.0, 1.86, 2, 2, 0.25, mark)
    _frame(axes_pool, 2.93 + 0.76, 1.69, 1, 1, 0.38, mark)
    axes_pool.text(1.1, 0.12, labels("cnn.rectified"), ha="center", fontsize=8)
    axes_pool.text(3.5, 0.12, labels("cnn.pooled"), ha="center", fontsize=8)

    fourth, axes_class = _canvas(4.6, 2.5)
    flat = pooled.reshape(9, 1)
    _cells(axes_class, flat, 0.35, 2.32, 0.225, SIGNED, -highest, highest, labels, 7)
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
def transfer(labels=None, strategies=("feature_extraction",), **fields):
    """Draw learning from scratch beside transfer, as the presentation does.

    Parameters
    ----------
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.
    strategies : sequence of str, optional
        Those of the study, which tell what becomes of the copied layers: frozen, learning on, or both.
    **fields
        What the labels name: `images` (of skin), `photographs` and `categories` (that the backbones learned
        from), numbers written as text.

    Returns
    -------
    list of Drawing
        From scratch, transfer.
    """
    labels = labels or labels_of()
    width, height = 4.6, 3.9
    scratch, axes = _canvas(width, 2.6)
    axes.text(width / 2, 2.52, labels("transfer.scratch"), ha="center", va="top", fontweight="bold", fontsize=9.5)
    bottom = 0.8
    _block(axes, 0.08, bottom + 0.12, 1.0, 0.76, labels("transfer.skin", **fields))
    _arrow(axes, (1.12, bottom + 0.5), (1.36, bottom + 0.5))
    _network(axes, 1.45, bottom, [BLANK] * (_LAYERS + 1))
    _arrow(axes, (3.12, bottom + 0.5), (3.4, bottom + 0.5))
    _block(axes, 3.45, bottom + 0.12, 1.07, 0.76, labels("transfer.diagnoses"))
    axes.text(2.24, bottom + 1.12, labels("transfer.random"), ha="center", va="bottom", fontsize=8)
    axes.plot([1.45, 3.0], [bottom - 0.12] * 2, color=NEW_TEXT, linewidth=2)
    axes.text(2.24, bottom - 0.2, labels("transfer.all_learn"), ha="center", va="top", fontsize=8, color=NEW_TEXT)

    reuse, axes = _canvas(width, height)
    axes.text(
        width / 2, height - 0.08, labels("transfer.transfer"), ha="center", va="top", fontweight="bold", fontsize=9.5
    )
    top, bottom = 2.2, 0.55
    _block(axes, 0.08, top + 0.12, 1.0, 0.76, labels("transfer.photographs", **fields))
    _arrow(axes, (1.12, top + 0.5), (1.36, top + 0.5))
    _network(axes, 1.45, top, [LEARNED] * _LAYERS + [UNUSED])
    _arrow(axes, (3.12, top + 0.5), (3.4, top + 0.5))
    _block(axes, 3.45, top + 0.12, 1.07, 0.76, labels("transfer.categories", **fields))
    axes.text(2.24, top + 1.06, labels("transfer.source"), ha="center", va="bottom", fontsize=8)
    _arrow(axes, (2.07, top - 0.06), (2.07, bottom + 1.08), colour=LEARNED_TEXT, width=2.4)
    axes.text(2.2, (top + bottom + 1) / 2 + 0.01, labels("transfer.copy"), va="center", fontsize=8, color=LEARNED_TEXT)
    _block(axes, 0.08, bottom + 0.12, 1.0, 0.76, labels("transfer.skin", **fields))
    _arrow(axes, (1.12, bottom + 0.5), (1.36, bottom + 0.5))
    _network(axes, 1.45, bottom, [LEARNED] * _LAYERS + [NEW])
    _arrow(axes, (3.12, bottom + 0.5), (3.4, bottom + 0.5))
    _block(axes, 3.45, bottom + 0.12, 1.07, 0.76, labels("transfer.diagnoses"))
    axes.plot([1.45, 2.72], [bottom - 0.08] * 2, color=LEARNED_TEXT, linewidth=2)
    ways = "frozen" if "fine_tuning" not in strategies else "both" if "feature_extraction" in strategies else "tuned"
    axes.text(2.08, bottom - 0.15, labels(f"transfer.{ways}"), ha="center", va="top", fontsize=8, color=LEARNED_TEXT)
    axes.plot([2.8, 3.0], [bottom - 0.08] * 2, color=NEW_TEXT, linewidth=2)
    axes.text(2.86, bottom - 0.15, labels("transfer.learns"), ha="left", va="top", fontsize=8, color=NEW_TEXT)
    return [scratch, reuse]


# The data set ---------------------------------------------------------------------------------------------------


@themed
def class_balance(metadata, labels=None):
    """Draw how many images and lesions each diagnosis has.

    Parameters
    ----------
    metadata : pandas.DataFrame
        One row per image; columns dx and lesion_id.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    images = metadata["dx"].value_counts().reindex(CLASSES, fill_value=0)
    lesions = metadata.drop_duplicates("lesion_id")["dx"].value_counts().reindex(CLASSES, fill_value=0)
    order = sorted(CLASSES, key=lambda dx: (images[dx], dx))
    figure, axes = new_figure(5.2, 3.9)
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
    write_numbers(axes.xaxis, labels, ",.0f")
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
    images : skin_tl.data.images.ImageSet
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
            pictures[dx].append((image_id, _jpeg(picture)))
    return pictures


def _jpeg(picture):
    """Return a picture (PIL.Image.Image) as a JPEG in a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


MAP_COLOURS = "viridis"
"""Colours of a Grad-CAM, from dark blue (0) to yellow (1): brighter means more, also without colours."""


def under_map(pixels, heat):
    """Return an image in grey under the colours of its Grad-CAM.

    Parameters
    ----------
    pixels : numpy.ndarray
        (size, size, 3) uint8.
    heat : numpy.ndarray
        (size, size) in 0…1, see `skin_tl.explain.gradcam`.

    Returns
    -------
    numpy.ndarray
        (size, size, 3) uint8.
    """
    grey = np.repeat((pixels @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
    colours = 255 * mpl.colormaps[MAP_COLOURS](np.asarray(heat, float))[..., :3]
    return np.round(0.5 * grey + 0.5 * colours).astype(np.uint8)


def explained_picture(pixels, heat, side=160):
    """Encode an image with its Grad-CAM beside it for a page.

    Parameters
    ----------
    pixels, heat : numpy.ndarray
        As for `under_map`.
    side : int
        Width of each of the two, in pixels.

    Returns
    -------
    str
        JPEG as data URI, twice as wide as each: the image, and the image in grey under the colours of the map; both
        with the cameras' proportions, 4:3.
    """
    whole = Image.new("RGB", (2 * side, side * 3 // 4))
    for place, part in enumerate((pixels, under_map(pixels, heat))):
        part = Image.fromarray(part).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
        whole.paste(part, (place * side, 0))
    return _jpeg(whole)


@themed
def example_grid(images, metadata, labels=None, n_examples=5, seed=0):
    """Draw a grid of example images, one row per diagnosis.

    Parameters
    ----------
    images : skin_tl.data.images.ImageSet
    metadata : pandas.DataFrame
    labels : skin_tl.reporting.texts.Labels, optional
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
    figure, grid = new_figure(7.6, 7.6, nrows=len(CLASSES), ncols=n_examples, squeeze=False)
    figure.photographs = True
    for dx, axes_row, ids in zip(CLASSES, grid, choose_examples(metadata, n_examples, seed).values(), strict=True):
        for axes in axes_row:
            axes.axis("off")
        for axes, image_id in zip(axes_row, ids, strict=False):
            axes.imshow(pixels[rows[image_id]], aspect=0.75)
        name = labels(f"diagnosis.{dx}").replace(" ", "\n", 1)
        axes_row[0].text(-0.08, 0.5, f"{name}\n({dx})", transform=axes_row[0].transAxes, ha="right", va="center")
    return figure
