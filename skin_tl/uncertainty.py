"""How far a metric may be off: 95 % intervals by a bootstrap over lesions.

Takes the test rows of one or several seeds (one row per image: lesion, diagnosis, probabilities); gives, for
every metric, its values in the bootstrap's draws, and intervals from them.

Images of one lesion resemble each other, so lesions are drawn, never images, and a lesion that is in the test
subsets of several seeds is drawn in all of them at once.  The class mix of a test subset is fixed by the
stratified split, so lesions are drawn within their diagnosis and each diagnosis keeps its weight: no draw
lacks a class.  From the `n` lesions of a diagnosis `n - 1` are drawn, which makes the variance unbiased for few
lesions (McCarthy and Snowden, *The Bootstrap and Finite Population Sampling*, 1985).
"""

import numpy as np
from scipy import stats

LEVEL = 0.95
"""Confidence level of every interval."""

ECE_BINS = 15
"""Equal-width bins of the expected calibration error (Guo et al., ICML 2017)."""

CHUNK = 250
"""Draws that are worked on at once; bounds the memory, changes no value."""


def lesion_weights(lesion_class, n_draws, rng):
    """Draw lesions with replacement, within their diagnosis.

    Parameters
    ----------
    lesion_class : (n_lesions,) int array
        Diagnosis of each lesion.
    n_draws : int
    rng : numpy.random.Generator

    Returns
    -------
    (n_draws, n_lesions) float32 array
        How often each lesion was drawn.
    """
    lesion_class = np.asarray(lesion_class)
    weights = np.zeros((n_draws, len(lesion_class)), np.float32)
    for code in np.unique(lesion_class):
        members = np.flatnonzero(lesion_class == code)
        n_drawn = max(len(members) - 1, 1)
        picks = rng.integers(len(members), size=(n_draws, n_drawn))
        picks += np.arange(n_draws)[:, None] * len(members)
        counts = np.bincount(picks.ravel(), minlength=n_draws * len(members))
        weights[:, members] = counts.reshape(n_draws, len(members))
    return weights


def image_weights(weights, lesion, y, n_classes):
    """Weigh the images of one test subset by their lesions, each diagnosis keeping its number of images.

    Parameters
    ----------
    weights : (n_draws, n_lesions) array
        From `lesion_weights`.
    lesion : (n_images,) int array
        Column of `weights` for each image.
    y : (n_images,) int array
        Diagnosis of each image.
    n_classes : int

    Returns
    -------
    (n_draws, n_images) float32 array
        Zero for a diagnosis of which a draw holds no image.
    """
    drawn = np.take(weights, lesion, axis=1)
    one_hot = np.eye(n_classes, dtype=np.float32)[y]
    got = drawn @ one_hot
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(got > 0, one_hot.sum(0) / got, 0).astype(np.float32)
    drawn *= factor[:, y]
    return drawn


def confusion_metrics(confusion):
    """Compute what follows from confusion matrices, many at a time.

    Parameters
    ----------
    confusion : (..., n_classes, n_classes) array
        Weights by true diagnosis (rows) and predicted diagnosis (columns).

    Returns
    -------
    overall : dict of str to (...) array
    per_class : dict of str to (..., n_classes) array
        NaN for a diagnosis without images; means over diagnoses leave it out.
    """
    confusion = np.asarray(confusion, float)
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        recall = hits / true
        precision = np.where(true > 0, np.where(predicted > 0, hits / predicted, 0.0), np.nan)
        f1 = np.where(true > 0, 2 * hits / (true + predicted), np.nan)
    share = true / true.sum(-1, keepdims=True)
    overall = {
        "accuracy": hits.sum(-1) / true.sum(-1),
        "balanced_accuracy": np.nanmean(recall, -1),
        "macro_f1": np.nanmean(f1, -1),
        "weighted_f1": np.nansum(f1 * share, -1),
        "macro_precision": np.nanmean(precision, -1),
        "weighted_precision": np.nansum(precision * share, -1),
    }
    return overall, {"precision": precision, "recall": recall, "f1": f1}


def _ranking_metrics(weights, positive, score):
    """Compute ROC AUC and average precision of one class in every draw, equal scores counting as tied.

    Parameters
    ----------
    weights : (n_draws, n_images) float32 array
    positive : (n_images,) bool array
    score : (n_images,) float array

    Returns
    -------
    roc_auc, average_precision : (n_draws,) float arrays
    """
    order = np.argsort(-score, kind="stable")
    positive, score = positive[order], score[order]
    first = np.searchsorted(-score, -score, side="left")
    last = np.searchsorted(-score, -score, side="right")
    drawn = np.take(weights, order, axis=1)
    above = np.zeros((len(drawn), len(order) + 1))
    np.cumsum(drawn, axis=1, out=above[:, 1:])
    above_positive = np.zeros_like(above)
    np.cumsum(drawn * positive, axis=1, out=above_positive[:, 1:])
    at = np.flatnonzero(positive)
    own = drawn[:, at]
    n_positive = above_positive[:, -1]
    n_negative = above[:, -1] - n_positive
    seen, seen_positive = above[:, last[at]], above_positive[:, last[at]]
    worse_or_tied = 2 * n_negative[:, None] - (seen - seen_positive)
    worse_or_tied -= above[:, first[at]] - above_positive[:, first[at]]
    with np.errstate(divide="ignore", invalid="ignore"):
        roc_auc = (own * worse_or_tied).sum(1) / (2 * n_positive * n_negative)
        precision = np.where(own > 0, seen_positive / seen, 0)
        average_precision = (own * precision).sum(1) / n_positive
    return roc_auc, average_precision


