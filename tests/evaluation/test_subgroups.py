"""Subgroups: members are the metadata's, and small ones allow no conclusion."""

import numpy as np
import pandas as pd
import pytest
from simulated import predictions
from sklearn.metrics import accuracy_score

from skin_tl.evaluation.predictions import check_predictions
from skin_tl.evaluation.subgroups import AGE_BANDS, conclusive, subgroup_table, subgroups
from skin_tl.reporting.score_tables import subgroup_range_table
from skin_tl.schema import CLASSES, PROBABILITIES


@pytest.fixture(scope="module")
def table():
    return check_predictions(predictions(np.random.default_rng(2), n_lesions=900, seeds=(1, 2)))


@pytest.fixture(scope="module")
def metadata(table):
    lesions = table.drop_duplicates("image_id")[["image_id", "lesion_id"]]
    number = lesions["lesion_id"].str[-3:].astype(int)
    return lesions.assign(
        sex=np.where(number % 2 == 0, "female", "male"),
        age=np.where(number == 7, np.nan, 5.0 * (number % 18)),
        localization=np.where(number % 40 == 1, "ear", "back"),
        dx_type="histo",
    )


@pytest.fixture(scope="module")
def found(table, metadata):
    return subgroup_table(table, metadata, "s", "b", n_boot=200)


def test_ages_fall_into_one_band_each():
    metadata = pd.DataFrame({"image_id": [str(i) for i in range(9)], "age": [0, 29, 30, 44, 45, 60, 75, 200, None]})
    metadata = metadata.assign(sex=["male", None, *[""] * 7], localization="back", dx_type="histo")
    groups = subgroups(metadata)
    assert list(groups["age"]) == ["0-29"] * 2 + ["30-44"] * 2 + ["45-59", "60-74", "75+", "75+", "unknown"]
    assert list(groups["sex"]) == ["male"] + ["unknown"] * 8
    assert set(groups["age"]) <= {*AGE_BANDS, "unknown"}


def test_values_are_those_of_the_members(table, metadata, found):
    women = set(metadata.loc[metadata["sex"] == "female", "image_id"])
    scores, sizes = [], []
    for _, test in table[(table["subset"] == "test") & table["image_id"].isin(women)].groupby("seed"):
        scores.append(accuracy_score(test["dx"], np.array(CLASSES)[test[PROBABILITIES].to_numpy().argmax(1)]))
        sizes.append(len(test))
    row = found[(found["subgroup"] == "sex=female") & (found["metric"] == "accuracy")].iloc[0]
    assert row["value"] == pytest.approx(np.mean(scores))
    support = found[(found["subgroup"] == "sex=female") & (found["metric"] == "support") & (found["class"] == "all")]
    assert support["value"].iloc[0] == np.mean(sizes)


def test_members_of_a_trait_make_up_the_test_images(table, found):
    n_images = table.loc[table["subset"] == "test", "image_id"].nunique()
    rows = found[found["metric"] == "accuracy"]
    for trait in ("sex", "age", "site", "dx_type"):
        assert rows.loc[rows["subgroup"].str.startswith(f"{trait}="), "n_images"].sum() == n_images


def test_small_subgroups_allow_no_conclusion(found):
    accuracy = found[found["metric"] == "accuracy"].set_index("subgroup")
    assert accuracy.loc["sex=female", "conclusive"]
    assert accuracy.loc["site=ear", "n_lesions"] < 30 and not accuracy.loc["site=ear", "conclusive"]
    assert not found.loc[found["metric"] == "support", "conclusive"].any()


def test_a_wide_interval_or_a_scarce_class_allows_no_conclusion():
    support = [{"class": c, "metric": "support", "value": 9, "n_lesions": n} for c, n in (("mel", 40), ("nv", 60))]
    rows = pd.DataFrame(
        [
            {"class": "all", "metric": "accuracy", "ci_low": 0.5, "ci_high": 0.6, "n_lesions": 100},
            {"class": "all", "metric": "accuracy", "ci_low": 0.5, "ci_high": 0.8, "n_lesions": 100},
            {"class": "all", "metric": "accuracy", "ci_low": 0.5, "ci_high": 0.6, "n_lesions": 29},
            {"class": "all", "metric": "macro_f1", "ci_low": 0.5, "ci_high": 0.6, "n_lesions": 100},
            *support,
        ]
    ).assign(subgroup="sex=male", seed="all")
    assert list(conclusive(rows)) == [True, False, False, True, False, False]
    rows.loc[4, "n_lesions"] = 4
    assert not conclusive(rows)[3] and conclusive(rows)[0]
    assert not conclusive(rows.drop(index=4))[3]  # a single diagnosis is no mean over diagnoses


def test_unknown_is_no_subgroup_to_conclude_about(table, metadata):
    half_told = metadata.assign(sex=np.where(metadata["sex"] == "male", "unknown", "female"), dx_type="")
    found = subgroup_table(table, half_told, "s", "b", n_boot=50)
    accuracy = found[found["metric"] == "accuracy"].set_index("subgroup")
    assert accuracy.loc["sex=unknown", "n_lesions"] > 30  # its rows are kept
    assert accuracy.loc["sex=female", "conclusive"]
    assert not accuracy.loc[["sex=unknown", "dx_type=unknown"], "conclusive"].any()
    ranges = subgroup_range_table(found).set_index(["variable", "metric"])
    assert ranges.loc[("sex", "accuracy"), "n_subgroups"] == 1
    assert "dx_type" not in ranges.index.get_level_values("variable")
