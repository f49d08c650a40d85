"""Abstention: the lower error of a network that leaves its least confident images unanswered.

Takes predictions of several backbones, and distances of images in feature space; gives the area under the generalised
risk–coverage curve (AUGRC) of four scores of confidence, the curves, and errors among the images that are answered.

Coverage is the share of images that are answered, those of highest confidence first; the generalised risk is the share
of all images that are answered and named wrongly.  AUGRC is its mean over all coverages: half the error rate for a
score that ranks at random, half its square for one that ranks every error last.  The threshold that answers `ANSWERED`
of the images comes from the validation subset.

Source: J. Traub et al., Overcoming Common Flaws in the Evaluation of Selective Classification Systems, NeurIPS 2024.
"""

from collections.abc import Mapping
from functools import partial

import numpy as np
import pandas as pd
from scipy import special

from skin_tl.evaluation.estimates import Estimate, mean_estimate, over_seeds
from skin_tl.evaluation.metrics import N_BOOT
from skin_tl.evaluation.predictions import UNIT, check_same_images, class_codes, configurations, validation_rows
from skin_tl.schema import ABSTENTION_COLUMNS, CONFIDENCES, PROBABILITIES, RISK_COVERAGE_COLUMNS, kind_of

ANSWERED = 0.8
"""Share of the validation images that are answered at the threshold."""

COVERAGES = np.linspace(0, 1, 51)
"""Where curves are written."""


