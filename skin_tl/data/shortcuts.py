"""Shortcuts: pictures without their lesion, without its surroundings, and with things on the skin drawn by rule.

Takes pixels, (size, size, 3) uint8; gives them changed.  A network that still names the diagnosis without the lesion
uses something else; see A. Bissoto, M. Fornaciali, E. Valle, S. Avila, (De)Constructing Bias on Skin Lesion Datasets,
CVPR Workshops 2019.  The mask of the lesion is the release's (`read_mask`), or comes from the picture alone
(`lesion_mask`): Otsu's threshold (IEEE Transactions on Systems, Man, and Cybernetics 9, 1979) of its first principal
colour, and of the parts found the one in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from skin_tl.errors import SkinTLError

MARGIN = 0.03
"""By how much a mask is wider than the lesion, as a share of the picture's side."""


def otsu_threshold(values: np.ndarray, n_bins: int = 256) -> float:
    """Return the threshold that divides values into the two groups with the least variance within."""
    counts, edges = np.histogram(values, n_bins)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = np.cumsum(counts), np.cumsum(counts * centres)
    above = below[-1] - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(between)])


def lesion_mask(pixels: np.ndarray) -> np.ndarray:
    """Find the lesion in a picture, by its colour.

    Returns
    -------
    numpy.ndarray
        (size, size) bool, slightly wider than the lesion, in one piece without holes.  Where nothing is found in the
        middle, a disk over a quarter of the picture.
    """
    size = len(pixels)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    distance = np.hypot(x, y) / size
    seen = distance < 0.5  # corners may be dark
    colour = ndimage.gaussian_filter(pixels.astype(np.float32), (size / 60, size / 60, 0))
    centred = colour - np.median(colour[seen], axis=0)
    _, axes = np.linalg.eigh(np.cov(centred[seen].T))
    lightness = centred @ axes[:, -1]
    middle, ring = lightness[distance < 0.2].mean(), lightness[seen & (distance > 0.4)].mean()
    lightness = lightness if middle < ring else -lightness
    found = (lightness < otsu_threshold(lightness[seen])) & seen
    parts, n_parts = ndimage.label(found)
    if n_parts:
        # The part with most of its area near the middle: hairs and dark corners lie elsewhere.
        weights = ndimage.sum_labels(np.exp(-((distance / 0.2) ** 2)), parts, np.arange(1, n_parts + 1))
        found = ndimage.binary_fill_holes(parts == 1 + int(np.argmax(weights)))
    if not 0.01 < found.mean() < 0.8:
        found = distance < math.sqrt(0.25 / math.pi)
    return _widened(found)


def read_mask(path: str | Path, size: int) -> np.ndarray | None:
    """Read a mask of the release, white where the lesion is, squashed to a square as its image is.

    Returns
    -------
    numpy.ndarray or None
        (size, size) bool, slightly wider than the lesion; None where the mask is empty.

    Raises
    ------
    SkinTLError
        If the file is no image.
    """
    try:
        with Image.open(path) as image:
            found = np.asarray(image.convert("L").resize((size, size), Image.Resampling.BILINEAR)) >= 128
    except (OSError, SyntaxError, ValueError) as error:
        raise SkinTLError(
            f"{path} cannot be read as the mask of a lesion ({error}). Replace the file, or remove it: a mask is then "
            "found by colour."
        ) from None
    return _widened(found) if found.any() else None


def _widened(found: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(~found) <= MARGIN * len(found)


def _skin_colour(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.median(pixels[~mask] if (~mask).any() else pixels.reshape(-1, 3), axis=0).astype(np.uint8)


def without_lesion(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a picture whose lesion has the median colour of its surroundings."""
    return np.where(mask[..., None], _skin_colour(pixels, mask), pixels)


def without_surroundings(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return a picture whose surroundings of the lesion have their median colour all over."""
    return np.where(mask[..., None], pixels, _skin_colour(pixels, mask))


MASKS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "no_lesion": without_lesion,
    "no_surroundings": without_surroundings,
}
"""By name: what is taken away, from pixels and the mask of the lesion, (size, size) bool."""

Pen = ImageDraw.ImageDraw
Drawn = Callable[[Pen, int, np.random.Generator], None]
"""Draws on a picture of a size, by a generator."""


def _hair(pen: Pen, size: int, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(8, 15)):
        x, y, turn = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0, 2 * math.pi)
        points = []
        for _ in range(20):
            points.append((x, y))
            turn += rng.normal(0, 0.1)
            x, y = x + 0.04 * size * math.cos(turn), y + 0.04 * size * math.sin(turn)
        pen.line(points, fill=(40, 28, 24, 230), width=max(1, round(size / 150)))


def _ruler(pen: Pen, size: int, rng: np.random.Generator) -> None:
    top, width = rng.uniform(0.9, 0.94) * size, max(1, round(size / 150))
    for place in range(41):
        x, length = size * place / 40, (0.06 if place % 5 == 0 else 0.03) * size
        pen.line([(x, top), (x, top + length)], fill=(20, 20, 20, 255), width=width)


def _dark_corners(pen: Pen, size: int, rng: np.random.Generator) -> None:
    radius, reach = rng.uniform(0.5, 0.54) * size, size
    pen.ellipse(
        (size / 2 - radius - reach, size / 2 - radius - reach, size / 2 + radius + reach, size / 2 + radius + reach),
        outline=(8, 6, 6, 255),
        width=reach,
    )


def _gel_bubbles(pen: Pen, size: int, rng: np.random.Generator) -> None:
    for _ in range(rng.integers(6, 13)):
        x, y, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(0.015, 0.05) * size
        box = (x - r, y - r, x + r, y + r)
        pen.ellipse(box, fill=(255, 255, 255, 40), outline=(255, 255, 255, 130), width=max(1, round(size / 200)))
        pen.arc(box, 200, 260, fill=(255, 255, 255, 220), width=max(1, round(size / 110)))


def _ink(pen: Pen, size: int, rng: np.random.Generator) -> None:
    start = rng.uniform(0, 360)
    for turn in (start, start + 180):
        r = rng.uniform(0.38, 0.42) * size
        box = (size / 2 - r, size / 2 - r, size / 2 + r, size / 2 + r)
        pen.arc(box, turn, turn + 80, fill=(70, 40, 130, 190), width=max(1, round(size / 40)))


def _coloured_patch(pen: Pen, size: int, rng: np.random.Generator) -> None:
    x, y = (rng.choice([0.02, 0.98]) * size for _ in range(2))
    r, colour = 0.2 * size, [(60, 110, 200), (230, 190, 40), (60, 160, 90)][rng.integers(3)]
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(*colour, 255))


ARTEFACTS: dict[str, Drawn] = {
    "hair": _hair,
    "ruler": _ruler,
    "dark_corners": _dark_corners,
    "gel_bubbles": _gel_bubbles,
    "ink": _ink,
    "coloured_patch": _coloured_patch,
}
"""By name: what is drawn on."""


def with_artefact(pixels: np.ndarray, name: str, rng: np.random.Generator) -> np.ndarray:
    """Draw one of `ARTEFACTS` on a picture; the same generator draws the same."""
    picture = Image.fromarray(pixels)
    # Blended by hand: Pillow's pen on RGB would blend each stroke, and so strokes over each other twice.
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    ARTEFACTS[name](ImageDraw.Draw(layer), len(pixels), rng)
    picture.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(picture)
