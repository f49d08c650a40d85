"""Figures of training and results.

Takes the tables of the report and the labels of a language; gives drawings.  See `skin_tl.reporting.figures`, by whose
name they are called.
"""

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.colors import to_rgb

from skin_tl.reporting.drawing import (
    DIAGNOSES,
    INK,
    SOFT,
    above_row,
    backbone_name,
    backbone_style,
    beside_row,
    difference_axis,
    dumbbell,
    in_lines,
    ink_on,
    interval_line,
    marker_legend,
    new_figure,
    rows_figure,
    score_axis,
    spread_out,
    themed,
    with_room,
    write_below,
    write_numbers,
)
from skin_tl.reporting.texts import labels as labels_of
from skin_tl.schema import CLASSES, CONFIDENCE

_KINDS = ("baseline", "backbone", "ensemble")  # from the bottom up


@themed
def scores(table, metrics, labels=None):
    """Draw scores of backbones with their 95 % intervals and the values of single seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        ``scores.csv`` of one set-up: metric, backbone, value, ci_low, ci_high, seed_min, seed_max (may be empty),
        n_seeds, n_images.  With a column kind (``backbone``, ``ensemble``, ``baseline``), a line parts the kinds;
        baselines are at the bottom.  With the columns random_value, random_low and random_high, a hollow marker shows
        the same backbone with random weights.
    metrics : list of str
        Which scores, one panel each.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
    """
    labels = labels or labels_of()
    ranked = table[table["metric"] == metrics[-1]]
    kinds = ranked["kind"].map(_KINDS.index) if "kind" in ranked else 1
    ranked = ranked.assign(kind=kinds).sort_values(["kind", "value"])
    order, kinds = list(ranked["backbone"]), list(ranked["kind"])
    names = [backbone_name(backbone, labels) for backbone in order]
    lowest = ["ci_low", "seed_min", "value", *({"random_low", "random_value"} & {*table.columns})]
    low = table.loc[table["metric"].isin(metrics), lowest].min().min()
    low = max(0.0, np.floor(low * 10) / 10 - 0.05 if low > 0.15 else 0.0)
    high = table.loc[table["metric"].isin(metrics), ["ci_high", "seed_max", "value"]].max().max()
    high = min(1.0, np.ceil(high * 10) / 10)
    drawings = []
    for metric in metrics:
        figure, axes = rows_figure(names)
        rows = table[table["metric"] == metric].set_index("backbone")
        for place, backbone in enumerate(order):
            row = rows.loc[backbone]
            colour, marker = backbone_style(backbone)
            interval_line(axes, row["ci_low"], row["ci_high"], place, colour)
            axes.plot(row["value"], place, marker, color=colour, markersize=8, markeredgecolor="white")
            for edge in ("seed_min", "seed_max"):
                axes.plot(row[edge], place - 0.2, "|", color=colour, markersize=6, markeredgewidth=1.4)
            axes.plot([row["seed_min"], row["seed_max"]], [place - 0.2] * 2, color=colour, linewidth=0.8)
            above_row(axes, row["value"], place, labels.number(row["value"], ".3f"))
            if np.isfinite(row.get("random_value", np.nan)):
                interval_line(axes, row["random_low"], row["random_high"], place - 0.34, colour, width=1.2)
                style = {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.4}
                axes.plot(row["random_value"], place - 0.34, marker, markersize=6, **style)
            if place and kinds[place] != kinds[place - 1]:
                axes.axhline(place - 0.47, color=SOFT, linewidth=0.7)
        score_axis(axes, labels, low, high + 0.04 * (high - low))
        n_images, n_seeds = labels.number(rows["n_images"].mean(), ",.0f"), labels.number(rows["n_seeds"].max(), "d")
        axes.set_xlabel(labels("axis.score", metric=labels(f"metric.{metric}"), images=n_images, seeds=n_seeds))
        if "random_value" in rows and rows["random_value"].notna().any():
            marker_legend(
                figure, [labels(f"weights.{name}") for name in ("imagenet", "random")], [SOFT, "white"], ncols=2
            )
        drawings.append(figure)
    return drawings


