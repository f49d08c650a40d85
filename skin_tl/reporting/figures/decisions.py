"""Figures of probabilities and decisions: calibration, ROC curves and operating points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.ticker import MaxNLocator

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import SENSITIVITY

if TYPE_CHECKING:
    import pandas as pd


@draw.themed
def calibration(table: pd.DataFrame, labels: Labels = ENGLISH, ece: Mapping[str, float] | None = None) -> draw.Drawing:
    """Draw how often a backbone is right where it gives its diagnosis a probability, before temperature scaling.

    Parameters
    ----------
    table
        Of one set-up: backbone, confidence (mean of the bin), accuracy, n_images (mean over the seeds); one row per
        bin.
    ece
        Backbone → expected calibration error, for the legend.

    Returns
    -------
    Drawing
        The area of a marker grows with the images of its bin.
    """
    table = table[table["n_images"] > 0]
    backbones = table["backbone"].unique()
    figure, axes = draw.unit_figure(4.2, 4.6 + 0.18 * len(backbones), labels)
    handles = []
    for backbone in backbones:
        colour, marker = draw.backbone_style(backbone)
        part = table[table["backbone"] == backbone].sort_values("confidence")
        points = part["confidence"], part["accuracy"]
        axes.plot(*points, color=colour, linewidth=1.2, alpha=0.8)
        areas = 8 + 100 * part["n_images"] / table["n_images"].max()
        axes.scatter(*points, areas, color=colour, marker=marker, edgecolors="white", zorder=3)
        text = draw.backbone_name(backbone, labels)
        if ece is not None and np.isfinite(ece.get(backbone, np.nan)):
            text = labels("axis.entry", name=text, value=labels("axis.ece", value=labels.number(ece[backbone], ".3f")))
        style = {"color": colour, "marker": marker, "markeredgecolor": "white", "linewidth": 1.2}
        handles.append(draw.legend_line(text, markersize=7, **style))
    n_images = table.groupby("backbone")["n_images"].sum().mean()
    draw.write_below(axes, labels("axis.confidence", images=labels.number(n_images, ",.0f")), 54)
    axes.set_ylabel(labels("axis.right"))
    draw.titled_legend(figure, handles, labels("axis.before_scaling"))
    return figure


@draw.themed
def roc(points: pd.DataFrame, decisions: pd.DataFrame, labels: Labels = ENGLISH, selected: str = "") -> draw.Drawing:
    """Draw the ROC curve of each backbone: its mean over the seeds, thin lines for single seeds.

    Parameters
    ----------
    points
        Rows of `skin_tl.schema.ROC_COLUMNS` of one set-up and decision.
    decisions
        Rows of `skin_tl.schema.DECISION_COLUMNS` of the same.
    selected
        The backbone that is drawn on top of the others.

    Returns
    -------
    Drawing
        The mean is that of the true positive rates at each false positive rate.  Large markers: the operating point
        ``sensitivity_95``, mean over the seeds.
    """
    decision = points["decision"].iloc[0]
    cells = _mean_cells(decisions)
    areas = cells.xs(("any", "roc_auc"), level=("point", "metric"))
    backbones = [name for name in areas.sort_values("value").index if name in set(points["backbone"])]
    figure, axes = draw.unit_figure(4.2, 4.75 + 0.18 * len(backbones), labels)
    rates = np.linspace(0, 1, 401)
    handles, chosen = [], False
    for place, backbone in enumerate(backbones):
        colour, marker = draw.backbone_style(backbone)
        curves, above = [], 2 * (backbone == selected)
        for _, curve in points[points["backbone"] == backbone].groupby("seed"):
            found = [curve["false_positive_rate"], curve["true_positive_rate"]]
            curves.append(np.interp(rates, *found))
            axes.plot(*found, color=colour, linewidth=0.6, alpha=0.3)
        mean = np.mean(curves, axis=0)
        axes.plot([0, *rates], [0, *mean], color=colour, linewidth=1.8, zorder=3 + above)
        at, edge = _operating_point(cells, backbone), draw.INK
        chosen = chosen or at is not None
        if at is None:  # then a marker anywhere, each at another place, tells the curves apart
            middle = len(rates) * (place + 1) // (len(backbones) + 1)
            at, edge = (rates[middle], mean[middle]), "white"
        axes.plot(*at, marker, color=colour, markersize=8, markeredgecolor=edge, markeredgewidth=1.1, zorder=4 + above)
        style = {"color": colour, "marker": marker, "markeredgecolor": "white", "linewidth": 1.8}
        handles.append(draw.legend_line(_area(areas.loc[backbone], backbone, labels), markersize=8, **style))
    tested = cells.xs(("diagnosis", "tested"), level=("point", "metric"))["value"].mean()
    sizes = {"lesions": areas["n_lesions"].max(), "seeds": points["seed"].nunique()}
    sizes = {name: labels.number(size, ",.0f") for name, size in sizes.items()} | {"positives": _count(labels, tested)}
    draw.write_below(axes, labels(f"axis.roc_flagged_{decision}", **sizes), 54)
    axes.set_ylabel(draw.in_lines(labels(f"axis.roc_found_{decision}"), 44))
    if chosen:
        text = labels("axis.chosen", sensitivity=labels.number(SENSITIVITY, ".0%"))
        style = {"linestyle": "", "marker": "o", "markersize": 9, "color": draw.GRID, "markeredgecolor": draw.INK}
        handles.insert(0, draw.legend_line(text, **style))
    draw.titled_legend(figure, handles[::-1], labels("axis.area", level=draw.confidence_level(labels)))
    return figure


def _area(area: pd.Series, backbone: str, labels: Labels) -> str:
    """Return the entry of a legend: a backbone with its ROC AUC and the interval of that."""
    text = labels("axis.entry", name=draw.backbone_name(backbone, labels), value=labels.number(area["value"], ".3f"))
    low, high = area["ci_low"], area["ci_high"]
    if not np.isfinite([low, high]).all():
        return text
    return f"{text} ({labels.number(low, '.3f')}–{labels.number(high, '.3f')})"


def _operating_point(cells: pd.DataFrame, backbone: str) -> tuple[float, float] | None:
    """Return false and true positive rate of the point ``sensitivity_95``, None where it has none."""
    key = (backbone, "sensitivity_95")
    if (*key, "sensitivity") not in cells.index:
        return None
    return 1 - cells.loc[(*key, "specificity"), "value"], cells.loc[(*key, "sensitivity"), "value"]


def _mean_cells(decisions: pd.DataFrame) -> pd.DataFrame:
    """Return the means over the seeds by backbone, operating point and metric."""
    rows = decisions[decisions["seed"].astype(str) == "all"]
    return rows.set_index(["backbone", "point", "metric"]).sort_index()


def _count(labels: Labels, number: float, beside: Sequence[float] | np.ndarray = ()) -> str:
    """Write a count that may be a mean over seeds, with a decimal where it or a small one `beside` it needs that."""
    broken = any(count < 20 and count != round(count) for count in (number, *beside) if np.isfinite(count))
    return labels.number(number, ".1f" if broken and number < 20 else ",.0f")


@draw.themed
def operating_points(decisions: pd.DataFrame, labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw missed lesions and false alarms of a decision, at each operating point.

    Parameters
    ----------
    decisions
        Rows of `skin_tl.schema.DECISION_COLUMNS` of one set-up and decision.

    Returns
    -------
    list of Drawing
        Target lesions missed (number and share), and share of the benign lesions that is flagged (and
        their number); means over the seeds, per test subset.
    """
    cells, decision = _mean_cells(decisions), decisions["decision"].iloc[0]
    backbones = decisions["backbone"].unique()[::-1]
    points = [point for point in ("diagnosis", "sensitivity_95") if point in cells.index.unique("point")]
    missed = _points_figure(cells, backbones, points, "missed", "missed", labels)
    flagged = _points_figure(cells, backbones, points, "flagged_benign_share", "flagged_benign", labels)
    tested, benign = (cells.xs(whole, level="metric")["value"].mean() for whole in ("tested", "benign"))
    for figure, whole, spec, most in ((missed, tested, ",.0f", tested), (flagged, benign, ".0%", 1)):
        axes = figure.axes[0]
        locator = MaxNLocator(5, steps=[1, 2, 5, 10], integer=figure is missed)
        end = min(axes.get_xlim()[1], most)
        axes.set_xticks([tick for tick in locator.tick_values(*axes.get_xlim()) if tick <= end])
        draw.write_numbers(axes.xaxis, labels, spec)
        label = f"axis.missed_{decision}" if figure is missed else "axis.flagged_benign_share"
        draw.write_below(axes, labels(label, n=_count(labels, whole)))
        meanings = [labels(f"point.{point}", sensitivity=labels.number(SENSITIVITY, ".0%")) for point in points]
        draw.marker_legend(figure, meanings, ["white" if point == "diagnosis" else draw.SOFT for point in points])
    return [missed, flagged]


