"""Tables: what the finished runs of a study say, as the report needs it.

Takes the files of a study's runs, what `skin_tl.scoring` made of their predictions, and the published numbers; gives
`StudyFiles` and the tables of the report (pandas DataFrames, each written as a CSV file beside it).  `skin_tl.facts`
names their cells.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from skin_tl.backbones import BACKBONES, transform_of
from skin_tl.decisions import SENSITIVITY
from skin_tl.errors import SkinTLError
from skin_tl.evaluation import approximate, main_arm, point_metrics, read_predictions
from skin_tl.files import ROOT, read_json
from skin_tl.splits import draw_fraction
from skin_tl.study import (
    BASELINES,
    CLASSES,
    RANDOM_WEIGHTS,
    SMOOTHED,
    SUBSETS,
    TUNED,
    check_study,
    command_of,
    kind_of,
    penalties_beyond,
)
from skin_tl.subgroups import MAX_WIDTH, MIN_LESIONS, UNKNOWN

TEXTS = ROOT / "report" / "text"
"""The sources of the report's words, with the tables of published numbers beside them."""

SETUP = ["strategy", "split_policy", "preprocessing"]
"""What a backbone is compared under; one choice of the three is a set-up."""

AVERAGES = ("accuracy", "macro_avg", "weighted_avg")
"""The last rows of a classification report, under the names of the published table."""

SCORES = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1")
"""Scores of the predicted diagnosis; more is better."""

PROBABILITY_SCORES = ("roc_auc", "average_precision", "log_loss", "log_loss_scaled", "ece", "ece_scaled", "temperature")
"""Scores of the probabilities."""

LESS_IS_BETTER = ("log_loss", "log_loss_scaled", "ece", "ece_scaled")

FLAT = 0.01
"""A learning curve has flattened where the best validation macro F1 rises by less in the last fifth of its epochs."""

CONFIDENCE = 0.95
"""Level of every interval of the report."""


@dataclass(frozen=True, order=True)
class Setup:
    """What backbones are compared under: transfer strategy, split policy and preprocessing."""

    strategy: str
    split_policy: str
    preprocessing: str

    @property
    def key(self):
        """Name of the set-up inside the keys of facts, for example ``feature_extraction.lesion.native``."""
        return f"{self.strategy}.{self.split_policy}.{self.preprocessing}"

    def of(self, table):
        """Return the rows of `table` that belong to this set-up."""
        return table[
            (table["strategy"] == self.strategy)
            & (table["split_policy"] == self.split_policy)
            & (table["preprocessing"] == self.preprocessing)
        ]

    def baselines_of(self, table):
        """Return the rows of `table` that belong to the baselines under the same split policy."""
        return table[(table["strategy"] == "baseline") & (table["split_policy"] == self.split_policy)]


@dataclass(frozen=True)
class StudyFiles:
    """What the finished runs of one study left on disk.

    Attributes
    ----------
    root : pathlib.Path
        Folder that holds ``runs/`` and ``report/``.
    study, weights, images : dict
        ``study.json``, ``weights.json`` and ``dataset/images.json``.
    metadata, splits : pandas.DataFrame
        ``dataset/metadata.csv`` (one row per image) and ``dataset/splits.csv``.
    runs : dict
        ``run.json`` by (strategy, backbone).
    predictions : pandas.DataFrame
        Those of all runs, checked, one below the other, with the columns strategy and backbone: backbones, ensembles
        and baselines (`skin_tl.study.kind_of` tells which).
    history : pandas.DataFrame
        Those of the backbones' runs.
    """

    root: Path
    study: dict
    weights: dict
    images: dict
    metadata: pd.DataFrame
    splits: pd.DataFrame
    runs: dict
    predictions: pd.DataFrame
    history: pd.DataFrame

    @property
    def folder(self):
        """Folder of the study's runs."""
        return self.root / "runs" / self.study["name"]

    @property
    def setups(self):
        """The set-ups of the study in its own order, list of `Setup`."""
        return [
            Setup(strategy, policy, preprocessing)
            for strategy in self.study["strategies"]
            for policy in self.study["split_policies"]
            for preprocessing in self.study["preprocessings"]
        ]

    @cached_property
    def main_setup(self):
        """The set-up that the conclusions rest on.

        A split by lesion and native scaling, where the study has them, and of the strategies that transfer (training
        from scratch is what they are compared with) the one under which the best backbone has the highest macro F1 on
        the validation subset, mean over the seeds: the test subset has no say in it.
        """
        policies, preprocessings = self.study["split_policies"], self.study["preprocessings"]
        policy = "lesion" if "lesion" in policies else policies[0]
        preprocessing = "native" if "native" in preprocessings else preprocessings[0]
        strategies = [name for name in self.study["strategies"] if name != "from_scratch"] or self.study["strategies"]
        setups = [Setup(strategy, policy, preprocessing) for strategy in strategies]
        return max(setups, key=lambda setup: setup.of(self.validated)["val_macro_f1"].max())

    @cached_property
    def validated(self):
        """Macro F1 of each backbone on the validation subset, by which one is selected.

        A table with strategy, split_policy, preprocessing, backbone and val_macro_f1, the mean over the seeds;
        backbones in the study's order.
        """
        rows = main_arm(self.predictions)
        rows = rows[(rows["subset"] == "val") & rows["backbone"].isin(self.study["backbones"])]
        keys = [*SETUP, "backbone"]
        found = {
            key: point_metrics(part, ["confusion"])["macro_f1", "all"]
            for key, part in rows.groupby([*keys, "seed"], sort=False)
        }
        means = pd.Series(found).groupby(level=list(range(len(keys))), sort=False).mean()
        return means.rename_axis(keys).reset_index(name="val_macro_f1")

    @property
    def train_fractions(self):
        """The shares of the training lesions that were learned from, sorted; the last one is 1."""
        return self.study.get("train_fractions", [1.0])

    @property
    def curves(self):
        """The set-ups whose learning curves stand beside each other: the main one, and the same under other strategies.

        Empty where a study has one strategy and one share of the training lesions: there is nothing to put beside.
        """
        if len(self.study["strategies"]) == 1 and len(self.train_fractions) == 1:
            return []
        main = self.main_setup
        return [Setup(name, main.split_policy, main.preprocessing) for name in self.study["strategies"]]

    @property
    def tuned(self):
        """The study's strategies that train whole networks."""
        return [name for name in self.study["strategies"] if name in TUNED]

    @property
    def synthetic(self):
        """Whether the images are drawn, not photographed."""
        return self.study["dataset"] == "synthetic"

    @property
    def n_duplicates(self):
        """How many external images look like images of the study; 0 without an external test set."""
        file = self.folder / "external" / "duplicates.csv"
        return len(pd.read_csv(file)) if self.study.get("external") else 0

    @property
    def random_weights(self):
        """Whether the backbones never saw a photograph."""
        return self.weights["source"] == "random"