@themed
def confusion_matrix(table, labels=None):
    """Draw the confusion matrix of one backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        ``confusion.csv`` of one set-up and backbone: backbone, dx, predicted, n_images (mean over the seeds), share.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
        Colour and second line: share of the images with that diagnosis; first line: mean number of images.
    """
    labels = labels or labels_of()
    counts = table.pivot(index="dx", columns="predicted", values="n_images").loc[list(CLASSES), list(CLASSES)]
    shares = table.pivot(index="dx", columns="predicted", values="share").loc[list(CLASSES), list(CLASSES)]
    figure, axes = new_figure(4.5, 4.45)
    colours = sns.light_palette(DIAGNOSES["nv"], as_cmap=True)
    sns.heatmap(
        shares,
        vmin=0,
        vmax=1,
        cmap=colours,
        cbar=False,
        ax=axes,
        square=True,
        linewidths=1,
        linecolor="white",
    )
    for (row, column), count in np.ndenumerate(counts.to_numpy()):
        share = shares.iloc[row, column]
        if count == 0 or np.isnan(share):
            continue
        colour = ink_on(colours(share))
        shown = labels.number(count, ",.0f" if count >= 10 or count == round(count) else ".1f")
        axes.text(column + 0.5, row + 0.4, shown, ha="center", va="center", fontsize=8.5, color=colour)
        axes.text(
            column + 0.5, row + 0.74, labels.number(share, ".0%"), ha="center", va="center", fontsize=6.5, color=colour
        )
    axes.set_xlabel(labels("axis.predicted"))
    axes.set_ylabel(labels("axis.actual", images=labels.number(counts.to_numpy().sum(), ",.0f")))
    axes.tick_params(axis="x", rotation=0, length=0)
    axes.tick_params(axis="y", rotation=0, length=0)
    axes.set_title(backbone_name(table["backbone"].iloc[0], labels))
    return figure


@themed
def class_scores(table, labels=None):
    """Draw F1 per diagnosis, a marker for each backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classification_reports.csv`` of one set-up: backbone, row, f1_score, support.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    rows = table[table["row"].isin(CLASSES)]
    support = rows.groupby("row")["support"].mean()
    order = sorted(CLASSES, key=lambda dx: (support[dx], dx))
    backbones = list(dict.fromkeys(rows["backbone"]))
    figure, axes = new_figure(5.2, 4.1)
    shift = np.linspace(0.24, -0.24, len(backbones)) if len(backbones) > 1 else [0.0]
    for backbone, offset in zip(backbones, shift, strict=True):
        values = rows[rows["backbone"] == backbone].set_index("row")["f1_score"]
        colour, marker = backbone_style(backbone)
        places = [place + offset for place in range(len(order))]
        axes.hlines(places, 0, values[order], color=colour, linewidth=0.8, alpha=0.5)
        name = backbone_name(backbone, labels)
        style = {"markersize": 6, "markeredgecolor": "white", "clip_on": False, "zorder": 3}  # whole at 0 and at 1, too
        axes.plot(values[order], places, marker, color=colour, label=name, **style)
    names = [f"{labels(f'diagnosis.{dx}')}\n({dx}, n = {labels.number(support[dx], ',.0f')})" for dx in order]
    axes.set_yticks(range(len(order)), names, linespacing=1.1)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.5, len(order) - 0.5)
    axes.set_xlabel(labels("axis.f1"))
    axes.grid(visible=False, axis="y")
    write_numbers(axes.xaxis, labels, ".1f")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=min(2, len(backbones)))
    return figure


@themed
def published(table, rows, labels=None):
    """Draw our scores against the published ones, a dumbbell per backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classification_reports.csv`` of one set-up: backbone, row, f1_score, support, published_f1_score,
        published_support.
    rows : list of str
        Rows of the reports, one panel each, for example accuracy and macro_avg.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
    """
    labels = labels or labels_of()
    table = table[table["published_f1_score"].notna() & table["row"].isin(rows)]
    backbones = list(dict.fromkeys(table["backbone"]))[::-1]
    values = table[["f1_score", "published_f1_score"]].to_numpy()
    low, high = max(0.0, np.floor(values.min() * 10 - 0.5) / 10), min(1.0, np.ceil(values.max() * 10 + 0.3) / 10)
    drawings = []
    for name in rows:
        figure, axes = rows_figure([backbone_name(backbone, labels) for backbone in backbones], margin=1.3)
        part = table[table["row"] == name].set_index("backbone")
        for place, backbone in enumerate(backbones):
            _against_published(axes, place, part.loc[backbone], backbone, labels)
        score_axis(axes, labels, low, high)
        sizes = {"images": part["support"].mean(), "published": part["published_support"].mean()}
        sizes = {key: labels.number(value, ",.0f") for key, value in sizes.items()}
        axes.set_xlabel(labels(f"axis.published_{name}", **sizes))
        marker_legend(figure, [labels("axis.published"), labels("axis.ours")], ["white", SOFT], ncols=2)
        drawings.append(figure)
    return drawings


def _against_published(axes, place, row, backbone, labels):
    """Draw our F1 and the published one in a row, the difference above."""
    ours, theirs = row["f1_score"], row["published_f1_score"]
    dumbbell(axes, place, theirs, ours, backbone)
    if np.isfinite(ours - theirs):
        above_row(axes, (ours + theirs) / 2, place, labels.number(ours - theirs, "+.2f"))


@themed
def contrast(table, labels=None):
    """Draw how one score moves between two levels of a factor, a line per backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``contrasts.csv`` of one factor, strategy, held level and metric.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    first = table.iloc[0]
    figure, axes = new_figure(5.6, 3.3)
    ends = table.sort_values("value_b")["value_b"].to_numpy()
    span = max(np.ptp(table[["value_a", "value_b"]].to_numpy()), 0.05)
    heights = spread_out(ends, 0.075 * span)
    for (_, row), height in zip(table.sort_values("value_b").iterrows(), heights, strict=True):
        colour, marker = backbone_style(row["backbone"])
        axes.plot(
            [0, 1],
            [row["value_a"], row["value_b"]],
            marker=marker,
            color=colour,
            linewidth=1.8,
            markeredgecolor="white",
            markersize=7,
        )
        text = f"{backbone_name(row['backbone'], labels)} {labels.number(row['difference'], '+.2f')}"
        axes.text(1.05, height, text, va="center", fontsize=8)
    axes.set_xticks([0, 1], _ends(table, labels))
    axes.set_xlim(-0.25, 1.85)
    axes.set_ylabel(labels("axis.of_score", metric=labels(f"metric.{first['metric']}")))
    axes.grid(visible=False, axis="x")
    axes.spines["bottom"].set_bounds(-0.25, 1.1)
    write_numbers(axes.yaxis, labels, ".2f")
    return figure


