"""Predictions are checked, and metrics are scikit-learn's with intervals that follow the data."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, special
from simulated import draw_images, predictions, softmax
from sklearn import metrics as skm
from sklearn.calibration import calibration_curve

from skin_tl.errors import SkinTLError
from skin_tl.evaluation.calibration import (
    expected_calibration_error,
    fit_temperature,
    reliability,
    scale_temperature,
)
from skin_tl.evaluation.metric_list import METRICS, Metric
from skin_tl.evaluation.metrics import approximate, metrics_table
from skin_tl.evaluation.predictions import (
    check_predictions,
    class_codes,
    ensemble,
    pool_weights,
    read_predictions,
    read_table,
)
from skin_tl.schema import CLASSES, METRIC_COLUMNS, PREDICTION_COLUMNS, PROBABILITIES

KEY = [*METRIC_COLUMNS[: METRIC_COLUMNS.index("value")]]


@pytest.fixture(scope="module")
def table():
    return check_predictions(predictions(np.random.default_rng(0), n_lesions=360, seeds=(1, 2)))


@pytest.fixture(scope="module")
def metrics(table):
    return metrics_table(table, "feature_extraction", "ResNet50", n_boot=300)


def value_of(metrics, metric, label="all", seed="all"):
    rows = metrics[(metrics["metric"] == metric) & (metrics["class"] == label) & (metrics["seed"] == str(seed))]
    assert len(rows) == 1
    return rows["value"].iloc[0]


def test_metrics_are_scikit_learns_to_the_last_digit(table, tmp_path):
    table.to_csv(tmp_path / "predictions.csv", index=False)
    metrics = metrics_table(read_predictions(tmp_path / "predictions.csv"), "s", "b", n_boot=20)
    written = pd.read_csv(tmp_path / "predictions.csv")
    for seed, test in written[written["subset"] == "test"].groupby("seed"):
        y, probability = test["dx"], test[PROBABILITIES].to_numpy()
        called = np.array(CLASSES)[probability.argmax(1)]
        report = skm.classification_report(y, called, output_dict=True, zero_division=0)
        expected = {
            "accuracy": skm.accuracy_score(y, called),
            "balanced_accuracy": skm.balanced_accuracy_score(y, called),
            "macro_f1": skm.f1_score(y, called, average="macro", zero_division=0),
            "weighted_f1": skm.f1_score(y, called, average="weighted", zero_division=0),
            "macro_precision": report["macro avg"]["precision"],
            "weighted_precision": report["weighted avg"]["precision"],
            "roc_auc": skm.roc_auc_score(y, probability, multi_class="ovr", average="macro", labels=list(CLASSES)),
            "average_precision": skm.average_precision_score(pd.get_dummies(y)[list(CLASSES)], probability),
            "log_loss": skm.log_loss(y, probability, labels=list(CLASSES)),
            "support": len(y),
        }
        for metric, value in expected.items():
            assert value_of(metrics, metric, seed=seed) == value, metric
        for label in CLASSES:
            for metric, name in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
                assert value_of(metrics, metric, label, seed) == report[label][name]
            assert value_of(metrics, "support", label, seed) == report[label]["support"]
            column = probability[:, CLASSES.index(label)]
            assert value_of(metrics, "roc_auc", label, seed) == skm.roc_auc_score(y == label, column)


def test_a_metric_of_the_confusion_matrix_is_one_entry(table, monkeypatch):
    def kappa(confusion):
        shares = confusion / confusion.sum((-2, -1), keepdims=True)
        by_chance = (shares.sum(-1) * shares.sum(-2)).sum(-1)
        return (shares.trace(axis1=-2, axis2=-1) - by_chance) / (1 - by_chance)

    monkeypatch.setitem(METRICS, "cohen_kappa", Metric("cohen_kappa", kappa, bounded=False))
    rows = metrics_table(table, "s", "b", n_boot=200)
    for seed, test in table[table["subset"] == "test"].groupby("seed"):
        called = np.array(CLASSES)[test[PROBABILITIES].to_numpy().argmax(1)]
        expected = skm.cohen_kappa_score(test["dx"], called)
        assert value_of(rows, "cohen_kappa", seed=seed) == pytest.approx(expected)
    row = rows[(rows["metric"] == "cohen_kappa") & (rows["seed"] == "all")].iloc[0]
    assert row["ci_low"] < row["value"] < row["ci_high"] < row["ci_low"] + 0.3


def test_an_image_may_be_called_na(table, tmp_path):
    names = dict(zip(table["image_id"].unique(), ("NA", "null", "nan"), strict=False))
    table.replace({"image_id": names}).to_csv(tmp_path / "predictions.csv", index=False)
    assert {"NA", "null", "nan"} <= {*read_predictions(tmp_path / "predictions.csv")["image_id"]}


def test_table_has_the_columns_and_one_row_per_value(metrics):
    assert list(metrics.columns) == METRIC_COLUMNS
    assert not metrics.duplicated(KEY).any()
    assert set(metrics["seed"]) == {"1", "2", "all"}


def test_row_of_all_seeds_is_the_mean_of_the_seeds(metrics):
    seeds = metrics[metrics["seed"] != "all"].groupby(["class", "metric"])["value"].mean()
    together = metrics[metrics["seed"] == "all"].set_index(["class", "metric"])["value"]
    pd.testing.assert_series_equal(together.sort_index(), seeds.sort_index(), check_names=False)


def test_every_metric_but_counts_has_an_interval_that_holds_it(metrics):
    without = metrics["metric"].isin(["support", "temperature"])
    assert metrics.loc[without, ["ci_low", "ci_high"]].isna().all(axis=None)
    rows = metrics[~without]
    assert rows[["value", "ci_low", "ci_high"]].notna().all(axis=None)
    assert ((rows["ci_low"] <= rows["value"] + 1e-9) & (rows["value"] <= rows["ci_high"] + 1e-9)).all()


def test_seeds_that_share_lesions_tell_less_than_as_many_lesions_more():
    first = predictions(np.random.default_rng(5), n_lesions=300, seeds=(3,))
    again = pd.concat([first, first.assign(seed=6)])
    other = again[again["seed"] == 6].copy()
    other["lesion_id"], other["image_id"] = "other_" + other["lesion_id"], "other_" + other["image_id"]
    apart = pd.concat([first, other])

    def width(table):
        rows = metrics_table(check_predictions(table), "s", "b", n_boot=2000)
        row = rows[(rows["seed"] == "all") & (rows["metric"] == "accuracy")].iloc[0]
        return row["ci_high"] - row["ci_low"]

    alone = width(first)
    assert width(again) == pytest.approx(alone, rel=1e-6)
    assert width(apart) == pytest.approx(alone / np.sqrt(2), rel=0.06)


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6))
def test_order_of_rows_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    table = predictions(rng, n_lesions=90, seeds=(1, 2))
    shuffled = table.sample(frac=1, random_state=seed)
    ours = [metrics_table(check_predictions(rows), "s", "b", n_boot=50) for rows in (table, shuffled)]
    pd.testing.assert_frame_equal(*ours)
    pd.testing.assert_frame_equal(ours[0], metrics_table(shuffled, "s", "b", n_boot=50))


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 10**6))
def test_every_lesion_twice_gives_the_same_values_in_narrower_intervals(seed):
    table = predictions(np.random.default_rng(seed), n_lesions=150, seeds=(1,))
    twin = table.assign(image_id="twin_" + table["image_id"], lesion_id="twin_" + table["lesion_id"])
    once, twice = (
        metrics_table(check_predictions(rows), "s", "b", n_boot=400) for rows in (table, pd.concat([table, twin]))
    )
    same = ~once["metric"].isin(["support", "temperature", "log_loss_scaled", "ece_scaled"])
    np.testing.assert_allclose(twice.loc[same, "value"], once.loc[same, "value"], rtol=1e-9)
    widths = [(rows["ci_high"] - rows["ci_low"])[once["metric"] == "accuracy"].mean() for rows in (once, twice)]
    assert widths[1] == pytest.approx(widths[0] / np.sqrt(2), rel=0.2)


def test_class_without_test_images_is_empty_and_left_out_of_means(table):
    rows = metrics_table(table[table["dx"] != "df"], "s", "b", n_boot=50)
    of_class = rows[(rows["class"] == "df") & (rows["metric"] != "support")]
    assert len(of_class) and of_class[["value", "ci_low", "ci_high"]].isna().all(axis=None)
    assert value_of(rows, "support", "df") == 0
    for mean, single in (("macro_f1", "f1"), ("balanced_accuracy", "recall"), ("roc_auc", "roc_auc")):
        others = [value_of(rows, single, label, 1) for label in CLASSES if label != "df"]
        assert value_of(rows, mean, seed=1) == pytest.approx(np.mean(others))


def test_class_never_predicted_has_precision_zero_and_no_interval_for_it(table):
    some = table.copy()
    some["p_mel"] += some["p_df"]
    some["p_df"] = 0.0
    rows = metrics_table(some, "s", "b", n_boot=50)
    precision = rows[(rows["class"] == "df") & (rows["metric"] == "precision") & (rows["seed"] == "all")].iloc[0]
    assert precision["value"] == 0 and np.isnan(precision["ci_low"])
    recall = rows[(rows["class"] == "df") & (rows["metric"] == "recall") & (rows["seed"] == "all")].iloc[0]
    assert recall["value"] == 0 and recall["ci_low"] == 0 and 0 < recall["ci_high"] < 1


def test_intervals_from_few_lesions_are_approximate():
    cases = [
        ("all", "accuracy", 12, False),
        ("all", "ece", 1494, True),
        ("all", "ece_scaled", 1494, True),
        ("df", "recall", 15, False),
        ("df", "recall", 9, True),
        ("df", "roc_auc", 15, True),
        ("nv", "average_precision", 1080, False),
    ]
    rows = pd.DataFrame(cases, columns=["class", "metric", "n_lesions", "wanted"]).assign(ci_low=0.1)
    assert list(approximate(rows)) == list(rows["wanted"])
    assert not approximate(rows.assign(ci_low=np.nan)).any()


def test_configurations_are_kept_apart(table):
    unit = table.assign(
        preprocessing="unit", **{"p_nv": 1.0}, **{name: 0.0 for name in PROBABILITIES if name != "p_nv"}
    )
    rows = metrics_table(check_predictions(pd.concat([table, unit])), "s", "b", n_boot=20)
    native, other = (rows[rows["preprocessing"] == name] for name in ("native", "unit"))
    assert value_of(other, "recall", "nv") == 1 and value_of(other, "balanced_accuracy") == pytest.approx(1 / 7)
    pd.testing.assert_frame_equal(
        native.reset_index(drop=True), metrics_table(table, "s", "b", n_boot=20), check_dtype=False
    )


def test_temperature_undoes_overconfidence():
    rng = np.random.default_rng(3)
    lesions = rng.choice(7470, 4000)
    y, _, _ = draw_images(lesions, rng)
    logits = rng.normal(size=(len(y), 7))
    y = np.array([rng.choice(7, p=row) for row in softmax(logits)])  # calibrated by construction
    dx = np.array(CLASSES)[y]
    too_sure = softmax(3 * logits)
    assert fit_temperature(dx, too_sure) == pytest.approx(3, rel=0.1)
    mended = scale_temperature(too_sure, 3)
    np.testing.assert_allclose(mended, softmax(logits), rtol=1e-6)
    before, after = (expected_calibration_error(dx, p) for p in (too_sure, mended))
    assert after < 0.05 < 0.2 < before


def test_temperature_comes_from_validation_alone(table, metrics):
    changed = table.copy()
    test = changed["subset"] == "test"
    changed.loc[test, "dx"] = np.roll(changed.loc[test, "dx"], 1)
    again = metrics_table(changed, "feature_extraction", "ResNet50", n_boot=20)
    assert value_of(again, "temperature") == value_of(metrics, "temperature")
    assert value_of(again, "log_loss_scaled") != value_of(metrics, "log_loss_scaled")
    without = metrics_table(table[table["subset"] == "test"], "s", "b", n_boot=20)
    assert not without["metric"].isin(["temperature", "log_loss_scaled", "ece_scaled"]).any()


def test_external_images_get_the_internal_temperature(table):
    external = table[table["subset"] == "test"].assign(dataset="isic2018")
    rows = metrics_table(check_predictions(pd.concat([table, external])), "s", "b", n_boot=20)
    ours, theirs = (rows[rows["dataset"] == name] for name in ("internal", "isic2018"))
    assert value_of(ours, "temperature") == value_of(theirs, "temperature")


def test_calibration_error_of_a_hand_made_table():
    probability = np.full((4, 7), 0.2 / 6)
    probability[:, 0] = 0.8
    assert expected_calibration_error(["akiec", "akiec", "akiec", "mel"], probability) == pytest.approx(0.05)
    assert expected_calibration_error(["mel"] * 4, probability) == pytest.approx(0.8)


def _members(n=1500, seed=0):
    """Simulate two backbones that know different things of an image and one that knows nothing, all overconfident."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 7, n)
    known = [np.eye(7)[y] * strength + rng.normal(0, 1, (n, 7)) for strength in (2.0, 1.0, 0.0)]
    return y, np.stack([special.log_softmax(3 * logits, axis=1) for logits in known])


