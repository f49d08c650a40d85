"""Figures of scores: over all classes, by diagnosis, confusion matrices, and beside the published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import CLASSES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_KINDS = ("baseline", "backbone", "ensemble")  # from the bottom up
_FACES = ("white", draw.DIM, draw.INK)  # inside of the markers of other conditions


@draw.themed
def scores(
    table: pd.DataFrame,
    metrics: Sequence[str],
    labels: Labels = ENGLISH,
    strategy: str = "",
    others: Mapping[str, pd.DataFrame] | None = None,
) -> list[draw.Drawing]:
    """Draw scores of backbones with their 95 % intervals and the values of single seeds.

    Parameters
    ----------
    table
        ``scores.csv`` of one set-up: metric, backbone, value, ci_low, ci_high, seed_min, seed_max (may be empty),
        n_seeds, n_images.  With a column kind (``backbone``, ``ensemble``, ``baseline``), a line parts the kinds;
        baselines are at the bottom.  With the columns random_value, random_low and random_high, a hollow marker shows
        the same backbone with random weights.
    metrics
        Which scores, one panel each.
    strategy, others
        The strategy of the table, and by other strategies the same table of theirs, whose backbones are drawn with
        markers of their own.
    """
    ranked = table[table["metric"] == metrics[-1]]
    kinds = ranked["kind"].map(_KINDS.index) if "kind" in ranked else 1
    ranked = ranked.assign(kind=kinds).sort_values(["kind", "value"]).set_index("backbone")
    own = table[table["metric"].isin(metrics)]
    beside = {labels(f"strategy.{name}"): rows for name, rows in (others or {}).items()}
    names = [labels(f"strategy.{strategy}") if others else labels("weights.imagenet"), *beside]
    if "random_value" in table and table["random_value"].notna().any():
        control = {"random_value": "value", "random_low": "ci_low", "random_high": "ci_high"}
        names.append(labels("weights.random"))
        beside[names[-1]] = table.drop(columns=[*control.values()]).rename(columns=control)
    shown = {
        name: rows[rows["metric"].isin(metrics) & rows["value"].notna()].set_index(["metric", "backbone"])
        for name, rows in beside.items()
    }
    low = own[["ci_low", "seed_min", "value"]].min().min()
    for rows in shown.values():  # with room for the number at the left
        low = np.nanmin([low, *(rows[["ci_low", "value"]].min() - 0.1)])
    low = max(0.0, np.floor(low * 10) / 10 - 0.05 if low > 0.15 else 0.0)
    high = min(1.0, np.ceil(own[["ci_high", "seed_max", "value"]].max().max() * 10) / 10)
    further = max(len(shown) - 1, 0)  # rows are higher where more than one marker is below the first
    height = 0.42 + 0.04 * (len(shown) > 0) + 0.24 * further
    line = (0.47, 0.49, 0.56)[min(len(shown), 2)]  # between what is drawn below a row and the number above the next
    drawings = []
    for metric in metrics:
        rows = table[table["metric"] == metric].set_index("backbone")
        figure, axes = draw.rows_figure(ranked.index, labels, height=height)
        for place, backbone in enumerate(ranked.index):
            _score_row(axes, place, backbone, rows.loc[backbone], labels)
            for index, (face, other) in enumerate(zip(_FACES[: len(shown)], shown.values(), strict=True)):
                if (metric, backbone) in other.index:
                    below = place - 0.156 * (index + 1) / height
                    _beside_row(axes, below, backbone, other.loc[(metric, backbone)], labels, face)
            if place and ranked["kind"].iloc[place] != ranked["kind"].iloc[place - 1]:
                axes.axhline(place - line, color=draw.SOFT, linewidth=0.7)
        draw.score_axis(axes, labels, low, high + 0.04 * (high - low))
        n_images, n_seeds = labels.number(rows["n_images"].mean(), ",.0f"), labels.number(rows["n_seeds"].max(), "d")
        axes.set_xlabel(labels("axis.score", metric=labels(f"metric.{metric}"), images=n_images, seeds=n_seeds))
        if shown:
            draw.marker_legend(figure, names, [draw.SOFT, *_FACES[: len(shown)]], ncols=min(len(names), 2))
        drawings.append(figure)
    return drawings


def _score_row(axes: Axes, place: int, backbone: str, row: pd.Series, labels: Labels) -> None:
    """Draw a score with its interval, and below it the ends of the seeds."""
    colour, marker = draw.backbone_style(backbone)
    draw.interval_line(axes, row["ci_low"], row["ci_high"], place, colour)
    axes.plot(row["value"], place, marker, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.6)
    for edge in ("seed_min", "seed_max"):
        axes.plot(row[edge], place - 0.2, "|", color=colour, markersize=6, markeredgewidth=1.4)
    axes.plot([row["seed_min"], row["seed_max"]], [place - 0.2] * 2, color=colour, linewidth=0.8)
    draw.above_row(axes, row["value"], place, labels.number(row["value"], ".3f"))


def _beside_row(axes: Axes, place: float, backbone: str, row: pd.Series, labels: Labels, face: str) -> None:
    """Draw a score of the same backbone under another condition, with its number at the left."""
    colour, marker = draw.backbone_style(backbone)
    draw.interval_line(axes, row["ci_low"], row["ci_high"], place, colour, width=1.2)
    axes.plot(row["value"], place, marker, markersize=6, **draw.hollow_marker(colour, 1.4) | {"markerfacecolor": face})
    draw.beside_marker(axes, np.nanmin([row["ci_low"], row["value"]]), place, labels.number(row["value"], ".3f"), -4)


@draw.themed
def confusion_matrix(table: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw the confusion matrix of one backbone.

    Parameters
    ----------
    table
        ``confusion.csv`` of one set-up and backbone: backbone, dx, predicted, n_images (mean over the seeds), share.

    Returns
    -------
    Drawing
        Colour and second line: share of the images with that diagnosis; first line: mean number of images.
    """
    cells = table.pivot(index="dx", columns="predicted").loc[list(CLASSES)]
    counts, shares = (cells[name][list(CLASSES)] for name in ("n_images", "share"))
    figure, axes = draw.new_figure(4.5, 4.45)
    colours = sns.light_palette(draw.DIAGNOSES["nv"], as_cmap=True)
    lines = {"linewidths": 1, "linecolor": "white"}
    sns.heatmap(shares, vmin=0, vmax=1, cmap=colours, cbar=False, ax=axes, square=True, **lines)
    for (row, column), count in np.ndenumerate(counts.to_numpy()):
        share = shares.iloc[row, column]
        if count == 0 or np.isnan(share):
            continue
        shown = labels.number(count, ",.1f" if count < 1000 and count != round(count) else ",.0f")
        style = {"ha": "center", "va": "center", "color": draw.ink_on(colours(share))}
        axes.text(column + 0.5, row + 0.36, shown, fontsize=11, **style)
        axes.text(column + 0.5, row + 0.74, labels.number(share, ".0%"), fontsize=9, **style)
    axes.set_xlabel(labels("axis.predicted"))
    axes.set_ylabel(labels("axis.actual", images=labels.number(counts.to_numpy().sum(), ",.0f")))
    axes.tick_params(rotation=0, length=0)
    axes.set_title(draw.backbone_name(table["backbone"].iloc[0], labels))
    return figure


