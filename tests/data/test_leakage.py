"""The leakage experiment: the arms differ in the siblings of test lesions alone."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulated import CODES, SIZES

from skin_tl.data.leakage import leakage_splits
from skin_tl.data.splits import draw_splits
from skin_tl.errors import SkinTLError
from skin_tl.evaluation.scoring import split_spread
from skin_tl.schema import ARMS, CLASSES


def metadata_of(seed, n_lesions=300):
    rng = np.random.default_rng(seed)
    some = np.concatenate([rng.choice(np.flatnonzero(CODES == code), 12) for code in range(len(CLASSES))])
    lesions = np.concatenate([some, rng.choice(len(CODES), n_lesions)])
    number = np.repeat(np.arange(len(lesions)), SIZES[lesions])
    return pd.DataFrame(
        {
            "image_id": [f"I{i:05d}" for i in range(len(number))],
            "lesion_id": [f"L{n:05d}" for n in number],
            "dx": np.array(CLASSES)[CODES[lesions][number]],
        }
    )


@settings(deadline=None, max_examples=10)
@given(st.integers(0, 10**6))
def test_arms_differ_in_siblings_alone(seed):
    metadata = metadata_of(seed)
    splits = draw_splits(metadata, ["lesion", "image"], [1, 2])
    arms = leakage_splits(metadata, splits)
    assert not arms.duplicated(["arm", "seed", "image_id"]).any()
    for _, rows in arms.groupby("seed"):
        with_siblings, without = (rows[rows["arm"] == arm] for arm in ARMS)
        for subset in ("val", "test"):
            sides = [set(arm.loc[arm["subset"] == subset, "image_id"]) for arm in (with_siblings, without)]
            assert sides[0] == sides[1] and sides[0]
        test = without[without["subset"] == "test"]
        assert test["lesion_id"].is_unique
        trains = [arm[arm["subset"] == "train"].merge(metadata, on="image_id") for arm in (with_siblings, without)]
        assert trains[0]["dx"].value_counts().to_dict() == trains[1]["dx"].value_counts().to_dict()
        seen = [test["lesion_id"].isin(train["lesion_id_x"]) for train in trains]
        assert not seen[1].any() and seen[0].any()
        assert test.loc[seen[0], "has_siblings"].all()
        val = without[without["subset"] == "val"]
        assert not test["lesion_id"].isin(val["lesion_id"]).any()


def test_order_of_rows_changes_nothing():
    metadata = metadata_of(0)
    splits = draw_splits(metadata, ["lesion"], [1])
    one = leakage_splits(metadata, splits)
    two = leakage_splits(metadata.sample(frac=1, random_state=0), splits.sample(frac=1, random_state=1))
    pd.testing.assert_frame_equal(one, two)


def test_nothing_to_leak_is_said():
    metadata = metadata_of(0).drop_duplicates("lesion_id")
    with pytest.raises(SkinTLError, match=r"leakage: true.*no test lesion has a second one"):
        leakage_splits(metadata, draw_splits(metadata, ["lesion"], [1]))


def test_spread_between_splits():
    rows = pd.DataFrame({"seed": ["1", "2", "3", "all"], "value": [0.4, 0.5, 0.7, 0.9]})
    rows = rows.assign(metric="macro_f1", subgroup="all", **{"class": "all"})
    spread = split_spread(rows)
    assert spread["n_splits"] == 3 and (spread["lowest"], spread["highest"]) == (0.4, 0.7)
    assert spread["sd"] == pytest.approx(np.std([0.4, 0.5, 0.7], ddof=1))
    assert spread["typical_gap"] == pytest.approx(0.2)
    single = split_spread(rows.iloc[[0, 3]])
    assert np.isnan(single["sd"]) and np.isnan(single["typical_gap"])
