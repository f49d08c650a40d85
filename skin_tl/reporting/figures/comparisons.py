"""Figures of comparisons: between two levels of a factor, two data sets, and random splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.colors import to_rgb

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


@draw.themed
def contrast(table: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw how one score moves between two levels of a factor, a line per backbone.

    Parameters
    ----------
    table
        Rows of ``contrasts.csv`` of one factor, strategy, held level and metric.
    """
    figure, axes = draw.new_figure(5.6, 3.3)
    rows = table.sort_values("value_b")
    span = max(np.ptp(table[["value_a", "value_b"]].to_numpy()), 0.05)
    heights = draw.spread_out(rows["value_b"].to_numpy(), 0.075 * span)
    for row, height in zip(rows.to_dict("records"), heights, strict=True):
        _slope(axes, row["value_a"], row["value_b"], row["backbone"], 7)
        text = f"{draw.backbone_name(row['backbone'], labels)} {labels.number(row['difference'], '+.2f')}"
        axes.text(1.05, height, text, va="center", fontsize=8)
    axes.set_xticks([0, 1], _ends(table, labels))
    axes.set_xlim(-0.25, 1.85)
    axes.set_ylabel(labels("axis.of_score", metric=labels(f"metric.{table['metric'].iloc[0]}")))
    axes.grid(visible=False, axis="x")
    axes.spines["bottom"].set_bounds(-0.25, 1.1)
    draw.write_numbers(axes.yaxis, labels, ".2f")
    return figure


