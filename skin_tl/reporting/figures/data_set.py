"""Figures of the data set, and pictures of its images: examples, and Grad-CAM beside an image."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from PIL import Image

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import CLASSES

if TYPE_CHECKING:
    import pandas as pd

    from skin_tl.data.images import ImageSet


@draw.themed
def class_balance(classes: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw how many images and lesions each diagnosis has.

    Parameters
    ----------
    classes
        As `skin_tl.data.metadata.class_table` gives it.
    """
    counts = classes.set_index("dx")
    images, lesions = (counts.loc[[*CLASSES], name] for name in ("n_images", "n_lesions"))
    order = draw.rarest_first(images)
    figure, axes = draw.new_figure(5.2, 3.9)
    for place, dx in enumerate(order):
        for offset, bars, alpha, height in ((0.19, images, 1, 0.36), (-0.2, lesions, 0.45, 0.32)):
            colour = (*to_rgb(draw.DIAGNOSES[dx]), alpha)
            axes.barh(place + offset, bars[dx], height, color=colour, edgecolor=draw.SOFT, linewidth=0.6)
            shown = labels.number(int(bars[dx]), ",d")
            axes.text(bars[dx] + images.max() * 0.012, place + offset, shown, va="center", fontsize=7.5)
    draw.name_rows(axes, [f"{labels(f'diagnosis.{dx}')}\n({dx})" for dx in order])
    axes.set_xlim(0, images.max() * 1.12)
    sizes = {name: labels.number(int(counts.loc["all", f"n_{name}"]), ",d") for name in ("images", "lesions")}
    axes.set_xlabel(labels("axis.number", **sizes))
    draw.write_numbers(axes.xaxis, labels, ",.0f")
    handles = [Rectangle((0, 0), 1, 1, facecolor=(0.35, 0.35, 0.35, alpha), edgecolor=draw.SOFT) for alpha in (1, 0.45)]
    axes.legend(handles, [labels("axis.images"), labels("axis.lesions")], loc="lower right")
    return figure


def choose_examples(metadata: pd.DataFrame, n_examples: int = 5, seed: int = 0) -> dict[str, list[str]]:
    """Choose images to show: one image of each of some lesions per diagnosis, drawn at random.

    Parameters
    ----------
    metadata
        One row per image; row order does not matter.
    n_examples
        Per diagnosis; fewer where it has fewer lesions.

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


def example_pictures(images: ImageSet, metadata: pd.DataFrame, n_examples: int = 5) -> dict[str, list[tuple[str, str]]]:
    """Encode example images of each diagnosis for a page.

    Parameters
    ----------
    images
        Its `ids` and `pixels`, (n_images, size, size, 3) uint8, are read.
    n_examples
        As for `choose_examples`.

    Returns
    -------
    dict of list of (str, str)
        Image id and JPEG as data URI, by diagnosis.
    """
    rows = {image_id: row for row, image_id in enumerate(images.ids)}
    chosen, pixels = choose_examples(metadata, n_examples), images.pixels
    return {dx: [(image_id, _jpeg(_small(pixels[rows[image_id]]))) for image_id in ids] for dx, ids in chosen.items()}


_SIDE = 160
"""Width of a picture, in pixels."""


def _small(pixels: np.ndarray) -> Image.Image:
    """Return an image as small as a page needs it, with the cameras' proportions, 4:3."""
    return Image.fromarray(pixels).resize((_SIDE, _SIDE * 3 // 4), Image.Resampling.BICUBIC)


def _jpeg(picture: Image.Image) -> str:
    """Return a picture as a JPEG in a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


MAP_COLOURS = "viridis"
"""Colours of a Grad-CAM, from dark blue (0) to yellow (1): brighter means more, also without colours."""


def under_map(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image in grey under the colours of its Grad-CAM.

    Parameters
    ----------
    pixels
        (size, size, 3) uint8.
    heat
        (size, size) in 0…1, see `skin_tl.explain.gradcam`.

    Returns
    -------
    numpy.ndarray
        (size, size, 3) uint8.
    """
    grey = np.repeat((pixels @ [0.299, 0.587, 0.114])[..., None], 3, axis=2)
    colours = 255 * mpl.colormaps[MAP_COLOURS](np.asarray(heat, float))[..., :3]
    return np.round(0.5 * grey + 0.5 * colours).astype(np.uint8)


def explained_picture(pixels: np.ndarray, heat: np.ndarray) -> str:
    """Encode an image (as for `under_map`) with its Grad-CAM beside it for a page, a JPEG as data URI."""
    whole = Image.new("RGB", (2 * _SIDE, _SIDE * 3 // 4))
    for place, part in enumerate((pixels, under_map(pixels, heat))):
        whole.paste(_small(part), (place * _SIDE, 0))
    return _jpeg(whole)


@draw.themed
def example_grid(
    images: ImageSet, metadata: pd.DataFrame, labels: Labels = ENGLISH, n_examples: int = 5
) -> draw.Drawing:
    """Draw a grid of example images, one row per diagnosis; arguments as of `example_pictures`."""
    rows = {image_id: row for row, image_id in enumerate(images.ids)}
    pixels = images.pixels
    figure, grid = draw.new_figure(7.6, 7.6, nrows=len(CLASSES), ncols=n_examples, squeeze=False)
    figure.photographs = True
    for (dx, ids), axes_row in zip(choose_examples(metadata, n_examples).items(), grid, strict=True):
        for axes in axes_row:
            axes.axis("off")
        for axes, image_id in zip(axes_row, ids, strict=False):
            axes.imshow(pixels[rows[image_id]], aspect=0.75)
        name = labels(f"diagnosis.{dx}").replace(" ", "\n", 1)
        axes_row[0].text(-0.08, 0.5, f"{name}\n({dx})", transform=axes_row[0].transAxes, ha="right", va="center")
    return figure
