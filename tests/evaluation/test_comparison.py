"""Paired comparisons: pairs share their lesions, and what is the same is not found different."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from simulated import predictions, softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score
from statsmodels.stats.proportion import proportion_confint

from skin_tl.errors import SkinTLError
from skin_tl.evaluation import comparison
from skin_tl.evaluation.comparison import (
    COMPARISON_COLUMNS,
    compare_backbones,
    contrast,
    independent_interval,
    lesion_predictions,
    with_holm,
)
from skin_tl.evaluation.metric_list import COMPARED
from skin_tl.evaluation.metrics import metrics_table
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.schema import CELL, CLASSES, PROBABILITIES

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))


@pytest.fixture(scope="module")
def table():
    return check_predictions(predictions(np.random.default_rng(0), n_lesions=400, seeds=(1, 2, 4)))


def blurred(table, seed, amount):
    """Return the predictions of a backbone that is worse by noise on its logits."""
    rng = np.random.default_rng(seed)
    worse = table.copy()
    logits = np.log(table[PROBABILITIES].to_numpy())
    worse[PROBABILITIES] = softmax(logits + amount * rng.normal(size=logits.shape))
    return worse


def rows_of(rows, metric):
    return rows[rows["metric"] == metric].iloc[0]


def test_lesion_predictions_average_images_and_seeds(table):
    lesions = lesion_predictions(table)
    assert not lesions.duplicated([*CELL, "lesion_id"]).any()
    test = table[table["subset"] == "test"]
    assert set(lesions["lesion_id"]) == set(test["lesion_id"])
    several = test["lesion_id"].value_counts().index[0]
    expected = test.loc[test["lesion_id"] == several, PROBABILITIES].mean()
    found = lesions.loc[lesions["lesion_id"] == several, PROBABILITIES].iloc[0]
    np.testing.assert_allclose(found.to_numpy(float), expected)


def test_differences_are_scikit_learns_on_one_prediction_per_lesion(table):
    worse = blurred(table, 1, 2.0)
    rows = compare_backbones({"A": table, "B": worse}, "feature_extraction", n_boot=200)
    assert list(rows.columns) == COMPARISON_COLUMNS
    a, b = lesion_predictions(table), lesion_predictions(worse)
    called = [np.array(CLASSES)[side[PROBABILITIES].to_numpy().argmax(1)] for side in (a, b)]
    scores = {
        "accuracy": accuracy_score,
        "balanced_accuracy": balanced_accuracy_score,
        "macro_f1": lambda y, p: f1_score(y, p, average="macro", zero_division=0),
    }
    for metric, score in scores.items():
        row = rows_of(rows, metric)
        assert row["difference"] == pytest.approx(score(a["dx"], called[0]) - score(b["dx"], called[1]), abs=1e-12)
        assert row["n_lesions"] == len(a)
        assert row["ci_low"] < row["difference"] < row["ci_high"]
    right = [side["dx"] == guess for side, guess in zip((a, b), called, strict=True)]
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
    p = stats.binomtest(only_a, only_a + only_b, 0.5).pvalue
    assert rows_of(rows, "accuracy")["p"] == pytest.approx(p)


def test_a_backbone_is_no_different_from_itself(table):
    rows = compare_backbones({"A": table, "B": table.sample(frac=1, random_state=0)}, "s", n_boot=100)
    assert (rows[["difference", "ci_low", "ci_high"]] == 0).all(axis=None)
    assert (rows[["p", "p_holm"]] == 1).all(axis=None)


def test_swapping_the_pair_turns_the_sign(table):
    worse = blurred(table, 1, 1.0)
    one = compare_backbones({"A": table, "B": worse}, "s", n_boot=200)
    two = compare_backbones({"B": worse, "A": table}, "s", n_boot=200)
    np.testing.assert_allclose(one["difference"], -two["difference"], atol=1e-12)
    np.testing.assert_allclose(one["ci_low"], -two["ci_high"], atol=1e-12)
    np.testing.assert_allclose(one["p"], two["p"])


def test_a_much_worse_backbone_is_found_out_and_holm_corrects_within_a_metric(table):
    three = {"A": table, "B": blurred(table, 1, 0.05), "C": blurred(table, 2, 6.0)}
    rows = compare_backbones(three, "s", n_boot=400)
    assert len(rows) == 3 * len(COMPARED)
    for metric in COMPARED:
        part = rows[rows["metric"] == metric].set_index(["backbone_a", "backbone_b"])
        assert (part.loc[[("A", "C"), ("B", "C")], "p_holm"] < 0.01).all()
        assert part.loc[("A", "B"), "p_holm"] > 0.05
        ordered = part.sort_values("p")
        expected = np.minimum(1, np.maximum.accumulate(ordered["p"] * [3, 2, 1]))
        np.testing.assert_allclose(ordered["p_holm"], expected)


def test_interval_and_p_agree():
    draws = np.random.default_rng(0).normal(0.02, 0.01, 4000)
    for difference in (-0.05, 0.001, 0.0195, 0.021, 0.06):
        low, high, p = comparison.paired_interval(difference, draws, 60)
        assert (p < 0.05) == (low > 0 or high < 0)
    assert np.isnan(comparison.paired_interval(0.1, np.full(5, np.nan), 10)).all()


def lesions_of(chances):
    """Return a table of lesions, all of the first diagnosis, with the probabilities given."""
    return pd.DataFrame(chances, columns=PROBABILITIES).assign(dx=CLASSES[0])


@given(st.data())
def test_no_p_value_is_zero(data):
    n_lesions = data.draw(st.integers(2, 12))
    right = [data.draw(st.lists(st.booleans(), min_size=n_lesions, max_size=n_lesions)) for _ in range(2)]
    lesions = {}
    for name, hits in zip("ab", right, strict=True):
        chances = np.zeros((n_lesions, len(CLASSES)))
        chances[np.arange(n_lesions), np.where(hits, 0, 1)] = 1
        lesions[name] = lesions_of(chances)
    for row in comparison.compare_lesions(lesions, n_boot=50):
        if right[0] == right[1]:
            assert row["p"] == 1
        elif np.isnan(row["p"]):
            assert (row["ci_low"], row["ci_high"]) == (-1, 1) and np.isnan(row["p_holm"])
        else:
            assert 0 < row["p"] <= 1


@pytest.mark.parametrize("n_lesions", range(2, 13))
def test_all_right_against_all_wrong_is_mcnemars_and_without_an_interval(n_lesions):
    """No draw of so few lesions changes anything; McNemar's test is that of as many tosses of a coin."""
    lesions = {name: lesions_of(np.eye(len(CLASSES))[[column] * n_lesions]) for column, name in enumerate("ab")}
    found = {row["metric"]: row["p"] for row in comparison.compare_lesions(lesions, n_boot=50)}
    assert found["accuracy"] == pytest.approx(2 * 0.5**n_lesions)
    assert np.isnan(found["macro_f1"]) and np.isnan(found["balanced_accuracy"])


