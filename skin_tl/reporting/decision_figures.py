"""Figures of decisions: ROC curves, operating points, subgroups and calibration.

Takes the tables of the report and the labels of a language; gives drawings.
"""

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from skin_tl.evaluation.subgroups import AGE_BANDS
from skin_tl.reporting.drawing import (
    GREY,
    GRID,
    INK,
    SOFT,
    backbone_name,
    backbone_style,
    interval_line,
    marker_legend,
    new_figure,
    rows_figure,
    score_axis,
    themed,
    with_room,
    write_below,
    write_numbers,
)
from skin_tl.reporting.result_figures import (
    confidence_level,
)
from skin_tl.reporting.texts import labels as labels_of
from skin_tl.schema import SENSITIVITY

# Decisions ------------------------------------------------------------------------------------------------------


@themed
def roc(points, decisions, labels=None):
    """Draw the ROC curve of each backbone: its mean over the seeds, thin lines for single seeds.

    Parameters
    ----------
    points : pandas.DataFrame
        Rows of `skin_tl.schema.ROC_COLUMNS` of one set-up and decision.
    decisions : pandas.DataFrame
        Rows of `skin_tl.schema.DECISION_COLUMNS` of the same.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
        The mean is that of the true positive rates at each false positive rate.  Large markers: the operating point
        ``sensitivity_95``, mean over the seeds.
    """
    labels = labels or labels_of()
    decision = points["decision"].iloc[0]
    cells = _mean_cells(decisions)
    areas = cells.xs(("any", "roc_auc"), level=("point", "metric"))
    backbones = [name for name in areas.sort_values("value").index if name in set(points["backbone"])]
    figure, axes = new_figure(4.2, 4.75 + 0.18 * len(backbones))
    rates = np.linspace(0, 1, 401)
    handles, chosen = [], False
    for place, backbone in enumerate(backbones):
        colour, marker = backbone_style(backbone)
        curves = []
        for _, curve in points[points["backbone"] == backbone].groupby("seed"):
            found = [curve["false_positive_rate"], curve["true_positive_rate"]]
            curves.append(np.interp(rates, *found))
            axes.plot(*found, color=colour, linewidth=0.6, alpha=0.3)
        axes.plot([0, *rates], [0, *np.mean(curves, axis=0)], color=colour, linewidth=1.8)
        at = _operating_point(cells, backbone)
        if at is None:  # then a marker anywhere, each at another place, tells the curves apart
            middle = len(rates) * (place + 1) // (len(backbones) + 1)
            at, edge = (rates[middle], np.mean(curves, axis=0)[middle]), "white"
        else:
            chosen, edge = True, INK
        axes.plot(*at, marker, color=colour, markersize=10, markeredgecolor=edge, markeredgewidth=1.3, zorder=5)
        area, low, high = (areas.loc[backbone, column] for column in ("value", "ci_low", "ci_high"))
        text = labels("axis.entry", name=backbone_name(backbone, labels), value=labels.number(area, ".3f"))
        if np.isfinite([low, high]).all():
            text += f" ({labels.number(low, '.3f')}–{labels.number(high, '.3f')})"
        style = {"color": colour, "marker": marker, "markeredgecolor": "white", "linewidth": 1.8}
        handles.append(mpl.lines.Line2D([], [], markersize=8, label=text, **style))
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    write_numbers(axes.xaxis, labels, ".1f")
    write_numbers(axes.yaxis, labels, ".1f")
    tested = cells.xs(("diagnosis", "tested"), level=("point", "metric"))["value"].mean()
    sizes = {"lesions": areas["n_lesions"].max(), "seeds": points["seed"].nunique()}
    sizes = {name: labels.number(size, ",.0f") for name, size in sizes.items()} | {"positives": _count(labels, tested)}
    write_below(axes, labels(f"axis.roc_flagged_{decision}", **sizes), 54)
    axes.set_ylabel(labels(f"axis.roc_found_{decision}"))
    if chosen:
        chosen = mpl.lines.Line2D([], [], linestyle="", marker="o", markersize=9, color=GRID, markeredgecolor=INK)
        chosen.set_label(labels("axis.chosen", sensitivity=labels.number(SENSITIVITY, ".0%")))
        handles.insert(0, chosen)
    title = labels("axis.area", level=confidence_level(labels))
    figure.legend(handles=handles[::-1], title=title, title_fontsize=8.5, loc="outside upper center")
    return figure


def _operating_point(cells, backbone):
    """Return false and true positive rate of the point ``sensitivity_95``, None where it has none."""
    key = (backbone, "sensitivity_95")
    if (*key, "sensitivity") not in cells.index:
        return None
    return 1 - cells.loc[(*key, "specificity"), "value"], cells.loc[(*key, "sensitivity"), "value"]


def _mean_cells(decisions):
    """Return the means over the seeds by backbone, operating point and metric."""
    rows = decisions[decisions["seed"].astype(str) == "all"]
    return rows.set_index(["backbone", "point", "metric"]).sort_index()


