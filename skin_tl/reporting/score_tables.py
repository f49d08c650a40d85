"""Score tables: scores, rankings, confusion matrices and differences between backbones, as the report shows them.

Takes the tables of `skin_tl.evaluation.scoring`; gives DataFrames, each written as a CSV file of the report.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from skin_tl.evaluation.metric_list import names_of
from skin_tl.evaluation.metrics import approximate
from skin_tl.evaluation.predictions import labelled_groups, main_arm
from skin_tl.evaluation.study_files import Setup, StudyFiles
from skin_tl.evaluation.subgroups import UNKNOWN
from skin_tl.schema import BASELINES, CLASSES, RANDOM_WEIGHTS, SETUP, kind_of

AVERAGES = ("accuracy", "macro_avg", "weighted_avg")
"""The last rows of a classification report, under the names of the published table."""

SCORES = names_of(lambda metric: metric.shown == "scores")
"""Scores of the predicted diagnosis; more is better."""

PROBABILITY_SCORES = names_of(lambda metric: metric.shown == "probabilities")
"""Scores of the probabilities."""

LESS_IS_BETTER = names_of(lambda metric: metric.less_is_better)


RUN = [*SETUP, "backbone", "train_fraction"]
"""Columns of metrics.csv that name what a backbone was trained with."""


def main_rows(files: StudyFiles, metrics: pd.DataFrame) -> pd.DataFrame:
    """Keep what the study's own runs scored on its own test subsets, over all images of them."""
    known = [*files.study.backbones, *(name for _, name in files.study.pseudo_runs)]
    own = metrics[metrics["backbone"].isin(known) & (metrics["train_fraction"] == 1)]
    return own[(own["dataset"] == "internal") & (own["arm"] == "main") & (own["subgroup"] == "all")]


def score_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """Put the scores over all classes side by side, per set-up and backbone.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, metric (`SCORES` and `PROBABILITY_SCORES`), backbone, kind (backbone,
        ensemble or baseline), value (mean over the seeds), ci_low, ci_high, approximate (whether the interval is),
        seed_sd, seed_min, seed_max (empty with one seed), n_seeds, n_seeds_best (in how many seeds no other backbone
        did better), n_images (test images, mean over the seeds) and rank (1 is best, among backbones; empty for the
        others).
    """
    overall = metrics[metrics["metric"].isin((*SCORES, *PROBABILITY_SCORES)) & (metrics["class"] == "all")]
    turned = np.where(overall["metric"].isin(LESS_IS_BETTER), -overall["value"], overall["value"])
    overall = overall.assign(kind=overall["backbone"].map(kind_of), turned=turned, approximate=approximate(overall))
    by_seed = overall[overall["seed"] != "all"]
    keys = [*SETUP, "metric", "backbone", "kind"]
    best = by_seed.groupby([*SETUP, "metric", "kind", "seed"])["turned"].transform("max") == by_seed["turned"]
    spread = (
        by_seed.assign(best=best)
        .groupby(keys)
        .agg(
            seed_sd=("value", "std"),
            seed_min=("value", "min"),
            seed_max=("value", "max"),
            n_seeds=("value", "size"),
            n_seeds_best=("best", "sum"),
            n_images=("n_images", "mean"),
        )
    )
    single = spread["n_seeds"] < 2
    spread.loc[single, ["seed_sd", "seed_min", "seed_max"]] = np.nan
    means = overall[overall["seed"] == "all"].set_index(keys)
    table = means[["value", "ci_low", "ci_high", "approximate", "turned"]].join(spread).reset_index()
    ranks = table.groupby([*SETUP, "metric", "kind"])["turned"].rank(ascending=False, method="first")
    others = table["kind"] != "backbone"
    table = table.assign(rank=ranks.astype("Int64").mask(others), n_seeds_best=table["n_seeds_best"].mask(others))
    table = table.sort_values([*SETUP, "metric", "kind", "rank", "backbone"], ignore_index=True)
    return table.drop(columns="turned")


