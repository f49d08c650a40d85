"""Tables: what the finished runs of a study say, as the report needs it.

Takes the files of a study's runs, what `skin_tl.evaluation.scoring` made of their predictions, and the published
numbers; gives the tables of the report (pandas DataFrames, each written as a CSV file beside it), those of the data set
and the settings here.  `skin_tl.reporting.facts` names their cells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from skin_tl.data.metadata import class_table, merge_lesions
from skin_tl.evaluation.abstention import ANSWERED
from skin_tl.evaluation.predictions import read_table
from skin_tl.evaluation.prevalence import PER, PREVALENCES
from skin_tl.evaluation.study_files import TEXTS, StudyFiles, published_results
from skin_tl.evaluation.subgroups import MAX_WIDTH, MIN_LESIONS
from skin_tl.explain.robustness import LESIONS_PER_DIAGNOSIS
from skin_tl.registry import BACKBONES
from skin_tl.reporting.score_tables import (
    classification_reports,
    confusion_table,
    contrast_table,
    extreme_table,
    main_rows,
    net_benefit_range_table,
    ranking_table,
    score_table,
    setup_table,
    subgroup_range_table,
    with_control,
)
from skin_tl.reporting.training_tables import (
    ending_table,
    fingerprint_table,
    rate_table,
    run_table,
    training_table,
    transfer_tables,
)
from skin_tl.schema import CLASSES, CONFIDENCE, COVERAGE, SENSITIVITY, SIGNIFICANCE, SUBSETS, THRESHOLD, kind_of
from skin_tl.study import command_of, penalties_beyond

# Tables of the report, each from the files of the runs ---------------------------------------------------------


def report_tables(files: StudyFiles, evaluated: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Make every table that the report shows or takes a number from.

    Parameters
    ----------
    files
    evaluated
        As `skin_tl.evaluation.scoring.read_evaluation` gives them.

    Returns
    -------
    dict of pandas.DataFrame
        By the name of their CSV file; those of `evaluated` are among them.
    """
    literature = pd.read_csv(TEXTS / "literature.csv")
    published = published_results()
    main = main_rows(files, evaluated["metrics.csv"])
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
        "flow.csv": flow_table(files),
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
        "net_benefit_ranges.csv": net_benefit_range_table(evaluated["decision_curves.csv"]),
        "history.csv": files.history,
        "training.csv": training_table(files.history),
        **({"endings.csv": ending_table(files), "rates.csv": rate_table(files)} if files.tuned else {}),
        "runs.csv": run_table(files),
        "fingerprints.csv": fingerprint_table(files),
        **transfer,
    }


def image_size_table(images: dict[str, Any]) -> pd.DataFrame:
    """List the sizes that the image files have, as they were before they were squashed; the most frequent first.

    Parameters
    ----------
    images
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


def metadata_counts(metadata: pd.DataFrame) -> pd.DataFrame:
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


def subset_table(splits: pd.DataFrame) -> pd.DataFrame:
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


def flow_table(files: StudyFiles) -> pd.DataFrame:
    """Count images and lesions from the release to what is split.

    Returns
    -------
    pandas.DataFrame
        stage, n_images, n_lesions (empty where a stage has no such number).  Stages: ``published`` and ``absent``
        (images of the published data set, and those that the table read lacks; not of the synthetic one), ``read`` (and
        lesion ids in the table), ``shared_pictures`` and ``near_duplicates`` (lesions that count as one with another),
        ``study``, and ``external`` (the external test set).
    """
    folder, command = files.folder / "dataset", command_of(files.study.name)
    pairs = read_table(folder / "near_duplicates.csv", command, dtype={"nearest_lesion_id": str})
    links = pairs.loc[pairs["grouped"].astype(bool), ["lesion_id", "nearest_lesion_id"]]
    ids = pd.DataFrame({"lesion_id": links.to_numpy().ravel()})
    _, grouped = merge_lesions(ids, list(links.itertuples(index=False, name=None)))
    n_images, n_lesions = len(files.metadata), files.metadata["lesion_id"].nunique()
    shared = len(files.images["merged_lesions"])
    stages: dict[str, tuple[float, float]] = {}
    if not files.study.synthetic:
        published = int(pd.read_csv(TEXTS / "literature.csv").set_index("key").loc["n_images", "value"])
        stages |= {"published": (published, np.nan), "absent": (published - n_images, np.nan)}
    stages |= {"read": (n_images, n_lesions + shared + len(grouped)), "shared_pictures": (np.nan, shared)}
    stages |= {"near_duplicates": (np.nan, len(grouped)), "study": (n_images, n_lesions)}
    if files.study.external:
        external = files.predictions[files.predictions["dataset"] == files.study.external]
        stages |= {"external": (external["image_id"].nunique(), np.nan)}
    table = pd.DataFrame.from_dict(stages, orient="index", columns=["n_images", "n_lesions"], dtype="Int64")
    return table.rename_axis("stage").reset_index()


def settings_table(files: StudyFiles) -> pd.DataFrame:
    """List the numbers of the study's settings: setting, value."""
    study = files.study
    numbers = {key: value for key, value in sorted(study.model_dump().items()) if type(value) in (int, float)}
    numbers |= penalty_choices(files)
    numbers |= {
        "n_backbones": len(study.backbones),
        "n_seeds": len(study.seeds),
        "n_classes": len(CLASSES),
        "n_setups": len(files.setups),
        "n_penalties": len(study.l2),
        "lowest_penalty": min(study.l2),
        "highest_penalty": max(study.l2),
        "confidence": CONFIDENCE,
        "sensitivity": SENSITIVITY,
        "coverage": COVERAGE,
        "answered": ANSWERED,
        "threshold": THRESHOLD,
        "false_alarms_per_target": (1 - THRESHOLD) / THRESHOLD,
        "lowest_prevalence": min(PREVALENCES) / 100,
        "highest_prevalence": max(PREVALENCES) / 100,
        "lesions": PER,
        "lesions_per_diagnosis": LESIONS_PER_DIAGNOSIS,
        "min_lesions": MIN_LESIONS,
        "max_width": MAX_WIDTH,
        "level": SIGNIFICANCE,
        "n_merged_lesions": len(files.images["merged_lesions"]),
        "n_near_duplicates": files.images["near_duplicates"]["n_pairs"],
        "n_near_duplicates_grouped": files.images["near_duplicates"]["n_grouped"],
    }
    if study.external:
        numbers |= {"n_external_duplicates": files.n_duplicates}
    for strategy in files.tuned:
        rates = study.rates(strategy)
        numbers |= {f"n_{strategy}_rates": len(rates)}
        numbers |= {f"lowest_{strategy}_rate": min(rates), f"highest_{strategy}_rate": max(rates)}
    return pd.DataFrame({"setting": list(numbers), "value": pd.Series(list(numbers.values()), dtype=object)})


def penalty_choices(files: StudyFiles) -> dict[str, float]:
    """Say which penalties the heads of a study took, as a dict; empty where it trained no head, or had no choice.

    n_heads (those on random weights and of experiments among them), lowest_penalty_taken, highest_penalty_taken and
    n_penalties_at_edge: how many heads took the smallest or the largest penalty that may be tried, beyond which another
    might have served better.
    """
    l2 = files.study.l2
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


def backbone_table(files: StudyFiles, literature: pd.DataFrame) -> pd.DataFrame:
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
    for backbone in files.study.backbones:
        run = files.runs[files.study.strategies[0], backbone]
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
