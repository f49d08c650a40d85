"""The numbers of a report's prose, computed a second time by pandas, scikit-learn, SciPy and statsmodels alone.

Takes the files that runs left (predictions, histories, records, data set) and the tables of published numbers; gives
for the key of a fact what it must be.  Nothing is taken from skin_tl but the names of the diagnoses and the project's
folder: metrics are scikit-learn's, lesions are drawn by other random numbers, Wilson's interval is that of statsmodels,
and temperatures are found by another search.

Numbers without chance in them are the same to nine decimals.  The ends of an interval come from a bootstrap: with 400
draws in the report and `N_DRAWS` here, the standard error has itself an error of √(1/800 + 1/2000) = 4 % (6 % if draws
have a kurtosis of 5), so each end, half a width away from the value, has one of 2 to 3 % of the width.  `TOLERANCE` is
three to five of these errors.  An interval that is a third of its width aside, or a third wider, is not let pass; where
all are somewhat too wide or too narrow, the mean of `Recomputation.outward` tells.  All draws come from fixed seeds, so
a comparison that holds once holds always.  p-values hold no further chance: they follow
from a difference and the width of its interval, corrected ones from all of a family, and both are compared to nine
decimals as well.
"""

import functools
import json
from dataclasses import dataclass

import numpy as np
import pandas as pd
import statsmodels.api as sm
from scipy import optimize, special, stats
from scipy.spatial import distance
from sklearn import metrics as skm
from statsmodels.stats.proportion import proportion_confint

from skin_tl.files import ROOT
from skin_tl.schema import CLASSES

N_DRAWS = 1000
TOLERANCE = 0.1
"""Of the width of an interval, for each of its ends."""

PROBABILITIES = [f"p_{dx}" for dx in CLASSES]
BASELINES = ("majority", "metadata_only", "colour_histogram")
LESS_IS_BETTER = ("log_loss", "log_loss_scaled", "ece", "ece_scaled")
DECISIONS = {"melanoma": ["mel"], "malignant": ["mel", "bcc", "akiec"]}
BENIGN = ["bkl", "df", "nv", "vasc"]
# What the report says of itself: level of its intervals, what counts as real, and which subgroups allow a conclusion.
CONFIDENCE, LEVEL, SENSITIVITY, MIN_LESIONS, MIN_CLASS_LESIONS, MAX_WIDTH = 0.95, 0.05, 0.95, 30, 5, 0.2
SURE, N_ERRORS, LEAST_SIDE = 0.9, 6, 3
COVERAGE, ANSWERED = 0.9, 0.8
IMAGENET_SIZES = {"VGG16": 224, "ResNet50": 224, "Xception": 299, "EfficientNetB7": 600}
AGES = {"0-29": (0, 30), "30-44": (30, 45), "45-59": (45, 60), "60-74": (60, 75), "75+": (75, np.inf)}


def pooled_by_head(rows, log_p):
    """Return rows with the product of probabilities, each to the power whose log loss on validation is lowest."""
    pooled = np.zeros(log_p.shape[1:])
    for _, head in rows.groupby(["split_policy", "preprocessing", "seed"]):
        val = head.index[(head["subset"] == "val")]
        y = [CLASSES.index(dx) for dx in rows.loc[val, "dx"]]

        def loss(weights, val=val, y=y):
            values = np.exp(np.einsum("m,mnc->nc", weights, log_p[:, val]))
            return -np.log(values[np.arange(len(val)), y] / values.sum(axis=1)).mean()

        bounds = [(0, None)] * len(log_p)
        found = optimize.minimize(
            loss, np.full(len(log_p), 0.3), method="SLSQP", bounds=bounds, options={"ftol": 1e-14}
        )
        values = np.exp(np.einsum("m,mnc->nc", found.x, log_p[:, head.index]))
        pooled[head.index] = values / values.sum(axis=1, keepdims=True)
    return rows.assign(**dict(zip(PROBABILITIES, pooled.T, strict=True)))


@dataclass(frozen=True)
class Between:
    """A number that a search found, and how far another search may be from it."""

    low: float
    high: float


@dataclass(frozen=True)
class End:
    """An end of an interval that a bootstrap gave."""

    value: float
    width: float
    side: int

    def outward(self, found):
        """Return how far outward another bootstrap's end lies, as a share of the width."""
        return self.side * (found - self.value) / self.width if self.width else float(found != self.value)


def agree(found, expected):
    """Tell whether a value of the report is what it must be: exact but for rounding, unless chance has a part in it."""
    if isinstance(expected, Between):
        return expected.low <= found <= expected.high
    if isinstance(expected, End):
        return abs(expected.outward(found)) <= TOLERANCE
    if isinstance(expected, (str, bool, np.bool_)):
        return found == expected
    return bool(np.isclose(float(found), float(expected), rtol=1e-12, atol=1e-9))


def mean_of(values):
    """Average what is defined."""
    values = [value for value in values if not np.isnan(value)]
    return float(np.mean(values)) if values else np.nan


# One test subset ---------------------------------------------------------------------------------------------------


def guesses(rows):
    return np.array(CLASSES)[np.argmax(rows[PROBABILITIES].to_numpy(), axis=1)]


def metric_of(rows, metric, label="all", temperature=None):
    """Compute one metric of the images of one seed; `label` is a diagnosis or ``all``."""
    y, guess, probability = rows["dx"].to_numpy(), guesses(rows), rows[PROBABILITIES].to_numpy()
    if metric.endswith("_scaled"):
        probability = special.softmax(np.log(np.maximum(probability, np.finfo(float).eps)) / temperature, axis=1)
        metric = metric.removesuffix("_scaled")
    present = [dx for dx in CLASSES if dx in set(y)]
    if metric == "accuracy":
        return skm.accuracy_score(y, guess)
    if metric == "balanced_accuracy":
        return skm.recall_score(y, guess, labels=present, average="macro", zero_division=0)
    if metric in ("macro_f1", "weighted_f1", "macro_precision", "weighted_precision"):
        average, _, name = metric.partition("_")
        score = {"f1": skm.f1_score, "precision": skm.precision_score}[name]
        return score(y, guess, labels=present, average=average, zero_division=0)
    if metric in ("precision", "recall", "f1"):
        if label not in present:
            return np.nan
        score = {"f1": skm.f1_score, "precision": skm.precision_score, "recall": skm.recall_score}[metric]
        return score(y, guess, labels=[label], average="macro", zero_division=0)
    if metric in ("roc_auc", "average_precision"):
        score = {"roc_auc": skm.roc_auc_score, "average_precision": skm.average_precision_score}[metric]
        if label != "all":
            return score(y == label, rows[f"p_{label}"]) if label in present else np.nan
        return float(np.mean([score(y == dx, rows[f"p_{dx}"]) for dx in present]))
    if metric == "log_loss":
        probability = probability / probability.sum(axis=1, keepdims=True)
        return skm.log_loss(y, probability, labels=CLASSES)
    if metric == "ece":
        table = pd.DataFrame({"sure": probability.max(axis=1), "right": guess == y})
        bins = table.groupby(pd.cut(table["sure"], np.linspace(0, 1, 16)), observed=True)
        return float((abs(bins["sure"].mean() - bins["right"].mean()) * bins.size()).sum() / len(table))
    raise KeyError(f"no recomputation of the metric {metric!r}")


def find_temperature(rows):
    """Find where the log loss of validation images is least, as the root of its slope over the inverse temperature."""
    logits = np.log(np.maximum(rows[PROBABILITIES].to_numpy(), np.finfo(float).eps))
    right = logits[np.arange(len(rows)), [CLASSES.index(dx) for dx in rows["dx"]]]

    def slope(inverse):
        return ((special.softmax(inverse * logits, axis=1) * logits).sum(axis=1) - right).mean()

    return 1 / optimize.brentq(slope, 1 / 20, 20)


# Intervals ---------------------------------------------------------------------------------------------------------


def over_seeds(rows, compute, times=None):
    """Compute something of each seed's rows and return the mean over the seeds, once or in each draw.

    `compute` takes how often each row was drawn, (n_draws, n_rows), and returns a number for each draw.
    """
    times = np.ones((1, len(rows))) if times is None else times
    with np.errstate(invalid="ignore"):
        values = [compute(times * (rows["seed"].to_numpy() == seed)) for seed in rows["seed"].unique()]
    return without_nan(values)


def without_nan(values):
    """Average what is defined, in each draw."""
    return np.ma.masked_invalid(values).mean(axis=0).filled(np.nan)


def bootstrap(rows, compute, n_draws=N_DRAWS):
    """Draw lesions, those of all seeds at once, and compute the mean over the seeds in each draw."""
    lesions, codes = np.unique(rows["lesion_id"].to_numpy(), return_inverse=True)
    n_lesions = len(lesions)
    drawn = np.random.default_rng(2018).multinomial(n_lesions, np.full(n_lesions, 1 / n_lesions), n_draws)
    return over_seeds(rows, compute, drawn[:, codes].astype(float))


def share(marks):
    """Return a function for `over_seeds`: the mean of the marks that are not NaN."""
    known = ~np.isnan(marks)
    return lambda times: times[:, known] @ marks[known] / times[:, known].sum(axis=1)


def ranking(wanted, score, metric):
    """Return a function for `over_seeds`: ROC AUC or average precision; equal scores are tied."""
    order = np.argsort(-score)
    first = np.flatnonzero(np.diff(score[order], prepend=np.inf))  # of equal scores

    def compute(times):
        hits, errors = (np.add.reduceat((times * of)[:, order], first, axis=1) for of in (wanted, ~wanted))
        found, flagged = hits.cumsum(axis=1), (hits + errors).cumsum(axis=1)
        if metric == "average_precision":
            return (hits * found / np.maximum(flagged, 1)).sum(axis=1) / found[:, -1]
        return (errors * (found - hits / 2)).sum(axis=1) / found[:, -1] / errors.sum(axis=1)

    return compute