def read_study_files(study, root=ROOT):
    """Read what the runs of a study left.

    Parameters
    ----------
    study : str or pathlib.Path
        The study's name, or the path of ``…/runs/<name>/study.json``.
    root : pathlib.Path, optional
        Folder that holds ``runs/``, where a name is given.

    Returns
    -------
    StudyFiles

    Raises
    ------
    SkinTLError
        If the study has no finished runs, or one of its files is missing.
    """
    folder = Path(root) / "runs" / study
    if Path(study).name == "study.json":
        folder = Path(study).resolve().parent
        root, study = folder.parent.parent, folder.name
    command = command_of(study)
    if not (folder / "study.json").is_file():
        raise SkinTLError(f"The study {study!r} has no runs in {folder}. Run `{command}` first.")
    settings = read_json(folder / "study.json", command)
    splits = read_table(folder / "dataset" / "splits.csv", command)
    runs, predictions, history = {}, [], []
    for strategy in settings["strategies"]:
        for backbone in settings["backbones"]:
            run, names = folder / strategy / backbone, {"strategy": strategy, "backbone": backbone}
            runs[strategy, backbone] = read_json(run / "run.json", command)
            predictions.append(run_predictions(settings, run, splits, command).assign(**names))
            history.append(read_table(run / "history.csv", command).assign(**names))
    for strategy, name in check_study(settings).pseudo_runs:
        file = folder / strategy / name / "predictions.csv"
        predictions.append(read_predictions(file, splits, command).assign(strategy=strategy, backbone=name))
    return StudyFiles(
        root=Path(root),
        study=settings,
        weights=read_json(folder / "weights.json", command),
        images=read_json(folder / "dataset" / "images.json", command),
        metadata=read_table(folder / "dataset" / "metadata.csv", command, na_filter=False, dtype=str),
        splits=splits,
        runs=runs,
        predictions=pd.concat(predictions, ignore_index=True),
        history=pd.concat(history, ignore_index=True),
    )


def run_predictions(study, run, splits, made_by):
    """Read and check the predictions of a backbone's run: on the study's own images, and on each external test set.

    Parameters
    ----------
    study : dict
        ``study.json``.
    run : pathlib.Path
        Folder of the run.
    splits : pandas.DataFrame
    made_by : str
        The command that errors name.

    Returns
    -------
    pandas.DataFrame
    """
    external = study.get("external")
    names = ["predictions.csv", *([f"predictions_{external}.csv"] if external else [])]
    return pd.concat([read_predictions(run / name, splits, made_by) for name in names], ignore_index=True)


def published_results():
    """Return the presentation's classification reports: backbone, row, precision, recall, f1_score, support, source."""
    return pd.read_csv(TEXTS / "published_results.csv")


def read_table(path, command, **options):
    """Read a CSV file that `command` writes; errors name both."""
    ids = dict.fromkeys(("image_id", "lesion_id", "nearest_image_id"), str)  # which may be numbers, 007 among them
    dtype = options.pop("dtype", {})
    try:
        return pd.read_csv(path, dtype=ids | dtype if isinstance(dtype, dict) else dtype, **options)
    except FileNotFoundError:
        raise SkinTLError(f"{path} is missing. It is written by `{command}`: run that first.") from None
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise SkinTLError(f"{path} cannot be read ({error}). Delete it and run `{command}` again.") from None


