"""From predictions to metrics: every figure of a report's ``metrics.csv``.

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

import warnings

import numpy as np
import pandas as pd
from scipy import optimize
from sklearn import metrics as skm

from skin_tl.errors import SkinTLError
from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.metric_list import MEANS_OF_CLASSES, METRICS, of_confusion
from skin_tl.schema import CELL, CLASSES, METRIC_COLUMNS, PREDICTION_COLUMNS, PROBABILITIES

N_BOOT = 2000
"""Draws of a bootstrap unless told otherwise."""

FEW_LESIONS = 10
"""Below so many lesions of a diagnosis its intervals are approximate."""

FEW_LESIONS_TO_RANK = 30
"""Below so many, those of its ROC AUC and average precision are."""

SUM_TOLERANCE = 1e-3
"""How far the sum of an image's probabilities may be from one."""


def read_predictions(path, splits=None, made_by="./run_all.sh"):
    """Read and check a ``predictions.csv``.

    Parameters
    ----------
    path : str or pathlib.Path
    splits : pandas.DataFrame, optional
        See `check_predictions`.
    made_by : str
        The command that errors name.

    Returns
    -------
    pandas.DataFrame

    Raises
    ------
    SkinTLError
        If the file is absent or no CSV, or `check_predictions` objects.
    """
    try:
        text = {"image_id": str, "lesion_id": str, "dx": str}
        missing = {name: ["", "nan", "NaN"] for name in PROBABILITIES}  # an image may be called NA
        predictions = pd.read_csv(path, dtype=text, keep_default_na=False, na_values=missing)
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing. It is written by `{made_by}`: run that first.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise SkinTLError(f"{path} cannot be read ({error}). Delete it and run `{made_by}` again.") from None
    return check_predictions(predictions, splits, source=str(path))


def check_predictions(predictions, splits=None, source="predictions.csv"):
    """Check a table of predictions and bring its rows into one order.

    Parameters
    ----------
    predictions : pandas.DataFrame
        Columns `PREDICTION_COLUMNS`, one row per configuration, seed and image; further columns are kept.
    splits : pandas.DataFrame, optional
        ``splits.csv``: split_policy, seed, image_id, lesion_id, subset.  The internal predictions of the arm
        ``main`` must then hold just the test images of their split, and no validation image outside theirs.
    source : str
        What errors call the table.

    Returns
    -------
    pandas.DataFrame
        The rows sorted by configuration, seed, subset and image.

    Raises
    ------
    SkinTLError
        If columns are missing, the table is empty, a diagnosis or subset is unknown, an identifier is empty, an
        image is listed twice, a probability is no number or negative, the probabilities of an image do not sum to
        one within `SUM_TOLERANCE`, or the test images are not those of the split.
    """
    again = "Delete the file and run the study again."
    missing = [column for column in PREDICTION_COLUMNS if column not in predictions.columns]
    if missing:
        raise SkinTLError(f"{source}: without the column(s) {', '.join(missing)}. {again}")
    if predictions.empty:
        raise SkinTLError(f"{source}: holds no predictions. {again}")
    for column, allowed in (("dx", CLASSES), ("subset", ("train", "val", "test"))):
        wrong = predictions.loc[~predictions[column].isin(allowed), column]
        if len(wrong):
            raise SkinTLError(
                f"{source}: {len(wrong)} row(s) with an unknown {column} ({wrong.iloc[0]!r}); "
                f"expected one of {', '.join(allowed)}. {again}"
            )
    key = [*CELL, "seed", "subset", "image_id"]
    empty = [column for column in (*key, "lesion_id") if predictions[column].isna().any()]
    if empty:
        raise SkinTLError(f"{source}: empty values in the column(s) {', '.join(empty)}. {again}")
    _check_probabilities(predictions, source)
    predictions = predictions.sort_values(key, kind="stable", ignore_index=True)
    unit = [*CELL, "seed", "image_id"]
    twice = predictions.loc[predictions.duplicated(unit, keep=False), "image_id"]
    if len(twice):
        raise SkinTLError(
            f"{source}: {twice.nunique()} image(s) listed more than once for one seed, "
            f"among them {twice.iloc[0]}. {again}"
        )
    if splits is not None:
        _check_subsets(predictions, splits, source)
    return predictions


