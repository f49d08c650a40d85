"""Scoring: the tables of a whole study that are computed from its predictions, once.

Takes `skin_tl.evaluation.study_files.StudyFiles`; gives tables by the name of their CSV file (`EVALUATED`), all from
the runs' predictions alone.  The step `evaluate` writes them beside the report; both languages and the slides read
them.
"""

from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from skin_tl.evaluation.abstention import abstention_tables
from skin_tl.evaluation.calibration import reliability
from skin_tl.evaluation.comparison import compare_backbones, contrast, independent_interval, with_holm
from skin_tl.evaluation.conformal import conformal_table
from skin_tl.evaluation.decisions import decisions_table, roc_points
from skin_tl.evaluation.metric_list import COMPARED
from skin_tl.evaluation.metrics import N_BOOT, metrics_table
from skin_tl.evaluation.net_benefit import decision_curves
from skin_tl.evaluation.predictions import labelled_groups, main_arm, read_table, where
from skin_tl.evaluation.prevalence import prevalence_table
from skin_tl.evaluation.risk import risk_bins, risk_table
from skin_tl.evaluation.robustness import robustness_table
from skin_tl.evaluation.shift import shift_tables
from skin_tl.evaluation.study_files import StudyFiles, published_results
from skin_tl.evaluation.subgroups import subgroup_table
from skin_tl.files import write_csv
from skin_tl.registry import transform_of
from skin_tl.schema import (
    ARMS,
    CELL,
    CONTRAST_COLUMNS,
    EVALUATED,
    EXTERNAL_COLUMNS,
    METADATA,
    METRIC_COLUMNS,
    RANDOM_WEIGHTS,
    ROBUSTNESS,
    ROBUSTNESS_COLUMNS,
    SIGNIFICANCE,
    kind_of,
)
from skin_tl.study import command_of


def gaps_of(values: np.ndarray) -> np.ndarray:
    """Return the absolute difference of each pair of values, (n,) to (n (n − 1) / 2,)."""
    return np.abs(values[:, None] - values)[np.triu_indices(len(values), 1)]


def split_spread(metrics: pd.DataFrame, metric: str = "macro_f1") -> dict[str, float]:
    """Summarise the spread of a metric over random test splits.

    Parameters
    ----------
    metrics
        Rows of ``metrics.csv`` of one backbone and configuration, with several seeds.
    metric

    Returns
    -------
    dict
        n_splits, mean, sd, lowest, highest, and `typical_gap`: the mean absolute difference between two of the splits.
        With one split there is no spread: sd and `typical_gap` are NaN.
    """
    rows = metrics[(metrics["metric"] == metric) & (metrics["class"] == "all") & (metrics["subgroup"] == "all")]
    values = rows.loc[rows["seed"].astype(str) != "all", "value"].to_numpy(float)
    gaps = gaps_of(values)
    return {
        "n_splits": len(values),
        "mean": float(values.mean()),
        "sd": float(values.std(ddof=1)) if len(values) > 1 else np.nan,
        "lowest": float(values.min()),
        "highest": float(values.max()),
        "typical_gap": float(gaps.mean()) if len(gaps) else np.nan,
    }


_MOST_TRANSFER = ("fine_tuning", "feature_extraction", "from_scratch")
"""Strategies by how much they make of the photographs that a backbone was trained on, and of the lesions after them."""


def evaluate_study(files: StudyFiles, n_boot: int = N_BOOT) -> dict[str, pd.DataFrame]:
    """Compute every table of `EVALUATED`, by the name of its CSV file, with `n_boot` draws of each bootstrap."""

    def subgroups_of(table, strategy, backbone):
        table = table[table["dataset"] == "internal"]
        return subgroup_table(table, files.metadata, strategy, backbone, n_boot)

    subgroups = _of_runs(files, subgroups_of, ("backbone",))
    of_runs = _of_runs(files, partial(metrics_table, n_boot=n_boot), ("backbone", "ensemble", "baseline"), arms=True)
    metrics = pd.concat([of_runs, subgroups[METRIC_COLUMNS]], ignore_index=True)
    decisions = _of_runs(files, partial(decisions_table, n_boot=n_boot))
    return {
        "metrics.csv": metrics,
        "comparisons.csv": _comparisons(files, n_boot),
        "effects.csv": _effects(files, n_boot),
        "decisions.csv": decisions,
        "decision_curves.csv": _of_runs(files, partial(decision_curves, n_boot=n_boot)),
        "prevalence.csv": prevalence_table(decisions),
        "risk.csv": _of_runs(files, partial(risk_table, n_boot=n_boot)),
        "risk_bins.csv": _of_runs(files, partial(risk_bins, n_boot=n_boot)),
        "roc.csv": _of_runs(files, roc_points),
        "calibration.csv": _of_runs(files, reliability),
        "subgroups.csv": subgroups,
        "other_splits.csv": _other_splits(metrics),
        "external.csv": _external(metrics),
        "conformal.csv": _of_runs(files, partial(conformal_table, n_boot=n_boot)),
        **_abstention(files, n_boot),
        **_shift(files, n_boot),
        ROBUSTNESS: _robustness(files, n_boot),
    }