# Tables of the report, each from the files of the runs ---------------------------------------------------------


def report_tables(files, evaluated):
    """Make every table that the report shows or takes a number from.

    Parameters
    ----------
    files : StudyFiles
    evaluated : dict of pandas.DataFrame
        As `skin_tl.scoring.read_evaluation` gives them.

    Returns
    -------
    dict of pandas.DataFrame
        By the name of their CSV file; those of `evaluated` are among them.
    """
    literature = pd.read_csv(TEXTS / "literature.csv")
    published = published_results()
    main = _main_rows(files, evaluated["metrics.csv"])
    backbones = main[main["backbone"].map(kind_of) == "backbone"]
    scores = with_control(score_table(main), evaluated["metrics.csv"])
    reports = classification_reports(backbones, published)
    confusion = confusion_table(files.predictions)
    transfer = transfer_tables(files, evaluated["metrics.csv"]) if files.curves else {}
    return evaluated | {
        "literature.csv": literature,
        "published_results.csv": published,
        "classes.csv": class_table(files.metadata),
        "image_sizes.csv": image_size_table(files.images),
        "metadata_counts.csv": metadata_counts(files.metadata),
        "subsets.csv": subset_table(files.splits),
        "settings.csv": settings_table(files),
        "backbones.csv": backbone_table(files, literature),
        "scores.csv": scores,
        "setups.csv": setup_table(scores, evaluated["comparisons.csv"], files.validated),
        "classification_reports.csv": reports,
        "confusion.csv": confusion,
        "extremes.csv": extreme_table(reports, confusion),
        "ranking.csv": ranking_table(backbones),
        "subgroup_ranges.csv": subgroup_range_table(evaluated["subgroups.csv"]),
        "contrasts.csv": contrast_table(scores),
        "history.csv": files.history,
        "training.csv": training_table(files.history),
        **({"endings.csv": ending_table(files), "rates.csv": rate_table(files)} if files.tuned else {}),
        "runs.csv": run_table(files),
        "fingerprints.csv": fingerprint_table(files),
        **transfer,
    }


def _main_rows(files, metrics):
    """Keep what the study's own runs scored on its own test subsets, over all images of them."""
    columns = {"dataset": "internal", "arm": "main", "subgroup": "all"}
    known = [*files.study["backbones"], *(name for _, name in check_study(files.study).pseudo_runs)]
    keep = metrics["backbone"].isin(known) & (metrics["train_fraction"] == 1)
    for column, value in columns.items():
        keep &= metrics[column] == value
    wanted = {
        (*[getattr(setup, name) for name in SETUP], backbone)
        for setup in files.setups
        for backbone in files.study["backbones"]
    }
    wanted |= {("baseline", policy, "native", name) for policy in files.study["split_policies"] for name in BASELINES}
    missing = wanted - set(metrics.loc[keep, [*SETUP, "backbone"]].itertuples(index=False, name=None))
    if missing:
        raise SkinTLError(
            f"metrics.csv of the study {files.study['name']!r} has no rows for {', '.join(sorted(missing)[0])}. "
            f"It is older than the runs: delete it and run `{command_of(files.study['name'])}`."
        )
    return metrics[keep]


def class_table(metadata):
    """Count images and lesions per diagnosis.

    Returns
    -------
    pandas.DataFrame
        dx (the seven, then ``all``), n_images, n_lesions, share_images (0…1), n_lesions_seen_again (lesions with
        more than one image).
    """
    rows = []
    for dx in (*CLASSES, "all"):
        part = metadata if dx == "all" else metadata[metadata["dx"] == dx]
        per_lesion = part["lesion_id"].value_counts()
        rows.append(
            {
                "dx": dx,
                "n_images": len(part),
                "n_lesions": len(per_lesion),
                "share_images": len(part) / len(metadata),
                "images_per_lesion": len(part) / max(len(per_lesion), 1),
                "n_lesions_seen_again": int((per_lesion > 1).sum()),
            }
        )
    return pd.DataFrame(rows)


def image_size_table(images):
    """List the sizes that the image files have, as they were before they were squashed; the most frequent first.

    Parameters
    ----------
    images : dict
        ``dataset/images.json``.

    Returns
    -------
    pandas.DataFrame
        place (from 1), width, height (pixels), n_images, share_images (0…1).  Empty where a run of an earlier version
        did not note the sizes.
    """
    table = pd.DataFrame(images.get("file_sizes", []), columns=["width", "height", "n_images"])
    table.insert(0, "place", range(1, len(table) + 1))
    return table.assign(share_images=table["n_images"] / max(table["n_images"].sum(), 1))