def with_control(scores: pd.DataFrame, metrics: pd.DataFrame) -> pd.DataFrame:
    """Put beside each backbone's scores those of the same backbone with random weights, where a study has them.

    Parameters
    ----------
    scores
        From `score_table`.
    metrics
        Rows of ``metrics.csv``.

    Returns
    -------
    pandas.DataFrame
        `scores` with the columns random_value, random_low and random_high: mean over the seeds, and its interval.
    """
    rows = metrics[(metrics["arm"] == RANDOM_WEIGHTS) & (metrics["class"] == "all") & (metrics["seed"] == "all")]
    keys, columns = [*SETUP, "metric", "backbone"], {"value": "random_value", "ci_low": "random_low"}
    rows = rows.rename(columns=columns | {"ci_high": "random_high"})
    return scores.merge(rows[[*keys, "random_value", "random_low", "random_high"]], on=keys, how="left")


def of_backbones(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the rows of the backbones' own training on all of its training subset, scored on the study's own images."""
    table = main_arm(table)
    keep = table["backbone"].map(kind_of) == "backbone"
    return table[keep & (table["dataset"] == "internal")] if "dataset" in table else table[keep]


def _lead(comparisons: pd.DataFrame, row: dict[str, Any]) -> dict[str, Any]:
    """Return the paired comparison of best and second of a row of `setup_table`, a positive lead is that of best."""
    pair = {row["best"], row["second"]}
    keep = (comparisons["dataset"] == "internal") & (comparisons["metric"] == row["metric"])
    keep &= comparisons["backbone_a"].isin(pair) & comparisons["backbone_b"].isin(pair)
    if not keep.any():
        return dict.fromkeys(("lead", "lead_low", "lead_high", "lead_p", "real", "behind"), np.nan)
    found = comparisons[keep].iloc[0]
    lead, low, high = found["difference"], found["ci_low"], found["ci_high"]
    if found["backbone_a"] != row["best"]:
        lead, low, high = -lead, -high, -low
    ends = {"lead": lead, "lead_low": low, "lead_high": high, "lead_p": found["p_holm"]}
    return ends | {"real": bool(found["real"] and lead > 0), "behind": bool(found["real"] and lead < 0)}


def setup_table(scores: pd.DataFrame, comparisons: pd.DataFrame, validated: pd.DataFrame) -> pd.DataFrame:
    """Table of the backbone that the validation set selects in each set-up, and how it compares by each metric.

    The test subset ranks the backbones and selects none: a score that has won on it is optimistically biased.

    Parameters
    ----------
    scores
        From `score_table`.
    comparisons
        ``comparisons.csv``.
    validated
        See `StudyFiles.validated`.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, metric, best (the highest macro F1 on the validation subset), best_value,
        val_macro_f1 (which selected it), first and first_value (the highest on the test subset), second and
        second_value (the highest of the others there), last, last_value, gap (best less second), gap_to_last, n_seeds,
        n_seeds_best, majority_value (the baseline ``majority``), gain (best less that), baseline and baseline_value
        (the best of the baselines, the plainest of equal ones), above_baseline (whether the interval of best lies above
        that one's), ensemble_value and ensemble_gain (ensemble less best; empty for one backbone), and of the paired
        comparison of best and second (empty for weighted F1, which is not compared) lead, lead_low, lead_high, lead_p
        (corrected),
        real and behind (whether it is statistically significant, for best or against it).
    """
    rows = []
    own = scores[(scores["kind"] == "backbone") & scores["metric"].isin(SCORES)]
    for row, part in labelled_groups(own, [*SETUP, "metric"]):
        setup = Setup(*(row[name] for name in SETUP))
        part, of_metric = part.sort_values("rank"), scores[scores["metric"] == row["metric"]]
        selected = setup.of(validated).set_index("backbone")["val_macro_f1"]
        chosen = part["backbone"] == selected.idxmax()
        best = part[chosen].iloc[0]
        row |= {"best": best["backbone"], "best_value": best["value"], "val_macro_f1": selected.max()}
        for name, one in (("first", part), ("second", part[~chosen]), ("last", part[::-1])):
            row |= {name: "".join(one["backbone"][:1]), f"{name}_value": one["value"][:1].mean()}
        row |= {"gap": best["value"] - row["second_value"], "gap_to_last": best["value"] - row["last_value"]}
        row |= best[["n_seeds", "n_seeds_best"]].to_dict()
        baselines = setup.baselines_of(of_metric).set_index("backbone").loc[list(BASELINES)]
        value, highest = baselines["value"], baselines["value"].idxmax()
        row |= {"majority_value": value["majority"], "gain": best["value"] - value["majority"]}
        row |= {"baseline": highest, "baseline_value": value[highest]}
        row["above_baseline"] = bool(best["ci_low"] > baselines["ci_high"][highest])
        ensemble = setup.of(of_metric[of_metric["kind"] == "ensemble"])["value"].mean()
        row |= {"ensemble_value": ensemble, "ensemble_gain": ensemble - best["value"]}
        rows.append(row | _lead(setup.of(comparisons), row))
    return pd.DataFrame(rows)


def classification_reports(metrics: pd.DataFrame, published: pd.DataFrame) -> pd.DataFrame:
    """Lay the per-class metrics out as the presentation's classification reports, with its numbers beside.

    Averages are taken within each seed over the classes (``macro_avg``) or weighted by their number of test
    images (``weighted_avg``); all values are then means over the seeds.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, row (the classes, then accuracy, macro_avg and
        weighted_avg), precision, recall, f1_score, support (test images, mean over the seeds), published_… for each
        of the four, missed (1 − recall), and …_difference for the first three (ours minus published), empty where
        nothing was published; and …_low and …_high for the first three, the ends of their 95 % intervals.
    """
    shape, keys = ["precision", "recall", "f1_score"], [*SETUP, "backbone", "row"]
    means = metrics[metrics["seed"] == "all"]
    of_class = means[(means["class"] != "all") & means["metric"].isin(_OF_CLASS)]
    cells = [of_class.assign(row=of_class["class"], column=of_class["metric"].map(_OF_CLASS))]
    for metric, places in _OF_ALL.items():
        overall = means[(means["class"] == "all") & (means["metric"] == metric)]
        cells += [overall.assign(row=row, column=column) for row, column in places]
    cells = pd.concat(cells).pivot(index=keys, columns="column", values=["value", "ci_low", "ci_high"])
    table = cells["value"][[*shape, "support"]].reset_index()
    old = published.rename(columns={name: f"published_{name}" for name in [*shape, "support"]})
    table = table.merge(old.drop(columns="source"), on=["backbone", "row"], how="left")
    table["missed"] = 1 - table["recall"]
    for end in ("low", "high"):
        table = table.join(cells[f"ci_{end}"][sorted(shape)].add_suffix(f"_{end}"), on=keys)
    for name in shape:
        table[f"{name}_difference"] = table[name] - table[f"published_{name}"]
    order = [*CLASSES, *AVERAGES, *metrics["backbone"].unique()]
    ranks = {name: place for place, name in enumerate(order)}
    return table.sort_values(keys, key=lambda names: names.map(lambda name: ranks.get(name, name)), ignore_index=True)


_OF_CLASS = {"precision": "precision", "recall": "recall", "f1": "f1_score", "support": "support"}
"""Columns of a classification report that hold the metrics of each class."""

_OF_ALL = {
    "accuracy": [("accuracy", "f1_score"), ("weighted_avg", "recall")],
    "macro_precision": [("macro_avg", "precision")],
    "balanced_accuracy": [("macro_avg", "recall")],
    "macro_f1": [("macro_avg", "f1_score")],
    "weighted_precision": [("weighted_avg", "precision")],
    "weighted_f1": [("weighted_avg", "f1_score")],
    "support": [(row, "support") for row in AVERAGES],
}
"""Rows and columns of a classification report that hold the metrics of all classes."""


def ranking_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """List ROC AUC and average precision of each diagnosis against the rest, means over the seeds.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, dx, metric (roc_auc or average_precision), value, ci_low,
        ci_high, approximate, n_images, n_lesions.
    """
    rows = metrics[(metrics["seed"] == "all") & (metrics["class"] != "all")]
    rows = rows[rows["metric"].isin(["roc_auc", "average_precision"])]
    columns = ["value", "ci_low", "ci_high", "approximate", "n_images", "n_lesions"]
    rows = rows.assign(approximate=approximate(rows), dx=rows["class"])
    return rows[[*SETUP, "backbone", "dx", "metric", *columns]].reset_index(drop=True)


def subgroup_range_table(subgroups: pd.DataFrame) -> pd.DataFrame:
    """Table of the lowest and highest subgroup by set-up, backbone, variable and metric.

    Only subgroups that allow a conclusion count, see `skin_tl.evaluation.subgroups.conclusive`; images whose trait is
    unknown are no subgroup.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, variable (sex, age, site, dx_type), metric, class, n_subgroups,
        n_conclusive and, with two conclusive ones at least, lowest, lowest_value, lowest_low, lowest_high, highest,
        highest_value, highest_low, highest_high and, for both ends, lowest_share_nv and highest_share_nv (share of
        nevi among their test images).
    """
    rows = []
    support = subgroups[subgroups["metric"] == "support"].set_index([*SETUP, "backbone", "subgroup", "class"])["value"]
    table = subgroups[subgroups["metric"] != "support"]
    table = table.assign(variable=table["subgroup"].str.partition("=")[0], name=table["subgroup"].str.partition("=")[2])
    table = table[table["name"] != UNKNOWN]
    keys = [*SETUP, "backbone", "variable", "metric", "class"]
    for row, part in labelled_groups(table, keys):
        told = part[part["conclusive"].astype(bool)]
        row |= {"n_subgroups": len(part), "n_conclusive": len(told)}
        if len(told) > 1:
            ends = {"lowest": told.loc[told["value"].idxmin()], "highest": told.loc[told["value"].idxmax()]}
            for end, of in ends.items():
                row |= {end: of["name"], f"{end}_value": of["value"]}
                row |= {f"{end}_low": of["ci_low"], f"{end}_high": of["ci_high"]}
                where = (*(row[name] for name in [*SETUP, "backbone"]), of["subgroup"])
                row[f"{end}_share_nv"] = support[(*where, "nv")] / support[(*where, "all")]
        rows.append(row)
    columns = [f"{end}{part}" for end in ("lowest", "highest") for part in ("", "_value", "_low", "_high", "_share_nv")]
    return pd.DataFrame(rows, columns=[*keys, "n_subgroups", "n_conclusive", *columns])


def net_benefit_range_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Table of the thresholds at which a backbone's net benefit exceeds that of referring all and none.

    Parameters
    ----------
    curves
        ``decision_curves.csv``; the study's own images are used.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, decision; lowest, highest and n_thresholds, of those computed;
        lowest_better, highest_better (empty where there is none) and n_better, of those at which the interval of the
        gain lies above 0.  Thresholds are in 0…1.
    """
    rows = []
    for row, part in labelled_groups(curves[curves["dataset"] == "internal"], [*SETUP, "backbone", "decision"]):
        every = part["threshold_percent"] / 100
        better = every[part["gain_low"] > 0]
        row |= {"lowest": every.min(), "highest": every.max(), "n_thresholds": len(every), "n_better": len(better)}
        rows.append(row | {"lowest_better": better.min(), "highest_better": better.max()})
    return pd.DataFrame(rows)


def confusion_table(predictions: pd.DataFrame) -> pd.DataFrame:
    """Count test images by true and predicted diagnosis, mean over the seeds.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, dx, predicted, n_images, share (of the images with that dx,
        0…1, mean over the seeds as recall is; empty where there are none).
    """
    test = of_backbones(predictions)
    test = test[test["subset"] == "test"]
    probabilities = test[[f"p_{dx}" for dx in CLASSES]].to_numpy()
    test = test.assign(predicted=np.array(CLASSES)[probabilities.argmax(axis=1)])
    rows = []
    for names, part in labelled_groups(test, [*SETUP, "backbone"], sort=True):
        counts = pd.crosstab([part["seed"], part["dx"]], part["predicted"]).reindex(columns=CLASSES, fill_value=0)
        shares = counts.div(counts.sum(axis=1), axis=0).groupby("dx").mean().reindex(CLASSES)
        counts = counts.groupby("dx").sum().reindex(CLASSES, fill_value=0) / part["seed"].nunique()
        for dx in CLASSES:
            for predicted in CLASSES:
                cell = {"dx": dx, "predicted": predicted}
                cell |= {"n_images": counts.loc[dx, predicted], "share": shares.loc[dx, predicted]}
                rows.append(names | cell)
    return pd.DataFrame(rows)


def extreme_table(reports: pd.DataFrame, confusion: pd.DataFrame) -> pd.DataFrame:
    """Table of the easiest and hardest diagnosis by set-up and backbone, and of what melanomas are confused with.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, easiest, easiest_f1, hardest, hardest_f1, mel_taken_for (the
        wrong diagnosis that melanomas get most often) and mel_taken_for_share (of the test images of melanomas).
    """
    rows = []
    for names, part in labelled_groups(reports[reports["row"].isin(CLASSES)], [*SETUP, "backbone"], sort=True):
        f1 = part.set_index("row")["f1_score"].dropna()
        row = names | {"easiest": f1.idxmax(), "easiest_f1": f1.max(), "hardest": f1.idxmin(), "hardest_f1": f1.min()}
        cells = confusion[(confusion[list(names)] == pd.Series(names)).all(axis=1)]
        missed = cells[(cells["dx"] == "mel") & (cells["predicted"] != "mel")].set_index("predicted")["share"].dropna()
        if len(missed):
            row |= {"mel_taken_for": missed.idxmax(), "mel_taken_for_share": missed.max()}
        rows.append(row)
    return pd.DataFrame(rows)


def contrast_table(scores: pd.DataFrame) -> pd.DataFrame:
    """Compare the two split policies and the two preprocessings, all else equal.

    Returns
    -------
    pandas.DataFrame
        factor (split_policy or preprocessing), strategy, other (the level of the factor that is held), metric,
        backbone, level_a, level_b, value_a, value_b, difference (b less a), rank_a, rank_b, n_images_a, n_images_b
        (mean over the seeds).  Empty where the study has one level of each.
    """
    columns = ["factor", "strategy", "other", "metric", "backbone", "level_a", "level_b"]
    columns += ["value_a", "value_b", "difference", "rank_a", "rank_b", "n_images_a", "n_images_b"]
    scores = scores[(scores["kind"] == "backbone") & scores["metric"].isin(SCORES)]
    rows = []
    for factor, other, level_a, level_b in (
        ("split_policy", "preprocessing", "lesion", "image"),
        ("preprocessing", "split_policy", "unit", "native"),
    ):
        keys = ["strategy", other, "metric", "backbone"]
        a = scores[scores[factor] == level_a].set_index(keys)
        b = scores[scores[factor] == level_b].set_index(keys)
        for key in a.index[a.index.isin(b.index)]:
            strategy, held, metric, backbone = key
            value_a, value_b = a.loc[key, "value"], b.loc[key, "value"]
            row = [factor, strategy, held, metric, backbone, level_a, level_b, value_a, value_b, value_b - value_a]
            rows.append([*row, *(end.loc[key, name] for name in ("rank", "n_images") for end in (a, b))])
    return pd.DataFrame(rows, columns=columns)
