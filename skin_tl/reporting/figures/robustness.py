"""Figures of robustness: what corruptions do to the score, and what parts of the picture that should not matter do."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import seaborn as sns

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels

if TYPE_CHECKING:
    import pandas as pd


@draw.themed
def corruptions(table: pd.DataFrame, labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw the change of macro F1 by corruption and severity, a panel for each backbone.

    Parameters
    ----------
    table
        Rows of `skin_tl.schema.ROBUSTNESS_COLUMNS` of one strategy.

    Returns
    -------
    list of Drawing
        Darker is a greater loss; all panels have the same colours.
    """
    table = table[(table["kind"] == "corruption") & (table["metric"] == "macro_f1") & (table["severity"] > 0)]
    least = min(table["difference"].min(), -0.05)
    colours = sns.light_palette(draw.DIAGNOSES["mel"], as_cmap=True, reverse=True)
    drawings = []
    for backbone, part in table.groupby("backbone", sort=False):
        cells = part.pivot(index="change", columns="severity", values="difference").loc[part["change"].unique()]
        figure, axes = draw.new_figure(4.4, 1.2 + 0.34 * len(cells))
        lines = {"linewidths": 1, "linecolor": "white"}
        sns.heatmap(cells, vmin=least, vmax=0, cmap=colours, cbar=False, ax=axes, **lines)
        for (row, column), value in np.ndenumerate(cells.to_numpy()):
            ink = draw.ink_on(colours((value - least) / -least))
            text = labels.number(value, "+.2f")
            axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=ink, fontsize=8)
        axes.set_yticklabels([labels(f"change.{name}") for name in cells.index], rotation=0)
        axes.set_ylabel("")
        axes.set_title(draw.backbone_name(str(backbone), labels))
        draw.write_below(axes, labels("axis.severity", lesions=labels.number(part["n_lesions"].max(), ",.0f")), 48)
        drawings.append(figure)
    return drawings


@draw.themed
def shortcuts(table: pd.DataFrame, labels: Labels = ENGLISH) -> list[draw.Drawing]:
    """Draw what masks and artefacts change, with paired intervals: a panel for each metric, a row for each of them.

    Parameters
    ----------
    table
        Rows of `skin_tl.schema.ROBUSTNESS_COLUMNS` of one strategy.
    """
    table = table[table["kind"].isin(["mask", "artefact"])]
    backbones, names = table["backbone"].unique(), table["change"].unique()[::-1]
    shifts = np.linspace(0.3, -0.3, len(backbones)) if len(backbones) > 1 else [0.0]
    drawings = []
    for metric, part in table.groupby("metric", sort=False):
        figure, axes = draw.new_figure(4.4, 1.5 + (0.2 + 0.07 * len(backbones)) * len(names))
        draw.name_rows(axes, [draw.in_lines(labels(f"change.{name}"), 20) for name in names])
        axes.set_ylim(-0.6, len(names) - 0.4)
        handles = []
        for backbone, shift in zip(backbones, shifts, strict=True):
            colour, marker = draw.backbone_style(backbone)
            rows = part[part["backbone"] == backbone].set_index("change")
            for place, name in enumerate(names):
                row = rows.loc[name]
                draw.interval_line(axes, row["ci_low"], row["ci_high"], place + shift, colour, 1.6)
                axes.plot(row["difference"], place + shift, marker, markersize=6, color=colour, markeredgecolor="white")
            style = {"color": colour, "marker": marker, "linestyle": "", "markersize": 7}
            handles.append(draw.legend_line(draw.backbone_name(backbone, labels), **style))
        draw.difference_axis(axes, labels, part[["difference", "ci_low", "ci_high"]].to_numpy(float).ravel())
        sizes = {"lesions": labels.number(part["n_lesions"].max(), ",.0f"), "level": draw.confidence_level(labels)}
        draw.write_below(axes, labels(f"axis.changed_{metric}", **sizes), 48)
        figure.legend(handles=handles, loc="outside upper center", ncols=2)
        drawings.append(figure)
    return drawings