def drawn_metric(rows, metric, label="all"):
    """Return a function for `over_seeds`: a metric of the predicted diagnosis, ROC AUC or average precision."""
    y, guess = (np.array([CLASSES.index(dx) for dx in names]) for names in (rows["dx"], guesses(rows)))
    cells = np.eye(len(CLASSES) ** 2)[len(CLASSES) * y + guess]
    wanted = np.isin(CLASSES, CLASSES if label == "all" else label)

    def score(times):
        table = (times @ cells).reshape(-1, len(CLASSES), len(CLASSES))
        hits, true, called = table.diagonal(axis1=1, axis2=2), table.sum(axis=2), table.sum(axis=1)
        if metric == "accuracy":
            return hits.sum(axis=1) / true.sum(axis=1)
        top, bottom = {
            "precision": (hits, np.maximum(called, 1)),
            "recall": (hits, np.maximum(true, 1)),
            "f1": (2 * hits, np.maximum(true + called, 1)),
        }["recall" if metric == "balanced_accuracy" else metric.rpartition("_")[2]]
        weights = true if metric.startswith("weighted") else (true > 0) & wanted
        return (top / bottom * weights).sum(axis=1) / weights.sum(axis=1)

    def rank(times):
        of = [ranking(y == code, rows[f"p_{CLASSES[code]}"].to_numpy(), metric) for code in np.flatnonzero(wanted)]
        return without_nan([compute(times) for compute in of])

    compute = rank if metric in ("roc_auc", "average_precision") else score
    # It gives what scikit-learn does, also where rows repeat and diagnoses lack.
    for seed in rows["seed"].unique():
        at = np.flatnonzero(rows["seed"].to_numpy() == seed)
        for part in (at, np.repeat(at[: len(at) // 2], 3)):
            times = np.bincount(part, minlength=len(rows))[None].astype(float)
            with np.errstate(invalid="ignore"):
                found = compute(times)
            np.testing.assert_allclose(found, metric_of(rows.iloc[part], metric, label), rtol=1e-12)
    return compute


def bootstrap_metric(rows, metric, label="all"):
    """Draw lesions and compute a metric in each draw."""
    return bootstrap(rows, drawn_metric(rows, metric, label))


def units_of(metric, dx):
    """Return how many lesions a metric rests on; `dx` holds the diagnosis of each lesion.

    Of a mean over diagnoses, each with a variance in proportion to 1/n: one more than the degrees of freedom after
    Welch and Satterthwaite.
    """
    if metric in ("accuracy", "weighted_f1", "weighted_precision"):
        return len(dx)
    sizes = pd.Series(dx).value_counts().to_numpy(float)
    variances = 1 / sizes
    return variances.sum() ** 2 / (variances**2 / np.maximum(sizes - 1, 1)).sum() + 1


def wilson(value, draws, n_units):
    """Give Wilson's interval at the effective number of lesions, with Student's quantile."""
    variance = np.var(draws[~np.isnan(draws)])
    if 0 < value < 1 and variance == 0:
        return value, value
    effective = max(value * (1 - value) / variance, 1) if 0 < value < 1 else n_units
    quantile = stats.t.ppf((1 + CONFIDENCE) / 2, max(n_units - 1, 1))
    return proportion_confint(value * effective, effective, alpha=2 * stats.norm.sf(quantile), method="wilson")


def near(ends):
    """Turn both ends of an interval into what the report's are compared with."""
    low, high = ends
    return {"low": End(low, high - low, -1), "high": End(high, high - low, 1)}


def holm(p):
    """Correct p-values after Holm, by hand."""
    p, corrected, largest = np.asarray(p, float), np.empty(len(p)), 0.0
    for place, at in enumerate(np.argsort(p, kind="stable")):
        largest = max(largest, min(1.0, (len(p) - place) * p[at]))
        corrected[at] = largest
    return corrected


# Shifts ------------------------------------------------------------------------------------------------------------

PARTS = ("difference", "prevalence", "calibration", "rest", "prior_correction")


def fit_calibration(y, probability):
    """Fit temperature and prior by another search, that of Newton; return slope and biases, (8,)."""
    logits, right = np.log(np.maximum(probability, np.finfo(float).eps)), np.eye(len(CLASSES))[y]
    # Columns of each image's derivatives of the scores by slope and biases.
    inner = np.concatenate([logits[:, :, None], np.broadcast_to(np.eye(len(CLASSES)), (len(y), 7, 7))], axis=2)
    penalty = 2e-3 * np.diag([0.0] + [1.0] * len(CLASSES))
    found = np.array([1.0] + [0.0] * len(CLASSES))
    for _ in range(100):
        chances = special.softmax(inner @ found, axis=1)
        slope = np.einsum("nk,nkp->p", chances - right, inner) / len(y) + penalty @ found
        spread = np.einsum("nk,nkp,nkq->pq", chances, inner, inner)
        mean = np.einsum("nk,nkp->np", chances, inner)
        step = np.linalg.solve((spread - mean.T @ mean) / len(y) + penalty, slope)
        found = found - step * min(1, 0.5 / np.abs(step).max())
    assert np.abs(slope).max() < 1e-9 and 1 / 20 < found[0] < 20
    return found


def calibrated(probability, fit):
    """Return scores, before the softmax."""
    return fit[0] * np.log(np.maximum(probability, np.finfo(float).eps)) + fit[1:]


def likeliest_prior(ratio):
    """Find the frequencies of greatest likelihood, whose images have densities in proportion to `ratio`, (n, 7)."""

    def loss(logits):
        prior = special.softmax(logits)
        mixed = ratio @ prior
        slope = -(ratio / mixed[:, None]).mean(axis=0)
        return -np.log(mixed).mean(), prior * (slope - prior @ slope)

    found = optimize.minimize(loss, np.zeros(len(CLASSES)), jac=True, method="BFGS", options={"gtol": 1e-9})
    return special.softmax(found.x)


def parts_of_difference(own, other, own_fitted, other_fitted, corrected):
    """Return the parts of a difference in macro F1 in each draw, from confusion matrices, in the order of `PARTS`."""

    def f1(table):
        true, called, hits = table.sum(axis=-1), table.sum(axis=-2), table.diagonal(axis1=-2, axis2=-1)
        return (2 * hits / np.maximum(true + called, 1e-12) * (true > 0)).sum(axis=-1) / (true > 0).sum(axis=-1)

    def alike(table):
        return table / np.maximum(table.sum(axis=-1, keepdims=True), 1e-12) * other.sum(axis=-1, keepdims=True)

    rest = f1(other_fitted) - f1(alike(own_fitted))
    first = [f1(other) - f1(own), f1(alike(own)) - f1(own)]
    return np.stack([*first, f1(other) - f1(alike(own)) - rest, rest, f1(corrected) - f1(other)], axis=-1)


# A whole study -----------------------------------------------------------------------------------------------------


def stored(method):
    """Compute once per study and arguments."""

    @functools.wraps(method)
    def once(self, *arguments):
        key = (method.__name__, *arguments)
        if key not in self.known:
            self.known[key] = method(self, *arguments)
        return self.known[key]

    return once


class Recomputation:
    """A study's numbers, computed again.

    Parameters
    ----------
    runs, report : pathlib.Path
        ``runs/<study>`` and ``report/<study>``.  Of the report nothing is read but intervals and fitted temperatures,
        from which p-values and what allows a conclusion follow; each is itself compared with what is found here.

    Attributes
    ----------
    outward : list of float
        How far outward each compared end of an interval lies, as a share of the width.
    """

    def __init__(self, runs, report):
        self.runs, self.report, self.known, self.outward = runs, report, {}, []
        self.study = json.loads((runs / "study.json").read_text(encoding="utf-8"))
        self.metadata = pd.read_csv(runs / "dataset" / "metadata.csv", dtype=str, na_filter=False)
        self.splits = pd.read_csv(runs / "dataset" / "splits.csv")
        texts = ROOT / "report" / "text"
        self.published_results = pd.read_csv(texts / "published_results.csv").set_index(["backbone", "row"])
        self.stated = pd.read_csv(texts / "literature.csv").set_index("key")["value"]

    def __call__(self, key):
        """Return what the fact `key` must be; KeyError if nobody has said how to compute it."""
        family, *parts = key.split(".")
        if f"of_{family}" not in dir(self):
            raise KeyError(f"no recomputation for the family of {key!r}: add one to {__name__}")
        return getattr(self, f"of_{family}")(*parts)

    def agree(self, found, expected):
        """Compare a value of the report with what it must be."""
        if isinstance(expected, End):
            self.outward.append(expected.outward(found))
        return agree(found, expected)

    def check_interval(self, row, ends):
        """Compare both ends of an interval of the report with those of another bootstrap."""
        for end, expected in near(ends).items():
            message = f"interval from {row['ci_low']} to {row['ci_high']}, by other draws {ends}"
            assert self.agree(row[f"ci_{end}"], expected), message

    # Files

    @stored
    def predictions(self, strategy, backbone):
        """Return all predictions of a run; the ensemble's are pooled here, those of a baseline are its file's."""
        if backbone == "ensemble":
            tables = [self.predictions(strategy, name) for name in self.study["backbones"]]
            names = [name for name in tables[0].columns if name not in PROBABILITIES]
            own = [t[(t["arm"] == "main") & (t["train_fraction"] == 1)].set_index(names) for t in tables]
            first, *others = [np.log(np.clip(table[PROBABILITIES], 2.0**-23, None)) for table in own]
            log_p = np.stack([first, *(table.loc[first.index] for table in others)])
            return pooled_by_head(first.index.to_frame(index=False), log_p)
        run = self.runs / ("baseline" if backbone in BASELINES else strategy) / backbone
        files = [run / "predictions.csv"]
        if self.study.get("external") and backbone not in BASELINES:
            files.append(run / f"predictions_{self.study['external']}.csv")
        return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)

    @stored
    def rows(self, setup, backbone, subset="test", dataset="internal", arm="main", fraction=1):
        """Return the predictions of a run for one subset, by seed and image; `setup` is strategy, policy, scaling."""
        strategy, policy, preprocessing = setup
        table = self.predictions(strategy, backbone)
        wanted = {"dataset": dataset, "arm": arm, "split_policy": policy, "subset": subset, "train_fraction": fraction}
        wanted["preprocessing"] = "native" if backbone in BASELINES else preprocessing
        table = table[(table[list(wanted)] == pd.Series(wanted)).all(axis=1)]
        return table.sort_values(["seed", "image_id"], ignore_index=True)

    @stored
    def table(self, file):
        return pd.read_csv(self.report / file, dtype={"seed": str})

    def cell(self, file, **where):
        """Return one row of a table of the report."""
        table = self.table(file)
        table = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
        assert len(table) == 1, (file, where)
        return table.iloc[0]

    # Scores of a run

    @stored
    def by_seed(self, setup, backbone, metric, label="all", dataset="internal", arm="main"):
        """Return a metric for each seed, in the order of the seeds."""
        table, values = self.rows(setup, backbone, "test", dataset, arm), []
        for seed, rows in table.groupby("seed"):
            temperature = None
            if metric == "temperature" or metric.endswith("_scaled"):
                temperature = self.temperature(setup, backbone, seed)
            values.append(temperature if metric == "temperature" else metric_of(rows, metric, label, temperature))
        return values

    def validated(self, setup, backbone):
        """Return the macro F1 on the validation subset, mean over the seeds, which selects a backbone."""
        table = self.rows(setup, backbone, "val")
        return np.mean([metric_of(rows, "macro_f1", "all", None) for _, rows in table.groupby("seed")])

    def temperature(self, setup, backbone, seed):
        """Return the report's temperature of a seed, once it is seen that no other has a smaller log loss."""
        validation = self.rows(setup, backbone, "val")
        best = find_temperature(validation[validation["seed"] == seed])
        where = dict(zip(("strategy", "split_policy", "preprocessing"), setup, strict=True))
        where |= {"dataset": "internal", "backbone": backbone, "seed": str(seed), "metric": "temperature"}
        found = self.cell("metrics.csv", **where, arm="main", subgroup="all")["value"]
        assert abs(found / best - 1) < 1e-3, f"temperature {found}, least log loss at {best}"
        return found

    def score(self, setup, backbone, metric, label="all", dataset="internal", arm="main"):
        """Return a metric's mean over the seeds."""
        return mean_of(self.by_seed(setup, backbone, metric, label, dataset, arm))

    @stored
    def interval(self, setup, backbone, metric, label="all", dataset="internal"):
        """Return both ends of a score's interval."""
        rows = self.rows(setup, backbone, "test", dataset)
        lesions = rows.drop_duplicates("lesion_id")
        if label == "all":
            n_units = units_of(metric, lesions["dx"])
        elif metric == "precision":
            n_units = rows.loc[guesses(rows) == label, "lesion_id"].nunique()
        else:
            n_units = (lesions["dx"] == label).sum()
        value = self.score(setup, backbone, metric, label, dataset)
        return wilson(value, bootstrap_metric(rows, metric, label), n_units)

    # Families of facts about the data set and the set-up

    def of_data(self, dx, ending):
        part = self.metadata if dx == "all" else self.metadata[self.metadata["dx"] == dx]
        n_lesions = part["lesion_id"].nunique()
        return {
            "n_images": len(part),
            "n_lesions": n_lesions,
            "share_images": len(part) / len(self.metadata),
            "images_per_lesion": len(part) / n_lesions,
            "n_lesions_seen_again": (part.groupby("lesion_id").size() > 1).sum(),
        }[ending]

    def of_dx_type(self, way, ending):
        assert ending == "share_images"
        return (self.metadata["dx_type"] == way).mean()

    def of_image_size(self, place, ending):
        about = json.loads((self.runs / "dataset" / "images.json").read_text(encoding="utf-8"))
        sizes = sorted(about["file_sizes"], key=lambda size: size["n_images"], reverse=True)
        size = sizes[int(place) - 1]
        return (size | {"share_images": size["n_images"] / len(self.metadata)})[ending]

    def of_subset(self, policy, subset, ending):
        counts = []
        for _, split in self.splits[self.splits["split_policy"] == policy].groupby("seed"):
            part = split[split["subset"] == subset]
            train = split.loc[split["subset"] == "train", ["lesion_id"]].drop_duplicates()
            known = len(part.merge(train, on="lesion_id"))
            count = {"n_images": len(part), "n_lesions": part["lesion_id"].nunique()}
            counts.append(count | {"n_images_known": known, "share_known": known / len(part)})
        return np.mean([count[ending] for count in counts])

    def of_flow(self, stage, ending):
        about = json.loads((self.runs / "dataset" / "images.json").read_text(encoding="utf-8"))
        pairs = pd.read_csv(self.runs / "dataset" / "near_duplicates.csv").query("grouped")
        together = []  # groups of lesion ids that are one lesion
        for pair in pairs[["lesion_id", "nearest_lesion_id"]].to_numpy():
            touched = [group for group in together if group & {*pair}]
            together = [group for group in together if group not in touched] + [set(pair).union(*touched)]
        n_near, n_lesions = sum(len(group) - 1 for group in together), self.metadata["lesion_id"].nunique()
        n_images, n_shared = len(self.metadata), len(about["merged_lesions"])
        found = {
            "published": {"n_images": self.stated["n_images"]},
            "absent": {"n_images": self.stated["n_images"] - n_images},
            "read": {"n_images": n_images, "n_lesions": n_lesions + n_near + n_shared},
            "shared_pictures": {"n_lesions": n_shared},
            "near_duplicates": {"n_lesions": n_near},
            "study": {"n_images": n_images, "n_lesions": n_lesions},
        }
        return found[stage][ending]

    def of_setting(self, name):
        study = self.study
        lists = {"n_backbones": "backbones", "n_seeds": "seeds"}
        fixed = {"confidence": CONFIDENCE, "level": LEVEL, "sensitivity": SENSITIVITY, "n_classes": len(CLASSES)}
        fixed |= {"coverage": COVERAGE, "answered": ANSWERED, "lesions_per_diagnosis": 30}
        fixed |= {"threshold": 0.1, "false_alarms_per_target": 9, "lesions": 1000}
        fixed |= {"lowest_prevalence": 0.01, "highest_prevalence": 0.12}
        fixed |= {"min_lesions": MIN_LESIONS, "max_width": MAX_WIDTH, "n_penalties": len(study["l2"])}
        about = json.loads((self.runs / "dataset" / "images.json").read_text())
        fixed |= {"n_merged_lesions": len(about["merged_lesions"])}
        fixed |= dict(zip(("n_near_duplicates", "n_near_duplicates_grouped"), self.near_duplicates(), strict=True))
        fixed |= {"lowest_penalty": sorted(study["l2"])[0], "highest_penalty": sorted(study["l2"])[-1]}
        if {"feature_extraction", "fine_tuning"} & {*study["strategies"]}:
            fixed |= self.penalties()
        for strategy in {"fine_tuning", "from_scratch"} & {*study["strategies"]}:
            rates = sorted(study[f"{strategy}_rate"])
            fixed |= {f"n_{strategy}_rates": len(rates), f"lowest_{strategy}_rate": rates[0]}
            fixed |= {f"highest_{strategy}_rate": rates[-1]}
        if study["external"]:
            fixed |= {"n_external_duplicates": len(pd.read_csv(self.runs / "external" / "duplicates.csv"))}
        fixed |= {name: len(study[key]) for name, key in lists.items()}
        kinds = ("strategies", "split_policies", "preprocessings")
        return (fixed | {"n_setups": np.prod([len(study[kind]) for kind in kinds])} | study)[name]

    def near_duplicates(self):
        """Count the pairs that were found, and those that were grouped."""
        file = self.runs / "dataset" / "near_duplicates.csv"
        if file.is_file():
            pairs = pd.read_csv(file)
            return len(pairs), int(pairs["grouped"].sum())
        about = json.loads((self.runs / "dataset" / "images.json").read_text())
        return about["near_duplicates"]["n_pairs"], about["near_duplicates"]["n_grouped"]

    @stored
    def penalties(self):
        """Count the heads, and those whose penalty is the last that may be tried: three decades beyond those listed."""
        taken, listed = [], self.study["l2"]
        for strategy in self.study["strategies"]:
            for backbone in self.study["backbones"]:
                history = pd.read_csv(self.runs / strategy / backbone / "history.csv")
                taken += history.loc[(history["stage"] == "head") & history["kept"], "l2"].tolist()
        ends = np.log10([min(listed), max(listed)]) + [-3, 3]
        at_edge = sum(not ends[0] + 0.01 < np.log10(l2) < ends[1] - 0.01 for l2 in taken)
        found = {"n_heads": len(taken), "n_penalties_at_edge": at_edge}
        return found | {"lowest_penalty_taken": min(taken), "highest_penalty_taken": max(taken)}

    def of_backbone(self, backbone, ending):
        run = self.runs / self.study["strategies"][0] / backbone / "run.json"
        run = json.loads(run.read_text(encoding="utf-8"))
        n_head = run["n_features"] * len(CLASSES) + len(CLASSES)  # weights and biases
        stated = self.stated.get(f"parameters.{backbone}", np.nan)
        return {
            "n_parameters": run["n_parameters"],
            "n_parameters_with_classifier": run["n_parameters_with_classifier"],
            "n_parameters_presentation": stated,
            "parameters_difference": run["n_parameters_with_classifier"] - stated,
            "imagenet_size": IMAGENET_SIZES[backbone],
            "n_features": run["n_features"],
            "n_head": n_head,
            "head_share": n_head / run["n_parameters"],
        }[ending]

    def of_training(self, strategy, policy, preprocessing, backbone, ending):
        assert ending == "epochs"
        history = pd.read_csv(self.runs / strategy / backbone / "history.csv")
        history = history.query("arm == 'main' and split_policy == @policy and preprocessing == @preprocessing")
        history = history[history["train_fraction"] == 1]
        stage = "head" if strategy == "feature_extraction" else strategy
        history = history[history["stage"] == stage]
        return history["seed"].value_counts().mean()

    def of_ending(self, strategy, ending):
        gains, stopped = [], []
        for backbone in self.study["backbones"]:
            history = pd.read_csv(self.runs / strategy / backbone / "history.csv")
            history = history.query("arm == 'main' and train_fraction == 1 and stage == @strategy")
            for _, network in history.groupby(["split_policy", "preprocessing", "seed"]):
                scores = network.set_index("epoch")["val_macro_f1"].sort_index().tolist()
                smooth = [np.mean(scores[max(0, i - 4) : i + 1]) for i in range(len(scores))]
                before = len(smooth) - int(len(smooth) / 5)
                stopped.append(len(scores) < self.study[f"{strategy}_epochs"])
                if not stopped[-1]:
                    gains.append(max(smooth) - max(smooth[:before]))
        most = max(gains, default=np.inf)
        return {"n_networks": len(stopped), "n_stopped": sum(stopped), "late_gain": most, "flat": most < 0.01}[ending]

    def of_published(self, backbone, row, ending):
        return self.published_results.loc[(backbone, row), ending]

    def of_literature(self, *key):
        return self.stated[".".join(key)]

    # Families of facts about scores

    def of_score(self, strategy, policy, preprocessing, backbone, metric, ending="value"):
        setup, sign = (strategy, policy, preprocessing), -1 if metric in LESS_IS_BETTER else 1
        if ending in ("low", "high"):
            return near(self.interval(setup, backbone, metric))[ending]
        values = self.by_seed(setup, backbone, metric)
        if ending in ("rank", "n_seeds_best"):
            others = {name: self.by_seed(setup, name, metric) for name in self.study["backbones"]}
            if ending == "rank":
                return 1 + sum(sign * np.mean(other) > sign * np.mean(values) for other in others.values())
            return sum(sign * np.array(values) >= np.max([sign * np.array(o) for o in others.values()], axis=0))
        rows = self.rows(setup, backbone)
        value = np.mean(values) if metric != "temperature" else Between(*(np.mean(values) * np.array([0.999, 1.001])))
        if ending.startswith("random_"):
            return self.of_random_weights(setup, backbone, metric)[ending.removeprefix("random_")]
        found = {"value": value, "n_images": rows.groupby("seed").size().mean()}
        if len(values) > 1:
            found |= {"sd": np.std(values, ddof=1), "min": min(values), "max": max(values)}
        return found[ending]

    @stored
    def classification_report(self, setup, backbone):
        """Return scikit-learn's report, mean over the seeds: {row: {column: value}}."""
        names = {"precision": "precision", "recall": "recall", "f1-score": "f1_score", "support": "support"}
        tables = []
        for _, rows in self.rows(setup, backbone).groupby("seed"):
            report = skm.classification_report(rows["dx"], guesses(rows), output_dict=True, zero_division=0)
            accuracy = {"f1-score": report.pop("accuracy"), "support": len(rows)}
            report = {row.replace(" ", "_"): cells for row, cells in report.items()} | {"accuracy": accuracy}
            tables.append(pd.DataFrame(report).rename(index=names))
        return sum(tables) / len(tables)

    def of_class(self, strategy, policy, preprocessing, backbone, row, ending):
        setup = (strategy, policy, preprocessing)
        report = self.classification_report(setup, backbone)[row]
        if ending == "missed":
            return 1 - report["recall"]
        name, _, kind = ending.rpartition("_")
        if kind in ("low", "high"):
            metric = {"precision": "precision", "recall": "recall", "f1_score": "f1"}[name]
            return near(self.interval(setup, backbone, metric, row))[kind]
        if kind == "difference":
            return report[name] - self.published_results.loc[(backbone, row), name]
        if ending.startswith("published_"):
            return self.published_results.loc[(backbone, row), ending.removeprefix("published_")]
        return report[ending]

    def of_extreme(self, strategy, policy, preprocessing, backbone, ending):
        setup = (strategy, policy, preprocessing)
        f1 = self.classification_report(setup, backbone).loc["f1_score", list(CLASSES)]
        of_seeds = [rows for _, rows in self.rows(setup, backbone).groupby("seed")]
        matrices = [skm.confusion_matrix(r["dx"], guesses(r), labels=CLASSES, normalize="true") for r in of_seeds]
        taken = pd.Series(np.mean(matrices, axis=0)[CLASSES.index("mel")], CLASSES).drop("mel")
        found = {"easiest": f1.idxmax(), "easiest_f1": f1.max(), "hardest": f1.idxmin(), "hardest_f1": f1.min()}
        return (found | {"mel_taken_for": taken.idxmax(), "mel_taken_for_share": taken.max()})[ending]

    def of_best(self, strategy, policy, preprocessing, metric, ending):
        setup = (strategy, policy, preprocessing)
        values = {name: self.by_seed(setup, name, metric) for name in self.study["backbones"]}
        ranked = sorted(values, key=lambda name: -np.mean(values[name]))
        first, last = ranked[0], ranked[-1]
        validated = {name: self.validated(setup, name) for name in self.study["backbones"]}
        best = max(validated, key=validated.get)
        ours = np.mean(values[best])
        baselines = {name: self.score(setup, name, metric) for name in BASELINES}
        baseline = max(baselines, key=baselines.get)
        found = {"best": best, "best_value": ours, "first": first, "first_value": np.mean(values[first])}
        found |= {"val_macro_f1": validated[best], "last": last, "last_value": np.mean(values[last])}
        found |= {"gap_to_last": ours - np.mean(values[last]), "n_seeds": len(values[best])}
        found |= {"n_seeds_best": sum(values[best] >= np.max(list(values.values()), axis=0))}
        found |= {"majority_value": baselines["majority"], "gain": ours - baselines["majority"]}
        found |= {"baseline": baseline, "baseline_value": baselines[baseline]}
        if ending in found:
            return found[ending]
        if ending == "above_baseline":
            return bool(self.interval(setup, best, metric)[0] > self.interval(setup, baseline, metric)[1])
        second = next(name for name in ranked if name != best)
        if ending.startswith("ensemble"):
            together = self.score(setup, "ensemble", metric)
            return {"ensemble_value": together, "ensemble_gain": together - ours}[ending]
        if ending in ("second", "second_value", "gap"):
            runner_up = np.mean(values[second])
            return {"second": second, "second_value": runner_up, "gap": ours - runner_up}[ending]
        turned = best in self.study["backbones"][: self.study["backbones"].index(second)]
        pair = self.pair(setup, *((best, second) if turned else (second, best)), metric)
        lead = pair["difference"] if turned else -pair["difference"]
        ends = (pair["low"], pair["high"]) if turned else (-pair["high"], -pair["low"])
        significant = pair["p_holm"] < LEVEL
        found = {"lead": lead, "lead_p": pair["p_holm"]}
        found |= {"real": bool(significant and lead > 0), "behind": bool(significant and lead < 0)}
        return (found | {f"lead_{end}": value for end, value in near(ends).items()})[ending]

    def of_ranking(self, strategy, policy, preprocessing, backbone, dx, metric, ending="value"):
        setup = (strategy, policy, preprocessing)
        if ending in ("low", "high"):
            return near(self.interval(setup, backbone, metric, dx))[ending]
        rows = self.rows(setup, backbone).query("dx == @dx")
        counts = {"n_images": rows["image_id"].nunique(), "n_lesions": rows["lesion_id"].nunique()}
        return ({"value": self.score(setup, backbone, metric, dx)} | counts)[ending]

    def of_contrast(self, factor, strategy, other, backbone, metric, ending):
        levels = {"split_policy": ("lesion", "image"), "preprocessing": ("unit", "native")}[factor]
        sides = {}
        for side, level in zip("ab", levels, strict=True):
            setup = (strategy, level, other) if factor == "split_policy" else (strategy, other, level)
            scores = {name: self.score(setup, name, metric) for name in self.study["backbones"]}
            sides[f"value_{side}"] = scores[backbone]
            sides[f"rank_{side}"] = 1 + sum(score > scores[backbone] for score in scores.values())
        return (sides | {"difference": sides["value_b"] - sides["value_a"]})[ending]

    # Families of facts about differences

    @stored
    def lesions(self, setup, backbone):
        """Return one prediction per test lesion: the mean over its images and the seeds."""
        table = self.rows(setup, backbone).groupby("lesion_id", as_index=False)
        return table.agg({"dx": "first", **dict.fromkeys(PROBABILITIES, "mean")}).assign(seed=0)

    @stored
    def lesion_draws(self, setup, backbone, metric):
        return bootstrap_metric(self.lesions(setup, backbone), metric)

    def tested(self, difference, draws, n_units, row):
        """Compare a row of the report with its paired bootstrap; return the interval and what p follows from it."""
        quantile = stats.t.ppf((1 + CONFIDENCE) / 2, max(n_units - 1, 1))
        half = quantile * np.std(draws[~np.isnan(draws)], ddof=1)
        low, high = difference - half, difference + half
        self.check_interval(row, (low, high))
        error = (row["ci_high"] - row["ci_low"]) / 2 / quantile
        p = 2 * stats.t.sf(abs(difference) / error, max(n_units - 1, 1)) if error > 0 else float(difference == 0)
        return {"difference": difference, "low": low, "high": high, "p": p}

    @stored
    def pairs(self, setup, metric):
        """Compare all pairs of backbones on the same test lesions: {(a, b): numbers}."""
        backbones, found = self.study["backbones"], {}
        for a, b in [(a, b) for i, a in enumerate(backbones) for b in backbones[i + 1 :]]:
            sides = [self.lesions(setup, name) for name in (a, b)]
            dx = sides[0]["dx"]
            values = [metric_of(side, metric) for side in sides]
            draws = [self.lesion_draws(setup, name, metric) for name in (a, b)]
            where = dict(zip(("strategy", "split_policy", "preprocessing"), setup, strict=True))
            where |= {"dataset": "internal", "arm": "main", "backbone_a": a, "backbone_b": b, "metric": metric}
            row = self.cell("comparisons.csv", **where)
            found[a, b] = self.tested(values[0] - values[1], draws[0] - draws[1], units_of(metric, dx), row)
            if metric == "accuracy":  # McNemar's exact test
                right = [guesses(side) == dx for side in sides]
                only = [(right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()]
                found[a, b]["p"] = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
        for pair, p in zip(found.values(), holm([pair["p"] for pair in found.values()]), strict=True):
            pair |= {"p_holm": p, "real": bool(p < LEVEL)}
        return found

    def pair(self, setup, a, b, metric):
        return self.pairs(setup, metric)[a, b]

    def of_pair(self, strategy, policy, preprocessing, a, b, metric, ending):
        pair = self.pair((strategy, policy, preprocessing), a, b, metric)
        return (pair | near((pair["low"], pair["high"])))[ending]

    @stored
    def effects(self, column, tested, strategy, policy, metric):
        """Compare two arms, or the two scalings, image by image and seed by seed: {backbone: numbers}."""
        again = self.metadata["lesion_id"].value_counts()
        again = set(again.index[again > 1])
        found = {}
        for backbone in self.study["backbones"]:
            sides = []
            levels = {"arm": ["leak_with_siblings", "leak_without_siblings"], "preprocessing": ["native", "unit"]}
            levels["weights"] = ["main", "random_weights"]
            for level in levels[column]:
                if column in ("arm", "weights"):
                    scaling = "native" if "native" in self.study["preprocessings"] else self.study["preprocessings"][0]
                    rows = self.rows((strategy, policy, scaling), backbone, "test", "internal", level)
                else:
                    rows = self.rows((strategy, policy, level), backbone)
                rows = rows if tested == "all" else rows[rows["lesion_id"].isin(again)].reset_index(drop=True)
                sides.append(rows)
            same = ["seed", "image_id", "lesion_id", "dx"]
            pd.testing.assert_frame_equal(sides[0][same], sides[1][same])
            lesions = sides[0].drop_duplicates("lesion_id")
            values = [mean_of([metric_of(rows, metric) for _, rows in side.groupby("seed")]) for side in sides]
            draws = [bootstrap_metric(side, metric) for side in sides]
            where = {"column": column, "tested": tested, "strategy": strategy, "split_policy": policy}
            row = self.cell("effects.csv", **where, backbone=backbone, metric=metric)
            n_units = units_of(metric, lesions["dx"])
            found[backbone] = self.tested(values[0] - values[1], draws[0] - draws[1], n_units, row)
            found[backbone] |= {"value_a": values[0], "value_b": values[1]}
            found[backbone] |= {"n_images": sides[0]["image_id"].nunique(), "n_lesions": len(lesions)}
            same_scaling = (sides[0][PROBABILITIES] == sides[1][PROBABILITIES]).all(axis=None)
            if column == "preprocessing" and same_scaling:
                found[backbone] |= {"p": np.nan, "p_holm": np.nan, "real": False}
        tested = [effect for effect in found.values() if effect["p"] == effect["p"]]
        for effect, p in zip(tested, holm([effect["p"] for effect in tested]), strict=True):
            effect |= {"p_holm": p, "real": bool(p < LEVEL)}
        return found

    def of_effect(self, column, tested, strategy, policy, backbone, metric, ending):
        effect = self.effects(column, tested, strategy, policy, metric)[backbone]
        return (effect | near((effect["low"], effect["high"])))[ending]

    @stored
    def of_random_weights(self, setup, backbone, metric):
        """Score the same backbone with random weights: value, low and high."""
        rows = self.rows(setup, backbone, "test", "internal", "random_weights")
        values = [metric_of(of_seed, metric) for _, of_seed in rows.groupby("seed")]
        dx = rows.drop_duplicates("lesion_id")["dx"]
        ends = wilson(np.mean(values), bootstrap_metric(rows, metric), units_of(metric, dx))
        return {"value": np.mean(values)} | near(ends)

    # What transfer buys

    def main_scaling(self):
        return [
            main if main in self.study[key] else self.study[key][0]
            for key, main in (("split_policies", "lesion"), ("preprocessings", "native"))
        ]

    def trained_lesions(self, policy, fraction):
        """Count the lesions of a part of the training subset, mean over the seeds: the same share of each diagnosis."""
        train = self.splits[(self.splits["split_policy"] == policy) & (self.splits["subset"] == "train")]
        dx = self.metadata.drop_duplicates("lesion_id").set_index("lesion_id")["dx"]
        lesions = train[["seed", "lesion_id"]].drop_duplicates()
        counts = lesions.groupby(["seed", lesions["lesion_id"].map(dx)]).size()
        return np.maximum(np.rint(fraction * counts), 1).groupby("seed").sum().mean()

    @stored
    def curve(self, setup, backbone, fraction):
        rows = self.rows(setup, backbone, "test", "internal", "main", fraction)
        return mean_of([metric_of(part, "macro_f1") for _, part in rows.groupby("seed")])

    def of_curve(self, end, strategy, policy, preprocessing, backbone, ending="value"):
        assert [policy, preprocessing] == self.main_scaling()
        setup, fraction = (
            (strategy, policy, preprocessing),
            {"least": min(self.study["train_fractions"]), "all": 1}[end],
        )
        value = self.curve(setup, backbone, fraction)
        if ending in ("low", "high"):
            rows = self.rows(setup, backbone, "test", "internal", "main", fraction)
            n_units = units_of("macro_f1", rows.drop_duplicates("lesion_id")["dx"])
            return near(wilson(value, bootstrap_metric(rows, "macro_f1"), n_units))[ending]
        sizes = {"n_lesions": self.trained_lesions(policy, fraction), "fraction": fraction}
        return ({"value": value} | sizes)[ending]

    def of_needed(self, strategy, policy, preprocessing, backbone, ending):
        assert [policy, preprocessing] == self.main_scaling() and strategy != "from_scratch"
        target, n_all = (
            self.curve(("from_scratch", policy, preprocessing), backbone, 1),
            self.trained_lesions(policy, 1),
        )
        found = {"target": target, "n_lesions_all": n_all}
        if ending in found:
            return found[ending]
        for fraction in sorted(self.study["train_fractions"]):
            value = self.curve((strategy, policy, preprocessing), backbone, fraction)
            if value >= target:
                n_lesions = self.trained_lesions(policy, fraction)
                found |= {"train_fraction": fraction, "value": value, "n_lesions": n_lesions}
                return (found | {"saved": (n_all - n_lesions) / n_all})[ending]
        raise AssertionError("no share of the lesions reaches it")

    @stored
    def gains(self, policy, preprocessing, metric):
        """Compare all pairs of strategies, image by image and seed by seed: {(a, b, backbone): numbers}."""
        found = {}
        order = ("fine_tuning", "feature_extraction", "from_scratch")
        strategies = sorted(self.study["strategies"], key=order.index)
        for backbone in self.study["backbones"]:
            for a, b in [(a, b) for i, a in enumerate(strategies) for b in strategies[i + 1 :]]:
                sides = [self.rows((name, policy, preprocessing), backbone) for name in (a, b)]
                same = ["seed", "image_id", "lesion_id", "dx"]
                pd.testing.assert_frame_equal(sides[0][same], sides[1][same])
                values = [mean_of([metric_of(rows, metric) for _, rows in side.groupby("seed")]) for side in sides]
                draws = [bootstrap_metric(side, metric) for side in sides]
                where = {"column": "strategy", "strategy": f"{a}/{b}", "split_policy": policy, "tested": "all"}
                row = self.cell("effects.csv", **where, backbone=backbone, metric=metric, preprocessing=preprocessing)
                n_units = units_of(metric, sides[0].drop_duplicates("lesion_id")["dx"])
                found[a, b, backbone] = self.tested(values[0] - values[1], draws[0] - draws[1], n_units, row)
                found[a, b, backbone] |= {"value_a": values[0], "value_b": values[1]}
        for gain, p in zip(found.values(), holm([gain["p"] for gain in found.values()]), strict=True):
            gain |= {"p_holm": p, "real": bool(p < LEVEL)}
        return found

    def of_gain(self, strategies, policy, preprocessing, backbone, metric, ending):
        gain = self.gains(policy, preprocessing, metric)[(*strategies.split("/"), backbone)]
        return (gain | near((gain["low"], gain["high"])))[ending]

    def of_external(self, strategy, policy, preprocessing, backbone, metric, ending):
        setup, dataset = (strategy, policy, preprocessing), self.study["external"]
        values = [self.score(setup, backbone, metric, "all", name) for name in ("internal", dataset)]
        if ending in ("low", "high"):  # Newcombe's: each end keeps its own distance
            (low_a, high_a), (low_b, high_b) = (
                self.interval(setup, backbone, metric, "all", name) for name in ("internal", dataset)
            )
            below = np.sqrt((values[1] - low_b) ** 2 + (high_a - values[0]) ** 2)
            above = np.sqrt((high_b - values[1]) ** 2 + (values[0] - low_a) ** 2)
            return near((values[1] - values[0] - below, values[1] - values[0] + above))[ending]
        sizes = [self.rows(setup, backbone, "test", name)["image_id"].nunique() for name in ("internal", dataset)]
        found = {"internal": values[0], "external": values[1], "difference": values[1] - values[0]}
        return (found | {"n_images_internal": sizes[0], "n_images_external": sizes[1]})[ending]

    @stored
    def other_splits(self, strategy, backbone, metric):
        table = self.predictions(strategy, backbone)
        table = table[(table["arm"] == "other_split") & (table["subset"] == "test")]
        by_seed = [rows for _, rows in table.groupby("seed")]
        return [metric_of(rows, metric) for rows in by_seed], np.mean([len(rows) for rows in by_seed])

    def of_other_splits(self, strategy, backbone, metric, ending):
        values, n_images = self.other_splits(strategy, backbone, metric)
        apart = [abs(a - b) for i, a in enumerate(values) for b in values[i + 1 :]]
        macro = self.published_results.xs("macro_avg", level="row")["f1_score"].sort_values(ascending=False)
        gap = macro.iloc[0] - macro.iloc[1]
        return {
            "n_splits": len(values),
            "n_images": n_images,
            "mean": np.mean(values),
            "sd": np.std(values, ddof=1),
            "lowest": min(values),
            "highest": max(values),
            "typical_gap": np.mean(apart),
            "published_first": macro.index[0],
            "published_second": macro.index[1],
            "published_gap": gap,
            "share_as_far": np.mean([distance > gap - 1e-7 for distance in apart]),
        }[ending]

    # What was explained

    @stored
    def explained_images(self, setup, backbone):
        """Return the images that must have been chosen: kind, image_id, dx, predicted and probability, in order."""
        rows = self.rows(setup, backbone)
        rows = rows[rows["seed"] == self.study["seeds"][0]].sort_values("image_id")
        names = rows[["image_id", "lesion_id", "dx"]].assign(
            predicted=guesses(rows), probability=np.max(rows[PROBABILITIES].to_numpy(), axis=1)
        )
        right, chosen = names["predicted"] == names["dx"], []
        for dx in CLASSES:
            for kind, keep in (("hit", right), ("miss", ~right)):
                of = names[keep & (names["dx"] == dx)].sort_values("probability", kind="stable")
                if len(of):  # the lower one of the two in the middle
                    chosen.append(of.iloc[[(len(of) - 1) // 2]].assign(kind=kind))
        errors, lesions = [], set()
        for row in names[~right].sort_values("probability", ascending=False, kind="stable").itertuples():
            if row.lesion_id not in lesions and len(errors) < N_ERRORS:
                errors.append(row.Index)
                lesions.add(row.lesion_id)
        return names, pd.concat([*chosen, names.loc[errors].assign(kind="error")], ignore_index=True)

    def of_explained(self, strategy, policy, preprocessing, backbone, ending):
        setup = (strategy, policy, preprocessing)
        assert (policy, preprocessing) == (self.study["split_policies"][0], self.study["preprocessings"][0])
        names, chosen = self.explained_images(setup, backbone)
        folder = self.runs / strategy / backbone / "explanations"
        table = pd.read_csv(folder / "images.csv")
        same = ["kind", "image_id", "dx", "predicted"]
        assert table[same].equals(chosen[same]), "other images were chosen"
        wrong = names[names["predicted"] != names["dx"]]
        counts = chosen["kind"].value_counts()
        found = {"n_tested": len(names), "n_wrong": len(wrong), "n_maps": len(chosen), "sure": SURE}
        found |= {"n_confident": sum(probability >= SURE for probability in wrong["probability"])}
        found |= {
            f"n_{kinds}": counts[kind] for kind, kinds in (("hit", "hits"), ("miss", "misses"), ("error", "errors"))
        }
        surest = wrong.sort_values(["probability", "image_id"], ascending=[False, True]).iloc[0]
        found |= {"surest": surest["probability"], "surest_dx": surest["dx"], "surest_predicted": surest["predicted"]}
        maps, shuffled = (np.load(folder / f"{name}.npy").astype(float) for name in ("maps", "shuffled_maps"))
        height, width = maps.shape[1:]
        y, x = np.mgrid[:height, :width] + 0.5
        middle = (abs(y / height - 0.5) < 0.25) & (abs(x / width - 0.5) < 0.25)
        (side,) = table["map_side"].unique()
        found |= {"map_side": side, "least_side": LEAST_SIDE}
        for kind, kinds in (("hit", "hits"), ("miss", "misses")):
            of = [one[middle].sum() / one.sum() for one in maps[chosen["kind"] == kind] if one.any()]
            found[f"middle_{kinds}"] = np.mean(of)
        pairs = zip(maps, shuffled, strict=True)
        found["likeness"] = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in pairs if a.any() and b.any()])
        return found[ending]

    def of_feature_map(self, strategy, preprocessing, backbone, ending):
        assert preprocessing == self.study["preprocessings"][0]
        points = pd.read_csv(self.runs / strategy / backbone / "explanations" / "points.csv")
        apart = distance.cdist(points[["x", "y"]], points[["x", "y"]])
        lesions, dx = points["lesion_id"].to_numpy(), points["dx"].to_numpy()
        others = lesions[:, None] != lesions[None]
        nearest = np.where(others, apart, np.inf).argmin(axis=1)
        alike = dx[:, None] == dx[None]
        return {
            "n_points": len(points),
            "n_images": len(self.metadata),
            "same": np.mean(dx[nearest] == dx),
            "by_chance": np.mean([alike[row][others[row]].mean() for row in range(len(points))]),
        }[ending]

    # Decisions

    @stored
    def decided(self, setup, backbone, decision, point, subset="test"):
        """Return one row per seed and lesion: seed, lesion_id, dx, wanted, score, threshold and flagged."""
        table = self.rows(setup, backbone, subset).groupby(["seed", "lesion_id"], as_index=False)
        table = table.agg({"dx": "first", **dict.fromkeys(PROBABILITIES, "mean")})
        table["wanted"] = table["dx"].isin(DECISIONS[decision])
        table["score"] = sum(table[f"p_{dx}"] for dx in DECISIONS[decision])
        if subset == "test" and point == "sensitivity_95":
            chosen = {}
            validation = self.decided(setup, backbone, decision, point, "val")
            for seed, part in validation.groupby("seed"):
                _, found, thresholds = skm.roc_curve(part["wanted"], part["score"], drop_intermediate=False)
                chosen[seed] = thresholds[found >= SENSITIVITY - 1e-9].max()
            table["threshold"] = table["seed"].map(chosen)
            table["flagged"] = table["score"] >= table["threshold"]
        elif point == "diagnosis":
            table["flagged"] = pd.Series(guesses(table)).isin(DECISIONS[decision])
        return table

    def of_decision(self, strategy, policy, preprocessing, backbone, decision, point, metric, ending="value"):
        table = self.decided((strategy, policy, preprocessing), backbone, decision, point)
        if metric in ("roc_auc", "threshold"):
            of_seed = {
                "roc_auc": lambda part: skm.roc_auc_score(part["wanted"], part["score"]),
                "threshold": lambda part: part["threshold"].iloc[0],
            }[metric]
            found = {"value": np.mean([of_seed(part) for _, part in table.groupby("seed")])}
            if metric == "roc_auc" and ending in ("low", "high"):
                draws = bootstrap(table, ranking(table["wanted"].to_numpy(), table["score"].to_numpy(), metric))
                found |= near(wilson(found["value"], draws, table["lesion_id"].nunique()))
            return (found | {"n_lesions": table["lesion_id"].nunique()})[ending]
        wanted, benign, flagged = table["wanted"], table["dx"].isin(BENIGN), table["flagged"]
        of, event = {
            "sensitivity": (wanted, flagged),
            "tested": (wanted, wanted),
            "missed": (wanted, ~flagged),
            "specificity": (~wanted, ~flagged),
            "benign": (benign, benign),
            "flagged_benign": (benign, flagged),
            "flagged_benign_share": (benign, flagged),
        }[metric]
        at = table[of].assign(event=event[of])
        sizes, hits = at.groupby("seed").size(), at.groupby("seed")["event"].sum()
        count = metric in ("tested", "missed", "benign", "flagged_benign")
        found = {"value": hits.mean() if count else (hits / sizes).mean(), "n_lesions": at["lesion_id"].nunique()}
        if ending in ("low", "high"):
            # Lesions are drawn from all of the test subset.
            draws = bootstrap(table, share(np.where(of, event.astype(float), np.nan)))
            ends = np.array(wilson((hits / sizes).mean(), draws, found["n_lesions"]))
            found |= near(ends * sizes.mean() if count else ends)
        return found[ending]

    # When to trust a prediction

    @stored
    def certainty(self, setup, backbone, score, subset="test", dataset="internal"):
        """Return how sure a backbone is of each of its `rows`, higher for the surer."""
        rows = self.rows(setup, backbone, subset, dataset)
        if score == "max_probability":
            return rows[PROBABILITIES].max(axis=1).to_numpy()
        if score == "entropy":
            return -stats.entropy(rows[PROBABILITIES].to_numpy(), axis=1)
        if score == "disagreement":
            chances = [self.rows(setup, name, subset, dataset)[PROBABILITIES].to_numpy() for name in self.backbones]
            mean = np.mean(chances, axis=0)
            return -np.mean([stats.entropy(one, mean, axis=1) for one in chances], axis=0)
        assert setup[0] == "feature_extraction"
        wanted = {"dataset": dataset, "backbone": backbone, "split_policy": setup[1], "preprocessing": setup[2]}
        known = pd.read_csv(self.runs / "features" / "distances.csv")
        known = known.loc[(known[list(wanted)] == pd.Series(wanted)).all(axis=1), ["seed", "image_id", "distance"]]
        return -rows.merge(known, on=["seed", "image_id"], how="left", validate="1:1")["distance"].to_numpy()

    @property
    def backbones(self):
        return self.study["backbones"]

    @stored
    def abstained(self, setup, backbone, score, dataset):
        """Return draws of and the mean over the seeds of each metric, and the lesions it rests on: {metric: …}."""
        rows, sure = (
            self.rows(setup, backbone, "test", dataset),
            self.certainty(setup, backbone, score, "test", dataset),
        )
        wrong = guesses(rows) != rows["dx"].to_numpy()
        val, sure_val = self.rows(setup, backbone, "val"), self.certainty(setup, backbone, score, "val")
        limits = {}
        for seed, at in val.groupby("seed").groups.items():
            fit = [limit for limit in sure_val[at] if (sure_val[at] >= limit).mean() >= ANSWERED - 1e-9]
            limits[seed] = max(fit)
        kept = sure >= rows["seed"].map(limits).to_numpy()

        error_of, ranked = share(wrong.astype(float)), ranking(~wrong, sure, "roc_auc")

        def augrc(times):
            error = error_of(times)
            spread = error * (1 - error)
            return np.where(spread > 0, (1 - ranked(times)) * spread, 0) + error**2 / 2

        metrics = {
            "augrc": augrc,
            "error": error_of,
            "random": lambda times: error_of(times) / 2,
            "answered": share(kept.astype(float)),
            "error_answered": share(np.where(kept, wrong, np.nan)),
        }
        found = {}
        for name, compute in metrics.items():
            lesions = rows.loc[kept if name == "error_answered" else slice(None), "lesion_id"].nunique()
            found[name] = over_seeds(rows, compute)[0], bootstrap(rows, compute), lesions
        return found

    def of_abstention(self, dataset, strategy, policy, preprocessing, backbone, score, metric, ending="value"):
        setup = (strategy, policy, preprocessing)
        if metric == "difference":
            (a, draws_a, n), (b, draws_b, _) = (
                self.abstained(setup, backbone, name, dataset)["augrc"] for name in (score, "max_probability")
            )
            half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * np.std(draws_a - draws_b, ddof=1)
            return ({"value": a - b, "n_lesions": n} | near((a - b - half, a - b + half)))[ending]
        value, draws, n = self.abstained(setup, backbone, score, dataset)[metric]
        return ({"value": value, "n_lesions": n} | near(wilson(value, draws, n)))[ending]

    @stored
    def prediction_sets(self, setup, backbone, dataset):
        """Return test lesions, one row per seed, and which diagnoses are in the set of each."""
        parts = []
        for subset, of in (("val", "internal"), ("test", dataset)):
            rows = self.rows(setup, backbone, subset, of).groupby(["seed", "lesion_id"], as_index=False)
            parts.append(rows.agg({"dx": "first", **dict.fromkeys(PROBABILITIES, "mean")}))
        val, test = parts
        inside = np.zeros((len(test), len(CLASSES)), bool)
        for seed, lesions in test.groupby("seed"):
            for code, dx in enumerate(CLASSES):
                own = val.loc[(val["seed"] == seed) & (val["dx"] == dx), f"p_{dx}"].to_numpy()
                at_most = (own <= lesions[f"p_{dx}"].to_numpy()[:, None]).sum(axis=1)
                inside[lesions.index, code] = 1 + at_most > (1 - COVERAGE) * (len(own) + 1) + 1e-9
        return test, inside

    def of_sets(self, dataset, strategy, policy, preprocessing, backbone, label, metric, ending="value"):
        setup = (strategy, policy, preprocessing)
        test, inside = self.prediction_sets(setup, backbone, dataset)
        sizes = inside.sum(axis=1)
        holds = inside[np.arange(len(test)), [CLASSES.index(dx) for dx in test["dx"]]]
        values = {"coverage": holds, "single": sizes == 1, "empty": sizes == 0, "size": sizes / 7}[metric].astype(float)
        of = np.ones(len(test), bool) if label == "all" else (test["dx"] == label).to_numpy()
        marks = np.where(of, values, np.nan)
        value = test.assign(mark=marks).groupby("seed")["mark"].mean().mean()
        n_lesions = test.loc[of, "lesion_id"].nunique()

        if ending == "verdict":  # which follows from the interval of the report
            where = dict(zip(("strategy", "split_policy", "preprocessing"), setup, strict=True))
            where |= {"dataset": dataset, "backbone": backbone, "class": label, "metric": metric, "seed": "all"}
            row = self.cell("conformal.csv", **where)
            return "below" if row["ci_high"] < COVERAGE else "above" if row["ci_low"] > COVERAGE else "holds"
        scale = len(CLASSES) if metric == "size" else 1
        found = {"value": scale * value, "n_lesions": n_lesions}
        if ending in ("low", "high"):
            found |= near(scale * np.array(wilson(value, bootstrap(test, share(marks)), n_lesions)))
        return found[ending]

    @stored
    def shifted(self, setup, backbone):
        """Return the parts of the difference in macro F1, each with its draws, and the estimated frequencies."""
        own, other = (self.rows(setup, backbone, "test", name) for name in ("internal", self.study["external"]))
        val = self.rows(setup, backbone, "val")
        found, priors = [], []
        drawn = [
            np.vstack([np.ones(n), np.random.default_rng(place).multinomial(n, np.full(n, 1 / n), N_DRAWS)])
            for place, n in enumerate(table["lesion_id"].nunique() for table in (own, other))
        ]
        for seed in own["seed"].unique():
            sides = [table[table["seed"] == seed] for table in (own, other, val)]
            y = [np.array([CLASSES.index(dx) for dx in side["dx"]]) for side in sides]
            chances = [side[PROBABILITIES].to_numpy() for side in sides]
            shares = [np.bincount(codes, minlength=len(CLASSES)) / len(codes) for codes in y]
            lesions = [np.unique(table["lesion_id"], return_inverse=True)[1] for table in (own, other)]
            lesions = [of[(table["seed"] == seed).to_numpy()] for of, table in zip(lesions, (own, other), strict=True)]
            fit = fit_calibration(y[2], chances[2])
            like = special.softmax(calibrated(chances[0], fit) + np.log(shares[1] / shares[2]), axis=1)
            again = np.empty_like(chances[1])
            for half in (0, 1):
                of = lesions[1] % 2 == half
                again[of] = calibrated(chances[1][of], fit_calibration(y[1][~of], chances[1][~of]))
            elsewhere = special.softmax(calibrated(chances[1], fit), axis=1)
            prior = likeliest_prior(elsewhere / shares[2])
            corrected = elsewhere / shares[2] * prior
            calls = [(0, chances[0]), (1, chances[1]), (0, like), (1, again), (1, corrected)]
            calls = [(side, y[side] * len(CLASSES) + values.argmax(axis=1)) for side, values in calls]
            tables = [
                (drawn[side][:, lesions[side]] @ np.eye(len(CLASSES) ** 2)[cells]).reshape(
                    -1, len(CLASSES), len(CLASSES)
                )
                for side, cells in calls
            ]
            found.append(parts_of_difference(*tables))
            priors.append(prior)
        return np.mean(found, axis=0), np.mean(priors, axis=0)

    def of_shift(self, strategy, policy, preprocessing, backbone, metric, part, ending="value"):
        assert metric == "macro_f1"
        setup = (strategy, policy, preprocessing)
        draws, _ = self.shifted(setup, backbone)
        value, draws = draws[0, PARTS.index(part)], draws[1:, PARTS.index(part)]
        sets = [self.rows(setup, backbone, "test", name) for name in ("internal", self.study["external"])]
        n_units = min(units_of(metric, rows.drop_duplicates("lesion_id")["dx"]) for rows in sets)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, n_units - 1) * np.std(draws, ddof=1)
        return ({"value": value} | near((value - half, value + half)))[ending]

    def of_prior(self, strategy, policy, preprocessing, backbone, dx, ending):
        setup = (strategy, policy, preprocessing)
        own, other = (self.rows(setup, backbone, "test", name) for name in ("internal", self.study["external"]))
        estimate = self.shifted(setup, backbone)[1][CLASSES.index(dx)]
        found = {"internal": (own["dx"] == dx).mean(), "external": (other["dx"] == dx).mean()}
        return (found | {"estimated": Between(estimate - 1e-4, estimate + 1e-4)})[ending]

    # What a decision is worth

    def of_net_benefit(self, strategy, policy, preprocessing, backbone, decision, ending="value", end=""):
        table = self.decided((strategy, policy, preprocessing), backbone, decision, "any")
        wanted, referred = table["wanted"].to_numpy(), (table["score"] >= 0.1).to_numpy()

        # What is found, less a ninth of the false alarms, per lesion.
        benefits = [share(flagged * np.where(wanted, 1, -1 / 9)) for flagged in (referred, np.ones(len(table)))]
        value, whole = (over_seeds(table, benefit)[0] for benefit in benefits)
        found = {"value": value, "refer_all": whole, "gain": value - max(whole, 0)}
        found |= {"n_lesions": table["lesion_id"].nunique()}
        if ending in ("low", "high"):
            return self.percentiles(bootstrap(table, benefits[0]))[ending]
        if end:
            both = [bootstrap(table, benefit) for benefit in benefits]
            return self.percentiles(both[0] - np.maximum(both[1], 0), np.ptp(np.quantile(both[0], [0.025, 0.975])))[end]
        return found[ending]

    @stored
    def changed(self, strategy, backbone, change, severity):
        """Return predictions of changed images, of each severity where `severity` is 0; or those of a baseline."""
        table = pd.read_csv(self.runs / strategy / backbone / "robustness.csv")
        table = table.sort_values("image_id")
        if change == "metadata_only":
            ids = table["image_id"].unique()
            told = self.predictions("baseline", change)
            of = {"split_policy": self.study["split_policies"][0], "seed": self.study["seeds"][0], "subset": "test"}
            told = told[(told[list(of)] == pd.Series(of)).all(axis=1)]
            return [told.set_index("image_id").loc[ids].reset_index()]
        table = table[table["change"] == change]
        severities = [int(severity)] if int(severity) else table["severity"].unique()
        return [table[table["severity"] == one].reset_index(drop=True) for one in severities]

    def of_robustness(self, strategy, backbone, change, severity, metric, ending="value"):
        """Compute a score of changed images, its difference from unchanged ones, and the interval of one of the two."""

        def score(rows):
            if metric == "macro_f1":
                return drawn_metric(rows, metric)
            return share(rows["p_mel"].where((rows["dx"] == "mel") == (metric == "melanoma_risk")).to_numpy())

        before, *after = (
            rows.assign(seed=0)
            for rows in self.changed(strategy, backbone, "none", "0")
            + self.changed(strategy, backbone, change, severity)
        )
        if ending == "n_lesions":
            melanomas = before["dx"] == "mel"
            of = {"macro_f1": before, "melanoma_risk": before[melanomas], "other_risk": before[~melanomas]}[metric]
            return of["lesion_id"].nunique()
        if ending == "n_released_masks":
            return sum(row["mask"] == "released" for rows in after for _, row in rows.iterrows() if change[:3] == "no_")
        if ending in ("low", "high"):
            draws = np.mean([bootstrap(before, score(rows)) for rows in after], axis=0)
            return self.percentiles(draws - (change != "none") * bootstrap(before, score(before)))[ending]
        unchanged, *values = (over_seeds(rows, score(rows))[0] for rows in (before, *after))
        value = np.mean(values)
        return {"value": value, "unchanged": unchanged, "difference": value - unchanged}[ending]

    def percentiles(self, draws, width=0):
        """Return both ends of the interval by percentiles; they vary twice as much as a standard error does.

        Draws whose one tail is cut off say by `width` how wide they would be.
        """
        low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        slack = 2 * TOLERANCE * max(high - low, width)
        return {"low": Between(low - slack, low + slack), "high": Between(high - slack, high + slack)}

    def of_net_benefit_range(self, strategy, policy, preprocessing, backbone, decision, ending):
        """Count thresholds by the report's intervals, each of which is compared with the bootstrap at one threshold."""
        table = self.table("decision_curves.csv")
        where = {"dataset": "internal", "strategy": strategy, "split_policy": policy, "preprocessing": preprocessing}
        where |= {"backbone": backbone, "decision": decision}
        table = table[(table[list(where)] == pd.Series(where)).all(axis=1)]
        percents = table["threshold_percent"].tolist()
        assert percents == [*range(1, 51)]
        better = [percent for percent, low in zip(percents, table["gain_low"], strict=True) if low > 0]
        found = {"lowest": 0.01, "highest": 0.5, "n_thresholds": 50, "n_better": len(better)}
        return (found | ({"lowest_better": better[0] / 100, "highest_better": better[-1] / 100} if better else {}))[
            ending
        ]

    def of_prevalence(self, strategy, policy, preprocessing, backbone, decision, percent, metric, ending="value"):
        """Follow Bayes' theorem from the report's sensitivity and specificity, which are facts of their own."""
        where = {"dataset": "internal", "strategy": strategy, "split_policy": policy, "preprocessing": preprocessing}
        where |= {"backbone": backbone, "decision": decision, "point": "sensitivity_95", "seed": "all"}
        rows = {name: self.cell("decisions.csv", **where, metric=name) for name in ("sensitivity", "specificity")}

        def computed(sensitivity, specificity):
            sick = int(percent) / 100
            table = np.array([[sick * sensitivity, sick * (1 - sensitivity)], [0, 0]])  # referred, not referred
            table[1] = (1 - sick) * (1 - specificity), (1 - sick) * specificity
            ppv, npv = table[0, 0] / table[:, 0].sum(), table[1, 1] / table[:, 1].sum()
            found = {"ppv": ppv, "npv": npv, "needed_to_refer": ppv, "referrals": 1000 * table[:, 0].sum()}
            return (found | {"false_alarms": 1000 * table[1, 0], "missed": 1000 * table[0, 1]})[metric]

        middle = {name: row["value"] for name, row in rows.items()}
        value, squares = computed(**middle), {"low": 0.0, "high": 0.0}
        for name, row in rows.items():
            moved = [computed(**(middle | {name: row[column]})) - value for column in ("ci_low", "ci_high")]
            squares["low"] += min(*moved, 0) ** 2
            squares["high"] += max(*moved, 0) ** 2
        top = 1 if metric in ("ppv", "npv", "needed_to_refer") else 1000
        ends = {"value": value, "low": max(value - np.sqrt(squares["low"]), 0)}
        ends["high"] = min(value + np.sqrt(squares["high"]), top)
        if metric == "needed_to_refer":
            return 1 / ends[{"value": "value", "low": "high", "high": "low"}[ending]]
        return ends[ending]

    def of_risk(self, strategy, policy, preprocessing, backbone, metric, ending="value"):
        setup, scaled = (strategy, policy, preprocessing), metric.endswith("_scaled")
        images = self.rows(setup, backbone).copy()
        if scaled:
            heat = images["seed"].map(
                {seed: self.temperature(setup, backbone, seed) for seed in images["seed"].unique()}
            )
            logits = np.log(np.maximum(images[PROBABILITIES].to_numpy(), np.finfo(float).eps))
            images[PROBABILITIES] = special.softmax(logits / heat.to_numpy()[:, None], axis=1)
        table = images.groupby(["seed", "lesion_id"], as_index=False).agg({"dx": "first", "p_mel": "mean"})
        y, risk = (table["dx"] == "mel").to_numpy(), table["p_mel"].to_numpy()
        metric = metric.removesuffix("_scaled")

        of_seeds, observed = [at for at in table.groupby("seed").groups.values()], share(y.astype(float))
        compute = {
            "observed": observed,
            "brier_of_share": lambda times: observed(times) * (1 - observed(times)),
            "mean_risk": share(risk),
            "brier": share((risk - y) ** 2),
        }.get(metric)
        value = (
            over_seeds(table, compute)[0]
            if compute
            else np.mean([self.recalibrated(y[at], risk[at])[metric] for at in of_seeds])
        )
        n_lesions = table["lesion_id"].nunique()
        if ending == "n_lesions":
            return n_lesions
        if ending == "value":
            return Between(value - 1e-3, value + 1e-3) if scaled or metric in ("slope", "intercept") else value
        if compute:
            return near(wilson(value, bootstrap(table, compute), n_lesions))[ending]
        # Each lesion's part in the error of the coefficient, those of all seeds together (a sandwich estimate).
        parts = pd.Series(0.0, table["lesion_id"].unique())
        for _, of_seed in table.groupby("seed"):
            fitted = self.recalibrated(y[of_seed.index], risk[of_seed.index])[f"{metric}_parts"]
            parts = parts.add(pd.Series(fitted, of_seed["lesion_id"].to_numpy()), fill_value=0)
        half = stats.t.ppf((1 + CONFIDENCE) / 2, n_lesions - 1) * np.sqrt((parts**2).sum()) / table["seed"].nunique()
        end = value - half if ending == "low" else value + half
        return Between(end - 0.3 * half, end + 0.3 * half)

    def recalibrated(self, y, risk):
        """Regress on the logit of a risk by statsmodels: slope, intercept at a slope of one, and their parts."""
        logit = special.logit(np.clip(risk, 1e-6, 1 - 1e-6))
        found = {}
        for name, columns, offset in (
            ("slope", sm.add_constant(logit), 0 * logit),
            ("intercept", 0 * logit + 1, logit),
        ):
            fit = sm.GLM(y.astype(float), columns, family=sm.families.Binomial(), offset=offset).fit()
            scores = fit.model.exog * fit.resid_response[:, None]
            found |= {name: fit.params[-1], f"{name}_parts": (scores @ fit.cov_params())[:, -1]}
        return found

    # Subgroups

    @stored
    def groups(self, variable):
        """Return the subgroup of each image."""
        metadata = self.metadata.set_index("image_id")
        if variable == "age":
            edges = [low for low, _ in AGES.values()] + [np.inf]
            ages = pd.to_numeric(metadata["age"].replace("", np.nan))
            names = pd.cut(ages, edges, right=False, labels=list(AGES)).astype(object)
        else:
            names = metadata[{"site": "localization"}.get(variable, variable)].replace("", np.nan)
        return names.fillna("unknown")

    @stored
    def subgroups(self, setup, backbone, variable, metric):
        """Return one row per subgroup: value, low, high, and whether it allows a conclusion."""
        label = "mel" if metric == "recall" else "all"
        table, found = self.rows(setup, backbone), {}
        where = dict(zip(("strategy", "split_policy", "preprocessing"), setup, strict=True))
        where |= {"backbone": backbone, "metric": metric, "class": label}
        for name, rows in table.groupby(table["image_id"].map(self.groups(variable))):
            lesions = rows.drop_duplicates("lesion_id")["dx"]
            n_lesions = len(lesions) if label == "all" else (lesions == label).sum()
            value = mean_of([metric_of(part, metric, label) for _, part in rows.groupby("seed")])
            row = self.cell("subgroups.csv", **where, subgroup=f"{variable}={name}")
            if n_lesions:
                draws = bootstrap_metric(rows.reset_index(drop=True), metric, label)
                ends = wilson(value, draws, units_of(metric, lesions) if label == "all" else n_lesions)
                self.check_interval(row, ends)
            low, high = row["ci_low"], row["ci_high"]
            enough = name != "unknown" and n_lesions >= MIN_LESIONS and high - low <= MAX_WIDTH
            if metric in ("balanced_accuracy", "macro_f1"):
                sizes = lesions.value_counts()
                enough = enough and len(sizes) > 1 and sizes.min() >= MIN_CLASS_LESIONS
            found[name] = {"value": value, "low": low, "high": high, "conclusive": enough}
        return pd.DataFrame(found).T

    def of_subgroup(self, strategy, policy, preprocessing, backbone, variable, metric, ending):
        groups = self.subgroups((strategy, policy, preprocessing), backbone, variable, metric)
        groups = groups.drop(index="unknown", errors="ignore")
        told = groups[groups["conclusive"].astype(bool)].astype(float)
        if ending in ("n_subgroups", "n_conclusive"):
            return len(groups) if ending == "n_subgroups" else len(told)
        found = {"lowest": told["value"].idxmin(), "highest": told["value"].idxmax()}
        side, _, column = ending.partition("_")
        if column == "share_nv":
            rows = self.rows((strategy, policy, preprocessing), backbone)
            return (rows.loc[rows["image_id"].map(self.groups(variable)) == found[side], "dx"] == "nv").mean()
        return told.loc[found[side], column] if column else found[side]
