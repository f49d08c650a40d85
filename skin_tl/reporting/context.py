"""What the templates of the texts may look at: flags, names and verdicts, no numbers to be shown.

In: what is selected of a study.  Out: the context of every template, by name.  Numbers come from
`skin_tl.reporting.facts` alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from skin_tl.evaluation.study_files import TEXTS, Setup
from skin_tl.reporting.pieces import anchor_of
from skin_tl.reporting.texts import fact_html, plain
from skin_tl.schema import CLASSES, SETUP
from skin_tl.study import own_training

if TYPE_CHECKING:
    from skin_tl.reporting.selection import Selection


def template_context(report: Selection) -> dict[str, Any]:
    """Return what templates may look at, by name."""
    return {**_of_study(report), **_names(report), **_findings(report)}


def _of_study(report: Selection) -> dict[str, Any]:
    """Return flags and lists that a study's settings decide."""
    study, files = report.study, report.files
    return {
        "study": study,
        "synthetic": study.synthetic,
        "random_weights": files.random_weights,
        "overrides": report.narrowed,
        "pictures": report.pictures,
        "classes": CLASSES,
        "backbones": study.backbones,
        "published_backbones": report.published_backbones,
        "strategies": study.strategies,
        "strategy_names": [report.labels(f"strategy.{name}") for name in study.strategies],
        "tuned": files.tuned,
        "tuned_names": [report.labels(f"strategy.{name}") for name in files.tuned],
        "own_training": own_training(study),
        "rates_compared": report.rates_compared,
        "split_policies": study.split_policies,
        "preprocessings": study.preprocessings,
        "n_seeds": len(study.seeds),
        "over_seeds": report.labels("caption.over_seeds") if len(study.seeds) > 1 else "",
        "counted": report.counted,
        "transferred": not files.random_weights and study.strategies != ["from_scratch"],
        "main_transferred": not files.random_weights and report.main.strategy != "from_scratch",
        "setups": files.setups,
        "main": report.main,
        "explained": report.explained,
        "curves": report.curves,
        "train_fractions": files.study.train_fractions,
        "reproduction": _reproduction(report),
        "lower_precision": any(run.get("precision") == "bfloat16" for run in files.runs.values()),
        "n_duplicates": files.n_duplicates,
        "references": _references(report),
        "as_list": lambda value: [str(v) for v in (value if isinstance(value, list) else [value])],
    }


def _reproduction(report: Selection) -> Setup | None:
    """Return the set-up that repeats the presentation, where the study has it."""
    setup = Setup("feature_extraction", "image", "unit")
    repeated = setup in report.setups and report.published_backbones and not report.files.random_weights
    return setup if repeated else None


def _references(report: Selection) -> list[Markup]:
    """Return the sources of what this study used, each with its link: data sets, networks, methods."""
    heads = report.study.strategies != ["from_scratch"]
    holds = {"always": True, "heads": heads, "transferred": heads and not report.files.random_weights}
    named = [*report.study.backbones, report.external]
    line = Markup('{reference} <a href="{url}">{url}</a>')
    sources = pd.read_csv(TEXTS / "references.csv").to_dict("records")
    return [line.format(**source) for source in sources if holds.get(source["when"], source["key"] in named)]


def _names(report: Selection) -> dict[str, Any]:
    """Return functions that name set-ups, subgroups and diagnoses, and find figures and tables."""
    labels, facts, several = report.labels, report.facts, len(report.study.strategies) > 1

    def subgroup_name(variable: str, key: str) -> Markup:
        value = facts[key].value
        return fact_html(value, key, plain(labels.known({"site": "localization"}.get(variable, variable), value)))

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
        "variables": report.tables["subgroup_ranges.csv"]["variable"].unique().tolist(),
        "other_splits_setup": _other_splits_setup(report),
    }


def _other_splits_setup(report: Selection) -> str:
    """Return in words what the further splits were scored under, one for all; empty in a study without them."""
    found = report.tables["other_splits.csv"][SETUP].drop_duplicates().to_dict("records")
    return "; ".join(dict.fromkeys(report.setup_name(Setup(**row)) for row in found))


