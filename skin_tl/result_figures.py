"""Figures of training and results.

Takes the tables of the report and the labels of a language; gives drawings.  See `skin_tl.figures`, by whose name they
are called.
"""

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.colors import to_rgb
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from skin_tl.decisions import SENSITIVITY
from skin_tl.drawing import (
    DIAGNOSES,
    GREY,
    GRID,
    INK,
    SOFT,
    STRATEGY_STYLES,
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
from skin_tl.study import CLASSES
from skin_tl.subgroups import AGE_BANDS
from skin_tl.tables import CONFIDENCE
from skin_tl.texts import labels as labels_of


@themed
def training_curves(history, labels=None, title=None, strategy="feature_extraction"):
    """Draw training and validation loss by epoch: a thin line per seed, a dot where the weights were taken.

    Parameters
    ----------
    history : pandas.DataFrame
        Of the arm ``main``, one stage: columns split_policy, preprocessing, seed, epoch, loss, val_loss, kept (bool).
    labels : skin_tl.texts.Labels, optional
        English by default.
    title : str, optional
        Usually the backbone's name, whose colour the lines have then.
    strategy : str
        Named below the title, unless heads on features were trained.

    Returns
    -------
    Drawing
    """
    labels = labels or labels_of()
    colour = backbone_style(title or "")[0]
    figure, axes = new_figure(3.7, 2.7)
    for _, part in history.groupby(["split_policy", "preprocessing", "seed"], sort=True):
        part = part.sort_values("epoch")
        axes.plot(part["epoch"], part["loss"], color=colour, linewidth=1, alpha=0.65, linestyle=(0, (3, 2)))
        axes.plot(part["epoch"], part["val_loss"], color=colour, linewidth=1.4)
        best = part[part["kept"]].iloc[0]
        axes.plot(best["epoch"], best["val_loss"], "o", color=colour, markersize=6, markeredgecolor=INK, zorder=3)
    n_heads = len(history.drop_duplicates(["split_policy", "preprocessing", "seed"]))
    heads = strategy == "feature_extraction"
    axes.set_xlabel(labels("axis.epoch" if heads else "axis.epoch_networks", heads=labels.number(n_heads, "d")))
    axes.set_ylabel(labels("axis.loss"))
    axes.set_ylim(bottom=0)
    write_numbers(axes.xaxis, labels, ".0f")
    write_numbers(axes.yaxis, labels, ".1f")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    named = [backbone_name(title, labels)] if title else []
    axes.set_title("\n".join([*named, *([] if heads else [labels(f"strategy.{strategy}")])]))
    lines = [mpl.lines.Line2D([], [], color=colour, linestyle=style) for style in ((0, (3, 2)), "-")]
    axes.legend(lines, [labels("axis.training"), labels("axis.validation")], loc="best")
    return figure


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
    labels : skin_tl.texts.Labels, optional
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
    labels : skin_tl.texts.Labels, optional
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
    labels : skin_tl.texts.Labels, optional
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
    labels : skin_tl.texts.Labels, optional
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
    labels : skin_tl.texts.Labels, optional
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
    labels : skin_tl.texts.Labels, optional
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
        Rows of `skin_tl.comparison.CONTRAST_COLUMNS` of one configuration and metric: backbone, column, a, b, metric,
        value_a, value_b, difference (a less b), ci_low, ci_high, n_images, n_lesions.
    labels : skin_tl.texts.Labels, optional
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
        labels("axis.effect", metric=metric, level=_level(labels), a=full, b=hollow),
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
    labels : skin_tl.texts.Labels, optional
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
            labels("axis.drop", metric=name, level=_level(labels)),
            labels,
            line,
        )
    return drawings


def _level(labels):
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
    labels : skin_tl.texts.Labels, optional
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
    labels : skin_tl.texts.Labels, optional
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


# Decisions ------------------------------------------------------------------------------------------------------


