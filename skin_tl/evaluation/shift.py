"""Shift: why scores on an external test set differ from those on a study's own test subset.

Takes predictions of both; gives the difference of a score in three parts that add up to it, and what the correction of
probabilities for other frequencies of the diagnoses is worth, which needs no label of the external set.

* `prevalence`: the own test subset re-weighted to the external frequencies of the diagnoses, less the same unweighted.
* `calibration`: what a re-fitted temperature and prior (`fit_calibration`) change on the own images at the external
  frequencies, less what they change on the external images.
* `rest`: the external images less the own ones at the external frequencies, both re-fitted: how well the diagnoses can
  be told apart there.

Where the frequencies alone differ, `prevalence` is the whole difference.  The re-fit of the own images comes from their
validation subset; that of the external ones is made on one half of their lesions and applied to the other.  Intervals
are by a bootstrap over the lesions of both sets, and take re-fits as given.

Sources: M. Saerens, P. Latinne, C. Decaestecker, Adjusting the Outputs of a Classifier to New a Priori Probabilities,
Neural Computation 14 (2002), for `estimate_prior`; A. Alexandari, A. Kundaje, A. Shrikumar, Maximum Likelihood with
Bias-Corrected Calibration is Hard-To-Beat at Label Shift Adaptation, ICML 2020, for the calibration before it.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, special

from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.estimates import student_interval
from skin_tl.evaluation.metrics import N_BOOT
from skin_tl.evaluation.predictions import class_codes, configurations, validation_rows
from skin_tl.schema import CLASSES, PRIOR_COLUMNS, PROBABILITIES, SHIFT_COLUMNS

METRICS = ("balanced_accuracy", "macro_f1")
"""Scores whose difference is divided."""

RIDGE = 1e-3
"""Penalty on the squares of a prior's logarithms, which keeps them finite for a diagnosis without images."""

FINE = {"ftol": 1e-13, "gtol": 1e-9, "maxiter": 1000}
"""How near to the least log loss a search ends."""

MOST_STEPS = 1000
"""Steps of the EM algorithm at most."""

N_CLASSES = len(CLASSES)


class Calibration(NamedTuple):
    """A temperature and the logarithms of a factor for each diagnosis, (7,)."""

    temperature: float
    bias: np.ndarray

    def apply(self, probability: np.ndarray) -> np.ndarray:
        """Return calibrated probabilities, (n, 7)."""
        return special.softmax(_logits(probability) / self.temperature + self.bias, axis=1)


def _logits(probability: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(probability, np.finfo(float).eps))


def fit_calibration(y: np.ndarray, probability: np.ndarray) -> Calibration:
    """Fit a temperature and a prior by the log loss (bias-corrected temperature scaling).

    Parameters
    ----------
    y, probability
        Diagnosis (place in `CLASSES`), (n,), and probabilities, (n, 7).
    """
    logits, right = _logits(probability), np.eye(N_CLASSES)[y]

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, bias = parameters[0], parameters[1:]
        scaled = slope * logits + bias
        value = (special.logsumexp(scaled, axis=1) - (scaled * right).sum(1)).mean() + RIDGE * bias @ bias
        excess = (special.softmax(scaled, axis=1) - right) / len(y)
        return value, np.append((excess * logits).sum(), excess.sum(0) + 2 * RIDGE * bias)

    bounds = [(1 / 20, 20), *[(None, None)] * N_CLASSES]
    found = optimize.minimize(
        loss, np.append(1.0, np.zeros(N_CLASSES)), jac=True, bounds=bounds, method="L-BFGS-B", options=FINE
    )
    return Calibration(1 / found.x[0], found.x[1:])


