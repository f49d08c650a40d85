"""Figures of training: curves over epochs, learning curves over lesions, and maps of features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import CLASSES

if TYPE_CHECKING:
    import pandas as pd


@draw.themed
def training_curves(
    history: pd.DataFrame, labels: Labels = ENGLISH, title: str | None = None, strategy: str = "feature_extraction"
) -> draw.Drawing:
    """Draw training and validation loss by epoch: a thin line per seed, a dot where the weights were taken.

    Parameters
    ----------
    history
        Of the arm ``main``, one stage: columns split_policy, preprocessing, seed, epoch, loss, val_loss, kept (bool).
    title
        Usually the backbone's name, whose colour the lines have then.
    strategy
        Named below the title, unless heads on features were trained.
    """
    colour = draw.backbone_style(title or "")[0]
    figure, axes = draw.new_figure(3.7, 2.7)
    for _, part in history.groupby(["split_policy", "preprocessing", "seed"], sort=True):
        part = part.sort_values("epoch")
        axes.plot(part["epoch"], part["loss"], color=colour, linewidth=1, alpha=0.65, linestyle=(0, (3, 2)))
        axes.plot(part["epoch"], part["val_loss"], color=colour, linewidth=1.4)
        best = part[part["kept"]].iloc[0]
        axes.plot(best["epoch"], best["val_loss"], "o", color=colour, markersize=6, markeredgecolor=draw.INK, zorder=3)
    n_heads = len(history.drop_duplicates(["split_policy", "preprocessing", "seed"]))
    heads = strategy == "feature_extraction"
    axes.set_xlabel(labels("axis.epoch" if heads else "axis.epoch_networks", heads=labels.number(n_heads, "d")))
    axes.set_ylabel(labels("axis.loss"))
    axes.set_ylim(bottom=0)
    draw.write_numbers(axes.xaxis, labels, ".0f")
    draw.write_numbers(axes.yaxis, labels, ".1f")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    named = [draw.backbone_name(title, labels)] if title else []
    axes.set_title("\n".join([*named, *([] if heads else [labels(f"strategy.{strategy}")])]))
    styles = {"training": (0, (3, 2)), "validation": "-"}
    lines = [draw.legend_line(labels(f"axis.{name}"), color=colour, linestyle=style) for name, style in styles.items()]
    axes.legend(handles=lines, loc="best")
    return figure


@draw.themed
def learning_curves(table: pd.DataFrame, labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw a score against the number of training lesions, a line for each strategy.

    Parameters
    ----------
    table
        ``learning_curves.csv``: strategy, backbone, n_lesions, metric, value, ci_low, ci_high, n_seeds, n_images.

    Returns
    -------
    list of Drawing
        One per backbone, all with the same axes.
    """
    first = table.iloc[0]
    sizes = np.sort(table["n_lesions"].unique())
    low, high = draw.with_room(table[["value", "ci_low", "ci_high"]].to_numpy(float), 0.06)
    strategies = list(dict.fromkeys(table["strategy"]))
    # Error bars stand beside each other, a small factor apart.
    apart = (sizes[-1] / sizes[0]) ** 0.015
    drawings = []
    for backbone, part in table.groupby("backbone", sort=False):
        figure, axes = draw.new_figure(4.6, 3.6 + 0.18 * len(strategies))
        for place, strategy in enumerate(strategies):
            rows = part[part["strategy"] == strategy].sort_values("n_lesions")
            colour, marker = draw.STRATEGY_STYLES[strategy]
            x = rows["n_lesions"] * apart ** (place - (len(strategies) - 1) / 2)
            axes.vlines(x, rows["ci_low"], rows["ci_high"], color=colour, linewidth=1.4)
            style = {"marker": marker, "markersize": 7, "markeredgecolor": "white", "linewidth": 1.6}
            axes.plot(x, rows["value"], color=colour, label=labels(f"strategy.{strategy}"), **style)
        axes.set_xscale("log")
        axes.set_xlim(sizes[0] / apart**3, sizes[-1] * apart**3)
        axes.set_ylim(max(0.0, low), min(1.0, high))
        axes.xaxis.set_major_locator(FixedLocator(list(_ticks_apart(sizes))))
        axes.xaxis.set_minor_locator(NullLocator())
        draw.write_numbers(axes.xaxis, labels, ",.0f")
        draw.write_numbers(axes.yaxis, labels, ".2f")
        shown = {"images": labels.number(first["n_images"], ",.0f"), "seeds": labels.number(first["n_seeds"], "d")}
        draw.write_below(axes, labels("axis.training_lesions", **shown), 54)
        axes.set_ylabel(labels("axis.of_score", metric=labels(f"metric.{first['metric']}")))
        axes.set_title(draw.backbone_name(backbone, labels))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=2)
        drawings.append(figure)
    return drawings


