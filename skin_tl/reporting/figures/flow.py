"""The flow diagram: images and lesions from the release to each subset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from skin_tl.reporting import drawing as draw
from skin_tl.reporting.texts import ENGLISH, Labels
from skin_tl.schema import SUBSETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDTH, _STEP = 5.6, 0.92
"""Inches: of the drawing, and from one row of boxes to the next."""
_MAIN, _ASIDE = 1.5, 4.05
"""Where boxes stand: those that the study goes through, and what leaves them."""

_STAGES = (("published", ("absent",)), ("read", ("shared_pictures", "near_duplicates")), ("study", ()))
"""Each stage, and what leaves it before the next."""


@draw.themed
def flow(table: pd.DataFrame, subsets: pd.DataFrame, labels: Labels = ENGLISH) -> draw.Drawing:
    """Draw how many images and lesions come from the release to each subset.

    Parameters
    ----------
    table
        From `skin_tl.reporting.tables.flow_table`.
    subsets
        Rows of ``subsets.csv`` of all seeds together: split_policy, subset, n_images, n_lesions.

    Returns
    -------
    Drawing
        A stage without images or lesions that leave it has no box aside.
    """
    counts = table.set_index("stage")
    stages = [(stage, aside) for stage, aside in _STAGES if stage in counts.index]
    policies = subsets["split_policy"].unique()
    n_rows = len(stages) + len(policies) + ("external" in counts.index)
    figure, axes = draw.blank_figure(_WIDTH, n_rows * _STEP + 0.3 * len(policies))
    y = figure.get_figheight() - _STEP / 2
    for place, (stage, aside) in enumerate(stages):
        _box(axes, _MAIN, y, _words(stage, counts.loc[stage], labels), "bold")
        if place:
            draw.arrow(axes, (_MAIN, y + _STEP - 0.3), (_MAIN, y + 0.3), width=1.2)
        left = [name for name in aside if counts.loc[name].fillna(0).any()]
        for row, name in enumerate(left):
            height = y - _STEP / 2 + 0.58 * (len(left) / 2 - 0.5 - row)
            axes.plot([_MAIN, _ASIDE], [height] * 2, color=draw.GRID, linewidth=1, zorder=0)
            _box(axes, _ASIDE, height, _words(name, counts.loc[name], labels), edge=draw.GRID)
        y -= _STEP
    for policy in policies:
        y -= 0.3
        if policy == policies[0]:
            draw.arrow(axes, (_MAIN, y + _STEP), (_MAIN, y + 0.55), width=1.2)
        title = labels(f"split_policy.{policy}").capitalize()
        axes.text(0.1, y + 0.45, title, fontsize=8.5, fontweight="bold", va="center")
        for place, subset in enumerate(SUBSETS):
            row = subsets[(subsets["split_policy"] == policy) & (subsets["subset"] == subset)].iloc[0]
            _box(axes, 0.98 + 1.82 * place, y, _words(subset, row, labels, "subset"))
        y -= _STEP
    if "external" in counts.index:
        _box(axes, _MAIN, y, _words("external", counts.loc["external"], labels))
    return figure


def _words(name: str, counts: pd.Series, labels: Labels, group: str = "flow") -> str:
    """Return the words of a box: what it is, and how many images and lesions."""
    lesions = "lesion_ids" if name == "read" else "lesions"
    lines = [labels(f"{group}.{name}")]
    for column, label in (("n_images", "images"), ("n_lesions", lesions)):
        if pd.notna(counts[column]):
            lines.append(labels(f"flow.{label}", n=labels.number(float(counts[column]), ",.0f")))
    return "\n".join(lines)


def _box(axes: Axes, x: float, y: float, text: str, weight: str = "normal", edge: str = draw.SOFT) -> None:
    frame = {"boxstyle": "round,pad=0.45,rounding_size=0.3", "facecolor": "white", "edgecolor": edge}
    axes.text(x, y, text, ha="center", va="center", fontsize=8, linespacing=1.25, bbox=frame)