def write_evaluation(files: StudyFiles, folder: Path, n_boot: int = N_BOOT) -> None:
    """Write the tables of `evaluate_study` as CSV files into `folder`, and metrics.csv last."""
    tables = evaluate_study(files, n_boot)
    for name in reversed(EVALUATED):
        write_csv(folder / name, tables[name])


def read_evaluation(files: StudyFiles, folder: Path) -> dict[str, pd.DataFrame]:
    """Read the tables that the step `evaluate` wrote for a study, or compute them where it never did.

    Parameters
    ----------
    files
    folder
        Where computed tables are kept.

    Returns
    -------
    dict
        By the name of their CSV file; `seed` is text.
    """
    made = files.root / "report" / files.study.name
    if not (made / "metrics.csv").is_file():
        made = folder
        write_evaluation(files, made)
    command = command_of(files.study.name)
    return {name: read_table(made / name, command, dtype={"seed": str}) for name in EVALUATED}


def _runs(files: StudyFiles, kinds: tuple[str, ...]) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Yield strategy, backbone and predictions of the runs of some kinds, in the study's order."""
    for (strategy, backbone), table in files.predictions.groupby(["strategy", "backbone"], sort=False):
        if kind_of(backbone) in kinds:
            yield strategy, backbone, table.drop(columns=["strategy", "backbone"]).reset_index(drop=True)


def _of_runs(files, compute, kinds=("backbone", "ensemble"), arms=False):
    """Compute a table for each run of some kinds, from the study's own training or from all arms."""
    parts = [
        compute(table if arms else main_arm(table), strategy, backbone)
        for strategy, backbone, table in _runs(files, kinds)
    ]
    return pd.concat(parts, ignore_index=True)


def _by_strategy(files: StudyFiles, kinds: tuple[str, ...]) -> dict[str, dict[str, pd.DataFrame]]:
    """Return the predictions of the study's own training by strategy and backbone."""
    found: dict[str, dict[str, pd.DataFrame]] = {}
    for strategy, backbone, table in _runs(files, kinds):
        found.setdefault(strategy, {})[backbone] = main_arm(table)
    return found


def _comparisons(files, n_boot):
    """Compare all pairs of backbones within each strategy; `real` says whether p_holm is below `SIGNIFICANCE`."""
    by_strategy = _by_strategy(files, ("backbone",))
    parts = [compare_backbones(tables, strategy, n_boot) for strategy, tables in by_strategy.items()]
    table = pd.concat(parts, ignore_index=True)
    return table.assign(real=table["p_holm"] < SIGNIFICANCE)


def _abstention(files, n_boot):
    """Compute what abstaining is worth, for the backbones of each strategy and their ensemble."""
    nothing, known = files.distances.iloc[:0], files.distances
    found = [
        abstention_tables(tables, known if strategy == "feature_extraction" else nothing, strategy, n_boot)
        for strategy, tables in _by_strategy(files, ("backbone", "ensemble")).items()
    ]
    parts = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    return dict(zip(("abstention.csv", "risk_coverage.csv"), parts, strict=True))


def _shift(files, n_boot):
    """Divide the differences between external and own images into their parts, for each backbone and ensemble."""
    found = [
        shift_tables(table, strategy, backbone, n_boot)
        for strategy, tables in _by_strategy(files, ("backbone", "ensemble")).items()
        for backbone, table in tables.items()
    ]
    parts = (pd.concat(tables, ignore_index=True) for tables in zip(*found, strict=True))
    return dict(zip(("shift.csv", "priors.csv"), parts, strict=True))


def _robustness(files, n_boot):
    """Compute what changes of the images do to each backbone, beside the baseline that gets no image."""
    told = main_arm(files.predictions[files.predictions["backbone"] == METADATA])
    found = [pd.DataFrame(columns=ROBUSTNESS_COLUMNS)]
    for (strategy, backbone), table in files.robustness.items():
        same = {"split_policy": files.study.split_policies[0], "seed": files.study.seeds[0], "subset": "test"}
        found.append(robustness_table(table, strategy, backbone, {METADATA: where(told, **same)}, n_boot))
    return pd.concat(found[1:] or found, ignore_index=True)


def _effects(files, n_boot):
    """Contrast the two arms of the leakage experiment, the two scalings, pretrained and random weights of a frozen
    backbone, and pairs of strategies, for each backbone.

    `tested` says which test lesions: all, or those that have siblings, whom leakage can help at all.  p-values are
    corrected after Holm over the backbones, and over the pairs of strategies with them.
    """
    parts = []
    for strategy, backbone, table in _runs(files, ("backbone",)):
        for column, a, b, tested, rows in _contrasted(files, table[table["dataset"] == "internal"]):
            found = contrast(rows, column, a, b, strategy, backbone, n_boot)
            if column == "preprocessing" and transform_of(backbone, a) == transform_of(backbone, b):
                found["p"] = np.nan  # one scaling by two names: no hypothesis, and none to correct for
            parts.append(found.assign(tested=tested))
    tables = []
    if parts:
        table = pd.concat(parts, ignore_index=True)
        tables.append(with_holm(table, [*CELL, "strategy", "column", "tested", "metric"]))
    strategies = _strategy_contrasts(files, n_boot)
    if len(strategies):
        tables.append(with_holm(strategies, [*CELL, "metric"]))
    if not tables:
        return pd.DataFrame(columns=[*CONTRAST_COLUMNS, "tested", "p_holm", "real"])
    table = pd.concat(tables, ignore_index=True)
    return table.assign(real=table["p_holm"] < SIGNIFICANCE)


