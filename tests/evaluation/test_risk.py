"""Calibration of the probability of melanoma: simulations with known slope and intercept, and SciPy's own search."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from simulated import predictions
from sklearn.metrics import brier_score_loss

from skin_tl.evaluation.decisions import lesion_scores
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.evaluation.risk import EDGES, recalibration, risk_bins, risk_table
from skin_tl.schema import OUTCOMES, RISK_BIN_COLUMNS, RISK_COLUMNS


@pytest.fixture(scope="module")
def table():
    return check_predictions(predictions(np.random.default_rng(1), n_lesions=900, seeds=(1, 2)))


def simulate(rng, n_lesions, slope, intercept):
    """Draw risks, and outcomes whose log odds are `intercept` plus `slope` times those of the risk."""
    logit = rng.normal(-2, 1.5, n_lesions)
    return rng.random(n_lesions) < special.expit(intercept + slope * logit), special.expit(logit)


def searched(positive, risk, times=None):
    """Find slope and intercept by SciPy's minimisation of the log loss; each lesion counts as often as `times` says."""
    logit, times = special.logit(np.clip(risk, 1e-6, 1 - 1e-6)), np.ones(len(risk)) if times is None else times

    def loss(a, b):
        return times @ np.logaddexp(0, np.where(positive, -1, 1) * (a + b * logit))

    both = optimize.minimize(lambda x: loss(*x), [0, 1], method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-10})
    alone = optimize.minimize_scalar(lambda a: loss(a, 1), bounds=(-20, 20), method="bounded", options={"xatol": 1e-9})
    return both.x[1], alone.x


@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (0.5, 0), (1.6, 0), (1, 0.8), (1, -1.2)])
def test_slope_and_intercept_are_those_simulated(slope, intercept):
    positive, risk = simulate(np.random.default_rng(0), 200_000, slope, intercept)
    (found_slope, found_intercept), _ = recalibration(positive, risk, np.ones((len(risk), 1), np.float32))
    assert found_slope == pytest.approx(slope, abs=0.03)
    if slope == 1:
        assert found_intercept == pytest.approx(intercept, abs=0.03)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.floats(0.3, 2), st.floats(-1, 1))
def test_slope_and_intercept_are_those_of_another_search(seed, slope, intercept):
    positive, risk = simulate(np.random.default_rng(seed), 300, slope, intercept)
    values, draws = recalibration(positive, risk, np.ones((len(risk), 2), np.float32))
    assert values == pytest.approx(searched(positive, risk), abs=2e-4)
    for value, drawn in zip(values, draws, strict=True):  # every lesion once: no step away from the values
        assert drawn == pytest.approx(value, abs=1e-4)


def test_draws_lie_near_regressions_of_their_own():
    """One Newton step gives the spread of regressions that are fitted again to each draw."""
    rng = np.random.default_rng(5)
    positive, risk = simulate(rng, 1500, 0.8, -0.2)
    drawn = rng.multinomial(1500, np.full(1500, 1 / 1500), 60).T.astype(np.float32)
    _, draws = recalibration(positive, risk, drawn)
    fitted = np.array([searched(positive, risk, times) for times in drawn.T.astype(float)]).T
    for ours, theirs in zip(draws, fitted, strict=True):
        assert np.corrcoef(ours, theirs)[0, 1] > 0.99
        assert ours.std() == pytest.approx(theirs.std(), rel=0.1)
        assert abs(ours.mean() - theirs.mean()) < 0.25 * theirs.std()


def test_intervals_hold_the_truth_in_simulated_samples():
    rng, inside, n_samples = np.random.default_rng(7), np.zeros(2), 300
    for _ in range(n_samples):
        positive, risk = simulate(rng, 600, 1, 0)
        drawn = rng.multinomial(600, np.full(600, 1 / 600), 200).T.astype(np.float32)
        values, draws = recalibration(positive, risk, drawn)
        for place, (value, sample, truth) in enumerate(zip(values, draws, (1, 0), strict=True)):
            inside[place] += abs(value - truth) <= 1.96 * sample.std()
    assert (np.abs(inside / n_samples - 0.95) < 0.035).all(), inside / n_samples


def test_what_has_no_finite_value_is_empty():
    risk, drawn = np.array([0.1, 0.2, 0.3, 0.4]), np.ones((4, 3), np.float32)
    (slope, intercept), (slopes, intercepts) = recalibration(np.array([False, False, True, True]), risk, drawn)
    assert np.isnan([slope, *slopes]).all() and np.isfinite([intercept, *intercepts]).all()
    for only in (True, False):
        values, draws = recalibration(np.full(4, only), risk, drawn)
        assert np.isnan(values).all() and np.isnan(draws).all()


def test_values_are_those_of_the_lesions(table):
    found = risk_table(table, "s", "b", n_boot=200)
    assert list(found.columns) == RISK_COLUMNS
    cells = found.set_index(["metric", "seed"])
    for seed, part in lesion_scores(table[table["subset"] == "test"]).groupby("seed"):
        share = part["melanoma"].mean()
        wanted = {"observed": share, "brier_of_share": share * (1 - share), "mean_risk": part["p_mel"].mean()}
        wanted["brier"] = brier_score_loss(part["melanoma"], part["p_mel"])
        slope, intercept = searched(part["melanoma"].to_numpy(), part["p_mel"].to_numpy())
        for metric, value in (wanted | {"slope": slope, "intercept": intercept}).items():
            assert cells.loc[(metric, str(seed)), "value"] == pytest.approx(value, abs=2e-4), metric
    assert ((found["ci_low"] < found["value"]) & (found["value"] < found["ci_high"])).all()
    means = found[found["seed"] != "all"].groupby("metric")["value"].mean()
    assert cells.xs("all", level="seed")["value"].sort_index().to_numpy() == pytest.approx(
        means.sort_index().to_numpy()
    )


def test_without_validation_nothing_is_scaled(table):
    found = risk_table(table[table["subset"] == "test"], "s", "b", n_boot=20)
    assert {"brier", "slope", "intercept"} <= set(found["metric"])
    assert not found["metric"].str.endswith("_scaled").any()


def test_bins_hold_every_lesion_once(table):
    bins = risk_bins(table, "s", "b", n_boot=200)
    assert list(bins.columns) == RISK_BIN_COLUMNS and len(bins) == len(EDGES) - 1
    lesions = lesion_scores(table[table["subset"] == "test"])
    assert bins["n_lesions"].sum() == pytest.approx(len(lesions) / 2)
    assert bins[list(OUTCOMES)].sum().to_numpy() == pytest.approx(1)
    for row in bins.to_dict("records"):
        inside = lesions[(lesions["p_mel"] >= row["risk_low"]) & (lesions["p_mel"] < row["risk_high"])]
        assert row["n_lesions"] == len(inside) / 2
        if len(inside):
            assert row["risk"] == pytest.approx(inside["p_mel"].mean())
            assert row["observed"] == pytest.approx(inside["melanoma"].mean())
            assert row["ci_low"] <= row["observed"] + 1e-9 and row["observed"] <= row["ci_high"] + 1e-9
        else:
            assert np.isnan(row["observed"])