@themed
def rank_changes(table, labels=None):
    """Draw how the rank order of the backbones differs between two levels of a factor, the best on top.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of ``contrasts.csv`` of one factor, strategy, held level and metric.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    Drawing
        At each end the rank, the backbone and its value.  Equal ranks stand below each other.
    """
    labels = labels or labels_of()
    first = table.iloc[0]
    figure, axes = new_figure(5.0, 1.1 + 0.4 * len(table))
    heights = {}
    for end in "ab":
        order = table.sort_values([f"rank_{end}", "backbone"])["backbone"]
        heights[end] = {backbone: len(table) - place for place, backbone in enumerate(order)}
    for _, row in table.iterrows():
        backbone = row["backbone"]
        colour, marker = backbone_style(backbone)
        ends = [heights["a"][backbone], heights["b"][backbone]]
        axes.plot([0, 1], ends, marker=marker, color=colour, linewidth=1.8, markeredgecolor="white", markersize=8)
        name = in_lines(backbone_name(backbone, labels))
        for end, x, height, side in (("a", -0.06, ends[0], "right"), ("b", 1.06, ends[1], "left")):
            value = labels.number(row[f"value_{end}"], ".3f")
            rank = f"{labels.number(row[f'rank_{end}'], 'd')}."
            text = f"{rank} {name} {value}"
            axes.text(x, height, text, ha=side, va="center", fontsize=8, linespacing=1.05)
    axes.set_xticks([0, 1], _ends(table, labels))
    axes.set_yticks([])
    axes.set_xlim(-0.15, 1.15)
    axes.set_ylim(0.5, len(table) + 0.5)
    axes.set_xlabel(labels("axis.rank", metric=labels(f"metric.{first['metric']}")))
    axes.spines[["left", "bottom"]].set_visible(False)
    return figure


def _ends(table, labels):
    """Return the names of the two levels that a table of contrasts compares, each above its number of test images."""
    names = []
    for end in "ab":
        images = labels.number(table[f"n_images_{end}"].mean(), ",.0f")
        level = labels(f"{table['factor'].iloc[0]}.{table[f'level_{end}'].iloc[0]}")
        names.append(f"{level}\n{labels('axis.n_images', images=images)}")
    return names


