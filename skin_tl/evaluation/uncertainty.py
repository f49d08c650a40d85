"""Uncertainty: 95 % confidence intervals by a bootstrap over lesions.

Takes the test images of one or several seeds (lesion, diagnosis, probabilities); gives every metric in each of
the bootstrap's draws, and intervals from them.

Images of one lesion resemble each other, so lesions are drawn, never images, and a lesion that is in the test
subsets of several seeds is drawn in all of them at once.  A diagnosis of which a draw holds no lesion is left
out of that draw's means over diagnoses, as it is for a test subset that lacks it.

Percentiles of the draws are too narrow for rare diagnoses: with fifteen lesions they cover the truth in about
nine of ten samples.  The draws therefore give the variance, and the interval is Wilson's with the number of
lesions that has this variance (`wilson_interval`).  ``tests/benchmarks/interval_coverage.py`` measures both.
"""

import functools
from collections.abc import Sequence
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
from scipy import special
from threadpoolctl import ThreadpoolController

from skin_tl.evaluation.calibration import calibration_gaps, image_log_loss
from skin_tl.evaluation.metric_list import METRICS, Metric, of_confusion
from skin_tl.schema import CONFIDENCE

SEED = 0
"""Of the draws of every bootstrap over lesions."""

CHUNK = 250
"""Draws that are worked on at once; bounds the memory, changes no value."""


def lesion_weights(n_lesions: int, n_draws: int, rng: np.random.Generator | None = None) -> np.ndarray:
    """Draw as many lesions as there are, with replacement, many times; by default with a generator of `SEED`.

    Returns
    -------
    numpy.ndarray
        (n_lesions, n_draws) float32: how often each lesion was drawn.
    """
    rng = rng or np.random.default_rng(SEED)
    picks = rng.integers(n_lesions, size=(n_draws, n_lesions), dtype=np.int32)
    weights = np.empty((n_draws, n_lesions), np.float32)
    for row, pick in zip(weights, picks, strict=True):
        row[:] = np.bincount(pick, minlength=n_lesions)
    return np.ascontiguousarray(weights.T)


