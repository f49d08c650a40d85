"""Figure of subgroups: who the scores hold for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skin_tl.evaluation.subgroups import AGE_BANDS
from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import Labels

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_WORDS = {"sex": "sex", "age": "age", "site": "localization", "dx_type": "dx_type"}
"""Variables of the subgroups, in the order that they are drawn in, and where the labels have words for their values."""


@draw.themed
def subgroups(table: pd.DataFrame, labels: Labels, overall: float, backbone: str, metric: str) -> draw.Drawing:
    """Draw a score by sex, age, body site and way of diagnosis.

    Parameters
    ----------
    table
        subgroup (``sex=female``), value, ci_low, ci_high, n_lesions, conclusive (bool); of one backbone and metric.
    overall
        The score over all images, a vertical line.
    backbone
        Gives title, colour and marker.
    metric
        Names the score: a label below ``metric``.

    Returns
    -------
    Drawing
        Lesions at the right; hollow and grey where they are too few for a conclusion.
    """
    colour, marker = draw.backbone_style(backbone)
    rows = _grouped(table)
    figure, axes = draw.new_figure(4.6, 1.5 + 0.205 * len(rows))
    names, sizes = [], []
    for place, row in zip(range(len(rows))[::-1], rows, strict=True):
        variable, value = row["subgroup"].split("=", 1)
        if value == "":
            names.append(labels.known("subgroup", variable))
            sizes.append(labels("axis.lesions") if place == len(rows) - 1 else "")
            continue
        names.append(_subgroup_name(variable, value, labels))
        sizes.append(labels.number(row["n_lesions"], ",.0f"))
        shade, face = (colour, colour) if row["conclusive"] else (draw.GREY, "white")
        draw.interval_line(axes, row["ci_low"], row["ci_high"], place, shade, 1.6)
        axes.plot(row["value"], place, marker, markersize=6, color=shade, markerfacecolor=face)
    _name_both_sides(axes, names, sizes)
    for tick, row in zip(axes.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("bold" if row["subgroup"].endswith("=") else "normal")
    line: dict[str, Any] = {"color": draw.INK, "linestyle": (0, (5, 2))}
    axes.axvline(overall, linewidth=1.2, zorder=1, **line)
    shown = [*table[["value", "ci_low", "ci_high"]].to_numpy(float).ravel(), overall]
    draw.score_axis(axes, labels, *draw.with_room(shown, 0.04))
    level = draw.confidence_level(labels)
    draw.write_below(axes, labels("axis.of_subgroup", metric=labels(f"metric.{metric}"), level=level))
    axes.set_title(draw.backbone_name(backbone, labels))
    meanings = [labels("axis.conclusive"), labels("axis.inconclusive")]
    whole = draw.legend_line(labels("axis.overall", value=labels.number(overall, ".3f")), **line)
    draw.marker_legend(figure, meanings, [draw.SOFT, "white"], [whole])
    return figure


def _name_both_sides(axes: Axes, names: list[str], sizes: list[str]) -> None:
    """Write names left and sizes right of the rows, from the top down."""
    places = range(len(names))[::-1]
    axes.set_yticks(places, names)
    axes.set_ylim(-0.7, len(names) - 0.3)
    right = axes.twinx()
    right.set_yticks(places, sizes)
    right.set_ylim(axes.get_ylim())
    for label in right.get_yticklabels():
        label.set_horizontalalignment("right")
    right.tick_params(axis="y", pad=42)
    for one in (axes, right):
        one.grid(visible=False, axis="y")
        one.tick_params(axis="y", length=0)
        one.spines[["left", "right"]].set_visible(False)


def _grouped(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of subgroups as dicts, by variable, with a row ``<variable>=`` in front of each."""
    parts = table["subgroup"].str.split("=", n=1, expand=True)
    bands = {band: place for place, band in enumerate(AGE_BANDS)}
    table = table.assign(
        variable=parts[0], name=parts[1], unknown=parts[1] == "unknown", band=parts[1].map(bands).fillna(0)
    )
    table = table.sort_values(["unknown", "band", "n_lesions", "name"], ascending=[True, True, False, True])
    rows: list[dict[str, Any]] = []
    for variable in (name for name in _WORDS if name in set(parts[0])):
        members = table[table["variable"] == variable]
        rows += [{"subgroup": f"{variable}="}, *members.to_dict("records")]
    return rows


def _subgroup_name(variable: str, value: str, labels: Labels) -> str:
    if variable == "age" and "-" in value:
        return value.replace("-", "–")
    return labels.known(_WORDS[variable], value)