def _check_probabilities(predictions, source):
    try:
        probability = predictions[PROBABILITIES].to_numpy(float)
    except (ValueError, TypeError) as error:
        raise SkinTLError(f"{source}: a probability is not a number ({error}).") from None
    total = probability.sum(1)
    for wrong, what in (
        (~np.isfinite(probability).all(1), "a probability that is empty or not finite"),
        ((probability < 0).any(1), "a negative probability"),
        (np.abs(total - 1) > SUM_TOLERANCE, "probabilities that do not sum to one"),
    ):
        if wrong.any():
            image = predictions["image_id"].iloc[int(np.flatnonzero(wrong)[0])]
            raise SkinTLError(
                f"{source}: {int(wrong.sum())} row(s) with {what}, the first for image {image}. "
                "The training went wrong or the file was changed: delete it and run the study again."
            )


def _check_subsets(predictions, splits, source):
    ours = predictions[(predictions["dataset"] == "internal") & (predictions["arm"] == "main")]
    expected = {
        (policy, int(seed), subset): set(part["image_id"])
        for (policy, seed, subset), part in splits.groupby(["split_policy", "seed", "subset"])
    }
    for (policy, preprocessing, fraction, seed, subset), part in ours.groupby([*CELL[2:], "seed", "subset"]):
        images = set(part["image_id"])
        wanted = expected.get((policy, int(seed), subset))
        where = f"{source}: split {policy}, preprocessing {preprocessing}, seed {seed}"
        where += "" if fraction == 1 else f", train fraction {fraction:g}"
        if wanted is None:
            raise SkinTLError(f"{where}: splits.csv has no such split. Delete the file and run the study again.")
        absent = wanted - images if subset == "test" else set()
        for odd, what in ((absent, "missing"), (images - wanted, "not of that subset")):
            if odd:
                raise SkinTLError(
                    f"{where}: {len(odd)} {subset} image(s) {what}, among them {min(odd)}. "
                    "Delete the file and run the study again."
                )


def point_metrics(test, groups=tuple(uncertainty.GROUPS)):
    """Compute the metrics of one test subset with scikit-learn.

    Parameters
    ----------
    test : pandas.DataFrame
        One row per image: dx and the columns `PROBABILITIES`.
    groups : sequence of str
        Which metrics, see `skin_tl.evaluation.uncertainty.draw_metrics`; the supports are always there.

    Returns
    -------
    dict of (str, str) to float
        Keyed by metric and class (``all`` for a metric of the whole).  NaN where it is not defined.
    """
    y = test["dx"].to_numpy(str)
    probability = test[PROBABILITIES].to_numpy(float)
    predicted = np.array(CLASSES)[probability.argmax(1)]
    present = [name for name in CLASSES if (y == name).any()]
    values = {}
    if "confusion" in groups:
        values.update(_confusion_values(y, predicted, present))
    values["support", "all"] = len(y)
    values.update({("support", label): (y == label).sum() for label in CLASSES})
    if "ranking" in groups:
        values.update(_ranking_values(y, probability, present))
    if "calibration" in groups:
        values["log_loss", "all"] = log_loss(test["dx"], probability)
        values["ece", "all"] = expected_calibration_error(test["dx"], probability)
    return {key: float(value) for key, value in values.items()}


def _confusion_values(y, predicted, present):
    values = {("accuracy", "all"): skm.accuracy_score(y, predicted)}
    recalls = skm.recall_score(y, predicted, labels=present, average=None, zero_division=0)
    values["balanced_accuracy", "all"] = float(np.mean(recalls))
    for average in ("macro", "weighted"):
        scores = skm.precision_recall_fscore_support(y, predicted, labels=present, average=average, zero_division=0)
        values[f"{average}_precision", "all"], _, values[f"{average}_f1", "all"], _ = scores
    confusion = skm.confusion_matrix(y, predicted, labels=CLASSES)
    values |= {(name, "all"): value for name, value in of_confusion(confusion).items()}
    scores = skm.precision_recall_fscore_support(y, predicted, labels=CLASSES, zero_division=0)
    for name, column in zip(("precision", "recall", "f1"), scores[:3], strict=True):
        for label, value in zip(CLASSES, column, strict=True):
            values[name, label] = value if label in present else np.nan
    return values