def draw_lesions(lesions: pd.DataFrame, n_boot: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the lesions of several seeds, each in all of its seeds at once.

    Parameters
    ----------
    lesions
        Rows with a lesion_id, a lesion's rows of several seeds among them.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    index
        (n_rows,) int: the row of `weights` that belongs to each row of `lesions`.
    weights
        (n_lesions, n_boot), from `skin_tl.evaluation.lesion_weights`.
    """
    names, index = np.unique(lesions["lesion_id"].to_numpy(str), return_inverse=True)
    return index, lesion_weights(len(names), n_boot)


def confusion_metrics(confusion: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Compute what follows from confusion matrices, many at a time.

    Parameters
    ----------
    confusion
        (..., n_classes, n_classes) weights by true diagnosis (rows) and predicted diagnosis (columns).

    Returns
    -------
    overall, per_class : dict
        By metric, (...) and (..., n_classes).  NaN for a diagnosis without images; means over diagnoses leave it out.
    """
    confusion = np.asarray(confusion, float)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = hits / true
        precision = np.where(true > 0, np.where(predicted > 0, hits / predicted, 0.0), np.nan)
        f1 = np.where(true > 0, 2 * hits / (true + predicted), np.nan)
        share = true / true.sum(-1, keepdims=True)
        accuracy = hits.sum(-1) / true.sum(-1)
    overall = {
        "accuracy": accuracy,
        "balanced_accuracy": nanmean(recall, -1),
        "macro_precision": nanmean(precision, -1),
        "macro_f1": nanmean(f1, -1),
        "weighted_precision": np.nansum(precision * share, -1),
        "weighted_f1": np.nansum(f1 * share, -1),
    }
    return overall, {"precision": precision, "recall": recall, "f1": f1}


def nanmean(values: Sequence | np.ndarray, axis: int = 0) -> np.ndarray:
    """Average along an axis, leaving NaN out; NaN where there is nothing else."""
    values = np.asarray(values, float)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.where(known, values, 0).sum(axis) / known.sum(axis)


def ranking_metrics(drawn: np.ndarray, positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute ROC AUC and average precision of one class in every draw, equal scores counting as tied.

    Parameters
    ----------
    drawn
        (n_images, n_draws) float32 weights of the images.
    positive, score
        (n_images,) bool and float.

    Returns
    -------
    roc_auc, average_precision : numpy.ndarray
        (n_draws,) float.
    """
    order = np.argsort(-score, kind="stable")
    positive, falling = positive[order], -score[order]
    above = np.zeros((len(order) + 1, drawn.shape[1]), np.float32)
    np.cumsum(drawn[order], axis=0, out=above[1:])
    at = np.flatnonzero(positive)
    first = np.searchsorted(falling, falling[at], side="left")
    last = np.searchsorted(falling, falling[at], side="right")
    own = drawn[order[at]]
    above_positive = np.zeros((len(at) + 1, drawn.shape[1]), np.float32)
    np.cumsum(own, axis=0, out=above_positive[1:])
    rank = np.concatenate([[0], np.cumsum(positive)])
    seen, seen_positive = above[last], above_positive[rank[last]]
    n_positive = above_positive[-1]
    n_negative = above[-1] - n_positive
    with np.errstate(divide="ignore", invalid="ignore"):
        average_precision = np.einsum("ij,ij->j", own, seen_positive / np.maximum(seen, 1e-9)) / n_positive
        better = seen - seen_positive + above[first] - above_positive[rank[first]]
        roc_auc = 1 - np.einsum("ij,ij->j", own, better) / (2 * n_positive * n_negative)
    return roc_auc, average_precision


@functools.cache
def _libraries() -> ThreadpoolController:
    """Find the numerical libraries of the process once: looking for them takes longer than many a draw."""
    return ThreadpoolController()


def one_thread() -> AbstractContextManager:
    """Limit products of matrices to one thread: small ones are faster, and results do not depend on cores.

    To be used in a ``with`` statement.
    """
    return _libraries().limit(limits=1, user_api="blas")


def draw_metrics(
    y: np.ndarray,
    probability: np.ndarray,
    lesion: np.ndarray,
    weights: np.ndarray,
    groups: Sequence[str] = ("confusion", "ranking", "calibration"),
) -> dict[tuple[str, int | None], np.ndarray]:
    """Compute the metrics of one test subset in every draw.

    Parameters
    ----------
    y
        (n_images,) int, the diagnosis.
    probability
        (n_images, n_classes) float, rows sum to one.
    lesion
        (n_images,) int, the row of `weights` for each image.
    weights
        (n_lesions, n_draws), from `lesion_weights`.
    groups
        Which metrics, keys of `GROUPS`.

    Returns
    -------
    dict
        By metric and class, (n_draws,); the class is a column of `probability`, or None for a metric of the whole.
    """
    parts: list[dict] = []
    with one_thread():
        for start in range(0, weights.shape[1], CHUNK):
            drawn = weights[lesion, start : start + CHUNK]
            parts.append({})
            for group in groups:
                parts[-1].update(GROUPS[group](y, probability, drawn))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _draw_confusion(y, probability, drawn):
    n_classes = probability.shape[1]
    cells = np.eye(n_classes**2, dtype=np.float32)[y * n_classes + probability.argmax(1)]
    confusion = (drawn.T @ cells).reshape(-1, n_classes, n_classes)
    overall, per_class = confusion_metrics(confusion)
    overall |= of_confusion(confusion)
    draws: dict[tuple[str, int | None], np.ndarray] = {(name, None): values for name, values in overall.items()}
    for name, values in per_class.items():
        draws.update({(name, code): values[:, code] for code in range(n_classes)})
    return draws


def _draw_ranking(y, probability, drawn):
    n_classes = probability.shape[1]
    pairs = [ranking_metrics(drawn, y == code, probability[:, code]) for code in range(n_classes)]
    draws: dict[tuple[str, int | None], np.ndarray] = {}
    for name, columns in zip(("roc_auc", "average_precision"), zip(*pairs, strict=True), strict=True):
        draws.update({(name, code): column for code, column in enumerate(columns)})
        draws[name, None] = nanmean(columns)
    return draws


def _draw_calibration(y, probability, drawn):
    total = drawn.sum(0, dtype=float)
    gaps = calibration_gaps(y, probability).astype(np.float32)
    return {
        ("log_loss", None): image_log_loss(y, probability).astype(np.float32) @ drawn / total,
        ("ece", None): np.abs(gaps.T @ drawn).sum(0) / total,
    }


GROUPS = {"confusion": _draw_confusion, "ranking": _draw_ranking, "calibration": _draw_calibration}
"""Metrics of the predicted diagnosis; ROC AUC and average precision; log loss and ECE."""


def wilson_interval(value: float, variance: float, n_units: float) -> tuple[float, float]:
    """Give the score interval of a proportion that has this variance (Wilson 1927; Korn and Graubard 1998).

    The number of independent units that a plain proportion would need for the same variance takes the place of
    the sample size, so lesions of several images count for what they tell.

    Parameters
    ----------
    value
        In 0…1.
    variance
        Of `value`, from the bootstrap over lesions.
    n_units
        Lesions that the value rests on: the sample size for a value of 0 or 1, whose draws do not vary, and, less
        one, the degrees of freedom of the quantile.

    Returns
    -------
    low, high : float
        In 0…1; NaN without a value or units.
    """
    if not np.isfinite(value) or n_units < 1:
        return np.nan, np.nan
    if 0 < value < 1 and variance == 0:
        return value, value
    effective = max(value * (1 - value) / variance, 1.0) if 0 < value < 1 else n_units
    quantile = special.stdtrit(max(n_units - 1, 1), (1 + CONFIDENCE) / 2)
    spread = quantile**2 / effective
    centre = (value + spread / 2) / (1 + spread)
    half = np.sqrt(spread * value * (1 - value) + spread**2 / 4) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def units_of_mean(n_lesions: Sequence[int] | np.ndarray) -> float:
    """Return the effective number of lesions of a mean over diagnoses (Welch and Satterthwaite).

    Rare diagnoses contribute most of the variance, so that of the mean is known hardly better than theirs.

    Parameters
    ----------
    n_lesions
        Lesions of each diagnosis; those without any are left out.

    Returns
    -------
    float
        One more than the degrees of freedom; between the smallest of `n_lesions` and their sum.
    """
    sizes = np.asarray(n_lesions, float)
    sizes = sizes[sizes > 0]
    if not len(sizes):
        return 0
    return (1 / sizes).sum() ** 2 / (1 / (sizes**2 * np.maximum(sizes - 1, 1))).sum() + 1


def percentiles(draws: np.ndarray) -> np.ndarray:
    """Return both ends of the 95 % interval by percentiles of draws, which are the last axis: (2, ...)."""
    return np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=-1)


def interval(metric: str, value: float, draws: np.ndarray, n_units: float) -> tuple[float, float]:
    """Give the 95 % interval of a metric from its draws.

    Parameters
    ----------
    metric
        Name; one that `METRICS` does not have lies in 0…1.
    value
    draws
        (n_draws,), NaN where the metric is not defined.
    n_units
        Lesions that the value rests on (`units_of_mean` for a mean over diagnoses).

    Returns
    -------
    low, high : float
        Wilson's for what lies in 0…1; percentiles of the draws for what may lie elsewhere.  The ECE of a draw exceeds
        that of the sample by about as much as the sample's exceeds the truth, so its percentiles are mirrored at the
        value (the basic bootstrap), and kept on both sides of it.  NaN where there is none.

    Raises
    ------
    ValueError
        If the value lies outside of 0…1 and the metric is not declared as such.
    """
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or not np.isfinite(value):
        return np.nan, np.nan
    declared = METRICS.get(metric) or Metric(metric)
    if declared.bounded and not -1e-9 <= value <= 1 + 1e-9:
        raise ValueError(f"{metric} is {value}, outside of 0…1: declare it with bounded=False in METRICS.")
    if declared.bounded and not declared.biased:
        return wilson_interval(value, draws.var(), n_units)
    low, high = percentiles(draws)
    if declared.biased:
        low, high = max(min(2 * value - high, value), 0.0), max(2 * value - low, value)
    return low, high