@themed
def effects(table, labels=None):
    """Draw the paired effect of one thing on a score, a row per backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        Rows of `skin_tl.schema.CONTRAST_COLUMNS` of one configuration and metric: backbone, column, a, b, metric,
        value_a, value_b, difference (a less b), ci_low, ci_high, n_images, n_lesions.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.  Knows the two as ``<column>.<a>`` and ``<column>.<b>``.

    Returns
    -------
    list of Drawing
        Both values (a full, b hollow), and the difference with its interval.
    """
    labels = labels or labels_of()
    first = table.iloc[0]
    metric = labels(f"metric.{first['metric']}")
    full, hollow = (labels(f"{first['column']}.{first[end]}") for end in "ab")
    sizes = {name: labels.number(table[f"n_{name}"].mean(), ",.0f") for name in ("images", "lesions")}
    return _paired(
        table.rename(columns={"value_a": "full", "value_b": "hollow"}).sort_values("full"),
        (full, hollow),
        labels("axis.both", metric=metric, **sizes),
        labels("axis.effect", metric=metric, level=confidence_level(labels), a=full, b=hollow),
        labels,
    )


@themed
def external(table, labels=None, winners=None):
    """Draw what each backbone scores on its own test images and on those of another data set.

    Parameters
    ----------
    table : pandas.DataFrame
        backbone, metric, internal, external, difference (external less internal), ci_low, ci_high, n_images_internal,
        n_images_external.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.
    winners : float, optional
        Balanced accuracy of the challenge's winners, a line where that is the score.

    Returns
    -------
    list of Drawing
        For each metric both values (external full), and the difference with its interval.
    """
    labels = labels or labels_of()
    drawings = []
    for metric, part in table.groupby("metric", sort=False):
        name = labels(f"metric.{metric}")
        ends = ("internal", "external")
        sizes = {end: labels.number(part[f"n_images_{end}"].mean(), ",.0f") for end in ends}
        line = None
        if winners is not None and metric == "balanced_accuracy":
            line = (winners, labels("axis.winners", value=labels.number(winners, ".3f")))
        drawings += _paired(
            part.rename(columns={"external": "full", "internal": "hollow"}).sort_values("full"),
            (labels("axis.external"), labels("axis.internal")),
            labels("axis.both_sets", metric=name, **sizes),
            labels("axis.drop", metric=name, level=confidence_level(labels)),
            labels,
            line,
        )
    return drawings


def confidence_level(labels):
    return labels.number(CONFIDENCE, ".0%")


def _paired(rows, names, below_values, below_difference, labels, line=None):
    """Draw two values per backbone (columns full and hollow) and their difference, as two panels with level rows."""
    backbones = [backbone_name(backbone, labels) for backbone in rows["backbone"]]
    others = []
    if line is not None:
        others.append(mpl.lines.Line2D([], [], color=SOFT, linestyle=(0, (5, 2)), label=line[1]))
    drawings = []
    for text in (below_values, below_difference):
        figure, axes = rows_figure(backbones, width=4.0)
        write_below(axes, text)
        legend = marker_legend(figure, names, [SOFT, "white"], others)
        drawings.append(figure)
    lines = [drawing.axes[0].get_xlabel().count("\n") for drawing in drawings]
    for drawing, n_lines in zip(drawings, lines, strict=True):
        label = drawing.axes[0].xaxis.label
        label.set_text(label.get_text() + "\n " * (max(lines) - n_lines))
        drawing.set_figheight(drawing.get_figheight() + 0.18 * (max(lines) + len(others)))
    legend.set_visible(False)  # it keeps the rows of the second panel level with those of the first
    values, difference = (drawing.axes[0] for drawing in drawings)
    for place, row in enumerate(rows.to_dict("records")):
        colour, marker = backbone_style(row["backbone"])
        dumbbell(values, place, row["hollow"], row["full"], row["backbone"])
        beside_row(values, place, [row["hollow"], row["full"]], labels, ".3f")
        interval_line(difference, row["ci_low"], row["ci_high"], place, colour)
        if np.isfinite(row["difference"]):
            difference.plot(row["difference"], place, marker, color=colour, markersize=8, markeredgecolor="white")
            above_row(difference, row["difference"], place, labels.number(row["difference"], "+.3f"))
    shown = rows[["full", "hollow"]].to_numpy(float).ravel()
    score_axis(values, labels, *with_room([*shown, *([line[0]] if line else [])]))
    if line is not None:
        values.axvline(line[0], color=SOFT, linestyle=(0, (5, 2)), linewidth=1.2, zorder=1)
    difference_axis(difference, labels, rows[["difference", "ci_low", "ci_high"]].to_numpy(float).ravel())
    return drawings