def _ranking_values(y, probability, present):
    values = {}
    for name, score in (("roc_auc", skm.roc_auc_score), ("average_precision", skm.average_precision_score)):
        for label, column in zip(CLASSES, probability.T, strict=True):
            defined = label in present and len(present) > 1
            values[name, label] = score(y == label, column) if defined else np.nan
        values[name, "all"] = mean_over([values[name, label] for label in CLASSES])
    return values


def mean_over(values):
    """Return the mean of those values that are not NaN, NaN if there are none."""
    values = np.asarray(values, float)
    return float(np.mean(values[~np.isnan(values)])) if (~np.isnan(values)).any() else np.nan


def log_loss(dx, probability):
    """Return the log loss of probabilities ((n_images, 7) array) for diagnoses.

    It is `sklearn.metrics.log_loss`, less its warning about sums that are one only within single precision.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The y_prob values do not sum to one", UserWarning)
        return float(skm.log_loss(dx, np.asarray(probability, float), labels=CLASSES))


def expected_calibration_error(dx, probability):
    """Return the expected calibration error of the largest probability, in 15 bins of equal width (0…1)."""
    gaps = uncertainty.calibration_gaps(class_codes(dx), np.asarray(probability, float))
    return float(np.abs(gaps.sum(0)).sum() / len(gaps))


def reliability(predictions, strategy, backbone):
    """Compare how sure a backbone is with how often it is right, over the test images of all seeds.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `read_predictions`.
    strategy, backbone : str
        Written into the rows.

    Returns
    -------
    pandas.DataFrame
        For each configuration and bin of the largest probability (those of the ECE; empty bins are left out): `CELL`,
        strategy, backbone, confidence_low and confidence_high (the bin), confidence (mean in it), accuracy, n_images
        (mean over the seeds).
    """
    rows = []
    for cell, part in predictions[predictions["subset"] == "test"].groupby(CELL):
        probability = part[PROBABILITIES].to_numpy(float)
        confidence, right = probability.max(1), probability.argmax(1) == class_codes(part["dx"])
        bins = uncertainty.confidence_bins(confidence)
        labels = {**dict(zip(CELL, cell, strict=True)), "strategy": strategy, "backbone": backbone}
        for place in np.unique(bins):
            at = bins == place
            edges = {
                "confidence_low": place / uncertainty.ECE_BINS,
                "confidence_high": (place + 1) / uncertainty.ECE_BINS,
            }
            means = {"confidence": confidence[at].mean(), "accuracy": right[at].mean()}
            rows.append({**labels, **edges, **means, "n_images": at.sum() / part["seed"].nunique()})
    return pd.DataFrame(rows)


def class_codes(dx):
    return pd.Categorical(dx, categories=CLASSES).codes.astype(int)


def fit_temperature(dx, probability):
    """Find the temperature that makes the log loss of validation images least (Guo et al., ICML 2017).

    Parameters
    ----------
    dx : (n_images,) sequence of str
    probability : (n_images, 7) array

    Returns
    -------
    float
        In 0.05…20; above one where the network is too sure of itself.
    """
    y, probability = class_codes(dx), np.asarray(probability, float)

    def loss(log_temperature):
        return uncertainty.image_log_loss(y, scale_temperature(probability, np.exp(log_temperature))).mean()

    found = optimize.minimize_scalar(loss, bounds=(-np.log(20), np.log(20)), method="bounded")
    return float(np.exp(found.x))


def scale_temperature(probability, temperature):
    """Return the probabilities that logits divided by `temperature` give; (n_images, 7) array."""
    logits = np.log(np.clip(probability, np.finfo(float).eps, None)) / temperature
    scaled = np.exp(logits - logits.max(1, keepdims=True))
    return scaled / scaled.sum(1, keepdims=True)


def main_arm(table):
    """Keep the rows (of predictions, metrics or history) of the study's own training, on all of its training subset."""
    return table[(table["arm"] == "main") & (table["train_fraction"] == 1)]


