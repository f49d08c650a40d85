"""Figures of when to trust a prediction: risk by coverage, and prediction sets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import CLASSES, CONFIDENCES, COVERAGE

if TYPE_CHECKING:
    import pandas as pd


@draw.themed
def risk_coverage(curves: pd.DataFrame, values: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw the generalised risk by coverage of one backbone, a line for each score of confidence.

    Parameters
    ----------
    curves
        Rows of `skin_tl.schema.RISK_COVERAGE_COLUMNS` of one configuration and backbone.
    values
        Rows of `skin_tl.schema.ABSTENTION_COLUMNS` of the same, of all seeds.

    Returns
    -------
    Drawing
        The dotted line is a score that ranks at random.
    """
    together = values[values["seed"].astype(str) == "all"].set_index(["score", "metric"])
    names = [name for name in CONFIDENCES if name in set(curves["score"])]
    figure, axes = draw.new_figure(4.2, 4.4 + 0.18 * len(names))
    handles = []
    for place, name in enumerate(names):
        colour, marker = draw.CONFIDENCE_STYLES[name]
        curve = curves[curves["score"] == name].sort_values("coverage")
        style: dict[str, Any] = {"color": colour, "marker": marker, "markeredgecolor": "white", "linewidth": 1.6}
        axes.plot(curve["coverage"], curve["risk"], markevery=(4 + 2 * place, 10), markersize=6, **style)
        area = together.loc[(name, "augrc")]
        ends = [labels.number(area[end], ".3f") for end in ("value", "ci_low", "ci_high")]
        text = f"{ends[0]} ({ends[1]}–{ends[2]})" if np.isfinite(area["ci_low"]) else ends[0]
        entry = labels("axis.entry", name=labels(f"confidence.{name}"), value=text)
        handles.append(draw.legend_line(entry, markersize=7, **style))
    error = together.loc[(names[0], "error")]
    axes.plot([0, 1], [0, error["value"]], color=draw.SOFT, linewidth=1, linestyle=(0, (2, 3)), zorder=0)
    axes.set(xlim=(-0.02, 1.02), ylim=(0, error["value"] * 1.05 or 1))
    draw.write_numbers(axes.xaxis, labels, ".0%")
    ticks = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(*axes.get_ylim())
    axes.set_yticks([tick for tick in ticks if tick <= axes.get_ylim()[1]])
    draw.write_numbers(axes.yaxis, labels, ".0%" if ticks[1] - ticks[0] > 0.0099 else ".1%")
    seeds = values.loc[values["seed"].astype(str) != "all", "seed"].nunique()
    sizes = {"lesions": labels.number(error["n_lesions"], ",.0f"), "seeds": seeds}
    draw.write_below(axes, labels("axis.answered", **sizes), 54)
    axes.set_ylabel(labels("axis.answered_wrong"))
    draw.titled_legend(figure, handles, labels("axis.augrc", level=draw.confidence_level(labels)))
    return figure


@draw.themed
def prediction_sets(table: pd.DataFrame, labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw coverage and mean size of the prediction sets of one backbone, a row for each true diagnosis.

    Parameters
    ----------
    table
        Rows of `skin_tl.schema.CONFORMAL_COLUMNS` of one set-up and backbone, of seed ``all``.

    Returns
    -------
    list of Drawing
        Own test subset full, external set hollow.
    """
    datasets = sorted(table["dataset"].unique(), key=lambda name: name != "internal")
    cells = table.set_index(["dataset", "class", "metric"]).sort_index()
    rows = ["all", *CLASSES][::-1]
    colour, marker = draw.backbone_style(table["backbone"].iloc[0])
    drawings = []
    for metric, spec in (("coverage", ".0%"), ("size", ".1f")):
        figure, axes = draw.new_figure(4.0, 1.5 + (0.36 if len(datasets) == 1 else 0.45) * len(rows))
        sizes = [labels.number(cells.loc[("internal", dx, "coverage"), "n_lesions"], ",.0f") for dx in rows]
        names = [labels("diagnosis.all") if dx == "all" else dx for dx in rows]
        draw.name_rows(axes, [labels("axis.of_diagnosis", dx=dx, n=n) for dx, n in zip(names, sizes, strict=True)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        shown = cells.loc[cells.index.isin([metric], level="metric"), ["value", "ci_low", "ci_high"]].to_numpy(float)
        for place, dx in enumerate(rows):
            for shift, dataset in zip((0.14, -0.16) if len(datasets) > 1 else (0.0,), datasets, strict=True):
                row = cells.loc[(dataset, dx, metric)]
                if np.isnan(row["value"]):
                    continue
                full = dataset == "internal"
                draw.interval_line(axes, row["ci_low"], row["ci_high"], place + shift, colour, 1.6)
                face = colour if full else "white"
                axes.plot(row["value"], place + shift, marker, markersize=6, color=colour, markerfacecolor=face)
                draw.beside_marker(axes, np.nanmax(shown), place + shift, labels.number(row["value"], spec))
        _limits(axes, labels, metric, shown)
        draw.write_below(axes, labels(f"axis.of_sets_{metric}", level=draw.confidence_level(labels)), 30)
        if len(datasets) > 1:
            ends = [labels("axis.internal"), labels("axis.external")]
            draw.marker_legend(figure, ends, [draw.SOFT, "white"])
        drawings.append(figure)
    draw.level_labels(drawings)
    return drawings


def _limits(axes: Any, labels: Labels, metric: str, shown: np.ndarray) -> None:
    """Set the x-axis so that all values and the words beside them fit, with a line at what coverage should be."""
    if metric == "size":
        axes.set_xlim(0, max(np.nanmax(shown) * 1.2, 1))
        draw.write_numbers(axes.xaxis, labels, ".0f")
        return
    low = min(np.nanmin(shown), COVERAGE) - 0.03
    axes.set_xlim(low, 1 + 0.2 * (1 - low))
    axes.locator_params(axis="x", nbins=5)
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= 1 + 1e-9]
    axes.set_xticks(ticks)
    draw.write_numbers(axes.xaxis, labels, ".0%")
    axes.axvline(COVERAGE, color=draw.INK, linewidth=1.2, linestyle=(0, (5, 2)), zorder=1)
