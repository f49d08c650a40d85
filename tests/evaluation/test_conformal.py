"""Conformal sets hold the true diagnosis as often as they say, for each diagnosis."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import CODES, draw_images, predictions

from skin_tl.evaluation.conformal import conformal_table, thresholds
from skin_tl.evaluation.decisions import lesion_scores
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.schema import CLASSES, CONFORMAL_COLUMNS, COVERAGE, PROBABILITIES

N_CALIBRATED, N_TESTED, N_REPEATS = 15, 200, 300


def lesions_of(rng, n_each):
    """Draw single-image lesions, as many of each diagnosis."""
    singles = np.concatenate([rng.choice(np.flatnonzero(CODES == code), n_each) for code in range(len(CLASSES))])
    y, lesion, (probability,) = draw_images(singles, rng)
    _, first = np.unique(lesion, return_index=True)
    return y[first], probability[first]


@pytest.mark.parametrize("coverage", [0.8, COVERAGE])
def test_coverage_is_nominal_for_each_diagnosis(coverage):
    """Its expectation is k / (n + 1), k = ⌈(n + 1) × nominal⌉, whatever the classifier (Vovk 2012)."""
    rng = np.random.default_rng(1)
    held = np.zeros((N_REPEATS, len(CLASSES)))
    for repeat in range(N_REPEATS):
        limits = thresholds(*lesions_of(rng, N_CALIBRATED), coverage)
        y, probability = lesions_of(rng, N_TESTED)
        inside = probability[np.arange(len(y)), y] >= limits[y]
        held[repeat] = [inside[y == code].mean() for code in range(len(CLASSES))]
    expected = np.ceil((N_CALIBRATED + 1) * coverage) / (N_CALIBRATED + 1)
    assert expected >= coverage
    errors = held.std(0, ddof=1) / np.sqrt(N_REPEATS)
    assert (np.abs(held.mean(0) - expected) < 3.5 * errors).all()


@settings(deadline=None)
@given(st.integers(0, 60), st.sampled_from([0.5, 0.8, COVERAGE, 0.95]), st.integers(0, 99))
def test_threshold_keeps_enough_of_the_calibration_lesions(n, coverage, seed):
    probability = np.random.default_rng(seed).dirichlet(np.ones(len(CLASSES)), n)
    y = np.zeros(n, int)
    limits = thresholds(y, probability, coverage)
    assert np.isneginf(limits[1:]).all()
    if (n + 1) * (1 - coverage) < 1 - 1e-9:  # too few lesions to leave any out
        assert np.isneginf(limits[0])
    else:
        kept = (probability[:, 0] >= limits[0]).sum()
        assert kept >= (n + 1) * coverage - 1e-6 and kept - 1 < (n + 1) * coverage


@pytest.fixture(scope="module")
def table():
    return check_predictions(predictions(np.random.default_rng(2), n_lesions=1500))


@pytest.fixture(scope="module")
def found(table):
    return conformal_table(table, "feature_extraction", "ResNet50", n_boot=200)


def test_rows_are_counts_of_sets(table, found):
    assert list(found.columns) == CONFORMAL_COLUMNS
    for seed, rows in table.groupby("seed"):
        scores = lesion_scores(rows)
        val, test = (scores[scores["subset"] == name] for name in ("val", "test"))
        known = {dx: val.loc[val["dx"] == dx, f"p_{dx}"].to_numpy() for dx in CLASSES}
        sets = []
        for _, lesion in test.iterrows():
            # A diagnosis stays in unless too few validation lesions with it got as low a probability for it.
            of_set = []
            for dx, own in known.items():
                p = (1 + (own <= lesion[f"p_{dx}"]).sum()) / (len(own) + 1)
                of_set += [dx] if p > 1 - COVERAGE + 1e-9 else []
            sets.append(of_set)
        cells = found[found["seed"] == str(seed)].set_index(["class", "metric"])["value"]
        for label in ("all", *CLASSES):
            own = [(dx, of) for dx, of in zip(test["dx"], sets, strict=True) if label in ("all", dx)]
            assert cells[label, "coverage"] == pytest.approx(np.mean([dx in of for dx, of in own]))
            assert cells[label, "size"] == pytest.approx(np.mean([len(of) for _, of in own]))
            assert cells[label, "single"] == pytest.approx(np.mean([len(of) == 1 for _, of in own]))
            assert cells[label, "empty"] == pytest.approx(np.mean([not of for _, of in own]))
        assert cells["mel", "calibrated"] == (val["dx"] == "mel").sum()


def test_intervals_hold_their_values(found):
    rows = found[found["ci_low"].notna()]
    assert set(rows["metric"]) == {"coverage", "size", "single", "empty"}
    assert ((rows["ci_low"] <= rows["value"] + 1e-6) & (rows["value"] <= rows["ci_high"] + 1e-6)).all()


def test_a_verdict_says_where_coverage_does_not_hold(table):
    """Where right diagnoses get less than in validation, sets miss them; where they get more, sets are too large."""
    verdicts = {}
    for change in (0.3, 1.0, 3.0):
        odd = table.copy()
        test = (odd["subset"] == "test").to_numpy()
        chances = odd[PROBABILITIES].to_numpy(copy=True)
        at = np.arange(len(odd)), np.array([CLASSES.index(dx) for dx in odd["dx"]])
        chances[at] *= np.where(test, change, 1)
        odd[PROBABILITIES] = chances / chances.sum(1, keepdims=True)
        rows = conformal_table(odd, "s", "b", n_boot=200)
        rows = rows[(rows["metric"] == "coverage") & (rows["seed"] == "all")].set_index("class")
        verdicts[change] = rows["verdict"]
        outside = (rows["ci_high"] < COVERAGE) | (rows["ci_low"] > COVERAGE)
        assert ((rows["verdict"] != "holds") == outside).all()
    assert verdicts[0.3]["nv"] == verdicts[0.3]["all"] == "below"
    assert verdicts[1.0]["all"] == "holds"
    assert verdicts[3.0]["nv"] == "above"


def test_external_images_get_the_thresholds_of_the_validation_subset(table, found):
    elsewhere = table[table["subset"] == "test"].assign(dataset="isic2018")
    both = check_predictions(pd.concat([table, elsewhere], ignore_index=True))
    rows = conformal_table(both, "feature_extraction", "ResNet50", n_boot=200)
    own = rows[rows["dataset"] == "internal"].drop(columns="dataset").reset_index(drop=True)
    other = rows[rows["dataset"] == "isic2018"].drop(columns="dataset").reset_index(drop=True)
    assert len(own) == len(found) and own.equals(other)


def test_without_validation_there_are_no_sets(table):
    assert conformal_table(table[table["subset"] == "test"], "s", "b", n_boot=20).empty