@themed
def split_spread(values, labels=None, metric="macro_f1"):
    """Draw how far a score moves between random test splits, a dot per split.

    Parameters
    ----------
    values : pandas.DataFrame
        backbone, seed, value, n_images (of the test subset); one row per backbone and split.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.
    metric : str
        Which score it is.

    Returns
    -------
    Drawing
        Above each row mean, standard deviation, lowest and highest; the stroke is the mean.
    """
    labels = labels or labels_of()
    order = list(values.groupby("backbone")["value"].mean().sort_values().index)
    figure, axes = rows_figure([backbone_name(backbone, labels) for backbone in order], margin=0.85, height=0.62)
    axes.set_ylim(-0.4, len(order) - 0.4)
    for place, backbone in enumerate(order):
        found = np.sort(values.loc[values["backbone"] == backbone, "value"].dropna().to_numpy(float))
        colour, marker = backbone_style(backbone)
        shifts = (np.arange(len(found)) * 0.618 % 1 - 0.5) * 0.36 if len(found) > 1 else 0.0
        face = (*to_rgb(colour), 0.2)
        edge = {"markeredgecolor": (*to_rgb(colour), 0.7), "markeredgewidth": 0.6}
        axes.plot(found, place + shifts, marker, markersize=4.5, markerfacecolor=face, **edge)
        axes.plot([found.mean()] * 2, [place - 0.27, place + 0.27], color=INK, linewidth=2)
        numbers = {"mean": found.mean(), "lowest": found.min(), "highest": found.max()}
        numbers = {name: labels.number(value, ".3f") for name, value in numbers.items()}
        text = numbers["mean"]
        if len(found) > 1:
            text = labels("axis.spread", sd=labels.number(found.std(ddof=1), ".3f"), **numbers)
        style = {"ha": "center", "va": "bottom", "fontsize": 8, "transform": axes.get_yaxis_transform()}
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # no line of the grid through the words
        axes.text(0.5, place + 0.3, text, bbox=ground, **style)
    sizes = values.groupby("backbone").agg(splits=("seed", "nunique"), images=("n_images", "mean"))
    shown = {name: labels.number(sizes[name].max(), ",.0f") for name in sizes}
    write_below(axes, labels("axis.splits", metric=labels(f"metric.{metric}"), **shown), 46)
    score_axis(axes, labels, *with_room(values["value"].to_numpy(float), 0.06))
    return figure


@themed
def published_classes(table, labels=None):
    """Draw our F1 of each diagnosis against the published one, a panel per backbone.

    Parameters
    ----------
    table : pandas.DataFrame
        ``classification_reports.csv`` of one set-up: backbone, row, f1_score, support, published_f1_score,
        published_support.
    labels : skin_tl.reporting.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
        Of the backbones that something was published of; the rarest diagnosis is at the bottom.
    """
    labels = labels or labels_of()
    known = table.groupby("backbone")["published_f1_score"].transform("count") > 0
    table = table[table["row"].isin(CLASSES) & known]
    support = table.groupby("row")["support"].mean()
    order = sorted(support.index, key=lambda dx: (support[dx], dx))
    drawings = []
    for backbone, part in table.groupby("backbone", sort=False):
        rows = part.set_index("row")
        names = []
        for dx in order:
            sizes = {name: labels.number(rows.loc[dx, column], ",.0f") for name, column in _SUPPORTS.items()}
            names.append(f"{in_lines(labels(f'diagnosis.{dx}'), 20)}\n{labels('axis.of_class', dx=dx, **sizes)}")
        figure, axes = new_figure(4.0, 1.3 + 0.46 * len(order))
        axes.set_yticks(range(len(order)), names, linespacing=1.1)
        axes.set_ylim(-0.5, len(order) - 0.35)
        axes.grid(visible=False, axis="y")
        for place, dx in enumerate(order):
            _against_published(axes, place, rows.loc[dx], backbone, labels)
        score_axis(axes, labels, -0.03, 1.03)
        write_below(axes, labels("axis.f1_both"))
        axes.set_title(backbone_name(backbone, labels))
        marker_legend(figure, [labels("axis.published"), labels("axis.ours")], ["white", SOFT], ncols=2)
        drawings.append(figure)
    return drawings


_SUPPORTS = {"ours": "support", "published": "published_support"}