def metrics_table(predictions, strategy, backbone, n_boot=N_BOOT, seed=0):
    """Compute the rows of ``metrics.csv`` for one backbone trained in one strategy.

    Parameters
    ----------
    predictions : pandas.DataFrame
        From `read_predictions`; may hold several configurations, data sets and seeds.
    strategy, backbone : str
        Written into the rows.
    n_boot : int
        Draws of the bootstrap over lesions.
    seed : int
        Seeds the draws.  Backbones with the same test lesions see the same draws.

    Returns
    -------
    pandas.DataFrame
        Columns `METRIC_COLUMNS`: for each configuration the rows of each seed, then those of seed ``all``.  Arms of
        experiments, and training on a part of the lesions, have the metrics of the predicted diagnosis alone.
    """
    rows = []
    test = predictions[predictions["subset"] == "test"]
    for cell, part in test.groupby(CELL):
        labels = dict(zip(CELL, cell, strict=True))
        if labels["arm"] == "main" and labels["train_fraction"] == 1:
            rows += metric_rows(part, "all", n_boot, seed, _temperatures(predictions, labels))
        else:
            rows += metric_rows(part, "all", n_boot, seed, groups=["confusion"])
    table = pd.DataFrame(rows)
    table["strategy"], table["backbone"] = strategy, backbone
    return table[METRIC_COLUMNS]


def validation_rows(predictions, cell):
    """Return the internal validation rows of a configuration (a dict with the keys `CELL`), whatever its data set."""
    rows = predictions[(predictions["subset"] == "val") & (predictions["dataset"] == "internal")]
    for column in CELL[1:]:
        rows = rows[rows[column] == cell[column]]
    return rows


def _temperatures(predictions, cell):
    """Fit one temperature per seed on the validation subset."""
    return {
        seed: fit_temperature(part["dx"], part[PROBABILITIES].to_numpy(float))
        for seed, part in validation_rows(predictions, cell).groupby("seed")
    }