def metadata_counts(metadata):
    """Count images per value of dx_type, sex and localization, most frequent first.

    The values are shown as they stand in the metadata: whoever shows them must escape them.
    """
    rows = []
    for field in ("dx_type", "sex", "localization"):
        counts = metadata[field].replace("", "unknown").value_counts()
        for value, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
            rows.append({"field": field, "value": value, "n_images": count})
    table = pd.DataFrame(rows)
    table["share_images"] = table["n_images"] / len(metadata)
    return table


def subset_table(splits):
    """Count images and lesions per subset, and how many have another image of their lesion in training.

    Returns
    -------
    pandas.DataFrame
        split_policy, seed (each, then ``all`` for the mean), subset, n_images, n_lesions, n_images_known and
        share_known: images whose lesion is also among the training images, as number and as share.
    """
    rows = []
    for (policy, seed), part in splits.groupby(["split_policy", "seed"], sort=False):
        in_training = set(part.loc[part["subset"] == "train", "lesion_id"])
        for subset in SUBSETS:
            images = part[part["subset"] == subset]
            known = images["lesion_id"].isin(in_training).sum() if subset != "train" else np.nan
            rows.append(
                {
                    "split_policy": policy,
                    "seed": str(seed),
                    "subset": subset,
                    "n_images": len(images),
                    "n_lesions": images["lesion_id"].nunique(),
                    "n_images_known": known,
                    "share_known": known / len(images) if len(images) else np.nan,
                }
            )
    table = pd.DataFrame(rows)
    means = table.groupby(["split_policy", "subset"], sort=False).mean(numeric_only=True).reset_index()
    return pd.concat([table, means.assign(seed="all")[list(table.columns)]], ignore_index=True)


def settings_table(files):
    """List the numbers of the study's settings: setting, value.

    With ``batch: auto``, smallest_batch and largest_batch are those that its networks were trained with.
    """
    study = files.study
    numbers = {key: study[key] for key in sorted(study) if type(study[key]) in (int, float)}
    numbers |= penalty_choices(files)
    numbers |= {
        "n_backbones": len(study["backbones"]),
        "n_seeds": len(study["seeds"]),
        "n_classes": len(CLASSES),
        "n_setups": len(files.setups),
        "n_penalties": len(study["l2"]),
        "lowest_penalty": min(study["l2"]),
        "highest_penalty": max(study["l2"]),
        "confidence": CONFIDENCE,
        "sensitivity": SENSITIVITY,
        "min_lesions": MIN_LESIONS,
        "max_width": MAX_WIDTH,
        "level": round(1 - CONFIDENCE, 6),
        "n_merged_lesions": len(files.images["merged_lesions"]),
        "n_near_duplicates": files.images["near_duplicates"]["n_pairs"],
        "n_near_duplicates_grouped": files.images["near_duplicates"]["n_grouped"],
    }
    for strategy in files.tuned:
        rates = study[f"{strategy}_rate"]
        numbers |= {f"n_{strategy}_rates": len(rates)}
        numbers |= {f"lowest_{strategy}_rate": min(rates), f"highest_{strategy}_rate": max(rates)}
    if study["batch"] == "auto":
        batches = [run["batch"] for run in files.runs.values() if "batch" in run]
        numbers |= {"smallest_batch": min(batches), "largest_batch": max(batches)}
    return pd.DataFrame({"setting": list(numbers), "value": pd.Series(list(numbers.values()), dtype=object)})


def penalty_choices(files):
    """Say which penalties the heads of a study took, as a dict; empty where it trained no head, or had no choice.

    n_heads (those on random weights and of experiments among them), lowest_penalty_taken, highest_penalty_taken and
    n_penalties_at_edge: how many heads took the smallest or the largest penalty that may be tried, beyond which another
    might have served better.
    """
    l2 = files.study["l2"]
    heads = files.history[(files.history["stage"] == "head") & files.history["kept"].astype(bool)]
    if heads.empty or len(l2) == 1:
        return {}
    taken, (below, above) = heads["l2"].astype(float), penalties_beyond(l2)
    # Nothing lies below a penalty of 0.
    at_edge = taken >= above[-1] * (1 - 1e-9)
    if below:
        at_edge |= taken <= below[-1] * (1 + 1e-9)
    found = {"n_heads": len(heads), "n_penalties_at_edge": int(at_edge.sum())}
    return found | {"lowest_penalty_taken": float(taken.min()), "highest_penalty_taken": float(taken.max())}


