"""Facts: every number that the report may say, each one a cell of a table.

Takes the tables of `skin_tl.reporting.tables`; gives `Facts`, which looks numbers up in them by key and writes
``facts.json``.  A number that stands in no table cannot become a fact, so the prose of the report cannot disagree with
its tables.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from skin_tl.files import write_csv, write_json
from skin_tl.schema import EVALUATED, SETUP


@dataclass(frozen=True)
class Fact:
    """One value and the cell that it stands in.

    Attributes
    ----------
    value
        Number or text.
    file
        CSV file in the folder of the report.
    where
        Column and value pairs that pick one row.
    """

    value: Any
    file: str
    where: dict[str, Any]
    column: str


class Facts(dict[str, Fact]):
    """Values by key, each of them a cell of a table.

    Parameters
    ----------
    tables
        By the name of their CSV file.
    """

    def __init__(self, tables: dict[str, pd.DataFrame]):
        super().__init__()
        self.tables = tables

    def write(self, folder: str | Path) -> None:
        """Write ``facts.json`` and the tables to a folder; those of the step `evaluate` stay as they are."""
        folder = Path(folder)
        for name, table in self.tables.items():
            if name not in EVALUATED or not (folder / name).is_file():
                write_csv(folder / name, table)
        write_json(folder / "facts.json", {key: vars(fact) for key, fact in self.items()})


def _plain(value: Any) -> Any:
    """Turn a NumPy scalar into a Python value; whole numbers are integers, also in a column that became float."""
    value = value.item() if isinstance(value, np.generic) else value
    return int(value) if isinstance(value, float) and value.is_integer() else value


_OWN = {"dataset": "internal", "arm": "main", "train_fraction": 1.0}
_ALL_SEEDS = {"arm": "main", "train_fraction": 1.0, "seed": "all"}
_PAIRED = "difference p p_holm real ci_low ci_high"
_COMPARED = f"{_PAIRED} value_a value_b n_images n_lesions"
_CURVE = "value ci_low ci_high n_lesions train_fraction"

_ENDINGS = {"value": "", "seed_sd": ".sd", "rank": ".rank"}
_ENDINGS |= {"ci_low": ".low", "ci_high": ".high", "seed_min": ".min", "seed_max": ".max"}
"""How the key of a fact ends that is called other than its column."""


@dataclass(frozen=True)
class Family:
    """Facts whose keys begin in the same way.

    Attributes
    ----------
    pattern
        The beginning of the keys, with columns in braces; ``{setup}`` stands for those of a set-up.
    file
        Name of the table; a study without it has none of these facts.
    columns
        Those that hold the values, between spaces; they end the keys.  By default all others of the table.
    where
        The rows that are taken: value of a column, or a function that gives a mask of it.
    also
        Columns that tell rows apart besides those of `pattern` and `where`, between spaces.
    without
        Columns that hold no fact, between spaces.
    endings
        By column, where not those of the others.
    """

    pattern: str
    file: str
    columns: str = ""
    where: dict[str, Any] = field(default_factory=dict)
    also: str = ""
    without: str = ""
    endings: dict[str, str] = field(default_factory=dict)

    def collect(self, facts: Facts) -> None:
        """Add these facts."""
        table, pattern = facts.tables[self.file], self.pattern.replace("{setup}", _SETUP)
        for name, value in self.where.items():
            table = table[value(table[name]) if callable(value) else table[name] == value]
        identity = dict.fromkeys([*self.where, *re.findall(r"{(\w+)}", pattern), *self.also.split()])
        names = self.columns.split() or [name for name in table if name not in [*identity, *self.without.split()]]
        endings = {name: f".{name}" for name in names} | _ENDINGS | self.endings
        for row in table.to_dict("records"):
            where = {name: _plain(row[name]) for name in identity}
            for column in names:
                key = pattern.format(**where) + endings[column]
                if key in facts:
                    raise ValueError(f"two cells for the fact {key}: {facts[key]}, {self.file} {where}")
                if not (pd.isna(row[column]) or row[column] == ""):
                    facts[key] = Fact(_plain(row[column]), self.file, where, column)


_SETUP = ".".join(f"{{{name}}}" for name in SETUP)

FAMILIES = (
    Family("data.{dx}", "classes.csv"),
    Family("dx_type.{value}", "metadata_counts.csv", "share_images", {"field": "dx_type"}),
    Family("image_size.{place}", "image_sizes.csv"),
    Family("subset.{split_policy}.{subset}", "subsets.csv", where={"seed": "all"}),
    Family("flow.{stage}", "flow.csv"),
    Family("setting.{setting}", "settings.csv"),
    Family("backbone.{backbone}", "backbones.csv", without="transform"),
    Family("score.{setup}.{backbone}.{metric}", "scores.csv", without="kind approximate n_seeds"),
    Family("best.{setup}.{metric}", "setups.csv"),
    Family("class.{setup}.{backbone}.{row}", "classification_reports.csv"),
    Family("extreme.{setup}.{backbone}", "extremes.csv"),
    Family(
        "contrast.{factor}.{strategy}.{other}.{backbone}.{metric}",
        "contrasts.csv",
        "value_a value_b difference rank_a rank_b",
    ),
    Family("training.{setup}.{backbone}", "training.csv"),
    Family("ending.{strategy}", "endings.csv"),
    Family("published.{backbone}.{row}", "published_results.csv", without="source"),
    Family("literature.{key}", "literature.csv", "value"),
    Family("pair.{setup}.{backbone_a}.{backbone_b}.{metric}", "comparisons.csv", _PAIRED, _OWN),
    Family(
        "effect.{column}.{tested}.{strategy}.{split_policy}.{backbone}.{metric}",
        "effects.csv",
        _COMPARED,
        where={"column": lambda column: column != "strategy"},
        also="preprocessing",
    ),
    Family("gain.{setup}.{backbone}.{metric}", "effects.csv", _COMPARED, {"column": "strategy"}, also="tested"),
    Family(
        "curve.least.{setup}.{backbone}",
        "learning_curves.csv",
        _CURVE,
        where={"train_fraction": lambda column: column == column.min()},
        endings={"train_fraction": ".fraction"},
    ),
    Family(
        "curve.all.{setup}.{backbone}",
        "learning_curves.csv",
        _CURVE,
        where={"train_fraction": 1.0},
        endings={"train_fraction": ".fraction"},
    ),
    Family("needed.{setup}.{backbone}", "lesions_needed.csv", endings={"value": ".value"}),
    Family("decision.{setup}.{backbone}.{decision}.{point}.{metric}", "decisions.csv", where=_OWN | {"seed": "all"}),
    Family(
        "net_benefit.{setup}.{backbone}.{decision}",
        "decision_curves.csv",
        where=_OWN | {"threshold_percent": 10},
        endings={"gain_low": ".gain.low", "gain_high": ".gain.high", "net_benefit": ""},
    ),
    Family("net_benefit_range.{setup}.{backbone}.{decision}", "net_benefit_ranges.csv"),
    Family("prevalence.{setup}.{backbone}.{decision}.{prevalence_percent}.{metric}", "prevalence.csv", where=_OWN),
    Family("risk.{setup}.{backbone}.{metric}", "risk.csv", where=_OWN | {"seed": "all"}),
    Family("robustness.{strategy}.{backbone}.{change}.{severity}.{metric}", "robustness.csv", also="kind"),
    Family("other_splits.{strategy}.{backbone}.{metric}", "other_splits.csv", also="split_policy preprocessing"),
    Family("external.{setup}.{backbone}.{metric}", "external.csv", also="dataset arm train_fraction"),
    Family("abstention.{dataset}.{setup}.{backbone}.{score}.{metric}", "abstention.csv", where=_ALL_SEEDS),
    Family("sets.{dataset}.{setup}.{backbone}.{class}.{metric}", "conformal.csv", where=_ALL_SEEDS),
    Family("shift.{setup}.{backbone}.{metric}.{part}", "shift.csv", also="dataset arm train_fraction"),
    Family("prior.{setup}.{backbone}.{dx}", "priors.csv", also="dataset arm train_fraction"),
    Family("subgroup.{setup}.{backbone}.{variable}.{metric}", "subgroup_ranges.csv", also="class"),
    Family("ranking.{setup}.{backbone}.{dx}.{metric}", "ranking.csv", without="approximate"),
    Family("explained.{setup}.{backbone}", "explained.csv", also="seed"),
    Family("feature_map.{strategy}.{preprocessing}.{backbone}", "feature_maps.csv"),
)


def collect_facts(tables: dict[str, pd.DataFrame]) -> Facts:
    """Name the facts of a study.

    Parameters
    ----------
    tables
        As `skin_tl.reporting.tables.report_tables` gives them.

    Returns
    -------
    Facts
        Keys begin with ``data`` (the data set), ``dx_type`` (images by way of diagnosis), ``image_size`` (of the image
        files, the most frequent size is 1), ``subset`` (the split), ``flow`` (from the release to the study),
        ``setting``, ``backbone``, ``score`` (one backbone under one set-up), ``class`` (one row of a classification
        report), ``extreme`` (its easiest and hardest diagnosis), ``best`` (who comes first under one set-up),
        ``contrast`` (two set-ups that differ in one thing), ``training``, ``ending`` (how that of whole networks
        ended), ``published`` and ``literature``; ``pair`` (two backbones compared), ``effect`` (of leakage, of the
        scaling or of pretrained weights), ``decision``, ``net_benefit`` (of a decision at one threshold),
        ``net_benefit_range`` (thresholds at which it is better than referring all or none), ``prevalence`` (what a
        decision means at another one), ``risk`` (calibration of the probability of melanoma), ``other_splits``,
        ``external``, ``subgroup`` and ``ranking`` (ROC AUC and average precision of a diagnosis); ``explained``
        (Grad-CAM and errors of one run) and ``feature_map`` (how the features of one backbone lie in two dimensions);
        ``curve`` (macro F1 with a share of the training lesions), ``needed`` (lesions to reach what training from
        scratch does with all) and ``gain`` (one strategy less another); ``robustness`` (scores
        of changed images); ``abstention`` (what is gained by
        leaving images unanswered), ``sets`` (conformal prediction sets), ``shift`` (parts of the difference on an
        external set) and ``prior`` (frequencies of the diagnoses there, true and estimated).
    """
    facts = Facts(tables)
    for family in FAMILIES:
        if family.file in tables:
            family.collect(facts)
    return facts
