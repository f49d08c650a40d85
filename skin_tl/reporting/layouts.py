"""Layouts of the report's tables: which rows of which CSV file, and what each column shows of a row.

In: the tables of `skin_tl.reporting.tables` and what a study has (`skin_tl.reporting.selection`).  Out: `Layout`, one
for each name of `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd
from markupsafe import Markup

from skin_tl.evaluation.predictions import labelled_groups
from skin_tl.evaluation.study_files import Setup
from skin_tl.reporting.pieces import Cells
from skin_tl.reporting.score_tables import AVERAGES, PROBABILITY_SCORES, SCORES
from skin_tl.schema import CLASSES, CONFIDENCES, ENSEMBLE, SENSITIVITY

if TYPE_CHECKING:
    from skin_tl.reporting.selection import Selection

Row = dict[Any, Any]
"""A row of a table; where it is made of several, one dict for each of them by what tells them apart."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes
    ----------
    head
        Key of its heading, or the heading itself where `named`.
    cell
        Gives what it shows of a row.
    number
        Whether its cells hold numbers.
    value
        Gives the value of a row by which the column is left out where no row has one; None keeps the column.
    """

    head: str
    cell: Callable[[Cells, Row], Any]
    number: bool = False
    value: Callable[[Row], Any] | None = None
    named: bool = False

    def heading(self, cells: Cells) -> str:
        """Return its heading in the language of `cells`."""
        return self.head if self.named else cells.labels(self.head)

    def shown(self, rows: Iterable[Row]) -> bool:
        """Tell whether it is shown."""
        return self.value is None or any(pd.notna(self.value(row)) for row in rows)


@dataclass(frozen=True)
class Layout:
    """A table: the CSV file behind it, its rows and its columns."""

    file: str
    rows: Sequence[Row]
    columns: Sequence[Column]


# Kinds of columns ------------------------------------------------------------------------------------------------


def text(name: str, head: str = "") -> Column:
    """Show a value as it is."""
    return Column(f"column.{head or name}", lambda cells, row: row[name])


def word(name: str, head: str = "", group: str = "") -> Column:
    """Show the label of a value, which stands below `group` (by default `name`)."""
    return Column(f"column.{head or name}", lambda cells, row: cells.labels(f"{group or name}.{row[name]}"))


def known(name: str, group: Callable[[Row], str] | str = "", head: str = "") -> Column:
    """Show the label of a value, or the value itself where the language has no word for it."""

    def cell(cells: Cells, row: Row) -> str:
        return cells.labels.known(group(row) if callable(group) else group or name, row[name])

    return Column(f"column.{head or name}", cell)


def diagnosis(name: str, head: str = "diagnosis") -> Column:
    """Show a diagnosis with its short name."""
    return Column(f"column.{head}", lambda cells, row: cells.diagnosis(row[name]))


@dataclass(frozen=True)
class Ends:
    """Columns of an interval, and how it is written."""

    spec: str = ".2f"
    low: str = "ci_low"
    high: str = "ci_high"

    def write(self, cells: Cells, row: Row) -> Markup:
        """Return the interval of a row, with a mark where it is approximate."""
        mark = "≈ " if row.get("approximate", False) else ""
        return cells.interval(row[self.low], row[self.high], self.spec, mark)


def number(
    name: str, spec: str, ends: Ends | None = None, head: str = "", of: Any = None, optional: bool = False
) -> Column:
    """Show a number, with its interval where it has one; `of` names the row that it is taken from.

    An optional column is left out where no row has a value.
    """

    def cell(cells: Cells, row: Row) -> Markup | str:
        row = row if of is None else row[of]
        shown = cells.number(row[name], spec)
        return shown if ends is None else shown + ends.write(cells, row)

    def value(row: Row) -> Any:
        return (row if of is None else row[of])[name]

    return Column(head or f"column.{name}", cell, number=True, value=value if optional else None)


def numbers(specs: dict[str, str], optional: bool = False) -> list[Column]:
    """Return a column of numbers for each name, by format."""
    return [number(name, spec, optional=optional) for name, spec in specs.items()]


_NO_VALUE: Row = dict.fromkeys(("value", "ci_low", "ci_high"), float("nan"))

_DIFFERENCE = number("difference", "+.3f", Ends("+.3f"))


def _in_order(table: pd.DataFrame, columns: list[str], order: Sequence[str]) -> pd.DataFrame:
    """Return rows by where the values of some columns stand in a list."""
    return table.sort_values(columns, key=lambda names: names.map(list(order).index), kind="stable")


def _together(table: pd.DataFrame, index: list[str], by: str) -> list[Row]:
    """Make one row of those that have the same `index`, each of them by its value of the column `by`."""
    return [names | part.set_index(by).to_dict("index") for names, part in labelled_groups(table, index)]


# Tables whose rows are those of a CSV file -------------------------------------------------------------------------


def _plain(file: str, *columns: Column, **where: Any) -> Callable[..., Layout]:
    """Declare a table: columns of those rows of a CSV file in which `where` holds, of a set-up where one is given."""

    def layout(report: Selection, setup: Setup | None = None) -> Layout:
        table = report.tables[file]
        table = table if setup is None else setup.of(table)
        for name, value in where.items():
            table = table[table[name] == value]
        return Layout(file, table.to_dict("records"), columns)

    return layout


_COUNTS = number("n_images", ",d"), number("share_images", ".1%")


def _confident_errors(report: Selection, setup: Setup) -> Layout:
    names = text("backbone"), text("image_id", "image"), diagnosis("dx"), diagnosis("predicted", "predicted")
    specs = {"probability": ".0%"} | ({"middle": ".0%"} if report.has_middle(setup) else {})
    return _plain("explanations.csv", *names, *numbers(specs), kind="error")(report, setup)


def _classification_report(report: Selection, setup: Setup, backbone: str) -> Layout:
    table = setup.of(report.tables["classification_reports.csv"])
    support = table.loc[table["backbone"] == backbone, "support"]
    whole = (support % 1 == 0).all() or support.min() >= 20

    def name(cells: Cells, row: Row) -> str:
        return cells.labels(f"row.{row['row']}") if row["row"] in AVERAGES else cells.diagnosis(row["row"])

    scores = [number(of, ".2f", Ends(low=f"{of}_low", high=f"{of}_high")) for of in ("precision", "recall", "f1_score")]
    columns = [Column("column.diagnosis", name), *scores, number("support", ",.0f" if whole else ",.1f")]
    columns += numbers({"published_f1_score": ".2f", "f1_score_difference": "+.2f"}, optional=True)
    return _plain("classification_reports.csv", *columns, backbone=backbone)(report, setup)


_METRIC_OF = dict(zip(AVERAGES, ("accuracy", "macro_f1", "weighted_f1"), strict=True))


def _published(report: Selection, setup: Setup) -> Layout:
    table = setup.of(report.tables["classification_reports.csv"])
    table = table[table["published_f1_score"].notna() & table["row"].isin(AVERAGES)]
    table = table.assign(metric=table["row"].map(_METRIC_OF))
    table = _in_order(table, ["backbone", "row"], [*report.published_backbones, *AVERAGES])
    columns = [text("backbone"), word("metric", "row"), number("f1_score", ".3f", head="column.ours")]
    columns += [number("published_f1_score", ".2f", head="column.published")]
    columns += [number("f1_score_difference", "+.2f", head="column.difference")]
    return Layout("classification_reports.csv", table.to_dict("records"), columns)


def _effects(report: Selection, column: str) -> Layout:
    table = report.tables["effects.csv"]
    table = table[(table["column"] == column) & table["metric"].isin(["accuracy", "macro_f1"])]
    several = [word("strategy")] if column != "arm" and len(report.study.strategies) > 1 else []
    names = [text("backbone"), *several, word("metric", "row")]
    names.append(word("tested" if column == "arm" else "split_policy"))
    first = table.iloc[0]
    values = [number(f"value_{end}", ".3f", head=f"{column}.{first[end]}") for end in "ab"]
    p = "column.p_holm" if len(report.study.backbones) > 1 else "column.p"
    p_value = Column(p, lambda cells, row: cells.p_value(row["p_holm"]), number=True)
    return Layout("effects.csv", table.to_dict("records"), [*names, *values, _DIFFERENCE, p_value])


def _runs(report: Selection) -> Layout:
    table = report.tables["runs.csv"]
    seconds = [number(name, ",.1f", head=name) for name in table.columns if name.endswith("_s")]
    seconds = [replace(column, head=_step(report, column.head), named=True) for column in seconds]
    columns = [text("backbone"), word("strategy"), *seconds, number("core_hours", ",.2f")]
    columns += [_moment("started"), _moment("finished")]
    return Layout("runs.csv", table.to_dict("records"), columns)


def _step(report: Selection, name: str) -> str:
    """Return the heading of a duration: ``features_native_s`` is the features' step under native scaling."""
    step, *scaling = name.removesuffix("_s").split("_")
    words = [report.labels.known("step", step), *(report.labels.known("scaling", word) for word in scaling)]
    return f"{', '.join(words)} (s)"