def _points_figure(
    cells: pd.DataFrame, backbones: Sequence[str], points: Sequence[str], shown: str, counted: str, labels: Labels
) -> draw.Drawing:
    """Draw one number per backbone and operating point, with its interval and in words.

    Parameters
    ----------
    cells
        From `_mean_cells`.
    shown, counted
        The metric that is drawn, and that which counts lesions.
    """
    figure, axes = draw.rows_figure(backbones, labels, width=4.0, margin=1.2, height=0.52)
    ends = cells.loc[cells.index.isin([shown], level="metric"), ["value", "ci_high"]].to_numpy(float)
    counts = cells.loc[cells.index.isin([counted], level="metric"), "value"].to_numpy(float)
    axes.set_xlim(0, np.nanmax([*ends.ravel(), 1e-9]) / 0.68)
    for place, backbone in enumerate(backbones):
        colour, marker = draw.backbone_style(backbone)
        for shift, point in zip((0.19, -0.19) if len(points) > 1 else (0.0,), points, strict=True):
            row = cells.loc[(backbone, point, shown)]
            if np.isnan(row["value"]):
                continue
            draw.interval_line(axes, row["ci_low"], row["ci_high"], place + shift, colour, 1.6)
            face = "white" if point == "diagnosis" else colour
            axes.plot(row["value"], place + shift, marker, markersize=7, color=colour, markerfacecolor=face)
            count = cells.loc[(backbone, point, counted), "value"]
            share, number = row["value"], _count(labels, count, counts)
            if shown == "missed":
                share = count / cells.loc[(backbone, point, "tested"), "value"]
            share = labels.number(share, ".0%")
            text = f"{number} ({share})" if shown == "missed" else f"{share} ({number})"
            draw.beside_marker(axes, np.nanmax([row["value"], row["ci_high"]]), place + shift, text)
    return figure
