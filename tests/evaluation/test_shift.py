"""Parts of an external difference whose answer is known: frequencies, calibration or skill alone change."""

import numpy as np
import pandas as pd
import pytest
from scipy import special
from simulated import CODES, draw_images, predictions
from sklearn.metrics import balanced_accuracy_score, f1_score

from skin_tl.evaluation.predictions import check_predictions
from skin_tl.evaluation.shift import (
    correct_prior,
    estimate_prior,
    fit_calibration,
    shift_tables,
)
from skin_tl.schema import CLASSES, PRIOR_COLUMNS, PROBABILITIES, SHIFT_COLUMNS

ELSEWHERE = np.array([0.12, 0.15, 0.15, 0.10, 0.20, 0.20, 0.08])
"""Frequencies of the diagnoses in the external set."""


def with_external(rng, bias=0.0, noise=0.0, n_lesions=1500, n_own=6000, shares=ELSEWHERE):
    """Return own predictions, and external ones with other frequencies, shifted logits or noise in them."""
    own = predictions(rng, lesions=rng.choice(len(CODES), n_own))
    codes = rng.choice(len(CLASSES), n_lesions, p=shares)
    lesions = np.array([rng.choice(np.flatnonzero(CODES == code)) for code in codes])
    y, lesion, found = draw_images(lesions, rng, 2)
    tables = [own]
    for seed, probability in zip((1, 2), found, strict=True):
        logits = np.log(probability) + bias + noise * rng.normal(size=probability.shape)
        table = pd.DataFrame(special.softmax(logits, axis=1), columns=PROBABILITIES)
        table = table.assign(**own.iloc[0][["arm", "split_policy", "preprocessing", "train_fraction"]].to_dict())
        table = table.assign(dataset="isic2018", seed=seed, subset="test", dx=np.array(CLASSES)[y])
        table["image_id"] = [f"external_{number:05d}" for number in range(len(y))]
        table["lesion_id"] = [f"other_{number:05d}" for number in lesion]
        tables.append(table)
    return check_predictions(pd.concat(tables, ignore_index=True))


def parts_of(table, n_boot=300):
    parts, priors = shift_tables(table, "feature_extraction", "ResNet50", n_boot)
    assert list(parts.columns) == SHIFT_COLUMNS and list(priors.columns) == PRIOR_COLUMNS
    return parts.set_index(["metric", "part"]), priors.set_index("dx")


@pytest.fixture(scope="module")
def label_shift():
    return with_external(np.random.default_rng(3))


def test_parts_add_up_to_the_difference(label_shift):
    parts, _ = parts_of(label_shift)
    test = label_shift[label_shift["subset"] == "test"]
    for metric, score in (
        ("macro_f1", lambda rows, called: f1_score(rows["dx"], called, average="macro")),
        ("balanced_accuracy", lambda rows, called: balanced_accuracy_score(rows["dx"], called)),
    ):
        values = {
            key: score(rows, np.array(CLASSES)[rows[PROBABILITIES].to_numpy().argmax(1)])
            for key, rows in test.groupby(["dataset", "seed"])
        }
        drop = np.mean([values["isic2018", seed] - values["internal", seed] for seed in (1, 2)])
        assert parts.loc[metric, "value"]["difference"] == pytest.approx(drop)
        assert parts.loc[metric, "value"][["prevalence", "calibration", "rest"]].sum() == pytest.approx(drop)


def test_prevalence_is_scikit_learns_score_with_weights(label_shift):
    parts, _ = parts_of(label_shift)
    test, gains = label_shift[label_shift["subset"] == "test"], []
    for _, rows in test.groupby("seed"):
        own, other = rows[rows["dataset"] == "internal"], rows[rows["dataset"] == "isic2018"]
        called = np.array(CLASSES)[own[PROBABILITIES].to_numpy().argmax(1)]
        ratio = other["dx"].value_counts(normalize=True) / own["dx"].value_counts(normalize=True)
        weighted = f1_score(own["dx"], called, average="macro", sample_weight=own["dx"].map(ratio))
        gains.append(weighted - f1_score(own["dx"], called, average="macro"))
    assert parts.loc[("macro_f1", "prevalence"), "value"] == pytest.approx(np.mean(gains))
    assert parts.loc[("balanced_accuracy", "prevalence"), ["value", "ci_low", "ci_high"]].tolist() == [0, 0, 0]


def test_where_frequencies_alone_differ_prevalence_is_all_of_the_difference():
    """Over repeated samples, calibration and rest are 0 on average, and their intervals hold 0 as often as they say."""
    rng, found, held = np.random.default_rng(5), [], []
    for _ in range(16):
        parts, _ = parts_of(with_external(rng, n_lesions=800, n_own=3000), 100)
        parts = parts.loc["macro_f1"]
        found.append(parts["value"])
        held.append((parts["ci_low"] <= 0) & (parts["ci_high"] >= 0))
    found, held = pd.DataFrame(found), pd.DataFrame(held)
    errors = found.std() / np.sqrt(len(found))
    assert (found.mean().abs() < 3 * errors + 0.005)[["calibration", "rest"]].all()
    assert found["prevalence"].mean() > 5 * errors["prevalence"]
    # With 16 samples, fewer than 12 would come about once in a thousand times.
    assert (held[["calibration", "rest"]].mean() >= 0.75).all()