def _moment(name: str) -> Column:
    """Show a moment in ISO 8601 to the minute: ``2026-01-02 03:04``."""
    html = Markup('<time datetime="{}">{}</time>')
    return Column(f"column.{name}", lambda cells, row: html.format(row[name], str(row[name])[:16].replace("T", " ")))


def _fingerprints(report: Selection) -> Layout:
    groups = {"split": "split_policy", "data": "dataset"}

    def name(cells: Cells, row: Row) -> str:
        group = groups.get(row["kind"], "strategy")
        return ", ".join(cells.labels.known(group, word) for word in row["name"].split(", "))

    def value(cells: Cells, row: Row) -> Markup:
        source, _, rest = row["value"].partition(" ") if row["kind"] == "weights" else ("", "", row["value"])
        code = Markup("<code>{}</code>").format(rest)
        return Markup("{} {}").format(cells.labels.known("source", source), code) if source else code

    columns = [word("kind"), Column("column.name", name), Column("column.value", value)]
    return Layout("fingerprints.csv", report.tables["fingerprints.csv"].to_dict("records"), columns)


# Tables that put several rows of a CSV file into one -----------------------------------------------------------------


def _scores(report: Selection, setup: Setup) -> Layout:
    rows = _together(report.compared(setup), ["backbone"], "metric")
    scores = [number("value", ".3f", Ends(), f"metric.{name}", of=name) for name in SCORES]
    spread = number("seed_sd", ".3f", of="macro_f1", optional=True)
    return Layout("scores.csv", rows, [known("backbone"), *scores, spread])