def _loss(weights, y, log_p):
    pooled = np.exp(np.tensordot(weights, log_p, 1))
    return skm.log_loss(y, pooled / pooled.sum(1, keepdims=True), labels=range(7))


def test_pool_weights_are_those_of_another_method_and_undo_overconfidence():
    y, log_p = _members()
    found = pool_weights(y, log_p)
    # The logits' noise has variance 1, so the evidence of a backbone is `strength` times its logits, here a third.
    np.testing.assert_allclose(found, [2 / 3, 1 / 3, 0], atol=0.04)
    other = optimize.minimize(
        _loss, [0.3] * 3, args=(y, log_p), method="SLSQP", bounds=[(0, None)] * 3, options={"ftol": 1e-13}
    )
    np.testing.assert_allclose(found, other.x, atol=1e-3)
    assert _loss(found, y, log_p) <= min(_loss(alone, y, log_p) for alone in np.eye(3))


def test_an_ensemble_has_weights_of_its_own_for_each_head_and_none_from_the_test_subset():
    tables = {}
    for seed in (1, 2):
        y, log_p = _members(400, seed)
        for name, values in zip("AB", log_p[:: 1 if seed == 1 else -1][:2], strict=True):  # seed 2: B knows nothing
            rows = pd.DataFrame({"image_id": [f"{seed}_{k:03d}" for k in range(400)], "dx": np.array(CLASSES)[y]})
            rows["lesion_id"], rows["subset"] = rows["image_id"], np.where(np.arange(400) < 300, "val", "test")
            rows = rows.assign(dataset="internal", arm="main", train_fraction=1.0, split_policy="lesion", seed=seed)
            rows = rows.assign(preprocessing="native", **dict(zip(PROBABILITIES, np.exp(values).T, strict=True)))
            tables.setdefault(name, []).append(rows[PREDICTION_COLUMNS])
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    pooled = ensemble({"A": tables["A"], "B": tables["B"].sample(frac=1, random_state=0)})
    check_predictions(pooled)
    for seed in (1, 2):
        own = {name: table[table["seed"] == seed] for name, table in tables.items()}
        log_p = np.log([table[PROBABILITIES].to_numpy() for table in own.values()])
        weights = pool_weights(class_codes(own["A"]["dx"].iloc[:300]), log_p[:, :300])
        expected = np.exp(np.tensordot(weights, log_p, 1))
        found = pooled[pooled["seed"] == seed].set_index("image_id").loc[own["A"]["image_id"], PROBABILITIES]
        np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-3)
    spoilt = tables["A"].assign(dx=tables["A"]["dx"].where(tables["A"]["subset"] == "val", "nv"))
    again = ensemble({"A": spoilt, "B": tables["B"].assign(dx=spoilt["dx"])})
    pd.testing.assert_frame_equal(again[PROBABILITIES], pooled[PROBABILITIES])