@draw.themed
def rank_changes(table: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw how the rank order of the backbones differs between two levels of a factor, the best on top.

    Parameters
    ----------
    table
        As for `contrast`.

    Returns
    -------
    Drawing
        At each end the rank, the backbone and its value.  Equal ranks stand below each other.
    """
    figure, axes = draw.new_figure(5.0, 1.1 + 0.4 * len(table))
    heights = {}
    for end in "ab":
        order = table.sort_values([f"rank_{end}", "backbone"])["backbone"]
        heights[end] = {backbone: len(table) - place for place, backbone in enumerate(order)}
    for row in table.to_dict("records"):
        backbone = row["backbone"]
        _slope(axes, heights["a"][backbone], heights["b"][backbone], backbone, 8)
        name = draw.in_lines(draw.backbone_name(backbone, labels))
        for end, x, side in (("a", -0.06, "right"), ("b", 1.06, "left")):
            value, rank = labels.number(row[f"value_{end}"], ".3f"), labels.number(row[f"rank_{end}"], "d")
            style = {"ha": side, "va": "center", "fontsize": 8, "linespacing": 1.05}
            axes.text(x, heights[end][backbone], f"{rank}. {name} {value}", **style)
    axes.set_xticks([0, 1], _ends(table, labels))
    axes.set_yticks([])
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(0.5, len(table) + 0.5)
    axes.set_xlabel(labels("axis.rank", metric=labels(f"metric.{table['metric'].iloc[0]}")))
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _slope(axes: Axes, a: float, b: float, backbone: str, size: float) -> None:
    """Draw a backbone's line from its height at the first level to that at the second."""
    colour, marker = draw.backbone_style(backbone)
    style: dict[str, Any] = {"linewidth": 1.8, "markeredgecolor": "white", "markersize": size}
    axes.plot([0, 1], [a, b], marker=marker, color=colour, **style)


def _ends(table: pd.DataFrame, labels: Labels) -> list[str]:
    """Return the names of the two levels that a table of contrasts compares, each above its number of test images."""
    names = []
    for end in "ab":
        images = labels.number(table[f"n_images_{end}"].mean(), ",.0f")
        level = labels(f"{table['factor'].iloc[0]}.{table[f'level_{end}'].iloc[0]}")
        names.append(f"{level}\n{labels('axis.n_images', images=images)}")
    return names


@draw.themed
def effects(table: pd.DataFrame, labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw the paired effect of one thing on a score, a row per backbone.

    Parameters
    ----------
    table
        Rows of `skin_tl.schema.CONTRAST_COLUMNS` of one configuration and metric: backbone, column, a, b, metric,
        value_a, value_b, difference (a less b), ci_low, ci_high, n_images, n_lesions.
    labels
        Knows the two as ``<column>.<a>`` and ``<column>.<b>``.

    Returns
    -------
    list of Drawing
        Both values (a full, b hollow), and the difference with its interval.
    """
    first = table.iloc[0]
    metric = labels(f"metric.{first['metric']}")
    full, hollow = (labels(f"{first['column']}.{first[end]}") for end in "ab")
    sizes = {name: labels.number(table[f"n_{name}"].mean(), ",.0f") for name in ("images", "lesions")}
    below = labels("axis.both", metric=metric, **sizes)
    difference = labels("axis.effect", metric=metric, level=draw.confidence_level(labels), a=full, b=hollow)
    rows = table.rename(columns={"value_a": "full", "value_b": "hollow"})
    return _paired(rows, (full, hollow), (below, difference), labels)


@draw.themed
def external(table: pd.DataFrame, labels: Labels = ENGLISH, winners: float | None = None) -> list[draw.Drawing]:
    """Draw what each backbone scores on its own test images and on those of another data set.

    Parameters
    ----------
    table
        backbone, metric, internal, external, difference (external less internal), ci_low, ci_high, n_images_internal,
        n_images_external.
    winners
        Balanced accuracy of the challenge's winners, a line where that is the score.

    Returns
    -------
    list of Drawing
        For each metric both values (external full), and the difference with its interval.
    """
    drawings = []
    for metric, part in table.groupby("metric", sort=False):
        name, ends = labels(f"metric.{metric}"), ("external", "internal")
        sizes = {end: labels.number(part[f"n_images_{end}"].mean(), ",.0f") for end in ends}
        below = labels("axis.both_sets", metric=name, **sizes)
        difference = labels("axis.drop", metric=name, level=draw.confidence_level(labels))
        line = None
        if winners is not None and metric == "balanced_accuracy":
            line = (winners, labels("axis.winners", value=labels.number(winners, ".3f")))
        rows = part.rename(columns={"external": "full", "internal": "hollow"})
        drawings += _paired(rows, [labels(f"axis.{end}") for end in ends], (below, difference), labels, line)
    return drawings


def _paired(
    rows: pd.DataFrame,
    names: Sequence[str],
    below: tuple[str, str],
    labels: Labels,
    line: tuple[float, str] | None = None,
) -> list[draw.Drawing]:
    """Draw two values per backbone (columns full and hollow) and their difference, as two panels with level rows.

    Parameters
    ----------
    rows
        The largest value of the column full is drawn at the top.
    names
        What full and hollow markers stand for.
    below
        What the x-axes of the two panels show.
    line
        A value that is drawn beside the others, and its name.
    """
    rows = rows.sort_values("full")
    style: dict[str, Any] = {"color": draw.SOFT, "linestyle": (0, (5, 2))}
    others = [] if line is None else [draw.legend_line(line[1], **style)]
    drawings = []
    for text in below:
        figure, axes = draw.rows_figure(rows["backbone"], labels, width=4.0)
        draw.write_below(axes, text)
        legend = draw.marker_legend(figure, names, [draw.SOFT, "white"], others)
        drawings.append(figure)
    n_lines = draw.level_labels(drawings) + len(others)
    for drawing in drawings:
        drawing.set_figheight(drawing.get_figheight() + 0.18 * n_lines)
    legend.set_visible(False)  # it keeps the rows of the second panel level with those of the first
    values, difference = (drawing.axes[0] for drawing in drawings)
    for place, row in enumerate(rows.to_dict("records")):
        colour, marker = draw.backbone_style(row["backbone"])
        draw.dumbbell(values, place, row["hollow"], row["full"], row["backbone"])
        draw.beside_row(values, place, [row["hollow"], row["full"]], labels, ".3f")
        draw.interval_line(difference, row["ci_low"], row["ci_high"], place, colour)
        if np.isfinite(row["difference"]):
            difference.plot(row["difference"], place, marker, color=colour, markersize=8, markeredgecolor="white")
            draw.above_row(difference, row["difference"], place, labels.number(row["difference"], "+.3f"))
    shown = rows[["full", "hollow"]].to_numpy(float).ravel()
    draw.score_axis(values, labels, *draw.with_room([*shown, *([line[0]] if line else [])]))
    if line is not None:
        values.axvline(line[0], linewidth=1.2, zorder=1, **style)
    draw.difference_axis(difference, labels, rows[["difference", "ci_low", "ci_high"]].to_numpy(float).ravel())
    return drawings


@draw.themed
def split_spread(values: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw how far macro F1 moves between random test splits, a dot per split.

    Parameters
    ----------
    values
        backbone, seed, value, n_images (of the test subset); one row per backbone and split.

    Returns
    -------
    Drawing
        Above each row mean, standard deviation, lowest and highest; the stroke is the mean.
    """
    order = list(values.groupby("backbone")["value"].mean().sort_values().index)
    figure, axes = draw.rows_figure(order, labels, margin=0.85, height=0.62)
    axes.set_ylim(-0.4, len(order) - 0.4)
    for place, backbone in enumerate(order):
        found = np.sort(values.loc[values["backbone"] == backbone, "value"].dropna().to_numpy(float))
        colour, marker = draw.backbone_style(backbone)
        shifts = (np.arange(len(found)) * 0.618 % 1 - 0.5) * 0.36 if len(found) > 1 else 0.0
        face = (*to_rgb(colour), 0.2)
        edge: dict[str, Any] = {"markeredgecolor": (*to_rgb(colour), 0.7), "markeredgewidth": 0.6}
        axes.plot(found, place + shifts, marker, markersize=4.5, markerfacecolor=face, **edge)
        axes.plot([found.mean()] * 2, [place - 0.27, place + 0.27], color=draw.INK, linewidth=2)
        numbers = {"mean": found.mean(), "lowest": found.min(), "highest": found.max()}
        numbers = {name: labels.number(value, ".3f") for name, value in numbers.items()}
        text = numbers["mean"]
        if len(found) > 1:
            text = labels("axis.spread", sd=labels.number(found.std(ddof=1), ".3f"), **numbers)
        style: dict[str, Any] = {"ha": "center", "va": "bottom", "fontsize": 8, "transform": axes.get_yaxis_transform()}
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # no line of the grid through the words
        axes.text(0.5, place + 0.3, text, bbox=ground, **style)
    sizes = values.groupby("backbone").agg(splits=("seed", "nunique"), images=("n_images", "mean"))
    shown = {name: labels.number(sizes[name].max(), ",.0f") for name in sizes}
    draw.write_below(axes, labels("axis.splits", metric=labels("metric.macro_f1"), **shown), 46)
    draw.score_axis(axes, labels, *draw.with_room(values["value"].to_numpy(float), 0.06))
    return figure
