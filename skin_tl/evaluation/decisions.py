"""Decisions: sensitivity and false alarms for melanoma and for malignant lesions.

Takes predictions; gives tables of sensitivity, specificity and counts at two operating points, and the points of ROC
curves.  A decision is made per lesion, from the mean probability over its images in the subset.

The operating point ``diagnosis`` flags a lesion whose most probable diagnosis is a target.
``sensitivity_95`` flags it when their probabilities add to a threshold: the highest that finds at least 95 % of such
lesions in the validation subset.  Neither looks at the test subset.
"""

import functools

import numpy as np
import pandas as pd
from sklearn import metrics as skm

from skin_tl.evaluation.estimates import Estimate, mean_estimate, over_seeds
from skin_tl.evaluation.metrics import N_BOOT
from skin_tl.evaluation.predictions import configurations, validation_rows
from skin_tl.evaluation.uncertainty import nanmean, ranking_metrics
from skin_tl.schema import BENIGN, CLASSES, DECISION_COLUMNS, DECISIONS, PROBABILITIES, ROC_COLUMNS, SENSITIVITY


def lesion_scores(rows: pd.DataFrame) -> pd.DataFrame:
    """Average the probabilities of each lesion over its images in each seed and subset.

    Parameters
    ----------
    rows
        Predictions of one configuration.

    Returns
    -------
    pandas.DataFrame
        One row per seed, subset and lesion: dx, the probabilities, and for each decision its name (bool, whether the
        lesion is a target) and ``<name>_score`` (float, 0…1).
    """
    grouped = rows.groupby(["seed", "subset", "lesion_id"])
    lesions = grouped.agg({"dx": "first", **dict.fromkeys(PROBABILITIES, "mean")}).reset_index()
    for name, wanted in DECISIONS.items():
        lesions[name] = lesions["dx"].isin(wanted)
        lesions[f"{name}_score"] = lesions[[f"p_{label}" for label in wanted]].sum(axis=1)
    return lesions


def choose_threshold(
    positive: np.ndarray | pd.Series, score: np.ndarray | pd.Series, sensitivity: float = SENSITIVITY
) -> float:
    """Return the highest threshold that flags at least this share of the positives.

    Parameters
    ----------
    positive, score
        (n,) bool and float; a lesion is flagged from the threshold on.
    sensitivity
        In 0…1.

    Returns
    -------
    float
        NaN without positives.
    """
    found = np.sort(np.asarray(score)[np.asarray(positive, bool)])[::-1]
    if not len(found):
        return np.nan
    return float(found[int(np.ceil(sensitivity * len(found) - 1e-9)) - 1])