def backbone_table(files, literature):
    """List the backbones with their sizes, beside the number of parameters that the presentation gives.

    Returns
    -------
    pandas.DataFrame
        backbone, n_parameters (without classifier), n_features (that it gives per image), n_head (weights of the
        head's dense layer, all that feature extraction trains), head_share (n_head by n_parameters),
        n_parameters_with_classifier (with the ImageNet classifier), n_parameters_presentation and
        parameters_difference (empty for a backbone that it does not have),
        transform (of the pixels, under native preprocessing) and imagenet_size (pixels).
    """
    stated = literature.set_index("key")["value"]
    rows = []
    for backbone in files.study["backbones"]:
        run = files.runs[files.study["strategies"][0], backbone]
        presentation = stated.get(f"parameters.{backbone}", np.nan)
        n_features = run.get("n_features", np.nan)
        rows.append(
            {
                "backbone": backbone,
                "n_parameters": run["n_parameters"],
                "n_features": n_features,
                "n_head": (n_features + 1) * len(CLASSES),
                "head_share": (n_features + 1) * len(CLASSES) / run["n_parameters"],
                "n_parameters_with_classifier": run["n_parameters_with_classifier"],
                "n_parameters_presentation": presentation,
                "parameters_difference": run["n_parameters_with_classifier"] - presentation,
                "transform": BACKBONES[backbone].transform,
                "imagenet_size": BACKBONES[backbone].imagenet_size,
            }
        )
    table = pd.DataFrame(rows)
    whole = ["n_features", "n_head", "n_parameters_presentation", "parameters_difference"]
    return table.astype(dict.fromkeys(whole, "Int64"))


def score_table(metrics):
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


def with_control(scores, metrics):
    """Put beside each backbone's scores those of the same backbone with random weights, where a study has them.

    Parameters
    ----------
    scores : pandas.DataFrame
        From `score_table`.
    metrics : pandas.DataFrame
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


def _of_backbones(table):
    """Keep the rows of the backbones' own training on all of its training subset, scored on the study's own images."""
    table = main_arm(table)
    keep = table["backbone"].map(kind_of) == "backbone"
    return table[keep & (table["dataset"] == "internal")] if "dataset" in table else table[keep]


def _lead(comparisons, setup, first, second):
    """Return the paired comparison of two backbones, turned so that a positive lead is the first one's."""
    rows = Setup(*(setup[name] for name in SETUP)).of(comparisons[comparisons["dataset"] == "internal"])
    rows = rows[(rows["metric"] == setup["metric"]) & rows["backbone_a"].isin([first, second])]
    rows = rows[rows["backbone_b"].isin([first, second])]
    if rows.empty:
        return dict.fromkeys(("lead", "lead_low", "lead_high", "lead_p", "real", "behind"), np.nan)
    row = rows.iloc[0]
    ends = [row["ci_low"], row["ci_high"]]
    if row["backbone_a"] != first:
        ends = [-end for end in reversed(ends)]
    lead = row["difference"] if row["backbone_a"] == first else -row["difference"]
    found = {"lead": lead, "lead_low": ends[0], "lead_high": ends[1], "lead_p": row["p_holm"]}
    return found | {"real": bool(row["real"] and lead > 0), "behind": bool(row["real"] and lead < 0)}