def spoil(table, column, value, row=3):
    spoiled = table.copy()
    spoiled[column] = spoiled[column].astype(object)
    spoiled.loc[row, column] = value
    return spoiled


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns="p_mel"), ["p_mel", "column"]),
        (lambda t: t.iloc[:0], ["no predictions"]),
        (lambda t: spoil(t, "p_mel", np.nan), ["empty or not finite", "image_"]),
        (lambda t: spoil(t, "p_mel", np.inf), ["not finite"]),
        (lambda t: spoil(t, "p_mel", "many"), ["not a number"]),
        (lambda t: spoil(t, "p_mel", -0.1), ["negative"]),
        (lambda t: t.assign(p_nv=t["p_nv"] + 0.01), ["sum to one", "image_"]),
        (lambda t: spoil(t, "dx", "wart"), ["unknown dx", "'wart'", "akiec"]),
        (lambda t: spoil(t, "subset", "holdout"), ["unknown subset", "'holdout'"]),
        (lambda t: spoil(t, "lesion_id", None), ["empty values", "lesion_id"]),
        (lambda t: pd.concat([t, t.iloc[[5]]]), ["more than once", "image_"]),
        (lambda t: pd.concat([t, t[t["subset"] == "test"].iloc[[0]].assign(subset="val")]), ["more than once"]),
    ],
)
def test_wrong_predictions_are_refused_with_the_reason(table, change, words):
    with pytest.raises(SkinTLError) as caught:
        check_predictions(change(table), source="runs/demo/predictions.csv")
    assert all(word in str(caught.value) for word in ["runs/demo/predictions.csv", *words]), caught.value


