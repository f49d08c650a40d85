"""Training tables: epochs, learning curves, costs and records of the runs, as the report shows them.

Takes the histories and records of a study's runs; gives DataFrames, each written as a CSV file of the report.
"""

from __future__ import annotations

from dataclasses import astuple
from typing import Any

import numpy as np
import pandas as pd

from skin_tl.data.splits import draw_fraction
from skin_tl.evaluation.predictions import labelled_groups
from skin_tl.evaluation.study_files import StudyFiles
from skin_tl.registry import transform_of
from skin_tl.reporting.score_tables import RUN, of_backbones
from skin_tl.schema import CLASSES, RANDOM_WEIGHTS, SETUP
from skin_tl.study import SMOOTHED

FLAT = 0.01
"""A learning curve has flattened where the best validation macro F1 rises by less in the last fifth of its epochs."""


def training_table(history: pd.DataFrame) -> pd.DataFrame:
    """Table of training lengths: the mean number of epochs over the seeds, by set-up and backbone.

    Of a network that is fine-tuned, the epochs of its head, before, do not count.
    """
    history = of_backbones(history)
    history = history[(history["stage"] == history["strategy"]) | (history["strategy"] == "feature_extraction")]
    length = history.groupby([*SETUP, "backbone", "seed"], sort=True).size()
    return length.groupby([*SETUP, "backbone"], sort=True).mean().rename("epochs").reset_index()


