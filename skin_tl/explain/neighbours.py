"""Neighbours: which known images a new one is most like, and whether it is like any of them.

Takes features of images and of a reference, (n, n_features) float32 arrays or `Rows` of them; gives distances and rows
of the reference.  Whether an image is one of them is told by its pixels.  All are read a part at a time, so memory does
not grow with the number of images.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

CHUNK = 1024
"""Images of either side that are compared at a time."""

OOD_NEIGHBOUR = 10
"""Which nearest training image tells how unlike them an image is.  HAM10000 has at most six images of a lesion, so that
it is one of another lesion than the nearest."""

LIKE = 0.99
"""Share of the validation images that count as like the training images."""


@dataclass(frozen=True)
class Rows:
    """Some rows of an array, of which only those that are asked for are read.

    Attributes
    ----------
    values
        (n, n_features), as a rule memory-mapped.
    rows
        (n_rows,) int.
    """

    values: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, part: slice | np.ndarray) -> np.ndarray:
        return self.values[self.rows[part]]


def nearest(
    features: np.ndarray | Rows, reference: np.ndarray | Rows, n: int = 1, chunk: int = CHUNK
) -> tuple[np.ndarray, np.ndarray]:
    """Find for each image the most similar ones of another set.

    Distance is 1 − cosine: a picture of more contrast, all of whose features are stronger, is not farther for that.

    Parameters
    ----------
    features, reference
        (n_images, n_features) and (n_reference, n_features) float32.
    n
        How many to find.
    chunk
        Images of each that are compared at a time.

    Returns
    -------
    distances : numpy.ndarray
        (n_images, n) float32, 0…2, rising; ∞ where there was nothing left to compare with.
    rows : numpy.ndarray
        (n_images, n) int, rows of `reference`; −1 where the distance is ∞.
    """

    def directions(values: np.ndarray) -> np.ndarray:
        return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)

    distances, rows = np.full((len(features), n), np.inf, np.float32), np.full((len(features), n), -1)
    for i in range(0, len(features), chunk):
        part = slice(i, i + chunk)
        mine, best, at = directions(features[part]), distances[part], rows[part]
        for j in range(0, len(reference), chunk):
            found = np.maximum(1 - mine @ directions(reference[j : j + chunk]).T, 0)
            places = np.broadcast_to(np.arange(j, j + found.shape[1]), found.shape)
            both, of_both = np.hstack([best, found]), np.hstack([at, places])
            kept = np.argpartition(both, n - 1, axis=1)[:, :n]
            best, at = np.take_along_axis(both, kept, 1), np.take_along_axis(of_both, kept, 1)
        order = np.lexsort((at, best), axis=1)
        distances[part], rows[part] = np.take_along_axis(best, order, 1), np.take_along_axis(at, order, 1)
    rows[np.isinf(distances)] = -1
    return distances, rows


def enough_images(lesion_ids: "pd.Series", n_lesions: int) -> int:
    """Return how many nearest images surely hold `n_lesions` lesions, if `lesion_ids` has so many."""
    return min(len(lesion_ids), n_lesions * int(lesion_ids.value_counts().max()))


def nearest_lesions(known: "pd.DataFrame", rows: np.ndarray, distances: np.ndarray, n_lesions: int) -> "pd.DataFrame":
    """Return the nearest lesions to one image, each told once, by its nearest image.

    Parameters
    ----------
    known
        lesion_id and more of each row of the reference.
    rows, distances
        (n,) one row of what `nearest` returned.
    n_lesions

    Returns
    -------
    pandas.DataFrame
        At most `n_lesions` rows of `known` with their distance (float64), the nearest first.
    """
    return known.iloc[rows].assign(distance=distances.astype(float)).drop_duplicates("lesion_id").head(n_lesions)


def ood_score(distances: np.ndarray) -> np.ndarray:
    """Return the OOD score of each image: its distance to the `OOD_NEIGHBOUR`-th nearest image of the reference.

    The method of Sun et al. (*Out-of-distribution detection with deep nearest neighbors*, ICML 2022), who compare
    directions of features as they are, too.  It assumes nothing of how features are distributed.

    Measured with ResNet50 on HAM10000 reduced to 200×150, split by lesion, of 44 pictures that are no lesion or a
    changed one: with features as they are, all of plain colour, of text and photographs of other things are above the
    limit, and no lesion turned by a right angle is.  Standardised, most plain colours are below it, whether cosines or
    Euclidean distances are compared.  The tenth, first and fiftieth nearest give much the same.

    Parameters
    ----------
    distances
        (n_images, n) from `nearest`; where n is less, the farthest counts.

    Returns
    -------
    numpy.ndarray
        (n_images,) float32.
    """
    return distances[:, min(OOD_NEIGHBOUR, distances.shape[1]) - 1]


def ood_limit(validation: np.ndarray | Rows, reference: np.ndarray | Rows) -> float:
    """Return the OOD score that a share `LIKE` of the validation images does not exceed.

    Both are features, of the validation images and of the training images.
    """
    distances, _ = nearest(validation, reference, min(OOD_NEIGHBOUR, len(reference)))
    return float(np.quantile(ood_score(distances), LIKE))


def same_picture(picture: np.ndarray, known: np.ndarray, chunk: int = CHUNK) -> list[int]:
    """Find the images of a set that are the very same picture, pixel by pixel.

    Features would not do: those of a network that sees nothing are alike for all pictures.

    Parameters
    ----------
    picture
        (size, size, 3) uint8.
    known
        (n_images, size, size, 3) uint8, as a rule memory-mapped; of most images one line of pixels is read.
    chunk
        Images whose line is compared at a time.

    Returns
    -------
    list of int
        Rows of `known`, rising.
    """
    line, found = len(picture) // 2, []
    for first in range(0, len(known), chunk):
        like = (known[first : first + chunk, line] == picture[line]).all(axis=(1, 2))
        found += [first + int(row) for row in np.flatnonzero(like) if (known[first + row] == picture).all()]
    return found
