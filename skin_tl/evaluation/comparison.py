"""Comparisons: paired tests of differences on the same test lesions.

Takes the predictions of several backbones, or of one backbone in two configurations; gives tables of differences
with 95 % intervals and p-values.

Two backbones are compared lesion by lesion: a lesion's prediction is the mean probability over its test images and
over the seeds in whose test subset it is.  Differences between configurations of one backbone (a scaling of the
pixels, an arm of an experiment) stay image by image and seed by seed, as ``metrics.csv`` has them.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from skin_tl.errors import SkinTLError
from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.metric_list import COMPARED, MEANS_OF_CLASSES
from skin_tl.evaluation.metrics import N_BOOT, point_metrics
from skin_tl.evaluation.predictions import check_same_images, class_codes, labelled_groups
from skin_tl.schema import CELL, CONFIDENCE, CONTRAST_COLUMNS, PROBABILITIES

COMPARISON_COLUMNS = [
    *("dataset", "arm", "strategy", "split_policy", "preprocessing", "train_fraction", "metric"),
    *("backbone_a", "backbone_b", "difference", "ci_low", "ci_high", "p", "p_holm", "n_lesions"),
]

LEAST_P = float(np.finfo(float).tiny)
"""A p-value is never 0: what is smaller than a computer's numbers is this."""


def lesion_predictions(predictions: pd.DataFrame) -> pd.DataFrame:
    """Average the test predictions of each lesion over its images and the seeds.

    Returns
    -------
    pandas.DataFrame
        One row per configuration and lesion, sorted: `CELL`, lesion_id, dx and the probabilities.
    """
    test = predictions[predictions["subset"] == "test"]
    grouped = test.groupby([*CELL, "lesion_id"])
    return grouped.agg({"dx": "first", **dict.fromkeys(PROBABILITIES, "mean")}).reset_index()


def compare_backbones(predictions: Mapping[str, pd.DataFrame], strategy: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Compare all pairs of backbones in every configuration.

    Accuracy is tested by McNemar's exact test, balanced accuracy and macro F1 by the paired bootstrap over
    lesions; Holm's correction is over all pairs within a configuration and metric.  A diagnosis that a draw lacks is
    left out of its means, for both backbones alike.

    Parameters
    ----------
    predictions
        By backbone, all of the same test images.
    strategy
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns `COMPARISON_COLUMNS`; `difference` is that of `backbone_a` less that of `backbone_b`, pairs in the order
        that `predictions` has.  No rows for a single backbone.

    Raises
    ------
    SkinTLError
        If the backbones were not scored on the same images.
    """
    check_same_images(predictions)
    tables = {name: dict(list(lesion_predictions(table).groupby(CELL))) for name, table in predictions.items()}
    rows: list[dict] = []
    for cell in next(iter(tables.values())):
        labels = {**dict(zip(CELL, cell, strict=True)), "strategy": strategy}
        compared = compare_lesions({name: cells[cell] for name, cells in tables.items()}, n_boot)
        rows += [{**labels, **row} for row in compared]
    return pd.DataFrame(rows, columns=COMPARISON_COLUMNS)


def compare_lesions(lesions: Mapping[str, pd.DataFrame], n_boot: int = N_BOOT) -> list[dict]:
    """Compare all pairs of backbones that scored the same lesions.

    Parameters
    ----------
    lesions
        By backbone, dx and probabilities, one row per lesion, in one order.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    list of dict
        metric, backbone_a, backbone_b, difference, ci_low, ci_high, p, p_holm, n_lesions.
    """
    first = next(iter(lesions.values()))
    y = class_codes(first["dx"])
    weights = uncertainty.lesion_weights(len(y), n_boot)
    values, draws, hits = {}, {}, {}
    for name, table in lesions.items():
        probability = table[PROBABILITIES].to_numpy(float)
        values[name] = point_metrics(table, ["confusion"])
        draws[name] = uncertainty.draw_metrics(y, probability, np.arange(len(y)), weights, ["confusion"])
        hits[name] = probability.argmax(1) == y
    rows = []
    for metric in COMPARED:
        for a, b in combinations(lesions, 2):
            difference = values[a][metric, "all"] - values[b][metric, "all"]
            drawn = draws[a][metric, None] - draws[b][metric, None]
            row = _difference(difference, drawn, _units(metric, y))
            if metric == "accuracy":
                row["p"] = exact_mcnemar(hits[a], hits[b])
            rows.append({"metric": metric, "backbone_a": a, "backbone_b": b, **row, "n_lesions": len(y)})
    return with_holm(pd.DataFrame(rows), ["metric"]).to_dict("records") if rows else []


def _difference(difference, draws, n_units):
    """Return a difference with its interval and p-value, as a part of a row."""
    low, high, p = paired_interval(difference, draws, n_units)
    return {"difference": difference, "ci_low": low, "ci_high": high, "p": p}


def _units(metric, y):
    """Return the effective number of lesions of a metric; `y` holds a diagnosis per lesion."""
    return uncertainty.units_of_mean(np.bincount(y)) if metric in MEANS_OF_CLASSES else len(y)


def exact_mcnemar(hits_a: np.ndarray, hits_b: np.ndarray) -> float:
    """Return the p-value of McNemar's exact test for two (n_lesions,) bool arrays of right predictions."""
    only_a, only_b = int((hits_a & ~hits_b).sum()), int((hits_b & ~hits_a).sum())
    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)