def correct_prior(probability: np.ndarray, prior: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Return the probabilities, (n, 7), that hold where the diagnoses are as frequent as in `new` instead of `prior`.

    Both are (7,) and sum to one.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        odds = probability * np.where(prior > 0, new / prior, 0)
    return odds / odds.sum(1, keepdims=True)


def estimate_prior(probability: np.ndarray, prior: np.ndarray, tolerance: float = 1e-8) -> np.ndarray:
    """Estimate from unlabelled images how frequent each diagnosis is among them, by the EM algorithm.

    Parameters
    ----------
    probability
        (n, 7), calibrated where the diagnoses are as frequent as in `prior`, (7,).
    tolerance
        Largest change of a frequency in the last step.

    Returns
    -------
    numpy.ndarray
        (7,) in 0…1, sums to one.
    """
    found = prior
    for _ in range(MOST_STEPS):
        before, found = found, correct_prior(probability, prior, found).mean(0)
        if np.abs(found - before).max() < tolerance:
            break
    return found


# The parts of a difference -----------------------------------------------------------------------------------------


class _Images(NamedTuple):
    """Images of one seed: diagnosis, probabilities, and the row of each one's lesion in weights of lesions."""

    y: np.ndarray
    probability: np.ndarray
    lesion: np.ndarray

    @classmethod
    def of(cls, rows: pd.DataFrame, lesions: np.ndarray) -> "_Images":
        """Take rows of predictions; `lesions` are the sorted names of all that weights are drawn for."""
        rows = rows.sort_values("image_id")
        lesion = np.searchsorted(lesions, rows["lesion_id"].to_numpy(str))
        return cls(class_codes(rows["dx"]), rows[PROBABILITIES].to_numpy(float), lesion)

    def shares(self) -> np.ndarray:
        """Return how frequent each diagnosis is, (7,)."""
        return np.bincount(self.y, minlength=N_CLASSES) / len(self.y)

    def confusion(self, probability: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Return confusion matrices, (n_draws, 7, 7), for weights of lesions, (n_lesions, n_draws)."""
        counts = np.zeros((len(weights), N_CLASSES**2), np.float32)
        np.add.at(counts, (self.lesion, self.y * N_CLASSES + probability.argmax(1)), 1)
        return (weights.T @ counts).astype(float).reshape(-1, N_CLASSES, N_CLASSES)


def _cross_fitted(images: _Images) -> np.ndarray:
    """Return probabilities that are calibrated on the other half of the lesions, (n, 7)."""
    half, found = images.lesion % 2, np.empty_like(images.probability)
    for of in (0, 1):
        rest = half != of
        fitted = fit_calibration(images.y[rest], images.probability[rest])
        found[~rest] = fitted.apply(images.probability[~rest])
    return found


def _reweighted(confusion: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return confusion matrices whose rows have the sums of the rows of `like`; rows without images stay empty."""
    sums = confusion.sum(-1, keepdims=True)
    return np.divide(confusion, sums, out=np.zeros_like(confusion), where=sums > 0) * like.sum(-1, keepdims=True)


def _parts(own, other, validation, weights):
    """Return the parts of the difference of each metric, by metric and part, in every draw, and the estimated prior."""
    fitted, prior = fit_calibration(validation.y, validation.probability), validation.shares()
    calibrated = fitted.apply(other.probability)
    estimate = estimate_prior(calibrated, prior)
    corrected = correct_prior(calibrated, prior, estimate)
    plain = [one.confusion(one.probability, drawn) for one, drawn in zip((own, other), weights, strict=True)]
    own_fitted = own.confusion(correct_prior(fitted.apply(own.probability), prior, other.shares()), weights[0])
    matrices = {
        "internal": plain[0],
        "external": plain[1],
        "alike": _reweighted(plain[0], plain[1]),
        "alike_fitted": _reweighted(own_fitted, plain[1]),
        "fitted": other.confusion(_cross_fitted(other), weights[1]),
        "corrected": other.confusion(corrected, weights[1]),
    }
    scores = {name: uncertainty.confusion_metrics(matrix)[0] for name, matrix in matrices.items()}
    found = {}
    for metric in METRICS:
        of = {name: score[metric] for name, score in scores.items()}
        rest = of["fitted"] - of["alike_fitted"]
        found[metric, "difference"] = of["external"] - of["internal"]
        found[metric, "prevalence"] = of["alike"] - of["internal"]
        found[metric, "calibration"] = of["external"] - of["alike"] - rest
        found[metric, "rest"] = rest
        found[metric, "prior_correction"] = of["corrected"] - of["external"]
    return {key: np.round(values, 12) + 0.0 for key, values in found.items()}, estimate


def shift_tables(
    predictions: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Divide the difference between external and own test images into its parts.

    Parameters
    ----------
    predictions
        From `skin_tl.evaluation.predictions.read_predictions`: own images with a validation subset, and external ones.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    parts : pandas.DataFrame
        Columns `SHIFT_COLUMNS`, means over the seeds: for each of `METRICS` `difference` (external less own) and its
        parts, and `prior_correction`: what calibration on the validation subset with `correct_prior` for the prior of
        `estimate_prior` changes on the external images.
    priors : pandas.DataFrame
        Columns `PRIOR_COLUMNS`: for each diagnosis its share of the own test images and of the external ones, and what
        `estimate_prior` makes of the latter without their labels, mean over the seeds.
    """
    cells = [(labels, part) for labels, part in configurations(predictions, strategy=strategy, backbone=backbone)]
    parts, priors = [], []
    for labels, other in cells:
        own = [part for of, part in cells if of == labels | {"dataset": "internal"}]
        if labels["dataset"] == "internal" or not own:
            continue
        validation = validation_rows(predictions, labels)
        names = [np.unique(table["lesion_id"].to_numpy(str)) for table in (own[0], other, validation)]
        rng, found = np.random.default_rng(uncertainty.SEED), []
        weights = [uncertainty.lesion_weights(len(of), n_boot, rng) for of in names[:2]]
        weights = [np.hstack([np.ones((len(of), 1), np.float32), of]) for of in weights]  # the sample itself first
        for of in own[0]["seed"].unique():
            tables = zip((own[0], other, validation), names, strict=True)
            images = [_Images.of(table[table["seed"] == of], lesions) for table, lesions in tables]
            found.append(_parts(images[0], images[1], images[2], weights))
        of_dx = [table.groupby("dx")["lesion_id"].nunique().to_numpy() for table in (own[0], other)]
        n_units = min(map(uncertainty.units_of_mean, of_dx))
        for metric, part in found[0][0]:
            draws = uncertainty.nanmean([one[metric, part] for one, _ in found])
            low, high = student_interval(draws[0], draws[1:], n_units)
            row = {"metric": metric, "part": part, "value": draws[0], "ci_low": low, "ci_high": high}
            parts.append({**labels, **row})
        shares = [table["dx"].value_counts(normalize=True).reindex(CLASSES, fill_value=0) for table in (own[0], other)]
        estimate = np.mean([prior for _, prior in found], axis=0)
        table = {"dx": CLASSES, "internal": shares[0], "external": shares[1], "estimated": estimate}
        priors += [{**labels, **row} for row in pd.DataFrame(table).to_dict("records")]
    return pd.DataFrame(parts, columns=SHIFT_COLUMNS), pd.DataFrame(priors, columns=PRIOR_COLUMNS)
