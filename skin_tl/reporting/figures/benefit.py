"""Figures of what a decision is worth: decision curves, and how the risk of melanoma is calibrated and distributed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import OUTCOMES, THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_OUTCOME_STYLES: dict[str, dict[str, Any]] = {
    "melanoma": {"edgecolor": draw.DIAGNOSES["mel"], "linewidth": 2.2},
    "other_malignant": {"edgecolor": draw.INK, "linewidth": 1.4, "linestyle": (0, (4, 1.5))},
    "benign": {"facecolor": draw.PALE, "edgecolor": draw.DIAGNOSES["nv"], "linewidth": 0.8},
}


@draw.themed
def decision_curves(table: pd.DataFrame, best: str, n_seeds: int, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw the net benefit of each backbone against the threshold probability, beside referring all and none.

    Parameters
    ----------
    table
        Rows of `skin_tl.schema.CURVE_COLUMNS` of one set-up and decision.
    best
        The backbone whose interval is drawn as a band.
    n_seeds
        For the words.
    """
    backbones, decision = table["backbone"].unique(), table["decision"].iloc[0]
    figure, axes = draw.new_figure(4.4, 4.7 + 0.18 * len(backbones))
    handles = []
    for place, backbone in enumerate(backbones):
        part = table[table["backbone"] == backbone].sort_values("threshold_percent")
        colour, marker = draw.backbone_style(backbone)
        threshold = part["threshold_percent"].to_numpy() / 100
        if backbone == best:
            axes.fill_between(threshold, part["ci_low"], part["ci_high"], color=colour, alpha=0.18, linewidth=0)
        style = {"color": colour, "marker": marker, "markeredgecolor": "white", "linewidth": 1.6, "markersize": 7}
        # Markers stand at other thresholds for each, so that they do not hide each other.
        axes.plot(threshold, part["net_benefit"], **style, markevery=(4 + 2 * place, 10))
        handles.append(draw.legend_line(draw.backbone_name(backbone, labels), **style))
    of_all = table.drop_duplicates("threshold_percent").sort_values("threshold_percent")
    lines = {"refer_all": (of_all["refer_all"], (0, (5, 2))), "refer_none": (0 * of_all["refer_all"], (0, (1, 1.5)))}
    for name, (values, dashes) in lines.items():
        axes.plot(of_all["threshold_percent"] / 100, values, color=draw.INK, linewidth=1.3, linestyle=dashes, zorder=1)
        handles.append(draw.legend_line(labels(f"axis.{name}"), color=draw.INK, linewidth=1.3, linestyle=dashes))
    top = max(table["ci_high"].max(), of_all["refer_all"].max())
    named = of_all[of_all["threshold_percent"] <= 100 * THRESHOLD]["refer_all"].min()  # what the title gives
    axes.set(ylim=(min(-0.15 * top, 1.15 * named), 1.05 * top), xlim=(0, of_all["threshold_percent"].max() / 100))
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    draw.write_numbers(axes.yaxis, labels, ".2f")
    draw.write_numbers(axes.xaxis, labels, ".1f")
    sizes = {"lesions": table["n_lesions"].max(), "seeds": n_seeds}
    sizes = {name: labels.number(size, ",.0f") for name, size in sizes.items()}
    draw.write_below(axes, labels("axis.threshold", **sizes), 54)
    axes.set_ylabel(labels(f"axis.net_benefit_{decision}"))
    names = {"level": draw.confidence_level(labels), "backbone": draw.backbone_name(best, labels)}
    draw.titled_legend(figure, handles, labels("axis.band", **names))
    return figure


@draw.themed
def risk(
    table: pd.DataFrame, values: Mapping[str, Mapping[str, float]], labels: Labels = ENGLISH
) -> list[draw.Drawing]:
    """Draw the share of melanomas against the probability of melanoma, above how lesions are spread over it.

    Parameters
    ----------
    table
        Rows of `skin_tl.schema.RISK_BIN_COLUMNS` of one set-up.
    values
        Backbone → slope, intercept and brier, for the title.

    Returns
    -------
    list of Drawing
        One panel per backbone: above, the reliability curve with its intervals; below, for each of `OUTCOMES` the share
        of such lesions in each bin.
    """
    drawings = []
    for backbone, part in table.groupby("backbone", sort=False):
        figure, (above, below) = draw.new_figure(4.4, 5.6, nrows=2, sharex=True, height_ratios=(3, 2))
        _reliability(above, part[part["n_lesions"] > 0].sort_values("risk"), str(backbone), labels)
        edges = [*part["risk_low"], part["risk_high"].iloc[-1]]
        for outcome in reversed(OUTCOMES):
            fill = "facecolor" in _OUTCOME_STYLES[outcome]
            below.stairs(part[outcome].fillna(0), edges, fill=fill, **_OUTCOME_STYLES[outcome])
        below.set_ylabel(labels("axis.share_of_outcome"))
        draw.write_numbers(below.yaxis, labels, ".1f")
        lesions = labels.number(part["n_lesions"].sum(), ",.0f")
        draw.write_below(below, labels("axis.risk", lesions=lesions), 54)
        numbers = {
            name: labels.number(value, ".3f" if name == "brier" else ".2f")
            for name, value in values[str(backbone)].items()
        }
        above.set_title(draw.backbone_name(str(backbone), labels), pad=18)
        above.text(0.5, 1.03, labels("axis.slope", **numbers), transform=above.transAxes, ha="center", fontsize=8)
        handles = [
            Patch(**{"facecolor": "none"} | _OUTCOME_STYLES[name], label=labels(f"outcome.{name}")) for name in OUTCOMES
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=1)
        drawings.append(figure)
    return drawings


def _reliability(axes: Axes, part: pd.DataFrame, backbone: str, labels: Labels) -> None:
    """Draw the share of melanomas in each bin of risk, with its interval, on axes that give small risks more room."""
    colour, marker = draw.backbone_style(backbone)
    axes.plot([0, 1], [0, 1], color=draw.SOFT, linewidth=0.8, linestyle=(0, (2, 3)), zorder=0)
    axes.vlines(part["risk"], part["ci_low"], part["ci_high"], color=colour, linewidth=1.4)
    axes.plot(
        part["risk"], part["observed"], marker=marker, color=colour, markeredgecolor="white", markersize=7, linewidth=1
    )
    for set_scale in (axes.set_xscale, axes.set_yscale):
        set_scale("function", functions=(lambda x: np.sqrt(np.clip(x, 0, None)), np.square))
    ticks = [0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set(xlim=(0, 1.03), ylim=(0, 1.05), xticks=ticks, yticks=ticks)
    for axis in (axes.xaxis, axes.yaxis):
        draw.write_numbers(axis, labels, "g")
    axes.set_ylabel(labels("axis.observed"))