@draw.themed
def class_scores(table: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw F1 per diagnosis, a marker for each backbone.

    Parameters
    ----------
    table
        ``classification_reports.csv`` of one set-up: backbone, row, f1_score, support.
    """
    rows = table[table["row"].isin(CLASSES)]
    support = rows.groupby("row")["support"].mean()
    order, backbones = draw.rarest_first(support), rows["backbone"].unique()
    figure, axes = draw.new_figure(5.2, 4.1)
    shift = np.linspace(0.24, -0.24, len(backbones)) if len(backbones) > 1 else [0.0]
    for backbone, offset in zip(backbones, shift, strict=True):
        values = rows[rows["backbone"] == backbone].set_index("row")["f1_score"]
        colour, marker = draw.backbone_style(backbone)
        places = [place + offset for place in range(len(order))]
        axes.hlines(places, 0, values[order], color=colour, linewidth=0.8, alpha=0.5)
        name = draw.backbone_name(backbone, labels)
        style = {"markersize": 6, "markeredgecolor": "white", "clip_on": False, "zorder": 3}  # whole at 0 and at 1, too
        axes.plot(values[order], places, marker, color=colour, label=name, **style)
    names = [f"{labels(f'diagnosis.{dx}')}\n({dx}, n = {labels.number(support[dx], ',.0f')})" for dx in order]
    draw.name_rows(axes, names)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, len(order) - 0.5)
    axes.set_xlabel(labels("axis.f1"))
    draw.write_numbers(axes.xaxis, labels, ".1f")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=min(2, len(backbones)))
    return figure


@draw.themed
def published(table: pd.DataFrame, rows: Sequence[str], labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw our scores against the published ones, a dumbbell per backbone.

    Parameters
    ----------
    table
        ``classification_reports.csv`` of one set-up: backbone, row, f1_score, support, published_f1_score,
        published_support.
    rows
        Of the reports, one panel each, for example accuracy and macro_avg.
    """
    table = table[table["published_f1_score"].notna() & table["row"].isin(rows)]
    backbones = table["backbone"].unique()[::-1]
    values = table[["f1_score", "published_f1_score"]].to_numpy()
    low, high = max(0.0, np.floor(values.min() * 10 - 0.5) / 10), min(1.0, np.ceil(values.max() * 10 + 0.3) / 10)
    drawings = []
    for name in rows:
        figure, axes = draw.rows_figure(backbones, labels, margin=1.3)
        part = table[table["row"] == name].set_index("backbone")
        for place, backbone in enumerate(backbones):
            _against_published(axes, place, part.loc[backbone], backbone, labels)
        draw.score_axis(axes, labels, low, high)
        sizes = {"images": part["support"].mean(), "published": part["published_support"].mean()}
        sizes = {key: labels.number(value, ",.0f") for key, value in sizes.items()}
        axes.set_xlabel(labels(f"axis.published_{name}", **sizes))
        _legend_of_published(figure, labels)
        drawings.append(figure)
    return drawings


@draw.themed
def published_classes(table: pd.DataFrame, labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw our F1 of each diagnosis against the published one, a panel per backbone.

    Parameters
    ----------
    table
        As for `published`.

    Returns
    -------
    list of Drawing
        Of the backbones that something was published of; the rarest diagnosis is at the bottom.
    """
    known = table.groupby("backbone")["published_f1_score"].transform("count") > 0
    table = table[table["row"].isin(CLASSES) & known]
    order = draw.rarest_first(table.groupby("row")["support"].mean())
    drawings = []
    for backbone, part in table.groupby("backbone", sort=False):
        rows = part.set_index("row")
        names = []
        for dx in order:
            sizes = {name: labels.number(rows.loc[dx, column], ",.0f") for name, column in _SUPPORTS.items()}
            names.append(f"{draw.in_lines(labels(f'diagnosis.{dx}'), 20)}\n{labels('axis.of_class', dx=dx, **sizes)}")
        figure, axes = draw.new_figure(4.0, 1.3 + 0.46 * len(order))
        draw.name_rows(axes, names)
        axes.set_ylim(-0.5, len(order) - 0.35)
        for place, dx in enumerate(order):
            _against_published(axes, place, rows.loc[dx], backbone, labels)
        draw.score_axis(axes, labels, -0.03, 1.03)
        draw.write_below(axes, labels("axis.f1_both"))
        axes.set_title(draw.backbone_name(backbone, labels))
        _legend_of_published(figure, labels)
        drawings.append(figure)
    return drawings


_SUPPORTS = {"ours": "support", "published": "published_support"}


def _against_published(axes: Axes, place: int, row: pd.Series, backbone: str, labels: Labels) -> None:
    """Draw our F1 and the published one in a row, the difference above."""
    ours, theirs = row["f1_score"], row["published_f1_score"]
    draw.dumbbell(axes, place, theirs, ours, backbone)
    if np.isfinite(ours - theirs):
        draw.above_row(axes, (ours + theirs) / 2, place, labels.number(ours - theirs, "+.2f"))


def _legend_of_published(figure: draw.Drawing, labels: Labels) -> None:
    draw.marker_legend(figure, [labels("axis.published"), labels("axis.ours")], ["white", draw.SOFT], ncols=2)