def test_sums_within_single_precision_are_accepted(table):
    check_predictions(table.assign(p_nv=table["p_nv"] * (1 - 1e-6)))


@pytest.fixture
def splits(table):
    return table[["split_policy", "seed", "image_id", "lesion_id", "subset"]]


def test_predictions_of_the_split_are_accepted(table, splits):
    check_predictions(table, splits)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, s: (t.drop(t.index[t["subset"] == "test"][7]), s), "1 test image.s. missing"),
        (lambda t, s: (t.assign(subset="test"), s), "not of that subset"),
        (lambda t, s: (t, s[s["seed"] != 2]), "seed 2: splits.csv has no such split"),
    ],
)
def test_predictions_of_another_split_are_refused(table, splits, change, words):
    with pytest.raises(SkinTLError, match=words):
        check_predictions(*change(table, splits))


def test_other_arms_and_data_sets_need_not_follow_the_split(table, splits):
    others = pd.concat([table.assign(arm="leak"), table.assign(dataset="isic2018")])
    check_predictions(pd.concat([table, others.iloc[::2]]), splits)


def test_absent_or_broken_file_is_one_clear_error(tmp_path):
    with pytest.raises(SkinTLError, match="missing"):
        read_predictions(tmp_path / "predictions.csv")
    (tmp_path / "predictions.csv").write_text("")
    with pytest.raises(SkinTLError, match="cannot be read"):
        read_predictions(tmp_path / "predictions.csv")