def _probabilities(report: Selection, setup: Setup) -> Layout:
    table = report.compared(setup)
    rows = _together(table[table["kind"] != "baseline"], ["backbone"], "metric")
    # An end that lies close to its value must not be rounded past it.
    scores = [number("value", ".3f", Ends(".3f"), f"metric.{name}", of=name) for name in PROBABILITY_SCORES]
    return Layout("scores.csv", rows, [known("backbone"), *scores])


def _ranking(report: Selection, setup: Setup) -> Layout:
    order = ["roc_auc", "average_precision", *CLASSES]
    table = _in_order(setup.of(report.tables["ranking.csv"]), ["metric", "dx"], order)

    def name(cells: Cells, row: Row) -> str:
        metric = cells.labels(f"metric.{row['metric']}")
        return f"{metric}, {row['dx']}"

    values = [number("value", ".2f", Ends(), backbone, of=backbone) for backbone in report.ranked(setup, "macro_f1")]
    columns = [Column("column.row", name), *(replace(column, named=True) for column in values)]
    return Layout("ranking.csv", _together(table, ["metric", "dx"], "backbone"), columns)


def _decisions(report: Selection, setup: Setup, decision: str) -> Layout:
    table = setup.of(report.tables["decisions.csv"])
    table = table[(table["seed"] == "all") & (table["dataset"] == "internal") & (table["decision"] == decision)]
    order = ["diagnosis", "sensitivity_95", *report.ranked(setup, "macro_f1"), ENSEMBLE]
    table = _in_order(table[table["point"].isin(order)], ["point", "backbone"], order)

    def point(cells: Cells, row: Row) -> str:
        return cells.labels(f"point.{row['point']}", sensitivity=cells.labels.number(SENSITIVITY, ".0%"))

    def count(name: str, whole: str) -> Column:
        def cell(cells: Cells, row: Row) -> Markup:
            of = row[whole]["value"]
            whole_shown = cells.number(of, ",.0f" if of % 1 == 0 else ",.1f", "whole")
            shown = Markup("{} / {}").format(cells.number(row[name]["value"], report.counted), whole_shown)
            return shown + Ends(report.counted).write(cells, row[name])

        return Column(f"column.{name}", cell, number=True)

    shares = [number("value", ".0%", Ends(".0%"), f"column.{name}", of=name) for name in ("sensitivity", "specificity")]
    counts = [count("missed", "tested"), count("flagged_benign", "benign")]
    columns = [known("backbone"), Column("column.point", point), *shares, *counts]
    return Layout("decisions.csv", _together(table, ["backbone", "point"], "metric"), columns)