@themed
def roc(points, decisions, labels=None):
    """Draw the ROC curve of each backbone: its mean over the seeds, thin lines for single seeds.

    Parameters
    ----------
    points : pandas.DataFrame
        Rows of `skin_tl.decisions.ROC_COLUMNS` of one set-up and decision.
    decisions : pandas.DataFrame
        Rows of `skin_tl.decisions.DECISION_COLUMNS` of the same.
    labels : skin_tl.texts.Labels, optional
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
    title = labels("axis.area", level=_level(labels))
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
        Rows of `skin_tl.decisions.DECISION_COLUMNS` of one set-up and decision.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
        Lesions missed of those looked for (number and share), and share of the benign lesions that is flagged (and
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


# What transfer buys ---------------------------------------------------------------------------------------------


@themed
def learning_curves(table, labels=None):
    """Draw a score against the number of training lesions, a line for each strategy.

    Parameters
    ----------
    table : pandas.DataFrame
        ``learning_curves.csv``: strategy, backbone, n_lesions, metric, value, ci_low, ci_high, n_seeds, n_images.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
        One per backbone, all with the same axes.
    """
    labels = labels or labels_of()
    first = table.iloc[0]
    sizes = np.sort(table["n_lesions"].unique())
    low, high = with_room(table[["value", "ci_low", "ci_high"]].to_numpy(float), 0.06)
    strategies = list(dict.fromkeys(table["strategy"]))
    # Error bars stand beside each other, a small factor apart.
    apart = (sizes[-1] / sizes[0]) ** 0.015
    drawings = []
    for backbone, part in table.groupby("backbone", sort=False):
        figure, axes = new_figure(4.6, 3.6 + 0.18 * len(strategies))
        for place, strategy in enumerate(strategies):
            rows = part[part["strategy"] == strategy].sort_values("n_lesions")
            colour, marker = STRATEGY_STYLES[strategy]
            x = rows["n_lesions"] * apart ** (place - (len(strategies) - 1) / 2)
            axes.vlines(x, rows["ci_low"], rows["ci_high"], color=colour, linewidth=1.4)
            style = {"marker": marker, "markersize": 7, "markeredgecolor": "white", "linewidth": 1.6}
            axes.plot(x, rows["value"], color=colour, label=labels(f"strategy.{strategy}"), **style)
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / apart**3, sizes[-1] * apart**3)
        axes.set_ylim(max(0.0, low), min(1.0, high))
        axes.xaxis.set_major_locator(FixedLocator(_ticks_apart(sizes)))
        axes.xaxis.set_minor_locator(NullLocator())
        write_numbers(axes.xaxis, labels, ",.0f")
        write_numbers(axes.yaxis, labels, ".2f")
        shown = {"images": labels.number(first["n_images"], ",.0f"), "seeds": labels.number(first["n_seeds"], "d")}
        write_below(axes, labels("axis.training_lesions", **shown), 54)
        axes.set_ylabel(labels("axis.of_score", metric=labels(f"metric.{first['metric']}")))
        axes.set_title(backbone_name(backbone, labels))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        drawings.append(figure)
    return drawings


def _ticks_apart(sizes, least=0.13):
    """Return those of sorted sizes whose numbers have room on a logarithmic axis from the first to the last."""
    places, kept = np.log(sizes) - np.log(sizes[0]), [len(sizes) - 1]
    for place in range(len(sizes) - 2, -1, -1):
        if places[kept[-1]] - places[place] >= least * places[-1]:
            kept.append(place)
    return sizes[kept[::-1]]


# Who the scores hold for, and how far probabilities can be trusted ----------------------------------------------


@themed
def subgroups(table, labels=None, overall=None, backbone=None, metric="macro_f1"):
    """Draw a score by sex, age, body site and way of diagnosis.

    Parameters
    ----------
    table : pandas.DataFrame
        subgroup (``sex=female``), value, ci_low, ci_high, n_lesions, conclusive (bool); of one backbone and metric.
    labels : skin_tl.texts.Labels, optional
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
    write_below(axes, labels("axis.of_subgroup", metric=labels(f"metric.{metric}"), level=_level(labels)))
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
    labels : skin_tl.texts.Labels, optional
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


# How features lie -----------------------------------------------------------------------------------------------


@themed
def feature_maps(points, labels=None, n_images=None):
    """Draw the 2-D map of each backbone's features, coloured by diagnosis.

    Parameters
    ----------
    points : pandas.DataFrame
        backbone, dx, x, y; one row per image.
    labels : skin_tl.texts.Labels, optional
        English by default.
    n_images : int, optional
        Of the data set, where the points are fewer.

    Returns
    -------
    list of Drawing
        One per backbone.  The rarest diagnosis lies on top; all dots of a diagnosis are one line of dots, so that
        thousands of them stay small.
    """
    labels = labels or labels_of()
    drawings = []
    for backbone, part in points.groupby("backbone", sort=False):
        counts = part["dx"].value_counts()
        figure, axes = new_figure(4.6, 5.0)
        handles = {}
        low, high = part[["x", "y"]].to_numpy().min(), part[["x", "y"]].to_numpy().max()
        short = (high - low) / 1000  # some renderers leave out a line without length, caps and all
        for dx in sorted(counts.index, key=lambda name: (-counts[name], name)):
            places = np.repeat(part.loc[part["dx"] == dx, ["x", "y"]].to_numpy(float), 2, axis=0)
            places[1::2, 0] += short
            dots = mpl.path.Path(places, np.tile([mpl.path.Path.MOVETO, mpl.path.Path.LINETO], len(places) // 2))
            dots.should_simplify = False
            style = {"color": DIAGNOSES[dx], "linewidth": 3.2, "capstyle": "round", "fill": False, "snap": False}
            axes.add_patch(mpl.patches.PathPatch(dots, zorder=len(handles) + 1, **style))
            text = labels("axis.of_diagnosis", dx=dx, n=labels.number(int(counts[dx]), ",d"))
            style = {"linestyle": "", "marker": "o", "markersize": 6, "color": DIAGNOSES[dx]}
            handles[dx] = mpl.lines.Line2D([], [], label=text, **style)
        room = 0.03 * (high - low or 1)
        axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room), xticks=[], yticks=[], aspect="equal")
        axes.grid(visible=False)
        n_points, total = (labels.number(int(n), ",d") for n in (len(part), n_images or len(part)))
        write_below(axes, labels("axis.points", points=n_points, images=total), 54)
        axes.set_title(backbone_name(backbone, labels))
        figure.legend(handles=[handles[dx] for dx in CLASSES if dx in handles], loc="outside lower center", ncols=3)
        drawings.append(figure)
    return drawings