def draw_metrics(y, probability, lesion, weights):
    """Compute every metric of one test subset in every draw.

    Parameters
    ----------
    y : (n_images,) int array
        Diagnosis.
    probability : (n_images, n_classes) float array
        Rows sum to one.
    lesion : (n_images,) int array
        Column of `weights` for each image.
    weights : (n_draws, n_lesions) array
        From `lesion_weights`.

    Returns
    -------
    dict of (metric, class) to (n_draws,) array
        `class` is a column of `probability`, or ``None`` for a metric of the whole.
    """
    n_classes = probability.shape[1]
    chunks = []
    for start in range(0, len(weights), CHUNK):
        drawn = image_weights(weights[start : start + CHUNK], lesion, y, n_classes)
        chunks.append(_draw_metrics(y, probability, drawn))
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


def _draw_metrics(y, probability, drawn):
    n_classes = probability.shape[1]
    predicted = probability.argmax(1)
    cells = np.eye(n_classes**2, dtype=np.float32)[y * n_classes + predicted]
    overall, per_class = confusion_metrics((drawn @ cells).reshape(-1, n_classes, n_classes))
    draws = {(name, None): values for name, values in overall.items()}
    for name, values in per_class.items():
        draws.update({(name, code): values[:, code] for code in range(n_classes)})
    ranking = [_ranking_metrics(drawn, y == code, probability[:, code]) for code in range(n_classes)]
    for position, name in enumerate(("roc_auc", "average_precision")):
        values = np.stack([pair[position] for pair in ranking], 1)
        draws.update({(name, code): values[:, code] for code in range(n_classes)})
        draws[name, None] = np.nanmean(values, 1)
    total = drawn.sum(1, dtype=float)
    draws["log_loss", None] = drawn @ image_log_loss(y, probability) / total
    draws["ece", None] = np.abs(drawn @ calibration_gaps(y, probability)).sum(1) / total
    return draws


def image_log_loss(y, probability):
    """Return each image's log loss, probabilities clipped as scikit-learn clips them: (n_images,) array."""
    chosen = probability[np.arange(len(y)), y]
    tiny = np.finfo(probability.dtype).eps
    return -np.log(np.clip(chosen, tiny, 1 - tiny))


def calibration_gaps(y, probability, n_bins=ECE_BINS):
    """Return each image's confidence less its correctness, in the column of its confidence's bin.

    Bins have equal width and hold their upper edge.

    Returns
    -------
    (n_images, n_bins) array
        The absolute values of its column sums, added and divided by the number of images, are the ECE.
    """
    confidence = probability.max(1)
    column = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gaps = np.zeros((len(y), n_bins))
    gaps[np.arange(len(y)), column] = confidence - (probability.argmax(1) == y)
    return gaps


def wilson_interval(value, variance, n_units):
    """Give the score interval of a proportion that has this variance (Wilson 1927; Korn and Graubard 1998).

    The number of independent units that a plain proportion would need for the same variance takes the place of
    the sample size, so lesions of several images count for what they tell.

    Parameters
    ----------
    value : float
        In 0…1.
    variance : float
        Of `value`, from the bootstrap over lesions.
    n_units : int
        Lesions that the value rests on: taken as the sample size where the draws do not vary at all
        (value 0 or 1), and, less one, as the degrees of freedom of the quantile.

    Returns
    -------
    low, high : float
        In 0…1; NaN without a value or units.
    """
    if not np.isfinite(value) or n_units < 1:
        return np.nan, np.nan
    effective = value * (1 - value) / variance if variance > 0 else n_units
    if not 0 < effective:
        effective = n_units
    quantile = stats.t.ppf((1 + LEVEL) / 2, max(n_units - 1, 1))
    spread = quantile**2 / effective
    centre = (value + spread / 2) / (1 + spread)
    half = np.sqrt(spread * value * (1 - value) + spread**2 / 4) / (1 + spread)
    return max(centre - half, 0.0), min(centre + half, 1.0)


def nanmean(arrays):
    """Average arrays element by element, leaving NaN out; NaN where all are."""
    stacked = np.stack(arrays)
    known = ~np.isnan(stacked)
    with np.errstate(invalid="ignore"):
        return np.where(known, stacked, 0).sum(0) / known.sum(0)


def draw_calibration(y, probability, lesion, weights):
    """Compute log loss and ECE alone in every draw; parameters as in `draw_metrics`."""
    parts = []
    for start in range(0, len(weights), CHUNK):
        drawn = image_weights(weights[start : start + CHUNK], lesion, y, probability.shape[1])
        total = drawn.sum(1, dtype=float)
        loss = drawn @ image_log_loss(y, probability) / total
        parts.append((loss, np.abs(drawn @ calibration_gaps(y, probability)).sum(1) / total))
    loss, ece = (np.concatenate(column) for column in zip(*parts, strict=True))
    return {"log_loss": loss, "ece": ece}


def interval(metric, value, draws, n_units):
    """Give the 95 % interval of a metric from its draws.

    Parameters
    ----------
    metric : str
    value : float
    draws : (n_draws,) array
        NaN in draws where it is not defined.
    n_units : int
        Lesions that the value rests on.

    Returns
    -------
    low, high : float
        NaN where there is none.
    """
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or not np.isfinite(value):
        return np.nan, np.nan
    if metric.startswith(("log_loss", "ece")):
        return tuple(np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return wilson_interval(value, draws.var(), n_units)
