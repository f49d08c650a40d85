"""Facts: every number that the report may say, each one a cell of a table.

Takes the tables of `skin_tl.reporting.tables`; gives `Facts`, which looks numbers up in them by key and writes
``facts.json``.  A number that stands in no table cannot become a fact, so the prose of the report cannot disagree with
its tables.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from skin_tl.files import write_csv, write_json
from skin_tl.schema import EVALUATED, SETUP


@dataclass(frozen=True)
class Fact:
    """One value and the cell that it stands in.

    Attributes
    ----------
    value : int, float or str
    file : str
        CSV file in the folder of the report.
    where : dict
        Column and value pairs that pick one row.
    column : str
    """

    value: object
    file: str
    where: dict
    column: str


class Facts:
    """Values by key, each of them a cell of a table.

    Parameters
    ----------
    tables : dict of pandas.DataFrame
        By the name of their CSV file.
    """

    def __init__(self, tables):
        self.tables = tables
        self._facts = {}

    def add(self, pattern, file, identity, columns, rows=None):
        """Make a fact of cells of a table.

        Parameters
        ----------
        pattern : str
            Key, with the columns of `identity` in braces, for example ``data.n_images.{dx}``.
        file : str
            Name of the table.
        identity : list of str
            Columns that tell its rows apart.
        columns : dict
            Ending of the key by the column that holds the value.
        rows : pandas.DataFrame, optional
            Some rows of the table; all by default.
        """
        table = self.tables[file]
        for row in (table if rows is None else rows).to_dict("records"):
            where = {name: _plain(row[name]) for name in identity}
            for column, ending in columns.items():
                key = pattern.format(**where) + ending
                value = row[column]
                if key in self._facts:
                    raise ValueError(f"two cells for the fact {key}: {self._facts[key]}, {file} {where}")
                if not _is_missing(value):
                    self._facts[key] = Fact(_plain(value), file, where, column)

    def __contains__(self, key):
        return key in self._facts

    def __getitem__(self, key):
        return self._facts[key]

    def __iter__(self):
        return iter(self._facts)

    def __len__(self):
        return len(self._facts)

    def as_dict(self):
        """Return what ``facts.json`` holds: value, file, where and column by key."""
        return {key: vars(fact) for key, fact in sorted(self._facts.items())}

    def write(self, folder):
        """Write ``facts.json`` and the tables to a folder; those of the step `evaluate` stay as they are."""
        folder = Path(folder)
        for name, table in self.tables.items():
            if name not in EVALUATED or not (folder / name).is_file():
                write_csv(folder / name, table)
        write_json(folder / "facts.json", self.as_dict())


def _is_missing(value):
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)) or value == ""


def _plain(value):
    """Turn a NumPy scalar into the Python value that JSON and CSV hold."""
    return value.item() if isinstance(value, np.generic) else value


def collect_facts(tables):
    """Name the facts of a study.

    Parameters
    ----------
    tables : dict of pandas.DataFrame
        As `skin_tl.reporting.tables.report_tables` gives them.

    Returns
    -------
    Facts
        Keys begin with ``data`` (the data set), ``dx_type`` (images by way of diagnosis), ``image_size`` (of the image
        files, the most frequent size is 1), ``subset`` (the split), ``setting``, ``backbone``, ``score`` (one backbone
        under one set-up), ``class`` (one row of a classification report), ``extreme`` (its easiest and hardest
        diagnosis), ``best`` (who comes first under one set-up), ``contrast`` (two set-ups that differ in one thing),
        ``training``, ``ending`` (how that of whole networks ended), ``published`` and ``literature``; ``pair`` (two
        backbones compared), ``effect`` (of leakage, of the scaling or of pretrained weights), ``decision``,
        ``other_splits``, ``external``, ``subgroup`` and ``ranking`` (ROC AUC and average precision of a diagnosis);
        ``explained`` (Grad-CAM and errors of one run) and ``feature_map`` (how the features of one backbone lie in two
        dimensions); ``curve`` (macro F1 with a share of the training lesions), ``needed`` (lesions to reach what
        training from scratch does with all) and ``gain`` (one strategy less another).
    """
    facts = Facts(tables)
    setup = "{strategy}.{split_policy}.{preprocessing}"
    counts = {"n_images": ".n_images", "n_lesions": ".n_lesions", "share_images": ".share_images"}
    counts |= {"images_per_lesion": ".images_per_lesion", "n_lesions_seen_again": ".n_lesions_seen_again"}
    facts.add("data.{dx}", "classes.csv", ["dx"], counts)
    ways = tables["metadata_counts.csv"]
    ways = ways[ways["field"] == "dx_type"]
    facts.add("dx_type.{value}", "metadata_counts.csv", ["field", "value"], {"share_images": ".share_images"}, ways)
    shape = {name: f".{name}" for name in ("width", "height", "n_images", "share_images")}
    facts.add("image_size.{place}", "image_sizes.csv", ["place"], shape)
    known = {"n_images_known": ".n_images_known", "share_known": ".share_known"}
    shown = {"n_images": ".n_images", "n_lesions": ".n_lesions"} | known
    subsets = tables["subsets.csv"]
    identity = ["split_policy", "seed", "subset"]
    facts.add("subset.{split_policy}.{subset}", "subsets.csv", identity, shown, subsets[subsets["seed"] == "all"])
    facts.add("setting.{setting}", "settings.csv", ["setting"], {"value": ""})
    sizes = ["n_parameters", "n_parameters_with_classifier", "n_parameters_presentation"]
    sizes += ["parameters_difference", "imagenet_size", "n_features", "n_head", "head_share"]
    facts.add("backbone.{backbone}", "backbones.csv", ["backbone"], {name: f".{name}" for name in sizes})
    values = {"value": "", "ci_low": ".low", "ci_high": ".high", "seed_sd": ".sd", "rank": ".rank"}
    values |= {"seed_min": ".min", "seed_max": ".max", "n_seeds_best": ".n_seeds_best", "n_images": ".n_images"}
    values |= {f"random_{end}": f".random_{end}" for end in ("value", "low", "high")}
    facts.add(f"score.{setup}.{{backbone}}.{{metric}}", "scores.csv", [*SETUP, "backbone", "metric"], values)
    names = ["best", "best_value", "val_macro_f1", "first", "first_value", "second", "second_value"]
    names += ["last", "last_value", "gap", "gap_to_last"]
    names += ["n_seeds", "n_seeds_best", "majority_value", "gain"]
    names += ["baseline", "baseline_value", "above_baseline", "ensemble_value", "ensemble_gain"]
    names += ["lead", "lead_low", "lead_high", "lead_p", "real", "behind"]
    facts.add(f"best.{setup}.{{metric}}", "setups.csv", [*SETUP, "metric"], {name: f".{name}" for name in names})
    shape = ["precision", "recall", "f1_score", "support"]
    shape += [f"published_{name}" for name in shape] + [f"{name}_difference" for name in shape[:3]] + ["missed"]
    shape += [f"{name}_{end}" for name in ("precision", "recall", "f1_score") for end in ("low", "high")]
    reports = tables["classification_reports.csv"]
    identity = [*SETUP, "backbone", "row"]
    facts.add(
        f"class.{setup}.{{backbone}}.{{row}}",
        "classification_reports.csv",
        identity,
        {name: f".{name}" for name in shape},
        reports,
    )
    names = ["easiest", "easiest_f1", "hardest", "hardest_f1", "mel_taken_for", "mel_taken_for_share"]
    names = {name: f".{name}" for name in names}
    facts.add(f"extreme.{setup}.{{backbone}}", "extremes.csv", [*SETUP, "backbone"], names)
    names = ["value_a", "value_b", "difference", "rank_a", "rank_b"]
    identity = ["factor", "strategy", "other", "metric", "backbone"]
    pattern = "contrast.{factor}.{strategy}.{other}.{backbone}.{metric}"
    facts.add(pattern, "contrasts.csv", identity, {name: f".{name}" for name in names})
    facts.add(f"training.{setup}.{{backbone}}", "training.csv", [*SETUP, "backbone"], {"epochs": ".epochs"})
    if "endings.csv" in tables:
        names = {name: f".{name}" for name in ("n_networks", "n_stopped", "late_gain", "flat")}
        facts.add("ending.{strategy}", "endings.csv", ["strategy"], names)
    names = {name: f".{name}" for name in ("precision", "recall", "f1_score", "support")}
    facts.add("published.{backbone}.{row}", "published_results.csv", ["backbone", "row"], names)
    facts.add("literature.{key}", "literature.csv", ["key"], {"value": ""})
    _collect_evaluation(facts)
    names = [
        "n_tested",
        "n_wrong",
        "n_confident",
        "sure",
        "n_maps",
        "n_hits",
        "n_misses",
        "n_errors",
        "map_side",
        "least_side",
    ]
    names += ["surest", "surest_dx", "surest_predicted", "middle_hits", "middle_misses", "likeness"]
    identity = [*SETUP, "seed", "backbone"]
    facts.add(f"explained.{setup}.{{backbone}}", "explained.csv", identity, {name: f".{name}" for name in names})
    names = {name: f".{name}" for name in ("n_points", "n_images", "same", "by_chance")}
    identity = ["strategy", "preprocessing", "backbone"]
    facts.add("feature_map.{strategy}.{preprocessing}.{backbone}", "feature_maps.csv", identity, names)
    return facts


def _collect_evaluation(facts):
    """Name the facts of the tables that `skin_tl.evaluation.scoring` made."""
    tables, setup = facts.tables, "{strategy}.{split_policy}.{preprocessing}"
    own = {"dataset": "internal", "arm": "main", "train_fraction": 1.0, "seed": "all"}

    def of_own(name):
        table = tables[name]
        keep = np.ones(len(table), bool)
        for column, value in own.items():
            keep &= table[column] == value if column in table else True
        return table[keep]

    ends = {"ci_low": ".low", "ci_high": ".high"}
    numbers = {"difference": ".difference", "p": ".p", "p_holm": ".p_holm", "real": ".real"} | ends
    identity = ["dataset", "arm", "train_fraction", *SETUP, "backbone_a", "backbone_b", "metric"]
    pattern = f"pair.{setup}.{{backbone_a}}.{{backbone_b}}.{{metric}}"
    facts.add(pattern, "comparisons.csv", identity, numbers, of_own("comparisons.csv"))
    numbers |= {"value_a": ".value_a", "value_b": ".value_b", "n_images": ".n_images", "n_lesions": ".n_lesions"}
    identity = ["column", "tested", "strategy", "split_policy", "preprocessing", "backbone", "metric"]
    pattern = "effect.{column}.{tested}.{strategy}.{split_policy}.{backbone}.{metric}"
    effects = tables["effects.csv"]
    facts.add(pattern, "effects.csv", identity, numbers, effects[effects["column"] != "strategy"])
    pattern = f"gain.{setup}.{{backbone}}.{{metric}}"
    facts.add(pattern, "effects.csv", identity, numbers, effects[effects["column"] == "strategy"])
    _collect_transfer(facts)
    identity = ["dataset", "arm", "train_fraction", "seed", *SETUP, "backbone", "decision", "point", "metric"]
    pattern = f"decision.{setup}.{{backbone}}.{{decision}}.{{point}}.{{metric}}"
    numbers = {"value": "", "n_lesions": ".n_lesions"} | ends
    facts.add(pattern, "decisions.csv", identity, numbers, of_own("decisions.csv"))
    names = ["n_splits", "n_images", "mean", "sd", "lowest", "highest", "typical_gap"]
    names += ["published_first", "published_second", "published_gap", "share_as_far"]
    identity = ["strategy", "backbone", "split_policy", "preprocessing", "metric"]
    pattern = "other_splits.{strategy}.{backbone}.{metric}"
    facts.add(pattern, "other_splits.csv", identity, {name: f".{name}" for name in names})
    names = ["internal", "external", "difference", "n_images_internal", "n_images_external"]
    names = {name: f".{name}" for name in names} | ends
    identity = ["dataset", "arm", "train_fraction", *SETUP, "backbone", "metric"]
    facts.add(f"external.{setup}.{{backbone}}.{{metric}}", "external.csv", identity, names)
    names = ["n_subgroups", "n_conclusive", "lowest", "lowest_value", "highest", "highest_value"]
    names += [f"{side}_{end}" for side in ("lowest", "highest") for end in ("low", "high", "share_nv")]
    identity = [*SETUP, "backbone", "variable", "metric", "class"]
    pattern = f"subgroup.{setup}.{{backbone}}.{{variable}}.{{metric}}"
    facts.add(pattern, "subgroup_ranges.csv", identity, {name: f".{name}" for name in names})
    names = {"value": "", "n_images": ".n_images", "n_lesions": ".n_lesions"} | ends
    identity = [*SETUP, "backbone", "dx", "metric"]
    facts.add(f"ranking.{setup}.{{backbone}}.{{dx}}.{{metric}}", "ranking.csv", identity, names)


def _collect_transfer(facts):
    """Name the facts of what transfer buys, where a study has more than one strategy or share of its lesions."""
    if "learning_curves.csv" not in facts.tables:
        return
    setup = "{strategy}.{split_policy}.{preprocessing}"
    names = {"value": "", "ci_low": ".low", "ci_high": ".high", "n_lesions": ".n_lesions"}
    curves = facts.tables["learning_curves.csv"]
    ends = {"least": curves["train_fraction"].min(), "all": 1.0}
    for end, fraction in ends.items():
        rows = curves[curves["train_fraction"] == fraction]
        identity = [*SETUP, "backbone", "train_fraction"]
        shown = names | {"train_fraction": ".fraction"}
        facts.add(f"curve.{end}.{setup}.{{backbone}}", "learning_curves.csv", identity, shown, rows)
    names = ["target", "n_lesions_all", "n_lesions", "train_fraction", "value", "saved"]
    identity = [*SETUP, "backbone"]
    facts.add(f"needed.{setup}.{{backbone}}", "lesions_needed.csv", identity, {name: f".{name}" for name in names})