def _findings(report: Selection) -> dict[str, Any]:
    """Return what was found: rankings, differences that are statistically significant, and what they mean."""
    facts = report.facts
    same = report.tables["backbones.csv"]["parameters_difference"].dropna() == 0
    columns = set(report.tables["effects.csv"]["column"])
    measured = {"leakage": "arm" in columns, "scaling": "preprocessing" in columns}
    measured["test_subset"] = len(report.tables["other_splits.csv"]) > 0

    def moves(key: str) -> bool:
        return facts[f"{key}.rank_a"].value != facts[f"{key}.rank_b"].value

    return {
        "gains": lambda backbone: _gains(report, backbone),
        "against_scratch": lambda: _against_scratch(report),
        "random_control": _random_control(report),
        "n_stated": len(same),
        "parameters_agree": bool(same.all()),
        "isolated": [name for name, found in measured.items() if found],
        "ranked": report.ranked,
        "pairs": lambda setup, metric: _pairs(report, setup, metric),
        "effects": report.effects,
        "real_effects": lambda key, names: [n for n in names if facts[f"{key}{n}.macro_f1.real"].value],
        "moved": lambda key, names: [n for n in names if moves(f"{key}{n}.macro_f1")],
        "has_middle": report.has_middle,
    }


def _pairs(report: Selection, setup: Setup, metric: str) -> list[dict[str, Any]]:
    """Return the compared pairs of a set-up, list of dict: better, worse, key (of its facts) and real."""
    table = setup.of(report.tables["comparisons.csv"])
    rows = []
    for row in table[(table["metric"] == metric) & (table["dataset"] == "internal")].to_dict("records"):
        a, b = row["backbone_a"], row["backbone_b"]
        better, worse = (a, b) if row["difference"] >= 0 else (b, a)
        key = f"pair.{setup.key}.{a}.{b}.{metric}"
        rows.append({"better": better, "worse": worse, "key": key, "real": bool(row["real"])})
    return rows


def _gains(report: Selection, backbone: str) -> list[dict[str, Any]]:
    """Return the compared pairs of strategies, list of dict: a, b (labels), key (facts of a less b) and real."""
    table = report.tables["effects.csv"]
    table = table[(table["column"] == "strategy") & (table["metric"] == "macro_f1") & (table["backbone"] == backbone)]
    rows = []
    for row in table.to_dict("records"):
        setup = Setup(row["strategy"], row["split_policy"], row["preprocessing"])
        if (setup.split_policy, setup.preprocessing) == (report.main.split_policy, report.main.preprocessing):
            names = {side: report.labels(f"strategy.{row[side]}") for side in "ab"}
            rows.append(names | {"key": f"gain.{setup.key}.{backbone}.macro_f1", "real": bool(row["real"])})
    return rows


def _against_scratch(report: Selection) -> tuple[str, bool]:
    """Return the key of the main strategy less training from scratch, and whether it is not clearly above."""
    setup = report.main
    of_both = f"{setup.strategy}/from_scratch.{setup.split_policy}.{setup.preprocessing}"
    key = f"gain.{of_both}.{report.best(setup)}.macro_f1"
    if f"{key}.difference" not in report.facts:
        return key, False
    return key, not (report.facts[f"{key}.real"].value and report.facts[f"{key}.difference"].value > 0)


def _random_control(report: Selection) -> dict[str, Any]:
    """Return what pretrained weights of frozen backbones are worth against random ones, by macro F1.

    Returns
    -------
    dict
        key (beginning of the facts' keys), names (the backbones with this control, none in a study without), and of
        these better, worse and open: the difference is significant and above 0, below 0, or not significant.
    """
    policy = report.main.split_policy
    table = next((part for (_, of), part in report.effects("weights") if of == policy), None)
    found = {"key": f"effect.weights.all.feature_extraction.{policy}."}
    if table is None:
        return found | {name: [] for name in ("names", "better", "worse", "open")}
    above, real = table["difference"] > 0, table["real"].astype(bool)
    sides = {"better": real & above, "worse": real & ~above, "open": ~real}
    return found | {"names": list(table["backbone"])} | {k: list(table["backbone"][v]) for k, v in sides.items()}
