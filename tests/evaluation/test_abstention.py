"""Abstention: AUGRC is the mean generalised risk over all coverages, and its limits are those of its paper."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special
from simulated import predictions
from sklearn.metrics import auc, roc_auc_score

from skin_tl.evaluation.abstention import COVERAGES, abstention_tables, answering_threshold, augrc, confidences
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.schema import ABSTENTION_COLUMNS, CELL, CLASSES, DISTANCE_COLUMNS, PROBABILITIES, RISK_COVERAGE_COLUMNS

NOTHING = pd.DataFrame(columns=DISTANCE_COLUMNS)


def by_thresholds(confidence, wrong):
    """Integrate P(wrong and answered) over P(answered), a point for each threshold, from the definition."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(confidence), reverse=True):
        kept = confidence >= threshold
        points.append((kept.mean(), (kept & wrong).mean()))
    return auc(*zip(*points, strict=True))


cases = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from(np.linspace(0, 1, 9).tolist()), min_size=n, max_size=n),
        st.lists(st.booleans(), min_size=n, max_size=n),
        st.lists(st.integers(0, 3), min_size=n, max_size=n).filter(any),
    )
)


@settings(deadline=None)
@given(cases)
def test_augrc_is_the_mean_joint_risk_over_all_coverages(case):
    confidence, wrong, counts = (np.array(part) for part in case)
    assert augrc(confidence, wrong)[0] == pytest.approx(by_thresholds(confidence, wrong), abs=1e-12)
    # A draw counts an image as often as it was drawn.
    drawn = augrc(confidence, wrong, counts[:, None].astype(np.float32))[0]
    again = np.repeat(np.arange(len(counts)), counts)
    assert drawn == pytest.approx(by_thresholds(confidence[again], wrong[again]), abs=1e-6)


@settings(deadline=None)
@given(cases)
def test_augrc_follows_from_error_and_roc_auc(case):
    """The closed form of Traub et al.: (1 − AUROC) × accuracy × error + error² / 2."""
    confidence, wrong = np.array(case[0]), np.array(case[1])
    error = wrong.mean()
    ranked = roc_auc_score(~wrong, confidence) if 0 < error < 1 else 1
    assert augrc(confidence, wrong)[0] == pytest.approx((1 - ranked) * (1 - error) * error + error**2 / 2, abs=1e-12)


def test_limits_of_augrc():
    rng = np.random.default_rng(0)
    wrong = rng.random(4000) < 0.3
    error = wrong.mean()
    assert augrc(-wrong.astype(float), wrong)[0] == pytest.approx(error**2 / 2, abs=1e-12)
    assert augrc(wrong.astype(float), wrong)[0] == pytest.approx(error - error**2 / 2, abs=1e-12)
    assert augrc(np.zeros(4000), wrong)[0] == pytest.approx(error / 2, abs=1e-12)
    at_random = np.mean([augrc(rng.random(4000), wrong)[0] for _ in range(50)])
    assert at_random == pytest.approx(error / 2, abs=0.001)
    assert augrc(rng.random(40), np.zeros(40, bool))[0] == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_threshold_is_the_highest_that_answers_enough(confidence):
    confidence = np.array(confidence)
    threshold = answering_threshold(confidence)
    assert (confidence >= threshold).mean() >= 0.8 - 1e-9
    assert (confidence > threshold).mean() < 0.8


@pytest.fixture(scope="module")
def tables():
    rng = np.random.default_rng(4)
    lesions = rng.choice(7470, 500)
    made = {name: predictions(np.random.default_rng(4), lesions=lesions, skill=k) for name, k in (("A", 1), ("B", 0.7))}
    made = {name: check_predictions(table) for name, table in made.items()}
    mean = np.mean([table[PROBABILITIES] for table in made.values()], axis=0)
    return made | {"ensemble": made["A"].assign(**dict(zip(PROBABILITIES, mean.T, strict=True)))}


