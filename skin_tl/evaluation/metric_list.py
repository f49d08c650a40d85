"""Metric list: what each metric is, declared once for all that compute, compare and show metrics.

A metric of the confusion matrix is one function and one entry of `METRICS`: its value, its interval and its rows in
``metrics.csv`` follow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Metric:
    """One metric of ``metrics.csv``.

    Attributes
    ----------
    name
    of_confusion
        Computes it from confusion matrices, (..., 7, 7) with true diagnoses in rows, to (...).  None for those that
        `skin_tl.evaluation.uncertainty.draw_metrics` and `skin_tl.evaluation.metrics.point_metrics` compute together.
    mean_of_classes
        Whether the value of the whole is a mean over diagnoses, so that the rarest ones decide how sure it is.
    bounded
        Whether it lies in 0…1; the interval of any other is percentiles of its draws.
    less_is_better
    biased
        Whether a draw's value exceeds that of the sample by about as much as the sample's exceeds the truth, as that of
        a calibration error does: the percentiles are mirrored at the value.
    compared
        Whether backbones, configurations and subgroups are compared by it; of such a metric more is better.
    shown
        Table of the report that has it: scores of the predicted diagnosis, or of the probabilities.
    on_card
        Whether the card of an exported model has it.
    """

    name: str
    of_confusion: Callable[[np.ndarray], np.ndarray] | None = None
    mean_of_classes: bool = False
    bounded: bool = True
    less_is_better: bool = False
    biased: bool = False
    compared: bool = False
    shown: Literal["scores", "probabilities"] | None = None
    on_card: bool = False


METRICS = {
    metric.name: metric
    for metric in (
        Metric("accuracy", compared=True, shown="scores", on_card=True),
        Metric("balanced_accuracy", mean_of_classes=True, compared=True, shown="scores", on_card=True),
        Metric("macro_precision", mean_of_classes=True),
        Metric("macro_f1", mean_of_classes=True, compared=True, shown="scores", on_card=True),
        Metric("weighted_precision"),
        Metric("weighted_f1", shown="scores"),
        Metric("roc_auc", mean_of_classes=True, shown="probabilities"),
        Metric("average_precision", mean_of_classes=True, shown="probabilities"),
        Metric("log_loss", bounded=False, less_is_better=True, shown="probabilities"),
        Metric("log_loss_scaled", bounded=False, less_is_better=True, shown="probabilities"),
        Metric("ece", less_is_better=True, biased=True, shown="probabilities", on_card=True),
        Metric("ece_scaled", less_is_better=True, biased=True, shown="probabilities", on_card=True),
        Metric("temperature", bounded=False, shown="probabilities"),
    )
}
"""The metrics of the whole by name.  Those of each diagnosis alone (precision, recall, F1) lie in 0…1 and are of it."""


def names_of(wanted: Callable[[Metric], object]) -> tuple[str, ...]:
    """Return the names of the metrics that `wanted` is true of, in the order of `METRICS`."""
    return tuple(name for name, metric in METRICS.items() if wanted(metric))


def of_confusion(confusion: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the metrics that have a function of the confusion matrix of their own, see `Metric`."""
    return {name: metric.of_confusion(confusion) for name, metric in METRICS.items() if metric.of_confusion}


COMPARED = names_of(lambda metric: metric.compared)
"""Metrics that backbones, configurations and subgroups are compared by."""

MEANS_OF_CLASSES = names_of(lambda metric: metric.mean_of_classes)
"""Metrics of the whole that are means over diagnoses."""
