"""Robustness: how far scores move when test images are changed.

Takes predictions of the same images as they are and under each change (`skin_tl.explain.robustness`); gives the score
under each change beside that of the unchanged images, with paired intervals: a draw of the bootstrap takes the same
lesions for both.  The probability of melanoma is averaged over the melanomas, and over all other lesions.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.metrics import N_BOOT
from skin_tl.evaluation.predictions import class_codes
from skin_tl.schema import CLASSES, PROBABILITIES, ROBUSTNESS_COLUMNS

N_CLASSES, MELANOMA = len(CLASSES), CLASSES.index("mel")

CHANGE = ["kind", "change", "severity"]

METRICS = ("macro_f1", "melanoma_risk", "other_risk")
"""Macro F1; mean probability of melanoma of melanomas; the same of all other lesions."""


def scores(y: np.ndarray, probability: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Compute each of `METRICS` in every draw.

    Parameters
    ----------
    y, probability
        Diagnosis (place in `CLASSES`), (n,), and probabilities, (n, 7).
    weights
        (n, n_draws): how often each image was drawn.

    Returns
    -------
    dict of numpy.ndarray
        (n_draws,) each.
    """
    cells = np.eye(N_CLASSES**2, dtype=np.float32)[y * N_CLASSES + probability.argmax(1)]
    confusion = (weights.T @ cells).astype(float).reshape(-1, N_CLASSES, N_CLASSES)
    found = {"macro_f1": uncertainty.confusion_metrics(confusion)[0]["macro_f1"]}
    for name, group in (("melanoma_risk", y == MELANOMA), ("other_risk", y != MELANOMA)):
        drawn = weights[group]
        with np.errstate(invalid="ignore"):
            found[name] = probability[group, MELANOMA] @ drawn / drawn.sum(0)
    return found


def robustness_table(
    predictions: pd.DataFrame,
    strategy: str,
    backbone: str,
    baselines: Mapping[str, pd.DataFrame] | None = None,
    n_boot: int = N_BOOT,
) -> pd.DataFrame:
    """Compute what each change does to the scores of one run.

    Parameters
    ----------
    predictions
        Columns `skin_tl.schema.ROBUSTNESS_PREDICTIONS`, one image per lesion.
    strategy, backbone
        Written into the rows.
    baselines
        Predictions of pseudo-backbones by name, of which the same images are taken: what needs no picture.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns `skin_tl.schema.ROBUSTNESS_COLUMNS`.  Kind ``none`` has the unchanged images, whose value has the
        interval; ``baseline`` a pseudo-backbone.  A corruption has a row for each severity, and with severity 0 the
        mean over the severities.  `n_lesions` counts the lesions that a metric is of, `n_released_masks` all that a
        mask of the release covers.
    """
    released = predictions.get("mask", pd.Series("", predictions.index)) == "released"
    n_released = released.groupby(predictions["change"]).sum()
    by_change = {key: part.sort_values("image_id") for key, part in predictions.groupby(CHANGE, sort=False)}
    clean = by_change["none", "none", 0]
    y, ids = class_codes(clean["dx"]), clean["image_id"].to_numpy()
    index, drawn = uncertainty.draw_lesions(clean, n_boot)
    weights = np.concatenate([np.ones((len(y), 1), np.float32), drawn[index]], axis=1)  # the first: as they are
    for name, table in (baselines or {}).items():
        by_change["baseline", name, 0] = table.set_index("image_id").loc[ids].reset_index()
    found = {key: scores(y, part[PROBABILITIES].to_numpy(float), weights) for key, part in by_change.items()}
    for name in dict.fromkeys(name for kind, name, _ in by_change if kind == "corruption"):
        graded = [values for (_, change, _), values in found.items() if change == name]
        found["corruption", name, 0] = {metric: np.mean([one[metric] for one in graded], axis=0) for metric in METRICS}
    n_lesions = dict(zip(METRICS, (len(y), (y == MELANOMA).sum(), (y != MELANOMA).sum()), strict=True))
    rows = []
    for (kind, name, severity), values in found.items():
        for metric in METRICS:
            before, after = found["none", "none", 0][metric], values[metric]
            moved = after if kind == "none" else after - before
            row = {"kind": kind, "change": name, "severity": severity, "metric": metric, "value": after[0]}
            row |= {"unchanged": before[0], "difference": after[0] - before[0]}
            draws = moved[1:][np.isfinite(moved[1:])]
            ends = uncertainty.percentiles(draws) if len(draws) else (np.nan, np.nan)
            row |= dict(zip(("ci_low", "ci_high"), ends, strict=True))
            rows.append(row | {"n_lesions": n_lesions[metric], "n_released_masks": n_released.get(name, 0)})
    return pd.DataFrame(rows).assign(strategy=strategy, backbone=backbone)[ROBUSTNESS_COLUMNS]
