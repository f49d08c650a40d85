"""Conformal prediction: sets of diagnoses that hold the true one with a probability chosen beforehand.

Takes predictions; gives for each diagnosis the threshold of its probability, and what coverage and size the sets have
that follow.  A set is of a lesion, from the mean probability over its images in the subset, as images of one lesion are
not exchangeable with those of others.

Split conformal prediction, calibrated within each diagnosis (label-conditional, or Mondrian): a diagnosis is in the set
if its probability is at least the k-th highest that the n validation lesions with this diagnosis give it, k = ⌈(n + 1)
`COVERAGE`⌉; with k > n, always.  If validation and test lesions are exchangeable, the set then holds the true diagnosis
with a probability of at least `COVERAGE`, for each diagnosis.  The validation subset has also selected epochs and
penalties, so this is approximate.

Sources: V. Vovk, Conditional Validity of Inductive Conformal Predictors, ACML 2012; M. Sadinle, J. Lei, L. Wasserman,
Least Ambiguous Set-Valued Classifiers with Bounded Error Levels, JASA 114 (2019).  The libraries MAPIE and crepes are
not used: they wrap estimators that are fitted in the same process, and the method is the one line of `thresholds`.
"""

from functools import partial

import numpy as np
import pandas as pd

from skin_tl.evaluation.decisions import lesion_scores
from skin_tl.evaluation.estimates import mean_estimate, over_seeds
from skin_tl.evaluation.metrics import N_BOOT
from skin_tl.evaluation.predictions import class_codes, configurations, validation_rows
from skin_tl.schema import CLASSES, CONFORMAL_COLUMNS, COVERAGE, PROBABILITIES


def thresholds(y: np.ndarray, probability: np.ndarray, coverage: float = COVERAGE) -> np.ndarray:
    """Return the least probability with which each diagnosis is in a set.

    Parameters
    ----------
    y, probability
        Diagnosis (place in `CLASSES`), (n_lesions,), and probabilities, (n_lesions, 7), of the validation lesions.
    coverage
        In 0…1.

    Returns
    -------
    numpy.ndarray
        (7,) float; −∞ for a diagnosis of too few lesions, which is in every set.
    """
    found = np.full(probability.shape[1], -np.inf)
    for code in range(len(found)):
        own = np.sort(probability[y == code, code])[::-1]
        rank = int(np.ceil((len(own) + 1) * coverage - 1e-9))
        if rank <= len(own):
            found[code] = own[rank - 1]
    return found


def conformal_table(predictions: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Compute coverage and size of the prediction sets on the test subset.

    Parameters
    ----------
    predictions
        From `skin_tl.evaluation.predictions.read_predictions`.  Thresholds come from the internal validation subset of
        the same seed; a configuration without one has no rows.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns `CONFORMAL_COLUMNS`, for each seed and ``all``, their mean; by true diagnosis and for ``all``.  Metrics:
        `coverage` (share of the sets that hold the true diagnosis), `size` (mean number of diagnoses in a set),
        `single` and `empty` (share of the sets with one diagnosis and with none) and `calibrated` (validation lesions,
        without interval).  `verdict`, of `coverage` alone: below or above `COVERAGE` if the interval excludes it, else
        holds.  Intervals take the thresholds as given.
    """
    rows = []
    for labels, part in configurations(predictions, strategy=strategy, backbone=backbone):
        limits, counts = {}, {}
        for of, lesions in lesion_scores(validation_rows(predictions, labels)).groupby("seed"):
            y = class_codes(lesions["dx"])
            limits[of] = thresholds(y, lesions[PROBABILITIES].to_numpy(float))
            counts[of] = np.bincount(y, minlength=len(CLASSES))
        if not set(part["seed"]) <= set(limits):
            continue
        found = over_seeds(lesion_scores(part), partial(_estimates, limits=limits), n_boot)
        for row in found:
            label, metric = row.pop("key")
            rows.append({**labels, "class": label, "metric": metric, **row, "verdict": _verdict(metric, row)})
        calibrated = pd.DataFrame(counts, index=CLASSES)
        for of, column in [*calibrated.items(), ("all", calibrated.mean(axis=1))]:
            of_seed = {**labels, "seed": str(of), "metric": "calibrated"}
            rows += [{**of_seed, "class": label, "value": float(n_lesions)} for label, n_lesions in column.items()]
    return pd.DataFrame(rows, columns=CONFORMAL_COLUMNS)


def _estimates(part, drawn, limits):
    """Return the estimates of one seed by true diagnosis and metric."""
    sets = part[PROBABILITIES].to_numpy(float) >= limits[part["seed"].iloc[0]]
    y, sizes, lesions = class_codes(part["dx"]), sets.sum(1), part["lesion_id"].to_numpy(str)
    shares = {"coverage": sets[np.arange(len(y)), y], "single": sizes == 1, "empty": sizes == 0}
    shares["size"] = sizes / len(CLASSES)  # a share, as its interval is one of shares
    found = {}
    for label, of in {"all": y >= 0, **{name: y == code for code, name in enumerate(CLASSES)}}.items():
        for metric, values in shares.items():
            scale = len(CLASSES) if metric == "size" else 1
            found[label, metric] = mean_estimate(values[of], drawn[of], lesions[of], scale=scale)
    return found


def _verdict(metric, row):
    if metric != "coverage" or np.isnan(row["ci_low"]):
        return ""
    return "below" if row["ci_high"] < COVERAGE else "above" if row["ci_low"] > COVERAGE else "holds"
