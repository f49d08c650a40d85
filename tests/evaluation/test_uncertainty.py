"""The bootstrap over lesions and its intervals."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import CODES, draw_images
from statsmodels.stats.proportion import proportion_confint

from skin_tl.evaluation import uncertainty
from skin_tl.evaluation.metrics import point_metrics
from skin_tl.schema import CLASSES, PROBABILITIES

sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))


def one_draw(y, probability, weights=None):
    """Compute every metric with the images weighted as given, once each by default."""
    weights = np.ones(len(y)) if weights is None else weights
    drawn = uncertainty.draw_metrics(y, probability, np.arange(len(y)), weights[:, None].astype(np.float32))
    return {key: value[0] for key, value in drawn.items()}


def as_table(y, probability):
    return pd.DataFrame(probability, columns=PROBABILITIES).assign(dx=np.array(CLASSES)[y])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.booleans())
def test_a_draw_of_every_lesion_once_gives_scikit_learns_values(seed, tied):
    rng = np.random.default_rng(seed)
    y, _, (probability,) = draw_images(rng.choice(len(CODES), 60), rng)
    if tied:
        probability = np.round(probability + 0.05, 1) / np.round(probability + 0.05, 1).sum(1, keepdims=True)
    expected = point_metrics(as_table(y, probability))
    for (metric, code), value in one_draw(y, probability).items():
        wanted = expected[metric, "all" if code is None else CLASSES[code]]
        assert value == pytest.approx(wanted, abs=2e-6, nan_ok=True), (metric, code)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_a_lesion_drawn_twice_counts_as_its_images_repeated(seed):
    rng = np.random.default_rng(seed)
    y, _, (probability,) = draw_images(rng.choice(len(CODES), 50), rng)
    times = rng.integers(0, 4, len(y))
    repeated = np.repeat(np.arange(len(y)), times)
    expected = point_metrics(as_table(y[repeated], probability[repeated]))
    for (metric, code), value in one_draw(y, probability, times).items():
        wanted = expected[metric, "all" if code is None else CLASSES[code]]
        assert value == pytest.approx(wanted, abs=2e-6, nan_ok=True), (metric, code)


def test_draws_hold_as_many_lesions_as_there_are():
    weights = uncertainty.lesion_weights(41, 500, np.random.default_rng(0))
    assert weights.shape == (41, 500)
    assert (weights.sum(0) == 41).all()
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(40 / 41, rel=0.05)  # of a multinomial count


def test_images_of_a_lesion_are_drawn_together():
    lesion = np.repeat(np.arange(30), 3)
    y = np.repeat(np.arange(30) % 2, 3)
    probability = np.eye(2)[np.repeat(np.arange(30) % 3 == 0, 3).astype(int)]
    weights = uncertainty.lesion_weights(30, 4000, np.random.default_rng(0))
    clustered = uncertainty.draw_metrics(y, probability, lesion, weights, ["confusion"])["accuracy", None]
    right = (probability.argmax(1) == y)[::3].mean()
    assert clustered.var() == pytest.approx(right * (1 - right) / 30, rel=0.1)


@settings(deadline=None)
@given(st.integers(1, 400), st.data())
def test_wilson_interval_of_independent_lesions_is_the_proportions(n_lesions, data):
    hits = data.draw(st.integers(0, n_lesions))
    share = hits / n_lesions
    low, high = uncertainty.wilson_interval(share, share * (1 - share) / n_lesions, n_lesions)
    wanted = proportion_confint(hits, n_lesions, method="wilson")
    assert low <= wanted[0] + 1e-9 and high >= wanted[1] - 1e-9
    if n_lesions > 300:
        assert (low, high) == pytest.approx(wanted, abs=0.003)


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0, 0.2), st.integers(1, 1000))
def test_wilson_interval_holds_its_value_and_stays_in_range(value, variance, n_lesions):
    low, high = uncertainty.wilson_interval(value, variance, n_lesions)
    assert 0 <= low <= value + 1e-9 and value - 1e-9 <= high <= 1


def test_everything_right_leaves_room_for_error():
    assert (
        np.array([one_draw(np.arange(7), np.eye(7))[key] for key in (("accuracy", None), ("recall", 3))]) == 1
    ).all()
    low, high = uncertainty.interval("recall", 1.0, np.ones(100), 15)
    assert high == 1 and 0.7 < low < 0.85


def test_fewer_images_of_a_lesion_tell_more_than_their_number():
    few = uncertainty.interval("recall", 0.5, np.random.default_rng(0).normal(0.5, 0.1, 2000), 20)
    many = uncertainty.interval("recall", 0.5, np.random.default_rng(0).normal(0.5, 0.05, 2000), 80)
    assert few[1] - few[0] > 1.8 * (many[1] - many[0])


def test_no_interval_without_value_or_draws():
    for value, draws in ((np.nan, np.ones(9)), (0.5, np.full(9, np.nan)), (0.5, np.array([]))):
        assert np.isnan(uncertainty.interval("recall", value, draws, 9)).all()
    assert np.isnan(uncertainty.wilson_interval(0.5, 0.01, 0)).all()


@settings(deadline=None)
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=7))
def test_units_of_a_mean_lie_between_the_rarest_and_all(counts):
    units = uncertainty.units_of_mean(counts)
    present = [count for count in counts if count]
    if present:
        assert min(present) - 1e-6 <= max(units, 1) and units <= sum(max(count, 2) for count in present) + 1e-6
    else:
        assert units == 0


def test_a_class_that_a_draw_lacks_is_left_out_of_its_means():
    confusion = np.zeros((2, 3, 3))
    confusion[:, 0, 0], confusion[:, 1, 0], confusion[0, 2, 2] = 4, 4, 1
    overall, per_class = uncertainty.confusion_metrics(confusion)
    assert overall["balanced_accuracy"] == pytest.approx([2 / 3, 1 / 2])
    assert np.isnan(per_class["recall"][1, 2]) and per_class["recall"][0, 2] == 1


def test_intervals_cover_the_truth_in_simulated_test_sets(thorough):
    from interval_coverage import coverage

    summary = coverage(n_tests=200 if thorough else 40, n_draws=200, seed=7)
    low, high, beside = (0.90, 0.985, 0.08) if thorough else (0.85, 1, 0.15)  # of 200 test sets, or of 40
    for metric in ("accuracy", "balanced_accuracy", "macro_f1"):
        covered, above, below, _ = summary[metric, None]["ours"]
        assert low <= covered <= high, (metric, summary[metric, None])
        assert max(above, below) < beside
    rare = [summary[name, CLASSES.index("df")] for name in ("recall", "f1")]
    assert all(row["ours"][0] >= low for row in rare), rare