def paired_interval(difference: float, draws: np.ndarray, n_units: float) -> tuple[float, float, float]:
    """Give interval and p-value of a paired difference from its draws over lesions.

    The draws give the standard error, and Student's quantile allows for its being known from few lesions.

    Parameters
    ----------
    difference
    draws
        (n_draws,), the difference in each draw, both sides with the same lesions.
    n_units
        Lesions that the difference rests on, as in `skin_tl.evaluation.uncertainty.interval`.

    Returns
    -------
    low, high, p : float
        p is two-sided, above 0, and under 0.05 just where the interval leaves zero out.  A difference that no draw
        changes, as of two lesions that one side alone gets right, has no error to test it by: p is NaN then, "not
        testable", and the interval is all that a difference of shares can be, −1 to 1.
    """
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or not np.isfinite(difference):
        return np.nan, np.nan, np.nan
    error = draws.std(ddof=1)
    if error == 0:
        return (0.0, 0.0, 1.0) if difference == 0 else (-1.0, 1.0, np.nan)
    freedom = max(n_units - 1, 1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, freedom) * error
    return difference - half, difference + half, max(2 * stats.t.sf(abs(difference) / error, freedom), LEAST_P)


def with_holm(rows: pd.DataFrame, family: list[str]) -> pd.DataFrame:
    """Add `p_holm`: p-values corrected for the number of comparisons after Holm, within each family.

    Parameters
    ----------
    rows
        With a column `p`; one that is not defined stays so and does not count.
    family
        Columns whose values name a family of comparisons.
    """
    corrected = pd.Series(np.nan, index=rows.index)
    for _, p in rows[rows["p"].notna()].groupby(family)["p"]:
        ranked = p.sort_values()  # `multipletests` of statsmodels gives the same, and collects all garbage at each call
        corrected[ranked.index] = (ranked * np.arange(len(p), 0, -1)).cummax().clip(upper=1)
    return rows.assign(p_holm=corrected)


def independent_interval(a: Mapping[str, float], b: Mapping[str, float]) -> tuple[float, float]:
    """Give the 95 % interval of a difference of two values of independent test sets from their own intervals.

    Parameters
    ----------
    a, b
        value, ci_low and ci_high of each; the difference is that of `a` less that of `b`.

    Returns
    -------
    low, high : float
        By the method of variance estimates recovery (Newcombe 1998; Zou and Donner 2008), which keeps the intervals'
        lopsidedness.
    """
    difference = a["value"] - b["value"]
    below = np.hypot(a["value"] - a["ci_low"], b["ci_high"] - b["value"])
    above = np.hypot(a["ci_high"] - a["value"], b["value"] - b["ci_low"])
    return difference - below, difference + above


def contrast(
    predictions: pd.DataFrame,
    column: str,
    a: str | float,
    b: str | float,
    strategy: str,
    backbone: str,
    n_boot: int = N_BOOT,
) -> pd.DataFrame:
    """Compare two configurations of one backbone that differ in one column, on the same test images.

    Parameters
    ----------
    predictions
        From `skin_tl.evaluation.predictions.read_predictions`.
    column
        What differs: arm, preprocessing, train_fraction, strategy or weights.
    a, b
        Its two values; differences are those of `a` less those of `b`.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns `CONTRAST_COLUMNS`, one row per configuration and metric of `COMPARED`: means over seeds.  `column`
        itself holds ``a/b`` there.

    Raises
    ------
    SkinTLError
        If the two were not scored on the same images.
    """
    test = predictions[predictions["subset"] == "test"]
    others = [name for name in CELL if name != column]
    rows = []
    for cell, part in labelled_groups(test, others, sort=True):
        sides = [part[part[column] == value].sort_values(["seed", "image_id"]) for value in (a, b)]
        if any(side.empty for side in sides):
            continue
        keys = [list(zip(side["seed"], side["image_id"], strict=True)) for side in sides]
        if keys[0] != keys[1]:
            raise SkinTLError(
                f"{backbone}: {column} {a!r} and {b!r} were scored on different test images ({len(keys[0])} and "
                f"{len(keys[1])} rows), so they cannot be compared. Delete its predictions and run the study again."
            )
        labels = {**cell, column: f"{a}/{b}", "column": column, "a": a, "b": b}
        labels |= {"strategy": strategy, "backbone": backbone}
        rows += _contrast_rows(sides[0], sides[1], labels, n_boot)
    return pd.DataFrame(rows, columns=CONTRAST_COLUMNS)


def _contrast_rows(side_a, side_b, labels, n_boot):
    lesions, first = np.unique(side_a["lesion_id"].to_numpy(str), return_index=True)
    y = class_codes(side_a["dx"])[first]
    weights = uncertainty.lesion_weights(len(lesions), n_boot)
    values, draws = [], []
    for side in (side_a, side_b):
        points, drawn = [], []
        for _, part in side.groupby("seed"):
            lesion = np.searchsorted(lesions, part["lesion_id"].to_numpy(str))
            probability = part[PROBABILITIES].to_numpy(float)
            points.append(point_metrics(part, ["confusion"]))
            drawn.append(uncertainty.draw_metrics(class_codes(part["dx"]), probability, lesion, weights, ["confusion"]))
        values.append({metric: np.mean([point[metric, "all"] for point in points]) for metric in COMPARED})
        draws.append({metric: uncertainty.nanmean([d[metric, None] for d in drawn]) for metric in COMPARED})
    counts = {"n_images": side_a["image_id"].nunique(), "n_lesions": len(lesions)}
    rows = []
    for metric in COMPARED:
        a, b = values[0][metric], values[1][metric]
        found = _difference(a - b, draws[0][metric] - draws[1][metric], _units(metric, y))
        rows.append({**labels, "metric": metric, "value_a": a, "value_b": b, **found, **counts})
    return rows