def ending_table(files: StudyFiles) -> pd.DataFrame:
    """Table of how the training of whole networks ended, on all training lesions.

    Returns
    -------
    pandas.DataFrame
        strategy, n_networks, n_stopped (by early stopping, before the largest number of epochs); of those that were
        not, late_gain (by how much the best macro F1 of the validation subset so far, averaged over the last epochs as
        for choosing one, rose in the last fifth of the epochs; the most of any network, NaN with too few epochs to
        tell) and flat (whether that is below `FLAT`).
    """
    history, rows = of_backbones(files.history), []
    for strategy in files.tuned:
        own = history[(history["strategy"] == strategy) & (history["stage"] == strategy)]
        networks = [part.sort_values("epoch") for _, part in own.groupby([*SETUP, "backbone", "seed"])]
        largest, gains, n_stopped = getattr(files.study, f"{strategy}_epochs"), [], 0
        for network in networks:
            best = network["val_macro_f1"].rolling(SMOOTHED, min_periods=1).mean().cummax().to_numpy()
            if len(network) < largest:
                n_stopped += 1
            elif largest >= 5:
                gains.append(best[-1] - best[-1 - largest // 5])
        rows.append(
            {
                "strategy": strategy,
                "n_networks": len(networks),
                "n_stopped": n_stopped,
                "late_gain": max(gains, default=np.nan),
                "flat": max(gains, default=np.inf) < FLAT,
            }
        )
    return pd.DataFrame(rows)


def rate_table(files: StudyFiles) -> pd.DataFrame:
    """Table of validation scores of whole networks by learning rate, on all training lesions.

    Returns
    -------
    pandas.DataFrame
        strategy, backbone, rate, n_networks (that were trained with it), n_kept (for how many it was the best),
        val_macro_f1 and epochs (means over the networks whose loss stayed a number).
    """
    columns = ["strategy", "backbone", "rate", "n_networks", "n_kept", "val_macro_f1", "epochs"]
    rows = []
    for (strategy, backbone), run in files.runs.items():
        tried = pd.DataFrame(run.get("rates", []))  # runs of an earlier version did not note them
        if strategy not in files.tuned or tried.empty:
            continue
        for rate, part in tried[tried["train_fraction"] == 1].groupby("rate"):
            counts = {"n_networks": len(part), "n_kept": int(part["kept"].sum())}
            means = part[["val_macro_f1", "epochs"]].astype(float).mean().to_dict()  # empty where a loss was NaN
            rows.append({"strategy": strategy, "backbone": backbone, "rate": rate} | counts | means)
    return pd.DataFrame(rows, columns=columns)


def transfer_tables(files: StudyFiles, metrics: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Make the tables of what transfer buys.

    Returns
    -------
    dict of pandas.DataFrame
        ``learning_curves.csv``, ``lesions_needed.csv`` and ``costs.csv``.
    """
    curves = learning_curve_table(files, metrics)
    return {
        "learning_curves.csv": curves,
        "lesions_needed.csv": lesions_needed_table(curves),
        "costs.csv": cost_table(files, curves),
    }


def learning_curve_table(files: StudyFiles, metrics: pd.DataFrame) -> pd.DataFrame:
    """Table of macro F1 by number of training lesions, for each of the study's `curves`.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, train_fraction, n_lesions (that were trained on, mean over the
        seeds), metric, value (mean over the seeds), ci_low, ci_high, n_seeds, n_images (tested, mean over the seeds).

    Raises
    ------
    SkinTLError
        If metrics.csv lacks a fraction of the study.
    """
    own = metrics[(metrics["dataset"] == "internal") & (metrics["arm"] == "main") & (metrics["subgroup"] == "all")]
    own = own[(own["metric"] == "macro_f1") & (own["class"] == "all")]
    fractions, backbones = files.study.train_fractions, files.study.backbones
    wanted = [(*astuple(setup), name, part) for setup in files.curves for name in backbones for part in fractions]
    of_seeds = own[own["seed"] != "all"].groupby(RUN)["n_images"].agg(n_seeds="size", n_images="mean")
    means = own[own["seed"] == "all"].set_index(RUN)[["metric", "value", "ci_low", "ci_high"]]
    table = means.reindex(pd.MultiIndex.from_tuples(wanted, names=RUN)).join(of_seeds).reset_index()
    sizes = {fraction: _lesions_of_fraction(files, fraction) for fraction in fractions}
    table.insert(len(RUN), "n_lesions", table["train_fraction"].map(sizes))
    return table


def _lesions_of_fraction(files: StudyFiles, fraction: float) -> float:
    """Count the lesions that the main set-up's training subsets hold of a fraction, mean over the seeds."""
    splits = files.splits.astype({"image_id": str})
    train = splits[(splits["split_policy"] == files.main_setup.split_policy) & (splits["subset"] == "train")]
    train = train.drop(columns="lesion_id").merge(files.metadata[["image_id", "lesion_id", "dx"]], on="image_id")
    return float(np.mean([len(draw_fraction(part, fraction, int(seed))) for seed, part in train.groupby("seed")]))


def lesions_needed_table(curves: pd.DataFrame) -> pd.DataFrame:
    """Table of the training lesions that each transfer strategy needs to reach training from scratch on all.

    Returns
    -------
    pandas.DataFrame
        `SETUP`, backbone, target (macro F1 from scratch with all training lesions), n_lesions_all, and of the smallest
        fraction whose mean reaches it n_lesions, train_fraction, value and saved (share of the lesions that is not
        needed); empty where none does.  No rows where nothing was trained from scratch.
    """
    columns = [*SETUP, "backbone", "target", "n_lesions_all", "n_lesions", "train_fraction", "value", "saved"]
    scratch = curves[(curves["strategy"] == "from_scratch") & (curves["train_fraction"] == 1)].set_index("backbone")
    rows = []
    others = curves[(curves["strategy"] != "from_scratch") & curves["backbone"].isin(scratch.index)]
    for row, part in labelled_groups(others, [*SETUP, "backbone"]):
        target, n_all = scratch.loc[row["backbone"], ["value", "n_lesions"]]
        row |= {"target": target, "n_lesions_all": n_all}
        enough = part[part["value"] >= target].sort_values("train_fraction")
        if len(enough):
            first = enough.iloc[0]
            row |= {name: first[name] for name in ("n_lesions", "train_fraction", "value")}
            row["saved"] = 1 - first["n_lesions"] / n_all
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def cost_table(files: StudyFiles, curves: pd.DataFrame) -> pd.DataFrame:
    """Put what each strategy costs beside what it reaches with all training lesions.

    Its times are of one head or network: the pass that computes the features, which all heads share, and the mean over
    the seeds of the training.

    Returns
    -------
    pandas.DataFrame
        `SETUP`, backbone, value, ci_low, ci_high (macro F1), train_s (seconds), core_hours (of all cores of the
        machine), n_parameters_whole (with the head), model_mb (size of model.keras, 10⁶ bytes) and images_per_second
        (that the network predicts); empty where a run did not note it.
    """
    rows = []
    for row in curves[curves["train_fraction"] == 1].to_dict("records"):
        strategy, backbone = row["strategy"], row["backbone"]
        run, seconds = files.runs[strategy, backbone], _seconds_of_one(files, row)
        model = files.folder / strategy / backbone / "model.keras"
        rows.append(
            {name: row[name] for name in [*SETUP, "backbone", "value", "ci_low", "ci_high"]}
            | {
                "train_s": seconds,
                "core_hours": seconds * run["n_cores"] / 3600,
                "n_parameters_whole": run["n_parameters"] + (run["n_features"] + 1) * len(CLASSES),
                "model_mb": model.stat().st_size / 1e6 if model.is_file() else np.nan,
                "images_per_second": _images_per_second(files, row),
            }
        )
    return pd.DataFrame(rows)


def _alike(files: StudyFiles, row: dict[str, Any]) -> list[str]:
    """Return the scalings of a study under which a backbone's computations are those of this row, which share them."""
    transform = transform_of(row["backbone"], row["preprocessing"])
    return [name for name in files.study.preprocessings if transform_of(row["backbone"], name) == transform]


def _seconds_of_one(files: StudyFiles, row: dict[str, Any]) -> float:
    """Return what one head or network with all training lesions took, NaN where the run did not note it."""
    timings = files.runs[row["strategy"], row["backbone"]]["timings"]
    kind = "heads" if row["strategy"] == "feature_extraction" else "networks"
    history = files.history[(files.history[["strategy", "backbone"]] == [row["strategy"], row["backbone"]]).all(axis=1)]
    trained = history[(history["train_fraction"] == 1) & (history["preprocessing"] == row["preprocessing"])]
    trained = trained[trained["arm"] != RANDOM_WEIGHTS]  # whose time is noted apart
    n_trained = len(trained[["arm", "split_policy", "seed"]].drop_duplicates())
    noted = [timings[f"{kind}_{name}_s"] for name in _alike(files, row) if f"{kind}_{name}_s" in timings]
    passed = timings.get(f"features_{row['preprocessing']}_s", 0.0)
    return passed + sum(noted) / n_trained if noted else np.nan


def _images_per_second(files: StudyFiles, row: dict[str, Any]) -> float:
    """Return how fast a network predicts: as it was noted, or by the pass that computed the features of all images."""
    run = files.runs[row["strategy"], row["backbone"]]
    if row["strategy"] != "feature_extraction":
        return run.get("images_per_second", np.nan)
    seconds = run["timings"].get(f"features_{row['preprocessing']}_s", 0.0)
    return len(files.metadata) / seconds if seconds else np.nan


def run_table(files: StudyFiles) -> pd.DataFrame:
    """List the runs with their cost: the one table with times and dates in it.

    Returns
    -------
    pandas.DataFrame
        strategy, backbone, device, precision (number format of the network), weights, git_commit, seconds of each step
        (``…_s``; of the features, when they were computed, maybe for another study; empty for features that another
        scaling shares, which are computed once), total_s, core_hours (of all cores of the machine), started, finished.
    """
    rows = []
    for (strategy, backbone), run in files.runs.items():
        row = {"strategy": strategy, "backbone": backbone, "device": run["device"]}
        row |= {"precision": run.get("precision", "float32"), "weights": run["weights"]["source"]}
        row |= {"git_commit": run["git_commit"]}
        timings = dict(sorted(run["timings"].items()))
        if transform_of(backbone, "native") == transform_of(backbone, "unit") and "features_native_s" in timings:
            timings.pop("features_unit_s", None)  # one computation under two names
        row |= timings
        total = sum(timings.values())
        row |= {"total_s": total, "core_hours": total * run["n_cores"] / 3600}
        rows.append(row | {"started": run["started"], "finished": run["finished"]})
    return pd.DataFrame(rows)


def fingerprint_table(files: StudyFiles) -> pd.DataFrame:
    """List what identifies the input of the runs: kind, name, value (all text)."""
    found: dict[tuple[str, str], str] = {}
    for (strategy, backbone), run in files.runs.items():
        found["data", files.images["dataset"]] = run["data_fingerprint"]
        for policy, seeds in run["split_fingerprints"].items():
            for seed, value in seeds.items():
                found["split", f"{policy}, {seed}"] = value
        source, name = run["weights"], backbone if len(files.study.strategies) == 1 else f"{strategy}, {backbone}"
        found["weights", name] = f"{source['source']} {source.get('fingerprint', '')}".strip()
        found["device", f"{strategy}, {backbone}"] = run["device"]
        for package, version in run["versions"].items():
            found["version", package] = version
        found["commit", f"{strategy}, {backbone}"] = run["git_commit"]
    order = ("data", "split", "weights", "device", "commit", "version")
    rows = sorted(found.items(), key=lambda item: (order.index(item[0][0]), item[0][1].lower()))
    return pd.DataFrame([{"kind": kind, "name": name, "value": str(value)} for (kind, name), value in rows])
