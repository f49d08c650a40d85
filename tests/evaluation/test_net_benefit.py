"""Decision curves: by hand on twelve lesions, and against counts of a confusion matrix."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import predictions

from skin_tl.evaluation.decisions import lesion_scores
from skin_tl.evaluation.net_benefit import THRESHOLDS, decision_curves, net_benefit
from skin_tl.evaluation.predictions import check_predictions
from skin_tl.schema import CLASSES, CURVE_COLUMNS, DECISIONS, PREDICTION_COLUMNS, PROBABILITIES

# Twelve lesions: four melanomas, and eight nevi, by the probability of melanoma; the rest of it is that of a nevus.
MELANOMAS, NEVI = (0.9, 0.6, 0.3, 0.04), (0.5, 0.25, 0.2, 0.1, 0.08, 0.02, 0.01, 0.005)


def twelve_lesions(n_images=1):
    """Make predictions for the twelve lesions; further images of a lesion have the same probabilities."""
    rows = []
    for place, risk in enumerate([*MELANOMAS, *NEVI]):
        chances = dict.fromkeys(PROBABILITIES, 0.0) | {"p_mel": risk, "p_nv": 1 - risk}
        dx = "mel" if place < len(MELANOMAS) else "nv"
        for image in range(n_images):
            rows.append({"lesion_id": f"L{place:02d}", "image_id": f"I{place:02d}_{image}", "dx": dx, **chances})
    cell = {"dataset": "internal", "arm": "main", "train_fraction": 1.0, "split_policy": "lesion"}
    table = pd.DataFrame(rows).assign(**cell, preprocessing="native", seed=1, subset="test")
    return check_predictions(table[PREDICTION_COLUMNS])


@pytest.mark.parametrize("n_images", [1, 3])
def test_net_benefit_of_twelve_lesions_is_that_by_hand(n_images):
    curve = decision_curves(twelve_lesions(n_images), "s", "b", n_boot=50).query("decision == 'melanoma'")
    assert list(curve.columns) == CURVE_COLUMNS and curve["n_lesions"].eq(12).all()
    curve = curve.set_index("threshold_percent")
    # From 10 % on, three melanomas and four nevi are referred, and nine melanomas are worth one false alarm.
    assert curve.loc[10, "net_benefit"] == pytest.approx(3 / 12 - 4 / 12 / 9)
    assert curve.loc[10, "refer_all"] == pytest.approx(4 / 12 - 8 / 12 / 9)
    assert curve.loc[10, "gain"] == pytest.approx(-1 / 12 + 4 / 12 / 9)  # referring all is better here
    # At 25 %: three melanomas, two nevi at 0.5 and 0.25; a false alarm costs a third.  At 50 %: two and one, at par.
    assert curve.loc[25, "net_benefit"] == pytest.approx(3 / 12 - 2 / 12 / 3)
    assert curve.loc[50, "net_benefit"] == pytest.approx(2 / 12 - 1 / 12)
    assert curve.loc[50, "refer_all"] == pytest.approx(4 / 12 - 8 / 12)
    assert curve.loc[50, "gain"] == curve.loc[50, "net_benefit"]  # referring none is the better of the two


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 50), st.booleans())
def test_net_benefit_follows_from_the_confusion_matrix(seed, n_lesions, tied):
    rng = np.random.default_rng(seed)
    positive, score = rng.random(n_lesions) < 0.3, rng.random(n_lesions) ** 2
    score = np.round(score, 2) if tied else score
    times = rng.integers(0, 3, n_lesions).astype(np.float32)
    times[0] += 1
    (value, refer_all), (draws, _) = net_benefit(positive, score, np.stack([np.ones_like(times), times], axis=1))
    for place, percent in enumerate(THRESHOLDS):
        odds = percent / (100 - percent)
        flagged = score >= percent / 100
        tp, fp = (flagged & positive).sum(), (flagged & ~positive).sum()
        assert value[place] == pytest.approx((tp - odds * fp) / n_lesions)
        assert refer_all[place] == pytest.approx(positive.mean() - odds * (1 - positive.mean()))
        assert draws[place, 0] == pytest.approx(value[place], abs=1e-6)
        tp, fp = times @ (flagged & positive), times @ (flagged & ~positive)
        assert draws[place, 1] == pytest.approx((tp - odds * fp) / times.sum(), abs=1e-6)


def test_curves_are_means_over_the_seeds_with_intervals_around_them():
    table = check_predictions(predictions(np.random.default_rng(1), n_lesions=600, seeds=(1, 2)))
    curves = decision_curves(table, "s", "b", n_boot=300)
    assert len(curves) == len(THRESHOLDS) * len(DECISIONS)
    scores = lesion_scores(table[table["subset"] == "test"])
    for decision in DECISIONS:
        at = curves[(curves["decision"] == decision) & (curves["threshold_percent"] == 20)].iloc[0]
        found = []
        for _, part in scores.groupby("seed"):
            hit = part[f"{decision}_score"] >= 0.2
            found.append((hit & part[decision]).mean() - (hit & ~part[decision]).mean() / 4)
        assert at["net_benefit"] == pytest.approx(np.mean(found))
    for value, low, high in (("net_benefit", "ci_low", "ci_high"), ("gain", "gain_low", "gain_high")):
        assert ((curves[low] < curves[value]) & (curves[value] < curves[high])).all()


def test_a_perfect_probability_has_the_share_of_targets_as_net_benefit():
    table = twelve_lesions()
    sure = np.eye(len(CLASSES))[[CLASSES.index(dx) for dx in table["dx"]]]
    table[PROBABILITIES] = sure
    curve = decision_curves(table, "s", "b", n_boot=20).query("decision == 'melanoma'")
    assert curve["net_benefit"].to_numpy() == pytest.approx(4 / 12)