def _count(labels, number, beside=()):
    """Write a count that may be a mean over seeds, with a decimal where it or a small one `beside` it needs that."""
    broken = any(count < 20 and count != round(count) for count in (number, *beside) if np.isfinite(count))
    return labels.number(number, ".1f" if broken and number < 20 else ",.0f")


@themed
def operating_points(decisions, labels=None):
    """Draw what a decision misses and what it flags in vain, at each operating point.

    Parameters
    ----------
    decisions : pandas.DataFrame
        Rows of `skin_tl.schema.DECISION_COLUMNS` of one set-up and decision.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
        Target lesions missed (number and share), and share of the benign lesions that is flagged (and
        their number); means over the seeds, per test subset.
    """
    labels = labels or labels_of()
    decision = decisions["decision"].iloc[0]
    cells = _mean_cells(decisions)
    backbones = list(dict.fromkeys(decisions["backbone"]))[::-1]
    names = [backbone_name(backbone, labels) for backbone in backbones]
    points = [point for point in ("diagnosis", "sensitivity_95") if point in cells.index.unique("point")]
    meanings = [labels(f"point.{point}", sensitivity=labels.number(SENSITIVITY, ".0%")) for point in points]
    drawings = []
    for shown, whole in (("missed", "tested"), ("flagged_benign_share", "benign")):
        figure, axes = rows_figure(names, width=4.0, margin=1.2, height=0.52)
        ends = cells.loc[cells.index.isin([shown], level="metric"), ["value", "ci_high"]].to_numpy(float)
        counted = "missed" if shown == "missed" else "flagged_benign"
        counts = cells.loc[cells.index.isin([counted], level="metric"), "value"].to_numpy(float)
        axes.set_xlim(0, np.nanmax([*ends.ravel(), 1e-9]) / 0.68)
        for place, backbone in enumerate(backbones):
            colour, marker = backbone_style(backbone)
            for shift, point in zip((0.19, -0.19) if len(points) > 1 else (0.0,), points, strict=True):
                row, total = (cells.loc[(backbone, point, metric)] for metric in (shown, whole))
                if np.isnan(row["value"]):
                    continue
                interval_line(axes, row["ci_low"], row["ci_high"], place + shift, colour, 1.6)
                face = "white" if point == "diagnosis" else colour
                axes.plot(row["value"], place + shift, marker, markersize=7, color=colour, markerfacecolor=face)
                if shown == "missed":
                    share = labels.number(row["value"] / total["value"], ".0%")
                    text = f"{_count(labels, row['value'], counts)} ({share})"
                else:
                    flagged = cells.loc[(backbone, point, "flagged_benign"), "value"]
                    text = f"{labels.number(row['value'], '.0%')} ({_count(labels, flagged, counts)})"
                right = np.nanmax([row["value"], row["ci_high"]])
                style = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 8}
                axes.annotate(text, (right, place + shift), **style)
        total = cells.xs(whole, level="metric")["value"].mean()
        ticks = MaxNLocator(5, steps=[1, 2, 5, 10], integer=shown == "missed").tick_values(*axes.get_xlim())
        axes.set_xticks([tick for tick in ticks if tick <= min(axes.get_xlim()[1], total if shown == "missed" else 1)])
        write_numbers(axes.xaxis, labels, ",.0f" if shown == "missed" else ".0%")
        label = f"axis.missed_{decision}" if shown == "missed" else "axis.flagged_benign_share"
        write_below(axes, labels(label, n=_count(labels, total)))
        marker_legend(figure, meanings, ["white" if point == "diagnosis" else SOFT for point in points])
        drawings.append(figure)
    return drawings


# Who the scores hold for, and how far probabilities can be trusted ----------------------------------------------


