"""Estimates: values of the test subset of each seed, and their means over the seeds with 95 % intervals.

Takes a function that computes values of rows in all draws of a bootstrap over lesions; gives rows of a table.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from skin_tl.evaluation.uncertainty import draw_lesions, interval, nanmean
from skin_tl.schema import CONFIDENCE


@dataclass(frozen=True)
class Estimate:
    """A value of one seed's test subset.

    Attributes
    ----------
    value
    draws
        (n_draws,), the value in each draw.
    lesions
        Names of the lesions that it rests on.
    difference
        Whether it is a difference, with Student's interval, and no share of 0…1.
    scale
        What value and interval are multiplied by.
    """

    value: float
    draws: np.ndarray
    lesions: np.ndarray
    difference: bool = False
    scale: float = 1

    def ends(self) -> tuple[float, float]:
        """Return both ends of its interval."""
        n_lesions = len(np.unique(self.lesions))
        if self.difference:
            return student_interval(self.value, self.draws, n_lesions)
        low, high = interval("share", self.value, self.draws, n_lesions)
        return self.scale * low, self.scale * high


def mean_estimate(values: np.ndarray, drawn: np.ndarray, lesions: np.ndarray, scale: float = 1) -> Estimate:
    """Estimate a mean, of shares for one; NaN of nothing.

    Parameters
    ----------
    values, lesions
        (n_rows,) float or bool, and the lesion of each.
    drawn
        (n_rows, n_draws): how often each draw holds each row.
    scale
        See `Estimate`.
    """
    with np.errstate(invalid="ignore"):
        draws = values.astype(np.float32) @ drawn / drawn.sum(0)
    return Estimate(values.mean() if len(values) else np.nan, draws, lesions, scale=scale)


def student_interval(value: float, draws: np.ndarray, n_units: float) -> tuple[float, float]:
    """Give the interval of a difference: Student's, with the standard error of its draws; NaN where there is none."""
    draws = draws[np.isfinite(draws)]
    if len(draws) < 2 or not np.isfinite(value):
        return np.nan, np.nan
    half = stats.t.ppf((1 + CONFIDENCE) / 2, max(n_units - 1, 1)) * draws.std(ddof=1)
    return value - half, value + half


def over_seeds(
    test: pd.DataFrame, compute: Callable[[pd.DataFrame, np.ndarray], Mapping[Hashable, Estimate]], n_boot: int
) -> list[dict]:
    """Compute values of each seed's test subset and their means over the seeds, with intervals.

    Parameters
    ----------
    test
        Test rows of one configuration, with seed and lesion_id.
    compute
        Takes the rows of one seed and their weights in each draw, (n_rows, n_draws) float32; gives estimates by key.
        Lesions are drawn once for all seeds.
    n_boot
        Draws of the bootstrap over lesions.

    Returns
    -------
    list of dict
        key, seed (``all`` for the means), value, ci_low, ci_high, n_lesions.
    """
    index, weights = draw_lesions(test, n_boot)
    found: dict[str, Mapping[Hashable, Estimate]] = {}
    for of, at in test.reset_index(drop=True).groupby("seed").groups.items():
        found[str(of)] = compute(test.iloc[at], weights[index[at]])
    together = {}
    for key in next(iter(found.values())):
        of_key = [estimates[key] for estimates in found.values()]
        lesions = np.concatenate([one.lesions for one in of_key])
        value, draws = (nanmean([getattr(one, name) for one in of_key]) for name in ("value", "draws"))
        together[key] = replace(of_key[0], value=float(value), draws=draws, lesions=lesions)
    rows = []
    for of, estimates in (found | {"all": together}).items():
        for key, one in estimates.items():
            low, high = one.ends()
            row = {"key": key, "seed": of, "value": one.scale * one.value, "ci_low": low, "ci_high": high}
            rows.append(row | {"n_lesions": len(np.unique(one.lesions))})
    return rows