def test_scores_of_confidence_are_those_of_their_definitions(tables):
    one = tables["A"].iloc[:40]
    known = one[["split_policy", "preprocessing", "dataset", "seed", "image_id"]]
    known = known.assign(backbone="A", distance=np.arange(40.0))[::-1]
    found = confidences(tables, known)
    chances = [tables[name][PROBABILITIES].to_numpy() for name in "AB"]
    entropy = [-(p * np.log(p)).sum(1) for p in (*chances, (chances[0] + chances[1]) / 2)]
    np.testing.assert_allclose(found["B"]["entropy"], -entropy[1])
    for table in found.values():
        np.testing.assert_allclose(table["disagreement"], (entropy[0] + entropy[1]) / 2 - entropy[2])
    # Mutual information is the mean divergence from the mean (Jensen and Shannon).
    mean = (chances[0] + chances[1]) / 2
    divergence = np.mean([special.rel_entr(p, mean).sum(1) for p in chances], axis=0)
    np.testing.assert_allclose(found["A"]["disagreement"], -divergence, atol=1e-12)
    assert found["A"]["distance"][:40].tolist() == (-np.arange(40.0)).tolist()
    assert found["A"]["distance"][40:].isna().all() and found["B"]["distance"].isna().all()
    alone = confidences({"A": tables["A"]}, NOTHING)["A"]
    assert alone["disagreement"].isna().all()


def test_tables_hold_what_single_seeds_say(tables):
    values, curves = abstention_tables(tables, NOTHING, "feature_extraction", n_boot=200)
    assert list(values.columns) == ABSTENTION_COLUMNS and list(curves.columns) == RISK_COVERAGE_COLUMNS
    assert set(values["score"]) == {"max_probability", "entropy", "disagreement"}
    keys = ["backbone", "score", "metric"]
    by_seed = values[values["seed"] != "all"].groupby(keys)["value"].mean()
    together = values[values["seed"] == "all"].set_index(keys)
    pd.testing.assert_series_equal(together["value"].sort_index(), by_seed.sort_index(), check_names=False)
    assert ((together["ci_low"] < together["value"]) & (together["value"] < together["ci_high"])).all()
    for seed, rows in tables["B"].groupby("seed"):
        test, val = (rows[rows["subset"] == name] for name in ("test", "val"))
        sure, limit = test[PROBABILITIES].max(axis=1).to_numpy(), answering_threshold(val[PROBABILITIES].max(axis=1))
        wrong = np.array(CLASSES)[test[PROBABILITIES].to_numpy().argmax(1)] != test["dx"].to_numpy()
        expected = {
            "augrc": by_thresholds(sure, wrong),
            "error": wrong.mean(),
            "random": wrong.mean() / 2,
            "answered": (sure >= limit).mean(),
        }
        expected["error_answered"] = wrong[sure >= limit].mean()
        found = values[(values["backbone"] == "B") & (values["score"] == "max_probability")]
        found = found[found["seed"] == str(seed)].set_index("metric")["value"]
        assert found.to_dict() == pytest.approx(expected)
    for (_, _), curve in curves.groupby(["backbone", "score"]):
        assert curve["coverage"].tolist() == COVERAGES.tolist()
        risk = curve["risk"].to_numpy()
        assert risk[0] == 0 and (np.diff(risk) >= 0).all()
    merged = curves.groupby(["backbone", "score"]).apply(lambda curve: np.trapezoid(curve["risk"], curve["coverage"]))
    areas = together["value"].xs("augrc", level="metric")
    np.testing.assert_allclose(merged.sort_index(), areas.sort_index(), atol=2e-3)
    errors = together["value"].xs("error", level="metric")
    ends = curves[curves["coverage"] == 1].set_index(["backbone", "score"])["risk"]
    pd.testing.assert_series_equal(ends.sort_index(), errors.sort_index(), check_names=False)
    assert set(CELL) <= set(values.columns)


def test_intervals_of_augrc_hold_the_truth_as_often_as_they_say():
    """Ninety-five of a hundred samples; with 120 of them, fewer than 0.88 would come about once in a thousand times."""
    rng = np.random.default_rng(11)
    big = check_predictions(predictions(rng, seeds=(1,), lesions=rng.choice(7470, 60000), n_parts=2))
    big = big[big["subset"] == "test"]
    wrong = np.array(CLASSES)[big[PROBABILITIES].to_numpy().argmax(1)] != big["dx"].to_numpy()
    truth = augrc(big[PROBABILITIES].max(axis=1).to_numpy(), wrong)[0]
    held = []
    for _ in range(120):
        table = {"A": check_predictions(predictions(rng, seeds=(1,), lesions=rng.choice(7470, 400), n_parts=2))}
        values, _ = abstention_tables(table, NOTHING, "s", n_boot=200)
        row = values[(values["metric"] == "augrc") & (values["score"] == "max_probability")].iloc[-1]
        held.append(row["ci_low"] <= truth <= row["ci_high"])
    assert 0.88 <= np.mean(held)
