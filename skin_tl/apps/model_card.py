"""Model card: what an exported model is, what it was trained on and how good it is.

Takes a finished run, its predictions and ``metrics.csv`` of the report; gives Markdown by ``model_card.md.j2``.  Its
limits are those of the model card in the report (``report/text/en/model_card_limits.j2``).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from skin_tl.apps.runs import Run
from skin_tl.evaluation.calibration import fit_temperature
from skin_tl.evaluation.metric_list import names_of
from skin_tl.evaluation.predictions import main_arm, where
from skin_tl.evaluation.study_files import TEXTS
from skin_tl.explain.explanations import explained_head, tested_images
from skin_tl.files import file_fingerprint, read_json
from skin_tl.models.runs import weights_note
from skin_tl.registry import transform_of
from skin_tl.reporting.texts import ENGLISH, templates
from skin_tl.schema import BASELINES, CLASSES, DECISIONS, PROBABILITIES, SUBSETS, TUNED
from skin_tl.study import command_of

if TYPE_CHECKING:
    from skin_tl.apps.export import Exported

METRICS = names_of(lambda metric: metric.on_card)
"""What the card tells of all diagnoses; of each alone F1, and sensitivity if malignant or in situ/premalignant."""


def card_metrics(
    table: pd.DataFrame, run: Run, head: Mapping[str, Any], accuracy: float
) -> list[dict[str, Any]] | None:
    """Choose the metrics of the card.

    Parameters
    ----------
    table
        ``metrics.csv``.
    run
    head
        From `skin_tl.explain.explanations.explained_head`.
    accuracy
        Of the model on its test subset, by the run's own predictions.

    Returns
    -------
    list of dict or None
        name and cells: value and interval of the model, and of the mean over seeds if the study has several.  None
        where the table has no row of the model, or was made of another state of the run.
    """
    wanted = {"dataset": "internal", "strategy": run.strategy, "backbone": run.backbone, "subgroup": "all"}
    wanted |= {name: head[name] for name in ("split_policy", "preprocessing")}
    rows = where(main_arm(table), **wanted).set_index(["seed", "metric", "class"])[["value", "ci_low", "ci_high"]]
    seed = str(head["seed"])
    if (seed, "accuracy", "all") not in rows.index:
        return None
    if not np.isclose(rows.loc[(seed, "accuracy", "all"), "value"], accuracy, rtol=0, atol=1e-9):
        return None
    seeds = [seed, "all"] if rows.index.get_level_values("seed").nunique() > 2 else [seed]
    asked = [(metric, "all", ENGLISH(f"metric.{metric}")) for metric in METRICS]
    asked += [("recall", dx, f"sensitivity for {dx}") for dx in DECISIONS["malignant"]]
    asked += [("f1", dx, f"F1 of {dx}") for dx in CLASSES]
    found = []
    for metric, dx, name in asked:
        cells = []
        for one in seeds:
            value, low, high = rows.loc[(one, metric, dx)] if (one, metric, dx) in rows.index else [np.nan] * 3
            cells += [_number(value), f"{_number(low)} to {_number(high)}" if np.isfinite([low, high]).all() else "–"]
        found.append({"name": name, "cells": cells})
    return found


def baseline_scores(table: pd.DataFrame, head: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return name, accuracy and macro_f1 of each baseline in ``metrics.csv``."""
    wanted = {"dataset": "internal", "strategy": "baseline", "split_policy": head["split_policy"], "class": "all"}
    rows = where(main_arm(table), **wanted, subgroup="all", seed=str(head["seed"]))
    values = rows.set_index(["backbone", "metric"])["value"]
    return [
        {"name": ENGLISH(f"backbone.{name}")}
        | {score: _number(values[name, score]) for score in ("accuracy", "macro_f1")}
        for name in BASELINES
        if (name, "macro_f1") in values.index
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if np.isfinite(value) else "–"


def model_card(
    run: Run,
    exported: "Mapping[str, Exported]",
    check: Mapping[str, Any],
    predictions: pd.DataFrame,
    metrics_file: Path,
) -> str:
    """Write the card of a run's exported files, in Markdown.

    Parameters
    ----------
    run
    exported
        By format.
    check
        How the files were checked: per_diagnosis, tolerance, batches and with (packages and their versions).
    predictions
        The run's.
    metrics_file
        ``report/<study>/metrics.csv``, there or not.

    Raises
    ------
    SkinTLError
        If the study's split is not the one that the run was trained with.
    """
    study, head = run.study, explained_head(run.study)
    values = {
        "run": run,
        "study": study,
        "synthetic": study.synthetic,
        "head": head,
        "start": weights_note(read_json(run.study_folder / "weights.json"), run.strategy),
        "weights_fingerprint": "" if run.strategy == "from_scratch" else run.record["weights"].get("fingerprint", ""),
        "model_fingerprint": file_fingerprint(run.folder / "model.keras"),
        "transform": transform_of(run.backbone, head["preprocessing"]),
        "classes": CLASSES,
        "command": command_of(study.name),
        "several": len(study.seeds) if len(study.seeds) > 1 else 0,
        "views_word": {1: "", 2: "two", 4: "four", 8: "eight"}[study.n_views(run.strategy)],
        "deterministic": run.strategy in TUNED and study.deterministic,
        "exported": exported,
        "check": check,
        "word": ENGLISH,
    }
    values |= _data(run, predictions) | _scores(run, predictions, metrics_file)
    rules = templates(Path(__file__).parent, TEXTS / "en", lstrip_blocks=True, keep_trailing_newline=True)
    return rules.get_template("model_card.md.j2").render(values)


def _data(run: Run, predictions: pd.DataFrame) -> dict[str, Any]:
    """Count the images and lesions of each subset and of each diagnosis, and fit the temperature."""
    tested, validation = tested_images(predictions, run.study), run.validation(predictions)
    counts = run.split().groupby("subset").agg(n_images=("image_id", "nunique"), n_lesions=("lesion_id", "nunique"))
    return {
        "subsets": [{"subset": name, **counts.loc[name]} for name in SUBSETS],
        "test_counts": tested.groupby("dx").agg(n_images=("image_id", "size"), n_lesions=("lesion_id", "nunique")),
        "temperature": f"{fit_temperature(validation['dx'], validation[PROBABILITIES].to_numpy(float)):.3f}",
    }


def _scores(run: Run, predictions: pd.DataFrame, metrics_file: Path) -> dict[str, Any]:
    """Read the metrics of the run and of the baselines, or say why there are none."""
    if not metrics_file.is_file():
        return {"metrics": None, "no_metrics": "the report of this study has not been made yet."}
    tested, head = tested_images(predictions, run.study), explained_head(run.study)
    table = pd.read_csv(metrics_file, dtype={"seed": str})
    return {
        "metrics": card_metrics(table, run, head, float((tested["predicted"] == tested["dx"]).mean())),
        "baselines": baseline_scores(table, head),
        "no_metrics": "the report of this study is of another state of this run.",
    }