def test_different_test_sets_are_not_compared(table):
    with pytest.raises(SkinTLError, match="different images"):
        ensemble({"A": table, "B": table.drop(table.index[5])})


def test_reliability_is_scikit_learn_s_curve():
    table = check_predictions(predictions(np.random.default_rng(3), seeds=(1, 2)))
    ours = reliability(table, "s", "b")
    test = table[table["subset"] == "test"]
    probability = test[PROBABILITIES].to_numpy(float)
    right = np.array(CLASSES)[probability.argmax(1)] == test["dx"]
    accuracy, confidence = calibration_curve(right, probability.max(1), n_bins=15)
    np.testing.assert_allclose(ours["accuracy"], accuracy)
    np.testing.assert_allclose(ours["confidence"], confidence)
    assert ours["n_images"].sum() == len(test) / 2
    assert ((ours["confidence_low"] < ours["confidence"]) & (ours["confidence"] <= ours["confidence_high"])).all()


def test_arms_of_experiments_have_the_metrics_of_the_diagnosis_alone():
    table = predictions(np.random.default_rng(4), seeds=(1,))
    both = check_predictions(pd.concat([table, table.assign(arm="leak_with_siblings")]))
    rows = metrics_table(both, "s", "b", n_boot=10)
    of_arm = {arm: set(part["metric"]) for arm, part in rows.groupby("arm")}
    assert {"roc_auc", "ece", "log_loss"} <= of_arm["main"]
    assert not {"roc_auc", "ece", "log_loss"} & of_arm["leak_with_siblings"]
    assert {"macro_f1", "recall", "support"} <= of_arm["leak_with_siblings"]


def test_a_training_image_passed_as_validation_is_refused():
    from fabricated import fabricate_metadata

    from skin_tl.data.splits import draw_splits
    from skin_tl.models.baselines import majority

    metadata = fabricate_metadata(np.random.default_rng(0))
    splits = draw_splits(metadata, ["lesion"], [1])
    table = majority(metadata, splits)
    check_predictions(table, splits)
    known = splits.loc[splits["subset"] == "train", "image_id"].iloc[0]
    table.loc[table.index[table["subset"] == "val"][0], "image_id"] = known
    with pytest.raises(SkinTLError, match=f"1 val image.*not of that subset, among them {known}"):
        check_predictions(table, splits)


def test_ids_that_are_numbers_are_read_as_text(tmp_path):
    (tmp_path / "splits.csv").write_text("image_id,lesion_id\n007,08\n")
    assert read_table(tmp_path / "splits.csv", "x").iloc[0].tolist() == ["007", "08"]