def setup_table(scores, comparisons, validated):
    """Say for each set-up which backbone the validation subset selects, and how it compares by each metric.

    The test subset ranks the backbones and selects none: a score that has won on it is optimistically biased.

    Parameters
    ----------
    scores : pandas.DataFrame
        From `score_table`.
    comparisons : pandas.DataFrame
        ``comparisons.csv``.
    validated : pandas.DataFrame
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
    for keys, part in own.groupby([*SETUP, "metric"], sort=False):
        setup = dict(zip([*SETUP, "metric"], keys, strict=True))
        part = part.sort_values("rank")
        selected = Setup(*keys[:3]).of(validated).set_index("backbone")["val_macro_f1"]
        chosen = part["backbone"] == selected.idxmax()
        first, best, last = part.iloc[0], part[chosen].iloc[0], part.iloc[-1]
        second = part[~chosen].iloc[0] if len(part) > 1 else None
        of_metric = scores[scores["metric"] == setup["metric"]]
        of_baselines = Setup(*keys[:3]).baselines_of(of_metric).set_index("backbone").loc[list(BASELINES)]
        baselines = of_baselines["value"]
        ensemble = Setup(*keys[:3]).of(of_metric[of_metric["kind"] == "ensemble"])["value"].mean()
        rows.append(
            setup
            | {
                "best": best["backbone"],
                "best_value": best["value"],
                "val_macro_f1": selected.max(),
                "first": first["backbone"],
                "first_value": first["value"],
                "second": "" if second is None else second["backbone"],
                "second_value": np.nan if second is None else second["value"],
                "last": last["backbone"],
                "last_value": last["value"],
                "gap": np.nan if second is None else best["value"] - second["value"],
                "gap_to_last": best["value"] - last["value"],
                "n_seeds": best["n_seeds"],
                "n_seeds_best": best["n_seeds_best"],
                "majority_value": baselines["majority"],
                "gain": best["value"] - baselines["majority"],
                "baseline": baselines.idxmax(),
                "baseline_value": baselines.max(),
                "above_baseline": bool(best["ci_low"] > of_baselines["ci_high"][baselines.idxmax()]),
                "ensemble_value": ensemble,
                "ensemble_gain": ensemble - best["value"],
            }
            | _lead(comparisons, setup, best["backbone"], None if second is None else second["backbone"])
        )
    return pd.DataFrame(rows)


def classification_reports(metrics, published):
    """Lay the per-class metrics out as the presentation's classification reports, with its numbers beside.

    Averages are taken within each seed over the classes (``macro_avg``) or weighted by their number of test
    images (``weighted_avg``); all values are then means over the seeds.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, row (the classes, then accuracy, macro_avg and
        weighted_avg), precision, recall, f1_score, support (test images, mean over the seeds), published_… for each
        of the four, missed (1 − recall), and …_difference for the first three (ours less published), empty where
        nothing was published; and …_low and …_high for the first three, the ends of their 95 % intervals.
    """
    by_seed = metrics[metrics["seed"] != "all"]
    keys = [*SETUP, "backbone", "seed"]
    names = {"precision": "precision", "recall": "recall", "f1": "f1_score", "support": "support"}
    cells = by_seed[(by_seed["class"] != "all") & by_seed["metric"].isin(names)]
    cells = cells.set_index([*keys, "class", "metric"])["value"].unstack("metric")[list(names)]
    cells = cells.rename(columns=names).reset_index()
    shape = ["precision", "recall", "f1_score"]
    weighted = cells[shape].mul(cells["support"], axis=0)
    groups = [cells[key] for key in keys]
    total = cells["support"].groupby(groups, sort=False).sum()
    macro = cells[shape].groupby(groups, sort=False).mean().assign(support=total)
    mean = weighted.groupby(groups, sort=False).sum().div(total, axis=0).assign(support=total)
    accuracy = by_seed[(by_seed["metric"] == "accuracy") & (by_seed["class"] == "all")].set_index(keys)["value"]
    accuracy = pd.DataFrame({"f1_score": accuracy}).join(total.rename("support"))
    rows = [cells.rename(columns={"class": "row"})]
    for name, table in zip(AVERAGES, (accuracy, macro, mean), strict=True):
        rows.append(table.reset_index().assign(row=name))
    rows = pd.concat(rows, ignore_index=True)
    table = rows.groupby([*SETUP, "backbone", "row"], sort=False)[[*shape, "support"]].mean().reset_index()
    old = published.rename(columns={name: f"published_{name}" for name in [*shape, "support"]})
    table = table.merge(old.drop(columns="source"), on=["backbone", "row"], how="left")
    table["missed"] = 1 - table["recall"]
    table = table.merge(_report_intervals(metrics), on=[*SETUP, "backbone", "row"], how="left")
    for name in shape:
        table[f"{name}_difference"] = table[name] - table[f"published_{name}"]
    order = [*CLASSES, *AVERAGES, *metrics["backbone"].unique()]
    ranks = {name: place for place, name in enumerate(order)}
    return table.sort_values(
        [*SETUP, "backbone", "row"], key=lambda names: names.map(lambda name: ranks.get(name, name)), ignore_index=True
    )


# Which metric stands in a classification report where: (row, column) by metric.
_IN_REPORTS = {
    "accuracy": [("accuracy", "f1_score"), ("weighted_avg", "recall")],
    "macro_precision": [("macro_avg", "precision")],
    "balanced_accuracy": [("macro_avg", "recall")],
    "macro_f1": [("macro_avg", "f1_score")],
    "weighted_precision": [("weighted_avg", "precision")],
    "weighted_f1": [("weighted_avg", "f1_score")],
}


def _report_intervals(metrics):
    """Return the intervals of the cells of classification reports: `SETUP`, backbone, row, precision_low …"""
    means = metrics[metrics["seed"] == "all"]
    cells = []
    names = {"precision": "precision", "recall": "recall", "f1": "f1_score"}
    of_class = means[(means["class"] != "all") & means["metric"].isin(names)]
    cells.append(of_class.assign(row=of_class["class"], column=of_class["metric"].map(names)))
    for metric, places in _IN_REPORTS.items():
        overall = means[(means["class"] == "all") & (means["metric"] == metric)]
        cells += [overall.assign(row=row, column=column) for row, column in places]
    cells = pd.concat(cells).rename(columns={"ci_low": "low", "ci_high": "high"})
    table = cells.pivot(index=[*SETUP, "backbone", "row"], columns="column", values=["low", "high"])
    table.columns = [f"{column}_{end}" for end, column in table.columns]
    return table.reset_index()


def ranking_table(metrics):
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


def subgroup_range_table(subgroups):
    """Say for each set-up, backbone, variable and metric between which subgroups a score ranges.

    Only subgroups that allow a conclusion count, see `skin_tl.subgroups.conclusive`; images whose trait is unknown are
    no subgroup.

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
    for names, part in table.groupby(keys, sort=False):
        told = part[part["conclusive"].astype(bool)]
        row = dict(zip(keys, names, strict=True)) | {"n_subgroups": len(part), "n_conclusive": len(told)}
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


