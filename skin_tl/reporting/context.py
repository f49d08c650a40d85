"""What the templates of the texts may look at: flags, names and verdicts, no numbers to be shown.

In: what is selected of a study.  Out: the context of every template, by name.  Numbers come from
`skin_tl.reporting.facts` alone.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from skin_tl.evaluation.study_files import TEXTS, Setup
from skin_tl.reporting.pieces import anchor_of
from skin_tl.reporting.texts import Labels, fact_html, plain
from skin_tl.reporting.verdicts import Verdicts
from skin_tl.schema import CLASSES, CONFIDENCES, SETUP
from skin_tl.study import backbones_left_out, own_training

if TYPE_CHECKING:
    from skin_tl.reporting.selection import Selection


def template_context(report: Selection) -> dict[str, Any]:
    """Return what templates may look at, by name."""
    return {**_of_study(report), **_names(report), **_findings(report)}


def _of_study(report: Selection) -> dict[str, Any]:
    """Return flags and lists that a study's settings decide."""
    study, runs = report.study, report.tables["runs.csv"]
    return {
        "study": study,
        "synthetic": study.synthetic,
        "random_weights": report.random_weights,
        "overrides": report.narrowed,
        "pictures": report.pictures,
        "classes": CLASSES,
        "confidences": CONFIDENCES,
        "corrupted": report.changed().query("kind == 'corruption'")["change"].unique().tolist(),
        "backbones": study.backbones,
        "published_backbones": report.published_backbones,
        "left_out": backbones_left_out(study),
        "missing": [name for name in report.published if name not in study.backbones],
        "reduced": _reduced(report),
        "strategies": study.strategies,
        "strategy_names": [report.labels(f"strategy.{name}") for name in study.strategies],
        "tuned": report.files.tuned,
        "tuned_names": [report.labels(f"strategy.{name}") for name in report.files.tuned],
        "own_training": own_training(study),
        "rates_compared": report.rates_compared,
        "split_policies": study.split_policies,
        "preprocessings": study.preprocessings,
        "n_seeds": len(study.seeds),
        "over_seeds": report.labels("caption.over_seeds") if len(study.seeds) > 1 else "",
        "counted": report.counted,
        "transferred": not report.random_weights and study.strategies != ["from_scratch"],
        "main_transferred": not report.random_weights and report.main.strategy != "from_scratch",
        "setups": report.setups,
        "main": report.main,
        "explained": report.explained,
        "curves": report.curves,
        "train_fractions": study.train_fractions,
        "reproduction": report.reproduction,
        "lower_precision": runs.loc[runs["precision"] == "bfloat16", "backbone"].unique().tolist(),
        "references": _references(report),
        "cite": _cite,
        "as_list": lambda value: [
            _in_words(one, report.labels) for one in (value if isinstance(value, list) else [value])
        ],
    }


def _in_words(value: Any, labels: Labels) -> str:
    """Return a value of a setting, its numbers and switches as the language writes them."""
    if isinstance(value, bool):
        return labels(f"switch.{value}")
    return labels.number(value, "g") if isinstance(value, float) else str(value)


def _reduced(report: Selection) -> bool:
    """Return whether the photographs that were read are smaller than the published ones."""
    facts, known = report.facts, "image_size.1.width" in report.facts and not report.study.synthetic
    sizes = [facts[key].value for key in ("image_size.1.width", "literature.width")] if known else [1, 1]
    return sizes[0] < sizes[1]


def _references(report: Selection) -> list[tuple[str, Markup]]:
    """Return the sources of what this study used, key and line with its link: data sets, networks, methods."""
    heads = report.study.strategies != ["from_scratch"]
    holds = {
        "always": True,
        "external": bool(report.external),
        "heads": heads,
        "transferred": heads and not report.random_weights,
    }
    named = [*report.study.backbones, report.external]
    line = Markup('{reference} <a href="{url}">{url}</a>')
    sources = pd.read_csv(TEXTS / "references.csv").to_dict("records")
    used = [source for source in sources if holds.get(source["when"], source["key"] in named)]
    return [(source["key"], line.format(**source)) for source in used]


def _cite(key: str) -> Markup:
    """Return a link to a source of more than two authors that every report lists: ``Raghu et al. 2019``."""
    reference = pd.read_csv(TEXTS / "references.csv").query("when == 'always'").set_index("key")["reference"][key]
    year = re.findall(r"\((\d{4})\)", reference)[0]
    link = Markup('<a class="reference" href="#source-{}">{} et al. {}</a>')
    return link.format(key.lower().replace("_", "-"), reference.partition(",")[0], year)


def _names(report: Selection) -> dict[str, Any]:
    """Return functions that name set-ups, subgroups and diagnoses, and find figures and tables."""
    labels, facts, several = report.labels, report.facts, len(report.study.strategies) > 1

    def subgroup_name(variable: str, key: str) -> Markup:
        value = facts[key].value
        shown = value.replace("-", "–") if variable == "age" else value
        return fact_html(value, key, plain(labels.known({"site": "localization"}.get(variable, variable), shown)))

    def diagnosis_name(key: str) -> Markup:
        value = facts[key].value
        return fact_html(value, key, plain(labels(f"diagnosis.{value}")))

    return {
        "setup_name": report.setup_name,
        "of_strategy": lambda name: f"{labels(f'strategy.{name}')}, " if several else "",
        "anchor": lambda setup: setup.key.replace(".", "-"),
        "figure": lambda name, **context: f"#{anchor_of('figure', name, context)}",
        "table": lambda name, **context: f"#{anchor_of('table', name, context)}",
        "subgroup_name": subgroup_name,
        "diagnosis_name": diagnosis_name,
        "variables": _compared_variables(report),
        "other_splits_setup": _other_splits_setup(report),
    }


def _compared_variables(report: Selection) -> list[str]:
    """Return by which variables subgroups can be compared: at least two are large enough, selected backbone."""
    table = report.own("subgroup_ranges.csv", backbone=report.best(report.main))
    table = table[table["metric"].isin(["accuracy", "recall"]) & table["lowest_value"].notna()]
    return [str(name) for name in table["variable"].unique()]


def _other_splits_setup(report: Selection) -> str:
    """Return in words what the further splits were scored under, one for all; empty in a study without them."""
    found = report.tables["other_splits.csv"][SETUP].drop_duplicates().to_dict("records")
    return "; ".join(dict.fromkeys(report.setup_name(Setup(**row)) for row in found))


def _findings(report: Selection) -> dict[str, Any]:
    """Return what was found: verdicts, rankings and effects."""
    same = report.tables["backbones.csv"]["parameters_difference"].dropna() == 0
    return {
        "verdict": Verdicts(report),
        "ranked": report.ranked,
        "best_of": report.best,
        "effects": report.effects,
        "has_middle": report.has_middle,
        "n_stated": len(same),
        "parameters_agree": bool(same.all()),
    }
