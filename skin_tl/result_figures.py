"""Figures of training and results.

Takes the tables of the report and the labels of a language; gives drawings.  See `skin_tl.figures`, by whose name they
are called.
"""

import matplotlib as mpl
import numpy as np
import seaborn as sns
from matplotlib.ticker import MaxNLocator

from skin_tl.drawing import (
    DIAGNOSES,
    INK,
    SOFT,
    backbone_style,
    new_figure,
    score_axis,
    spread_out,
    themed,
    write_numbers,
)
from skin_tl.study import CLASSES
from skin_tl.texts import labels as labels_of


@themed
def training_curves(history, labels=None, title=None):
    """Draw training and validation loss by epoch: a thin line per seed, a dot where the weights were taken.

    Parameters
    ----------
    history : pandas.DataFrame
        Of the arm ``main``: columns split_policy, preprocessing, seed, epoch, loss, val_loss, val_macro_f1.
    labels : skin_tl.texts.Labels, optional
        English by default.
    title : str, optional
        Usually the backbone's name, whose colour the lines have then.

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
        best = part.loc[part["val_macro_f1"].idxmax()]
        axes.plot(best["epoch"], best["val_loss"], "o", color=colour, markersize=4.5, markeredgecolor="white")
    n_heads = len(history.drop_duplicates(["split_policy", "preprocessing", "seed"]))
    axes.set_xlabel(labels("axis.epoch", heads=labels.number(n_heads, "d")))
    axes.set_ylabel(labels("axis.loss"))
    axes.set_ylim(bottom=0)
    write_numbers(axes.xaxis, labels, ".0f")
    write_numbers(axes.yaxis, labels, ".1f")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.set_title(title or "")
    lines = [mpl.lines.Line2D([], [], color=colour, linestyle=style) for style in ((0, (3, 2)), "-")]
    axes.legend(lines, [labels("axis.training"), labels("axis.validation")], loc="best")
    return figure


@themed
def scores(table, metrics, labels=None):
    """Draw scores of backbones with their 95 % intervals and the values of single seeds.

    Parameters
    ----------
    table : pandas.DataFrame
        ``scores.csv`` of one set-up: metric, backbone, value, ci_low, ci_high, seed_min, seed_max, n_seeds.
    metrics : list of str
        Which scores, one panel each.
    labels : skin_tl.texts.Labels, optional
        English by default.

    Returns
    -------
    list of Drawing
    """
    labels = labels or labels_of()
    order = list(table.loc[table["metric"] == metrics[-1]].sort_values("value")["backbone"])
    low = table.loc[table["metric"].isin(metrics), ["ci_low", "seed_min", "value"]].min().min()
    low = max(0.0, np.floor(low * 10) / 10 - 0.05 if low > 0.15 else 0.0)
    high = table.loc[table["metric"].isin(metrics), ["ci_high", "seed_max", "value"]].max().max()
    high = min(1.0, np.ceil(high * 10) / 10)
    drawings = []
    for metric in metrics:
        figure, axes = new_figure(4.6, 1.0 + 0.42 * len(order))
        rows = table[table["metric"] == metric].set_index("backbone")
        for place, backbone in enumerate(order):
            row = rows.loc[backbone]
            colour, marker = backbone_style(backbone)
            axes.plot([row["ci_low"], row["ci_high"]], [place] * 2, color=colour, linewidth=2, solid_capstyle="butt")
            axes.plot(row["value"], place, marker, color=colour, markersize=8, markeredgecolor="white")
            for edge in ("seed_min", "seed_max"):
                axes.plot(row[edge], place - 0.2, "|", color=colour, markersize=6, markeredgewidth=1.4)
            axes.plot([row["seed_min"], row["seed_max"]], [place - 0.2] * 2, color=colour, linewidth=0.8)
            axes.text(
                row["value"], place + 0.2, labels.number(row["value"], ".3f"), ha="center", va="bottom", fontsize=8
            )
        axes.set_yticks(range(len(order)), order)
        axes.set_ylim(-0.5, len(order) - 0.35)
        score_axis(axes, labels, low, high)
        n_images, n_seeds = labels.number(rows["n_images"].mean(), ",.0f"), labels.number(rows["n_seeds"].max(), "d")
        axes.set_xlabel(labels("axis.score", metric=labels(f"metric.{metric}"), images=n_images, seeds=n_seeds))
        axes.grid(visible=False, axis="y")
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
    sns.heatmap(
        shares,
        vmin=0,
        vmax=1,
        cmap=sns.light_palette(DIAGNOSES["nv"], as_cmap=True),
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
        colour = "white" if share > 0.55 else INK
        shown = labels.number(count, ",.0f" if count >= 10 or count == round(count) else ".1f")
        axes.text(column + 0.5, row + 0.4, shown, ha="center", va="center", fontsize=8.5, color=colour)
        axes.text(
            column + 0.5, row + 0.74, labels.number(share, ".0%"), ha="center", va="center", fontsize=6.5, color=colour
        )
    axes.set_xlabel(labels("axis.predicted"))
    axes.set_ylabel(labels("axis.actual", images=labels.number(counts.to_numpy().sum(), ",.0f")))
    axes.tick_params(axis="x", rotation=0, length=0)
    axes.tick_params(axis="y", rotation=0, length=0)
    axes.set_title(table["backbone"].iloc[0])
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
        axes.plot(values[order], places, marker, color=colour, markersize=6, markeredgecolor="white", label=backbone)
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
        figure, axes = new_figure(4.6, 1.3 + 0.42 * len(backbones))
        part = table[table["row"] == name].set_index("backbone")
        for place, backbone in enumerate(backbones):
            ours, theirs = part.loc[backbone, ["f1_score", "published_f1_score"]]
            colour, marker = backbone_style(backbone)
            axes.plot([theirs, ours], [place] * 2, color=colour, linewidth=1.6, alpha=0.6, zorder=1)
            axes.plot(
                theirs,
                place,
                marker,
                markersize=7,
                markerfacecolor="white",
                markeredgecolor=colour,
                markeredgewidth=1.6,
            )
            axes.plot(ours, place, marker, markersize=7.5, color=colour, markeredgecolor="white")
            axes.text(
                (ours + theirs) / 2,
                place + 0.17,
                labels.number(ours - theirs, "+.2f"),
                ha="center",
                va="bottom",
                fontsize=8,
            )
        axes.set_yticks(range(len(backbones)), backbones)
        axes.set_ylim(-0.5, len(backbones) - 0.3)
        score_axis(axes, labels, low, high)
        sizes = {"images": part["support"].mean(), "published": part["published_support"].mean()}
        sizes = {key: labels.number(value, ",.0f") for key, value in sizes.items()}
        axes.set_xlabel(labels(f"axis.published_{name}", **sizes))
        axes.grid(visible=False, axis="y")
        style = {"linestyle": "", "marker": "o", "markersize": 7, "markeredgecolor": SOFT}
        handles = [mpl.lines.Line2D([], [], markerfacecolor=face, **style) for face in ("white", SOFT)]
        figure.legend(handles, [labels("axis.published"), labels("axis.ours")], loc="outside upper center", ncols=2)
        drawings.append(figure)
    return drawings


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
    figure, axes = new_figure(4.6, 3.3)
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
        text = f"{row['backbone']} {labels.number(row['difference'], '+.2f')}"
        axes.text(1.05, height, text, va="center", fontsize=8, color=colour)
    names = [labels(f"{first['factor']}.{first[level]}") for level in ("level_a", "level_b")]
    axes.set_xticks([0, 1], names)
    axes.set_xlim(-0.25, 2.0)
    axes.set_ylabel(labels(f"metric.{first['metric']}"))
    axes.grid(visible=False, axis="x")
    axes.spines["bottom"].set_bounds(-0.25, 1.1)
    write_numbers(axes.yaxis, labels, ".2f")
    return figure
