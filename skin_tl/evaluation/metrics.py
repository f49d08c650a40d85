"""Metrics: every value of a report's ``metrics.csv``, computed from predictions.

Takes tables of predictions (one row per image, as ``predictions.csv`` holds them); gives tidy tables of metrics,
one value per row, with 95 % intervals by a bootstrap over lesions.  Values on test subsets are scikit-learn's
own; nothing else than the tables is read.

Conventions
-----------
* The predicted diagnosis is the one with the largest probability, the first of equal ones.
* A diagnosis that is never predicted has precision 0 and F1 0 (scikit-learn's ``zero_division=0``).
* A diagnosis without images in a test subset has empty values, and means over diagnoses leave it out (as
  scikit-learn's balanced accuracy does).
* `roc_auc` and `average_precision` are one against the rest; for class ``all`` the mean over diagnoses.
* `ece` has 15 bins of equal width of the largest probability.
* `ece_scaled` and `log_loss_scaled` are measured after temperature scaling, `temperature` having been fitted on
  the validation subset of the same seed.
* Rows with seed ``all`` hold the mean over seeds; their `n_images` and `n_lesions` count each image and each
  lesion once.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn import metrics as skm

from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.calibration import expected_calibration_error, fit_temperature, log_loss, scale_temperature
from skin_tl.evaluation.metric_list import MEANS_OF_CLASSES, METRICS, of_confusion
from skin_tl.evaluation.predictions import class_codes, configurations, validation_rows
from skin_tl.schema import CELL, CLASSES, METRIC_COLUMNS, PROBABILITIES

N_BOOT = 2000
"""Draws of a bootstrap unless told otherwise."""

FEW_LESIONS = 10
"""Below so many lesions of a diagnosis its intervals are approximate."""

FEW_LESIONS_TO_RANK = 30
"""Below so many, those of its ROC AUC and average precision are."""


def point_metrics(
    test: pd.DataFrame, groups: Sequence[str] = tuple(uncertainty.GROUPS)
) -> dict[tuple[str, str], float]:
    """Compute the metrics of one test subset with scikit-learn.

    Parameters
    ----------
    test
        One row per image: dx and the columns `PROBABILITIES`.
    groups
        Which metrics, see `skin_tl.evaluation.uncertainty.draw_metrics`; the supports are always there.

    Returns
    -------
    dict
        By metric and class (``all`` for a metric of the whole); NaN where it is not defined.
    """
    y, probability = class_codes(test["dx"]), test[PROBABILITIES].to_numpy(float)
    values = _confusion_values(y, probability.argmax(1)) if "confusion" in groups else {}
    values["support", "all"] = len(y)
    values.update({("support", label): (y == code).sum() for code, label in enumerate(CLASSES)})
    if "ranking" in groups:
        values.update(_ranking_values(y, probability))
    if "calibration" in groups:
        values["log_loss", "all"] = log_loss(test["dx"], probability)
        values["ece", "all"] = expected_calibration_error(test["dx"], probability)
    return {key: float(value) for key, value in values.items()}


def _confusion_values(y, predicted):
    labels = range(len(CLASSES))
    *columns, support = skm.precision_recall_fscore_support(y, predicted, labels=labels, zero_division=0)
    there = support > 0
    precision, recall, f1 = (column[there] for column in columns)
    values = {("accuracy", "all"): skm.accuracy_score(y, predicted), ("balanced_accuracy", "all"): recall.mean()}
    for average, weights in (("macro", None), ("weighted", support[there])):
        values[f"{average}_precision", "all"] = np.average(precision, weights=weights)
        values[f"{average}_f1", "all"] = np.average(f1, weights=weights)
    confusion = skm.confusion_matrix(y, predicted, labels=labels)
    values |= {(name, "all"): value for name, value in of_confusion(confusion).items()}
    for name, column in zip(("precision", "recall", "f1"), columns, strict=True):
        values |= {(name, label): value for label, value in zip(CLASSES, np.where(there, column, np.nan), strict=True)}
    return values


def _ranking_values(y, probability):
    positive = y[:, None] == np.arange(len(CLASSES))
    there = positive.any(0) & ~positive.all(0)
    values: dict[tuple[str, str], float] = {}
    for name, score in (("roc_auc", skm.roc_auc_score), ("average_precision", skm.average_precision_score)):
        of_class = np.full(len(CLASSES), np.nan)
        if there.any():
            of_class[there] = score(positive[:, there], probability[:, there], average=None)
        values |= {(name, label): value for label, value in zip(CLASSES, of_class, strict=True)}
        values[name, "all"] = float(uncertainty.nanmean(of_class))
    return values


def metrics_table(predictions: pd.DataFrame, strategy: str, backbone: str, n_boot: int = N_BOOT) -> pd.DataFrame:
    """Compute the rows of ``metrics.csv`` for one backbone trained in one strategy.

    Parameters
    ----------
    predictions
        From `read_predictions`; may hold several configurations, data sets and seeds.
    strategy, backbone
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.
    seed
        Seeds the draws.  Backbones with the same test lesions see the same draws.

    Returns
    -------
    pandas.DataFrame
        Columns `METRIC_COLUMNS`: for each configuration the rows of each seed, then those of seed ``all``.  Arms of
        experiments, and training on a part of the lesions, have the metrics of the predicted diagnosis alone.
    """
    rows = []
    for cell, part in configurations(predictions):
        if cell["arm"] == "main" and cell["train_fraction"] == 1:
            rows += metric_rows(part, "all", n_boot, _temperatures(predictions, cell))
        else:
            rows += metric_rows(part, "all", n_boot, groups=["confusion"])
    return pd.DataFrame(rows).assign(strategy=strategy, backbone=backbone)[METRIC_COLUMNS]


def _temperatures(predictions, cell):
    """Fit one temperature per seed on the validation subset."""
    return {
        seed: fit_temperature(part["dx"], part[PROBABILITIES].to_numpy(float))
        for seed, part in validation_rows(predictions, cell).groupby("seed")
    }


def metric_rows(
    test: pd.DataFrame,
    subgroup: str = "all",
    n_boot: int = N_BOOT,
    temperatures: Mapping[int, float] | None = None,
    groups: Sequence[str] = tuple(uncertainty.GROUPS),
) -> list[dict]:
    """Compute the rows of one configuration, without strategy and backbone.

    Parameters
    ----------
    test
        Its test images, of all seeds.
    subgroup
        Written into the rows.
    n_boot
        Draws of the bootstrap over lesions.
    temperatures
        By seed; adds `temperature`, `log_loss_scaled` and `ece_scaled` if it has every seed.
    groups
        Which metrics, see `skin_tl.evaluation.uncertainty.draw_metrics`.

    Returns
    -------
    list of dict
        Of each seed, then of seed ``all``.
    """
    test = test.sort_values(["seed", "image_id"], ignore_index=True)
    codes = pd.DataFrame(
        {
            "seed": test["seed"],
            "image": pd.factorize(test["image_id"])[0],
            "lesion": np.unique(test["lesion_id"].to_numpy(str), return_inverse=True)[1],
            "y": class_codes(test["dx"]),
            "predicted": test[PROBABILITIES].to_numpy(float).argmax(1),
        }
    )
    weights = uncertainty.lesion_weights(codes["lesion"].max() + 1, n_boot)
    temperatures = temperatures if set(test["seed"]) <= set(temperatures or ()) else None
    values, draws, parts = {}, {}, dict(list(codes.groupby("seed")))
    for name, part in parts.items():
        rows = test.loc[part.index]
        y, lesion, probability = part["y"].to_numpy(), part["lesion"].to_numpy(), rows[PROBABILITIES].to_numpy(float)
        values[name] = point_metrics(rows, groups)
        draws[name] = _named(uncertainty.draw_metrics(y, probability, lesion, weights, groups))
        if temperatures:
            scaled = scale_temperature(probability, temperatures[name])
            values[name] |= _scaled_values(rows["dx"], scaled, temperatures[name])
            again = uncertainty.draw_metrics(y, scaled, lesion, weights, ["calibration"])
            draws[name].update(_named(again, "_scaled"))
    values["all"] = {
        key: float(uncertainty.nanmean([values[name][key] for name in parts])) for key in next(iter(values.values()))
    }
    keys = list(next(iter(draws.values())))
    draws["all"] = {key: uncertainty.nanmean([draws[name][key] for name in parts]) for key in keys}
    parts["all"] = codes
    labels = {**test.loc[0, CELL].to_dict(), "subgroup": subgroup}
    return [
        {**labels, "seed": str(name), **row}
        for name, part in parts.items()
        for row in _with_intervals(part, values[name], draws[name])
    ]


def _scaled_values(dx, scaled, temperature):
    return {
        ("temperature", "all"): temperature,
        ("log_loss_scaled", "all"): log_loss(dx, scaled),
        ("ece_scaled", "all"): expected_calibration_error(dx, scaled),
    }


def _named(draws, suffix=""):
    """Key draws by metric and name of the class, as `point_metrics` does."""
    return {(metric + suffix, "all" if k is None else CLASSES[k]): drawn for (metric, k), drawn in draws.items()}


def _with_intervals(codes, values, draws):
    """Return one dict per metric and class of `values`, with the interval that `draws` gives and its counts."""
    image, lesion, y, predicted = (codes[name].to_numpy() for name in ("image", "lesion", "y", "predicted"))
    members = {"all": y >= 0} | {label: y == code for code, label in enumerate(CLASSES)}
    counts = {label: (len(np.unique(image[at])), len(np.unique(lesion[at]))) for label, at in members.items()}
    called = {label: len(np.unique(lesion[predicted == code])) for code, label in enumerate(CLASSES)}
    rows = []
    for (metric, label), value in values.items():
        n_images, n_lesions = counts[label]
        low, high = np.nan, np.nan
        if (metric, label) in draws:
            n_units: float = called[label] if metric == "precision" else n_lesions
            if label == "all" and metric in MEANS_OF_CLASSES:
                n_units = uncertainty.units_of_mean([counts[name][1] for name in CLASSES])
            low, high = uncertainty.interval(metric, value, draws[metric, label], n_units)
        row = {"class": label, "metric": metric, "value": value, "ci_low": low, "ci_high": high}
        rows.append({**row, "n_images": n_images, "n_lesions": n_lesions})
    return rows


def approximate(rows: pd.DataFrame) -> pd.Series:
    """Return which intervals have a coverage below 93 %, or an unknown one.

    Measured on simulated test sets (``tests/benchmarks/interval_coverage.py``): those of the ECE in 92 %; of ROC AUC
    and average precision of a diagnosis with 15 to 20 lesions in 91 to 94 %, of one with 45 and more in 92 to 96 %; all
    others in 93 to 97 %.  Nothing was measured for diagnoses with less than ten lesions.

    Parameters
    ----------
    rows
        Rows of ``metrics.csv``.

    Returns
    -------
    pandas.Series
        Of bool, with the index of `rows`; False for rows without an interval.
    """
    of_class = rows["class"] != "all"
    ranking = rows["metric"].isin(["roc_auc", "average_precision"])
    few = of_class & ((rows["n_lesions"] < FEW_LESIONS) | ranking & (rows["n_lesions"] < FEW_LESIONS_TO_RANK))
    biased = rows["metric"].isin([name for name, metric in METRICS.items() if metric.biased])
    return rows["ci_low"].notna() & (biased | few)
