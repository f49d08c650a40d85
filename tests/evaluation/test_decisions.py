"""Decisions: thresholds come from validation, rates are those of the lesions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from simulated import predictions
from sklearn.metrics import confusion_matrix, roc_auc_score

from skin_tl.evaluation.decisions import choose_threshold, decisions_table, lesion_scores, roc_points
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.schema import CLASSES, DECISION_COLUMNS, DECISIONS, PROBABILITIES, ROC_COLUMNS


@pytest.fixture(scope="module")
def table():
    return check_predictions(predictions(np.random.default_rng(1), n_lesions=900, seeds=(1, 2)))


@pytest.fixture(scope="module")
def decided(table):
    return decisions_table(table, "feature_extraction", "ResNet50", n_boot=300)


def get(decided, decision, point, metric, seed="all"):
    wanted = {"decision": decision, "point": point, "metric": metric, "seed": str(seed)}
    rows = decided[np.logical_and.reduce([decided[name] == value for name, value in wanted.items()])]
    assert len(rows) == 1, wanted
    return rows.iloc[0]


@settings(deadline=None)
@given(
    hnp.arrays(bool, st.integers(1, 60)).flatmap(
        lambda positive: st.tuples(
            st.just(positive), hnp.arrays(float, len(positive), elements=st.sampled_from(np.linspace(0, 1, 21)))
        )
    ),
    st.sampled_from([0.5, 0.9, 0.95, 1.0]),
)
def test_threshold_is_the_highest_that_finds_enough(pair, sensitivity):
    positive, score = pair
    threshold = choose_threshold(positive, score, sensitivity)
    if not positive.any():
        assert np.isnan(threshold)
        return
    assert (score[positive] >= threshold).mean() >= sensitivity - 1e-9
    higher = score[positive][score[positive] > threshold]
    if len(higher):
        assert (score[positive] >= higher.min()).mean() < sensitivity


def test_rates_are_those_of_scikit_learns_confusion_matrix(table, decided):
    assert list(decided.columns) == DECISION_COLUMNS
    for seed, rows in table.groupby("seed"):
        scores = lesion_scores(rows)
        val, test = (scores[scores["subset"] == name] for name in ("val", "test"))
        called = np.array(CLASSES)[test[PROBABILITIES].to_numpy().argmax(1)]
        for name, wanted in DECISIONS.items():
            threshold = get(decided, name, "sensitivity_95", "threshold", seed)["value"]
            assert threshold == choose_threshold(val[name], val[f"{name}_score"])
            flags = {"diagnosis": np.isin(called, wanted), "sensitivity_95": test[f"{name}_score"] >= threshold}
            for point, flagged in flags.items():
                tn, fp, fn, tp = confusion_matrix(test[name], flagged).ravel()
                assert get(decided, name, point, "sensitivity", seed)["value"] == pytest.approx(tp / (tp + fn))
                assert get(decided, name, point, "specificity", seed)["value"] == pytest.approx(tn / (tn + fp))
                assert get(decided, name, point, "tested", seed)["value"] == tp + fn
                assert get(decided, name, point, "missed", seed)["value"] == fn
                benign = ~test["dx"].isin(["mel", "bcc", "akiec"]).to_numpy()
                assert get(decided, name, point, "benign", seed)["value"] == benign.sum()
                n_flagged = np.asarray(flagged)[benign].sum()
                assert get(decided, name, point, "flagged_benign", seed)["value"] == n_flagged
            auc = roc_auc_score(test[name], test[f"{name}_score"])
            assert get(decided, name, "any", "roc_auc", seed)["value"] == pytest.approx(auc)


def test_row_of_all_seeds_is_the_mean(decided):
    key = ["decision", "point", "metric"]
    seeds = decided[decided["seed"] != "all"].groupby(key)["value"].mean()
    together = decided[decided["seed"] == "all"].set_index(key)["value"]
    pd.testing.assert_series_equal(together.sort_index(), seeds.sort_index(), check_names=False, rtol=1e-9)


def test_intervals_hold_their_values(decided):
    rows = decided[~decided["metric"].isin(["threshold", "tested", "benign"])]
    assert rows[["ci_low", "ci_high"]].notna().all(axis=None)
    assert ((rows["ci_low"] <= rows["value"] + 1e-6) & (rows["value"] <= rows["ci_high"] + 1e-6)).all()
    assert (rows["ci_low"] < rows["ci_high"]).all()


def test_test_subset_does_not_choose_the_threshold(table, decided):
    changed = table.copy()
    test = changed["subset"] == "test"
    changed.loc[test, PROBABILITIES] = np.roll(changed.loc[test, PROBABILITIES].to_numpy(), 1, axis=1)
    again = decisions_table(changed, "feature_extraction", "ResNet50", n_boot=20)
    for name in DECISIONS:
        args = (name, "sensitivity_95", "threshold", 1)
        assert get(again, *args)["value"] == get(decided, *args)["value"]


def test_without_validation_only_the_diagnosis_decides(table):
    rows = decisions_table(table[table["subset"] == "test"], "s", "b", n_boot=20)
    assert set(rows["point"]) == {"any", "diagnosis"}


def test_a_test_subset_without_melanoma_has_no_sensitivity(table):
    rows = decisions_table(table[(table["dx"] != "mel") | (table["subset"] == "val")], "s", "b", n_boot=20)
    assert np.isnan(get(rows, "melanoma", "sensitivity_95", "sensitivity")["value"])
    assert get(rows, "melanoma", "sensitivity_95", "tested")["value"] == 0
    assert 0 < get(rows, "malignant", "sensitivity_95", "sensitivity")["value"] <= 1


def test_roc_points_rise_and_enclose_the_auc(table, decided):
    points = roc_points(table, "feature_extraction", "ResNet50")
    assert list(points.columns) == ROC_COLUMNS
    for (seed, name), curve in points.groupby(["seed", "decision"]):
        false, true = curve["false_positive_rate"].to_numpy(), curve["true_positive_rate"].to_numpy()
        assert (np.diff(false) >= 0).all() and (np.diff(true) >= 0).all()
        assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
        assert np.trapezoid(true, false) == pytest.approx(get(decided, name, "any", "roc_auc", seed)["value"])