def confidences(tables: Mapping[str, pd.DataFrame], distances: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Add the confidence of each backbone in each image, by each score of `CONFIDENCES`.

    Parameters
    ----------
    tables
        Predictions of one strategy by backbone (and ensemble), all of the same images.
    distances
        backbone, preprocessing, dataset, split_policy, seed, image_id and distance; may lack images.

    Returns
    -------
    dict of pandas.DataFrame
        With a column for each score, the surer the higher: ``max_probability``; ``entropy`` (of the probabilities,
        negative); ``disagreement`` (mutual information of diagnosis and backbone, negative; NaN for one backbone);
        ``distance`` (to the nearest training images, negative; NaN where it is not known).
    """
    check_same_images(tables)
    tables = {name: table.sort_values(UNIT, ignore_index=True) for name, table in tables.items()}
    several = [table[PROBABILITIES].to_numpy(float) for name, table in tables.items() if kind_of(name) == "backbone"]
    disagreement = np.full(len(next(iter(tables.values()))), np.nan)
    if len(several) > 1:
        within = np.mean([special.entr(chances).sum(1) for chances in several], axis=0)
        disagreement = within - special.entr(np.mean(several, axis=0)).sum(1)
    keys = ["backbone", "preprocessing", "dataset", "split_policy", "seed", "image_id"]
    known = distances.set_index(keys)["distance"]
    found = {}
    for name, table in tables.items():
        chances = table[PROBABILITIES].to_numpy(float)
        places = pd.MultiIndex.from_frame(table.assign(backbone=name)[keys])
        found[name] = table.assign(
            max_probability=chances.max(1),
            entropy=-special.entr(chances).sum(1),
            disagreement=disagreement,
            distance=-known.reindex(places).to_numpy(float),
            wrong=chances.argmax(1) != class_codes(table["dx"]),
        )
    return found


def augrc(confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Compute the area under the generalised risk–coverage curve, images of equal confidence being answered together.

    Parameters
    ----------
    confidence, wrong
        (n_images,) float and bool.
    weights
        (n_images, n_draws) of the images; one draw of equal weights by default.

    Returns
    -------
    numpy.ndarray
        (n_draws,) float in 0…0.5.
    """
    weights = np.ones((len(wrong), 1)) if weights is None else weights
    order = np.argsort(-confidence, kind="stable")
    falling, at = -confidence[order], np.flatnonzero(wrong[order])
    above = np.zeros((len(order) + 1, weights.shape[1]), weights.dtype)
    np.cumsum(weights[order], axis=0, out=above[1:])
    ends = (np.searchsorted(falling, falling[at], side=side) for side in ("left", "right"))
    before = sum(above[end] for end in ends) / 2
    # Each error counts at all coverages from its own on.
    return np.einsum("ij,ij->j", weights[order[at]], above[-1] - before) / above[-1].astype(float) ** 2


def risk_curve(confidence: np.ndarray, wrong: np.ndarray) -> np.ndarray:
    """Return the generalised risk at each of `COVERAGES`; a straight line through images of equal confidence."""
    order = np.argsort(-confidence, kind="stable")
    falling = confidence[order]
    ends = np.flatnonzero(np.append(falling[:-1] != falling[1:], True)) + 1
    risk = np.cumsum(wrong[order])[ends - 1]
    return np.interp(COVERAGES, [0, *ends / len(order)], [0, *risk / len(order)])


def answering_threshold(confidence: np.ndarray) -> float:
    """Return the highest confidence from which on at least `ANSWERED` of the images are answered."""
    return float(np.sort(confidence)[::-1][int(np.ceil(ANSWERED * len(confidence) - 1e-9)) - 1])


def abstention_tables(
    predictions: Mapping[str, pd.DataFrame], distances: pd.DataFrame, strategy: str, n_boot: int = N_BOOT
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Compute risk and coverage of abstention by each score on the test subset.

    Parameters
    ----------
    predictions
        Of one strategy, by backbone (and ensemble), all of the same images.
    distances
        See `confidences`.
    strategy
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    values : pandas.DataFrame
        Columns `ABSTENTION_COLUMNS`, for each seed and ``all``, their mean.  Metrics: `augrc`, `difference` (its AUGRC
        less that of ``max_probability``, paired; below 0 is better), `error` (share of wrong images), `random` (half of
        it, the AUGRC of a random order), and where a seed has a validation subset `answered` and `error_answered`
        (share of the images at or above the threshold, and of those the share that is wrong).
    curves : pandas.DataFrame
        Columns `RISK_COVERAGE_COLUMNS`: the generalised risk by coverage, mean over the seeds.
    """
    rows, curves = [], []
    for backbone, table in confidences(predictions, distances).items():
        for labels, part in configurations(table, strategy=strategy, backbone=backbone):
            part = part.sort_values(["seed", "image_id"], ignore_index=True)
            scores = [name for name in CONFIDENCES if part[name].notna().all()]
            thresholds = {
                (of, name): answering_threshold(rows_of[name].to_numpy())
                for of, rows_of in validation_rows(table, labels).groupby("seed")
                for name in scores
                if rows_of[name].notna().all()
            }
            found = over_seeds(part, partial(_estimates, scores=scores, thresholds=thresholds), n_boot)
            for row in found:
                score, metric = row.pop("key")
                rows.append({**labels, "score": score, "metric": metric, **row})
            for name in scores:
                of_seeds = [
                    risk_curve(one[name].to_numpy(), one["wrong"].to_numpy()) for _, one in part.groupby("seed")
                ]
                curve = {"score": name, "coverage": COVERAGES, "risk": np.mean(of_seeds, axis=0)}
                curves.append(pd.DataFrame({**labels, **curve}))
    return pd.DataFrame(rows, columns=ABSTENTION_COLUMNS), pd.concat(curves, ignore_index=True)[RISK_COVERAGE_COLUMNS]


def _estimates(part, drawn, scores, thresholds):
    """Return the estimates of one seed by score and metric."""
    wrong, lesions, seed = part["wrong"].to_numpy(), part["lesion_id"].to_numpy(str), part["seed"].iloc[0]
    error = mean_estimate(wrong, drawn, lesions)
    found, first = {}, None
    for name in scores:
        confidence = part[name].to_numpy()
        own = Estimate(float(augrc(confidence, wrong)[0]), augrc(confidence, wrong, drawn), lesions)
        first = first or own
        found[name, "augrc"], found[name, "error"] = own, error
        found[name, "random"] = Estimate(error.value / 2, error.draws / 2, lesions)
        if own is not first:
            found[name, "difference"] = Estimate(own.value - first.value, own.draws - first.draws, lesions, True)
        if (seed, name) in thresholds:
            kept = confidence >= thresholds[seed, name]
            found[name, "answered"] = mean_estimate(kept, drawn, lesions)
            found[name, "error_answered"] = mean_estimate(wrong[kept], drawn[kept], lesions[kept])
    return found