def _contrasted(files, table):
    """Yield what is contrasted within a run: column, its two values, which test lesions, and the predictions."""
    arms, own = table[table["arm"].isin(ARMS)], main_arm(table)
    if len(arms):
        n_images = files.metadata.groupby("lesion_id").size()
        seen_again = arms["lesion_id"].isin(n_images.index[n_images > 1])
        yield "arm", *ARMS, "all", arms
        yield "arm", *ARMS, "with_siblings", arms[seen_again]
    if {"native", "unit"} <= set(own["preprocessing"]):
        yield "preprocessing", "native", "unit", "all", own
    control = table[table["arm"] == RANDOM_WEIGHTS].assign(arm="main", weights="random")
    if len(control):
        both = pd.concat([own.assign(weights="imagenet"), control], ignore_index=True)
        yield "weights", "imagenet", "random", "all", both


def _strategy_contrasts(files, n_boot):
    """Contrast each pair of a study's strategies for each backbone: what makes more of photographs less the other.

    So a difference above 0 always speaks for transfer, or for learning on, whatever order a study lists them in.
    """
    by_backbone: dict[str, dict[str, pd.DataFrame]] = {}
    for strategy, backbone, table in _runs(files, ("backbone",)):
        own = main_arm(table)
        by_backbone.setdefault(backbone, {})[strategy] = own[own["dataset"] == "internal"].assign(strategy=strategy)
    parts = [pd.DataFrame(columns=[*CONTRAST_COLUMNS, "tested"])]
    for backbone, tables in by_backbone.items():
        for a, b in combinations(sorted(tables, key=_MOST_TRANSFER.index), 2):
            both = pd.concat([tables[a], tables[b]], ignore_index=True)
            found = contrast(both, "strategy", a, b, f"{a}/{b}", backbone, n_boot)
            parts.append(found.assign(tested="all"))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def _other_splits(metrics):
    """Summarise the spread of each backbone's scores over further random splits of the same sizes.

    Beside the spread stands what the published numbers rest on: the lead of the presentation's first backbone over its
    second (`published_gap`, macro F1), whose test splits differ, and the share of pairs of our splits that differ by as
    much for one and the same backbone (`share_as_far`).
    """
    published = published_results()
    published = published[published["row"] == "macro_avg"].sort_values("f1_score", ascending=False)
    first, second = published.iloc[0], published.iloc[1]
    gap = round(first["f1_score"] - second["f1_score"], 6)
    rows = []
    others = metrics[(metrics["arm"] == "other_split") & metrics["backbone"].map(kind_of).eq("backbone")]
    keys = ["strategy", "backbone", "split_policy", "preprocessing"]
    for names, part in labelled_groups(others, keys):
        for metric in COMPARED:
            spread = split_spread(part, metric)
            values = part[(part["metric"] == metric) & (part["class"] == "all") & (part["seed"] != "all")]
            row = names | {"metric": metric, **spread}
            row["n_images"] = values["n_images"].mean()
            if metric == "macro_f1":
                apart = gaps_of(values["value"].to_numpy())
                row |= {"published_first": first["backbone"], "published_second": second["backbone"]}
                row |= {"published_gap": gap, "share_as_far": (apart >= gap).mean() if len(apart) else np.nan}
            rows.append(row)
    columns = [*keys, "metric", "n_splits", "n_images", "mean", "sd", "lowest", "highest", "typical_gap"]
    columns += ["published_first", "published_second", "published_gap", "share_as_far"]
    return pd.DataFrame(rows, columns=columns)


def _external(metrics):
    """Compare each score on external test sets with that on the study's own, which are independent."""
    overall = main_arm(metrics)
    overall = overall[overall["metric"].isin(COMPARED) & (overall["class"] == "all")]
    overall = overall[(overall["subgroup"] == "all") & (overall["seed"] == "all")]
    keys = [*CELL[1:], "strategy", "backbone", "metric"]
    internal = overall[overall["dataset"] == "internal"].set_index(keys)
    rows = []
    for row in overall[overall["dataset"] != "internal"].to_dict("records"):
        own = internal.loc[tuple(row[name] for name in keys)]
        low, high = independent_interval(row, own)
        found = {name: row[name] for name in [*keys, "dataset"]}
        found |= {"internal": own["value"], "external": row["value"], "difference": row["value"] - own["value"]}
        found |= {"ci_low": low, "ci_high": high}
        rows.append(found | {"n_images_internal": own["n_images"], "n_images_external": row["n_images"]})
    return pd.DataFrame(rows, columns=EXTERNAL_COLUMNS)
