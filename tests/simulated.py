"""Predictions with a known truth: lesions in HAM10000's numbers, scored by an imaginary backbone.

Takes a random generator; gives diagnoses, lesions and probabilities whose population is known, so that tests and
benchmarks can tell whether an interval holds the truth.  The logits of an image are the centre of its diagnosis plus an
effect of its lesion, which all images and seeds share, one of the image and one of the seed.
"""

import numpy as np
import pandas as pd

from skin_tl.evaluation.uncertainty import draw_metrics
from skin_tl.schema import CLASSES, PREDICTION_COLUMNS, PROBABILITIES

LESIONS = {
    "akiec": [151, 57, 18, 2, 0, 0],
    "bcc": [175, 118, 33, 1, 0, 0],
    "bkl": [440, 220, 55, 8, 2, 2],
    "df": [39, 26, 8, 0, 0, 0],
    "mel": [230, 278, 100, 4, 1, 1],
    "nv": [4415, 699, 268, 18, 2, 1],
    "vasc": [64, 25, 8, 1, 0, 0],
}
"""HAM10000's lesions with 1, 2, … 6 images, counted in its metadata table."""

_COUNTS = np.array([LESIONS[name] for name in CLASSES])
CODES = np.repeat(np.arange(len(CLASSES)), _COUNTS.sum(1))
"""Diagnosis of each of HAM10000's 7,470 lesions."""
SIZES = np.concatenate([np.repeat(np.arange(1, 7), row) for row in _COUNTS])
"""Images of each of them; 10,015 together."""

N_TEST = round(len(CODES) / 5)
"""Lesions of a test subset."""

# Rows: the diagnosis; columns: the logit of each.  Confusions are those that the published tables show.
CENTRES = np.diag([1.6, 1.9, 1.7, 1.3, 1.6, 4.2, 2.2])
for _true, _called, _logit in (
    ("mel", "nv", 1.2),
    ("bkl", "nv", 1.0),
    ("bkl", "mel", 0.5),
    ("akiec", "bkl", 1.0),
    ("akiec", "bcc", 0.8),
    ("df", "nv", 0.8),
    ("df", "bcc", 0.5),
    ("bcc", "akiec", 0.5),
    ("nv", "mel", 0.6),
    ("nv", "bkl", 0.5),
    ("vasc", "nv", 0.6),
):
    CENTRES[CLASSES.index(_true), CLASSES.index(_called)] = _logit

LESION_EFFECT, IMAGE_EFFECT, SEED_EFFECT = 1.0, 0.7, 0.3


def draw_images(lesions, rng, n_seeds=1, skill=1.0):
    """Draw the images of lesions and their probabilities.

    Parameters
    ----------
    lesions : (n_lesions,) int array
        Which of HAM10000's lesions (positions in `CODES`) lend their diagnosis and number of images.
    rng : numpy.random.Generator
    n_seeds : int
    skill : float
        Multiplies the centres.

    Returns
    -------
    y, lesion : (n_images,) int arrays
        Diagnosis, and position in `lesions`.
    probabilities : list of (n_images, 7) arrays
        One per seed.
    """
    lesion = np.repeat(np.arange(len(lesions)), SIZES[lesions])
    y = CODES[lesions][lesion]
    logits = skill * CENTRES[y] + LESION_EFFECT * rng.normal(size=(len(lesions), len(CLASSES)))[lesion]
    logits += IMAGE_EFFECT * rng.normal(size=logits.shape)
    return y, lesion, [softmax(logits + SEED_EFFECT * rng.normal(size=logits.shape)) for _ in range(n_seeds)]


def softmax(logits):
    """Return probabilities for logits, row by row."""
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


def point_values(y, probability, groups, weights=None):
    """Compute metrics of images as they are, keyed as `draw_metrics` keys them; `weights` is per image."""
    weights = np.ones(len(y)) if weights is None else weights
    drawn = draw_metrics(y, probability, np.arange(len(y)), weights[:, None].astype(np.float32), groups)
    return {key: float(value[0]) for key, value in drawn.items()}


def true_values(groups, rng, n_lesions=4000, n_repeats=25, skill=1.0):
    """Compute the metrics of the population: as many lesions of each diagnosis, weighted to HAM10000's shares."""
    found = {}
    for _ in range(n_repeats):
        lesions = np.concatenate([rng.choice(np.flatnonzero(CODES == code), n_lesions) for code in range(len(CLASSES))])
        y, _, (probability,) = draw_images(lesions, rng, skill=skill)
        share = np.bincount(CODES, SIZES) / np.bincount(y)
        for key, value in point_values(y, probability, groups, (share / share.mean())[y]).items():
            found.setdefault(key, []).append(value)
    return {key: float(np.mean(values)) for key, values in found.items()}


def predictions(rng, n_lesions=300, seeds=(1, 2), split_policy="lesion", skill=1.0, lesions=None, n_parts=3):
    """Make a table as ``predictions.csv`` holds it, of lesions that have every diagnosis.

    One of `n_parts` equal parts of the lesions is the test subset of each seed, another its validation subset.
    """
    if lesions is None:
        some = np.concatenate([rng.choice(np.flatnonzero(CODES == code), 6) for code in range(len(CLASSES))])
        lesions = np.concatenate([some, rng.choice(len(CODES), n_lesions - len(some))])
    y, lesion, probabilities = draw_images(lesions, rng, len(seeds), skill)
    tables = []
    for seed, probability in zip(seeds, probabilities, strict=True):
        turn = (np.arange(len(lesions)) + seed) % n_parts
        table = pd.DataFrame(probability, columns=PROBABILITIES)
        table = table.assign(dataset="internal", arm="main", split_policy=split_policy, preprocessing="native")
        table["train_fraction"], table["seed"] = 1.0, seed
        table["subset"] = np.array(["test", "val", *["train"] * (n_parts - 2)])[turn[lesion]]
        table["image_id"] = [f"image_{number:05d}" for number in range(len(y))]
        table["lesion_id"] = [f"lesion_{number:05d}" for number in lesion]
        table["dx"] = np.array(CLASSES)[y]
        tables.append(table[table["subset"] != "train"])
    return pd.concat(tables, ignore_index=True)[PREDICTION_COLUMNS]
