"""Near-duplicates: photographs of one lesion that stand under two lesion ids, or in two data sets.

Takes decoded images and their metadata; gives tables of pairs.  No network is involved, so that the splits depend on
the data set alone, not on the backbones of a study.
"""

import numpy as np
import pandas as pd
from PIL import Image

from skin_tl.schema import PAIR_COLUMNS

SIDE, CELLS, ORIENTATIONS = 56, 4, 8
"""Of a descriptor: side of the grey thumbnail in pixels, cells along a side, directions of the gradient."""

COMPONENTS = 64
"""Principal components of a descriptor that are compared, as far as there are four images for each."""

RATIO = 0.45
"""Greatest ratio of distances of a near-duplicate whatever its patient data, see `nearest_of_other_lesions`."""

RATIO_SAME_PATIENT = 0.75
"""Greatest ratio where diagnosis, age, sex and body site agree too.

Measured on HAM10000 reduced to 200×150 by ``tests/benchmarks/near_duplicates.py``, which draws the pairs; all were
inspected.  Up to 0.45 there are 7 pairs of lesions, each of which shows one lesion.  Up to 0.75 there are 197 pairs, of
which 20 agree in `PATIENT_DATA`; these too appear to show one lesion.  Of 1,000 copies that were compressed (JPEG
quality 60), resized by 0.9, cropped by 2 % or brightened by 5 %, or all four, 100 % are found at a ratio of 0.40."""

PATIENT_DATA = ["dx", "age", "sex", "localization"]

SAME = 1e-4
"""Distance up to which two images are the same, whatever else there is."""


def descriptors(pixels: np.ndarray) -> np.ndarray:
    """Describe images by histograms of oriented gradients.

    A histogram has one bin for each of `ORIENTATIONS` signed directions, between which a gradient is shared, and there
    is one for each of `CELLS` by `CELLS` cells of a grey thumbnail; square roots lessen the weight of strong edges.
    Source: Dalal and Triggs, CVPR 2005, doi:10.1109/CVPR.2005.177.

    Parameters
    ----------
    pixels
        (n_images, height, width, 3) uint8, read one image at a time.

    Returns
    -------
    numpy.ndarray
        (n_images, `CELLS`² × `ORIENTATIONS`) float32, at least 0.
    """
    found = np.empty((len(pixels), CELLS, CELLS, ORIENTATIONS), np.float32)
    for row, image in enumerate(pixels):
        grey = Image.fromarray(image).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        down, right = np.gradient(np.asarray(grey, np.float32))
        turn = np.arctan2(down, right) / (2 * np.pi) * ORIENTATIONS
        # Length of the gradient times its nearness to each direction, 0…1, around the circle.
        apart = np.abs((turn[..., None] - np.arange(ORIENTATIONS) + ORIENTATIONS / 2) % ORIENTATIONS - ORIENTATIONS / 2)
        votes = np.hypot(down, right)[..., None] * np.maximum(1 - apart, 0)
        found[row] = votes.reshape(CELLS, SIDE // CELLS, CELLS, SIDE // CELLS, ORIENTATIONS).mean((1, 3))
    return np.sqrt(found.reshape(len(pixels), -1))


def nearest_of_other_lesions(
    values: np.ndarray, reference: np.ndarray, lesions: np.ndarray, own: np.ndarray | None = None, chunk: int = 256
) -> tuple[np.ndarray, np.ndarray]:
    """Find the most similar image of another lesion, and the ratio of its distance to that of a third lesion.

    Distance is 1 − cosine of the principal components of `reference`, each scaled to a variance of 1.  The ratio of the
    two distances is the test of Lowe (International Journal of Computer Vision 60, 2004,
    doi:10.1023/B:VISI.0000029664.99615.94): what is common among lesions has many images equally near.  Of three lesion
    ids of one lesion, none is found by it unless their images are the same.

    Parameters
    ----------
    values
        (n_images, n_values) float32, from `descriptors`.
    reference
        (n_reference, n_values) float32 of the images to search.
    lesions
        (n_reference,) int, of `reference`.
    own
        (n_images,) int, lesions of `values` by the same numbers, which are left out.
    chunk
        Images that are compared at a time.

    Returns
    -------
    rows
        (n_images,) int, rows of `reference`.
    ratio
        (n_images,) float, 0…1, of the distance to that row and the distance to the nearest image of a third lesion; 0
        for the same picture, 1 where there is no third lesion.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import normalize

    n_components = max(1, min(COMPONENTS, len(reference) // 4))
    scaled = [normalize(part - part.mean(axis=1, keepdims=True)) for part in (reference, values)]
    pca = PCA(n_components, whiten=True, svd_solver="covariance_eigh").fit(scaled[0])
    reference, values = (normalize(pca.transform(part)) for part in scaled)
    rows, ratio = np.empty(len(values), int), np.empty(len(values))
    for i in range(0, len(values), chunk):
        part = slice(i, i + chunk)
        distances = np.maximum(1 - values[part] @ reference.T, 0)
        if own is not None:
            distances[own[part, None] == lesions] = np.inf
        rows[part] = nearest = distances.argmin(axis=1)
        first = distances[np.arange(len(nearest)), nearest]
        distances[lesions[nearest][:, None] == lesions] = np.inf
        second = distances.min(axis=1)
        ratio[part] = np.where(first <= SAME, 0, np.where(np.isfinite(second), first / np.maximum(second, SAME), 1))
    return rows, ratio


def near_duplicates(pixels: np.ndarray, metadata: pd.DataFrame) -> pd.DataFrame:
    """List pairs of lesions that have near-duplicate images.

    Parameters
    ----------
    pixels
        (n_images, height, width, 3) uint8, in the order of the rows of `metadata`.
    metadata
        Columns image_id, lesion_id and `PATIENT_DATA`.

    Returns
    -------
    pandas.DataFrame
        Columns `PAIR_COLUMNS`, by rising ratio; one row for each pair of lesions, with their most similar images.
    """
    table = metadata.reset_index(drop=True)
    lesions, names = pd.factorize(table["lesion_id"])
    if len(names) < 2:
        return pd.DataFrame(columns=PAIR_COLUMNS)
    values = descriptors(pixels)
    rows, ratio = nearest_of_other_lesions(values, values, lesions, lesions)
    other = table.loc[rows].reset_index(drop=True)
    patient = [table[PATIENT_DATA], other[PATIENT_DATA]]
    same = (patient[0].eq(patient[1]) | (patient[0].isna() & patient[1].isna())).all(axis=1)
    pairs = pd.concat(
        [table[["image_id", "lesion_id", "dx"]], other[["image_id", "lesion_id", "dx"]].add_prefix("nearest_")], axis=1
    ).assign(ratio=ratio.round(4), same_patient_data=same)
    pairs = pairs[ratio <= np.where(same, RATIO_SAME_PATIENT, RATIO)]
    pairs = pairs.sort_values(["ratio", "image_id"], ignore_index=True)
    both = np.sort(pairs[["lesion_id", "nearest_lesion_id"]].to_numpy(), axis=1)
    return pairs[~pd.DataFrame(both).duplicated()].reset_index(drop=True)[PAIR_COLUMNS]
