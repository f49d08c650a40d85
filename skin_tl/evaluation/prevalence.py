"""Prevalence: predictive values of a decision at other prevalences than that of the data set.

Takes the table of decisions; gives predictive values and numbers of referrals at other prevalences, by Bayes' theorem.
Sensitivity and specificity are assumed not to change with the prevalence, at the threshold that the validation subset
chose.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from skin_tl.evaluation.predictions import labelled_groups
from skin_tl.schema import CELL, PREVALENCE_COLUMNS

PREVALENCES = (1, 2, 5, 12)
"""Targets among lesions, in percent."""

PER = 1000
"""Lesions that numbers are given for."""


def prevalence_table(decisions: pd.DataFrame) -> pd.DataFrame:
    """Compute predictive values and referrals at each of `PREVALENCES`, from sensitivity and specificity.

    Parameters
    ----------
    decisions
        From `skin_tl.evaluation.decisions.decisions_table`; the means over the seeds at the point ``sensitivity_95``
        are used.

    Returns
    -------
    pandas.DataFrame
        Columns `PREVALENCE_COLUMNS`; metrics are those of `at_prevalence` and `needed_to_refer`, 1 / PPV: lesions that
        are referred for each target that is found.  No rows without a threshold, or without test lesions of both kinds.
    """
    wanted = decisions[(decisions["point"] == "sensitivity_95") & (decisions["seed"].astype(str) == "all")]
    keys = [*CELL, "strategy", "backbone", "decision"]
    rows = []
    for names, part in labelled_groups(wanted, keys):
        shares = part.set_index("metric")[["value", "ci_low", "ci_high"]]
        for percent in PREVALENCES:
            found = with_intervals(shares.loc["sensitivity"], shares.loc["specificity"], percent / 100)
            ppv = found["ppv"]
            found["needed_to_refer"] = [1 / ppv[place] if ppv[place] > 0 else np.nan for place in (0, 2, 1)]
            for metric, ends in found.items():
                numbers = dict(zip(("value", "ci_low", "ci_high"), ends, strict=True))
                row = names | {"prevalence_percent": percent, "metric": metric}
                rows.append(row | numbers)
    return pd.DataFrame(rows, columns=PREVALENCE_COLUMNS).dropna(subset="value", ignore_index=True)


def at_prevalence(
    sensitivity: Sequence[float] | float, specificity: Sequence[float] | float, prevalence: float
) -> dict[str, np.ndarray]:
    """Compute what a decision means at a prevalence, all in 0…1.

    Returns
    -------
    dict
        `ppv` and `npv`, positive and negative predictive value (0…1); `referrals`, `false_alarms` and `missed`, lesions
        of each `PER` that are referred, referred without being a target, and targets that are not referred.
    """
    found, alarms = prevalence * np.asarray(sensitivity), (1 - prevalence) * (1 - np.asarray(specificity))
    missed, cleared = prevalence - found, 1 - prevalence - alarms
    with np.errstate(invalid="ignore"):
        values = {"ppv": found / (found + alarms), "npv": cleared / (cleared + missed)}
    return values | {"referrals": PER * (found + alarms), "false_alarms": PER * alarms, "missed": PER * missed}


def with_intervals(sensitivity: Sequence[float], specificity: Sequence[float], prevalence: float) -> dict[str, list]:
    """Compute `at_prevalence` with the intervals that follow from those of sensitivity and specificity.

    Parameters
    ----------
    sensitivity, specificity
        Value and both ends of its interval, in 0…1.

    Returns
    -------
    dict
        By metric: value and both ends.  An end lies as far from the value as sensitivity and specificity move it one at
        a time, squared and added (Newcombe, Statistics in Medicine 1998): the two rest on different lesions.
    """
    (found, *found_ends), (cleared, *cleared_ends) = sensitivity, specificity
    moved = at_prevalence([found, *found_ends, found, found], [cleared, cleared, cleared, *cleared_ends], prevalence)
    intervals = {}
    for metric, (value, *others) in moved.items():
        by_one, by_other = np.array(others).reshape(2, 2) - value
        below = np.hypot(min(by_one.min(), 0), min(by_other.min(), 0))
        above = np.hypot(max(by_one.max(), 0), max(by_other.max(), 0))
        intervals[metric] = [value, max(value - below, 0), min(value + above, 1 if metric in ("ppv", "npv") else PER)]
    return intervals
