"""Splits: every image in one subset, lesions whole where the policy says so, the same whatever the row order."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skin_tl.data.metadata import merge_lesions, shared_pictures
from skin_tl.data.splits import draw_fraction, draw_splits, fraction_rows, split_fingerprints, subset_rows
from skin_tl.errors import SkinTLError
from skin_tl.schema import CLASSES


@st.composite
def tables(draw):
    """Metadata with 5 to 12 lesions of each diagnosis and 1 to 4 images of each lesion."""
    rows = []
    for dx in CLASSES:
        for lesion in range(draw(st.integers(5, 12))):
            for image in range(draw(st.integers(1, 4))):
                rows.append((f"L_{dx}_{lesion}", f"I_{dx}_{lesion}_{image}", dx))
    return pd.DataFrame(rows, columns=["lesion_id", "image_id", "dx"])


@settings(max_examples=25, deadline=None)
@given(tables(), st.integers(0, 2**31 - 1), st.randoms(use_true_random=False))
def test_a_split_by_lesion_keeps_lesions_whole_and_classes_everywhere(table, seed, random):
    splits = draw_splits(table, ["lesion"], [seed])
    assert sorted(splits["image_id"]) == sorted(table["image_id"])
    assert (splits.groupby("lesion_id")["subset"].nunique() == 1).all()
    present = splits.merge(table[["image_id", "dx"]]).groupby("subset")["dx"].nunique()
    assert (present == len(CLASSES)).all() and len(present) == 3
    order = list(range(len(table)))
    random.shuffle(order)
    pd.testing.assert_frame_equal(draw_splits(table.iloc[order], ["lesion"], [seed]), splits)


@settings(max_examples=25, deadline=None)
@given(tables(), st.integers(0, 2**31 - 1), st.data())
def test_a_picture_under_two_lesions_is_never_on_both_sides(table, seed, data):
    """Nor are other images of these lesions, however the copies are chained."""
    hashes = {name: name for name in table["image_id"]}
    for dx, names in table.groupby("dx")["image_id"]:
        for copy, original in data.draw(
            st.lists(st.tuples(*[st.sampled_from(sorted(names))] * 2), max_size=3), label=dx
        ):
            hashes[copy] = hashes[original]
    links, contradictory = shared_pictures(table, hashes)
    assert not contradictory
    merged, renamed = merge_lesions(table, links)
    assert merged.drop(columns="lesion_id").equals(table.drop(columns="lesion_id"))
    groups = merged.groupby(merged["image_id"].map(hashes))["lesion_id"].nunique()
    assert (groups == 1).all() and (merged.groupby(table["lesion_id"])["lesion_id"].nunique() == 1).all()
    changed = table.loc[table["lesion_id"] != merged["lesion_id"], "lesion_id"]
    assert {*changed} == {*renamed} and not {*renamed} & {*merged["lesion_id"]}
    if merged.groupby("dx")["lesion_id"].nunique().min() >= 5:
        subsets = draw_splits(merged, ["lesion"], [seed]).set_index("image_id")["subset"]
        assert (subsets.groupby(subsets.index.map(hashes)).nunique() == 1).all()


def test_a_picture_with_two_diagnoses_is_no_reason_to_merge():
    table = _table()
    one, other = table.groupby("dx")["image_id"].first()[:2]
    hashes = {name: name for name in table["image_id"]} | {other: one}
    links, contradictory = shared_pictures(table.sample(frac=1, random_state=0), hashes)
    assert contradictory == [tuple(sorted((one, other)))]
    merged, renamed = merge_lesions(table, links)
    assert not renamed and merged.equals(table)


@settings(max_examples=25, deadline=None)
@given(tables(), st.integers(0, 2**31 - 1))
def test_a_split_by_image_gives_60_20_20_of_the_images(table, seed):
    splits = draw_splits(table, ["image"], [seed])
    counts = splits["subset"].value_counts()
    assert abs(counts["train"] - 0.6 * len(table)) <= 2
    assert abs(counts["test"] - 0.2 * len(table)) <= 2
    assert splits["image_id"].is_unique


@settings(max_examples=50, deadline=None)
@given(tables(), st.integers(0, 2**31 - 1), st.floats(0.001, 1), st.floats(0.001, 1), st.randoms(use_true_random=False))
def test_parts_of_the_training_lesions_are_nested_and_stratified(table, seed, one, other, random):
    small, large = sorted((one, other))
    order = list(range(len(table)))
    random.shuffle(order)
    part, whole = draw_fraction(table, small, seed), draw_fraction(table.iloc[order], large, seed)
    assert part <= whole <= set(table["lesion_id"])
    assert draw_fraction(table, 1.0, seed) == set(table["lesion_id"])
    for _, names in table.groupby("dx")["lesion_id"].unique().items():
        n_drawn = len(part & set(names))
        assert n_drawn >= 1 and (n_drawn == 1 or abs(n_drawn - small * len(names)) <= 0.5)
        assert n_drawn <= max(1, small * len(names) + 0.5)


def test_a_part_leaves_validation_and_test_alone_and_takes_whole_lesions():
    table = _table()
    splits = draw_splits(table, ["lesion", "image"], [3, 4])
    drawn = {}
    for policy in ("lesion", "image"):
        for seed in (3, 4):
            rows = subset_rows(splits, policy, seed, table["image_id"])
            part = fraction_rows(rows, table, 0.25, seed)
            for subset in ("val", "test"):
                np.testing.assert_array_equal(part[subset], rows[subset])
            kept, rest = (table.loc[some] for some in (part["train"], np.setdiff1d(rows["train"], part["train"])))
            assert len(kept) and set(kept.index) <= set(rows["train"])
            assert not set(kept["lesion_id"]) & set(rest["lesion_id"])
            drawn[policy, seed] = set(kept["lesion_id"])
    assert drawn["lesion", 3] != drawn["lesion", 4]
    assert len(drawn["lesion", 3]) == 7 * 3  # a quarter of the 12 training lesions of each diagnosis


def _table(n_lesions=20, n_images=3):
    rows = [(f"L{dx}{k}", f"I{dx}{k}{i}", dx) for dx in CLASSES for k in range(n_lesions) for i in range(n_images)]
    return pd.DataFrame(rows, columns=["lesion_id", "image_id", "dx"])


def test_a_split_by_image_leaks_lesions_and_one_by_lesion_does_not():
    splits = draw_splits(_table(), ["image", "lesion"], [0])
    shared = splits.groupby(["split_policy", "lesion_id"])["subset"].nunique() > 1
    assert shared["image"].mean() > 0.5
    assert not shared["lesion"].any()


def test_seeds_give_different_splits_and_each_is_fingerprinted():
    splits = draw_splits(_table(), ["image", "lesion"], [0, 1])
    prints = split_fingerprints(splits)
    assert sorted(prints) == ["image", "lesion"]
    assert len({value for by_seed in prints.values() for value in by_seed.values()}) == 4
    shuffled = splits.sample(frac=1, random_state=0)
    assert split_fingerprints(shuffled) == prints


@pytest.mark.parametrize("policy", ["lesion", "image"])
def test_a_diagnosis_too_rare_for_the_test_subset_is_named(policy):
    table = _table(n_images=1)
    few = table[(table["dx"] != "df") | (table["lesion_id"].isin(["Ldf0", "Ldf1"]))]
    with pytest.raises(SkinTLError, match=r"df \(2\)"):
        draw_splits(few, [policy], [0])
    with pytest.raises(SkinTLError, match=r"vasc \(0\)"):
        draw_splits(table[table["dx"] != "vasc"], [policy], [0])


def test_rows_index_the_images_of_each_subset():
    table = _table()
    splits = draw_splits(table, ["lesion"], [5])
    ids = np.random.default_rng(0).permutation(table["image_id"])
    rows = subset_rows(splits, "lesion", 5, ids)
    for subset, part in splits.groupby("subset"):
        assert sorted(ids[rows[subset]]) == sorted(part["image_id"])