def confusion_table(predictions):
    """Count test images by true and predicted diagnosis, mean over the seeds.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, dx, predicted, n_images, share (of the images with that dx,
        0…1, mean over the seeds as recall is; empty where there are none).
    """
    test = _of_backbones(predictions)
    test = test[test["subset"] == "test"]
    probabilities = test[[f"p_{dx}" for dx in CLASSES]].to_numpy()
    test = test.assign(predicted=np.array(CLASSES)[probabilities.argmax(axis=1)])
    rows = []
    for keys, part in test.groupby([*SETUP, "backbone"], sort=True):
        counts = pd.crosstab([part["seed"], part["dx"]], part["predicted"]).reindex(columns=CLASSES, fill_value=0)
        shares = counts.div(counts.sum(axis=1), axis=0).groupby("dx").mean().reindex(CLASSES)
        counts = counts.groupby("dx").sum().reindex(CLASSES, fill_value=0) / part["seed"].nunique()
        for dx in CLASSES:
            for predicted in CLASSES:
                cell = {"dx": dx, "predicted": predicted}
                cell |= {"n_images": counts.loc[dx, predicted], "share": shares.loc[dx, predicted]}
                rows.append(dict(zip([*SETUP, "backbone"], keys, strict=True)) | cell)
    return pd.DataFrame(rows)


def extreme_table(reports, confusion):
    """Say for each set-up and backbone which diagnosis is easiest and hardest, and what melanomas are taken for.

    Returns
    -------
    pandas.DataFrame
        strategy, split_policy, preprocessing, backbone, easiest, easiest_f1, hardest, hardest_f1, mel_taken_for (the
        wrong diagnosis that melanomas get most often) and mel_taken_for_share (of the test images of melanomas).
    """
    rows = []
    for keys, part in reports[reports["row"].isin(CLASSES)].groupby([*SETUP, "backbone"], sort=True):
        f1 = part.set_index("row")["f1_score"].dropna()
        names = dict(zip([*SETUP, "backbone"], keys, strict=True))
        row = names | {"easiest": f1.idxmax(), "easiest_f1": f1.max(), "hardest": f1.idxmin(), "hardest_f1": f1.min()}
        cells = confusion[(confusion[list(names)] == pd.Series(names)).all(axis=1)]
        missed = cells[(cells["dx"] == "mel") & (cells["predicted"] != "mel")].set_index("predicted")["share"].dropna()
        if len(missed):
            row |= {"mel_taken_for": missed.idxmax(), "mel_taken_for_share": missed.max()}
        rows.append(row)
    return pd.DataFrame(rows)


def contrast_table(scores):
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


def training_table(history):
    """Say how long heads or networks trained: per set-up and backbone, the mean number of epochs over the seeds.

    Of a network that is fine-tuned, the epochs of its head, before, do not count.
    """
    history = _of_backbones(history)
    history = history[(history["stage"] == history["strategy"]) | (history["strategy"] == "feature_extraction")]
    length = history.groupby([*SETUP, "backbone", "seed"], sort=True).size()
    return length.groupby([*SETUP, "backbone"], sort=True).mean().rename("epochs").reset_index()


def ending_table(files):
    """Say how the training of whole networks ended, as far as they learned from all training lesions.

    Returns
    -------
    pandas.DataFrame
        strategy, n_networks, n_stopped (by early stopping, before the largest number of epochs); of those that were
        not, late_gain (by how much the best macro F1 of the validation subset so far, averaged over the last epochs as
        for choosing one, rose in the last fifth of the epochs; the most of any network, NaN with too few epochs to
        tell) and flat (whether that is below `FLAT`).
    """
    history, rows = _of_backbones(files.history), []
    for strategy in files.tuned:
        own = history[(history["strategy"] == strategy) & (history["stage"] == strategy)]
        networks = [part.sort_values("epoch") for _, part in own.groupby([*SETUP, "backbone", "seed"])]
        largest, gains, n_stopped = files.study[f"{strategy}_epochs"], [], 0
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


def rate_table(files):
    """Say what whole networks reached on their validation subsets with each learning rate, on all training lesions.

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
            means = part[["val_macro_f1", "epochs"]].astype(float).mean().to_dict()  # empty where a loss was no number
            rows.append({"strategy": strategy, "backbone": backbone, "rate": rate} | counts | means)
    return pd.DataFrame(rows, columns=columns)


def transfer_tables(files, metrics):
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


def learning_curve_table(files, metrics):
    """Put macro F1 beside the number of lesions that were learned from, for each of the study's `curves`.

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
    sizes = {fraction: _lesions_of_fraction(files, fraction) for fraction in files.train_fractions}
    keep = (metrics["dataset"] == "internal") & (metrics["arm"] == "main") & (metrics["subgroup"] == "all")
    keep &= (metrics["metric"] == "macro_f1") & (metrics["class"] == "all")
    keys = [*SETUP, "backbone", "train_fraction"]
    own = metrics[keep]
    of_seeds = own[own["seed"] != "all"].groupby(keys)["n_images"].agg(["size", "mean"])
    means = own[own["seed"] == "all"].set_index(keys)
    rows = []
    for setup in files.curves:
        for backbone in files.study["backbones"]:
            for fraction in files.train_fractions:
                key = (*(getattr(setup, name) for name in SETUP), backbone, fraction)
                if key not in means.index:
                    raise SkinTLError(
                        f"metrics.csv of the study {files.study['name']!r} has no rows for {setup.strategy}, "
                        f"{backbone}, train fraction {fraction:g}. It is older than the runs: delete it and run "
                        f"`{command_of(files.study['name'])}`."
                    )
                found = means.loc[key, ["metric", "value", "ci_low", "ci_high"]].to_dict()
                row = dict(zip(keys, key, strict=True)) | {"n_lesions": sizes[fraction]} | found
                rows.append(row | {"n_seeds": int(of_seeds["size"][key]), "n_images": of_seeds["mean"][key]})
    return pd.DataFrame(rows)


