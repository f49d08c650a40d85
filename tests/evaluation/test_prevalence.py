"""Predictive values at other prevalences: by hand, by counting a population, and their intervals."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skin_tl.evaluation.prevalence import PREVALENCES, at_prevalence, prevalence_table, with_intervals
from skin_tl.schema import DECISION_COLUMNS, PREVALENCE_COLUMNS

CELL = {
    "dataset": "internal",
    "arm": "main",
    "split_policy": "lesion",
    "preprocessing": "native",
    "train_fraction": 1.0,
}
CELL |= {"train_fraction": 1.0, "strategy": "s", "backbone": "b", "decision": "melanoma"}


def decided(sensitivity, specificity, point="sensitivity_95", seed="all"):
    """Rows of ``decisions.csv`` of one decision; each share is its value and both ends."""
    rows = [
        {**CELL, "point": point, "seed": seed, "metric": metric, "value": value, "ci_low": low, "ci_high": high}
        for metric, (value, low, high) in {"sensitivity": sensitivity, "specificity": specificity}.items()
    ]
    return pd.DataFrame(rows, columns=DECISION_COLUMNS)


def test_predictive_values_follow_bayes_theorem_by_hand():
    table = prevalence_table(decided((0.9, 0.8, 0.95), (0.8, 0.78, 0.82)))
    assert list(table.columns) == PREVALENCE_COLUMNS
    assert set(table["prevalence_percent"]) == set(PREVALENCES) == {1, 2, 5, 12}
    found = table.set_index(["prevalence_percent", "metric"])["value"]
    # Of 1,000 lesions 50 are melanomas: 45 are found, and a fifth of the other 950 are false alarms.
    assert found[5, "ppv"] == pytest.approx(45 / (45 + 190))
    assert found[5, "npv"] == pytest.approx(760 / (760 + 5))
    assert found[5, "referrals"] == pytest.approx(235)
    assert found[5, "false_alarms"] == pytest.approx(190)
    assert found[5, "missed"] == pytest.approx(5)
    assert found[5, "needed_to_refer"] == pytest.approx(235 / 45)
    assert found[1, "ppv"] == pytest.approx(0.9 * 0.01 / (0.9 * 0.01 + 0.2 * 0.99))
    assert found[12, "npv"] == pytest.approx(0.8 * 0.88 / (0.8 * 0.88 + 0.1 * 0.12))


@given(st.integers(1, 400), st.integers(1, 400), st.data())
def test_at_the_measured_prevalence_they_are_those_counted(n_targets, n_others, data):
    found, alarms = data.draw(st.integers(0, n_targets)), data.draw(st.integers(0, n_others))
    n = n_targets + n_others
    values = at_prevalence(found / n_targets, 1 - alarms / n_others, n_targets / n)
    if found + alarms:
        assert values["ppv"] == pytest.approx(found / (found + alarms))
    if found + alarms < n:
        assert values["npv"] == pytest.approx((n_others - alarms) / (n - found - alarms))
    assert values["referrals"] == pytest.approx(1000 * (found + alarms) / n, abs=1e-9)
    assert values["missed"] == pytest.approx(1000 * (n_targets - found) / n, abs=1e-9)


shares = st.tuples(st.floats(0.01, 0.99), st.floats(0, 0.5), st.floats(0, 0.5)).map(
    lambda three: (three[0], max(three[0] - three[1], 0.0), min(three[0] + three[2], 1.0))
)


@given(shares, shares, st.sampled_from(PREVALENCES))
def test_intervals_hold_their_value_and_stay_in_range(sensitivity, specificity, percent):
    for metric, (value, low, high) in with_intervals(sensitivity, specificity, percent / 100).items():
        assert 0 <= low <= value + 1e-12 and value <= high + 1e-12
        assert high <= (1 if metric in ("ppv", "npv") else 1000)
    alone = with_intervals(sensitivity, (specificity[0],) * 3, percent / 100)["ppv"]
    ends = [at_prevalence(end, specificity[0], percent / 100)["ppv"] for end in sensitivity[1:]]
    assert alone[1:] == pytest.approx(ends)  # where only one share is uncertain, it is that share's interval


def test_intervals_hold_the_truth_in_95_of_100_samples():
    rng = np.random.default_rng(3)
    truth = {name: float(value) for name, value in at_prevalence(0.92, 0.75, 0.02).items()}
    n_targets, n_others, inside = 120, 1300, dict.fromkeys(truth, 0)
    for _ in range(1000):
        drawn = []
        for share, n in ((0.92, n_targets), (0.75, n_others)):
            hits = rng.binomial(n, share)
            half = 1.96 * np.sqrt(hits / n * (1 - hits / n) / n + 1.96**2 / (4 * n**2)) / (1 + 1.96**2 / n)
            centre = (hits / n + 1.96**2 / (2 * n)) / (1 + 1.96**2 / n)  # Wilson's
            drawn.append((hits / n, centre - half, centre + half))
        for metric, (_, low, high) in with_intervals(*drawn, 0.02).items():
            inside[metric] += low <= truth[metric] <= high
    assert all(930 <= count <= 970 for count in inside.values()), inside


def test_without_a_threshold_or_a_share_there_are_no_rows():
    assert prevalence_table(decided((0.9, 0.8, 1), (0.8, 0.7, 0.9), point="diagnosis")).empty
    assert prevalence_table(decided((0.9, 0.8, 1), (0.8, 0.7, 0.9), seed="1")).empty
    assert prevalence_table(decided((np.nan,) * 3, (0.8, 0.7, 0.9))).query("metric == 'ppv'").empty
    assert list(prevalence_table(decided((0.9, 0.8, 1), (0.8, 0.7, 0.9), seed="1")).columns) == PREVALENCE_COLUMNS


def test_a_threshold_that_finds_nothing_has_no_number_needed_to_refer():
    table = prevalence_table(decided((0.0, 0.0, 0.2), (0.9, 0.8, 0.95)))
    assert "needed_to_refer" not in set(table["metric"]) and table["value"].notna().all()