def test_shifted_logits_are_told_as_calibration():
    shifted = with_external(np.random.default_rng(3), bias=np.array([1, 0, -1, 0.5, -1.5, 1, 0]))
    for metric in ("macro_f1", "balanced_accuracy"):
        part = parts_of(shifted)[0].loc[metric]
        assert part.loc["calibration", "ci_high"] < -0.05
        assert part.loc["rest", "ci_low"] < 0 < part.loc["rest", "ci_high"]


def test_lost_skill_is_told_as_rest():
    blurred = with_external(np.random.default_rng(3), noise=1.5)
    for metric in ("macro_f1", "balanced_accuracy"):
        part = parts_of(blurred)[0].loc[metric]
        assert part.loc["rest", "ci_high"] < -0.1
        assert part.loc["rest", "value"] < part.loc["difference", "value"] + 0.02


def test_em_finds_the_frequencies_of_a_set_without_labels():
    """With the true posterior of a mixture of normal distributions, for any new frequencies."""
    rng = np.random.default_rng(7)
    centres = rng.normal(0, 1.5, (len(CLASSES), 4))
    prior = np.array([0.03, 0.05, 0.11, 0.02, 0.11, 0.66, 0.02])

    def posterior(x):
        return special.softmax(-((x[:, None] - centres) ** 2).sum(2) / 2 + np.log(prior), axis=1)

    for _ in range(10):
        new = rng.dirichlet(np.ones(len(CLASSES)))
        y = rng.choice(len(CLASSES), 20000, p=new)
        probability = posterior(centres[y] + rng.normal(size=(len(y), 4)))
        estimate = estimate_prior(probability, prior)
        assert estimate.sum() == pytest.approx(1)
        assert np.abs(estimate - new).max() < 0.02 < np.abs(prior - new).max()
        # The corrected probabilities are those of the same mixture with the new frequencies.
        corrected = correct_prior(probability, prior, new)
        odds = probability / prior * new
        np.testing.assert_allclose(corrected, odds / odds.sum(1, keepdims=True))
        np.testing.assert_allclose(corrected.mean(0), np.bincount(y, minlength=7) / len(y), atol=0.02)


def test_em_leaves_frequencies_that_hold_as_they_are():
    rng = np.random.default_rng(8)
    probability = rng.dirichlet(np.ones(len(CLASSES)), 500)
    prior = probability.mean(0)
    np.testing.assert_allclose(estimate_prior(probability, prior), prior, atol=1e-9)


def test_prior_correction_comes_nearer_to_the_true_frequencies(label_shift):
    parts, priors = parts_of(label_shift)
    other = label_shift[label_shift["dataset"] == "isic2018"]["dx"].value_counts(normalize=True)
    np.testing.assert_allclose(priors["external"], other[list(CLASSES)])
    before, after = ((priors[name] - priors["external"]).abs().sum() / 2 for name in ("internal", "estimated"))
    assert after < before / 2
    assert parts.loc[("macro_f1", "prior_correction"), "value"] > 0


def test_a_calibration_is_found_again():
    rng = np.random.default_rng(9)
    logits = rng.normal(0, 2, (60000, len(CLASSES)))
    true = special.softmax(logits, axis=1)
    y = (true.cumsum(1) > rng.random((len(true), 1))).argmax(1)
    bias = np.array([0.5, -0.5, 0, 0.3, -0.3, 0.2, -0.2])
    off = special.softmax((logits - bias) * 1.7, axis=1)
    fitted = fit_calibration(y, off)
    assert fitted.temperature == pytest.approx(1.7, rel=0.02)
    np.testing.assert_allclose(fitted.bias - fitted.bias.mean(), bias, atol=0.05)
    np.testing.assert_allclose(fitted.apply(off), true, atol=0.02)


def test_a_diagnosis_that_one_set_lacks_is_left_out(label_shift):
    less = label_shift[(label_shift["dataset"] == "internal") | (label_shift["dx"] != "vasc")]
    parts, priors = parts_of(less)
    assert parts["value"].notna().all() and priors.loc["vasc", "external"] == 0


def test_without_external_images_there_is_nothing_to_divide(label_shift):
    parts, priors = shift_tables(label_shift[label_shift["dataset"] == "internal"], "s", "b", 20)
    assert parts.empty and priors.empty
    assert list(parts.columns) == SHIFT_COLUMNS and list(priors.columns) == PRIOR_COLUMNS