def _lesions_of_fraction(files, fraction):
    """Count the lesions that the main set-up's training subsets hold of a fraction, mean over the seeds."""
    splits = files.splits.astype({"image_id": str})
    train = splits[(splits["split_policy"] == files.main_setup.split_policy) & (splits["subset"] == "train")]
    train = train.drop(columns="lesion_id").merge(files.metadata[["image_id", "lesion_id", "dx"]], on="image_id")
    return float(np.mean([len(draw_fraction(part, fraction, int(seed))) for seed, part in train.groupby("seed")]))


def lesions_needed_table(curves):
    """Say how many training lesions each transfer strategy needs to reach what training from scratch does with all.

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
    for names, part in others.groupby([*SETUP, "backbone"], sort=False):
        target, n_all = scratch.loc[names[-1], ["value", "n_lesions"]]
        row = dict(zip([*SETUP, "backbone"], names, strict=True)) | {"target": target, "n_lesions_all": n_all}
        enough = part[part["value"] >= target].sort_values("train_fraction")
        if len(enough):
            first = enough.iloc[0]
            row |= {name: first[name] for name in ("n_lesions", "train_fraction", "value")}
            row["saved"] = 1 - first["n_lesions"] / n_all
        rows.append(row)
    return pd.DataFrame(rows, columns=columns)


def cost_table(files, curves):
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


def _alike(files, row):
    """Return the scalings of a study under which a backbone's computations are those of this row, which share them."""
    transform = transform_of(row["backbone"], row["preprocessing"])
    return [name for name in files.study["preprocessings"] if transform_of(row["backbone"], name) == transform]


def _seconds_of_one(files, row):
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


def _images_per_second(files, row):
    """Return how fast a network predicts: as it was noted, or by the pass that computed the features of all images."""
    run = files.runs[row["strategy"], row["backbone"]]
    if row["strategy"] != "feature_extraction":
        return run.get("images_per_second", np.nan)
    seconds = run["timings"].get(f"features_{row['preprocessing']}_s", 0.0)
    return len(files.metadata) / seconds if seconds else np.nan


def run_table(files):
    """List the runs with their cost: the one table with times and dates in it.

    Returns
    -------
    pandas.DataFrame
        strategy, backbone, device, weights, git_commit, seconds of each step (``…_s``; of the features, when they were
        computed, maybe for another study; empty for features that another scaling shares, which are computed once),
        total_s, core_hours (of all cores of the machine), started, finished.
    """
    rows = []
    for (strategy, backbone), run in files.runs.items():
        row = {"strategy": strategy, "backbone": backbone, "device": run["device"]}
        row |= {"weights": run["weights"]["source"], "git_commit": run["git_commit"]}
        timings = dict(sorted(run["timings"].items()))
        if transform_of(backbone, "native") == transform_of(backbone, "unit") and "features_native_s" in timings:
            timings.pop("features_unit_s", None)  # one computation under two names
        row |= timings
        total = sum(timings.values())
        row |= {"total_s": total, "core_hours": total * run["n_cores"] / 3600}
        rows.append(row | {"started": run["started"], "finished": run["finished"]})
    return pd.DataFrame(rows)


def fingerprint_table(files):
    """List what identifies the input of the runs: kind, name, value (all text)."""
    rows = {}
    for (strategy, backbone), run in files.runs.items():
        rows["data", files.images["dataset"]] = run["data_fingerprint"]
        for policy, seeds in run["split_fingerprints"].items():
            for seed, value in seeds.items():
                rows["split", f"{policy}, {seed}"] = value
        source, name = run["weights"], backbone if len(files.study["strategies"]) == 1 else f"{strategy}, {backbone}"
        rows["weights", name] = f"{source['source']} {source.get('fingerprint', '')}".strip()
        rows["device", f"{strategy}, {backbone}"] = run["device"]
        for package, version in run["versions"].items():
            rows["version", package] = version
        rows["commit", f"{strategy}, {backbone}"] = run["git_commit"]
    order = ("data", "split", "weights", "device", "commit", "version")
    rows = sorted(rows.items(), key=lambda item: (order.index(item[0][0]), item[0][1].lower()))
    return pd.DataFrame([{"kind": kind, "name": name, "value": str(value)} for (kind, name), value in rows])