@themed
def subgroups(table, labels=None, overall=None, backbone=None, metric="macro_f1"):
    """Draw a score by sex, age, body site and way of diagnosis.

    Parameters
    ----------
    table : pandas.DataFrame
        subgroup (``sex=female``), value, ci_low, ci_high, n_lesions, conclusive (bool); of one backbone and metric.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.
    overall : float, optional
        The score over all images, a vertical line.
    backbone : str, optional
        Gives title, colour and marker.
    metric : str
        Names the score: a label below ``metric``.

    Returns
    -------
    Drawing
        Lesions at the right; hollow and grey where they are too few for a conclusion.
    """
    labels = labels or labels_of()
    colour, marker = backbone_style(backbone) if backbone else (INK, "o")
    rows = _grouped(table)
    figure, axes = new_figure(4.6, 1.5 + 0.205 * len(rows))
    names, sizes = [], []
    for place, row in zip(range(len(rows))[::-1], rows, strict=True):
        variable, value = row["subgroup"].split("=", 1)
        if value == "":
            names.append(labels.known("subgroup", variable))
            sizes.append(labels("axis.lesions") if place == len(rows) - 1 else "")
            continue
        names.append(_subgroup_name(variable, value, labels))
        sizes.append(labels.number(row["n_lesions"], ",.0f"))
        shade, face = (colour, colour) if row["conclusive"] else (GREY, "white")
        interval_line(axes, row["ci_low"], row["ci_high"], place, shade, 1.6)
        axes.plot(row["value"], place, marker, markersize=6, color=shade, markerfacecolor=face)
    axes.set_yticks(range(len(rows))[::-1], names)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row["subgroup"].endswith("=") else "normal")
    axes.set_ylim(-0.7, len(rows) - 0.3)
    right = axes.twinx()
    right.set_yticks(range(len(rows))[::-1], sizes)
    right.set_ylim(axes.get_ylim())
    for label in right.get_yticklabels():
        label.set_ha("right")
    right.tick_params(axis="y", pad=42)
    for one in (axes, right):
        one.grid(visible=False, axis="y")
        one.tick_params(axis="y", length=0)
        one.spines[["left", "right"]].set_visible(False)
    others = []
    if overall is not None:
        axes.axvline(overall, color=INK, linewidth=1.2, linestyle=(0, (5, 2)), zorder=1)
        text = labels("axis.overall", value=labels.number(overall, ".3f"))
        others = [mpl.lines.Line2D([], [], color=INK, linestyle=(0, (5, 2)), label=text)]
    ends = table[["value", "ci_low", "ci_high"]].to_numpy(float).ravel()
    score_axis(axes, labels, *with_room([*ends, *([overall] if overall is not None else [])], 0.04))
    write_below(axes, labels("axis.of_subgroup", metric=labels(f"metric.{metric}"), level=confidence_level(labels)))
    axes.set_title(backbone_name(backbone, labels) if backbone else "")
    meanings = [labels("axis.conclusive"), labels("axis.inconclusive")]
    marker_legend(figure, meanings, [SOFT, "white"], others)
    return figure


_WORDS = {"sex": "sex", "age": "age", "site": "localization", "dx_type": "dx_type"}
"""Variables of the subgroups, in the order that they are drawn in, and where the labels have words for their values."""


def _grouped(table):
    """Return the rows of subgroups as dicts, by variable, with a row ``<variable>=`` in front of each."""
    parts = table["subgroup"].str.split("=", n=1, expand=True)
    rows = []
    variables = [*_WORDS, *sorted(set(parts[0]) - set(_WORDS))]
    for variable in (name for name in variables if name in set(parts[0])):
        members = table.assign(name=parts[1])[parts[0] == variable].to_dict("records")
        bands = list(AGE_BANDS) if variable == "age" else []

        def place(row, bands=bands):
            band = bands.index(row["name"]) if row["name"] in bands else 0
            return row["name"] == "unknown", band, -row["n_lesions"], row["name"]

        rows += [{"subgroup": f"{variable}="}, *sorted(members, key=place)]
    return rows


def _subgroup_name(variable, value, labels):
    if variable == "age" and "-" in value:
        return value.replace("-", "–")
    return labels.known(_WORDS.get(variable, variable), value)


@themed
def calibration(table, labels=None, ece=None):
    """Draw how often a backbone is right where it gives its diagnosis a probability, before temperature scaling.

    Parameters
    ----------
    table : pandas.DataFrame
        Of one set-up: backbone, confidence (mean of the bin), accuracy, n_images (mean over the seeds); one row per
        bin.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.
    ece : dict of str to float, optional
        Backbone → expected calibration error, for the legend.

    Returns
    -------
    Drawing
        The area of a marker grows with the images of its bin.
    """
    labels = labels or labels_of()
    table = table[table["n_images"] > 0]
    backbones = list(dict.fromkeys(table["backbone"]))
    figure, axes = new_figure(4.2, 4.6 + 0.18 * len(backbones))
    handles = []
    for backbone in backbones:
        colour, marker = backbone_style(backbone)
        part = table[table["backbone"] == backbone].sort_values("confidence")
        axes.plot(part["confidence"], part["accuracy"], color=colour, linewidth=1.2, alpha=0.8)
        areas = 8 + 100 * part["n_images"] / table["n_images"].max()
        axes.scatter(
            part["confidence"], part["accuracy"], areas, color=colour, marker=marker, edgecolors="white", zorder=3
        )
        text = backbone_name(backbone, labels)
        if ece is not None and np.isfinite(ece.get(backbone, np.nan)):
            text = labels("axis.entry", name=text, value=labels("axis.ece", value=labels.number(ece[backbone], ".3f")))
        style = {"marker": marker, "markersize": 7, "markeredgecolor": "white", "linewidth": 1.2}
        handles.append(mpl.lines.Line2D([], [], color=colour, label=text, **style))
    axes.plot([0, 1], [0, 1], color=SOFT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    write_numbers(axes.xaxis, labels, ".1f")
    write_numbers(axes.yaxis, labels, ".1f")
    n_images = table.groupby("backbone")["n_images"].sum().mean()
    write_below(axes, labels("axis.confidence", images=labels.number(n_images, ",.0f")), 54)
    axes.set_ylabel(labels("axis.right"))
    title = labels("axis.before_scaling")
    figure.legend(handles=handles, title=title, title_fontsize=8.5, loc="outside upper center")
    return figure