def _abstention(report: Selection, setup: Setup) -> Layout:
    table = setup.of(report.tables["abstention.csv"])
    table = table[(table["seed"] == "all") & (table["dataset"] == "internal")]
    table = _in_order(table, ["backbone", "score"], [*report.ranked(setup, "macro_f1"), ENSEMBLE, *CONFIDENCES])
    rows = [
        {"augrc": _NO_VALUE, "difference": _NO_VALUE, **row}
        for row in _together(table, ["backbone", "score"], "metric")
    ]
    values = [number("value", ".3f", Ends(".3f"), "column.augrc", of="augrc")]
    values += [number("value", "+.4f", Ends("+.4f"), "column.difference", of="difference")]
    values += [number("value", ".1%", head="column.answered", of="answered")]
    values += [number("value", ".1%", Ends(".1%"), "column.error_answered", of="error_answered")]
    return Layout("abstention.csv", rows, [known("backbone"), word("score", group="confidence"), *values])


def _prediction_sets(report: Selection, setup: Setup, backbone: str) -> Layout:
    table = setup.of(report.tables["conformal.csv"])
    table = table[(table["seed"] == "all") & (table["backbone"] == backbone)]
    own, other = (table[(table["dataset"] == "internal") == inside] for inside in (True, False))
    own = pd.concat([own, other[other["metric"] == "coverage"].assign(metric="external")])
    order = [*CLASSES, "all"]
    rows = [{"external": _NO_VALUE, "calibrated": _NO_VALUE, **row} for row in _together(own, ["class"], "metric")]
    rows.sort(key=lambda row: order.index(row["class"]))
    values = [number("value", ",.0f", head="column.calibrated", of="calibrated")]
    values += [number("value", ".0%", Ends(".0%"), "column.coverage", of="coverage")]
    values.append(
        Column("column.verdict", lambda cells, row: cells.labels(f"holds.{row['coverage']['verdict'] or 'open'}"))
    )
    values.append(number("value", ".0%", Ends(".0%"), "column.external", of="external", optional=True))
    values += [number("value", ".1f", Ends(".1f"), "column.set_size", of="size")]
    values += [number("value", ".0%", head="column.single", of="single")]
    return Layout("conformal.csv", rows, [diagnosis("class"), *values])


def _shift(report: Selection, setup: Setup) -> Layout:
    order = [*report.ranked(setup, "macro_f1"), ENSEMBLE]
    table = _in_order(setup.of(report.tables["shift.csv"]), ["backbone"], order)
    names = [name for name in table["part"].unique() if name != "prior_correction"]
    parts = [number("value", "+.3f", Ends("+.3f"), f"part.{name}", of=name) for name in names]
    rows = _together(table, ["backbone", "metric"], "part")
    return Layout("shift.csv", rows, [known("backbone"), word("metric", "row"), *parts])


def _priors(report: Selection, setup: Setup, backbone: str) -> Layout:
    specs = {"internal": ".1%", "external": ".1%", "estimated": ".1%"}
    return _plain("priors.csv", diagnosis("dx"), *numbers(specs), backbone=backbone)(report, setup)


def _prevalence(report: Selection, setup: Setup, backbone: str) -> Layout:
    table = report.own("prevalence.csv", backbone=backbone)
    rows = _together(table, ["decision", "prevalence_percent"], "metric")

    def ends(spec: str, *names: str) -> list[Column]:
        heads = {name: f"column.{name}" for name in names} | {"missed": "column.missed_per_lesions"}
        return [number("value", spec, Ends(spec), heads[name], of=name) for name in names]

    columns = [word("decision"), number("prevalence_percent", "d"), *ends(".1%", "ppv"), *ends(".2%", "npv")]
    columns += [*ends(".0f", "referrals", "false_alarms"), *ends(".1f", "missed", "needed_to_refer")]
    return Layout("prevalence.csv", rows, columns)


def _risk(report: Selection, setup: Setup) -> Layout:
    order = [*report.ranked(setup, "macro_f1"), ENSEMBLE]
    rows = _together(_in_order(report.own("risk.csv", seed="all"), ["backbone"], order), ["backbone"], "metric")
    names = {"brier": ".3f", "slope": ".2f", "intercept": "+.2f"}
    every = {"mean_risk": ".3f", **names} | {f"{name}_scaled": spec for name, spec in names.items()}
    shown = [name for name in every if all(name in row for row in rows)]
    values = [number("value", every[name], Ends(every[name]), f"column.{name}", of=name) for name in shown]
    return Layout("risk.csv", rows, [known("backbone"), *values])


