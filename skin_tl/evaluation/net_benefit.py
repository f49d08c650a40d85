"""Net benefit: decision curves against referring every lesion, or none.

Takes predictions; gives decision curves (Vickers and Elkin, Medical Decision Making 2006) of each decision.  A decision
is made per lesion, from the mean probability over its images in the subset, before temperature scaling.

Who refers a lesion from a threshold probability p on accepts (1 − p) / p false alarms for each target found.  The net
benefit is the share of lesions that are targets and referred, less p / (1 − p) times the share of false alarms.
Referring none has a net benefit of 0.
"""

import numpy as np
import pandas as pd

from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.decisions import lesion_scores
from skin_tl.evaluation.metrics import N_BOOT
from skin_tl.evaluation.predictions import configurations
from skin_tl.schema import CURVE_COLUMNS, DECISIONS

THRESHOLDS = np.arange(1, 51)
"""Threshold probabilities in percent: above the last, lesions would be left alone that are more likely targets."""


def decision_curves(predictions: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Compute the net benefit of referring by a backbone's probability on the test subset, at each threshold.

    Parameters
    ----------
    predictions
        From `skin_tl.evaluation.predictions.read_predictions`.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns `CURVE_COLUMNS`, means over the seeds, per lesion: `net_benefit` (at most the share of targets) with its
        interval, `refer_all`, that of referring every lesion, and `gain`, by how much the backbone's exceeds the better
        of referring all and none, with its interval; percentiles of the draws.  `n_lesions` counts each lesion once.
    """
    tables = []
    for labels, part in configurations(predictions, strategy=strategy, backbone=backbone):
        lesions = lesion_scores(part)
        index, weights = uncertainty.draw_lesions(lesions, n_boot)
        for decision in DECISIONS:
            parts = [
                net_benefit(of_seed[decision], of_seed[f"{decision}_score"], weights[index[of_seed.index]])
                for _, of_seed in lesions.groupby("seed")
            ]
            (value, refer_all), (draws, all_draws) = (np.mean(each, axis=0) for each in zip(*parts, strict=True))
            (low, high), gains = uncertainty.percentiles(draws), draws - np.maximum(all_draws, 0)
            gain_low, gain_high = uncertainty.percentiles(gains)
            columns = {"net_benefit": value, "ci_low": low, "ci_high": high, "refer_all": refer_all}
            columns |= {"gain": value - np.maximum(refer_all, 0), "gain_low": gain_low, "gain_high": gain_high}
            columns |= {"threshold_percent": THRESHOLDS, "n_lesions": len(weights)}
            tables.append(pd.DataFrame({**labels, "decision": decision, **columns}))
    return pd.concat(tables, ignore_index=True)[CURVE_COLUMNS]


def net_benefit(
    positive: np.ndarray | pd.Series, score: np.ndarray | pd.Series, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the net benefit of referring by a score, and of referring all, at each of `THRESHOLDS`.

    Parameters
    ----------
    positive, score
        (n_lesions,) bool and float; a lesion is referred from the threshold on.
    drawn
        (n_lesions, n_draws) float: how often each draw holds each lesion.

    Returns
    -------
    values
        (2, n_thresholds): by the score, and of all.
    draws
        (2, n_thresholds, n_draws).
    """
    positive, score, threshold = np.asarray(positive, bool), np.asarray(score), THRESHOLDS[:, None] / 100
    of_all = np.where(positive, 1.0, -threshold / (1 - threshold))
    each = np.stack([np.where(score >= threshold, of_all, 0.0), of_all])
    with uncertainty.one_thread():
        return each.mean(-1), each.astype(np.float32) @ drawn / drawn.sum(0)
