"""Calibration: whether probabilities match frequencies, and temperature scaling.

Takes diagnoses and probabilities; gives log loss, expected calibration error, reliability and temperatures.
"""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize, special
from sklearn import metrics as skm

from skin_tl.evaluation.predictions import class_codes, configurations
from skin_tl.schema import CLASSES, PROBABILITIES

ECE_BINS = 15
"""Equal-width bins of the expected calibration error (Guo et al., ICML 2017)."""


def log_loss(dx: Sequence[str], probability: np.ndarray) -> float:
    """Return the log loss of probabilities, (n_images, 7), for diagnoses.

    It is `sklearn.metrics.log_loss`, less its warning about sums that are one only within single precision.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The y_prob values do not sum to one", UserWarning)
        return float(skm.log_loss(class_codes(dx), np.asarray(probability, float), labels=range(len(CLASSES))))


def image_log_loss(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return each image's log loss, probabilities clipped as scikit-learn clips them, (n_images,)."""
    chosen = probability[np.arange(len(y)), y]
    tiny = np.finfo(probability.dtype).eps
    return -np.log(np.clip(chosen, tiny, 1 - tiny))


def expected_calibration_error(dx: Sequence[str], probability: np.ndarray) -> float:
    """Return the expected calibration error of the largest probability, in 15 bins of equal width, in 0…1."""
    gaps = calibration_gaps(class_codes(dx), np.asarray(probability, float))
    return float(np.abs(gaps.sum(0)).sum() / len(gaps))


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """Return the bin of each confidence (0…1), counted from 0; bins have equal width and hold their upper edge."""
    return np.clip(np.ceil(confidence * ECE_BINS).astype(int) - 1, 0, ECE_BINS - 1)


def calibration_gaps(y: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Return each image's confidence less its correctness, in the column of its confidence's bin.

    Returns
    -------
    numpy.ndarray
        (n_images, `ECE_BINS`).  The absolute values of its column sums, added and divided by the number of images, are
        the ECE.
    """
    confidence = probability.max(1)
    gaps = np.zeros((len(y), ECE_BINS))
    gaps[np.arange(len(y)), confidence_bins(confidence)] = confidence - (probability.argmax(1) == y)
    return gaps


def reliability(predictions: pd.DataFrame, strategy: str, backbone: str) -> pd.DataFrame:
    """Compare the confidence of a backbone with its accuracy by bin, over the test images of all seeds.

    Parameters
    ----------
    predictions
        From `skin_tl.evaluation.predictions.read_predictions`.
    strategy, backbone
        Written into the rows.

    Returns
    -------
    pandas.DataFrame
        For each configuration and bin of the largest probability (those of the ECE; empty bins are left out): `CELL`,
        strategy, backbone, confidence_low and confidence_high (the bin), confidence (mean in it), accuracy, n_images
        (mean over the seeds).
    """
    rows = []
    for labels, part in configurations(predictions, strategy=strategy, backbone=backbone):
        probability = part[PROBABILITIES].to_numpy(float)
        confidence, right = probability.max(1), probability.argmax(1) == class_codes(part["dx"])
        bins = confidence_bins(confidence)
        for place in np.unique(bins):
            at = bins == place
            edges = {"confidence_low": place / ECE_BINS, "confidence_high": (place + 1) / ECE_BINS}
            means = {"confidence": confidence[at].mean(), "accuracy": right[at].mean()}
            rows.append({**labels, **edges, **means, "n_images": at.sum() / part["seed"].nunique()})
    return pd.DataFrame(rows)


def fit_temperature(dx: Sequence[str], probability: np.ndarray) -> float:
    """Find the temperature with the lowest log loss on validation images (Guo et al., ICML 2017).

    Returns
    -------
    float
        In 0.05…20; above one where the network is too sure of itself.
    """
    y, probability = class_codes(dx), np.asarray(probability, float)

    def loss(log_temperature):
        return image_log_loss(y, scale_temperature(probability, np.exp(log_temperature))).mean()

    found = optimize.minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def scale_temperature(probability: np.ndarray, temperature: float) -> np.ndarray:
    """Return the probabilities that logits divided by `temperature` give, (n_images, 7)."""
    logits = np.log(np.clip(probability, np.finfo(float).eps, None)) / temperature
    return special.softmax(logits, axis=1)