def test_one_backbone_gives_no_pairs(table):
    rows = compare_backbones({"A": table}, "s", n_boot=20)
    assert list(rows.columns) == COMPARISON_COLUMNS and rows.empty


def test_different_test_sets_are_refused(table):
    less = table.drop(table.index[(table["subset"] == "test") & (table["seed"] == 2)][0])
    with pytest.raises(SkinTLError, match=r"A and B were scored on different images.*image_.*seed 2"):
        compare_backbones({"A": table, "B": less}, "s", n_boot=20)


def test_contrast_of_two_preprocessings_is_the_difference_of_their_metrics(table):
    unit = blurred(table, 3, 1.5).assign(preprocessing="unit")
    both = check_predictions(pd.concat([table, unit]))
    rows = contrast(both, "preprocessing", "unit", "native", "s", "A", n_boot=200)
    metrics = metrics_table(both, "s", "A", n_boot=10)
    metrics = metrics[(metrics["seed"] == "all") & (metrics["class"] == "all")]
    for metric in COMPARED:
        row = rows_of(rows, metric)
        values = metrics[metrics["metric"] == metric].set_index("preprocessing")["value"]
        assert row["value_a"] == pytest.approx(values["unit"]) and row["value_b"] == pytest.approx(values["native"])
        assert row["difference"] == pytest.approx(values["unit"] - values["native"])
        assert row["difference"] < 0 and row["ci_low"] < row["difference"] < row["ci_high"]


def test_contrast_refuses_what_was_scored_elsewhere(table):
    unit = table.assign(preprocessing="unit")
    fewer = unit.drop(unit.index[unit["subset"] == "test"][0])
    with pytest.raises(SkinTLError, match="different test images"):
        contrast(pd.concat([table, fewer]), "preprocessing", "unit", "native", "s", "A", n_boot=20)


def test_equal_backbones_are_seldom_found_different(thorough):
    from null_comparison import rejections

    # At a true rate of 5 %, 20 comparisons hold more than 4 false findings in 0.3 % of cases, 6 more than 2 in 0.2 %.
    n_tests, n_found, single = (20, 4, 0.1) if thorough else (6, 2, 0.2)
    table = rejections(n_tests=n_tests, n_draws=150, seed=3)
    assert (table["any_corrected"] <= n_found / n_tests).all(), table
    assert (table["single"] <= single).all(), table


def test_p_values_are_corrected_within_each_family():
    rows = pd.DataFrame({"metric": ["a", "a", "a", "b", "b"], "p": [0.01, 0.04, 0.03, 0.5, np.nan]})
    corrected = with_holm(rows, ["metric"])["p_holm"]
    np.testing.assert_allclose(
        corrected, [0.03, 0.06, 0.06, 0.5, np.nan]
    )  # 3 · 0.01; 2 · 0.03; not below the one before


def test_the_interval_of_an_independent_difference_is_newcombe_s():
    """His example: 56 of 70 against 48 of 80, from Wilson's intervals (Statistics in Medicine 17, 1998, method 10)."""
    sides = []
    for count, n in ((56, 70), (48, 80)):
        low, high = proportion_confint(count, n, method="wilson")
        sides.append({"value": count / n, "ci_low": low, "ci_high": high})
    assert independent_interval(*sides) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert independent_interval(*sides[::-1]) == pytest.approx((-0.3339, -0.0524), abs=5e-5)