def decisions_table(predictions: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Compute what each decision finds, misses and costs on the test subset.

    Parameters
    ----------
    predictions
        From `read_predictions`.  The threshold of a seed comes from its internal validation subset; where a seed has
        none, only the point ``diagnosis`` is given.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    pandas.DataFrame
        Columns `DECISION_COLUMNS`, for each seed and for ``all``, their mean (of counts too: lesions per test subset).
        Metrics: `roc_auc` (point ``any``), `threshold`, `sensitivity`, `specificity`, `flagged_benign_share`, and the
        counts `tested`, `missed`, `benign` and `flagged_benign`.  `n_lesions` counts the lesions that a value rests on,
        each once.
    """
    rows = []
    for labels, part in configurations(predictions, strategy=strategy, backbone=backbone):
        lesions, validation = lesion_scores(part), lesion_scores(validation_rows(predictions, labels))
        for decision in DECISIONS:
            found = _decision_rows(lesions, validation, decision, n_boot)
            rows += [{**labels, "decision": decision, **row} for row in found]
    return pd.DataFrame(rows, columns=DECISION_COLUMNS)


def _decision_rows(lesions, validation, decision, n_boot):
    """Return the rows of one decision in one configuration, as dicts without the configuration's labels."""
    points = list(_operating_points(lesions, validation, decision))
    flags = {point: flagged for point, flagged, _ in points}
    compute = functools.partial(_estimates, decision=decision, points=tuple(flags))
    found: dict[tuple[str, str], list[dict]] = {}
    for row in over_seeds(lesions.assign(**flags), compute, n_boot):
        found.setdefault(row.pop("key"), []).append(row)
    rows = []
    if 0 < lesions[decision].sum() < len(lesions):
        rows += [{"point": "any", "metric": "roc_auc", **row} for row in found["any", "roc_auc"]]
    for point, _, thresholds in points:
        rows += [{"point": point, "metric": "threshold", **row} for row in thresholds]
        for metric in ("sensitivity", "specificity", "flagged_benign_share"):
            shares = [{"point": point, "metric": metric, **row} for row in found[point, metric]]
            rows += shares
            if metric != "specificity":
                of = lesions[decision] if metric == "sensitivity" else lesions["dx"].isin(BENIGN)
                rows += _counts(metric, shares, lesions.loc[of, "seed"])
    return rows


def _estimates(lesions, drawn, decision, points):
    """Estimate the ROC AUC of a decision and, at each operating point, its shares, on the lesions of one seed."""
    positive, names = lesions[decision].to_numpy(), lesions["lesion_id"].to_numpy()
    score, benign = lesions[f"{decision}_score"].to_numpy(), lesions["dx"].isin(BENIGN).to_numpy()
    area = skm.roc_auc_score(positive, score) if 0 < positive.sum() < len(positive) else np.nan
    found = {("any", "roc_auc"): Estimate(area, ranking_metrics(drawn, positive, score)[0], names)}
    for point in points:
        flagged = lesions[point].to_numpy()
        for metric, of, event in (
            ("sensitivity", positive, flagged),
            ("specificity", ~positive, ~flagged),
            ("flagged_benign_share", benign, flagged),
        ):
            found[point, metric] = mean_estimate(event[of], drawn[of], names[of])
    return found


def _operating_points(lesions, validation, decision):
    """Yield each operating point, which lesions it flags and the rows of its thresholds."""
    most_probable = np.array(CLASSES)[lesions[PROBABILITIES].to_numpy().argmax(1)]
    yield "diagnosis", np.isin(most_probable, DECISIONS[decision]), []
    thresholds = {
        seed: choose_threshold(part[decision], part[f"{decision}_score"]) for seed, part in validation.groupby("seed")
    }
    chosen = lesions["seed"].map(thresholds).to_numpy(float)
    if np.isfinite(chosen).all():
        used = {seed: thresholds[seed] for seed in lesions["seed"].unique()}
        rows = [{"seed": str(seed), "value": value} for seed, value in used.items()]
        rows.append({"seed": "all", "value": float(nanmean(list(used.values())))})
        yield "sensitivity_95", lesions[f"{decision}_score"].to_numpy() >= chosen, rows


def _counts(metric, shares, seeds):
    """Turn the rows of a share into counts of lesions: how many there were, and how many missed or flagged."""
    sizes = {str(seed): count for seed, count in seeds.value_counts().items()}
    whole, part = ("tested", "missed") if metric == "sensitivity" else ("benign", "flagged_benign")
    rows: list[dict] = []
    for row in shares:
        n_lesions = sizes.get(row["seed"], 0) if row["seed"] != "all" else sum(sizes.values()) / (len(shares) - 1)
        ends = np.array([row["value"], row["ci_low"], row["ci_high"]])
        if metric == "sensitivity":
            ends = 1 - ends[[0, 2, 1]]
        value, low, high = ends * n_lesions
        value = np.round(value)  # a number of lesions, which a share times their number misses by a last digit
        if row["seed"] == "all":
            value = nanmean([other["value"] for other in rows if other["metric"] == part])
        rows.append({**row, "metric": whole, "value": n_lesions, "ci_low": np.nan, "ci_high": np.nan})
        rows.append({**row, "metric": part, "value": value, "ci_low": low, "ci_high": high})
    return rows


def roc_points(predictions: pd.DataFrame, strategy: str, backbone: str) -> pd.DataFrame:
    """Return the points of the ROC curve of each decision on the test subset, per seed.

    Returns
    -------
    pandas.DataFrame
        Columns `ROC_COLUMNS`, in rising order; points on a straight line are left out (`sklearn.metrics.roc_curve`).
        The first point flags nothing; its threshold is infinite, which is an empty cell in a file.
    """
    tables = []
    for labels, part in configurations(predictions, strategy=strategy, backbone=backbone):
        for seed, lesions in lesion_scores(part).groupby("seed"):
            for decision in DECISIONS:
                if lesions[decision].nunique() < 2:
                    continue
                false, true, threshold = skm.roc_curve(lesions[decision], lesions[f"{decision}_score"])
                curve = {"false_positive_rate": false, "true_positive_rate": true, "threshold": threshold}
                tables.append(pd.DataFrame({**labels, "seed": str(seed), "decision": decision, **curve}))
    return pd.concat(tables, ignore_index=True)[ROC_COLUMNS] if tables else pd.DataFrame(columns=ROC_COLUMNS)