def metric_rows(test, subgroup="all", n_boot=N_BOOT, seed=0, temperatures=None, groups=tuple(uncertainty.GROUPS)):
    """Compute the rows of one configuration, as dicts without strategy and backbone.

    Parameters
    ----------
    test : pandas.DataFrame
        Its test images, of all seeds.
    subgroup : str
        Written into the rows.
    n_boot, seed : int
        Draws of the bootstrap, and what seeds them.
    temperatures : dict, optional
        Seed → temperature; adds `temperature`, `log_loss_scaled` and `ece_scaled` if it has every seed.
    groups : sequence of str
        Which metrics, see `skin_tl.evaluation.uncertainty.draw_metrics`.

    Returns
    -------
    list of dict
        Rows of each seed, then of seed ``all``.
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
    weights = uncertainty.lesion_weights(codes["lesion"].max() + 1, n_boot, np.random.default_rng(seed))
    calibrated = temperatures and set(test["seed"]) <= set(temperatures)
    values, draws, parts = {}, {}, {}
    for name, part in codes.groupby("seed"):
        rows = test.loc[part.index]
        y, lesion, probability = part["y"].to_numpy(), part["lesion"].to_numpy(), rows[PROBABILITIES].to_numpy(float)
        values[name] = point_metrics(rows, groups)
        draws[name] = _named(uncertainty.draw_metrics(y, probability, lesion, weights, groups))
        if calibrated:
            scaled = scale_temperature(probability, temperatures[name])
            values[name]["temperature", "all"] = temperatures[name]
            values[name]["log_loss_scaled", "all"] = log_loss(rows["dx"], scaled)
            values[name]["ece_scaled", "all"] = expected_calibration_error(rows["dx"], scaled)
            again = uncertainty.draw_metrics(y, scaled, lesion, weights, ["calibration"])
            draws[name].update(_named(again, "_scaled"))
        parts[name] = part
    values["all"] = {key: mean_over([values[name][key] for name in parts]) for key in next(iter(values.values()))}
    draws["all"] = {
        key: uncertainty.nanmean([draws[name][key] for name in parts]) for key in next(iter(draws.values()))
    }
    parts["all"] = codes
    labels = {**test.loc[0, CELL].to_dict(), "subgroup": subgroup}
    return [
        {**labels, "seed": str(name), **row}
        for name, part in parts.items()
        for row in _with_intervals(part, values[name], draws[name])
    ]


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
            n_units = called[label] if metric == "precision" else n_lesions
            if label == "all" and metric in MEANS_OF_CLASSES:
                n_units = uncertainty.units_of_mean([counts[name][1] for name in CLASSES])
            low, high = uncertainty.interval(metric, value, draws[metric, label], n_units)
        row = {"class": label, "metric": metric, "value": value, "ci_low": low, "ci_high": high}
        rows.append({**row, "n_images": n_images, "n_lesions": n_lesions})
    return rows


def approximate(rows):
    """Tell which intervals hold the truth less often than in 93 of 100 samples, or are not known to.

    Measured on simulated test sets (``tests/benchmarks/interval_coverage.py``): those of the ECE in 92 %; of ROC AUC
    and average precision of a diagnosis with 15 to 20 lesions in 91 to 94 %, of one with 45 and more in 92 to 96 %; all
    others in 93 to 97 %.  Nothing was measured for diagnoses with less than ten lesions.

    Parameters
    ----------
    rows : pandas.DataFrame
        Rows of ``metrics.csv``.

    Returns
    -------
    pandas.Series of bool
        With the index of `rows`; False for rows without an interval.
    """
    of_class = rows["class"] != "all"
    ranking = rows["metric"].isin(["roc_auc", "average_precision"])
    few = of_class & ((rows["n_lesions"] < FEW_LESIONS) | ranking & (rows["n_lesions"] < FEW_LESIONS_TO_RANK))
    biased = rows["metric"].isin([name for name, metric in METRICS.items() if metric.biased])
    return rows["ci_low"].notna() & (biased | few)


def seed_spread(table):
    """Summarise how far metrics move between seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``metrics.csv``.

    Returns
    -------
    pandas.DataFrame
        One row for each combination of the label columns: mean, sd (NaN with one seed), lowest, highest and
        n_seeds of the per-seed values.
    """
    labels = [
        column
        for column in METRIC_COLUMNS
        if column not in ("seed", "value", "ci_low", "ci_high", "n_images", "n_lesions")
    ]
    seeds = table[table["seed"].astype(str) != "all"]
    grouped = seeds.groupby(labels, sort=False)["value"]
    spread = grouped.agg(mean="mean", sd="std", lowest="min", highest="max", n_seeds="count")
    return spread.reset_index()


def ensemble(predictions):
    """Average the probabilities of several backbones image by image.

    Parameters
    ----------
    predictions : dict of str to pandas.DataFrame
        Backbone → predictions.

    Returns
    -------
    pandas.DataFrame
        Predictions of the pseudo-backbone ``ensemble``.

    Raises
    ------
    SkinTLError
        If the backbones were not scored on the same images.
    """
    check_same_images(predictions)
    key = [*CELL, "seed", "subset", "image_id"]
    tables = [table.sort_values(key, ignore_index=True)[PREDICTION_COLUMNS] for _, table in sorted(predictions.items())]
    mean = tables[0].copy()
    mean[PROBABILITIES] = np.mean([table[PROBABILITIES].to_numpy(float) for table in tables], axis=0)
    return mean


def check_same_images(predictions):
    """Raise `SkinTLError` unless all backbones (dict name → predictions) have the same images and diagnoses."""
    if not predictions:
        raise SkinTLError("No predictions to compare: the study lists no backbone that was run.")
    key = [*CELL, "seed", "subset", "image_id"]
    names = sorted(predictions)
    wanted = pd.MultiIndex.from_frame(predictions[names[0]][[*key, "dx", "lesion_id"]])
    for name in names[1:]:
        index = pd.MultiIndex.from_frame(predictions[name][[*key, "dx", "lesion_id"]])
        odd = wanted.symmetric_difference(index)
        if len(odd):
            place = dict(zip(key, odd[0], strict=False))
            raise SkinTLError(
                f"{names[0]} and {name} were scored on different images, so they cannot be compared: {len(odd)} "
                f"differ, among them {place['image_id']} (split {place['split_policy']}, seed {place['seed']}). "
                "Delete the predictions of one of them and run the study again."
            )