def _ticks_apart(sizes: np.ndarray, least: float = 0.13) -> np.ndarray:
    """Return those of sorted sizes whose numbers have room on a logarithmic axis from the first to the last."""
    places, kept = np.log(sizes) - np.log(sizes[0]), [len(sizes) - 1]
    for place in range(len(sizes) - 2, -1, -1):
        if places[kept[-1]] - places[place] >= least * places[-1]:
            kept.append(place)
    return sizes[kept[::-1]]


@draw.themed
def feature_maps(points: pd.DataFrame, labels: Labels = ENGLISH, n_images: int | None = None) -> list[draw.Drawing]:
    """Draw the 2-D map of each backbone's features, coloured by diagnosis.

    Parameters
    ----------
    points
        backbone, dx, x, y; one row per image.
    n_images
        Of the data set, where the points are fewer.

    Returns
    -------
    list of Drawing
        One per backbone.  The rarest diagnosis lies on top; all dots of a diagnosis are one line of dots, so that
        thousands of them stay small.
    """
    drawings = []
    for backbone, part in points.groupby("backbone", sort=False):
        counts = part["dx"].value_counts()
        figure, axes = draw.new_figure(4.6, 5.0)
        handles: dict[str, Any] = {}
        low, high = part[["x", "y"]].to_numpy().min(), part[["x", "y"]].to_numpy().max()
        short = (high - low) / 1000  # some renderers leave out a line without length, caps and all
        for dx in sorted(counts.index, key=lambda name: (-counts[name], name)):
            places = np.repeat(part.loc[part["dx"] == dx, ["x", "y"]].to_numpy(float), 2, axis=0)
            places[1::2, 0] += short
            dots = mpl.path.Path(places, np.tile([mpl.path.Path.MOVETO, mpl.path.Path.LINETO], len(places) // 2))
            dots.should_simplify = False
            style = {"color": draw.DIAGNOSES[dx], "linewidth": 3.2, "capstyle": "round", "fill": False, "snap": False}
            axes.add_patch(mpl.patches.PathPatch(dots, zorder=len(handles) + 1, **style))
            text = labels("axis.of_diagnosis", dx=dx, n=labels.number(int(counts[dx]), ",d"))
            style = {"linestyle": "", "marker": "o", "markersize": 6, "color": draw.DIAGNOSES[dx]}
            handles[dx] = draw.legend_line(text, **style)
        room = 0.03 * (high - low or 1)
        axes.set(xlim=(low - room, high + room), ylim=(low - room, high + room), xticks=[], yticks=[], aspect="equal")
        axes.grid(visible=False)
        n_points, total = (labels.number(int(n), ",d") for n in (len(part), n_images or len(part)))
        draw.write_below(axes, labels("axis.points", points=n_points, images=total), 54)
        axes.set_title(draw.backbone_name(backbone, labels))
        figure.legend(handles=[handles[dx] for dx in CLASSES if dx in handles], loc="outside lower center", ncols=3)
        drawings.append(figure)
    return drawings