def _robustness(report: Selection, backbone: str) -> Layout:
    table = report.changed(backbone)
    table = table[(table["kind"] != "corruption") | table["severity"].isin([0, max(table["severity"])])]
    rows, names = _together(table, ["kind", "change", "severity"], "metric"), table["change"].unique().tolist()
    rows.sort(key=lambda row: (names.index(row["change"]), row["severity"]))

    def severity(cells: Cells, row: Row) -> str:
        if row["kind"] != "corruption":
            return "–"
        return str(row["severity"]) if row["severity"] else cells.labels("column.every_severity")

    columns = [word("change"), Column("column.severity", severity)]
    columns.append(number("value", ".2f", head="metric.macro_f1", of="macro_f1"))
    for name, spec in (("macro_f1", "+.2f"), ("melanoma_risk", "+.3f"), ("other_risk", "+.3f")):
        columns.append(number("difference", spec, Ends(spec), f"column.changed_{name}", of=name))
    return Layout("robustness.csv", rows, columns)


def _comparisons(report: Selection, setup: Setup) -> Layout:
    table = report.tables["comparisons.csv"]
    table = setup.of(table[table["dataset"] == "internal"])

    def difference(metric: str) -> Column:
        def cell(cells: Cells, row: Row) -> Markup | str:
            row = row[metric]
            shown = cells.number(row["difference"], "+.3f")
            words = Markup(" {}").format(cells.p_value(row["p_holm"]))
            ends = cells.interval(row["ci_low"], row["ci_high"], "+.3f", words=words)
            return (Markup("<strong>{}</strong>").format(shown) if row["real"] else shown) + ends

        return Column(f"metric.{metric}", cell, number=True)

    pair = Column("column.pair", lambda cells, row: Markup("{backbone_a} − {backbone_b}").format(**row))
    rows = _together(table, ["backbone_a", "backbone_b"], "metric")
    return Layout("comparisons.csv", rows, [pair, *(difference(metric) for metric in table["metric"].unique())])


LAYOUTS: dict[str, Callable[..., Layout]] = {
    "diagnoses": _plain(
        "classes.csv", diagnosis("dx"), *_COUNTS, number("n_lesions", ",d"), number("images_per_lesion", ".2f")
    ),
    "metadata": _plain("metadata_counts.csv", word("field"), known("value", lambda row: row["field"]), *_COUNTS),
    "subsets": _plain(
        "subsets.csv",
        word("split_policy"),
        word("subset"),
        *numbers({"n_images": ",.0f", "n_lesions": ",.0f", "share_known": ".1%"}),
        seed="all",
    ),
    "backbones": _plain(
        "backbones.csv",
        text("backbone"),
        *numbers({"n_parameters_with_classifier": ",d", "n_parameters_presentation": ",d"}, optional=True),
        *numbers({"parameters_difference": "+,d", "n_parameters": ",d"}, optional=True),
        *numbers({"n_head": ",d", "imagenet_size": "d"}, optional=True),
        word("transform"),
    ),
    "rates": _plain(
        "rates.csv",
        word("strategy"),
        text("backbone"),
        *numbers({"rate": "g", "val_macro_f1": ".3f", "epochs": ".0f", "n_networks": ",d", "n_kept": ",d"}),
    ),
    "classification_report": _classification_report,
    "scores": _scores,
    "comparisons": _comparisons,
    "effects": _effects,
    "probabilities": _probabilities,
    "ranking": _ranking,
    "decisions": _decisions,
    "abstention": _abstention,
    "prediction_sets": _prediction_sets,
    "shift": _shift,
    "priors": _priors,
    "prevalence": _prevalence,
    "risk": _risk,
    "robustness": _robustness,
    "external": _plain(
        "external.csv",
        known("backbone"),
        word("metric", "row"),
        *numbers({"internal": ".3f", "external": ".3f"}),
        _DIFFERENCE,
    ),
    "confident_errors": _confident_errors,
    "published": _published,
    "costs": _plain(
        "costs.csv",
        word("strategy"),
        text("backbone"),
        number("value", ".3f", Ends(), "metric.macro_f1"),
        *numbers({"train_s": ",.0f", "core_hours": ",.2f", "n_parameters_whole": ",d"}, optional=True),
        *numbers({"model_mb": ",.1f", "images_per_second": ",.0f"}, optional=True),
    ),
    "other_splits": _plain(
        "other_splits.csv",
        text("backbone"),
        *numbers({"n_splits": "d", "n_images": ",.0f", "mean": ".3f", "sd": ".3f", "lowest": ".3f", "highest": ".3f"}),
        number("typical_gap", ".3f"),
        metric="macro_f1",
    ),
    "runs": _runs,
    "fingerprints": _fingerprints,
}
"""How each table of the report is laid out; called with the report's selection and what captions call its context."""
